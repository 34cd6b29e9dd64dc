"""Tables: what ``kubectl get`` prints, which the server decides, column by column.

https://kubernetes.io/docs/reference/using-api/api-concepts/#receiving-resources-as-tables
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from sandbox.kubernetes.resources import Resource
from sandbox.kubernetes.store import Object, seconds

Cells = Callable[[Object], list[Any]]
_WIDE = 1
"""Priority of a column that only ``-o wide`` shows."""


def age(text: str | None) -> str:
    """Return how long ago, as kubectl says it: 45s, 3m5s, 2h, 6d, 1y20d."""
    if not text:
        return "<unknown>"
    return duration(max(0, int(time.time() - seconds(text))))


def duration(span: int) -> str:
    """Return a span of seconds in at most two units (duration.HumanDuration of apimachinery)."""
    minutes, hours, days = span // 60, span // 3600, span // 86400
    for below, big, unit, rest, small in (
        (span < 120, span, "s", 0, ""),
        (minutes < 10, minutes, "m", span % 60, "s"),
        (minutes < 180, minutes, "m", 0, ""),
        (hours < 8, hours, "h", minutes % 60, "m"),
        (hours < 48, hours, "h", 0, ""),
        (days < 8, days, "d", hours % 24, "h"),
        (days < 730, days, "d", 0, ""),
    ):
        if below:
            return f"{big}{unit}{rest}{small}" if rest else f"{big}{unit}"
    return f"{days // 365}y{days % 365}d" if days % 365 and days < 8 * 365 else f"{days // 365}y"


def _age(obj: Object) -> str:
    return age(obj["metadata"].get("creationTimestamp"))


def _images(obj: Object) -> list[str]:
    spec = obj["spec"]["template"]["spec"]
    containers = spec.get("containers") or ()
    labels = (obj["spec"].get("selector") or {}).get("matchLabels") or {}
    chosen = ",".join(f"{key}={value}" for key, value in sorted(labels.items())) or "<none>"
    return [",".join(c["name"] for c in containers), ",".join(c.get("image", "") for c in containers), chosen]


# Pods ----------------------------------------------------------------------------------------------


def pod_reason(obj: Object) -> str:
    """Return the STATUS column: the phase, or the reason of the container that keeps it from running."""
    status = obj.get("status") or {}
    reason = status.get("reason") or status.get("phase") or "Unknown"
    running = False
    for container in reversed(status.get("containerStatuses") or ()):
        state = container.get("state") or {}
        waiting, ended = state.get("waiting") or {}, state.get("terminated")
        if waiting.get("reason"):
            reason = waiting["reason"]
        elif ended:
            code = f"Signal:{ended['signal']}" if ended.get("signal") else f"ExitCode:{ended.get('exitCode', 0)}"
            reason = ended.get("reason") or code
        elif container.get("ready") and "running" in state:
            running = True
    if reason == "Completed" and running:
        reason = "Running"
    if obj["metadata"].get("deletionTimestamp"):
        return "Unknown" if status.get("reason") == "NodeLost" else "Terminating"
    return str(reason)


def _restarts(containers: Sequence[Object]) -> str:
    count = sum(container.get("restartCount", 0) for container in containers)
    ended = [((c.get("lastState") or {}).get("terminated") or {}).get("finishedAt") for c in containers]
    last = max((moment for moment in ended if moment), default=None)
    return f"{count} ({age(last)} ago)" if count and last else str(count)


def _pod(obj: Object) -> list[Any]:
    status, spec = obj.get("status") or {}, obj["spec"]
    containers = status.get("containerStatuses") or []
    ready = sum(bool(container.get("ready")) for container in containers)
    return [
        obj["metadata"]["name"],
        f"{ready}/{len(spec.get('containers') or ())}",
        pod_reason(obj),
        _restarts(containers),
        _age(obj),
        status.get("podIP") or "<none>",
        spec.get("nodeName") or "<none>",
        status.get("nominatedNodeName") or "<none>",
        "<none>",
    ]


# Workloads -----------------------------------------------------------------------------------------


def _deployment(obj: Object) -> list[Any]:
    status = obj.get("status") or {}
    ready = f"{status.get('readyReplicas', 0)}/{obj['spec'].get('replicas', 0)}"
    counts = [status.get("updatedReplicas", 0), status.get("availableReplicas", 0)]
    return [obj["metadata"]["name"], ready, *counts, _age(obj), *_images(obj)]


def _replicaset(obj: Object) -> list[Any]:
    status = obj.get("status") or {}
    counts = [obj["spec"].get("replicas", 0), status.get("replicas", 0), status.get("readyReplicas", 0)]
    return [obj["metadata"]["name"], *counts, _age(obj), *_images(obj)]


def _job(obj: Object) -> list[Any]:
    spec, status = obj["spec"], obj.get("status") or {}
    begun, ended = status.get("startTime"), status.get("completionTime")
    took = ""
    if begun:
        took = duration(int((seconds(ended) if ended else time.time()) - seconds(begun)))
    true = {c["type"] for c in status.get("conditions") or () if c["status"] == "True"}
    words = {"Complete": "Complete", "Failed": "Failed", "Suspended": "Suspended"}
    word = next((text for kind, text in words.items() if kind in true), "Running")
    if obj["metadata"].get("deletionTimestamp"):
        word = "Terminating"
    done = f"{status.get('succeeded', 0)}/{spec.get('completions') or 1}"
    return [obj["metadata"]["name"], word, done, took, _age(obj), *_images(obj)]


def _autoscaler(obj: Object) -> list[Any]:
    spec, status = obj["spec"], obj.get("status") or {}
    current = {m["resource"]["name"]: m["resource"]["current"] for m in status.get("currentMetrics") or ()}
    targets = []
    for metric in spec.get("metrics") or ():
        name = metric["resource"]["name"]
        measured = (current.get(name) or {}).get("averageUtilization")
        shown = "<unknown>" if measured is None else f"{measured}%"
        targets.append(f"{name}: {shown}/{metric['resource']['target'].get('averageUtilization')}%")
    reference = f"{spec['scaleTargetRef']['kind']}/{spec['scaleTargetRef']['name']}"
    bounds = [spec.get("minReplicas", 1), spec["maxReplicas"], status.get("currentReplicas", 0)]
    return [obj["metadata"]["name"], reference, ", ".join(targets) or "<none>", *bounds, _age(obj)]


# Cluster -------------------------------------------------------------------------------------------


def _node(obj: Object) -> list[Any]:
    meta, status = obj["metadata"], obj.get("status") or {}
    ready = next((c["status"] for c in status.get("conditions") or () if c["type"] == "Ready"), "Unknown")
    words = [{"True": "Ready", "False": "NotReady"}.get(ready, "NotReady" if ready == "Unknown" else ready)]
    if obj["spec"].get("unschedulable"):
        words.append("SchedulingDisabled")
    prefix = "node-role.kubernetes.io/"
    roles = ",".join(sorted(k.removeprefix(prefix) for k in meta.get("labels") or {} if k.startswith(prefix)))
    info = status.get("nodeInfo") or {}
    addresses = {a["type"]: a["address"] for a in status.get("addresses") or ()}
    row = [meta["name"], ",".join(words), roles or "<none>", _age(obj), info.get("kubeletVersion", "")]
    for kind in ("InternalIP", "ExternalIP"):
        row.append(addresses.get(kind, "<none>"))
    for field in ("osImage", "kernelVersion", "containerRuntimeVersion"):
        row.append(info.get(field) or "<unknown>")
    return row


def _service(obj: Object) -> list[Any]:
    spec = obj["spec"]
    ports = ",".join(f"{p['port']}/{p.get('protocol', 'TCP')}" for p in spec.get("ports") or ()) or "<none>"
    chosen = ",".join(f"{k}={v}" for k, v in sorted((spec.get("selector") or {}).items())) or "<none>"
    return [
        obj["metadata"]["name"],
        spec["type"],
        spec.get("clusterIP") or "<none>",
        "<none>",
        ports,
        _age(obj),
        chosen,
    ]


def _event(obj: Object) -> list[Any]:
    about = obj.get("involvedObject") or {}
    where = f"{about.get('kind', '').lower()}/{about.get('name', '')}"
    row = [age(obj.get("lastTimestamp")), obj.get("type", ""), obj.get("reason", ""), where]
    source = (obj.get("source") or {}).get("component", "")
    extra = [about.get("fieldPath", ""), source, age(obj.get("firstTimestamp")), obj.get("count", 1)]
    return [*row, extra[0], extra[1], obj.get("message", "").strip(), *extra[2:], obj["metadata"]["name"]]


def _certificate(obj: Object) -> list[Any]:
    conditions = {c["type"]: c for c in (obj.get("status") or {}).get("conditions") or ()}
    ready = conditions.get("Ready") or {}
    issuer = (obj["spec"].get("issuerRef") or {}).get("name", "")
    name, secret = obj["metadata"]["name"], obj["spec"].get("secretName", "")
    return [name, ready.get("status", ""), secret, issuer, ready.get("message", ""), _age(obj)]


def _plain(*columns: Callable[[Object], Any]) -> Cells:
    return lambda obj: [obj["metadata"]["name"], *(column(obj) for column in columns), _age(obj)]


def _lease(obj: Object) -> list[Any]:
    return [obj["metadata"]["name"], (obj.get("spec") or {}).get("holderIdentity", ""), _age(obj)]


# A column whose name begins with "+" is for -o wide.
_IMAGES = ("+Containers", "+Images", "+Selector")
_TABLES: dict[str, tuple[tuple[str, ...], Cells]] = {
    "Pod": (
        ("Name", "Ready", "Status", "Restarts", "Age", "+IP", "+Node", "+Nominated Node", "+Readiness Gates"),
        _pod,
    ),
    "Deployment": (("Name", "Ready", "Up-to-date", "Available", "Age", *_IMAGES), _deployment),
    "ReplicaSet": (("Name", "Desired", "Current", "Ready", "Age", *_IMAGES), _replicaset),
    "Job": (("Name", "Status", "Completions", "Duration", "Age", *_IMAGES), _job),
    "HorizontalPodAutoscaler": (
        ("Name", "Reference", "Targets", "MinPods", "MaxPods", "Replicas", "Age"),
        _autoscaler,
    ),
    "Node": (
        (
            *("Name", "Status", "Roles", "Age", "Version"),
            *("+Internal-IP", "+External-IP", "+OS-Image", "+Kernel-Version", "+Container-Runtime"),
        ),
        _node,
    ),
    "Namespace": (("Name", "Status", "Age"), _plain(lambda o: (o.get("status") or {}).get("phase", ""))),
    "Service": (("Name", "Type", "Cluster-IP", "External-IP", "Port(s)", "Age", "+Selector"), _service),
    "ConfigMap": (
        ("Name", "Data", "Age"),
        _plain(lambda o: len(o.get("data") or ()) + len(o.get("binaryData") or ())),
    ),
    "Secret": (
        ("Name", "Type", "Data", "Age"),
        _plain(lambda o: o.get("type", ""), lambda o: len(o.get("data") or ())),
    ),
    "ServiceAccount": (("Name", "Secrets", "Age"), _plain(lambda o: len(o.get("secrets") or ()))),
    "Lease": (("Name", "Holder", "Age"), _lease),
    "Event": (
        (
            *("Last Seen", "Type", "Reason", "Object", "+Subobject", "+Source", "Message"),
            *("+First Seen", "+Count", "+Name"),
        ),
        _event,
    ),
    "Certificate": (("Name", "Ready", "Secret", "+Issuer", "+Status", "Age"), _certificate),
}
_NUMBERS = {"Up-to-date", "Available", "Desired", "Current", "Ready", "MinPods", "MaxPods", "Replicas", "Data"}


def columns(resource: Resource) -> list[Object]:
    """Return the column definitions of a kind's table."""
    names, _ = _TABLES.get(resource.kind, (("Name", "Age"), _plain()))
    found = []
    for title in names:
        name = title.removeprefix("+")
        found.append(
            {
                "name": name,
                "type": "integer" if name in _NUMBERS and resource.kind not in ("Pod", "Certificate") else "string",
                "format": "name" if name == "Name" else "",
                "description": name,
                "priority": _WIDE if title.startswith("+") else 0,
            }
        )
    return found


def rows(resource: Resource, objects: Sequence[Object], include: str) -> list[Object]:
    """Return the table's rows.

    :param include: what each row says of its object: None, Metadata or Object.
    """
    _, cells = _TABLES.get(resource.kind, (("Name", "Age"), _plain()))
    found = []
    for obj in objects:
        row: Object = {"cells": cells(obj)}
        if include == "Object":
            row["object"] = {"kind": resource.kind, "apiVersion": resource.api_version, **obj}
        elif include != "None":
            meta = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"]}
            row["object"] = meta
        found.append(row)
    return found


def table(resource: Resource, objects: Sequence[Object], meta: Object, include: str = "Metadata") -> Object:
    """Return a Table object."""
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": meta,
        "columnDefinitions": columns(resource),
        "rows": rows(resource, objects, include),
    }
