"""Workloads and their autoscalers in Kubernetes, and the database's connections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from vcci_ops.domain.scaling import HOLD, Change, Hold, Server, Size, Standing, obstacle, require_as_planned
from vcci_ops.domain.workloads import Deployment
from vcci_ops.exceptions import Conflict, Forbidden, NoData, Refused, UnexpectedAnswer
from vcci_ops.hooks.kubernetes import SYSTEM
from vcci_ops.hooks.kubernetes_writer import DEPLOYMENTS, MERGE, Kind, KubernetesWriter

_VERSIONS = ("v2", "v2beta2", "v2beta1", "v1")
"""Of the autoscaling API, best first; all have the same bounds. v1 alone is in every Kubernetes."""
_TRIES = 10


class Scaler(KubernetesWriter):
    """Read how large workloads are, and resize them.

    Made for one task: what the namespace's autoscalers are is asked once, in :meth:`standings`.
    """

    def standings(self, namespace: str, names: Sequence[str]) -> list[Standing]:
        """Return how these workloads stand, in this order.

        :raises Refused: when there is no Deployment of a name, or several autoscalers are at one.
        """
        autoscalers = self._autoscalers(namespace)
        return [self._standing(namespace, name, autoscalers.get(name, [])) for name in names]

    def deployment_json(self, namespace: str, name: str) -> dict[str, Any]:
        """Return a Deployment of the API.

        :raises Refused: when there is none of this name.
        """
        try:
            return self.object(DEPLOYMENTS, namespace, name)
        except NoData:
            raise Refused(f"there is no Deployment {name} in namespace {namespace}; nothing was changed") from None

    def resize(self, namespace: str, standing: Standing, wanted: Size, hold: Hold | None) -> None:
        """Make a workload this large: by its autoscaler's bounds, or by the replicas where it has none.

        :param standing: as just read; its autoscaler must be the one that ``wanted`` was made for.
        :param hold: note on the object until when it stays so; None removes another's note.
        :raises Conflict: when somebody was quicker.
        """
        kind = self.autoscaling if standing.autoscaler else DEPLOYMENTS
        name = standing.autoscaler or standing.name
        spec = (
            {"minReplicas": wanted.least, "maxReplicas": wanted.most}
            if standing.autoscaler
            else {"replicas": wanted.replicas}
        )
        note = str(hold) if hold else None
        meta = {"resourceVersion": standing.version, "annotations": {HOLD: note}}
        self.patch(kind, namespace, name, {"metadata": meta, "spec": spec}, how=MERGE)

    @cached_property
    def autoscaling(self) -> Kind:
        """The best version of the autoscaling API that this cluster serves."""
        group = self._json("/apis/autoscaling", "discover the API group autoscaling")
        served = {str(version.get("version")) for version in group.get("versions") or ()}
        version = next((version for version in _VERSIONS if version in served), None)
        if version is None:
            raise UnexpectedAnswer(
                SYSTEM, f"the group autoscaling is served as {', '.join(sorted(served)) or 'nothing'}"
            )
        return "autoscaling", version, "horizontalpodautoscalers"

    def _autoscalers(self, namespace: str) -> dict[str, list[dict[str, Any]]]:
        found: dict[str, list[dict[str, Any]]] = {}
        for autoscaler in self.objects(self.autoscaling, namespace):
            target = autoscaler["spec"].get("scaleTargetRef") or {}
            if target.get("kind") == "Deployment":
                found.setdefault(str(target.get("name")), []).append(autoscaler)
        return found

    def _standing(self, namespace: str, name: str, autoscalers: Sequence[Mapping[str, Any]]) -> Standing:
        data = self.deployment_json(namespace, name)
        deployment = Deployment.from_json(data)
        if len(autoscalers) > 1:
            several = ", ".join(sorted(a["metadata"]["name"] for a in autoscalers))
            raise Refused(f"several autoscalers are at {name} ({several}) and undo each other; leave one")
        autoscaler = autoscalers[0] if autoscalers else None
        meta = (autoscaler or data)["metadata"]
        return Standing(
            name=name,
            size=_size(deployment.desired, autoscaler),
            available=deployment.available,
            autoscaler=meta["name"] if autoscaler else "",
            wants=(autoscaler.get("status") or {}).get("desiredReplicas") if autoscaler else None,
            hold=Hold.read(meta.get("annotations")),
            obstacle=obstacle(deployment),
            version=meta["resourceVersion"],
        )


def _size(replicas: int, autoscaler: Mapping[str, Any] | None) -> Size:
    if autoscaler is None:
        return Size(replicas)
    least = autoscaler["spec"].get("minReplicas")
    return Size(replicas, int(1 if least is None else least), int(autoscaler["spec"]["maxReplicas"]))


def apply(scaler: Scaler, namespace: str, change: Change, hold: Hold | None) -> bool:
    """Bring one workload from ``before`` to ``after``; return whether something was left to do.

    Safe to repeat: what is as it shall be is left alone. What is neither as before nor as it shall be was changed by
    somebody else, and is not touched.

    :param hold: note on the object until when it stays so; None removes a note.
    :raises Refused: when somebody else changed it, its autoscaler came or went, or a rollout is under way.
    """
    if change.nothing:
        return False
    for _ in range(_TRIES):
        (now,) = scaler.standings(namespace, [change.name])
        require_as_planned(now, change)
        if now.size.same(change.after) and now.hold == hold:
            return False
        try:
            scaler.resize(namespace, now, change.after, hold)
        except Conflict:
            continue  # most often the autoscaler's own note of its status: look again
        return True
    raise Conflict(f"{change.name} changes all the time; it was left alone")


class Connections:
    """What PostgreSQL says of its connections.

    :param postgres_conn_id: connection of the production database; the role needs ``pg_read_all_stats``.
    """

    def __init__(self, postgres_conn_id: str = "vcci_postgres") -> None:
        self.postgres_conn_id = postgres_conn_id

    def server(self, roles: Sequence[str]) -> Server:
        """Count the connections of these roles, and those of others.

        :raises Forbidden: when other users' sessions are hidden, for then few seen means nothing.
        :raises MeasurementError: when it cannot be asked.
        """
        from vcci_ops.hooks.postgres import ReadOnlyPostgresHook, Statement, check_sql

        hook = ReadOnlyPostgresHook(self.postgres_conn_id)
        answer = hook.read_one(Statement(check_sql("connection_owners"), {"roles": list(roles)}))
        maximum, reserved, ours, others, sees_all = answer.rows[0]
        if not sees_all:
            raise Forbidden("PostgreSQL", "see other users' sessions (GRANT pg_read_all_stats)")
        return Server(maximum, reserved, ours, others)
