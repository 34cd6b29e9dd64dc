"""The custom format of pg_dump, as far as it takes to restore one in pieces: its contents, and where data lies.

A dump that was streamed has no offsets in its table of contents, so ``pg_restore --jobs`` cannot jump to a table in it.
One pass over it finds where each table's block begins and ends. With that, the head of the archive followed by some of
its blocks is an archive, too, and pg_restore reads it from a pipe. The layout is that of ``pg_backup_archiver.c`` and
``pg_backup_custom.c``, stable since PostgreSQL 7.4:
https://github.com/postgres/postgres/blob/master/src/bin/pg_dump/pg_backup_custom.c
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from vcci_ops.exceptions import UnexpectedAnswer

MAGIC = b"PGDMP"
SYSTEM = "The dump"
PRE_DATA, DATA, POST_DATA = 2, 3, 4
"""Sections of the table of contents; 1 is none: it goes with the entry before."""
_FIRST, _LAST = (1, 12), (1, 16)
"""Versions of the format: PostgreSQL 9.0 to 18."""
_CUSTOM = 1
_BLOCK_DATA, _BLOCK_BLOBS = 1, 3
_LONGEST_TEXT = 1 << 30


class Entry(NamedTuple):
    """A line of the table of contents."""

    id: int
    kind: str
    """TABLE DATA, INDEX, FK CONSTRAINT and so on."""
    schema: str
    name: str
    owner: str
    section: int
    needs: tuple[int, ...]
    """Ids of the entries that must be there before."""

    @property
    def label(self) -> str:
        """``schema.name``, or ``name`` in the schema public."""
        return self.name if self.schema in ("", "public") else f"{self.schema}.{self.name}"


class Block(NamedTuple):
    """Where an entry's data is: the first byte, and the one behind the last."""

    start: int
    end: int

    @property
    def size(self) -> int:
        """Return its length in bytes."""
        return self.end - self.start


@dataclasses.dataclass(frozen=True)
class Head:
    """What an archive begins with."""

    size: int
    """Bytes of it: the first block begins there."""
    number: int
    """Bytes of an integer in this archive."""
    database: str
    server_version: str
    dump_version: str
    entries: tuple[Entry, ...]

    @property
    def by_id(self) -> Mapping[int, Entry]:
        """Return the entries by their ids."""
        return {entry.id: entry for entry in self.entries}

    @property
    def major(self) -> int:
        """Return the major version of the server that was dumped."""
        return int(self.server_version.split(".")[0].split()[0])


class TooShort(Exception):
    """More bytes are needed to read the head."""


def read_head(data: bytes) -> Head:
    """Read header and table of contents.

    :param data: the beginning of an archive.
    :raises TooShort: when the head goes on behind it.
    :raises UnexpectedAnswer: when this is no archive that can be read.
    """
    reader = _Reader(data)
    version = _preamble(reader)
    if version < (1, 15):
        reader.int()  # level of compression
    else:
        reader.byte()  # its algorithm
    for _ in range(7):  # when it was made
        reader.int()
    database, server, dump = reader.text() or "", reader.text() or "", reader.text() or ""
    count = reader.int()
    if not 0 <= count < 10_000_000:
        raise UnexpectedAnswer(SYSTEM, f"its table of contents says that it has {count} entries")
    entries = tuple(_entry(reader, version) for _ in range(count))
    return Head(reader.at, reader.number, database, server, dump, entries)


def _preamble(reader: _Reader) -> tuple[int, int]:
    magic = reader.raw(len(MAGIC))
    if magic != MAGIC:
        raise UnexpectedAnswer(SYSTEM, "it does not begin as a pg_dump archive does (PGDMP)")
    version = reader.byte(), reader.byte()
    reader.byte()  # revision: says nothing about the layout
    if not _FIRST <= version <= _LAST:
        raise UnexpectedAnswer(SYSTEM, f"its format is {version[0]}.{version[1]}; 1.12 to 1.16 can be read")
    reader.number, reader.offset = reader.byte(), reader.byte()
    if reader.byte() != _CUSTOM:
        raise UnexpectedAnswer(SYSTEM, "it is not in custom format (pg_dump --format=custom)")
    return version


def _entry(reader: _Reader, version: tuple[int, int]) -> Entry:
    id_ = reader.int()
    reader.int()  # whether it had a dumper
    reader.text(), reader.text()  # object ids
    name, kind, section = reader.text() or "", reader.text() or "", reader.int()
    for _ in range(3):  # definition, DROP, COPY
        reader.text()
    schema = reader.text() or ""
    reader.text()  # tablespace
    if version >= (1, 14):
        reader.text()  # access method
    if version >= (1, 16):
        reader.int()  # kind of relation
    owner = reader.text() or ""
    reader.text()  # WITH OIDS
    needs = []
    while (need := reader.text()) is not None:
        needs.append(int(need))
    reader.raw(1 + reader.offset)  # where its data would be, if pg_dump could have gone back to write it
    return Entry(id_, kind, schema, name, owner, section, tuple(needs))


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0
        self.number, self.offset = 4, 8

    def raw(self, length: int) -> bytes:
        end = self.at + length
        if end > len(self.data):
            raise TooShort
        found = self.data[self.at : end]
        self.at = end
        return found

    def byte(self) -> int:
        return self.raw(1)[0]

    def int(self) -> int:
        sign, value = self.byte(), int.from_bytes(self.raw(self.number), "little")
        return -value if sign else value

    def text(self) -> str | None:
        length = self.int()
        if length < 0:
            return None
        if length > _LONGEST_TEXT:
            raise UnexpectedAnswer(SYSTEM, "its table of contents is damaged")
        return self.raw(length).decode("utf-8", "replace")


class BlockScanner:
    """Finds the blocks of an archive while it goes by; keeps none of it.

    :param head: of the archive.
    """

    def __init__(self, head: Head) -> None:
        self.blocks: dict[int, Block] = {}
        self._known = {entry.id for entry in head.entries}
        self._step = 1 + head.number
        self._base = head.size
        """Position in the archive of the first byte of ``_rest``."""
        self._rest = b""
        self._skip = 0
        self._id = 0
        self._start = 0
        self._within = 0
        """0: outside of a block; 1: in a table's data; 2: between large objects; 3: in one."""

    def feed(self, chunk: bytes) -> None:
        """Take in what comes next.

        :raises UnexpectedAnswer: when a block begins as none does: the dump is damaged.
        """
        if self._skip >= len(chunk):
            self._skip -= len(chunk)
            self._base += len(chunk)
            return
        data = self._rest + chunk if self._rest else chunk
        at = self._scan(data, self._skip)
        length = len(data)
        self._skip, self._rest = (at - length, b"") if at >= length else (0, data[at:])
        self._base += length - len(self._rest)

    def finish(self) -> dict[int, Block]:
        """Return the blocks, when the archive ended where a block may end.

        :raises UnexpectedAnswer: when it ended in the middle of one.
        """
        if self._within or self._rest or self._skip:
            raise UnexpectedAnswer(SYSTEM, f"it breaks off in the data of entry {self._id}")
        return self.blocks

    def _scan(self, data: bytes, at: int) -> int:
        """Go on from a position in ``data``; return the position up to which all is understood.

        The loop over the pieces of a block is written out, for it runs once every 4 kB of dump.
        """
        length, step = len(data), self._step
        while True:
            if self._within == 0:
                if at + 1 + step > length:
                    return at
                self._begin(data, at)
                at += 1 + step
            while self._within:
                if at + step > length:
                    return at
                size = int.from_bytes(data[at + 1 : at + step], "little")
                at += step
                if self._within == 2:
                    self._within = 3 if size else self._end(at)
                elif size:
                    at += size
                else:
                    self._within = 2 if self._within == 3 else self._end(at)

    def _begin(self, data: bytes, at: int) -> None:
        kind, number = data[at], int.from_bytes(data[at + 2 : at + 1 + self._step], "little")
        where = self._base + at
        if kind not in (_BLOCK_DATA, _BLOCK_BLOBS) or number not in self._known:
            raise UnexpectedAnswer(SYSTEM, f"it is damaged before byte {where:,}: no block begins there")
        self._id, self._start = number, where
        self._within = 1 if kind == _BLOCK_DATA else 2

    def _end(self, at: int) -> int:
        self.blocks[self._id] = Block(self._start, self._base + at)
        return 0


def whole(head: Head, blocks: Mapping[int, Block]) -> Iterator[str]:
    """Yield what is missing: tables whose data the table of contents names and no block has."""
    for entry in head.entries:
        if entry.kind in ("TABLE DATA", "BLOBS") and entry.id not in blocks:
            yield f"the dump names the data of {entry.label} and does not hold it"
