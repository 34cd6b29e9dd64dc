"""The platform on the sandbox's Kubernetes API: whole at the start, ill when broken, whole again when healed."""
# ruff: noqa: F401, F811 - fixtures are found by the names they are imported under

from __future__ import annotations

import base64
import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from cryptography import x509
from kubernetes import client
from kubernetes.client.exceptions import ApiException

from sandbox.__main__ import break_, heal
from sandbox.service import Sandbox, SandboxError
from sandbox.services.kube import Kube
from tests.integration.played_kubernetes import (
    PLATFORM,
    api,
    app_pods,
    apps,
    batch,
    broken,
    condition,
    core,
    deployment,
    job,
    log,
    namespace,
    ready,
    sandbox,
    text_so_far,
    until,
)

pytestmark = [pytest.mark.integration, pytest.mark.kube]


# The platform at the start -------------------------------------------------------------------------


def test_platform_is_whole_at_the_start(core: client.CoreV1Api, apps: client.AppsV1Api) -> None:
    found = {d.metadata.name: d.status.available_replicas for d in apps.list_namespaced_deployment(PLATFORM).items}
    assert found == {"backend-api": 3, "frontend": 2, "worker": 3, "beat": 1}
    phases = [p.status.phase for p in core.list_namespaced_pod(PLATFORM).items]
    assert phases.count("Running") == 9
    assert phases.count("Succeeded") == len(phases) - 9 > 0
    assert [ready(node) for node in core.list_node().items] == [True] * 3
    sets = apps.list_namespaced_replica_set(PLATFORM, label_selector="app=backend-api").items
    revisions = {
        s.metadata.annotations["deployment.kubernetes.io/revision"]: s.spec.template.spec.containers[0].image
        for s in sets
    }
    assert revisions == {"1": "vcci/backend-api:v1.9.0", "2": "vcci/backend-api:v2.0.0"}


def test_an_ordinary_hour_has_few_errors_and_reads_the_same_twice(core: client.CoreV1Api) -> None:
    names = [pod.metadata.name for pod in app_pods(core, "backend-api")]
    logs = [log(core, name, since_seconds=3600) for name in names]
    errors = sum(line.count(" ERROR ") for line in logs)
    assert 3 <= errors < 20
    assert all(text.count("\n") > 200 for text in logs)
    again = log(core, names[0], since_seconds=3700)
    assert logs[0] in again


def test_usage_is_measured_for_running_pods_and_all_nodes(api: client.ApiClient) -> None:
    custom = client.CustomObjectsApi(api)
    pods = custom.list_namespaced_custom_object("metrics.k8s.io", "v1beta1", PLATFORM, "pods")["items"]
    assert len(pods) == 9
    assert re.fullmatch(r"\d+m", pods[0]["containers"][0]["usage"]["cpu"])
    nodes = custom.list_cluster_custom_object("metrics.k8s.io", "v1beta1", "nodes")["items"]
    assert len(nodes) == 3


# Logs ----------------------------------------------------------------------------------------------


def test_log_options(core: client.CoreV1Api) -> None:
    name = app_pods(core, "worker")[0].metadata.name
    last = log(core, name, tail_lines=5)
    assert last.count("\n") == 5
    assert last.splitlines()[-1] in log(core, name, since_seconds=3600)
    stamped = log(core, name, tail_lines=1, timestamps=True)
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z \d{4}-", stamped)
    assert len(log(core, name, limit_bytes=100)) == 100
    with pytest.raises(ApiException) as caught:
        log(core, name, previous=True)
    assert (caught.value.status, "previous terminated container" in str(caught.value.body)) == (400, True)


def test_a_followed_log_ends_with_its_process(core: client.CoreV1Api, batch: client.BatchV1Api, namespace: str) -> None:
    script = "for i in 1 2 3; do echo $i; sleep 0.3; done"
    batch.create_namespaced_job(namespace, job("j", "sh", "-c", script))
    pod = until(lambda: core.list_namespaced_pod(namespace).items)[0].metadata.name
    until(lambda: text_so_far(core, pod, namespace))
    answer = core.read_namespaced_pod_log(pod, namespace, follow=True, _preload_content=False)
    assert b"".join(answer.stream()).decode() == "1\n2\n3\n"


def test_a_log_file_is_served_as_it_is(sandbox: Sandbox, core: client.CoreV1Api) -> None:
    name = app_pods(core, "frontend")[0].metadata.name
    file = sandbox.folder / "kube" / "logs" / PLATFORM / f"{name}.log"
    file.parent.mkdir(parents=True)
    moments = [time.time() - 4000 + number for number in range(4000)]
    stamps = [time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment)) for moment in moments]
    file.write_text("".join(f"{stamp} INFO line {number}\n" for number, stamp in enumerate(stamps)))
    try:
        assert log(core, name) == file.read_text()
        assert log(core, name, tail_lines=3).split()[-1] == "3999"
        assert log(core, name, tail_lines=3).count("\n") == 3
        assert 595 <= log(core, name, since_seconds=600).count("\n") <= 605
    finally:
        file.unlink()


# Certificates --------------------------------------------------------------------------------------


def test_asking_for_renewal_gives_a_new_pair(api: client.ApiClient, core: client.CoreV1Api) -> None:
    custom = client.CustomObjectsApi(api)
    where = ("cert-manager.io", "v1", PLATFORM, "certificates", "vcci-tls")

    def serial() -> int:
        data = core.read_namespaced_secret("vcci-tls", PLATFORM).data
        return x509.load_pem_x509_certificate(base64.b64decode(data["tls.crt"])).serial_number

    before, certificate = serial(), custom.get_namespaced_custom_object(*where)
    issuing = {"type": "Issuing", "status": "True", "reason": "ManuallyTriggered", "message": "test"}
    certificate["status"]["conditions"].append(issuing)
    custom.replace_namespaced_custom_object_status(*where, certificate)
    until(lambda: serial() != before)
    after = until(lambda: _renewed(custom.get_namespaced_custom_object(*where)))
    assert after["status"]["revision"] == certificate["status"]["revision"] + 1
    assert after["status"]["notAfter"] > certificate["status"]["notAfter"]
    core.delete_namespaced_secret("vcci-tls", PLATFORM)
    until(lambda: _found(core))


def _renewed(certificate: dict[str, Any]) -> dict[str, Any] | None:
    kinds = {c["type"]: c["status"] for c in certificate["status"]["conditions"]}
    return certificate if kinds == {"Ready": "True"} else None


def _found(core: client.CoreV1Api) -> Any:
    try:
        return core.read_namespaced_secret("vcci-tls", PLATFORM)
    except ApiException:
        return None


# Faults --------------------------------------------------------------------------------------------


def age_of(moment: Any) -> float:
    return time.time() - moment.timestamp()


def test_crash_looping_pods_have_been_ill_for_minutes_and_heal_at_once(
    sandbox: Sandbox, broken: Callable[..., None], core: client.CoreV1Api, apps: client.AppsV1Api
) -> None:
    broken("pods-crashloop")
    pods = app_pods(core, "backend-api")
    ill = [pod for pod in pods if not ready(pod)]
    assert (len(pods), len(ill)) == (3, 2)
    status = ill[0].status.container_statuses[0]
    assert (status.state.waiting.reason, status.restart_count) == ("CrashLoopBackOff", 7)
    assert age_of(status.last_state.terminated.finished_at) < 60
    assert age_of(condition(ill[0], "Ready").last_transition_time) > 300
    assert "CRITICAL" in log(core, ill[0].metadata.name, previous=True)
    short = until(lambda: _available(apps, "False"), 2)
    assert short.status.unavailable_replicas == 2
    assert age_of(condition(short, "Available").last_transition_time) > 300
    heal(sandbox, [Kube()], "pods-crashloop")
    until(lambda: all(map(ready, app_pods(core, "backend-api"))), 2)
    assert {p.status.container_statuses[0].restart_count for p in app_pods(core, "backend-api")} == {0}
    assert until(lambda: _available(apps, "True"), 2)


def _available(apps: client.AppsV1Api, status: str) -> Any:
    found = apps.read_namespaced_deployment("backend-api", PLATFORM)
    return found if condition(found, "Available").status == status else None


def test_pods_that_are_not_ready_run_all_the_same(broken: Callable[..., None], core: client.CoreV1Api) -> None:
    broken("pods-not-ready")
    pods = app_pods(core, "worker")
    assert [(p.status.phase, ready(p)) for p in pods] == [("Running", False)] * 3
    assert all(age_of(condition(p, "Ready").last_transition_time) > 300 for p in pods)


def test_a_release_without_an_image_waits_beside_the_old_pods(
    sandbox: Sandbox, broken: Callable[..., None], core: client.CoreV1Api, apps: client.AppsV1Api
) -> None:
    broken("pods-image-missing")

    def waiting() -> Any:
        found = [p for p in app_pods(core, "backend-api") if not ready(p)]
        old = found and age_of(found[0].metadata.creation_timestamp) > 300
        return (
            found if old and found[0].status.container_statuses[0].state.waiting.reason == "ImagePullBackOff" else None
        )

    ill = until(waiting, 3)
    assert len(ill) == 1
    assert len(app_pods(core, "backend-api")) == 4
    stuck = until(lambda: _stuck(apps), 3)
    assert (stuck.status.available_replicas, condition(stuck, "Available").status) == (3, "True")
    heal(sandbox, [Kube()], "pods-image-missing")
    until(lambda: [ready(p) for p in app_pods(core, "backend-api")] == [True] * 3, 3)
    back = apps.read_namespaced_deployment("backend-api", PLATFORM)
    assert back.spec.template.spec.containers[0].image == "vcci/backend-api:v2.0.0"
    assert until(lambda: not _stuck(apps), 3)


def _stuck(apps: client.AppsV1Api) -> Any:
    found = apps.read_namespaced_deployment("backend-api", PLATFORM)
    progressing = condition(found, "Progressing")
    late = (progressing.status, progressing.reason) == ("False", "ProgressDeadlineExceeded")
    return found if late and age_of(progressing.last_transition_time) > 120 else None


def test_an_error_burst_is_in_one_pod_only(broken: Callable[..., None], core: client.CoreV1Api) -> None:
    names = [pod.metadata.name for pod in app_pods(core, "backend-api")]
    broken("error-burst", "pod=2")
    texts = [log(core, name, since_seconds=3600) for name in names]
    counts = [text.count(" ERROR ") for text in texts]
    assert counts[0] < 10
    assert counts[1] < 10
    assert 250 < counts[2] < 400
    kinds = set(re.findall(r" ERROR ([\w.]+ \w+)", texts[2]))
    assert {"vcci.api.db QueuePool", "vcci.calculator.factors Emission", "vcci.api.errors Unhandled"} <= kinds


def test_slow_delays_every_answer(sandbox: Sandbox, core: client.CoreV1Api) -> None:
    sandbox.state.set_fault("slow", {"seconds": 0.7})
    try:
        begun = time.monotonic()
        core.list_node()
        assert 0.7 <= time.monotonic() - begun < 3
    finally:
        sandbox.state.set_fault("slow", None)


# The user's own cluster ----------------------------------------------------------------------------


def test_a_users_cluster_takes_the_place_of_the_played_one(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "kubeconfig"
    own.write_text("{}")
    monkeypatch.setenv("VCCI_KUBECONFIG", str(own))
    sandbox, service = Sandbox(tmp_path / "sandbox"), Kube()
    service.start(sandbox)
    assert service.ready(sandbox)
    assert sandbox.pid("kube") is None
    assert service.connections(sandbox)["vcci_kubernetes"]["extra"]["kube_config_path"] == str(own)
    with pytest.raises(SandboxError, match="cluster of yours"):
        break_(sandbox, [service], "pods-crashloop", [])
