"""Whether a release that has just been rolled out does its work; changes nothing."""

from __future__ import annotations

import json
import os
import socket
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import psycopg
import pytest

TREE = Path(__file__).parents[2]


def ready() -> dict[str, Any]:
    with urllib.request.urlopen(f"{os.environ['VCCI_API_URL']}/health/ready", timeout=10) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def test_the_api_is_ready() -> None:
    assert ready()["status"] == "ready"


def test_the_api_reports_the_expected_version() -> None:
    expected = os.environ.get("EXPECTED_VERSION")
    if not expected:
        pytest.skip("EXPECTED_VERSION is not set")
    assert ready()["version"] == expected


def test_the_database_has_tenants() -> None:
    with psycopg.connect(os.environ["DATABASE_URL"].replace("+psycopg", "", 1), connect_timeout=5) as connection:
        assert connection.execute("SELECT count(*) > 0 FROM tenants").fetchone() == (True,)


def test_the_schema_is_not_behind_this_release() -> None:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    script = ScriptDirectory.from_config(Config(str(TREE / "alembic.ini")))
    with psycopg.connect(os.environ["DATABASE_URL"].replace("+psycopg", "", 1), connect_timeout=5) as connection:
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    known = {revision.revision for revision in script.walk_revisions()}
    # One that this release does not know is newer: what is left after a rollback that kept the schema.
    assert row is not None
    assert row[0] in script.get_heads() or row[0] not in known


def test_redis_can_be_reached() -> None:
    url = urllib.parse.urlsplit(os.environ["REDIS_URL"])
    with socket.create_connection((url.hostname or "", url.port or 6379), timeout=5):
        pass
