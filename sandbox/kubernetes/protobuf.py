"""Reads the Protocol Buffers that newer kubectls send when they create built-in kinds by name.

``kubectl create deployment``, ``autoscale`` and their like encode requests so, and know no way back to
JSON. Answers are always JSON, which every client accepts. ``protobuf.json`` holds the field numbers of
the kinds in question, taken from the API's generated.proto files; a field that is not there is skipped.
https://kubernetes.io/docs/reference/using-api/api-concepts/#protobuf-encoding
"""

from __future__ import annotations

import base64
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sandbox.kubernetes.store import stamp

_MAGIC = b"k8s\x00"
# Fields whose message stands in Go for the fields inside it.
_INLINE = {"volumeSource", "handler", "localObjectReference"}
# Go writes every plain field, also when it is empty, where JSON leaves it out. These alone are
# pointers there: present means meant, even when it is 0, false or {}.
_MEANT = {
    *("replicas", "minReplicas", "backoffLimit", "ttlSecondsAfterFinished", "gracePeriodSeconds", "parallelism"),
    *("completions", "activeDeadlineSeconds", "revisionHistoryLimit", "terminationGracePeriodSeconds", "suspend"),
    *("automountServiceAccountToken", "immutable", "controller", "blockOwnerDeletion", "optional", "emptyDir"),
    *("runAsUser", "runAsGroup", "runAsNonRoot", "allowPrivilegeEscalation", "averageUtilization"),
}


@functools.cache
def _known() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(__file__).with_name("protobuf.json").read_text())
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield key >> 3, value - 2**64 if value >= 2**63 else value
        elif kind == 2:
            size, at = _varint(data, at)
            yield key >> 3, data[at : at + size]
            at += size
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind}")


def _special(kind: str, value: Any) -> Any:
    parts = dict(_fields(value))
    if kind == "time":
        return stamp(parts.get(1, 0)) if parts.get(1, 0) > 0 else None
    if kind == "quantity":
        return parts.get(1, b"").decode()
    return parts.get(3, b"").decode() if parts.get(1) else parts.get(2, 0)


def _value(kind: str, value: Any) -> Any:
    if kind == "s":
        return value.decode()
    if kind == "b":
        return base64.b64encode(value).decode()
    if kind == "?":
        return bool(value)
    if kind == "i":
        return value
    return _special(kind, value) if kind in ("time", "quantity", "either") else _message(kind, value)


def _message(kind: str, data: bytes) -> dict[str, Any]:
    fields = _known()["messages"][kind]
    result: dict[str, Any] = {}
    for number, raw in _fields(data):
        if str(number) not in fields:
            continue
        name, inner, *repeated = fields[str(number)]
        value = _value(inner, raw)
        if repeated and _known()["messages"].get(inner, {}).get("map"):
            result.setdefault(name, {})[value.get("key", "")] = value.get("value", "")
        elif repeated:
            result.setdefault(name, []).append(value)
        elif name in _INLINE:
            result.update(value)
        elif value not in (None, "", 0, False, {}) or name in _MEANT or "map" in fields:
            result[name] = value
    return result


def decode(data: bytes) -> dict[str, Any]:
    """Return the object of a request body.

    :raises ValueError: when it cannot be read, or its kind is not known here.
    """
    if not data.startswith(_MAGIC):
        raise ValueError("not Kubernetes' protobuf")
    envelope = dict(_fields(data[len(_MAGIC) :]))
    meta = {number: value.decode() for number, value in _fields(envelope.get(1, b""))}
    version, kind = meta.get(1, ""), meta.get(2, "")
    known = _known()["kinds"].get(f"{version}/{kind}") or _known()["kinds"].get(f"v1/{kind}")
    if known is None:
        raise ValueError(f"{version} {kind} is not read from protobuf")
    return {"kind": kind, "apiVersion": version, **_message(known, envelope.get(2, b""))}
