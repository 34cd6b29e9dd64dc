from __future__ import annotations

from typing import Any

from vcci_ops.domain.usage import Amounts, Node, PodLimits, memory_load, node_load

NOW = 1_800_000_000.0
OLD = "2020-01-01T00:00:00Z"


def node(name: str = "n1", *, ready: str = "True", created: str = OLD, **more: Any) -> Node:
    conditions = [{"type": "Ready", "status": ready, "reason": "KubeletNotReady", "message": "runtime is down"}]
    conditions += [{"type": kind, "status": "True"} for kind in more.get("pressure", ())]
    return Node.from_json(
        {
            "metadata": {"name": name, "creationTimestamp": created},
            "spec": {"unschedulable": more.get("cordoned")},
            "status": {"conditions": conditions, "allocatable": {"cpu": 4, "memory": 1000}},
        },
        float,
    )


def limits(name: str, since: str = OLD, phase: str = "Running", **memory: int | None) -> PodLimits | None:
    containers = [
        {"name": key.replace("_", "-"), "resources": {"limits": {"memory": value}} if value else {}}
        for key, value in memory.items()
    ]
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": since}
    status = {"phase": phase, "conditions": [ready] if since else []}
    data = {"metadata": {"name": name}, "spec": {"containers": containers}, "status": status}
    return PodLimits.from_json(data, float)


def pods(*given: PodLimits | None) -> list[PodLimits]:
    return [one for one in given if one]


def test_a_node_says_what_is_wrong_with_it() -> None:
    assert node().trouble == ""
    assert node(ready="Unknown").trouble == "not ready (KubeletNotReady: runtime is down)"
    assert node(pressure=["DiskPressure", "MemoryPressure"]).trouble == "MemoryPressure, DiskPressure"
    assert Node.from_json({"metadata": {"name": "x"}}, float).trouble == "not ready (no Ready condition)"


def test_the_fullest_node_comes_first() -> None:
    load = node_load([node("a"), node("b")], {"a": Amounts(1, 900), "b": Amounts(3.2, 100)}, now=NOW)
    assert str(load.shares[0]) == "a: memory 90 % (900 B of 1.00 kB)"
    assert str(load.shares[1]) == "b: CPU 80 % (3.20 cores of 4 cores)"
    assert load.missing == ()


def test_a_settled_ready_node_without_metrics_is_missing_others_are_not() -> None:
    young = node("young", created="2027-01-15T07:59:00Z")
    load = node_load([node("lost"), node("dead", ready="False"), young], {}, now=NOW)
    assert load.missing == ("lost",)


def test_containers_are_compared_with_their_own_limit() -> None:
    found = pods(limits("one", api=1000), limits("two", api=1000, side_car=100, loose=None))
    used = {"one": {"api": 500.0}, "two": {"api": 100.0, "side-car": 97.0, "loose": 5.0}}
    load = memory_load(found, used, now=NOW)
    assert [str(share) for share in load.shares] == [
        "two/side-car: memory 97 % (97 B of 100 B)",
        "one: memory 50 % (500 B of 1.00 kB)",
        "two/api: memory 10 % (100 B of 1.00 kB)",
    ]
    assert load.unlimited == 1


def test_only_pods_that_are_ready_for_a_while_must_have_metrics() -> None:
    young = limits("new", "2027-01-15T07:59:00Z", api=1)
    crashing = limits("crashing", "", api=1)
    found = pods(limits("done", phase="Succeeded", api=1), limits("lost", api=1), young, crashing)
    assert memory_load(found, {}, now=NOW).missing == ("lost",)
