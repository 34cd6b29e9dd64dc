"""How a release ended, judged from the states of its tasks and what they left."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from vcci_ops.domain.results import Status

_FAILED = ("failed", "upstream_failed")
UNLOCK, DECIDE = "unlock", "roll_back.decide"


@dataclasses.dataclass(frozen=True)
class Facts:
    """What is known at the end of a run."""

    states: Mapping[str, str]
    """Task → its state."""
    dry_run: bool = False
    nothing_to_do: bool = False
    approval: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    watch: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    decision: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """The decision to roll back, if there was one."""
    undone: Sequence[str] = ()
    """Tasks that bring the Deployments back."""
    begun: bool = False
    """Whether anything may have been changed."""
    kind: str = "deploy"
    """deploy, or rollback for one that a person asked for."""

    @property
    def failed(self) -> list[str]:
        """Tasks that failed themselves."""
        return [task for task, state in self.states.items() if state == "failed" and task != UNLOCK]

    @property
    def rolled_out(self) -> bool:
        """Whether a rollout was tried, so that Deployments may run the new version."""
        return any(t.startswith("roll_out.") and s in ("success", "failed") for t, s in self.states.items())


@dataclasses.dataclass(frozen=True)
class Ending:
    """A verdict, and what to do."""

    outcome: str
    words: str
    action: str
    status: Status
    """Green or red, in the report's own terms."""

    @property
    def well(self) -> bool:
        """Whether the run is green."""
        return not self.status.fails_run

    @property
    def graver(self) -> bool:
        """Whether it needs an incident record."""
        return self.outcome == "rollback-failed"


def judge(facts: Facts) -> Ending:
    """Say how a release ended."""
    if facts.nothing_to_do:
        return Ending("nothing-to-do", "this version already runs everywhere", "Nothing.", Status.OK)
    unjudged = {"held": _held, "superseded": _superseded, "inconclusive": _inconclusive}
    if facts.decision:
        found = _undone
    elif str(facts.watch.get("outcome")) in unjudged:
        found = unjudged[str(facts.watch["outcome"])]
    else:
        found = _failed if facts.failed else _well
    return found(facts)


def _well(facts: Facts) -> Ending:
    if facts.dry_run:
        return Ending("dry-run", "the plan is made; nothing was changed", "Trigger it without dry run.", Status.OK)
    if facts.watch.get("outcome") != "passed":
        action = "Somebody marked tasks in the UI. Look at the platform yourself, or clear `watch`."
        return Ending("inconclusive", "it was not watched to the end", action, Status.UNKNOWN)
    if facts.states.get(UNLOCK) == "failed":
        action = "The change lock is still held: clear `unlock`, or use break_glass_unlock."
        return Ending(
            "released", "done, verified and watched, but the lock could not be given back", action, Status.WARNING
        )
    if facts.kind == "rollback":
        return Ending("released", "back at the earlier version, verified and watched", "Nothing.", Status.OK)
    return Ending("released", "released, verified and watched", "Nothing.", Status.OK)


def _undone(facts: Facts) -> Ending:
    why = str(facts.decision.get("why", ""))
    tasks = [task for task in facts.states if task in facts.undone or task.startswith("roll_back.")]
    bad = [task for task in tasks if facts.states[task] in _FAILED]
    undoing = {facts.states.get(task) for task in facts.undone}
    if facts.decision.get("ask") and undoing <= {"skipped", "upstream_failed", None}:
        action = "The migration was destructive. Decide by hand: keep the release, or restore from the backup."
        return Ending("failed", f"not rolled back, after a destructive migration: {why}", action, Status.CRITICAL)
    if bad:
        named = ", ".join([task for task in bad if facts.states[task] == "failed"] or bad)
        return Ending("rollback-failed", f"{why}; then {named} failed", _by_hand(facts, named), Status.CRITICAL)
    action = "The previous version serves again. Find the reason before the next try."
    return Ending("rolled-back", why or "a step failed", action, Status.CRITICAL)


def _by_hand(facts: Facts, named: str) -> str:
    if any(facts.states.get(task) != "success" for task in facts.undone if facts.states.get(task) != "skipped"):
        return f"Act now: read the log of {named}, compare what runs with the plan, and bring it back by hand."
    return f"Act now: the earlier images are back, and still it is not well. Read the log of {named}."


def _held(facts: Facts) -> Ending:
    action = (
        "See to what the watch could not reach, look at the platform yourself, then keep the release or trigger "
        "release_rollback. Clearing `watch` watches again."
    )
    words = str(facts.watch.get("reason") or "the watch had no data")
    return Ending("held", words, action, Status.UNKNOWN)


def _superseded(facts: Facts) -> Ending:
    action = "Find out who changed the Deployment. This run judges and undoes nothing that is not its own."
    words = f"somebody changed the platform during the watch: {facts.watch.get('reason', '')}"
    return Ending("superseded", words, action, Status.UNKNOWN)


def _inconclusive(facts: Facts) -> Ending:
    action = "Too few requests to judge by. Look yourself, or clear `watch` when there is traffic."
    words = str(facts.watch.get("reason") or "too little traffic")
    return Ending("inconclusive", words, action, Status.UNKNOWN)


def _failed(facts: Facts) -> Ending:
    if facts.approval and not facts.approval.get("approved"):
        # The verdict says already that it was not approved, and that nothing was changed.
        said = str(facts.approval.get("reason") or "rejected").removeprefix("rejected: ")
        return Ending("rejected", said, "Trigger it again when somebody can approve it.", Status.CRITICAL)
    where = ", ".join(facts.failed)
    if not facts.begun:
        return Ending("failed", f"stopped before any change: {where}", f"Read the log of {where}.", Status.CRITICAL)
    if facts.kind == "rollback":
        action = f"Act now: {where} failed. Compare what runs with the plan, and bring it back by hand."
        return Ending("rollback-failed", f"the rollback stopped at {where}", action, Status.CRITICAL)
    if facts.states.get(DECIDE) == "failed":
        action = "Act now: Deployments may run the new version. Clear `roll_back.decide`, or trigger release_rollback."
        return Ending("rollback-failed", f"it failed ({where}), and nothing was rolled back", action, Status.CRITICAL)
    if facts.rolled_out:
        action = f"No Deployment runs what this run rolled out. Read the log of {where} and of roll_back.decide."
        return Ending("failed", f"stopped at {where}; there was nothing to roll back", action, Status.CRITICAL)
    action = f"Read the log of {where}; no Deployment was changed. Clear it to go on, or start again."
    return Ending("failed", f"stopped at {where}, before any rollout", action, Status.CRITICAL)
