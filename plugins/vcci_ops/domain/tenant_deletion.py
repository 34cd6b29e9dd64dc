"""What the deletion of a tenant asks for, plans, compares before it acts, and says: pure, and without personal data."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from vcci_ops.domain.changelog import escape_markdown
from vcci_ops.domain.plans import SHORT, plan_hash
from vcci_ops.domain.release_request import choice, flag, reason
from vcci_ops.domain.tenant_graph import quoted
from vcci_ops.domain.tenant_request import slug as required_slug
from vcci_ops.domain.units import humanize
from vcci_ops.exceptions import InvalidInput, Refused

if TYPE_CHECKING:
    from vcci_ops.settings_tenants import Erasure

GRACE_MOST = 3650
"""Days of grace at most."""
_SHOWN = 20
"""Lines of one kind that a message shows."""
_NEAR = 3
"""Edits by which a slug is near another."""


@dataclasses.dataclass(frozen=True)
class DeletionRequest:
    """What the form of ``tenant_delete`` asks for."""

    slug: str
    reason: str
    grace_days: int
    legal_basis: str
    dry_run: bool

    @classmethod
    def of(cls, params: Mapping[str, Any], erasure: Erasure) -> DeletionRequest:
        """Read the form.

        :raises InvalidInput: naming the field, what was given, and what would be accepted.
        """
        days = params.get("grace_days")
        if isinstance(days, bool) or not isinstance(days, int) or not 0 <= days <= GRACE_MOST:
            raise InvalidInput("grace_days", days, f"whole days, 0 to {GRACE_MOST}")
        basis = choice(params, "legal_basis", erasure.legal_bases)
        return cls(required_slug(params), reason(params), days, basis, flag(params, "dry_run"))


def near(slug: str, others: Iterable[str]) -> list[str]:
    """Return slugs that may have been meant, the nearest first: few edits away, or one within the other."""
    measured = sorted((_edits(slug, other), other) for other in others)
    found = [other for edits, other in measured if edits <= _NEAR or slug in other or other in slug]
    return found[:5]


def _edits(one: str, other: str) -> int:
    """Return how many letters have to be added, taken or changed (Levenshtein)."""
    before = list(range(len(other) + 1))
    for row, letter in enumerate(one, 1):
        now = [row]
        for column, against in enumerate(other, 1):
            now.append(min(before[column] + 1, now[-1] + 1, before[column - 1] + (letter != against)))
        before = now
    return before[-1]


# The plan --------------------------------------------------------------------------------------------


def deletion_plan(
    request: DeletionRequest,
    tenant: Mapping[str, str],
    graph: Mapping[str, Any],
    documents: Mapping[str, Any],
    keys: Mapping[str, int],
    *,
    environment: str,
    requested_by: str,
    warnings: Iterable[str] = (),
) -> dict[str, Any]:
    """Return what people approve, JSON-safe.

    :param tenant: id, slug and name; nothing else of it.
    :param graph: as :meth:`Graph.to_dict` gives it, places in the order of deletion.
    :param documents: bucket, prefix, count, bytes.
    :param keys: ``db pattern`` → number of keys.
    """
    return {
        "kind": "deletion of tenant",
        "version": tenant["slug"],
        "environment": environment,
        "tenant": {key: tenant[key] for key in ("id", "slug", "name")},
        "reason": request.reason,
        "legal_basis": request.legal_basis,
        "grace_days": request.grace_days,
        "requested_by": requested_by,
        "graph": dict(graph),
        "documents": dict(documents),
        "keys": dict(keys),
        "warnings": [*warnings, *graph["warnings"]],
    }


def rows_of(graph: Mapping[str, Any]) -> dict[str, int]:
    """Return the tenant's rows by table, in the order of deletion.

    :param graph: as :meth:`Graph.to_dict` gives it.
    """
    return {table_of(place): int(place["rows"]) for place in graph["places"]}


def table_of(place: Mapping[str, Any]) -> str:
    """Return how people and records name a place of a graph's dict."""
    return quoted(place["schema"], place["table"])


def plan_markdown(plan: Mapping[str, Any]) -> str:
    """Return the plan as an approver reads it."""
    return "\n".join(_plan_lines(plan))


def _plan_lines(plan: Mapping[str, Any]) -> Iterator[str]:
    tenant, rows = plan["tenant"], rows_of(plan["graph"])
    yield f"# Delete **{_cell(tenant['name'])}** (`{tenant['slug']}`) on *{plan['environment']}*\n"
    yield f"Id `{tenant['id']}`. Asked for by {escape_markdown(plan['requested_by'])}: {_cell(plan['reason'])}\n"
    yield f"Legal basis: {_cell(plan['legal_basis'])}. Plan `{plan_hash(plan)[:SHORT]}`: exactly this is approved.\n"
    yield f"**{_after(plan['grace_days'])}** Type the slug `{tenant['slug']}` in the field below, then approve.\n"
    if plan["warnings"]:
        yield "### Look at this first\n"
        yield from (f"- {_cell(warning)}" for warning in plan["warnings"])
    yield f"\n### {sum(rows.values()):,} rows in {sum(1 for n in rows.values() if n)} tables, in this order\n"
    yield "| table | rows | size | the tenant's because of |\n|---|---:|---:|---|"
    for place in plan["graph"]["places"]:
        if place["rows"]:
            why = _cell("; ".join(place["reasons"]))
            size = humanize(place["bytes"], "bytes")
            yield f"| `{_cell(table_of(place))}` | {place['rows']:,} | {size} | {why} |"
    if empty := [table for table, number in rows.items() if not number]:
        yield f"\nNothing of this tenant in: {', '.join(f'`{_cell(table)}`' for table in empty)}."
    yield from _kept_lines(plan["graph"])
    yield from _beside_lines(plan)


def _kept_lines(graph: Mapping[str, Any]) -> Iterator[str]:
    """Yield what stays in the database."""
    kept = [place for place in graph["kept"] if place["rows"]]
    if kept:
        yield "\n### Kept, as the settings say\n"
        yield from (f"- `{_cell(table_of(place))}`: {place['rows']:,} rows" for place in kept)
    losing = [link for link in graph["links"] if link["clears"]]
    if losing:
        yield "\n### Rows of nobody that lose a reference\n"
        yield from (f"- `{_cell(link['child'])}` ({_cell(link['constraint'])}): {link['clears']:,}" for link in losing)
    secret = sorted({column for place in graph["places"] for column in place["withheld"]})
    if secret:
        yield f"\nDeleted, but not exported, for they are secrets: {', '.join(f'`{_cell(name)}`' for name in secret)}."


def _beside_lines(plan: Mapping[str, Any]) -> Iterator[str]:
    documents = plan["documents"]
    yield "\n### Beside the database\n"
    yield (
        f"- {documents['count']:,} documents ({humanize(documents['bytes'], 'bytes')}) below "
        f"`s3://{documents['bucket']}/{documents['prefix']}`"
    )
    yield from (f"- {number:,} cached keys `{_cell(pattern)}`" for pattern, number in plan["keys"].items())
    yield (
        "\n### What follows\n\nSuspended, exported, the export proven on another server; then the days of grace. "
        "When a row has come or gone by then, nothing is deleted and a person is called."
    )


def _after(days: int) -> str:
    if days == 0:
        return "There is no grace: the next run of tenant_purge_due deletes it."
    return f"Deleted {days} day{'s'[: days > 1]} after the export; until then tenant_suspend brings it back whole."


def _cell(text: object) -> str:
    """Return text that ends no cell, no line and no code."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("`", "'").replace("<", "&lt;")


# Has the world moved? ----------------------------------------------------------------------------------


def baseline(rows: Mapping[str, int], checksums: Mapping[str, str], documents: Mapping[str, Any]) -> dict[str, Any]:
    """Return what must be so at the deletion as it was before the export.

    :param rows: by table.
    :param checksums: by table, over the tenant's rows, whatever their order.
    :param documents: count, versions, and bytes of all versions. Cached keys come and go, so they are not compared.
    """
    tables = {table: {"rows": number, "checksum": checksums.get(table, "")} for table, number in rows.items()}
    return {"tables": tables, "documents": {key: documents[key] for key in ("count", "bytes", "versions")}}


def drift(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return in words what is not as it was before the export; empty when nothing moved."""
    found = []
    for table in sorted({*before["tables"], *now["tables"]}):
        was, is_ = before["tables"].get(table), now["tables"].get(table)
        if was is None or is_ is None:
            if (was or is_ or {}).get("rows"):
                found.append(f"{table}: {'was not there' if was is None else 'is no longer there'}")
        elif was["rows"] != is_["rows"]:
            found.append(f"{table}: {_rows(was['rows'])} exported, {_rows(is_['rows'])} now")
        elif was["checksum"] != is_["checksum"]:
            found.append(f"{table}: rows were changed since the export")
    was, is_ = before["documents"], now["documents"]
    if was != is_:
        found.append(
            f"documents: {was['count']} ({humanize(was['bytes'], 'bytes')}) exported, "
            f"{is_['count']} ({humanize(is_['bytes'], 'bytes')}) now"
        )
    return found


def moved_since_plan(planned: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Return in words how many rows came or went since the plan: the tenant works until it is suspended.

    :raises Refused: when rows lie in tables that the plan does not have: nobody has approved those.
    """
    before, now = rows_of(planned), rows_of(found)
    new = sorted(table for table, number in now.items() if number and table not in before)
    gone = sorted(table for table, number in before.items() if number and table not in now)
    if new or gone:
        words = [f"{table} is new" for table in new] + [f"{table} is gone" for table in gone]
        raise Refused(f"the schema has changed since the plan was approved: {'; '.join(words)}. Start a new run")
    return [
        f"{table}: {_rows(before.get(table, 0))} planned, {_rows(number)} at the export"
        for table, number in now.items()
        if before.get(table, 0) != number
    ]


def not_exported(before: Mapping[str, Any], exported: Mapping[str, Any]) -> list[str]:
    """Return in words where the export has not what was counted just before it; empty when it has all.

    :param exported: as :meth:`Export.to_dict` gives it.
    """
    tables = exported["tables"]
    return [
        f"{table}: {_rows(counted['rows'])} counted, {_rows(int(tables.get(table, {}).get('rows', 0)))} exported"
        for table, counted in before["tables"].items()
        if counted["rows"] != int(tables.get(table, {}).get("rows", 0))
    ]


def leftovers(rows: Mapping[str, int], documents: int, keys: Mapping[str, int]) -> list[str]:
    """Return in words what of the tenant is left anywhere; empty when nothing is.

    :param documents: versions of objects, and uploads that never ended.
    """
    found = [f"{_rows(number)} in {table}" for table, number in rows.items() if number]
    if documents:
        found.append(f"{documents} versions of documents, or parts of them")
    return found + [f"{number} cached keys {pattern}" for pattern, number in keys.items() if number]


def _rows(number: int) -> str:
    return f"{number:,} row{'s'[: number != 1]}"


def bounded(words: list[str], most: int = _SHOWN) -> str:
    """Join with semicolons, and say how many more there are."""
    more = f"; and {len(words) - most} more" if len(words) > most else ""
    return "; ".join(words[:most]) + more


def plan_details(plan: Mapping[str, Any]) -> Iterator[str]:
    """Yield the plan in lines, for a report: the largest tables first."""
    yield f"legal basis: {plan['legal_basis']}; grace: {plan['grace_days']} days; reason: {plan['reason']}"
    yield f"plan {plan_hash(plan)}"
    rows = sorted(((number, table) for table, number in rows_of(plan["graph"]).items() if number), reverse=True)
    yield from (f"{table}: {_rows(number)}" for number, table in rows[:_SHOWN])
    if len(rows) > _SHOWN:
        yield f"and {len(rows) - _SHOWN} more tables"


def summary(plan: Mapping[str, Any]) -> str:
    """Return the plan in one line."""
    rows = rows_of(plan["graph"])
    return (
        f"{sum(rows.values()):,} rows in {sum(1 for number in rows.values() if number)} tables, "
        f"{plan['documents']['count']:,} documents ({humanize(plan['documents']['bytes'], 'bytes')}), "
        f"{sum(plan['keys'].values()):,} cached keys"
    )
