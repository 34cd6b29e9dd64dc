"""Deleting a tenant's rows in small transactions, so that nobody else notices.

For each table, children first, the rows are looked up once, into a cursor that outlives its transaction: neither does
a batch scan again, nor does a snapshot keep the server from cleaning up. Then each batch is one transaction: rows by
their address, and only if they are still the tenant's. Killed at any point, the next call finds what is left.

Where rows refer to rows of their own table, or tables to each other, those go first that nothing refers to, again and
again; what then refers to each other in a circle goes in one statement. Nothing is updated, so that the role needs no
right to.

Every transaction gives an account before it commits: PostgreSQL counts what it wrote to each table, what foreign keys
and triggers did included. What the graph does not explain is rolled back.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import errors
from psycopg.sql import SQL, Composed, Identifier, Literal

from vcci_ops.domain.tenant_graph import Graph, Link, Place, quoted
from vcci_ops.exceptions import ChangeFailed
from vcci_ops.hooks.tenant_calm import Calm
from vcci_ops.hooks.tenant_rows import checked, condition, joined, source
from vcci_ops.hooks.tenant_session import Connection, TenantPostgres, tenant_sql

if TYPE_CHECKING:
    from vcci_ops.settings_tenants import Erasure

log = logging.getLogger(__name__)

ROUNDS = 5
"""Times to go through all places, while there is something left: rows may come in between."""
PASSES = 50
"""Times to delete what nothing refers to, within a circle; a deeper chain goes in one statement."""
TRIES = 5
"""Times to try a batch that waits for somebody's lock."""
_SCAN = "3600s"
_SMALLEST = 50
_AND = SQL(" AND ")
_BUSY = (errors.LockNotAvailable, errors.DeadlockDetected, errors.SerializationFailure)
Rows = list[tuple[str, str]]
"""Address and version (xmin) of rows."""


@dataclasses.dataclass(frozen=True)
class Batch:
    """One transaction that was committed.

    :param place: its table; ``rows``: deleted by it; ``total``: deleted from this table so far.
    """

    place: str
    rows: int
    total: int


@dataclasses.dataclass(frozen=True)
class Erased:
    """What one call deleted.

    :param rows: table → rows.
    :param also: table → rows that foreign keys or triggers changed on their own, told by the server.
    :param paused: seconds spent waiting for standbys and locks.
    """

    rows: dict[str, int]
    also: dict[str, int]
    batches: int
    seconds: float
    paused: float


def erase(
    graph: Graph,
    tenant_id: str,
    limits: Erasure,
    on_batch: Callable[[Batch], None] = lambda batch: None,
    conn_id: str = "vcci_postgres_erase",
) -> Erased:
    """Delete every row of the tenant's in the graph's places; safe to call again, also after a kill.

    :param limits: batch_rows, lock_timeout, statement_timeout, pause_lag, pause_waits.
    :param on_batch: called after each committed batch; what it raises stops the deletion there.
    :raises ChangeFailed: when rows cannot be deleted: somebody holds their lock for too long, others refer to them, a
        trigger keeps them, a transaction wrote where it should not. What was deleted before stays deleted.
    :raises MeasurementError: when the server does not answer, or refuses.
    """
    hook = TenantPostgres(
        postgres_conn_id=conn_id, statement_timeout=limits.statement_timeout, lock_timeout=limits.lock_timeout
    )
    with hook.session(writes=True) as connection:
        return _Eraser(connection, graph, checked(tenant_id), limits, on_batch).run()


class _Eraser:
    def __init__(
        self,
        connection: Connection,
        graph: Graph,
        tenant_id: str,
        limits: Erasure,
        on_batch: Callable[[Batch], None],
    ) -> None:
        self.connection, self.graph, self.tenant_id, self.limits = connection, graph, tenant_id, limits
        self.on_batch = on_batch
        self.calm = Calm(connection, limits)
        self.rows: dict[str, int] = {}
        self.also: dict[str, int] = {}
        self.batches = 0
        self.stuck: dict[str, str] = {}

    def run(self) -> Erased:
        begun = time.monotonic()
        for _ in range(ROUNDS):
            before = sum(self.rows.values())
            self.stuck = {}
            for group in self._groups():
                self._unit(group)
            if sum(self.rows.values()) == before:
                break
        if self.stuck:
            raise ChangeFailed("rows of the tenant are left: " + "; ".join(self.stuck.values()))
        return Erased(self.rows, self.also, self.batches, time.monotonic() - begun, self.calm.paused)

    def _groups(self) -> Iterator[list[Place]]:
        """Yield places that must go together, or alone, in the order of the graph."""
        group_of: dict[str, object] = {name: number for number, group in enumerate(self.graph.cycles) for name in group}
        for _, group in groupby(self.graph.places, key=lambda place: group_of.get(place.name, place.name)):
            yield list(group)

    def _unit(self, group: list[Place]) -> None:
        if not any(group[0].name in cycle for cycle in self.graph.cycles):
            self._sweep(group[0], ())
            return
        names = {place.name for place in group}
        inner = [link for link in self.graph.links if {link.child, link.parent} <= names and not link.yields]
        for _ in range(PASSES):
            gone = sum([self._sweep(place, [link for link in inner if link.parent == place.name]) for place in group])
            if not gone:
                break
        self._together(group)

    # One table ------------------------------------------------------------------------------

    def _sweep(self, place: Place, inner: Sequence[Link]) -> int:
        """Delete a place's rows, batch by batch; return how many went.

        :param inner: foreign keys of its own circle: rows that something refers to by one of them are left for later.
        """
        found = gone = 0
        self._open(place, inner)
        try:
            while batch := self._fetch():
                found += len(batch)
                self.calm.wait()
                gone += self._batch(place, batch)
        finally:
            if not self.connection.broken:
                self.connection.execute("CLOSE ALL")
        if found and not gone:
            self.stuck.setdefault(place.name, f"{place.name} keeps {found:,} rows that it was told to delete")
        return gone

    def _open(self, place: Place, inner: Sequence[Link]) -> None:
        own = [condition(self.graph, place, self.tenant_id), *(self._unreferred(link) for link in inner)]
        query = SQL("SELECT t.ctid::text, t.xmin::text FROM {} t WHERE {}").format(source(place), _AND.join(own))
        with self.connection.transaction():
            self.connection.execute(SQL("SET LOCAL statement_timeout = {}").format(Literal(_SCAN)))
            self.connection.execute(SQL("DECLARE rows NO SCROLL CURSOR WITH HOLD FOR {}").format(query))

    def _fetch(self) -> Rows:
        rows = self.connection.execute(SQL("FETCH {} FROM rows").format(Literal(self.limits.batch_rows))).fetchall()
        return [(address, version) for address, version in rows]

    def _unreferred(self, link: Link) -> Composed:
        child = self.graph.place(link.child)
        other = SQL(" AND (c.tableoid, c.ctid) <> (t.tableoid, t.ctid)") if link.child == link.parent else SQL("")
        return SQL("NOT EXISTS (SELECT FROM {} c WHERE {}{})").format(source(child), joined(link, "c", "t"), other)

    # One batch ------------------------------------------------------------------------------

    def _batch(self, place: Place, rows: Rows) -> int:
        """Delete these rows in one transaction; in smaller ones when that takes too long."""
        try:
            gone = self._transact([place], lambda: [self._delete(place, rows)])[0]
        except errors.QueryCanceled:
            if len(rows) <= _SMALLEST:
                raise ChangeFailed(
                    f"deleting {len(rows)} rows of {place.name} takes longer than {self.limits.statement_timeout:g} s; "
                    "is an index missing on what refers to it?"
                ) from None
            half = len(rows) // 2
            return self._batch(place, rows[:half]) + self._batch(place, rows[half:])
        except errors.ForeignKeyViolation as error:
            by = f"{error.diag.constraint_name} of {error.diag.table_name}"
            self.stuck[place.name] = f"rows of {place.name} are still referred to by {by}"
            return 0
        self._told(place, gone)
        return gone

    def _told(self, place: Place, gone: int) -> None:
        self.batches += 1
        self.rows[place.name] = self.rows.get(place.name, 0) + gone
        self.on_batch(Batch(place.name, gone, self.rows[place.name]))

    def _delete(self, place: Place, rows: Rows) -> int:
        """Delete by address what is still the tenant's.

        Of a partitioned table each address is looked up in every partition: what is found is the tenant's, too.
        """
        addresses = '{"' + '","'.join(address for address, _ in rows) + '"}'
        statement = SQL("DELETE FROM {} t WHERE t.ctid = ANY (%s::tid[]) AND {}")
        if place.name not in self.graph.circular:
            return self._run(statement.format(source(place), self._still(place)), [addresses])
        # Finding the rows of a circle again takes as long as the first time; a row that is the same as then will do.
        same = SQL("EXISTS (SELECT FROM unnest(%s::tid[], %s::xid[]) v (a, x) WHERE v.a = t.ctid AND v.x = t.xmin)")
        versions = "{" + ",".join(version for _, version in rows) + "}"
        guarded = _AND.join([same, *self._guards(place)])
        return self._run(statement.format(source(place), guarded), [addresses, addresses, versions])

    def _run(self, statement: Composed, parameters: Sequence[Any]) -> int:
        return self.connection.execute(statement, parameters).rowcount

    def _still(self, place: Place) -> Composed:
        return _AND.join([condition(self.graph, place, self.tenant_id), *self._guards(place)])

    def _guards(self, place: Place) -> list[Composed]:
        """Return conditions that no foreign key will delete or change a row of another tenant on its own."""
        return [self._unreferred_by_others(link) for link in self._acting(place) if self._owned(link)]

    def _acting(self, place: Place) -> list[Link]:
        passive = ("no action", "restrict")
        return [link for link in self.graph.links if link.parent == place.name and link.on_delete not in passive]

    def _owned(self, link: Link) -> bool:
        owner = self.graph.place(link.child).owner
        return bool(owner) and owner not in link.columns

    def _unreferred_by_others(self, link: Link) -> Composed:
        child = self.graph.place(link.child)
        owner = Identifier("c", child.owner)
        spelt = SQL("lower({}::text)").format(owner)
        return SQL("NOT EXISTS (SELECT FROM {} c WHERE {} AND {} IS NOT NULL AND {} <> {})").format(
            source(child), joined(link, "c", "t"), owner, spelt, Literal(self.tenant_id)
        )

    # A circle -------------------------------------------------------------------------------

    def _together(self, group: list[Place]) -> None:
        """Delete what is left of a circle in one statement: foreign keys are looked at when it is done."""
        try:
            gone = self._transact(group, lambda: self._delete_all(group))
        except errors.QueryCanceled:
            raise ChangeFailed(
                f"deleting what refers to each other in {', '.join(place.name for place in group)} takes longer than "
                f"{self.limits.statement_timeout:g} s; raise tenants.erasure.statement_timeout"
            ) from None
        except errors.ForeignKeyViolation as error:
            by = f"{error.diag.constraint_name} of {error.diag.table_name}"
            self.stuck[group[0].name] = f"rows of {group[0].name} are still referred to by {by}"
            return
        for place, rows in zip(group, gone, strict=True):
            if rows:
                self._told(place, rows)

    def _delete_all(self, group: list[Place]) -> list[int]:
        names = [Identifier(f"gone{number}") for number in range(len(group))]
        parts = [
            SQL("{} AS (DELETE FROM {} t WHERE {} RETURNING 1)").format(name, source(place), self._still(place))
            for name, place in zip(names, group, strict=True)
        ]
        counts = [SQL("(SELECT count(*) FROM {})").format(name) for name in names]
        row = self.connection.execute(
            SQL("WITH {} SELECT {}").format(SQL(", ").join(parts), SQL(", ").join(counts))
        ).fetchone()
        return [int(count) for count in row or ()]

    # One transaction ------------------------------------------------------------------------

    def _transact(self, group: list[Place], delete: Callable[[], list[int]]) -> list[int]:
        """Run in a transaction, take its account, commit; again when somebody's lock was in the way."""
        for attempt in range(1, TRIES + 1):
            try:
                with self.connection.transaction():
                    before = self._written()
                    gone = delete()
                    self.connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
                    also = self._account(group, gone, before)
            except _BUSY as error:
                self._busy(group, attempt, error)
                continue
            for name, rows in also.items():
                self.also[name] = self.also.get(name, 0) + rows
            return gone
        raise AssertionError("unreachable")

    def _busy(self, group: list[Place], attempt: int, error: psycopg.Error) -> None:
        names = ", ".join(place.name for place in group)
        by = self.calm.holders([place.name for place in group]) or "nobody any more"
        said = f"{names}: {error.diag.message_primary or 'a lock was not to be had'}; held by {by}"
        if attempt == TRIES:
            raise ChangeFailed(
                f"{said}; tried {TRIES} times. End what holds it, then run this again: it goes on"
            ) from None
        log.warning("%s; trying again", said)
        time.sleep(self.limits.lock_timeout)

    def _written(self) -> dict[str, tuple[int, int]]:
        rows = self.connection.execute(tenant_sql("written")).fetchall()
        return {quoted(schema, table): (int(deleted), int(other)) for schema, table, deleted, other in rows}

    def _account(self, group: list[Place], gone: Sequence[int], before: dict[str, tuple[int, int]]) -> dict[str, int]:
        """Return what the transaction wrote beside the rows it was told to delete.

        :raises ChangeFailed: when the graph does not explain it; the transaction is rolled back.
        """
        told = {place.name: count for place, count in zip(group, gone, strict=True)}
        explained = {link.child for place in group for link in self._acting(place)}
        triggers = any(self.graph.place(name).triggers for name in {*told, *explained})
        also = {}
        for name, (deleted, other) in self._written().items():
            was = before.get(name, (0, 0))
            extra = deleted - was[0] - told.get(name, 0) + other - was[1]
            if extra and not (triggers or name in explained):
                raise ChangeFailed(
                    f"deleting from {', '.join(told)} would also change {extra} rows of {name}; rolled back"
                )
            if extra:
                also[name] = extra
        return also
