"""Request numbers against the same weekday of past weeks."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from vcci_ops.domain.checks import judged, stated, unknown
from vcci_ops.domain.results import Result, Status
from vcci_ops.exceptions import NoData
from vcci_ops.settings import Check


def usual(past: Mapping[int, float | None]) -> float | None:
    """Return the median of the past weeks that have data, by weeks back; None when none has."""
    known = [value for value in past.values() if value is not None and value > 0]
    return statistics.median(known) if known else None


def judge_requests(
    check: Check, requests: float, past: Mapping[int, float | None], *, minimum: float, **more: Any
) -> Result:
    """Judge the number of requests as a percentage of what is usual.

    None at all is critical, whatever the past: somebody always uses the platform.

    :param minimum: without a past to compare with, fewer requests than this are unknown, not ok.
    """
    normal = usual(past)
    details = tuple(
        f"{weeks} week{'s' if weeks > 1 else ''} ago: {'no data' if value is None else f'{value:,.0f}'}"
        for weeks, value in sorted(past.items())
    )
    more = {"details": details, **more}
    if requests <= 0:
        summary = "no requests at all, though the API is being scraped"
        return stated(check, Status.CRITICAL, summary, value=0.0, unit="percent of usual", display="0", **more)
    if normal is None:
        summary = f"{requests:,.0f} requests; no past week to compare with"
        if requests < minimum:
            return unknown(check, NoData(summary), **more)
        return stated(check, Status.OK, summary, display=f"{requests:,.0f}", **more)
    percent = 100 * requests / normal
    summary = f"{requests:,.0f} requests, {percent:.0f} % of the same weekday's usual {normal:,.0f}"
    return judged(check, percent, summary, display=f"{requests:,.0f}", **more)


def judge_error_rate(
    check: Check, errors: float, requests: float, *, minimum: float, before: float | None, **more: Any
) -> Result:
    """Judge errors / requests in percent; too few requests say nothing and are unknown.

    :param minimum: number of requests below which a ratio is no evidence.
    :param before: the rate a week ago in percent, or None.
    """
    if requests < minimum:
        few = NoData(f"only {requests:,.0f} requests; a rate needs {minimum:,.0f}")
        return unknown(check, few, **more)
    rate = 100 * errors / requests
    past = "" if before is None else f"; a week ago {before:.2f} %"
    return judged(check, rate, f"{errors:,.0f} of {requests:,.0f} requests failed with 5xx{past}", **more)
