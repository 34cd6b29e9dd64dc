"""A played Kubernetes API for tests, with helpers to say things about its objects."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from sandbox.__main__ import break_, heal
from sandbox.service import Sandbox, wait_until
from sandbox.services.kube import Kube, kubeconfig

PLATFORM = "vcci-production"


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """Start the played API alone."""
    made = Sandbox(tmp_path_factory.mktemp("sandbox"))
    Kube().start(made)
    wait_until("the played Kubernetes API", lambda: Kube().ready(made))
    yield made
    Kube().stop(made)


@pytest.fixture(scope="module")
def api(sandbox: Sandbox) -> client.ApiClient:
    return config.new_client_from_config(str(kubeconfig(sandbox)))


@pytest.fixture
def core(api: client.ApiClient) -> client.CoreV1Api:
    return client.CoreV1Api(api)


@pytest.fixture
def apps(api: client.ApiClient) -> client.AppsV1Api:
    return client.AppsV1Api(api)


@pytest.fixture
def batch(api: client.ApiClient) -> client.BatchV1Api:
    return client.BatchV1Api(api)


@pytest.fixture
def namespace(core: client.CoreV1Api, request: pytest.FixtureRequest) -> Iterator[str]:
    """Make a namespace for one test, and delete it with all that is in it."""
    name = "t-" + re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[:50].strip("-")
    core.create_namespace({"metadata": {"name": name}})
    yield name
    core.delete_namespace(name)
    until(lambda: name not in [n.metadata.name for n in core.list_namespace().items])


@pytest.fixture
def broken(sandbox: Sandbox) -> Iterator[Callable[..., None]]:
    """Return what breaks the platform; everything is healed afterwards."""
    services: list[Any] = [Kube()]
    yield lambda name, *given: break_(sandbox, services, name, list(given))
    heal(sandbox, services, None)


def until(probe: Callable[[], Any], seconds: float = 15.0) -> Any:
    end = time.monotonic() + seconds
    while not (value := probe()):
        assert time.monotonic() < end, f"not so within {seconds} s"
        time.sleep(0.05)
    return value


def deployment(name: str, image: str = "x/web:v1", **spec: Any) -> dict[str, Any]:
    container = {"name": name, "image": image, "env": [{"name": "A", "value": "1"}]}
    template = {"metadata": {"labels": {"app": name}}, "spec": {"containers": [container]}}
    spec = {"replicas": 2, "selector": {"matchLabels": {"app": name}}, "template": template, **spec}
    return {"metadata": {"name": name}, "spec": spec}


def job(name: str, *command: str, env: list[dict[str, Any]] | None = None, **spec: Any) -> dict[str, Any]:
    container = {"name": name, "image": "vcci/platform:v2.0.0", "command": list(command), "env": env or []}
    template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
    return {"metadata": {"name": name}, "spec": {"template": template, "backoffLimit": 0, **spec}}


def condition(obj: Any, kind: str) -> Any:
    return next((c for c in obj.status.conditions or [] if c.type == kind), None)


def log(core: client.CoreV1Api, name: str, namespace: str = PLATFORM, **given: Any) -> str:
    answer = core.read_namespaced_pod_log(name, namespace, _preload_content=False, **given)
    return answer.data.decode()


def ready(pod: Any) -> bool:
    found = condition(pod, "Ready")
    return found is not None and found.status == "True"


def app_pods(core: client.CoreV1Api, app: str) -> list[Any]:
    return core.list_namespaced_pod(PLATFORM, label_selector=f"app={app}").items


def text_so_far(core: client.CoreV1Api, pod: str, namespace: str) -> str:
    try:
        return log(core, pod, namespace)
    except ApiException:
        return ""
