"""The daily health check through the real scheduler: green, then every fault, then everything at once."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import requests

from sandbox.demo import DAG, arrived
from tests.e2e.conftest import Outcome, Platform
from vcci_ops.settings import load_settings

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]


def assert_complete(outcome: Outcome) -> None:
    """Every check of the catalogue reports, whatever happened."""
    assert outcome.document is not None
    assert {r["check"] for r in outcome.document["results"]} == set(load_settings("sandbox").checks)


def test_a_healthy_platform_is_green_and_the_report_arrives_everywhere(healthy: Platform) -> None:
    outcome = healthy.run()
    assert outcome.report["problems"] == []
    assert outcome.state == "success"
    assert_complete(outcome)
    assert set(outcome.tasks.values()) == {"success"}
    assert outcome.report["verdict"].startswith("All is well: ")
    assert all(arrived(healthy.demo, outcome.report, outcome.run_id).values())
    for result in (outcome.document or {})["results"]:
        for key in ("summary", "meaning", "action", "runbook", "title", "section"):
            assert result[key], (result["check"], key)
        assert result["link"].startswith("https://"), result["check"]


# Fault, options, what must be said: check → status, and words that a person finds in the report.
FAULTS: list[Any] = [
    pytest.param("pods-crashloop", [], {"pods.ready": "critical"}, ["CrashLoopBackOff"], id="pods-crashloop"),
    pytest.param("pods-not-ready", [], {"pods.ready": "critical"}, ["worker"], id="pods-not-ready"),
    pytest.param("pods-image-missing", [], {"pods.ready": "critical"}, ["ImagePullBackOff"], id="pods-image-missing"),
    pytest.param("api-503", [], {"api.ready": "critical"}, ["HTTP 503"], id="api-503"),
    pytest.param("api-slow", ["seconds=3"], {"api.latency": "critical"}, ["answered after 3"], id="api-slow"),
    pytest.param("tls-near-expiry", [], {"certificates.expiry": "critical"}, ["left, until"], id="tls-near-expiry"),
    pytest.param("errors-5xx", [], {"api.error_rate": "critical"}, ["failed with 5xx"], id="errors-5xx"),
    pytest.param("no-traffic", [], {"api.requests": "critical"}, ["no requests"], id="no-traffic"),
    pytest.param("queue-backlog", [], {"queues.depth": "critical"}, ["calculator"], id="queue-backlog"),
    pytest.param("queue-no-consumer", [], {"queues.consumers": "critical"}, ["reporting"], id="queue-no-consumer"),
    pytest.param(
        "redis-down",
        [],
        {"queues.depth": "unknown", "queues.oldest": "unknown", "queues.consumers": "unknown"},
        ["Redis did not answer"],
        id="redis-down",
    ),
    pytest.param(
        "db-connections",
        [],
        {"database.connections": "warning"},
        ["92 of 97", "92 by backend-api as vcci_app"],
        id="db-connections",
    ),
    pytest.param(
        "db-idle-transaction",
        [],
        {"database.transactions": "warning"},
        ["idle in transaction"],
        id="db-idle-transaction",
    ),
    pytest.param(
        "postgres-down",
        [],
        {
            "database.connections": "unknown",
            "database.size": "unknown",
            "tenants.active": "unknown",
            "database.slow_queries": "unknown",
            "security.failed_logins": "unknown",
        },
        ["did not answer"],
        id="postgres-down",
    ),
    pytest.param(
        "error-burst",
        [],
        {"errors.count": "critical", "errors.new": "warning"},
        ["x in 1 pod (backend-api-", "3 new: "],
        id="error-burst",
    ),
    pytest.param("backup-missing", [], {"backups.age": "critical"}, ["2 d "], id="backup-missing"),
    pytest.param("backup-truncated", [], {"backups.integrity": "critical"}, ["manifest"], id="backup-truncated"),
    pytest.param(
        "backup-shrunken", [], {"backups.size": "critical", "backups.integrity": "ok"}, ["%"], id="backup-shrunken"
    ),
    pytest.param(
        "prometheus-down",
        [],
        {"api.requests": "unknown", "api.error_rate": "unknown"},
        ["Prometheus did not answer"],
        id="prometheus-down",
    ),
    pytest.param(
        "metric-renamed",
        [],
        {"api.requests": "unknown", "api.error_rate": "unknown"},
        ["no series in Prometheus"],
        id="metric-renamed",
    ),
    pytest.param(
        "security-anomalies",
        [],
        {"security.failed_logins": "warning", "security.admins": "warning"},
        [],
        id="security-anomalies",
    ),
    pytest.param("slow-query", [], {"database.slow_queries": "warning"}, ["pg_sleep"], id="slow-query"),
]


@pytest.mark.parametrize(("fault", "options", "expected", "words"), FAULTS)
def test_each_fault_is_caught_by_the_right_check_in_words(
    healthy: Platform, fault: str, options: list[str], expected: dict[str, str], words: list[str]
) -> None:
    healthy.break_(fault, *options)
    outcome = healthy.run()
    assert_complete(outcome)
    for check, status in expected.items():
        assert status in outcome.statuses(check).values(), (check, outcome.statuses(check), outcome.words(check))
    said = "\n".join(outcome.words(check) for check in expected)
    for word in words:
        assert word in said, said
    red = {"critical", "unknown"} & set(expected.values())
    assert outcome.state == ("failed" if red else "success")
    blamed = {
        r["check"].split(".")[0] for r in (outcome.document or {})["results"] if r["status"] in ("critical", "unknown")
    }
    allowed = {check.split(".")[0] for check in expected} | ALSO.get(fault, set())
    assert blamed <= allowed, outcome.report["problems"]


# What a fault rightly makes bad besides what it is expected to.
ALSO: dict[str, set[str]] = {
    "pods-crashloop": {"workloads", "errors"},
    "pods-not-ready": {"workloads"},
    "pods-image-missing": {"workloads", "errors"},
    "api-slow": {"api"},
    "queue-backlog": {"queues"},
    "postgres-down": {"api", "tenants", "database", "security"},
    "db-connections": {"database"},
}


def test_slack_refusing_loses_nothing_and_says_so(healthy: Platform) -> None:
    healthy.break_("slack-refuses")
    outcome = healthy.run()
    assert outcome.state == "failed"
    assert outcome.tasks["slack"] == "failed"
    assert outcome.tasks["report"] == "success"
    log = healthy.client.log(DAG, outcome.run_id, "slack", attempt=1)
    assert "Slack: chat.postMessage refused: account_inactive" in log
    assert "The report is safe in s3://vcci-reports/reports/sandbox/daily_health_check/" in log
    assert arrived(healthy.demo, outcome.report, outcome.run_id) == {"Slack": False, "S3": True, "history": True}
    told = [mail for mail in healthy.inbox("mail")["mails"] if outcome.run_id in json.dumps(mail)]
    assert "slack failed" in json.dumps(told)


def test_two_faults_at_once_are_both_reported(healthy: Platform) -> None:
    healthy.break_("redis-down")
    healthy.break_("api-503")
    outcome = healthy.run()
    assert set(outcome.statuses("queues.depth").values()) == {"unknown"}
    assert outcome.statuses("api.ready") == {"": "critical"}
    assert outcome.report["verdict"].startswith("Act now: 1 critical, ")


def test_everything_slow_is_still_measured(healthy: Platform) -> None:
    healthy.break_("slow", "seconds=2")
    outcome = healthy.run()
    assert_complete(outcome)
    assert not [r["check"] for r in (outcome.document or {})["results"] if r["status"] == "unknown"]


def test_everything_down_is_unknown_within_time_and_the_run_says_so(healthy: Platform) -> None:
    for service in healthy.demo.services:
        if service.name not in ("pg-airflow", "messages", "s3"):
            service.stop(healthy.sandbox)
    try:
        outcome = healthy.run()
    finally:
        from sandbox.__main__ import up

        up(healthy.sandbox, healthy.demo.services)
    assert outcome.state == "failed"
    assert_complete(outcome)
    backups = {"backups.age", "backups.size", "backups.integrity"}
    for result in (outcome.document or {})["results"]:
        if result["check"] not in backups:
            assert result["status"] == "unknown", result
            assert re.search("did not answer", result["summary"]), result["summary"]
    tasks = healthy.client.get(f"dags/{DAG}/dagRuns/{outcome.run_id}/taskInstances", limit=100)["task_instances"]
    assert max(t["duration"] for t in tasks if t["state"] == "failed" and t["task_id"] != "verdict") < 30


def test_manual_run_looks_only_at_chosen_sections_and_dry_run_stores_nothing(healthy: Platform) -> None:
    posted = len(json.dumps(healthy.inbox("slack")))
    outcome = healthy.run({"sections": ["backups"], "dry_run": True})
    assert outcome.state == "success"
    assert outcome.tasks["backups.newest"] == "success"
    assert outcome.tasks["database.health"] == "skipped"
    assert outcome.document is None
    assert outcome.report["arrived"] == {}
    assert len(json.dumps(healthy.inbox("slack"))) == posted


@pytest.mark.parametrize(
    ("conf", "field"),
    [
        ({"lookback": "1h; rm -rf /"}, "lookback"),
        ({"lookback": "24h\n"}, "lookback"),
        ({"sections": ["databse"]}, "sections"),
        ({"sections": []}, "sections"),
        ({"slack_channel": "#Ops!"}, "slack_channel"),
        ({"dry_run": "maybe"}, "dry_run"),
    ],
)
def test_bad_input_is_refused_at_the_form(healthy: Platform, conf: dict[str, Any], field: str) -> None:
    answer = healthy.client.post(f"dags/{DAG}/dagRuns", {"logical_date": None, "conf": conf})
    assert answer.status_code in (400, 422)
    assert field in answer.text


def test_a_cleared_run_replaces_its_report_and_does_not_double_the_message(healthy: Platform) -> None:
    outcome = healthy.run()
    block_id = outcome.report["slack"]["block_id"]
    answer = healthy.client.post(
        f"dags/{DAG}/clearTaskInstances",
        {"dry_run": False, "dag_run_id": outcome.run_id, "only_failed": False, "reset_dag_runs": True},
    )
    assert answer.ok, answer.text
    assert healthy.client.wait(DAG, outcome.run_id) == "success"
    assert json.dumps(healthy.inbox("slack")).count(f'"{block_id}"') == 1
    again = healthy.client.xcom(DAG, outcome.run_id, "report", "report")
    assert all(arrived(healthy.demo, again, outcome.run_id).values())


def test_the_report_page_needs_a_login_and_the_right_to_see_the_run(healthy: Platform) -> None:
    outcome = healthy.run({"sections": ["certificates"]})
    url = outcome.report["url"]
    assert requests.get(url, timeout=10).status_code == 401
    path = url.removeprefix(healthy.client.url)
    page = healthy.client.raw(path)
    assert page.status_code == 200
    assert "<h1>All is well" in page.text
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert healthy.client.raw(path + "x").status_code == 404
    assert requests.get(f"{healthy.client.url}/vcci-ops/openapi.json", timeout=10).status_code in (401, 404)


def test_every_task_links_to_the_report(healthy: Platform) -> None:
    outcome = healthy.run({"sections": ["certificates"]})
    for task_id in ("certificates.on_the_wire", "report", "slack", "verdict"):
        links = healthy.client.get(f"dags/{DAG}/dagRuns/{outcome.run_id}/taskInstances/{task_id}/links")
        assert links["extra_links"]["vcci_ops"].endswith(outcome.report["url"].rpartition("/vcci-ops")[2]), links
