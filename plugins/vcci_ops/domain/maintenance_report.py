"""What a run of maintenance leaves: a page, a document, and one message when there is something to say."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

from vcci_ops.domain.maintenance import ANALYZE, DROP, REINDEX, VACUUM, Left, Work
from vcci_ops.domain.maintenance_plan import DONE, FAILED, LEFT, MaintenancePlan
from vcci_ops.domain.mrkdwn import EMOJI, escape, link
from vcci_ops.domain.pages import environment as templates
from vcci_ops.domain.plans import SHORT
from vcci_ops.domain.results import Status, worst
from vcci_ops.domain.units import duration, humanize
from vcci_ops.settings import INCLUDE

WHOLE, PARTIAL = "whole", "partial"
WRAPAROUND = 1_000_000_000
"""Age of the database's oldest rows from which on it is critical: at some two thousand millions PostgreSQL stops."""
_WORDS = {VACUUM: "vacuumed", ANALYZE: "analyzed", REINDEX: "rebuilt", DROP: "dropped"}
_KINDS = {VACUUM: "table", ANALYZE: "table", REINDEX: "index", DROP: "left-over"}


class Finding(NamedTuple):
    """Something that a person should know, and what to do about it."""

    status: Status
    what: str
    action: str


@dataclasses.dataclass(frozen=True)
class Row:
    """One object that was worked on, as the history has it."""

    kind: str
    object: str
    state: str
    seconds: float
    detail: Mapping[str, Any]

    @property
    def words(self) -> str:
        """Why it ended as it did, when it was not done."""
        return str(self.detail.get("words") or "")

    @property
    def why(self) -> str:
        """Why it was to be done."""
        return str(self.detail.get("why") or "")

    @property
    def freed(self) -> int:
        """Bytes that it gave back to the system: of a vacuum of the table, of a rebuild of the index."""
        before, after = self.detail.get("bytes_before"), self.detail.get("bytes_after")
        if self.kind == DROP:
            return int(before or 0)
        return max(int(before) - int(after), 0) if before is not None and after is not None else 0

    @property
    def share(self) -> float:
        """What is left of its size, 0 to 1."""
        before, after = self.detail.get("bytes_before"), self.detail.get("bytes_after")
        return min(after / before, 1.0) if before and after is not None else 0.0 if self.kind == DROP else 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaintenanceReport:
    """Everything one run has to say; JSON-safe through :meth:`to_dict`.

    :param plan: None: there is none, for the task plan failed.
    :param decided: the list of rebuilds with what was left out of it; empty: nothing was decided.
    :param seen: what there was at the end, else at the beginning; empty: nobody could look.
    :param failures: task → why it failed.
    """

    environment: str
    dag_id: str
    run_id: str
    started_at: dt.datetime
    finished_at: dt.datetime
    parameters: Mapping[str, Any]
    plan: MaintenancePlan | None
    rows: tuple[Row, ...] = ()
    decided: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    seen: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    failures: Mapping[str, str] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    results: ClassVar[tuple[Any, ...]] = ()
    """The history writes a run's check results with it; maintenance has none."""
    title: ClassVar[str] = "Database maintenance"

    # What became of it -------------------------------------------------------------------------

    @property
    def done(self) -> list[Row]:
        """What was done."""
        return [row for row in self.rows if row.state == DONE]

    @property
    def undone(self) -> list[Row]:
        """What was begun, or looked at, and not done."""
        return [row for row in self.rows if row.state != DONE]

    @cached_property
    def works(self) -> tuple[Work, ...]:
        """What was to be done; the rebuilds as they were decided upon after ANALYZE, where they were."""
        planned = self.plan.works if self.plan else ()
        if not self.decided:
            return planned
        rebuilds = tuple(Work.from_dict(work) for work in self.decided["works"])
        return (*(work for work in planned if work.kind != REINDEX), *rebuilds)

    @cached_property
    def left(self) -> list[Left]:
        """What was not touched, and why."""
        known = {(row.kind, row.object) for row in self.rows}
        barred = [*(self.plan.left if self.plan else ()), *(Left(**item) for item in self.decided.get("left", ()))]
        if self.plan is None or not self.plan.acts:
            return list(dict.fromkeys(barred))
        why = self.held or "the run ended before its turn"
        return [
            *dict.fromkeys(barred),
            *(Left(str(work), why) for work in self.works if (work.kind, str(work)) not in known),
        ]

    @property
    def held(self) -> str:
        """Why the change lock was not had; empty: it was, or was not asked for."""
        return self.failures.get("lock", "")

    @property
    def passes(self) -> dict[str, str]:
        """Kind → whether it went over the whole database and left nothing over that the next window could do."""
        if self.plan is None or not self.plan.acts or not self.plan.whole or self.failures:
            return {}
        kinds = {VACUUM: (VACUUM, ANALYZE), REINDEX: (REINDEX,)}
        return {kind: PARTIAL if self._missing(kinds[kind]) else WHOLE for kind in self.plan.kinds}

    def _missing(self, kinds: tuple[str, ...]) -> bool:
        states = {(row.kind, row.object): row for row in self.rows}
        for work in (work for work in self.works if work.kind in kinds):
            row = states.get((work.kind, str(work)))
            if row is None or (row.state not in (DONE, FAILED) and not row.detail.get("never_fits")):
                return True
        return REINDEX in kinds and not self.decided

    # How it stands -----------------------------------------------------------------------------

    @cached_property
    def findings(self) -> list[Finding]:
        """What a person should know, the gravest first."""
        found = [*self._failed(), *self._not_done(), *self._obstacles(), *self._ages()]
        return sorted(found, key=lambda finding: -finding.status.rank)

    def _failed(self) -> Iterator[Finding]:
        for task, why in self.failures.items():
            if task == "lock":
                yield Finding(
                    Status.WARNING,
                    f"Nothing was done: {why}",
                    "Nothing, if that change was meant; the next window goes on",
                )
            else:
                yield Finding(Status.CRITICAL, f"The task {task} failed: {why}", f"Read its log, then clear {task}")
        for row in self.undone:
            if row.state == FAILED:
                yield Finding(
                    Status.CRITICAL, f"{row.kind} {row.object}: {row.words}", "Do it by hand to see the error"
                )
        if not self.seen:
            yield Finding(Status.UNKNOWN, "The database could not be looked at", "Read the log of the task plan")

    def _not_done(self) -> Iterator[Finding]:
        if self.plan and self.plan.scheduled and self.plan.why_not:
            yield Finding(
                Status.WARNING,
                f"The run began outside of its window: {self.plan.why_not}",
                "Was Airflow down? The next window does what is due",
            )
        for row in self.undone:
            if row.state == FAILED:
                continue
            action = (
                "Nothing: the next window goes on with it" if row.state == LEFT else "See what is in the way, above"
            )
            if row.detail.get("never_fits"):
                action = "Lengthen a window in the settings, or run it by hand with ignore_window"
            yield Finding(Status.WARNING, f"{row.kind} {row.object}: {row.words or 'did not end'}", action)

    def _obstacles(self) -> Iterator[Finding]:
        told = set()
        for row in self.done:
            if row.detail.get("held_by") is None:
                continue
            held = row.detail["held_by"][:1] or ["nobody that could be found; it may have ended meanwhile"]
            told.update(row.detail["held_by"])
            yield Finding(
                Status.WARNING,
                f"{row.object}: {row.detail['dead_after']:,} dead rows could not be removed, for they may still be "
                f"needed by {held[0]}",
                "End what holds them (see What is in the way); the next vacuum removes them",
            )
        for blocker in self.seen.get("blockers", ()):
            if blocker["said"] not in told:
                yield Finding(Status.WARNING, f"Dead rows are kept by {blocker['said']}", blocker["action"])
        for index in self.seen.get("invalid", ()):
            yield Finding(
                Status.WARNING,
                f"Index {index['said']} is not valid, and costs every write: {index['why']}",
                index["action"],
            )

    def _ages(self) -> Iterator[Finding]:
        server = self.seen.get("server") or {}
        if server.get("age", 0) >= WRAPAROUND:
            yield Finding(
                Status.CRITICAL,
                f"The oldest rows of the database are {server['age']:,} transactions old",
                "VACUUM (FREEZE) the oldest tables now, and end what is in the way: "
                "PostgreSQL stops writing before 2^31",
            )
        if server and not server["autovacuum"]:
            yield Finding(
                Status.WARNING, "autovacuum is off on the server", "Turn it on: a weekly vacuum is no substitute"
            )
        if server and not server["sees_all"]:
            yield Finding(
                Status.WARNING,
                "What other sessions do is hidden from the role: what is in the way cannot be told whole",
                "GRANT pg_read_all_stats (include/sql/grants/vcci_ops_maintenance.sql)",
            )

    @property
    def status(self) -> Status:
        """How it stands; a dry run fails only when it could not look."""
        if self.plan and self.plan.dry_run and self.seen:
            return Status.WARNING if self.findings else Status.OK
        return worst([Status.OK, *(finding.status for finding in self.findings)])

    @property
    def verdict(self) -> str:
        """The run in one line."""
        if self.plan is None:
            return "Not maintained: there is no plan"
        if self.plan.dry_run:
            return f"Listed only (dry run): {counted(work.kind for work in self.works) or 'nothing is due'}"
        if not self.plan.acts:
            return "Nothing was due" if not self.plan.kinds else "Nothing was done: no window was open"
        did = ", ".join(f"{many(n, _KINDS[kind])} {_WORDS[kind]}" for kind, n in _tally(self.done).items())
        freed = sum(row.freed for row in self.done)
        given = f", {humanize(freed, 'bytes')} given back" if freed else ""
        rest = len(self.undone) + len(self.left)
        left = f"; {many(rest, 'object')} left" if rest else ""
        return f"{did or 'Nothing was done'}{given}{left}"

    @property
    def quiet(self) -> bool:
        """Whether there is nothing that anybody would want to be told."""
        if self.plan and self.plan.dry_run and not self.failures:
            return True
        return not self.rows and not self.findings

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "schema_version": 1,
            "title": self.title,
            "environment": self.environment,
            "dag_id": self.dag_id,
            "run_id": self.run_id,
            "status": str(self.status),
            "verdict": self.verdict,
            "started_at": self.started_at.isoformat(),
            "finished_at": self.finished_at.isoformat(),
            "parameters": dict(self.parameters),
            "plan": self.plan.to_dict() if self.plan else None,
            "plan_hash": self.plan.digest if self.plan else "",
            "decided": dict(self.decided),
            "passes": self.passes,
            "rows": [{**dataclasses.asdict(row), "detail": dict(row.detail)} for row in self.rows],
            "left": [dataclasses.asdict(item) for item in self.left],
            "findings": [{**finding._asdict(), "status": str(finding.status)} for finding in self.findings],
            "seen": dict(self.seen),
            "failures": dict(self.failures),
            "notes": list(self.notes),
        }


def _tally(rows: list[Row]) -> dict[str, int]:
    return {kind: n for kind in _WORDS if (n := sum(row.kind == kind for row in rows))}


def counted(kinds: Iterator[str]) -> str:
    """Return how many of each kind there are: ``2 tables to vacuum, 1 index to reindex``."""
    every = list(kinds)
    return ", ".join(f"{many(n, _KINDS[kind])} to {kind}" for kind in _WORDS if (n := every.count(kind)))


def many(number: int, noun: str) -> str:
    """Return a number with its noun."""
    plural = {"index": "indexes"}.get(noun, f"{noun}s")
    return f"{number:,} {noun if number == 1 else plural}"


def render(report: MaintenanceReport) -> str:
    """Return the page: one file without scripts, readable on a phone, in the dark and on paper."""
    page = templates(INCLUDE / "templates").get_template("maintenance.html.j2")
    return page.render(report=report, short=SHORT, many=many, size=_size, duration=duration, ago=_ago, words=_WORDS)


def _size(value: float | None) -> str:
    return "—" if value is None else humanize(value, "bytes")


def _ago(stamp: str | None, now: dt.datetime) -> str:
    """Return how long ago something was: ``3 d 4 h``; ``never`` when it was not."""
    return duration((now - dt.datetime.fromisoformat(stamp)).total_seconds()) if stamp else "never"


def slack_text(report: MaintenanceReport, url: str) -> str:
    """Return the one message."""
    asked = report.plan.by if report.plan else "?"
    lines = [f"{EMOJI[report.status]} *Database maintenance: {escape(report.verdict)}* · {escape(report.environment)}"]
    lines += [f"• {escape(finding.what)}" for finding in report.findings[:5]]
    if len(report.findings) > 5:
        lines.append(f"and {len(report.findings) - 5} more")
    return "\n".join([*lines, f"by {escape(asked)} · {link(url, 'What was done, what was left, what is in the way')}"])
