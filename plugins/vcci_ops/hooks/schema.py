"""The revision that the platform's database schema has."""

from __future__ import annotations

from vcci_ops.exceptions import UnexpectedAnswer
from vcci_ops.hooks.postgres import SYSTEM, ReadOnlyPostgresHook, Statement

# The catalogue is open to everybody: that there is no such table is then told apart from not being allowed to see it.
_TABLES = Statement("SELECT count(*) FROM pg_class WHERE relname = 'alembic_version' AND relkind IN ('r', 'p')")
_HEADS = Statement("SELECT version_num FROM alembic_version ORDER BY version_num")
_MOST_HEADS, _MOST_COLUMNS = 20, 20_000
_COLUMNS = Statement("""
    SELECT CASE WHEN pg_table_is_visible(c.oid) THEN '' ELSE n.nspname || '.' END || c.relname || '.' || a.attname,
           format_type(a.atttypid, a.atttypmod)
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped
      AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg_toast%'
""")


def current_revision(postgres_conn_id: str = "vcci_postgres") -> str | None:
    """Return the Alembic revision of the schema; None when no migration has run.

    https://alembic.sqlalchemy.org/en/latest/tutorial.html#running-our-first-migration

    :raises UnexpectedAnswer: when the schema is at several heads, which no release can go on from.
    :raises Forbidden: when the role may not read ``alembic_version`` (include/sql/grants/vcci_ops.sql).
    :raises Unreachable: when the database does not answer.
    :raises NoData: when the table is in a schema that is not on the role's search path.
    """
    hook = ReadOnlyPostgresHook(postgres_conn_id=postgres_conn_id)
    if not hook.read_few(_TABLES, 1).rows[0][0]:
        return None
    heads = [str(revision) for (revision,) in hook.read_few(_HEADS, _MOST_HEADS).rows]
    if len(heads) > 1:
        raise UnexpectedAnswer(SYSTEM, f"the schema is at {len(heads)} revisions at once: {', '.join(heads)}")
    return heads[0] if heads else None


def column_types(postgres_conn_id: str = "vcci_postgres") -> dict[str, str]:
    """Return the type of every column, ``table.column`` → ``character varying(50)``; for the classes of migrations.

    The catalogue says it to everybody, no right to a table is needed.

    :raises UnexpectedAnswer: when there are more than 20,000 columns.
    """
    rows = ReadOnlyPostgresHook(postgres_conn_id=postgres_conn_id).read_few(_COLUMNS, _MOST_COLUMNS).rows
    return {str(name): str(kind) for name, kind in rows}
