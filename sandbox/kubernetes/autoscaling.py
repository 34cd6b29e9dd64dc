"""Autoscalers: keep replicas within their bounds, and follow the (invented) CPU usage down, never up.

Real ones follow both ways; the stage's load never asks for more, so a Deployment scaled up by hand is
brought back after the stabilisation window, which is what surprises people who use ``kubectl scale``.
"""

from __future__ import annotations

import math
import time
from typing import Any

from sandbox.kubernetes.controllers import Controllers, condition
from sandbox.kubernetes.metrics import cpu_percent, running
from sandbox.kubernetes.resources import DEPLOYMENTS, HPAS, PODS, REPLICASETS
from sandbox.kubernetes.store import Object, now

_EVERY = 5.0
_STABILISATION = 300.0


class Autoscalers:
    """Moves Deployments' replicas between the bounds of their autoscalers."""

    def __init__(self, controllers: Controllers) -> None:
        self._controllers, self._store = controllers, controllers.store
        self._above: dict[str, float] = {}
        self._due: dict[str, float] = {}
        controllers.register(HPAS, self.reconcile)

    def reconcile(self, autoscaler: Object) -> None:
        """Compare the Deployment's replicas with bounds and usage; look again after 5 s (the real one: 15 s)."""
        meta, spec = autoscaler["metadata"], autoscaler["spec"]
        self._schedule(autoscaler)
        target = self._store.find(DEPLOYMENTS, meta["namespace"], spec["scaleTargetRef"]["name"])
        if target is None or spec["scaleTargetRef"]["kind"] != "Deployment":
            return
        replicas = target["spec"]["replicas"]
        percent = self._usage(target)
        wanted = self._desired(autoscaler, replicas, percent) if replicas else 0
        if wanted != replicas:
            scaled = {**target["spec"], "replicas": wanted}
            generation = target["metadata"]["generation"] + 1
            changed = {**target["metadata"], "generation": generation}
            self._store.put(DEPLOYMENTS, {**target, "metadata": changed, "spec": scaled})
            text = f"New size: {wanted}; reason: within bounds and usage"
            self._controllers.tell(HPAS, autoscaler, "SuccessfulRescale", text, source="horizontal-pod-autoscaler")
        self._store.set_status(HPAS, autoscaler, _status(autoscaler, replicas, wanted, percent))

    def _schedule(self, autoscaler: Object) -> None:
        """Look again later; many calls make one."""
        uid, moment = autoscaler["metadata"]["uid"], time.monotonic()
        if self._due.get(uid, 0) <= moment:
            self._due[uid] = moment + _EVERY
            self._controllers.look_at(HPAS, autoscaler, after=_EVERY)

    def _usage(self, target: Object) -> int | None:
        """Return the pods' mean CPU in percent of their requests; None when they request none."""
        sets = self._store.owned(target, REPLICASETS)
        pods = [pod for s in sets for pod in self._store.owned(s, PODS) if running(pod)]
        return round(sum(map(cpu_percent, pods)) / len(pods)) or None if pods else None

    def _desired(self, autoscaler: Object, replicas: int, percent: int | None) -> int:
        spec, uid = autoscaler["spec"], autoscaler["metadata"]["uid"]
        least, most = spec.get("minReplicas", 1), spec["maxReplicas"]
        goals = [m["resource"]["target"].get("averageUtilization") or 80 for m in spec["metrics"] if "resource" in m]
        needed = replicas if percent is None else math.ceil(replicas * percent / max(goals, default=80))
        if replicas <= least or needed >= replicas:
            self._above.pop(uid, None)
            return int(min(max(replicas, least), most))
        since = self._above.setdefault(uid, time.monotonic())
        if time.monotonic() - since < _STABILISATION:
            return int(min(replicas, most))
        return int(min(max(needed, least), most))


def _status(autoscaler: Object, replicas: int, wanted: int, percent: int | None) -> Object:
    told = {
        "AbleToScale": ("ReadyForNewScale", "recommended size matches current size"),
        "ScalingActive": ("ValidMetricFound", "the HPA was able to successfully calculate a replica count from cpu"),
        "ScalingLimited": ("DesiredWithinRange", "the desired count is within the acceptable range"),
    }
    conditions: list[dict[str, Any]] = []
    for kind, (reason, message) in told.items():
        value = "False" if kind == "ScalingLimited" else "True"
        since = condition(autoscaler, kind).get("lastTransitionTime") or now()
        conditions.append(
            {"type": kind, "status": value, "lastTransitionTime": since, "reason": reason, "message": message}
        )
    status: Object = {"currentReplicas": replicas, "desiredReplicas": wanted, "conditions": conditions}
    if percent is not None:
        current = {"averageUtilization": percent, "averageValue": f"{percent * 5}m"}
        status["currentMetrics"] = [{"type": "Resource", "resource": {"name": "cpu", "current": current}}]
    if wanted != replicas:
        status["lastScaleTime"] = now()
    elif "lastScaleTime" in (autoscaler.get("status") or {}):
        status["lastScaleTime"] = autoscaler["status"]["lastScaleTime"]
    return status
