"""The sandbox's Kubernetes API, as its clients meet it."""
# ruff: noqa: F401, F811 - fixtures are found by the names they are imported under

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from kubernetes import client, config, watch
from kubernetes.client.exceptions import ApiException

from sandbox.service import Sandbox
from sandbox.services.kube import call, kubeconfig
from tests.integration.played_kubernetes import (
    PLATFORM,
    api,
    apps,
    batch,
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
    number = until(lambda: text_so_far(core, pod, namespace)).strip()
    done = until(lambda: finished(batch, "j", namespace))
    assert condition(done, "Failed").reason == "DeadlineExceeded"
    until(lambda: not _alive(int(number)))


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
