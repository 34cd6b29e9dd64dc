"""The platform's Kubernetes: the played one, or a cluster of the user's (``VCCI_KUBECONFIG``)."""

from __future__ import annotations

import os
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from sandbox.service import Fault, Sandbox, SandboxError, Service

NAMESPACE = "vcci-production"


def own_cluster() -> Path | None:
    """Return the kubeconfig of the user's own cluster, if there is one."""
    given = os.environ.get("VCCI_KUBECONFIG")
    return Path(given).expanduser().resolve() if given else None


def kubeconfig(sandbox: Sandbox) -> Path:
    """Return the kubeconfig that leads to the platform."""
    return own_cluster() or sandbox.data("kube") / "kubeconfig"


def call(sandbox: Sandbox, method: str, path: str, *, timeout: float = 30) -> bytes:
    """Ask the played API something, with the sandbox's own credentials.

    :param path: path and query, from the first slash.
    """
    context = ssl.create_default_context(cafile=str(sandbox.data("kube") / "ca.pem"))
    headers = {"Authorization": f"Bearer {sandbox.secret('kube')}"}
    url = f"https://127.0.0.1:{sandbox.port('kube')}{path}"
    request = urllib.request.Request(url, method=method, headers=headers)
    with urllib.request.urlopen(request, timeout=timeout, context=context) as response:
        answer: bytes = response.read()
    return answer


def _settle(sandbox: Sandbox, _options: dict[str, Any]) -> None:
    if own_cluster():
        raise SandboxError("this fault is for the played Kubernetes; VCCI_KUBECONFIG names a cluster of yours")
    try:
        call(sandbox, "POST", "/_sandbox/faults")
    except urllib.error.URLError as error:
        raise SandboxError(
            f"the played Kubernetes API does not answer ({error}); see: {sandbox.log('kube')}"
        ) from error


class Kube(Service):
    """The Kubernetes API."""

    name = "kube"
    needs = ("registry",)  # for the digests of the images that run; without one, they are named without
    ports = ("kube",)
    faults = (
        Fault(
            "pods-crashloop",
            "two of three backend-api pods crash and restart, since ten minutes",
            "pods.ready, pods.restarts and workloads.available critical",
            _settle,
            _settle,
        ),
        Fault(
            "pods-not-ready",
            "the worker pods run but are not ready, since ten minutes",
            "pods.ready and workloads.available critical",
            _settle,
            _settle,
        ),
        Fault(
            "pods-image-missing",
            "a release of backend-api whose image is not in the registry: the new pod waits, the old ones serve",
            "pods.ready and workloads.available critical",
            _settle,
            _settle,
        ),
        Fault(
            "stray-cluster-admin",
            "somebody bound a contractor to cluster-admin, to look at something quickly",
            "a line of the access review, critical",
            _settle,
            _settle,
        ),
        Fault(
            "error-burst",
            "one of the backend-api pods logs hundreds of errors of three new kinds, since forty minutes",
            "errors.count and errors.new not ok",
            options={"pod": 1},
        ),
    )

    def start(self, sandbox: Sandbox) -> None:
        """Start the played API; nothing when the user's own cluster is used."""
        if own_cluster():
            (sandbox.data("kube") / "serving.json").unlink(missing_ok=True)
        else:
            sandbox.python("kube", "sandbox.kubernetes")

    def ready(self, sandbox: Sandbox) -> bool:
        """Whether the played API answers, or the user's kubeconfig is there."""
        own = own_cluster()
        if own:
            return own.is_file()
        try:
            return call(sandbox, "GET", "/readyz", timeout=2) == b"ok"
        except (OSError, ssl.SSLError):
            return False

    def connections(self, sandbox: Sandbox) -> dict[str, dict[str, Any]]:
        """Return vcci_kubernetes."""
        extra = {"kube_config_path": str(kubeconfig(sandbox)), "namespace": NAMESPACE}
        return {"vcci_kubernetes": {"conn_type": "kubernetes", "extra": extra}}
