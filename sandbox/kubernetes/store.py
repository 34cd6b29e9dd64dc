"""Objects in memory, their versions, and the history that watches read.

A stored object is never changed in place: every write puts a new one, so lists, watches and cached
JSON may share them without copying.
"""

from __future__ import annotations

import json
import time
import uuid
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from sandbox.kubernetes.errors import already_exists, conflict, not_found
from sandbox.kubernetes.resources import Resource

Object = dict[str, Any]
Name = tuple[str, str]
"""Namespace ("" for cluster-wide kinds) and name."""

HISTORY = 50_000
"""Changes that are remembered; a watch from before them gets 410 Expired."""


def now(shift: float = 0) -> str:
    """Return the time as objects hold it, in UTC, ``shift`` seconds from now."""
    return stamp(time.time() + shift)


def stamp(seconds: float) -> str:
    """Return a Unix time as objects hold it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds(text: str) -> float:
    """Return the Unix time of a time as objects hold it."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def encode(value: Any) -> bytes:
    """Return compact JSON."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def clone(obj: Object) -> Object:
    """Return a copy that may be changed."""
    copied: Object = json.loads(json.dumps(obj))
    return copied


class Entry:
    """One version of one object, and its JSON once somebody asked for it."""

    __slots__ = ("_json", "obj", "resource")

    def __init__(self, resource: Resource, obj: Object) -> None:
        self.resource, self.obj = resource, obj
        self._json: bytes | None = None

    @property
    def json(self) -> bytes:
        """The object as JSON, apiVersion and kind included."""
        if self._json is None:
            head = {"kind": self.resource.kind, "apiVersion": self.resource.api_version}
            self._json = encode({**head, **self.obj})
        return self._json


class Event:
    """A change: ``old`` is None for an added object, ``new`` is the last state of a deleted one."""

    __slots__ = ("new", "old", "resource", "type", "version")

    def __init__(self, version: int, kind: str, old: Entry | None, new: Entry) -> None:
        self.version, self.type, self.old, self.new = version, kind, old, new
        self.resource = new.resource


class _Kind:
    def __init__(self) -> None:
        self.entries: dict[Name, Entry] = {}
        self.order: list[Name] = []


class Store:
    """All objects; every change is told to the listeners at once, in order."""

    def __init__(self) -> None:
        # Versions of a new process are higher than all of an old one's: a watch that outlived the old
        # process is told to list anew, instead of waiting for versions that were there before.
        self.version = int(time.time() * 10)
        self.compacted = self.version
        self.history: deque[Event] = deque(maxlen=HISTORY)
        self.listeners: list[Callable[[Event], None]] = []
        self._kinds: dict[tuple[str, str], _Kind] = {}
        self._dependents: dict[str, set[tuple[Resource, Name]]] = {}

    # Reading ------------------------------------------------------------------------------------

    def _kind(self, resource: Resource) -> _Kind:
        return self._kinds.setdefault(resource.key, _Kind())

    def find(self, resource: Resource, namespace: str, name: str) -> Object | None:
        """Return an object, or None."""
        entry = self._kind(resource).entries.get((namespace, name))
        return entry.obj if entry else None

    def entry(self, resource: Resource, namespace: str, name: str) -> Entry:
        """Return an object with its JSON.

        :raises ApiError: 404.
        """
        entry = self._kind(resource).entries.get((namespace, name))
        if entry is None:
            raise not_found(resource, name)
        return entry

    def get(self, resource: Resource, namespace: str, name: str) -> Object:
        """Return an object; not to be changed in place.

        :raises ApiError: 404.
        """
        return self.entry(resource, namespace, name).obj

    def entries(self, resource: Resource, namespace: str = "", after: Name | None = None) -> Iterator[Entry]:
        """Yield a kind's objects in order of namespace and name; those after a name, if given."""
        kind = self._kind(resource)
        start = bisect_left(kind.order, (namespace, "")) if namespace else 0
        if after is not None:
            start = max(start, bisect_left(kind.order, (after[0], after[1] + "\0")))
        for at in range(start, len(kind.order)):
            name = kind.order[at]
            if namespace and name[0] != namespace:
                return
            yield kind.entries[name]

    def objects(self, resource: Resource, namespace: str = "") -> list[Object]:
        """Return a kind's objects; not to be changed in place."""
        return [entry.obj for entry in self.entries(resource, namespace)]

    def count_after(self, resource: Resource, namespace: str, after: Name) -> int:
        """Return how many objects of a kind follow a name."""
        order = self._kind(resource).order
        start = bisect_left(order, (after[0], after[1] + "\0"))
        end = bisect_left(order, (namespace + "\0", "")) if namespace else len(order)
        return max(0, end - start)

    def dependents(self, owner: Object, resource: Resource | None = None) -> list[tuple[Resource, Object]]:
        """Return the objects whose ownerReferences name this one."""
        held = self._dependents.get(owner["metadata"]["uid"], ())
        chosen = [(r, name) for r, name in held if resource is None or r.key == resource.key]
        return [(r, self._kind(r).entries[name].obj) for r, name in sorted(chosen, key=lambda c: (c[0].plural, c[1]))]

    def owned(self, owner: Object, resource: Resource) -> list[Object]:
        """Return the objects of a kind whose ownerReferences name this one."""
        return [obj for _, obj in self.dependents(owner, resource)]

    # Writing ------------------------------------------------------------------------------------

    def create(self, resource: Resource, obj: Object) -> Object:
        """Keep a new object; fills in uid, creationTimestamp and resourceVersion unless they are there.

        :raises ApiError: 409 AlreadyExists.
        """
        meta = obj["metadata"]
        name = (meta.get("namespace", ""), meta["name"])
        kind = self._kind(resource)
        if name in kind.entries:
            raise already_exists(resource, name[1])
        obj["metadata"] = {**meta, "uid": meta.get("uid") or str(uuid.uuid4())}
        obj["metadata"].setdefault("creationTimestamp", now())
        entry = self._stamped(resource, obj)
        kind.entries[name] = entry
        insort(kind.order, name)
        self._link(entry)
        self._tell("ADDED", None, entry)
        return entry.obj

    def put(self, resource: Resource, obj: Object) -> Object:
        """Replace an object, unless nothing would change.

        :raises ApiError: 404; 409 Conflict when its resourceVersion is not the stored one.
        """
        meta = obj["metadata"]
        name = (meta.get("namespace", ""), meta["name"])
        old = self.entry(resource, *name)
        was = old.obj["metadata"]
        if meta.get("uid") and meta["uid"] != was["uid"]:
            why = f"Precondition failed: UID in precondition: {meta['uid']}, UID in object meta: {was['uid']}"
            raise conflict(resource, name[1], why)
        if meta.get("resourceVersion") and meta["resourceVersion"] != was["resourceVersion"]:
            raise conflict(resource, name[1])
        obj["metadata"] = {**meta, "uid": was["uid"], "resourceVersion": was["resourceVersion"]}
        if obj == old.obj:
            return old.obj
        self._unlink(old)
        entry = self._stamped(resource, obj)
        self._kind(resource).entries[name] = entry
        self._link(entry)
        self._tell("MODIFIED", old, entry)
        return entry.obj

    def change(self, resource: Resource, obj: Object, edit: Callable[[Object], None]) -> Object:
        """Let ``edit`` change a copy of the stored object in place, and keep the result."""
        meta = obj["metadata"]
        copied = clone(self.get(resource, meta.get("namespace", ""), meta["name"]))
        edit(copied)
        return self.put(resource, copied)

    def set_status(self, resource: Resource, obj: Object, status: Object) -> Object:
        """Replace an object's status, if it is still there."""
        meta = obj["metadata"]
        stored = self.find(resource, meta.get("namespace", ""), meta["name"])
        if stored is None or stored["metadata"]["uid"] != meta["uid"]:
            return obj
        return self.put(resource, {**stored, "status": status})

    def remove(self, resource: Resource, obj: Object) -> Object:
        """Forget an object at once; no error when it is gone already."""
        meta = obj["metadata"]
        name = (meta.get("namespace", ""), meta["name"])
        kind = self._kind(resource)
        old = kind.entries.get(name)
        if old is None or old.obj["metadata"]["uid"] != meta["uid"]:
            return obj
        del kind.entries[name]
        del kind.order[bisect_left(kind.order, name)]
        self._unlink(old)
        last = self._stamped(resource, {**old.obj, "metadata": dict(old.obj["metadata"])})
        self._tell("DELETED", old, last)
        return last.obj

    def forget(self) -> None:
        """Forget the history: every watch from an older resourceVersion gets 410 Expired."""
        self.history.clear()
        self.compacted = self.version

    # Insides ------------------------------------------------------------------------------------

    def _stamped(self, resource: Resource, obj: Object) -> Entry:
        self.version += 1
        obj["metadata"]["resourceVersion"] = str(self.version)
        return Entry(resource, obj)

    def _owners(self, entry: Entry) -> list[str]:
        return [owner["uid"] for owner in entry.obj["metadata"].get("ownerReferences") or ()]

    def _link(self, entry: Entry) -> None:
        meta = entry.obj["metadata"]
        for uid in self._owners(entry):
            self._dependents.setdefault(uid, set()).add((entry.resource, (meta.get("namespace", ""), meta["name"])))

    def _unlink(self, entry: Entry) -> None:
        meta = entry.obj["metadata"]
        for uid in self._owners(entry):
            held = self._dependents[uid]
            held.discard((entry.resource, (meta.get("namespace", ""), meta["name"])))
            if not held:
                del self._dependents[uid]

    def _tell(self, kind: str, old: Entry | None, new: Entry) -> None:
        if len(self.history) == HISTORY:
            self.compacted = self.history[0].version
        event = Event(self.version, kind, old, new)
        self.history.append(event)
        for listener in list(self.listeners):
            listener(event)
