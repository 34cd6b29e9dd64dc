"""# Disaster-recovery restore test

The runbook's monthly *restore latest backup, verify data integrity, document any issues*, as a drill that an auditor
accepts. It never touches production: it restores into a fresh database of another server, and drops that again.

**What it does.** *choose* finds the backup, and says of each that it passed over why. *scratch* makes an empty database
on the restore server, which it has shown to be another server than production (by system identifier), and collects what
dead drills have left. *restore* reads the dump once (SHA-256, structure), then restores it by several `pg_restore` at
once, streamed from S3; nothing lands on the worker's disk. *verify* looks, each part by a task of its own, at row
counts, keys and checksums against the backup's **manifest** (never against production), sequences, every foreign key,
CHECK and NOT NULL, heap and indexes (amcheck), schema, extensions, grants, freshness, the business assertions in
`include/sql/assertions/`, and that deleted tenants stay deleted. *application* runs the platform's own smoke tests and
its migration against the copy, as Jobs in the image that runs. *measure* holds recovery time and data loss against the
targets and the last twelve drills. *drop* drops the copy, whatever happened. *report* leaves page, JSON, a row in the
compliance register, and tells Slack.

**Preconditions.** Connections `vcci_s3`, `vcci_postgres` (only to tell it from the restore server),
`vcci_postgres_restore`, `vcci_postgres_drill_app`, `vcci_kubernetes`, `vcci_ops_db`, `vcci_slack`, `vcci_smtp`; the
restore server prepared by `include/sql/restore/restore_server.sql`; `drill` in the settings. See `docs/recovery.md`.

**Parameters, e.g.** `{"which": "latest"}`, `{"which": "date", "date": "2026-11-20"}`,
`{"which": "random", "days": 14}`,
`{"which": "key", "key": "daily/vcci_production-20261120T020000Z.dump", "depth": "data", "keep_on_failure": true}`.

**Rollback.** Nothing to roll back. A copy that was kept (`keep_on_failure`) goes by itself after `drill.keep_at_most`;
until then it holds personal data.

**Killed or red?** Any task may be cleared. *restore* begins with an empty database each time; the verdicts replace
those of an earlier try. A database that a dead run left is dropped by the next drill.

**Triage.** *choose* red: no backup can be restored; its log has each with the reason. *scratch*: the server is
production, cannot be told from it, or has no room. *restore*: the dump is damaged or refused; the words of `pg_restore`
are in the log. *verify.X*: what was expected and found. A **warning** that something is *not provable* means an old
manifest, which does not say it; let `database_backup` make the backups.

**Owner.** The owner of the settings; issues found name theirs.
"""

from __future__ import annotations

import datetime as dt

from airflow.sdk import DAG, CronTriggerTimetable, Param, TaskGroup

from vcci_ops.notifications.mails import run_ended, task_failed
from vcci_ops.operators.drill import (
    ChooseBackupOperator,
    DropScratchOperator,
    RestoreOperator,
    SabotageOperator,
    ScratchOperator,
    sabotages,
)
from vcci_ops.operators.drill_jobs import KnownRevisionOperator, SmokeOperator, UpgradeOperator
from vcci_ops.operators.drill_report import DrillReportOperator
from vcci_ops.operators.drill_verify import PARTS, MeasureOperator, VerifyOperator
from vcci_ops.settings import load_settings
from vcci_ops.tags import MONTHLY, RECOVERY

settings = load_settings()
drill = settings.drill
namespace = settings.kubernetes.namespace
offered = sabotages(settings)

tell_of_silence = run_ended(settings, "ended red and told nobody. Whether the backups can be restored is not known.")
tell_on_call = task_failed(settings, "Whether the backups can be restored is in its report.")

with DAG(
    dag_id="dr_restore_test",
    description="Restore a backup into a scratch database, prove that it is good, measure, leave the evidence",
    doc_md=__doc__,
    schedule=CronTriggerTimetable(drill.schedule, timezone="UTC", run_immediately=dt.timedelta(0)),
    start_date=dt.datetime(2025, 1, 1, tzinfo=dt.UTC),
    catchup=False,
    max_active_runs=2,
    dagrun_timeout=dt.timedelta(hours=24),
    on_failure_callback=tell_of_silence,
    tags=[MONTHLY, RECOVERY],
    default_args={
        "owner": settings.owner,
        "retries": 2,
        "retry_delay": dt.timedelta(seconds=10),
        "execution_timeout": dt.timedelta(hours=12),
    },
    params={
        "which": Param(
            "latest",
            type="string",
            enum=["latest", "date", "random", "key"],
            values_display={
                "latest": "latest: the newest that can be used",
                "date": "date: one of the day below",
                "random": "random: any of the last days",
                "key": "key: the one named below",
            },
            title="Which backup",
            description="What was passed over, and why, is in the report",
        ),
        "date": Param(
            None, type=["null", "string"], format="date", title="Date", description="With *date*: of which day"
        ),
        "days": Param(
            drill.lookback,
            type="integer",
            minimum=1,
            maximum=365,
            title="Days",
            description="With *random*: how far back",
        ),
        "key": Param(
            None, type=["null", "string"], maxLength=1024, title="Key", description="With *key*: in the bucket"
        ),
        "depth": Param(
            "full",
            type="string",
            enum=["full", "data"],
            values_display={"full": "full: everything", "data": "data: without the platform's own programs"},
            title="How deep",
            description="Whether smoke tests and migration of the release that runs are tried on the copy",
        ),
        "keep_on_failure": Param(
            False,
            type="boolean",
            title="Keep the database on failure",
            description=f"for at most {drill.keep_at_most / 86400:.0f} days; it holds personal data",
        ),
        "rto_minutes": Param(
            round(drill.rto / 60), type="integer", minimum=1, title="Target: recovery time", description="Minutes (RTO)"
        ),
        "rpo_minutes": Param(
            round(drill.rpo / 60), type="integer", minimum=1, title="Target: data loss", description="Minutes (RPO)"
        ),
        **(
            {
                "sabotage": Param(
                    "",
                    type="string",
                    enum=["", *offered],
                    title="Sabotage",
                    description="Damage the backup or the copy, to see that the drill notices",
                    section="Only in a sandbox",
                )
            }
            if offered
            else {}
        ),
    },
):
    choose = ChooseBackupOperator(task_id="choose", execution_timeout=dt.timedelta(minutes=10))
    scratch = ScratchOperator(task_id="scratch", execution_timeout=dt.timedelta(minutes=10))
    restore = RestoreOperator(task_id="restore")
    choose >> scratch >> restore
    ready = restore
    if offered:
        ready = SabotageOperator(task_id="sabotage")
        restore >> ready

    with TaskGroup("verify"):
        looks = [VerifyOperator(task_id=part, part=part) for part in PARTS]
    ready >> looks
    # What is not good is measured and told all the same.
    measure = MeasureOperator(task_id="measure", trigger_rule="all_done", execution_timeout=dt.timedelta(minutes=10))

    with TaskGroup("application"):
        job = {"namespace": namespace, "trigger_rule": "all_done", "retries": 1}
        known = KnownRevisionOperator(task_id="known", program="known", **job)
        smoke = SmokeOperator(task_id="smoke", program="smoke", **job)
        upgrade = UpgradeOperator(task_id="upgrade", program="upgrade", **job)
    # They may write into the copy: only when all has been looked at.
    looks >> measure >> [known, smoke]
    [known, smoke] >> upgrade

    drop = DropScratchOperator(task_id="drop", namespace=namespace, execution_timeout=dt.timedelta(minutes=10))
    # Whatever happened is told; what this task finds is the verdict, for it is a leaf.
    report = DrillReportOperator(
        task_id="report",
        namespace=namespace,
        trigger_rule="all_done",
        execution_timeout=dt.timedelta(minutes=10),
        on_failure_callback=tell_on_call,
    )
    upgrade >> drop.as_teardown(setups=scratch)
    [upgrade, drop] >> report
