"""How a drill ends: its page for the auditor, its row in the compliance register, Slack, and the run's colour."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowException, AirflowFailException

from vcci_ops.domain.drill import Assertion
from vcci_ops.domain.drill_report import DrillReport, render, slack_final, slack_root, words
from vcci_ops.exceptions import OpsError
from vcci_ops.hooks.drill_record import CONTROL, SCRATCH
from vcci_ops.operators.acting import Acting, failed_tasks, failing_clearly, undelivered
from vcci_ops.operators.drill import CHOSEN, DrillOperator, request_of
from vcci_ops.operators.drill_verify import PARTS

if TYPE_CHECKING:
    from airflow.sdk import Context
_ASSERTS = {
    "choose": "choice",
    "application.known": "application",
    "application.smoke": "application",
    "application.upgrade": "application",
}
"""What a task's assertions begin with, where that is not its own name."""


class DrillReportOperator(DrillOperator):
    """Tell and record how the drill ended, and give the run its colour.

    Runs whatever happened before (``trigger_rule="all_done"``), after the teardown. Page, register and Slack are each
    tried whatever the others did; one that was not reached makes the run red, too. A scratch database that its teardown
    could not drop is dropped here.

    :param namespace: where Jobs of this drill ran, and its Secret was.
    :raises AirflowFailException: when the drill did not pass; says why.
    :raises AirflowException: when the evidence could not be stored or told.
    """

    def __init__(self, *, namespace: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.namespace = namespace

    def execute(self, context: Context) -> dict[str, Any]:
        """End it."""
        acting = Acting.of(context)
        with failing_clearly():
            left = self._left(acting)
            report = self._report(context, acting, left)
            self.drills.end(
                acting.source, report.outcome, report.measured.get("rto_seconds"), report.measured.get("rpo_seconds")
            )
        missed = self._deliver(acting, report)
        self.log.info("%s; SHA-256 of report.json %s", report.verdict, report.digest)
        told = {"outcome": report.outcome, "digest": report.digest, "undelivered": missed}
        context["ti"].xcom_push(key="report", value=told)
        if report.outcome != "passed":
            raise AirflowFailException(f"{report.verdict}: {words(report.failed, report.failures)}")
        if missed:
            raise AirflowException(f"{report.verdict}, but not everybody was told: {'; '.join(missed)}")
        return told

    # What is left ----------------------------------------------------------------------------------

    def _left(self, acting: Acting) -> tuple[str, ...]:
        """Drop what the teardown did not; return in words what could not be."""
        from vcci_ops.hooks.drill_sabotage import DamagedBackup

        try:
            noted = acting.journal.recall(SCRATCH)
            kept = "is kept until" in str(self.drills.detail(acting.source).get("scratch") or "")
            if noted and not kept:
                self.server.drop(str(noted["database"]))
            if acting.settings.drill.sandbox and acting.params.get("sabotage"):
                DamagedBackup(acting.settings.drill, self.bucket, acting.source).remove()
        except OpsError as error:
            return (f"something may be left; the next drill drops a scratch database: {error}",)
        return ()

    # Gathering -------------------------------------------------------------------------------------

    def _report(self, context: Context, acting: Acting, left: tuple[str, ...]) -> DrillReport:
        settings, drill = acting.settings, acting.settings.drill
        own, now = self.drills.get(acting.source), dt.datetime.now(dt.UTC)
        try:
            request = request_of(acting)
            targets = {"rto": request.rto, "rpo": request.rpo}
        except OpsError:  # the task choose has said so
            targets = {"rto": drill.rto, "rpo": drill.rpo}
        detail: Mapping[str, Any] = own.detail if own else {}
        assertions = tuple(self.drills.assertions(acting.source))
        days = {"critical": drill.due_critical, "warning": drill.due_warning}
        return DrillReport(
            environment=settings.environment,
            dag_id=acting.dag_id,
            run_id=acting.run_id,
            requested_by=acting.requested_by,
            started_at=own.started_at if own else now,
            finished_at=now,
            parameters=acting.params,
            owner=settings.owner,
            backup=acting.journal.recall(CHOSEN) or {},
            assertions=assertions,
            measured=detail.get("measured") or {},
            facts={k: detail[k] for k in ("server", "room", "collected", "scratch", "sabotage") if detail.get(k)},
            targets=targets,
            failures=(*self._failures(context, assertions, detail), *left),
            due={name: (now + dt.timedelta(seconds=s)).date().isoformat() for name, s in days.items()},
        )

    def _failures(self, context: Context, assertions: Sequence[Assertion], detail: Mapping[str, Any]) -> list[str]:
        """Return what failed without an assertion that says so, and what nobody has looked at."""
        bad = {made.part for made in assertions if made.status.fails_run}
        said = []
        for task, why in failed_tasks(context).items():
            part = _ASSERTS.get(task) or task.rpartition(".")[2]
            if part not in bad and not (task == "restore" and "backup" in bad):
                said.append(f"{task} failed: {why}")
        if detail.get("restored_at"):
            missing = [part for part in PARTS if f"verified_{part}" not in detail and part not in bad]
            said += [f"nobody has looked at {', '.join(missing)}"] if missing else []
        return said

    # Telling ---------------------------------------------------------------------------------------

    def _deliver(self, acting: Acting, report: DrillReport) -> list[str]:
        return undelivered(
            {
                "the report bucket": lambda: self._store(acting, report),
                "the history": lambda: self._record(report),
                "the compliance register": lambda: self._register(acting, report),
                "Slack": lambda: self._slack(acting, report),
            }
        )

    def _store(self, acting: Acting, report: DrillReport) -> None:
        from vcci_ops.hooks.reports import ReportStore

        ReportStore.of(acting.settings, self.aws_conn_id).save(report, render(report))

    def _record(self, report: DrillReport) -> None:
        from vcci_ops.hooks.history import History

        History().record(report, {})

    def _register(self, acting: Acting, report: DrillReport) -> None:
        from vcci_ops.hooks.reports import report_key

        if report.facts.get("sabotage"):
            self.log.info("Sabotaged on purpose: no row in the compliance register")
            return
        prefix = acting.settings.reports.prefix
        key = report_key(prefix, report.environment, report.dag_id, report.run_id) + "report.json"
        detail = {
            "verdict": report.verdict,
            "backup": report.backup.get("key"),
            "rto_seconds": report.measured.get("rto_seconds"),
            "rpo_seconds": report.measured.get("rpo_seconds"),
            "assertions": report.counts,
            "requested_by": report.requested_by,
        }
        self.drills.register(acting.source, report.compliance, key, report.digest, detail)
        self.log.info("The compliance register has %s: %s", CONTROL, report.compliance)

    def _slack(self, acting: Acting, report: DrillReport) -> None:
        from vcci_ops.hooks.thread import RunThread

        thread = RunThread(acting.settings.slack.channel, acting.dag_id, acting.run_id)
        url = acting.report_url
        thread.say("root", slack_root(report, url), root=True)
        # Its place in the history is how the run's own alarm knows that somebody was told.
        thread.say("final", slack_final(report, url))
