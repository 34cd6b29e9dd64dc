"""metrics.k8s.io: what nodes and pods use; invented, the same for a name at a time, and slowly varying."""

from __future__ import annotations

import math
import time
import zlib
from typing import Any

from sandbox.kubernetes.errors import not_found
from sandbox.kubernetes.resources import NODES, PODS, Resource
from sandbox.kubernetes.selecting import Matches
from sandbox.kubernetes.store import Object, Store, now

_UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "k": 1e3, "M": 1e6, "G": 1e9, "m": 1e-3}


def quantity(text: str | float | None) -> float:
    """Return a Kubernetes quantity (``500m``, ``2Gi``) as a number; 0 for none."""
    for unit, factor in _UNITS.items():
        if isinstance(text, str) and text.endswith(unit):
            return float(text.removesuffix(unit)) * factor
    return float(text or 0)


def _wave(name: str, low: float, high: float, *, period: float = 1800.0) -> float:
    """Return a share between low and high that moves within ``period`` seconds."""
    phase = zlib.crc32(name.encode()) % 628 / 100
    return low + (high - low) * (0.5 + 0.5 * math.sin(time.time() / period * math.tau + phase))


def _shown(cpu: float, memory: float) -> Object:
    return {"cpu": f"{max(1, round(cpu * 1000))}m", "memory": f"{max(1024, round(memory / 1024))}Ki"}


def _container(pod: Object, container: Object) -> tuple[float, float]:
    resources: dict[str, Any] = container.get("resources") or {}
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    name = f"{pod['metadata']['name']}/{container['name']}"
    cpu = quantity(requests.get("cpu") or limits.get("cpu") or "20m")
    memory = quantity(limits.get("memory") or requests.get("memory") or "64Mi")
    return cpu * _wave(name, 0.35, 0.65), memory * _wave(name + "m", 0.45, 0.62)


def cpu_percent(pod: Object) -> int:
    """Return a pod's CPU in percent of its request, as an autoscaler reckons it."""
    used = sum(_container(pod, container)[0] for container in pod["spec"]["containers"])
    asked = sum(
        quantity(((c.get("resources") or {}).get("requests") or {}).get("cpu")) for c in pod["spec"]["containers"]
    )
    return round(100 * used / asked) if asked else 0


def _pod(pod: Object) -> Object:
    meta = pod["metadata"]
    shown = [{"name": c["name"], "usage": _shown(*_container(pod, c))} for c in pod["spec"]["containers"]]
    kept = {key: meta[key] for key in ("name", "namespace", "labels") if key in meta}
    return {
        "metadata": {**kept, "creationTimestamp": now()},
        "timestamp": now(-10),
        "window": "15s",
        "containers": shown,
    }


def _node(node: Object, store: Store) -> Object:
    name = node["metadata"]["name"]
    room = node["status"]["allocatable"]
    cpu, memory = (
        quantity(room["cpu"]) * _wave(name, 0.04, 0.08),
        quantity(room["memory"]) * _wave(name + "m", 0.2, 0.3),
    )
    for pod in store.objects(PODS):
        if pod["spec"].get("nodeName") == name and running(pod):
            used = [_container(pod, container) for container in pod["spec"]["containers"]]
            cpu, memory = cpu + sum(u[0] for u in used), memory + sum(u[1] for u in used)
    usage = _shown(min(cpu, quantity(room["cpu"]) * 0.97), min(memory, quantity(room["memory"]) * 0.97))
    meta = {"name": name, "labels": node["metadata"].get("labels", {}), "creationTimestamp": now()}
    return {"metadata": meta, "timestamp": now(-10), "window": "20s", "usage": usage}


def running(pod: Object) -> bool:
    """Whether a container of the pod runs: only then there is something to measure."""
    statuses = (pod.get("status") or {}).get("containerStatuses") or ()
    return any("running" in (status.get("state") or {}) for status in statuses)


def usage(store: Store, resource: Resource, namespace: str, name: str, matches: Matches | None) -> list[Object]:
    """Return the usage of nodes or pods, of one if ``name`` is given.

    :raises ApiError: 404 for a name that has no usage.
    """
    if resource.plural == "nodes":
        chosen = [node for node in store.objects(NODES) if "allocatable" in node.get("status", {})]
    else:
        chosen = [pod for pod in store.objects(PODS, namespace) if running(pod)]
    chosen = [o for o in chosen if (not name or o["metadata"]["name"] == name) and (not matches or matches(o))]
    if name and not chosen:
        raise not_found(resource, name)
    return [_node(obj, store) if resource.plural == "nodes" else _pod(obj) for obj in chosen]
