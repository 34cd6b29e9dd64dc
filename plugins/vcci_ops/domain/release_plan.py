"""A release's plan: built from what was found, and written out for the person who approves it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vcci_ops.domain.changelog import escape_markdown
from vcci_ops.domain.migrations import Classified, Migration, classify
from vcci_ops.domain.plans import SHORT, plan_hash
from vcci_ops.domain.units import humanize
from vcci_ops.settings_watch import WatchMetric

_CLASSES = ("none", "expand-only", "destructive")
_SQL_SHOWN = 4000
_LOST = {
    "deploy": "A rollback cannot bring back what these migrations drop: it stops and asks.",
    "rollback": "What is dropped here is gone: afterwards only a backup has it.",
}
_PAST = ("last_hour", "last_week")


def schema_part(
    current: str | None, migrations: Sequence[Migration], *, apply: bool, types: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return the schema's part of a plan.

    :param current: revision the production database is at.
    :param migrations: what the new image would run, in order.
    :param apply: whether the release runs them.
    :param types: of the columns, ``table.column`` → as PostgreSQL writes it.
    """
    parts = [_migration(migration, classify(migration.sql, types=types)) for migration in migrations]
    worst = max((part["class"] for part in parts), key=_CLASSES.index, default="none")
    return {
        "from": current,
        "to": migrations[-1].revision if apply and migrations else current,
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


def plan_markdown(plan: Mapping[str, Any], *, where: str = "", metrics: Sequence[WatchMetric] = ()) -> str:
    """Write a plan for the person who approves it in the Airflow UI.

    :param where: where the whole plan can be read, when its SQL is too long for the page.
    :param metrics: of the watch, for their titles and units.
    """
    return "\n".join(_lines(plan, where, {metric.id: metric for metric in metrics}))


def _lines(plan: Mapping[str, Any], where: str, metrics: Mapping[str, WatchMetric]) -> Iterator[str]:
    who = f"asked for by {escape_markdown(plan['requested_by'])}"
    yield f"**{plan['from_version']} → {plan['version']}** on *{plan['environment']}*, {who}\n"
    yield f"Reason: {escape_markdown(plan['reason'])}\n"
    yield from _source_lines(plan)
    yield f"Plan `{plan_hash(plan)[:SHORT]}`: exactly this is approved. If the platform moves, nothing is done.\n"
    yield "| workload | replicas | now | then |\n|---|---|---|---|"
    for name, workload in plan["workloads"].items():
        yield f"| {name} | {workload['replicas']} | `{_short(workload['image'])}` | `{_short(workload['to'])}` |"
    yield from _schema_lines(plan["schema"], where, lost=_LOST[plan.get("kind", "deploy")])
    yield from _watch_lines(plan)
    yield from _baseline_lines(plan.get("baseline") or {}, metrics)
    if plan.get("changelog"):
        yield f"\n### What is in it\n\n{plan['changelog']}"


def _source_lines(plan: Mapping[str, Any]) -> Iterator[str]:
    if plan.get("commit") and plan.get("ref"):
        yield f"Source: `{_plain(plan['ref'])}` at commit `{plan['commit'][:SHORT]}`\n"


def _watch_lines(plan: Mapping[str, Any]) -> Iterator[str]:
    minutes = (plan.get("watch") or {}).get("minutes")
    if plan.get("kind", "deploy") != "deploy" or not minutes:
        return
    yield f"\n### Afterwards\n\nWatched for **{minutes} min**. When something fails after the migration,"
    yield (
        "a person is asked whether the images go back."
        if plan["schema"]["class"] == "destructive"
        else "the images of the column *now* come back by themselves; the schema stays."
    )


def _schema_lines(schema: Mapping[str, Any], where: str, *, lost: str) -> Iterator[str]:
    yield "\n### Database schema\n"
    if not schema["migrations"]:
        yield f"Stays at `{schema['from']}`."
        if schema.get("unread"):
            yield f"\n**Which migrations are due could not be read**, and none is run: {_plain(schema['unread'])}"
        return
    if schema["apply"]:
        yield f"`{schema['from']}` → `{schema['to']}`, **{schema['class']}**"
    else:
        due = len(schema["migrations"])
        yield f"Stays at `{schema['from']}`. **{due} migration{'s'[: due > 1]} due and NOT run**, as the form asks:"
    if schema["class"] == "destructive":
        yield f"\n**{lost}**"
    for migration in schema["migrations"]:
        yield f"\n- `{migration['revision']}`: {migration['class']}"
        yield from (f"    - {_plain(line)}" for line in (*migration["reasons"], *migration["warnings"]))
        yield from (f"    - drops **{_plain(line)}**" for line in migration["drops"])
    sql = "\n".join(migration["sql"] for migration in schema["migrations"])
    cut = f"\n… cut; the whole plan: {where}" if len(sql) > _SQL_SHOWN else ""
    yield f"\n```sql\n{sql[:_SQL_SHOWN].replace('```', '` ` `')}{cut}\n```"


def _baseline_lines(baseline: Mapping[str, Mapping[str, Any]], metrics: Mapping[str, WatchMetric]) -> Iterator[str]:
    known = {name: value for name, value in baseline.items() if _past(value)}
    if known:
        yield "\n### What the watch compares with\n\n| metric | last hour | same hour last week |\n|---|---|---|"
    for name, value in known.items():
        metric = metrics.get(name)
        figures = " | ".join(_number(value.get(key), metric.unit if metric else "") for key in _PAST)
        yield f"| {metric.title if metric else name} | {figures} |"
    if others := [metrics[name].title if name in metrics else name for name in baseline if name not in known]:
        yield f"\n{'Also watched' if known else 'Watched'}, against the present: {', '.join(others)}."


def _past(value: Mapping[str, Any]) -> bool:
    return any(value.get(key) is not None for key in _PAST)


def _number(value: Any, unit: str) -> str:
    return "–" if value is None else humanize(value, unit)


def _short(reference: str) -> str:
    image, _, digest = reference.partition("@")
    return image.rpartition("/")[2] + (f" @{digest.removeprefix('sha256:')[:SHORT]}" if digest else "")


def _plain(text: str) -> str:
    return text.replace("\n", " ").replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("`", "'")
