"""The three patch types.

https://kubernetes.io/docs/tasks/manage-kubernetes-objects/update-api-object-kubectl-patch/
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from sandbox.kubernetes.errors import ApiError, bad_request, unsupported_media
from sandbox.kubernetes.resources import Resource

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"

# Lists of objects that strategic merge joins by a key; every other list is replaced as a whole.
# "ports" has its key by what is around it: a container's containerPort, a Service's port.
_MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "ephemeralContainers": "name",
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "imagePullSecrets": "name",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
    "conditions": "type",
    "ownerReferences": "uid",
    "secrets": "name",
    "addresses": "type",
    "taints": "key",
}
_PRIMITIVE_MERGE = {"finalizers"}


def apply_patch(resource: Resource, obj: dict[str, Any], patch: Any, content_type: str) -> dict[str, Any]:
    """Return the object with the patch applied; the given one stays as it was.

    :param content_type: the request's media type, which names the patch type.
    :raises ApiError: 415 for another media type, 400 or 422 for a patch that cannot be applied.
    """
    if content_type == JSON_PATCH:
        return _json_patch(resource, obj, patch)
    if not isinstance(patch, dict):
        raise bad_request("the patch is not an object")
    if content_type == MERGE_PATCH:
        return _merge(obj, patch)
    if content_type == STRATEGIC_PATCH and not resource.custom:
        merged: dict[str, Any] = _strategic(obj, patch)
        return merged
    known = f"{JSON_PATCH}, {MERGE_PATCH}" + ("" if resource.custom else f", {STRATEGIC_PATCH}")
    raise unsupported_media(f"the body of the request was in an unknown format - accepted media types include: {known}")


def _merge(target: Any, patch: dict[str, Any]) -> dict[str, Any]:
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict):
            result[key] = _merge(result.get(key), value)
        else:
            result[key] = value
    return result


# JSON patch (RFC 6902) -----------------------------------------------------------------------------


def _json_patch(resource: Resource, obj: dict[str, Any], patch: Any) -> dict[str, Any]:
    if not isinstance(patch, list):
        raise bad_request("the patch is not a list of operations")
    result = copy.deepcopy(obj)
    for operation in patch:
        try:
            result = _operation(result, operation)
        except _TestFailed as error:
            text = f"the server rejected our request due to an error in our request: {error}"
            raise ApiError(422, "Invalid", text) from error
        except (KeyError, IndexError, ValueError, TypeError) as error:
            name = obj["metadata"].get("name", "")
            raise ApiError(
                422,
                "Invalid",
                f"the server rejected our request due to an error in our request: {operation.get('op')} operation"
                f' does not apply to {resource.full_name} "{name}": {operation.get("path")}: {error!r}',
            ) from error
    return result


class _TestFailed(Exception):
    pass


def _steps(pointer: str) -> list[str]:
    if pointer and not pointer.startswith("/"):
        raise ValueError(pointer)
    return [step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:]]


def _lookup(obj: Any, steps: list[str]) -> Any:
    for step in steps:
        obj = obj[int(step)] if isinstance(obj, list) else obj[step]
    return obj


def _add(obj: Any, steps: list[str], value: Any) -> Any:
    if not steps:
        return value
    parent, last = _lookup(obj, steps[:-1]), steps[-1]
    if not isinstance(parent, list):
        parent[last] = value
    elif last == "-":
        parent.append(value)
    else:
        if int(last) > len(parent):
            raise IndexError(last)
        parent.insert(int(last), value)
    return obj


def _remove(obj: Any, steps: list[str]) -> Any:
    parent, last = _lookup(obj, steps[:-1]), steps[-1]
    return parent.pop(int(last)) if isinstance(parent, list) else parent.pop(last)


def _replace(obj: Any, steps: list[str], value: Any) -> Any:
    _lookup(obj, steps)
    parent, last = _lookup(obj, steps[:-1]), steps[-1]
    parent[int(last) if isinstance(parent, list) else last] = value
    return obj


def _test(obj: Any, steps: list[str], value: Any) -> Any:
    if _lookup(obj, steps) != value:
        raise _TestFailed(f"testing path {'/'.join(steps)} failed")
    return obj


def _operation(obj: Any, operation: dict[str, Any]) -> Any:
    steps = _steps(operation["path"])
    kind = operation["op"]
    if kind == "remove":
        _remove(obj, steps)
        return obj
    if kind in ("move", "copy"):
        origin = _steps(operation["from"])
        value = _remove(obj, origin) if kind == "move" else copy.deepcopy(_lookup(obj, origin))
        return _add(obj, steps, value)
    acts: dict[str, Callable[[Any, list[str], Any], Any]] = {"add": _add, "replace": _replace, "test": _test}
    return acts[kind](obj, steps, operation["value"])


# Strategic merge -----------------------------------------------------------------------------------


def _strategic(target: Any, patch: dict[str, Any]) -> Any:
    directive = patch.get("$patch")
    if directive == "replace":
        return {key: value for key, value in patch.items() if key != "$patch"}
    if directive == "delete":
        return {}
    result = dict(target) if isinstance(target, dict) else {}
    if "$retainKeys" in patch:
        result = {key: value for key, value in result.items() if key in patch["$retainKeys"]}
    for key, value in patch.items():
        if key.startswith("$deleteFromPrimitiveList/"):
            field = key.partition("/")[2]
            result[field] = [item for item in result.get(field, ()) if item not in value]
        elif key.startswith("$"):
            continue
        elif value is None:
            result.pop(key, None)
        elif isinstance(value, dict):
            result[key] = _strategic(result.get(key), value)
        elif isinstance(value, list):
            result[key] = _list(key, result.get(key) or [], value, patch.get(f"$setElementOrder/{key}"))
        else:
            result[key] = value
    return _order_untouched(result, patch)


def _order_untouched(result: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    for key, order in patch.items():
        field = key.partition("/")[2]
        if key.startswith("$setElementOrder/") and field not in patch and isinstance(result.get(field), list):
            result[field] = _ordered(result[field], order, _merge_key(field, result[field] + order), result[field])
    return result


def _merge_key(field: str, items: list[Any]) -> str | None:
    if field == "ports":
        return "containerPort" if any(isinstance(i, dict) and "containerPort" in i for i in items) else "port"
    return _MERGE_KEYS.get(field)


def _list(field: str, target: list[Any], patch: list[Any], order: list[Any] | None) -> list[Any]:
    if field in _PRIMITIVE_MERGE:
        return _ordered([*target, *(item for item in patch if item not in target)], order or patch, None, target)
    key = _merge_key(field, target + patch)
    if key is None or any(not isinstance(item, dict) for item in patch):
        return patch
    if any(item.get("$patch") == "replace" for item in patch):
        return [item for item in patch if "$patch" not in item]
    result = list(target)
    for item in patch:
        if key not in item:
            raise bad_request(f"map: {item} does not contain declared merge key: {key}")
        at = next((i for i, old in enumerate(result) if old.get(key) == item[key]), None)
        if item.get("$patch") == "delete":
            result = [old for old in result if old.get(key) != item[key]]
        elif at is None:
            result.append(_strategic({}, item))
        else:
            result[at] = _strategic(result[at], item)
    return _ordered(result, order or patch, key, target)


def _ordered(items: list[Any], order: list[Any], key: str | None, server: list[Any]) -> list[Any]:
    """Put a merged list in order: the patch's items as the patch has them, the others where they were.

    Where an item of the patch is new to the server, it goes before the next of the others.
    """

    def name(item: Any) -> Any:
        return item.get(key) if isinstance(item, dict) else item

    wanted = {name(item): place for place, item in enumerate(order)}
    stood = {name(item): place for place, item in enumerate(server)}
    left = sorted((i for i in items if name(i) in wanted), key=lambda i: wanted[name(i)])
    right = [item for item in items if name(item) not in wanted]
    result = []
    while left and right:
        first, second = stood.get(name(left[0])), stood.get(name(right[0]))
        behind = first is not None and second is not None and first > second
        result.append((right if behind else left).pop(0))
    return result + left + right
