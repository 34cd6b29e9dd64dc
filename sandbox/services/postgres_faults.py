"""What can go wrong with the production database."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
from psycopg import sql

from sandbox.platform.data import TENANTS
from sandbox.service import Fault, Sandbox, SandboxError, wait_until

SERVER = "pg-production"
CONNECTIONS, TRANSACTION = "fault-db-connections", "fault-db-idle-transaction"
MIGRATION = "fault-migration-slow"
PROCESSES = (CONNECTIONS, TRANSACTION, MIGRATION)
"""Processes that faults start; stopping the server ends them."""
ATTACKER = "203.0.113.66"
INTRUDER = "contractor@nordwind-manufacturing.example"
STRAY_ROLE, STRAY_USER = "debug_superuser", "help@bluepeak-foods.example"
SLOW = (
    "SELECT s.country, count(*) FROM suppliers AS s, pg_sleep(%(seconds)s) AS recalculated "
    "WHERE s.name ILIKE %(pattern)s GROUP BY s.country"
)
_SLOW_LIKE = "SELECT s.country, count(*) FROM suppliers AS s, pg_sleep(%"


def _admin(sandbox: Sandbox) -> Any:
    from sandbox.services import postgres

    if not sandbox.pid(SERVER):
        raise SandboxError(f"{SERVER} does not run: python -m sandbox heal postgres-down, or up")
    return postgres.admin(sandbox, postgres.Production(), postgres.PRODUCTION)


def _one(connection: psycopg.Connection[Any], query: str) -> Any:
    row = connection.execute(query.encode()).fetchone()
    return row[0] if row else None


def _fill_up(sandbox: Sandbox, options: dict[str, Any]) -> None:
    percent = options["percent"]
    used = (
        "SELECT 100.0 * count(*) / current_setting('max_connections')::int "
        "FROM pg_stat_activity WHERE backend_type = 'client backend'"
    )
    with _admin(sandbox) as connection:
        sandbox.python(CONNECTIONS, "sandbox.platform.hold", "connections", str(percent))
        wait_until(f"{percent} % of the connections in use", lambda: _one(connection, used) >= percent)


def _forget(sandbox: Sandbox, options: dict[str, Any]) -> None:
    # The start of a transaction cannot be forged: wait until it is as old as the sandbox's limit.
    age = (
        "SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0) "
        "FROM pg_stat_activity WHERE state = 'idle in transaction'"
    )
    seconds = options["seconds"]
    with _admin(sandbox) as connection:
        sandbox.python(TRANSACTION, "sandbox.platform.hold", "transaction")
        wait_until("an idle transaction", lambda: _one(connection, age) >= seconds, seconds=seconds + 20)


def _migrate_slowly(sandbox: Sandbox, options: dict[str, Any]) -> None:
    locked = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 20250101 AND granted"
    with _admin(sandbox) as connection:
        sandbox.python(MIGRATION, "sandbox.platform.hold", "migration", str(options["seconds"]))
        wait_until("the migrations' lock is held", lambda: _one(connection, locked) > 0)


def _go_down(sandbox: Sandbox, _options: dict[str, Any]) -> None:
    from sandbox.services import postgres

    postgres.Production().stop(sandbox)


def _come_back(sandbox: Sandbox, _options: dict[str, Any]) -> None:
    from sandbox.services import postgres

    service = postgres.Production()
    service.start(sandbox)
    service.prepare(sandbox)
    # What was healed while the server was down could not be undone then.
    for name, heal in (("security-anomalies", _expel), ("slow-query", _speed_up), ("stray-admin", _stray_out)):
        if name not in sandbox.state.faults():
            heal(sandbox, {})


def _intrude(sandbox: Sandbox, options: dict[str, Any]) -> None:
    _expel(sandbox, options)
    tenant = TENANTS[0]
    attempt = (
        "INSERT INTO audit_log (tenant_id, action, actor, target, ip, details, created_at) "
        "SELECT %s, 'login.failed', %s, 'login', %s, %s, now() - n * interval '3 seconds' FROM generate_series(1, %s) n"
    )
    change = "INSERT INTO audit_log (tenant_id, action, actor, target, ip, details) VALUES (%s, %s, %s, %s, %s, %s)"
    admin, reason = f"ada.brandt@{tenant.slug}.example", json.dumps({"reason": "bad password"})
    with _admin(sandbox) as connection, connection.transaction():
        connection.execute(attempt, (tenant.id, admin, ATTACKER, reason, options["failed_logins"]))
        connection.execute(
            "INSERT INTO users (tenant_id, email, name, role) VALUES (%s, %s, 'Contractor', 'admin')",
            (tenant.id, INTRUDER),
        )
        for action, details in (
            ("user.created", {"role": "analyst"}),
            ("role.changed", {"from": "analyst", "to": "admin"}),
            ("api_key.created", {"scopes": ["emissions:write"]}),
        ):
            connection.execute(change, (tenant.id, action, admin, INTRUDER, ATTACKER, json.dumps(details)))


def _expel(sandbox: Sandbox, _options: dict[str, Any]) -> None:
    if not sandbox.pid(SERVER):
        return
    with _admin(sandbox) as connection, connection.transaction():
        connection.execute("DELETE FROM audit_log WHERE ip = %s", (ATTACKER,))
        connection.execute("DELETE FROM users WHERE email = %s", (INTRUDER,))


def _stray_in(sandbox: Sandbox, options: dict[str, Any]) -> None:
    _stray_out(sandbox, options)
    role = sql.SQL("CREATE ROLE {} LOGIN SUPERUSER PASSWORD {}")
    key = (
        "UPDATE api_keys SET last_used_at = now() - interval '200 days', created_at = now() - interval '500 days' "
        "WHERE tenant_id = %s AND name = 'bi-export'"
    )
    with _admin(sandbox) as connection, connection.transaction():
        connection.execute(role.format(sql.Identifier(STRAY_ROLE), sql.Literal(sandbox.secret("postgres-stray"))))
        connection.execute(
            "INSERT INTO users (tenant_id, email, name, role, last_login) VALUES (%s, %s, 'Help', 'admin', now())",
            (TENANTS[1].id, STRAY_USER),
        )
        connection.execute(key, (TENANTS[1].id,))


def _stray_out(sandbox: Sandbox, _options: dict[str, Any]) -> None:
    if not sandbox.pid(SERVER):
        return
    key = (
        "UPDATE api_keys SET last_used_at = now() - interval '1 hour', created_at = now() - interval '200 days' "
        "WHERE tenant_id = %s AND created_at < now() - interval '400 days'"
    )
    with _admin(sandbox) as connection, connection.transaction():
        connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(STRAY_ROLE)))
        connection.execute("DELETE FROM sessions USING users WHERE users.id = user_id AND email = %s", (STRAY_USER,))
        connection.execute("DELETE FROM users WHERE email = %s", (STRAY_USER,))
        connection.execute(key, (TENANTS[1].id,))


def _slow_down(sandbox: Sandbox, options: dict[str, Any]) -> None:
    from sandbox.services import postgres

    given = postgres.parameters(sandbox, "postgres-direct", "vcci_app", postgres.PRODUCTION)

    def run(share: int) -> None:
        with psycopg.connect(**given, application_name="backend-api", autocommit=True) as connection:
            for _ in range(share):
                connection.execute(SLOW, {"seconds": options["seconds"], "pattern": "%steel%"})

    sessions, calls = 5, options["calls"]
    with ThreadPoolExecutor(sessions) as pool:
        list(pool.map(run, [calls // sessions + (n < calls % sessions) for n in range(sessions)]))


def _speed_up(sandbox: Sandbox, _options: dict[str, Any]) -> None:
    if not sandbox.pid(SERVER):
        return
    with _admin(sandbox) as connection:
        connection.execute(
            "SELECT pg_stat_statements_reset(userid, dbid, queryid) FROM pg_stat_statements "
            "WHERE starts_with(query, %s)",
            (_SLOW_LIKE.removesuffix("%"),),
        )


def _end(process: str) -> Any:
    return lambda sandbox, _options: sandbox.end(process)


FAULTS = (
    Fault(
        name="db-connections",
        summary="a leaking pool holds nearly all connections of the production database",
        shows_as="database.connections warning",
        apply=_fill_up,
        heal=_end(CONNECTIONS),
        options={"percent": 92},
    ),
    Fault(
        name="db-idle-transaction",
        summary="a session has changed a row and sits idle in its transaction",
        shows_as="database.transactions warning",
        apply=_forget,
        heal=_end(TRANSACTION),
        options={"seconds": 11.0},
    ),
    Fault(
        name="migration-slow",
        summary="somebody else holds the lock that migrations take: one that starts now waits its time",
        shows_as="a release's migration takes so much longer",
        apply=_migrate_slowly,
        heal=_end(MIGRATION),
        options={"seconds": 30.0},
    ),
    Fault(
        name="postgres-down",
        summary="the production database server is down",
        shows_as="all database.*, security.* and tenants.active unknown: unreachable",
        apply=_go_down,
        heal=_come_back,
    ),
    Fault(
        name="security-anomalies",
        summary="somebody tries passwords from one address, then becomes an administrator and makes an API key",
        shows_as="security.failed_logins, security.admins and security.privileges warning",
        apply=_intrude,
        heal=_expel,
        options={"failed_logins": 120},
    ),
    Fault(
        name="stray-admin",
        summary="a superuser that somebody made to look at something, a new administrator, an API key nobody uses",
        shows_as="lines of the access review",
        apply=_stray_in,
        heal=_stray_out,
    ),
    Fault(
        name="slow-query",
        summary="a statement that was not among the slow ones now takes long each time",
        shows_as="database.slow_queries warning",
        apply=_slow_down,
        heal=_speed_up,
        options={"seconds": 0.15, "calls": 25},
    ),
)
