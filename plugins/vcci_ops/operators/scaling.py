"""Scaling as tasks: plan, apply, wait, put back, report. Each finds what it did when it runs again.

What was there before is noted in the history (step ``scale``) before the first change; every task reads it there,
so that a run whose tasks are killed and cleared puts back the right thing.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import time
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowException, AirflowSkipException, DownstreamTasksSkipped

from vcci_ops.domain import scaling
from vcci_ops.domain.scaling import Change, Hold, ScalePlan, ScaleRequest, Size, Standing
from vcci_ops.exceptions import ChangeFailed, MeasurementError, NoData, OpsError, Refused
from vcci_ops.operators.acting import Acting, ActingOperator, failing_clearly, needed, pulled

if TYPE_CHECKING:
    from airflow.sdk import Context

    from vcci_ops.hooks.scaling import Scaler

PLAN, APPLIED, PUT_BACK = "plan", "scale", "scale.put-back"
"""XCom key of the plan; steps of the journal: what a run changes, kept before it does; that it began to put back."""
BACK = "put back"
_SLACK = 300.0
"""Seconds after which Airflow itself ends a wait that the triggerer should have ended."""


class ScalingOperator(ActingOperator):
    """What the tasks of a scaling have in common."""

    @cached_property
    def scaler(self) -> Scaler:
        """The cluster."""
        from vcci_ops.hooks.scaling import Scaler

        return Scaler(self.kubernetes_conn_id)

    def skip_rest(self, context: Context, why: str) -> None:
        """End the task well and skip what comes directly after it."""
        self.log.info("%s", why)
        raise DownstreamTasksSkipped(  # type: ignore[no-untyped-call]
            tasks=sorted(context["task"].downstream_task_ids)
        )


def begun(acting: Acting) -> ScalePlan | None:
    """Return what this run began to change, or None when it changed nothing."""
    noted = acting.journal.recall(APPLIED)
    return ScalePlan.from_dict(noted) if noted else None


def now_utc() -> dt.datetime:
    """Return the present time."""
    return dt.datetime.now(dt.UTC)


class ScalePlanOperator(ScalingOperator):
    """Read the form, look at everything that matters, and say what will change; changes nothing.

    Leaves the plan in XCom under ``plan``. On a dry run, or when all is as it shall be, the tasks directly after it
    are skipped. A run that has begun keeps its first plan.

    :param postgres_conn_id: connection of the production database, asked for its connections.
    :raises AirflowFailException: when a parameter cannot be used, a Deployment is missing or rolling out, or the
        database has not enough connections; nothing was changed.
    """

    def __init__(self, *, postgres_conn_id: str = "vcci_postgres", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.postgres_conn_id = postgres_conn_id

    def execute(self, context: Context) -> None:
        """Plan, publish, and go on only if there is something to do."""
        with failing_clearly():
            acting = Acting.of(context)
            plan = begun(acting) or self._plan(acting)
        context["ti"].xcom_push(key=PLAN, value=plan.to_dict())
        for line in (*map(str, plan.changes), *plan.notes):
            self.log.info("%s", line)
        if plan.nothing:
            self.skip_rest(context, f"Nothing to do: all is as {plan.profile} wants it")
        if plan.dry_run:
            self.skip_rest(context, "Dry run: nothing was changed")

    def _plan(self, acting: Acting) -> ScalePlan:
        settings, now = acting.settings.scaling, now_utc()
        request = ScaleRequest.of(acting.params, settings, now)
        standings = self.scaler.standings(self.namespace, list(request.replicas))
        scaling.require_possible(standings, request, acting.source, now)
        changes = tuple(
            Change(
                s.name, s.autoscaler, s.size, scaling.resized(s, request.replicas[s.name], settings.workloads[s.name])
            )
            for s in standings
        )
        after = {change.name: change.after for change in changes}
        notes = [*map(str, standings), *scaling.warnings(standings, after, acting.source)]
        return ScalePlan(
            profile=request.profile,
            reason=request.reason,
            requested_by=acting.requested_by,
            until=request.until,
            dry_run=request.dry_run,
            changes=changes,
            notes=(*notes, *self._database(acting, standings, after)),
        )

    def _database(self, acting: Acting, standings: list[Standing], after: Mapping[str, Size]) -> list[str]:
        """Return the arithmetic, or refuse by it.

        Where no more is asked for, a database that does not answer is no reason to refuse: it may be the very one
        that is to be relieved.
        """
        from vcci_ops.hooks.scaling import Connections

        settings, notes = acting.settings.scaling, []
        every = [*standings]
        for name in settings.workloads:
            if name not in after:
                try:
                    every += self.scaler.standings(self.namespace, [name])
                except Refused as error:
                    notes.append(f"{name} counts with no connection: {error}".removesuffix("; nothing was changed"))
        parts = scaling.shares(settings, every, after)
        try:
            server = Connections(self.postgres_conn_id).server(settings.database_roles)
        except MeasurementError as error:
            if scaling.grows(parts):
                raise
            return [*notes, f"connections were not reckoned, for no more is asked for than before: {error}"]
        budget = scaling.budget(server, settings, every, parts)
        budget.require()
        return [*notes, f"database: {budget.arithmetic()}"]


class ScaleApplyOperator(ScalingOperator):
    """Make the change, workload by workload; needs the change lock.

    :param plan_task_id: task that left the plan.
    :raises AirflowFailException: when a workload is not as the plan says; what was changed before it is named.
    """

    def __init__(self, *, plan_task_id: str = "plan", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.plan_task_id = plan_task_id

    def execute(self, context: Context) -> list[str]:
        """Note what was there before, then change it."""
        with failing_clearly():
            acting = Acting.of(context)
            self.require_lock(acting)
            if acting.journal.recall(PUT_BACK):
                raise Refused("this run has put back what was there before; start a new run to scale again")
            first = begun(acting) or ScalePlan.from_dict(needed(context, self.plan_task_id, PLAN))
            if first.until and first.until <= now_utc():
                raise Refused(f"the end time {first.until:%Y-%m-%d %H:%M} UTC has passed; no more is scaled")
            plan = ScalePlan.from_dict(acting.journal.remember(APPLIED, first.to_dict()))
            done = self._apply(plan, Hold(plan.until, acting.source) if plan.until else None)
            summary = f"{plan.profile}: {'; '.join(str(change) for change in plan.changes if not change.nothing)}"
            acting.journal.changed("scale", acting.requested_by, summary, plan.to_dict())
        return done

    def _apply(self, plan: ScalePlan, hold: Hold | None) -> list[str]:
        from vcci_ops.hooks.scaling import apply

        done: list[str] = []
        for change in plan.changes:
            try:
                acted = apply(self.scaler, self.namespace, change, hold)
            except OpsError as error:
                if not done or not isinstance(error, Refused):
                    raise
                raise ChangeFailed(f"{error}. Changed before that, and not undone: {'; '.join(done)}") from error
            if not change.nothing:
                done.append(str(change))
            self.log.info("%s%s", change, "" if acted or change.nothing else " (done already)")
        return done


class ScaleReadyOperator(ScalingOperator):
    """Wait, deferred, until the workloads that were changed are as large as they shall be.

    :param put_back_task_id: task that put back: wait for that instead of what was applied.
    :param within: seconds; default: ``scaling.ready_within`` of the settings.
    :param poll: seconds between two looks.
    :raises AirflowFailException: when the time is up, with what is wrong with the pods; or somebody else changed it.
    """

    def __init__(
        self, *, put_back_task_id: str = "", within: float | None = None, poll: float = 2.0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.put_back_task_id = put_back_task_id
        self.within = within
        self.poll = poll

    def execute(self, context: Context) -> None:
        """Begin to wait."""
        from vcci_ops.triggers.scaling import ScaleTrigger

        with failing_clearly():
            wanted = self._wanted(context)
        if not wanted:
            raise AirflowSkipException("there is nothing to wait for")
        within = self.within or Acting.of(context).settings.scaling.ready_within
        self.log.info("Waiting for %s", ", ".join(f"{name}: {Size(**size)}" for name, size in wanted.items()))
        self.defer(
            trigger=ScaleTrigger(
                self.namespace, wanted, time.time() + within, poll=self.poll, kubernetes_conn_id=self.kubernetes_conn_id
            ),
            method_name="execute_complete",
            timeout=dt.timedelta(seconds=within + _SLACK),
        )

    def execute_complete(self, context: Context, event: dict[str, Any]) -> None:
        """Pass when they are there."""
        with failing_clearly():
            if event["status"] != "done":
                problems = self._problems(context) if event["status"] == "failed" else []
                raise ChangeFailed("; ".join((f"not as it shall be: {event['message']}", *problems)))
        self.log.info("%s", event["message"])

    def _wanted(self, context: Context) -> dict[str, dict[str, Any]]:
        plan = begun(Acting.of(context))
        changes = [change for change in plan.changes if not change.nothing] if plan else []
        if not self.put_back_task_id:
            return {change.name: dataclasses.asdict(change.after) for change in changes}
        outcome = needed(context, self.put_back_task_id)
        return {c.name: dataclasses.asdict(c.before) for c in changes if outcome.get(c.name) == BACK}

    def _problems(self, context: Context) -> list[str]:
        from vcci_ops.domain.pods import bounded, problem_of

        found = []
        try:
            for name in self._wanted(context):
                selector = self.scaler.deployment(self.namespace, name).selector
                pods = self.scaler.pods(self.namespace, selector)
                found += [problem for pod in pods if (problem := problem_of(pod, {}, time.time()))]
        except MeasurementError as error:
            return [f"its pods could not be looked at: {error}"]
        return bounded(found, 5)


class HoldOperator(ScalingOperator):
    """Wait, deferred, for the end time; skip what follows where there is none, or nothing was changed."""

    def execute(self, context: Context) -> None:
        """Begin to wait."""
        from airflow.providers.standard.triggers.temporal import DateTimeTrigger

        with failing_clearly():
            plan = begun(Acting.of(context))
        if plan is None or plan.until is None:
            raise AirflowSkipException("nothing was changed" if plan is None else "there is no end time")
        self.log.info("What was there before is put back at %s", plan.until.isoformat())
        if plan.until > now_utc():
            self.defer(trigger=DateTimeTrigger(moment=plan.until), method_name="execute_complete")

    def execute_complete(self, context: Context, event: Any) -> None:
        """Go on: the time has come."""
        self.log.info("The end time has come")


class ScalePutBackOperator(ScalingOperator):
    """Put back what was there before, where nobody has changed it meanwhile; needs the change lock.

    What is not as this run set it is left alone, and the report says so. During somebody's rollout the task fails to
    be tried again.
    """

    def execute(self, context: Context) -> dict[str, str]:
        """Put back, and return what became of each workload."""
        with failing_clearly():
            acting = Acting.of(context)
            self.require_lock(acting)
            plan = begun(acting)
            if plan is None:
                raise NoData("this run has changed nothing")
            acting.journal.remember(PUT_BACK, {"until": plan.to_dict()["until"]})
            outcome = {change.name: self._back(change) for change in plan.changes if not change.nothing}
            back = [f"{c.name}: {c.after} → {c.before}" for c in plan.changes if outcome.get(c.name) == BACK]
            if back:
                summary = f"put back after {plan.profile}: {'; '.join(back)}"
                acting.journal.changed("scale", acting.requested_by, summary, outcome)
        return outcome

    def _back(self, change: Change) -> str:
        from vcci_ops.hooks.scaling import apply

        try:
            (now,) = self.scaler.standings(self.namespace, [change.name])
            if now.obstacle:
                raise AirflowException(f"{change.name}: {now.obstacle}; trying again later")
            back = Change(change.name, change.autoscaler, before=change.after, after=change.before)
            apply(self.scaler, self.namespace, back, None)
        except Refused as error:
            self.log.error("%s", error)
            return f"left alone: {error}"
        self.log.info("%s: put back to %s", change.name, change.before)
        return BACK


class ScaleReportOperator(ScalingOperator):
    """Say before and after, in the log, XCom and the run's Slack thread, and end failed when it is not as planned.

    With ``trigger_rule="all_done"``: it runs whatever happened, and its end is the run's.

    :param put_back_task_id: task that put back: report that instead of what was applied.
    :param channel: Slack channel; templated.
    :param plan_task_id: task that left the plan.
    """

    template_fields = ("namespace", "channel")

    def __init__(self, *, channel: str, put_back_task_id: str = "", plan_task_id: str = "plan", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.channel = channel
        self.put_back_task_id = put_back_task_id
        self.plan_task_id = plan_task_id

    def execute(self, context: Context) -> list[list[str]]:
        """Look, tell, and judge."""
        with failing_clearly():
            acting = Acting.of(context)
            plan = self._plan(acting, context)
            outcome = pulled(context, self.put_back_task_id) if self.put_back_task_id else None
            rows, wrong = self._rows(plan, outcome or {})
            for line in scaling.table(rows):
                self.log.info("%s", line)
            self._tell(acting, plan, rows, wrong)
            if wrong:
                raise ChangeFailed("; ".join(wrong))
        return [list(row) for row in rows]

    def _plan(self, acting: Acting, context: Context) -> ScalePlan:
        plan = begun(acting)
        if self.put_back_task_id and (plan is None or plan.until is None):
            raise AirflowSkipException("there is nothing to put back")
        planned = pulled(context, self.plan_task_id, PLAN)
        if plan is None and planned is None:
            raise ChangeFailed(f"there is no plan, nothing was changed: see the task {self.plan_task_id}")
        if plan is None and (planned["dry_run"] or ScalePlan.from_dict(planned).nothing):
            raise AirflowSkipException("there is nothing to report")
        if plan is None:
            raise ChangeFailed("nothing was changed: see the tasks before this one")
        return plan

    def _rows(self, plan: ScalePlan, outcome: Mapping[str, str]) -> tuple[list[tuple[str, ...]], list[str]]:
        rows: list[tuple[str, ...]] = [("workload", "before", "wanted", "now", "available")]
        wrong: list[str] = []
        for change in plan.changes:
            (now,) = self.scaler.standings(self.namespace, [change.name])
            before, wanted = change.before, change.after
            if self.put_back_task_id:
                before, wanted = wanted, before
            rows.append((change.name, str(before), str(wanted), str(now.size), str(now.available)))
            if change.nothing:
                continue
            if self.put_back_task_id and outcome.get(change.name) != BACK:
                wrong.append(outcome.get(change.name, f"{change.name}: was not put back; it should be {wanted}"))
            elif not now.size.same(wanted) or now.available < (wanted.least or wanted.replicas):
                wrong.append(f"{change.name}: is {now.size} with {now.available} available, should be {wanted}")
        return rows, wrong

    def _tell(self, acting: Acting, plan: ScalePlan, rows: list[tuple[str, ...]], wrong: list[str]) -> None:
        from vcci_ops.domain.mrkdwn import escape
        from vcci_ops.hooks.thread import RunThread

        thread = RunThread(self.channel, acting.dag_id, acting.run_id)
        until = f" until {plan.until:%Y-%m-%d %H:%M} UTC" if plan.until else ""
        asked = f"*Scaling to {escape(plan.profile)}*{until}, asked for by {escape(plan.requested_by)}"
        thread.say("asked", f"{asked}: {escape(plan.reason)}", root=True)
        verdict = "*Put back*" if self.put_back_task_id else "*Done*"
        lines = [f":red_circle: {escape(said)}" for said in wrong] or [f":white_check_mark: {verdict}"]
        shown = escape("\n".join(scaling.table(rows)))
        thread.say("put-back" if self.put_back_task_id else "done", "\n".join([*lines, f"```{shown}```"]))
