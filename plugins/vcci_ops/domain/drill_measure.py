"""How fast a recovery was, how much would have been lost, and how that develops."""

from __future__ import annotations

import dataclasses
import datetime as dt
import statistics
from collections.abc import Mapping
from typing import Any

from vcci_ops.domain.drill import PHASES, Assertion
from vcci_ops.domain.results import Status
from vcci_ops.domain.units import duration, humanize

_ENOUGH = 3
"""Drills, this one among them, from which a growth can be told."""
_DAY = 86400.0


@dataclasses.dataclass(frozen=True)
class Before:
    """What an earlier drill measured."""

    at: dt.datetime
    rto: float
    bytes: int
    outcome: str


@dataclasses.dataclass(frozen=True)
class Measured:
    """What this drill measured.

    :param rto: seconds from the choice to the verified database, the waits between tasks included; None: not reached.
    :param rpo: seconds from the newest row to the drill's begin; None: not known.
    :param phases: seconds of work, by phase.
    """

    at: dt.datetime
    rto: float | None
    rpo: float | None
    bytes: int
    restored_bytes: int
    phases: Mapping[str, float]
    before: tuple[Before, ...] = ()
    """Newest first."""

    @property
    def rate(self) -> float | None:
        """Return bytes of dump per second of reading and restoring; None when that did not come to its end."""
        names = ("read", "schema", "data", "indexes")
        seconds = sum(self.phases.get(name, 0.0) for name in names)
        return self.bytes / seconds if seconds and "indexes" in self.phases else None

    def forecast(self, days: int) -> float | None:
        """Return the recovery time to expect in so many days, as the backups grow; None when that cannot be told.

        The growth is a straight line through the sizes of the last drills; the time grows as the size does.
        """
        points = [(b.at, b.bytes) for b in self.before if b.bytes] + [(self.at, self.bytes)]
        if self.rto is None or not self.bytes or len(points) < _ENOUGH:
            return None
        x = [(at - self.at).total_seconds() / _DAY for at, _ in points]
        if max(x) - min(x) < 1:
            return None
        slope, _ = statistics.linear_regression(x, [float(size) for _, size in points])
        return self.rto * max(1.0, (self.bytes + max(slope, 0.0) * days) / self.bytes)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        return {
            "rto_seconds": self.rto,
            "rpo_seconds": self.rpo,
            "bytes": self.bytes,
            "restored_bytes": self.restored_bytes,
            "bytes_per_second": self.rate,
            "phases": {name: round(self.phases[name], 3) for name in PHASES if name in self.phases},
            "before": [
                {"at": b.at.isoformat(), "rto_seconds": b.rto, "bytes": b.bytes, "outcome": b.outcome}
                for b in self.before
            ],
        }


def judged(measured: Measured, rto: float, rpo: float, slower_by: float, days: int) -> list[Assertion]:
    """Hold it against the targets and the drills before.

    :param rto: target in seconds; ``rpo``: likewise.
    :param slower_by: percent per byte beyond which a drill counts as slower.
    :param days: how far the forecast looks.
    """
    found = [_within_rto(measured, rto), _within_rpo(measured, rpo)]
    if measured.rto is not None:
        found.append(_regression(measured, slower_by))
        found.append(_forecast(measured, rto, days))
    return found


def _within_rto(measured: Measured, target: float) -> Assertion:
    id_, title, expected = "measure.rto", "Recovery time (RTO)", f"at most {duration(target)}"
    if measured.rto is None:
        return Assertion(id_, title, Status.UNKNOWN, expected, "the database was never ready", "See what failed first.")
    if measured.rto <= target:
        return Assertion(id_, title, Status.OK, expected, duration(measured.rto))
    why = "More jobs (drill.jobs), a faster server, or another way to restore, such as a standby or a snapshot."
    return Assertion(id_, title, Status.CRITICAL, expected, duration(measured.rto), why)


def _within_rpo(measured: Measured, target: float) -> Assertion:
    id_, title, expected = "measure.rpo", "Data that would be lost (RPO)", f"at most {duration(target)}"
    if measured.rpo is None:
        why = "Name a column in drill.freshness that tells when rows were written."
        found = "not provable: no row tells when it was written"
        return Assertion(id_, title, Status.WARNING, expected, found, why)
    if measured.rpo <= target:
        return Assertion(id_, title, Status.OK, expected, duration(measured.rpo))
    why = "Back up more often, or ship the write-ahead log (point-in-time recovery)."
    return Assertion(id_, title, Status.CRITICAL, expected, duration(measured.rpo), why)


def _regression(measured: Measured, slower_by: float) -> Assertion:
    id_, title = "measure.regression", "Against the drills before"
    usual = [b.rto / b.bytes for b in measured.before if b.bytes]
    expected = f"at most {slower_by:.0f} % more time per byte than the median of the last {len(usual)}"
    if not usual or not measured.bytes or measured.rto is None:
        return Assertion(id_, title, Status.OK, "as fast as before", "the first one: nothing to compare with")
    more = 100 * (measured.rto / measured.bytes / statistics.median(usual) - 1)
    found = f"{abs(more):.0f} % {'more' if more >= 0 else 'less'}"
    if more <= slower_by:
        return Assertion(id_, title, Status.OK, expected, found)
    why = "Look at the phases: which one takes longer than before? A new index, a smaller server, a slower bucket."
    return Assertion(id_, title, Status.WARNING, expected, found, why)


def _forecast(measured: Measured, target: float, days: int) -> Assertion:
    id_, title, expected = "measure.forecast", f"Recovery time in {days} days", f"at most {duration(target)}"
    seconds = measured.forecast(days)
    if seconds is None:
        found = "not told yet: it takes three drills on different days"
        return Assertion(id_, title, Status.OK, expected, found)
    found = f"{duration(seconds)}, if the backups grow as they did"
    if seconds <= target:
        return Assertion(id_, title, Status.OK, expected, found)
    why = "The target will be missed. Plan ahead: more jobs, a faster server, archiving, or point-in-time recovery."
    return Assertion(id_, title, Status.WARNING, expected, found, why)


def sized(restored: int, dump: int) -> str:
    """Say how large the copy was."""
    return f"{humanize(restored, 'bytes')} from a dump of {humanize(dump, 'bytes')}"
