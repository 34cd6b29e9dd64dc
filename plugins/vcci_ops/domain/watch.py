"""The watch over a fresh release: judging numbers against limits and a baseline, counting, ending.

A sample looks at every metric once. It *fails* when a number is too bad, is an *error* when a number could not be
had, *inconclusive* when a number stands on too little traffic, and *passes* otherwise; the gravest of its metrics
decides, in this order. Nothing that was not measured passes, and nothing that was not measured rolls back.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any

from vcci_ops.domain.units import humanize
from vcci_ops.exceptions import MeasurementError
from vcci_ops.settings_watch import Watch, WatchMetric

HOUR, WEEK = 3600.0, 604800.0
NO_BASELINE = "no baseline: only the absolute limit counts"


class Verdict(StrEnum):
    """What one sample, or one number of it, says."""

    PASS = "pass"  # noqa: S105  no password
    """Measured, within the limits."""
    INCONCLUSIVE = "inconclusive"
    """Measured, but on too little traffic to say anything."""
    ERROR = "error"
    """Not measured."""
    FAIL = "fail"
    """Measured, beyond a limit."""

    @property
    def rank(self) -> int:
        """Order of gravity: a sample is what its gravest number is."""
        return list(Verdict).index(self)


class Outcome(StrEnum):
    """How a watch ended."""

    PASSED = "passed"
    """Looked at until the end, at least one sample passed, and fewer failed than the limit."""
    FAILED = "failed"
    """As many samples failed as the limit says: undo the release."""
    HELD = "held"
    """Nothing could be seen for too long: leave everything as it is and call a person."""
    INCONCLUSIVE = "inconclusive"
    """The end was reached without a single sample that passed: this is not a pass."""
    SUPERSEDED = "superseded"
    """Somebody changed what was watched; the numbers are no longer about this release."""


@dataclasses.dataclass(frozen=True, slots=True)
class Reading:
    """What was measured of one metric."""

    value: float | None
    """None: no number, for there is too little traffic (a ratio of nothing)."""
    traffic: float | None
    """Requests that the value stands on; None where it does not depend on any."""
    query: str
    """What was asked, resolved."""
    details: tuple[str, ...] = ()
    """What stands behind the number: pods, signatures."""


@dataclasses.dataclass(frozen=True, slots=True)
class MetricVerdict:
    """One number of a sample, judged."""

    id: str
    title: str
    unit: str
    verdict: Verdict
    words: str
    """For people: ``error rate 4.2 % is above 1 %``."""
    value: float | None = None
    traffic: float | None = None
    query: str = ""
    details: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {**dataclasses.asdict(self), "verdict": str(self.verdict), "details": list(self.details)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> MetricVerdict:
        """Read :meth:`to_dict`."""
        return cls(**{**data, "verdict": Verdict(data["verdict"]), "details": tuple(data.get("details") or ())})


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """All metrics at one moment."""

    number: int
    """From 0."""
    due_at: float
    """Unix time: start + warm-up + number × interval."""
    observed_at: float
    metrics: tuple[MetricVerdict, ...]
    notes: tuple[str, ...] = ()
    """What has to be known about it: observed late, a replica count that changed."""

    @property
    def verdict(self) -> Verdict:
        """The gravest of its metrics; inconclusive when there is none to look at."""
        return max((m.verdict for m in self.metrics), key=lambda v: v.rank, default=Verdict.INCONCLUSIVE)

    @property
    def blind(self) -> bool:
        """Whether something could not be measured, whatever the rest says."""
        return any(m.verdict is Verdict.ERROR for m in self.metrics)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "number": self.number,
            "due_at": self.due_at,
            "observed_at": self.observed_at,
            "verdict": str(self.verdict),
            "metrics": [m.to_dict() for m in self.metrics],
            "notes": list(self.notes),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Sample:
        """Read :meth:`to_dict`."""
        return cls(
            number=int(data["number"]),
            due_at=float(data["due_at"]),
            observed_at=float(data["observed_at"]),
            metrics=tuple(MetricVerdict.from_dict(m) for m in data["metrics"]),
            notes=tuple(data.get("notes") or ()),
        )

    def line(self, total: int) -> str:
        """Say it in one line, with its numbers."""
        at = dt.datetime.fromtimestamp(self.due_at, dt.UTC).strftime("%H:%M:%S")
        told = "; ".join(m.words for m in sorted(self.metrics, key=lambda m: -m.verdict.rank))
        notes = f" ({'; '.join(self.notes)})" if self.notes else ""
        return f"sample {self.number + 1} of {total}, {at}: {self.verdict}{notes}: {told or 'nothing to look at'}"


def worst_baseline(metric: WatchMetric, baseline: Mapping[str, Any] | None) -> float | None:
    """Return the worse of what was normal in the last hour, at this hour last week, and just before the release."""
    given = [(baseline or {}).get(key) for key in ("last_hour", "last_week", "now")]
    found = [float(value) for value in given if value is not None and math.isfinite(float(value))]
    if not found:
        return None
    return min(found) if metric.falling else max(found)


def judge_metric(
    metric: WatchMetric, reading: Reading | MeasurementError, baseline: Mapping[str, Any] | None
) -> MetricVerdict:
    """Judge one number.

    - **Not measured** is an error, too little traffic is inconclusive: both before any limit is looked at.
    - **Absolute limit:** a number beyond it fails, unless the baseline was beyond it already and the number is
      not worse than the baseline by more than ``worse_by_at_least``: a release is not undone for an illness that
      it did not bring, and not for noise on top of it either.
    - **Relative limit:** a number that is worse than the baseline by ``worse_by_percent`` fails, also within the
      absolute limit, but only when it is worse by ``worse_by_at_least`` as well, in its own unit: 0.02 % errors
      after 0.01 % is twice as many, and nothing.
    - The baseline is the worse of last hour, same hour last week and just before the release. **Without one**
      only the absolute limit counts, which the words say.

    :param reading: the number, or why there is none.
    :param baseline: ``{"last_hour": ..., "last_week": ..., "now": ...}``, each a number or None.
    """
    if isinstance(reading, MeasurementError):
        return MetricVerdict(metric.id, metric.title, metric.unit, Verdict.ERROR, f"{metric.title}: {reading}")

    def said(verdict: Verdict, words: str) -> MetricVerdict:
        more = (reading.value, reading.traffic, reading.query, reading.details)
        return MetricVerdict(metric.id, metric.title, metric.unit, verdict, f"{metric.title} {words}", *more)

    if reading.traffic is not None and reading.traffic < metric.min_traffic:
        few = f"says nothing: {reading.traffic:,.0f} requests, fewer than {metric.min_traffic:,.0f}"
        return said(Verdict.INCONCLUSIVE, few)
    if reading.value is None or not math.isfinite(reading.value):
        return said(Verdict.ERROR, "has no number")
    base = worst_baseline(metric, baseline)
    shown = humanize(reading.value, metric.unit)
    wrongs = [*_absolute(metric, reading.value, base), *_relative(metric, reading.value, base)]
    if wrongs:
        return said(Verdict.FAIL, f"{shown} is {' and '.join(wrongs)}")
    return said(Verdict.PASS, f"{shown}{_excuse(metric, reading.value, base)}")


def _worse_by(metric: WatchMetric, value: float, base: float) -> float:
    return base - value if metric.falling else value - base


def _beyond(metric: WatchMetric, value: float) -> str:
    if metric.above is not None and value > metric.above:
        return f"above {humanize(metric.above, metric.unit)}"
    if metric.below is not None and value < metric.below:
        return f"below {humanize(metric.below, metric.unit)}"
    return ""


def _absolute(metric: WatchMetric, value: float, base: float | None) -> Iterable[str]:
    words = _beyond(metric, value)
    if not words:
        return
    ill_before = base is not None and bool(_beyond(metric, base))
    if base is None or not ill_before or _worse_by(metric, value, base) > metric.worse_by_at_least:
        yield words


def _relative(metric: WatchMetric, value: float, base: float | None) -> Iterable[str]:
    if base is None or metric.worse_by_percent is None:
        return
    by = _worse_by(metric, value, base)
    if by > abs(base) * metric.worse_by_percent / 100 and by >= metric.worse_by_at_least:
        normal = humanize(base, metric.unit)
        if base > 0 and value > 0:
            how = f"{value / base:.3g} times" if value > 2 * base else f"{100 * value / base:.0f} % of"
            yield f"{how} the baseline ({normal})"
        else:
            yield f"far from the baseline ({normal})"


def _excuse(metric: WatchMetric, value: float, base: float | None) -> str:
    if _beyond(metric, value) and base is not None:
        return f" ({_beyond(metric, value)}, but so it was before: {humanize(base, metric.unit)})"
    if base is None and metric.worse_by_percent is not None:
        return f" ({NO_BASELINE})"
    return ""


def judge_sample(
    watch: Watch,
    number: int,
    *,
    due_at: float,
    observed_at: float,
    readings: Mapping[str, Reading | MeasurementError],
    baseline: Mapping[str, Mapping[str, Any]],
    notes: Iterable[str] = (),
) -> Sample:
    """Judge every metric that was looked at; one that was left out (observed late) is not judged."""
    judged = [judge_metric(m, readings[m.id], baseline.get(m.id)) for m in watch.metrics if m.id in readings]
    return Sample(number, due_at, observed_at, tuple(judged), tuple(notes))


class WatchState:
    """What is known of a watch so far; samples may come in any order and twice.

    :param total: how many samples there will be.
    """

    def __init__(self, watch: Watch, total: int) -> None:
        self.watch = watch
        self.total = total
        self.samples: dict[int, Sample] = {}

    def add(self, sample: Sample) -> Outcome | None:
        """Add a sample, the first of its number counting; return how the watch ends, or None: it goes on."""
        self.samples.setdefault(sample.number, sample)
        return self.outcome

    def adopt(self, stored: Iterable[Sample]) -> None:
        """Take over what is stored; it wins, so that two who watch the same see the same."""
        self.samples.update({sample.number: sample for sample in stored})

    @property
    def counts(self) -> dict[str, int]:
        """Verdict → number of samples."""
        found = Counter(str(sample.verdict) for sample in self.samples.values())
        return {
            str(verdict): found[verdict]
            for verdict in (Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.ERROR)
        }

    @property
    def missing(self) -> list[int]:
        """Numbers that nobody has observed yet."""
        return [number for number in range(self.total) if number not in self.samples]

    @property
    def outcome(self) -> Outcome | None:
        """How it ends; None while it goes on. A failure weighs more than having seen nothing."""
        counts = self.counts
        if counts[Verdict.FAIL] >= self.watch.failure_limit:
            return Outcome.FAILED
        if self._blind_in_a_row() >= self.watch.error_limit:
            return Outcome.HELD
        if self.missing:
            return None
        if counts[Verdict.PASS] and self._dwindled() < self.watch.error_limit:
            return Outcome.PASSED
        return Outcome.HELD if counts[Verdict.ERROR] else Outcome.INCONCLUSIVE

    def _dwindled(self) -> int:
        """How many samples at the end say nothing: a release that no request reaches any more has not passed."""
        row = 0
        for number in sorted(self.samples, reverse=True):
            if self.samples[number].verdict is not Verdict.INCONCLUSIVE:
                break
            row += 1
        return row

    def _blind_in_a_row(self) -> int:
        longest = row = 0
        for number in sorted(self.samples):
            row = row + 1 if self.samples[number].blind else 0
            longest = max(longest, row)
        return longest

    def reason(self, outcome: Outcome) -> str:
        """Say why it ended so."""
        words = self._counted()
        if outcome is Outcome.FAILED:
            failed = [s for s in self.samples.values() if s.verdict is Verdict.FAIL]
            return f"{len(failed)} samples failed (limit {self.watch.failure_limit}): {_worst_of(failed, Verdict.FAIL)}"
        if outcome is Outcome.HELD:
            blind = [s for s in self.samples.values() if s.blind]
            row = f"{self._blind_in_a_row()} samples in a row without data (limit {self.watch.error_limit})"
            return f"{row}: {_worst_of(blind, Verdict.ERROR)}"
        if outcome is Outcome.INCONCLUSIVE:
            return f"{self._unproven()}: {words}; nothing is proven either way"
        return words

    def _unproven(self) -> str:
        row = self._dwindled()
        if not self.counts[Verdict.PASS]:
            return "not one sample passed"
        last = [self.samples[number] for number in sorted(self.samples)[-row:]]
        return f"the last {row} samples say nothing ({_worst_of(last, Verdict.INCONCLUSIVE)})"

    def _counted(self) -> str:
        told = ", ".join(f"{count} {verdict}" for verdict, count in self.counts.items() if count)
        return f"{told or 'none'} of {self.total} samples"

    def progress(self) -> str:
        """Say how far it is, in a few lines for the Slack thread."""
        if not self.samples:
            return f"Watching: waiting for the first of {self.total} samples"
        last = self.samples[max(self.samples)]
        bad = [m.words for m in last.metrics if m.verdict is not Verdict.PASS]
        told = "; ".join(bad or [m.words for m in last.metrics]) or "nothing to look at"
        done = f"{len(self.samples)} of {self.total} samples"
        counted = ", ".join(f"{count} {verdict}" for verdict, count in self.counts.items() if count)
        return f"Watching, {done}: {counted}\nLast, {last.verdict}: {told}"


def _worst_of(samples: Iterable[Sample], verdict: Verdict) -> str:
    """Name each metric once, with its newest words."""
    words = {m.id: m.words for sample in sorted(samples, key=lambda s: s.number) for m in sample.metrics
             if m.verdict is verdict}  # fmt: skip
    return "; ".join(words.values())


def event_of(
    state: WatchState, outcome: Outcome, *, watch: str, started_at: float, ended_at: float, reason: str = ""
) -> dict[str, Any]:
    """Return what a finished watch tells: for the trigger's event and the task's XCom."""
    return {
        "watch": watch,
        "outcome": str(outcome),
        "reason": reason or state.reason(outcome),
        "counts": state.counts,
        "samples": len(state.samples),
        "started_at": started_at,
        "ended_at": ended_at,
    }
