"""The rows of a copy held against the backup's manifest: never against production, which has moved on since."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from psycopg.sql import SQL, Identifier

from vcci_ops.domain.drill import Assertion, asserted, not_provable
from vcci_ops.domain.results import Status
from vcci_ops.domain.units import duration
from vcci_ops.hooks import table_sums
from vcci_ops.hooks.drill_copy import Copy, count, label, rows

if TYPE_CHECKING:
    from vcci_ops.hooks.table_sums import Sums, Table
    from vcci_ops.hooks.tenant_session import Connection

log = logging.getLogger("airflow.task")
Found = dict[str, "Sums"]
_UNHASHED = 1 << 40
"""One in so many rows is none: of an old manifest only the counts can be compared."""
_OLD = "the manifest is of version 1, which has row counts only"
_RENEW = "Let database_backup make the backups: its manifests have it."


def verify_tables(copy: Copy) -> tuple[list[Assertion], str | None]:
    """Hold every table against the manifest; return what was found, and the newest moment in the rows.

    Each table is read once. Of tables that the manifest sampled, the same rows are hashed; all are counted.
    """
    expected: Mapping[str, Mapping[str, Any]] = copy.manifest.data["tables"]
    with copy.session() as connection:
        there = {table.label: table for table in table_sums.tables(connection)}
    both = sorted((t for t in there.values() if t.label in expected), key=lambda table: -table.bytes)

    def look(connection: Connection, table: Table) -> Sums:
        found = table_sums.sums(connection, table, copy.taken_at, _one_in(expected[table.label]))
        log.info("%s: %s rows", table.label, f"{found.rows:,}")
        return found

    found = dict(zip([t.label for t in both], copy.side_by_side(both, look), strict=True))
    newest = max((s.max_timestamp for s in found.values() if s.max_timestamp), default=None)
    return [*_present(expected, there), *_compared(expected, found)], newest


def _one_in(expected: Mapping[str, Any]) -> int:
    if not expected.get("checksum"):
        return _UNHASHED
    sampled = expected.get("sampled")
    if not sampled:
        return 1
    return int(sampled.get("one_in") or max(1, round(1 / sampled["share"])))


def _present(expected: Mapping[str, Any], there: Mapping[str, Table]) -> Iterator[Assertion]:
    bad = [f"{name} is missing" for name in expected if name not in there]
    bad += [f"{name} is not in the manifest" for name in there if name not in expected]
    yield asserted(
        "tables.present",
        "Tables",
        bad,
        expected=count(expected, "table"),
        well=f"{count(there, 'table')}, the same ones",
        why="The dump and its manifest are not of the same database or moment. Do not rely on this backup.",
        noun="difference",
    )


def _compared(expected: Mapping[str, Mapping[str, Any]], found: Found) -> Iterator[Assertion]:
    rows_known = {name: e["rows"] for name, e in expected.items() if name in found and e.get("rows") is not None}
    bad = [
        f"{name}: {found[name].rows:,} rows, {number:,} expected"
        for name, number in rows_known.items()
        if found[name].rows != number
    ]
    yield asserted(
        "tables.rows",
        "Row counts",
        bad,
        expected=f"{sum(rows_known.values()):,} rows in {count(rows_known, 'table')}",
        well=f"{sum(found[name].rows for name in rows_known):,} rows, each table as in the manifest",
        why="Rows were lost or added between the snapshot and the copy. Make a new backup and restore that one.",
        noun="table",
        lines=[f"{name}: {found[name].rows:,}" for name in sorted(rows_known)],
    )
    yield _same("tables.keys", "Largest keys", "max_key", expected, found)
    yield _checksums(expected, found)
    unknown = [name for name, e in expected.items() if e.get("rows") is None]
    if unknown:
        yield not_provable(
            "tables.counted",
            "Tables that the backup did not count",
            "every table counted in the snapshot",
            f"{', '.join(sorted(unknown)[:5])}: the backup ran out of time for their sums",
            "Raise database_backup.sums_after_dump.",
        )


_DIFFERS = {
    "max_key": "another largest key than the manifest has",
    "checksum": "its rows are not those that were dumped",
}


def _same(id_: str, title: str, what: str, expected: Mapping[str, Mapping[str, Any]], found: Found) -> Assertion:
    known = {name: e[what] for name, e in expected.items() if name in found and e.get(what) is not None}
    if not known and any(e.get("rows") for e in expected.values()):
        return not_provable(id_, title, "as in the manifest", _OLD, _RENEW)
    bad = [f"{name}: {_DIFFERS[what]}" for name, value in known.items() if getattr(found[name], what) != value]
    why = "The copy does not hold what was dumped. Do not rely on this backup; find out where it changed."
    tables = count(known, "table")
    return asserted(id_, title, bad, expected=f"as in the manifest, {tables}", well=f"the same in {tables}", why=why)


def _checksums(expected: Mapping[str, Mapping[str, Any]], found: Found) -> Assertion:
    made = _same("tables.checksums", "Checksums", "checksum", expected, found)
    sampled = sorted(name for name, e in expected.items() if e.get("sampled") and name in found)
    if made.status != Status.OK or not sampled:
        return made
    told = [f"{name}: {expected[name]['sampled']['rows']:,} of {found[name].rows:,} rows hashed" for name in sampled]
    said = f"{made.found}; {count(sampled, 'large table')} by a sample of rows that the manifest chose"
    return Assertion(made.id, made.title, made.status, made.expected, said, lines=tuple(told))


# Sequences ---------------------------------------------------------------------------------------------


def verify_sequences(copy: Copy) -> list[Assertion]:
    """Look whether every sequence stands where the manifest says, and ahead of the column that draws from it."""
    with copy.session() as connection:
        there = rows(connection, "sequences")
        found = {label(s["schema"], s["name"]): (s, *_standing(connection, s)) for s in there}
    behind = [
        f"{name} stands at {last:,}, and {label(s['table_schema'], s['table_name'])}.{s['column']} has {used:,}"
        for name, (s, last, _, used) in found.items()
        if used is not None and (last < used if s["step"] > 0 else last > used)
    ]
    ahead = asserted(
        "sequences.ahead",
        "Sequences ahead of their columns",
        behind,
        expected=f"{count(found, 'sequence')} at or beyond the largest value of their column",
        well=f"{count(found, 'sequence')}",
        why="The next insert would take a key that exists. After a restore in need: setval() each one named.",
        noun="sequence",
    )
    return [ahead, _as_dumped(copy.manifest.data.get("sequences"), found)]


def _standing(connection: Connection, sequence: Mapping[str, Any]) -> tuple[int, int | None, int | None]:
    """Return where a sequence stands, its last value as a manifest has it, and the furthest value of its column."""
    name = Identifier(sequence["schema"], sequence["name"])
    row: Any = connection.execute(SQL("SELECT last_value, is_called FROM {}").format(name)).fetchone()
    last, called = int(row[0]), bool(row[1])
    used = None
    if sequence["table_name"]:
        furthest = SQL("max" if sequence["step"] > 0 else "min")
        place = Identifier(sequence["table_schema"], sequence["table_name"])
        query = SQL("SELECT {}({})::bigint FROM {}").format(furthest, Identifier(sequence["column"]), place)
        value: Any = connection.execute(query).fetchone()
        used = value[0]
    return last if called else last - sequence["step"], last if called else None, used


def _as_dumped(expected: Mapping[str, Any] | None, found: Mapping[str, tuple[Any, ...]]) -> Assertion:
    id_, title = "sequences.manifest", "Sequences as dumped"
    if expected is None:
        return not_provable(id_, title, "as in the manifest", _OLD, _RENEW)
    known = {
        name if not name.startswith("public.") else name.removeprefix("public."): v for name, v in expected.items()
    }
    bad = [f"{name} is missing" for name in known if name not in found]
    bad += [
        f"{name} stands at {found[name][2]}, and was dumped at {value}"
        for name, value in known.items()
        # What was called between the snapshot and the dump of the sequence is ahead: sequences obey no snapshot.
        if name in found and value is not None and (found[name][2] is None or found[name][2] < value)
    ]
    return asserted(
        id_,
        title,
        bad,
        expected=f"{count(known, 'sequence')} at or beyond their value in the manifest",
        well=count(known, "sequence"),
        why="The copy does not hold what was dumped.",
        noun="sequence",
    )


# Freshness ---------------------------------------------------------------------------------------------


def verify_freshness(copy: Copy, newest_of_manifest: str | None = None) -> tuple[list[Assertion], dt.datetime | None]:
    """Look how old the newest row is against the time of the backup; return it with what was found.

    A name of yesterday says nothing about its content: the rows do.
    """
    wanted = [(f.table if "." in f.table else f"public.{f.table}", f.column) for f in copy.drill.freshness]
    moments, missing = dict[str, dt.datetime](), []
    with copy.session() as connection:
        for table, column in wanted:
            if not _has(connection, table, column):
                missing.append(f"{table}.{column}")
            elif moment := _newest(connection, table, column, copy.taken_at):
                moments[f"{table}.{column}"] = moment
    if missing:
        return [_unnamed(missing)], None
    if newest_of_manifest and not wanted:
        moments["the rows"] = dt.datetime.fromisoformat(newest_of_manifest)
    return _judged(copy, moments)


def _judged(copy: Copy, moments: Mapping[str, dt.datetime]) -> tuple[list[Assertion], dt.datetime | None]:
    id_, title, limit = "freshness.newest", "Newest row", copy.drill.fresh_within
    expected = f"at most {duration(limit)} before the backup of {copy.taken_at:%Y-%m-%d %H:%M} UTC"
    if not moments:
        return [_without_moment(copy, id_, title, expected)], None
    where, newest = max(moments.items(), key=lambda item: item[1])
    age = (copy.taken_at - newest).total_seconds()
    found = f"{newest:%Y-%m-%d %H:%M:%S} UTC ({where}), {duration(max(age, 0))} before the backup"
    if age > limit:
        why = "The name is of then, the content older: the job that makes backups dumps something else, or a standby."
        return [Assertion(id_, title, Status.CRITICAL, expected, found, why)], newest
    return [Assertion(id_, title, Status.OK, expected, found)], newest


def _without_moment(copy: Copy, id_: str, title: str, expected: str) -> Assertion:
    """Return what it means that there is no row which tells when it was written."""
    told: Mapping[str, Mapping[str, Any]] = copy.manifest.data["tables"]
    names = sorted({f.table.removeprefix("public.") for f in copy.drill.freshness})
    if names and all(told.get(name, {}).get("rows") == 0 for name in names):
        found = f"{', '.join(names)}: nothing in them, as the manifest says"
        return Assertion(id_, title, Status.OK, expected, found)
    because = "no column with a time is named in drill.freshness, or there is none in the past of the backup"
    return not_provable(id_, title, expected, because, "Name one there.")


def _unnamed(missing: list[str]) -> Assertion:
    why = "Correct drill.freshness in the settings, or find out why the copy lacks it."
    found = f"the copy has no {', '.join(missing)}"
    return Assertion("freshness.newest", "Newest row", Status.UNKNOWN, "the columns of the settings", found, why)


def _has(connection: Connection, table: str, column: str) -> bool:
    query = (
        "SELECT count(*) FROM pg_catalog.pg_attribute WHERE attrelid = to_regclass(%s) AND attname = %s "
        "AND NOT attisdropped"
    )
    row: Any = connection.execute(query, (table, column)).fetchone()
    return bool(row[0])


def _newest(connection: Connection, table: str, column: str, until: dt.datetime) -> dt.datetime | None:
    query = SQL("SELECT max({0})::timestamptz FROM {1} WHERE {0} <= %s").format(
        Identifier(column), Identifier(*table.split("."))
    )
    row: Any = connection.execute(query, (until,)).fetchone()
    return row[0].astimezone(dt.UTC) if row[0] else None
