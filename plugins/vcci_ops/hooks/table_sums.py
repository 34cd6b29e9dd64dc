"""One row of sums per table, on which two databases with the same rows agree, whatever the order they keep them in.

A backup's manifest has the sums of the snapshot that was dumped; a drill computes them again in the restored copy.
Both do it here, in SQL, so nothing but the sums leaves the server. Texts are hashed, not binary values: PostgreSQL's
own hashes of rows know enums by object id, which is another one after a restore, and take 1.0 for 1.00.

Two servers agree when both write values alike (:func:`snapshot` and :func:`alike` see to that), both databases have
the same encoding, and both machines the same byte order, for PostgreSQL's hashes depend on it.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from psycopg.sql import SQL, Composable, Composed, Identifier, Literal

from vcci_ops.exceptions import InvalidInput
from vcci_ops.hooks.tenant_session import WRITTEN_ALIKE, TenantPostgres
from vcci_ops.settings import INCLUDE

if TYPE_CHECKING:
    from vcci_ops.hooks.tenant_session import Connection

_COMMA = SQL(", ")
_ORDERED = {"int2", "int4", "int8", "numeric", "date", "timestamp", "timestamptz"}
"""Types of keys that have a largest one, and name no person."""
_CHAINED = 100
"""Columns up to which hashes are chained: a function of PostgreSQL takes no more arguments."""


@dataclasses.dataclass(frozen=True)
class Table:
    """A table whose rows a dump holds.

    :param bytes: of its heap and TOAST, no indexes.
    :param columns: all of them, in their order.
    :param key: columns of its primary key, or of another that is never null; empty: it has none.
    :param key_types: their types, as pg_type names them.
    :param times: columns with a moment: timestamptz, and timestamp, which is taken for UTC.
    """

    schema: str
    name: str
    bytes: int
    columns: tuple[str, ...]
    key: tuple[str, ...] = ()
    key_types: tuple[str, ...] = ()
    times: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """How a manifest names it: ``schema.table``, or ``table`` in the schema public."""
        return self.name if self.schema == "public" else f"{self.schema}.{self.name}"


@dataclasses.dataclass(frozen=True)
class Sums:
    """What is known of a table's rows.

    :param rows: all of them, counted.
    :param max_key: the largest key; of a key that may name a person, the SHA-256 of it. None: no key, or no row.
    :param max_timestamp: the newest moment in it that is not after ``until``, ISO 8601 in UTC.
    :param checksum: 32 hexadecimal digits; of the sampled rows, where ``sampled_rows`` says how many those are.
    """

    rows: int
    max_key: str | None
    max_timestamp: str | None
    checksum: str
    sampled_rows: int | None = None


def tables(connection: Connection) -> list[Table]:
    """Return the tables whose rows a dump of the database holds, smallest first."""
    query = (INCLUDE / "sql" / "recovery" / "tables.sql").read_bytes()
    return [
        Table(schema, name, int(size), tuple(columns), tuple(key), tuple(types), tuple(times))
        for schema, name, size, columns, key, types, times in connection.execute(query)
    ]


def sums(connection: Connection, table: Table, until: dt.datetime, one_in: int = 1) -> Sums:
    """Read a table once and return its sums.

    :param connection: one of :func:`snapshot`, or after :func:`alike`.
    :param until: aware; moments after it do not count as the newest: a due date is no sign of life.
        For a copy, the time of the backup's snapshot (``taken_at`` of its manifest).
    :param one_in: hash only about one in so many rows, chosen by key: the same rows on every server.
        1: all of them. All are counted in any case. A table without a key is never sampled.
    :raises psycopg.Error: what the server says.
    """
    row: Any = connection.execute(sums_query(table, until, one_in)).fetchone()
    rows, max_key, newest, total, sampled = row
    return Sums(int(rows), max_key, newest, f"{int(total or 0) % 2**128:032x}", sampled)


def sums_query(table: Table, until: dt.datetime, one_in: int = 1) -> Composed:
    """Return the statement of :func:`sums`: rows, largest key, newest moment, sum of hashes, sampled rows.

    :raises InvalidInput: when ``one_in`` is no number of rows.
    """
    if one_in < 1:
        raise InvalidInput("one_in", one_in, "a number of rows, 1 and more")
    chosen = _chosen(table, one_in)
    filtered = SQL(" FILTER (WHERE {})").format(chosen) if chosen else SQL("")
    sampled = SQL("count(*)") + filtered if chosen else SQL("NULL::bigint")
    return SQL("SELECT count(*), {}, {}, sum({}){}, {} FROM ONLY {} t").format(
        _largest_key(table),
        _newest(table, until),
        _hashed(table.columns),
        filtered,
        sampled,
        Identifier(table.schema, table.name),
    )


def alike(connection: Connection) -> None:
    """Let a session write values as every other of these does, and find only what is named in full."""
    connection.execute(WRITTEN_ALIKE)
    connection.execute("SET search_path = ''")


@contextmanager
def snapshot(conn_id: str, database: str | None = None) -> Iterator[Connection]:
    """Yield a session in one transaction that only reads and sees one moment; no limit on how long a statement takes.

    :param conn_id: PostgreSQL connection.
    :param database: default: the connection's.
    :raises MeasurementError: what the server refused, in words; never with a value of a row.
    """
    with TenantPostgres(conn_id, database=database, statement_timeout=0).snapshot() as connection:
        connection.execute("SET search_path = ''")
        # It waits for the dump, too, and must not be ended for that.
        connection.execute("SET idle_in_transaction_session_timeout = 0")
        yield connection


def _hashed(columns: tuple[str, ...]) -> Composed:
    """Return the hash of a row's text; bytewise, whatever the collation of the database.

    Column by column, each hash the seed of the next: writing the row as one text first takes up to four times as long.
    How many are NULL begins it, so that a NULL is told from the text that stands for it.
    """
    names = [Identifier("t", column) for column in columns]
    if len(columns) > _CHAINED:
        return SQL('pg_catalog.hashtextextended(ROW({})::text COLLATE "C", 0)').format(_COMMA.join(names))
    found = SQL("pg_catalog.num_nulls({})").format(_COMMA.join(names))
    for name in names:
        text = SQL("coalesce({}::text, E'\\x01') COLLATE \"C\"").format(name)
        found = SQL("pg_catalog.hashtextextended({}, {})").format(text, found)
    return found


def _chosen(table: Table, one_in: int) -> Composed | None:
    if one_in == 1 or not table.key:
        return None
    return SQL("{} % {} = 0").format(_hashed(table.key), Literal(one_in))


def _largest_key(table: Table) -> Composable:
    if not table.key:
        return SQL("NULL::text")
    if len(table.key) == 1 and table.key_types[0] in _ORDERED:
        return SQL("max({})::text").format(Identifier("t", table.key[0]))
    if table.key_types == ("uuid",):
        return SQL('max({}::text COLLATE "C")').format(Identifier("t", table.key[0]))
    row = _COMMA.join(Identifier("t", column) for column in table.key)
    largest = SQL('max(ROW({})::text COLLATE "C")').format(row)
    return SQL("'sha256:' || encode(sha256(convert_to({}, 'UTF8')), 'hex')").format(largest)


def _newest(table: Table, until: dt.datetime) -> Composable:
    if not table.times:
        return SQL("NULL::text")
    latest = _COMMA.join(
        SQL("max({0}) FILTER (WHERE {0} <= {1} AND isfinite({0}))").format(Identifier("t", column), Literal(until))
        for column in table.times
    )
    newest = SQL("greatest({})::timestamptz AT TIME ZONE 'UTC'").format(latest)
    return SQL("""to_char({}, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')""").format(newest)
