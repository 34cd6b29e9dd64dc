"""Windows in which maintenance may run, and what still fits into one. All times are UTC: no clock change moves them."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Iterator, Sequence

from vcci_ops.settings_maintenance import WEEKDAYS, MaintenanceWindow

_DAY = dt.timedelta(days=1)


@dataclasses.dataclass(frozen=True, order=True)
class Span:
    """A window on one day: from ``begin`` on, before ``end``."""

    begin: dt.datetime
    end: dt.datetime

    def __str__(self) -> str:
        """Name it: ``Sun 29 Nov 02:00 to 06:00 UTC``."""
        end = f"{self.end:%H:%M}" if self.end - self.begin < _DAY else f"{self.end:%a %H:%M}"
        return f"{self.begin:%a %-d %b %H:%M} to {end} UTC"


def spans(windows: Sequence[MaintenanceWindow], first: dt.date, days: int) -> Iterator[Span]:
    """Yield the windows that begin within so many days from the first on; those of a day in the settings' order."""
    for day in (first + _DAY * number for number in range(days)):
        for window in windows:
            if WEEKDAYS[day.weekday()] in window.days:
                begin = dt.datetime.combine(day, window.begin, dt.UTC)
                end = dt.datetime.combine(day, window.end, dt.UTC)
                yield Span(begin, end if end > begin else end + _DAY)


def current(windows: Sequence[MaintenanceWindow], now: dt.datetime) -> Span | None:
    """Return the window that is open; of several the one that ends last. None: none is."""
    utc = now.astimezone(dt.UTC)
    open_now = [s for s in spans(windows, utc.date() - _DAY, 2) if s.begin <= utc < s.end]
    return max(open_now, key=lambda span: span.end, default=None)


def following(windows: Sequence[MaintenanceWindow], now: dt.datetime) -> Span:
    """Return the next window that begins after now."""
    utc = now.astimezone(dt.UTC)
    return min(span for span in spans(windows, utc.date(), 8) if span.begin > utc)


def longest(windows: Sequence[MaintenanceWindow]) -> dt.timedelta:
    """Return how long the longest of them lasts."""
    return max(span.end - span.begin for span in spans(windows, dt.date(2024, 1, 1), 7))


def crons(windows: Sequence[MaintenanceWindow]) -> list[str]:
    """Return the begin of each as cron, for schedules in UTC."""
    lines = []
    for window in windows:
        days = ",".join(str((WEEKDAYS.index(day) + 1) % 7) for day in window.days)
        lines.append(f"{window.begin.minute} {window.begin.hour} * * {days}")
    return sorted(set(lines))
