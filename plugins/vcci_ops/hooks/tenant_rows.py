"""The SQL that is true for exactly a tenant's rows of a place.

Counting, exporting, deleting and proving use the same condition, so they cannot disagree on what is the tenant's.
"""

from __future__ import annotations

import uuid

from psycopg.sql import SQL, Composable, Composed, Identifier, Literal

from vcci_ops.domain.tenant_graph import Graph, Link, Place
from vcci_ops.exceptions import InvalidInput

ALIAS = "t"
_DEEPEST = 24
"""Nested subqueries at most; what is reached by more is found step by step, too."""
_OR, _AND, _COMMA = SQL(" OR "), SQL(" AND "), SQL(", ")


def source(place: Place) -> Composed:
    """Return the place as FROM needs it; ONLY, for children by inheritance are places of their own.

    ``SELECT ... FROM {source(place)} t WHERE {condition(graph, place, tenant_id)}``
    """
    table = Identifier(place.schema, place.table)
    return SQL("{}" if place.partitioned else "ONLY {}").format(table)


def condition(graph: Graph, place: Place, tenant_id: str, alias: str = ALIAS) -> Composed:
    """Return a condition on the alias ``t`` that is true for exactly the tenant's rows of a place.

    True or false, never NULL. All values are in it as literals: COPY takes no parameters.

    :param tenant_id: a UUID.
    :raises InvalidInput: when it is none.
    """
    return _Conditions(graph, checked(tenant_id)).of(place, alias)


def checked(tenant_id: str) -> str:
    """Return a tenant's id in its canonical form.

    :raises InvalidInput: when it is no UUID.
    """
    try:
        found = str(uuid.UUID(tenant_id))
    except (ValueError, AttributeError, TypeError):
        found = ""
    if not found or found != str(tenant_id).lower():
        raise InvalidInput("tenant_id", tenant_id, "a UUID such as 6f0f4f0e-3a51-4d5e-9d0b-5c0f6f1d2a11")
    return found


def joined(link: Link, child: str, parent: str) -> Composed:
    """Return the condition that a child's row refers to a parent's, by their aliases."""
    pairs = zip(link.columns, link.parent_columns, strict=True)
    return _AND.join(SQL("{} = {}").format(Identifier(parent, up), Identifier(child, down)) for down, up in pairs)


class _Conditions:
    def __init__(self, graph: Graph, tenant_id: str) -> None:
        self.graph = graph
        self.tenant_id = tenant_id
        self.sizes: dict[str, int] = {}

    def of(self, place: Place, alias: str) -> Composed:
        """Nest what reaches a place, or look its rows up step by step where nesting has no end."""
        if self._size(place.name) > _DEEPEST:
            row = SQL("({}, {})").format(Identifier(alias, "tableoid"), Identifier(alias, "ctid"))
            return SQL("{} IN ({})").format(row, self._closure(place.name))
        arms = self._named(place, alias)
        arms += [self._referring(place, link, alias) for link in self.graph.ways(place.name)]
        return _any(arms)

    def _size(self, name: str) -> int:
        """Return how many subqueries nesting would take."""
        if name in self._endless:
            return _DEEPEST + 1
        if name not in self.sizes:
            self.sizes[name] = sum(1 + self._size(link.parent) for link in self.graph.ways(name))
        return self.sizes[name]

    @property
    def _endless(self) -> frozenset[str]:
        return self.graph.circular

    def _named(self, place: Place, alias: str) -> list[Composable]:
        """Return the condition by column; coalesce keeps NULL out of a negation."""
        if place.name == self.graph.root:
            return [SQL("{} = {}").format(Identifier(alias, self.graph.root_key), Literal(self.tenant_id))]
        if not place.owner:
            return []
        spellings = {self.tenant_id} if place.owner_type == "uuid" else {self.tenant_id, self.tenant_id.upper()}
        values = _COMMA.join(Literal(value) for value in sorted(spellings, reverse=True))
        named = SQL("{} IN ({})").format(Identifier(alias, place.owner), values)
        if place.owner_nullable:
            named = SQL("({} IS NOT NULL AND {})").format(Identifier(alias, place.owner), named)
        return [named]

    def _referring(self, place: Place, link: Link, alias: str) -> Composed:
        parent, inner = self.graph.place(link.parent), f"{alias}p"
        exists = SQL("EXISTS (SELECT FROM {} {} WHERE {} AND {})").format(
            source(parent), Identifier(inner), joined(link, alias, inner), self.of(parent, inner)
        )
        return SQL("({})").format(_AND.join([*nobodys(place, alias), exists]))

    def _closure(self, name: str) -> Composed:
        """Return a query for (tableoid, ctid) of a place's rows: what is named first, then whatever refers to it."""
        above = self._above(name)
        seeds = [self._seed(one) for one in above if self._named(self.graph.place(one), ALIAS)]
        steps = [self._step(link) for one in above for link in self.graph.ways(one)]
        union = SQL(" UNION ALL ")
        return SQL(
            "WITH RECURSIVE found (place, part, row) AS (SELECT * FROM ({}) seed (place, part, row) UNION "
            "SELECT step.* FROM found CROSS JOIN LATERAL ({}) step (place, part, row)) "
            "SELECT part, row FROM found WHERE place = {}"
        ).format(union.join(seeds), union.join(steps), Literal(name))

    def _above(self, name: str) -> list[str]:
        found, waiting = {name}, [name]
        while waiting:
            new = {link.parent for link in self.graph.ways(waiting.pop())} - found
            found |= new
            waiting += new
        return sorted(found)

    def _seed(self, name: str) -> Composed:
        place = self.graph.place(name)
        return SQL("SELECT {}::text, t.tableoid, t.ctid FROM {} t WHERE {}").format(
            Literal(name), source(place), _any(self._named(place, ALIAS))
        )

    def _step(self, link: Link) -> Composed:
        child, parent = self.graph.place(link.child), self.graph.place(link.parent)
        return SQL(
            "SELECT {}::text, c.tableoid, c.ctid FROM {} p JOIN {} c ON {} "
            "WHERE found.place = {} AND p.tableoid = found.part AND p.ctid = found.row"
        ).format(
            Literal(link.child),
            source(parent),
            source(child),
            _AND.join([joined(link, "c", "p"), *nobodys(child, "c")]),
            Literal(link.parent),
        )


def nobodys(place: Place, alias: str) -> list[Composable]:
    """Return the conditions that a row names no tenant; none where there is no such column."""
    return [SQL("{} IS NULL").format(Identifier(alias, place.owner))] if place.owner else []


def _any(arms: list[Composable]) -> Composed:
    if not arms:
        return SQL("{}").format(SQL("false"))
    return SQL("({})").format(_OR.join(arms)) if len(arms) > 1 else SQL("{}").format(arms[0])
