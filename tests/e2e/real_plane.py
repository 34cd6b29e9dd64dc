"""The platform's namespace on a real control plane, and the sandbox's Airflow that reaches it with the shipped rights.

Nodes are simulated there (tests/integration/kube_fixtures.py): pods are ready after a second, an image whose digest
contains ``bad`` is never pulled, Jobs end well without running anything. What the API would report of itself is told
to the sandbox's stand-in by a thread that looks at the real pods (:class:`Reported`).
"""

from __future__ import annotations

import itertools
import json
import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sandbox.demo import Demo
from sandbox.kubernetes import seed, serving
from sandbox.releases import images, repository, story
from sandbox.releases.shipping import COMPONENTS, repository_of
from sandbox.service import Sandbox
from sandbox.services import registry
from tests.e2e.conftest import Platform
from tests.e2e.release_fixtures import NAMESPACE, WORKLOADS, Released
from tests.integration.kube_fixtures import RBAC, RBAC_CHANGES, Plane, until

NEVER_PULLED = "bad"
"""In the digest of an image: the simulated nodes do not get it. A digest of plain hex can have no other such word."""


def push(sandbox: Sandbox, version: str, ref: str, component: str, *, pulled: bool = True) -> str:
    """Push a release's image with a digest that the simulated nodes can, or cannot, pull; return its reference."""
    told, commit = story.tell(), repository.commit_of(repository.path(sandbox), ref)
    for attempt in itertools.count():
        image = images.build(
            told.tree(ref),
            f"docker/{component}.Dockerfile",
            arguments={"VERSION": version, "REVISION": commit},
            labels={"vcci.test.attempt": str(attempt)} if attempt else {},
        )
        if (NEVER_PULLED not in image.digest) == pulled:
            break
    registry.client(sandbox).push(repository_of(component), [version], image)
    return f"{registry.host(sandbox)}/{repository_of(component)}:{version}@{image.digest}"


class Reported:
    """Says which versions the ready backend-api pods of the real plane run, as the played cluster does for its own.

    :param file: what the stand-in for the API reads.
    """

    def __init__(self, plane: Plane, file: Path) -> None:
        self._plane, self._file, self._told = plane, file, ""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Reported:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(10)

    def _follow(self) -> None:
        from kubernetes import client, config

        api = client.CoreV1Api(config.new_client_from_config(str(self._plane.admin)))
        while not self._over.wait(0.5):
            listed = api.list_namespaced_pod(NAMESPACE, label_selector="app=backend-api", _preload_content=False)
            ready = [pod for pod in json.loads(listed.data)["items"] if self._is_ready(pod)]
            tags = [pod["spec"]["containers"][0]["image"].partition("@")[0].rpartition(":")[2] for pod in ready]
            self._tell(json.dumps({"versions": Counter(tags), "behaviours": {}}, sort_keys=True))

    @staticmethod
    def _is_ready(pod: dict[str, Any]) -> bool:
        conditions = pod.get("status", {}).get("conditions", ())
        ready = any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
        return ready and not pod["metadata"].get("deletionTimestamp")

    def _tell(self, text: str) -> None:
        if text != self._told:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._file.with_suffix(".new").write_text(text)
            self._file.with_suffix(".new").replace(self._file)
            self._told = text


class ReallyReleased(Released):
    """The platform on the real plane; what a test does there itself, it does as that plane's admin.

    :param images: what the Deployments run before a release, by name.
    """

    def __init__(self, platform: Platform, plane: Plane, images: dict[str, str]) -> None:
        self.plane = plane
        self.before = images
        plane.apply(*(deployment(name, image) for name, image in images.items()))
        super().__init__(platform)

    def kubectl(self, *args: str, given: str | None = None, check: bool = True) -> str:
        try:
            return self.plane.kubectl("-n", NAMESPACE, *args, given=given)
        except AssertionError:
            if check:
                raise
            return ""

    def annotation(self, workload: str, name: str) -> str:
        """Return an annotation of a Deployment."""
        found = json.loads(self.kubectl("get", "deployment", workload, "-o", "json"))
        return str(found["metadata"]["annotations"].get(name))

    def revisions(self) -> dict[str, str]:
        """Return the revision of each Deployment, as the real controller counts."""
        return {name: self.annotation(name, "deployment.kubernetes.io/revision") for name in WORKLOADS}

    def running(self) -> dict[str, set[str]]:
        """Return the full references that the ready pods of each Deployment run."""
        items = json.loads(self.kubectl("get", "pods", "-l", "app.kubernetes.io/part-of=vcci", "-o", "json"))["items"]
        ready = [pod for pod in items if Reported._is_ready(pod) and pod["metadata"]["labels"]["app"] in WORKLOADS]
        found: dict[str, set[str]] = {name: set() for name in WORKLOADS}
        for pod in ready:
            found[pod["metadata"]["labels"]["app"]].add(pod["spec"]["containers"][0]["image"])
        return found

    def _workloads(self) -> None:
        """Make the Deployments anew, so that revisions begin at 1."""
        self.kubectl("delete", "deployments", "--all")
        until("no pods", lambda: not self.kubectl("get", "pods", "-o", "name"))
        self.plane.apply(*(deployment(name, image) for name, image in self.before.items()))
        for name in WORKLOADS:
            self.kubectl("rollout", "status", f"deployment/{name}", "--timeout=50s")
        until("the endpoint reports v2.0.0", lambda: self.version_of_endpoint() == "v2.0.0")


def deployment(name: str, image: str) -> dict[str, Any]:
    """Return a Deployment of the platform as the played cluster has it."""
    labels = {"app": name, "app.kubernetes.io/part-of": "vcci"}
    meta = {"name": name, "namespace": NAMESPACE, "labels": labels}
    meta["annotations"] = {"kubernetes.io/change-cause": "release v2.0.0"}
    spec = {
        "replicas": seed._WORKLOADS[name][0],
        "selector": {"matchLabels": {"app": name}},
        "template": seed._template(name, image),
    }
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": spec}


def surroundings(sandbox: Sandbox) -> Iterator[dict[str, Any]]:
    """Yield what the Deployments and the Jobs need around them."""
    around = seed.Surroundings.of(sandbox.state, registry.host(sandbox))

    def named(name: str, kind: str, **rest: Any) -> dict[str, Any]:
        return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": NAMESPACE}, **rest}

    yield named("vcci", "ServiceAccount")
    yield named("vcci-config", "ConfigMap", data={"VCCI_ENVIRONMENT": "production", "VCCI_LOG_LEVEL": "INFO"})
    for name, values in around.secrets.items():
        yield named(name, "Secret", stringData=values)
    login = {".dockerconfigjson": around.docker_config}
    yield named("vcci-ops-registry", "Secret", type="kubernetes.io/dockerconfigjson", stringData=login)
    for name, least, most in (("backend-api", 3, 10), ("worker", 3, 20)):
        target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": name}
        spec = {
            "scaleTargetRef": target,
            "minReplicas": least,
            "maxReplicas": most,
            "targetCPUUtilizationPercentage": 75,
        }
        yield {**named(name, "HorizontalPodAutoscaler", spec=spec), "apiVersion": "autoscaling/v1"}


@contextmanager
def furnished(admin: Path, folder: Path) -> Iterator[Plane]:
    """Yield the plane with the platform's namespace and the shipped RBAC, word for word; remove both afterwards."""
    plane = Plane("real", admin, folder, NAMESPACE)
    until("no namespace of an earlier test", lambda: _gone(plane), 60)
    plane.kubectl("create", "namespace", NAMESPACE)
    try:
        for file in (RBAC, RBAC_CHANGES):
            plane.kubectl("apply", "-f", str(file))
        yield plane
    finally:
        plane.kubectl("delete", "-f", str(RBAC_CHANGES), "-f", str(RBAC), "--ignore-not-found")
        plane.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def _gone(plane: Plane) -> bool:
    """Whether the namespace is not there; one that is not being removed may be somebody's."""
    phase = plane.kubectl("get", "namespace", NAMESPACE, "--ignore-not-found", "-o", "jsonpath={.status.phase}")
    assert phase != "Active", f"the plane has a namespace {NAMESPACE}, perhaps of another test that runs: remove it"
    return not phase


@contextmanager
def surrounded(home: Path, kubeconfig: Path) -> Iterator[None]:
    """Let the sandbox be in this folder, and its Kubernetes be that one."""
    given = {"VCCI_SANDBOX_HOME": str(home), "VCCI_KUBECONFIG": str(kubeconfig)}
    before = {name: os.environ.get(name) for name in given}
    os.environ.update(given)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def platform_on(admin: Path, home: Path) -> Iterator[ReallyReleased]:
    """Yield a whole Airflow whose vcci_kubernetes is the shipped ServiceAccount on the real plane."""
    kubeconfig = home / "real-kubeconfig"
    with furnished(admin, home) as plane, surrounded(home, kubeconfig):
        kubeconfig.touch(mode=0o600)
        kubeconfig.write_text(json.dumps(plane.checks_config))  # JSON is YAML
        demo = Demo()
        try:
            client = demo.start()
            for version, ref in (("v2.0.0", "v2.0.0"), ("v2.1.0", "release/v2.1"), ("v2.2.0", "release/v2.2")):
                found = {component: push(demo.sandbox, version, ref, component) for component in COMPONENTS}
                if version == "v2.0.0":
                    before = {name: found[{"beat": "worker"}.get(name, name)] for name in WORKLOADS}
            plane.apply(*surroundings(demo.sandbox))
            with Reported(plane, serving.file_of(demo.sandbox.folder)):
                yield ReallyReleased(Platform(demo, client), plane, before)
        finally:
            demo.stop()
