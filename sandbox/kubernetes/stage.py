"""The played cluster as one process: API server, controllers, nodes, and the stage hands' own paths.

Beside the Kubernetes API, with the same token:

- ``POST /_sandbox/pods?count=10000&namespace=x[&prefix=bulk][&app=bulk]`` makes that many running pods
  (and the namespace) within a second or two; ``DELETE /_sandbox/pods?namespace=x[&prefix=bulk]`` takes
  them away again.
- ``POST /_sandbox/faults`` brings the objects in line with the sandbox's active faults now.
- ``POST /_sandbox/forget`` forgets the history: watches from before get 410, as after a compaction.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import ssl
from pathlib import Path

import trustme
from aiohttp import web

from sandbox.api.tls import authority
from sandbox.kubernetes.api import Api, answer
from sandbox.kubernetes.autoscaling import Autoscalers
from sandbox.kubernetes.certificates import Certificates
from sandbox.kubernetes.controllers import Controllers, Namespaces
from sandbox.kubernetes.deployments import Deployments, ReplicaSets
from sandbox.kubernetes.faults import Faults
from sandbox.kubernetes.jobs import Jobs
from sandbox.kubernetes.kubelet import Kubelet, conditions, container_statuses
from sandbox.kubernetes.logs import Logs
from sandbox.kubernetes.processes import Process
from sandbox.kubernetes.pulling import Puller
from sandbox.kubernetes.resources import NAMESPACES, PODS
from sandbox.kubernetes.seed import Seed, Surroundings
from sandbox.kubernetes.serving import Serving
from sandbox.kubernetes.store import Object, Store, now
from sandbox.state import ROOT, ActiveFaults, State

_SCRIPTS = ROOT / "sandbox" / "platform" / "scripts"


class Stage:
    """Everything wired together.

    :param state: the sandbox's state: port and token (secret) ``kube``, and the folder.
    """

    def __init__(self, state: State) -> None:
        folder = state.folder / "kube"
        self.port, self._token = state.port("kube"), state.secret("kube")
        self.authority: trustme.CA = authority(folder)
        active = ActiveFaults(state.folder)
        self.store = Store()
        self.controllers = Controllers(self.store)
        self.logs = Logs(folder, self.store, active)
        self.api = Api(store=self.store, logs=self.logs, token=self._token, faults=active)
        environment = {**os.environ, "VCCI_SANDBOX_HOME": str(state.folder)}
        scripts = _SCRIPTS if _SCRIPTS.is_dir() else folder
        puller = Puller(state)
        self.serving = Serving(self.store, puller, state.folder)
        self.logs.behaviour = self.serving.behaviour
        runs = Process(store=self.store, folder=scripts, environment=environment)
        self.kubelet = Kubelet(self.controllers, self.logs, runs, puller)
        self._surroundings = Surroundings.of(state, puller.host)
        self.faults = Faults(self.controllers, active)
        Namespaces(self.controllers)
        Deployments(self.controllers)
        ReplicaSets(self.controllers)
        Jobs(self.controllers)
        Autoscalers(self.controllers)
        Certificates(self.controllers, self.authority)

    def _application(self) -> web.Application:
        application = self.api.application()
        application.router.add_post("/_sandbox/pods", self._add_pods)
        application.router.add_delete("/_sandbox/pods", self._remove_pods)
        application.router.add_post("/_sandbox/faults", self._settle)
        application.router.add_post("/_sandbox/forget", self._forget)
        application.router.add_route("*", "/{path:.*}", self.api.handle)
        return application

    async def run(self, stop: asyncio.Event) -> None:
        """Raise the curtain, and play until ``stop``."""
        Seed(self.controllers, self.authority, self._surroundings).sow()
        self.controllers.start()
        self.kubelet.start()
        self.faults.settle()
        self.serving.start()
        watching = asyncio.create_task(self.faults.watch())
        # Watches and followed logs of callers that went away must not go on.
        runner = web.AppRunner(self._application(), handler_cancellation=True, access_log=None, shutdown_timeout=1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self.port, ssl_context=self._tls(), backlog=512).start()
        await stop.wait()
        self.api.closing.set()
        watching.cancel()
        await self.kubelet.stop()
        self.serving.stop()
        await runner.cleanup()

    def _tls(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.authority.issue_cert("127.0.0.1", "localhost", "kubernetes.default.svc").configure_cert(context)
        return context

    # Stage hands --------------------------------------------------------------------------------

    async def _add_pods(self, request: web.Request) -> web.Response:
        query = request.query
        namespace, prefix = query.get("namespace", "bulk"), query.get("prefix", "bulk")
        if self.store.find(NAMESPACES, "", namespace) is None:
            self.controllers.create(NAMESPACES, {"metadata": {"name": namespace}})
        count = int(query.get("count", 1000))
        for number in range(count):
            self._add_pod(namespace, f"{prefix}-{number:06d}", query.get("app", prefix))
            if number % 500 == 499:
                await asyncio.sleep(0)
        return answer({"made": count})

    def _add_pod(self, namespace: str, name: str, app: str) -> None:
        limits = {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "64Mi"}}
        container = {"name": app, "image": f"vcci/{app}:v2.0.0", "resources": limits}
        pod: Object = {
            "metadata": {"name": name, "namespace": namespace, "labels": {"app": app}},
            "spec": {"nodeName": "node-1", "containers": [container]},
            "status": {"phase": "Running", "startTime": now(-3600), "podIP": "10.244.0.9", "hostIP": "127.0.0.1"},
        }
        pod["status"]["conditions"] = conditions(pod, True, since=now(-3590))
        running = {"running": {"startedAt": now(-3595)}}
        pod["status"]["containerStatuses"] = container_statuses(pod, running, ready=True)
        self.controllers.create(PODS, pod)

    async def _remove_pods(self, request: web.Request) -> web.Response:
        namespace, prefix = request.query.get("namespace", "bulk"), request.query.get("prefix", "bulk")
        chosen = [
            pod for pod in self.store.objects(PODS, namespace) if pod["metadata"]["name"].startswith(f"{prefix}-")
        ]
        for pod in chosen:
            self.store.remove(PODS, pod)
        return answer({"removed": len(chosen)})

    async def _settle(self, _request: web.Request) -> web.Response:
        self.faults.settle()
        return answer({"settled": True})

    async def _forget(self, _request: web.Request) -> web.Response:
        self.store.forget()
        return answer({"compacted": self.store.compacted})


def write_kubeconfig(state: State) -> Path:
    """Write the kubeconfig (0600) of the played cluster, and return its path."""
    folder = state.folder / "kube"
    signer = authority(folder)
    cluster = {
        "server": f"https://127.0.0.1:{state.port('kube')}",
        "certificate-authority-data": base64.b64encode(signer.cert_pem.bytes()).decode(),
    }
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "sandbox", "cluster": cluster}],
        "users": [{"name": "sandbox", "user": {"token": state.secret("kube")}}],
        "contexts": [
            {"name": "sandbox", "context": {"cluster": "sandbox", "user": "sandbox", "namespace": "vcci-production"}}
        ],
        "current-context": "sandbox",
    }
    path = folder / "kubeconfig"
    path.touch(mode=0o600)
    # JSON is YAML; every reader of kubeconfigs takes it.
    path.write_text(json.dumps(config, indent=1))
    return path
