from __future__ import annotations

from typing import Any

import pytest

from vcci_ops.domain.workloads import Deployment, Rollout, owning_deployment, selector_text


def deployment(
    *, generation: int = 2, paused: bool = False, progress: str = "NewReplicaSetAvailable", **status: Any
) -> Deployment:
    conditions = [{"type": "Progressing", "status": "True", "reason": progress}, *status.pop("conditions", [])]
    full = {"observedGeneration": 2, "replicas": 3, "updatedReplicas": 3, "availableReplicas": 3, **status}
    data = {
        "metadata": {"name": "worker", "generation": generation},
        "spec": {"replicas": 3, "paused": paused, "selector": {"matchLabels": {"app": "worker"}}},
        "status": {**full, "conditions": conditions},
    }
    return Deployment.from_json(data)


@pytest.mark.parametrize(
    ("one", "rollout", "missing", "summary"),
    [
        pytest.param(deployment(), Rollout.COMPLETE, 0, "3 of 3 replicas available", id="complete"),
        pytest.param(
            deployment(updatedReplicas=1, progress="ReplicaSetUpdated"),
            Rollout.PROGRESSING,
            0,
            "3 of 3 replicas available; rollout under way: 1 of 3 replicas are new",
            id="being updated",
        ),
        pytest.param(
            deployment(replicas=4),
            Rollout.PROGRESSING,
            0,
            "3 of 3 replicas available; rollout under way: 1 old replicas are still there",
            id="old ones left",
        ),
        pytest.param(
            deployment(availableReplicas=1),
            Rollout.DEGRADED,
            2,
            "1 of 3 replicas available",
            id="complete, then unavailable",
        ),
        pytest.param(
            deployment(availableReplicas=1, progress="ReplicaSetUpdated"),
            Rollout.PROGRESSING,
            2,
            "1 of 3 replicas available; rollout under way: 1 of 3 new replicas are available",
            id="new ones not available yet",
        ),
        pytest.param(
            deployment(updatedReplicas=1, progress="ProgressDeadlineExceeded"),
            Rollout.STUCK,
            0,
            "3 of 3 replicas available; the rollout exceeded its progress deadline (ProgressDeadlineExceeded): "
            "1 of 3 replicas are new",
            id="stuck",
        ),
        pytest.param(
            deployment(generation=3),
            Rollout.UNSEEN,
            0,
            "3 of 3 replicas available; the controller has not seen the newest specification yet, so this may be old",
            id="not observed",
        ),
        pytest.param(
            deployment(updatedReplicas=1, paused=True),
            Rollout.PAUSED,
            0,
            "3 of 3 replicas available; rollout paused: 1 of 3 replicas are new",
            id="paused",
        ),
    ],
)
def test_a_rollout_is_seen_as_kubectl_sees_it(one: Deployment, rollout: Rollout, missing: int, summary: str) -> None:
    assert (one.rollout, one.missing, one.summary()) == (rollout, missing, summary)


def test_a_deployment_without_status_or_replicas_wants_one() -> None:
    one = Deployment.from_json({"metadata": {"name": "x", "generation": 1}, "spec": {}})
    assert (one.desired, one.missing, one.rollout) == (1, 1, Rollout.UNSEEN)


def test_why_replicas_cannot_be_made_is_kept() -> None:
    failure = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota: pods"}
    one = deployment(conditions=[failure])
    assert one.failure == "exceeded quota: pods"
    assert one.summary() == "3 of 3 replicas available; replicas cannot be made: exceeded quota: pods"
    assert one.concern


def test_what_passes_by_itself_is_no_concern() -> None:
    over = {"type": "ReplicaFailure", "status": "False", "message": "exceeded quota: pods"}
    assert not deployment(conditions=[over]).concern
    assert not deployment(updatedReplicas=1, progress="ReplicaSetUpdated").concern
    assert not deployment(paused=True).concern
    assert deployment(paused=True, updatedReplicas=1).concern


def test_selectors_are_written_as_list_requests_take_them() -> None:
    rules = [
        {"key": "tier", "operator": "In", "values": ["a", "b"]},
        {"key": "canary", "operator": "NotIn", "values": ["yes"]},
        {"key": "x", "operator": "Exists"},
        {"key": "y", "operator": "DoesNotExist"},
    ]
    written = selector_text({"matchLabels": {"b": "2", "a": "1"}, "matchExpressions": rules})
    assert written == "a=1,b=2,tier in (a,b),canary notin (yes),x,!y"


def test_only_a_controlling_deployment_owns() -> None:
    owner = {"kind": "Deployment", "name": "worker", "controller": True}
    owned = {"metadata": {"name": "worker-7d9", "ownerReferences": [owner]}}
    assert owning_deployment(owned) == ("worker-7d9", "worker")
    assert owning_deployment({"metadata": {"name": "alone"}}) is None
