"""Change the Kubernetes API: every request with the same time limits, and errors by status code.

Beside :class:`~vcci_ops.hooks.kubernetes.KubernetesReader`, so that what only reads cannot change anything.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from vcci_ops.exceptions import Conflict, Forbidden, NoData, Refused, UnexpectedAnswer, Unreachable
from vcci_ops.hooks.kubernetes import SYSTEM, TIMEOUT, KubernetesReader, _kind, _segment

MERGE, STRATEGIC, JSON_PATCH = (
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/json-patch+json",
)
"""Kinds of patch. https://kubernetes.io/docs/reference/using-api/api-concepts/#patch-and-apply"""
DEPLOYMENTS, REPLICASETS = ("apps", "v1", "deployments"), ("apps", "v1", "replicasets")
JOBS, LEASES = ("batch", "v1", "jobs"), ("coordination.k8s.io", "v1", "leases")
PODS, SECRETS = ("", "v1", "pods"), ("", "v1", "secrets")
Kind = tuple[str, str, str]
"""API group ("" for core), version and plural."""
MANAGER = "vcci-ops"
"""Under this name the API notes in ``managedFields`` what was written here."""
_EVER = 10 * 365 * 86400


def path_of(kind: Kind, namespace: str, name: str = "") -> str:
    """Return the path of an object, or of all of its kind in a namespace."""
    group, version, plural = kind
    base = f"/apis/{group}/{version}" if group else f"/api/{version}"
    return f"{base}/namespaces/{_segment(namespace)}/{plural}" + (f"/{_segment(name)}" if name else "")


class KubernetesWriter(KubernetesReader):
    """Read and change objects of one cluster, as plain JSON."""

    def object(self, kind: Kind, namespace: str, name: str) -> dict[str, Any]:
        """Return an object.

        :raises NoData: when there is none of this name.
        """
        missing = f"there is no {_word(kind)} {name} in namespace {namespace}"
        action = f"get {_word(kind)} in namespace {namespace}"
        return self._json(path_of(kind, namespace, name), action, missing=missing)

    def objects(self, kind: Kind, namespace: str, selector: str = "") -> Iterator[dict[str, Any]]:
        """Yield the objects of a kind, in pages.

        :param selector: label selector; default all.
        """
        return self._pages(_word(kind), path_of(kind, namespace), namespace, selector)

    def create(self, kind: Kind, namespace: str, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Create an object and return it.

        :raises Conflict: when there is one of this name already.
        """
        return self._send("POST", path_of(kind, namespace), f"create {_word(kind)} in namespace {namespace}", manifest)

    def replace(self, kind: Kind, namespace: str, obj: Mapping[str, Any]) -> dict[str, Any]:
        """Write an object back.

        :raises Conflict: when it changed since it was read (``metadata.resourceVersion``).
        """
        name = obj["metadata"]["name"]
        return self._send("PUT", path_of(kind, namespace, name), f"update {_word(kind)} in namespace {namespace}", obj)

    def patch(
        self, kind: Kind, namespace: str, name: str, patch: Any, *, how: str = STRATEGIC, subresource: str = ""
    ) -> dict[str, Any]:
        """Patch an object and return it.

        :param patch: put ``metadata.resourceVersion`` in it to refuse when somebody was quicker.
        :param how: one of :data:`MERGE`, :data:`STRATEGIC`, :data:`JSON_PATCH`.
        :param subresource: e.g. ``scale``.
        :raises Conflict: when the resourceVersion in the patch is not the object's (any more).
        :raises NoData: when there is no such object.
        """
        path = path_of(kind, namespace, name) + (f"/{subresource}" if subresource else "")
        what = f"patch {_word(kind)}{'/' + subresource if subresource else ''} in namespace {namespace}"
        return self._send("PATCH", path, what, patch, how)

    def delete(self, kind: Kind, namespace: str, name: str, *, uid: str = "") -> bool:
        """Delete an object and, in the background, what it owns; return whether there was one.

        :param uid: refuse when the object of this name is another one.
        :raises Conflict: when the uid is another.
        """
        body: dict[str, Any] = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        if uid:
            body["preconditions"] = {"uid": uid}
        try:
            self._send("DELETE", path_of(kind, namespace, name), f"delete {_word(kind)} in namespace {namespace}", body)
        except NoData:
            return False
        return True

    def tail(
        self, namespace: str, pod: str, container: str, *, lines: int = 20, previous: bool = False, most: int = 65536
    ) -> list[str]:
        """Return the last lines of a container's log, oldest first.

        :param previous: of the run before the last restart.
        :param most: bytes to read at most.
        :raises NoData: when there is no such log (any more).
        """
        query: dict[str, Any] = {"container": container, "tailLines": lines, "limitBytes": most}
        if previous:
            query["previous"] = "true"
        missing = f"pod {pod} has no {'earlier ' if previous else ''}log of {container}"
        path = f"{path_of(PODS, namespace, pod)}/log"
        answer = self._get(path, f"get pods/log in namespace {namespace}", query, missing=missing)
        return str(answer.data.decode("utf-8", "replace")).splitlines()

    def log_end(self, namespace: str, pod: str, container: str, *, most: int) -> tuple[bytes, bool]:
        """Return the end of a container's log, and whether something before it was left out.

        :param most: bytes to keep; also what it takes of memory, whatever the log's length.
        :raises NoData: when there is no such log (any more).
        """
        kept, cut = b"", False
        for chunk in self.log(namespace, pod, container, seconds=_EVER):
            kept += chunk
            if len(kept) > most:
                kept, cut = kept[-most:], True
        return kept, cut

    def _send(
        self, method: str, path: str, action: str, body: Any, content_type: str = "application/json"
    ) -> dict[str, Any]:
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        try:
            answer = self._client.call_api(
                path,
                method,
                query_params=[] if method == "DELETE" else [("fieldManager", MANAGER)],
                header_params={"Accept": "application/json", "Content-Type": content_type},
                body=body,
                auth_settings=["BearerToken"],
                _preload_content=False,
                _request_timeout=TIMEOUT,
            )
            found = json.loads(answer.data)
        except ApiException as error:
            raise self._refusal(error, action) from None
        except (HTTPError, OSError) as error:
            raise Unreachable(SYSTEM, f"{_kind(error)} on: {action}") from None
        except ValueError:
            raise UnexpectedAnswer(SYSTEM, f"no JSON in answer to {action}") from None
        return dict(found)

    def _refusal(self, error: Any, action: str) -> Exception:
        status = int(error.status or 0)
        said = _message(error.body) or str(error.reason)
        if status == 403:
            return Forbidden(SYSTEM, f"{action} ({said})")
        if status == 409:
            return Conflict(f"{SYSTEM} refused to {action}: {said}")
        if status in (400, 422):
            return Refused(f"{SYSTEM} refused to {action}: {said}")
        return self._translated(status, error.reason, action, said)


def _word(kind: Kind) -> str:
    group, _, plural = kind
    return f"{plural}.{group}" if group else plural


def _message(body: Any) -> str:
    try:
        return str(json.loads(body)["message"])
    except (TypeError, ValueError, KeyError):
        return ""
