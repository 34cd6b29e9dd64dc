from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from vcci_ops.domain.pods import Pod, Readiness, bounded, readiness, restarts

NOW = 1_800_000_000.0
OWNERS = {"worker-7d9": "worker"}


def at(ago: float) -> str:
    return dt.datetime.fromtimestamp(NOW - ago, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def container(name: str = "worker", *, ready: bool = False, restarted: int = 0, **state: Any) -> dict[str, Any]:
    return {
        "name": name,
        "image": "vcci/worker:v2.0.0",
        "ready": ready,
        "restartCount": restarted,
        "state": {k: v for k, v in state.items() if k != "last"} or {"running": {}},
        "lastState": {"terminated": state["last"]} if "last" in state else {},
    }


def pod(
    name: str = "worker-7d9-abcde",
    *,
    phase: str = "Running",
    ready: bool = False,
    since: float = 600,
    age: float = 86400,
    containers: list[dict[str, Any]] | None = None,
    owner: tuple[str, str] | None = ("ReplicaSet", "worker-7d9"),
    deleting: float | None = None,
    **status: Any,
) -> Pod:
    meta: dict[str, Any] = {"name": name, "creationTimestamp": at(age)}
    if owner:
        meta["ownerReferences"] = [{"kind": owner[0], "name": owner[1], "controller": True}]
    if deleting is not None:
        meta["deletionTimestamp"] = at(deleting)
    condition = {"type": "Ready", "status": "True" if ready else "False", "lastTransitionTime": at(since)}
    base = {"phase": phase, "startTime": at(age), "conditions": [condition]}
    statuses = [container(ready=ready)] if containers is None else containers
    return Pod.from_json({"metadata": meta, "status": {**base, "containerStatuses": statuses, **status}})


def judge(*pods: Pod, for_: float = 0) -> Readiness:
    return readiness(pods, OWNERS, now=NOW, for_=for_)


BACK_OFF = {"reason": "CrashLoopBackOff", "message": "back-off 5m0s restarting failed container=worker"}


def test_running_is_not_ready() -> None:
    seen = judge(pod(ready=True), pod("worker-7d9-b"))
    assert seen.summary() == "1 of 2 pods are not ready: worker 1 of 2 (Running but not ready (readiness probe))"
    assert str(seen.problems[0]).startswith("worker-7d9-b (worker): Running but not ready (readiness probe) for 10 min")


@pytest.mark.parametrize(
    "gone",
    [
        pytest.param(pod(phase="Succeeded", owner=("Job", "migrate")), id="finished job"),
        pytest.param(pod(phase="Failed", reason="Evicted"), id="evicted"),
        pytest.param(pod(deleting=-20), id="terminating within its grace period"),
        pytest.param(pod(ready=True, deleting=5), id="terminating"),
    ],
)
def test_what_ended_or_is_on_its_way_out_does_not_count(gone: Pod) -> None:
    seen = judge(gone, pod(ready=True))
    assert (seen.counted, seen.problems, seen.young) == (1, [], [])


def test_evicted_pods_are_mentioned() -> None:
    assert list(judge(pod(phase="Failed", reason="Evicted")).notes()) == [
        "not counted: pods that ended and were left lying: 1 Evicted"
    ]


def test_a_pod_that_does_not_go_away_counts() -> None:
    seen = judge(pod(deleting=1200))
    assert seen.problems[0].reason == "still Terminating after its grace period"


@pytest.mark.parametrize(
    "reason", ["ImagePullBackOff", "ErrImagePull", "CreateContainerConfigError", "InvalidImageName"]
)
def test_waiting_reason_message_and_image_are_named(reason: str) -> None:
    waiting = container(waiting={"reason": reason, "message": "registry says no; token=abcdef"})
    line = str(judge(pod(phase="Pending", containers=[waiting])).problems[0])
    assert f"{reason} for 10 min: registry says no; token=***" in line
    assert line.endswith("[image vcci/worker:v2.0.0]")


def test_a_crash_loop_counts_at_once_after_three_ends_and_before_only_with_age() -> None:
    few, many = (container(restarted=n, waiting=BACK_OFF) for n in (1, 3))
    assert judge(pod(since=5, containers=[few]), pod("worker-7d9-b", ready=True), for_=120).problems == []
    assert judge(pod(since=5, containers=[many]), for_=120).problems[0].reason == "CrashLoopBackOff"
    assert judge(pod(since=500, containers=[few]), for_=120).problems[0].reason == "CrashLoopBackOff"


def test_young_pods_do_not_count_and_are_mentioned() -> None:
    seen = judge(pod(since=30), pod(ready=True), for_=120)
    assert seen.problems == []
    assert seen.summary() == "1 of 2 pods are ready, 1 not yet, but too short to count"
    assert next(seen.notes()).startswith("not counted: 1 not ready yet, e.g. worker-7d9-abcde (worker)")


def test_pods_of_a_workload_without_a_ready_pod_count_at_once_unless_they_are_new() -> None:
    flapping = [pod("a", since=5), pod("b", since=20)]
    assert len(judge(*flapping, for_=120).problems) == 2
    assert judge(*flapping, pod("c", ready=True), for_=120).problems == []
    assert judge(pod("a", since=5, age=60), pod("b", since=20, age=60), for_=120).problems == []
    assert len(judge(*flapping, pod("c", ready=True, owner=("StatefulSet", "cache")), for_=120).problems) == 2
    assert judge(pod("a", since=5, owner=None), pod("b", ready=True, owner=None), for_=120).problems[0].pod == "a"
    leaving = pod("c", ready=True, deleting=-20)
    assert len(judge(*flapping, leaving, for_=120).problems) == 2


def test_a_moment_ahead_of_this_clock_is_not_too_short() -> None:
    ready = pod("c", ready=True)
    seen = judge(pod(since=-300), ready, for_=120)
    assert str(seen.problems[0]) == (
        "worker-7d9-abcde (worker): Running but not ready (readiness probe) "
        "since a moment 5 min ahead of this clock [image vcci/worker:v2.0.0]"
    )
    assert judge(pod(since=-30), ready, for_=120).problems == []


def test_failed_pods_of_jobs_are_news_for_a_while() -> None:
    def failed(job: str, ago: float, **more: Any) -> Pod:
        end = {"exitCode": 1, "reason": "Error", "finishedAt": at(ago)}
        return pod(phase="Failed", owner=("Job", job), since=ago, containers=[container(terminated=end)], **more)

    runs = [failed("nightly-backup-29391234", 600), failed("nightly-backup-29391235", 30), failed("migrate", 30)]
    seen = judge(*runs, failed("nightly-backup-29391233", 7200), pod(ready=True))
    assert seen.job_failures("today") == [
        "2 pods of Job nightly-backup failed today",
        "1 pod of Job migrate failed today",
    ]
    assert list(seen.notes()) == ["not counted: pods that ended and were left lying: 1 Failed"]
    evicted = judge(pod(phase="Failed", reason="Evicted", owner=("Job", "migrate"), since=30, containers=[]))
    assert evicted.job_failures("today") == ["1 pod of Job migrate failed today"]


def test_a_failing_init_container_is_the_reason() -> None:
    end = {"exitCode": 1, "reason": "Error"}
    init = container("migrate", restarted=4, waiting={"reason": "CrashLoopBackOff"}, last=end)
    main = container(waiting={"reason": "PodInitializing"})
    problem = judge(pod(phase="Pending", containers=[main], initContainerStatuses=[init])).problems[0]
    assert (problem.reason, problem.message) == (
        "CrashLoopBackOff",
        "container migrate ended last with Error (exit code 1)",
    )


def test_a_pod_without_a_node_says_why() -> None:
    placed = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/3 nodes are available: 3 Insufficient memory.",
        "lastTransitionTime": at(300),
    }
    line = str(judge(pod(phase="Pending", containers=[], conditions=[placed])).problems[0])
    assert line == "worker-7d9-abcde (worker): Unschedulable for 5 min: 0/3 nodes are available: 3 Insufficient memory."


def test_worst_come_first_and_lists_are_bounded() -> None:
    image = container(waiting={"reason": "ImagePullBackOff"})
    seen = judge(pod("a", since=9000), pod("b", containers=[image]), *(pod(f"c{n}") for n in range(20)))
    assert [problem.pod for problem in seen.problems[:2]] == ["b", "a"]
    lines = bounded(seen.problems, 10, "more pods")
    assert (len(lines), lines[-1]) == (11, "and 12 more pods")


def test_owners_are_named_as_people_know_them() -> None:
    assert pod().workload(OWNERS) == "worker"
    assert pod(owner=("ReplicaSet", "lonely")).workload(OWNERS) == "ReplicaSet lonely"
    assert pod(owner=("Job", "migrate")).workload(OWNERS) == "Job migrate"
    assert pod(owner=None).workload(OWNERS) == "no owner"


def test_a_pod_of_which_nothing_is_known_yet_can_be_read() -> None:
    bare = Pod.from_json({"metadata": {"name": "x", "creationTimestamp": at(1)}})
    assert judge(bare).problems[0].reason == "not ready (no status yet)"


OOM = {"reason": "OOMKilled", "exitCode": 137, "finishedAt": at(720)}


@pytest.mark.parametrize(
    ("one", "count"),
    [
        pytest.param(pod(age=1800, containers=[container(ready=True, restarted=3, last=OOM)]), 3, id="young pod: all"),
        pytest.param(pod(containers=[container(ready=True, restarted=30, last=OOM)]), 1, id="old pod: the last"),
        pytest.param(pod(containers=[container(restarted=7, waiting=BACK_OFF)]), 7, id="held back: all of few"),
        pytest.param(pod(containers=[container(restarted=999, waiting=BACK_OFF)]), 15, id="held back: the possible"),
        pytest.param(
            pod(containers=[container(ready=True, restarted=2, last={**OOM, "finishedAt": at(7200)})]), 0, id="long ago"
        ),
        pytest.param(pod(phase="Failed", containers=[container(restarted=2, last=OOM)]), 0, id="finished pod"),
        pytest.param(pod(ready=True), 0, id="none"),
    ],
)
def test_restarts_within_the_window(one: Pod, count: int) -> None:
    assert sum(r.count for r in restarts([one], OWNERS, now=NOW, window=3600)) == count


def test_how_a_container_ended_is_named() -> None:
    old = pod(containers=[container(ready=True, restarted=30, last=OOM)])
    assert str(restarts([old], OWNERS, now=NOW, window=3600)[0]) == (
        "worker-7d9-abcde/worker (worker): 30 restarts, at least 1 of them within the window, "
        "last 12 min ago: OOMKilled (exit code 137)"
    )
