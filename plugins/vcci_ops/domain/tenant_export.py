"""What the export of a tenant is: its files, its manifest, and how somebody without the platform reads it."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from vcci_ops.domain.tenant_graph import quoted

VERSION = 1
"""Of the manifest's schema."""
MANIFEST, SCHEMA, LOAD, README = "manifest.json", "schema.sql", "load.sql", "README.txt"
SUMS, LISTING, DOCUMENTS = "SHA256SUMS", "documents.jsonl.gz", "documents/"


@dataclasses.dataclass(frozen=True)
class Destination:
    """Where an export goes, and how it is kept there.

    :param run: tells exports of a tenant apart; a task that runs again gives the same and finishes the same export.
    :param encryption: ``AES256`` or ``aws:kms``, with ``kms_key`` its key; empty: the account's default.
    :param documents_bucket: where the tenant's documents are, ``documents_prefix`` below which; empty: none.
    """

    bucket: str
    prefix: str
    run: str
    encryption: str = "AES256"
    kms_key: str = ""
    documents_bucket: str = ""
    documents_prefix: str = ""

    def folder(self, tenant: Mapping[str, str]) -> str:
        """Return the key prefix of a tenant's export: ``tenants/acme-6f0f…/run/``.

        :param tenant: id, slug and name.
        """
        return f"{self.prefix}{escaped(tenant['slug'])}-{escaped(tenant['id'])}/{escaped(self.run)}/"


@dataclasses.dataclass(frozen=True)
class TableExport:
    """One table of the export.

    :param key: of the object, below the export's folder.
    :param columns: in the order of the file; ``withheld``: left out, for they are secrets.
    :param as_text: column → its type at home, where the export has it as text: not every server knows the type.
    :param bytes: of the object, compressed; ``sha256``: of those.
    :param text_bytes: of COPY's text, unpacked.
    :param checksum: sum of the rows' CRC-32, the same in any order.
    """

    schema: str
    table: str
    key: str
    columns: tuple[str, ...]
    withheld: tuple[str, ...]
    as_text: Mapping[str, str]
    rows: int
    bytes: int
    sha256: str
    text_bytes: int
    checksum: int

    @property
    def name(self) -> str:
        """As it is printed."""
        return quoted(self.schema, self.table)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TableExport:
        """Return the table of a manifest."""
        return cls(**{**data, "columns": tuple(data["columns"]), "withheld": tuple(data["withheld"])})


@dataclasses.dataclass(frozen=True)
class Export:
    """A whole export. All of it can be found from the manifest, and the manifest is known by its SHA-256.

    :param folder: key prefix, with a closing slash; ``manifest``: key of the manifest, which was written last.
    :param tables: table as it is printed → rows, bytes (compressed), sha256.
    :param documents: count, bytes.
    :param revision: of the database's schema; empty when it could not be read.
    :param snapshot_at: the moment that all tables are of; RFC 3339.
    :param notes: what a reader has to know: columns left out, types as text.
    """

    bucket: str
    folder: str
    manifest: str
    manifest_sha256: str
    tables: Mapping[str, Mapping[str, Any]]
    documents: Mapping[str, int]
    plan_hash: str
    revision: str
    snapshot_at: str
    encryption: str
    notes: tuple[str, ...] = ()

    @property
    def location(self) -> str:
        """Where it is: ``s3://bucket/folder/``."""
        return f"s3://{self.bucket}/{self.folder}"

    @property
    def rows(self) -> int:
        """How many rows of all tables."""
        return sum(int(table["rows"]) for table in self.tables.values())

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {**dataclasses.asdict(self), "notes": list(self.notes), "location": self.location}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Export:
        """Return the export of :meth:`to_dict`."""
        known = {field.name for field in dataclasses.fields(cls)}
        return cls(**{**{k: v for k, v in data.items() if k in known}, "notes": tuple(data.get("notes", ()))})


def escaped(text: str) -> str:
    """Return text as part of a key and as a file's name anywhere; different texts never become the same."""

    def spelled(match: re.Match[str]) -> str:
        return "".join(f"={byte:02X}" for byte in match[0].encode("utf-8", "replace"))

    return re.sub(r"[^A-Za-z0-9._-]", spelled, text)


def table_key(number: int, schema: str, table: str) -> str:
    """Return a table's file: numbered, for two names may differ in case only, and a name may be too long for a file."""
    return f"tables/{number:04}-{escaped(f'{schema}.{table}')[:120]}.copy.gz"


def manifest(
    about: Mapping[str, Any], tables: Iterable[TableExport], documents: Mapping[str, Any], files: Mapping[str, str]
) -> bytes:
    """Return the manifest: what the export has, so that whoever holds it can check each part.

    :param about: tenant, plan_hash, bucket, encryption, snapshot_at, server, revision, tools.
    :param documents: count, bytes, source, and of the listing: key, bytes, sha256.
    :param files: key → SHA-256 of what else is needed to read it.
    """
    told = {
        "schema_version": VERSION,
        **about,
        "tables": [_plain(table) for table in tables],
        "documents": dict(documents),
        "files": dict(files),
    }
    return json.dumps(told, indent=1, ensure_ascii=False).encode()


def _plain(table: TableExport) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in dataclasses.asdict(table).items()}


def notes(tables: Iterable[TableExport]) -> list[str]:
    """Return what a reader of the export has to know about its columns."""
    found = []
    for table in tables:
        found += [f"{table.name}: {quoted(column)} is a secret and was left out" for column in table.withheld]
        found += [f"{table.name}: {quoted(name)} is {kind} at home, text here" for name, kind in table.as_text.items()]
    return found


def sums(tables: Iterable[TableExport], files: Mapping[str, str]) -> bytes:
    """Return what ``sha256sum -c`` reads."""
    pairs = {**{table.key: table.sha256 for table in tables}, **files}
    return "".join(f"{sha256}  {key}\n" for key, sha256 in pairs.items()).encode()


_README = """\
Export of tenant {slug} ({id})
{underline}
Begun {at}. All tables are of one moment, told in manifest.json as snapshot_at.
It is whole when manifest.json is there: that is written last, and its SHA-256 is in the record of the deletion.

Check:   sha256sum -c SHA256SUMS
Load:    createdb export && psql -X -d export -f load.sql
         PostgreSQL 12 or newer, psql and gunzip, in this folder; nothing of the platform is needed.
Read:    each file of tables/ is gzip of PostgreSQL's COPY text: a row a line, columns parted by tabs, \\N for NULL.
         One file alone: gunzip -c FILE | psql -X -d export -c 'COPY schema."table" FROM STDIN', after schema.sql.

schema.sql          the tables with their types, without keys and references
load.sql            loads everything, in one transaction
tables/             the rows; files are numbered so that a table comes after those it refers to
documents/          the tenant's files, each under the key it had
documents.jsonl.gz  a JSON object a line for each of them: key, size, etag at the source, sha256
manifest.json       what is here, with counts and SHA-256; columns that were left out; the plan's hash
"""


def readme(tenant: Mapping[str, str], at: dt.datetime) -> bytes:
    """Return the text for whoever opens the export years later."""
    underline = "=" * len(f"Export of tenant {tenant['slug']} ({tenant['id']})")
    return _README.format(
        slug=tenant["slug"], id=tenant["id"], at=f"{at:%Y-%m-%d %H:%M} UTC", underline=underline
    ).encode()


def load_script(tables: Iterable[TableExport]) -> bytes:
    """Return what psql runs to load the export; the names of files hold nothing that a shell would see."""
    lines = [
        "-- psql -X -d an_empty_database -f load.sql, in the folder of this file",
        *("\\set ON_ERROR_STOP on", "\\encoding UTF8", "BEGIN;", "SET LOCAL datestyle = 'ISO, YMD';"),
        "SET LOCAL client_min_messages = warning;",  # no word about schemas that are there already
        f"\\ir {SCHEMA}",
    ]
    for table in tables:
        name = ".".join('"' + part.replace('"', '""') + '"' for part in (table.schema, table.table))
        lines.append(f"\\copy {name} FROM PROGRAM 'gunzip -c {table.key}'")
    return ("\n".join([*lines, "COMMIT;"]) + "\n").encode()
