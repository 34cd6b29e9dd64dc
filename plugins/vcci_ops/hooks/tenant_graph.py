"""What is a tenant's in the production database: found, counted, measured; what stands against deleting it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from psycopg.sql import SQL, Composable, Composed, Identifier

from vcci_ops.domain.tenant_graph import Column, Convention, Graph, Link, Place, Table, build, quoted, slow
from vcci_ops.exceptions import NoData, UnexpectedAnswer
from vcci_ops.hooks.postgres import SYSTEM
from vcci_ops.hooks.tenant_rows import checked, condition, joined, nobodys, source
from vcci_ops.hooks.tenant_session import Connection, TenantPostgres, tenant_sql
from vcci_ops.settings import load_settings

if TYPE_CHECKING:
    from vcci_ops.settings_tenants import Erasure

NAMED = 5
"""Rows that are named where something is in the way; how many there are is counted up to COUNTED."""
COUNTED = 1000
_AND, _COMMA = SQL(" AND "), SQL(", ")


@dataclasses.dataclass(frozen=True)
class Tenant:
    """A customer of the platform.

    :param hold: why it must not be deleted; "" when nothing stands against it.
    """

    id: str
    slug: str
    name: str
    status: str
    hold: str = ""


def convention(erasure: Erasure) -> Convention:
    """Return how the platform names its tenants, as the settings have it."""
    schema, _, table = erasure.tenants_table.partition(".")
    return Convention(
        schema=schema,
        table=table,
        key=erasure.tenants_key,
        column=erasure.tenant_column,
        schemas_ignored=erasure.schemas_ignored,
        kept_tables=erasure.kept_tables,
        belongs_through=erasure.belongs_through,
        withheld=erasure.withheld_columns,
    )


class TenantCatalog:
    """Reads what is a tenant's.

    :param conn_id: PostgreSQL connection; of a role with include/sql/grants/vcci_ops_export.sql.
    :param erasure: limits and names; default: the settings'.
    """

    def __init__(self, conn_id: str = "vcci_postgres_export", erasure: Erasure | None = None) -> None:
        self.erasure = erasure or load_settings().tenants.erasure
        self.hook = TenantPostgres(
            postgres_conn_id=conn_id,
            statement_timeout=self.erasure.statement_timeout,
            lock_timeout=self.erasure.lock_timeout,
        )

    def find(self, slug: str) -> Tenant:
        """Return the tenant of a slug.

        :raises NoData: when there is none.
        """
        return self._tenant({"slug": slug, "tenant_id": None}, f"no tenant has the slug {slug}")

    def find_id(self, tenant_id: str) -> Tenant:
        """Return the tenant of an id.

        :raises NoData: when there is none.
        """
        return self._tenant({"slug": None, "tenant_id": checked(tenant_id)}, f"no tenant has the id {tenant_id}")

    def _tenant(self, wanted: dict[str, Any], otherwise: str) -> Tenant:
        with self.hook.snapshot() as connection:
            row = connection.execute(tenant_sql("tenant"), wanted).fetchone()
            if row is None:
                raise NoData(otherwise)
            id_, slug, name, status = row
            hold = connection.execute(tenant_sql("legal_hold"), {"tenant_id": id_}).fetchone()
        return Tenant(id_, slug, name, status, str(hold[0] or "").strip() if hold else "")

    def graph(self, tenant_id: str) -> Graph:
        """Return everything that is the tenant's, counted and measured in one snapshot.

        A tenant that is gone has a graph, too: of places without rows, when all was deleted.

        :raises InvalidInput: when the id is no UUID.
        :raises Forbidden: when the role may not read all of it; run the grants again after a migration.
        """
        tenant_id = checked(tenant_id)
        with self.hook.snapshot() as connection:
            graph = self.structure(connection)
            counted = _counts(connection, graph, tenant_id)
            sizes = _sizes(connection, graph)
            clears = _clears(connection, graph, tenant_id)
            large = connection.execute("SELECT count(*) FROM pg_largeobject_metadata").fetchone()
        graph = _measured(graph, counted, sizes, clears)
        warnings = slow(graph, {name: rows for name, (_, rows) in sizes.items()})
        if large and large[0]:
            warnings.append(f"finding: {large[0]:,} large objects; nothing tells whose they are, none is deleted")
        return dataclasses.replace(graph, warnings=(*warnings, *graph.warnings))

    def structure(self, connection: Connection) -> Graph:
        """Return the graph as the catalogue has it now, with nothing counted."""
        return build(tables(connection), _links(connection), convention(self.erasure))

    def blocked(self, graph: Graph, tenant_id: str) -> list[str]:
        """Return what stands against deleting the tenant: rows of others that refer to it, named by table and key.

        Also rows that are of two tenants at once, and kept rows that cannot stay without what they refer to.
        """
        tenant_id = checked(tenant_id)
        found = []
        with self.hook.snapshot() as connection:
            for words, rows in _obstacles(graph, tenant_id):
                if said := _named(connection, rows):
                    found.append(f"{words}: {said}")
        return found

    def findings(self, tenant_id: str, slug: str) -> list[str]:
        """Return where else the tenant's id or slug stands: in texts, JSON and arrays of rows that are not its own.

        :return: ``public.audit_log.details: 12 rows have the tenant's id``; what could not be searched whole is said.
        """
        from vcci_ops.hooks.tenant_search import search

        return search(self, checked(tenant_id), slug)

    def others(self, graph: Graph, tenant_id: str, before: str = "") -> dict[str, dict[str, Any]]:
        """Return rows and checksum, per table, of what is not the tenant's; :mod:`vcci_ops.hooks.tenant_others`.

        :param before: ``horizon`` of an earlier answer: only rows that stood then count.
        """
        from vcci_ops.hooks.tenant_others import checksums

        return checksums(self, graph, checked(tenant_id), before)


# The catalogue ----------------------------------------------------------------------------------


def tables(connection: Connection) -> list[Table]:
    """Return every table, view and the like."""
    rows = connection.execute(tenant_sql("tables")).fetchall()
    return [
        Table(schema, table, kind, tuple(Column(*column) for column in columns or ()), tuple(keys), tuple(triggers))
        for schema, table, kind, columns, keys, triggers in rows
    ]


def _links(connection: Connection) -> list[Link]:
    return [
        Link(name, quoted(child_schema, child), tuple(columns), quoted(schema, parent), tuple(up), on_delete, indexed)
        for name, child_schema, child, columns, schema, parent, up, on_delete, indexed in connection.execute(
            tenant_sql("links")
        )
    ]


def _counts(connection: Connection, graph: Graph, tenant_id: str) -> dict[str, int]:
    """Return how many rows of the tenant's each place has; in one round trip, for there may be hundreds of places."""
    places = (*graph.places, *graph.kept)
    with connection.pipeline():
        cursors = [
            connection.execute(
                SQL("SELECT count(*) FROM {} t WHERE {}").format(source(place), condition(graph, place, tenant_id))
            )
            for place in places
        ]
    return {place.name: _number(cursor.fetchone()) for place, cursor in zip(places, cursors, strict=True)}


def _clears(connection: Connection, graph: Graph, tenant_id: str) -> dict[Link, int]:
    """Return how many rows of nobody each foreign key will lose a reference of."""
    found = {}
    deleted = {place.name for place in graph.places}
    for link in graph.links:
        child = graph.place(link.child)
        if link.yields and link.parent in deleted and (not child.owner or child.owner_nullable):
            foreign = SQL("NOT {}").format(condition(graph, child, tenant_id))
            rows = _referring(graph, link, tenant_id, [*nobodys(child, "t"), foreign])
            found[link] = _number(connection.execute(SQL("SELECT count(*) {}").format(rows)).fetchone())
    return found


def _sizes(connection: Connection, graph: Graph) -> dict[str, tuple[int, float]]:
    names = [place.name for place in graph.everywhere()]
    rows = connection.execute(tenant_sql("sizes"), {"names": names}).fetchall()
    return {name: (int(size or 0), float(total or 0)) for name, size, total in rows}


def _measured(
    graph: Graph, counted: dict[str, int], sizes: dict[str, tuple[int, float]], clears: dict[Link, int]
) -> Graph:
    def measured(places: Iterable[Place]) -> tuple[Place, ...]:
        return tuple(
            dataclasses.replace(place, rows=(rows := counted.get(place.name, 0)), bytes=_share(rows, sizes, place.name))
            for place in places
        )

    links = tuple(dataclasses.replace(link, clears=clears.get(link, 0)) for link in graph.links)
    return dataclasses.replace(graph, places=measured(graph.places), kept=measured(graph.kept), links=links)


def _share(rows: int, sizes: dict[str, tuple[int, float]], name: str) -> int:
    size, total = sizes.get(name, (0, 0.0))
    return round(size * rows / max(rows, total, 1))


def _number(row: tuple[Any, ...] | None) -> int:
    if row is None:
        raise UnexpectedAnswer(SYSTEM, "a count gave no row")
    return int(row[0])


# What is in the way -----------------------------------------------------------------------------


def _referring(graph: Graph, link: Link, tenant_id: str, more: Iterable[Composable] = ()) -> Composed:
    """Return FROM and WHERE of a child's rows ``t`` that refer to a row ``p`` of the tenant."""
    child, parent = graph.place(link.child), graph.place(link.parent)
    exists = SQL("EXISTS (SELECT FROM {} p WHERE {} AND {})").format(
        source(parent), joined(link, "t", "p"), condition(graph, parent, tenant_id, "p")
    )
    return SQL("FROM {} t WHERE {}").format(source(child), _AND.join([*more, exists]))


def _obstacles(graph: Graph, tenant_id: str) -> Iterator[tuple[str, tuple[Place, Composed]]]:
    """Yield words for each way in which something may be in the way, with the place and FROM of the rows."""
    deleted = {place.name for place in graph.places}
    kept = {place.name for place in graph.kept}
    for link in graph.links:
        child = graph.place(link.child)
        if link.parent in deleted and child.owner and child.owner not in link.columns:
            others = SQL("{} IS NOT NULL AND NOT {}").format(Identifier("t", child.owner), _own(child, tenant_id))
            yield (
                f"rows of another tenant refer to it: {link.words}",
                (child, _referring(graph, link, tenant_id, [others])),
            )
        if link.parent in deleted and link.child in kept and not link.yields:
            yield (
                f"kept rows cannot stay, for they refer to what is deleted: {link.words}",
                (
                    child,
                    _referring(graph, link, tenant_id),
                ),
            )
        if link in graph.ways(link.child) and link.child in deleted:
            yield f"rows of two tenants at once: {link.words}", (child, _torn(graph, link, tenant_id))


def _own(place: Place, tenant_id: str) -> Composed:
    """Return the condition that a row names the tenant, by its column alone."""
    alone = Graph("", "", (dataclasses.replace(place, owner_nullable=False),))
    return condition(alone, alone.places[0], tenant_id)


def _torn(graph: Graph, link: Link, tenant_id: str) -> Composed:
    """Return FROM of the tenant's rows that belong, by this foreign key, to somebody else as well."""
    child, parent = graph.place(link.child), graph.place(link.parent)
    somebody = [SQL("{} IS NOT NULL").format(Identifier("p", parent.owner))] if parent.owner else []
    elsewhere = SQL("NOT {}").format(condition(graph, parent, tenant_id, "p"))
    exists = SQL("EXISTS (SELECT FROM {} p WHERE {})").format(
        source(parent), _AND.join([joined(link, "t", "p"), *somebody, elsewhere])
    )
    return SQL("FROM {} t WHERE {} AND {}").format(source(child), condition(graph, child, tenant_id), exists)


def _named(connection: Connection, found: tuple[Place, Composed]) -> str:
    """Name a few rows by their keys, and say how many there are; "" when there are none."""
    place, rows = found
    keys = [Identifier("t", key) for key in place.keys] or [Identifier("t", "ctid")]
    query = SQL("SELECT {} {} LIMIT {}").format(_COMMA.join(keys), rows, COUNTED + 1)
    found_rows = connection.execute(query).fetchall()
    named = [
        ", ".join(f"{key}={value}" for key, value in zip(place.keys or ("ctid",), row, strict=True))
        for row in found_rows[:NAMED]
    ]
    count = f"more than {COUNTED:,}" if len(found_rows) > COUNTED else str(len(found_rows))
    more = f"; {count} in all" if len(found_rows) > NAMED else ""
    return "; ".join(named) + more
