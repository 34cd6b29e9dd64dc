"""The sandbox's Kubernetes API, as its clients meet it."""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cryptography import x509
from kubernetes import client, config, watch
from kubernetes.client.exceptions import ApiException

from sandbox.__main__ import break_, heal
from sandbox.service import Sandbox, SandboxError, wait_until
from sandbox.services.kube import Kube, call, kubeconfig

pytestmark = [pytest.mark.integration, pytest.mark.kube]
PLATFORM = "vcci-production"


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """Start the played API alone."""
    made = Sandbox(tmp_path_factory.mktemp("sandbox"))
    Kube().start(made)
    wait_until("the played Kubernetes API", lambda: Kube().ready(made))
    yield made
    Kube().stop(made)


@pytest.fixture(scope="module")
def api(sandbox: Sandbox) -> client.ApiClient:
    return config.new_client_from_config(str(kubeconfig(sandbox)))


@pytest.fixture
def core(api: client.ApiClient) -> client.CoreV1Api:
    return client.CoreV1Api(api)


@pytest.fixture
def apps(api: client.ApiClient) -> client.AppsV1Api:
    return client.AppsV1Api(api)


@pytest.fixture
def batch(api: client.ApiClient) -> client.BatchV1Api:
    return client.BatchV1Api(api)


@pytest.fixture
def namespace(core: client.CoreV1Api, request: pytest.FixtureRequest) -> Iterator[str]:
    """Make a namespace for one test, and delete it with all that is in it."""
    name = "t-" + re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[:50].strip("-")
    core.create_namespace({"metadata": {"name": name}})
    yield name
    core.delete_namespace(name)
    until(lambda: name not in [n.metadata.name for n in core.list_namespace().items])


@pytest.fixture
def broken(sandbox: Sandbox) -> Iterator[Callable[..., None]]:
    """Return what breaks the platform; everything is healed afterwards."""
    services: list[Any] = [Kube()]
    yield lambda name, *given: break_(sandbox, services, name, list(given))
    heal(sandbox, services, None)


def until(probe: Callable[[], Any], seconds: float = 15.0) -> Any:
    end = time.monotonic() + seconds
    while not (value := probe()):
        assert time.monotonic() < end, f"not so within {seconds} s"
        time.sleep(0.05)
    return value


def deployment(name: str, image: str = "x/web:v1", **spec: Any) -> dict[str, Any]:
    container = {"name": name, "image": image, "env": [{"name": "A", "value": "1"}]}
    template = {"metadata": {"labels": {"app": name}}, "spec": {"containers": [container]}}
    spec = {"replicas": 2, "selector": {"matchLabels": {"app": name}}, "template": template, **spec}
    return {"metadata": {"name": name}, "spec": spec}


def job(name: str, *command: str, env: list[dict[str, Any]] | None = None, **spec: Any) -> dict[str, Any]:
    container = {"name": name, "image": "vcci/platform:v2.0.0", "command": list(command), "env": env or []}
    template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
    return {"metadata": {"name": name}, "spec": {"template": template, "backoffLimit": 0, **spec}}


def condition(obj: Any, kind: str) -> Any:
    return next((c for c in obj.status.conditions or [] if c.type == kind), None)


def log(core: client.CoreV1Api, name: str, namespace: str = PLATFORM, **given: Any) -> str:
    answer = core.read_namespaced_pod_log(name, namespace, _preload_content=False, **given)
    return answer.data.decode()


def ready(pod: Any) -> bool:
    found = condition(pod, "Ready")
    return found is not None and found.status == "True"


def app_pods(core: client.CoreV1Api, app: str) -> list[Any]:
    return core.list_namespaced_pod(PLATFORM, label_selector=f"app={app}").items


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


# The API -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("act", "status", "reason"),
    [
        pytest.param(lambda c: c.read_namespaced_secret("none", PLATFORM), 404, "NotFound", id="missing"),
        pytest.param(
            lambda c: c.create_namespaced_config_map(PLATFORM, {"metadata": {"name": "vcci-config"}}),
            409,
            "AlreadyExists",
            id="twice",
        ),
        pytest.param(
            lambda c: c.create_namespaced_config_map(PLATFORM, {"metadata": {"name": "Not_A_Name"}}),
            422,
            "Invalid",
            id="ill-formed name",
        ),
        pytest.param(
            lambda c: c.create_namespaced_config_map("nowhere", {"metadata": {"name": "x"}}),
            404,
            "NotFound",
            id="no namespace",
        ),
        pytest.param(
            lambda c: c.list_namespaced_pod(PLATFORM, field_selector="spec.colour=red"), 400, "BadRequest", id="field"
        ),
        pytest.param(lambda c: c.read_namespaced_pod_log("none", PLATFORM), 404, "NotFound", id="log of a missing pod"),
    ],
)
def test_errors_are_status_objects(core: client.CoreV1Api, act: Callable[..., Any], status: int, reason: str) -> None:
    with pytest.raises(ApiException) as caught:
        act(core)
    told = json.loads(caught.value.body)
    assert (caught.value.status, told["kind"], told["reason"], told["code"]) == (status, "Status", reason, status)


def test_a_wrong_token_is_refused(sandbox: Sandbox) -> None:
    settings = json.loads(kubeconfig(sandbox).read_text())
    settings["users"][0]["user"]["token"] = "wrong"
    stranger = config.new_client_from_config_dict(settings)
    with pytest.raises(ApiException) as caught:
        client.CoreV1Api(stranger).list_node()
    assert caught.value.status == 401


def test_ten_thousand_pods_come_in_pages(sandbox: Sandbox, core: client.CoreV1Api) -> None:
    call(sandbox, "POST", "/_sandbox/pods?count=10000&namespace=bulk", timeout=60)
    names, pages, token = set(), 0, None
    while True:
        answer = core.list_namespaced_pod("bulk", limit=1000, _continue=token, _preload_content=False)
        page = json.loads(answer.data)
        names |= {item["metadata"]["name"] for item in page["items"]}
        pages, token = pages + 1, page["metadata"].get("continue")
        if pages == 1:
            assert page["metadata"]["remainingItemCount"] == 9000
            first = token
        if not token:
            break
    assert (len(names), pages) == (10000, 10)
    call(sandbox, "DELETE", "/_sandbox/pods?namespace=bulk")
    call(sandbox, "POST", "/_sandbox/forget")
    with pytest.raises(ApiException) as caught:
        core.list_namespaced_pod("bulk", limit=1000, _continue=first)
    assert caught.value.status == 410


@pytest.mark.parametrize(
    ("selector", "expected"),
    [("app=worker", 3), ("app in (worker, beat)", 4), ("app notin (worker),app!=nightly-rollup", 6), ("!app", 0)],
)
def test_label_selectors(core: client.CoreV1Api, selector: str, expected: int) -> None:
    assert len(core.list_namespaced_pod(PLATFORM, label_selector=selector).items) == expected


def test_field_selectors(core: client.CoreV1Api) -> None:
    assert len(core.list_namespaced_pod(PLATFORM, field_selector="status.phase=Running").items) == 9
    on_node = core.list_namespaced_pod(PLATFORM, field_selector="spec.nodeName=node-3,status.phase!=Succeeded").items
    assert {pod.spec.node_name for pod in on_node} == {"node-3"}


def test_an_update_of_a_stale_version_conflicts(core: client.CoreV1Api, namespace: str) -> None:
    made = core.create_namespaced_config_map(namespace, {"metadata": {"name": "c"}, "data": {"a": "1"}})
    core.patch_namespaced_config_map("c", namespace, {"data": {"a": "2"}})
    made.data = {"a": "3"}
    with pytest.raises(ApiException) as caught:
        core.replace_namespaced_config_map("c", namespace, made)
    assert (caught.value.status, json.loads(caught.value.body)["reason"]) == (409, "Conflict")
    assert core.read_namespaced_config_map("c", namespace).data == {"a": "2"}


def test_a_lease_is_a_lock(api: client.ApiClient, namespace: str) -> None:
    leases = client.CoordinationV1Api(api)
    held = leases.create_namespaced_lease(namespace, {"metadata": {"name": "l"}, "spec": {"holderIdentity": "a"}})
    held.spec.holder_identity = "b"
    stale = held.metadata.resource_version
    assert leases.replace_namespaced_lease("l", namespace, held).spec.holder_identity == "b"
    held.metadata.resource_version = stale
    with pytest.raises(ApiException) as conflict:
        leases.replace_namespaced_lease("l", namespace, held)
    held.metadata.resource_version = None
    with pytest.raises(ApiException) as unversioned:
        leases.replace_namespaced_lease("l", namespace, held)
    with pytest.raises(ApiException) as precondition:
        leases.delete_namespaced_lease("l", namespace, body={"preconditions": {"resourceVersion": stale}})
    assert [e.value.status for e in (conflict, unversioned, precondition)] == [409, 422, 409]


def _patch(apps: client.AppsV1Api, namespace: str, body: Any, kind: str) -> Any:
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments/web"
    headers = {"Content-Type": kind, "Accept": "application/json"}
    known = {200: "V1Deployment"}
    return apps.api_client.call_api(
        path, "PATCH", header_params=headers, body=body, auth_settings=["BearerToken"], response_types_map=known
    )[0]


def test_three_patch_types_mean_three_things(apps: client.AppsV1Api, namespace: str) -> None:
    apps.create_namespaced_deployment(namespace, deployment("web", replicas=0))
    container = {"name": "web", "env": [{"name": "B", "value": "2"}]}
    body = {"spec": {"template": {"spec": {"containers": [container]}}}}

    merged = _patch(apps, namespace, body, "application/strategic-merge-patch+json")
    web = merged.spec.template.spec.containers[0]
    assert (web.image, {e.name: e.value for e in web.env}) == ("x/web:v1", {"B": "2", "A": "1"})

    operations = [{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "x/web:v3"}]
    replaced = _patch(apps, namespace, operations, "application/json-patch+json")
    assert replaced.spec.template.spec.containers[0].image == "x/web:v3"

    with pytest.raises(ApiException) as caught:
        _patch(apps, namespace, body, "application/merge-patch+json")
    assert caught.value.status == 422  # a merge patch replaces the list, and its container has no image


def test_removing_by_strategic_merge(apps: client.AppsV1Api, namespace: str) -> None:
    apps.create_namespaced_deployment(namespace, deployment("web", replicas=0))
    env = [{"name": "A", "$patch": "delete"}, {"name": "C", "value": "3"}]
    body = {"spec": {"template": {"spec": {"containers": [{"name": "web", "env": env}]}}}}
    patched = _patch(apps, namespace, body, "application/strategic-merge-patch+json")
    assert [e.name for e in patched.spec.template.spec.containers[0].env] == ["C"]


def test_a_failed_json_patch_test_changes_nothing(core: client.CoreV1Api, namespace: str) -> None:
    core.create_namespaced_config_map(namespace, {"metadata": {"name": "c"}, "data": {"a": "1"}})
    operations = [
        {"op": "replace", "path": "/data/a", "value": "2"},
        {"op": "test", "path": "/data/a", "value": "1"},
    ]
    with pytest.raises(ApiException) as caught:
        core.patch_namespaced_config_map("c", namespace, operations)
    assert caught.value.status == 422
    assert core.read_namespaced_config_map("c", namespace).data == {"a": "1"}


def test_dry_run_keeps_nothing(core: client.CoreV1Api, namespace: str) -> None:
    core.create_namespaced_config_map(namespace, {"metadata": {"name": "c"}}, dry_run="All")
    names = [c.metadata.name for c in core.list_namespaced_config_map(namespace).items]
    assert "c" not in names


def test_watch_tells_changes_through_the_selector(core: client.CoreV1Api, namespace: str) -> None:
    version = core.list_namespaced_config_map(namespace).metadata.resource_version
    core.create_namespaced_config_map(namespace, {"metadata": {"name": "c", "labels": {"on": "1"}}})
    core.patch_namespaced_config_map("c", namespace, {"data": {"a": "1"}})
    core.patch_namespaced_config_map("c", namespace, {"metadata": {"labels": {"on": "0"}}})
    core.create_namespaced_config_map(namespace, {"metadata": {"name": "other"}})
    seen = [
        (event["type"], event["object"].metadata.name)
        for event in watch.Watch().stream(
            core.list_namespaced_config_map,
            namespace,
            resource_version=version,
            label_selector="on=1",
            timeout_seconds=1,
        )
    ]
    assert seen == [("ADDED", "c"), ("MODIFIED", "c"), ("DELETED", "c")]


def test_watch_from_a_forgotten_version_is_gone(sandbox: Sandbox, core: client.CoreV1Api, namespace: str) -> None:
    version = core.list_namespaced_config_map(namespace).metadata.resource_version
    core.create_namespaced_config_map(namespace, {"metadata": {"name": "c"}})
    call(sandbox, "POST", "/_sandbox/forget")
    answer = core.list_namespaced_config_map(
        namespace, resource_version=version, watch=True, timeout_seconds=1, _preload_content=False
    )
    event = json.loads(answer.data)
    assert (event["type"], event["object"]["code"], event["object"]["reason"]) == ("ERROR", 410, "Expired")


async def test_asynchronous_watch_sees_a_rollout_end(sandbox: Sandbox, apps: client.AppsV1Api, namespace: str) -> None:
    from kubernetes_asyncio import client as aclient
    from kubernetes_asyncio import config as aconfig
    from kubernetes_asyncio import watch as awatch

    apps.create_namespaced_deployment(namespace, deployment("web"))
    settings = aclient.Configuration()
    await aconfig.load_kube_config(str(kubeconfig(sandbox)), client_configuration=settings)
    async with aclient.ApiClient(settings) as connection:
        listing = aclient.AppsV1Api(connection).list_namespaced_deployment
        async with awatch.Watch().stream(listing, namespace, timeout_seconds=15) as stream:
            async for event in stream:
                if event["object"].status.available_replicas == 2:
                    return
    pytest.fail("the rollout did not end")


# Rollouts ------------------------------------------------------------------------------------------


def test_a_missing_image_stops_the_rollout_and_old_pods_serve(
    core: client.CoreV1Api, apps: client.AppsV1Api, namespace: str
) -> None:
    apps.create_namespaced_deployment(namespace, deployment("web", replicas=4, progressDeadlineSeconds=2))
    until(lambda: apps.read_namespaced_deployment("web", namespace).status.available_replicas == 4)
    container = {"name": "web", "image": "x/web:bad"}
    apps.patch_namespaced_deployment("web", namespace, {"spec": {"template": {"spec": {"containers": [container]}}}})
    late = until(lambda: _progress(apps, namespace, "ProgressDeadlineExceeded"))
    # 25 % of four may be missing, one may come on top: two new pods wait, three old ones serve.
    assert (late.status.available_replicas, late.status.updated_replicas) == (3, 2)
    assert condition(late, "Available").status == "True"
    waiting = [
        status.state.waiting.reason
        for pod in core.list_namespaced_pod(namespace).items
        for status in pod.status.container_statuses
        if status.state.waiting
    ]
    assert waiting == ["ImagePullBackOff"] * 2


def _progress(apps: client.AppsV1Api, namespace: str, reason: str) -> Any:
    found = apps.read_namespaced_deployment("web", namespace)
    progressing = condition(found, "Progressing")
    return found if progressing and progressing.reason == reason else None


def test_a_rollout_never_has_fewer_than_it_may(core: client.CoreV1Api, apps: client.AppsV1Api, namespace: str) -> None:
    rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    apps.create_namespaced_deployment(namespace, deployment("web", replicas=3, strategy=rolling))
    until(lambda: apps.read_namespaced_deployment("web", namespace).status.available_replicas == 3)
    version = core.list_namespaced_pod(namespace).metadata.resource_version
    container = {"name": "web", "image": "x/web:v2"}
    apps.patch_namespaced_deployment("web", namespace, {"spec": {"template": {"spec": {"containers": [container]}}}})
    until(lambda: apps.read_namespaced_deployment("web", namespace).status.updated_replicas == 3)
    until(lambda: _progress(apps, namespace, "NewReplicaSetAvailable"))
    available = {p.metadata.name for p in core.list_namespaced_pod(namespace).items if p.metadata.generate_name}
    assert len(available) >= 3
    serving = 3
    for event in watch.Watch().stream(core.list_namespaced_pod, namespace, resource_version=version, timeout_seconds=1):
        before = serving
        meta = event["object"].metadata
        if meta.deletion_timestamp and event["type"] == "MODIFIED":
            serving -= 1
        elif event["type"] == "MODIFIED" and ready(event["object"]):
            serving += 1
        assert 3 <= serving <= 4, (before, event["type"], meta.name)


def test_crashing_pods_restart_again_and_again(core: client.CoreV1Api, apps: client.AppsV1Api, namespace: str) -> None:
    apps.create_namespaced_deployment(namespace, deployment("web", "x/web:crash", replicas=1))

    def restarts() -> int:
        pods = core.list_namespaced_pod(namespace).items
        statuses = [s for pod in pods for s in pod.status.container_statuses or []]
        return max((s.restart_count for s in statuses), default=0)

    until(lambda: restarts() >= 2)
    pod = core.list_namespaced_pod(namespace).items[0]
    assert pod.status.container_statuses[0].state.waiting.reason == "CrashLoopBackOff"
    assert "CRITICAL" in log(core, pod.metadata.name, namespace, previous=True)


def test_deleting_a_deployment_takes_its_pods_along(
    core: client.CoreV1Api, apps: client.AppsV1Api, namespace: str
) -> None:
    apps.create_namespaced_deployment(namespace, deployment("web"))
    until(lambda: len(core.list_namespaced_pod(namespace).items) == 2)
    apps.delete_namespaced_deployment("web", namespace)
    until(lambda: not core.list_namespaced_pod(namespace).items)
    assert not apps.list_namespaced_replica_set(namespace).items


def test_an_autoscaler_undoes_scaling_beyond_its_bounds(
    api: client.ApiClient, apps: client.AppsV1Api, namespace: str
) -> None:
    apps.create_namespaced_deployment(namespace, deployment("web"))
    scaler = client.AutoscalingV1Api(api)
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}
    spec = {"scaleTargetRef": target, "minReplicas": 2, "maxReplicas": 3, "targetCPUUtilizationPercentage": 70}
    scaler.create_namespaced_horizontal_pod_autoscaler(namespace, {"metadata": {"name": "web"}, "spec": spec})
    apps.patch_namespaced_deployment_scale("web", namespace, {"spec": {"replicas": 9}})
    until(lambda: apps.read_namespaced_deployment("web", namespace).spec.replicas == 3, 20)
    newer = client.AutoscalingV2Api(api).read_namespaced_horizontal_pod_autoscaler("web", namespace)
    assert newer.spec.metrics[0].resource.target.average_utilization == 70


# Jobs ----------------------------------------------------------------------------------------------


def finished(batch: client.BatchV1Api, name: str, namespace: str) -> Any:
    found = batch.read_namespaced_job(name, namespace)
    return found if condition(found, "Complete") or condition(found, "Failed") else None


def pod_of(core: client.CoreV1Api, name: str, namespace: str) -> Any:
    return core.list_namespaced_pod(namespace, label_selector=f"job-name={name}").items[0]


def test_a_job_runs_its_command_with_its_environment(
    core: client.CoreV1Api, batch: client.BatchV1Api, namespace: str
) -> None:
    core.create_namespaced_secret(namespace, {"metadata": {"name": "s"}, "stringData": {"password": "from-secret"}})
    source = {"secretKeyRef": {"name": "s", "key": "password"}}
    env = [{"name": "PASSWORD", "valueFrom": source}, {"name": "GREETING", "value": "hello $(PASSWORD)"}]
    script = "import os; print(os.environ['GREETING'])"
    batch.create_namespaced_job(namespace, job("j", "python", "-c", script, env=env))
    done = until(lambda: finished(batch, "j", namespace))
    assert (done.status.succeeded, condition(done, "Complete").status) == (1, "True")
    pod = pod_of(core, "j", namespace)
    assert pod.status.phase == "Succeeded"
    assert log(core, pod.metadata.name, namespace) == "hello from-secret\n"


def test_a_failing_job_is_tried_as_often_as_it_says(
    core: client.CoreV1Api, batch: client.BatchV1Api, namespace: str
) -> None:
    batch.create_namespaced_job(namespace, job("j", "sh", "-c", "echo no; exit 3", backoffLimit=1))
    done = until(lambda: finished(batch, "j", namespace))
    assert (done.status.failed, condition(done, "Failed").reason) == (2, "BackoffLimitExceeded")
    ended = pod_of(core, "j", namespace).status.container_statuses[0].state.terminated
    assert (ended.exit_code, ended.reason) == (3, "Error")


def test_a_job_past_its_deadline_is_ended_with_its_process(
    core: client.CoreV1Api, batch: client.BatchV1Api, namespace: str
) -> None:
    batch.create_namespaced_job(namespace, job("j", "sh", "-c", "echo $$; sleep 600", activeDeadlineSeconds=1))
    pod = until(lambda: core.list_namespaced_pod(namespace).items)[0].metadata.name
    number = until(lambda: _text(core, pod, namespace)).strip()
    done = until(lambda: finished(batch, "j", namespace))
    assert condition(done, "Failed").reason == "DeadlineExceeded"
    until(lambda: not _alive(int(number)))


def _text(core: client.CoreV1Api, pod: str, namespace: str) -> str:
    try:
        return log(core, pod, namespace)
    except ApiException:
        return ""


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_finished_job_goes_when_its_time_is_over(
    core: client.CoreV1Api, batch: client.BatchV1Api, namespace: str
) -> None:
    batch.create_namespaced_job(namespace, job("j", "true", ttlSecondsAfterFinished=1))
    until(lambda: batch.list_namespaced_job(namespace).items == [] and not core.list_namespaced_pod(namespace).items)


def test_a_command_that_is_not_there_fails_the_job(
    core: client.CoreV1Api, batch: client.BatchV1Api, namespace: str
) -> None:
    batch.create_namespaced_job(namespace, job("j", "no-such-program"))
    until(lambda: finished(batch, "j", namespace))
    ended = pod_of(core, "j", namespace).status.container_statuses[0].state.terminated
    assert (ended.exit_code, ended.reason) == (127, "ContainerCannotRun")


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
    until(lambda: _text(core, pod, namespace))
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
