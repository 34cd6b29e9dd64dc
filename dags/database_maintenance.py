"""# Database maintenance

The runbook's weekly `VACUUM ANALYZE` and monthly `REINDEX`: of what is worth it, within the window, one object at a
time.

**What it does.** *plan* looks at every table and index, at what keeps dead rows from being removed, and at the room
there is, and lists what is due and when it stops; a dry run ends there. With the change lock, *vacuum* vacuums,
analyzes and freezes what thresholds name, the most urgent first. *reindex* drops left-overs of dead rebuilds where that
is provable, gathers fresh statistics, then rebuilds one index after the other with `REINDEX INDEX CONCURRENTLY`: room
and older transactions are looked at before each. Nothing is begun that does not fit into what is left of the window;
the next one goes on. *report* has sizes before and after, and what was left and why.

**When.** At the begin of each window of the settings (Sunday and Wednesday 02:00 to 06:00 UTC), what is due by
`maintenance.vacuum.every` (7 days) and `maintenance.reindex.every` (28 days); else the run is short and says nothing.

**Preconditions.** Connection `vcci_postgres_maintenance`, straight to the server or through a pooler in session mode;
rights as in `include/sql/grants/vcci_ops_maintenance.sql`; `vcci_kubernetes` for the change lock, `vcci_ops_db`,
`vcci_s3`, `vcci_slack`, `vcci_smtp`. Sizes of volumes in the settings, for PostgreSQL does not tell them.

**Parameters, e.g.** `{"kind": "reindex", "tables": ["public.emissions"], "dry_run": true}`. A table that does not exist
is refused with the names of those that do. Outside of the windows: `{"ignore_window": true, "reason": "disk is full"}`.

**Rollback.** Nothing to roll back: no row changes. An index that was being rebuilt stays as it was; its half-built copy
is dropped by the task that ends, or by the next run.

**Killed or red?** Clear the red task: what is done is not done again, what was begun is tidied and done. In a window
that is over, start a new run instead.

**Triage.** *in the way* names the session, slot, standby or prepared transaction, with the statement that ends it.
*did not get its lock*: nothing waited behind it; the next window tries again. *no room*: free some, or correct
`maintenance.volumes`.

**Owner.** The on-call of the settings.
"""

from __future__ import annotations

import datetime as dt

from airflow.sdk import DAG, MultipleCronTriggerTimetable, Param

from vcci_ops.domain.maintenance import REINDEX, VACUUM
from vcci_ops.domain.maintenance_plan import BOTH
from vcci_ops.domain.maintenance_windows import crons, longest
from vcci_ops.notifications.mails import run_ended, task_failed
from vcci_ops.operators.lock import AcquireChangeLockOperator, ReleaseChangeLockOperator
from vcci_ops.operators.maintenance import LOCK_WITHIN, MaintenancePlanOperator
from vcci_ops.operators.maintenance_act import ReindexOperator, VacuumOperator
from vcci_ops.operators.maintenance_report import MaintenanceReportOperator
from vcci_ops.settings import load_settings
from vcci_ops.tags import CHANGES_PRODUCTION, MAINTENANCE, WEEKLY

settings = load_settings()
windows = settings.maintenance.windows
namespace = settings.kubernetes.namespace
whole = longest(windows)

tell_of_silence = run_ended(settings)
tell_on_call = task_failed(settings, "No row is lost; the next window goes on.")

with DAG(
    dag_id="database_maintenance",
    description="Vacuum and rebuild what is worth it, within the window, one object at a time",
    doc_md=__doc__,
    schedule=MultipleCronTriggerTimetable(*crons(windows), timezone="UTC", run_immediately=dt.timedelta(0)),
    catchup=False,
    # The change lock keeps two runs from acting at once; a dry run beside a run in its window does no harm.
    max_active_runs=2,
    dagrun_timeout=whole + dt.timedelta(hours=2),
    on_failure_callback=tell_of_silence,
    tags=[WEEKLY, MAINTENANCE, CHANGES_PRODUCTION],
    default_args={
        "owner": settings.owner,
        "retries": 2,
        "retry_delay": dt.timedelta(seconds=15),
        "execution_timeout": dt.timedelta(minutes=10),
    },
    params={
        "kind": Param(
            VACUUM,
            type="string",
            enum=[VACUUM, REINDEX, BOTH],
            title="Kind",
            description="vacuum: and analyze; reindex: rebuild what wastes room. A scheduled run does what is due",
        ),
        "tables": Param(
            [],
            type=["null", "array"],
            items={"type": "string", "maxLength": 260},
            title="Tables",
            description="Only these, whether due or not; none: what thresholds say. The plan of a dry run lists all",
        ),
        "ignore_window": Param(
            False, type="boolean", title="Ignore the windows", description="Act now, though no window is open"
        ),
        "reason": Param(
            "",
            type="string",
            maxLength=500,
            title="Reason",
            description="Why it cannot wait for its window; people read it in the report",
        ),
        "dry_run": Param(True, type="boolean", title="Dry run", description="Plan only; change nothing"),
    },
):
    common = {"namespace": namespace}
    plan = MaintenancePlanOperator(task_id="plan", **common)
    lock = AcquireChangeLockOperator(
        task_id="lock",
        **common,
        purpose="database maintenance",
        if_locked="wait",
        within=f"{{{{ ti.xcom_pull(task_ids='plan', key='{LOCK_WITHIN}') or 0 }}}}",
        execution_timeout=whole,
    )
    vacuum = VacuumOperator(task_id="vacuum", **common, execution_timeout=whole + dt.timedelta(minutes=30))
    reindex = ReindexOperator(task_id="reindex", **common, execution_timeout=whole + dt.timedelta(minutes=30))
    unlock = ReleaseChangeLockOperator(task_id="unlock", **common)
    report = MaintenanceReportOperator(
        task_id="report",
        **common,
        channel=settings.slack.channel,
        trigger_rule="all_done",
        on_failure_callback=tell_on_call,
    )
    plan >> lock >> vacuum >> reindex >> report
    [vacuum, reindex] >> unlock.as_teardown(setups=lock)
    unlock >> report
    plan >> report
