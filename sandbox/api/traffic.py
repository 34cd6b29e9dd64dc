"""The API's synthetic traffic, as pure functions of the time.

Every counter is the integral of a smooth daily and weekly curve, so its value at any moment is known
without having counted: a restarted API goes on where it would have been, and the history written into
Prometheus (:mod:`sandbox.metrics_history`) meets the live samples without a seam. A :class:`Story` says
what went wrong since when; it changes the numbers the same way for both. Its faults rewrite the past, so
that a look back over a day shows them at once; its spells do not.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from sandbox.api.spells import Spell

if TYPE_CHECKING:
    from sandbox.api.tenants import Known

DAY = 86_400.0
WEEK = 7 * DAY
DETAILS = 8 * DAY
"""How far back the latency histogram and the queues reach; requests and tenants reach further."""
QUIET = 25 * 3600.0
"""How much of the past a fault rewrites: a look back over 24 h, started within the next hour, sees nothing else."""

JOB = {"job": "backend-api", "instance": "backend-api"}
REQUESTS, RENAMED_REQUESTS = "http_requests_total", "http_server_requests_total"
QUEUES = {"intake": 14, "calculator": 32, "hotspot": 6, "engagement": 9, "reporting": 3}

_BEGAN = 1_735_689_600.0  # 2025-01-01: the counters' zero
_MEAN = 30.0  # requests a second
_ERROR_SHARE = 0.001
# (period in seconds, amplitude, phase in turns): busiest at 13:00 UTC and on Wednesdays, never twice the same.
_WAVES = (
    (DAY, 0.45, 1 / 4 - 13 / 24),
    (DAY / 2, 0.08, 0.1),
    (WEEK, 0.22, 1 / 4 - 6.5 / 7),
    (11.3 * 3600, 0.025, 0.3),
    (2.9 * DAY, 0.02, 0.7),
)
_ERROR_WAVES = (*_WAVES, (3.7 * DAY, 0.12, 0.2))

# method, route, share of all requests, status → share of the route's good answers, median latency in seconds
_ROUTES: tuple[tuple[str, str, float, dict[str, float], float], ...] = (
    ("GET", "/api/v1/emissions", 0.27, {"200": 0.985, "401": 0.009, "404": 0.006}, 0.060),
    ("GET", "/api/v1/suppliers", 0.22, {"200": 0.988, "401": 0.008, "404": 0.004}, 0.045),
    ("GET", "/api/v1/dashboard", 0.18, {"200": 0.994, "401": 0.006}, 0.085),
    ("POST", "/api/v1/intake/upload", 0.09, {"202": 0.962, "401": 0.006, "422": 0.032}, 0.110),
    ("POST", "/api/v1/calculations", 0.10, {"202": 0.976, "401": 0.005, "422": 0.019}, 0.075),
    ("GET", "/api/v1/hotspots", 0.06, {"200": 0.995, "404": 0.005}, 0.095),
    ("GET", "/api/v1/reports/{id}", 0.05, {"200": 0.981, "404": 0.019}, 0.070),
    ("POST", "/api/v1/auth/login", 0.03, {"200": 0.910, "401": 0.090}, 0.100),
)
_ERRORS = {"500": 0.7, "503": 0.3}
_CALCULATIONS = {"completed": 0.0985, "failed": 0.0004}
BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, math.inf)
_SPREAD = 0.65  # sigma of the log-normal latency
_LATE = 3.0  # seconds that requests of a late spell take longer; the same for ever, for such spells stay counted


@dataclasses.dataclass(frozen=True)
class Story:
    """What has gone wrong, and since when (seconds since the epoch; None: it has not)."""

    no_traffic: float | None = None
    errors: float | None = None
    error_share: float = 0.06
    renamed: float | None = None
    slow: float | None = None
    slow_seconds: float = 3.0
    spells: tuple[Spell, ...] = ()

    @classmethod
    def of(cls, fault: Callable[[str], dict[str, Any] | None], spells: tuple[Spell, ...] = ()) -> Story:
        """Read it off the active faults; one without ``since`` is only about to begin."""
        errors, slow = fault("errors-5xx") or {}, fault("api-slow") or {}
        return cls(
            no_traffic=(fault("no-traffic") or {}).get("since"),
            errors=errors.get("since"),
            error_share=float(errors.get("percent", 6.0)) / 100,
            renamed=(fault("metric-renamed") or {}).get("since"),
            slow=slow.get("since"),
            slow_seconds=float(slow.get("seconds", 3.0)),
            spells=spells,
        )

    def requests_name(self, at: float) -> str:
        """Return the name under which requests are counted at that time."""
        return RENAMED_REQUESTS if self.renamed is not None and at >= self.renamed - QUIET else REQUESTS


@dataclasses.dataclass(frozen=True)
class Amounts:
    """How much there has been of everything up to a moment; each series is a weighted sum of these."""

    requests: float
    errors: float
    slow: float
    """Requests among ``requests`` that were answered slowly."""
    late: float = 0.0
    """The same, by spells."""


@dataclasses.dataclass(frozen=True)
class Series:
    """One counter: name, labels, and its weights of :class:`Amounts`."""

    name: str
    labels: tuple[tuple[str, str], ...]
    requests: float = 0.0
    errors: float = 0.0
    slow: float = 0.0
    """Added for each request that was slow."""
    late: float = 0.0
    whole: bool = True

    def value(self, amounts: Amounts) -> float:
        """Return the counter's value."""
        value = self.requests * amounts.requests + self.errors * amounts.errors
        value += self.slow * amounts.slow + self.late * amounts.late
        return math.floor(value) if self.whole else round(value, 3)


def _until(at: float, mean: float, waves: tuple[tuple[float, float, float], ...]) -> float:
    """Integrate ``mean * (1 + sum of waves)`` from the beginning until ``at``."""
    total = at - _BEGAN
    for period, amplitude, phase in waves:
        turn = 2 * math.pi
        ends = math.cos(turn * (at / period + phase)) - math.cos(turn * (_BEGAN / period + phase))
        total -= amplitude * period / turn * ends
    return mean * total


def requests_until(at: float) -> float:
    """Return how many requests an undisturbed API has answered up to a moment."""
    return _until(at, _MEAN, _WAVES)


def amounts(at: float, story: Story) -> Amounts:
    """Return the amounts at a moment as the story has them."""
    seen = at if story.no_traffic is None else min(at, story.no_traffic - QUIET)
    requests = _heard(requests_until, seen, story)
    errors = _heard(lambda moment: _until(moment, _MEAN * _ERROR_SHARE, _ERROR_WAVES), seen, story)
    errors += _touched("errors", seen, story, lambda share: share / (1 - share))
    late = _touched("late", seen, story, lambda share: share)
    if story.errors is not None and at >= story.errors:
        # A day's worth at once: a ratio over 24 h would else take hours to show what happens now.
        spoiled = requests - _heard(requests_until, min(seen, story.errors) - DAY, story)
        errors += spoiled * story.error_share / (1 - story.error_share)
    slow = 0.0
    if story.slow is not None and at >= story.slow:
        slow = max(0.0, requests - _heard(requests_until, story.slow, story))
    return Amounts(requests, errors, slow, late)


def _heard(count: Callable[[float], float], at: float, story: Story) -> float:
    """Return a count up to a moment, less what would have been counted in silences."""
    lost = 0.0
    for spell in story.spells:
        if spell.kind == "silence" and spell.since < at:
            lost += count(spell.end(at)) - count(spell.since)
    return count(at) - lost


def _touched(kind: str, at: float, story: Story, weight: Callable[[float], float]) -> float:
    """Return how many requests spells of a kind have touched up to a moment."""
    found = 0.0
    for spell in story.spells:
        if spell.kind == kind and spell.since < at:
            during = _heard(requests_until, spell.end(at), story) - _heard(requests_until, spell.since, story)
            found += during * weight(spell.share)
    return found


def _below(limit: float, median: float) -> float:
    """Return the share of log-normal latencies below a limit."""
    if math.isinf(limit):
        return 1.0
    return 0.5 * (1 + math.erf(math.log(limit / median) / (_SPREAD * math.sqrt(2))))


@functools.lru_cache(maxsize=4)
def request_series() -> tuple[Series, ...]:
    """Return the request counters, by method, route and status; their name depends on the story."""
    found = []
    for method, route, share, statuses, _ in _ROUTES:
        for status, part in statuses.items():
            labels = (("method", method), ("route", route), ("status", status))
            found.append(Series("", labels, requests=share * part))
        for status, part in _ERRORS.items():
            labels = (("method", method), ("route", route), ("status", status))
            found.append(Series("", labels, errors=share * part))
    return tuple(found)


def calculation_series() -> tuple[Series, ...]:
    """Return the counters of calculations by status."""
    return tuple(
        Series("vcci_calculations_total", (("status", status),), requests=share)
        for status, share in _CALCULATIONS.items()
    )


@functools.lru_cache(maxsize=4)
def latency_series(slow_seconds: float) -> tuple[Series, ...]:
    """Return the latency histogram's counters, by route: buckets, count, sum."""
    name, found = "http_request_duration_seconds", []
    for _, route, share, _, median in _ROUTES:
        mean = median * math.exp(_SPREAD**2 / 2)
        for limit in BUCKETS:
            good, bad = _below(limit, median), _below(limit, median + slow_seconds)
            labels = (("le", "+Inf" if math.isinf(limit) else str(limit)), ("route", route))
            worse = _below(limit, median + _LATE)
            slow, late = share * (bad - good), share * (worse - good)
            found.append(Series(f"{name}_bucket", labels, requests=share * good, slow=slow, late=late))
        found.append(Series(f"{name}_count", (("route", route),), requests=share))
        slow, late = share * slow_seconds, share * _LATE
        whole = (("route", route),)
        found.append(Series(f"{name}_sum", whole, requests=share * mean, slow=slow, late=late, whole=False))
    return tuple(found)


def gauges(at: float, tenants: Sequence[Known] = ()) -> Iterator[tuple[str, dict[str, str], float]]:
    """Yield the gauges at a moment: name, labels, value.

    :param tenants: as they are now; none: as they were when the curtain rose.
    """
    for number, (queue, usual) in enumerate(QUEUES.items()):
        wave = math.sin(2 * math.pi * (at / (3.1 * 3600) + number / 5)) + 0.4 * math.sin(2 * math.pi * at / 1700)
        yield "celery_queue_length", {"queue": queue}, max(0, round(usual * (1 + 0.5 * wave)))
    known = tenants or _tenants()
    yield "vcci_active_tenants", {}, sum(tenant.status == "active" for tenant in known)
    for tenant in known:
        yield "vcci_tenant_info", {"tenant_id": tenant.id, "slug": tenant.slug, "status": tenant.status}, 1


@functools.lru_cache(maxsize=1)
def _tenants() -> tuple[Known, ...]:
    from sandbox.api.tenants import beginning  # it loads a database driver

    return beginning()
