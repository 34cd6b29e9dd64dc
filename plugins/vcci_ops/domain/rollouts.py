"""When a rollout is complete, when it has failed, and when it is no longer ours; told from the API's JSON.

Complete is what ``kubectl rollout status`` calls complete:
https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#deployment-status. Failed is more than its
progress deadline: what new pods suffer from is told as soon as it will not pass by itself.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any

from vcci_ops.domain.pods import Container
from vcci_ops.exceptions import Refused

Object = Mapping[str, Any]
CAUSE = "kubernetes.io/change-cause"
RUN = "vcci-ops/run"
RESTARTED_AT = "kubectl.kubernetes.io/restartedAt"
REVISION = "deployment.kubernetes.io/revision"
HASH = "pod-template-hash"
CRASHES = 2
"""Restarts after which a crash-loop is certain: one crash may be that of a dependency that starts, too."""
_DEADLINE = "ProgressDeadlineExceeded"
_AT_ONCE = frozenset({"InvalidImageName", "ErrImageNeverPull"})
_LASTING = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "CreateContainerConfigError",
        "CreateContainerError",
        "RunContainerError",
        "StartError",
    }
)
"""Waiting reasons that the kubelet tries again to get rid of: certain only when they last."""


@dataclasses.dataclass(frozen=True)
class WorkloadChange:
    """What a rollout changes of a Deployment."""

    workload: str
    container: str = ""
    """Container whose image it is about."""
    image: str = ""
    """New image of that container; "" leaves it."""
    template: Object | None = None
    """Whole pod template to go back to, as a ReplicaSet has it."""
    annotations: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """For the Deployment, besides change-cause and run."""
    cause: str = ""
    """Shown by ``kubectl rollout history``."""
    expected_image: str = ""
    """What that container must run before, as the plan said; "" for whatever it runs."""
    restart: str = ""
    """Time of a restart, RFC 3339; a restart with the same time is the same restart."""


class State(StrEnum):
    """Where a rollout stands."""

    WAITING = "waiting"
    DONE = "done"
    FAILED = "failed"
    SUPERSEDED = "superseded"


@dataclasses.dataclass(frozen=True)
class Standing:
    """Where a rollout stands, with the sentence that says so."""

    state: State
    message: str


# Reading ---------------------------------------------------------------------------------------------


def container_of(template: Object, name: str) -> Object | None:
    """Return a container of a pod template, or None."""
    return next((c for c in template["spec"]["containers"] if c["name"] == name), None)


def image_of(deployment: Object, container: str) -> str:
    """Return what a container of a Deployment runs.

    :raises Refused: when it has no such container.
    """
    found = container_of(deployment["spec"]["template"], container)
    if found is None:
        names = ", ".join(c["name"] for c in deployment["spec"]["template"]["spec"]["containers"])
        raise Refused(f"Deployment {deployment['metadata']['name']} has no container {container}; it has {names}")
    return str(found["image"])


def plain_template(template: Object) -> dict[str, Any]:
    """Return a pod template without what tells a ReplicaSet's from its Deployment's."""
    meta = dict(template.get("metadata") or {})
    meta.pop("creationTimestamp", None)
    labels = {key: value for key, value in (meta.get("labels") or {}).items() if key != HASH}
    return {**template, "metadata": {**meta, "labels": labels}}


def template_digest(template: Object) -> str:
    """Return 16 characters that are the same for the same pod template, a Deployment's or its ReplicaSet's.

    A Deployment's ``generation`` does not do for that: the controllers themselves raise it, when they note the
    revision or scale.
    """
    text = json.dumps(plain_template(template), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def current_set(deployment: Object, sets: Iterable[Object]) -> Object | None:
    """Return the ReplicaSet of a Deployment's present template, or None when it is not made yet."""
    uid, digest = deployment["metadata"]["uid"], template_digest(deployment["spec"]["template"])
    owned = (s for s in sets if any(o.get("uid") == uid for o in s["metadata"].get("ownerReferences") or ()))
    return next((s for s in owned if template_digest(s["spec"]["template"]) == digest), None)


def edited_by(deployment: Object) -> str:
    """Say who changed the pod template last, as far as the API noted it."""
    meta = deployment["metadata"]
    entries = [
        entry
        for entry in meta.get("managedFields") or ()
        if "f:template" in ((entry.get("fieldsV1") or {}).get("f:spec") or {})
    ]
    last = max(entries, key=lambda entry: str(entry.get("time") or ""), default=None)
    notes = meta.get("annotations") or {}
    words = [f"by {last.get('manager')} at {last.get('time')}"] if last else []
    words += [f'{CAUSE} "{notes[CAUSE]}"'] if notes.get(CAUSE) else []
    words += [f"{RUN} {notes[RUN]}"] if notes.get(RUN) else []
    return ", ".join(words) or "the API did not note by whom"


# Changing --------------------------------------------------------------------------------------------


def is_applied(deployment: Object, change: WorkloadChange) -> bool:
    """Whether the Deployment's template is already as the change wants it."""
    template = deployment["spec"]["template"]
    if change.template is not None:
        return template_digest(template) == template_digest(change.template)
    if change.image and image_of(deployment, change.container) != change.image:
        return False
    notes = template.get("metadata", {}).get("annotations") or {}
    return not change.restart or notes.get(RESTARTED_AT) == change.restart


def require_changeable(deployment: Object, change: WorkloadChange) -> None:
    """Pass when the change may be made now.

    :raises Refused: when the Deployment is paused, has no such container, or runs another image than planned.
    """
    name = deployment["metadata"]["name"]
    if deployment["spec"].get("paused"):
        raise Refused(
            f"Deployment {name} is paused: it would take the change and roll nothing out. Nothing was changed. Find "
            f"out who paused it and why, then: kubectl rollout resume deployment/{name}"
        )
    if not (change.image or change.template or change.restart):
        raise Refused(f"there is nothing to change in Deployment {name}: neither an image nor a template nor a restart")
    if change.container:
        found = image_of(deployment, change.container)
        if change.expected_image and found != change.expected_image and not is_applied(deployment, change):
            raise Refused(
                f"Deployment {name} runs {found}, and the plan was made for {change.expected_image}: somebody changed "
                f"it meanwhile ({edited_by(deployment)}). Nothing was changed. Make a new plan"
            )


def patch_of(deployment: Object, change: WorkloadChange, run: str) -> tuple[Any, bool]:
    """Return the patch that makes the change, and whether it is a JSON patch (else a strategic merge).

    It holds the resourceVersion that was read, so that the API refuses it when somebody was quicker.

    :param run: ``dag_id/run_id``, for the annotation that tells whose change it is.
    """
    version = deployment["metadata"]["resourceVersion"]
    notes = {**change.annotations, CAUSE: change.cause or f"vcci-ops {run}", RUN: run}
    if change.template is not None:
        merged = {**(deployment["metadata"].get("annotations") or {}), **notes}
        replaced = {"/metadata/resourceVersion": version, "/spec/template": plain_template(change.template)}
        operations = [{"op": "replace", "path": path, "value": value} for path, value in replaced.items()]
        return [*operations, {"op": "add", "path": "/metadata/annotations", "value": merged}], True
    template: dict[str, Any] = {}
    if change.image:
        template["spec"] = {"containers": [{"name": change.container, "image": change.image}]}
    if change.restart:
        template["metadata"] = {"annotations": {RESTARTED_AT: change.restart}}
    return {"metadata": {"resourceVersion": version, "annotations": notes}, "spec": {"template": template}}, False


# Judging the Deployment ------------------------------------------------------------------------------


def standing(deployment: Object, *, uid: str, generation: int, template: str = "") -> Standing:
    """Judge a Deployment as ``kubectl rollout status`` does, and whether it is still our rollout.

    :param uid: of the Deployment that was changed.
    :param generation: that it had after the change.
    :param template: digest of its template after the change; "" does not look at that.
    """
    name, meta = deployment["metadata"]["name"], deployment["metadata"]
    if meta["uid"] != uid:
        return Standing(State.SUPERSEDED, f"Deployment {name} was deleted and made again while it was rolled out")
    if template and template_digest(deployment["spec"]["template"]) != template:
        images = ", ".join(c["image"] for c in deployment["spec"]["template"]["spec"]["containers"])
        said = (
            f"somebody else changed Deployment {name} while it was rolled out ({edited_by(deployment)}); now {images}"
        )
        return Standing(State.SUPERSEDED, said)
    status = deployment.get("status") or {}
    if int(status.get("observedGeneration") or 0) < max(generation, int(meta.get("generation") or 0)):
        return Standing(State.WAITING, "the change has not been seen by the Deployment's controller yet")
    if deployment["spec"].get("paused"):
        return Standing(State.FAILED, f"Deployment {name} was paused while it was rolled out ({edited_by(deployment)})")
    return _counted(deployment, status)


def _counted(deployment: Object, status: Object) -> Standing:
    wanted = int(deployment["spec"].get("replicas", 1))
    has, updated, available = (
        int(status.get(key) or 0) for key in ("replicas", "updatedReplicas", "availableReplicas")
    )
    late = condition(deployment, "Progressing")
    if late.get("reason") == _DEADLINE:
        seconds = deployment["spec"].get("progressDeadlineSeconds")
        said = f"no progress within the Deployment's own progressDeadlineSeconds ({seconds}): {late.get('message')}"
        return Standing(State.FAILED, said)
    if updated < wanted:
        return Standing(State.WAITING, f"{updated} of {wanted} new replicas have been made")
    if has > updated:
        return Standing(State.WAITING, f"{has - updated} old replicas are still to go")
    if available < updated:
        return Standing(State.WAITING, f"{available} of {updated} new replicas are available")
    return Standing(State.DONE, f"{available} of {wanted} replicas are new and available")


def condition(deployment: Object, kind: str) -> Mapping[str, Any]:
    """Return a condition of an object by its type; empty when it has none."""
    conditions = (deployment.get("status") or {}).get("conditions") or ()
    return next((c for c in conditions if c.get("type") == kind), {})


def is_stale_deadline(deployment: Object, current: Object | None) -> bool:
    """Whether the exceeded deadline is that of an earlier template.

    The controller keeps the condition of a rollout that failed until the next one, often its undoing, has made
    its first progress. The condition names its ReplicaSet.
    """
    late = condition(deployment, "Progressing")
    said = str(late.get("message") or "")
    if late.get("reason") != _DEADLINE or '"' not in said:
        return False
    return current is None or f'"{current["metadata"]["name"]}"' not in said


def stuck_without_pods(deployment: Object) -> str:
    """Say why no pod can be made (a quota, an admission), or ""."""
    failure = condition(deployment, "ReplicaFailure")
    if failure.get("status") != "True":
        return ""
    return f"its pods cannot be made ({failure.get('reason')}): {failure.get('message')}"


# Judging pods ----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Trouble:
    """What keeps a container of a pod from running."""

    pod: str
    container: str
    reason: str
    message: str
    certain: bool
    """It will not pass by itself; otherwise only when it lasts."""
    previous: bool
    """The run that ended is the one before: its log is the previous one."""
    has_log: bool

    def __str__(self) -> str:
        """Say it in one line."""
        return f"{self.pod}/{self.container}: {self.reason}" + (f": {self.message}" if self.message else "")


def troubles(pods: Iterable[Object], owner: str = "") -> list[Trouble]:
    """Return what is wrong with pods that should run.

    :param owner: uid of the ReplicaSet or Job whose pods count; "" for all.
    """
    return [
        found
        for pod in pods
        if not pod["metadata"].get("deletionTimestamp")
        and (not owner or any(o.get("uid") == owner for o in pod["metadata"].get("ownerReferences") or ()))
        for found in _of_pod(pod)
    ]


def _of_pod(pod: Object) -> Iterator[Trouble]:
    status = pod.get("status") or {}
    for data in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        one = Container.from_json(data)
        reason, message, certain = _wrong(one)
        if reason:
            waiting = one.state == "waiting"
            ran = one.started or one.restarts > 0
            yield Trouble(pod["metadata"]["name"], one.name, reason, message, certain, waiting, ran)


def _wrong(one: Container) -> tuple[str, str, bool]:
    """Return reason, message, and whether that is certain; no reason when nothing is wrong."""
    if one.ended_reason == "OOMKilled" and not one.ready:
        return "OOMKilled", f"it took more memory than its limit, exit code {one.ended_code}", True
    if one.state != "waiting":
        return "", "", False
    if one.reason == "CrashLoopBackOff":
        last = f", last with exit code {one.ended_code}" if one.ended_code is not None else ""
        times = "once" if one.restarts == 1 else f"{one.restarts} times"
        return one.reason, f"ended {times}{last} {one.ended_reason}".rstrip(), one.restarts >= CRASHES
    if one.reason in _AT_ONCE | _LASTING:
        return one.reason, one.message or one.image, one.reason in _AT_ONCE
    return "", "", False


def unscheduled(pods: Iterable[Object]) -> list[str]:
    """Say which pods no node takes, and why."""
    found = []
    for pod in pods:
        placed = condition(pod, "PodScheduled")
        if placed.get("status") == "False":
            found.append(f"{pod['metadata']['name']}: {placed.get('reason')}: {placed.get('message')}")
    return found


class Patience:
    """Tell what lasts from what passes.

    An image that cannot be pulled at one moment may be there at the next; the kubelet tries again. What is there
    without a break for ``seconds`` has been tried again and failed again.

    :param seconds: default: 15, for the kubelet tries again after 10.
    """

    def __init__(self, seconds: float = 15.0) -> None:
        self.seconds = seconds
        self._since: dict[str, float] = {}

    def lasting(self, found: Mapping[str, str], now: float) -> list[str]:
        """Return the keys that have been there for long enough; forget those that passed.

        :param found: what is there now: key → kind; another kind under a key counts anew.
        :param now: seconds, of any clock.
        """
        names = {f"{key}\0{kind}": key for key, kind in found.items()}
        self._since = {name: self._since.get(name, now) for name in names}
        return [key for name, key in names.items() if now - self._since[name] >= self.seconds]

    def certain(self, found: Sequence[Trouble], now: float) -> list[Trouble]:
        """Return the troubles that will not pass by themselves."""
        # A pull that fails is told by two reasons in turn: ErrImagePull while it fails, ImagePullBackOff after.
        uncertain = {f"{t.pod}/{t.container}": t for t in found if not t.certain}
        lasting = self.lasting(dict.fromkeys(uncertain, "uncertain"), now)
        return [t for t in found if t.certain] + [uncertain[key] for key in lasting]
