"""When something that is looked at every hour becomes loud, and when it is quiet again.

One bad look is often a pod that was just replaced. So a check turns red only after several bad looks in a row, and
green only after several good ones: the rule that Nagios calls hard states.
https://assets.nagios.com/downloads/nagioscore/docs/nagioscore/4/en/statetypes.html
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vcci_ops.domain.report import Report
from vcci_ops.domain.results import Result, Status

Key = tuple[str, str]
"""Check and subject."""


@dataclasses.dataclass(frozen=True)
class Patience:
    """How many looks in a row it takes.

    :param red_after: bad looks that turn a check red.
    :param green_after: good looks that turn it green again.
    """

    red_after: int = 3
    green_after: int = 2


@dataclasses.dataclass
class Alarm:
    """What is known of one check on one subject.

    :param red: whether it is red.
    :param row: looks in a row, up to the last one, that speak against what it is.
    :param since: first bad look of the row that turned it red, or is about to.
    :param turned: whether the last look turned it.
    """

    red: bool = False
    row: int = 0
    since: dt.datetime | None = None
    turned: bool = False

    def look(self, at: dt.datetime, *, bad: bool, patience: Patience) -> None:
        """Take one more look into account."""
        if bad == self.red:
            self.row = 0
            return
        self.row += 1
        if not self.red and self.row == 1:
            self.since = at
        if self.row >= (patience.green_after if self.red else patience.red_after):
            self.red, self.row, self.turned = not self.red, 0, True


@dataclasses.dataclass(frozen=True)
class Notice:
    """What one look changes, and what it leaves as it is.

    :param turned_red: results with the time of their first bad look; loud.
    :param turned_green: results with the time at which their trouble began; loud.
    :param red: results that were red before, and are.
    :param wavering: bad results that are not red yet, with how many looks in a row were bad.
    """

    turned_red: tuple[tuple[Result, dt.datetime], ...] = ()
    turned_green: tuple[tuple[Result, dt.datetime], ...] = ()
    red: tuple[tuple[Result, dt.datetime], ...] = ()
    wavering: tuple[tuple[Result, int], ...] = ()

    def to_dict(self) -> dict[str, list[Any]]:
        """Return plain JSON types; :meth:`from_dict` is the inverse."""
        timed = ("turned_red", "turned_green", "red")
        found: dict[str, list[Any]] = {
            name: [[result.to_dict(), at.isoformat()] for result, at in getattr(self, name)] for name in timed
        }
        return {**found, "wavering": [[result.to_dict(), row] for result, row in self.wavering]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Notice:
        """Read what :meth:`to_dict` wrote."""

        def timed(name: str) -> tuple[tuple[Result, dt.datetime], ...]:
            return tuple((Result.from_dict(result), dt.datetime.fromisoformat(at)) for result, at in data[name])

        wavering = tuple((Result.from_dict(result), int(row)) for result, row in data["wavering"])
        return cls(timed("turned_red"), timed("turned_green"), timed("red"), wavering)


def notice(report: Report, patience: Patience) -> Notice:
    """Return what this run's look changes, given all earlier looks of the report's series."""
    now = {result.key: result for result in report.results}
    looks = [*_earlier(report), (report.started_at, {key: result.status for key, result in now.items()})]
    alarms = _followed(looks, patience)
    found: dict[str, list[Any]] = {"turned_red": [], "turned_green": [], "red": [], "wavering": []}
    for key, alarm in alarms.items():
        result = now.get(key) or _silent(key, report)
        since = alarm.since or report.started_at
        if alarm.turned:
            found["turned_red" if alarm.red else "turned_green"].append((result, since))
        elif alarm.red:
            found["red"].append((result, since))
        elif alarm.row:
            found["wavering"].append((result, alarm.row))
    return Notice(**{name: tuple(entries) for name, entries in found.items()})


def _earlier(report: Report) -> list[tuple[dt.datetime, dict[Key, Status]]]:
    looks: dict[dt.datetime, dict[Key, Status]] = {}
    for key, points in report.series.items():
        for point in points:
            looks.setdefault(point.at, {})[key] = point.status
    return sorted(looks.items())


def _followed(looks: Sequence[tuple[dt.datetime, Mapping[Key, Status]]], patience: Patience) -> dict[Key, Alarm]:
    alarms: dict[Key, Alarm] = {}
    for at, seen in looks:
        for alarm in alarms.values():
            alarm.turned = False
        blind = {check for (check, subject), status in seen.items() if status is Status.UNKNOWN and not subject}
        for key in _looked_at(alarms, seen, blind):
            status = seen.get(key, Status.OK)
            alarms.setdefault(key, Alarm()).look(at, bad=status.fails_run, patience=patience)
    return alarms


def _looked_at(alarms: Mapping[Key, Alarm], seen: Mapping[Key, Status], blind: set[str]) -> Iterable[Key]:
    """Return what a look says something about.

    A check that could not be measured says so once, without a subject, and nothing about its subjects; a subject that
    a measured check no longer has, is gone with its trouble.
    """
    checks = {check for check, _ in seen}
    gone = [key for key in alarms if key not in seen and key[0] in checks and key[0] not in blind]
    return [*seen, *gone]


def _silent(key: Key, report: Report) -> Result:
    """Return a result for what this look does not report any more: gone, or not to be seen."""
    check, subject = key
    like = next((result for result in report.results if result.check == check), None)
    told = "measured again" if not subject else "not reported any more"
    if like is None or like.status is Status.UNKNOWN:
        told = "not looked at this time"
    title = like.title if like else check
    return Result(check=check, subject=subject, status=Status.OK, summary=told, title=title)
