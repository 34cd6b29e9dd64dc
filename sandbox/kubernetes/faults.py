"""How the played platform goes wrong, and right again.

Each fault looks as if it had begun some minutes ago, so that a check that asks "for how long" sees it at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from sandbox.kubernetes.controllers import Controllers, condition
from sandbox.kubernetes.kubelet import conditions, container_statuses, crash_states
from sandbox.kubernetes.resources import CLUSTER_ROLE_BINDINGS, DEPLOYMENTS, PODS, REPLICASETS, Resource
from sandbox.kubernetes.seed import NAMESPACE, RBAC, cluster_admin
from sandbox.kubernetes.store import Object, now
from sandbox.state import ActiveFaults

SINCE = 600.0
"""Pods have been ill for this long, in seconds, when a fault is switched on."""
STRAY = "debug-access"
MISSING_IMAGE = "vcci/backend-api:v2.0.1-bad"
_CHANGE_CAUSE = "kubernetes.io/change-cause"
_RESTARTS = 7
_CRASH_EVERY = 60.0
_ROLLOUT_SINCE = 900.0
_POLL = 0.5


class Faults:
    """Makes the objects be as the active faults say.

    :param active: the sandbox's active faults.
    """

    def __init__(self, controllers: Controllers, active: ActiveFaults) -> None:
        self._controllers, self._store, self._active = controllers, controllers.store, active
        self._healthy: dict[str, dict[str, Object]] = {}
        self._known: dict[str, tuple[Callable[[], None], Callable[[], None]]] = {
            "pods-crashloop": (self._crash, lambda: self._cure("pods-crashloop")),
            "pods-not-ready": (self._unready, lambda: self._cure("pods-not-ready")),
            "pods-image-missing": (self._lose_image, self._find_image),
            "stray-cluster-admin": (self._let_in, self._let_out),
        }
        self._done: set[str] = set()
        self._image = self._began = self._cause = ""

    def settle(self) -> None:
        """Begin the faults that have become active, end those that no longer are."""
        for name, (begin, end) in self._known.items():
            wanted = self._active.get(name) is not None
            if wanted and name not in self._done:
                self._done.add(name)
                begin()
            elif not wanted and name in self._done:
                self._done.discard(name)
                end()

    async def watch(self) -> None:
        """Settle every now and then, for ever; also count up the restarts of crashing pods."""
        loop = asyncio.get_running_loop()
        crashed = loop.time()
        while True:
            self.settle()
            if loop.time() - crashed >= _CRASH_EVERY:
                crashed = loop.time()
                for uid in list(self._healthy.get("pods-crashloop", {})):
                    self._crash_again(uid)
            await asyncio.sleep(_POLL)

    def _pods(self, app: str) -> list[Object]:
        found = self._store.objects(PODS, NAMESPACE)
        return [p for p in found if p["metadata"].get("labels", {}).get("app") == app and _running(p)]

    def _find(self, uid: str) -> Object | None:
        return next((p for p in self._store.objects(PODS, NAMESPACE) if p["metadata"]["uid"] == uid), None)

    # Pods ---------------------------------------------------------------------------------------

    def _crash(self) -> None:
        remembered = self._healthy.setdefault("pods-crashloop", {})
        for pod in self._pods("backend-api")[:2]:
            remembered[pod["metadata"]["uid"]] = pod
            state, last = crash_states(pod)
            statuses = container_statuses(pod, state, ready=False, restarts=_RESTARTS, last=last)
            self._ill(pod, statuses)
            text = f"Back-off restarting failed container {statuses[0]['name']} in pod {pod['metadata']['name']}"
            self._controllers.tell(PODS, pod, "BackOff", text, source="kubelet", warning=True)

    def _crash_again(self, uid: str) -> None:
        pod = self._find(uid)
        if pod is None:
            return
        state, last = crash_states(pod)
        restarts = pod["status"]["containerStatuses"][0]["restartCount"] + 1
        statuses = container_statuses(pod, state, ready=False, restarts=restarts, last=last)
        self._store.set_status(PODS, pod, {**pod["status"], "containerStatuses": statuses})

    def _unready(self) -> None:
        remembered = self._healthy.setdefault("pods-not-ready", {})
        for pod in self._pods("worker"):
            remembered[pod["metadata"]["uid"]] = pod
            state = pod["status"]["containerStatuses"][0]["state"]
            self._ill(pod, container_statuses(pod, state, ready=False))
            text = "Readiness probe failed: celery inspect ping: no nodes replied within time constraint"
            self._controllers.tell(PODS, pod, "Unhealthy", text, source="kubelet", warning=True)

    def _ill(self, pod: Object, statuses: list[Object]) -> None:
        shown = conditions(pod, False)
        for entry in shown:
            if entry["status"] == "False":
                entry["lastTransitionTime"] = now(-SINCE)
        self._store.set_status(PODS, pod, {**pod["status"], "conditions": shown, "containerStatuses": statuses})

    def _cure(self, fault: str) -> None:
        for uid, healthy in self._healthy.pop(fault, {}).items():
            pod = self._find(uid)
            if pod is not None:
                status = {**healthy["status"], "conditions": conditions(pod, True)}
                self._store.set_status(PODS, pod, status)

    # Rights -------------------------------------------------------------------------------------

    def _let_in(self) -> None:
        if self._store.find(CLUSTER_ROLE_BINDINGS, "", STRAY) is None:
            contractor = {"kind": "User", "name": "contractor", "apiGroup": RBAC}
            self._controllers.create(CLUSTER_ROLE_BINDINGS, cluster_admin(STRAY, contractor))

    def _let_out(self) -> None:
        stray = self._store.find(CLUSTER_ROLE_BINDINGS, "", STRAY)
        if stray is not None:
            self._store.remove(CLUSTER_ROLE_BINDINGS, stray)

    # Rollout ------------------------------------------------------------------------------------

    def _lose_image(self) -> None:
        deployment = self._store.find(DEPLOYMENTS, NAMESPACE, "backend-api")
        if deployment is None:
            return
        self._image = deployment["spec"]["template"]["spec"]["containers"][0]["image"]
        self._began = now(-_ROLLOUT_SINCE)
        self._cause = (deployment["metadata"].get("annotations") or {}).get(_CHANGE_CAUSE, "")
        self._set_image(deployment, MISSING_IMAGE, "release v2.0.1: fix of the month picker")
        loop = asyncio.get_running_loop()
        # The controllers make the ReplicaSet and its pod, the kubelet fails to pull; then it is aged.
        for after in (0.15, 0.4, 0.8):
            loop.call_later(after, self._age_rollout)

    def _find_image(self) -> None:
        deployment = self._store.find(DEPLOYMENTS, NAMESPACE, "backend-api")
        if deployment is not None and _image(deployment) == MISSING_IMAGE and self._image:
            self._set_image(deployment, self._image, self._cause)

    def _set_image(self, deployment: Object, image: str, cause: str) -> None:
        def edit(obj: Object) -> None:
            obj["spec"]["template"]["spec"]["containers"][0]["image"] = image
            obj["metadata"]["generation"] += 1
            obj["metadata"].setdefault("annotations", {})[_CHANGE_CAUSE] = cause

        self._store.change(DEPLOYMENTS, deployment, edit)

    def _age_rollout(self) -> None:
        """Set back the times of the rollout, and let its deadline have passed."""
        deployment = self._store.find(DEPLOYMENTS, NAMESPACE, "backend-api")
        if deployment is None or _image(deployment) != MISSING_IMAGE:
            return
        sets = [s for s in self._store.owned(deployment, REPLICASETS) if _image(s) == MISSING_IMAGE]
        for replicaset in sets:
            self._set_back(REPLICASETS, replicaset)
            for pod in self._store.owned(replicaset, PODS):
                self._set_back(PODS, pod)
        name = sets[0]["metadata"]["name"] if sets else ""

        def edit(obj: Object) -> None:
            found = condition(obj, "Progressing")
            found.update(
                status="False",
                reason="ProgressDeadlineExceeded",
                message=f'ReplicaSet "{name}" has timed out progressing.',
                lastUpdateTime=now(600 - _ROLLOUT_SINCE),
                lastTransitionTime=now(600 - _ROLLOUT_SINCE),
            )

        if condition(deployment, "Progressing"):
            self._store.change(DEPLOYMENTS, deployment, edit)

    def _set_back(self, kind: Resource, obj: Object) -> None:
        def edit(changed: Object) -> None:
            changed["metadata"]["creationTimestamp"] = self._began
            for entry in changed["status"].get("conditions") or ():
                entry["lastTransitionTime"] = self._began
            if "startTime" in changed["status"]:
                changed["status"]["startTime"] = self._began

        self._store.change(kind, obj, edit)


def _image(obj: Object) -> str:
    return str(obj["spec"]["template"]["spec"]["containers"][0]["image"])


def _running(pod: Object) -> bool:
    return pod["status"].get("phase") == "Running" and "deletionTimestamp" not in pod["metadata"]
