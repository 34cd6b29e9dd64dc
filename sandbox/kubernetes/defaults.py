"""What the API server fills in, and what it refuses, before it keeps an object.

Only the rules that the DAGs and a person come across; a field that is not named here is kept as given.
"""

from __future__ import annotations

import base64
import re
import secrets
import uuid
from collections.abc import Callable
from typing import Any

from sandbox.kubernetes.errors import ApiError, bad_request, invalid
from sandbox.kubernetes.resources import Resource
from sandbox.kubernetes.selecting import chosen_by
from sandbox.kubernetes.store import Object

_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_SUBDOMAIN = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start"
    " and end with an alphanumeric character"
)
_GENERATED = 5


def suffix(length: int = _GENERATED) -> str:
    """Return random characters as generateName appends them."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def new_uid() -> str:
    """Return a uid for an object that has to know its own before it is kept."""
    return str(uuid.uuid4())


def name_object(resource: Resource, obj: Object, namespace: str) -> None:
    """Settle an object's name and namespace.

    :raises ApiError: 400 when the namespace is another than the path's, 422 when the name is missing or ill-formed.
    """
    meta = obj.setdefault("metadata", {})
    if resource.namespaced:
        if meta.setdefault("namespace", namespace) != namespace:
            raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
    else:
        meta.pop("namespace", None)
    if not meta.get("name"):
        if not meta.get("generateName"):
            raise invalid(
                resource,
                "",
                [("metadata.name", "FieldValueRequired", "Required value: name or generateName is required")],
            )
        meta["name"] = meta["generateName"] + suffix()
    loose = resource.group == "rbac.authorization.k8s.io"
    if not loose and (len(meta["name"]) > 253 or not _NAME.fullmatch(meta["name"])):
        text = f'Invalid value: "{meta["name"]}": {_SUBDOMAIN}'
        raise invalid(resource, meta["name"], [("metadata.name", "FieldValueInvalid", text)])


# Filling in ----------------------------------------------------------------------------------------


def _fill(target: Object, **values: Any) -> None:
    for key, value in values.items():
        target.setdefault(key, value)


def _container(container: Object) -> None:
    image = container.get("image", "")
    tag = image.rpartition("/")[2].partition(":")[2]
    _fill(
        container,
        resources={},
        terminationMessagePath="/dev/termination-log",
        terminationMessagePolicy="File",
        imagePullPolicy="Always" if tag in ("", "latest") else "IfNotPresent",
    )
    for port in container.get("ports") or ():
        _fill(port, protocol="TCP")
    for probe in ("readinessProbe", "livenessProbe", "startupProbe"):
        if probe in container:
            _fill(container[probe], timeoutSeconds=1, periodSeconds=10, successThreshold=1, failureThreshold=3)
            if "httpGet" in container[probe]:
                _fill(container[probe]["httpGet"], path="/", scheme="HTTP")
    for variable in container.get("env") or ():
        if "fieldRef" in (variable.get("valueFrom") or {}):
            _fill(variable["valueFrom"]["fieldRef"], apiVersion="v1")


def _pod_spec(spec: Object) -> None:
    _fill(
        spec,
        restartPolicy="Always",
        terminationGracePeriodSeconds=30,
        dnsPolicy="ClusterFirst",
        securityContext={},
        schedulerName="default-scheduler",
    )
    if spec.get("serviceAccountName"):
        _fill(spec, serviceAccount=spec["serviceAccountName"])
    for container in (spec.get("initContainers") or []) + (spec.get("containers") or []):
        _container(container)
    for volume in spec.get("volumes") or ():
        for source in ("secret", "configMap"):
            if source in volume:
                _fill(volume[source], defaultMode=420)


def _template(spec: Object) -> None:
    template = spec.setdefault("template", {})
    template.setdefault("metadata", {}).setdefault("creationTimestamp", None)
    _pod_spec(template.setdefault("spec", {}))


def _deployment(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    _fill(spec, replicas=1, strategy={}, revisionHistoryLimit=10, progressDeadlineSeconds=600)
    _fill(spec["strategy"], type="RollingUpdate")
    if spec["strategy"]["type"] == "RollingUpdate":
        if not spec["strategy"].get("rollingUpdate"):
            spec["strategy"]["rollingUpdate"] = {}
        _fill(spec["strategy"]["rollingUpdate"], maxUnavailable="25%", maxSurge="25%")
    _template(spec)


def _replicaset(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    _fill(spec, replicas=1)
    _template(spec)


def _pod(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    _pod_spec(spec)
    _fill(spec, serviceAccountName="default", serviceAccount="default", enableServiceLinks=True, priority=0)
    obj.setdefault("status", {"phase": "Pending", "qosClass": "BestEffort"})


def _job(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    _fill(spec, backoffLimit=6, suspend=False)
    if spec.get("parallelism") is None and spec.get("completions") is None:
        _fill(spec, completions=1)
    _fill(spec, parallelism=1)
    _template(spec)


def _secret(obj: Object) -> None:
    _fill(obj, type="Opaque")
    for key, value in (obj.pop("stringData", None) or {}).items():
        obj.setdefault("data", {})[key] = base64.b64encode(value.encode()).decode()


def _service(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    _fill(spec, type="ClusterIP", sessionAffinity="None")
    if "clusterIP" not in spec:
        spec["clusterIP"] = f"10.96.{secrets.randbelow(255)}.{1 + secrets.randbelow(254)}"
    for port in spec.get("ports") or ():
        _fill(port, protocol="TCP", targetPort=port.get("port"))
    obj.setdefault("status", {"loadBalancer": {}})


def _autoscaler(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    cpu = {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}
    _fill(spec, minReplicas=1, metrics=[cpu])


def _namespace(obj: Object) -> None:
    _fill(obj, spec={"finalizers": ["kubernetes"]}, status={"phase": "Active"})
    obj["metadata"].setdefault("labels", {})["kubernetes.io/metadata.name"] = obj["metadata"]["name"]


def _event(obj: Object) -> None:
    _fill(obj, reportingComponent="", reportingInstance="")


_FIRST_STATUS: dict[str, Object] = {
    "HorizontalPodAutoscaler": {"currentMetrics": None, "currentReplicas": 0, "desiredReplicas": 0},
    "ReplicaSet": {"replicas": 0},
    "Deployment": {},
    "Job": {},
}
_DEFAULTS: dict[str, Callable[[Object], None]] = {
    "Deployment": _deployment,
    "ReplicaSet": _replicaset,
    "Pod": _pod,
    "Job": _job,
    "Secret": _secret,
    "Service": _service,
    "HorizontalPodAutoscaler": _autoscaler,
    "Namespace": _namespace,
    "Event": _event,
}


def fill(resource: Resource, obj: Object) -> None:
    """Fill in what the object leaves out, in place."""
    if resource.kind in _FIRST_STATUS:
        obj.setdefault("status", dict(_FIRST_STATUS[resource.kind]))
    chosen = _DEFAULTS.get(resource.kind)
    if chosen:
        chosen(obj)


# Refusing ------------------------------------------------------------------------------------------

Causes = list[tuple[str, str, str]]


def _containers(spec: Object, at: str) -> Causes:
    if not spec.get("containers"):
        return [(f"{at}.containers", "FieldValueRequired", "Required value")]
    causes: Causes = []
    for number, container in enumerate(spec["containers"]):
        for field in ("name", "image"):
            if not container.get(field):
                causes.append((f"{at}.containers[{number}].{field}", "FieldValueRequired", "Required value"))
    return causes


def _count(value: Any, field: str) -> Causes:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ApiError(400, "BadRequest", f"json: cannot unmarshal {value!r} into Go field {field} of type int32")
    if value < 0:
        return [(field, "FieldValueInvalid", f"Invalid value: {value}: must be greater than or equal to 0")]
    return []


def _selected(obj: Object) -> Causes:
    spec = obj["spec"]
    selector = spec.get("selector")
    if not selector:
        return [("spec.selector", "FieldValueRequired", "Required value")]
    labels = spec["template"]["metadata"].get("labels") or {}
    if not chosen_by(selector, labels):
        text = f"Invalid value: {labels!r}: `selector` does not match template `labels`"
        return [("spec.template.metadata.labels", "FieldValueInvalid", text)]
    return _count(spec["replicas"], "spec.replicas") + _containers(spec["template"]["spec"], "spec.template.spec")


def _job_causes(obj: Object) -> Causes:
    policy = obj["spec"]["template"]["spec"].get("restartPolicy")
    causes = _containers(obj["spec"]["template"]["spec"], "spec.template.spec")
    if policy not in ("OnFailure", "Never"):
        text = f'Unsupported value: "{policy}": supported values: "OnFailure", "Never"'
        causes.append(("spec.template.spec.restartPolicy", "FieldValueNotSupported", text))
    return causes


def _autoscaler_causes(obj: Object) -> Causes:
    spec = obj["spec"]
    causes = []
    if not spec.get("maxReplicas", 0) > 0:
        text = f"Invalid value: {spec.get('maxReplicas', 0)}: must be greater than 0"
        causes.append(("spec.maxReplicas", "FieldValueInvalid", text))
    elif spec["maxReplicas"] < spec["minReplicas"]:
        text = f"Invalid value: {spec['maxReplicas']}: must be greater than or equal to `minReplicas`"
        causes.append(("spec.maxReplicas", "FieldValueInvalid", text))
    return causes


def _pod_causes(obj: Object) -> Causes:
    return _containers(obj["spec"], "spec")


_CHECKS: dict[str, Callable[[Object], Causes]] = {
    "Deployment": _selected,
    "ReplicaSet": _selected,
    "Pod": _pod_causes,
    "Job": _job_causes,
    "HorizontalPodAutoscaler": _autoscaler_causes,
}
_IMMUTABLE = {
    "Deployment": ("selector",),
    "ReplicaSet": ("selector",),
    "Job": ("selector", "template", "completions"),
}


def check(resource: Resource, obj: Object, old: Object | None = None) -> None:
    """Refuse what the object may not hold, or may not change to.

    :raises ApiError: 422 Invalid with the fields.
    """
    chosen = _CHECKS.get(resource.kind)
    causes = chosen(obj) if chosen else []
    for field in _IMMUTABLE.get(resource.kind, ()):
        if old is not None and obj["spec"].get(field) != old["spec"].get(field):
            text = f"Invalid value: {obj['spec'].get(field)!r}: field is immutable"
            causes.append((f"spec.{field}", "FieldValueInvalid", text))
    if resource.kind == "Secret" and old is not None and obj.get("type") != old.get("type"):
        causes.append(("type", "FieldValueInvalid", f'Invalid value: "{obj.get("type")}": field is immutable'))
    if causes:
        raise invalid(resource, obj["metadata"]["name"], causes)
