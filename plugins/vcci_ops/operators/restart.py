"""Restarting as tasks: plan, one workload after the other, report."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowSkipException, DownstreamTasksSkipped

from vcci_ops.domain.restarts import RestartRequest, require_restartable
from vcci_ops.exceptions import ChangeFailed
from vcci_ops.operators.acting import Acting, failing_clearly, needed, pulled
from vcci_ops.operators.rollout import RolloutOperator, WorkloadChange, restart_mark

if TYPE_CHECKING:
    from airflow.sdk import Context

    from vcci_ops.hooks.scaling import Scaler

PLAN, BEGUN = "plan", "restart"
"""XCom key of the plan; step of the journal, kept before the first restart."""


class RestartPlanOperator(BaseOperator):
    """Read the form and look whether each workload can be restarted; changes nothing.

    Leaves ``{workloads, reason, dry_run, notes}`` in XCom under ``plan``. On a dry run the tasks directly after it
    are skipped.

    :param namespace: of the workloads.
    :param workloads: that may be restarted, in their order.
    :raises AirflowFailException: when a parameter cannot be used, a Deployment is missing or rolling out, or its
        restart would leave no pod; nothing was changed.
    """

    template_fields: Sequence[str] = ("namespace",)
    ui_color = "#f3e9d2"

    def __init__(
        self, *, namespace: str, workloads: Sequence[str], kubernetes_conn_id: str = "vcci_kubernetes", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.namespace = namespace
        self.workloads = workloads
        self.kubernetes_conn_id = kubernetes_conn_id

    @cached_property
    def scaler(self) -> Scaler:
        """The cluster."""
        from vcci_ops.hooks.scaling import Scaler

        return Scaler(self.kubernetes_conn_id)

    def execute(self, context: Context) -> None:
        """Plan, publish, and go on unless it is a dry run."""
        with failing_clearly():
            acting = Acting.of(context)
            plan = acting.journal.recall(BEGUN) or self._plan(acting)
        context["ti"].xcom_push(key=PLAN, value=plan)
        for line in plan["notes"]:
            self.log.info("%s", line)
        if plan["dry_run"]:
            self.log.info("Dry run: nothing is restarted")
            raise DownstreamTasksSkipped(  # type: ignore[no-untyped-call]
                tasks=sorted(context["task"].downstream_task_ids)
            )

    def _plan(self, acting: Acting) -> dict[str, Any]:
        request = RestartRequest.of(acting.params, self.workloads)
        notes = [
            require_restartable(
                self.scaler.deployment_json(self.namespace, name), allow_downtime=request.allow_downtime
            )
            for name in request.workloads
        ]
        return {
            "workloads": list(request.workloads),
            "reason": request.reason,
            "dry_run": request.dry_run,
            "notes": [*notes, f"order: {', then '.join(request.workloads)}"],
        }


class RestartOperator(RolloutOperator):
    """Restart one workload and wait for it; skipped when it was not chosen, needs the change lock.

    With ``trigger_rule="none_failed"`` in a row: the first failure stops those after it.

    :param workload: name of the Deployment.
    :param plan_task_id: task that left the plan.
    """

    def __init__(self, *, workload: str, plan_task_id: str = "plan", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.workload = workload
        self.plan_task_id = plan_task_id

    def change(self, context: Context) -> WorkloadChange | None:
        """Return the restart, with the run's time: running again restarts nothing twice."""
        plan = needed(context, self.plan_task_id, PLAN)
        if plan["dry_run"] or self.workload not in plan["workloads"]:
            return None
        acting = Acting.of(context)
        acting.journal.remember(BEGUN, plan)
        cause = f"restart: {plan['reason']}"
        acting.journal.changed("restart", acting.requested_by, f"{self.workload}: {plan['reason']}")
        return WorkloadChange(self.workload, restart=restart_mark(context), cause=cause)


class RestartReportOperator(BaseOperator):
    """Say what was restarted and what was not, in the log and the run's Slack thread; end failed if anything was not.

    With ``trigger_rule="all_done"``: it runs whatever happened, and its end is the run's.

    :param restart_task_ids: workload → task that restarts it, in their order.
    :param channel: Slack channel; templated.
    :param plan_task_id: task that left the plan.
    """

    template_fields: Sequence[str] = ("channel",)
    ui_color = "#f3e9d2"

    def __init__(
        self, *, restart_task_ids: dict[str, str], channel: str, plan_task_id: str = "plan", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.restart_task_ids = restart_task_ids
        self.channel = channel
        self.plan_task_id = plan_task_id

    def execute(self, context: Context) -> dict[str, Any]:
        """Gather, tell, and judge."""
        with failing_clearly():
            plan = pulled(context, self.plan_task_id, PLAN)
            if plan is None:
                raise ChangeFailed(f"there is no plan, nothing was restarted: see the task {self.plan_task_id}")
            if plan["dry_run"]:
                raise AirflowSkipException("dry run: there is nothing to report")
            done = {name: pulled(context, self.restart_task_ids[name]) for name in plan["workloads"]}
            lacking = [name for name, outcome in done.items() if not outcome]
            lines = [f"{name}: {outcome['message'] if outcome else 'NOT restarted'}" for name, outcome in done.items()]
            for line in lines:
                self.log.info("%s", line)
            self._tell(Acting.of(context), plan, lines, lacking)
            if lacking:
                raise ChangeFailed(f"not restarted, or not complete: {', '.join(lacking)}. See the first red task.")
        return {"restarted": list(done), "lines": lines}

    def _tell(self, acting: Acting, plan: dict[str, Any], lines: list[str], lacking: list[str]) -> None:
        from vcci_ops.domain.mrkdwn import escape
        from vcci_ops.hooks.thread import RunThread

        thread = RunThread(self.channel, acting.dag_id, acting.run_id)
        asked = f"*Restart* of {escape(', '.join(plan['workloads']))}, asked for by {escape(acting.requested_by)}"
        thread.say("asked", f"{asked}: {escape(plan['reason'])}", root=True)
        mark = ":red_circle: *Not all restarted*" if lacking else ":white_check_mark: *Done*"
        thread.say("done", "\n".join([mark, *map(escape, lines)]))
