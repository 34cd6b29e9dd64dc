"""How a release ends: undone by itself when it failed, then told, recorded, and the run given its colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from vcci_ops.domain import release_text
from vcci_ops.domain.release_outcome import Ending, Facts, judge
from vcci_ops.exceptions import DeliveryFailed, MeasurementError, Refused
from vcci_ops.operators.acting import (
    Acting,
    failing_clearly,
    needed,
    pulled,
    require_lock,
    task_states,
    tell,
    undelivered,
)
from vcci_ops.operators.approval import DecisionOperator
from vcci_ops.operators.release_act import ReadyOperator, WorkloadOperator, approved, served_version
from vcci_ops.operators.release_plan import APPROVAL, REQUEST, ReleaseJobOperator
from vcci_ops.operators.release_validate import running
from vcci_ops.operators.rollout import WorkloadChange

if TYPE_CHECKING:
    from airflow.sdk import Context

DECIDE, ASK = "roll_back.decide", "roll_back.ask"
WATCH = "watch"
KEEP, ROLL_BACK = "Keep the release", "Roll the images back"


def watched(context: Context, states: Mapping[str, str]) -> dict[str, Any]:
    """Return what became of the watch, if it ended in this run's present course.

    One that failed and left no verdict has seen nothing, and is held. What an earlier course left, before its tasks
    were cleared, does not count.
    """
    if states.get(WATCH) not in ("success", "failed"):
        return {}
    found = dict(pulled(context, WATCH, "watch") or {})
    if found.get("outcome"):
        return found
    return {"outcome": "held", "reason": "the watch left no verdict (see its log)"}


class DecideRollbackOperator(BaseOperator):
    """Decide what a failure after the migration means: roll back, ask, or leave it alone.

    - Nothing was rolled out by this run: there is nothing to undo.
    - The watch was blind (*held*) or somebody else changed a Deployment (*superseded*): never rolled back by
      itself; the on-call is paged.
    - The migration was destructive: the previous release may not work on this schema; page and ask.
    - Else: roll back. The schema stays, for the previous release works on what was only expanded.

    Returns ``{"roll_back": bool, "ask": bool, "why": str, "workloads": {...}}``; skips what follows when there is
    nothing to undo.
    """

    def execute(self, context: Context) -> dict[str, Any]:
        """Look at what failed, and decide."""
        acting, states = Acting.of(context), task_states(context)
        failed = sorted(task for task, state in states.items() if state == "failed")
        with failing_clearly():
            try:
                plan = approved(context)
                require_lock(acting)
            except Refused as error:
                raise AirflowSkipException(f"this run changed nothing: {error}") from None
            undone = self._rolled_out(acting, plan)
            if not undone:
                raise AirflowSkipException("no Deployment runs what this run rolled out: nothing to undo")
            watch = watched(context, states)
        why = watch.get("reason") or f"{', '.join(failed) or 'a task'} failed"
        decision = {"workloads": undone, "why": why, "ask": False, "roll_back": True}
        if watch.get("outcome") in ("held", "superseded", "inconclusive"):
            # A watch that came to its end held has paged already.
            if watch["outcome"] != "held" or not pulled(context, WATCH, "watch"):
                self._page(acting, f"release {plan['version']} is not judged ({watch['outcome']})", why)
            tell(acting, "rollback", release_text.not_rolled_back(watch["outcome"], why))
            raise AirflowSkipException(f"the watch is {watch['outcome']}: never rolled back by itself. {why}")
        if plan["schema"]["apply"] and plan["schema"]["class"] == "destructive":
            decision["ask"] = True
            self._page(acting, f"release {plan['version']} failed after a destructive migration", why)
        tell(acting, "rollback", release_text.rolling_back(plan, decision))
        self.log.error("%s: %s", "Asking a person" if decision["ask"] else "Rolling back", why)
        return decision

    def _rolled_out(self, acting: Acting, plan: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Return the Deployments that run what this run put there; what somebody else put there is theirs."""
        from vcci_ops.hooks.kubernetes_writer import KubernetesWriter

        names = list(plan["workloads"])
        found = running(KubernetesWriter(), acting.settings.kubernetes.namespace, names)
        ours = {}
        for name, planned in plan["workloads"].items():
            now = found[name]["image"]
            if now == planned["to"] != planned["image"]:
                ours[name] = {"from": planned["image"], "to": planned["to"]}
            elif now != planned["image"]:
                self.log.warning("%s runs %s, which is not this run's: left alone", name, now)
        return ours

    def _page(self, acting: Acting, subject: str, text: str) -> None:
        from vcci_ops.hooks.pager import page

        try:
            page(subject, f"{text}\n\nRun: {acting.source}", key=f"{acting.source}/decide")
        except (DeliveryFailed, MeasurementError) as error:
            self.log.error("the on-call could not be paged: %s", error)


class AskRollbackOperator(DecisionOperator):
    """Ask whether to roll the images back when the migration was destructive; skipped when it was not."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(subject="Roll the images back?", options=[KEEP, ROLL_BACK], **kwargs)

    def execute(self, context: Context) -> None:
        """Ask, if somebody has to be asked."""
        if not needed(context, DECIDE)["ask"]:
            raise AirflowSkipException("the schema was only expanded, if at all: nobody has to be asked")
        super().execute(context)

    def question(self, context: Context) -> tuple[str, str]:
        """Return the question with what speaks against each answer."""
        decision, plan = needed(context, DECIDE), approved(context)
        dropped = sorted(drop for migration in plan["schema"]["migrations"] for drop in migration["drops"])
        lines = [
            f"**{decision['why']}**",
            f"The migration to `{plan['schema']['to']}` is done and dropped: {', '.join(dropped) or 'see its SQL'}.",
            f"{plan['from_version']} may not work on this schema. The schema is not touched by either answer; "
            f"`release_rollback` with database `{plan['schema']['from']}` takes it back, too, without what it dropped.",
            f"Changed so far: {', '.join(decision['workloads'])}.",
        ]
        headline = f"{plan['version']} failed after a destructive migration: roll the images back?"
        return headline, "\n\n".join(lines)


class UndoWorkloadOperator(WorkloadOperator):
    """Bring one Deployment back to the image it ran before, and wait for it, deferred."""

    def change(self, context: Context) -> WorkloadChange | None:
        """Return the way back."""
        decision = decided(context)
        touched = decision["workloads"].get(self.workload)
        if touched is None:
            return None
        plan = approved(context)
        planned = plan["workloads"][self.workload]
        return WorkloadChange(
            workload=self.workload,
            container=planned["container"],
            image=touched["from"],
            expected_image=touched["to"],
            cause=f"automatic rollback of {plan['version']}: {decision['why']}"[:500],
        )


def decided(context: Context) -> dict[str, Any]:
    """Return the decision to roll back.

    :raises AirflowSkipException: when there is none, or a person chose to keep the release.
    """
    decision = pulled(context, DECIDE)
    if not decision:
        raise AirflowSkipException("nothing to roll back")
    if decision["ask"]:
        answer = pulled(context, ASK, "decision") or {}
        if answer.get("option") != ROLL_BACK:
            raise AirflowSkipException(f"{answer.get('by', 'nobody')} chose: {answer.get('option', 'nothing')}")
    return dict(decision)


class RolledBackReadyOperator(ReadyOperator):
    """Is everything as it was before the release?"""

    def expected(self, context: Context) -> tuple[list[str], str]:
        """Return the Deployments that were rolled back and the version before."""
        decision = decided(context)
        return list(decision["workloads"]), served_version(context, decision["workloads"], "from")


class RolledBackSmokeOperator(ReleaseJobOperator):
    """Smoke tests of the version before, after the rollback."""

    def image(self, context: Context) -> str:
        """Return the image that ran before."""
        jobs = Acting.of(context).settings.release.jobs
        plan = approved(context)
        previous = plan["workloads"].get(jobs.like) or next(iter(plan["workloads"].values()))
        return str(previous["image"])

    def version(self, context: Context) -> str:
        """Return the version before."""
        return served_version(context, decided(context)["workloads"], "from")

    def arguments(self, context: Context) -> tuple[str, ...] | None:
        """Return pytest's arguments; None when nothing was rolled back, or the API was not among it."""
        decision = decided(context)
        jobs = Acting.of(context).settings.release.jobs
        return super().arguments(context) if jobs.like in decision["workloads"] else None


class FinishReleaseOperator(BaseOperator):
    """Tell and record how it ended, leave the evidence, and give the run its colour.

    Runs whatever happened before (``trigger_rule="all_done"``). Green: released, nothing to do, or a dry run that
    made its plan. A rollback that failed opens an incident record (P0) and pages.

    :param kind: deploy, or rollback for one that a person asked for.
    :param undo_task_ids: tasks that bring the Deployments back.
    :raises AirflowFailException: when the release did not end well; says how it ended and what to do.
    :raises AirflowException: when the evidence could not be stored or told; the run is then not well either.
    """

    def __init__(self, *, kind: str = "deploy", undo_task_ids: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.kind = kind
        self.undo_task_ids = tuple(undo_task_ids)

    def execute(self, context: Context) -> dict[str, Any]:
        """End it."""
        acting = Acting.of(context)
        facts = self._facts(context, acting)
        ending = judge(facts)
        self.log.info("%s: %s", ending.outcome, ending.words)
        missed = self._record(context, acting, facts, ending)
        context["ti"].xcom_push(key="outcome", value=ending.outcome)
        if not ending.well:
            raise AirflowFailException(f"{ending.outcome}: {ending.words}. {ending.action}")
        if missed:
            raise AirflowException(f"{ending.outcome}, but not everybody was told: {'; '.join(missed)}")
        return {"outcome": ending.outcome, "words": ending.words}

    def _facts(self, context: Context, acting: Acting) -> Facts:
        states = task_states(context)
        return Facts(
            states=states,
            dry_run=acting.params.get("dry_run") is not False,
            nothing_to_do=bool(pulled(context, REQUEST, "nothing_to_do")),
            approval=pulled(context, APPROVAL, "approval") or {},
            watch=watched(context, states),
            decision=(pulled(context, DECIDE) or {}) if states.get(DECIDE) == "success" else {},
            undone=self.undo_task_ids,
            kind=self.kind,
            begun=self._begun(acting),
        )

    def _begun(self, acting: Acting) -> bool:
        """Whether anything may have been changed; what cannot be asked may have been."""
        try:
            return acting.journal.recall("begun") is not None
        except MeasurementError as error:
            self.log.error("%s", error)
            return True

    def _record(self, context: Context, acting: Acting, facts: Facts, ending: Ending) -> list[str]:
        """Store and tell; return what did not work, in words. Each is tried whatever the others did."""
        from vcci_ops.operators.release_evidence import Evidence

        evidence = Evidence(context, acting, facts, ending)
        return undelivered(
            {
                "incident": evidence.incident,
                "history": evidence.history,
                "report": evidence.report,
                "Statuspage": evidence.statuspage,
                "Slack": evidence.slack,
            }
        )
