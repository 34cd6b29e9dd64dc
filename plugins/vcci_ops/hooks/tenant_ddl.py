"""The tables of an export as any PostgreSQL can make them: types of its own kept, of others as text."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from psycopg.sql import SQL, Composable, Identifier, Literal

if TYPE_CHECKING:
    from vcci_ops.domain.tenant_graph import Place
    from vcci_ops.hooks.tenant_session import Connection

_COLUMNS = """
    SELECT a.attname, a.atttypid, a.atttypmod, pg_catalog.format_type(a.atttypid, a.atttypmod)
    FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = %s AND c.relname = %s AND a.attnum > 0 AND NOT a.attisdropped
"""
_TYPE = """
    SELECT n.nspname, t.typname, t.typtype::text, CASE WHEN t.typcategory = 'A' THEN t.typelem ELSE 0 END,
           t.typbasetype, t.typtypmod,
           ARRAY(SELECT e.enumlabel::text FROM pg_catalog.pg_enum e WHERE e.enumtypid = t.oid ORDER BY e.enumsortorder)
    FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace WHERE t.oid = %s
"""
_FORMAT = "SELECT pg_catalog.format_type(%s, %s)"
_OF_THIS_SERVER = {
    *("regclass", "regcollation", "regconfig", "regdictionary", "regnamespace", "regoper", "regoperator", "regproc"),
    *("regprocedure", "regrole", "regtype", "aclitem", "money", "pg_node_tree"),
}
"""Types whose text means something else on another server, or nothing."""


class _Type(NamedTuple):
    schema: str
    name: str
    kind: str
    element: int
    base: int
    base_modifier: int
    labels: list[str]


@dataclasses.dataclass
class Ddl:
    """Statements that make the tables of places, and which columns became text.

    Enumerations and domains are made anew, domains without their conditions: the rows fulfil them already. Types of
    extensions, composite types and ranges of one's own become text, which holds the same and loads everywhere.

    :param connection: in the export's snapshot; its search path is empty, so that names come with their schema.
    """

    connection: Connection
    as_text: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)
    _types: dict[int, tuple[Composable, bool]] = dataclasses.field(default_factory=dict)
    _schemas: list[str] = dataclasses.field(default_factory=list)
    _made: list[Composable] = dataclasses.field(default_factory=list)

    def script(self, places: Iterable[Place]) -> bytes:
        """Return the text of schema.sql."""
        tables = [self._table(place) for place in places]
        schemas = [SQL("CREATE SCHEMA IF NOT EXISTS {}").format(Identifier(name)) for name in self._schemas]
        statements = [*schemas, *self._made, *tables]
        return "".join(f"{statement.as_string(self.connection)};\n" for statement in statements).encode()

    def _table(self, place: Place) -> Composable:
        found = {name: rest for name, *rest in self.connection.execute(_COLUMNS, (place.schema, place.table))}
        self._need(place.schema)
        columns, kept_as_text = [], {}
        for name in place.columns:
            type_id, modifier, told = found[name]
            kind, same = self._resolved(type_id, modifier)
            columns.append(SQL("\n    {} {}").format(Identifier(name), kind))
            if not same:
                kept_as_text[name] = str(told)
        self.as_text[place.name] = kept_as_text
        return SQL("CREATE TABLE {} ({}\n)").format(Identifier(place.schema, place.table), SQL(",").join(columns))

    def _need(self, schema: str) -> None:
        if schema not in self._schemas:
            self._schemas.append(schema)

    def _resolved(self, type_id: int, modifier: int) -> tuple[Composable, bool]:
        """Return a type as another server can have it, and whether it is the same there."""
        if type_id not in self._types:
            self._types[type_id] = self._made_for(type_id)
        kind, same = self._types[type_id]
        if same and modifier != -1:
            return self._formatted(type_id, modifier), True
        return kind, same

    def _made_for(self, type_id: int) -> tuple[Composable, bool]:
        kind = self._type(type_id)
        if kind.schema in ("pg_catalog", "information_schema") and not kind.element:
            same = kind.name not in _OF_THIS_SERVER
            return (self._formatted(type_id, -1) if same else SQL("text")), same
        if kind.element:
            _, same = self._resolved(kind.element, -1)
            return (self._formatted(type_id, -1) if same else SQL("text")), same
        if kind.kind == "e":
            labels = SQL(", ").join(map(Literal, kind.labels))
            return self._make(SQL("CREATE TYPE {} AS ENUM ({})").format(_name(kind), labels), kind), True
        if kind.kind == "d":
            base, same = self._resolved(kind.base, kind.base_modifier)
            if not same:
                return base, False
            return self._make(SQL("CREATE DOMAIN {} AS {}").format(_name(kind), base), kind), True
        return SQL("text"), False

    def _make(self, statement: Composable, kind: _Type) -> Composable:
        self._need(kind.schema)
        self._made.append(statement)
        return _name(kind)

    def _type(self, type_id: int) -> _Type:
        row: Any = self.connection.execute(_TYPE, (type_id,)).fetchone()
        return _Type(*row)

    def _formatted(self, type_id: int, modifier: int) -> Composable:
        """Return the catalogue's own spelling of a type."""
        row: Any = self.connection.execute(_FORMAT, (type_id, modifier)).fetchone()
        return SQL(row[0])


def _name(kind: _Type) -> Identifier:
    return Identifier(kind.schema, kind.name)
