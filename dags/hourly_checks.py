"""# Hourly checks

The runbook's *Monitoring Checklist, every hour*: answer times, error rate, queue depths, database connections.

**What it does.** Four tasks measure side by side, with the limits of the morning check. `report` compares what they
found with the looks before and keeps it; `notice` writes **one line into the day's thread** in Slack. Quiet while all
is well. Loud on change: a check that was bad three times in a row turns *red*, with a message of its own and a page to
the on-call; after two good looks it is *green* again, with a message (`hourly_checks` in the settings).

**How to read a run.** As the morning check's: a red check task found something critical or could not measure; the run
is red then, too, even where that is not loud yet. The tab *Report* has the look's report and each number's trend.

**Preconditions.** Connections `vcci_api`, `vcci_prometheus`, `vcci_postgres`, `vcci_redis`, `vcci_s3`, `vcci_slack`,
`vcci_smtp`, `vcci_ops_db`. It changes nothing on the platform.

**Parameters, e.g.** `{"dry_run": true}`.

**Rollback.** Nothing to roll back. Any task may be cleared: its line is edited, not doubled, a page is sent once.

**Triage.** As in `daily_health_check`. *report* failed: nobody knows what earlier looks saw, so nothing turns; see to
the history database or the report bucket.

**Owner.** The on-call of the settings.
"""

from __future__ import annotations

import datetime as dt

from airflow.sdk import DAG, CronTriggerTimetable, Param

from vcci_ops.notifications.mails import run_ended, task_failed
from vcci_ops.operators.database import DatabaseCheckOperator
from vcci_ops.operators.hourly import LookNoticeOperator, LookReportOperator
from vcci_ops.operators.http import ReadinessCheckOperator
from vcci_ops.operators.prometheus import TrafficCheckOperator
from vcci_ops.operators.queues import QueueCheckOperator
from vcci_ops.operators.report import VerdictOperator
from vcci_ops.settings import load_settings
from vcci_ops.tags import HOURLY, READ_ONLY

settings = load_settings()
hourly = settings.hourly_checks

tell_on_call = task_failed(settings, "What this look found may have reached nobody.")

tell_of_silence = run_ended(
    settings,
    "ended without telling Slack: it took too long, or its report could not be made. Look at the run in Airflow.",
    subject="ended without its line in Slack",
)

with DAG(
    dag_id="hourly_checks",
    description="Answer times, errors, queues and connections every hour: quiet when fine, loud on change",
    doc_md=__doc__,
    schedule=CronTriggerTimetable(hourly.schedule, timezone="UTC", run_immediately=dt.timedelta(0)),
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=dt.timedelta(minutes=15),
    on_failure_callback=tell_of_silence,
    tags=[HOURLY, READ_ONLY],
    default_args={
        "owner": settings.owner,
        "retries": 1,
        "retry_delay": dt.timedelta(seconds=15),
        "execution_timeout": dt.timedelta(minutes=3),
    },
    params={
        "dry_run": Param(
            False, type="boolean", title="Dry run", description="Measure and log, but store and post nothing"
        ),
    },
):
    looks = [
        ReadinessCheckOperator(
            task_id="answer_times", path=settings.api.readiness_path, ready_status=settings.api.ready_status
        ),
        TrafficCheckOperator(
            task_id="error_rate",
            checks=settings.pick("api.error_rate"),
            requests=settings.metrics.requests,
            errors=settings.metrics.errors,
            up=settings.metrics.up,
            window="1h",
            compare_weeks=1,
            min_requests=settings.metrics.min_requests,
        ),
        QueueCheckOperator(
            task_id="queues",
            checks=settings.pick("queues.depth", "queues.oldest"),
            queues=settings.queues.names,
            key_prefix=settings.queues.key_prefix,
            priority_steps=settings.queues.priority_steps,
            separator=settings.queues.separator,
        ),
        DatabaseCheckOperator(
            task_id="connections", checks=settings.pick("database.connections", "database.transactions")
        ),
    ]
    report = LookReportOperator(
        task_id="report",
        title="Hourly checks",
        is_dry_run="{{ params.dry_run }}",
        red_after=hourly.red_after,
        green_after=hourly.green_after,
        trigger_rule="all_done",
        retries=2,
        on_failure_callback=tell_on_call,
    )
    notice = LookNoticeOperator(
        task_id="notice",
        report_task_id="report",
        channel=settings.slack.channel,
        title="Hourly checks",
        trigger_rule="all_done",
        retries=2,
        on_failure_callback=tell_on_call,
    )
    verdict = VerdictOperator(
        task_id="verdict", report_task_id="report", delivery_task_ids=["notice"], trigger_rule="all_done", retries=0
    )
    looks >> report >> notice >> verdict
