"""Which kinds of objects there are, as discovery tells them."""

from __future__ import annotations

import dataclasses

VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


@dataclasses.dataclass(frozen=True)
class Resource:
    """One kind of object.

    :param status: the status is a subresource, and so ignored in writes to the object itself.
    :param unconditional: an update may leave out the resourceVersion.
    :param upsert: an update of a missing object creates it.
    :param stored_as: version that is kept, where several are served.
    """

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    short: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    status: bool = False
    scale: bool = False
    unconditional: bool = True
    upsert: bool = False
    custom: bool = False
    verbs: tuple[str, ...] = VERBS
    singular: str = ""
    stored_as: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """Where its objects are kept: the versions of a kind share one place."""
        return self.group, self.plural

    @property
    def api_version(self) -> str:
        """The apiVersion of its objects."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def full_name(self) -> str:
        """The name error messages use, e.g. ``deployments.apps``."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


_ALL = ("all",)
_READ = ("get", "list")
_RBAC = "rbac.authorization.k8s.io"
_REVIEWS = "authorization.k8s.io"

RESOURCES: tuple[Resource, ...] = (
    Resource("", "v1", "configmaps", "ConfigMap", short=("cm",)),
    Resource("", "v1", "endpoints", "Endpoints", short=("ep",)),
    Resource("", "v1", "events", "Event", short=("ev",), upsert=True),
    Resource("", "v1", "namespaces", "Namespace", namespaced=False, short=("ns",), status=True),
    Resource("", "v1", "nodes", "Node", namespaced=False, short=("no",), status=True),
    Resource("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", short=("pvc",), status=True),
    Resource("", "v1", "pods", "Pod", short=("po",), categories=_ALL, status=True),
    Resource("", "v1", "resourcequotas", "ResourceQuota", short=("quota",), status=True),
    Resource("", "v1", "limitranges", "LimitRange", short=("limits",)),
    Resource("", "v1", "replicationcontrollers", "ReplicationController", short=("rc",), categories=_ALL, status=True),
    Resource("", "v1", "secrets", "Secret"),
    Resource("", "v1", "serviceaccounts", "ServiceAccount", short=("sa",)),
    Resource("", "v1", "services", "Service", short=("svc",), categories=_ALL, status=True),
    Resource("apps", "v1", "deployments", "Deployment", short=("deploy",), categories=_ALL, status=True, scale=True),
    Resource("apps", "v1", "replicasets", "ReplicaSet", short=("rs",), categories=_ALL, status=True, scale=True),
    Resource("apps", "v1", "statefulsets", "StatefulSet", short=("sts",), categories=_ALL, status=True, scale=True),
    Resource("apps", "v1", "daemonsets", "DaemonSet", short=("ds",), categories=_ALL, status=True),
    Resource(
        "autoscaling",
        "v2",
        "horizontalpodautoscalers",
        "HorizontalPodAutoscaler",
        short=("hpa",),
        categories=_ALL,
        status=True,
    ),
    Resource(
        "autoscaling",
        "v1",
        "horizontalpodautoscalers",
        "HorizontalPodAutoscaler",
        short=("hpa",),
        categories=_ALL,
        status=True,
        stored_as="v2",
    ),
    Resource("batch", "v1", "jobs", "Job", categories=_ALL, status=True),
    Resource("batch", "v1", "cronjobs", "CronJob", short=("cj",), categories=_ALL, status=True),
    Resource("coordination.k8s.io", "v1", "leases", "Lease", unconditional=False, upsert=True),
    Resource(
        "cert-manager.io",
        "v1",
        "certificates",
        "Certificate",
        short=("cert", "certs"),
        categories=("cert-manager",),
        status=True,
        unconditional=False,
        custom=True,
    ),
    Resource(
        "metrics.k8s.io", "v1beta1", "nodes", "NodeMetrics", namespaced=False, verbs=_READ, singular="nodemetrics"
    ),
    Resource("metrics.k8s.io", "v1beta1", "pods", "PodMetrics", verbs=_READ, singular="podmetrics"),
    Resource("networking.k8s.io", "v1", "ingresses", "Ingress", short=("ing",), status=True),
    Resource("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy", short=("netpol",)),
    Resource("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", short=("pdb",), status=True),
    Resource(_RBAC, "v1", "clusterrolebindings", "ClusterRoleBinding", namespaced=False),
    Resource(_RBAC, "v1", "clusterroles", "ClusterRole", namespaced=False),
    Resource(_RBAC, "v1", "rolebindings", "RoleBinding"),
    Resource(_RBAC, "v1", "roles", "Role"),
    Resource(
        _REVIEWS, "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", namespaced=False, verbs=("create",)
    ),
)

BY_PATH: dict[tuple[str, str, str], Resource] = {(r.group, r.version, r.plural): r for r in RESOURCES}
BY_KIND: dict[tuple[str, str], Resource] = {(r.api_version, r.kind): r for r in RESOURCES}


def resource(plural: str, group: str = "") -> Resource:
    """Return the stored version of a kind, e.g. ``resource("deployments", "apps")``."""
    return next(r for r in RESOURCES if r.plural == plural and r.group == group and not r.stored_as)


CERTIFICATES = resource("certificates", "cert-manager.io")
CLUSTER_ROLES = resource("clusterroles", _RBAC)
CLUSTER_ROLE_BINDINGS = resource("clusterrolebindings", _RBAC)
DEPLOYMENTS = resource("deployments", "apps")
EVENTS = resource("events")
HPAS = resource("horizontalpodautoscalers", "autoscaling")
JOBS = resource("jobs", "batch")
NAMESPACES = resource("namespaces")
NODES = resource("nodes")
PODS = resource("pods")
REPLICASETS = resource("replicasets", "apps")
ROLES = resource("roles", _RBAC)
ROLE_BINDINGS = resource("rolebindings", _RBAC)
SECRETS = resource("secrets")
