"""From the check tasks' results to the report, its message, and the run's verdict."""

from __future__ import annotations

import dataclasses
import datetime as dt
import re
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from vcci_ops.domain.checks import unknown
from vcci_ops.domain.report import Report
from vcci_ops.domain.results import Result
from vcci_ops.exceptions import DeliveryFailed, InvalidInput, MeasurementError
from vcci_ops.links import ReportLink, report_url, run_url
from vcci_ops.operators.base import RESULTS_KEY, CheckOperator, section_chosen
from vcci_ops.settings import Settings, load_settings

if TYPE_CHECKING:
    from airflow.sdk import Context


class HealthReportOperator(BaseOperator):
    """Gather the results of all check tasks upstream and leave the report in S3 and the history.

    Runs whatever the checks did (``trigger_rule="all_done"``). A check task that left no results, for it
    was killed or could not start, is reported as unknown. S3 and the history are tried independently of
    each other; the task fails when either did not take the report, and a retry replaces, never doubles.

    :param title: what the report is called.
    :param is_dry_run: when true (or "True"), store nothing; the report is only logged.
    :param aws_conn_id: connection of the report bucket.
    :param history_conn_id: connection of the history database.
    :raises AirflowException: when a store refused; the report stands in XCom all the same.
    """

    template_fields = ("is_dry_run",)
    operator_extra_links = (ReportLink(),)
    ui_color = "#dbe9f6"

    def __init__(
        self,
        *,
        title: str,
        is_dry_run: bool | str = False,
        aws_conn_id: str = "vcci_s3",
        history_conn_id: str = "vcci_ops_db",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.title = title
        self.is_dry_run = is_dry_run
        self.aws_conn_id = aws_conn_id
        self.history_conn_id = history_conn_id

    @cached_property
    def settings(self) -> Settings:
        """The settings of this environment."""
        return load_settings()

    def execute(self, context: Context) -> None:
        """Build, log, publish."""
        report = self._build(context)
        self._log_report(report)
        dry_run = str(self.is_dry_run).lower() == "true"
        failures: list[str] = []
        arrived: dict[str, str] = {}
        if not dry_run:
            snapshots = self._snapshots(context)
            self._try(failures, arrived, "s3", lambda: self._store(report))
            self._try(failures, arrived, "history", lambda: self._record(report, snapshots, arrived))
        self._push(context, report, arrived, failures, dry_run=dry_run)
        if failures:
            raise AirflowException("the report did not arrive everywhere: " + "; ".join(failures))

    # Building -----------------------------------------------------------------------------------

    def _build(self, context: Context) -> Report:
        from vcci_ops.hooks.history import History

        run = context["dag_run"]
        started = run.start_date or dt.datetime.now(dt.UTC)
        results, left_out = self._gather(context)
        report = Report(
            title=self.title,
            environment=self.settings.environment,
            dag_id=str(run.dag_id),
            run_id=str(run.run_id),
            started_at=started,
            finished_at=dt.datetime.now(dt.UTC),
            parameters=_plain(context.get("params")),
            results=tuple(results),
            left_out=tuple(left_out),
        )
        try:
            history = History(self.history_conn_id)
            previous, series = history.previous(report), history.series(report)
        except MeasurementError as error:
            self.log.warning("The history cannot be read: %s", error)
            note = f"No comparison with earlier reports and no trends: {error}"
            return dataclasses.replace(report, notes=(note,))
        if previous:
            report = dataclasses.replace(report, previous_at=previous[0], previous=tuple(previous[1]))
        return dataclasses.replace(report, series=series)

    def _checks(self, context: Context) -> list[CheckOperator]:
        """Return the check tasks upstream, in the order in which the DAG file names them."""
        return [
            task
            for task_id, task in context["dag"].task_dict.items()
            if task_id in self.upstream_task_ids and isinstance(task, CheckOperator)
        ]

    def _gather(self, context: Context) -> tuple[list[Result], list[str]]:
        results: list[Result] = []
        left_out: list[str] = []
        for task in self._checks(context):
            if not section_chosen(context, task.task_id):
                left_out.append(task.task_id.split(".")[0].replace("_", " "))
                continue
            found = context["ti"].xcom_pull(task_ids=task.task_id, key=RESULTS_KEY)
            if found:
                results += [Result.from_dict(item) for item in found]
            else:
                why = MeasurementError(f"its task {task.task_id} did not finish; read that task's log")
                results += [unknown(check, why) for check in task.chosen()]
        return results, list(dict.fromkeys(left_out))

    def _snapshots(self, context: Context) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for task in self._checks(context):
            for key in task.remembered:
                payload = context["ti"].xcom_pull(task_ids=task.task_id, key=key)
                if isinstance(payload, dict) and key in found:  # two tasks of one operator, each with its part
                    found[key] = {**found[key], **payload}
                elif payload is not None:
                    found[key] = payload
        return found

    # Publishing ---------------------------------------------------------------------------------

    def _try(self, failures: list[str], arrived: dict[str, str], where: str, deliver: Callable[[], str]) -> None:
        try:
            arrived[where] = deliver()
            self.log.info("Report arrived in %s: %s", where, arrived[where])
        except (DeliveryFailed, MeasurementError) as error:
            failures.append(f"{where}: {error}")
            self.log.error("Report did NOT arrive in %s: %s", where, error)
        except Exception as error:  # whatever it is, it must not keep the report from the other places
            failures.append(f"{where}: {type(error).__name__}")
            self.log.exception("Report did NOT arrive in %s", where)

    def _store(self, report: Report) -> str:
        from vcci_ops.domain.pages import render
        from vcci_ops.hooks.reports import ReportStore

        return ReportStore.of(self.settings, self.aws_conn_id).save(report, render(report))

    def _record(self, report: Report, snapshots: dict[str, Any], arrived: dict[str, str]) -> str:
        from vcci_ops.hooks.history import History

        history = History(self.history_conn_id)
        history.record(report, snapshots)
        for channel, reference in arrived.items():
            history.record_delivery(report.environment, report.dag_id, report.run_id, channel, reference)
        return f"the history ({len(report.results)} results)"

    def _push(
        self, context: Context, report: Report, arrived: dict[str, str], failures: Sequence[str], *, dry_run: bool
    ) -> None:
        from vcci_ops.hooks.slack import marker
        from vcci_ops.hooks.slack_blocks import message, thread

        undelivered = tuple(f"The report did not arrive in {failure}" for failure in failures)
        report = dataclasses.replace(report, notes=(*report.notes, *undelivered))
        address = report_url(self.settings, report.dag_id, report.run_id)
        block_id = marker(report.dag_id, report.run_id)
        context["ti"].xcom_push(
            key="report",
            value={
                "status": str(report.status),
                "verdict": report.verdict,
                "environment": report.environment,
                "problems": [f"{r.status}: {r.title} {r.subject}".strip() for r in report.problems],
                "arrived": arrived,
                "failures": list(failures),
                "dry_run": dry_run,
                "url": address,
                "slack": {
                    "block_id": block_id,
                    "message": message(report, block_id, address, run_url(self.settings, report.dag_id, report.run_id)),
                    "thread": thread(report, block_id),
                },
            },
        )

    def _log_report(self, report: Report) -> None:
        self.log.info("%s", report.verdict)
        for result in report.problems:
            self.log.info("%-8s %s: %s", result.status.upper(), result.name, result.summary)
        for change in report.changes:
            self.log.info("changed  %s", change.words)
        for note in report.notes:
            self.log.warning("%s", note)


class SlackReportOperator(BaseOperator):
    """Post a report's message, details in its thread; a retry finds the message and does not double it.

    :param report_task_id: the :class:`HealthReportOperator` task.
    :param channel: ``#name`` or id.
    :param slack_conn_id: Slack API connection.
    :raises AirflowException: when Slack refuses or does not answer; retried. The report itself is safe in
        S3 and the history.
    """

    template_fields = ("channel",)
    operator_extra_links = (ReportLink(),)
    ui_color = "#f3e6f5"

    def __init__(
        self,
        *,
        report_task_id: str,
        channel: str,
        slack_conn_id: str = "vcci_slack",
        history_conn_id: str = "vcci_ops_db",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.report_task_id = report_task_id
        self.channel = channel
        self.slack_conn_id = slack_conn_id
        self.history_conn_id = history_conn_id

    def execute(self, context: Context) -> str:
        """Post and return the message's address."""
        report = context["ti"].xcom_pull(task_ids=self.report_task_id, key="report")
        if not report:
            raise AirflowFailException("there is no report to post: read the log of the report task")
        if report["dry_run"]:
            self.log.info("Dry run: nothing is posted. It would have said: %s", report["verdict"])
            return "dry run"
        if not re.fullmatch(r"#[a-z0-9_-]{1,79}|[CG][A-Z0-9]{8,}", self.channel):
            error = InvalidInput("slack_channel", self.channel, "#name in lower case, or a channel id")
            raise AirflowFailException(str(error))
        try:
            earlier = self._earlier(context, report) if int(context["ti"].try_number) > 1 else None
            channel, ts = self._post(report, earlier)
        except DeliveryFailed as error:
            safe = f"The report is safe in {' and '.join(report['arrived'].values()) or 'this task log'}"
            self.log.error("%s. %s", error, safe)
            raise AirflowException(f"{error}. {safe}") from error
        self.log.info("Posted to %s: %s", self.channel, report["verdict"])
        self._record(context, report, f"{channel}/{ts}")
        return f"{channel}/{ts}"

    def _earlier(self, context: Context, report: dict[str, Any]) -> tuple[str, str] | None:
        """Return channel and time stamp of the message that an earlier try has posted, if it has."""
        from vcci_ops.hooks.history import History
        from vcci_ops.hooks.slack import SlackChannel

        run = context["dag_run"]
        try:
            where = (report["environment"], str(run.dag_id), str(run.run_id))
            known = History(self.history_conn_id).deliveries(*where).get("slack")
        except MeasurementError as error:
            self.log.warning("The history cannot say whether the message was posted (%s); asking Slack", error)
            known = None
        if known:
            channel, _, ts = known.partition("/")
            return channel, ts
        return SlackChannel(self.channel, self.slack_conn_id).find(report["slack"]["block_id"])

    def _post(self, report: dict[str, Any], earlier: tuple[str, str] | None) -> tuple[str, str]:
        from vcci_ops.hooks.slack import SlackChannel

        slack = SlackChannel(self.channel, self.slack_conn_id)
        wanted = report["slack"]
        if earlier:
            self.log.info("An earlier try has posted the message; it is brought up to date, not doubled")
            channel, ts = earlier
            slack.call("chat.update", channel=channel, ts=ts, text=report["verdict"], blocks=wanted["message"])
        else:
            channel, ts = slack.post(report["verdict"], wanted["message"])
        there = slack.replies(channel, ts) if earlier else {}
        for blocks in wanted["thread"]:
            reply = there.get(blocks[0]["block_id"])
            if reply:
                slack.call("chat.update", channel=channel, ts=reply, text="Details", blocks=blocks)
            else:
                SlackChannel(channel, self.slack_conn_id).post("Details", blocks, thread_ts=ts)
        return channel, ts

    def _record(self, context: Context, report: dict[str, Any], reference: str) -> None:
        from vcci_ops.hooks.history import History

        run = context["dag_run"]
        where = (report["environment"], str(run.dag_id), str(run.run_id), "slack")
        try:
            History(self.history_conn_id).record_delivery(*where, reference)
        except MeasurementError as error:
            self.log.warning("Posted, but that could not be noted in the history: %s", error)


class VerdictOperator(BaseOperator):
    """End the run as it deserves: failed when anything is critical or unknown, or did not arrive.

    The last task of a run, so that run history shows the truth at a glance.

    :param report_task_id: the :class:`HealthReportOperator` task.
    :param delivery_task_ids: tasks that must have returned something: they delivered the report.
    :raises AirflowFailException: with the verdict.
    """

    operator_extra_links = (ReportLink(),)
    ui_color = "#f6eedb"

    def __init__(self, *, report_task_id: str, delivery_task_ids: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.report_task_id = report_task_id
        self.delivery_task_ids = delivery_task_ids

    def execute(self, context: Context) -> str:
        """Return the verdict, or fail with it."""
        ti = context["ti"]
        report = ti.xcom_pull(task_ids=self.report_task_id, key="report")
        if not report:
            raise AirflowFailException("no report was made: read the log of the report task")
        undelivered = [f"{task_id} failed" for task_id in self.delivery_task_ids if not ti.xcom_pull(task_ids=task_id)]
        self.log.info("%s", report["verdict"])
        wrong = [*report["failures"], *undelivered]
        if report["status"] in ("critical", "unknown"):
            wrong += report["problems"]
        if wrong:
            raise AirflowFailException(f"{report['verdict']} ({'; '.join(wrong)})")
        return str(report["verdict"])


def _plain(params: Any) -> dict[str, Any]:
    return {key: params[key] for key in params} if params else {}
