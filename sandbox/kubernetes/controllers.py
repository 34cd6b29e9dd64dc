"""The controllers' common ground: a queue of objects to look at, events, and the collector of orphans."""

from __future__ import annotations

import asyncio
import logging
import time
import zlib
from collections.abc import Callable
from typing import Any

from sandbox.kubernetes.defaults import fill, suffix
from sandbox.kubernetes.errors import ApiError
from sandbox.kubernetes.resources import EVENTS, NAMESPACES, PODS, Resource, resource
from sandbox.kubernetes.store import Event, Object, Store, now
from sandbox.kubernetes.verbs import Verbs
from sandbox.kubernetes.views import kinds

log = logging.getLogger(__name__)

Reconcile = Callable[[Object], None]
_EVENTS_KEPT = 1000


class Controllers:
    """Calls each kind's controller for every object that changed, soon after, once for many changes.

    :param store: where the objects are.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.verbs = Verbs(store)
        self._reconcilers: dict[tuple[str, str], tuple[Resource, Reconcile]] = {}
        self._waiting: set[tuple[tuple[str, str], str, str]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._recent: dict[str, Object] = {}

    def register(self, kind: Resource, reconcile: Reconcile) -> None:
        """Have ``reconcile`` called with an object of this kind whenever it, or what it owns, has changed."""
        self._reconcilers[kind.key] = (kind, reconcile)

    def start(self) -> None:
        """Begin: look at every object once, then at what changes."""
        self._loop = asyncio.get_running_loop()
        self.store.listeners.append(self._changed)
        for kind, _ in self._reconcilers.values():
            for obj in self.store.objects(kind):
                self.look_at(kind, obj)

    def look_at(self, kind: Resource, obj: Object, *, after: float = 0) -> None:
        """Have an object looked at, now or after some seconds."""
        meta = obj["metadata"]
        self._enqueue(kind.key, meta.get("namespace", ""), meta["name"], after)

    def _enqueue(self, key: tuple[str, str], namespace: str, name: str, after: float = 0) -> None:
        if key not in self._reconcilers or self._loop is None:
            return
        item = (key, namespace, name)
        if after:
            self._loop.call_later(after, self._enqueue, key, namespace, name)
        elif item not in self._waiting:
            self._waiting.add(item)
            self._loop.call_soon(self._run, item)

    def _run(self, item: tuple[tuple[str, str], str, str]) -> None:
        self._waiting.discard(item)
        key, namespace, name = item
        kind, reconcile = self._reconcilers[key]
        obj = self.store.find(kind, namespace, name)
        if obj is None:
            return
        try:
            reconcile(obj)
        except ApiError as error:
            log.warning("%s %s/%s: %s", kind.kind, namespace, name, error.message)
        except Exception:
            log.exception("%s %s/%s", kind.kind, namespace, name)

    def _changed(self, event: Event) -> None:
        if event.resource is EVENTS:
            return
        meta = event.new.obj["metadata"]
        self._enqueue(event.resource.key, meta.get("namespace", ""), meta["name"])
        for owner in meta.get("ownerReferences") or ():
            group = owner["apiVersion"].rpartition("/")[0]
            for key, (kind, _) in self._reconcilers.items():
                if kind.kind == owner["kind"] and kind.group == group:
                    self._enqueue(key, meta.get("namespace", ""), owner["name"])
        if event.type == "DELETED" and self._loop is not None:
            self._loop.call_soon(self._collect, event.new.obj)

    def _collect(self, owner: Object) -> None:
        """Delete what a deleted object leaves behind."""
        for kind, obj in self.store.dependents(owner):
            meta = obj["metadata"]
            if not meta.get("deletionTimestamp"):
                self.verbs.delete(kind, meta.get("namespace", ""), meta["name"], {"propagationPolicy": "Background"})

    # For the controllers ------------------------------------------------------------------------

    def create(self, kind: Resource, obj: Object) -> Object:
        """Create an object as a controller does."""
        fill(kind, obj)
        return self.store.create(kind, obj)

    def tell(
        self, kind: Resource, obj: Object, reason: str, message: str, *, source: str, warning: bool = False
    ) -> None:
        """Record an event about an object; the same one again counts up.

        :param source: the component that says so.
        """
        meta = obj["metadata"]
        key = f"{meta['uid']}/{reason}/{zlib.crc32(message.encode())}"
        known = self._recent.get(key)
        if known and self.store.find(EVENTS, known["metadata"]["namespace"], known["metadata"]["name"]):
            self._recent[key] = self.store.change(EVENTS, known, _again)
            return
        namespace = meta.get("namespace", "default")
        about = {"kind": kind.kind, "apiVersion": kind.api_version, "uid": meta["uid"], "name": meta["name"]}
        event: dict[str, Any] = {
            "metadata": {"name": f"{meta['name']}.{time.time_ns():x}", "namespace": namespace},
            "involvedObject": {**about, "namespace": meta.get("namespace", "")},
            "reason": reason,
            "message": message,
            "type": "Warning" if warning else "Normal",
            "source": {"component": source},
            "firstTimestamp": now(),
            "lastTimestamp": now(),
            "count": 1,
        }
        self._recent[key] = self.create(EVENTS, event)
        while len(self._recent) > _EVENTS_KEPT:
            oldest = self._recent.pop(next(iter(self._recent)))
            self.store.remove(EVENTS, oldest)


def _again(event: Object) -> None:
    event["count"] += 1
    event["lastTimestamp"] = now()


def owner_reference(kind: Resource, owner: Object) -> Object:
    """Return the ownerReference of a controller's object."""
    return {
        "apiVersion": kind.api_version,
        "kind": kind.kind,
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def pod_of(kind: Resource, owner: Object, prefix: str) -> Object:
    """Return a new pod of an owner's template, named by the prefix and five random characters."""
    template = owner["spec"]["template"]
    meta = {key: value for key, value in template["metadata"].items() if key in ("labels", "annotations")}
    meta["name"] = f"{prefix}-{suffix()}"
    meta["generateName"] = f"{prefix}-"
    meta["namespace"] = owner["metadata"]["namespace"]
    meta["ownerReferences"] = [owner_reference(kind, owner)]
    return {"metadata": meta, "spec": dict(template["spec"])}


def is_active(pod: Object) -> bool:
    """Whether a pod counts as one of its owner's: not finished, not being deleted."""
    return pod["status"].get("phase") not in ("Succeeded", "Failed") and "deletionTimestamp" not in pod["metadata"]


def condition(obj: Object, kind: str) -> Object:
    """Return a condition of the object, or an empty one."""
    conditions = (obj.get("status") or {}).get("conditions") or ()
    found: Object = next((c for c in conditions if c["type"] == kind), {})
    return found


def is_ready(pod: Object) -> bool:
    """Whether the pod's Ready condition is true."""
    return condition(pod, "Ready").get("status") == "True"


class Namespaces:
    """What a namespace has from its start, and how it ends: emptied first."""

    def __init__(self, controllers: Controllers) -> None:
        self._controllers = controllers
        controllers.register(NAMESPACES, self.reconcile)

    def reconcile(self, namespace: Object) -> None:
        """Empty and remove a namespace that is being deleted; give a new one its ServiceAccount."""
        store, name = self._controllers.store, namespace["metadata"]["name"]
        if "deletionTimestamp" not in namespace["metadata"]:
            self._furnish(name)
            return
        left = 0
        for kind in kinds():
            for obj in store.objects(kind, name):
                meta = obj["metadata"]
                self._controllers.verbs.delete(kind, name, meta["name"], {"gracePeriodSeconds": 0})
                left += store.find(kind, name, meta["name"]) is not None
        if left:
            self._controllers.look_at(NAMESPACES, namespace, after=0.2)
        else:
            store.remove(NAMESPACES, namespace)

    def _furnish(self, name: str) -> None:
        store = self._controllers.store
        account, config = resource("serviceaccounts"), resource("configmaps")
        if not store.find(account, name, "default"):
            self._controllers.create(account, {"metadata": {"name": "default", "namespace": name}})
        if not store.find(config, name, "kube-root-ca.crt"):
            data = {"ca.crt": ""}
            self._controllers.create(
                config, {"metadata": {"name": "kube-root-ca.crt", "namespace": name}, "data": data}
            )


def delete_pod(controllers: Controllers, pod: Object) -> None:
    """Delete a pod as a controller does, with its grace period."""
    controllers.verbs.delete(PODS, pod["metadata"]["namespace"], pod["metadata"]["name"])
