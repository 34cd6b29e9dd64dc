"""Rollouts on the played and the real API: complete when kubectl says so, failed as soon as it is certain."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from tests.integration.acting_fixtures import complete, context, deferred, fired, resumed
from tests.integration.kube_fixtures import Plane, connect, furnished, played_plane, real_plane, until
from vcci_ops.hooks.lease import ChangeLock
from vcci_ops.operators.rollout import RolloutOperator, WorkloadChange, restart_mark
from vcci_ops.triggers.rollout import RolloutTrigger

pytestmark = [pytest.mark.kube, pytest.mark.integration]
HOLDER = "release_deploy/r1"
NUMBERS = itertools.count(1)
Wanted = WorkloadChange | Callable[[Context], WorkloadChange] | None


class Change(RolloutOperator):
    """A rollout that a test describes."""

    def __init__(self, *, wanted: Wanted, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.wanted = wanted

    def change(self, context: Context) -> WorkloadChange | None:
        return self.wanted(context) if callable(self.wanted) else self.wanted


@dataclasses.dataclass
class Target:
    """A Deployment of a test's own with two replicas of v1."""

    plane: Plane
    name: str

    @property
    def namespace(self) -> str:
        return self.plane.namespace

    def image(self, tag: str) -> str:
        return f"vcci/{self.name}:{tag}"

    def to(self, tag: str, **more: Any) -> WorkloadChange:
        given = {"workload": self.name, "container": self.name, "image": self.image(tag), "cause": f"release {tag}"}
        return WorkloadChange(**{**given, **more})

    def kubectl(self, *args: str) -> str:
        return self.plane.kubectl(*args, "-n", self.namespace)

    def patch(self, patch: dict[str, Any]) -> None:
        self.kubectl("patch", "deployment", self.name, "-p", json.dumps(patch))

    def seen(self) -> dict[str, Any]:
        return dict(json.loads(self.kubectl("get", "deployment", self.name, "-o", "json")))

    def pods(self) -> list[dict[str, Any]]:
        return self.plane.pods(self.name)

    def running(self) -> set[str]:
        return {pod["spec"]["containers"][0]["image"] for pod in self.pods()}


def rollout(on: Target | Plane, wanted: Wanted, *, within: float = 30.0, lock: bool = True) -> Change:
    return Change(
        task_id="rollout",
        wanted=wanted,
        namespace=on.namespace,
        within=within,
        require_lock=lock,
        poll=0.3,
        patience=1.5,
    )


@pytest.fixture(scope="module", params=["played", "real"])
def plane(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    folder = tmp_path_factory.mktemp("kube")
    with played_plane(folder) if request.param == "played" else real_plane() as admin:
        with furnished(request.param, admin, folder, changes=True) as made:
            yield made


@pytest.fixture(scope="module")
def config(plane: Plane) -> dict[str, Any]:
    return plane.checks_config


@pytest.fixture(autouse=True)
def locked(plane: Plane, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    connect(monkeypatch, config)
    ChangeLock(plane.namespace).acquire(HOLDER, "a test", "ines")


@pytest.fixture
def api(plane: Plane) -> Iterator[Target]:
    target = Target(plane, f"api-{next(NUMBERS)}")
    plane.deploy(target.name, "v1", replicas=2)
    plane.wait_ready(target.name)
    yield target
    plane.kubectl("delete", "deployment", target.name, "-n", plane.namespace, "--wait=false")


@pytest.fixture(scope="module")
def steady(plane: Plane) -> Target:
    """A Deployment that nothing ever changes."""
    target = Target(plane, "steady")
    plane.deploy(target.name, "v1", replicas=1)
    plane.wait_ready(target.name)
    return target


def test_a_good_image_is_rolled_out_with_its_cause_and_a_repeat_changes_nothing(api: Target) -> None:
    task = rollout(api, api.to("v2", expected_image=api.image("v1")))
    done = complete(task, context("r1"))
    found = api.seen()
    assert (done["changed"], done["workload"], done["replicas"], done["revision"]) == (True, api.name, 2, "2")
    assert done["images"] == {api.name: api.image("v2")}
    assert done["generation"] == found["metadata"]["generation"]
    assert api.running() == {api.image("v2")}
    notes = found["metadata"]["annotations"]
    assert (notes["kubernetes.io/change-cause"], notes["vcci-ops/run"]) == ("release v2", HOLDER)
    assert "release v2" in api.kubectl("rollout", "history", f"deployment/{api.name}")
    # The task is killed and run again, after its own change: neither refused nor done twice.
    again = task.execute(context("r1"))  # parks no more: Airflow may take a quick return for a kill
    assert (again["changed"], again["generation"], again["revision"]) == (True, done["generation"], "2")
    # Another run that wants the same finds it done, and says that it was not its doing.
    same = complete(rollout(api, api.to("v2"), lock=False), context("r2"))
    assert (same["changed"], same["generation"]) == (False, done["generation"])
    assert api.seen()["metadata"]["annotations"]["vcci-ops/run"] == HOLDER


def test_without_the_lock_nothing_is_changed(steady: Target) -> None:
    before = steady.seen()["metadata"]["generation"]
    with pytest.raises(AirflowFailException, match=rf"does not hold the change lock.*{HOLDER} holds it"):
        rollout(steady, steady.to("v2")).execute(context("another"))
    assert steady.seen()["metadata"]["generation"] == before


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        pytest.param({"expected_image": "vcci/steady:v0"}, "runs vcci/steady:v1, .* made for", id="not as planned"),
        pytest.param({"container": "nginx"}, "has no container nginx; it has steady", id="no such container"),
        pytest.param({"workload": "steddy"}, "there is no deployments.apps steddy", id="no Deployment"),
        pytest.param({"image": ""}, "there is nothing to change", id="nothing wanted"),
    ],
)
def test_what_is_not_as_it_must_be_is_refused_unchanged(steady: Target, wrong: dict[str, str], said: str) -> None:
    before = steady.seen()["metadata"]["generation"]
    with pytest.raises(AirflowFailException, match=said):
        rollout(steady, steady.to("v3", **wrong)).execute(context())
    assert steady.seen()["metadata"]["generation"] == before


def test_a_paused_deployment_is_refused_and_one_paused_under_way_fails(api: Target) -> None:
    api.kubectl("rollout", "pause", f"deployment/{api.name}")
    with pytest.raises(AirflowFailException, match=r"is paused: .* kubectl rollout resume"):
        rollout(api, api.to("v2")).execute(context())
    assert api.running() == {api.image("v1")}
    api.kubectl("rollout", "resume", f"deployment/{api.name}")
    task = rollout(api, api.to("slow-v2"))
    deferral = deferred(task, context())
    api.kubectl("rollout", "pause", f"deployment/{api.name}")
    with pytest.raises(AirflowFailException, match="was paused while it was rolled out"):
        resumed(task, context(), deferral, asyncio.run(fired(deferral.trigger)))


def test_nothing_to_change_is_skipped(plane: Plane) -> None:
    with pytest.raises(AirflowSkipException):
        rollout(plane, None).execute(context())


@pytest.mark.parametrize(
    ("tag", "words"),
    [
        pytest.param("bad-v2", ["ImagePullBackOff", "it never ran: there is no log"], id="image missing"),
        pytest.param("crash-v2", ["CrashLoopBackOff", "ended "], id="crash-loop"),
    ],
)
def test_new_pods_that_do_not_come_up_fail_it_long_before_the_deadline(api: Target, tag: str, words: list[str]) -> None:
    begun = time.monotonic()
    with pytest.raises(AirflowFailException) as failure:
        complete(rollout(api, api.to(tag)), context())
    assert time.monotonic() - begun < 20
    said = str(failure.value)
    for word in (f"{api.name}: its new pods do not come up", f"Last lines of {api.name}-", *words):
        assert word in said, said
    if "crash" in tag:
        assert "sim up" in said or "ERROR" in said or "Traceback" in said, said
    assert api.image("v1") in api.running(), "the old pods go on serving"
    # What was begun can be undone: the way back is a rollout like any other, not taken for failed by what is left.
    back = complete(rollout(api, api.to("v1", expected_image=api.image(tag))), context())
    assert back["images"] == {api.name: api.image("v1")}


def test_an_old_crash_looping_pod_does_not_fail_the_rollout_that_mends_it(plane: Plane) -> None:
    plane.deploy("mended", "crash-v1")
    plane.wait_waiting("mended", "CrashLoopBackOff")
    change = WorkloadChange("mended", "mended", "vcci/mended:v2")
    assert complete(rollout(plane, change), context())["changed"] is True


def test_a_slow_rollout_is_waited_for_and_its_own_deadline_ends_it(api: Target) -> None:
    api.patch({"spec": {"progressDeadlineSeconds": 2}})
    with pytest.raises(AirflowFailException, match=r"no progress within .*progressDeadlineSeconds \(2\)"):
        complete(rollout(api, api.to("slow-v2")), context())
    # Its undoing is not taken for failed by the condition that the first one left behind.
    done = complete(rollout(api, api.to("v1")), context())
    assert done["images"] == {api.name: api.image("v1")}


def test_a_rollout_out_of_time_says_where_it_stands(api: Target) -> None:
    with pytest.raises(AirflowFailException, match=r"is not rolled out after 1 s, .*replicas"):
        complete(rollout(api, api.to("slow-v2"), within=1.0), context())


def test_somebody_else_changing_it_under_way_supersedes_it(api: Target) -> None:
    task = rollout(api, api.to("slow-v2"))
    deferral = deferred(task, context())
    api.kubectl("set", "image", f"deployment/{api.name}", f"{api.name}={api.image('v9')}")
    event = asyncio.run(fired(deferral.trigger))
    assert event["status"] == "superseded"
    with pytest.raises(AirflowFailException, match=f"somebody else changed Deployment {api.name}") as failure:
        resumed(task, context(), deferral, event)
    assert api.image("v9") in str(failure.value)
    if api.plane.name == "real":
        assert "by kubectl" in str(failure.value), failure.value


def test_a_scaling_under_way_is_no_other_rollout(api: Target) -> None:
    task = rollout(api, api.to("v2"))
    deferral = deferred(task, context())
    api.kubectl("scale", f"deployment/{api.name}", "--replicas=3")
    done = resumed(task, context(), deferral, asyncio.run(fired(deferral.trigger)))
    assert (done["images"], done["replicas"]) == ({api.name: api.image("v2")}, 3)


def test_a_deployment_made_anew_under_way_supersedes_it(api: Target) -> None:
    deferral = deferred(rollout(api, api.to("slow-v2")), context())
    api.kubectl("delete", "deployment", api.name)
    assert "was deleted while" in asyncio.run(fired(deferral.trigger))["message"]
    api.plane.deploy(api.name, "slow-v2")
    event = asyncio.run(fired(deferral.trigger))
    assert (event["status"], "made again" in event["message"]) == ("superseded", True)


def test_a_restart_happens_once_for_a_run(api: Target) -> None:
    def restart(given: Context) -> WorkloadChange:
        return WorkloadChange(api.name, restart=restart_mark(given), cause="restart: leak")

    def pods() -> set[str]:
        return {pod["metadata"]["uid"] for pod in api.pods()}

    before = pods()
    task = rollout(api, restart)
    done = complete(task, context())
    after = pods()
    assert not before & after
    assert complete(task, context())["generation"] == done["generation"]
    assert pods() == after


def test_goes_back_to_the_template_of_an_earlier_replicaset(api: Target) -> None:
    listed = api.kubectl("get", "replicasets", "-l", f"app={api.name}", "-o", "json")
    (first,) = json.loads(listed)["items"]
    api.patch({"spec": {"template": {"metadata": {"annotations": {"note": "v2"}}}}})
    complete(rollout(api, api.to("v2")), context())
    back = api.to("", template=first["spec"]["template"], expected_image=api.image("v2"), cause="rollback")
    done = complete(rollout(api, back), context())
    assert done["images"] == {api.name: api.image("v1")}
    found = api.seen()
    assert "note" not in (found["spec"]["template"]["metadata"].get("annotations") or {})
    assert "pod-template-hash" not in found["spec"]["template"]["metadata"]["labels"]
    assert found["metadata"]["annotations"]["kubernetes.io/change-cause"] == "rollback"
    owners = {pod["metadata"]["ownerReferences"][0]["uid"] for pod in api.pods()}
    assert owners == {first["metadata"]["uid"]}, "the old ReplicaSet serves again"
    assert complete(rollout(api, back), context())["generation"] == done["generation"]


def test_an_exhausted_quota_fails_it(plane: Plane) -> None:
    if plane.name == "played":
        pytest.skip("the played API has no quotas")
    plane.deploy("squeezed", "v1", replicas=1)
    plane.wait_ready("squeezed")
    quota = {"name": "none", "namespace": plane.namespace}
    plane.apply({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": quota, "spec": {"hard": {"pods": 0}}})
    known = ("get", "resourcequota", "none", "-n", plane.namespace, "-o", "jsonpath={.status.hard.pods}")
    until("the quota holds", lambda: plane.kubectl(*known) == "0")
    try:
        change = WorkloadChange("squeezed", "squeezed", "vcci/squeezed:v2")
        with pytest.raises(AirflowFailException, match=r"pods cannot be made .*exceeded quota: none"):
            complete(rollout(plane, change), context())
    finally:
        plane.kubectl("delete", "resourcequota", "none", "-n", plane.namespace)


def test_the_trigger_is_made_again_with_the_same_end() -> None:
    trigger = RolloutTrigger("ns", "backend-api", 7, "u-1", within=900.0, template="abc", until=1763974800.0)
    assert trigger.serialize() == (
        "vcci_ops.triggers.rollout.RolloutTrigger",
        {
            "namespace": "ns",
            "workload": "backend-api",
            "generation": 7,
            "uid": "u-1",
            "within": 900.0,
            "poll": 1.0,
            "kubernetes_conn_id": "vcci_kubernetes",
            "template": "abc",
            "until": 1763974800.0,
            "patience": 15.0,
        },
    )
