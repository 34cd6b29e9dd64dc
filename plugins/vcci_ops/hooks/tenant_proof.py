"""The proof of an export: load it into a database of its own, look whether the same comes out, drop the database."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import secrets
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.sql import SQL, Identifier, Literal

from vcci_ops.domain import tenant_export as told
from vcci_ops.domain.tenant_export import Export, TableExport
from vcci_ops.exceptions import ChangeFailed, NoData, UnexpectedAnswer
from vcci_ops.hooks.databases import drop_database
from vcci_ops.hooks.tenant_copy import Tally, copied_out
from vcci_ops.hooks.tenant_documents import Documents
from vcci_ops.hooks.tenant_objects import ExportStore, unpacked
from vcci_ops.hooks.tenant_session import TenantPostgres

if TYPE_CHECKING:
    from vcci_ops.hooks.tenant_session import Connection

log = logging.getLogger(__name__)
PREFIX = "vcci_export_proof_"
"""Every database of this name is a proof's, and nobody misses it once the proof has ended."""
_BROKEN = (NoData, UnexpectedAnswer, ChangeFailed)
"""What says that the export is not right; that a system does not answer or refuses says nothing about it."""


def prove(export: Export, restore_conn_id: str = "vcci_postgres_restore", *, aws_conn_id: str = "vcci_s3") -> list[str]:
    """Return in words what is not right about an export; empty: it is proven.

    Every object is read again and held against its SHA-256. The tables are made from the export's own schema.sql in a
    fresh database, loaded, and copied out again: rows, bytes and checksum must be those of the source. The database
    is dropped whatever happens, and so are those that killed proofs have left.

    :param restore_conn_id: PostgreSQL connection to a server that is not production, of a role with CREATEDB.
    :raises MeasurementError: when a system does not answer or refuses, so that nothing is proven either way.
    """
    store = ExportStore(export.bucket, export.encryption, conn_id=aws_conn_id)
    return list(_Proof(export, store).problems(restore_conn_id))


@dataclasses.dataclass(frozen=True)
class _Proof:
    export: Export
    store: ExportStore

    def problems(self, conn_id: str) -> Iterator[str]:
        """Yield what is not right."""
        try:
            manifest = self._manifest()
            files = {name: self._file(name, sha256) for name, sha256 in manifest["files"].items()}
        except _BROKEN as error:
            yield str(error)
            return
        tables = [TableExport.from_dict(table) for table in manifest["tables"]]
        with scratch_database(conn_id) as connection:
            try:
                connection.execute(files[told.SCHEMA])
            except psycopg.Error as error:
                yield f"{told.SCHEMA} cannot be run: {_code(error)}"
                return
            for table in tables:
                yield from self._table_problems(connection, table)
        try:
            yield from Documents(self.store, self.export.folder).problems(manifest["documents"])
        except _BROKEN as error:
            yield f"documents: {error}"

    def _manifest(self) -> Mapping[str, Any]:
        content = b"".join(self.store.read(self.export.manifest))
        if hashlib.sha256(content).hexdigest() != self.export.manifest_sha256:
            raise UnexpectedAnswer("S3", f"{told.MANIFEST} is not the one that was written: its SHA-256 is another")
        manifest: Mapping[str, Any] = json.loads(content)
        return manifest

    def _file(self, name: str, sha256: str) -> bytes:
        content = b"".join(self.store.read(self.export.folder + name))
        if hashlib.sha256(content).hexdigest() != sha256:
            raise UnexpectedAnswer("S3", f"{name}: its SHA-256 is not the manifest's")
        return content

    def _table_problems(self, connection: Connection, table: TableExport) -> Iterator[str]:
        """Load one table and yield what is not right; it is emptied again, so that the disk holds one at a time."""
        name = Identifier(table.schema, table.table)
        try:
            self.store.require(self.export.folder + table.key, table.bytes)
            with connection.transaction():
                self._load(connection, table, name)
        except psycopg.Error as error:
            yield f"{table.name}: cannot be loaded: {_code(error)}"
            return
        except _BROKEN as error:
            yield f"{table.name}: {error}"
            return
        yield from _differences(table, _came_out(connection, name))
        connection.execute(SQL("TRUNCATE {}").format(name))
        log.info("%s: %s rows loaded and compared", table.name, f"{table.rows:,}")

    def _load(self, connection: Connection, table: TableExport, name: Identifier) -> None:
        """Stream one table in; a damaged one is not committed.

        :raises UnexpectedAnswer: when what was read is not what was written.
        """
        sha256 = hashlib.sha256()
        texts = unpacked(self.store.read(self.export.folder + table.key), sha256)
        with connection.cursor().copy(SQL("COPY {} FROM STDIN").format(name)) as copy:
            for text in texts:
                copy.write(text)
            if sha256.hexdigest() != table.sha256:
                raise UnexpectedAnswer("S3", f"{table.key} has another SHA-256 than the manifest")


def _came_out(connection: Connection, name: Identifier) -> Tally:
    tally = Tally()
    with closing(copied_out(connection, SQL("COPY {} TO STDOUT").format(name), tally)) as batches:
        for _ in batches:
            pass
    return tally


def _differences(table: TableExport, found: Tally) -> Iterator[str]:
    if found.rows != table.rows:
        yield f"{table.name}: {found.rows:,} rows came out, {table.rows:,} were exported"
    elif found.told != (table.rows, table.text_bytes, table.checksum):
        yield f"{table.name}: the rows that came out are not those that were exported: their checksums differ"


def _code(error: psycopg.Error) -> str:
    """Return what kind of error it is; the server's own words may have a row in them."""
    return f"{type(error).__name__} (SQLSTATE {error.sqlstate or 'none'})"


@contextmanager
def scratch_database(conn_id: str) -> Iterator[Connection]:
    """Yield a connection to a fresh database that is dropped afterwards, whatever happens.

    While it is used, an advisory lock is held on the server; a database of ours whose lock is free is a dead run's
    and is dropped, too. Nobody but its owner may connect to it.
    """
    name = PREFIX + secrets.token_hex(8)
    hook = TenantPostgres(conn_id, statement_timeout=0)
    with hook.session(writes=True) as server:
        server.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", (name,))
        _collect(server)
        try:
            server.execute(SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'").format(Identifier(name)))
            server.execute(SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(Identifier(name)))
            inside = TenantPostgres(conn_id, database=name, statement_timeout=0)
            with inside.session(writes=True) as connection:
                connection.execute("SET synchronous_commit = off")
                connection.execute("SET search_path = ''")
                yield connection
        finally:
            drop_database(server, name)


def _collect(server: Connection) -> None:
    """Drop what dead runs have left."""
    query = SQL("SELECT datname FROM pg_catalog.pg_database WHERE starts_with(datname, {})").format(Literal(PREFIX))
    for (name,) in server.execute(query).fetchall():
        row: Any = server.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", (name,)).fetchone()
        if row[0]:
            log.info("dropping %s, which a killed proof has left", name)
            drop_database(server, name)
            server.execute("SELECT pg_advisory_unlock(hashtextextended(%s, 0))", (name,))
