"""The change lock on the played and the real API, with exactly the rights that include/ ships."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred

from tests.integration.acting_fixtures import complete, context, deferred, fired, resumed
from tests.integration.kube_fixtures import Plane, connect, furnished, played_plane, real_plane
from vcci_ops.exceptions import LockHeld, Refused
from vcci_ops.hooks.lease import ChangeLock
from vcci_ops.operators.lock import (
    AcquireChangeLockOperator,
    BreakChangeLockOperator,
    ReleaseChangeLockOperator,
    holder_of,
)
from vcci_ops.triggers.lock import LockTrigger

pytestmark = [pytest.mark.kube, pytest.mark.integration]
MINE, OTHER = "release_deploy/r1", "release_deploy/r2"


@pytest.fixture(scope="module", params=["played", "real"])
def plane(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    folder = tmp_path_factory.mktemp("kube")
    with played_plane(folder) if request.param == "played" else real_plane() as admin:
        with furnished(request.param, admin, folder, changes=True) as made:
            yield made


@pytest.fixture(scope="module")
def config(plane: Plane) -> dict[str, Any]:
    return plane.checks_config


@pytest.fixture
def lock(plane: Plane, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> ChangeLock:
    connect(monkeypatch, config)
    plane.kubectl("delete", "lease", "vcci-ops-change", "-n", plane.namespace, "--ignore-not-found")
    return ChangeLock(plane.namespace)


def lease(plane: Plane) -> dict[str, Any]:
    return dict(json.loads(plane.kubectl("get", "lease", "vcci-ops-change", "-n", plane.namespace, "-o", "json")))


@pytest.mark.parametrize("existing", [False, True], ids=["first use", "released before"])
def test_of_many_at_once_exactly_one_gets_it(lock: ChangeLock, existing: bool) -> None:
    if existing:
        assert lock.acquire(MINE, "a change before", "ines")
        assert lock.release(MINE)
    together = Barrier(8)

    def take(number: int) -> str:
        mine = ChangeLock(lock.namespace)
        mine.api.connect()
        together.wait()
        try:
            mine.acquire(f"release_deploy/{number}", "a release", "ines")
        except LockHeld as held:
            return held.holder
        return "won"

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(take, range(8)))
    assert results.count("won") == 1
    state = lock.current()
    assert state
    assert {r for r in results if r != "won"} == {state.holder}
    assert results[int(state.holder.rpartition("/")[2])] == "won"


def test_is_seen_with_kubectl_taken_again_by_its_holder_and_released_once(lock: ChangeLock, plane: Plane) -> None:
    assert lock.acquire(MINE, "release v2.1.0", "ines")
    assert lock.acquire(MINE, "release v2.1.0", "ines")
    shown = plane.kubectl("get", "lease", "vcci-ops-change", "-n", plane.namespace)
    assert MINE in shown
    notes = lease(plane)["metadata"]["annotations"]
    assert (notes["vcci-ops/purpose"], notes["vcci-ops/by"]) == ("release v2.1.0", "ines")
    assert lock.require(MINE).acquired.endswith("Z")
    assert lock.release(OTHER) is False
    assert lock.release(MINE) is True
    assert lock.release(MINE) is False
    state = lock.current()
    assert state
    assert str(state) == "nobody holds it"
    assert lock.acquire(OTHER, "scale", "omar")
    assert lock.release(MINE) is False
    assert lock.require(OTHER).purpose == "scale"


def test_a_second_run_is_refused_with_who_since_when_what_for_and_what_to_do(lock: ChangeLock) -> None:
    lock.acquire(OTHER, "release v2.1.0", "omar")
    task = AcquireChangeLockOperator(task_id="lock", namespace=lock.namespace, purpose="restart", if_locked="refuse")
    with pytest.raises(AirflowFailException) as refusal:
        task.execute(context("r1"))
    said = str(refusal.value)
    state = lock.current()
    assert state
    for word in (OTHER, state.acquired, "release v2.1.0", "omar", "break_glass_unlock", "kubectl get lease"):
        assert word in said, said


@pytest.mark.parametrize(
    ("field", "value"), [("if_locked", "wait\n"), ("within", "soon"), ("within", "nan"), ("within", "1e12")]
)
def test_a_wrong_choice_is_refused_by_name(lock: ChangeLock, field: str, value: str) -> None:
    task = AcquireChangeLockOperator(task_id="lock", namespace=lock.namespace, purpose="p", **{field: value})
    with pytest.raises(AirflowFailException, match=field):
        task.execute(context())
    assert lock.current() is None


def test_waits_without_a_worker_until_it_is_released(lock: ChangeLock) -> None:
    lock.acquire(OTHER, "release v2.1.0", "omar")
    task = AcquireChangeLockOperator(
        task_id="lock", namespace=lock.namespace, purpose="restart", if_locked="wait", within=30, poll=0.2
    )
    given = context("r1")
    deferral = deferred(task, given)

    async def wait() -> dict[str, Any]:
        waiting = asyncio.create_task(fired(deferral.trigger))
        await asyncio.sleep(0.7)
        assert not waiting.done()
        await asyncio.to_thread(ReleaseChangeLockOperator(task_id="u", namespace=lock.namespace).execute, context("r2"))
        return await asyncio.wait_for(waiting, 10)

    event = asyncio.run(wait())
    assert event == {"status": "free", "message": "nobody holds the lock"}
    # Somebody else was quicker: waits on, and in the end gets it.
    lock.acquire("scale_workloads/r3", "scale", "ines")
    with pytest.raises(TaskDeferred) as again:
        resumed(task, given, deferral, event)
    assert again.value.kwargs == deferral.kwargs, "the time to wait began once"
    lock.release("scale_workloads/r3")
    assert resumed(task, given, again.value, event) == {"holder": MINE, "namespace": lock.namespace}
    assert lock.require(MINE)


def test_a_wait_ends_after_its_time_and_says_who_has_it(lock: ChangeLock) -> None:
    lock.acquire(OTHER, "release v2.1.0", "omar")
    task = AcquireChangeLockOperator(
        task_id="lock", namespace=lock.namespace, purpose="restart", if_locked="wait", within="1", poll=0.2
    )
    with pytest.raises(AirflowFailException, match=f"waited as long as this run may, and .*{OTHER} holds it"):
        complete(task, context("r1"))


def test_a_broken_lock_stops_its_run_before_the_next_act(lock: ChangeLock) -> None:
    lock.acquire(MINE, "release v2.1.0", "ines")
    with pytest.raises(Refused, match=r"is not held by 'release_deploy/r2'.*release_deploy/r1 holds it"):
        lock.break_(OTHER, "omar", "that run is dead")
    assert lock.require(MINE)
    before = lock.break_(MINE, "omar", "the worker's node is gone", source="break_glass_unlock/b1")
    assert before.holder == MINE
    with pytest.raises(Refused, match="nobody holds it") as stopped:
        lock.require(MINE)
    assert "omar broke it at" in str(stopped.value)
    assert "the worker's node is gone" in str(stopped.value)
    lock.acquire(OTHER, "restart", "omar")
    with pytest.raises(Refused, match=f"Now {OTHER} holds it"):
        lock.require(MINE)
    # The same break-glass run, killed and repeated, does not break the lock of who came after.
    assert lock.break_(MINE, "omar", "again", source="break_glass_unlock/b1").holder == MINE
    assert lock.require(OTHER)


def test_what_never_was_locked_cannot_be_broken(lock: ChangeLock) -> None:
    with pytest.raises(Refused, match="nobody holds the change lock"):
        lock.break_(MINE, "omar", "that run is dead")
    with pytest.raises(Refused, match="does not hold the change lock"):
        lock.require(MINE)


@pytest.mark.parametrize(
    ("given", "states", "said"),
    [
        pytest.param({"confirm": False}, {}, "confirm", id="not confirmed"),
        pytest.param({"reason": "  short   "}, {}, "reason", id="no reason"),
        pytest.param({"expected_holder": "r1"}, {}, "expected_holder", id="no holder"),
        pytest.param({"expected_holder": OTHER}, {}, "is not held by", id="another holder"),
        pytest.param({}, {MINE: "running"}, "is running: it may be changing the platform", id="still running"),
        pytest.param({}, {MINE: "queued"}, "is queued", id="still queued"),
    ],
)
def test_the_glass_holds(lock: ChangeLock, given: dict[str, Any], states: dict[str, str], said: str) -> None:
    lock.acquire(MINE, "release v2.1.0", "ines")
    arguments = {"expected_holder": MINE, "reason": "the worker's node is gone", "confirm": True, **given}
    task = BreakChangeLockOperator(task_id="break_lock", namespace=lock.namespace, **arguments)
    with pytest.raises(AirflowFailException, match=said):
        task.execute(context("b1", states=states))
    assert lock.require(MINE)


def test_the_trigger_holds_no_secret_and_counts_from_a_fixed_time() -> None:
    trigger = LockTrigger("vcci-production", MINE, 1763974800.0)
    assert trigger.serialize() == (
        "vcci_ops.triggers.lock.LockTrigger",
        {
            "namespace": "vcci-production",
            "holder": MINE,
            "until": 1763974800.0,
            "poll": 5.0,
            "kubernetes_conn_id": "vcci_kubernetes",
            "name": "vcci-ops-change",
        },
    )


def test_an_api_that_does_not_answer_is_asked_again_until_the_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    dead = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:9"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    connect(monkeypatch, dead)
    event = asyncio.run(fired(LockTrigger("vcci-production", MINE, time.time() + 0.5, poll=0.1)))
    assert event["status"] == "timeout"
    assert "Kubernetes did not answer" in event["message"]


def test_a_holder_is_named_after_its_run() -> None:
    assert holder_of(context("manual__2026-11-24T09:00:00+00:00")) == "release_deploy/manual__2026-11-24T09:00:00+00:00"
