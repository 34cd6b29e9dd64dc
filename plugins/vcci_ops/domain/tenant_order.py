"""The order in which tables can be deleted from: what refers comes before what it refers to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from graphlib import TopologicalSorter
from typing import Protocol


class _Reference(Protocol):
    @property
    def child(self) -> str: ...
    @property
    def parent(self) -> str: ...
    @property
    def yields(self) -> bool: ...


def knots(edges: Mapping[str, Set[str]]) -> list[tuple[str, ...]]:
    """Return the groups whose members all reach each other, and single ones that reach themselves; sorted.

    :param edges: node → nodes it leads to.
    """
    reach = {node: _reach(node, edges) for node in edges}
    found = {tuple(sorted(o for o in reach[n] if n in reach.get(o, ()))) for n in edges if n in reach[n]}
    return sorted(found)


def _reach(node: str, edges: Mapping[str, Set[str]]) -> set[str]:
    seen: set[str] = set()
    waiting = list(edges[node])
    while waiting:
        if (one := waiting.pop()) not in seen:
            seen.add(one)
            waiting += edges.get(one, ())
    return seen


def deletion_order(
    names: Sequence[str], links: Iterable[_Reference], last: str
) -> tuple[list[str], tuple[tuple[str, ...], ...]]:
    """Return names, children first, and the groups within which no order helps.

    References that clear themselves are followed where they can be, and given up inside of a circle.

    :param names: tables; ``last`` is one of them and comes last, but for what it refers to itself.
    :param links: references among them.
    """
    all_links = list(links)
    loose = _edges(names, all_links)
    tied = {name: group for group in knots(loose) for name in group}
    firm = [link for link in all_links if not (link.yields and tied.get(link.child) == tied.get(link.parent, ()))]
    edges = _edges(names, firm)
    cycles = knots(edges)
    group_of = {name: next((group for group in cycles if name in group), (name,)) for name in names}
    bound = _reach(last, edges) | {last}
    sorter: TopologicalSorter[tuple[str, ...]] = TopologicalSorter()
    for name in sorted(names):
        sorter.add(group_of[name])
        if name not in bound:
            sorter.add(group_of[last], group_of[name])
        for parent in sorted(edges[name]):
            if group_of[parent] != group_of[name]:
                sorter.add(group_of[parent], group_of[name])
    return [name for group in sorter.static_order() for name in group], tuple(cycles)


def _edges(names: Iterable[str], links: Iterable[_Reference]) -> dict[str, set[str]]:
    edges: dict[str, set[str]] = {name: set() for name in names}
    for link in links:
        edges[link.child].add(link.parent)
    return edges
