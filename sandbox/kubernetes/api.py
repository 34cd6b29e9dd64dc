"""The API over HTTP: paths, credentials, forms of answers."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import yaml
from aiohttp import web

from sandbox.kubernetes import discovery, metrics, protobuf, tables, views, watching
from sandbox.kubernetes.errors import (
    ApiError,
    bad_request,
    gone,
    no_such_path,
    not_allowed,
    unauthorized,
)
from sandbox.kubernetes.logs import Logs
from sandbox.kubernetes.resources import BY_PATH, PODS, Resource
from sandbox.kubernetes.selecting import both, by_fields, by_labels
from sandbox.kubernetes.store import Entry, Object, Store, encode, stamp
from sandbox.kubernetes.verbs import Verbs
from sandbox.kubernetes.views import flag, outward, scale_of, stored
from sandbox.kubernetes.watching import Wanted
from sandbox.state import ActiveFaults

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_OPEN = ("/readyz", "/livez", "/healthz")


class Target(NamedTuple):
    """What a path leads to."""

    resource: Resource
    namespace: str
    name: str
    sub: str


def locate(steps: list[str]) -> Target:
    """Return what a path leads to.

    :raises ApiError: 404 when it leads nowhere.
    """
    if steps[:1] == ["api"] and len(steps) > 2:
        group, version, rest = "", steps[1], steps[2:]
    elif steps[:1] == ["apis"] and len(steps) > 3:
        group, version, rest = steps[1], steps[2], steps[3:]
    else:
        raise no_such_path()
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2 and rest[2] not in ("status", "finalize"):
        namespace, rest = rest[1], rest[2:]
    plural, name, sub = [*rest, "", ""][:3]
    resource = BY_PATH.get((group, version, plural))
    if resource is None or len(rest) > 3 or (namespace and not resource.namespaced):
        raise no_such_path()
    if resource.namespaced and name and not namespace:
        raise no_such_path()
    return Target(resource, namespace, name, sub)


def answer(body: Any, status: int = 200) -> web.Response:
    """Return a JSON answer; bytes are sent as they are."""
    data = body if isinstance(body, bytes) else encode(body)
    return web.Response(body=data, status=status, content_type="application/json")


def form(request: web.Request) -> str:
    """Return the form the caller wants: Table, PartialObjectMetadata or, for plain objects, nothing."""
    for clause in request.headers.get("Accept", "").split(","):
        parts = dict(part.strip().partition("=")[::2] for part in clause.split(";")[1:])
        if not clause.strip().startswith(("application/json", "*/*")):
            continue
        if not parts.get("as"):
            return ""
        if parts["as"] in ("Table", "PartialObjectMetadata", "PartialObjectMetadataList"):
            return parts["as"].removesuffix("List")
    return ""


async def body_of(request: web.Request) -> Any:
    """Return the request's body, from JSON, YAML or protobuf.

    :raises ApiError: 400 when it cannot be read.
    """
    data = await request.read()
    if not data:
        return {}
    try:
        if request.content_type.endswith("protobuf"):
            return protobuf.decode(data)
        return yaml.safe_load(data) if request.content_type.endswith("yaml") else json.loads(data)
    except (ValueError, LookupError, yaml.YAMLError) as error:
        raise bad_request(f"the body of the request cannot be read: {error}") from error


class Api:
    """The API server's handlers.

    :param store: where the objects are.
    :param logs: where pods' logs come from.
    :param token: the one bearer token that is known.
    :param faults: read for ``slow``.
    """

    def __init__(self, *, store: Store, logs: Logs, token: str, faults: ActiveFaults) -> None:
        self.store, self.logs, self._token, self._faults = store, logs, token, faults
        self.verbs = Verbs(store)
        self.closing = asyncio.Event()

    def application(self) -> web.Application:
        """Return the web application; further routes may be added before it runs."""
        return web.Application(middlewares=[self.guard], client_max_size=16 * 2**20)

    @web.middleware
    async def guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Check the token, wait as the fault ``slow`` says, and word errors as Status objects."""
        if request.path in _OPEN:
            return web.Response(text="ok")
        slow = self._faults.get("slow")
        if slow:
            await asyncio.sleep(float(slow.get("seconds", 3)))
        try:
            if request.headers.get("Authorization") != f"Bearer {self._token}":
                raise unauthorized()
            return await handler(request)
        except ApiError as error:
            return answer(error.status(), error.code)
        except web.HTTPNotFound:
            return answer(no_such_path().status(), 404)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer any request of the Kubernetes API."""
        steps = [step for step in request.path.split("/") if step]
        if request.method == "GET":
            if "g=apidiscovery.k8s.io;v=v2;" in request.headers.get("Accept", "") and (
                whole := discovery.aggregated(steps)
            ):
                return web.Response(body=encode(whole), headers={"Content-Type": discovery.AGGREGATED})
            found = discovery.document(steps)
            if found is not None:
                return answer(found)
        target = locate(steps)
        if target.resource.group == "metrics.k8s.io":
            return self._metrics(request, target)
        if target.sub and (special := self._special(target.sub)):
            return await special(request, target)
        chosen = getattr(self, f"_on_{request.method.lower()}", None)
        if chosen is None:
            raise not_allowed()
        response: web.StreamResponse = await chosen(request, target)
        return response

    def _special(self, sub: str) -> Callable[[web.Request, Target], Awaitable[web.StreamResponse]] | None:
        known = {"log": self._log, "scale": self._scale, "token": self._issue_token, "eviction": self._evict}
        if sub not in (*known, "status", "finalize"):
            raise no_such_path()
        return known.get(sub)

    # Reading ------------------------------------------------------------------------------------

    def _wanted(self, request: web.Request, target: Target) -> Wanted:
        query = request.query
        matches = both(
            by_labels(query.get("labelSelector", "")), by_fields(query.get("fieldSelector", ""), target.resource)
        )
        return Wanted(
            target.resource, target.namespace, matches, form(request), query.get("includeObject") or "Metadata"
        )

    async def _on_get(self, request: web.Request, target: Target) -> web.StreamResponse:
        if target.resource.verbs == ("create",):
            raise not_allowed()
        wanted = self._wanted(request, target)
        if flag(request.query, "watch"):
            if target.name:
                named = by_fields(f"metadata.name={target.name}", target.resource)
                wanted = Wanted(wanted.resource, wanted.namespace, named, wanted.form, wanted.include)
            return await watching.serve(request, self.store, wanted, self.closing)
        if not target.name:
            return answer(self._list(request, wanted))
        entry = self.store.entry(stored(target.resource), target.namespace, target.name)
        return answer(self._single(wanted, entry.obj, entry.json))

    def _single(self, wanted: Wanted, obj: Object, plain: bytes) -> Any:
        if wanted.form == "Table":
            meta = {"resourceVersion": obj["metadata"].get("resourceVersion", "")}
            return tables.table(stored(wanted.resource), [obj], meta, wanted.include)
        if wanted.form == "PartialObjectMetadata":
            return views.partial(wanted.resource, obj)
        return outward(wanted.resource, obj) if wanted.resource.stored_as else plain

    def _list(self, request: web.Request, wanted: Wanted) -> Any:
        limit = int(request.query.get("limit") or 0)
        after, version = self._continued(request.query.get("continue", ""))
        found: list[Entry] = []
        meta: Object = {"resourceVersion": str(version)}
        for entry in self.store.entries(stored(wanted.resource), wanted.namespace, after):
            if wanted.matches is not None and not wanted.matches(entry.obj):
                continue
            if limit and len(found) == limit:
                at = found[-1].obj["metadata"]
                name = (at.get("namespace", ""), at["name"])
                meta["continue"] = base64.urlsafe_b64encode(encode([version, *name])).decode()
                if wanted.matches is None:
                    left = self.store.count_after(stored(wanted.resource), wanted.namespace, name)
                    meta["remainingItemCount"] = left
                break
            found.append(entry)
        return self._listed(wanted, found, meta)

    def _continued(self, token: str) -> tuple[tuple[str, str] | None, int]:
        if not token:
            return None, self.store.version
        try:
            version, namespace, name = json.loads(base64.urlsafe_b64decode(token))
        except ValueError as error:
            raise bad_request(f"continue key is not valid: {error}") from error
        if version < self.store.compacted:
            raise gone(
                "The provided continue parameter is too old to display a consistent list result. You can start a new"
                " list without the continue parameter."
            )
        return (namespace, name), version

    def _listed(self, wanted: Wanted, found: list[Entry], meta: Object) -> Any:
        resource = wanted.resource
        if wanted.form == "Table":
            return tables.table(stored(resource), [entry.obj for entry in found], meta, wanted.include)
        head: Object = {"kind": f"{resource.kind}List", "apiVersion": resource.api_version, "metadata": meta}
        if wanted.form == "PartialObjectMetadata":
            head = {**head, "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1"}
            return {**head, "items": [views.partial(resource, entry.obj) for entry in found]}
        if resource.stored_as:
            items = [encode(outward(resource, entry.obj)) for entry in found]
        else:
            items = [entry.json for entry in found]
        return encode(head)[:-1] + b',"items":[' + b",".join(items) + b"]}"

    # Writing ------------------------------------------------------------------------------------

    def _written(self, request: web.Request, target: Target, obj: Object, status: int = 200) -> web.Response:
        wanted = Wanted(target.resource, target.namespace, None, form(request))
        return answer(self._single(wanted, obj, encode(outward(target.resource, obj))), status)

    async def _on_post(self, request: web.Request, target: Target) -> web.StreamResponse:
        body = await body_of(request)
        if target.resource.verbs == ("create",):
            return answer({**body, "status": {"allowed": True}}, 201)
        if target.name:
            raise not_allowed()
        obj = self.verbs.create(target.resource, target.namespace, body, dry=_dry(request))
        return self._written(request, target, obj, 201)

    async def _on_put(self, request: web.Request, target: Target) -> web.StreamResponse:
        body = await body_of(request)
        obj = self.verbs.update(target.resource, target.namespace, target.name, body, sub=target.sub, dry=_dry(request))
        return self._written(request, target, obj)

    async def _on_patch(self, request: web.Request, target: Target) -> web.StreamResponse:
        body = await body_of(request)
        obj = self.verbs.patch(
            target.resource,
            target.namespace,
            target.name,
            body,
            request.content_type,
            sub=target.sub,
            dry=_dry(request),
        )
        return self._written(request, target, obj)

    async def _on_delete(self, request: web.Request, target: Target) -> web.StreamResponse:
        options = await body_of(request)
        query = request.query
        options.update({key: query[key] for key in ("propagationPolicy",) if key in query})
        if "gracePeriodSeconds" in query:
            options["gracePeriodSeconds"] = int(query["gracePeriodSeconds"])
        dry = _dry(request) or bool(options.get("dryRun"))
        if target.name:
            return answer(self.verbs.delete(target.resource, target.namespace, target.name, options, dry=dry))
        wanted = self._wanted(request, target)
        found = [e.obj for e in self.store.entries(stored(target.resource), target.namespace) if wanted.has(e)]
        for obj in found:
            meta = obj["metadata"]
            self.verbs.delete(target.resource, meta.get("namespace", ""), meta["name"], options, dry=dry)
        listed = {"kind": f"{target.resource.kind}List", "apiVersion": target.resource.api_version}
        meta = {"resourceVersion": str(self.store.version)}
        return answer({**listed, "metadata": meta, "items": [outward(target.resource, obj) for obj in found]})

    # Subresources -------------------------------------------------------------------------------

    async def _scale(self, request: web.Request, target: Target) -> web.StreamResponse:
        if not target.resource.scale:
            raise no_such_path()
        resource, namespace, name, _ = target
        if request.method == "GET":
            return answer(scale_of(self.store.get(resource, namespace, name)))
        if request.method not in ("PUT", "PATCH"):
            raise not_allowed()
        kind = request.content_type if request.method == "PATCH" else ""
        body = await body_of(request)
        return answer(self.verbs.scale(resource, namespace, name, body, kind, dry=_dry(request)))

    async def _log(self, request: web.Request, target: Target) -> web.StreamResponse:
        pod = self.store.get(PODS, target.namespace, target.name)
        return await self.logs.serve(request, pod, self.closing)

    async def _issue_token(self, request: web.Request, target: Target) -> web.StreamResponse:
        self.store.get(target.resource, target.namespace, target.name)
        until = stamp(time.time() + 3600)
        body = {**await body_of(request), "status": {"token": self._token, "expirationTimestamp": until}}
        return answer(body, 201)

    async def _evict(self, request: web.Request, target: Target) -> web.StreamResponse:
        options = views.as_dict((await body_of(request)).get("deleteOptions"))
        self.verbs.delete(PODS, target.namespace, target.name, options)
        return answer({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}, 201)

    def _metrics(self, request: web.Request, target: Target) -> web.StreamResponse:
        if request.method != "GET":
            raise not_allowed()
        wanted = self._wanted(request, target)
        found = metrics.usage(self.store, target.resource, target.namespace, target.name, wanted.matches)
        if target.name:
            return answer(outward(target.resource, found[0]))
        if wanted.form == "Table":
            return answer(tables.table(target.resource, found, {}, wanted.include))
        head = {"kind": f"{target.resource.kind}List", "apiVersion": target.resource.api_version, "metadata": {}}
        return answer({**head, "items": found})


def _dry(request: web.Request) -> bool:
    return request.query.get("dryRun") == "All"
