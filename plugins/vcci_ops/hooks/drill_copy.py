"""Sessions of a restored copy, several side by side, and what every look at it shares."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from vcci_ops.hooks.crew import Crew
from vcci_ops.hooks.table_sums import alike
from vcci_ops.hooks.tenant_session import TenantPostgres
from vcci_ops.settings import INCLUDE

if TYPE_CHECKING:
    from vcci_ops.domain.drill_choice import Manifest
    from vcci_ops.hooks.tenant_session import Connection
    from vcci_ops.settings_drill import Drill

T = TypeVar("T")
R = TypeVar("R")


def drill_sql(name: str) -> bytes:
    """Return the text of include/sql/drill/<name>.sql."""
    return (INCLUDE / "sql" / "drill" / f"{name}.sql").read_bytes()


def label(schema: str, name: str) -> str:
    """Return how a table is named: ``schema.table``, or ``table`` in the schema public."""
    return name if schema == "public" else f"{schema}.{name}"


@dataclasses.dataclass(frozen=True)
class Copy:
    """A restored copy and what it is held against.

    :param manifest: of the backup it was made of.
    :param taken_at: when that was taken.
    :param drill: the settings.
    """

    database: str
    manifest: Manifest
    taken_at: dt.datetime
    drill: Drill
    conn_id: str = "vcci_postgres_restore"

    @contextmanager
    def session(self, *, writes: bool = False) -> Iterator[Connection]:
        """Yield a session that finds only what is named in full.

        :raises MeasurementError: what the server refused, in words; never with a value of a row.
        """
        hook = TenantPostgres(self.conn_id, database=self.database, statement_timeout=0, lock_timeout=30)
        with hook.session(writes=writes) as connection:
            alike(connection)
            yield connection

    def side_by_side(self, items: Sequence[T], look: Callable[[Connection, T], R]) -> list[R]:
        """Look at things in up to ``drill.jobs`` sessions at once; the answers come in the order of the things.

        :raises MeasurementError: what one of them met first.
        """
        size = max(1, min(self.drill.jobs, len(items)))
        waiting = list(enumerate(items))
        answers: dict[int, R] = {}

        def work() -> None:
            with self.session() as connection:
                while waiting and not crew.stopped.is_set():
                    try:
                        number, item = waiting.pop(0)
                    except IndexError:
                        return
                    answers[number] = look(connection, item)

        with Crew(size) as crew:
            futures: list[Future[None]] = [crew.submit(work) for _ in range(size)]
            for future in futures:
                future.result()
        return [answers[number] for number in range(len(items))]


def rows(connection: Connection, name: str) -> list[dict[str, Any]]:
    """Return what include/sql/drill/<name>.sql finds, by column."""
    cursor = connection.execute(drill_sql(name))
    columns = [column.name for column in cursor.description or ()]
    return [dict(zip(columns, row, strict=True)) for row in cursor.fetchall()]


def count(found: Mapping[Any, Any] | Sequence[Any] | int, noun: str) -> str:
    """Return ``12 tables``, ``1 table``."""
    number = found if isinstance(found, int) else len(found)
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
