"""Checksums over what is not the tenant's, before and after: that a deletion changed nothing else.

Other tenants go on writing, so their tables are not the same before and after. What can be compared are rows that
stood *settled* before: written by transactions that had ended when the first checksum began. The first answer gives
that moment as ``horizon``; the second, asked with it, counts only rows that are still as they were then. When both are
equal, nobody touched any of them. When they differ, somebody did, and a checksum cannot tell who: that the deletion
did not is known by its own account (:mod:`vcci_ops.hooks.tenant_erase` reads after each batch, before it commits,
which tables the transaction wrote to).

Columns that the settings withhold are not compared, for the role may not read them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.sql import SQL, Composed, Identifier, Literal

from vcci_ops.hooks.tenant_graph import tables
from vcci_ops.hooks.tenant_rows import condition, source

if TYPE_CHECKING:
    from vcci_ops.domain.tenant_graph import Graph, Place
    from vcci_ops.hooks.tenant_graph import TenantCatalog

log = logging.getLogger(__name__)
PATIENCE = 900.0
"""Seconds for one table; a table that takes longer is said not to be compared."""
_HORIZON = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text"


def checksums(catalog: TenantCatalog, graph: Graph, tenant_id: str, before: str = "") -> dict[str, dict[str, Any]]:
    """Return ``rows``, ``checksum`` and ``horizon`` per table, of settled rows that are not the tenant's.

    The checksum does not depend on the order of rows. A table that could not be read in time has the checksum ""
    and says ``why``. Each table is read for itself: no snapshot is held while the next one is read.

    :param before: the horizon of an earlier answer; default: now.
    """
    found: dict[str, dict[str, Any]] = {}
    with catalog.hook.session() as connection:
        connection.execute(SQL("SET statement_timeout = {}").format(Literal(f"{PATIENCE:.0f}s")))
        row = connection.execute(_HORIZON).fetchone()
        horizon = before or str(row[0] if row else "")
        live = {table.name: table for table in tables(connection)}
        for place in graph.everywhere():
            if place.name in live:
                columns = [c.name for c in live[place.name].columns if c.name not in catalog.erasure.withheld_columns]
                query = _query(columns, place, condition(graph, place, tenant_id), horizon)
                found[place.name] = {**_one(connection, place, query), "horizon": horizon}
    return found


def _one(connection: psycopg.Connection[Any], place: Place, query: Composed) -> dict[str, Any]:
    try:
        row = connection.execute(query).fetchone()
    except psycopg.errors.QueryCanceled:
        log.warning("%s: not compared, for reading it takes longer than %.0f s", place.name, PATIENCE)
        return {"rows": 0, "checksum": "", "why": f"reading it takes longer than {PATIENCE:.0f} s"}
    count, total = row or (0, 0)
    return {"rows": int(count), "checksum": f"{int(total or 0) % 2**128:032x}"}


def _query(columns: list[str], place: Place, own: Composed, horizon: str) -> Composed:
    return SQL(
        "SELECT count(*), sum(hashtextextended(ROW({})::text, 0)) FROM {} t "
        "WHERE NOT ({}) AND age(t.xmin) > age({}::xid8::xid)"
    ).format(SQL(", ").join(Identifier("t", column) for column in columns), source(place), own, Literal(horizon))


def unharmed(before: Mapping[str, Mapping[str, Any]], after: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return in words which tables differ between two answers of :func:`checksums`; empty: none, all was compared.

    :param after: made with the horizon of ``before``.
    """
    said = []
    for name, was in before.items():
        now = after.get(name)
        if now is None:
            said.append(f"{name}: the table is gone")
        elif not (was["checksum"] and now["checksum"]):
            said.append(f"{name}: not compared, {now.get('why') or was.get('why')}")
        elif was["checksum"] != now["checksum"]:
            gone = int(was["rows"]) - int(now["rows"])
            said.append(f"{name}: {gone:,} of {was['rows']:,} rows of others were changed or deleted meanwhile")
    return said
