"""Look at a rollout in the cluster: one request a look, more only when something may be wrong."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from vcci_ops.domain.rollouts import (
    HASH,
    REVISION,
    Patience,
    Standing,
    State,
    Trouble,
    WorkloadChange,
    current_set,
    is_applied,
    is_stale_deadline,
    patch_of,
    require_changeable,
    standing,
    stuck_without_pods,
    troubles,
    unscheduled,
)
from vcci_ops.domain.signatures import redact
from vcci_ops.exceptions import Conflict, MeasurementError, NoData
from vcci_ops.hooks.kubernetes_writer import (
    DEPLOYMENTS,
    JSON_PATCH,
    PODS,
    REPLICASETS,
    STRATEGIC,
    KubernetesWriter,
)

LINES = 15
"""Of a log in a message."""
_LINE = 300
_PODS_EVERY = 3
_TRIES = 10


def apply_change(
    api: KubernetesWriter, namespace: str, change: WorkloadChange, run: str
) -> tuple[dict[str, Any], bool]:
    """Make a change to a Deployment, or find that it has been made; return the Deployment and whether it was now.

    :param run: ``dag_id/run_id``.
    :raises Refused: when the Deployment is not as it must be; nothing was changed.
    :raises Conflict: when it changes faster than it can be looked at.
    :raises NoData: when there is no such Deployment.
    """
    for _ in range(_TRIES):
        found = api.object(DEPLOYMENTS, namespace, change.workload)
        require_changeable(found, change)
        if is_applied(found, change):
            return found, False
        patch, is_json = patch_of(found, change, run)
        try:
            how = JSON_PATCH if is_json else STRATEGIC
            return api.patch(DEPLOYMENTS, namespace, change.workload, patch, how=how), True
        except Conflict:
            # A controller that counts pods moves the resourceVersion, too: look again whether all is as it must be.
            time.sleep(0.1)
    raise Conflict(f"Deployment {change.workload} changes all the time; this change was not made")


def log_tail(api: KubernetesWriter, namespace: str, trouble: Trouble) -> list[str]:
    """Return the last lines that a container in trouble wrote, secrets masked; or a line that says why not."""
    if not trouble.has_log:
        return ["(it never ran: there is no log)"]
    for previous in (trouble.previous, not trouble.previous):
        try:
            lines = api.tail(namespace, trouble.pod, trouble.container, lines=LINES, previous=previous)
        except NoData:
            continue
        except MeasurementError as error:
            return [f"(its log cannot be read: {error})"]
        if lines:
            return [line[:_LINE] for line in redact("\n".join(lines)).splitlines()]
    return ["(its log is empty or gone)"]


class RolloutWatcher:
    """Follow one rollout, look by look.

    Each look asks for the Deployment. Only every third one, and when the controller has given up, asks for its
    pods, too.

    :param uid: of the Deployment.
    :param generation: that it had after the change.
    :param template: digest of its template after the change; "" does not look at that.
    :param patience: seconds for which something that may pass must last to count.
    """

    def __init__(
        self,
        namespace: str,
        workload: str,
        *,
        uid: str,
        generation: int,
        template: str = "",
        patience: float = 15.0,
        kubernetes_conn_id: str = "vcci_kubernetes",
    ) -> None:
        self.namespace = namespace
        self.workload = workload
        self.uid = uid
        self.generation = generation
        self.template = template
        self.kubernetes_conn_id = kubernetes_conn_id
        self.patience, self._pods_patience = Patience(patience), Patience(patience)
        self._looks = 0
        self._last = "nothing has been seen of it"

    @cached_property
    def api(self) -> KubernetesWriter:
        """The cluster."""
        return KubernetesWriter(self.kubernetes_conn_id)

    def look(self) -> dict[str, Any] | None:
        """Return how it ended (``status``, ``message``, ``details``), or None while it goes on.

        :raises MeasurementError: when the cluster cannot be asked.
        """
        self._looks += 1
        try:
            deployment = self.api.object(DEPLOYMENTS, self.namespace, self.workload)
        except NoData:
            return self._ended(State.SUPERSEDED, f"Deployment {self.workload} was deleted while it was rolled out")
        now = standing(deployment, uid=self.uid, generation=self.generation, template=self.template)
        self._last = now.message
        if now.state in (State.DONE, State.SUPERSEDED):
            return self._ended(now.state, f"{self.workload}: {now.message}", deployment=deployment)
        if now.state is State.FAILED or self._looks % _PODS_EVERY == 0:
            return self._examine(deployment, now)
        return None

    def timed_out(self, within: float) -> dict[str, Any]:
        """Return how it ended when the time is up: where it stands, and what its pods suffer from."""
        details: list[str] = []
        try:
            deployment = self.api.object(DEPLOYMENTS, self.namespace, self.workload)
            pods = self._new_pods(deployment)[1]
            details = [*map(str, troubles(pods)), *unscheduled(pods)]
            details += [stuck] if (stuck := stuck_without_pods(deployment)) else []
        except MeasurementError as error:
            details = [str(error)]
        why = f": {'; '.join(details)}" if details else ""
        said = f"{self.workload} is not rolled out after {within:.0f} s, {self._last}{why}"
        return self._ended(State.FAILED, said, details)

    def _examine(self, deployment: dict[str, Any], now: Standing) -> dict[str, Any] | None:
        current, pods = self._new_pods(deployment)
        found = troubles(pods)
        moment = time.monotonic()
        certain = self._pods_patience.certain(found, moment)
        stuck = stuck_without_pods(deployment)
        if now.state is State.FAILED and not is_stale_deadline(deployment, current):
            return self._failed(now.message, certain or found, [*unscheduled(pods), *([stuck] if stuck else [])])
        if certain:
            return self._failed("its new pods do not come up", certain, [])
        # What the rollout has made so far is part of the key: as long as that moves, the quota lets pods through.
        counts = {key: (deployment.get("status") or {}).get(key) for key in ("updatedReplicas", "availableReplicas")}
        if stuck and self.patience.lasting({"stuck": str(counts)}, moment):
            return self._failed(stuck, [], [])
        if not stuck:
            self.patience.lasting({}, moment)
        return None

    def _new_pods(self, deployment: dict[str, Any]) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
        """Return the ReplicaSet of the present template, and its pods; what older pods suffer from is not news."""
        current = current_set(deployment, self.api.objects(REPLICASETS, self.namespace, _selector(deployment)))
        if current is None:
            return None, []
        selector = f"{HASH}={current['metadata']['labels'][HASH]}"
        uid = current["metadata"]["uid"]
        pods = self.api.objects(PODS, self.namespace, selector)
        return dict(current), [
            p for p in pods if any(o["uid"] == uid for o in p["metadata"].get("ownerReferences", ()))
        ]

    def _failed(self, why: str, found: Sequence[Trouble], more: Sequence[str]) -> dict[str, Any]:
        details = [*map(str, found), *more]
        message = f"{self.workload}: {why}" + (f": {'; '.join(details[:3])}" if details else "")
        if found:
            lines = log_tail(self.api, self.namespace, found[0])
            details += [f"last lines of {found[0].pod}/{found[0].container}:", *lines]
            message += "\nLast lines of " + f"{found[0].pod}/{found[0].container}:\n" + "\n".join(lines)
        return self._ended(State.FAILED, message, details)

    def _ended(
        self, state: State, message: str, details: Sequence[str] = (), deployment: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        event: dict[str, Any] = {"status": state.value, "message": message, "details": list(details)}
        event["workload"] = self.workload
        if deployment and state is State.DONE:
            meta = deployment["metadata"]
            event["generation"] = meta.get("generation")
            event["revision"] = (meta.get("annotations") or {}).get(REVISION, "")
            event["images"] = {c["name"]: c["image"] for c in deployment["spec"]["template"]["spec"]["containers"]}
            event["replicas"] = deployment["spec"].get("replicas", 1)
        return event


def _selector(deployment: dict[str, Any]) -> str:
    """Return the Deployment's own labels as a selector, to ask for few ReplicaSets; matchExpressions are left out."""
    return ",".join(
        f"{key}={value}" for key, value in (deployment["spec"]["selector"].get("matchLabels") or {}).items()
    )
