"""A run's report: the verdict, what is wrong, what changed, and since when."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

from vcci_ops.domain.results import Result, Status, worst

VERDICTS = {
    Status.OK: "All is well",
    Status.WARNING: "Look at this today",
    Status.CRITICAL: "Act now",
    Status.UNKNOWN: "Not everything could be measured",
}


@dataclasses.dataclass(frozen=True)
class Point:
    """One earlier value of a check."""

    at: dt.datetime
    value: float | None
    status: Status


@dataclasses.dataclass(frozen=True)
class Change:
    """A check whose status differs from the run before.

    :param kind: ``worse``, ``better``, ``new`` (not there before) or ``gone`` (no longer reported).
    """

    kind: str
    result: Result
    before: Status | None

    @property
    def words(self) -> str:
        """Say it: ``Queue depth [calculator]: ok → critical``."""
        if self.kind == "gone":
            return f"{self.result.name}: no longer reported (was {self.before})"
        return f"{self.result.name}: {self.before or 'new'} → {self.result.status}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """Everything one run has to say; JSON-safe through :meth:`to_dict`.

    :param previous_at: start of the run that :attr:`changes` compares with; None when there is none.
    :param series: earlier values by check and subject, oldest first.
    :param notes: what the reader must know about the report itself.
    :param left_out: sections that this run was asked not to look at.
    """

    title: str
    environment: str
    dag_id: str
    run_id: str
    started_at: dt.datetime
    finished_at: dt.datetime
    parameters: Mapping[str, Any]
    results: tuple[Result, ...]
    previous_at: dt.datetime | None = None
    previous: tuple[Result, ...] = ()
    series: Mapping[tuple[str, str], Sequence[Point]] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def status(self) -> Status:
        """The worst status of all results."""
        return worst(result.status for result in self.results)

    @property
    def counts(self) -> dict[Status, int]:
        """How many results have each status, gravest first."""
        gravest_first = sorted(Status, key=lambda s: -s.rank)
        return {status: sum(r.status is status for r in self.results) for status in gravest_first}

    @property
    def verdict(self) -> str:
        """The report in one line: ``Act now: 2 critical, 1 unknown, 30 ok``."""
        counted = ", ".join(f"{n} {status}" for status, n in self.counts.items() if n)
        partly = f" ({len(self.left_out)} sections not looked at)" if self.left_out else ""
        return f"{VERDICTS[self.status]}: {counted or 'nothing was measured'}{partly}"

    @property
    def problems(self) -> list[Result]:
        """What is not ok, gravest first."""
        return sorted((r for r in self.results if r.status is not Status.OK), key=lambda r: -r.status.rank)

    @property
    def sections(self) -> dict[str, list[Result]]:
        """Results by section, in the order in which they were measured."""
        found: dict[str, list[Result]] = {}
        for result in self.results:
            found.setdefault(result.section or "Other", []).append(result)
        return found

    @property
    def changes(self) -> list[Change]:
        """What differs from the run before: worse first, then new, gone, better."""
        if self.previous_at is None:
            return []
        before = {result.key: result for result in self.previous}
        now = {result.key: result for result in self.results}
        looked = {result.section for result in self.results}
        checks = {result.check for result in self.results}
        found = [_change(result, before.get(key)) for key, result in now.items()]
        found += [
            Change("gone", result, result.status)
            for key, result in before.items()
            if key not in now
            and result.status is not Status.OK
            and result.section in looked
            # What could not be measured as a whole is now reported subject by subject.
            and not (result.status is Status.UNKNOWN and not result.subject and result.check in checks)
        ]
        order = ("worse", "new", "gone", "better")
        return sorted((c for c in found if c), key=lambda c: (order.index(c.kind), -c.result.status.rank))

    def since(self, result: Result) -> dt.datetime | None:
        """Return when a check that is not ok began to be so without a break; None when it is new."""
        begin = None
        for point in reversed(self.series.get(result.key, ())):
            if point.status is Status.OK:
                break
            begin = point.at
        return begin if result.status is not Status.OK else None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types: the report's own data and what follows from it."""
        return {
            "schema_version": 1,
            "title": self.title,
            "environment": self.environment,
            "dag_id": self.dag_id,
            "run_id": self.run_id,
            "started_at": self.started_at.isoformat(),
            "finished_at": self.finished_at.isoformat(),
            "parameters": dict(self.parameters),
            "status": str(self.status),
            "verdict": self.verdict,
            "counts": {str(status): n for status, n in self.counts.items()},
            "changes": [change.words for change in self.changes],
            "compared_with": self.previous_at.isoformat() if self.previous_at else None,
            "notes": list(self.notes),
            "left_out": list(self.left_out),
            "results": [
                {**r.to_dict(), "since": since.isoformat() if (since := self.since(r)) else None} for r in self.results
            ],
        }


def _change(result: Result, before: Result | None) -> Change | None:
    if before is None:
        return None if result.status is Status.OK else Change("new", result, None)
    if result.status is before.status:
        return None
    return Change("worse" if result.status.rank > before.status.rank else "better", result, before.status)
