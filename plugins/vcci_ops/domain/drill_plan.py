"""In which pieces a dump is restored, and which of them at the same time."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from vcci_ops.domain.dump_archive import DATA, POST_DATA, Block, Entry, Head

SMALL: Final = 8 << 20
"""Bytes of dump below which a table is not worth a process of its own."""
_TABLES = ("TABLE DATA",)
_BUILT, _ATTACHED, _REFERRING = ("INDEX", "CONSTRAINT"), ("INDEX ATTACH",), ("FK CONSTRAINT",)
_LEFT_OUT = ("PUBLICATION", "PUBLICATION TABLE", "PUBLICATION TABLES IN SCHEMA", "SUBSCRIPTION", "EVENT TRIGGER")
"""A copy must neither publish nor subscribe; event triggers are a superuser's."""


@dataclasses.dataclass(frozen=True)
class Unit:
    """What one pg_restore does.

    :param blocks: the parts of the dump that it reads, besides the head.
    :param exclusive: tables that it locks against everybody; ``shared``: against writers only.
    """

    label: str
    entries: tuple[int, ...]
    blocks: tuple[Block, ...] = ()
    exclusive: frozenset[int] = frozenset()
    shared: frozenset[int] = frozenset()
    weight: int = 0
    """The more, the earlier: bytes of dump."""

    def conflicts(self, other: Unit) -> bool:
        """Whether the two would wait for each other, or lock each other up."""
        held = other.exclusive | other.shared
        return bool(self.exclusive & held or self.shared & other.exclusive)

    @property
    def bytes(self) -> int:
        """Return how much of the dump it reads."""
        return sum(block.size for block in self.blocks)


def left_out(head: Head) -> dict[int, str]:
    """Return the entries that a drill does not restore: id → what it is.

    Comments on extensions can be set by their owner only, who is a superuser.
    """
    return {
        e.id: f"{e.kind} {e.label}"
        for e in head.entries
        if e.kind in _LEFT_OUT or (e.kind == "COMMENT" and e.name.startswith("EXTENSION "))
    }


def schema_entries(head: Head) -> tuple[int, ...]:
    """Return all that may be restored; pg_restore takes from it what belongs to the section it is told."""
    skipped = left_out(head)
    return tuple(entry.id for entry in head.entries if entry.id not in skipped)


def data_units(head: Head, blocks: Mapping[int, Block], small: int = SMALL) -> list[Unit]:
    """Return the pieces of the data, largest first; small tables share a piece."""
    tables = [entry for entry in head.entries if entry.kind in _TABLES]
    # In the order of the dump: pg_restore reads it from a pipe and cannot go back.
    tables.sort(key=lambda entry: blocks[entry.id].start)
    units, waiting = [], list[Entry]()
    for entry in tables:
        if blocks[entry.id].size >= small:
            units.append(_data_unit([entry], blocks))
            continue
        waiting.append(entry)
        if sum(blocks[e.id].size for e in waiting) >= small:
            units.append(_data_unit(waiting, blocks))
            waiting = []
    others = [e for e in head.entries if e.section == DATA and e.kind not in _TABLES]
    if waiting or others:
        units.append(_data_unit(waiting, blocks, others))
    return sorted(units, key=lambda unit: -unit.weight)


def _data_unit(tables: Sequence[Entry], blocks: Mapping[int, Block], others: Sequence[Entry] = ()) -> Unit:
    found = [blocks[e.id] for e in (*tables, *others) if e.id in blocks]
    names = [e.label for e in tables] or [others[0].kind.lower()]
    label = names[0] if len(names) == 1 else f"{len(names)} small tables"
    ordered = tuple(sorted(found))
    return Unit(label, tuple(e.id for e in (*tables, *others)), ordered, weight=sum(b.size for b in found))


def index_units(head: Head, blocks: Mapping[int, Block], small: int = SMALL) -> list[Unit]:
    """Return the indexes, primary keys and unique constraints, those of the largest tables first."""
    return _units(head, blocks, _BUILT, "indexes of small tables", small)


def reference_units(head: Head, blocks: Mapping[int, Block], small: int = SMALL) -> list[Unit]:
    """Return the foreign keys."""
    return _units(head, blocks, _REFERRING, "foreign keys of small tables", small)


def attach_unit(head: Head) -> Unit | None:
    """Return what ties the indexes of partitions together; None when there is nothing."""
    found = tuple(e.id for e in head.entries if e.kind in _ATTACHED)
    return Unit("indexes of partitioned tables", found) if found else None


def last_unit(head: Head) -> Unit:
    """Return everything that comes after the data and is neither index nor key: triggers, rules, comments, ..."""
    done = {e.id for e in head.entries if e.kind in (*_BUILT, *_ATTACHED, *_REFERRING)}
    return Unit("triggers, rules and what is left", tuple(id_ for id_ in schema_entries(head) if id_ not in done))


def _units(head: Head, blocks: Mapping[int, Block], kinds: Sequence[str], together: str, small: int) -> list[Unit]:
    sizes, tables = _sizes(head, blocks), {e.id for e in head.entries if e.kind == "TABLE"}
    units, shared = [], list[tuple[int, frozenset[int]]]()
    for entry in head.entries:
        if entry.kind not in kinds or entry.section != POST_DATA:
            continue
        locked = frozenset(entry.needs) & tables
        weight = max((sizes.get(table, 0) for table in locked), default=0)
        if weight < small:
            shared.append((entry.id, locked))
        elif entry.kind == "INDEX":
            units.append(Unit(entry.label, (entry.id,), shared=locked, weight=weight))
        else:
            units.append(Unit(entry.label, (entry.id,), exclusive=locked, weight=weight))
    if shared:
        ids, locks = zip(*shared, strict=True)
        units.append(Unit(together, ids, exclusive=frozenset().union(*locks), weight=1))
    return sorted(units, key=lambda unit: (-unit.weight, not unit.exclusive))


def _sizes(head: Head, blocks: Mapping[int, Block]) -> dict[int, int]:
    """Return the bytes of dump of each table, by the id of the table."""
    ids = {(e.schema, e.name): e.id for e in head.entries if e.kind == "TABLE"}
    data = (e for e in head.entries if e.kind in _TABLES)
    return {ids[e.schema, e.name]: blocks[e.id].size for e in data if (e.schema, e.name) in ids and e.id in blocks}


def next_unit(waiting: Sequence[Unit], running: Iterable[Unit]) -> Unit | None:
    """Return the first unit that can be begun beside what runs; None when all have to wait."""
    busy = list(running)
    return next((unit for unit in waiting if not any(unit.conflicts(other) for other in busy)), None)
