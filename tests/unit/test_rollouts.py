"""When a rollout is complete, has failed, or is somebody else's; told from the API's JSON alone."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from vcci_ops.domain.rollouts import (
    Patience,
    State,
    WorkloadChange,
    current_set,
    edited_by,
    is_applied,
    is_stale_deadline,
    patch_of,
    require_changeable,
    standing,
    stuck_without_pods,
    template_digest,
    troubles,
    unscheduled,
)
from vcci_ops.exceptions import Refused

TEMPLATE: dict[str, Any] = {
    "metadata": {"creationTimestamp": None, "labels": {"app": "api"}},
    "spec": {"containers": [{"name": "api", "image": "vcci/api:v1"}, {"name": "proxy", "image": "envoy:1"}]},
}


def deployment(status: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "api", "uid": "u-1", "generation": 4, "resourceVersion": "77", "annotations": {"a": "b"}},
        "spec": {"replicas": 3, "progressDeadlineSeconds": 600, "template": copy.deepcopy(TEMPLATE), **spec},
        "status": {
            "observedGeneration": 4,
            "replicas": 3,
            "updatedReplicas": 3,
            "availableReplicas": 3,
            **(status or {}),
        },
    }


LATE = {
    "type": "Progressing",
    "status": "False",
    "reason": "ProgressDeadlineExceeded",
    "message": 'ReplicaSet "api-1" has timed out progressing.',
}


@pytest.mark.parametrize(
    ("found", "state", "words"),
    [
        pytest.param(deployment(), State.DONE, "3 of 3 replicas are new and available", id="complete"),
        pytest.param(deployment({"observedGeneration": 3}), State.WAITING, "has not been seen", id="not seen yet"),
        pytest.param(deployment({"updatedReplicas": 1}), State.WAITING, "1 of 3 new replicas", id="being made"),
        pytest.param(deployment({"replicas": 5}), State.WAITING, "2 old replicas are still to go", id="old ones left"),
        pytest.param(deployment({"availableReplicas": 2}), State.WAITING, "2 of 3 new", id="not available"),
        pytest.param(deployment({"availableReplicas": None}), State.WAITING, "0 of 3 new", id="none available"),
        pytest.param(
            deployment({"replicas": 0, "updatedReplicas": 0, "availableReplicas": 0}, replicas=0),
            State.DONE,
            "0 of 0",
            id="scaled to nothing",
        ),
        pytest.param(deployment({"conditions": [LATE]}), State.FAILED, r"progressDeadlineSeconds (600)", id="late"),
        pytest.param(
            deployment({"conditions": [LATE], "observedGeneration": 3}),
            State.WAITING,
            "not been seen",
            id="late before",
        ),
        pytest.param(deployment(paused=True), State.FAILED, "was paused while", id="paused"),
    ],
)
def test_stands_where_kubectl_says(found: dict[str, Any], state: State, words: str) -> None:
    now = standing(found, uid="u-1", generation=4, template=template_digest(TEMPLATE))
    assert now.state is state
    assert words in now.message


def test_is_somebody_elses_when_the_template_or_the_object_is_another() -> None:
    ours = template_digest(TEMPLATE)
    assert standing(deployment(), uid="u-2", generation=4, template=ours).state is State.SUPERSEDED
    other = deployment()
    other["spec"]["template"]["spec"]["containers"][0]["image"] = "vcci/api:v9"
    now = standing(other, uid="u-1", generation=4, template=ours)
    assert now.state is State.SUPERSEDED
    assert "vcci/api:v9" in now.message
    # What only counts or notes raises the generation, too, and supersedes nothing.
    scaled = deployment({"observedGeneration": 6})
    scaled["metadata"]["generation"] = 6
    assert standing(scaled, uid="u-1", generation=4, template=ours).state is State.DONE
    assert standing(other, uid="u-1", generation=4).state is State.DONE, "not looked at without a digest"


def test_says_who_edited_the_template_last() -> None:
    found = deployment()
    assert edited_by(found) == "the API did not note by whom"
    template = {"f:spec": {"f:template": {}}}
    found["metadata"]["managedFields"] = [
        {"manager": "vcci-ops", "time": "2026-11-24T09:00:00Z", "fieldsV1": template},
        {"manager": "kubectl-set", "time": "2026-11-24T09:05:00Z", "fieldsV1": template},
        {"manager": "kube-controller-manager", "time": "2026-11-24T09:06:00Z", "fieldsV1": {"f:status": {}}},
    ]
    found["metadata"]["annotations"]["kubernetes.io/change-cause"] = "hotfix"
    said = edited_by(found)
    assert said == 'by kubectl-set at 2026-11-24T09:05:00Z, kubernetes.io/change-cause "hotfix"'


def test_an_exceeded_deadline_counts_for_its_own_replicaset_only() -> None:
    late = deployment({"conditions": [LATE]})
    assert is_stale_deadline(late, {"metadata": {"name": "api-2"}})
    assert is_stale_deadline(late, None)
    assert not is_stale_deadline(late, {"metadata": {"name": "api-1"}})
    assert not is_stale_deadline(deployment(), None)
    # A name that only begins alike is another's.
    assert is_stale_deadline(late, {"metadata": {"name": "api"}})


def test_finds_the_replicaset_of_the_present_template() -> None:
    labels = {"app": "api", "pod-template-hash": "abc"}
    mine = {
        "metadata": {"name": "api-abc", "ownerReferences": [{"uid": "u-1"}]},
        "spec": {"template": {**TEMPLATE, "metadata": {"labels": labels}}},
    }
    foreign = {**mine, "metadata": {"name": "x", "ownerReferences": [{"uid": "u-9"}]}}
    old = copy.deepcopy(mine)
    old["spec"]["template"]["spec"]["containers"][0]["image"] = "vcci/api:v0"
    assert current_set(deployment(), [foreign, old, mine]) is mine
    assert current_set(deployment(), [foreign, old]) is None


def test_the_patch_is_guarded_and_touches_its_container_only() -> None:
    change = WorkloadChange("api", "api", "vcci/api:v2", annotations={"x": "y"}, cause="release v2")
    assert patch_of(deployment(), change, "release_deploy/r1") == (
        {
            "metadata": {
                "resourceVersion": "77",
                "annotations": {
                    "x": "y",
                    "kubernetes.io/change-cause": "release v2",
                    "vcci-ops/run": "release_deploy/r1",
                },
            },
            "spec": {"template": {"spec": {"containers": [{"name": "api", "image": "vcci/api:v2"}]}}},
        },
        False,
    )


def test_going_back_replaces_the_whole_template_without_the_hash() -> None:
    old = {**TEMPLATE, "metadata": {"labels": {"app": "api", "pod-template-hash": "abc"}}}
    patch, is_json = patch_of(deployment(), WorkloadChange("api", template=old), "release_rollback/r1")
    assert is_json
    values = {operation["path"]: operation["value"] for operation in patch}
    assert values["/metadata/resourceVersion"] == "77"
    assert values["/spec/template"]["metadata"]["labels"] == {"app": "api"}
    assert values["/metadata/annotations"]["a"] == "b", "other annotations stay"


def test_what_is_as_wanted_is_applied() -> None:
    found = deployment()
    assert is_applied(found, WorkloadChange("api", "api", "vcci/api:v1"))
    assert not is_applied(found, WorkloadChange("api", "api", "vcci/api:v2"))
    assert not is_applied(found, WorkloadChange("api", restart="2026-11-24T09:00:00Z"))
    found["spec"]["template"]["metadata"]["annotations"] = {"kubectl.kubernetes.io/restartedAt": "2026-11-24T09:00:00Z"}
    assert is_applied(found, WorkloadChange("api", restart="2026-11-24T09:00:00Z"))
    assert not is_applied(found, WorkloadChange("api", template=TEMPLATE))


def test_the_expected_image_does_not_matter_once_the_change_is_made() -> None:
    require_changeable(deployment(), WorkloadChange("api", "api", "vcci/api:v1", expected_image="vcci/api:v0"))
    with pytest.raises(Refused, match="plan was made for vcci/api:v0: somebody changed it meanwhile"):
        require_changeable(deployment(), WorkloadChange("api", "api", "vcci/api:v2", expected_image="vcci/api:v0"))


def pod(state: dict[str, Any], *, last: dict[str, Any] | None = None, restarts: int = 0, **meta: Any) -> dict[str, Any]:
    status = {"name": "api", "state": state, "lastState": last or {}, "restartCount": restarts, "ready": False}
    owner = [{"uid": "rs-1"}]
    return {"metadata": {"name": "api-1", "ownerReferences": owner, **meta}, "status": {"containerStatuses": [status]}}


CRASHED = {"terminated": {"exitCode": 1, "reason": "Error"}}
OOM = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
BACKING_OFF = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}


@pytest.mark.parametrize(
    ("found", "reason", "certain"),
    [
        pytest.param(pod({"running": {}}), "", None, id="starting"),
        pytest.param(pod({"waiting": {"reason": "ContainerCreating"}}), "", None, id="being created"),
        pytest.param(pod(BACKING_OFF, last=CRASHED, restarts=1), "CrashLoopBackOff", False, id="crashed once"),
        pytest.param(pod(BACKING_OFF, last=CRASHED, restarts=2), "CrashLoopBackOff", True, id="crashes"),
        pytest.param(pod(BACKING_OFF, last=OOM, restarts=1), "OOMKilled", True, id="out of memory"),
        pytest.param(pod({"running": {}}, last=OOM, restarts=1), "OOMKilled", True, id="out of memory, running again"),
        pytest.param(pod({"waiting": {"reason": "ErrImagePull"}}), "ErrImagePull", False, id="pull failed"),
        pytest.param(pod({"waiting": {"reason": "ImagePullBackOff"}}), "ImagePullBackOff", False, id="pull fails"),
        pytest.param(pod({"waiting": {"reason": "InvalidImageName"}}), "InvalidImageName", True, id="no such name"),
        pytest.param(
            pod({"waiting": {"reason": "CreateContainerConfigError"}}), "CreateContainerConfigError", False, id="secret"
        ),
        pytest.param(pod(BACKING_OFF, restarts=9, deletionTimestamp="now"), "", None, id="on its way out"),
    ],
)
def test_a_pods_trouble_is_certain_or_not(found: dict[str, Any], reason: str, certain: bool | None) -> None:
    seen = troubles([found], "rs-1")
    assert [t.reason for t in seen] == ([reason] if reason else [])
    assert [t.certain for t in seen] == ([certain] if reason else [])
    assert troubles([found], "rs-2") == [], "another ReplicaSet's"


def test_a_secret_in_a_message_of_the_kubelet_is_masked() -> None:
    told = {"waiting": {"reason": "CreateContainerError", "message": "env password=hunter2hunter2 is odd"}}
    (trouble,) = troubles([pod(told)])
    assert "hunter2" not in str(trouble)


def test_patience_tells_what_lasts_from_what_passes() -> None:
    patience = Patience(10)
    pulling = troubles([pod({"waiting": {"reason": "ErrImagePull"}})])
    backing_off = troubles([pod({"waiting": {"reason": "ImagePullBackOff"}})])
    assert patience.certain(pulling, 0) == []
    assert patience.certain(backing_off, 9) == [], "the same trouble, by its other name"
    assert patience.certain(backing_off, 10) == backing_off
    assert patience.certain([], 11) == []
    assert patience.certain(pulling, 30) == [], "it passed, and counts anew"


def test_names_quota_and_missing_nodes() -> None:
    full = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota: few"}
    assert stuck_without_pods(deployment({"conditions": [full]})) == (
        "its pods cannot be made (FailedCreate): exceeded quota: few"
    )
    assert stuck_without_pods(deployment()) == ""
    nowhere = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}
    waiting = {"metadata": {"name": "api-1"}, "status": {"conditions": [nowhere]}}
    assert unscheduled([waiting]) == ["api-1: Unschedulable: 0/3 nodes"]
