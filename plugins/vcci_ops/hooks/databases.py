"""Dropping a database that others may be in."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from psycopg import errors
from psycopg.sql import SQL, Identifier

from vcci_ops.exceptions import Unreachable
from vcci_ops.hooks.postgres import SYSTEM

if TYPE_CHECKING:
    from vcci_ops.hooks.tenant_session import Connection

_THERE = "SELECT 1 FROM pg_catalog.pg_database WHERE datname = %s"
_END_SESSIONS = (
    "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity "
    "WHERE datname = %s AND pg_catalog.pg_has_role(usesysid, 'USAGE')"
)
_OTHERS = "SELECT DISTINCT usename::text FROM pg_catalog.pg_stat_activity WHERE datname = %s AND usename IS NOT NULL"


def drop_database(server: Connection, name: str) -> None:
    """Drop a database with the sessions in it; one that is gone already is fine.

    Not by ``WITH (FORCE)``: PostgreSQL refuses that to all but superusers while autovacuum works in the database, which
    it does after every restore of some size. A plain DROP ends autovacuum by itself, and waits five seconds for those
    whose sessions were ended here; nobody new comes in meanwhile.
    https://www.postgresql.org/docs/current/sql-dropdatabase.html

    :param server: a session in another database, of the owner or a member of it.
    :raises Unreachable: when sessions of others are in it that this role may not end; names their roles.
    """
    with contextlib.suppress(errors.InvalidCatalogName):
        if not server.execute(_THERE, (name,)).fetchone():
            return
        server.execute(SQL("ALTER DATABASE {} CONNECTION LIMIT 0").format(Identifier(name)))
        server.execute(_END_SESSIONS, (name,))
        try:
            server.execute(SQL("DROP DATABASE {}").format(Identifier(name)))
        except errors.ObjectInUse:
            others = sorted(role for (role,) in server.execute(_OTHERS, (name,)).fetchall())
            why = f"{name} is still there, for {', '.join(others) or 'somebody'} is connected to it. End that session"
            raise Unreachable(SYSTEM, why) from None
