"""The report as an HTML page: one file without scripts, readable on a phone, in the dark and on paper."""

from __future__ import annotations

import datetime as dt
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from vcci_ops.domain.report import Point, Report
from vcci_ops.domain.results import Result
from vcci_ops.domain.units import duration, humanize
from vcci_ops.settings import INCLUDE

WIDTH, HEIGHT = 120.0, 26.0


def render(report: Report) -> str:
    """Return the page."""
    return environment(INCLUDE / "templates").get_template("report.html.j2").render(report=report)


def sparkline(points: Sequence[Point], result: Result) -> dict[str, Any] | None:
    """Lay out a small trend chart of the earlier values and the present one.

    A gap (nothing measured) breaks the line. Returns None when fewer than two values exist.

    :returns: ``lines``, each a list of "x,y" in a box of :data:`WIDTH` by :data:`HEIGHT`; ``last``, the
        place of the present value; ``words``, the same for those who cannot see it.
    """
    values = [point.value for point in points] + [result.value]
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return None
    low, high = min(known), max(known)
    step = WIDTH / (len(values) - 1)
    span = (high - low) or 1.0

    def place(index: int, value: float) -> tuple[float, float]:
        level = 0.5 if low == high else (value - low) / span
        return round(index * step, 1), round(2 + (HEIGHT - 4) * (1 - level), 1)

    lines: list[list[str]] = [[]]
    for index, value in enumerate(values):
        if value is None:
            lines.append([])
        else:
            lines[-1].append("{},{}".format(*place(index, value)))
    words = f"{len(known)} values, lowest {humanize(low, result.unit)}, highest {humanize(high, result.unit)}"
    last = place(len(values) - 1, result.value) if result.value is not None else None
    return {"lines": [line for line in lines if line], "last": last, "words": words}


def _age(at: dt.datetime, now: dt.datetime) -> str:
    return duration((now - at).total_seconds())


def _moment(at: dt.datetime) -> str:
    return f"{at:%a %-d %b %Y, %H:%M} UTC"


@functools.lru_cache(maxsize=4)
def environment(folder: Path) -> Environment:
    """Return Jinja's environment for pages: everything from outside is escaped, a name that is missing is an error."""
    jinja = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    jinja.filters.update(moment=_moment)
    jinja.globals.update(sparkline=sparkline, age=_age, width=WIDTH, height=HEIGHT)
    return jinja
