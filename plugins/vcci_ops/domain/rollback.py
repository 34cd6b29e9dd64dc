"""Which revision of a Deployment to go back to: its ReplicaSets, as ``kubectl rollout history`` sees them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vcci_ops.domain import versions
from vcci_ops.exceptions import Refused

PREVIOUS = "previous"
FAILED = ("rolled-back", "rollback-failed", "failed", "held")
"""Outcomes after which a version is not called good."""
_REVISION = "deployment.kubernetes.io/revision"
_CAUSE = "kubernetes.io/change-cause"


@dataclasses.dataclass(frozen=True)
class Revision:
    """A revision of a Deployment: a ReplicaSet that is still kept."""

    number: int
    replica_set: str
    image: str
    version: str
    cause: str
    made: str

    @classmethod
    def from_json(cls, replica_set: Mapping[str, Any], container: str) -> Revision | None:
        """Read a ReplicaSet of the API; None when it lacks the container or its number."""
        meta = replica_set["metadata"]
        notes = meta.get("annotations") or {}
        containers = replica_set["spec"]["template"]["spec"]["containers"]
        image = next((c["image"] for c in containers if c["name"] == container), None)
        if image is None or not str(notes.get(_REVISION, "")).isdecimal():
            return None
        version = versions.version_of(image)
        return cls(
            number=int(notes[_REVISION]),
            replica_set=meta["name"],
            image=image,
            version=str(version) if version else "",
            cause=notes.get(_CAUSE, ""),
            made=meta.get("creationTimestamp", ""),
        )


def history(replica_sets: Iterable[Mapping[str, Any]], deployment: str, container: str) -> list[Revision]:
    """Return a Deployment's revisions, newest first."""
    own = (
        rs for rs in replica_sets if any(_is(owner, deployment) for owner in rs["metadata"].get("ownerReferences", ()))
    )
    found = (Revision.from_json(rs, container) for rs in own)
    return sorted((revision for revision in found if revision), key=lambda revision: -revision.number)


def _is(owner: Mapping[str, Any], deployment: str) -> bool:
    return bool(owner.get("controller")) and owner.get("kind") == "Deployment" and owner.get("name") == deployment


def failed_versions(records: Iterable[Mapping[str, Any]]) -> set[str]:
    """Return the versions whose newest release failed.

    :param records: releases and rollbacks, newest first; how a rollback *to* a version went says nothing about it.
    """
    newest: dict[str, str] = {}
    for record in records:
        if record["kind"] == "deploy":
            newest.setdefault(record["version"], record["outcome"])
    return {version for version, outcome in newest.items() if outcome in FAILED}


def previous_version(revisions: Mapping[str, Sequence[Revision]], failed: set[str]) -> str:
    """Return the one version that all Deployments go back to: the newest good one before the newest that runs.

    One for all, so that a half-way release does not send those back that it had not reached.

    :param revisions: Deployment → its revisions, newest first.
    :raises Refused: when there is none; lists what there is.
    """
    for name, kept in revisions.items():
        if not kept:
            raise Refused(f"target: {name} has no revision that is kept (revisionHistoryLimit)")
    running = [versions.version_of(kept[0].image) for kept in revisions.values()]
    newest = max((version for version in running if version), default=None)
    known = {versions.version_of(revision.image) for kept in revisions.values() for revision in kept}
    good = [v for v in known if v and newest and v < newest and str(v) not in failed]
    if not good:
        listed = "; ".join(f"{name}: {_listed(kept)}" for name, kept in revisions.items())
        raise Refused(f"target: there is no earlier version whose release did not fail. Kept are {listed}")
    return str(max(good))


def choose(workload: str, revisions: Sequence[Revision], target: str) -> Revision:
    """Return the revision to go back to; the present one when that is it.

    :param revisions: newest first; the first one runs now.
    :param target: a revision's number, or a version.
    :raises Refused: when there is none; lists what there is.
    """
    if re.fullmatch(r"[1-9][0-9]{0,8}", target, re.ASCII):
        found = next((r for r in revisions if r.number == int(target)), None)
    else:
        found = next((r for r in revisions if r.version == target), None)
    if found is None:
        raise Refused(f"target: {workload} has no revision {target} to go back to; it has {_listed(revisions)}")
    return found


def _listed(revisions: Sequence[Revision]) -> str:
    return ", ".join(f"{r.number} ({r.version or r.image})" for r in revisions) or "none"
