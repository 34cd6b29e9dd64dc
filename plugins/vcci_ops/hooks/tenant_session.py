"""Connections for what concerns a tenant: texts always written alike, no row hidden, errors in our words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, cast

import psycopg
from psycopg import IsolationLevel

from vcci_ops.exceptions import Forbidden, MeasurementError
from vcci_ops.hooks.postgres import SYSTEM, ReadOnlyPostgresHook
from vcci_ops.settings import INCLUDE

Connection = psycopg.Connection[tuple[Any, ...]]

WRITTEN_ALIKE = (
    "SET datestyle = 'ISO, YMD'; SET intervalstyle = 'postgres'; SET timezone = 'UTC'; SET bytea_output = 'hex'; "
    "SET extra_float_digits = 1; SET xmlbinary = 'base64'; SET lc_monetary = 'C'; "
    # A policy of row-level security would hide rows without a word; so the server refuses instead.
    "SET row_security = off"
)
_HIDDEN = "row-level security hides rows from it: ALTER ROLE {} BYPASSRLS"


def tenant_sql(name: str) -> str:
    """Return the text of include/sql/tenants/<name>.sql."""
    return (INCLUDE / "sql" / "tenants" / f"{name}.sql").read_text(encoding="utf-8")


class TenantPostgres(ReadOnlyPostgresHook):
    """Sessions of the tenant lifecycle.

    :param statement_timeout: seconds a statement may take; ``lock_timeout``: seconds it may wait for a lock.
    """

    @contextmanager
    def session(self, *, writes: bool = False) -> Iterator[Connection]:
        """Yield a connection that commits each statement by itself.

        :param writes: whether it may change something.
        :raises MeasurementError: what the server refused, in words.
        """
        with closing(cast(Connection, self.get_conn())) as connection, self.translated():
            connection.execute(WRITTEN_ALIKE)
            if writes:
                connection.execute("SET default_transaction_read_only = off")
            yield connection

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """Yield a connection within one transaction that sees the database as it is now, and only reads.

        :raises MeasurementError: what the server refused, in words.
        """
        with self.session() as connection:
            connection.isolation_level = IsolationLevel.REPEATABLE_READ
            with connection.transaction():
                yield connection

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Yield a connection that may write, in a transaction: committed when the block ends well, else rolled back.

        :raises MeasurementError: what the server refused, in words.
        """
        with self.session(writes=True) as connection, connection.transaction():
            yield connection

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turn the server's errors into ours."""
        try:
            yield
        except psycopg.Error as error:
            raise self.in_words(error) from None

    def in_words(self, error: psycopg.Error) -> MeasurementError:
        """Return what the server's error means; never with a value of a row."""
        said = str(error.diag.message_primary or "")
        if isinstance(error, psycopg.errors.InsufficientPrivilege) and "row-level security" in said:
            return Forbidden(SYSTEM, f"read every row as {self._user}: {_HIDDEN.format(self._user)}")
        return self._translated(error)
