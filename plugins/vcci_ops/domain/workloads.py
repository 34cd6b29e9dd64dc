"""Deployments: are all replicas available, and does the rollout get on? As ``kubectl rollout status`` sees it.

See https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#deployment-status.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from vcci_ops.domain.signatures import redact

FAILURE_LENGTH = 240


class Rollout(StrEnum):
    """Where a Deployment stands."""

    COMPLETE = "complete"
    """Every replica is of the newest template and available."""
    DEGRADED = "degraded"
    """The rollout was completed; since then replicas have become unavailable."""
    PROGRESSING = "progressing"
    """The controller is at it."""
    STUCK = "stuck"
    """No progress within the progress deadline; it does not come back by itself."""
    UNSEEN = "unseen"
    """The controller has not looked at the newest specification; the numbers are old."""
    PAUSED = "paused"
    """Somebody paused the rollout in its middle."""


@dataclasses.dataclass(frozen=True, slots=True)
class Deployment:
    """A Deployment's wish and status."""

    name: str
    desired: int
    generation: int
    observed: int
    replicas: int
    updated: int
    available: int
    paused: bool
    progress: str
    """Reason of the Progressing condition."""
    failure: str
    """Message of the ReplicaFailure condition, e.g. an exceeded quota; "" when replicas can be made."""
    selector: str
    """Label selector of its pods."""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Deployment:
        """Read a Deployment of the API (apps/v1)."""
        spec, status = data.get("spec") or {}, data.get("status") or {}
        conditions = {c["type"]: c for c in status.get("conditions") or ()}
        return cls(
            name=data["metadata"]["name"],
            desired=int(1 if spec.get("replicas") is None else spec["replicas"]),
            generation=int(data["metadata"].get("generation") or 0),
            observed=int(status.get("observedGeneration") or 0),
            replicas=int(status.get("replicas") or 0),
            updated=int(status.get("updatedReplicas") or 0),
            available=int(status.get("availableReplicas") or 0),
            paused=bool(spec.get("paused")),
            progress=(conditions.get("Progressing") or {}).get("reason") or "",
            failure=_failure(conditions.get("ReplicaFailure") or {}),
            selector=selector_text(spec.get("selector") or {}),
        )

    @property
    def missing(self) -> int:
        """How many of the wanted replicas are not available."""
        return max(self.desired - self.available, 0)

    @property
    def rollout(self) -> Rollout:
        """Where it stands."""
        if self.observed < self.generation:
            return Rollout.UNSEEN
        if self.progress == "ProgressDeadlineExceeded":
            return Rollout.STUCK
        if self.updated < self.desired or self.replicas > self.updated or self.available < self.updated:
            if self.progress == "NewReplicaSetAvailable" and self.replicas == self.updated == self.desired:
                return Rollout.DEGRADED
            return Rollout.PAUSED if self.paused else Rollout.PROGRESSING
        return Rollout.COMPLETE

    @property
    def concern(self) -> bool:
        """Whether it deserves a look though replicas may suffice: what it stands at is not what was asked for."""
        return bool(self.failure) or self.rollout in (Rollout.UNSEEN, Rollout.PAUSED)

    def summary(self) -> str:
        """Say it in a sentence."""
        said = self._standing()
        return f"{said}; replicas cannot be made: {self.failure}" if self.failure else said

    def _standing(self) -> str:
        counts = f"{self.available} of {self.desired} replicas available"
        if self.rollout in (Rollout.COMPLETE, Rollout.DEGRADED):
            return counts
        if self.rollout is Rollout.UNSEEN:
            return f"{counts}; the controller has not seen the newest specification yet, so this may be old"
        words = {
            Rollout.PROGRESSING: "rollout under way",
            Rollout.PAUSED: "rollout paused",
            Rollout.STUCK: "the rollout exceeded its progress deadline (ProgressDeadlineExceeded)",
        }
        return f"{counts}; {words[self.rollout]}: {self._progress()}"

    def _progress(self) -> str:
        if self.updated < self.desired:
            return f"{self.updated} of {self.desired} replicas are new"
        if self.replicas > self.updated:
            return f"{self.replicas - self.updated} old replicas are still there"
        return f"{self.available} of {self.updated} new replicas are available"


def _failure(condition: Mapping[str, Any]) -> str:
    if condition.get("status") != "True":
        return ""
    said = redact(" ".join((condition.get("message") or condition.get("reason") or "no reason given").split()))
    return said if len(said) <= FAILURE_LENGTH else said[: FAILURE_LENGTH - 1] + "…"


def selector_text(selector: Mapping[str, Any]) -> str:
    """Write a LabelSelector the way list requests take it: ``app=worker,tier in (a,b)``."""
    parts = [f"{key}={value}" for key, value in sorted((selector.get("matchLabels") or {}).items())]
    for rule in selector.get("matchExpressions") or ():
        key, values = rule["key"], ",".join(rule.get("values") or ())
        form = {"In": f"{key} in ({values})", "NotIn": f"{key} notin ({values})", "Exists": key}
        parts.append(form.get(rule["operator"], f"!{key}"))
    return ",".join(parts)


def owning_deployment(replica_set: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return (ReplicaSet, its Deployment) from the metadata of a ReplicaSet; None when it stands alone."""
    meta = replica_set["metadata"]
    for owner in meta.get("ownerReferences") or ():
        if owner.get("controller") and owner.get("kind") == "Deployment":
            return meta["name"], owner["name"]
    return None
