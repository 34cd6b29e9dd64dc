"""Which backups may be deleted, which not, and why."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Callable, Iterable, Mapping, Sequence

from vcci_ops.domain.backups import CLOCK_SKEW, Backup
from vcci_ops.domain.units import duration
from vcci_ops.exceptions import Refused
from vcci_ops.settings_backup import Retention

LEFT_OVER_AFTER = dt.timedelta(days=2)
"""What an unfinished run left is deleted when it is older: until then somebody may clear that run."""
_PERIODS: tuple[tuple[str, Callable[[dt.datetime], tuple[int, ...]]], ...] = (
    ("daily", lambda at: (at.year, at.month, at.day)),
    ("weekly", lambda at: at.isocalendar()[:2]),
    ("monthly", lambda at: (at.year, at.month)),
)


@dataclasses.dataclass(frozen=True)
class Known:
    """A dump in the bucket, and what is known of it.

    :param unverified: why it does not count as a backup; empty: it was read back, or it has its manifest's size.
    :param ours: whether the history says that vcci-ops began it.
    :param restored: whether a drill has restored it and found it good.
    """

    backup: Backup
    unverified: str = ""
    ours: bool = False
    restored: bool = False


@dataclasses.dataclass(frozen=True)
class Fate:
    """What becomes of a dump, and why.

    :param replaced_by: key of the newer, verified backup that makes it superfluous; only what is deleted has one.
    """

    key: str
    size: int
    delete: bool
    why: str
    replaced_by: str = ""

    def __str__(self) -> str:
        return f"{'delete' if self.delete else 'keep'} {self.key}: {self.why}"


def plan(known: Iterable[Known], rules: Retention, now: dt.datetime) -> tuple[Fate, ...]:
    """Decide on every dump, newest first.

    Nothing is deleted but what a newer verified backup replaces; never the newest verified one, nor the newest that a
    drill has restored, nor what is on hold, nor what nobody can tell the nature of.

    :param known: dumps whose names are those of backups; others must not be among them.
    """
    newest_first = sorted(known, key=lambda one: one.backup.taken_at, reverse=True)
    # A date in the future is a mistake: such a dump replaces nothing, and is left to people.
    past = [one for one in newest_first if one.backup.taken_at <= now + CLOCK_SKEW]
    verified = [one for one in past if not one.unverified]
    kept = _kept(verified, rules, now)
    return tuple(_fate(one, verified, kept, rules, now) for one in newest_first)


def _kept(verified: Sequence[Known], rules: Retention, now: dt.datetime) -> dict[str, str]:
    """Return why verified backups are kept, by key; of each period the newest."""
    why: dict[str, str] = {}
    if verified:
        why[verified[0].backup.key] = "the newest verified backup"
    if proven := next((one for one in verified if one.restored), None):
        why.setdefault(proven.backup.key, "the newest backup that a drill has restored")
    for name, period in _PERIODS:
        newest: dict[tuple[int, ...], str] = {}
        for one in verified:
            newest.setdefault(period(one.backup.taken_at), one.backup.key)
        for number, key in enumerate(list(newest.values())[: getattr(rules, name)], 1):
            why.setdefault(key, f"{name} backup {number} of {getattr(rules, name)}")
    young = dt.timedelta(seconds=rules.younger_than)
    for one in (one for one in verified if now - one.backup.taken_at < young):
        why.setdefault(one.backup.key, f"younger than {duration(rules.younger_than)}")
    return why


def _fate(one: Known, verified: Sequence[Known], kept: Mapping[str, str], rules: Retention, now: dt.datetime) -> Fate:
    key, size, taken = one.backup.key, one.backup.size, one.backup.taken_at
    newer = [other.backup for other in verified if other.backup.taken_at > taken and other.backup.key in kept]
    if key in rules.hold:
        return Fate(key, size, False, "on hold, by the settings")
    if taken > now + CLOCK_SKEW:
        return Fate(key, size, False, "its name is dated in the future: look at it")
    if one.unverified and not (one.ours and newer and now - taken > LEFT_OVER_AFTER):
        return Fate(key, size, False, f"not verified, {one.unverified}: nothing says what it is")
    if key in kept:
        return Fate(key, size, False, kept[key])
    replacing = newer[-1].key
    if one.unverified:
        return Fate(key, size, True, f"left by a run that did not finish, {one.unverified}", replacing)
    beyond = f"beyond {rules.daily} daily, {rules.weekly} weekly, {rules.monthly} monthly ones; replaced by {replacing}"
    return Fate(key, size, True, beyond, replacing)


def require_sane(fates: Sequence[Fate], known: Iterable[Known], rules: Retention) -> None:
    """Look at a plan once more, by other means than made it, before anything is deleted.

    :raises Refused: when it would delete the newest verified backup, what is on hold, or what nothing replaces.
    """
    by_key = {one.backup.key: one for one in known}
    staying = [by_key[fate.key] for fate in fates if not fate.delete]
    good = [one.backup.taken_at for one in staying if not one.unverified]
    for fate in (fate for fate in fates if fate.delete):
        one = by_key[fate.key]
        if fate.key in rules.hold or not good or max(good) <= one.backup.taken_at:
            raise Refused(f"the plan would delete {fate.key}, which nothing replaces; nothing was deleted")


def missing_holds(known: Iterable[Known], rules: Retention) -> list[str]:
    """Return the keys on hold that are not there: misspelt, or gone."""
    there = {one.backup.key for one in known}
    return [key for key in rules.hold if key not in there]
