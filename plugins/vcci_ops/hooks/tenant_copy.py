"""Rows out of PostgreSQL by COPY, counted and hashed on the way: as fast as psql, in flat memory."""

from __future__ import annotations

import dataclasses
import select
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

from isal import isal_zlib
from psycopg import OperationalError, pq

from vcci_ops.exceptions import UnexpectedAnswer
from vcci_ops.hooks.postgres import SYSTEM

if TYPE_CHECKING:
    from psycopg.sql import Composable

    from vcci_ops.hooks.tenant_session import Connection

BATCH = 1 << 18
"""Bytes of rows that are passed on together."""


@dataclasses.dataclass
class Tally:
    """What went by: rows, bytes of text, and the sum of the rows' CRC-32.

    The sum compares two databases, whatever the order in which they keep rows. What lay or travelled somewhere in
    between is held against its SHA-256.
    """

    rows: int = 0
    bytes: int = 0
    checksum: int = 0

    @property
    def told(self) -> tuple[int, int, int]:
        """What two databases with the same rows agree on."""
        return self.rows, self.bytes, self.checksum


def copied_out(connection: Connection, query: Composable, tally: Tally) -> Generator[bytearray]:
    """Yield a query's rows in COPY's text format, in batches of whole rows.

    psycopg's own Copy takes a third longer for rows as short as these: the connection beneath is read here.
    Closed before its end, it closes the connection, for the server would go on sending.
    https://www.postgresql.org/docs/current/libpq-copy.html

    :param query: ``COPY (...) TO STDOUT``, without parameters.
    :param tally: rows, bytes and checksum are added to it.
    :raises psycopg.Error: what the server says, at any time.
    :raises UnexpectedAnswer: when it counted other rows than came.
    """
    before, done = tally.rows, False
    wire = _Wire(connection)
    try:
        wire.begin(query.as_bytes(connection))
        yield from _batches(wire, tally)
        counted = wire.end()
        done = True
    finally:
        if not done:
            connection.close()
    if counted != tally.rows - before:
        raise UnexpectedAnswer(SYSTEM, f"COPY sent {tally.rows - before} rows and says that they were {counted}")


def _batches(wire: _Wire, tally: Tally) -> Iterator[bytearray]:
    """Gather rows; the one loop here that runs once a row."""
    crc32, next_row = isal_zlib.crc32, wire.pgconn.get_copy_data
    batch = bytearray()
    rows, checksum = 0, 0
    while True:
        length, row = next_row(1)
        if length > 0:
            rows += 1
            checksum += crc32(row)
            batch += row
            if len(batch) < BATCH:
                continue
        elif length == 0:
            wire.wait()
            continue
        tally.rows, tally.checksum, tally.bytes = tally.rows + rows, tally.checksum + checksum, tally.bytes + len(batch)
        rows, checksum = 0, 0
        if batch:
            yield batch
        if length < 0:
            return
        batch = bytearray()


class _Wire:
    """libpq's connection during one COPY; waiting leaves the interpreter to other threads."""

    def __init__(self, connection: Connection) -> None:
        self.pgconn = connection.pgconn
        self._readable = select.poll()
        self._readable.register(self.pgconn.socket, select.POLLIN)

    def wait(self) -> None:
        """Wait until the server has sent something."""
        self._readable.poll()
        self.pgconn.consume_input()

    def begin(self, statement: bytes) -> None:
        """Start the COPY."""
        self.pgconn.send_query(statement)
        while self.pgconn.flush():
            self._readable.poll(50)
            self.pgconn.consume_input()
        self._result(pq.ExecStatus.COPY_OUT)

    def end(self) -> int:
        """Return how many rows the server says that there were."""
        result = self._result(pq.ExecStatus.COMMAND_OK)
        while self.pgconn.get_result() is not None:
            pass
        return result.command_tuples or 0

    def _result(self, expected: pq.ExecStatus) -> Any:
        while self.pgconn.is_busy():
            self.wait()
        result = self.pgconn.get_result()
        if result is None:
            raise OperationalError("the connection was lost during COPY")
        if result.status != expected:
            from psycopg.errors import error_from_result

            raise error_from_result(result)
        return result
