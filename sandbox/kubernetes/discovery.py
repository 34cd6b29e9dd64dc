"""Discovery, and the least of OpenAPI that lets kubectl create and apply.

kubectl asks OpenAPI v3 whether a kind's PATCH knows ``fieldValidation``; when it does, the server is
trusted to validate and no schema is downloaded. Merge keys kubectl knows by itself.
"""

from __future__ import annotations

from typing import Any

from sandbox.kubernetes.errors import no_such_path
from sandbox.kubernetes.resources import RESOURCES, Resource
from sandbox.kubernetes.store import Object

VERSION = "v1.33.4"
_PARAMETERS = [
    {"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": True}}
    for name in ("dryRun", "fieldManager", "fieldValidation")
]
_BUILTIN_SUBS: dict[str, tuple[tuple[str, str, tuple[str, ...]], ...]] = {
    "pods": (("log", "Pod", ("get",)), ("eviction", "Eviction", ("create",))),
    "serviceaccounts": (("token", "TokenRequest", ("create",)),),
}


def _groups() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for resource in RESOURCES:
        versions = found.setdefault(resource.group, [])
        if resource.version not in versions:
            versions.append(resource.version)
    return found


def _group(name: str, versions: list[str]) -> Object:
    listed = [{"groupVersion": f"{name}/{version}", "version": version} for version in versions]
    return {"name": name, "versions": listed, "preferredVersion": listed[0]}


def _entries(resource: Resource) -> list[Object]:
    entry: Object = {
        "name": resource.plural,
        "singularName": resource.singular or resource.kind.lower(),
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": list(resource.verbs),
    }
    if resource.short:
        entry["shortNames"] = list(resource.short)
    if resource.categories:
        entry["categories"] = list(resource.categories)
    subs: list[Object] = []
    if resource.status:
        subs.append({"name": "status", "kind": resource.kind, "verbs": ["get", "patch", "update"]})
    if resource.scale:
        scale = {"group": "autoscaling", "version": "v1", "kind": "Scale", "verbs": ["get", "patch", "update"]}
        subs.append({"name": "scale", **scale})
    for name, kind, verbs in _BUILTIN_SUBS.get(resource.plural, ()):
        if not resource.group:
            subs.append({"name": name, "kind": kind, "verbs": list(verbs)})
    spread = {"singularName": "", "namespaced": resource.namespaced}
    return [entry, *({**spread, **sub, "name": f"{resource.plural}/{sub['name']}"} for sub in subs)]


def _resources(group: str, version: str) -> Object:
    chosen = [r for r in RESOURCES if (r.group, r.version) == (group, version)]
    if not chosen:
        raise no_such_path()
    listed = [entry for resource in chosen for entry in _entries(resource)]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": chosen[0].api_version, "resources": listed}


def _paths(resource: Resource) -> Object:
    prefix = "/apis/" + resource.api_version if resource.group else "/api/v1"
    scope = "/namespaces/{namespace}" if resource.namespaced else ""
    kind = {"group": resource.group, "version": resource.version, "kind": resource.kind}
    path = f"{prefix}{scope}/{resource.plural}"
    return {
        path: {"post": {"parameters": _PARAMETERS, "x-kubernetes-group-version-kind": kind}},
        path + "/{name}": {
            verb: {"parameters": _PARAMETERS, "x-kubernetes-group-version-kind": kind} for verb in ("patch", "put")
        },
    }


def _openapi(group: str, version: str) -> Object:
    chosen = [r for r in RESOURCES if (r.group, r.version) == (group, version)]
    if not chosen:
        raise no_such_path()
    paths: Object = {}
    for resource in chosen:
        paths.update(_paths(resource))
    info = {"title": "Kubernetes", "version": VERSION}
    return {"openapi": "3.0.0", "info": info, "paths": paths, "components": {"schemas": {}}}


def _openapi_index() -> Object:
    paths = {}
    for group, versions in _groups().items():
        for version in versions:
            path = f"apis/{group}/{version}" if group else f"api/{version}"
            paths[path] = {"serverRelativeURL": f"/openapi/v3/{path}?hash={VERSION}"}
    return {"paths": paths}


def _version() -> Object:
    major, minor, _ = VERSION.removeprefix("v").split(".")
    return {
        "major": major,
        "minor": minor,
        "gitVersion": f"{VERSION}+stage",
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "",
        "platform": "linux/amd64",
    }


AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"


def _discovered(resource: Resource) -> Object:
    entry, *subs = _entries(resource)
    kind = {"group": resource.group, "version": resource.version}
    found: Object = {
        "resource": resource.plural,
        "responseKind": {**kind, "kind": resource.kind},
        "scope": "Namespaced" if resource.namespaced else "Cluster",
        "singularResource": entry["singularName"],
        **{key: entry[key] for key in ("verbs", "shortNames", "categories") if key in entry},
    }
    if subs:
        found["subresources"] = [
            {
                "subresource": sub["name"].partition("/")[2],
                "responseKind": {**kind, "kind": sub["kind"]} | {k: sub[k] for k in ("group", "version") if k in sub},
                "verbs": sub["verbs"],
            }
            for sub in subs
        ]
    return found


def aggregated(steps: list[str]) -> Object | None:
    """Return all of discovery at ``/api`` or ``/apis`` in one document, as newer clients ask for it."""
    if steps not in (["api"], ["apis"]):
        return None
    items = []
    for group, versions in _groups().items():
        if bool(group) == (steps == ["apis"]):
            listed = [
                {
                    "version": version,
                    "freshness": "Current",
                    "resources": [_discovered(r) for r in RESOURCES if (r.group, r.version) == (group, version)],
                }
                for version in versions
            ]
            items.append({"metadata": {"name": group, "creationTimestamp": None}, "versions": listed})
    return {"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items}


def document(steps: list[str]) -> Any:
    """Return the discovery document of a path; None when the path is not discovery.

    :param steps: the path's parts.
    :raises ApiError: 404 for a group or version that is not served.
    """
    match steps:
        case ["version"]:
            found: Object | None = _version()
        case ["api"]:
            found = {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
        case ["apis"]:
            groups = [_group(name, versions) for name, versions in _groups().items() if name]
            found = {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
        case ["apis", name] if name in _groups():
            found = {"kind": "APIGroup", "apiVersion": "v1", **_group(name, _groups()[name])}
        case ["api", version]:
            found = _resources("", version)
        case ["apis", group, version]:
            found = _resources(group, version)
        case ["openapi", "v3", *rest]:
            found = _openapi_of(rest)
        case _:
            found = None
    return found


def _openapi_of(rest: list[str]) -> Object:
    match rest:
        case []:
            return _openapi_index()
        case ["api", version]:
            return _openapi("", version)
        case ["apis", group, version]:
            return _openapi(group, version)
    raise no_such_path()
