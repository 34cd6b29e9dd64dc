"""Objects in other clothes: autoscaling/v1 of an autoscaler, the Scale of what can be scaled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sandbox.kubernetes.resources import BY_PATH, RESOURCES, Resource
from sandbox.kubernetes.store import Object


def stored(resource: Resource) -> Resource:
    """Return the version under which a kind's objects are kept."""
    if not resource.stored_as:
        return resource
    return BY_PATH[resource.group, resource.stored_as, resource.plural]


def outward(resource: Resource, obj: Object) -> Object:
    """Return a stored object as the asked version shows it, with apiVersion and kind."""
    shown = _autoscaler_v1(obj) if resource.stored_as else obj
    return {"kind": resource.kind, "apiVersion": resource.api_version, **shown}


def inward(resource: Resource, obj: Object) -> Object:
    """Return a received object as it is kept, without apiVersion and kind."""
    kept = {key: value for key, value in obj.items() if key not in ("kind", "apiVersion")}
    return _autoscaler_v2(kept) if resource.stored_as else kept


def _cpu(metrics: list[Object]) -> Object | None:
    return next((m["resource"] for m in metrics or () if (m.get("resource") or {}).get("name") == "cpu"), None)


def _autoscaler_v1(obj: Object) -> Object:
    spec, status = dict(obj["spec"]), dict(obj.get("status") or {})
    target, current = _cpu(spec.pop("metrics", [])), _cpu(status.pop("currentMetrics", None) or [])
    status.pop("conditions", None)
    if target:
        spec["targetCPUUtilizationPercentage"] = target["target"].get("averageUtilization")
    if current:
        status["currentCPUUtilizationPercentage"] = current["current"].get("averageUtilization")
    return {**obj, "spec": spec, "status": status}


def _autoscaler_v2(obj: Object) -> Object:
    spec, status = dict(obj.get("spec") or {}), dict(obj.get("status") or {})
    percent = spec.pop("targetCPUUtilizationPercentage", None)
    status.pop("currentCPUUtilizationPercentage", None)
    if percent is not None:
        target = {"type": "Utilization", "averageUtilization": percent}
        spec["metrics"] = [{"type": "Resource", "resource": {"name": "cpu", "target": target}}]
    return {**obj, "spec": spec, "status": status}


def scale_of(obj: Object) -> Object:
    """Return the autoscaling/v1 Scale of a Deployment or ReplicaSet."""
    meta = obj["metadata"]
    kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    labels = (obj["spec"].get("selector") or {}).get("matchLabels") or {}
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {key: meta[key] for key in kept if key in meta},
        "spec": {"replicas": obj["spec"].get("replicas", 0)},
        "status": {
            "replicas": (obj.get("status") or {}).get("replicas", 0),
            "selector": ",".join(f"{key}={value}" for key, value in labels.items()),
        },
    }


def partial(resource: Resource, obj: Object) -> Object:
    """Return just the metadata of an object."""
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"]}


def kinds() -> list[Resource]:
    """Return every namespaced kind once."""
    return [r for r in RESOURCES if r.namespaced and not r.stored_as and r.group != "metrics.k8s.io"]


def flag(query: Mapping[str, str], name: str) -> bool:
    """Return a parameter that is true or false, as the API server reads it: given means true."""
    return name in query and query[name].lower() not in ("false", "0")


def as_dict(value: Any) -> Object:
    """Return the value if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}
