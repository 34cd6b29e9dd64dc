"""Label and field selectors.

https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from sandbox.kubernetes.errors import bad_request
from sandbox.kubernetes.resources import Resource

Matches = Callable[[Mapping[str, Any]], bool]

_SET = re.compile(r"^\s*([^\s,!=()]+)\s+(in|notin)\s*\(([^)]*)\)\s*$")
_EQUAL = re.compile(r"^\s*([^\s,!=()]+)\s*(==|=|!=)\s*([^\s,!=()]*)\s*$")
_EXISTS = re.compile(r"^\s*(!?)\s*([^\s,!=()]+)\s*$")
_PARTS = re.compile(r",(?![^(]*\))")

_FIELDS: dict[str, tuple[str, ...]] = {
    "pods": (
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "status.phase",
        "status.podIP",
        "status.nominatedNodeName",
    ),
    "events": (
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.resourceVersion",
        "involvedObject.fieldPath",
        "reason",
        "reportingComponent",
        "source",
        "type",
    ),
    "secrets": ("type",),
    "namespaces": ("status.phase",),
    "nodes": ("spec.unschedulable",),
    "jobs": ("status.successful",),
    "replicasets": ("status.replicas",),
}


def _labels(obj: Mapping[str, Any]) -> Mapping[str, str]:
    return obj["metadata"].get("labels") or {}


def _requirement(text: str) -> Matches:
    if found := _SET.match(text):
        key, operator, listed = found.groups()
        values = {value.strip() for value in listed.split(",")}
        if operator == "in":
            return lambda obj: _labels(obj).get(key) in values
        return lambda obj: _labels(obj).get(key) not in values
    if found := _EQUAL.match(text):
        key, operator, value = found.groups()
        if operator == "!=":
            return lambda obj: _labels(obj).get(key) != value
        return lambda obj: _labels(obj).get(key) == value
    if found := _EXISTS.match(text):
        absent, key = found.groups()
        return lambda obj: (key in _labels(obj)) != bool(absent)
    raise bad_request(f"unable to parse requirement: found {text!r}, expected: in, notin, =, ==, !=")


def by_labels(selector: str) -> Matches | None:
    """Return the test for a labelSelector; None when it selects everything.

    :raises ApiError: 400 when it cannot be read.
    """
    tests = [_requirement(part) for part in _PARTS.split(selector) if part.strip()]
    return (lambda obj: all(test(obj) for test in tests)) if tests else None


def _field(path: str) -> Callable[[Mapping[str, Any]], str]:
    steps = path.split(".")

    def value(obj: Mapping[str, Any]) -> str:
        at: Any = obj
        for step in steps:
            at = at.get(step) if isinstance(at, Mapping) else None
        if path == "source" and isinstance(at, Mapping):
            at = at.get("component")
        return str(at).lower() if isinstance(at, bool) else "" if at is None else str(at)

    return value


def by_fields(selector: str, resource: Resource) -> Matches | None:
    """Return the test for a fieldSelector; None when it selects everything.

    :raises ApiError: 400 when it cannot be read, or the kind cannot be selected by this field.
    """
    tests: list[Matches] = []
    for part in selector.split(","):
        if not part.strip():
            continue
        found = _EQUAL.match(part)
        if not found:
            raise bad_request(f'Unable to find {resource.full_name} that match field selector "{selector}"')
        path, operator, wanted = found.groups()
        known = _FIELDS.get(resource.plural, ())
        if path not in ("metadata.name", "metadata.namespace", *known):
            raise bad_request(f"field label not supported: {path}")
        tests.append(_compare(_field(path), operator == "!=", wanted))
    return (lambda obj: all(test(obj) for test in tests)) if tests else None


def _compare(value: Callable[[Mapping[str, Any]], str], unlike: bool, wanted: str) -> Matches:
    return lambda obj: (value(obj) == wanted) != unlike


def both(first: Matches | None, second: Matches | None) -> Matches | None:
    """Return the test that holds when both do."""
    if first is None or second is None:
        return first or second
    one, other = first, second
    return lambda obj: one(obj) and other(obj)


def chosen_by(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a spec.selector (matchLabels, matchExpressions) chooses an object with these labels."""
    for key, value in (selector.get("matchLabels") or {}).items():
        if labels.get(key) != value:
            return False
    for term in selector.get("matchExpressions") or ():
        values, operator = term.get("values") or (), term["operator"]
        holds = {
            "In": labels.get(term["key"]) in values,
            "NotIn": labels.get(term["key"]) not in values,
            "Exists": term["key"] in labels,
            "DoesNotExist": term["key"] not in labels,
        }
        if not holds[operator]:
            return False
    return True
