"""Scratch databases on the restore server: made, registered, emptied, dropped, and collected when a run has died."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import logging
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, cast

from psycopg import errors
from psycopg.sql import SQL, Composed, Identifier, Literal

from vcci_ops.domain.units import humanize
from vcci_ops.exceptions import MeasurementError, Refused
from vcci_ops.hooks.databases import drop_database
from vcci_ops.hooks.tenant_session import TenantPostgres

if TYPE_CHECKING:
    from vcci_ops.domain.dump_archive import Head
    from vcci_ops.hooks.tenant_session import Connection
    from vcci_ops.settings_drill import Drill

log = logging.getLogger(__name__)
REGISTRY = "vcci_ops_drill"
"""Key of the JSON in a database's comment that says whose it is."""
_SILENT = (errors.InsufficientPrivilege, errors.UndefinedFunction, errors.FeatureNotSupported)


@dataclasses.dataclass(frozen=True)
class Identity:
    """What tells one server from another.

    :param system_identifier: of its cluster; None: the role may not ask.
    :param started: when its postmaster started, to the microsecond.
    """

    system_identifier: str | None
    started: str
    version: int
    """As server_version_num: 150018."""


@dataclasses.dataclass(frozen=True)
class Registered:
    """A scratch database and what its comment says."""

    database: str
    run: str
    """``dag_id/run_id``; empty: nobody has signed it."""
    environment: str = ""
    kept_until: dt.datetime | None = None


class ScratchServer:
    """The server where restores are tried.

    :param drill: the settings.
    :param conn_id: PostgreSQL connection of a role with CREATEDB that is a member of the application's role.
    """

    def __init__(self, drill: Drill, environment: str, conn_id: str = "vcci_postgres_restore") -> None:
        self.drill, self.environment, self.conn_id = drill, environment, conn_id

    @contextmanager
    def session(self, database: str | None = None) -> Iterator[Connection]:
        """Yield a connection that may write, without a limit on how long a statement takes.

        :param database: a scratch database; default: the connection's own.
        :raises MeasurementError: what the server refused, in words.
        """
        given: dict[str, Any] = {"database": database} if database else {}
        with TenantPostgres(self.conn_id, statement_timeout=0, lock_timeout=30, **given).session(
            writes=True
        ) as connection:
            yield connection

    # Which server ----------------------------------------------------------------------------------

    def require_not_production(self, production_conn_id: str = "vcci_postgres", known: str | None = None) -> str:
        """Pass when this is provably another server than production; return how that was shown.

        :param known: production's system identifier as the backup's manifest has it, if it does.
        :raises Refused: when it is production, or when that cannot be told.
        """
        ours = identity(self.conn_id)
        try:
            theirs: Identity | None = identity(production_conn_id)
        except MeasurementError as error:
            log.warning("production does not say which server it is (%s)", error)
            theirs = None
        others = {i for i in (theirs.system_identifier if theirs else None, known) if i}
        if ours.system_identifier and ours.system_identifier in others:
            raise Refused(
                f"the connection {self.conn_id} leads to the production server (system identifier "
                f"{ours.system_identifier}): nothing was made there. Point it at another server"
            )
        if ours.system_identifier and others:
            return f"by system identifier: {ours.system_identifier} is not {', '.join(sorted(others))}"
        if theirs and theirs.started != ours.started == identity(self.conn_id).started:
            return f"by the start of their postmasters: {ours.started} here, {theirs.started} there"
        raise Refused(
            f"it cannot be told whether {self.conn_id} is the production server: pg_control_system() is not allowed, "
            "and production does not answer. GRANT EXECUTE ON FUNCTION pg_control_system() to the role"
        )

    # What it has -----------------------------------------------------------------------------------

    def require_room(self, expected: int) -> str:
        """Pass when the databases and one more of the expected size stay within the budget; return the sum in words.

        PostgreSQL tells how much its databases take and not how much is free; so what is provable is the sum against
        ``drill.disk_budget``.

        :raises Refused: when they do not fit.
        """
        with self.session() as server:
            row: Any = server.execute(
                "SELECT sum(pg_catalog.pg_database_size(oid)) FROM pg_catalog.pg_database WHERE datallowconn "
                "AND (pg_catalog.has_database_privilege(oid, 'CONNECT') OR pg_has_role('pg_read_all_stats', 'MEMBER'))"
            ).fetchone()
        used, budget = int(row[0] or 0), self.drill.disk_budget
        said = f"{humanize(used, 'bytes')} in use, about {humanize(expected, 'bytes')} to come"
        if budget is None:
            return f"not provable: {said}; PostgreSQL does not tell how much is free (drill.disk_budget is not set)"
        if used + expected > budget:
            raise Refused(
                f"the restore server has no room for the copy: {said}, and drill.disk_budget allows "
                f"{humanize(budget, 'bytes')}. Make room there, or raise the budget if the disk is larger"
            )
        return f"{said}, within the budget of {humanize(budget, 'bytes')}"

    def require_fit(self, head: Head) -> None:
        """Pass when the server can take a dump: new enough, with the extensions and roles that it names.

        :raises Refused: naming everything that is missing.
        """
        with self.session() as server:
            missing = list(_missing(server, head))
        if missing:
            raise Refused(f"the restore server cannot take this dump: {'; '.join(missing)}")

    # The databases ---------------------------------------------------------------------------------

    def new_name(self) -> str:
        """Return a name that no other drill has."""
        return self.drill.prefix + secrets.token_hex(8)

    def create(self, name: str, run: str) -> None:
        """Make an empty database, in place of one of this name, and register whose it is.

        It belongs to the application's role, as production's does; nobody else may connect to it.
        """
        self._require_ours(name)
        owner, template = Identifier(self.drill.application_role), Identifier(self.drill.template)
        where = SQL(" TABLESPACE {}").format(Identifier(self.drill.tablespace)) if self.drill.tablespace else SQL("")
        with self.session() as server:
            drop_database(server, name)
            made = SQL("CREATE DATABASE {} OWNER {} TEMPLATE {} ENCODING 'UTF8'{}")
            server.execute(made.format(Identifier(name), owner, template, where))
            server.execute(self._signed(name, {"run": run}))
            server.execute(SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(Identifier(name)))

    def keep(self, name: str, run: str) -> dt.datetime:
        """Let a database stay for people to look at; return until when."""
        until = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=self.drill.keep_at_most)
        with self.session() as server:
            server.execute(self._signed(name, {"run": run, "kept_until": until.isoformat(timespec="seconds")}))
        return until

    def drop(self, name: str) -> None:
        """Drop a database with everything that is connected to it; one that is gone already is fine.

        :raises Unreachable: when somebody is in it whose session may not be ended.
        """
        self._require_ours(name)
        with self.session() as server:
            drop_database(server, name)

    def size(self, name: str) -> int:
        """Return how many bytes a database takes."""
        with self.session() as server:
            row: Any = server.execute("SELECT pg_catalog.pg_database_size(%s::name)", (name,)).fetchone()
        return int(row[0])

    def revision(self, name: str) -> str:
        """Return the revision of the schema in a scratch database."""
        with self.session(name) as connection:
            query = SQL("SELECT version_num FROM {}").format(Identifier("public", self.drill.revision_table))
            return ", ".join(str(revision) for (revision,) in connection.execute(query).fetchall())

    def all(self) -> list[Registered]:
        """Return every scratch database there is."""
        query = (
            "SELECT datname, coalesce(shobj_description(oid, 'pg_database'), '') FROM pg_catalog.pg_database "
            "WHERE starts_with(datname, %s) ORDER BY datname"
        )
        with self.session() as server:
            return [_registered(name, text) for name, text in server.execute(query, (self.drill.prefix,)).fetchall()]

    def collect(self, own: str, alive: Callable[[str], bool], noted: Callable[[str], str | None]) -> list[str]:
        """Drop what dead runs have left; return in words what was dropped, and what was left alone and why.

        A database is dropped when its run has ended, or the time for which it was kept is over. One that nobody has
        signed, and that no run has noted in the history, is left alone: it may be somebody's.

        :param own: this run, ``dag_id/run_id``.
        :param alive: whether a run goes on; raises when that cannot be told.
        :param noted: which run noted in the history that it would make a database.
        """
        said = []
        for found in self.all():
            run = found.run or noted(found.database) or ""
            try:
                why = self._why_kept(dataclasses.replace(found, run=run), own, alive)
            except MeasurementError as error:
                why = f"it cannot be told whether {run} still runs ({error})"
            said.append(f"{found.database} left alone: {why}" if why else self._collected(found.database, run))
        return said

    def _collected(self, name: str, run: str) -> str:
        """Drop what a run has left; somebody who looks at it keeps no drill from beginning."""
        try:
            self.drop(name)
        except MeasurementError as error:
            return f"{name} left alone: {error}"
        return f"{name} dropped: left by {run}"

    def _why_kept(self, found: Registered, own: str, alive: Callable[[str], bool]) -> str:
        if not found.run:
            return "nobody has signed it, and no run has noted it. Look whose it is"
        if found.environment not in ("", self.environment):
            return f"it is of {found.environment}"
        if found.kept_until and found.kept_until > dt.datetime.now(dt.UTC):
            return f"kept until {found.kept_until:%Y-%m-%d %H:%M} UTC for {found.run}"
        if found.run != own and not found.kept_until and alive(found.run):
            return f"{found.run} is under way"
        return ""

    def _signed(self, name: str, registry: Mapping[str, str]) -> Composed:
        text = json.dumps({REGISTRY: {"environment": self.environment, **registry}})
        return SQL("COMMENT ON DATABASE {} IS {}").format(Identifier(name), Literal(text))

    def _require_ours(self, name: str) -> None:
        if not name.startswith(self.drill.prefix):
            raise Refused(f"{name} is no scratch database: those begin with {self.drill.prefix}")


def _registered(database: str, comment: str) -> Registered:
    try:
        found = json.loads(comment)[REGISTRY]
        until = found.get("kept_until")
        return Registered(
            database, str(found["run"]), str(found["environment"]), dt.datetime.fromisoformat(until) if until else None
        )
    except (ValueError, KeyError, TypeError):
        return Registered(database, "")


def identity(conn_id: str) -> Identity:
    """Return what tells the server of a connection from others."""
    with closing(cast("Connection", TenantPostgres(conn_id).get_conn())) as connection:
        row: Any = connection.execute(
            "SELECT pg_postmaster_start_time()::text, current_setting('server_version_num')::int"
        ).fetchone()
        try:
            found: Any = connection.execute("SELECT system_identifier::text FROM pg_control_system()").fetchone()
        except _SILENT:
            found = (None,)
    return Identity(found[0], row[0], row[1])


def _missing(server: Connection, head: Head) -> Iterator[str]:
    row: Any = server.execute("SELECT current_setting('server_version_num')::int / 10000").fetchone()
    if head.major > row[0]:
        yield f"it is PostgreSQL {row[0]}, and the dump is of {head.major}: too old. Upgrade the restore server"
    there = {name for (name,) in server.execute("SELECT name FROM pg_catalog.pg_available_extensions").fetchall()}
    for entry in head.entries:
        if entry.kind == "EXTENSION" and entry.name not in there:
            yield f"it lacks the extension {entry.name}. Install its package there"
    # pg_database_owner and its kind are every server's own.
    owners = sorted({e.owner for e in head.entries if e.owner and not e.owner.startswith("pg_")})
    query = "SELECT rolname, pg_catalog.pg_has_role(oid, 'MEMBER') FROM pg_catalog.pg_roles WHERE rolname = ANY(%s)"
    roles: dict[str, bool] = dict(server.execute(query, (owners,)).fetchall())
    for owner in owners:
        if owner not in roles:
            yield f"it has no role {owner}, which owns tables of the dump. CREATE ROLE {owner} NOLOGIN"
        elif not roles[owner]:
            yield f"the connection's role cannot hand tables to {owner}. GRANT {owner} to it"
