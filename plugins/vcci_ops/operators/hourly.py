"""Looks that are quiet while all is well: one line an hour in the day's thread, and loud when something turns."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from vcci_ops.domain import alarm_text
from vcci_ops.domain.alarms import Notice, Patience, notice
from vcci_ops.links import ReportLink, airflow_url
from vcci_ops.operators.acting import failing_clearly, needed
from vcci_ops.operators.report import HealthReportOperator
from vcci_ops.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context

    from vcci_ops.domain.report import Report

NOTICE = "notice"
"""XCom key under which the report's task leaves what this look changes."""


class LookReportOperator(HealthReportOperator):
    """A report that also says what this look changes: what turned red or green, by the looks before it.

    :param red_after: bad looks in a row that turn a check red; default 3.
    :param green_after: good looks in a row that turn it green; default 2.
    """

    def __init__(self, *, red_after: int = 3, green_after: int = 2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.red_after = red_after
        self.green_after = green_after

    def _push(
        self, context: Context, report: Report, arrived: dict[str, str], failures: Sequence[str], *, dry_run: bool
    ) -> None:
        super()._push(context, report, arrived, failures, dry_run=dry_run)
        found = notice(report, Patience(self.red_after, self.green_after))
        for line in alarm_text.log_lines(found):
            self.log.info("%s", line)
        context["ti"].xcom_push(key=NOTICE, value={**found.to_dict(), "notes": list(report.notes)})


class LookNoticeOperator(BaseOperator):
    """Write one line into the day's thread; what turned gets a message of its own, and red pages the on-call.

    Safe to run again: each line and message is edited in place, each page sent once.

    :param report_task_id: the :class:`LookReportOperator` task.
    :param channel: ``#name`` or id.
    :param title: of the day's thread.
    :raises AirflowException: when Slack or the mail server does not take it; a retry goes on where it was.
    """

    template_fields = ("channel",)
    operator_extra_links = (ReportLink(),)
    ui_color = "#f3e6f5"

    def __init__(self, *, report_task_id: str, channel: str, title: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.report_task_id = report_task_id
        self.channel = channel
        self.title = title

    def execute(self, context: Context) -> str:
        """Tell, and return the line."""
        from vcci_ops.hooks.pager import page

        run = context["dag_run"]
        at = run.start_date or dt.datetime.now(dt.UTC)
        with failing_clearly():
            report = needed(context, self.report_task_id, "report")
            found = needed(context, self.report_task_id, NOTICE)
            notice = Notice.from_dict(found)
            line = alarm_text.line(at, report, notice, found["notes"])
            if report["dry_run"]:
                self.log.info("Dry run: nothing is posted. It would have said: %s", line)
                return "dry run"
            source = (str(run.dag_id), str(run.run_id))
            if notice.turned_red:  # First somebody is called; what Slack says can wait for its retry.
                page(*alarm_text.page(notice, report["url"]), key=f"{'/'.join(source)}/turned-red")
            self._turned(source, alarm_text.turned(notice, report["url"]))
            self._day(source, at, line, alarm_text.day(self.title, report["environment"], at, notice))
        return line

    def _turned(self, source: tuple[str, str], told: str) -> None:
        from vcci_ops.hooks.thread import RunThread

        if told:
            RunThread(self.channel, *source).say("turned", told, root=True)

    def _day(self, source: tuple[str, str], at: dt.datetime, line: str, headline: str) -> None:
        from vcci_ops.hooks.history import History
        from vcci_ops.hooks.thread import RunThread

        dag_id, run_id = source
        settings = load_settings()
        day = f"day-{at:%Y-%m-%d}"
        thread = RunThread(self.channel, dag_id, day, page=f"{airflow_url(settings)}/dags/{dag_id}")
        thread.say("root", headline, root=True)
        thread.say(f"look-{at:%H-%M-%S}", line)
        History().record_delivery(settings.environment, dag_id, run_id, "slack", day)
