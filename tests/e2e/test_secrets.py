"""No password, token or connection URI in anything that runs leave behind. Runs last: it reads all of it."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest

from sandbox.demo import all_connections
from sandbox.services.postgres import airflow_dsn
from tests.e2e.conftest import Platform

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]
# Tables in which Airflow keeps what tasks were given and left; `connection` is where secrets belong.
TABLES = ("xcom", "rendered_task_instance_fields", "log", "dag_run", "task_instance", "serialized_dag", "dag_code")


def _secrets(platform: Platform) -> dict[str, str]:
    found = dict(platform.sandbox.state.read()["secrets"])
    for id_, connection in all_connections(platform.sandbox, platform.demo.services).items():
        password = connection.get("password")
        if password:
            found[id_] = password
            found[f"{id_}, quoted"] = quote(password, safe="")
            found[f"{id_}, basic"] = base64.b64encode(f"{connection.get('login', '')}:{password}".encode()).decode()
    return {name: value for name, value in found.items() if len(value) > 5}


def _rows(dsn: str) -> Iterator[tuple[str, str]]:
    with psycopg.connect(
        dsn.replace("postgresql+psycopg2", "postgresql").replace("postgresql+psycopg", "postgresql")
    ) as c:
        for table in TABLES:
            for (row,) in c.execute(f"SELECT to_jsonb(t)::text FROM {table} t"):
                yield f"table {table}", row


def _left_behind(platform: Platform) -> Iterator[tuple[str, str]]:
    folder: Path = platform.sandbox.folder
    for path in [*(folder / "airflow" / "logs").rglob("*.log"), *(folder / "logs").glob("airflow-*.log")]:
        yield str(path.relative_to(folder)), path.read_text(errors="replace")
    yield from _rows(airflow_dsn(platform.sandbox))
    from sandbox.history import _connect

    with _connect(platform.sandbox) as connection:
        for table in ("run", "result", "snapshot", "delivery"):
            for (row,) in connection.execute(f"SELECT to_jsonb(t)::text FROM {table} t"):
                yield f"history {table}", row
    for kind in ("slack", "mail", "statuspage"):
        yield f"inbox {kind}", json.dumps(platform.inbox(kind))


def _objects(platform: Platform) -> Iterator[tuple[str, str]]:
    import boto3

    connection: dict[str, Any] = all_connections(platform.sandbox, platform.demo.services)["vcci_s3"]
    extra = connection["extra"] if isinstance(connection["extra"], dict) else json.loads(connection["extra"])
    client = boto3.client(
        "s3",
        endpoint_url=extra["endpoint_url"],
        region_name=extra["region_name"],
        aws_access_key_id=connection["login"],
        aws_secret_access_key=connection["password"],
    )
    bucket = "vcci-reports"
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for item in page.get("Contents", []):
            yield item["Key"], client.get_object(Bucket=bucket, Key=item["Key"])["Body"].read().decode()


def test_no_secret_is_left_behind(platform: Platform) -> None:
    platform.heal()
    platform.run()
    platform.break_("postgres-down")
    platform.break_("slack-refuses")
    platform.run({"sections": ["database", "security"]})
    platform.heal()
    secrets = _secrets(platform)
    assert len(secrets) > 10
    seen = 0
    leaks = set()
    for where, text in [*_left_behind(platform), *_objects(platform)]:
        seen += len(text)
        leaks |= {f"{name} in {where}" for name, value in secrets.items() if value in text}
    assert seen > 100_000
    assert not leaks
