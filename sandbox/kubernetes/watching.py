"""Watches: changes as they happen, from a resourceVersion on.

https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable
from typing import Any

from aiohttp import web

from sandbox.kubernetes.errors import ApiError, gone
from sandbox.kubernetes.resources import Resource
from sandbox.kubernetes.selecting import Matches
from sandbox.kubernetes.store import Entry, Event, Store, encode
from sandbox.kubernetes.tables import columns, rows
from sandbox.kubernetes.views import flag, outward

_LONGEST = 1800.0
_BOOKMARK_EVERY = 60.0


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What a watch or list is about."""

    resource: Resource
    namespace: str
    matches: Matches | None
    form: str = ""
    include: str = "Metadata"

    def has(self, entry: Entry | None) -> bool:
        """Whether an object is among them."""
        if entry is None or entry.resource.key != self.resource.key:
            return False
        if self.namespace and entry.obj["metadata"].get("namespace") != self.namespace:
            return False
        return self.matches is None or self.matches(entry.obj)


class _Stream:
    """Events in the form the caller wants: objects, or one-row tables."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._first = True

    def _object(self, entry: Entry) -> bytes:
        wanted = self._wanted
        if wanted.form == "Table":
            head: dict[str, Any] = {"kind": "Table", "apiVersion": "meta.k8s.io/v1"}
            head["metadata"] = {"resourceVersion": entry.obj["metadata"]["resourceVersion"]}
            head["columnDefinitions"] = columns(wanted.resource) if self._first else None
            self._first = False
            return encode({**head, "rows": rows(wanted.resource, [entry.obj], wanted.include)})
        if wanted.form == "PartialObjectMetadata":
            head = {"kind": wanted.form, "apiVersion": "meta.k8s.io/v1"}
            return encode({**head, "metadata": entry.obj["metadata"]})
        return entry.json if not wanted.resource.stored_as else encode(outward(wanted.resource, entry.obj))

    def line(self, kind: str, entry: Entry) -> bytes:
        """Return one event as it goes over the wire."""
        return b'{"type":"%s","object":%s}\n' % (kind.encode(), self._object(entry))

    def translate(self, event: Event) -> bytes | None:
        """Return a change as seen through the selectors: what no longer matches was deleted."""
        before, after = self._wanted.has(event.old), self._wanted.has(event.new)
        if event.type == "DELETED":
            return self.line("DELETED", event.new) if before else None
        if after:
            return self.line("MODIFIED" if before else "ADDED", event.new)
        return self.line("DELETED", event.new) if before else None


def _bookmark(resource: Resource, version: int, *, initial: bool = False) -> bytes:
    meta: dict[str, Any] = {"resourceVersion": str(version), "creationTimestamp": None}
    if initial:
        meta["annotations"] = {"k8s.io/initial-events-end": "true"}
    obj = {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": meta}
    return encode({"type": "BOOKMARK", "object": obj}) + b"\n"


def _beginning(store: Store, wanted: Wanted, stream: _Stream, version: str, initial: bool) -> list[bytes]:
    if initial or version in ("", "0"):
        lines = [stream.line("ADDED", e) for e in store.entries(wanted.resource, wanted.namespace) if wanted.has(e)]
        return [*lines, _bookmark(wanted.resource, store.version, initial=True)] if initial else lines
    since = int(version)
    if since < store.compacted:
        raise gone(f"too old resource version: {since} ({store.compacted})")
    if since > store.version:
        raise ApiError(504, "Timeout", f"Too large resource version: {since}, current: {store.version}")
    return [line for event in store.history if event.version > since and (line := stream.translate(event))]


async def serve(request: web.Request, store: Store, wanted: Wanted, closing: asyncio.Event) -> web.StreamResponse:
    """Answer a watch until its time is over, the caller leaves, or the server closes."""
    query = request.query
    stream = _Stream(wanted)
    queue: asyncio.Queue[bytes | None] = asyncio.Queue()

    def listen(event: Event) -> None:
        if event.resource.key == wanted.resource.key and (line := stream.translate(event)):
            queue.put_nowait(line)

    response = web.StreamResponse(headers={"Content-Type": "application/json", "Cache-Control": "no-cache, private"})
    try:
        lines = _beginning(store, wanted, stream, query.get("resourceVersion", ""), flag(query, "sendInitialEvents"))
    except ApiError as error:
        lines = [encode({"type": "ERROR", "object": error.status()}) + b"\n"]
        await response.prepare(request)
        await response.write(lines[0])
        return response
    store.listeners.append(listen)
    try:
        await response.prepare(request)
        if lines:
            await response.write(b"".join(lines))
        limit = float(query.get("timeoutSeconds") or _LONGEST)
        bookmarks = flag(query, "allowWatchBookmarks")
        bookmark = (lambda: _bookmark(wanted.resource, store.version)) if bookmarks else None
        await _follow(response, queue, bookmark, limit, closing)
    finally:
        store.listeners.remove(listen)
    return response


async def _follow(
    response: web.StreamResponse,
    queue: asyncio.Queue[bytes | None],
    bookmark: Callable[[], bytes] | None,
    limit: float,
    closing: asyncio.Event,
) -> None:
    until = time.monotonic() + limit
    closer = asyncio.ensure_future(_tell_closing(queue, closing))
    try:
        while (left := until - time.monotonic()) > 0:
            try:
                line = await asyncio.wait_for(queue.get(), min(left, _BOOKMARK_EVERY))
            except TimeoutError:
                if bookmark:
                    await response.write(bookmark())
                continue
            if line is None:
                return
            waiting = [line]
            while not queue.empty() and (more := queue.get_nowait()):
                waiting.append(more)
            await response.write(b"".join(waiting))
    finally:
        closer.cancel()


async def _tell_closing(queue: asyncio.Queue[bytes | None], closing: asyncio.Event) -> None:
    await closing.wait()
    queue.put_nowait(None)
