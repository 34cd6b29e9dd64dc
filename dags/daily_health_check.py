"""# Daily health check

The runbook's *Morning Health Check* (09:00 UTC) and its daily list, looked at for you.

**What it does.** Twelve tasks measure the platform side by side: pods and workloads, nodes, API readiness,
traffic against the same weekday's past, active tenants, database, slow queries, queues, error logs, the
newest backup, the audit log, the certificate. `report` gathers what they found, compares it with the run
before, and leaves a page and a JSON document in the report bucket and rows in the history database;
`slack` posts one message with the details in its thread; `verdict` ends the run.

**How to read a run.** A red check task found something critical, or could not measure (*unknown* — never
taken for ok). The others have reported all the same. The run is red when anything is critical or unknown,
or when the report did not arrive. The tab *Report* shows the report; so does the `vcci_ops` link of any task.

**Preconditions.** Connections `vcci_kubernetes`, `vcci_api`, `vcci_prometheus`, `vcci_postgres`,
`vcci_redis`, `vcci_s3`, `vcci_slack`, `vcci_smtp`, `vcci_ops_db`; rights as in `include/kubernetes/rbac.yaml`
and `include/sql/grants/`. It changes nothing on the platform.

**Parameters, e.g.** `{"lookback": "6h", "sections": ["database"], "dry_run": true}`.

**Rollback.** Nothing to roll back. Any task may be cleared and run again: results are replaced, the Slack
message is brought up to date and not doubled.

**Triage.** *unknown*, "did not answer": that system or the way to it is down; begin there. *unknown*,
"missing permission": compare the connection's rights with the shipped ones. *report* or *slack* failed: the
on-call mailbox has a mail; the other places have the report.

**Owner.** The on-call of the settings.
"""

from __future__ import annotations

import datetime as dt

from airflow.sdk import DAG, CronTriggerTimetable, Param, TaskGroup

from vcci_ops.notifications.mails import run_ended, task_failed
from vcci_ops.operators.backups import BackupCheckOperator
from vcci_ops.operators.database import DatabaseCheckOperator, SecurityCheckOperator, SlowQueryCheckOperator
from vcci_ops.operators.http import ReadinessCheckOperator, TlsCheckOperator
from vcci_ops.operators.kubernetes import PodsCheckOperator, UsageCheckOperator
from vcci_ops.operators.logs import LogsCheckOperator
from vcci_ops.operators.prometheus import TrafficCheckOperator
from vcci_ops.operators.queues import QueueCheckOperator
from vcci_ops.operators.report import HealthReportOperator, SlackReportOperator, VerdictOperator
from vcci_ops.settings import load_settings
from vcci_ops.tags import DAILY, READ_ONLY

settings = load_settings()
namespace = settings.kubernetes.namespace
SECTIONS = [
    "system_health",
    "key_metrics",
    "database",
    "worker_queues",
    "recent_errors",
    "backups",
    "security",
    "certificates",
]

tell_on_call = task_failed(
    settings, "The report may not have reached everybody: open the run's tab <i>Report</i>, or the report bucket."
)

tell_of_silence = run_ended(
    settings,
    "ended without its report reaching Slack: it took too long, or its report could not be made. "
    "Look at the run in Airflow.",
    subject="ended without a report",
)

with DAG(
    dag_id="daily_health_check",
    description="The morning health check: every system, one report, the verdict first",
    doc_md=__doc__,
    # No run for a time that had passed when the DAG was first seen: a deployment at noon is no 09:00.
    schedule=CronTriggerTimetable(
        settings.daily_health_check.schedule, timezone="UTC", run_immediately=dt.timedelta(0)
    ),
    catchup=False,
    max_active_runs=2,
    dagrun_timeout=dt.timedelta(minutes=30),
    on_failure_callback=tell_of_silence,
    tags=[DAILY, READ_ONLY],
    default_args={
        "owner": settings.owner,
        "retries": 1,
        "retry_delay": dt.timedelta(seconds=15),
        "execution_timeout": dt.timedelta(minutes=5),
    },
    params={
        "lookback": Param(
            settings.daily_health_check.lookback,
            type="string",
            enum=["1h", "6h", "24h", "7d"],
            title="Lookback",
            description="Window of requests, error rate, active tenants and the audit log",
        ),
        "error_window": Param(
            settings.daily_health_check.error_window,
            type="string",
            enum=["15m", "1h", "6h", "24h"],
            title="Error window",
            description="How far back the pods' logs are read",
        ),
        "sections": Param(
            SECTIONS,
            type="array",
            items={"type": "string", "enum": SECTIONS},
            examples=SECTIONS,
            minItems=1,
            title="Sections",
            description="What to look at; the others are skipped and named in the report",
        ),
        "slack_channel": Param(
            settings.slack.channel,
            type="string",
            pattern=r"^(#[a-z0-9_-]{1,79}|[CG][A-Z0-9]{8,})$",
            title="Slack channel",
            description="Where the report is posted: #name or channel id",
        ),
        "dry_run": Param(
            False,
            type="boolean",
            title="Dry run",
            description="Measure and log, but store and post nothing",
        ),
    },
):
    checks = settings.pick
    remembering = {"history_conn_id": "vcci_ops_db"}

    with TaskGroup("system_health", prefix_group_id=True) as system_health:
        PodsCheckOperator(
            task_id="pods",
            namespace=namespace,
            workloads=[workload.name for workload in settings.kubernetes.workloads],
            restart_window=settings.kubernetes.restart_window,
            page_size=settings.kubernetes.page_size,
        )
        UsageCheckOperator(task_id="usage", namespace=namespace, page_size=settings.kubernetes.page_size)
        ReadinessCheckOperator(
            task_id="readiness", path=settings.api.readiness_path, ready_status=settings.api.ready_status
        )

    with TaskGroup("key_metrics") as key_metrics:
        TrafficCheckOperator(
            task_id="traffic",
            requests=settings.metrics.requests,
            errors=settings.metrics.errors,
            up=settings.metrics.up,
            window="{{ params.lookback }}",
            compare_weeks=settings.metrics.compare_weeks,
            min_requests=settings.metrics.min_requests,
        )
        DatabaseCheckOperator(
            task_id="tenants",
            checks=checks("tenants.active"),
            active_within="{{ params.lookback }}",
            **remembering,
        )

    with TaskGroup("database") as database:
        DatabaseCheckOperator(
            task_id="health",
            checks=checks("database.connections", "database.transactions", "database.size", "database.growth"),
            **remembering,
        )
        SlowQueryCheckOperator(
            task_id="slow_queries",
            slow_query_ms=settings.database.slow_query_ms,
            min_calls=settings.database.slow_query_min_calls,
            factor=settings.database.slow_query_factor,
            **remembering,
        )

    with TaskGroup("worker_queues") as worker_queues:
        QueueCheckOperator(
            task_id="celery",
            queues=settings.queues.names,
            key_prefix=settings.queues.key_prefix,
            priority_steps=settings.queues.priority_steps,
            separator=settings.queues.separator,
        )

    with TaskGroup("recent_errors") as recent_errors:
        LogsCheckOperator(
            task_id="logs",
            namespace=namespace,
            workload=settings.logs.workload,
            container=settings.logs.container,
            window="{{ params.error_window }}",
            markers=settings.logs.error_markers,
            max_signatures=settings.logs.max_signatures,
            **remembering,
        )

    with TaskGroup("backups") as backups:
        BackupCheckOperator(
            task_id="newest",
            bucket=settings.backups.bucket,
            prefix=settings.backups.prefix,
            key_format=settings.backups.key_format,
            manifest_suffix=settings.backups.manifest_suffix,
            manifest_within=settings.backups.manifest_within,
            compare=settings.backups.compare,
        )

    with TaskGroup("security") as security:
        SecurityCheckOperator(task_id="audit_log", lookback="{{ params.lookback }}")

    with TaskGroup("certificates") as certificates:
        TlsCheckOperator(task_id="on_the_wire", hosts=settings.tls)

    # Whatever the checks did, the report is made, posted, and the run gets its verdict: all_done.
    report = HealthReportOperator(
        task_id="report",
        title="Daily health check",
        is_dry_run="{{ params.dry_run }}",
        trigger_rule="all_done",
        retries=2,
        on_failure_callback=tell_on_call,
    )
    slack = SlackReportOperator(
        task_id="slack",
        report_task_id="report",
        channel="{{ params.slack_channel }}",
        trigger_rule="all_done",
        retries=2,
        on_failure_callback=tell_on_call,
    )
    verdict = VerdictOperator(
        task_id="verdict", report_task_id="report", delivery_task_ids=["slack"], trigger_rule="all_done", retries=0
    )
    [system_health, key_metrics, database, worker_queues, recent_errors, backups, security, certificates] >> report
    report >> slack >> verdict
