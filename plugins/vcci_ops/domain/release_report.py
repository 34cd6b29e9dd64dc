"""The evidence of a release or rollback: one page and one document, the verdict first."""

from __future__ import annotations

import dataclasses
import datetime as dt
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from markupsafe import Markup, escape

from vcci_ops.domain.pages import environment as templates
from vcci_ops.domain.plans import SHORT, plan_hash
from vcci_ops.domain.release_text import verdict
from vcci_ops.domain.results import Status
from vcci_ops.domain.units import duration, humanize
from vcci_ops.settings import INCLUDE

STATUSES = {
    "released": Status.OK,
    "nothing-to-do": Status.OK,
    "dry-run": Status.OK,
    "rolled-back": Status.CRITICAL,
    "failed": Status.CRITICAL,
    "rejected": Status.CRITICAL,
    "rollback-failed": Status.CRITICAL,
}
"""Outcome → status; an outcome that is not named here could not be judged: unknown."""
OUTCOMES = {
    **dict.fromkeys(("success", "passed", "pass", "done", "ok"), "ok"),
    **dict.fromkeys(("failed", "fail", "upstream_failed", "critical"), "critical"),
    **dict.fromkeys(("inconclusive", "warning", "destructive"), "warning"),
    **dict.fromkeys(("error", "held", "superseded", "unknown"), "unknown"),
}
"""How a task's state, a watch's outcome or a sample's verdict is coloured; the rest stays grey."""
WORDS = {"upstream_failed": "not run", "success": "done", "None": "not run"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReleaseReport:
    """Everything one release has to say; JSON-safe through :meth:`to_dict`, which leaves out the drawings.

    :param kind: ``deploy`` or ``rollback``.
    :param outcome: a key of :data:`STATUSES`, or held, superseded, inconclusive.
    :param words: why it ended so, one or two sentences.
    :param action: what to do next; empty or ``Nothing.`` when there is nothing.
    :param approval: as :class:`~vcci_ops.operators.approval.PlanApprovalOperator` leaves it.
    :param plan: the plan as approved.
    :param steps: in order: name, status (a task's state), seconds (or None), detail.
    :param migrations: as in the plan's schema; default: those of the plan. Each with its ``state``, if known.
    :param changelog: Markdown, or what :meth:`vcci_ops.domain.changelog.Changelog.to_dict` returns.
    :param smoke: title → result of a test Job: tests, failures, errors, skipped, seconds, cases.
    :param watch: outcome, reason, counts (verdict → samples), minutes, metrics: each with id, title, unit, svg,
        baseline, limits (name → value), worst, verdict, query.
    :param evidence: what else was kept: title, and text or where (an address).
    :param links: title → URL.
    :param notes: what the reader must know about the report itself.
    """

    title: str
    environment: str
    dag_id: str
    run_id: str
    version: str
    from_version: str
    outcome: str
    words: str
    action: str
    requested_by: str
    started_at: dt.datetime
    finished_at: dt.datetime
    parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    kind: str = "deploy"
    reason: str = ""
    approval: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    plan: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    steps: tuple[Mapping[str, Any], ...] = ()
    migrations: tuple[Mapping[str, Any], ...] | None = None
    changelog: str | Mapping[str, Any] = ""
    smoke: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    watch: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    evidence: tuple[Mapping[str, Any], ...] = ()
    links: Mapping[str, str] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    results: ClassVar[tuple[Any, ...]] = ()
    """The history writes a run's check results with it; a release has none of its own."""

    @property
    def status(self) -> Status:
        """Green or red; unknown where it could not be judged."""
        return STATUSES.get(self.outcome, Status.UNKNOWN)

    @property
    def verdict(self) -> str:
        """The report in one line: ``v2.1.0 was ROLLED BACK``."""
        return f"{self.version or self.title} {verdict(self.outcome, self.kind)}"

    @property
    def approved_by(self) -> str:
        """Who approved the plan; empty when nobody did."""
        return str(self.approval.get("by", "")) if self.approval.get("approved") is True else ""

    @property
    def plan_hash(self) -> str:
        """The plan's hash; empty when there is no plan."""
        return plan_hash(self.plan) if self.plan else ""

    @property
    def needs_action(self) -> bool:
        """Whether there is something to do."""
        return self.action.strip().rstrip(".").lower() not in ("", "nothing")

    @property
    def schema(self) -> Mapping[str, Any]:
        """The plan's part about the schema."""
        return self.plan.get("schema") or {}

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types, without the drawings: they are made from the samples, which are kept."""
        metrics = [{k: v for k, v in metric.items() if k != "svg"} for metric in self.watch.get("metrics") or []]
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            "schema_version": 1,
            **own,
            "started_at": self.started_at.isoformat(),
            "finished_at": self.finished_at.isoformat(),
            "status": str(self.status),
            "verdict": self.verdict,
            "approved_by": self.approved_by,
            "plan_hash": self.plan_hash,
            "parameters": dict(self.parameters),
            "migrations": [dict(migration) for migration in shown_migrations(self)],
            "steps": [dict(step) for step in self.steps],
            "watch": {**self.watch, "metrics": metrics} if self.watch else {},
            "evidence": [dict(item) for item in self.evidence],
            "notes": list(self.notes),
        }


def render(report: ReleaseReport) -> str:
    """Return the page: one file without scripts, readable on a phone, in the dark and on paper."""
    helpers = {
        "tone": tone,
        "word": word,
        "image": image_parts,
        "drawing": drawing,
        "prose": prose,
        "limits": limits_words,
        "humanize": humanize,
        "duration": duration,
        "longest": max((step.get("seconds") or 0.0 for step in report.steps), default=0.0),
        "short": SHORT,
    }
    page = templates(INCLUDE / "templates").get_template("release.html.j2")
    return page.render(report=report, migrations=shown_migrations(report), **helpers)


def shown_migrations(report: ReleaseReport) -> Sequence[Mapping[str, Any]]:
    """Return the migrations: the report's own, else the plan's."""
    return report.migrations if report.migrations is not None else tuple(report.schema.get("migrations") or ())


def tone(state: Any) -> str:
    """Return the status whose colour a state has; empty for none."""
    return OUTCOMES.get(str(state), "")


def word(state: Any) -> str:
    """Return a task's state as people say it."""
    return WORDS.get(str(state), str(state).replace("_", " "))


def image_parts(reference: Any) -> tuple[str, str]:
    """Return name with tag, and short digest, of an image reference."""
    name, _, digest = str(reference or "").partition("@")
    return name.rpartition("/")[2], digest.removeprefix("sha256:")[:SHORT]


def limits_words(metric: Mapping[str, Any]) -> str:
    """Say a metric's limits: ``above 1 %, 100 % worse than before``."""
    limits, unit = metric.get("limits") or {}, str(metric.get("unit") or "")
    if not isinstance(limits, Mapping):
        return ", ".join(humanize(value, unit) for value in limits)
    return ", ".join(
        f"{name} {humanize(value, unit) if isinstance(value, int | float) else value}" for name, value in limits.items()
    )


_UNWANTED = re.compile(
    r"<\s*(script|foreignobject|image|iframe|use|a)\b|\son\w+\s*=|javascript:|@import|url\(\s*[^#)]", re.I
)


def drawing(svg: Any) -> Markup:
    """Return an SVG as it is; nothing when it is none, or holds what runs or fetches something."""
    text = str(svg or "").strip()
    if not text.startswith("<svg") or not text.endswith("</svg>") or _UNWANTED.search(text):
        return Markup("")
    return Markup(text)  # noqa: S704  looked at above; the page's policy lets nothing run or load besides


_INLINE = re.compile(
    r"\\(?P<escaped>[^\w\s])|\*\*(?P<strong>.+?)\*\*|`(?P<code>[^`]+)`"
    r"|\[(?P<label>(?:\\.|[^\]\\])+)\]\(<?(?P<url>https?://[^\s>)]+)>?\)"
)


def prose(markdown: str) -> Markup:
    """Return the Markdown of a change log as HTML: headings, lists, strong, code, links; the rest as it stands."""
    out: list[Markup] = []
    listed = False
    for line in markdown.splitlines():
        bullet = re.match(r"\s*[-*•]\s+(.*)", line)
        if bool(bullet) != listed:
            listed = not listed
            out.append(Markup("<ul>") if listed else Markup("</ul>"))
        if bullet:
            out.append(Markup("<li>{}</li>").format(_inline(bullet[1])))
        elif line.strip():
            heading = re.match(r"#{1,6}\s+(.*)", line)
            text = Markup("<strong>{}</strong>").format(_inline(heading[1])) if heading else _inline(line)
            out.append(Markup("<p>{}</p>").format(text))
    return Markup("\n").join([*out, *([Markup("</ul>")] if listed else [])])


def _inline(text: str) -> Markup:
    out, at = Markup(""), 0
    for match in _INLINE.finditer(text):
        out += escape(text[at : match.start()])
        out += _piece(match)
        at = match.end()
    return out + escape(text[at:])


def _piece(match: re.Match[str]) -> Markup:
    if match["escaped"]:
        return escape(match["escaped"])
    if match["strong"]:
        return Markup("<strong>{}</strong>").format(_inline(match["strong"]))
    if match["code"]:
        return Markup("<code>{}</code>").format(match["code"])
    return Markup('<a href="{}" rel="noreferrer">{}</a>').format(match["url"], _inline(match["label"]))
