"""The platform as it stands when the curtain rises: v2.0.0 has run for six days, v1.9.0 did before it.

Everything has the same names, uids and ages at every start.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import random
import time
import uuid
from typing import Any

import trustme

from sandbox.kubernetes.certificates import issue, ready_condition, secret_for
from sandbox.kubernetes.controllers import Controllers, owner_reference, pod_of
from sandbox.kubernetes.defaults import fill
from sandbox.kubernetes.deployments import HASH, REVISION, template_hash
from sandbox.kubernetes.kubelet import address, conditions, container_statuses
from sandbox.kubernetes.resources import (
    CERTIFICATES,
    CLUSTER_ROLE_BINDINGS,
    CLUSTER_ROLES,
    DEPLOYMENTS,
    HPAS,
    JOBS,
    NAMESPACES,
    NODES,
    PODS,
    REPLICASETS,
    ROLE_BINDINGS,
    ROLES,
    SECRETS,
    Resource,
    resource,
)
from sandbox.kubernetes.store import Object, Store, clone, now, stamp
from sandbox.releases import shipping
from sandbox.state import State

NAMESPACE = "vcci-production"
RBAC = "rbac.authorization.k8s.io"
_DAY = 86400.0
_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
_CHANGE_CAUSES = {"v1.9.0": "release v1.9.0: supplier hotspots", "v2.0.0": "release v2.0.0: new calculation engine"}

# name: replicas, image, CPU request, memory request, memory limit, port or None, arguments
_WORKLOADS: dict[str, tuple[int, str, str, str, str, int | None, list[str]]] = {
    "backend-api": (3, "vcci/backend-api", "500m", "1Gi", "2Gi", 8000, ["uvicorn", "vcci.api:app"]),
    "frontend": (2, "vcci/frontend", "100m", "128Mi", "256Mi", 8080, []),
    "worker": (3, "vcci/worker", "1", "2Gi", "4Gi", None, ["celery", "-A", "vcci.celery", "worker"]),
    "beat": (1, "vcci/worker", "50m", "128Mi", "256Mi", None, ["celery", "-A", "vcci.celery", "beat"]),
}


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """What the platform in the cluster has around it.

    :param registry: host and port; empty: there is none, and images are named as if from nowhere.
    :param digests: of the releases' images in it, by version and repository.
    :param secrets: contents of the platform's Secrets, by name.
    :param login: the registry's name and password.
    """

    registry: str
    digests: shipping.Shipped
    secrets: dict[str, dict[str, str]]
    login: tuple[str, str]

    @classmethod
    def of(cls, state: State, registry: str) -> Surroundings:
        """Read them off the sandbox's state."""
        app, redis, git = (state.secret(name) for name in ("postgres-vcci_app", "redis", "git"))
        port = state.port("postgres-direct")
        values = {
            "DATABASE_URL": f"postgresql+psycopg://vcci_app:{app}@127.0.0.1:{port}/vcci_production",
            "REDIS_URL": f"redis://:{redis}@127.0.0.1:{state.port('redis-direct')}/0",
            "VCCI_API_URL": f"http://127.0.0.1:{state.port('api')}",
        }
        mail = {
            "SMTP_HOST": "127.0.0.1",
            "SMTP_PORT": str(state.port("smtp")),
            "SMTP_USER": "vcci-ops",
            "SMTP_PASSWORD": state.secret("smtp"),
            "SMTP_STARTTLS": "false",
            "MAIL_FROM": "VCCI <welcome@vcci.greenlang.io>",
        }
        login = ("vcci-ops", state.secret("registry"))
        digests = shipping.digests(state.folder) if registry else {}
        secrets = {"vcci-database": values, "vcci-smtp": mail, "vcci-ops-git": {"token": git}}
        return cls(registry, digests, secrets, login)

    def image(self, repository: str, version: str) -> str:
        """Return the reference of a release's image, by digest where it has one."""
        digest = self.digests.get(version, {}).get(repository)
        return f"{self.registry}/{repository}:{version}@{digest}" if digest else f"{repository}:{version}"

    @property
    def docker_config(self) -> str:
        """Return the configuration of a client of the registry."""
        auth = base64.b64encode(":".join(self.login).encode()).decode()
        return json.dumps({"auths": {self.registry: {"auth": auth}}} if self.registry else {"auths": {}})


class Seed:
    """Fills an empty store.

    :param authority: signs the platform's certificate.
    :param around: the platform's surroundings.
    """

    def __init__(self, controllers: Controllers, authority: trustme.CA, around: Surroundings) -> None:
        self._controllers, self._store, self._authority = controllers, controllers.store, authority
        self._around = around

    def sow(self) -> None:
        """Put everything there, unless there is something."""
        store: Store = self._store
        if any(store.entries(NAMESPACES)):
            return
        for name in ("default", "kube-system", "kube-node-lease", "cert-manager", NAMESPACE):
            self._keep(NAMESPACES, {"metadata": {"name": name}}, 120 * _DAY)
        for number in range(3):
            node = self._keep(NODES, _node(f"node-{number + 1}", number), 120 * _DAY)
            self._keep(resource("leases", "coordination.k8s.io"), _heartbeat(node), 120 * _DAY)
        self._configuration()
        self._rights()
        for name in _WORKLOADS:
            self._workload(name, NAMESPACE)
        self._service("backend-api", 8000)
        self._service("frontend", 8080)
        self._cert_manager()
        self._autoscaler("backend-api", 3, 10, 75)
        self._autoscaler("worker", 3, 20, 80)
        self._certificate()
        for days in (1, 0):
            self._nightly(days)

    def _keep(self, kind: Resource, obj: Object, age: float) -> Object:
        meta = obj["metadata"]
        path = f"vcci/{kind.full_name}/{meta.get('namespace', '')}/{meta['name']}"
        meta["uid"] = str(uuid.uuid5(uuid.NAMESPACE_URL, path))
        meta["creationTimestamp"] = now(-age)
        return self._controllers.create(kind, obj)

    # Workloads ----------------------------------------------------------------------------------

    def _workload(self, name: str, namespace: str) -> None:
        replicas, image, *_ = _WORKLOADS[name]
        deployment = self._deployment(name, namespace, replicas, _template(name, self._around.image(image, "v2.0.0")))
        old = _template(name, self._around.image(image, "v1.9.0"))
        self._replicaset(deployment, clone(old), 1, 0, 90 * _DAY)
        current = self._replicaset(deployment, deployment["spec"]["template"], 2, replicas, 6 * _DAY)
        for number in range(replicas):
            self._pod(current, number, 6 * _DAY - 60 * number)

    def _deployment(
        self, name: str, namespace: str, replicas: int, template: Object, *, number: int = 2, since: float = 6 * _DAY
    ) -> Object:
        cause = _CHANGE_CAUSES["v2.0.0"] if number == 2 else "installed"
        notes = {REVISION: str(number), "kubernetes.io/change-cause": cause}
        labels = {"app": name, "app.kubernetes.io/part-of": "vcci"}
        meta = {"name": name, "namespace": namespace, "labels": labels, "annotations": notes, "generation": number + 1}
        spec = {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template}
        made = self._keep(DEPLOYMENTS, {"metadata": meta, "spec": spec}, 90 * _DAY)
        code = template_hash(made["spec"]["template"])
        status = {
            "observedGeneration": number + 1,
            **dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), replicas),
            "conditions": [
                _true("Available", since, "MinimumReplicasAvailable", "Deployment has minimum availability."),
                _true(
                    "Progressing",
                    since,
                    "NewReplicaSetAvailable",
                    f'ReplicaSet "{name}-{code}" has successfully progressed.',
                ),
            ],
        }
        return self._store.set_status(DEPLOYMENTS, made, status)

    def _replicaset(self, deployment: Object, template: Object, number: int, replicas: int, age: float) -> Object:
        meta = deployment["metadata"]
        # Named by what the template is once the defaults are in it, as the controller will find it.
        filled = clone({"metadata": {}, "spec": {"template": template, "selector": {}, "strategy": {}}})
        fill(DEPLOYMENTS, filled)
        template = filled["spec"]["template"]
        code = template_hash(template)
        template["metadata"]["labels"][HASH] = code
        selector = {"matchLabels": {"app": meta["name"], HASH: code}}
        image = template["spec"]["containers"][0]["image"].partition("@")[0].rpartition(":")[2]
        cause = _CHANGE_CAUSES.get(image, "installed")
        surge = replicas + -(-deployment["spec"]["replicas"] // 4)
        notes = {
            REVISION: str(number),
            "kubernetes.io/change-cause": cause,
            "deployment.kubernetes.io/desired-replicas": str(deployment["spec"]["replicas"]),
            "deployment.kubernetes.io/max-replicas": str(surge),
        }
        made = {
            "name": f"{meta['name']}-{code}",
            "namespace": meta["namespace"],
            "labels": dict(template["metadata"]["labels"]),
            "annotations": notes,
            "generation": number,
            "ownerReferences": [owner_reference(DEPLOYMENTS, deployment)],
        }
        counts = ("replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas")
        status: Object = dict.fromkeys(counts, replicas) if replicas else {"replicas": 0}
        status["observedGeneration"] = number
        spec = {"replicas": replicas, "selector": selector, "template": template}
        return self._keep(REPLICASETS, {"metadata": made, "spec": spec, "status": status}, age)

    def _pod(self, replicaset: Object, number: int, age: float) -> None:
        pod = pod_of(REPLICASETS, replicaset, replicaset["metadata"]["name"])
        chance = random.Random(f"{replicaset['metadata']['name']}/{number}")
        code = "".join(chance.choice(_ALPHABET) for _ in range(5))
        pod["metadata"]["name"] = f"{replicaset['metadata']['name']}-{code}"
        pod["spec"]["nodeName"] = f"node-{number % 3 + 1}"
        made = self._keep(PODS, pod, age)
        begun = now(-age + 3)
        running = {"running": {"startedAt": begun}}
        self._status(made, "Running", conditions(made, True, since=now(-age + 9)), running, begun, ready=True)

    def _status(
        self, pod: Object, phase: str, conditions_: list[Object], state: Object, begun: str, *, ready: bool
    ) -> None:
        status = {
            "phase": phase,
            "conditions": conditions_,
            "hostIP": "127.0.0.1",
            "podIP": address(pod),
            "podIPs": [{"ip": address(pod)}],
            "startTime": begun,
            "qosClass": "Burstable",
            "containerStatuses": container_statuses(pod, state, ready=ready),
        }
        self._store.set_status(PODS, pod, status)

    def _nightly(self, days: int) -> None:
        """Put a nightly Job there that is done, with its pod: finished pods are no fault."""
        begun = int(time.time() // _DAY) * _DAY + 2 * 3600 - days * _DAY
        if begun > time.time():
            begun -= 2 * _DAY
        age, name = time.time() - begun, f"nightly-rollup-{int(begun // 60)}"
        container = {
            "name": "nightly-rollup",
            "image": self._around.image("vcci/worker", "v2.0.0"),
            "command": ["python", "-m", "vcci.rollup"],
            "resources": {"requests": {"cpu": "500m", "memory": "512Mi"}, "limits": {"memory": "1Gi"}},
        }
        labels = {"app": "nightly-rollup", "batch.kubernetes.io/job-name": name, "job-name": name}
        template = {"metadata": {"labels": labels}, "spec": {"restartPolicy": "Never", "containers": [container]}}
        spec = {"backoffLimit": 2, "completions": 1, "template": template}
        ended = stamp(begun + 412)
        complete = _true("Complete", age - 412, "CompletionsReached", "Reached expected number of succeeded pods")
        status = {
            "startTime": stamp(begun),
            "completionTime": ended,
            "succeeded": 1,
            "ready": 0,
            "conditions": [complete],
        }
        meta = {"name": name, "namespace": NAMESPACE, "labels": {"app": "nightly-rollup"}, "generation": 1}
        job = self._keep(JOBS, {"metadata": meta, "spec": spec, "status": status}, age)
        pod = pod_of(JOBS, job, name)
        pod["metadata"]["name"] = f"{name}-{'x7k2q' if days else 'd9w4f'}"
        pod["spec"]["nodeName"] = "node-2"
        made = self._keep(PODS, pod, age)
        state = {"exitCode": 0, "reason": "Completed", "startedAt": stamp(begun + 2), "finishedAt": ended}
        shown = conditions(made, False, since=ended, reason="PodCompleted")
        self._status(made, "Succeeded", shown, {"terminated": state}, stamp(begun), ready=False)

    # Around them --------------------------------------------------------------------------------

    def _configuration(self) -> None:
        data = {"VCCI_ENVIRONMENT": "production", "VCCI_LOG_LEVEL": "INFO", "VCCI_TIMEZONE": "UTC"}
        meta = {"name": "vcci-config", "namespace": NAMESPACE, "labels": {"app.kubernetes.io/part-of": "vcci"}}
        self._keep(resource("configmaps"), {"metadata": meta, "data": data}, 90 * _DAY)
        for name, values in self._around.secrets.items():
            encoded = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
            self._keep(SECRETS, {"metadata": {"name": name, "namespace": NAMESPACE}, "data": encoded}, 90 * _DAY)
        self._registry_login()
        account = {"metadata": {"name": "vcci", "namespace": NAMESPACE}}
        self._keep(resource("serviceaccounts"), account, 90 * _DAY)

    def _rights(self) -> None:
        """Put there who may do what: Kubernetes' own administrators, and who deploys. The play enforces none of it."""
        every = {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}
        self._keep(CLUSTER_ROLES, {"metadata": {"name": "cluster-admin"}, "rules": [every]}, 120 * _DAY)
        masters = {"kind": "Group", "name": "system:masters", "apiGroup": RBAC}
        self._keep(CLUSTER_ROLE_BINDINGS, cluster_admin("cluster-admin", masters), 120 * _DAY)
        meta = {"name": "deployer", "namespace": NAMESPACE}
        reading = {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "list"]}
        self._keep(ROLES, {"metadata": dict(meta), "rules": [reading]}, 90 * _DAY)
        account = {"kind": "ServiceAccount", "name": "deployer", "namespace": NAMESPACE}
        ref = {"apiGroup": RBAC, "kind": "Role", "name": "deployer"}
        self._keep(ROLE_BINDINGS, {"metadata": dict(meta), "roleRef": ref, "subjects": [account]}, 90 * _DAY)

    def _registry_login(self) -> None:
        data = {".dockerconfigjson": base64.b64encode(self._around.docker_config.encode()).decode()}
        meta = {"name": "vcci-ops-registry", "namespace": NAMESPACE}
        secret = {"metadata": meta, "type": "kubernetes.io/dockerconfigjson", "data": data}
        self._keep(SECRETS, secret, 90 * _DAY)

    def _service(self, name: str, port: int) -> None:
        meta = {"name": name, "namespace": NAMESPACE, "labels": {"app": name}}
        spec = {"selector": {"app": name}, "ports": [{"name": "http", "port": 80, "targetPort": port}]}
        spec["clusterIP"] = f"10.96.12.{port % 200}"
        self._keep(resource("services"), {"metadata": meta, "spec": spec}, 90 * _DAY)

    def _cert_manager(self) -> None:
        name, age = "cert-manager", 100 * _DAY
        _, _, cpu, memory, limit, _, _ = _WORKLOADS["beat"]
        container = {
            "name": name,
            "image": "quay.io/jetstack/cert-manager-controller:v1.18.2",
            "resources": {"requests": {"cpu": cpu, "memory": memory}, "limits": {"memory": limit}},
        }
        template = {"metadata": {"labels": {"app": name}}, "spec": {"containers": [container]}}
        deployment = self._deployment(name, name, 1, template, number=1, since=age)
        self._pod(self._replicaset(deployment, deployment["spec"]["template"], 1, 1, age), 0, age)

    def _autoscaler(self, name: str, least: int, most: int, percent: int) -> None:
        target = {"type": "Utilization", "averageUtilization": percent}
        spec = {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            "minReplicas": least,
            "maxReplicas": most,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}],
        }
        meta = {"name": name, "namespace": NAMESPACE, "labels": {"app": name}}
        self._keep(HPAS, {"metadata": meta, "spec": spec}, 90 * _DAY)

    def _certificate(self) -> None:
        names = ["api.vcci.greenlang.io", "app.vcci.greenlang.io"]
        spec: dict[str, Any] = {
            "secretName": "vcci-tls",
            "duration": "2160h0m0s",
            "renewBefore": "720h0m0s",
            "dnsNames": names,
            "issuerRef": {"name": "letsencrypt-production", "kind": "ClusterIssuer", "group": "cert-manager.io"},
        }
        meta = {"name": "vcci-tls", "namespace": NAMESPACE, "generation": 1}
        certificate = self._keep(CERTIFICATES, {"metadata": meta, "spec": spec}, 90 * _DAY)
        begun = time.time() - 30 * _DAY
        data, dates = issue(self._authority, certificate, begun)
        self._keep(SECRETS, secret_for(certificate, data), 90 * _DAY)
        status = {**dates, "revision": 2, "conditions": [ready_condition(certificate, stamp(begun))]}
        self._store.set_status(CERTIFICATES, certificate, status)


def cluster_admin(name: str, subject: Object) -> Object:
    """Return a ClusterRoleBinding that makes a subject cluster-admin."""
    ref = {"apiGroup": RBAC, "kind": "ClusterRole", "name": "cluster-admin"}
    return {"metadata": {"name": name}, "roleRef": ref, "subjects": [subject]}


def _true(kind: str, age: float, reason: str, message: str) -> Object:
    since = now(-age)
    times = {"lastUpdateTime": since, "lastTransitionTime": since}
    return {"type": kind, "status": "True", **times, "reason": reason, "message": message}


def _template(name: str, image: str) -> Object:
    _, _, cpu, memory, limit, port, args = _WORKLOADS[name]
    container: dict[str, Any] = {
        "name": name,
        "image": image,
        "envFrom": [{"configMapRef": {"name": "vcci-config"}}],
        "resources": {"requests": {"cpu": cpu, "memory": memory}, "limits": {"memory": limit}},
    }
    if name == "backend-api":
        container["envFrom"] += [{"secretRef": {"name": name}} for name in ("vcci-database", "vcci-smtp")]
    if args:
        container["args"] = args
    if port:
        container["ports"] = [{"name": "http", "containerPort": port}]
        path = "/health/ready" if name == "backend-api" else "/"
        container["readinessProbe"] = {"httpGet": {"path": path, "port": "http"}, "periodSeconds": 10}
        container["livenessProbe"] = {"httpGet": {"path": path.replace("ready", "live"), "port": "http"}}
    labels = {"app": name, "app.kubernetes.io/part-of": "vcci"}
    spec = {"serviceAccountName": "vcci", "containers": [container]}
    return {"metadata": {"labels": labels}, "spec": spec}


def _heartbeat(node: Object) -> Object:
    name = node["metadata"]["name"]
    spec = {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": now().replace("Z", ".000000Z")}
    return {"metadata": {"name": name, "namespace": "kube-node-lease"}, "spec": spec}


_NODE_INFO = {
    "kubeletVersion": "v1.33.4",
    "kubeProxyVersion": "v1.33.4",
    "osImage": "Debian GNU/Linux 12 (bookworm)",
    "kernelVersion": "6.1.0-38-amd64",
    "containerRuntimeVersion": "containerd://1.7.27",
    "architecture": "amd64",
    "operatingSystem": "linux",
    **dict.fromkeys(("machineID", "systemUUID", "bootID"), ""),
}
_NODE_HEALTH = {
    "MemoryPressure": ("False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
    "DiskPressure": ("False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
    "PIDPressure": ("False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
    "Ready": ("True", "KubeletReady", "kubelet is posting ready status"),
}


def _node(name: str, number: int) -> Object:
    labels = {
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "topology.kubernetes.io/zone": f"eu-central-1{'abc'[number]}",
        "node.kubernetes.io/instance-type": "m6i.xlarge",
    }
    since = {"lastHeartbeatTime": now(), "lastTransitionTime": now(-120 * _DAY)}
    addresses = {"InternalIP": f"10.0.{number}.10", "Hostname": name}
    status = {
        "capacity": {"cpu": "4", "memory": "16Gi", "pods": "110"},
        "allocatable": {"cpu": "3920m", "memory": "15Gi", "pods": "110"},
        "addresses": [{"type": kind, "address": address} for kind, address in addresses.items()],
        "nodeInfo": _NODE_INFO,
        "conditions": [
            {"type": kind, "status": value, **since, "reason": reason, "message": message}
            for kind, (value, reason, message) in _NODE_HEALTH.items()
        ],
    }
    spec = {"podCIDR": f"10.244.{number}.0/24"}
    return {"metadata": {"name": name, "labels": labels}, "spec": spec, "status": status}
