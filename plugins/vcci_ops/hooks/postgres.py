"""Reading PostgreSQL: one short, read-only connection, with a time limit on every wait."""

from __future__ import annotations

import os
import re
import select
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from itertools import islice
from typing import Any, NamedTuple

import psycopg
from airflow.providers.postgres.hooks.postgres import PostgresHook
from airflow.sdk import Connection
from airflow.sdk.exceptions import AirflowNotFoundException
from psycopg import conninfo, errors, pq

from vcci_ops.exceptions import Forbidden, MeasurementError, NoData, UnexpectedAnswer, Unreachable
from vcci_ops.hooks.lookups import Remembering
from vcci_ops.settings import INCLUDE

SYSTEM = "PostgreSQL"
Row = tuple[Any, ...]

_ALLOWED_EXTRAS = {
    *("sslmode", "sslrootcert", "sslcert", "sslkey", "sslcrl", "sslnegotiation", "channel_binding", "require_auth"),
    *("hostaddr", "connect_timeout", "application_name", "target_session_attrs", "gssencmode"),
    *("keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout"),
}
"""Keys of the connection's extra that reach libpq; any other is left out."""
_NOTHING_THERE = {
    *(e.sqlstate for e in (errors.UndefinedTable, errors.UndefinedColumn, errors.UndefinedFunction)),
    errors.ObjectNotInPrerequisiteState.sqlstate,  # an extension whose library is not preloaded
}
_CORE = {"host", "port", "user", "password", "dbname"}


class ConnectionsExhausted(Unreachable):
    """The server refused the connection because it has none left."""


class Statement(NamedTuple):
    """A statement with its bound parameters."""

    sql: str
    parameters: Mapping[str, Any] | None = None


class Answer(NamedTuple):
    """What one statement brought: rows, or why there are none."""

    name: str
    rows: list[Row]
    query: str
    """The statement as it ran, in one line, with its parameters."""
    error: MeasurementError | None = None


def check_sql(name: str) -> str:
    """Return the text of include/sql/checks/<name>.sql."""
    return (INCLUDE / "sql" / "checks" / f"{name}.sql").read_text(encoding="utf-8")


class ReadOnlyPostgresHook(Remembering, PostgresHook):
    """The provider's hook, restricted to reading and to answers in time.

    Sessions are read-only (``default_transaction_read_only``) and commit by themselves, so nothing
    is left open. The limits go to the server with the connection's start, which costs no round trip;
    a PgBouncer in between must list ``options`` in ``ignore_startup_parameters``, or be passed by.

    :param postgres_conn_id: Airflow connection; of its extra only libpq's TLS, keepalive and
        time-out keys are used (https://www.postgresql.org/docs/current/libpq-connect.html).
    :param database: database to connect to; default: the connection's.
    :param connect_timeout: seconds for the whole log-in, where the connection sets none; default 8: a
        log-in takes four round trips, and a slow network must not pass for a dead server.
    :param statement_timeout: seconds a statement may take on the server; default 10.
    :param lock_timeout: seconds a statement may wait for a lock; default 3.
    """

    read_only = True
    """Whether the server refuses every write of these sessions."""

    def __init__(
        self,
        *args: Any,
        connect_timeout: int = 8,
        statement_timeout: float = 10.0,
        lock_timeout: float = 3.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.connect_timeout = connect_timeout
        self.statement_timeout = statement_timeout
        self.lock_timeout = lock_timeout

    @classmethod
    def get_connection(cls, conn_id: str) -> Connection:
        """Return the Airflow connection.

        :raises MeasurementError: when there is none of this id.
        """
        try:
            found: Connection = super().get_connection(conn_id)
            return found
        except AirflowNotFoundException as error:
            raise MeasurementError(f"there is no Airflow connection {conn_id}") from error

    def read(self, statements: Mapping[str, Statement]) -> Iterator[Answer]:
        """Run statements over one connection, in one round trip as long as none fails.

        The answers come in the statements' order; one that fails does not take the others with it.
        Not a transaction: each statement sees the moment it runs in.

        :param statements: name → statement; named parameters (``%(name)s``).
        :raises Unreachable: when there is no connection; ``ConnectionsExhausted`` when none is left.
        :raises Forbidden: when the log-in is refused.
        """
        with closing(self.get_conn()) as connection:
            pending = dict(statements)
            while pending:
                for answer in self._pipeline(connection, dict(pending)):
                    del pending[answer.name]
                    yield answer

    def read_one(self, statement: Statement) -> Answer:
        """Run one statement.

        :raises MeasurementError: when it fails, or the connection does.
        """
        answer = next(self.read({"": statement}))
        if answer.error:
            raise answer.error
        return answer

    def read_few(self, statement: Statement, most: int) -> Answer:
        """Run one statement whose rows must be few; stop it when they are not, before they fill the memory.

        :raises UnexpectedAnswer: when there are more than ``most`` rows.
        :raises MeasurementError: when it fails, or the connection does.
        """
        with closing(self.get_conn()) as connection:
            query = _shown(connection, statement)
            try:
                with closing(connection.cursor().stream(statement.sql, statement.parameters)) as rows:
                    found = list(islice(rows, most + 1))
            except psycopg.Error as error:
                if isinstance(error, psycopg.ProgrammingError) and not error.sqlstate:  # the client's own
                    raise UnexpectedAnswer(SYSTEM, "the statement gave no rows") from None
                raise self._translated(error) from None
        if len(found) > most:
            raise UnexpectedAnswer(SYSTEM, f"more than {most} rows")
        return Answer("", found, query)

    def stream(self, statement: Statement) -> Iterator[Row]:
        """Yield the rows of one statement as they come; memory stays flat however many there are.

        The time a statement may take counts until the last row is fetched.

        :raises MeasurementError: when it fails, or the connection does.
        """
        with closing(self.get_conn()) as connection:
            try:
                yield from connection.cursor().stream(statement.sql, statement.parameters)
            except psycopg.Error as error:
                raise self._translated(error) from None

    def _pipeline(self, connection: Any, statements: Mapping[str, Statement]) -> Iterator[Answer]:
        """Send all at once; yield those that ran and the first that failed. The server skips the rest."""
        cursors: dict[str, psycopg.Cursor[Row]] = {}
        failure: psycopg.Error | None = None
        try:
            with connection.pipeline():
                for name, statement in statements.items():
                    cursors[name] = connection.execute(statement.sql, statement.parameters)
        except psycopg.Error as error:
            failure = error
        for name, statement in statements.items():
            query = _shown(connection, statement)
            cursor = cursors.get(name)
            if cursor is None or cursor.description is None:
                why = self._translated(failure) if failure else UnexpectedAnswer(SYSTEM, "the statement gave no rows")
                yield Answer(name, [], query, why)
                return
            yield Answer(name, cursor.fetchall(), query)

    def _create_connection(self, conn_args: dict[str, Any]) -> Any:
        known = self._known(conn_args)
        known["options"] = (
            f"-c default_transaction_read_only={'on' if self.read_only else 'off'}"
            f" -c statement_timeout={self.statement_timeout * 1000:.0f} -c lock_timeout={self.lock_timeout * 1000:.0f}"
        )
        try:
            return psycopg.connect(**known, autocommit=True)
        except psycopg.OperationalError as error:
            raise _no_connection(error, known) from None

    def _known(self, conn_args: Mapping[str, Any]) -> dict[str, Any]:
        """Return what of the connection reaches libpq."""
        known = {k: v for k, v in conn_args.items() if k in _ALLOWED_EXTRAS | _CORE and v not in (None, "")}
        known.setdefault("connect_timeout", self.connect_timeout)
        known.setdefault("application_name", "vcci-ops")
        return known

    def _translated(self, error: psycopg.Error) -> MeasurementError:
        said = (error.diag.message_primary or "").strip()
        match error:
            case errors.QueryCanceled():
                return Unreachable(SYSTEM, f"the statement took longer than {self.statement_timeout:g} s")
            case errors.LockNotAvailable():
                return Unreachable(SYSTEM, f"the statement waited longer than {self.lock_timeout:g} s for a lock")
            case errors.InsufficientPrivilege():
                return Forbidden(SYSTEM, f"run this statement as {self._user}: {said}")
            case _ if error.sqlstate in _NOTHING_THERE:
                return NoData(f"{SYSTEM} cannot run the statement: {said}")
            case psycopg.OperationalError():
                return Unreachable(SYSTEM, said or "the connection was lost during the statement")
        return UnexpectedAnswer(SYSTEM, f"error {error.sqlstate or type(error).__name__}: {said or 'no message'}")

    @property
    def _user(self) -> str:
        return str(self.connection.login or "the connection's user")


def _shown(connection: Any, statement: Statement) -> str:
    text = psycopg.ClientCursor(connection).mogrify(statement.sql, statement.parameters)
    return " ".join(re.sub(r"(?m)--.*$", "", text).split())


def _no_connection(error: psycopg.OperationalError, arguments: Mapping[str, Any]) -> MeasurementError:
    """Say why there is no connection, by the server's SQLSTATE where it gave one."""
    where = f"{arguments.get('host', 'localhost')}:{arguments.get('port', 5432)}"
    if isinstance(error, errors.ConnectionTimeout):
        return Unreachable(SYSTEM, f"no log-in at {where} within {arguments['connect_timeout']} s")
    code = _login_sqlstate(arguments)
    if code:
        return _refused(code, where, arguments.get("user", "?"), arguments.get("dbname", "?"))
    why = str(error).splitlines()[0].rpartition("failed: ")[2] or "no connection"
    return Unreachable(SYSTEM, f"{where}: {why}")


def _refused(code: str, where: str, user: str, database: str) -> MeasurementError:
    """Say what a refused log-in means. https://www.postgresql.org/docs/current/errcodes-appendix.html"""
    if code.startswith("28"):
        return Forbidden(SYSTEM, f"log in as {user} at {where} (SQLSTATE {code}: password, or pg_hba.conf)")
    if code == errors.InsufficientPrivilege.sqlstate:
        return Forbidden(SYSTEM, f"connect to database {database} as {user} (GRANT CONNECT)")
    if code == errors.TooManyConnections.sqlstate:
        return ConnectionsExhausted(SYSTEM, f"{where} has no connection left for {user}")
    if code == errors.InvalidCatalogName.sqlstate:
        return NoData(f"{SYSTEM} at {where} has no database {database}")
    return Unreachable(SYSTEM, f"{where} takes no log-in now (SQLSTATE {code})")


def _login_sqlstate(arguments: Mapping[str, Any]) -> str:
    """Log in again to learn the SQLSTATE of the refusal; "" when there is none.

    libpq keeps the code of a failed log-in to itself and gives only a text, in the server's
    language. Its protocol trace shows the code, so that a wrong password and a full server are told
    apart in any language. The trace goes to memory and is not kept.
    """
    text = {k: str(v) for k, v in arguments.items()}
    trace = os.memfd_create("libpq-trace")
    try:
        connection = pq.PGconn.connect_start(conninfo.make_conninfo(**text).encode())
        with closing(_Finishing(connection)):
            if connection.status == pq.ConnStatus.BAD:
                return ""
            connection.trace(trace)
            _log_in(connection, time.monotonic() + float(text["connect_timeout"]))
            connection.untrace()
        os.lseek(trace, 0, os.SEEK_SET)
        found = re.search(rb'ErrorResponse[^\n]*? C "(\w{5})"', os.read(trace, 65536))
        return found.group(1).decode() if found else ""
    except psycopg.Error:
        return ""
    finally:
        os.close(trace)


class _Finishing(NamedTuple):
    connection: Any

    def close(self) -> None:
        self.connection.finish()


def _log_in(connection: Any, until: float) -> None:
    while (left := until - time.monotonic()) > 0:
        polled = connection.connect_poll()
        if polled not in (pq.PollingStatus.READING, pq.PollingStatus.WRITING):
            return
        reading = polled == pq.PollingStatus.READING
        sockets = [connection.socket]
        select.select(sockets if reading else [], [] if reading else sockets, [], left)
