"""The Kubernetes checks on the played and the real API, with exactly the permissions that include/ ships."""

from __future__ import annotations

import datetime as dt
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from sandbox.service import Sandbox
from sandbox.services.kube import Kube
from tests.integration.kube_fixtures import (
    Outcome,
    Plane,
    checks,
    connect,
    doorman,
    furnished,
    played_plane,
    real_plane,
    reply,
    run,
    until,
    usage_metrics,
)
from vcci_ops.domain.results import Result, Status
from vcci_ops.exceptions import Unreachable
from vcci_ops.operators.base import CheckOperator
from vcci_ops.operators.kubernetes import PodsCheckOperator, UsageCheckOperator
from vcci_ops.operators.logs import LogsCheckOperator
from vcci_ops.settings import load_settings

pytestmark = [pytest.mark.kube, pytest.mark.integration]


@pytest.fixture(scope="module", params=["played", "real"])
def plane(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    folder = tmp_path_factory.mktemp("kube")
    with played_plane(folder) if request.param == "played" else real_plane() as admin:
        with furnished(request.param, admin, folder) as made:
            yield made


@pytest.fixture(scope="module")
def config(plane: Plane) -> dict[str, Any]:
    return plane.checks_config


@pytest.fixture(autouse=True)
def connection(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    connect(monkeypatch, config)


@pytest.fixture(scope="module")
def platform(plane: Plane) -> Iterator[Plane]:
    """A namespace where all is well, with a finished Job's pod lying about."""
    plane.deploy("backend-api", replicas=3)
    plane.deploy("worker", replicas=2)
    container = {"name": "migrate", "image": "vcci/migrate:v2", "command": ["true"]}
    job = {"restartPolicy": "Never", "containers": [container]}
    meta = {"name": "migrate", "namespace": plane.namespace}
    plane.apply({"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": {"template": {"spec": job}}})
    plane.wait_ready("backend-api", "worker")
    plane.wait_logged("backend-api")
    plane.kubectl("wait", "--for=condition=complete", "job/migrate", "-n", plane.namespace, "--timeout=30s")
    yield plane
    plane.delete_workloads()


@pytest.fixture
def broken(platform: Plane) -> Iterator[Plane]:
    """As ``platform``; what a test adds under the name ``broken`` is removed."""
    yield platform
    platform.kubectl("delete", "deployment", "broken", "-n", platform.namespace, "--ignore-not-found")
    until("its pods are gone", lambda: not platform.pods("broken"))


def pods_check(plane: Plane, *, for_: float = 0, **more: Any) -> Outcome:
    return run(
        PodsCheckOperator(
            task_id="pods", checks=checks(PodsCheckOperator, for_), namespace=plane.namespace, fail=False, **more
        )
    )


def usage_check(plane: Plane, **more: Any) -> Outcome:
    return run(
        UsageCheckOperator(
            task_id="usage", checks=checks(UsageCheckOperator), namespace=plane.namespace, fail=False, **more
        )
    )


def logs_check(plane: Plane, workload: str = "backend-api", **more: Any) -> Outcome:
    return run(
        LogsCheckOperator(
            task_id="logs",
            checks=checks(LogsCheckOperator),
            namespace=plane.namespace,
            workload=workload,
            fail=False,
            **more,
        )
    )


# Pods and Deployments ---------------------------------------------------------------------------------


def test_all_is_well_and_a_finished_job_is_no_pod_that_is_not_ready(platform: Plane) -> None:
    outcome = pods_check(platform, workloads=["backend-api", "worker"])
    assert {result.key: result.status for result in outcome.results} == {
        ("workloads.available", "backend-api"): Status.OK,
        ("workloads.available", "worker"): Status.OK,
        ("pods.ready", ""): Status.OK,
        ("pods.restarts", ""): Status.OK,
    }
    assert outcome["pods.ready"].summary == "all 5 pods are ready"
    assert outcome["workloads.available", "backend-api"].display == "3 of 3"


def test_an_image_that_cannot_be_pulled_is_named_with_its_pod_and_deployment(broken: Plane) -> None:
    broken.deploy("broken", "bad", replicas=2)
    broken.wait_waiting("broken", "ImagePullBackOff")
    until("both", lambda: pods_check(broken)["pods.ready"].value == 2)
    result = pods_check(broken)["pods.ready"]
    assert result.status is Status.CRITICAL
    assert result.summary == "2 of 7 pods are not ready: broken 2 of 2 (ImagePullBackOff)"
    pod = broken.pods("broken")[0]["metadata"]["name"]
    line = next(line for line in result.details if line.startswith(pod))
    assert "(broken): ImagePullBackOff for" in line
    assert "[image vcci/broken:bad]" in line


def test_a_young_pod_that_is_not_ready_is_shown_and_does_not_count(broken: Plane) -> None:
    broken.deploy("broken", "bad")
    broken.wait_waiting("broken", "ImagePullBackOff")
    result = pods_check(broken, for_=3600)["pods.ready"]
    assert (result.status, result.value) == (Status.OK, 0)
    assert any("not counted: 1 not ready yet" in line and "ImagePullBackOff" in line for line in result.details)


def test_a_crash_loop_is_critical_at_once_and_its_restarts_count(broken: Plane) -> None:
    broken.deploy("broken", "crash")
    broken.wait_waiting("broken", "CrashLoopBackOff", restarts=3)
    outcome = pods_check(broken, for_=3600)
    assert outcome["pods.ready"].status is Status.CRITICAL
    assert "broken 1 of 1 (CrashLoopBackOff)" in outcome["pods.ready"].summary
    assert outcome["pods.restarts"].value >= 3
    assert outcome["pods.restarts"].status.rank >= Status.WARNING.rank
    assert outcome["workloads.available", "broken"].status is Status.CRITICAL


def test_a_rollout_past_its_deadline_is_critical_while_the_old_replicas_serve(broken: Plane) -> None:
    broken.deploy("broken", progressDeadlineSeconds=2)
    broken.wait_ready("broken")
    broken.deploy("broken", "bad", progressDeadlineSeconds=2)
    result = until(
        "ProgressDeadlineExceeded",
        lambda: (r := pods_check(broken)["workloads.available", "broken"]).status is Status.CRITICAL and r,
    )
    assert "ProgressDeadlineExceeded" in result.summary
    assert result.summary.startswith("1 of 1 replicas available")


def test_an_expected_deployment_that_is_missing_or_scaled_to_nothing_is_critical(broken: Plane) -> None:
    broken.deploy("broken", replicas=0)
    outcome = pods_check(broken, workloads=["broken", "beat"])
    missing, asleep = outcome["workloads.available", "beat"], outcome["workloads.available", "broken"]
    assert (missing.status, asleep.status) == (Status.CRITICAL, Status.CRITICAL)
    assert missing.summary == f"there is no Deployment beat in namespace {broken.namespace}"
    assert asleep.summary == "scaled to 0 replicas, but it should run"
    assert outcome["workloads.available", "worker"].status is Status.OK


@pytest.mark.parametrize(
    ("spec", "status", "summary"),
    [
        pytest.param(
            *({"paused": True}, {"updatedReplicas": 1}),
            "2 of 2 replicas available; rollout paused: 1 of 2 replicas are new",
            id="paused",
        ),
        pytest.param(
            {},
            {"conditions": [{"type": "ReplicaFailure", "status": "True", "message": 'pods "x" is forbidden: quota'}]},
            '2 of 2 replicas available; replicas cannot be made: pods "x" is forbidden: quota',
            id="quota",
        ),
    ],
)
def test_a_rollout_that_stands_still_is_a_warning_though_replicas_suffice(
    platform: Plane, spec: dict[str, Any], status: dict[str, Any], summary: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stands_still(door: BaseHTTPRequestHandler) -> bool:
        if not urlsplit(door.path).path.endswith("/deployments"):
            return False
        listed = json.loads(platform.kubectl("get", "deployments", "-n", platform.namespace, "-o", "json"))
        for item in listed["items"]:
            if item["metadata"]["name"] == "worker":
                item["spec"] |= spec
                item["status"] |= status
        reply(door, 200, json.dumps({**listed, "metadata": {}}).encode())
        return True

    with doorman(platform, stands_still) as config:
        connect(monkeypatch, config)
        outcome = pods_check(platform)
    result = outcome["workloads.available", "worker"]
    assert (result.status, result.summary) == (Status.WARNING, summary)
    assert outcome["workloads.available", "backend-api"].status is Status.OK


def test_pods_of_a_job_that_failed_of_late_are_a_warning(platform: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    def backups_fail(door: BaseHTTPRequestHandler) -> bool:
        if not urlsplit(door.path).path.endswith("/pods"):
            return False
        listed = json.loads(platform.kubectl("get", "pods", "-n", platform.namespace, "-o", "json"))
        owner = {"kind": "Job", "name": "nightly-backup-29391234", "controller": True}
        for number in range(3):
            meta = {"name": f"nightly-backup-{number}", "creationTimestamp": stamp(), "ownerReferences": [owner]}
            listed["items"].append({"metadata": meta, "status": {"phase": "Failed"}})
        reply(door, 200, json.dumps({**listed, "metadata": {}}).encode())
        return True

    with doorman(platform, backups_fail) as config:
        connect(monkeypatch, config)
        result = pods_check(platform)["pods.ready"]
    assert (result.status, result.value) == (Status.WARNING, 0)
    assert result.summary == "all 5 pods are ready; 3 pods of Job nightly-backup failed in the last 1 h"
    assert "3 pods of Job nightly-backup failed in the last 1 h" in result.details


def test_pages_are_followed(platform: Plane) -> None:
    assert pods_check(platform, page_size=2)["pods.ready"].summary == "all 5 pods are ready"


def test_an_oom_killed_container_is_named(broken: Plane) -> None:
    broken.deploy("broken")
    broken.wait_ready("broken")
    pod = broken.pods("broken")[0]
    name, container = pod["metadata"]["name"], pod["status"]["containerStatuses"][0]
    end = {"reason": "OOMKilled", "exitCode": 137, "startedAt": stamp(), "finishedAt": stamp()}
    status = {"containerStatuses": [{**container, "restartCount": 2, "lastState": {"terminated": end}}]}
    patch = json.dumps({"status": status})
    broken.kubectl("patch", "pod", name, "-n", broken.namespace, "--subresource=status", "--type=merge", "-p", patch)
    result = pods_check(broken)["pods.restarts"]
    assert (result.status, result.value) == (Status.WARNING, 2)
    assert result.summary == "2 restarts of 1 container in the last 1 h, 1 OOMKilled"
    assert result.details[0].startswith(f"{name}/broken (broken): 2 restarts, last ")
    assert result.details[0].endswith("ago: OOMKilled (exit code 137)")


def test_a_namespace_without_anything_is_unknown(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = f"{plane.namespace}-empty"
    with furnished(plane.name, plane.admin, plane.folder, empty) as made:
        connect(monkeypatch, made.checks_config)
        outcome = run(PodsCheckOperator(task_id="p", checks=checks(PodsCheckOperator), namespace=empty, fail=False))
    assert {result.status for result in outcome.results} == {Status.UNKNOWN}
    assert outcome["pods.ready"].summary == f"namespace {empty} has no pods, or does not exist"
    assert outcome["pods.ready"].reason == "no_data"


# Nodes and usage ---------------------------------------------------------------------------------------


def test_usage_is_compared_with_what_there_is(platform: Plane) -> None:
    with usage_metrics(platform, "backend-api"):
        outcome = usage_check(platform)
    assert outcome["nodes.ready"].status is Status.OK
    assert outcome["nodes.usage"].summary.startswith("highest: ")
    assert outcome["pods.usage"].value is not None
    if platform.name == "real":
        assert outcome["nodes.usage"].status is Status.WARNING
        assert outcome["nodes.usage"].summary == "highest: sim-2: CPU 90 % (14.4 cores of 16 cores)"
        assert outcome["pods.usage"].status is Status.CRITICAL
        assert "memory 98 %" in outcome["pods.usage"].summary


def test_without_a_metrics_api_usage_is_unknown_and_the_nodes_are_reported(
    platform: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_metrics(door: BaseHTTPRequestHandler) -> bool:
        if "/metrics.k8s.io/" in door.path:
            reply(door, 404, b"404 page not found\n", "text/plain")
            return True
        return False

    with doorman(platform, no_metrics) as config:
        connect(monkeypatch, config)
        outcome = usage_check(platform)
    assert outcome["nodes.ready"].status is Status.OK
    for id_ in ("nodes.usage", "pods.usage"):
        assert outcome[id_].status is Status.UNKNOWN
        assert "no metrics API (metrics.k8s.io); is the metrics-server installed?" in outcome[id_].summary


# Logs --------------------------------------------------------------------------------------------------


def test_logs_are_read_through_the_api(platform: Plane) -> None:
    outcome = logs_check(platform, markers=["INFO"])
    result = outcome["errors.count"]
    assert result.value >= 3
    assert "in 3 of 3 pods" in result.summary
    assert outcome.pushed["signatures"][0]["count"] >= 1
    assert outcome["errors.new"].summary == "no earlier run to compare with"


def test_every_pod_and_the_run_before_a_restart_are_read_and_grouped(
    platform: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = sorted(pod["metadata"]["name"] for pod in platform.pods("backend-api"))
    asked: list[tuple[str, bool]] = []

    def logs(door: BaseHTTPRequestHandler) -> bool:
        url = urlsplit(door.path)
        if url.path.endswith(f"/{platform.namespace}/pods"):
            return restarted(door, platform, names[0])
        if not url.path.endswith("/log"):
            return False
        pod, previous = url.path.split("/")[-2], "previous" in parse_qs(url.query)
        asked.append((pod, previous))
        time_out = b"2026-01-01T00:00:%02dZ ERROR db: timeout on %d password=hunter2\n"
        lines = {
            (names[0], True): b"CRITICAL out of memory\n",
            (names[1], False): b"".join(time_out % (n % 60, n) for n in range(214)),
        }
        reply(door, 200, b"INFO fine\n" + lines.get((pod, previous), b""), "text/plain")
        return True

    with doorman(platform, logs) as config:
        connect(monkeypatch, config)
        outcome = logs_check(platform, known_signatures=["ERROR db: timeout on <n> password=***"])
    assert sorted(asked) == sorted([(names[0], True), *((name, False) for name in names)])
    result = outcome["errors.count"]
    assert (result.value, result.status) == (215, Status.CRITICAL)
    assert result.details[0] == f"214x in 1 pod ({names[1]}): ERROR db: timeout on <n> password=***"
    assert result.details[1] == f"1x in 1 pod ({names[0]}): CRITICAL out of memory"
    new = outcome["errors.new"]
    assert (new.value, new.status) == (1, Status.WARNING)
    assert new.summary.startswith("1 new: 1x in 1 pod")
    assert outcome.pushed["signatures"][0] == {"signature": "ERROR db: timeout on <n> password=***", "count": 214}
    assert "hunter2" not in json.dumps(outcome.pushed)


def test_a_log_that_cannot_be_read_makes_the_count_unknown_and_keeps_the_others(
    platform: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = sorted(pod["metadata"]["name"] for pod in platform.pods("backend-api"))[0]

    def one_fails(door: BaseHTTPRequestHandler) -> bool:
        if not urlsplit(door.path).path.endswith("/log"):
            return False
        if f"/{lost}/" in door.path:
            reply(door, 502, b"kubelet is gone")
        else:
            reply(door, 200, b"ERROR one\n", "text/plain")
        return True

    with doorman(platform, one_fails) as config:
        connect(monkeypatch, config)
        result = logs_check(platform)["errors.count"]
    assert (result.status, result.value) == (Status.UNKNOWN, 2)
    assert "the logs of 1 of 3 pods could not be read; so far 2 error lines of 1 kind" in result.summary
    assert any(lost in line and "502" in line for line in result.details)


def test_pods_are_found_by_whatever_the_deployment_selects(broken: Plane) -> None:
    broken.deploy("broken", label="component")
    broken.wait_ready("broken")
    broken.wait_logged("broken")
    assert "(1 of 1 pods read" in logs_check(broken, "broken", markers=["no such marker"])["errors.count"].summary


def test_logs_of_a_deployment_that_is_not_there_are_unknown(platform: Plane) -> None:
    outcome = logs_check(platform, "nothing")
    assert {result.status for result in outcome.results} == {Status.UNKNOWN}
    assert outcome["errors.count"].summary == f"there is no Deployment nothing in namespace {platform.namespace}"


def test_no_log_is_not_a_clean_log(broken: Plane) -> None:
    broken.deploy("broken", "bad")
    broken.wait_waiting("broken", "ImagePullBackOff")
    result = logs_check(broken, "broken")["errors.count"]
    assert result.status is Status.UNKNOWN
    assert "none of the 1 pods of broken has a log" in result.summary


def test_logs_that_are_all_empty_are_no_clean_logs(platform: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(door: BaseHTTPRequestHandler) -> bool:
        if not urlsplit(door.path).path.endswith("/log"):
            return False
        reply(door, 200, b"", "text/plain")
        return True

    with doorman(platform, silent) as config:
        connect(monkeypatch, config)
        outcome = logs_check(platform)
    assert {(result.status, result.reason) for result in outcome.results} == {(Status.UNKNOWN, "no_data")}
    assert outcome["errors.count"].summary == (
        "all logs of the 3 pods of backend-api are empty in the last 1 h: "
        "is logging on, does the container write to stdout?"
    )
    assert "signatures" not in outcome.pushed


def test_without_the_history_new_errors_are_unknown_and_all_are_counted(platform: Plane) -> None:
    class Forgetful(LogsCheckOperator):
        def earlier(self, *_: Any, **__: Any) -> list[tuple[dt.datetime, Any]]:
            raise Unreachable("The history", "connection refused")

    operator = Forgetful(
        task_id="logs", checks=checks(Forgetful), namespace=platform.namespace, workload="backend-api", fail=False
    )
    outcome = run(operator)
    new = outcome["errors.new"]
    assert (new.status, new.reason) == (Status.UNKNOWN, "unreachable")
    assert new.summary == "The history did not answer: connection refused"
    assert outcome["errors.count"].value is not None


# Permissions and outages -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("check", "role", "resource", "unknown", "named"),
    [
        pytest.param(pods_check, "Role", "pods", "pods.ready", "list pods in namespace", id="pods"),
        pytest.param(
            *(pods_check, "Role", "deployments", "workloads.available", "list deployments.apps in namespace"),
            id="deployments",
        ),
        pytest.param(logs_check, "Role", "pods/log", "errors.count", "get pods/log in namespace", id="log"),
        pytest.param(usage_check, "ClusterRole", "nodes", "nodes.ready", "list nodes", id="nodes"),
    ],
)
def test_a_missing_permission_is_named(
    platform: Plane,
    check: Callable[[Plane], Outcome],
    role: str,
    resource: str,
    unknown: str,
    named: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if platform.name != "real":
        pytest.skip("the played API knows no permissions")
    less = f"{platform.namespace}-{resource.replace('/', '-')}"
    with furnished("real", platform.admin, platform.folder, less, without=(role, resource)) as target:
        connect(monkeypatch, target.checks_config)
        if check is logs_check:
            target.deploy("backend-api")
            target.wait_ready("backend-api")
        result = check(target)[unknown]
    assert result.status is Status.UNKNOWN
    where = f" {less}" if named.endswith("namespace") else ""
    said = " ".join([result.summary, *result.details])
    assert f"Kubernetes refused: missing permission to {named}{where}" in said


def test_a_wrong_token_is_said_and_never_shown(platform: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    config = platform.checks_config
    config["users"][0]["user"]["token"] = "not-the-token-12345"
    connect(monkeypatch, config)
    outcome = pods_check(platform)
    assert {(result.status, result.reason) for result in outcome.results} == {(Status.UNKNOWN, "forbidden")}
    assert "401" in outcome["pods.ready"].summary
    assert "not-the-token" not in json.dumps(outcome.pushed)


def test_a_refused_connection_is_reported_quickly(platform: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    config = platform.checks_config
    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:9"
    connect(monkeypatch, config)
    for outcome in (pods_check(platform), usage_check(platform), logs_check(platform)):
        assert {(result.status, result.reason) for result in outcome.results} == {(Status.UNKNOWN, "unreachable")}
        assert outcome.seconds < 5
    assert "connection refused or no route" in outcome["errors.count"].summary


def test_an_api_that_hangs_is_reported_within_the_deadline(platform: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    def pods_hang(door: BaseHTTPRequestHandler) -> bool:
        if urlsplit(door.path).path.endswith("/pods"):
            time.sleep(15)
            return True
        return False

    with doorman(platform, pods_hang) as config:
        connect(monkeypatch, config)
        outcome = pods_check(platform, deadline=3)
    assert outcome.seconds < 6
    assert outcome["workloads.available", "worker"].status is Status.OK
    assert outcome["pods.ready"].summary == "Kubernetes did not answer: no answer within 3 s"


def test_a_connection_that_is_missing_or_has_an_unknown_extra_is_named(
    platform: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = {"conn_type": "kubernetes", "extra": {"kube_config_pathh": "/x"}}
    monkeypatch.setenv("AIRFLOW_CONN_ODD", json.dumps(odd))
    summary = pods_check(platform, kubernetes_conn_id="odd")["pods.ready"].summary
    assert "the Airflow connection odd has an unknown extra 'kube_config_pathh'" in summary
    absent = pods_check(platform, kubernetes_conn_id="absent")["pods.ready"]
    assert absent.status is Status.UNKNOWN
    assert "the Airflow connection absent is missing" in absent.summary


# The sandbox's faults, with its own settings -------------------------------------------------------------


@pytest.fixture(scope="module")
def sandbox(plane: Plane) -> Sandbox:
    if plane.name != "played":
        pytest.skip("faults are the sandbox's")
    return Sandbox(plane.folder)


@contextmanager
def fault(sandbox: Sandbox, name: str) -> Iterator[None]:
    found = next(fault for fault in Kube.faults if fault.name == name)
    options = dict(found.options)
    sandbox.state.set_fault(name, options)
    if found.apply:
        found.apply(sandbox, options)
    try:
        yield
    finally:
        sandbox.state.set_fault(name, None)
        if found.heal:
            found.heal(sandbox, options)


def seeded(operator: type[CheckOperator], **more: Any) -> Outcome:
    """Run a check on the sandbox's platform as the daily health check does."""
    chosen = load_settings("sandbox").pick(*operator.measures)
    return run(operator(task_id="t", checks=chosen, namespace="vcci-production", fail=False, **more))


def settled(name: str, operator: type[CheckOperator], check: str, status: Status, **more: Any) -> Result:
    def worst() -> Result | None:
        results = [result for result in seeded(operator, **more).results if result.check == check]
        return next((result for result in results if result.status is status), None)

    found: Result = until(f"{name} shows as {check} {status}", worst)
    return found


WORKLOADS = ("backend-api", "frontend", "worker", "beat")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        pytest.param("pods-crashloop", "CrashLoopBackOff", id="crashloop"),
        pytest.param("pods-not-ready", "Running but not ready (readiness probe)", id="not ready"),
        pytest.param("pods-image-missing", "ImagePullBackOff", id="image missing"),
    ],
)
def test_a_fault_of_the_sandbox_shows(
    sandbox: Sandbox, plane: Plane, name: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(monkeypatch, yaml.safe_load(plane.admin.read_text()))
    operator = partial(settled, name, PodsCheckOperator, workloads=WORKLOADS)
    operator("pods.ready", Status.OK)
    with fault(sandbox, name):
        assert words in operator("pods.ready", Status.CRITICAL).summary
        operator("workloads.available", Status.CRITICAL)
        operator("pods.restarts", Status.CRITICAL if name == "pods-crashloop" else Status.OK)
    operator("pods.ready", Status.OK)


def test_an_error_burst_in_one_pod_shows(sandbox: Sandbox, plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    connect(monkeypatch, yaml.safe_load(plane.admin.read_text()))
    before = seeded(LogsCheckOperator, workload="backend-api")
    assert before["errors.count"].status is Status.OK
    known = [entry["signature"] for entry in before.pushed["signatures"]]
    with fault(sandbox, "error-burst"):
        operator = partial(settled, "error-burst", LogsCheckOperator, workload="backend-api", known_signatures=known)
        assert "in 1 pod (backend-api-" in operator("errors.count", Status.CRITICAL).summary
        assert operator("errors.new", Status.WARNING).value == 3


def test_the_platform_at_rest_is_well(sandbox: Sandbox, plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    connect(monkeypatch, yaml.safe_load(plane.admin.read_text()))
    outcome = seeded(UsageCheckOperator)
    assert {result.check: result.status for result in outcome.results} == {
        "nodes.ready": Status.OK,
        "nodes.usage": Status.OK,
        "pods.usage": Status.OK,
    }


# Help --------------------------------------------------------------------------------------------------


def stamp() -> str:
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def restarted(door: BaseHTTPRequestHandler, plane: Plane, name: str) -> bool:
    """Answer the list of pods as if one had been restarted a moment ago."""
    listed = json.loads(plane.kubectl("get", "pods", "-n", plane.namespace, "-l", "app=backend-api", "-o", "json"))
    for pod in listed["items"]:
        if pod["metadata"]["name"] == name:
            container = pod["status"]["containerStatuses"][0]
            container["restartCount"] = 1
            container["lastState"] = {"terminated": {"exitCode": 137, "reason": "OOMKilled", "finishedAt": stamp()}}
    reply(door, 200, json.dumps({**listed, "metadata": {}}).encode())
    return True
