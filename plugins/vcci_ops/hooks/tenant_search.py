"""Looking for a tenant's id and slug where no key leads: in texts, JSON, XML and arrays of any table."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.sql import SQL, Composable, Composed, Identifier, Literal

from vcci_ops.domain.tenant_graph import quoted
from vcci_ops.hooks.tenant_graph import tables
from vcci_ops.hooks.tenant_rows import condition

if TYPE_CHECKING:
    from vcci_ops.domain.tenant_graph import Column, Graph, Table
    from vcci_ops.hooks.tenant_graph import TenantCatalog

MOST = 200
"""Findings at most; the rest is counted."""
PATIENCE = 600.0
"""Seconds for the whole search."""
SAMPLE_PERCENT = 1
_LEAST = 1.0
_SEARCHED = {"text", "varchar", "bpchar", "citext", "json", "jsonb", "xml", "hstore", "name", "uuid", "ltree"}


def search(catalog: TenantCatalog, tenant_id: str, slug: str) -> list[str]:
    """Return where the id or the slug stands in rows that are not the tenant's.

    The slug counts as a whole word only. A table that cannot be read in time is searched by a sample of its pages,
    and that is said; so is one that was not searched at all.
    """
    said: list[str] = []
    until = time.monotonic() + PATIENCE
    with catalog.hook.session() as connection:
        graph = catalog.structure(connection)
        for table in tables(connection):
            columns = [column for column in table.columns if _searchable(column, catalog.erasure.withheld_columns)]
            if table.kind in "rpm" and columns:
                search_one = _Search(connection, graph, table, columns, tenant_id, slug)
                said += search_one.findings(until, catalog.erasure.statement_timeout)
    return said if len(said) <= MOST else [*said[:MOST], f"and {len(said) - MOST} more findings"]


def _searchable(column: Column, withheld: tuple[str, ...]) -> bool:
    return column.type.removeprefix("_") in _SEARCHED and column.name not in withheld


@dataclasses.dataclass(frozen=True)
class _Search:
    connection: psycopg.Connection[Any]
    graph: Graph
    table: Table
    columns: list[Column]
    tenant_id: str
    slug: str

    def findings(self, until: float, timeout: float) -> Iterator[str]:
        """Search the whole table; when that takes too long, a sample."""
        for percent in (100, SAMPLE_PERCENT):
            left = min(until - time.monotonic(), timeout)
            if left < _LEAST:
                break
            try:
                counts = self._counts(percent, left)
            except psycopg.errors.QueryCanceled:
                continue
            except psycopg.errors.LockNotAvailable:
                yield f"not searched: {self.table.name}, for somebody holds its lock"
                return
            if percent < 100:
                yield f"not searched whole: {self.table.name}, only {percent} % of its pages were"
            yield from self._words(counts)
            return
        yield f"not searched: {self.table.name}, for it takes longer than the search may"

    def _counts(self, percent: int, seconds: float) -> tuple[int, ...]:
        with self.connection.transaction():
            self.connection.execute(SQL("SET LOCAL statement_timeout = {}").format(Literal(int(seconds * 1000))))
            row = self.connection.execute(self._query(percent)).fetchone()
        return tuple(row or ())

    def _query(self, percent: int) -> Composed:
        counts = [SQL("count(*) FILTER (WHERE {})").format(found) for c in self.columns for found in self._found(c)]
        place = next((place for place in self.graph.everywhere() if place.name == self.table.name), None)
        elsewhere = SQL("NOT {}").format(condition(self.graph, place, self.tenant_id)) if place else SQL("true")
        return SQL("SELECT {} FROM {} {} t {} WHERE {}").format(
            SQL(", ").join(counts),
            SQL("ONLY" if self.table.kind == "r" else ""),
            Identifier(self.table.schema, self.table.table),
            SQL("TABLESAMPLE SYSTEM ({})").format(Literal(percent)) if percent < 100 else SQL(""),
            elsewhere,
        )

    def _found(self, column: Column) -> tuple[Composable, Composable]:
        """Return the conditions that a column has the id, and the slug; looking for a plain text first is quicker."""
        name = Identifier("t", column.name)
        if column.type == "uuid":
            return SQL("{} = {}").format(name, Literal(self.tenant_id)), SQL("false")
        text = SQL("lower({}::text)").format(name)
        id_, bare = Literal(self.tenant_id), Literal(self.tenant_id.replace("-", ""))
        slug = self.slug.lower()
        word = Literal(rf"(^|[^a-z0-9-]){re.escape(slug)}($|[^a-z0-9-])")
        return (
            SQL("strpos({0}, {1}) > 0 OR strpos({0}, {2}) > 0").format(text, id_, bare),
            SQL("strpos({0}, {1}) > 0 AND {0} ~ {2}").format(text, Literal(slug), word) if slug else SQL("false"),
        )

    def _words(self, counts: tuple[int, ...]) -> Iterator[str]:
        for number, column in enumerate(self.columns):
            for what, count in zip(("id", "slug"), counts[2 * number : 2 * number + 2], strict=True):
                if count:
                    rows = "1 row has" if count == 1 else f"{count:,} rows have"
                    yield f"{self.table.name}.{quoted(column.name)}: {rows} the tenant's {what}"
