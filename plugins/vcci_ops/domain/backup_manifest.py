"""What is written beside a backup, and whether the backup has what it says."""

from __future__ import annotations

import bisect
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from vcci_ops.exceptions import Refused, UnexpectedAnswer

SCHEMA_VERSION = 2
SPARE_PARTS = 50_000
"""An upload's parts grow as it goes on: together they hold so many times the first one."""
_TABLE_DATA = re.compile(r"\d+; \d+ \d+ TABLE DATA (.+)")
_ENTRIES = re.compile(r";\s+TOC Entries: (\d+)")


def build(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Put a manifest together, version 2.

    ``key``, ``taken_at`` (ISO 8601), ``size`` (bytes), ``sha256`` and per table ``rows`` are as in version 1.

    :param parts: what belongs into it; a name that comes twice is a mistake.
    :raises UnexpectedAnswer: when one does.
    """
    manifest: dict[str, Any] = {"schema_version": SCHEMA_VERSION}
    for part in parts:
        if twice := manifest.keys() & part.keys():
            raise UnexpectedAnswer("The manifest", f"two values for {', '.join(sorted(twice))}")
        manifest |= part
    return manifest


def written(manifest: Mapping[str, Any]) -> bytes:
    """Return a manifest's text; the same one for the same manifest, so that its digest can be recorded."""
    return json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False).encode()


def one_in(size: int, hashed_whole: int) -> int:
    """Return of how many rows one is hashed, so that about ``hashed_whole`` bytes of a table are.

    A power of two, so that a table that grows keeps its sample for long.

    >>> one_in(1000, 1000), one_in(1001, 1000), one_in(4000, 1000), one_in(5000, 1000)
    (1, 2, 4, 8)
    """
    return 1 << max(0, (max(size, 1) - 1) // hashed_whole).bit_length()


def part_size(database: int, least: int) -> int:
    """Return the bytes of an upload's first part, so that a dump as large as the database fits into one upload.

    :param database: bytes; its dump is smaller, as it is packed and has no indexes.
    """
    mebibyte = 1 << 20
    return max(least, -(-database // SPARE_PARTS // mebibyte) * mebibyte)


def require_tool(server: int, server_version: str, tool_version: str) -> None:
    """Pass when this pg_dump can dump that server: it must not be older.

    https://www.postgresql.org/docs/current/app-pgdump.html#id-1.9.4.13.10

    :param server: server_version_num, e.g. 150018.
    :param tool_version: as ``pg_dump --version`` has it, e.g. 15.18.
    :raises Refused: when it is; says what helps.
    """
    major = server // 10_000
    if major > major_of(tool_version):
        raise Refused(
            f"the server is PostgreSQL {server_version} and pg_dump here is {tool_version}: it cannot dump a newer "
            f"server, and no backup was made. Build the workers' image with POSTGRES_CLIENT=postgresql-client-{major}"
        )


def major_of(version: str) -> int:
    """Return the major version of a program of PostgreSQL.

    >>> major_of("15.18"), major_of("18beta1")
    (15, 18)

    :raises UnexpectedAnswer: when there is none to read.
    """
    found = re.match(r"\d+", version)
    if not found:
        raise UnexpectedAnswer("pg_dump", f"version {version[:40]!r}")
    return int(found.group())


def entries(listing: str) -> int:
    """Return how many entries a table of contents says that it has; 0 when it says nothing."""
    found = _ENTRIES.search(listing)
    return int(found.group(1)) if found else 0


def unlisted(listing: str, tables: Iterable[str]) -> list[str]:
    """Return the tables whose data a dump does not list.

    :param listing: what ``pg_restore --list`` says; of an entry it shows schema, name and owner with blanks between,
        which names may have, too. So what is looked for is a line that begins with the table's schema and name.
    :param tables: as the manifest names them: ``schema.table``, or ``table`` in the schema public.
    """
    lines = sorted(match.group(1) for match in map(_TABLE_DATA.fullmatch, listing.splitlines()) if match)
    return [table for table in tables if not any(_listed(lines, start) for start in _spellings(table))]


def _spellings(label: str) -> Iterator[str]:
    yield f"public {label} "
    for dot in (match.start() for match in re.finditer(r"\.", label)):
        yield f"{label[:dot]} {label[dot + 1 :]} "


def _listed(lines: Sequence[str], start: str) -> bool:
    at = bisect.bisect_left(lines, start)
    return at < len(lines) and lines[at].startswith(start)


def summary(manifest: Mapping[str, Any]) -> str:
    """Say in a line what is in a backup; names nothing of its rows."""
    tables: Mapping[str, Mapping[str, Any]] = manifest["tables"]
    rows = sum(table["rows"] or 0 for table in tables.values())
    sampled = sum(1 for table in tables.values() if table.get("sampled"))
    unknown = sum(1 for table in tables.values() if table["rows"] is None)
    said = f"{len(tables)} tables, {rows:,} rows"
    if sampled:
        said += f", {sampled} of them with sampled checksums"
    if unknown:
        said += f", {unknown} of them NOT counted"
    return said
