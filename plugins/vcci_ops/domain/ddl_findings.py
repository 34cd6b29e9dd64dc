"""What is found out about a migration's SQL, and how to look into PostgreSQL's syntax trees."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from pglast import ast

VERSION_TABLE = "alembic_version"
SHOWN = 160
"""Characters of a statement in a reason."""
VOLATILE = {
    *("random", "gen_random_uuid", "uuid_generate_v1", "uuid_generate_v1mc", "uuid_generate_v4", "uuidv4", "uuidv7"),
    *("clock_timestamp", "timeofday", "nextval"),
}
HARMLESS = {
    *("now", "statement_timestamp", "transaction_timestamp", "timezone", "date_trunc", "date_part", "age", "extract"),
    *(
        "to_timestamp",
        "to_date",
        "to_char",
        "make_date",
        "make_interval",
        "lower",
        "upper",
        "initcap",
        "concat",
        "concat_ws",
    ),
    *("substring", "substr", "left", "right", "length", "char_length", "btrim", "ltrim", "rtrim", "replace", "overlay"),
    *(
        "regexp_replace",
        "split_part",
        "position",
        "strpos",
        "lpad",
        "rpad",
        "md5",
        "sha256",
        "encode",
        "decode",
        "format",
    ),
    *("abs", "round", "ceil", "ceiling", "floor", "trunc", "mod", "power", "sqrt", "count", "sum", "min", "max", "avg"),
    *(
        "string_agg",
        "array_agg",
        "array_length",
        "array_append",
        "cardinality",
        "unnest",
        "generate_series",
        "row_number",
    ),
    *("rank", "dense_rank", "bool_and", "bool_or", "to_json", "to_jsonb", "json_build_object", "jsonb_build_object"),
    *("json_build_array", "jsonb_build_array", "jsonb_set", "jsonb_array_length", "jsonb_array_elements", "jsonb_agg"),
    *("to_tsvector", "setweight", "nullif", "int4range", "int8range", "numrange", "tsrange", "tstzrange", "daterange"),
}
"""Functions of PostgreSQL itself that change nothing; one that is not here may do anything."""


@dataclasses.dataclass
class Findings:
    """What the statements of one migration do, as they are read one after the other.

    :param types: known types of columns, ``table.column`` → as PostgreSQL writes it (``character varying(50)``).
    """

    types: Mapping[str, str] = dataclasses.field(default_factory=dict)
    reasons: list[str] = dataclasses.field(default_factory=list)
    """Why it is destructive."""
    additions: list[str] = dataclasses.field(default_factory=list)
    drops: list[str] = dataclasses.field(default_factory=list)
    warnings: list[str] = dataclasses.field(default_factory=list)
    created: set[tuple[str, str]] = dataclasses.field(default_factory=set)
    """Kind and name of what did not exist before this migration."""
    columns: dict[tuple[str, str], bool] = dataclasses.field(default_factory=dict)
    """Table and name of columns that did not exist before it → whether rows that do not name it get a value."""
    mentioned: set[str] = dataclasses.field(default_factory=set)
    """Names of what is created, IF NOT EXISTS included."""
    statement: str = ""

    def add(self, words: str) -> None:
        """Note what comes to the schema."""
        self.additions.append(words)

    def destroy(self, words: str, *lost: str) -> None:
        """Note why it is destructive, and what data is lost."""
        self.reasons.append(f"{words}: {self.statement}")
        self.drops += [name for name in lost if name not in self.drops]

    def warn(self, words: str) -> None:
        """Note what people should know beforehand."""
        self.warnings.append(f"{words}: {self.statement}")

    def is_new(self, relation: Any) -> bool:
        """Whether a table was created by this migration."""
        return ("table", name_of(relation)) in self.created

    def seems_new(self, relation: Any) -> bool:
        """Whether it was created by this migration, or an earlier try of it: enough for a warning, not for a class."""
        return self.is_new(relation) or name_of(relation) in self.mentioned

    def create(self, kind: str, name: str, *, certain: bool) -> None:
        """Note that something new exists; uncertain is what may have been there (IF NOT EXISTS)."""
        self.add(f"creates {kind} {name}")
        self.mentioned.add(name)
        if certain:
            self.created.add((kind, name))


def is_bookkeeping(node: Any) -> bool:
    """Whether a statement is Alembic's own: its version table, with nothing but constants in it."""
    relation = getattr(node, "relation", None)
    if not isinstance(relation, ast.RangeVar) or relation.relname != VERSION_TABLE:
        return False
    if not isinstance(node, ast.CreateStmt | ast.InsertStmt | ast.UpdateStmt | ast.DeleteStmt):
        return False
    return not any(
        isinstance(part, ast.FuncCall | ast.SubLink | ast.WithClause | ast.RangeSubselect) for part in walk(node)
    )


def is_version_change(node: Any) -> bool:
    """Whether it is the statement with which Alembic notes the revision that was reached."""
    return is_bookkeeping(node) and not isinstance(node, ast.CreateStmt)


def name_of(relation: Any) -> str:
    """Return the name of a relation, with its schema where the statement gives it."""
    return f"{relation.schemaname}.{relation.relname}" if relation.schemaname else str(relation.relname)


def walk(node: Any) -> Iterator[Any]:
    """Yield all parts of a syntax tree."""
    pending = [node]
    while pending:
        part = pending.pop()
        if isinstance(part, tuple | list):
            pending.extend(part)
        elif isinstance(part, ast.Node):
            yield part
            pending.extend(getattr(part, field) for field in part)


def calls(node: Any) -> set[str]:
    """Return the functions that an expression calls; one of a schema of its own with that."""
    names = [[part.sval for part in call.funcname or ()] for call in walk(node) if isinstance(call, ast.FuncCall)]
    return {name[-1] if name[:-1] in ([], ["pg_catalog"]) else ".".join(name) for name in names}


def stays_unique(table: str, columns: list[str | None], found: Findings) -> bool:
    """Whether the previous release's rows are unique by these columns: one of them is new, and empty in such rows."""
    return any(column is not None and found.columns.get((table, column)) is False for column in columns)
