"""What can be done to objects: create, update, patch, delete, scale, with the rules of each."""

from __future__ import annotations

from typing import Any

from sandbox.kubernetes import defaults
from sandbox.kubernetes.errors import ApiError, bad_request, conflict, invalid, not_found
from sandbox.kubernetes.patches import apply_patch
from sandbox.kubernetes.resources import JOBS, NAMESPACES, PODS, Resource
from sandbox.kubernetes.store import Object, Store, clone, now
from sandbox.kubernetes.views import as_dict, inward, outward, scale_of, stored

_FIXED = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "selfLink")


class Verbs:
    """The writing half of the API, without HTTP.

    :param store: where the objects are.
    """

    def __init__(self, store: Store) -> None:
        self.store = store

    # Create -------------------------------------------------------------------------------------

    def create(self, resource: Resource, namespace: str, body: Object, *, dry: bool = False) -> Object:
        """Keep a new object and return it.

        :raises ApiError: 400, 404 (no such namespace), 409, 422.
        """
        kept = stored(resource)
        obj = clone(inward(resource, self._checked_kind(resource, body)))
        defaults.name_object(kept, obj, namespace)
        meta = obj["metadata"]
        self._room(kept, meta["name"], namespace)
        for field in (*_FIXED, "resourceVersion", "managedFields"):
            meta.pop(field, None)
        if kept.status and kept.kind not in ("Namespace", "Node"):
            obj.pop("status", None)
        if kept.status and kept is not PODS:
            meta["generation"] = 1
        defaults.fill(kept, obj)
        _own_selector(kept, obj)
        defaults.check(kept, obj)
        if dry:
            if self.store.find(kept, meta.get("namespace", ""), meta["name"]):
                return self.store.create(kept, obj)
            return {**obj, "metadata": {**meta, "uid": "", "creationTimestamp": now()}}
        return self.store.create(kept, obj)

    def _checked_kind(self, resource: Resource, body: Any) -> Object:
        if not isinstance(body, dict):
            raise bad_request("the body of the request is not an object")
        kind, version = body.get("kind", resource.kind), body.get("apiVersion", resource.api_version)
        if (kind, version) != (resource.kind, resource.api_version):
            expected = f"{resource.api_version}, Kind={resource.kind}"
            raise bad_request(f"the object provided is unrecognized (got {version}, Kind={kind}, expected {expected})")
        return body

    def _room(self, resource: Resource, name: str, namespace: str) -> None:
        if not resource.namespaced:
            return
        found = self.store.get(NAMESPACES, "", namespace)
        if found["metadata"].get("deletionTimestamp"):
            text = (
                f'{resource.full_name} "{name}" is forbidden: unable to create new content in namespace {namespace}'
                " because it is being terminated"
            )
            raise ApiError(403, "Forbidden", text, {"name": name, "kind": resource.plural})

    # Update -------------------------------------------------------------------------------------

    def update(
        self, resource: Resource, namespace: str, name: str, body: Object, *, sub: str = "", dry: bool = False
    ) -> Object:
        """Replace an object, or its status, and return it.

        :raises ApiError: 404, 409, 422.
        """
        kept = stored(resource)
        obj = inward(resource, self._checked_kind(resource, body))
        meta = as_dict(obj.get("metadata"))
        if meta.get("name", name) != name:
            raise bad_request(f"the name of the object ({meta['name']}) does not match the name on the URL ({name})")
        old = self.store.find(kept, namespace, name)
        if old is None:
            if not kept.upsert or sub:
                raise not_found(kept, name)
            return self.create(resource, namespace, body, dry=dry)
        if not kept.unconditional and not meta.get("resourceVersion"):
            text = "Invalid value: 0x0: must be specified for an update"
            raise invalid(kept, name, [("metadata.resourceVersion", "FieldValueInvalid", text)])
        return self._settle(kept, old, obj, sub, dry)

    def patch(
        self, resource: Resource, namespace: str, name: str, patch: Any, kind: str, *, sub: str = "", dry: bool = False
    ) -> Object:
        """Patch an object, or its status, and return it.

        :param kind: media type of the patch.
        :raises ApiError: 400, 404, 409, 415, 422.
        """
        kept = stored(resource)
        old = self.store.get(kept, namespace, name)
        shown = outward(resource, old)
        patched = inward(resource, apply_patch(resource, shown, patch, kind))
        return self._settle(kept, old, patched, sub, dry)

    def _settle(self, resource: Resource, old: Object, given: Object, sub: str, dry: bool) -> Object:
        obj = clone(given)
        was, meta = old["metadata"], as_dict(obj.get("metadata"))
        if sub == "status":
            version = meta.get("resourceVersion")
            obj = {**old, "metadata": {**was, "resourceVersion": version}, "status": obj.get("status") or {}}
        else:
            fixed = {key: was[key] for key in _FIXED if key in was}
            kept = {key: value for key, value in meta.items() if key not in (*_FIXED, "managedFields")}
            obj["metadata"] = {**kept, "name": was["name"], **fixed}
            if "namespace" in was:
                obj["metadata"]["namespace"] = was["namespace"]
            if resource.status:
                obj["status"] = old.get("status")
                obj = {key: value for key, value in obj.items() if key != "status" or value is not None}
            defaults.fill(resource, obj)
            defaults.check(resource, obj, old)
            self._count_generation(resource, old, obj)
        if meta.get("uid") and meta["uid"] != was["uid"]:
            raise conflict(resource, was["name"], f"Precondition failed: UID in precondition: {meta['uid']}")
        if dry:
            return obj
        done = self.store.put(resource, obj)
        after = done["metadata"]
        last = after.get("deletionTimestamp") and not after.get("finalizers")
        if last and resource not in (PODS, NAMESPACES):
            self.store.remove(resource, done)
        return done

    def _count_generation(self, resource: Resource, old: Object, obj: Object) -> None:
        changed = old.get("spec") != obj.get("spec")
        if resource.kind == "Deployment":
            changed |= old["metadata"].get("annotations") != obj["metadata"].get("annotations")
        if changed and "generation" in old["metadata"]:
            obj["metadata"]["generation"] = old["metadata"]["generation"] + 1

    # Scale --------------------------------------------------------------------------------------

    def scale(
        self, resource: Resource, namespace: str, name: str, body: Any, kind: str, *, dry: bool = False
    ) -> Object:
        """Change the replicas through the Scale, and return the new Scale.

        :param kind: media type of a patch; empty for an update.
        :raises ApiError: 404, 409, 422.
        """
        old = self.store.get(resource, namespace, name)
        before = scale_of(old)
        after = apply_patch(resource, before, body, kind) if kind else body
        version = as_dict(after.get("metadata")).get("resourceVersion")
        spec = {**old["spec"], "replicas": as_dict(after.get("spec")).get("replicas", 0)}
        changed = {**old, "spec": spec, "metadata": {**old["metadata"], "resourceVersion": version}}
        return scale_of(self._settle(resource, old, changed, "", dry))

    # Delete -------------------------------------------------------------------------------------

    def delete(
        self, resource: Resource, namespace: str, name: str, options: Object | None = None, *, dry: bool = False
    ) -> Object:
        """Delete an object as DeleteOptions say; return it if it lingers, else a Status.

        :raises ApiError: 404, 409 when a precondition does not hold.
        """
        kept, options = stored(resource), options or {}
        obj = self.store.get(kept, namespace, name)
        self._preconditions(kept, obj, as_dict(options.get("preconditions")))
        if not dry and self._lingers(kept, obj, options):
            return outward(resource, self.store.get(kept, namespace, name))
        if not dry:
            self._dependents(kept, obj, options)
            self.store.remove(kept, self.store.get(kept, namespace, name))
        if kept is PODS:
            return outward(resource, obj)
        details = {"name": name, "group": kept.group, "kind": kept.plural, "uid": obj["metadata"]["uid"]}
        details = {key: value for key, value in details.items() if value}
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}

    def _preconditions(self, resource: Resource, obj: Object, wanted: Object) -> None:
        meta = obj["metadata"]
        for key, label in (("uid", "UID"), ("resourceVersion", "ResourceVersion")):
            if wanted.get(key) and wanted[key] != meta[key]:
                why = (
                    f"Precondition failed: {label} in precondition: {wanted[key]}, {label} in object meta: {meta[key]}"
                )
                raise conflict(resource, meta["name"], why)

    def _lingers(self, resource: Resource, obj: Object, options: Object) -> bool:
        grace = options.get("gracePeriodSeconds")
        if resource is PODS:
            asked = grace if grace is not None else obj["spec"].get("terminationGracePeriodSeconds", 30)
            finished = obj["status"].get("phase") in ("Succeeded", "Failed")
            if asked == 0 or finished or not obj["spec"].get("nodeName"):
                return False
        elif resource is not NAMESPACES and not obj["metadata"].get("finalizers"):
            return False
        meta = {**obj["metadata"]}
        meta.setdefault("deletionTimestamp", now(asked if resource is PODS else 0))
        meta["deletionGracePeriodSeconds"] = asked if resource is PODS else 0
        status = {**obj.get("status", {}), "phase": "Terminating"} if resource is NAMESPACES else obj.get("status")
        changed = {**obj, "metadata": meta}
        if status is not None:
            changed["status"] = status
        self.store.put(resource, changed)
        return True

    def _dependents(self, resource: Resource, obj: Object, options: Object) -> None:
        # A Job deleted without a word on propagation leaves its pods, by the rules of batch/v1.
        policy = options.get("propagationPolicy") or ("Orphan" if resource is JOBS else "Background")
        if options.get("orphanDependents"):
            policy = "Orphan"
        for kind, dependent in self.store.dependents(obj):
            if policy == "Orphan":
                owners = [o for o in dependent["metadata"]["ownerReferences"] if o["uid"] != obj["metadata"]["uid"]]
                self.store.put(kind, {**dependent, "metadata": {**dependent["metadata"], "ownerReferences": owners}})
            elif policy == "Foreground":
                meta = dependent["metadata"]
                self.delete(kind, meta.get("namespace", ""), meta["name"], {"propagationPolicy": "Foreground"})


def _own_selector(resource: Resource, obj: Object) -> None:
    """Give a Job the selector and labels that tie its pods to it."""
    if resource is not JOBS or obj["spec"].get("manualSelector"):
        return
    meta, spec = obj["metadata"], obj["spec"]
    meta["uid"] = defaults.new_uid()
    labels = spec["template"]["metadata"].setdefault("labels", {})
    for prefix in ("", "batch.kubernetes.io/"):
        labels[f"{prefix}controller-uid"] = meta["uid"]
        labels[f"{prefix}job-name"] = meta["name"]
    spec["selector"] = {"matchLabels": {"batch.kubernetes.io/controller-uid": meta["uid"]}}
    meta.setdefault("labels", dict(labels))
