"""Restarting: what was asked for, and whether it would leave a workload without pods."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

from vcci_ops.domain.release_request import choice, flag, names, reason
from vcci_ops.domain.scaling import obstacle
from vcci_ops.domain.workloads import Deployment
from vcci_ops.exceptions import InvalidInput, Refused


@dataclasses.dataclass(frozen=True)
class RestartRequest:
    """What a person asked for."""

    workloads: tuple[str, ...]
    reason: str
    allow_downtime: bool
    if_locked: Literal["refuse", "wait"]
    dry_run: bool

    @classmethod
    def of(cls, params: Mapping[str, Any], known: Sequence[str]) -> RestartRequest:
        """Read the run's parameters.

        :param known: names of the workloads that may be restarted, in the order in which they are.
        :raises InvalidInput: names the field, the value and what would be accepted.
        """
        if not params.get("workloads"):
            raise InvalidInput("workloads", params.get("workloads"), f"at least one of {', '.join(known)}")
        return cls(
            workloads=names(params, "workloads", known),
            reason=reason(params),
            allow_downtime=flag(params, "allow_downtime"),
            if_locked=cast(Any, choice(params, "if_locked", ("refuse", "wait"))),
            dry_run=flag(params, "dry_run"),
        )


def require_restartable(deployment: Mapping[str, Any], *, allow_downtime: bool) -> str:
    """Pass when a Deployment may be restarted; return what a person should know of it.

    :param deployment: the Deployment of the API (apps/v1).
    :raises Refused: when a rollout is under way, or all its pods would be gone for a while.
    """
    read = Deployment.from_json(deployment)
    if said := obstacle(read):
        raise Refused(f"{read.name}: {said}; restart when it has ended. Nothing was changed.")
    why = downtime(deployment)
    if why and not allow_downtime:
        raise Refused(
            f"{read.name} would be down during its restart: {why}. Scale it up first, or tick allow_downtime."
            " Nothing was changed."
        )
    return f"{read.name}: {read.summary()}{f'; it will be down for a while: {why}' if why else ''}"


def downtime(deployment: Mapping[str, Any]) -> str:
    """Say why replacing a Deployment's pods would leave none for a while; "" when it does not.

    :param deployment: the Deployment of the API (apps/v1).
    """
    spec = deployment.get("spec") or {}
    strategy, replicas = spec.get("strategy") or {}, int(1 if spec.get("replicas") is None else spec["replicas"])
    if replicas == 0:
        return ""
    if strategy.get("type") == "Recreate":
        return "its strategy is Recreate: all pods end before a new one starts"
    rolling = strategy.get("rollingUpdate") or {}
    missing = _share(rolling.get("maxUnavailable", "25%"), replicas, up=False)
    if missing == 0 and _share(rolling.get("maxSurge", "25%"), replicas, up=True) == 0:
        missing = 1  # as Kubernetes does, for otherwise nothing could move
    if missing >= replicas:
        return f"its strategy allows {missing} of {replicas} replicas to be unavailable, so all of them"
    return ""


def _share(value: Any, replicas: int, *, up: bool) -> int:
    """Resolve maxSurge or maxUnavailable: a number, or a percentage of the replicas."""
    text = str(value)
    if not text.endswith("%"):
        return int(text)
    share = int(text[:-1]) * replicas
    return -(-share // 100) if up else share // 100
