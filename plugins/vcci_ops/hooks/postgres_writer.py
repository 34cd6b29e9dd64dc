"""Writing to the production database: short transactions, with a time limit on every wait."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, cast

import psycopg

from vcci_ops.hooks.postgres import ReadOnlyPostgresHook


class WritingPostgresHook(ReadOnlyPostgresHook):
    """As :class:`~vcci_ops.hooks.postgres.ReadOnlyPostgresHook`, with the same limits, and allowed to write.

    What it may write is the role's business: include/sql/grants/ has what each of them needs.
    """

    read_only = False

    @contextmanager
    def transaction(self) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        """Yield a connection in a transaction: committed when the block ends well, else rolled back.

        :raises MeasurementError: when there is no connection, or the server refuses a statement; by SQLSTATE, without
            the values that were sent.
        """
        with closing(cast("psycopg.Connection[tuple[Any, ...]]", self.get_conn())) as connection:
            try:
                with connection.transaction():
                    yield connection
            except psycopg.Error as error:
                raise self._translated(error) from None
