"""Backup, drill, maintenance and an hourly look on a whole Airflow, asked for as a person does it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sandbox.services import s3
from tests.e2e.conftest import Platform

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def run(platform: Platform, dag_id: str, conf: dict[str, Any]) -> tuple[str, str]:
    """Return a run's id and how it ended."""
    run_id = platform.client.trigger(dag_id, conf)
    return run_id, platform.client.wait(dag_id, run_id, seconds=200)


def said(platform: Platform) -> str:
    return json.dumps(platform.inbox("slack"), ensure_ascii=False)


def test_a_backup_by_hand_is_made_restored_and_proven_and_nothing_is_deleted(healthy: Platform) -> None:
    client, store = healthy.client, s3.client(healthy.sandbox)
    before = {item["Key"] for item in store.list_objects_v2(Bucket=s3.BACKUPS)["Contents"]}
    backup, state = run(healthy, "database_backup", {"reason": "before the migration"})
    assert state == "success", client.tasks("database_backup", backup)
    key = client.xcom("database_backup", backup, "read_back", "return_value")
    there = {item["Key"] for item in store.list_objects_v2(Bucket=s3.BACKUPS)["Contents"]}
    assert there >= {*before, key, f"{key}.manifest.json"}
    assert f"Backup {key.rpartition('/')[2]}: " in said(healthy)

    drill, state = run(healthy, "dr_restore_test", {"which": "key", "key": key})
    assert state == "success", client.tasks("dr_restore_test", drill)
    assert client.xcom("dr_restore_test", drill, "choose", "return_value")["key"] == key
    assert "Restore drill: " in said(healthy)
    report = client.log("dr_restore_test", drill, "report", 1)
    assert "The compliance register has backup-restore-test: met" in report


def test_maintenance_outside_of_its_windows_takes_a_reason_and_ends_with_its_lock_given_back(healthy: Platform) -> None:
    client = healthy.client
    refused, state = run(healthy, "database_maintenance", {"tables": ["no_such_table"], "dry_run": True})
    assert state == "failed"
    assert "a table that exists of " in client.log("database_maintenance", refused, "plan", 1)
    conf = {"tables": ["emissions"], "ignore_window": True, "reason": "a test of maintenance", "dry_run": False}
    done, state = run(healthy, "database_maintenance", conf)
    assert state == "success", client.tasks("database_maintenance", done)
    assert client.tasks("database_maintenance", done)["unlock"] == "success"
    assert "Database maintenance: " in said(healthy)
    assert "vacuumed" in said(healthy)


def test_an_hourly_look_is_a_line_in_the_days_thread(healthy: Platform) -> None:
    look, state = run(healthy, "hourly_checks", {})
    assert state == "success", healthy.client.tasks("hourly_checks", look)
    line = healthy.client.xcom("hourly_checks", look, "notice", "return_value")
    assert "bad in a row" not in line
    assert "*Hourly checks* of *sandbox*, " in said(healthy)
    assert line.partition("·")[0].strip() in said(healthy)
