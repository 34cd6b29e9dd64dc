"""Scaling, restarting, breaking a dead run's lock and closing an incident, on a whole Airflow as people do it."""

from __future__ import annotations

import datetime as dt
import json
import re

import pytest

from tests.e2e.release_fixtures import Released

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]
NEW = "v2.1.0"


def replicas(released: Released, workload: str) -> int:
    return int(released.kubectl("get", "deployment", workload, "-o", "jsonpath={.spec.replicas}"))


def test_scaled_up_until_an_end_time_and_put_back(released: Released) -> None:
    before = replicas(released, "frontend")
    until = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=25)
    conf = {
        "profile": "custom",
        "replicas_frontend": before + 1,
        "until": until.isoformat(timespec="seconds"),
        "reason": "a test of scaling",
        "dry_run": False,
    }
    run = released.run("scale_workloads", conf)
    run.until_task("ready", "success")
    assert replicas(released, "frontend") == before + 1
    run.until_task("put_back.until", "deferred", "success")
    assert released.lock_holder() == "", "nothing is barred while it waits for its end time"
    assert run.ended() == "success", run.tasks
    assert replicas(released, "frontend") == before
    said = "\n".join(str(message.get("text")) for message in run.thread())
    assert "*Put back*" in said
    assert re.search(rf"frontend +{before} +{before + 1} +{before + 1} ", said), said
    assert [kind for (kind,) in released.history("SELECT kind FROM change_event")] == ["scale", "scale"]


def test_more_than_the_database_can_bear_is_refused_with_the_sum(released: Released) -> None:
    conf = {"profile": "custom", "replicas_backend_api": 15, "replicas_worker": 25, "reason": "far too many"}
    run = released.run("scale_workloads", {**conf, "dry_run": False})
    assert run.ended() == "failed"
    assert run.tasks["plan"] == "failed"
    assert "max_connections" in run.log("plan")
    assert released.history("SELECT 1 FROM change_event") == []


def test_restarted_one_after_the_other(released: Released) -> None:
    conf = {"workloads": ["backend-api", "worker"], "reason": "a leak in the client", "dry_run": False}
    run = released.run("restart_workloads", conf)
    assert run.ended() == "success", run.tasks
    assert run.tasks["restart.frontend"] == "skipped"
    listed = json.loads(released.kubectl("get", "deployments", "-o", "json"))["items"]
    restarted = {
        deployment["metadata"]["name"]
        for deployment in listed
        if "kubectl.kubernetes.io/restartedAt" in (deployment["spec"]["template"]["metadata"].get("annotations") or {})
    }
    assert {"backend-api", "worker"} <= restarted
    assert released.lock_holder() == ""


def test_the_lock_of_a_dead_run_is_broken_with_a_record_and_an_incident_bars_releases_until_it_is_closed(
    released: Released,
) -> None:
    lease = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "vcci-ops-change"},
        "spec": {"holderIdentity": "release_deploy/dead", "acquireTime": "2026-11-24T09:00:00.000000Z"},
    }
    released.kubectl("apply", "-f", "-", given=json.dumps(lease))
    released.history_execute(
        "INSERT INTO incident (id, environment, severity, title, source) "
        "VALUES ('INC-2026-11-24-001', 'sandbox', 'P0', 'the rollback failed', 'release_deploy/dead')"
    )
    barred = released.deploy(NEW, "release/v2.1", dry_run=True)
    assert barred.ended() == "failed"
    said = barred.log("validate.quiet")
    assert "release_deploy/dead holds the change lock" in said
    assert "incident INC-2026-11-24-001 (P0) is open: the rollback failed" in said
    unsure = {"expected_holder": "release_deploy/dead", "reason": "its machine is gone, nothing half-way"}
    refused = released.run("break_glass_unlock", unsure)
    assert refused.ended() == "failed"
    assert "confirm" in refused.log("break_lock")
    assert released.lock_holder() == "release_deploy/dead"
    broken = released.run("break_glass_unlock", {**unsure, "confirm": True})
    closed = released.run("close_incident", {"incident": "INC-2026-11-24-001", "reason": "brought back by hand"})
    assert (broken.ended(), closed.ended()) == ("success", "success")
    assert released.lock_holder() == ""
    assert "Break glass" in str(broken.thread())
    assert released.history("SELECT actor, kind FROM change_event") == [("admin", "lock-broken")]
    assert released.history("SELECT detail ->> 'closed_by' FROM incident") == [("admin",)]
    assert released.deploy(NEW, "release/v2.1", dry_run=True).ended() == "success"
