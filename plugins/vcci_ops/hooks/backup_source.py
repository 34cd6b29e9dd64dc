"""The session beside a dump: it exports the snapshot that pg_dump uses, and sums up every table in the same one."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg

from vcci_ops.domain.backup_manifest import one_in, require_tool
from vcci_ops.domain.units import humanize
from vcci_ops.exceptions import OpsError, Unreachable
from vcci_ops.hooks.postgres import SYSTEM
from vcci_ops.hooks.table_sums import alike, sums, tables
from vcci_ops.hooks.tenant_export import schema_revision
from vcci_ops.hooks.tenant_session import TenantPostgres
from vcci_ops.settings import INCLUDE

if TYPE_CHECKING:
    import datetime as dt

    from vcci_ops.hooks.table_sums import Table
    from vcci_ops.hooks.tenant_session import Connection
    from vcci_ops.settings_backup import DatabaseBackup

log = logging.getLogger("airflow.task")
_UNBOUNDED = (
    "SET idle_in_transaction_session_timeout = 0; SET idle_session_timeout = 0; "
    # When this process is killed in the middle of a sum, the server notices, and lets the snapshot go.
    "SET client_connection_check_interval = '5s'"
)


class Claimed(Unreachable):
    """Another process makes the same backup at this moment, or the server has not yet noticed that it is dead."""

    def __init__(self, key: str) -> None:
        OpsError.__init__(self, f"another process is making {key}: two would spoil it")
        self.system = SYSTEM


class Source:
    """A database that is being dumped, at one moment; made by :func:`opened`.

    :param world: database, snapshot, taken_at and so on: columns of include/sql/recovery/world.sql.
    """

    def __init__(self, connection: Connection, settings: DatabaseBackup) -> None:
        self._connection, self._settings = connection, settings
        self._stopped = False
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        self.world = self._world()
        self.extensions = dict(self._rows("SELECT extname, extversion FROM pg_extension ORDER BY extname"))
        self.revision = schema_revision(connection)
        self.sequences = dict(self._rows(_sql("sequences")))

    def _world(self) -> dict[str, Any]:
        cursor = self._connection.execute(_sql("world"))
        row: Any = cursor.fetchone()
        return dict(zip((column.name for column in cursor.description or ()), row, strict=True))

    def _rows(self, query: str | bytes) -> list[tuple[Any, ...]]:
        return self._connection.execute(query).fetchall()

    @property
    def taken_at(self) -> dt.datetime:
        """When the snapshot was taken, by the server's clock."""
        moment: dt.datetime = self.world["taken_at"]
        return moment

    def require_tool(self, tool_version: str) -> None:
        """Pass when this pg_dump is new enough.

        :raises Refused: when it is not; says what helps.
        """
        require_tool(self.world["version"], self.world["version_text"], tool_version)

    def sum_up(self) -> dict[str, dict[str, Any]]:
        """Return what is known of every table, then let the snapshot go; a table that was not summed says why.

        Called in a thread of its own, once pg_dump holds the tables: from then on nobody can drop or change them.
        """
        found: dict[str, dict[str, Any]] = {}
        for table in tables(self._connection):
            found[table.label] = self._one(table) if not self._stopped else _unknown()
        if not self._stopped:
            self._connection.execute("COMMIT")
        return found

    def _one(self, table: Table) -> dict[str, Any]:
        share = one_in(table.bytes, self._settings.hashed_whole)
        try:
            summed = sums(self._connection, table, self.taken_at, share)
        except psycopg.errors.QueryCanceled:
            if not self._stopped:
                raise
            return _unknown()
        sampled = summed.sampled_rows
        return {
            "rows": summed.rows,
            "max_key": summed.max_key,
            "max_timestamp": summed.max_timestamp,
            "checksum": summed.checksum,
            "sampled": None if sampled is None else {"share": 1 / share, "one_in": share, "rows": sampled},
        }

    def stop(self) -> None:
        """Give up what is not summed yet: the snapshot must not be held any longer."""
        self._stopped = True
        self._connection.cancel_safe(timeout=5)


def _unknown() -> dict[str, Any]:
    empty = dict.fromkeys(("rows", "max_key", "max_timestamp", "checksum", "sampled"))
    return {**empty, "why": "not summed while the snapshot could be held"}


@contextmanager
def opened(conn_id: str, settings: DatabaseBackup, key: str) -> Iterator[Source]:
    """Yield the database of a connection at this moment, claimed for one backup as long as this process lives.

    :param conn_id: PostgreSQL connection that leads to one server, not to a pool of several.
    :param key: of the backup.
    :raises Claimed: when another process makes this very backup.
    :raises MeasurementError: what the server refused, in words.
    """
    with TenantPostgres(conn_id, statement_timeout=0, lock_timeout=settings.lock_timeout).session() as connection:
        alike(connection)
        connection.execute(_UNBOUNDED)
        row: Any = connection.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 5))", (key,)).fetchone()
        if not row[0]:
            raise Claimed(key)
        source = Source(connection, settings)
        world = source.world
        log.info(
            "PostgreSQL %s, database %s of %s, snapshot %s of %s",
            world["version_text"],
            world["database"],
            humanize(world["bytes"], "bytes"),
            world["snapshot"],
            source.taken_at.isoformat(timespec="seconds"),
        )
        yield source


def _sql(name: str) -> bytes:
    return (INCLUDE / "sql" / "recovery" / f"{name}.sql").read_bytes()
