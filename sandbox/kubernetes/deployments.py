"""Deployments and their ReplicaSets, rolled out as the controller manager does it.

https://kubernetes.io/docs/concepts/workloads/controllers/deployment/
"""

from __future__ import annotations

import hashlib
import math
import time
from typing import Any

from sandbox.kubernetes.controllers import (
    Controllers,
    condition,
    delete_pod,
    is_active,
    is_ready,
    owner_reference,
    pod_of,
)
from sandbox.kubernetes.resources import DEPLOYMENTS, PODS, REPLICASETS
from sandbox.kubernetes.store import Object, clone, now, seconds

REVISION = "deployment.kubernetes.io/revision"
HISTORY = "deployment.kubernetes.io/revision-history"
HASH = "pod-template-hash"
_DESIRED, _MAXIMUM = "deployment.kubernetes.io/desired-replicas", "deployment.kubernetes.io/max-replicas"
_NOT_COPIED = {REVISION, HISTORY, _DESIRED, _MAXIMUM, "kubectl.kubernetes.io/last-applied-configuration"}
_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"


def template_hash(template: Object) -> str:
    """Return the pod-template-hash: the same for the same template."""
    digest = hashlib.sha256(repr(_sorted(template)).encode()).digest()
    return "".join(_ALPHABET[byte % len(_ALPHABET)] for byte in digest[:10])


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return sorted((key, _sorted(item)) for key, item in value.items())
    return [_sorted(item) for item in value] if isinstance(value, list) else value


def _bare(template: Object) -> Object:
    """Return a ReplicaSet's template without the label that the Deployment's lacks."""
    meta = template["metadata"]
    labels = {key: value for key, value in (meta.get("labels") or {}).items() if key != HASH}
    return {**template, "metadata": {**meta, "labels": labels}}


def revision(obj: Object) -> int:
    """Return the revision of a Deployment or ReplicaSet, 0 for none."""
    return int((obj["metadata"].get("annotations") or {}).get(REVISION, 0))


def bounds(deployment: Object) -> tuple[int, int]:
    """Return maxSurge and maxUnavailable in pods: percentages of surge round up, of unavailability down."""
    strategy, replicas = deployment["spec"]["strategy"], deployment["spec"]["replicas"]
    if strategy["type"] != "RollingUpdate":
        return 0, 0
    rolling = strategy["rollingUpdate"]
    surge = _pods(rolling["maxSurge"], replicas, math.ceil)
    unavailable = min(_pods(rolling["maxUnavailable"], replicas, math.floor), replicas)
    return surge, unavailable if surge or unavailable else 1


def _pods(value: int | str, replicas: int, rounded: Any) -> int:
    if isinstance(value, str) and value.endswith("%"):
        return int(rounded(int(value[:-1]) * replicas / 100))
    return int(value)


class ReplicaSets:
    """Keeps as many pods as a ReplicaSet asks for, and counts them in its status."""

    def __init__(self, controllers: Controllers) -> None:
        self._controllers, self._store = controllers, controllers.store
        controllers.register(REPLICASETS, self.reconcile)

    def reconcile(self, replicaset: Object) -> None:
        """Create or delete pods, then write the status."""
        if "deletionTimestamp" in replicaset["metadata"]:
            return
        pods = [pod for pod in self._store.owned(replicaset, PODS) if is_active(pod)]
        missing = replicaset["spec"]["replicas"] - len(pods)
        for _ in range(missing):
            prefix = replicaset["metadata"]["name"]
            pod = self._controllers.create(PODS, pod_of(REPLICASETS, replicaset, prefix))
            pods.append(pod)
            text = f"Created pod: {pod['metadata']['name']}"
            self._controllers.tell(REPLICASETS, replicaset, "SuccessfulCreate", text, source="replicaset-controller")
        for pod in sorted(pods, key=_dispensable)[: max(0, -missing)]:
            pods.remove(pod)
            delete_pod(self._controllers, pod)
            text = f"Deleted pod: {pod['metadata']['name']}"
            self._controllers.tell(REPLICASETS, replicaset, "SuccessfulDelete", text, source="replicaset-controller")
        self._count(replicaset, pods)

    def _count(self, replicaset: Object, pods: list[Object]) -> None:
        ready = [pod for pod in pods if is_ready(pod)]
        settle = replicaset["spec"].get("minReadySeconds", 0)
        ages = [time.time() - seconds(condition(pod, "Ready")["lastTransitionTime"]) for pod in ready]
        available = sum(age >= settle for age in ages)
        status: Object = {"replicas": len(pods), "observedGeneration": replicaset["metadata"].get("generation", 1)}
        counts = {"fullyLabeledReplicas": len(pods), "readyReplicas": len(ready), "availableReplicas": available}
        status.update({key: count for key, count in counts.items() if count})
        self._store.set_status(REPLICASETS, replicaset, status)
        if available < len(ready):
            self._controllers.look_at(REPLICASETS, replicaset, after=max(0.2, settle - max(ages)))


def _dispensable(pod: Object) -> tuple[int, int, float]:
    """Order pods by what is deleted first: without a node, not ready, youngest."""
    scheduled = bool(pod["spec"].get("nodeName"))
    return int(scheduled), int(is_ready(pod)), -seconds(pod["metadata"]["creationTimestamp"])


class Deployments:
    """Rolls a Deployment's template out over its ReplicaSets."""

    def __init__(self, controllers: Controllers) -> None:
        self._controllers, self._store = controllers, controllers.store
        controllers.register(DEPLOYMENTS, self.reconcile)

    def reconcile(self, deployment: Object) -> None:
        """Take the next step of the rollout, if there is one, then write the status."""
        if "deletionTimestamp" in deployment["metadata"]:
            return
        sets = self._store.owned(deployment, REPLICASETS)
        paused = deployment["spec"].get("paused", False)
        new = self._current(deployment, sets)
        before = condition(deployment, "Progressing")
        made = False
        if not paused:
            made = new is None
            new = self._numbered(deployment, sets, new or self._new_set(deployment, sets))
            deployment = self._store.get(DEPLOYMENTS, *_where(deployment))
        old = [s for s in sets if new is None or s["metadata"]["uid"] != new["metadata"]["uid"]]
        if paused:
            self._scale_only(deployment, new, old)
        elif deployment["spec"]["strategy"]["type"] == "Recreate":
            self._recreate(deployment, new, old)
        elif new is not None:
            self._roll(deployment, new, old)
        self._write_status(deployment, before, made)

    # ReplicaSets --------------------------------------------------------------------------------

    def _current(self, deployment: Object, sets: list[Object]) -> Object | None:
        wanted = deployment["spec"]["template"]
        same = [s for s in sets if _bare(s["spec"]["template"]) == wanted]
        return min(same, key=lambda s: s["metadata"]["creationTimestamp"], default=None)

    def _new_set(self, deployment: Object, sets: list[Object]) -> Object:
        template = clone(deployment["spec"]["template"])
        code = template_hash(template)
        template["metadata"]["labels"] = {**template["metadata"].get("labels", {}), HASH: code}
        selector = clone(deployment["spec"]["selector"])
        selector["matchLabels"] = {**selector.get("matchLabels", {}), HASH: code}
        meta = deployment["metadata"]
        spec: Object = {"replicas": 0, "selector": selector, "template": template}
        if deployment["spec"].get("minReadySeconds"):
            spec["minReadySeconds"] = deployment["spec"]["minReadySeconds"]
        made = {
            "name": f"{meta['name']}-{code}",
            "namespace": meta["namespace"],
            "labels": dict(template["metadata"]["labels"]),
            "generation": 1,
            "ownerReferences": [owner_reference(DEPLOYMENTS, deployment)],
        }
        created = self._controllers.create(REPLICASETS, {"metadata": made, "spec": spec, "status": {"replicas": 0}})
        sets.append(created)
        return created

    def _numbered(self, deployment: Object, sets: list[Object], new: Object) -> Object:
        """Give the current ReplicaSet the highest revision, and the Deployment the same."""
        highest = max((revision(s) for s in sets if s["metadata"]["uid"] != new["metadata"]["uid"]), default=0)
        number = str(max(revision(new), highest + 1))
        notes = {k: v for k, v in (deployment["metadata"].get("annotations") or {}).items() if k not in _NOT_COPIED}
        had = new["metadata"].get("annotations") or {}
        surge, _ = bounds(deployment)
        replicas = deployment["spec"]["replicas"]
        notes.update({REVISION: number, _DESIRED: str(replicas), _MAXIMUM: str(replicas + surge)})
        if REVISION in had and had[REVISION] != number:
            notes[HISTORY] = ",".join(filter(None, [had.get(HISTORY, ""), had[REVISION]]))
        elif HISTORY in had:
            notes[HISTORY] = had[HISTORY]
        if notes != had:
            new = self._store.put(REPLICASETS, {**new, "metadata": {**new["metadata"], "annotations": notes}})
        if str(revision(deployment)) != number:
            marked = {**(deployment["metadata"].get("annotations") or {}), REVISION: number}
            meta = {**deployment["metadata"], "annotations": marked}
            self._store.put(DEPLOYMENTS, {**deployment, "metadata": meta})
        return new

    def _scale(self, deployment: Object, replicaset: Object, replicas: int) -> Object:
        now_has = replicaset["spec"]["replicas"]
        if replicas == now_has:
            return replicaset
        meta = {**replicaset["metadata"], "generation": replicaset["metadata"].get("generation", 1) + 1}
        spec = {**replicaset["spec"], "replicas": replicas}
        word = "up" if replicas > now_has else "down"
        text = f"Scaled {word} replica set {meta['name']} from {now_has} to {replicas}"
        self._controllers.tell(DEPLOYMENTS, deployment, "ScalingReplicaSet", text, source="deployment-controller")
        return self._store.put(REPLICASETS, {**replicaset, "metadata": meta, "spec": spec})

    # Strategies ---------------------------------------------------------------------------------

    def _scale_only(self, deployment: Object, new: Object | None, old: list[Object]) -> None:
        active = [s for s in [*old, *([new] if new else [])] if s["spec"]["replicas"]]
        if len(active) == 1:
            self._scale(deployment, active[0], deployment["spec"]["replicas"])
        elif not active and new:
            self._scale(deployment, new, deployment["spec"]["replicas"])

    def _recreate(self, deployment: Object, new: Object | None, old: list[Object]) -> None:
        for replicaset in old:
            self._scale(deployment, replicaset, 0)
        if new and not any(self._store.owned(replicaset, PODS) for replicaset in old):
            self._scale(deployment, new, deployment["spec"]["replicas"])

    def _roll(self, deployment: Object, new: Object, old: list[Object]) -> None:
        wanted = deployment["spec"]["replicas"]
        surge, unavailable = bounds(deployment)
        total = sum(s["spec"]["replicas"] for s in [*old, new])
        has = new["spec"]["replicas"]
        if has > wanted:
            self._scale(deployment, new, wanted)
            return
        room = wanted + surge - total
        if has < wanted and room > 0:
            self._scale(deployment, new, has + min(room, wanted - has))
            return
        running = sum(s["spec"]["replicas"] for s in old)
        if running:
            not_ready = has - _available(new)
            spare = total - (wanted - unavailable) - not_ready
            self._shrink(deployment, new, old, wanted - unavailable, max(0, spare))
        else:
            self._clean_up(deployment, old)

    def _shrink(self, deployment: Object, new: Object, old: list[Object], least: int, spare: int) -> None:
        """Take old pods away: first those that do no work, then as many as availability allows."""
        after = []
        for replicaset in sorted(old, key=lambda s: s["metadata"]["creationTimestamp"]):
            idle = min(replicaset["spec"]["replicas"] - _available(replicaset), spare)
            spare -= max(0, idle)
            after.append(self._scale(deployment, replicaset, replicaset["spec"]["replicas"] - max(0, idle)))
        excess = _available(new) + sum(min(_available(s), s["spec"]["replicas"]) for s in after) - least
        for replicaset in after:
            fewer = min(replicaset["spec"]["replicas"], max(0, excess))
            excess -= fewer
            self._scale(deployment, replicaset, replicaset["spec"]["replicas"] - fewer)

    def _clean_up(self, deployment: Object, old: list[Object]) -> None:
        empty = [s for s in old if not s["spec"]["replicas"] and not s["status"].get("replicas")]
        extra = len(empty) - deployment["spec"].get("revisionHistoryLimit", 10)
        for replicaset in sorted(empty, key=revision)[: max(0, extra)]:
            self._store.remove(REPLICASETS, replicaset)

    # Status -------------------------------------------------------------------------------------

    def _write_status(self, deployment: Object, before: Object, made: bool) -> None:
        deployment = self._store.get(DEPLOYMENTS, *_where(deployment))
        sets = self._store.owned(deployment, REPLICASETS)
        new = self._current(deployment, sets)
        status = _counts(deployment, sets, new)
        conditions = [self._available_condition(deployment, sets, status)]
        progressing = self._progressing(deployment, new, status, before, made)
        status["conditions"] = [*conditions, progressing] if progressing else conditions
        self._store.set_status(DEPLOYMENTS, deployment, status)

    def _available_condition(self, deployment: Object, sets: list[Object], status: Object) -> Object:
        _, unavailable = bounds(deployment)
        enough = status.get("availableReplicas", 0) >= deployment["spec"]["replicas"] - unavailable
        old = condition(deployment, "Available")
        value, has = ("True", "has") if enough else ("False", "does not have")
        moment = now()
        if not enough:
            # A stage may say that pods have been ill for long: the Deployment then has been, too.
            pods = [pod for s in sets for pod in self._store.owned(s, PODS) if not is_ready(pod)]
            since = [condition(p, "Ready")["lastTransitionTime"] for p in pods if condition(p, "Ready")]
            moment = min([moment, *since])
        return {
            "type": "Available",
            "status": value,
            "lastUpdateTime": old["lastUpdateTime"] if old.get("status") == value else moment,
            "lastTransitionTime": old["lastTransitionTime"] if old.get("status") == value else moment,
            "reason": "MinimumReplicasAvailable" if enough else "MinimumReplicasUnavailable",
            "message": f"Deployment {has} minimum availability.",
        }

    def _progressing(
        self, deployment: Object, new: Object | None, status: Object, before: Object, made: bool
    ) -> Object | None:
        """Return the Progressing condition: what happened last, or that nothing has for too long."""
        spec, was = deployment["spec"], deployment.get("status") or {}
        name = new["metadata"]["name"] if new else ""
        complete = all(
            status.get(k, 0) == spec["replicas"] for k in ("replicas", "updatedReplicas", "availableReplicas")
        )
        done = before.get("reason") == "NewReplicaSetAvailable" and name in before["message"]
        if spec.get("paused"):
            return _condition(before, "Unknown", "DeploymentPaused", "Deployment is paused")
        if made:
            return _condition(before, "True", "NewReplicaSetCreated", f'Created new replica set "{name}"', fresh=True)
        if complete and not done:
            text = f'ReplicaSet "{name}" has successfully progressed.'
            return _condition(before, "True", "NewReplicaSetAvailable", text)
        if not done and (
            self._progressed(status, was) or before.get("reason", "DeploymentPaused") == "DeploymentPaused"
        ):
            text = f'ReplicaSet "{name}" is progressing.'
            return _condition(before, "True", "ReplicaSetUpdated", text, fresh=True)
        return before if done else self._late(deployment, before, name)

    def _late(self, deployment: Object, before: Object, name: str) -> Object:
        limit = deployment["spec"].get("progressDeadlineSeconds", 600)
        left = limit - (time.time() - seconds(before["lastUpdateTime"]))
        if before["reason"] != "ProgressDeadlineExceeded" and left < 0:
            text = f'ReplicaSet "{name}" has timed out progressing.'
            return _condition(before, "False", "ProgressDeadlineExceeded", text)
        if left >= 0:
            self._controllers.look_at(DEPLOYMENTS, deployment, after=left + 0.5)
        return before

    def _progressed(self, status: Object, was: Object) -> bool:
        """Whether more pods are new, ready or available than before, or fewer are old."""

        def stale(counts: Object) -> int:
            return int(counts.get("replicas", 0)) - int(counts.get("updatedReplicas", 0))

        grown = ("updatedReplicas", "readyReplicas", "availableReplicas")
        return stale(status) < stale(was) or any(status.get(key, 0) > was.get(key, 0) for key in grown)


def _where(obj: Object) -> tuple[str, str]:
    return obj["metadata"]["namespace"], obj["metadata"]["name"]


def _available(replicaset: Object) -> int:
    return int((replicaset.get("status") or {}).get("availableReplicas", 0))


def _counts(deployment: Object, sets: list[Object], new: Object | None) -> Object:
    def total(key: str) -> int:
        return sum(int((s.get("status") or {}).get(key, 0)) for s in sets)

    available = total("availableReplicas")
    counts = {
        "replicas": total("replicas"),
        "updatedReplicas": int((new.get("status") or {}).get("replicas", 0)) if new else 0,
        "readyReplicas": total("readyReplicas"),
        "availableReplicas": available,
        "unavailableReplicas": max(0, sum(s["spec"]["replicas"] for s in sets) - available),
    }
    status: Object = {"observedGeneration": deployment["metadata"].get("generation", 1)}
    status.update({key: count for key, count in counts.items() if count})
    return status


def _condition(before: Object, status: str, reason: str, message: str, *, fresh: bool = False) -> Object:
    same = before.get("status") == status
    unchanged = same and before.get("reason") == reason and before.get("message") == message and not fresh
    return {
        "type": "Progressing",
        "status": status,
        "lastUpdateTime": before["lastUpdateTime"] if unchanged else now(),
        "lastTransitionTime": before["lastTransitionTime"] if same else now(),
        "reason": reason,
        "message": message,
    }
