"""The PostgreSQL servers: production, the one restores are tried on, and Airflow's own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from sandbox.platform import RELEASE_REVISION, backups, data
from sandbox.service import Sandbox, SandboxError, Service, wait_until
from sandbox.services.postgres_faults import FAULTS, PROCESSES
from sandbox.state import ROOT

GRANTS = ROOT / "include" / "sql" / "grants"
PRODUCTION = "vcci_production"
ACTING = {
    "vcci_ops_tenants": "vcci_postgres_tenants",
    "vcci_ops_export": "vcci_postgres_export",
    "vcci_ops_erase": "vcci_postgres_erase",
    "vcci_ops_backup": "vcci_postgres_backup",
    "vcci_ops_maintenance": "vcci_postgres_maintenance",
}
"""Roles that act on production, and the connections that log in as them."""
_EXTRA = {"connect_timeout": 5, "application_name": "vcci-ops"}


class Server(Service):
    """A PostgreSQL server, its data in the folder of its name; superuser ``postgres``, password log-in only."""

    programs: Mapping[str, str] = {"initdb": "postgresql", "postgres": "postgresql", "setpriv": "util-linux"}
    settings: Mapping[str, str] = {}

    def start(self, sandbox: Sandbox) -> None:
        """Make the cluster if there is none, then run the server until it answers or gives up."""
        if not (sandbox.folder / self.name).exists():
            self._initdb(sandbox)
        for attempt in range(8):
            time.sleep(0.1 * attempt)
            sandbox.spawn(self.name, self._command(sandbox), cwd=Path("/"))
            wait_until(
                f"{self.name} up", lambda: sandbox.pid(self.name) is None or self.ready(sandbox), seconds=60, every=0.05
            )
            # After a kill -9 the old server's children need a moment to notice; until then a new one refuses.
            if sandbox.pid(self.name):
                return
        raise SandboxError(f"{self.name} does not start; see {sandbox.log(self.name)}")

    def ready(self, sandbox: Sandbox) -> bool:
        """Whether it lets the superuser in."""
        try:
            with admin(sandbox, self):
                return True
        except psycopg.OperationalError:
            return False

    def stop(self, sandbox: Sandbox) -> None:
        """Shut down without waiting for clients (SIGINT: "fast")."""
        sandbox.end(self.name, how=signal.SIGINT, patience=20)

    def _command(self, sandbox: Sandbox) -> list[str]:
        given = {
            "listen_addresses": "127.0.0.1",
            "port": str(sandbox.port(self.ports[0])),
            "unix_socket_directories": "",
            "fsync": "off",  # survives a killed server, not a killed machine: right for a stage
            "synchronous_commit": "off",
            "full_page_writes": "off",
            "max_wal_size": "512MB",
            "jit": "off",
            "logging_collector": "off",
            "log_min_duration_statement": "1000",
            "log_lock_waits": "on",
            "timezone": "UTC",
            **self.settings,
        }
        options = [word for key, value in given.items() for word in ("-c", f"{key}={value}")]
        postgres = sandbox.program("postgres", "postgresql")
        return sandbox.unprivileged([postgres, "-D", str(sandbox.folder / self.name), *options])

    def _initdb(self, sandbox: Sandbox) -> None:
        # Made under another name: a folder that bears the right one is whole, even if this is killed half-way.
        folder = sandbox.folder / f"{self.name}.new"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700, parents=True)
        password = sandbox.folder / f"{self.name}.password"
        password.touch(mode=0o600)
        password.write_text(sandbox.secret(f"{self.name}-postgres"))
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres", "postgres")
        argv = [sandbox.program("initdb", "postgresql"), "--no-sync", "-D", str(folder), "-U", "postgres", "-E", "UTF8"]
        argv += ["--locale=C.UTF-8", "--auth=scram-sha-256", f"--pwfile={password}"]
        try:
            done = subprocess.run(
                sandbox.unprivileged(argv), capture_output=True, text=True, cwd="/", check=False, timeout=120
            )
        finally:
            password.unlink()
        if done.returncode:
            raise SandboxError(f"initdb for {self.name} failed: {done.stderr.strip()}")
        folder.rename(sandbox.folder / self.name)


class Production(Server):
    """The platform's database server. Clients come through the proxy's port ``postgres``."""

    name = "pg-production"
    ports = ("postgres-direct",)
    programs: Mapping[str, str] = {**Server.programs, "pg_dump": "postgresql-client"}
    settings: Mapping[str, str] = {
        "shared_preload_libraries": "pg_stat_statements",
        "max_connections": "100",
        "track_io_timing": "on",
        "log_connections": "off",
    }
    faults = FAULTS

    def prepare(self, sandbox: Sandbox) -> None:
        """Bring schema, roles and data to what release v2.0.0 has; refresh what must look recent."""
        with admin(sandbox, self) as connection:
            password = sandbox.secret("postgres-vcci_app")
            create_role(connection, "vcci_app", password)
            for role in ("vcci_ops", *ACTING):
                create_role(connection, role, sandbox.secret(f"postgres-{role}"))
            create_database(connection, PRODUCTION, "vcci_app")
        with admin(sandbox, self, PRODUCTION) as connection:
            connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
            loaded = "platform" in sandbox.state.read() and revision(connection) is not None
            # Once loaded, the schema is the platform's business: a release may have moved it on.
            if not loaded and revision(connection) != RELEASE_REVISION:
                migrate(url(sandbox, "postgres-direct", "vcci_app", PRODUCTION))
            for file in sorted(GRANTS.glob("*.sql")):
                connection.execute(file.read_bytes())
        if not loaded:
            self._load(sandbox)
        refresh(sandbox)

    def _load(self, sandbox: Sandbox) -> None:
        with admin(sandbox, self, PRODUCTION, autocommit=False) as connection:
            tables = sql.SQL(", ").join(map(sql.Identifier, [*data.TABLES, "emissions"]))
            connection.execute(sql.SQL("TRUNCATE {}").format(tables))
            loaded = backups.load_and_dump(sandbox, connection)
        with admin(sandbox, self, PRODUCTION) as connection:
            connection.execute("VACUUM ANALYZE")
            connection.execute("SELECT pg_stat_statements_reset()")
        with psycopg.connect(**parameters(sandbox, "postgres-direct", "vcci_app", PRODUCTION)) as connection:
            everyday_statements(connection)
        with sandbox.state.change() as state:
            state["platform"] = loaded

    def stop(self, sandbox: Sandbox) -> None:
        """Stop the processes that faults have started, then the server."""
        for process in PROCESSES:
            sandbox.end(process)
        super().stop(sandbox)

    def connections(self, sandbox: Sandbox) -> dict[str, dict[str, Any]]:
        """Return vcci_postgres, the read-only role, and those that act; all through the proxy."""
        roles = {"vcci_postgres": "vcci_ops", **{id_: role for role, id_ in ACTING.items()}}
        return {id_: airflow_connection(sandbox, "postgres", role, PRODUCTION) for id_, role in roles.items()}


class Restore(Server):
    """An empty server on which restores are tried."""

    name = "pg-restore"
    ports = ("postgres-restore",)
    settings: Mapping[str, str] = {"max_connections": "50", "max_wal_size": "1GB"}

    def prepare(self, sandbox: Sandbox) -> None:
        """Create the role that may create databases, the one that tests log in as, and what databases are made from."""
        with admin(sandbox, self) as connection:
            create_role(connection, "vcci_restore", sandbox.secret("postgres-vcci_restore"), "CREATEDB")
            create_role(connection, "vcci_drill_app", sandbox.secret("postgres-vcci_drill_app"))
        with admin(sandbox, self, "template1") as connection:
            connection.execute((ROOT / "include" / "sql" / "restore" / "restore_server.sql").read_bytes())

    def connections(self, sandbox: Sandbox) -> dict[str, dict[str, Any]]:
        """Return vcci_postgres_restore, a role with CREATEDB, and vcci_postgres_drill_app, the platform in a copy."""
        roles = {"vcci_postgres_restore": "vcci_restore", "vcci_postgres_drill_app": "vcci_drill_app"}
        return {id_: airflow_connection(sandbox, "postgres-restore", role, "postgres") for id_, role in roles.items()}


class Airflow(Server):
    """Airflow's metadata and the history of vcci-ops; nothing of the platform's."""

    name = "pg-airflow"
    ports = ("postgres-airflow",)
    settings: Mapping[str, str] = {"max_connections": "200"}

    def prepare(self, sandbox: Sandbox) -> None:
        """Create both databases, each with its owner."""
        with admin(sandbox, self) as connection:
            for name in ("airflow", "vcci_ops"):
                create_role(connection, name, sandbox.secret(f"pg-airflow-{name}"))
                create_database(connection, name, name)

    def connections(self, sandbox: Sandbox) -> dict[str, dict[str, Any]]:
        """Return vcci_ops_db: the history database's owner."""
        secret = sandbox.secret("pg-airflow-vcci_ops")
        return {"vcci_ops_db": airflow_connection(sandbox, "postgres-airflow", "vcci_ops", "vcci_ops", secret)}


def services() -> list[Service]:
    """Return the three servers."""
    return [Production(), Restore(), Airflow()]


def airflow_dsn(sandbox: Sandbox) -> str:
    """Return the SQLAlchemy URL of Airflow's metadata database."""
    password = sandbox.secret("pg-airflow-airflow")
    return f"postgresql+psycopg2://airflow:{password}@127.0.0.1:{sandbox.port('postgres-airflow')}/airflow"


# Connecting -------------------------------------------------------------------------------------


def parameters(sandbox: Sandbox, port: str, role: str, database: str) -> dict[str, Any]:
    """Return psycopg's parameters for a role of the production or the restore server."""
    return {
        "host": "127.0.0.1",
        "port": sandbox.port(port),
        "user": role,
        "password": sandbox.secret(f"postgres-{role}"),
        "dbname": database,
        "connect_timeout": 5,
    }


def url(sandbox: Sandbox, port: str, role: str, database: str) -> str:
    """Return the same as SQLAlchemy's URL."""
    password = sandbox.secret(f"postgres-{role}")
    return f"postgresql+psycopg://{role}:{password}@127.0.0.1:{sandbox.port(port)}/{database}"


def airflow_connection(
    sandbox: Sandbox, port: str, role: str, database: str, password: str | None = None
) -> dict[str, Any]:
    """Return an Airflow connection in JSON form."""
    return {
        "conn_type": "postgres",
        "host": "127.0.0.1",
        "port": sandbox.port(port),
        "login": role,
        "password": password or sandbox.secret(f"postgres-{role}"),
        "schema": database,
        "extra": dict(_EXTRA),
    }


@contextmanager
def admin(
    sandbox: Sandbox, server: Server, database: str = "postgres", *, autocommit: bool = True
) -> Iterator[psycopg.Connection[Any]]:
    """Open a superuser's connection straight to the server."""
    with psycopg.connect(
        host="127.0.0.1",
        port=sandbox.port(server.ports[0]),
        user="postgres",
        password=sandbox.secret(f"{server.name}-postgres"),
        dbname=database,
        autocommit=autocommit,
        connect_timeout=5,
        application_name="sandbox",
    ) as connection:
        yield connection


# Filling ----------------------------------------------------------------------------------------


def create_role(connection: psycopg.Connection[Any], name: str, password: str, *options: str) -> None:
    """Create a role that may log in; leave an existing one alone."""
    if connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (name,)).fetchone():
        return
    statement = sql.SQL("CREATE ROLE {} LOGIN {} PASSWORD {}")
    chosen = sql.SQL(" ").join(map(sql.SQL, options))
    connection.execute(statement.format(sql.Identifier(name), chosen, sql.Literal(password)))


def create_database(connection: psycopg.Connection[Any], name: str, owner: str) -> None:
    """Create a database that only its owner may connect to, if there is none."""
    if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone():
        return
    database, role = sql.Identifier(name), sql.Identifier(owner)
    connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(database, role))
    connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(database))


def revision(connection: psycopg.Connection[Any]) -> str | None:
    """Return the schema's Alembic revision, None when it has none."""
    if connection.execute("SELECT to_regclass('alembic_version')").fetchone() == (None,):
        return None
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return row[0] if row else None


def migrate(database_url: str, target: str = RELEASE_REVISION) -> None:
    """Upgrade the platform's schema with its own Alembic migrations."""
    from alembic import command
    from alembic.config import Config

    config = Config(str(Path(backups.__file__).with_name("alembic.ini")))
    config.attributes["url"] = database_url
    command.upgrade(config, target)


def refresh(sandbox: Sandbox) -> None:
    """Move the production data's recent past up to now."""
    with admin(sandbox, Production(), PRODUCTION) as connection:
        data.refresh(connection)


def everyday_statements(connection: psycopg.Connection[Any]) -> None:
    """Run some of what the API runs all day, so that pg_stat_statements has something to say."""
    for tenant in data.TENANTS:
        for _ in range(6):
            connection.execute("SELECT id, name, status FROM tenants WHERE slug = %s", (tenant.slug,))
            connection.execute(
                "SELECT name, country FROM suppliers WHERE tenant_id = %s ORDER BY name LIMIT 50", (tenant.id,)
            )
            connection.execute(
                "SELECT period, sum(co2e_kg) FROM emissions WHERE tenant_id = %s"
                " AND period >= date_trunc('month', now()) - interval '1 month' GROUP BY period ORDER BY period",
                (tenant.id,),
            )
