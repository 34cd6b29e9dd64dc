"""Vacuuming, analyzing, rebuilding and tidying: one statement at a time, each with an end, and none leaves a trace.

A rebuild that is stopped half-way leaves an index that is not valid, and costs every write. So whatever stops one (the
end of its time, a lock, a person) the left-over is dropped at once; when the process itself is killed, by the next one.
A server whose client is gone stops within seconds (client_connection_check_interval).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import errors
from psycopg.sql import SQL, Composed, Identifier

from vcci_ops.domain.maintenance import ANALYZE, Work
from vcci_ops.domain.maintenance_obstacles import Invalid, left_over_of
from vcci_ops.domain.maintenance_plan import BUSY, DONE, FAILED, GIVEN_UP, LEFT, Outcome
from vcci_ops.domain.units import duration, humanize
from vcci_ops.exceptions import Refused, Unreachable
from vcci_ops.hooks.maintenance import Connection, Looker, MaintenancePostgres, sizes
from vcci_ops.hooks.postgres import SYSTEM

if TYPE_CHECKING:
    from vcci_ops.settings_maintenance import Maintenance

log = logging.getLogger("airflow.task")
NAME = "vcci-ops maintenance"
_KEY = (0x76636369, 0x6D61696E)
"""Of the advisory lock that keeps two sessions from maintaining one database: "vcci", "main"."""
_OWN_GONE = 20.0
"""Seconds to wait for the session of a process that was killed."""
_TIDY = 300.0
"""Seconds for dropping what was left half-way, also when the window is over."""
_GONE = (errors.UndefinedTable, errors.UndefinedObject, errors.InvalidSchemaName)
_LOCKED = (errors.LockNotAvailable, errors.DeadlockDetected)
_DUPLICATES = (errors.UniqueViolation, errors.DataCorrupted, errors.IndexCorrupted)


class MaintenanceSession:
    """One session that changes the database; there is never a second one.

    :param source: ``dag_id/run_id``.
    """

    def __init__(self, connection: Connection, settings: Maintenance, source: str) -> None:
        self.connection = connection
        self.settings = settings
        self.source = source
        self.look = Looker(connection)
        self.ended = False
        self._warnings: list[str] = []
        connection.add_notice_handler(self._noticed)

    @classmethod
    @contextmanager
    def open(cls, conn_id: str, settings: Maintenance, source: str) -> Iterator[MaintenanceSession]:
        """Yield the session, once no other one is there.

        :raises Refused: when a session of another run is at work.
        :raises MeasurementError: what the server refused, in words.
        """
        hook = MaintenancePostgres(postgres_conn_id=conn_id)
        with hook.session() as connection:
            session = cls(connection, settings, source)
            session.prepare()
            try:
                yield session
            except psycopg.Error:
                if session.ended:
                    raise Unreachable(
                        SYSTEM, "the task was ended from outside; what it had begun was stopped"
                    ) from None
                raise

    def prepare(self) -> None:
        """Name the session, let the server notice when we are gone, and be the only one."""
        name = f"{NAME} {self.source.partition('/')[2]}"[:63]
        self._set("application_name", name)
        self._set("client_connection_check_interval", "1s")
        deadline = time.monotonic() + _OWN_GONE
        while not self._one("SELECT pg_try_advisory_lock(%s, %s) AS got", _KEY)["got"]:
            holder = self._holder()
            if holder.get("name") == name:
                # A process of this run that was killed, or that Airflow believes to be dead.
                self.connection.execute("SELECT pg_terminate_backend(%s)", (holder["pid"],))
            if time.monotonic() > deadline:
                raise Refused(
                    f"process {holder.get('pid')} ({holder.get('name')}) maintains this database already; nothing was "
                    "changed. Look at that run; if it is dead, end its process, then clear this task"
                )
            time.sleep(0.2)

    def cancel(self) -> None:
        """Stop the statement that runs; from a signal handler or another thread."""
        self.ended = True
        with suppress(psycopg.Error):
            self.connection.cancel()

    def rest(self) -> None:
        """Set the limits for looking, not those that the last statement had."""
        self._limits(60.0, 5.0)

    # Vacuum, analyze ----------------------------------------------------------------------------

    def vacuum(self, work: Work, seconds: float) -> Outcome:
        """Vacuum and analyze a table, or only analyze it; stopped at the end of its time, what was cleaned stays clean.

        :param seconds: that are left.
        """
        name = Identifier(*work.object)
        options = SQL("FREEZE, ANALYZE") if work.freeze else SQL("ANALYZE")
        statement = SQL("ANALYZE {}").format(name)
        if work.kind != ANALYZE:
            statement = SQL("VACUUM ({}) {}").format(options, name)
        try:
            before = self._facts(work)
            self._run(statement, seconds, self.settings.vacuum.lock_timeout)
            after = self._facts(work)
        except psycopg.Error as error:
            return self._stopped(error, work, self.settings.vacuum.lock_timeout)
        if self._warnings:
            return Outcome(FAILED, f"PostgreSQL warned: {'; '.join(self._warnings)}")
        return Outcome(DONE, "", self._vacuumed(work, before, after))

    def _vacuumed(self, work: Work, before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
        detail = {f"{key}_before": value for key, value in before.items()}
        detail |= {f"{key}_after": value for key, value in after.items()}
        if work.kind == ANALYZE:
            return detail
        detail["bytes_worked"] = before["bytes"] + before["index_bytes"]
        if after["dead"] > max(100, before["dead"] // 100):
            detail["held_by"] = [str(blocker) for blocker in self.look.blockers()[:5]]
        return detail

    def _facts(self, work: Work) -> dict[str, Any]:
        query = """
            SELECT (coalesce(s.n_dead_tup, 0) + coalesce(t.n_dead_tup, 0))::bigint AS dead,
                   CASE WHEN c.relfrozenxid::text <> '0' THEN age(c.relfrozenxid) ELSE 0 END::bigint AS age
            FROM pg_class c LEFT JOIN pg_stat_all_tables s ON s.relid = c.oid
            LEFT JOIN pg_stat_all_tables t ON t.relid = c.reltoastrelid WHERE c.oid = %s::regclass
        """
        self._limits(30.0, self.settings.vacuum.lock_timeout)
        return {**self._one(query, (self._text(work),)), **sizes(self.connection, *work.object)}

    # Rebuild ------------------------------------------------------------------------------------

    def in_the_way(self, work: Work) -> tuple[str, list[str]]:
        """Return why a rebuild must not begin now (empty: it may), and the transactions that it would wait for."""
        row = self._one(
            "SELECT coalesce(t.spcname, d.spcname)::text AS tablespace FROM pg_class c "
            "LEFT JOIN pg_tablespace t ON t.oid = c.reltablespace "
            "CROSS JOIN pg_database b JOIN pg_tablespace d ON d.oid = b.dattablespace "
            "WHERE b.datname = current_database() AND c.oid = to_regclass(%s)",
            (self._text(work),),
        )
        if not row:
            return "", []
        # Twice its size: the new index beside the old one, and the files of its sort.
        size = self.settings.volumes.get(row["tablespace"], 0)
        keep, needs = size * self.settings.keep_free_percent / 100, 2 * work.bytes
        free = size - self.look.used(row["tablespace"])
        if free - needs < keep:
            return (
                f"it needs {humanize(needs, 'bytes')}; of the volume's {humanize(size, 'bytes')} some "
                f"{humanize(max(free, 0), 'bytes')} are free, and {humanize(keep, 'bytes')} have to stay so"
            ), []
        return "", self.look.transactions(self.settings.reindex.transactions_older_than)

    def reindex(self, work: Work, seconds: float) -> Outcome:
        """Rebuild an index beside the old one; whatever happens, nothing half-built is left.

        :param seconds: that are left; then it is stopped and its left-over dropped.
        """
        limit = self.settings.reindex.lock_timeout
        try:
            self._limits(30.0, limit)
            before = sizes(self.connection, *work.object)["bytes"]
            self._run(SQL("REINDEX INDEX CONCURRENTLY {}").format(Identifier(*work.object)), seconds, limit)
            self._limits(30.0, limit)
            after = sizes(self.connection, *work.object)["bytes"]
        except psycopg.Error as error:
            if self.connection.broken:
                raise
            outcome = self._stopped(error, work, limit)
            return Outcome(outcome.state, "; ".join([outcome.words, *self._tidied(work)]))
        return Outcome(DONE, "", {"bytes_before": before, "bytes_after": after, "bytes_worked": before})

    def _tidied(self, work: Work) -> list[str]:
        """Drop what a rebuild of this index has left half-way; say what became of it."""
        said = []
        for index in self.look.invalid():
            if index.schema == work.object[0] and left_over_of(index.name, work.object[1]):
                why = index.why_kept or self.drop(index)
                said.append(f"its left-over {index} {f'stays: {why}' if why else 'was dropped'}")
        return said

    def drop(self, index: Invalid) -> str:
        """Drop an invalid index without barring anybody; return why it could not be, empty when it is gone."""
        name = Identifier(index.schema, index.name)
        try:
            self._run(SQL("DROP INDEX CONCURRENTLY IF EXISTS {}").format(name), _TIDY, min(_TIDY, 60.0))
        except (*_LOCKED, errors.QueryCanceled, errors.InsufficientPrivilege) as error:
            return _said(error)
        return ""

    # How ----------------------------------------------------------------------------------------

    def _run(self, statement: Composed, seconds: float, lock_timeout: float) -> None:
        if self.ended:
            raise Unreachable(SYSTEM, "the task was ended from outside")
        self._warnings.clear()
        self._limits(max(seconds, 1.0), lock_timeout)
        self.connection.execute(statement)

    def _stopped(self, error: psycopg.Error, work: Work, lock_timeout: float) -> Outcome:
        """Return what an error makes of a work; a lost connection is raised, and tried again."""
        if self.connection.broken:
            raise error
        if isinstance(error, _LOCKED):
            self._limits(30.0, lock_timeout)
            holders = self.look.holders(*self._table(work))
            return Outcome(BUSY, f"waited {duration(lock_timeout)} for a lock or a transaction; held by {holders}")
        if isinstance(error, errors.QueryCanceled):
            why = "the task was ended from outside" if self.ended else "stopped, for the time was over"
            return Outcome(LEFT, f"{why}; it goes on in the next window")
        if isinstance(error, _GONE):
            return Outcome(GIVEN_UP, "it does not exist any more")
        if isinstance(error, _DUPLICATES):
            return Outcome(
                FAILED,
                f"{_said(error)}: the data does not fit the index, so one of them is corrupt. Call a database "
                "administrator, and look for a backup from before",
            )
        return Outcome(FAILED, _said(error))

    def _table(self, work: Work) -> tuple[str, str]:
        """Return schema and name of the table whose lock a work waits for."""
        row = self._one(
            "SELECT n.nspname::text AS schema, c.relname::text AS name FROM pg_class c JOIN pg_namespace n "
            "ON n.oid = c.relnamespace WHERE c.oid = coalesce((SELECT indrelid FROM pg_index WHERE indexrelid = "
            "to_regclass(%(name)s)), to_regclass(%(name)s))",
            {"name": self._text(work)},
        )
        return (row["schema"], row["name"]) if row else work.object

    def _holder(self) -> dict[str, Any]:
        return self._one(
            "SELECT l.pid, a.application_name AS name FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid "
            "WHERE l.locktype = 'advisory' AND l.granted AND (l.classid::bigint, l.objid::bigint) = (%s, %s) "
            "AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())",
            _KEY,
        )

    def _limits(self, statement: float, lock: float) -> None:
        self._set("statement_timeout", f"{min(statement, 2_000_000) * 1000:.0f}")
        self._set("lock_timeout", f"{lock * 1000:.0f}")

    def _set(self, name: str, value: str) -> None:
        self.connection.execute("SELECT set_config(%s, %s, false)", (name, value))

    def _one(self, query: str, parameters: Any = None) -> dict[str, Any]:
        return self.connection.execute(query.encode(), parameters).fetchone() or {}

    def _text(self, work: Work) -> str:
        return Identifier(*work.object).as_string(self.connection)

    def _noticed(self, diagnostic: psycopg.errors.Diagnostic) -> None:
        if diagnostic.severity_nonlocalized == "WARNING":
            self._warnings.append(diagnostic.message_primary or "")


def _said(error: psycopg.Error) -> str:
    """Return the server's words without values of rows, which stand in the detail."""
    return f"{error.diag.message_primary or type(error).__name__} (SQLSTATE {error.sqlstate})"
