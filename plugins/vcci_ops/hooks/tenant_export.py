"""The export of a tenant: every row and document, of one moment, encrypted, listed in a manifest that is written last.

Whoever holds the export can read it without the platform: README.txt in it says how. That it is whole and right is
proven by :func:`prove`, which loads it into a database of its own.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import logging
import platform
from collections.abc import Mapping
from contextlib import closing
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from psycopg.sql import SQL, Composed, Identifier

from vcci_ops.domain import tenant_export as told
from vcci_ops.domain.tenant_export import Destination, Export, TableExport
from vcci_ops.exceptions import NoData, Refused
from vcci_ops.hooks.crew import Crew
from vcci_ops.hooks.tenant_copy import Tally, copied_out
from vcci_ops.hooks.tenant_ddl import Ddl
from vcci_ops.hooks.tenant_documents import Documents
from vcci_ops.hooks.tenant_objects import ExportStore, Packed, Upload
from vcci_ops.hooks.tenant_proof import prove
from vcci_ops.hooks.tenant_rows import condition, source
from vcci_ops.hooks.tenant_session import TenantPostgres

if TYPE_CHECKING:
    from vcci_ops.domain.tenant_graph import Graph, Place
    from vcci_ops.hooks.tenant_session import Connection

__all__ = ["Destination", "Export", "export", "prove"]
log = logging.getLogger(__name__)
_PARTS = 2
"""Parts that are on their way to S3 at the same time."""
_TOOLS = ("psycopg", "isal", "boto3")
_REVISION_TABLE = """
    SELECT n.nspname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relname = 'alembic_version' AND c.relkind IN ('r', 'p') AND has_schema_privilege(n.oid, 'USAGE')
      AND has_table_privilege(c.oid, 'SELECT') ORDER BY n.nspname <> 'public', n.nspname LIMIT 1
"""


def export(
    graph: Graph,
    tenant: Mapping[str, str],
    plan_hash: str,
    destination: Destination,
    *,
    conn_id: str = "vcci_postgres_export",
    aws_conn_id: str = "vcci_s3",
) -> Export:
    """Export a tenant and return where it is and what is in it.

    Rows come by COPY, table after table, in one snapshot; they are packed and sent while they come, so memory stays
    flat. A task that runs again makes the whole export anew under the same keys, for its tables must be of one
    moment; only documents that were copied already stay. The manifest is removed first and written last, so half an
    export is never taken for a whole one. Uploads that a killed task left unfinished are aborted.

    :param graph: of the tenant, its rows counted just now.
    :param tenant: id, slug and name.
    :param plan_hash: of the plan that this belongs to.
    :raises MeasurementError: when the database or the bucket is missing, refuses or does not answer.
    :raises ChangeFailed: when an object is not there as it was written, or not encrypted.
    :raises Refused: when this run has exported rows that are there no more: its export may be all that is left of them.
    :raises NoData: when the tenant itself is not in the database.
    """
    store = ExportStore(destination.bucket, destination.encryption, destination.kms_key, aws_conn_id)
    return _Exporter(graph, tenant, plan_hash, destination, store).run(conn_id)


class _Exporter:
    def __init__(
        self, graph: Graph, tenant: Mapping[str, str], plan_hash: str, destination: Destination, store: ExportStore
    ) -> None:
        self.graph, self.tenant, self.plan_hash = graph, tenant, plan_hash
        self.destination, self.store = destination, store
        self.folder = destination.folder(tenant)
        # Parents first: the reverse of the order in which they are deleted.
        self.places = tuple(reversed(graph.places))
        self.files: dict[str, str] = {}

    def run(self, conn_id: str) -> Export:
        """Make the export."""
        self._make_room()
        self._file(told.README, told.readme(self.tenant, dt.datetime.now(dt.UTC)))
        with Crew(_PARTS) as senders:
            hook = TenantPostgres(conn_id, statement_timeout=0)
            with hook.snapshot() as connection:
                connection.execute("SET LOCAL search_path = ''")
                world = self._world(connection)
                ddl = Ddl(connection)
                self._file(told.SCHEMA, ddl.script(self.places))
                tables = [
                    self._table(connection, senders, ddl, number, place) for number, place in enumerate(self.places, 1)
                ]
            self._require_tenant(tables)
            documents = Documents(self.store, self.folder).copy(self.destination, senders)
        log.info("%s documents, %s bytes", f"{documents['count']:,}", f"{documents['bytes']:,}")
        self._file(told.LOAD, told.load_script(tables))
        self._file(told.SUMS, told.sums(tables, {**self.files, told.LISTING: documents["listing"]["sha256"]}))
        return self._finish(world, tables, documents)

    def _make_room(self) -> None:
        """Remove the manifest of an earlier try, when all that it has is still to be had; abort what is unfinished."""
        before = self.store.find(self.folder + told.MANIFEST)
        if before is not None:
            exported = {t.name: t.rows for t in map(TableExport.from_dict, json.loads(before)["tables"])}
            now = {place.name: place.rows for place in self.places}
            gone = [name for name, rows in exported.items() if now.get(name, 0) < rows]
            if gone:
                raise Refused(
                    f"s3://{self.store.bucket}/{self.folder} holds rows that are in the database no more "
                    f"({', '.join(gone)}); it is kept as it is. Start a new run for another export"
                )
            self.store.remove(self.folder + told.MANIFEST)
        if unfinished := self.store.abort_unfinished(self.folder):
            log.info("aborted %s uploads of an earlier try", unfinished)

    def _file(self, key: str, content: bytes) -> None:
        self.files[key] = self.store.put(self.folder + key, content).sha256

    def _world(self, connection: Connection) -> dict[str, Any]:
        row: Any = connection.execute("SELECT now(), current_setting('server_version'), current_database()").fetchone()
        return {
            "snapshot_at": row[0].isoformat(),
            "server": {"version": row[1], "database": row[2]},
            "revision": schema_revision(connection),
            "tools": {"python": platform.python_version(), **{name: version(name) for name in _TOOLS}},
        }

    def _table(self, connection: Connection, senders: Crew, ddl: Ddl, number: int, place: Place) -> TableExport:
        key, tally = told.table_key(number, place.schema, place.table), Tally()
        query = _query(self.graph, place, self.tenant["id"])
        upload = Upload(self.store, self.folder + key, senders)
        rows = closing(copied_out(connection, query, tally))
        with upload, Crew(1) as packers, Packed(upload, packers) as packed, rows as batches:
            for batch in batches:
                packed.write(batch)
        stored = upload.stored
        assert stored is not None  # noqa: S101  the block has ended well
        log.info("%s: %s rows, %s bytes packed", place.name, f"{tally.rows:,}", f"{stored.bytes:,}")
        return TableExport(
            schema=place.schema,
            table=place.table,
            key=key,
            columns=place.columns,
            withheld=place.withheld,
            as_text=ddl.as_text[place.name],
            rows=tally.rows,
            bytes=stored.bytes,
            sha256=stored.sha256,
            text_bytes=tally.bytes,
            checksum=tally.checksum,
        )

    def _require_tenant(self, tables: list[TableExport]) -> None:
        """Pass when the tenant's own row is in the export: otherwise everything else would be empty, too."""
        if not any(table.name == self.graph.root and table.rows == 1 for table in tables):
            raise NoData(f"{self.graph.root} has no tenant {self.tenant['slug']} ({self.tenant['id']}) to export")

    def _finish(self, world: Mapping[str, Any], tables: list[TableExport], documents: Mapping[str, Any]) -> Export:
        """Write the manifest: from now on the export is whole."""
        about = {
            "tenant": {key: self.tenant[key] for key in ("id", "slug", "name")},
            "plan_hash": self.plan_hash,
            "bucket": self.store.bucket,
            "encryption": self.store.encryption,
            **world,
        }
        text = told.manifest(about, tables, documents, self.files)
        key = self.folder + told.MANIFEST
        self.store.put(key, text, "application/json")
        return Export(
            bucket=self.store.bucket,
            folder=self.folder,
            manifest=key,
            manifest_sha256=hashlib.sha256(text).hexdigest(),
            tables={t.name: {"rows": t.rows, "bytes": t.bytes, "sha256": t.sha256} for t in tables},
            documents={"count": documents["count"], "bytes": documents["bytes"]},
            plan_hash=self.plan_hash,
            revision=world["revision"],
            snapshot_at=world["snapshot_at"],
            encryption=self.store.encryption,
            notes=tuple(told.notes(tables)),
        )


def _query(graph: Graph, place: Place, tenant_id: str) -> Composed:
    columns = SQL(", ").join(Identifier("t", column) for column in place.columns)
    return SQL("COPY (SELECT {} FROM {} t WHERE {}) TO STDOUT").format(
        columns, source(place), condition(graph, place, tenant_id)
    )


def schema_revision(connection: Connection) -> str:
    """Return the revision of the schema in this snapshot; empty when there is none that the role may read."""
    row: Any = connection.execute(_REVISION_TABLE).fetchone()
    if not row:
        return ""
    statement = SQL("SELECT version_num FROM {} ORDER BY version_num").format(Identifier(row[0], "alembic_version"))
    return ", ".join(str(revision) for (revision,) in connection.execute(statement))
