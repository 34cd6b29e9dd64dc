"""Which backup a drill restores, and why not another one."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import json
import random
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vcci_ops.domain.backups import MAGIC, Backup, Names
from vcci_ops.domain.drill import DATE, KEY, LATEST, RANDOM, Assertion, Request
from vcci_ops.domain.results import Status
from vcci_ops.domain.units import humanize
from vcci_ops.exceptions import NoData

_CLOSE = dt.timedelta(minutes=10)
"""The name of a backup, and what its manifest says of its time, may be this far apart."""


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What is written beside a backup, as far as it can be read.

    :param problem: why it cannot be used; empty: it can.
    """

    version: int = 0
    sha256: str = ""
    """Of the dump."""
    size: int = 0
    taken_at: dt.datetime | None = None
    digest: str = ""
    """SHA-256 of the manifest itself."""
    data: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    problem: str = ""
    missing: bool = False


def read(content: bytes | None) -> Manifest:
    """Read a manifest of either version; None stands for there is none."""
    if content is None:
        return Manifest(problem="it has no manifest", missing=True)
    try:
        data: dict[str, Any] = json.loads(content)
        taken = dt.datetime.fromisoformat(data["taken_at"])
        sha256, version = str(data["sha256"]), int(data["schema_version"])
        if not re.fullmatch(r"[0-9a-f]{64}", sha256) or not isinstance(data["tables"], dict):
            raise ValueError
        return Manifest(
            version=version,
            sha256=sha256,
            size=int(data["size"]),
            taken_at=taken if taken.tzinfo else taken.replace(tzinfo=dt.UTC),
            digest=hashlib.sha256(content).hexdigest(),
            data=data,
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return Manifest(problem=f"its manifest cannot be read ({type(error).__name__})")


@dataclasses.dataclass(frozen=True)
class Recorded:
    """What the history knows of a backup.

    :param state: as the table ``backup`` has it.
    :param sha256: of the dump; None: not recorded.
    :param manifest_sha256: of its manifest; None: not recorded.
    """

    state: str = ""
    sha256: str | None = None
    manifest_sha256: str | None = None


@dataclasses.dataclass(frozen=True)
class Looked:
    """A backup that was looked at."""

    backup: Backup
    manifest: Manifest
    begins: bytes
    recorded: Recorded | None


@dataclasses.dataclass(frozen=True)
class Skipped:
    """A backup that was not chosen."""

    key: str
    why: str
    bad: bool = True
    """Whether something is wrong with it; else only another one fits better."""


def candidates(found: Sequence[Backup], request: Request, now: dt.datetime, names: Names) -> list[Backup]:
    """Return the backups that may be chosen, in the order in which they are looked at.

    :param found: oldest first.
    :raises NoData: when there is none such; says which there are.
    """
    newest_first = sorted(found, key=lambda b: b.taken_at, reverse=True)
    if request.which == KEY:
        chosen = [b for b in newest_first if b.key == request.key]
    elif request.which == DATE:
        chosen = [b for b in newest_first if b.taken_at.date() == request.date]
    elif request.which == RANDOM:
        since = now - dt.timedelta(days=request.days)
        chosen = [b for b in newest_first if b.taken_at >= since]
        random.SystemRandom().shuffle(chosen)
    else:
        chosen = newest_first
    if not chosen:
        there = f"from {found[0].taken_at:%Y-%m-%d} to {found[-1].taken_at:%Y-%m-%d}" if found else "none at all"
        raise NoData(f"no backup {_asked(request)} under {names.prefix}; there are {len(found)}: {there}")
    return chosen


def _asked(request: Request) -> str:
    return {
        LATEST: "the latest one",
        DATE: f"of {request.date}",
        RANDOM: f"any of the last {request.days} days",
        KEY: f"the key {request.key}",
    }[request.which]


def unusable(looked: Looked, neighbours: Sequence[Backup], smaller_than: float) -> str:
    """Return why a backup cannot be restored or not be trusted; empty when nothing is against it.

    Its SHA-256 is compared when it is read as a whole; here only what a look at it tells.

    :param neighbours: the backups around it; none: its size is not compared.
    :param smaller_than: percent of their median size.
    """
    if looked.manifest.problem:
        return looked.manifest.problem
    checks = (_forged(looked), _another(looked), _too_small(looked.backup, neighbours, smaller_than))
    return next(filter(None, checks), "")


def under_way(looked: Looked, now: dt.datetime, within: float) -> bool:
    """Whether a backup is being made: it gets its manifest when it was read back.

    :param within: seconds for which one without a manifest is taken for such.
    """
    young = (now - looked.backup.modified).total_seconds() < within
    return young and looked.manifest.missing and (looked.recorded or Recorded()).state in ("", "running")


def fits_less(backup: Backup, deletions: Iterable[dt.datetime]) -> Skipped | None:
    """Return why another backup is the better one to try, though this one could be restored; None: it is as good."""
    since = sum(1 for moment in deletions if moment > backup.taken_at)
    said = f"{since} tenant{'s were' if since != 1 else ' was'} deleted since"
    return Skipped(backup.key, said, bad=False) if since else None


def _forged(looked: Looked) -> str:
    """Hold the manifest against what the history recorded when the backup was made."""
    manifest, recorded = looked.manifest, looked.recorded or Recorded()
    if recorded.manifest_sha256 and recorded.manifest_sha256 != manifest.digest:
        return "its manifest is not the one that was recorded when the backup was made: forged, or overwritten"
    if recorded.sha256 and recorded.sha256 != manifest.sha256:
        return "its manifest names another SHA-256 than was recorded when the backup was made: forged, or overwritten"
    if recorded.state in ("running", "failed", "deleted"):
        return f"the history says that it is {recorded.state}"
    return ""


def _another(looked: Looked) -> str:
    """Hold the object against its manifest."""
    backup, manifest = looked.backup, looked.manifest
    if backup.size != manifest.size:
        share = 100 * backup.size / manifest.size if manifest.size else 0
        return f"it has {backup.size:,} of the {manifest.size:,} bytes of its manifest ({share:.0f} %): truncated"
    if manifest.data.get("key") not in (None, backup.key):
        return f"its manifest is that of another backup, {manifest.data['key']}"
    if manifest.taken_at and abs(manifest.taken_at - backup.taken_at) > _CLOSE:
        return (
            f"its name says {backup.taken_at:%Y-%m-%d %H:%M} and its manifest {manifest.taken_at:%Y-%m-%d %H:%M} UTC: "
            "an old dump under a new name"
        )
    return "" if looked.begins.startswith(MAGIC) else "it does not begin as a pg_dump archive does (PGDMP)"


def _too_small(backup: Backup, neighbours: Sequence[Backup], smaller_than: float) -> str:
    sizes = [other.size for other in neighbours if other.key != backup.key]
    usual = statistics.median(sizes) if sizes else 0
    if usual and 100 * backup.size < smaller_than * usual:
        return (
            f"{humanize(backup.size, 'bytes')} is {100 * backup.size / usual:.0f} % of the median of its {len(sizes)} "
            f"neighbours ({humanize(usual, 'bytes')}): too small"
        )
    return ""


def neighbours_of(backup: Backup, found: Sequence[Backup], most: int) -> list[Backup]:
    """Return the backups that are next to one in time."""
    others = [other for other in found if other.key != backup.key]
    return sorted(others, key=lambda other: abs(other.taken_at - backup.taken_at))[:most]


def chosen_well(request: Request, key: str, skipped: Sequence[Skipped]) -> Assertion:
    """Return what the choice itself says: a newer backup that cannot be used is found out now, and not in need."""
    expected = f"{_asked(request)} can be restored"
    lines = tuple(f"{s.key}: {s.why}" for s in skipped)
    bad = [s for s in skipped if s.bad or not key]
    if key and not bad:
        return Assertion("choice.usable", "Backup", Status.OK, expected, f"{key}", lines=lines)
    found = f"{'; '.join(f'{s.key}: {s.why}' for s in bad[:3])}; restored instead: {key or 'none'}"
    why = "Find out why that backup is as it is, and make a new one: in need it would be the one that is reached for."
    return Assertion("choice.usable", "Backup", Status.CRITICAL, expected, found, why, lines)
