"""The end of a run of maintenance: what was done and what was left, for people and for the next run."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException

from vcci_ops.domain.maintenance_plan import MaintenancePlan
from vcci_ops.domain.maintenance_report import MaintenanceReport, Row, render, slack_text
from vcci_ops.exceptions import DeliveryFailed, MeasurementError
from vcci_ops.operators.acting import Acting, failed_tasks, failing_clearly, undelivered
from vcci_ops.operators.maintenance import DECIDED, PLAN, SEEN, MaintenanceOperator, actions_of, seen

if TYPE_CHECKING:
    from airflow.sdk import Context


class MaintenanceReportOperator(MaintenanceOperator):
    """Look again, write page and rows, tell Slack once when there is something to tell, and give the verdict.

    Runs whatever happened before. Repeated, it replaces what it wrote.

    :param channel: of Slack.
    :raises AirflowFailException: when something failed, or could not be looked at.
    """

    template_fields = ("namespace", "channel")

    def __init__(self, *, channel: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.channel = channel

    def execute(self, context: Context) -> str:
        """Judge, write, tell."""
        with failing_clearly():
            acting = Acting.of(context)
            report = self._report(acting, context)
            context["ti"].xcom_push(key="report", value={"status": str(report.status), "verdict": report.verdict})
            for finding in report.findings:
                self.log.warning("%s: %s. %s", finding.status, finding.what, finding.action)
            self._leave(acting, report)
        self.log.info("%s", report.verdict)
        if report.status.fails_run:
            whats = [finding.what for finding in report.findings if finding.status.fails_run]
            raise AirflowFailException("; ".join([report.verdict, *whats]))
        return report.verdict

    def _report(self, acting: Acting, context: Context) -> MaintenanceReport:
        noted = acting.journal.recall(PLAN)
        looked, notes = self._look(acting)
        actions = actions_of(acting).all()
        now = dt.datetime.now(dt.UTC)
        return MaintenanceReport(
            environment=acting.settings.environment,
            dag_id=acting.dag_id,
            run_id=acting.run_id,
            started_at=getattr(context["dag_run"], "start_date", None) or now,
            finished_at=now,
            parameters=acting.params,
            plan=MaintenancePlan.from_dict(noted) if noted else None,
            rows=tuple(Row(a.kind, a.object, a.state, a.seconds, a.detail) for a in actions),
            decided=acting.journal.recall(DECIDED) or {},
            seen=looked,
            failures=failed_tasks(context),
            notes=notes,
        )

    def _look(self, acting: Acting) -> tuple[dict[str, Any], tuple[str, ...]]:
        from vcci_ops.hooks.maintenance import Looker, MaintenancePostgres

        settings = acting.settings.maintenance
        try:
            with MaintenancePostgres(postgres_conn_id=self.postgres_conn_id).session() as connection:
                looker = Looker(connection)
                return seen(looker, settings, looker.tables(), looker.indexes(settings)), ()
        except MeasurementError as error:
            before = acting.journal.recall(SEEN) or {}
            return before, (f"Shown is what there was at the beginning; at the end: {error}",)

    def _leave(self, acting: Acting, report: MaintenanceReport) -> None:
        from vcci_ops.hooks.history import History
        from vcci_ops.hooks.reports import ReportStore
        from vcci_ops.hooks.thread import RunThread

        store = ReportStore.of(acting.settings)
        parts: dict[str, Callable[[], object]] = {
            "the report bucket": lambda: store.save(report, render(report)),
            "the history": lambda: History().record(report, {}),
        }
        if not report.quiet:
            url = acting.report_url
            thread = RunThread(self.channel, acting.dag_id, acting.run_id)
            parts["Slack"] = lambda: thread.say("final", slack_text(report, url), root=True)
        if failures := undelivered(parts):
            raise DeliveryFailed("the report did not arrive everywhere", "; ".join(failures))
