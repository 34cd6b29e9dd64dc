"""The change lock: one change at a time in a namespace, held by a DAG run, seen by everybody with kubectl.

It is a Lease (https://kubernetes.io/docs/concepts/architecture/leases/) whose ``holderIdentity`` is
``dag_id/run_id``. Unlike a leader's lease it does not expire: a change that was left half-way by a dead run must
not be overtaken by the next one before a person has looked. That person releases it with the DAG
``break_glass_unlock``, which leaves a record.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from vcci_ops.exceptions import Conflict, LockHeld, NoData, Refused
from vcci_ops.hooks.kubernetes_writer import LEASES, KubernetesWriter

NAME = "vcci-ops-change"
PURPOSE, BY, BROKEN = "vcci-ops/purpose", "vcci-ops/by", "vcci-ops/broken"
"""Annotations of the Lease: what for, on whose behalf, and who broke it last, as JSON."""
BREAK_GLASS = "break_glass_unlock"
_TRIES = 10
_TEXT = 500


@dataclasses.dataclass(frozen=True)
class LockState:
    """What the Lease says: who holds the lock, if anybody, and who broke it last."""

    holder: str
    """``dag_id/run_id``, or "" when nobody holds it."""
    purpose: str = ""
    by: str = ""
    """Who asked for that run."""
    acquired: str = ""
    """RFC 3339, UTC."""
    broken: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """holder, by, reason, at, source of the last time it was broken; empty when it never was."""

    @classmethod
    def from_json(cls, lease: Mapping[str, Any]) -> LockState:
        """Read a Lease of the API."""
        spec, notes = lease.get("spec") or {}, lease["metadata"].get("annotations") or {}
        try:
            broken = json.loads(notes.get(BROKEN) or "{}")
        except ValueError:
            broken = {}
        return cls(
            holder=spec.get("holderIdentity") or "",
            purpose=notes.get(PURPOSE, ""),
            by=notes.get(BY, ""),
            acquired=_second(spec.get("acquireTime") or ""),
            broken=broken if isinstance(broken, dict) else {},
        )

    def __str__(self) -> str:
        """Say it in one sentence without a full stop."""
        if not self.holder:
            return "nobody holds it"
        since = f" since {self.acquired}" if self.acquired else ""
        asked = f", asked for by {self.by}" if self.by else ""
        return f"{self.holder} holds it{since}" + (f" for: {self.purpose}" if self.purpose else "") + asked


class ChangeLock:
    """The lock of one namespace. Of two that ask at once exactly one gets it, for the API writes one of them only.

    :param namespace: what is changed.
    :param kubernetes_conn_id: Airflow connection of type kubernetes; needs get and update of this Lease, and create.
    :param name: of the Lease.
    """

    def __init__(self, namespace: str, *, kubernetes_conn_id: str = "vcci_kubernetes", name: str = NAME) -> None:
        self.namespace = namespace
        self.kubernetes_conn_id = kubernetes_conn_id
        self.name = name

    @cached_property
    def api(self) -> KubernetesWriter:
        """The cluster."""
        return KubernetesWriter(self.kubernetes_conn_id)

    def current(self) -> LockState | None:
        """Return what the Lease says, or None when there is none yet."""
        lease = self._lease()
        return LockState.from_json(lease) if lease else None

    def acquire(self, holder: str, purpose: str, by: str) -> bool:
        """Take the lock, or find that this holder has it already; return True.

        :param holder: ``dag_id/run_id``.
        :param purpose: what for, in words.
        :param by: who asked for the run.
        :raises LockHeld: when somebody else has it; says who, since when, what for, and what to do.
        """
        for _ in range(_TRIES):
            lease = self._lease()
            state = LockState.from_json(lease) if lease else LockState("")
            if state.holder == holder:
                return True
            if state.holder:
                raise LockHeld(state.holder, self._held(state))
            try:
                self._take(lease, holder, purpose, by)
            except Conflict:
                continue  # somebody was quicker: look again who
            return True
        raise Conflict(f"the change lock of namespace {self.namespace} changes all the time; nothing was changed")

    def release(self, holder: str) -> bool:
        """Give the lock back; return whether this holder had it. Safe to call twice; never takes another's."""
        for _ in range(_TRIES):
            lease = self._lease()
            if lease is None or LockState.from_json(lease).holder != holder:
                return False
            try:
                self.api.replace(LEASES, self.namespace, _freed(lease))
            except (Conflict, NoData):
                continue
            return True
        raise Conflict(f"the change lock of namespace {self.namespace} changes all the time; it was not released")

    def require(self, holder: str) -> LockState:
        """Pass when this holder has the lock; ask before each act.

        :raises Refused: when it has not (any more); says who broke it and who has it now.
        """
        state = self.current() or LockState("")
        if state.holder == holder:
            return state
        how = ""
        if state.broken.get("holder") == holder:
            how = f" {state.broken.get('by')} broke it at {state.broken.get('at')}: {state.broken.get('reason')}."
        raise Refused(
            f"this run does not hold the change lock of namespace {self.namespace}; nothing was changed by this task."
            f"{how} Now {state}. Look at what this run had changed already, then start a new run."
        )

    def break_(self, expected_holder: str, by: str, reason: str, *, source: str = "") -> LockState:
        """Take the lock from a holder that cannot give it back; return what the Lease said before.

        :param expected_holder: who must have it; a lock that has passed on meanwhile is left alone.
        :param by: the person.
        :param reason: why, in that person's words.
        :param source: run that does it; when it is repeated, it finds that it broke the lock already.
        :raises Refused: when nobody or another holds it.
        """
        for _ in range(_TRIES):
            lease = self._lease()
            state = LockState.from_json(lease) if lease else LockState("")
            if source and state.broken.get("source") == source and state.broken.get("holder") == expected_holder:
                return dataclasses.replace(state, holder=expected_holder)
            self.require_breakable(state, expected_holder)
            broken = {"holder": expected_holder, "by": by, "reason": reason[:_TEXT], "at": _now(), "source": source}
            try:
                self.api.replace(LEASES, self.namespace, _freed(lease or {}, broken))
            except (Conflict, NoData):
                continue
            return state
        raise Conflict(f"the change lock of namespace {self.namespace} changes all the time; it was not broken")

    def require_breakable(self, state: LockState | None, expected_holder: str) -> None:
        """Pass when the lock is held by whom a person expects.

        :raises Refused: otherwise, with what is so instead.
        """
        holder = state.holder if state else ""
        if not holder:
            raise Refused(f"nobody holds the change lock of namespace {self.namespace}; there is nothing to break")
        if holder != expected_holder:
            raise Refused(
                f"the change lock of namespace {self.namespace} is not held by {expected_holder!r}: {state}. "
                "It was not broken. Look at that run first; if it is the dead one, give its name as it stands here"
            )

    # How -------------------------------------------------------------------------------------------

    def _lease(self) -> dict[str, Any] | None:
        try:
            return self.api.object(LEASES, self.namespace, self.name)
        except NoData:
            return None

    def _take(self, lease: dict[str, Any] | None, holder: str, purpose: str, by: str) -> None:
        notes = {PURPOSE: purpose[:_TEXT], BY: by[:_TEXT]}
        spec = {"holderIdentity": holder, "acquireTime": _now(micro=True), "renewTime": _now(micro=True)}
        if lease is None:
            labels = {"app.kubernetes.io/managed-by": "vcci-ops"}
            meta = {"name": self.name, "namespace": self.namespace, "labels": labels, "annotations": notes}
            made = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": meta, "spec": spec}
            self.api.create(LEASES, self.namespace, made)
            return
        meta = {**lease["metadata"], "annotations": {**(lease["metadata"].get("annotations") or {}), **notes}}
        count = int((lease.get("spec") or {}).get("leaseTransitions") or 0) + 1
        try:
            # The resourceVersion that was read stands in the metadata: the API takes it from one of us only.
            taken = {**lease, "metadata": meta, "spec": {**spec, "leaseTransitions": count}}
            self.api.replace(LEASES, self.namespace, taken)
        except NoData as error:
            raise Conflict("the Lease was deleted meanwhile") from error

    def _held(self, state: LockState) -> str:
        return (
            f"the change lock of namespace {self.namespace} is taken: {state}. Nothing was changed. Wait until that "
            "run has ended, or let this one wait (if_locked=wait). If that run is dead, look at what it left half-way, "
            f"then release its lock with the DAG {BREAK_GLASS}. See it with: kubectl get lease {self.name} "
            f"-n {self.namespace} -o yaml"
        )


def _freed(lease: Mapping[str, Any], broken: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the Lease without a holder; the object stays, and with it how often it changed hands."""
    notes = {k: v for k, v in (lease["metadata"].get("annotations") or {}).items() if k not in (PURPOSE, BY)}
    if broken:
        notes[BROKEN] = json.dumps(broken, ensure_ascii=False)
    kept = {key: value for key, value in (lease.get("spec") or {}).items() if key == "leaseTransitions"}
    return {**lease, "metadata": {**lease["metadata"], "annotations": notes}, "spec": kept}


def _now(*, micro: bool = False) -> str:
    now = dt.datetime.now(dt.UTC)
    return now.strftime("%Y-%m-%dT%H:%M:%S.%fZ" if micro else "%Y-%m-%dT%H:%M:%SZ")


def _second(stamp: str) -> str:
    return f"{stamp[:19]}Z" if stamp else ""
