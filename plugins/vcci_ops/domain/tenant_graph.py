"""Where a tenant's rows are, how they are known to be the tenant's, and in which order they can be deleted.

A *place* is a table with rows of tenants. A row is a tenant's when

- it is the tenant's row in the table of tenants;
- its column ``tenant_id`` names the tenant, with or without a foreign key; a row of such a table belongs to
  whom it names, whatever else it refers to;
- or it names nobody (no such column, or NULL) and refers by a foreign key to a row that is the tenant's, at any
  depth. A foreign key that clears itself (ON DELETE SET NULL, SET DEFAULT) does not count: whoever declared it
  says that the row outlives what it refers to. Such rows are *shared*: they stay, and lose the reference.

Made from the catalogue's facts alone; :mod:`vcci_ops.hooks.tenant_graph` reads those, counts and measures.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from vcci_ops.domain.tenant_order import deletion_order, knots
from vcci_ops.exceptions import UnexpectedAnswer

CLEARS = ("set null", "set default")
"""What a foreign key does when a row it refers to goes: the row stays."""
_READS = 10_000_000
"""Rows read for want of an index, from which on a warning is due: some seconds of work."""
_TEXTS = ("text", "varchar", "bpchar", "citext")
_PLAIN = re.compile(r"[a-z_][a-z0-9_]*")


def quoted(*names: str) -> str:
    """Return a name as PostgreSQL would print it: ``public."Ten ant"``; different names are never printed alike."""
    return ".".join(name if _PLAIN.fullmatch(name) else '"' + name.replace('"', '""') + '"' for name in names)


@dataclasses.dataclass(frozen=True)
class Convention:
    """How a platform names its tenants; the settings' ``tenants.erasure`` has the same fields.

    :param belongs_through: foreign keys, as ``schema.table.constraint``, whose rows are the tenant's although the
        key clears itself.
    :param withheld: columns of this name are secrets: neither exported nor readable by the shipped roles.
    """

    schema: str = "public"
    table: str = "tenants"
    key: str = "id"
    column: str = "tenant_id"
    schemas_ignored: tuple[str, ...] = ()
    kept_tables: tuple[str, ...] = ()
    belongs_through: tuple[str, ...] = ()
    withheld: tuple[str, ...] = ("password_hash", "token_hash", "key_hash")

    @property
    def root(self) -> str:
        """The table of tenants, as it is printed."""
        return quoted(self.schema, self.table)


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a table.

    :param type: ``typname`` of its type, that of the base where it is a domain: ``uuid``, ``varchar``.
    """

    name: str
    type: str
    nullable: bool = True
    generated: bool = False


@dataclasses.dataclass(frozen=True)
class Table:
    """A table, or what looks like one.

    :param kind: ``r`` table, ``p`` partitioned (its leaves are not listed), ``v`` view, ``m`` materialized view,
        ``f`` foreign table.
    """

    schema: str
    table: str
    kind: str
    columns: tuple[Column, ...]
    keys: tuple[str, ...] = ()
    triggers: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """As it is printed."""
        return quoted(self.schema, self.table)

    def column(self, name: str) -> Column | None:
        """Return the column of a name, if there is one."""
        return next((column for column in self.columns if column.name == name), None)


@dataclasses.dataclass(frozen=True)
class Link:
    """A foreign key between two places.

    :param child: name of the place whose rows refer; ``parent``: of the place they refer to.
    :param on_delete: ``no action``, ``restrict``, ``cascade``, ``set null`` or ``set default``.
    :param indexed: whether an index of the child begins with these columns: else each deleted row of the parent
        makes the server read the whole child.
    :param owns: whether a row that names no tenant is the tenant's because it refers to a row of the tenant.
    :param clears: rows of nobody that will lose this reference.
    """

    constraint: str
    child: str
    columns: tuple[str, ...]
    parent: str
    parent_columns: tuple[str, ...]
    on_delete: str = "no action"
    indexed: bool = True
    owns: bool = True
    clears: int = 0

    @property
    def yields(self) -> bool:
        """Whether the parent's row may be deleted first: the reference clears itself, and nothing is known by it."""
        return self.on_delete in CLEARS and not self.owns

    @property
    def words(self) -> str:
        """As the plan tells it."""
        return f"{self.child} ({', '.join(map(quoted, self.columns))}) → {self.parent}, {self.constraint}"


@dataclasses.dataclass(frozen=True)
class Place:
    """A table with rows of tenants.

    :param reasons: in words, how its rows are known to be the tenant's.
    :param rows: how many the tenant has.
    :param bytes: their share of the table's size on disk, by number of rows: an estimate.
    :param keys: columns of the primary key; none: rows are told apart by ``ctid``.
    :param columns: what an export has and an import can write: all columns but generated and withheld ones.
    :param withheld: columns with secrets, left out.
    :param owner: column that names the tenant, the key in the table of tenants, "" when there is none.
    :param owner_nullable: whether a row may name nobody.
    :param partitioned: whether rows lie in partitions of it.
    :param triggers: what runs by itself for each deleted row, beside foreign keys.
    """

    schema: str
    table: str
    reasons: tuple[str, ...] = ()
    rows: int = 0
    bytes: int = 0
    keys: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    withheld: tuple[str, ...] = ()
    owner: str = ""
    owner_nullable: bool = False
    owner_type: str = "uuid"
    partitioned: bool = False
    triggers: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """As it is printed; the key of every dict that has tables."""
        return quoted(self.schema, self.table)


@dataclasses.dataclass(frozen=True)
class Graph:
    """Everything that is a tenant's in a database.

    :param root: name of the table of tenants, ``root_key`` the column that identifies one.
    :param places: what will be deleted, children first; the table of tenants is last.
    :param kept: whose rows stay by law, or by a setting that ignores their schema.
    :param shared: whose rows are nobody's and lose a reference.
    :param links: foreign keys among all of them.
    :param cycles: groups of places, each a tuple of names, whose rows refer to each other in a circle, or to
        others of the same table.
    :param warnings: what makes the deletion slow or odd, and what was left out, for the one who approves.
    """

    root: str
    root_key: str
    places: tuple[Place, ...]
    kept: tuple[Place, ...] = ()
    shared: tuple[Place, ...] = ()
    links: tuple[Link, ...] = ()
    cycles: tuple[tuple[str, ...], ...] = ()
    warnings: tuple[str, ...] = ()

    @cached_property
    def _by_name(self) -> dict[str, Place]:
        return {place.name: place for place in self.everywhere()}

    def everywhere(self) -> tuple[Place, ...]:
        """Return all places: deleted, kept and shared."""
        return (*self.places, *self.kept, *self.shared)

    def place(self, name: str) -> Place:
        """Return the place of a name."""
        return self._by_name[name]

    @cached_property
    def _ways(self) -> dict[str, tuple[Link, ...]]:
        found: dict[str, list[Link]] = {}
        for link in self.links:
            place = self._by_name[link.child]
            if link.owns and (not place.owner or place.owner_nullable) and place.name != self.root:
                found.setdefault(link.child, []).append(link)
        return {name: tuple(links) for name, links in found.items()}

    def ways(self, name: str) -> tuple[Link, ...]:
        """Return the foreign keys by which rows that name no tenant are known to be the tenant's."""
        return self._ways.get(name, ())

    @cached_property
    def circular(self) -> frozenset[str]:
        """Names of places whose rows can only be found step by step: they are known by each other, or by themselves."""
        ways = {name: {link.parent for link in links} for name, links in self._ways.items()}
        return frozenset(name for group in knots(ways) for name in group)

    @property
    def rows(self) -> int:
        """How many rows will be deleted."""
        return sum(place.rows for place in self.places)

    @property
    def bytes(self) -> int:
        """What they take, estimated."""
        return sum(place.bytes for place in self.places)

    def identity(self) -> dict[str, Any]:
        """Return what a plan's hash is made over: places, their rows, their ways; no estimate and no warning."""
        told = self.to_dict()
        del told["warnings"]
        for kind in ("places", "kept", "shared"):
            for place in told[kind]:
                del place["bytes"]
        return told

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it: dicts, lists, texts, numbers."""
        return {
            "root": self.root,
            "root_key": self.root_key,
            **{kind: [_plain(one) for one in getattr(self, kind)] for kind in ("places", "kept", "shared", "links")},
            "cycles": [list(names) for names in self.cycles],
            "warnings": list(self.warnings),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Graph:
        """Return the graph of :meth:`to_dict`."""
        return cls(
            root=data["root"],
            root_key=data["root_key"],
            **{kind: tuple(Place(**_tuples(one)) for one in data[kind]) for kind in ("places", "kept", "shared")},
            links=tuple(Link(**_tuples(one)) for one in data["links"]),
            cycles=tuple(tuple(names) for names in data["cycles"]),
            warnings=tuple(data["warnings"]),
        )


def slow(graph: Graph, totals: Mapping[str, float]) -> list[str]:
    """Return a warning for each foreign key without an index that makes the deletion read too much.

    The server looks for rows that refer to each deleted row; without an index it reads the whole table every time.

    :param totals: place → rows of all tenants.
    """
    found = []
    deleted = {place.name: place.rows for place in graph.places}
    for link in graph.links:
        reads = deleted.get(link.parent, 0) * totals.get(link.child, 0.0)
        if not link.indexed and reads > _READS:
            columns = ", ".join(map(quoted, link.columns))
            found.append(
                f"slow: no index of {link.child} begins with {columns}, so the server reads all of it for each of the "
                f"{deleted[link.parent]:,} rows deleted from {link.parent}; create one before the deletion"
            )
    return found


def _plain(one: Place | Link) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in dataclasses.asdict(one).items()}


def _tuples(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}


def build(tables: Iterable[Table], links: Iterable[Link], convention: Convention) -> Graph:
    """Make the graph from the catalogue; nothing is counted yet.

    :param tables: every table of the database, PostgreSQL's own aside.
    :param links: every foreign key; ``owns`` is set here.
    :raises UnexpectedAnswer: when there is no table of tenants with its key.
    """
    return _Builder(tuple(tables), tuple(links), convention).graph()


class _Builder:
    def __init__(self, tables: Sequence[Table], links: Sequence[Link], convention: Convention) -> None:
        self.convention = convention
        self.tables = {table.name: table for table in tables if table.kind in "rp"}
        self.others = [table for table in tables if table.kind not in "rp"]
        root = self.tables.get(convention.root)
        if root is None or root.column(convention.key) is None:
            raise UnexpectedAnswer("PostgreSQL", f"there is no table {convention.root} with a column {convention.key}")
        self.key_type = root.column(convention.key).type  # type: ignore[union-attr]
        self.links = [self._owning(link) for link in links if {link.child, link.parent} <= self.tables.keys()]
        self.owners = {name: column for name, table in self.tables.items() if (column := self._owner(table))}

    def graph(self) -> Graph:
        """Follow the foreign keys from what names a tenant, and put all in order."""
        reached = self._reached()
        links = [link for link in self.links if link.parent in reached]
        kept = {name for name in reached if self._is_kept(self.tables[name])}
        shared = sorted({link.child for link in links} - reached)
        deleted = sorted(reached - kept)
        among = [link for link in links if {link.child, link.parent} <= set(deleted)]
        order, cycles = deletion_order(deleted, among, last=self.convention.root)
        return Graph(
            root=self.convention.root,
            root_key=self.convention.key,
            places=tuple(self._place(name, links) for name in order),
            kept=tuple(self._place(name, links) for name in sorted(kept)),
            shared=tuple(self._place(name, links) for name in shared),
            links=tuple(sorted(links, key=lambda link: (link.child, link.constraint))),
            cycles=cycles,
            warnings=tuple(self._warnings(order, cycles)),
        )

    def _owning(self, link: Link) -> Link:
        named = f"{link.child}.{quoted(link.constraint)}"
        owns = link.on_delete not in CLEARS or named in self.convention.belongs_through
        return dataclasses.replace(link, owns=owns)

    def _owner(self, table: Table) -> Column | None:
        """Return the column that names the tenant: of the right type, and not a reference to something else."""
        column = table.column(self.convention.column)
        ignored = table.schema in self.convention.schemas_ignored
        if column is None or ignored or table.name == self.convention.root or not self._comparable(column.type):
            return None
        alone = [link for link in self.links if link.child == table.name and link.columns == (column.name,)]
        right = ((self.convention.root, (self.convention.key,)),)
        elsewhere = [link for link in alone if (link.parent, link.parent_columns) not in right]
        return None if any(link.parent_columns != (column.name,) for link in elsewhere) else column

    def _comparable(self, kind: str) -> bool:
        return kind == self.key_type or kind in _TEXTS

    def _reached(self) -> set[str]:
        reached = {self.convention.root, *self.owners}
        children: dict[str, set[str]] = {}
        for link in self.links:
            if link.owns:
                children.setdefault(link.parent, set()).add(link.child)
        waiting = list(reached)
        while waiting:
            new = children.get(waiting.pop(), set()) - reached
            reached |= new
            waiting += new
        return reached

    def _is_kept(self, table: Table) -> bool:
        names = {table.name, f"{table.schema}.{table.table}"}
        return table.schema in self.convention.schemas_ignored or bool(names & set(self.convention.kept_tables))

    def _place(self, name: str, links: Sequence[Link]) -> Place:
        table, owner = self.tables[name], self.owners.get(name)
        plain = [column.name for column in table.columns if not column.generated]
        return Place(
            schema=table.schema,
            table=table.table,
            reasons=tuple(self._reasons(name, links)),
            keys=table.keys,
            columns=tuple(column for column in plain if column not in self.convention.withheld),
            withheld=tuple(column for column in plain if column in self.convention.withheld),
            owner=owner.name if owner else self.convention.key if name == self.convention.root else "",
            owner_nullable=bool(owner and owner.nullable),
            owner_type=owner.type if owner else self.key_type,
            partitioned=table.kind == "p",
            triggers=table.triggers,
        )

    def _reasons(self, name: str, links: Sequence[Link]) -> Iterator[str]:
        owner = self.owners.get(name)
        if name == self.convention.root:
            yield "the tenant itself"
            return
        if owner:
            bound = any(link.child == name and owner.name in link.columns for link in links)
            yield f"{quoted(owner.name)} names the tenant{'' if bound else ', without a foreign key'}"
        nobody = f" where {quoted(owner.name)} is empty" if owner else ""
        for link in links:
            if link.child == name and (owner is None or owner.nullable) and link.columns != (owner and owner.name,):
                yield f"{self._verb(link)} {link.parent} by {', '.join(map(quoted, link.columns))}{nobody}"

    @staticmethod
    def _verb(link: Link) -> str:
        return "belongs to" if link.owns else "stays, and no longer refers to"

    def _warnings(self, order: Sequence[str], cycles: Sequence[tuple[str, ...]]) -> Iterator[str]:
        for name in order:
            if found := self.tables[name].triggers:
                yield f"{name} has triggers that run for each deleted row: {', '.join(found)}"
        for group in cycles:
            what = " and ".join(group) + (" refers to itself" if len(group) == 1 else " refer to each other")
            yield f"{what}: first goes what nothing refers to; what refers in a circle goes in one statement"
        yield from self._left_out()

    def _left_out(self) -> Iterator[str]:
        column = self.convention.column
        kinds = {"v": "view", "m": "materialized view", "f": "foreign table"}
        for table in self.others:
            if table.column(column) and table.kind != "v":
                todo = "refresh it afterwards" if table.kind == "m" else "look at its source: nothing is deleted there"
                yield f"finding: the {kinds[table.kind]} {table.name} has a column {quoted(column)}; {todo}"
        for table in self.tables.values():
            if table.name == self.convention.root or table.name in self.owners:
                continue
            if (found := table.column(column)) and table.schema not in self.convention.schemas_ignored:
                what = f"{table.name}.{quoted(column)} ({found.type})"
                yield f"finding: {what} is no {self.key_type}, or refers to something else than {self.convention.root}"
