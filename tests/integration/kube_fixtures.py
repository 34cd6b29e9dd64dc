"""Two Kubernetes APIs to run the same tests against, and what the tests need around them.

*played* is the sandbox's; *real* a control plane whose admin kubeconfig ``VCCI_TEST_KUBECONFIG`` names. On
both, the checks run with the token of the ServiceAccount that include/kubernetes/rbac.yaml makes, in a
namespace of their own; what the tests prepare is done with the admin's kubeconfig.

On the real plane, nodes are simulated, by rules on the image's tag: with ``bad`` it is never pulled, with
``crash`` it crash-loops, with ``slow`` it takes 20 s to become ready; all others are ready in a second.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPSConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml

from vcci_ops.domain.results import Result
from vcci_ops.operators.base import RESULTS_KEY, CheckOperator
from vcci_ops.settings import Check, Threshold

ROOT = Path(__file__).resolve().parents[2]
KUBECTL = Path(sys.executable).parent / "kubectl"
RBAC = ROOT / "include" / "kubernetes" / "rbac.yaml"
RBAC_CHANGES = RBAC.with_name("rbac-changes.yaml")


class Ti:
    """Stands in for the task instance: keeps what a task pushes."""

    def __init__(self) -> None:
        self.pushed: dict[str, Any] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        json.dumps(value)
        self.pushed[key] = value


def check(id_: str, **threshold: Any) -> Check:
    limits = Threshold(**threshold) if threshold else None
    return Check(id=id_, section="s", title=id_, meaning="m", action="a", runbook="r", threshold=limits)


def checks(operator: type[CheckOperator], for_: float = 0) -> list[Check]:
    """Return all checks of an operator, with limits as the sandbox's settings have them."""
    limits: dict[str, dict[str, Any]] = {
        "pods.ready": {"unit": "pods", "warning": 0, "critical": 0, "for": for_},
        "pods.restarts": {"unit": "restarts", "warning": 0, "critical": 5},
        "workloads.available": {"unit": "replicas missing", "warning": 0, "critical": 1},
        "nodes.ready": {"unit": "nodes", "warning": 0, "critical": 1},
        "nodes.usage": {"unit": "percent", "warning": 80, "critical": 95},
        "pods.usage": {"unit": "percent", "warning": 85, "critical": 95},
        "errors.count": {"unit": "lines", "warning": 20, "critical": 200},
        "errors.new": {"unit": "signatures", "warning": 0, "critical": 20},
    }
    return [check(id_, **limits[id_]) for id_ in operator.measures]


@dataclasses.dataclass
class Outcome:
    """What a check task left."""

    results: list[Result]
    pushed: dict[str, Any]
    seconds: float

    def __getitem__(self, key: str | tuple[str, str]) -> Result:
        id_, subject = key if isinstance(key, tuple) else (key, "")
        return next(r for r in self.results if r.key == (id_, subject))


def run(operator: CheckOperator) -> Outcome:
    """Execute an operator as a worker does, but for the database."""
    ti = Ti()
    begun = time.monotonic()
    operator.execute({"ti": ti})  # type: ignore[typeddict-item]
    return Outcome([Result.from_dict(data) for data in ti.pushed[RESULTS_KEY]], ti.pushed, time.monotonic() - begun)


def until(what: str, probe: Callable[[], Any], seconds: float = 30.0) -> Any:
    """Poll until the probe is true and return what it gave."""
    end = time.monotonic() + seconds
    while not (value := probe()):
        assert time.monotonic() < end, f"not so within {seconds:.0f} s: {what}"
        time.sleep(0.2)
    return value


@dataclasses.dataclass
class Plane:
    """One of the two APIs, with a namespace of its own and the checks' credentials."""

    name: str
    admin: Path
    folder: Path
    namespace: str

    @property
    def checks_config(self) -> dict[str, Any]:
        """The kubeconfig of the ServiceAccount the checks run as."""
        token = self.kubectl("create", "token", "vcci-ops", "-n", self.namespace).strip()
        config = yaml.safe_load(self.admin.read_text())
        config["users"] = [{"name": user["name"], "user": {"token": token}} for user in config["users"]]
        return dict(config)

    @property
    def server(self) -> str:
        return str(yaml.safe_load(self.admin.read_text())["clusters"][0]["cluster"]["server"])

    def kubectl(self, *args: str, given: str | None = None) -> str:
        argv = [str(KUBECTL), f"--kubeconfig={self.admin}", *args]
        done = subprocess.run(argv, input=given, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, f"{' '.join(args)}: {done.stderr}"
        return done.stdout

    def apply(self, *objects: dict[str, Any]) -> None:
        self.kubectl("apply", "-f", "-", given=yaml.safe_dump_all(objects))

    def deploy(self, name: str, tag: str = "v2", *, replicas: int = 1, label: str = "app", **spec: Any) -> None:
        container = {
            "name": name,
            "image": f"vcci/{name}:{tag}",
            "resources": {"limits": {"memory": "512Mi", "cpu": "500m"}},
        }
        template = {"metadata": {"labels": {"app": name, label: name}}, "spec": {"containers": [container]}}
        self.apply(
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": name, "namespace": self.namespace},
                "spec": {
                    "replicas": replicas,
                    "selector": {"matchLabels": {label: name}},
                    "template": template,
                    **spec,
                },
            }
        )

    def pods(self, name: str) -> list[dict[str, Any]]:
        listed = json.loads(self.kubectl("get", "pods", "-n", self.namespace, "-l", f"app={name}", "-o", "json"))
        return [item for item in listed["items"] if not item["metadata"].get("deletionTimestamp")]

    def wait_ready(self, *names: str) -> None:
        for name in names:
            self.kubectl("rollout", "status", f"deployment/{name}", "-n", self.namespace, "--timeout=40s")

    def wait_logged(self, name: str) -> None:
        """Wait until every pod of a Deployment has written something."""

        def logs() -> list[str]:
            names = [pod["metadata"]["name"] for pod in self.pods(name)]
            return [self.kubectl("logs", pod, "-c", name, "-n", self.namespace) for pod in names]

        until(f"{name} logs", lambda: all(logs()))

    def wait_waiting(self, name: str, reason: str, restarts: int = 0) -> None:
        def so() -> bool:
            found = [s for pod in self.pods(name) for s in pod.get("status", {}).get("containerStatuses", ())]
            waiting = [s for s in found if s["state"].get("waiting", {}).get("reason") == reason]
            return bool(waiting) and all(s["restartCount"] >= restarts for s in waiting)

        until(f"{name} {reason}", so)

    def delete_workloads(self) -> None:
        self.kubectl("delete", "deployments,jobs,pods", "--all", "-n", self.namespace, "--wait=false")
        until("no pods", lambda: not self.kubectl("get", "pods", "-n", self.namespace, "-o", "name"))


def rbac(namespace: str, *, changes: bool = False) -> list[dict[str, Any]]:
    """Return the objects of rbac.yaml, moved to this namespace and without a clash with another test's.

    :param changes: with those of rbac-changes.yaml, which allow to change the platform.
    """
    files = (RBAC, RBAC_CHANGES) if changes else (RBAC,)
    text = "\n---\n".join(file.read_text() for file in files).replace("vcci-production", namespace)
    return list(yaml.safe_load_all(text.replace("vcci-ops-nodes", f"vcci-ops-nodes-{namespace}")))


@contextmanager
def real_plane() -> Iterator[Path]:
    """Yield the admin kubeconfig of the real control plane, or skip."""
    path = os.environ.get("VCCI_TEST_KUBECONFIG")
    if not path:
        pytest.skip("VCCI_TEST_KUBECONFIG names no kubeconfig of a real control plane")
    yield Path(path)


@contextmanager
def played_plane(folder: Path) -> Iterator[Path]:
    """Start the sandbox's Kubernetes API alone and yield its kubeconfig."""
    from sandbox.service import Sandbox, wait_until
    from sandbox.services.kube import Kube

    sandbox, service = Sandbox(folder), Kube()
    service.start(sandbox)
    try:
        wait_until("the played Kubernetes API", lambda: service.ready(sandbox))
        service.prepare(sandbox)
        yield sandbox.folder / "kube" / "kubeconfig"
    finally:
        service.stop(sandbox)


@contextmanager
def furnished(
    name: str,
    admin: Path,
    folder: Path,
    namespace: str = "",
    without: tuple[str, str] = ("", ""),
    *,
    changes: bool = False,
) -> Iterator[Plane]:
    """Yield a plane with a namespace and the shipped RBAC in it; remove both afterwards.

    :param without: kind of role and the resource whose rule is left out.
    :param changes: whether what the acting DAGs may do is allowed, too.
    """
    plane = Plane(name, admin, folder, namespace or f"vcci-test-{uuid.uuid4().hex[:8]}")
    roles = rbac(plane.namespace, changes=changes)
    for role in roles:
        if role["kind"] == without[0]:
            role["rules"] = [
                rule
                for rule in role["rules"]
                if rule["resources"] != [without[1]] or rule["apiGroups"] == ["metrics.k8s.io"]
            ]
    plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": plane.namespace}}, *roles)
    try:
        yield plane
    finally:
        for role in roles:
            if role["kind"].startswith("Cluster"):
                plane.kubectl("delete", role["kind"], role["metadata"]["name"])
        plane.kubectl("delete", "namespace", plane.namespace, "--wait=false")


@contextmanager
def usage_metrics(plane: Plane, workload: str) -> Iterator[None]:
    """On the real plane, where nobody measures: say that a node and a pod use much."""
    if plane.name != "real":
        yield
        return
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    common = {"apiVersion": "metrics.k8s.io/v1beta1", "timestamp": now, "window": "30s"}
    nodes = [
        {**common, "kind": "NodeMetrics", "metadata": {"name": name}, "usage": {"cpu": cpu, "memory": "8Gi"}}
        for name, cpu in (("sim-1", "250m"), ("sim-2", "14400000000n"))
    ]
    pods = [
        {
            **common,
            "kind": "PodMetrics",
            "metadata": {"name": pod["metadata"]["name"], "namespace": plane.namespace},
            "containers": [{"name": workload, "usage": {"cpu": "10m", "memory": "512000Ki"}}],
        }
        for pod in plane.pods(workload)
    ]
    plane.apply(*nodes, *pods)
    try:
        yield
    finally:
        for made in (*nodes, *pods):
            kind = "nodes.metrics.k8s.io" if made["kind"] == "NodeMetrics" else "pods.metrics.k8s.io"
            plane.kubectl("delete", kind, made["metadata"]["name"], "-n", plane.namespace)


def connect(monkeypatch: pytest.MonkeyPatch, config: dict[str, Any]) -> None:
    """Make ``vcci_kubernetes`` this kubeconfig."""
    connection = {"conn_type": "kubernetes", "extra": {"kube_config": config}}
    monkeypatch.setenv("AIRFLOW_CONN_VCCI_KUBERNETES", json.dumps(connection))


Rule = Callable[[BaseHTTPRequestHandler], bool]


@contextmanager
def doorman(plane: Plane, rule: Rule) -> Iterator[dict[str, Any]]:
    """Put a door before a plane: a rule that answers by itself, or returns False to let a request pass.

    Yields the checks' kubeconfig that goes through it.
    """
    import ssl
    from urllib.parse import urlsplit

    upstream = urlsplit(plane.server)
    secure = ssl._create_unverified_context()

    class Door(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if rule(self):
                return
            conn = HTTPSConnection(upstream.hostname or "", upstream.port, context=secure)
            headers = {key: value for key, value in self.headers.items() if key.lower() != "host"}
            conn.request("GET", self.path, headers=headers)
            answer = conn.getresponse()
            body = answer.read()
            reply(self, answer.status, body)
            conn.close()

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Door)
    server.daemon_threads = True
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    config = plane.checks_config
    config["clusters"][0]["cluster"] = {"server": f"http://127.0.0.1:{server.server_port}"}
    try:
        yield config
    finally:
        server.shutdown()
        server.server_close()


def reply(door: BaseHTTPRequestHandler, status: int, body: bytes, kind: str = "application/json") -> None:
    """Answer a request at the door."""
    door.send_response(status)
    door.send_header("Content-Type", kind)
    door.send_header("Content-Length", str(len(body)))
    door.end_headers()
    door.wfile.write(body)
