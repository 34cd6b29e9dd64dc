"""The revision that the platform's database schema has."""

from __future__ import annotations

from vcci_ops.exceptions import UnexpectedAnswer
from vcci_ops.hooks.postgres import SYSTEM, ReadOnlyPostgresHook, Statement

# The catalogue is open to everybody: that there is no such table is then told apart from not being allowed to see it.
_TABLES = Statement("SELECT count(*) FROM pg_class WHERE relname = 'alembic_version' AND relkind IN ('r', 'p')")
_HEADS = Statement("SELECT version_num FROM alembic_version ORDER BY version_num")
_MOST_HEADS = 20


def current_revision(postgres_conn_id: str = "vcci_postgres") -> str | None:
    """Return the Alembic revision of the schema; None when no migration has run.

    https://alembic.sqlalchemy.org/en/latest/tutorial.html#running-our-first-migration

    :raises UnexpectedAnswer: when the schema is at several heads, which no release can go on from.
    :raises Forbidden: when the role may not read ``alembic_version`` (include/sql/grants/vcci_ops.sql).
    :raises Unreachable: when the database does not answer.
    :raises NoData: when the table is in a schema that is not on the role's search path.
    """
    hook = ReadOnlyPostgresHook(postgres_conn_id)
    if not hook.read_few(_TABLES, 1).rows[0][0]:
        return None
    heads = [str(revision) for (revision,) in hook.read_few(_HEADS, _MOST_HEADS).rows]
    if len(heads) > 1:
        raise UnexpectedAnswer(SYSTEM, f"the schema is at {len(heads)} revisions at once: {', '.join(heads)}")
    return heads[0] if heads else None
