"""Read the Kubernetes API: lists in pages, logs in chunks, errors in this library's words.

Built on the provider's hook, which knows how to log in. Pages are read as plain JSON and reduced to the
small records of :mod:`vcci_ops.domain.pods` at once, so that memory does not grow with the namespace: the
client's own models of ten thousand pods take over a gigabyte.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from vcci_ops.domain.pods import Pod
from vcci_ops.domain.usage import Amounts, Node, PodLimits
from vcci_ops.domain.workloads import Deployment, owning_deployment
from vcci_ops.exceptions import Forbidden, MeasurementError, NoData, UnexpectedAnswer, Unreachable
from vcci_ops.hooks.lookups import remembered

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

SYSTEM = "Kubernetes"
TIMEOUT = (5.0, 10.0)
"""Seconds to connect, and between two pieces of an answer."""
EXTRAS = frozenset(
    {
        "in_cluster",
        "kube_config",
        "kube_config_path",
        "cluster_context",
        "namespace",
        "disable_verify_ssl",
        "disable_tcp_keepalive",
    }
)
"""What may stand in the connection's extra; see the provider's page on the Kubernetes connection."""
_OTHER_EXTRAS = "xcom_sidecar_"
_METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=1,application/json"
_METRICS = "/apis/metrics.k8s.io/v1beta1"
_PASSING = frozenset({429, 502, 503, 504})


class KubernetesReader:
    """Read-only access to one cluster.

    Call :meth:`connect` in the task's main thread; after that every method may be called from any thread.

    :param kubernetes_conn_id: Airflow connection of type kubernetes.
    :param page_size: objects to a list request; bounds memory. Default: 500, as kubectl.
    """

    def __init__(self, kubernetes_conn_id: str = "vcci_kubernetes", *, page_size: int = 500) -> None:
        self.kubernetes_conn_id = kubernetes_conn_id
        self.page_size = page_size

    def connect(self) -> KubernetesReader:
        """Read the connection and make the client; sends nothing.

        :raises MeasurementError: when the connection is missing or cannot be used.
        """
        self._client  # noqa: B018 - the property makes it
        return self

    @cached_property
    def _client(self) -> ApiClient:
        from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook
        from airflow.sdk.exceptions import AirflowException
        from kubernetes.config import ConfigException

        where = f"the Airflow connection {self.kubernetes_conn_id}"
        try:
            hook = remembered(KubernetesHook)(kubernetes_conn_id=self.kubernetes_conn_id)
            self._only_known_extras(where, hook.conn_extras)
            client = hook.get_conn()
        except (AirflowException, ConfigException, OSError, ValueError) as error:
            # Not the error's text: a parser quotes what it failed on, and that may be a credential.
            raise MeasurementError(f"{where} is missing or cannot be used ({type(error).__name__})") from None
        # urllib3's own retries multiply the time a dead system takes to be reported.
        client.rest_client.pool_manager.connection_pool_kw["retries"] = False
        return client

    @staticmethod
    def _only_known_extras(where: str, extras: Mapping[str, Any]) -> None:
        for key in extras:
            name = key.removeprefix("extra__kubernetes__")
            if name not in EXTRAS and not name.startswith(_OTHER_EXTRAS):
                raise MeasurementError(f"{where} has an unknown extra {key!r}; known are {', '.join(sorted(EXTRAS))}")

    # What the checks read --------------------------------------------------------------------------

    def pods(self, namespace: str, selector: str = "") -> Iterator[Pod]:
        """Yield the pods of a namespace.

        :param selector: label selector; default all.
        """
        path = f"/api/v1/namespaces/{_segment(namespace)}/pods"
        return (Pod.from_json(item) for item in self._pages("pods", path, namespace, selector))

    def pod_limits(self, namespace: str) -> Iterator[PodLimits]:
        """Yield the memory limits of the running pods of a namespace."""
        for item in self._pages("pods", f"/api/v1/namespaces/{_segment(namespace)}/pods", namespace):
            limits = PodLimits.from_json(item, _number)
            if limits:
                yield limits

    def replica_sets(self, namespace: str, selector: str = "") -> dict[str, str]:
        """Return ReplicaSet → Deployment of a namespace; asks for metadata only."""
        path = f"/apis/apps/v1/namespaces/{_segment(namespace)}/replicasets"
        items = self._pages("replicasets.apps", path, namespace, selector, accept=_METADATA_ONLY)
        return dict(pair for item in items if (pair := owning_deployment(item)))

    def deployments(self, namespace: str) -> list[Deployment]:
        """Return the Deployments of a namespace."""
        path = f"/apis/apps/v1/namespaces/{_segment(namespace)}/deployments"
        return [Deployment.from_json(item) for item in self._pages("deployments.apps", path, namespace)]

    def deployment(self, namespace: str, name: str) -> Deployment:
        """Return a Deployment.

        :raises NoData: when there is none of this name.
        """
        path = f"/apis/apps/v1/namespaces/{_segment(namespace)}/deployments/{_segment(name)}"
        missing = f"there is no Deployment {name} in namespace {namespace}"
        return Deployment.from_json(self._json(path, f"get deployments.apps in namespace {namespace}", missing=missing))

    def nodes(self) -> list[Node]:
        """Return all nodes."""
        return [Node.from_json(item, _number) for item in self._pages("nodes", "/api/v1/nodes")]

    def node_usage(self) -> dict[str, Amounts]:
        """Return node → what it uses, from the metrics API."""
        items = self._pages("nodes.metrics.k8s.io", f"{_METRICS}/nodes")
        return {item["metadata"]["name"]: Amounts.from_json(item.get("usage") or {}, _number) for item in items}

    def pod_usage(self, namespace: str) -> dict[str, dict[str, float]]:
        """Return pod → container → memory in bytes, from the metrics API."""
        items = self._pages("pods.metrics.k8s.io", f"{_METRICS}/namespaces/{_segment(namespace)}/pods", namespace)
        return {item["metadata"]["name"]: dict(_memory(item.get("containers") or ())) for item in items}

    def log(
        self, namespace: str, pod: str, container: str, *, seconds: float, previous: bool = False, chunk: int = 1 << 20
    ) -> Iterator[bytes]:
        """Yield a container's log in chunks.

        :param seconds: how far to look back.
        :param previous: the run before the last restart instead of the present one.
        :param chunk: bytes to read at once.
        :raises NoData: when there is no such log (any more).
        """
        from urllib3.exceptions import HTTPError

        query = {"container": container, "sinceSeconds": max(int(seconds), 1)}
        if previous:
            query["previous"] = "true"
        action = f"get pods/log in namespace {namespace}"
        missing = f"pod {pod} has no {'earlier ' if previous else ''}log of {container}"
        path = f"/api/v1/namespaces/{_segment(namespace)}/pods/{_segment(pod)}/log"
        answer = self._get(path, action, query, missing=missing)
        try:
            yield b""  # there is a log, even when nothing follows
            # read(), not stream(): the latter yields every small piece the server happened to send.
            while data := answer.read(chunk):
                yield data
        except (HTTPError, OSError) as error:
            raise Unreachable(SYSTEM, f"the log of {pod} broke off ({type(error).__name__})") from error
        finally:
            answer.close()

    # How -------------------------------------------------------------------------------------------

    def _pages(
        self, resource: str, path: str, namespace: str = "", selector: str = "", accept: str = "application/json"
    ) -> Iterator[dict[str, Any]]:
        action = f"list {resource}" + (f" in namespace {namespace}" if namespace else "")
        missing = f"{SYSTEM} has no API for {resource}"
        if resource.endswith("metrics.k8s.io"):
            missing = f"{SYSTEM} has no metrics API (metrics.k8s.io); is the metrics-server installed?"
        query: dict[str, Any] = {"limit": self.page_size}
        if selector:
            query["labelSelector"] = selector
        while True:
            page = self._json(path, action, query, accept, missing)
            yield from page.get("items") or ()
            following = (page.get("metadata") or {}).get("continue")
            if not following:
                return
            query["continue"] = following
            del page

    def _json(
        self,
        path: str,
        action: str,
        query: Mapping[str, Any] | None = None,
        accept: str = "application/json",
        missing: str = "",
    ) -> dict[str, Any]:
        from urllib3.exceptions import HTTPError

        answer = self._get(path, action, query, accept=accept, missing=missing)
        try:
            data = json.loads(answer.data)
        except (HTTPError, OSError) as error:
            raise Unreachable(SYSTEM, f"the answer to {action} broke off ({type(error).__name__})") from error
        except ValueError as error:
            raise UnexpectedAnswer(SYSTEM, f"no JSON in answer to {action}") from error
        if not isinstance(data, dict):
            raise UnexpectedAnswer(SYSTEM, f"no object in answer to {action}")
        return data

    def _get(
        self, path: str, action: str, query: Mapping[str, Any] | None = None, *, accept: str = "*/*", missing: str = ""
    ) -> Any:
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        try:
            return self._client.call_api(
                path,
                "GET",
                query_params=list((query or {}).items()),
                header_params={"Accept": accept},
                auth_settings=["BearerToken"],
                _preload_content=False,
                _request_timeout=TIMEOUT,
            )
        except ApiException as error:
            raise self._translated(error.status or 0, error.reason, action, missing) from None
        except (HTTPError, OSError) as error:
            raise Unreachable(SYSTEM, f"{_kind(error)} on: {action}") from None

    def _translated(self, status: int, reason: Any, action: str, missing: str) -> MeasurementError:
        if status == 403:
            return Forbidden(SYSTEM, action)
        if status == 401:
            return Forbidden(SYSTEM, f"use it at all (401: it does not accept the login of {self.kubernetes_conn_id})")
        if status in (400, 404) and missing:
            return NoData(missing)
        if status in _PASSING:
            return Unreachable(SYSTEM, f"{status} {reason} on: {action}")
        if status == 0:
            return Unreachable(SYSTEM, f"no TLS connection on: {action} (is the cluster's CA in the connection?)")
        return UnexpectedAnswer(SYSTEM, f"{status} {reason} on: {action}")


def _segment(name: str) -> str:
    return quote(name, safe="")


def _kind(error: BaseException) -> str:
    from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError, ReadTimeoutError

    for kind, words in (
        (NameResolutionError, "its name is not known"),
        (NewConnectionError, "connection refused or no route"),
        (ConnectTimeoutError, f"no connection within {TIMEOUT[0]:.0f} s"),
        (ReadTimeoutError, f"no answer within {TIMEOUT[1]:.0f} s"),
    ):
        if isinstance(error, kind):
            return words
    return f"the connection broke ({type(error).__name__})"


def _number(quantity: Any) -> float:
    from kubernetes.utils.quantity import parse_quantity

    try:
        return float(parse_quantity(quantity))
    except ValueError as error:
        raise UnexpectedAnswer(SYSTEM, f"the quantity {str(quantity)[:40]!r}") from error


def _memory(containers: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, float]]:
    for container in containers:
        yield container["name"], _number((container.get("usage") or {}).get("memory") or 0)
