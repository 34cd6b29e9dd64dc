"""Constraints, indexes, extensions and rights of a copy, looked at row by row rather than believed."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.sql import SQL, Composable, Composed, Identifier

from vcci_ops.domain.drill import Assertion, asserted, not_provable
from vcci_ops.domain.results import Status
from vcci_ops.hooks.drill_copy import Copy, count, label, rows

if TYPE_CHECKING:
    from vcci_ops.hooks.tenant_session import Connection

log = logging.getLogger("airflow.task")
_AND, _COMMA = SQL(" AND "), SQL(", ")
_OLD = "the manifest is of version 1, which does not say"


# Constraints -------------------------------------------------------------------------------------------


def verify_constraints(copy: Copy) -> list[Assertion]:
    """Look for rows that break a foreign key, a CHECK or a NOT NULL; what the catalog says of them is not asked."""
    with copy.session() as connection:
        keys, rules = rows(connection, "foreign_keys"), rows(connection, "row_rules")
    orphans = copy.side_by_side(keys, _orphans)
    broken = copy.side_by_side(rules, _broken)
    found = [line for lines in broken for line in lines]
    number = sum(len(rule["names"]) + len(rule["never_null"]) for rule in rules)
    return [
        _without_findings("constraints.foreign_keys", "Foreign keys", [o for o in orphans if o], len(keys)),
        _without_findings("constraints.rows", "CHECK and NOT NULL", found, number),
    ]


Broken = tuple[str, bool]
"""What is broken, in words, and whether the constraint counts as validated in the catalog."""


def _without_findings(id_: str, title: str, broken: Sequence[Broken], number: int) -> Assertion:
    hard = [text for text, validated in broken if validated]
    soft = [f"{text} (NOT VALID in production, too)" for text, validated in broken if not validated]
    return asserted(
        id_,
        title,
        [*hard, *soft],
        expected=f"no row breaks one of {count(number, 'constraint')}",
        well=f"{count(number, 'constraint')} hold in every row",
        why="The copy contradicts itself: a part of it is missing, or it was taken of a damaged database.",
        status=Status.CRITICAL if hard else Status.WARNING,
        noun="constraint",
    )


def _orphans(connection: Connection, key: Mapping[str, Any]) -> Broken | None:
    """Count rows that refer to nothing, as PostgreSQL's own check of a new foreign key does."""
    same = _AND.join(
        SQL("p.{} OPERATOR({}.{}) c.{}").format(Identifier(other), Identifier(schema), SQL(operator), Identifier(mine))
        for mine, other, operator, schema in zip(
            key["columns"], key["other_columns"], key["operators"], key["operator_schemas"], strict=True
        )
    )
    given = SQL(" OR " if key["whole"] else " AND ").join(
        SQL("c.{} IS NOT NULL").format(Identifier(column)) for column in key["columns"]
    )
    query = SQL("SELECT count(*) FROM {} {} c WHERE ({}) AND NOT EXISTS (SELECT FROM {} p WHERE {})").format(
        SQL("" if key["partitioned"] else "ONLY"),
        Identifier(key["schema"], key["table_name"]),
        given,
        Identifier(key["other_schema"], key["other_name"]),
        same,
    )
    row: Any = connection.execute(query).fetchone()
    if not row[0]:
        return None
    child, parent = label(key["schema"], key["table_name"]), label(key["other_schema"], key["other_name"])
    return f"{key['name']}: {count(row[0], 'row')} of {child} without its {parent}", bool(key["validated"])


def _broken(connection: Connection, rule: Mapping[str, Any]) -> list[Broken]:
    """Count, in one pass over a table, the rows that break each of its rules."""
    table = label(rule["schema"], rule["table_name"])
    # An expression is the server's own text of its own catalog, written with names in full; nobody has typed it here.
    checks = [SQL("({}) IS FALSE").format(SQL(expression)) for expression in rule["expressions"]]
    nulls = [SQL("{} IS NULL").format(Identifier(column)) for column in rule["never_null"]]
    counts: list[Composable] = [SQL("count(*) FILTER (WHERE {})").format(bad) for bad in (*checks, *nulls)]
    query = SQL("SELECT {} FROM ONLY {}").format(_COMMA.join(counts), Identifier(rule["schema"], rule["table_name"]))
    found: Any = connection.execute(query).fetchone()
    names = [*rule["names"], *(f"NOT NULL of {column}" for column in rule["never_null"])]
    valid = [*rule["validated"], *(True for _ in rule["never_null"])]
    return [
        (f"{table}: {name}: {count(number, 'row')}", ok)
        for name, number, ok in zip(names, found, valid, strict=True)
        if number
    ]


# Indexes and heap --------------------------------------------------------------------------------------


def verify_storage(copy: Copy) -> list[Assertion]:
    """Read every page of every table, and every B-tree with the heap below it, with amcheck.

    https://www.postgresql.org/docs/current/amcheck.html

    It is not in the dump, and only a superuser can create it: a copy has it from the database it is made of.
    """
    with copy.session() as connection:
        schema = _amcheck(connection)
        if schema is None:
            return [_without_amcheck()]
        relations = rows(connection, "relations")
    looked = [r for r in relations if r["kind"] != "i" or r["method"] == "btree"]
    found = copy.side_by_side(looked, lambda connection, r: _corruption(connection, schema, r))
    other = sorted({r["method"] for r in relations if r["kind"] == "i"} - {"btree"})
    tables = sum(1 for r in looked if r["kind"] != "i")
    what = f"{count(tables, 'table')} and {count(len(looked) - tables, 'B-tree')}"
    not_looked = f"; indexes of kind {', '.join(other)} are beyond it" if other else ""
    return [
        asserted(
            "storage.amcheck",
            "Pages of tables and indexes",
            [line for lines in found for line in lines],
            expected=f"{what}: heap intact, every row found by every index",
            well=f"{what} read in full{not_looked}",
            why="The restore server wrote or read something wrongly: disk, memory, or collations of another library. "
            "REINDEX there does not prove the backup; restore again on another machine.",
            noun="corruption",
        )
    ]


def _without_amcheck() -> Assertion:
    why = "Run include/sql/restore/restore_server.sql on the database that drill.template names."
    expected = "heap intact, every row found by every index"
    found = "the copy has no amcheck, or the role may not call it"
    return Assertion("storage.amcheck", "Pages of tables and indexes", Status.UNKNOWN, expected, found, why)


def _amcheck(connection: Connection) -> str | None:
    """Return the schema of amcheck, None when it is not there or may not be called."""
    row: Any = connection.execute(
        "SELECT n.nspname, bool_and(has_function_privilege(p.oid, 'EXECUTE')) FROM pg_catalog.pg_extension e "
        "JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace "
        "JOIN pg_catalog.pg_proc p ON p.pronamespace = n.oid AND p.proname IN ('bt_index_check', 'verify_heapam') "
        "WHERE e.extname = 'amcheck' GROUP BY n.nspname"
    ).fetchone()
    return str(row[0]) if row and row[1] else None


def _corruption(connection: Connection, schema: str, relation: Mapping[str, Any]) -> list[str]:
    name = label(relation["schema"], relation["name"])
    if relation["kind"] == "i":
        query = SQL("SELECT {}(%s::oid::regclass, true)").format(Identifier(schema, "bt_index_check"))
        try:
            connection.execute(query, (relation["oid"],))
        except (psycopg.DataError, psycopg.InternalError, psycopg.OperationalError) as error:
            if connection.broken:
                raise
            return [f"index {name}: {error.diag.message_primary}"]
        return []
    query = SQL(
        "SELECT blkno, offnum, msg FROM {}(relation => %s::oid::regclass, on_error_stop => false, check_toast => true) "
        "LIMIT 20"
    ).format(Identifier(schema, "verify_heapam"))
    try:
        found = connection.execute(query, (relation["oid"],)).fetchall()
    except psycopg.errors.DataCorrupted as error:
        return [f"table {name}: {error.diag.message_primary}"]
    return [f"table {name}: block {block}, item {item}: {message}" for block, item, message in found]


# Schema, extensions, rights ----------------------------------------------------------------------------


def verify_revision(copy: Copy) -> tuple[list[Assertion], str]:
    """Look which revision the schema has; return it, too. Whether the release knows it is its own to say."""
    table = copy.drill.revision_table
    with copy.session() as connection:
        row: Any = connection.execute("SELECT to_regclass(%s)", (f"public.{table}",)).fetchone()
        query = SQL("SELECT version_num FROM {} ORDER BY 1").format(Identifier("public", table))
        found = ", ".join(str(r) for (r,) in connection.execute(query).fetchall()) if row[0] else ""
    expected = copy.manifest.data.get("schema_revision")
    bad = [] if found == (expected or found) else [f"{found or 'none'}, and the manifest says {expected}"]
    return [
        asserted(
            "schema.revision",
            "Revision of the schema",
            bad,
            expected=str(expected or "any"),
            well=found or "none",
            why="The dump is of another moment than its manifest says.",
        )
    ], found


def verify_extensions(copy: Copy, left_out: Sequence[str] = ()) -> list[Assertion]:
    """Hold the extensions against the manifest.

    :param left_out: those that backups leave out on purpose.
    """
    with copy.session() as connection:
        query = "SELECT extname::text, extversion FROM pg_catalog.pg_extension"
        there: dict[str, str] = dict(connection.execute(query).fetchall())
    expected = copy.manifest.data.get("extensions")
    if expected is None:
        return [not_provable("extensions.present", "Extensions", "as in production", _OLD, "Back up with a new one.")]
    wanted = {name: version for name, version in expected.items() if name not in left_out}
    gone = [f"{name} is missing" for name in wanted if name not in there]
    other = [f"{n}: {there[n]}, {v} in production" for n, v in wanted.items() if n in there and there[n] != v]
    return [
        asserted(
            "extensions.present",
            "Extensions",
            [*gone, *other],
            expected=", ".join(f"{name} {version}" for name, version in sorted(wanted.items())),
            well=count(wanted, "extension") + ", in the same versions",
            why="Functions and types of the platform may behave otherwise. Install the same packages on the server.",
            status=Status.CRITICAL if gone else Status.WARNING,
        )
    ]


def verify_grants(copy: Copy, kinds: Mapping[str, str]) -> list[Assertion]:
    """Look whether the platform's role can do what it must, and others no more than they may.

    What roles are (superuser, bypassing row-level security) is not in a dump: the access review looks at that.

    :param kinds: role → administrator, owner, writer or reader, as ``access_review.database_roles`` has it.
    """
    role = copy.drill.application_role
    with copy.session() as connection:
        lacking = [
            f"{role} lacks {privilege} on {label(schema, name)}"
            for schema, name, privilege in connection.execute(_LACKING, {"role": role}).fetchall()
        ]
        given = rows(connection, "grants")
    more = [line for grant in given if (line := _too_much(grant, role, kinds))]
    return [
        asserted(
            "grants.application",
            "What the platform's role must be able to do",
            lacking,
            expected=f"{role} reads and writes every table and draws from every sequence",
            well="it does",
            why="A platform that is started on this copy would fail. GRANT what is missing, in production, too.",
            noun="missing right",
        ),
        asserted(
            "grants.others",
            "What others may do",
            more,
            expected="nothing for PUBLIC, nobody unknown, readers only read",
            well=f"{count(len({g['grantee'] for g in given}), 'role')} with grants, none beyond its kind",
            why="REVOKE it in production, or name the role in access_review.database_roles.",
            status=Status.WARNING,
            noun="right",
        ),
    ]


_LACKING = """
    SELECT n.nspname, c.relname, wanted.privilege
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    CROSS JOIN LATERAL unnest(CASE WHEN c.relkind = 'S' THEN ARRAY['USAGE']
                                   ELSE ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE'] END) AS wanted (privilege)
    WHERE c.relkind IN ('r', 'p', 'S') AND c.relpersistence <> 't'
      AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend e
                      WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid AND e.deptype = 'e')
      AND NOT CASE WHEN c.relkind = 'S' THEN has_sequence_privilege(%(role)s, c.oid, wanted.privilege)
                   ELSE has_table_privilege(%(role)s, c.oid, wanted.privilege) END
    ORDER BY 1, 2, 3
"""


def _too_much(grant: Mapping[str, Any], role: str, kinds: Mapping[str, str]) -> str:
    grantee, place = grant["grantee"], label(grant["schema"], grant["name"]) if grant["name"] else grant["schema"]
    said = f"{grantee} has {grant['privilege']} on {place}"
    if grantee == role:
        return ""
    if grantee == "PUBLIC":
        return said
    kind = kinds.get(grantee)
    if kind is None:
        return f"{said}, and nobody has named that role"
    reads = grant["privilege"] in ("SELECT", "USAGE")
    return f"{said}, and is a reader" if kind == "reader" and not reads else ""


# Deleted tenants ---------------------------------------------------------------------------------------


def verify_tombstones(copy: Copy, deleted: Mapping[str, Any], kept: Sequence[str] = ()) -> list[Assertion]:
    """Look whether tenants that were deleted before the backup are in the copy all the same.

    One that was deleted after the backup is in it by right, and a restore in need would have to delete it again.

    :param deleted: id → when, of the history's tombstones.
    :param kept: ``schema.table`` whose rows are kept by law.
    """
    ids = sorted(deleted)
    with copy.session() as connection:
        places = list(_tenant_places(connection, copy, kept))
        found = [(t, place) for place in places for t in _held(connection, place, ids)] if ids else []
    back = [f"tenant {t} is in {where}" for t, (where, _, _) in found if deleted[t] <= copy.taken_at]
    again = sorted({t for t, _ in found if deleted[t] > copy.taken_at})
    before = sum(1 for moment in deleted.values() if moment <= copy.taken_at)
    stay = asserted(
        "tombstones.stay_deleted",
        "Deleted tenants stay deleted",
        back,
        expected=f"none of {count(before, 'tenant')} deleted before the backup, in {count(places, 'table')}",
        well="none of them",
        why="Somebody's right to erasure is broken by this backup: find out how the rows came back, and delete them.",
        noun="finding",
    )
    if not again:
        return [stay]
    said = f"{count(again, 'tenant')}: {', '.join(again[:5])}"
    why = "A restore in need must delete them again: run tenant_delete for each right after it."
    expected = "none that was deleted after the backup"
    return [stay, Assertion("tombstones.since", "Deleted since", Status.WARNING, expected, said, why)]


Place = tuple[str, Identifier, Identifier]
"""How a table is named, the table, and the column that says whose a row is."""


def _tenant_places(connection: Connection, copy: Copy, kept: Sequence[str]) -> Iterator[Place]:
    query = (
        "SELECT n.nspname, c.relname FROM pg_catalog.pg_class c "
        "JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
        "JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attname = %s AND NOT a.attisdropped "
        "WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND n.nspname <> 'information_schema' "
        "AND n.nspname !~ '^pg_' ORDER BY 1, 2"
    )
    schema, _, name = copy.drill.tenants.rpartition(".")
    yield label(schema, name), Identifier(schema, name), Identifier(copy.drill.tenants_key)
    column = copy.drill.tenant_column
    for schema, name in connection.execute(query, (column,)).fetchall():
        if f"{schema}.{name}" not in kept:
            yield label(schema, name), Identifier(schema, name), Identifier(column)


def _held(connection: Connection, place: Place, ids: Sequence[str]) -> list[str]:
    _, table, column = place
    query = SQL("SELECT DISTINCT {0}::text FROM {1} WHERE {0} = ANY(%s::text[]::{2}[])")
    kind = _type_of(connection, table, column)
    return [str(t) for (t,) in connection.execute(query.format(column, table, kind), (list(ids),)).fetchall()]


def _type_of(connection: Connection, table: Identifier, column: Identifier) -> Composed:
    """Return the type of the column, so that an index on it can be used."""
    cursor = connection.execute(SQL("SELECT {} FROM {} LIMIT 0").format(column, table))
    kind = cursor.description[0].type_code if cursor.description else 25
    row: Any = connection.execute("SELECT format_type(%s::oid, NULL)", (kind,)).fetchone()
    # The server's own name of a type: uuid, text, bigint.
    return SQL("{}").format(SQL(row[0]))
