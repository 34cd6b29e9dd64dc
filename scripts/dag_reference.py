"""Write docs/dags.md from the DAGs themselves: ``python scripts/dag_reference.py [--check]``.

With ``--check`` nothing is written; the exit code is 1 when the page is not what the DAGs say.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import json
import logging
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow.sdk import DAG

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "dags.md"
HEAD = """\
# The DAGs

<!-- Written by scripts/dag_reference.py from dags/. Do not edit: change the DAG and run it again. -->

Schedules are in UTC and, like all names and limits, come from the settings
([production.yaml](../include/settings/production.yaml)).
"""


@contextlib.contextmanager
def quiet_airflow(dags: Path) -> Iterator[None]:
    """Give Airflow a home of its own and no database, before it is first imported."""
    with tempfile.TemporaryDirectory() as home:
        for name in [name for name in os.environ if name.startswith("AIRFLOW_")]:
            del os.environ[name]
        os.environ.update(
            AIRFLOW_HOME=home,
            AIRFLOW__CORE__DAGS_FOLDER=str(dags),
            AIRFLOW__CORE__PLUGINS_FOLDER=str(ROOT / "plugins"),
            AIRFLOW__CORE__LOAD_EXAMPLES="False",
            AIRFLOW__CORE__UNIT_TEST_MODE="False",
            AIRFLOW__LOGGING__LOGGING_LEVEL="ERROR",
            VCCI_OPS_SETTINGS="production",
        )
        sys.path.insert(0, str(ROOT / "plugins"))
        logging.disable(logging.WARNING)
        try:
            with contextlib.redirect_stdout(sys.stderr):
                yield
        finally:
            logging.disable(logging.NOTSET)


def load(dags: Path) -> list[DAG]:
    """Return the folder's DAGs, sorted by id.

    :raises SystemExit: when a file cannot be imported; names file and reason.
    """
    from airflow.dag_processing.dagbag import DagBag  # noqa: PLC0415  # reads the environment made above

    bag = DagBag(str(dags), collect_dags=True)
    if bag.import_errors:
        raise SystemExit("\n".join(f"{file}:\n{error}" for file, error in sorted(bag.import_errors.items())))
    return [bag.dags[id_] for id_ in sorted(bag.dags)]


# Markdown -----------------------------------------------------------------------------------------


def cell(text: object) -> str:
    """Return the text as it may stand in a table's cell."""
    return " ".join(str(text).split()).replace("|", "\\|")


def table(heads: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Return a Markdown table."""
    heads = list(heads)
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cell(value) for value in line) + " |" for line in lines)


def first_paragraph(text: str | None) -> str:
    """Return a docstring's first paragraph in one line."""
    return " ".join((text or "").strip().split("\n\n")[0].split())


def below(doc: str, level: int) -> str:
    """Push a page's headings down, so that its first level becomes ``level``."""
    fenced, lines = False, []
    for line in doc.strip().splitlines():
        fenced ^= line.lstrip().startswith("```")
        lines.append("#" * (level - 1) + line if line.startswith("#") and not fenced else line)
    return "\n".join(lines)


def kind(schema: dict[str, Any]) -> str:
    """Return a parameter's type as people say it: ``string or null``, with its format or choices."""
    types = schema.get("type", "any")
    words = " or ".join(types) if isinstance(types, list) else str(types)
    if "format" in schema:
        words += f" ({schema['format']})"
    if "enum" in schema:
        words += ": " + ", ".join(f"`{choice}`" for choice in schema["enum"])
    return words


def params(dag: DAG) -> str:
    """Return the table of a DAG's parameters, or that it has none."""
    rows = []
    for name, param in dag.params.items():
        told = param.schema.get("description_md") or param.description or param.schema.get("title", "")
        value = param.value
        plain = value is None or isinstance(value, (str, int, float, list, dict))  # else it is Airflow's "not set"
        default = f"`{json.dumps(value, ensure_ascii=False)}`" if plain else "required"
        rows.append((f"`{name}`", kind(param.schema), default, told))
    return table(("parameter", "type", "default", "description"), rows) if rows else "It has no parameters."


def tasks(dag: DAG) -> str:
    """Return the table of a DAG's tasks, in the order they can run."""
    rows = []
    for task in dag.topological_sort():
        told = first_paragraph(task.doc_md or task.doc) or first_paragraph(type(task).__doc__)
        after = ", ".join(f"`{id_}`" for id_ in sorted(task.upstream_task_ids))
        rows.append((f"`{task.task_id}`", f"`{task.task_type}`", told, after or "-"))
    return table(("task", "operator", "what it does", "after"), rows)


def when(dag: DAG) -> str:
    """Return a DAG's schedule: its cron expressions, or the kind of its timetable."""
    if dag.schedule is None:
        return "by hand only"
    timetables = getattr(dag.timetable, "timetables", [dag.timetable])
    crons = [found.expression for found in timetables if hasattr(found, "expression")]
    return ", ".join(f"`{cron}`" for cron in crons) or f"`{type(dag.timetable).__name__}`"


def facts(dag: DAG) -> str:
    """Return the table of what people ask first."""
    return table(
        ("schedule", "owner", "tags", "file"),
        [(when(dag), dag.owner, ", ".join(sorted(dag.tags)), f"dags/{Path(dag.fileloc).name}")],
    )


def section(dag: DAG) -> str:
    """Return a DAG's part of the page."""
    title = f"## {dag.dag_id}" + (f": {dag.dag_display_name}" if dag.dag_display_name != dag.dag_id else "")
    manual = f"### Manual\n\n{below(dag.doc_md, 4)}" if dag.doc_md else ""
    parts = (title, dag.description, facts(dag), "### Parameters", params(dag), "### Tasks", tasks(dag), manual)
    return "\n\n".join(part for part in parts if part)


def render(dags: Path) -> str:
    """Return the whole page for the DAGs of a folder."""
    with quiet_airflow(dags):
        found = load(dags)
        return "\n\n".join([HEAD.strip(), *map(section, found)]) + "\n"


def main(argv: list[str] | None = None) -> int:
    """Write or check the page; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the page is stale")
    parser.add_argument("--dags", type=Path, default=ROOT / "dags", help="folder of DAG files")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page to write")
    args = parser.parse_args(argv)
    new = render(args.dags.resolve())
    old = args.page.read_text(encoding="utf-8") if args.page.exists() else ""
    if new == old:
        return 0
    if not args.check:
        args.page.write_text(new, encoding="utf-8")
        print(f"wrote {args.page}")
        return 0
    diff = difflib.unified_diff(old.splitlines(), new.splitlines(), "the page", "what the DAGs say", lineterm="", n=1)
    print("\n".join(list(diff)[:40]))
    print(f"{args.page} is stale: run `python scripts/dag_reference.py` and commit the page.", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
