"""Undoing an onboarding: what its tenant holds, and removing what the onboarding made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg

from vcci_ops.exceptions import Refused
from vcci_ops.hooks.tenant_session import TenantPostgres

if TYPE_CHECKING:
    from vcci_ops.settings_tenants import Documents

_PUBLIC = "public."


def rows_by_table(tenant_id: str, conn_id: str = "vcci_postgres_export") -> dict[str, int]:
    """Return how many rows each table has of a tenant, by the graph that a deletion goes by, too.

    Tables of the schema public are named without it.
    """
    from vcci_ops.hooks.tenant_graph import TenantCatalog

    graph = TenantCatalog(conn_id).graph(tenant_id)
    return {place.name.removeprefix(_PUBLIC): place.rows for place in graph.places}


def documents(tenant_id: str, slug: str, settings: Documents, conn_id: str = "vcci_s3") -> int:
    """Return how many documents a tenant has, every version of each."""
    from vcci_ops.hooks.tenant_store import TenantDocuments

    return TenantDocuments(settings, tenant_id, slug, conn_id).look().versions


def remove(tenant_id: str, conn_id: str = "vcci_postgres_erase") -> int:
    """Remove a tenant that holds nothing but what its onboarding made; return how many rows went.

    One transaction; a row of any other table that refers to the tenant or to one of its users undoes it.

    :param conn_id: connection of a role that may delete.
    :raises Refused: when there is such a row; nothing was removed.
    """
    with TenantPostgres(conn_id).transaction() as connection:
        try:
            users = connection.execute("DELETE FROM users WHERE tenant_id = %s", (tenant_id,)).rowcount
            tenant = connection.execute("DELETE FROM tenants WHERE id = %s", (tenant_id,)).rowcount
        except psycopg.errors.ForeignKeyViolation as error:
            table = error.diag.table_name or "another table"
            raise Refused(f"a row of {table} refers to the tenant meanwhile; nothing was removed") from None
    return users + tenant
