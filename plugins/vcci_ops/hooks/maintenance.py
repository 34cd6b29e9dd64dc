"""Looking at the production database as maintenance does: tables, indexes and their waste, what is in the way."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import psycopg
from psycopg import errors
from psycopg.rows import dict_row
from psycopg.sql import SQL, Identifier, Literal

from vcci_ops.domain import bloat
from vcci_ops.domain.database import masked
from vcci_ops.domain.maintenance import Index, Server, Table
from vcci_ops.domain.maintenance_obstacles import Blocker, Invalid
from vcci_ops.domain.tenant_graph import quoted
from vcci_ops.hooks.postgres import ReadOnlyPostgresHook
from vcci_ops.settings import INCLUDE

if TYPE_CHECKING:
    from vcci_ops.settings_maintenance import Maintenance

log = logging.getLogger("airflow.task")
Connection = psycopg.Connection[dict[str, Any]]
_ENTRIES = {
    "entries": "number",
    "width": "width",
    "nulls": "nulls",
    "different": "different",
    "fillfactor": "fillfactor",
}


def maintenance_sql(name: str) -> bytes:
    """Return the text of include/sql/maintenance/<name>.sql."""
    return (INCLUDE / "sql" / "maintenance" / f"{name}.sql").read_bytes()


class MaintenancePostgres(ReadOnlyPostgresHook):
    """Sessions of maintenance: each statement a transaction of its own, rows by the names of their columns."""

    read_only = False

    @contextmanager
    def session(self) -> Iterator[Connection]:
        """Yield a connection.

        :raises MeasurementError: what the server refused, in words.
        """
        with closing(cast(Connection, self.get_conn())) as connection, self.translated():
            connection.row_factory = dict_row
            yield connection

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turn the server's errors into ours."""
        try:
            yield
        except psycopg.Error as error:
            raise self._translated(error) from None


class Looker:
    """What there is to see, over one connection.

    :param connection: of :class:`MaintenancePostgres`.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def rows(self, name: str, parameters: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """Return the rows of a statement of include/sql/maintenance/."""
        return self.connection.execute(maintenance_sql(name), parameters).fetchall()

    @cached_property
    def _server(self) -> dict[str, Any]:
        return self.rows("server")[0]

    def server(self) -> Server:
        """Return what is true of the server as a whole."""
        known = {field.name: self._server[field.name] for field in dataclasses.fields(Server)}
        return Server(**{**known, "exact": bool(self._server["exact"])})

    def tables(self) -> list[Table]:
        """Return every table."""
        found = []
        for row in self.rows("tables"):
            schema, name = row.pop("root_schema"), row.pop("root_name")
            found.append(Table(**row, root=quoted(schema, name) if name else ""))
        return found

    def indexes(self, settings: Maintenance) -> list[Index]:
        """Return every index, with its waste where the statistics tell it, or pgstattuple may read it.

        Only what is large enough to be worth a rebuild is read.
        """
        return [self._index(row, settings) for row in self.rows("indexes")]

    def invalid(self) -> list[Invalid]:
        """Return the indexes that are not valid."""
        return [
            Invalid(**{**row, "alike": tuple(row["alike"]), "busy": tuple(row["busy"])}) for row in self.rows("invalid")
        ]

    def blockers(self) -> list[Blocker]:
        """Return what keeps dead rows from being removed, the oldest first; statements without their literals."""
        return [Blocker(**{**row, "query": masked(row["query"], 200)}) for row in self.rows("blockers")]

    def transactions(self, older_than: float) -> list[str]:
        """Return in words the transactions that a rebuild would wait for.

        :param older_than: seconds.
        """
        return [row["who"] for row in self.rows("transactions", {"seconds": older_than})]

    def holders(self, schema: str, name: str) -> str:
        """Return in words who holds a lock of a table that maintenance waits for."""
        given = {"name": SQL(".").join([Identifier(schema), Identifier(name)]).as_string(self.connection)}
        return "; ".join(row["who"] for row in self.rows("holders", given)) or "nobody any more"

    def used(self, tablespace: str) -> int:
        """Return how many bytes of a tablespace's volume are in use, as far as PostgreSQL sees it.

        ``pg_default`` and ``pg_global`` lie in the same folder.
        """
        names = ["pg_default", "pg_global"] if tablespace == "pg_default" else [tablespace]
        query = "SELECT sum(pg_tablespace_size(spcname))::bigint AS bytes FROM pg_tablespace WHERE spcname = ANY (%s)"
        row = self.connection.execute(query, (names,)).fetchone() or {}
        return int(row.get("bytes") or 0)

    # Waste --------------------------------------------------------------------------------------

    def _index(self, row: Mapping[str, Any], settings: Maintenance) -> Index:
        known = {field.name: row[field.name] for field in dataclasses.fields(Index) if field.name in row}
        return Index(**known, bloat=self._bloat(row, settings))

    def _bloat(self, row: Mapping[str, Any], settings: Maintenance) -> bloat.Bloat | None:
        if row["method"] != "btree" or not row["valid"]:
            return None
        limits = settings.reindex
        if self._server["exact"] and row["allowed"] and limits.bloat_bytes <= row["bytes"] <= limits.exact_up_to:
            counted = self._counted(row)
            if counted:
                return counted
        given = {name: row[column] for column, name in _ENTRIES.items()}
        shared = row["deduplicates"] and not row["is_unique"]
        return bloat.estimate(row["bytes"], bloat.Entries(**given, shared=shared))

    def _counted(self, row: Mapping[str, Any]) -> bloat.Bloat | None:
        """Return the waste by pgstattuple; None where it cannot say, for somebody has locked the index."""
        name = Literal(SQL(".").join([Identifier(row["schema"]), Identifier(row["name"])]).as_string(self.connection))
        query = SQL(
            "SELECT leaf_pages AS leaf, avg_leaf_density AS density, empty_pages AS empty, deleted_pages AS deleted "
            "FROM {}.pgstatindex({}::regclass)"
        ).format(Identifier(self._server["exact_schema"]), name)
        try:
            found = self.connection.execute(query).fetchone()
        except (
            errors.LockNotAvailable,
            errors.QueryCanceled,
            errors.UndefinedTable,
            errors.ObjectNotInPrerequisiteState,
        ):
            log.warning("%s.%s could not be read whole; its waste is estimated", row["schema"], row["name"])
            return None
        return bloat.exact(row["bytes"], bloat.Pages(**found, fillfactor=row["fillfactor"])) if found else None


def sizes(connection: Connection, schema: str, name: str) -> dict[str, int]:
    """Return the bytes of a table (with TOAST) or an index, and of a table's indexes.

    :raises psycopg.errors.UndefinedTable: when it is gone.
    """
    relation = SQL(".").join([Identifier(schema), Identifier(name)]).as_string(connection)
    query = (
        "SELECT CASE relkind WHEN 'p' THEN 0 WHEN 'i' THEN pg_relation_size(oid) ELSE pg_table_size(oid) END AS bytes, "
        "CASE WHEN relkind IN ('p', 'i') THEN 0 ELSE pg_indexes_size(oid) END AS index_bytes "
        "FROM pg_class WHERE oid = %s::regclass"
    )
    row = connection.execute(query, (relation,)).fetchone() or {}
    return {key: int(value) for key, value in row.items()}
