"""What an access review finds in Kubernetes: who is cluster-admin, and who can read Secrets.

https://kubernetes.io/docs/reference/access-authn-authz/rbac/
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from vcci_ops.domain.access import BY_HAND, NOTHING, Line
from vcci_ops.domain.results import Status

CLUSTER_ADMIN, NAMESPACE_ADMIN, SECRETS = "cluster-admin", "everything", "secrets"
"""Powers, the greatest first."""
READING = ("get", "list", "watch", "*")
EVERYBODY = ("Group/system:authenticated", "Group/system:unauthenticated", "User/system:anonymous")
_ACCOUNT = "system:serviceaccount:"
_ACCOUNTS = "system:serviceaccounts"
_THROUGH_SHOWN = 5


@dataclasses.dataclass(frozen=True)
class Role:
    """A Role or ClusterRole.

    :param namespace: of a Role; empty for a ClusterRole.
    :param rules: as the API has them.
    :param labels: by which it may be aggregated into another.
    :param selectors: of an aggregated ClusterRole: what it is made of.
    """

    name: str
    namespace: str = ""
    rules: tuple[Mapping[str, Any], ...] = ()
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    selectors: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def from_json(cls, item: Mapping[str, Any]) -> Role:
        """Read it off the API."""
        meta = item["metadata"]
        return cls(
            meta["name"],
            meta.get("namespace") or "",
            tuple(item.get("rules") or ()),
            meta.get("labels") or {},
            tuple((item.get("aggregationRule") or {}).get("clusterRoleSelectors") or ()),
        )


@dataclasses.dataclass(frozen=True)
class Binding:
    """A RoleBinding or ClusterRoleBinding.

    :param namespace: of a RoleBinding; empty for a ClusterRoleBinding.
    :param role: key of its role: namespace (empty for a ClusterRole) and name.
    :param subjects: ``Kind/namespace/name`` or ``Kind/name``.
    """

    name: str
    namespace: str
    role: tuple[str, str]
    subjects: tuple[str, ...]

    @classmethod
    def from_json(cls, item: Mapping[str, Any]) -> Binding:
        """Read it off the API."""
        meta, ref = item["metadata"], item["roleRef"]
        namespace = meta.get("namespace") or ""
        of = namespace if ref["kind"] == "Role" else ""
        subjects = tuple(subject_name(subject, namespace) for subject in item.get("subjects") or ())
        return cls(meta["name"], namespace, (of, ref["name"]), subjects)

    def __str__(self) -> str:
        kind = "RoleBinding" if self.namespace else "ClusterRoleBinding"
        return f"{kind} {self.name} → {'Role' if self.role[0] else 'ClusterRole'} {self.role[1]}"


def subject_name(subject: Mapping[str, Any], namespace: str) -> str:
    """Return a subject as settings name it; a ServiceAccount is the same one under its user name."""
    kind, name = subject["kind"], str(subject["name"])
    if kind == "User" and name.startswith(_ACCOUNT):
        return f"ServiceAccount/{name.removeprefix(_ACCOUNT).replace(':', '/', 1)}"
    if kind == "ServiceAccount":
        return f"ServiceAccount/{subject.get('namespace') or namespace}/{name}"
    return f"{kind}/{name}"


def selected(labels: Mapping[str, str], selector: Mapping[str, Any]) -> bool:
    """Whether labels match a label selector; an empty one matches everything."""
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    return all(_holds(labels, expression) for expression in selector.get("matchExpressions") or ())


def _holds(labels: Mapping[str, str], expression: Mapping[str, Any]) -> bool:
    key, values = expression["key"], expression.get("values") or ()
    known: dict[str, bool] = {
        "Exists": key in labels,
        "DoesNotExist": key not in labels,
        "In": labels.get(key) in values,
        "NotIn": labels.get(key) not in values,
    }
    return known[expression["operator"]]


def rules_of(role: Role, every: Iterable[Role]) -> list[Mapping[str, Any]]:
    """Return a role's rules with those of all that is aggregated into it, at any remove.

    The controller copies them into the aggregating role; where it has not yet, they count all the same.
    """
    cluster = [other for other in every if not other.namespace]
    seen, waiting = {role.name}, [role]
    rules: list[Mapping[str, Any]] = []
    while waiting:
        now = waiting.pop()
        rules += now.rules
        for other in cluster:
            if other.name not in seen and any(selected(other.labels, selector) for selector in now.selectors):
                seen.add(other.name)
                waiting.append(other)
    return rules


@dataclasses.dataclass(frozen=True)
class Power:
    """What rules allow of what is looked for.

    :param everything: any verb on anything.
    :param verbs: on Secrets.
    :param names: the Secrets, when only some; empty: all of them.
    """

    everything: bool = False
    verbs: tuple[str, ...] = ()
    names: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.everything or bool(self.verbs)


def power(rules: Iterable[Mapping[str, Any]]) -> Power:
    """Return what rules allow on Secrets, wildcards included."""
    everything, verbs, names, whole = False, set(), set(), False
    for rule in rules:
        groups, resources, allowed = (set(rule.get(key) or ()) for key in ("apiGroups", "resources", "verbs"))
        if not {"", "*"} & groups or not {"secrets", "*"} & resources:
            continue
        named = rule.get("resourceNames") or ()
        if "*" in groups and "*" in resources and "*" in allowed and not named:
            everything = True
        reading = allowed & set(READING)
        verbs |= reading
        names |= set(named) if reading else set()
        whole |= bool(reading) and not named
    shown = tuple(verb for verb in READING if verb in verbs)
    return Power(everything, shown, () if whole else tuple(sorted(names)))


def lines(
    roles: Sequence[Role], bindings: Iterable[Binding], namespace: str, cluster_admins: Iterable[str]
) -> Iterator[Line]:
    """Yield a line for each subject that is cluster-admin or can read Secrets, by its greatest power.

    :param namespace: of the platform; the RoleBindings are its.
    :param cluster_admins: subjects that may be bound to cluster-admin.
    """
    found: dict[str, dict[str, list[str]]] = {}
    components: set[str] = set()
    powers = {(role.namespace, role.name): power(rules_of(role, roles)) for role in roles}
    for binding in bindings:
        has = powers.get(binding.role, Power())
        for subject in binding.subjects if has else ():
            if _component(subject, binding):
                components.add(subject)
            else:
                found.setdefault(subject, {}).setdefault(_kind(binding, has), []).append(_said(binding, has))
    for subject, kinds in found.items():
        yield _line(subject, kinds, namespace, subject in set(cluster_admins))
    if components:
        yield _own(components)


def _component(subject: str, binding: Binding) -> bool:
    """Whether it is a part of Kubernetes itself, in a role of Kubernetes itself.

    Judged by names that the API server reserves, not by a label that whoever makes a binding can put on it.
    """
    if not binding.role[1].startswith("system:"):
        return False
    if subject in EVERYBODY or subject.startswith(f"Group/{_ACCOUNTS}"):
        return False
    return subject.startswith(("User/system:", "Group/system:", "ServiceAccount/kube-system/"))


def _kind(binding: Binding, has: Power) -> str:
    if has.everything or binding.role == ("", CLUSTER_ADMIN):
        return NAMESPACE_ADMIN if binding.namespace else CLUSTER_ADMIN
    return SECRETS


def _said(binding: Binding, has: Power) -> str:
    where = f"in {binding.namespace}" if binding.namespace else "in every namespace"
    if has.everything:
        return f"{where} through {binding}"
    only = f" only {', '.join(has.names)}," if has.names else ""
    return f"{'/'.join(has.verbs)}{only} {where} through {binding}"


_FINDINGS = {
    CLUSTER_ADMIN: "may do everything in the whole cluster",
    NAMESPACE_ADMIN: "may do everything in the namespace, and read its Secrets",
    SECRETS: "can read Secrets",
}


def _line(subject: str, kinds: Mapping[str, list[str]], namespace: str, allowed: bool) -> Line:
    greatest = next(kind for kind in _FINDINGS if kind in kinds)
    through = [said for kind in _FINDINGS for said in kinds.get(kind, ())]
    more = f"; and {len(through) - _THROUGH_SHOWN} more" if len(through) > _THROUGH_SHOWN else ""
    everybody = subject in EVERYBODY or subject.startswith(f"Group/{_ACCOUNTS}")
    grave = everybody or (greatest == CLUSTER_ADMIN and not allowed)
    severity = Status.CRITICAL if grave else Status.OK if allowed else Status.WARNING
    reason = {
        CLUSTER_ADMIN: "Whoever has this has every Secret, and can change or delete everything.",
        NAMESPACE_ADMIN: "Whoever has this has the platform's Secrets, and can change everything in its namespace.",
        SECRETS: "The platform's Secrets hold its passwords and keys.",
    }[greatest]
    return Line(
        section="kubernetes",
        key=f"kubernetes/{subject}",
        who=subject,
        finding=f"{_FINDINGS[greatest]}: {'; '.join(through[:_THROUGH_SHOWN])}{more}",
        recommendation="Keep" if allowed else "Remove the binding, or narrow its role to what is needed",
        reason="The settings name it as a cluster-admin." if allowed else reason,
        severity=severity,
        action=NOTHING if severity is Status.OK else BY_HAND,
    )


def _own(components: Iterable[str]) -> Line:
    names = sorted(components)
    return Line(
        section="kubernetes",
        key="kubernetes/components",
        who="Kubernetes' own components",
        finding=f"{len(names)} can read Secrets, as each is shipped: {', '.join(names)}",
        recommendation="Keep",
        reason="Reserved names, bound to roles of Kubernetes itself.",
        severity=Status.OK,
    )
