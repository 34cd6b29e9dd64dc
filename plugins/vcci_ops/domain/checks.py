"""From a measured value to a :class:`~vcci_ops.domain.results.Result`."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

from vcci_ops.domain.results import Result, Status
from vcci_ops.domain.signatures import redact
from vcci_ops.domain.units import duration, humanize
from vcci_ops.exceptions import MeasurementError, NoData
from vcci_ops.settings import Check, Threshold


def verdict(threshold: Threshold, value: float, samples: Sequence[float] | None = None) -> Status:
    """Judge a value against its limits.

    :param samples: the values over the threshold's ``for``, oldest first. A limit counts as passed
        only when every sample passed it; without samples the value alone decides.
    """
    beyond = operator.gt if threshold.direction == "above" else operator.lt
    values = [value] if not samples else [*samples, value]
    for limit, status in ((threshold.critical, Status.CRITICAL), (threshold.warning, Status.WARNING)):
        if limit is not None and all(beyond(v, limit) for v in values):
            return status
    if threshold.warning_above is not None and value > threshold.warning_above:
        return Status.WARNING
    return Status.OK


def describe(threshold: Threshold | None) -> str:
    """Say the limits in words: ``warning above 80 %, critical above 95 % for 5 min``."""
    if threshold is None:
        return ""
    parts = [
        f"{name} {threshold.direction} {humanize(limit, threshold.unit)}"
        for name, limit in (("warning", threshold.warning), ("critical", threshold.critical))
        if limit is not None
    ]
    if threshold.warning_above is not None:
        parts.append(f"warning above {humanize(threshold.warning_above, threshold.unit)}")
    if not parts:
        return "no limit set"
    return ", ".join(parts) + (f" for {duration(threshold.for_)}" if threshold.for_ else "")


def judged(check: Check, value: float, summary: str, *, samples: Sequence[float] | None = None, **more: Any) -> Result:
    """Build the result of a measured value; the check's threshold decides the status.

    :param value: in the threshold's unit.
    :param more: further fields of :class:`Result`, e.g. ``subject``, ``details``, ``query``.
    """
    if not all(map(math.isfinite, [value, *(samples or ())])):
        return unknown(check, NoData(f"{summary}: that is no number to judge"), **more)
    status = verdict(check.threshold, value, samples) if check.threshold else Status.OK
    unit = check.threshold.unit if check.threshold else more.pop("unit", "")
    more.setdefault("display", humanize(value, unit))
    return stated(check, status, summary, value=value, unit=unit, **more)


def stated(check: Check, status: Status, summary: str, **more: Any) -> Result:
    """Build a result whose status does not come from a number.

    Here every word that comes from outside passes: credentials in it are masked, and what no database or
    JSON document takes (NUL, lone surrogates) is replaced.
    """
    more["details"] = tuple(_clean(line) for line in more.get("details", ()))
    more["subject"] = _clean(more.get("subject", ""))
    return Result(
        check=check.id,
        status=status,
        summary=_clean(summary),
        title=check.title,
        section=check.section,
        meaning=check.meaning,
        action=check.action,
        runbook=check.runbook,
        threshold=more.pop("threshold", describe(check.threshold)),
        link=more.pop("link", "") or check.link,
        **more,
    )


def unknown(check: Check, why: str | MeasurementError, **more: Any) -> Result:
    """Build the result of what could not be measured, with the reason in words."""
    reason = why.reason if isinstance(why, MeasurementError) else "error"
    return stated(check, Status.UNKNOWN, str(why), **{"reason": reason, **more})


def _clean(text: str) -> str:
    """Mask credentials; replace what cannot be stored."""
    return redact(text.replace("\0", "\ufffd").encode("utf-8", "replace").decode())
