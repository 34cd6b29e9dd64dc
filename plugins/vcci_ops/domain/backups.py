"""Which backup is the newest, and whether it can be trusted."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import re
import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from vcci_ops.domain.checks import judged, stated, verdict
from vcci_ops.domain.results import Result, Status, worst
from vcci_ops.domain.units import duration, humanize
from vcci_ops.exceptions import NoData
from vcci_ops.settings import Check

MAGIC = b"PGDMP"
"""What a pg_dump archive in custom format begins with."""
MAX_LISTS = 5
CLOCK_SKEW = dt.timedelta(minutes=5)
_DAY = dt.timedelta(days=1)
_LONG_AGO = dt.timedelta(days=1000)


class Stored(NamedTuple):
    """An object in the bucket."""

    key: str
    size: int
    modified: dt.datetime


class Page(NamedTuple):
    """Objects in the order of their names."""

    objects: tuple[Stored, ...]
    truncated: bool
    """Whether more follow."""


class Backup(NamedTuple):
    """A dump, and when its name says it was taken."""

    key: str
    size: int
    modified: dt.datetime
    taken_at: dt.datetime


class Found(NamedTuple):
    """The newest backups, oldest first, and how many requests it took to find them."""

    backups: tuple[Backup, ...]
    requests: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Names:
    """How backups are called: ``prefix`` + strftime(``key_format``), in UTC, sorting like time."""

    prefix: str
    key_format: str

    def key(self, moment: dt.datetime) -> str:
        """Return the key of a backup taken then."""
        return self.prefix + moment.strftime(self.key_format)

    def taken_at(self, key: str) -> dt.datetime | None:
        """Return when a backup was taken, by its name; None for an object of another kind."""
        name = key.removeprefix(self.prefix)
        try:
            moment = dt.datetime.strptime(name, self.key_format).replace(tzinfo=dt.UTC)
        except ValueError:
            return None
        return moment if self.key(moment) == key else None

    @property
    def common(self) -> str:
        """What all keys begin with."""
        return self.prefix + self.key_format.partition("%")[0]

    def read(self, objects: Sequence[Stored]) -> list[Backup]:
        """Return the backups among the objects."""
        dated = ((o, self.taken_at(o.key)) for o in objects)
        return [Backup(*o, taken) for o, taken in dated if taken]


class Search:
    """Finds the newest backups among any number of objects with few list requests.

    S3 lists by name, oldest first, a thousand at a time. So the search asks for what comes after a
    moment shortly before now. When nothing does, it looks ten times further back; when too much does,
    it closes in on the end, guessing from how dense the page was.

    :param list_after: lists the page that follows a key.
    :param now: aware, UTC.
    :param wanted: how many backups to find, if there are so many in the window.
    """

    def __init__(self, list_after: Callable[[str], Page], names: Names, now: dt.datetime, wanted: int) -> None:
        self._list_after = list_after
        self._names = names
        self._now = now
        self._wanted = wanted
        self._window = _DAY * (wanted + 1)
        self._empty_after: dt.datetime | None = None
        self._listed_to = ""
        self._span = dt.timedelta(0)
        self._known: dict[str, Backup] = {}

    def run(self) -> Found:
        """Return the newest backups.

        :raises NoData: when five requests do not reach the end; says between which moments it lies.
        """
        start = self._names.key(self._now - self._window)
        for request in range(1, MAX_LISTS + 1):
            following = self._next(start, self._list_after(start))
            if following is None:
                newest = sorted(self._known.values(), key=lambda b: b.taken_at)[-self._wanted :]
                return Found(tuple(newest), request)
            start = following
        raise NoData(f"{MAX_LISTS} list requests did not reach the newest of very many objects; {self._bounds()}")

    def _next(self, start: str, page: Page) -> str | None:
        """Take in a page; return what to list after next, None when the end is reached."""
        backups = self._names.read(page.objects)
        self._known.update({b.key: b for b in backups})
        if page.truncated:
            return self._closer(page, backups)
        if len(backups) > 1 or (self._known and start == self._listed_to):
            return None
        if not self._listed_to:
            return self._further_back(start)
        if backups:
            return None
        self._empty_after = self._names.taken_at(start)
        return self._between()

    def _further_back(self, start: str) -> str | None:
        if start == self._names.common:
            return None
        self._empty_after = None if self._known else self._names.taken_at(start)
        self._window *= 10
        return self._names.common if self._window > _LONG_AGO else self._names.key(self._now - self._window)

    def _closer(self, page: Page, backups: Sequence[Backup]) -> str:
        first = not self._listed_to
        self._listed_to = max(self._listed_to, page.objects[-1].key)
        if not backups:
            return self._listed_to
        self._span = backups[-1].taken_at - backups[0].taken_at
        # Half a page before now: if backups come as regularly as on this page, that lists the last ones.
        guess = self._now - self._span / 2
        if first and self._empty_after is None and guess > backups[-1].taken_at:
            return self._names.key(guess)
        return self._between()

    def _between(self) -> str:
        """Return the middle between the last backup known and the first moment without any."""
        if not self._known:
            return self._listed_to
        last, until = self._limits()
        if until - last <= self._span:
            return self._listed_to
        return max(self._listed_to, self._names.key(last + (until - last) / 2))

    def _limits(self) -> tuple[dt.datetime, dt.datetime]:
        return max(b.taken_at for b in self._known.values()), self._empty_after or self._now

    def _bounds(self) -> str:
        if not self._known:
            return "none of the listed is a backup"
        last, until = self._limits()
        return f"it was taken between {last:%Y-%m-%d %H:%M} and {until:%Y-%m-%d %H:%M} UTC"


def none_found(check: Check, where: str) -> Result:
    """Say that there is no backup at all."""
    return stated(check, Status.CRITICAL, f"There is no backup under {where}")


def age(check: Check, newest: Backup, now: dt.datetime, manifest: Manifest, query: str = "") -> Result:
    """Judge the age of what the newest backup holds, in seconds.

    Its name says when it was taken. A manifest that says earlier is believed: an old dump under a new
    name. A moment in the future is a warning, for it hides that later backups are missing.
    """
    taken = min(newest.taken_at, manifest.taken_at or newest.taken_at)
    seconds = (now - taken).total_seconds()
    name = newest.key.rpartition("/")[2]
    more: dict[str, Any] = {
        "value": seconds,
        "unit": "s",
        "display": duration(seconds),
        "details": (f"taken {taken:%Y-%m-%d %H:%M:%S} UTC, stored {newest.modified:%Y-%m-%d %H:%M:%S} UTC",),
        "query": query,
    }
    if newest.taken_at > now + CLOCK_SKEW:
        return stated(check, Status.WARNING, f"{name} is dated {duration(-seconds)} in the future", **more)
    summary = f"{name}, {duration(max(seconds, 0.0))} old, {humanize(newest.size, 'bytes')}"
    status = verdict(check.threshold, seconds) if check.threshold else Status.OK
    if newest.taken_at - taken > CLOCK_SKEW:
        summary += f"; its manifest says that it was taken {taken:%Y-%m-%d %H:%M} UTC: an old dump under a new name"
        status = worst([Status.WARNING, status])
    return stated(check, status, summary, **more)


def size(check: Check, backups: Sequence[Backup], compare: int, query: str = "") -> Result:
    """Judge the newest size in percent of the median of up to ``compare`` earlier ones."""
    newest, earlier = backups[-1], [b.size for b in backups[:-1]][-compare:]
    if not earlier:
        summary = f"{humanize(newest.size, 'bytes')}; no earlier backup to compare with"
        return stated(check, Status.OK, summary, display=humanize(newest.size, "bytes"), query=query)
    usual = statistics.median(earlier)
    if usual <= 0:
        return stated(check, Status.WARNING, "The earlier backups are empty", query=query)
    percent = 100.0 * newest.size / usual
    summary = (
        f"{humanize(newest.size, 'bytes')}, {percent:.0f} % of the median {humanize(usual, 'bytes')} "
        f"of the {len(earlier)} before"
    )
    display = f"{humanize(newest.size, 'bytes')} ({percent:.0f} % of usual)"
    details = tuple(f"{b.taken_at:%Y-%m-%d %H:%M} {b.size:,} bytes" for b in reversed(backups))
    return judged(check, percent, summary, display=display, details=details, query=query)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """What is written beside a backup; ``problem`` says why it cannot be used."""

    size: int | None = None
    sha256: str = ""
    taken_at: dt.datetime | None = None
    tables: int = 0
    problem: str = ""


def read_manifest(content: bytes | None) -> Manifest:
    """Read a manifest; None stands for there is none.

    It is a JSON object with ``size`` (bytes), ``sha256`` (hex) and ``taken_at`` (ISO 8601).
    """
    if content is None:
        return Manifest(problem="it has no manifest")
    try:
        data: dict[str, Any] = json.loads(content)
        taken = dt.datetime.fromisoformat(data["taken_at"])
        return Manifest(
            size=int(data["size"]),
            sha256=str(data.get("sha256", "")),
            taken_at=taken if taken.tzinfo else taken.replace(tzinfo=dt.UTC),
            tables=len(data.get("tables") or ()),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return Manifest(problem=f"its manifest cannot be read ({type(error).__name__})")


def integrity(check: Check, newest: Backup, manifest: Manifest, begins: bytes, query: str = "") -> Result:
    """Say whether the newest backup is what its manifest says, as far as can be told without reading it all."""
    problems = [manifest.problem] if manifest.problem else _differences(newest, manifest)
    if not begins.startswith(MAGIC):
        problems.append("it does not begin as a pg_dump archive does (PGDMP)")
    name = newest.key.rpartition("/")[2]
    if problems:
        return stated(check, Status.CRITICAL, f"{name}: {'; '.join(problems)}", details=tuple(problems), query=query)
    summary = f"{name}: {newest.size:,} bytes as its manifest says, begins as a dump, sha256 noted"
    details = (f"sha256 {manifest.sha256}", f"{manifest.tables} tables counted in the manifest")
    return stated(check, Status.OK, summary, display="intact", details=details, query=query)


def _differences(newest: Backup, manifest: Manifest) -> list[str]:
    found = []
    if newest.size != manifest.size:
        share = f" ({100 * newest.size / manifest.size:.0f} %)" if manifest.size else ""
        found.append(f"it has {newest.size:,} bytes{share} of the {manifest.size:,} its manifest says")
    if not re.fullmatch(r"[0-9a-fA-F]{64}", manifest.sha256):
        found.append("its manifest has no sha256")
    return found
