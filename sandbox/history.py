"""Two weeks of past reports for the sandbox's history database, deterministic, as a healthy platform leaves them."""

from __future__ import annotations

import datetime as dt
import json
import math
import random
from typing import Any

import psycopg

from sandbox.service import Sandbox

DAYS = 14
RUN_PREFIX = "scheduled__synthetic__"


def _connect(sandbox: Sandbox) -> psycopg.Connection[Any]:
    from sandbox.services.postgres import Airflow

    target = Airflow().connections(sandbox)["vcci_ops_db"]
    return psycopg.connect(
        host=target["host"],
        port=target["port"],
        user=target["login"],
        password=target["password"],
        dbname=target["schema"],
        connect_timeout=5,
    )


# Check, subject, unit, value on the oldest day, growth a day, noise (share of the value).
SERIES: tuple[tuple[str, str, str, float, float, float], ...] = (
    ("pods.ready", "", "pods", 0, 0, 0),
    ("pods.restarts", "", "restarts", 0, 0, 0),
    ("api.latency", "", "s", 0.021, 0, 0.3),
    ("api.requests", "", "percent of usual", 100, 0, 0.05),
    ("api.error_rate", "", "percent", 0.1, 0, 0.2),
    ("tenants.active", "", "percent of usual", 100, 0, 0),
    ("database.connections", "", "percent", 12, 0, 0.2),
    ("errors.count", "", "lines", 9, 0, 0.4),
    ("security.failed_logins", "", "attempts", 10, 0, 0.3),
    *(
        ("queues.depth", queue, "tasks", 25.0, 0.0, 0.5)
        for queue in ("intake", "calculator", "hotspot", "engagement", "reporting")
    ),
)


def seed_history(sandbox: Sandbox) -> None:
    """Write the past reports, unless the history has some already."""
    with _connect(sandbox) as connection:
        if connection.execute("SELECT 1 FROM run LIMIT 1").fetchone():
            return
        generator = random.Random(20251108)
        this_morning = dt.datetime.now(dt.UTC).replace(hour=9, minute=0, second=0, microsecond=0)
        if this_morning > dt.datetime.now(dt.UTC):
            this_morning -= dt.timedelta(days=1)
        for age in range(DAYS, 0, -1):
            _run(connection, this_morning - dt.timedelta(days=age), DAYS - age, generator)


def _run(connection: psycopg.Connection[Any], at: dt.datetime, day: int, generator: random.Random) -> None:
    found = connection.execute(
        """
        INSERT INTO run (dag_id, run_id, environment, started_at, finished_at, status, report)
        VALUES ('daily_health_check', %s, 'sandbox', %s, %s, 'ok', '{"note": "made up by the sandbox"}') RETURNING id
        """,
        (f"{RUN_PREFIX}{at:%Y-%m-%dT%H:%M}", at, at + dt.timedelta(seconds=14)),
    ).fetchone()
    assert found is not None
    snapshots = {
        "samples": {"database.size": 21_000_000 + 30_000 * day, "tenants.active/86400": 5},
    }
    for kind, payload in snapshots.items():
        query = "INSERT INTO snapshot (run, kind, payload) VALUES (%s, %s, %s)"
        connection.execute(query, (found[0], kind, json.dumps(payload)))
    for check, subject, unit, base, growth, noise in SERIES:
        value = max(0.0, base + growth * day + base * noise * generator.uniform(-1, 1))
        value = float(math.floor(value)) if unit in ("tasks", "lines", "attempts") else round(value, 4)
        result = {
            "check": check,
            "subject": subject,
            "status": "ok",
            "summary": "made up by the sandbox",
            "value": value,
            "unit": unit,
            "observed_at": at.isoformat(),
        }
        connection.execute(
            """
            INSERT INTO result (run, check_id, subject, status, value, unit, observed_at, result)
            VALUES (%s, %s, %s, 'ok', %s, %s, %s, %s)
            """,
            (found[0], check, subject, value, unit, at, json.dumps(result)),
        )


def has_run(sandbox: Sandbox, dag_id: str, run_id: str) -> bool:
    """Whether the history has this run with its results."""
    with _connect(sandbox) as connection:
        query = "SELECT count(*) FROM result JOIN run ON run.id = result.run WHERE dag_id = %s AND run_id = %s"
        row = connection.execute(query, (dag_id, run_id)).fetchone()
        return bool(row and row[0])
