"""What an access review leaves for its reviewer and an auditor: the form's text, the page, the document, the table."""

from __future__ import annotations

import csv
import dataclasses
import datetime as dt
import io
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

from vcci_ops.domain.access import BY_HAND, DEACTIVATE, DONE, SECTIONS, Line, items_hash, summary
from vcci_ops.domain.mrkdwn import EMOJI, escape, link
from vcci_ops.domain.pages import environment as templates
from vcci_ops.domain.plans import SHORT
from vcci_ops.domain.results import Status
from vcci_ops.domain.units import duration
from vcci_ops.settings import INCLUDE

FORM_LIMIT = 15_000
"""Characters of the form's table: what is beyond it stands on the page."""
STATUSES = {
    "open": Status.WARNING,
    "dry-run": Status.OK,
    "done": Status.OK,
    "rejected": Status.CRITICAL,
    "unfinished": Status.CRITICAL,
    "failed": Status.CRITICAL,
}
"""How a review stands → status, before its findings are looked at."""
WORDS = {Status.OK: "for information", Status.UNKNOWN: "not measured"}
COLUMNS = (
    *("line", "section", "who", "user_id", "tenant", "severity", "new", "finding"),
    *("recommendation", "reason", "action", "decision", "outcome", "reviewed_by", "reviewed_at"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AccessReport:
    """Everything one access review has to say; JSON-safe through :meth:`to_dict`, which has no mail addresses.

    :param state: a key of :data:`STATUSES`.
    :param made_at: when the list was made.
    :param decisions: option, excepted, comment, by, at; empty until somebody has answered.
    :param outcomes: user id → what became of the user.
    :param previous: id and time of the review that it compares with; empty: there is none.
    :param masked: user id → mail address so far as people may see it; for the page alone.
    :param problems: why it ended as it did, when it did not end well.
    :param notes: what the reader must know about the review itself.
    """

    environment: str
    dag_id: str
    run_id: str
    state: str
    made_at: dt.datetime
    started_at: dt.datetime
    finished_at: dt.datetime
    requested_by: str
    lines: tuple[Line, ...]
    decisions: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    outcomes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    previous: Mapping[str, str] = dataclasses.field(default_factory=dict)
    masked: Mapping[str, str] = dataclasses.field(default_factory=dict)
    parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    results: ClassVar[tuple[Any, ...]] = ()
    """The history writes a run's check results with it; a review has none."""
    title: ClassVar[str] = "Access review"

    @property
    def counts(self) -> dict[str, int]:
        """How many lines there are of each kind."""
        return summary(self.lines)

    @property
    def status(self) -> Status:
        """How it stands: what was not measured keeps a review from being whole, open findings are a warning."""
        stands = STATUSES[self.state]
        if stands is not Status.OK:
            return stands
        if self.counts["unmeasured"]:
            return Status.UNKNOWN
        return Status.WARNING if self.to_do else Status.OK

    @property
    def verdict(self) -> str:
        """The review in one line."""
        counts, incomplete = self.counts, " · NOT COMPLETE" if self.counts["unmeasured"] else ""
        deactivated = f"{_many(len(self.done), 'user')} deactivated"
        said = {
            "open": f"Waits for its reviewer: {_many(counts['lines'], 'line')}, {counts['deactivate']} to deactivate",
            "dry-run": f"Listed only (dry run): {_many(counts['lines'], 'line')}, nobody was asked",
            "done": f"Access was reviewed: {deactivated}, {_many(len(self.to_do), 'finding')} to deal with",
            "rejected": "The list was rejected: access is not reviewed",
            "unfinished": "Nobody reviewed the list: access is not reviewed",
            "failed": f"Approved, but NOT all was done: {deactivated}",
        }
        return said[self.state] + incomplete

    @property
    def done(self) -> list[Line]:
        """The lines whose users were deactivated."""
        return [line for line in self.lines if self.outcome(line) == DONE]

    @property
    def to_do(self) -> list[Line]:
        """The findings that people have to deal with: all that nobody took exception to, gravest first."""
        lines = [line for line in self.lines if line.action == BY_HAND and line.number not in self.excepted]
        return sorted(lines, key=lambda line: (-line.severity.rank, line.number))

    @property
    def excepted(self) -> frozenset[int]:
        """Numbers of the lines that the reviewer took exception to."""
        return frozenset(self.decisions.get("excepted") or ())

    @property
    def sections(self) -> dict[str, list[Line]]:
        """Title → lines, in the list's order; without those that have none."""
        found = {title: [line for line in self.lines if line.section == key] for key, title in SECTIONS.items()}
        return {title: lines for title, lines in found.items() if lines}

    @property
    def items_hash(self) -> str:
        """The SHA-256 by which the list was approved."""
        return items_hash(self.lines)

    def decision(self, line: Line) -> str:
        """Return what the reviewer decided about a line; empty while nobody has."""
        if not self.decisions or self.state in ("open", "dry-run", "unfinished"):
            return ""
        if self.state == "rejected":
            return "rejected"
        return "excepted" if line.number in self.excepted else "approved"

    def outcome(self, line: Line) -> str:
        """Return what became of a line's user; empty when nothing was to."""
        return self.outcomes.get(line.user_id, "") if line.action == DEACTIVATE else ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        lines = [
            {**line.to_dict(), "decision": self.decision(line), "outcome": self.outcome(line)} for line in self.lines
        ]
        return {
            "schema_version": 1,
            "title": self.title,
            "environment": self.environment,
            "dag_id": self.dag_id,
            "run_id": self.run_id,
            "review_id": f"{self.dag_id}/{self.run_id}",
            "state": self.state,
            "status": str(self.status),
            "verdict": self.verdict,
            "made_at": self.made_at.isoformat(),
            "started_at": self.started_at.isoformat(),
            "finished_at": self.finished_at.isoformat(),
            "requested_by": self.requested_by,
            "decisions": dict(self.decisions),
            "previous": dict(self.previous),
            "counts": self.counts,
            "items_hash": self.items_hash,
            "lines": lines,
            "parameters": dict(self.parameters),
            "problems": list(self.problems),
            "notes": list(self.notes),
        }


def render(report: AccessReport) -> str:
    """Return the page: one file without scripts, readable on a phone, in the dark and on paper."""
    page = templates(INCLUDE / "templates").get_template("access_review.html.j2")
    return page.render(report=report, word=severity_word, short=SHORT, many=_many, hints=HINTS)


def severity_word(severity: Status) -> str:
    """Return a severity as people read it."""
    return WORDS.get(severity, str(severity))


HINTS = {
    "Inactive users": "Approved, they are deactivated and their sessions end. Nothing of theirs is deleted.",
    "Database roles": "What the catalogs of this database show; what a role may do in another one is not looked at.",
    "Kubernetes": "Bindings for the whole cluster, and those in the platform's namespace. Whoever may create pods or "
    "Jobs there can read its Secrets through them, too; that is not listed.",
}
"""What the reader of a section should know."""


def table(report: AccessReport) -> str:
    """Return the lines as CSV, for auditors; a cell that a spreadsheet would run is made text."""
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(COLUMNS)
    for line in report.lines:
        decided = report.decision(line)
        by, at = (report.decisions["by"], report.decisions["at"]) if decided else ("", "")
        cells = {
            **line.to_dict(),
            "line": line.number,
            "section": SECTIONS[line.section],
            "new": "" if line.new is None else "new" if line.new else "known",
            "decision": decided,
            "outcome": report.outcome(line),
            "reviewed_by": by,
            "reviewed_at": at,
        }
        writer.writerow([_cell(cells[column]) for column in COLUMNS])
    return file.getvalue()


def _cell(value: object) -> str:
    text = str(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


# The form ---------------------------------------------------------------------------------------------


def form_body(report: AccessReport, url: str) -> str:
    """Return what the reviewer reads in the form, in Markdown.

    :param url: of the page, which has every line whatever their number.
    """
    counts = report.counts
    said = [
        f"**{_many(counts['lines'], 'line')}**, {_many(counts['deactivate'], 'user')} to deactivate. "
        f"[The whole list as a page]({url})",
        f"{report_compared(report)} List `{report.items_hash[:SHORT]}`.",
        "*Approve all* agrees with every recommendation; *Approve except…* wants the numbers of the other lines "
        "(such as `3, 7-9`) and why. Approved users are deactivated, never deleted, and can be put back.",
        *(f"**Note:** {_markdown(note)}" for note in report.notes),
    ]
    return "\n\n".join([*said, *_tables(report, FORM_LIMIT)])


def report_compared(report: AccessReport) -> str:
    """Say what the review compares with."""
    if report.previous:
        return f"Compared with the review of {report.previous['made_at'][:10]}."
    return "There is no earlier review: nothing is compared."


def _tables(report: AccessReport, left: int) -> Iterator[str]:
    shown = 0
    for title, lines in report.sections.items():
        rows = [f"### {title}", "", "| # | who or what | finding | recommendation |", "|---|---|---|---|"]
        for line in lines:
            row = _row(report, line)
            left -= len(row)
            if left < 0:
                yield "\n".join(rows)
                yield f"**{report.counts['lines'] - shown} more lines stand on the page.**"
                return
            rows.append(row)
            shown += 1
        yield "\n".join(rows)


def _row(report: AccessReport, line: Line) -> str:
    who = _markdown(" · ".join(filter(None, (line.who, report.masked.get(line.user_id), line.user_id[:8]))))
    mark = " **new**" if line.new else ""
    finding = f"{_markdown(line.finding)}{mark}"
    grave = f"**{line.severity}:** " if line.severity in (Status.CRITICAL, Status.UNKNOWN) else ""
    return f"| {line.number} | {who} | {grave}{finding} | {_markdown(line.recommendation)}. {_markdown(line.reason)} |"


def _markdown(text: str) -> str:
    """Escape what Markdown would read as its own."""
    return re.sub(r"([\\`*_\[\]<>|~#])", r"\\\1", " ".join(text.split()))


# Slack ------------------------------------------------------------------------------------------------


def slack_root(report: AccessReport, url: str) -> str:
    """Return the thread's first message."""
    sign = ":raised_hand:" if report.state == "open" else EMOJI[report.status]
    asked = f"asked for by {escape(report.requested_by)}" if report.requested_by else "on schedule"
    headline = f"{sign} *Access review: {escape(report.verdict)}* · {escape(report.environment)}"
    return f"{headline}\n{asked} · {link(url, 'open the list')}"


def slack_question(report: AccessReport, url: str, within: float) -> str:
    """Return the question."""
    counts = report.counts
    missing = (
        f"\n:warning: {_many(counts['unmeasured'], 'part')} could not be looked at" if counts["unmeasured"] else ""
    )
    return (
        f":raised_hand: *Who reviews the list?* {_many(counts['lines'], 'line')}: {counts['deactivate']} users to "
        f"deactivate, {counts['by_hand']} findings for people to deal with{missing}\n"
        f"{link(url, 'Review it')} within {duration(within)}, else the review ends unfinished"
    )


def slack_final(report: AccessReport, url: str) -> str:
    """Return the verdict, with what is left to do."""
    lines = [f"{EMOJI[report.status]} *{escape(report.verdict)}*"]
    if by := report.decisions.get("by"):
        lines.append(f"{escape(report.decisions['option'])}, by {escape(by)}")
    lines += [f"• {escape(problem)}" for problem in report.problems]
    lines += [f"• {escape(line.who)}: {escape(line.recommendation)}" for line in _first(report.to_do, 10)]
    if len(report.to_do) > 10:
        lines.append(f"and {len(report.to_do) - 10} more")
    return "\n".join([*lines, link(url, "Page for the auditor")])


def _first(lines: Iterable[Line], most: int) -> list[Line]:
    return list(lines)[:most]


def _many(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
