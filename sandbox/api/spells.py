"""Spells: times in which something of the API's traffic was other than usual, from one moment to another.

Unlike a fault of :class:`sandbox.api.traffic.Story`, a spell rewrites no past: its errors begin when it does, and
what was counted stays counted when it is over. So the counters never fall, and past spells are kept for good.
They are in ``<sandbox>/api/spells.json``; faults and the played cluster write them.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

Kind = Literal["errors", "late", "silence"]


@dataclasses.dataclass(frozen=True)
class Spell:
    """One of them.

    :param kind: ``errors``: a share of requests fails; ``late``: a share is answered late; ``silence``: none come.
    :param source: what made it: a fault's name, or ``cluster``.
    :param share: how many of the requests, 0 to 1.
    :param since: seconds since the epoch.
    :param until: the same; None: it goes on.
    """

    kind: Kind
    source: str
    share: float
    since: float
    until: float | None = None

    def end(self, at: float) -> float:
        """Return until when it counts, seen from a moment."""
        return min(at, self.until) if self.until is not None else at


def file_of(folder: Path) -> Path:
    """Return where the spells of a sandbox are."""
    return folder / "api" / "spells.json"


def read(folder: Path) -> tuple[Spell, ...]:
    """Return all spells, past and present."""
    try:
        return tuple(Spell(**entry) for entry in json.loads(file_of(folder).read_text()))
    except FileNotFoundError:
        return ()


def begin(folder: Path, kind: Kind, source: str, share: float = 1.0) -> None:
    """Let a spell begin now; one of the same kind and source ends, if its share is another."""
    with _changing(folder) as spells:
        going = [s for s in spells if (s["kind"], s["source"], s["until"]) == (kind, source, None)]
        if [s["share"] for s in going] == [share]:
            return
        for spell in going:
            spell["until"] = time.time()
        spells.append(dataclasses.asdict(Spell(kind, source, share, time.time())))


def end(folder: Path, source: str, *, keep: Collection[str] = ()) -> None:
    """End the spells of a source now, except those of the kinds to keep."""
    with _changing(folder) as spells:
        for spell in spells:
            if spell["source"] == source and spell["until"] is None and spell["kind"] not in keep:
                spell["until"] = time.time()


def end_all(folder: Path, *, but: Collection[str] = ()) -> None:
    """End the spells of all sources but some."""
    for source in {spell.source for spell in read(folder) if spell.until is None} - set(but):
        end(folder, source)


@contextmanager
def _changing(folder: Path) -> Iterator[list[dict[str, Any]]]:
    file = file_of(folder)
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        spells = [dataclasses.asdict(spell) for spell in read(folder)]
        before = json.dumps(spells)
        yield spells
        if json.dumps(spells) != before:
            fresh = file.with_suffix(".new")
            fresh.write_text(json.dumps(spells, indent=1))
            fresh.replace(file)


class Watched:
    """A JSON file of another process, read again only when it has changed."""

    def __init__(self, file: Path) -> None:
        self._file, self._seen, self._value = file, (-1, -1), None

    def get(self) -> Any:
        """Return its content, None when it is not there."""
        try:
            found = self._file.stat()
            seen = (found.st_mtime_ns, found.st_ino)
        except FileNotFoundError:
            seen = (0, 0)
        if seen != self._seen:
            self._value = json.loads(self._file.read_text()) if seen[1] else None
            self._seen = seen
        return self._value
