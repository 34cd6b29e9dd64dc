"""# Database backup

The backup that a restore drill can trust: `pg_dump` of production straight into S3, every night and by hand.

**What it does.** *dump* opens a snapshot, has `pg_dump --format=custom` dump it straight into an encrypted upload (no
copy on the worker, flat memory), and sums up every table in the same snapshot meanwhile: rows, largest key, newest
moment, a checksum that does not depend on order. *read_back* reads the whole dump from S3 again, holds size and SHA-256
against what was dumped, has `pg_restore --list` parse it, and writes the manifest beside it: **only with its manifest
it is a backup.** *retention* says which older backups go and why, and deletes them. *report* writes one line to Slack;
when anything failed, it pages the on-call.

**Retention** keeps the newest of each of so many days, weeks and months that have one (`database_backup.retention`),
all of the last two days, what is on hold, the newest verified backup and the newest one that a drill has restored. It
deletes only what a newer verified backup replaces, and nothing that is not called as a backup is.

**Another tool makes the backups?** `database_backup.enabled: false`: the DAG ends at once and says so. The checks and
the restore drill work on what they find.

**Preconditions.** Connections `vcci_postgres_backup` (straight to one server, not through a pooler; role as in
`include/sql/grants/vcci_ops_backup.sql`), `vcci_s3` (may write and delete below the prefix, see docs/connections.md),
`vcci_ops_db`, `vcci_slack`, `vcci_smtp`. `pg_dump` on the workers, of the server's major version or newer.

**Parameters, e.g.** `{"reason": "before the migration of v2.2.0", "retention": "plan"}`. By hand, nothing is deleted
unless `retention` is `apply`.

**Rollback.** None is needed: nothing of the platform is changed, and a dump without manifest is taken for nothing.

**Killed or red?** Any task may be cleared: it goes on with the dump that is there, or makes it again and clears away
what the dead one left. A backup that is begun again more than five minutes later gets a name of its own time.

**Triage.** *dump* red: the log has pg_dump's own words. Refused as too old: the workers' image needs a newer
postgresql-client. Waited for a lock: a migration ran; clear it. *read_back* red: what S3 gives is not what was sent:
look at the store, then clear *dump* and what follows. *retention* red: nothing more was deleted than it says.

**Owner.** The on-call of the settings.
"""

from __future__ import annotations

import datetime as dt

from airflow.sdk import DAG, CronTriggerTimetable, Param

from vcci_ops.notifications.mails import run_ended, task_failed
from vcci_ops.operators.database_backup import (
    APPLY,
    AUTO,
    PLAN_ONLY,
    BackupDumpOperator,
    BackupReadBackOperator,
    BackupReportOperator,
    BackupRetentionOperator,
)
from vcci_ops.settings import load_settings
from vcci_ops.tags import DAILY, RECOVERY

settings = load_settings()
backup = settings.database_backup
within = dt.timedelta(seconds=backup.timeout)

tell_of_silence = run_ended(settings, "ended red. There may be no backup.")
tell_on_call = task_failed(settings)

with DAG(
    dag_id="database_backup",
    description="Dump production straight into S3, read it back, keep what nothing newer replaces",
    doc_md=__doc__,
    schedule=CronTriggerTimetable(backup.schedule, timezone="UTC", run_immediately=dt.timedelta(0)),
    start_date=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    catchup=False,
    max_active_runs=1,
    # Three tries of the dump at the very most, of which each but the last has failed early.
    dagrun_timeout=2 * within + dt.timedelta(hours=1),
    on_failure_callback=tell_of_silence,
    tags=[DAILY, RECOVERY],
    default_args={
        "owner": settings.owner,
        "retries": 2,
        "retry_delay": dt.timedelta(minutes=1),
        "execution_timeout": dt.timedelta(minutes=15),
    },
    params={
        "reason": Param(
            None,
            type=["null", "string"],
            maxLength=500,
            title="Reason",
            description="Optional: why now; people read it in Slack",
        ),
        "retention": Param(
            AUTO,
            type="string",
            enum=[AUTO, PLAN_ONLY, APPLY],
            values_display={
                AUTO: "as usual: applied at night, only planned by hand",
                PLAN_ONLY: "only plan: say what could go, delete nothing",
                APPLY: "apply: delete what newer verified backups replace",
            },
            title="Retention",
            description="Whether older backups are deleted; what goes and why is in the log of the task retention",
        ),
    },
):
    dump = BackupDumpOperator(task_id="dump", execution_timeout=within)
    read_back = BackupReadBackOperator(task_id="read_back", execution_timeout=within)
    retention = BackupRetentionOperator(task_id="retention")
    # Whatever happened is told; what this task finds is the verdict, for it is a leaf.
    report = BackupReportOperator(
        task_id="report",
        retention_task_id=retention.task_id,
        trigger_rule="all_done",
        on_failure_callback=tell_on_call,
    )
    dump >> read_back >> retention >> report
