"""A Kubernetes API that answers fast and says what it is told: N pods of one Deployment, and one log file.

So that a benchmark measures the reader and not the server. Run as ``python stub_kubernetes.py PODS [LOG]``;
the first line of its output is its port.
"""

from __future__ import annotations

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

NAME, NAMESPACE, REPLICA_SET = "backend-api", "vcci-production", "backend-api-7d9f8b6c5"
SINCE = "2026-01-01T00:00:00Z"
SERVED = {"f:" + "a" * 20 + str(n): {".": {}, "f:name": {}, "f:value": {}} for n in range(60)}

_POD = {"name": "pods", "singularName": "pod", "namespaced": True, "kind": "Pod", "verbs": ["get", "list"]}
DISCOVERY: dict[str, dict[str, Any]] = {
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
    "/api/v1": {"kind": "APIResourceList", "groupVersion": "v1", "resources": [_POD]},
}


def owner(kind: str, name: str) -> list[dict[str, Any]]:
    return [{"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": "u", "controller": True}]


def pod(number: int, ready: bool) -> dict[str, Any]:
    """Return a pod of the size they have in production, with environment, probes and managedFields."""
    name = f"{REPLICA_SET}-{number:05d}"
    env = [{"name": f"SETTING_{n}", "value": "x" * 40} for n in range(25)]
    image, limits = "vcci/backend-api:v2.0.0", {"limits": {"memory": "1Gi"}}
    container = {"name": NAME, "image": image, "env": env, "resources": limits}
    waiting = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}
    state = {"running": {"startedAt": SINCE}} if ready else waiting
    status = {"name": NAME, "image": image, "ready": ready, "restartCount": 0 if ready else 7, "state": state}
    kinds = ("Initialized", "Ready", "ContainersReady", "PodScheduled")
    conditions = [{"type": kind, "status": str(ready), "lastTransitionTime": SINCE} for kind in kinds]
    conditions[-1]["status"] = "True"
    return {
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "uid": f"00000000-0000-0000-0000-{number:012d}",
            "creationTimestamp": SINCE,
            "labels": {"app": NAME},
            "ownerReferences": owner("ReplicaSet", REPLICA_SET),
            "managedFields": [{"manager": "kubelet", "operation": "Update", "fieldsV1": SERVED}],
        },
        "spec": {"containers": [container], "nodeName": "n"},
        "status": {"phase": "Running", "startTime": SINCE, "conditions": conditions, "containerStatuses": [status]},
    }


class Api(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    pods = 10
    log_file: Path | None = None

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if url.path.endswith("/log") and self.log_file:
            self.send_log(self.log_file)
            return
        body = json.dumps(self.answer(url.path, parse_qs(url.query))).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def answer(self, path: str, query: dict[str, list[str]]) -> dict[str, Any]:
        if path in DISCOVERY:
            return DISCOVERY[path]
        if path.endswith("/pods"):
            first = int(query.get("continue", ["0"])[0])
            last = min(first + int(query.get("limit", ["500"])[0]), self.pods)
            items = [pod(n, n % 10 != 3) for n in range(first, last)]
            return {"kind": "PodList", "metadata": {"continue": str(last) if last < self.pods else ""}, "items": items}
        if "/pods/" in path:
            return {"kind": "Pod", "apiVersion": "v1", **pod(0, True)}
        if path.endswith("/replicasets"):
            meta = {"name": REPLICA_SET, "ownerReferences": owner("Deployment", NAME)}
            return {"metadata": {}, "items": [{"metadata": meta}]}
        counts = dict.fromkeys(("replicas", "updatedReplicas", "availableReplicas"), self.pods)
        deployment = {
            "metadata": {"name": NAME, "generation": 1},
            "spec": {"replicas": self.pods, "selector": {"matchLabels": {"app": NAME}}},
            "status": {"observedGeneration": 1, **counts},
        }
        return deployment if path.endswith(f"/{NAME}") else {"metadata": {}, "items": [deployment]}

    def send_log(self, file: Path) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(file.stat().st_size))
        self.end_headers()
        self.wfile.flush()
        with file.open("rb") as source:
            self.connection.setblocking(True)
            self.connection.sendfile(source)

    def log_message(self, *args: Any) -> None:
        pass


def main() -> None:
    Api.pods = int(sys.argv[1])
    Api.log_file = Path(sys.argv[2]) if len(sys.argv) > 2 else None
    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    print(server.server_port, flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        os._exit(0)


if __name__ == "__main__":
    main()
