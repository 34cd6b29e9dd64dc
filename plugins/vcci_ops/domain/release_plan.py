"""A release's plan: built from what was found, and written out for the person who approves it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vcci_ops.domain.migrations import Classified, Migration, classify
from vcci_ops.domain.plans import SHORT, plan_hash

_CLASSES = ("none", "expand-only", "destructive")
_SQL_SHOWN = 4000


def schema_part(current: str | None, migrations: Sequence[Migration], *, apply: bool) -> dict[str, Any]:
    """Return the schema's part of a plan.

    :param current: revision the production database is at.
    :param migrations: what the new image would run, in order.
    :param apply: whether the release runs them.
    """
    parts = [_migration(migration, classify(migration.sql)) for migration in migrations]
    worst = max((part["class"] for part in parts), key=_CLASSES.index, default="none")
    return {
        "from": current,
        "to": migrations[-1].revision if migrations else current,
        "class": worst if apply else "none",
        "apply": apply and bool(migrations),
        "migrations": parts,
    }


def _migration(migration: Migration, found: Classified) -> dict[str, Any]:
    return {
        "revision": migration.revision,
        "class": str(found.kind),
        "reasons": list(found.reasons),
        "drops": list(found.drops),
        "warnings": list(found.warnings),
        "sql": migration.sql,
    }


def world(workloads: Mapping[str, Mapping[str, Any]], schema: str | None) -> dict[str, Any]:
    """Return the part of the world that must not move between plan and act."""
    return {
        "workloads": {name: {"image": workload["image"], "replicas": None} for name, workload in workloads.items()},
        "schema": schema,
    }


def plan_markdown(plan: Mapping[str, Any], *, where: str = "") -> str:
    """Write a plan for the person who approves it in the Airflow UI.

    :param where: where the whole plan can be read, when its SQL is too long for the page.
    """
    return "\n".join(_lines(plan, where))


def _lines(plan: Mapping[str, Any], where: str) -> Iterator[str]:
    yield f"**{plan['from_version']} → {plan['version']}** on *{plan['environment']}*, for {plan['requested_by']}"
    yield f"\nReason: {_plain(plan['reason'])}\n"
    yield f"Plan `{plan_hash(plan)[:SHORT]}`: exactly this is approved. If the platform moves, nothing is done.\n"
    yield "| workload | replicas | now | then |\n|---|---|---|---|"
    for name, workload in plan["workloads"].items():
        yield f"| {name} | {workload['replicas']} | `{_short(workload['image'])}` | `{_short(workload['to'])}` |"
    yield from _schema_lines(plan["schema"], where)
    yield from _baseline_lines(plan.get("baseline") or {})
    if plan.get("changelog"):
        yield f"\n### What is in it\n\n{plan['changelog']}"


def _schema_lines(schema: Mapping[str, Any], where: str) -> Iterator[str]:
    yield "\n### Database schema\n"
    if not schema["migrations"]:
        yield f"Stays at `{schema['from']}`."
        return
    if not schema["apply"]:
        yield f"Stays at `{schema['from']}`: {len(schema['migrations'])} migrations are due and are **not** run."
        return
    yield f"`{schema['from']}` → `{schema['to']}`, **{schema['class']}**"
    if schema["class"] == "destructive":
        yield "\n**A rollback cannot bring back what these migrations drop: it stops and asks.**"
    for migration in schema["migrations"]:
        yield f"\n- `{migration['revision']}`: {migration['class']}"
        yield from (f"    - {_plain(line)}" for line in (*migration["reasons"], *migration["warnings"]))
        yield from (f"    - drops **{_plain(line)}**" for line in migration["drops"])
    sql = "\n".join(migration["sql"] for migration in schema["migrations"])
    cut = f"\n… cut; the whole plan: {where}" if len(sql) > _SQL_SHOWN else ""
    yield f"\n```sql\n{sql[:_SQL_SHOWN].replace('```', '` ` `')}{cut}\n```"


def _baseline_lines(baseline: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    if not baseline:
        return
    yield "\n### What the watch compares with\n\n| metric | last hour | same hour last week |\n|---|---|---|"
    for name, value in baseline.items():
        yield f"| {name} | {_number(value.get('last_hour'))} | {_number(value.get('last_week'))} |"


def _number(value: Any) -> str:
    return "–" if value is None else f"{value:.4g}"


def _short(reference: str) -> str:
    image, _, digest = reference.partition("@")
    return image.rpartition("/")[2] + (f" @{digest.removeprefix('sha256:')[:SHORT]}" if digest else "")


def _plain(text: str) -> str:
    return text.replace("\n", " ").replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("`", "'")
