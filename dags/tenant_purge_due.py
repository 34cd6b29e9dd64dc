"""# Delete the tenants whose days of grace are over

The second half of `tenant_delete`: every day, and by hand. **It deletes for good.** What it deletes was approved by
people, exported, and the export proven; nobody is asked again.

**What it does.** *due* finds whose grace is over, and what was begun and not ended. Then *lock*; and for each tenant,
one after the other: *take* (from here on nobody can cancel; looks again whether the tenant is suspended, under no
legal hold, and row by row as it was exported), *erase* (in batches, children first, with short transactions that wait
when standbys lag or sessions wait for locks; then documents and cached keys), *prove* (searches for what is left, in
every table, prefix and key; compares what other tenants have with before), *certify* (certificate, tombstone). Then
*unlock*, *report*. A tenant that fails keeps none of the others from being deleted.

**Anything that moved since the export stops that tenant** before its first row is deleted: a new row, one less, one
changed, another document, a legal hold, a tenant that is active. The on-call is paged; a person decides.

**Preconditions.** As `tenant_delete`, and the connection `vcci_postgres_erase`.

**Parameters, e.g.** none on the schedule; `{"slug": "acme-gmbh"}` does only that one, and is the way on for one that
stopped half-way.

**Rollback.** There is none: `tenant_suspend` (reactivate) cancels until *take*; afterwards there is the export, and
backups until they expire.

**Killed or red?** Clear any task: it goes on where it was; so does the next day's run.

**Triage.** *take* red: it says what moved; look who wrote. Run `tenant_delete` again (new plan, new export), or bring
the tenant back. *erase* red: the database did not answer or refused a batch; what is deleted stays deleted, clear it.
*prove* red: something wrote for the tenant meanwhile; end that, then run this DAG with the slug. *lock* red: another
change took longer than this run waits.

**Owner.** The on-call of the settings.
"""

from __future__ import annotations

import datetime as dt

from airflow.sdk import DAG, CronTriggerTimetable, Param, task_group

from vcci_ops.notifications.mails import run_ended, task_failed
from vcci_ops.operators.lock import AcquireChangeLockOperator, ReleaseChangeLockOperator
from vcci_ops.operators.tenant_purge import (
    DUE,
    CertifyOperator,
    DueDeletionsOperator,
    EraseOperator,
    ProveErasureOperator,
    PurgeReportOperator,
    TakeDueOperator,
)
from vcci_ops.settings import load_settings
from vcci_ops.tags import CHANGES_PRODUCTION, DAILY, TENANTS

settings = load_settings()
namespace = settings.kubernetes.namespace
LONG = dt.timedelta(hours=12)

tell_of_silence = run_ended(
    settings, "ended red. A tenant may be deleted in part: look at the run in Airflow; its tasks may be cleared."
)
tell_on_call = task_failed(settings, "A tenant may be deleted in part; the task may be cleared.")

with DAG(
    dag_id="tenant_purge_due",
    description="Delete the tenants whose days of grace are over; prove it, certify it",
    doc_md=__doc__,
    # No run for a time that had passed when the DAG was first seen.
    schedule=CronTriggerTimetable(settings.tenants.erasure.schedule, timezone="UTC", run_immediately=dt.timedelta(0)),
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=4 * LONG,
    on_failure_callback=tell_of_silence,
    tags=[TENANTS, CHANGES_PRODUCTION, DAILY],
    default_args={
        "owner": settings.owner,
        "retries": 2,
        "retry_delay": dt.timedelta(seconds=5),
        "execution_timeout": dt.timedelta(minutes=30),
    },
    params={
        "slug": Param(
            None,
            type=["null", "string"],
            maxLength=63,
            title="Only this tenant",
            description="Its slug; empty: all that are due. Also the way on for one that stopped half-way",
        ),
        "if_locked": Param(
            "wait",
            type="string",
            enum=["refuse", "wait"],
            title="If another change is under way",
            description="refuse this one, or wait for the other to end",
        ),
    },
):
    due = DueDeletionsOperator(task_id=DUE)
    lock = AcquireChangeLockOperator(
        task_id="lock",
        namespace=namespace,
        purpose="delete the tenants that are due",
        if_locked="{{ params.if_locked }}",
        within=LONG.total_seconds(),
    )
    # One tenant at a time: the database has its other tenants to serve.
    gently = {"max_active_tis_per_dagrun": 1, "map_index_template": "{{ slug }}"}

    @task_group(group_id="tenant")
    def purge(deletion: str) -> None:
        """Delete one tenant."""
        take = TakeDueOperator(task_id="take", deletion=deletion, execution_timeout=LONG, **gently)
        erase = EraseOperator(task_id="erase", deletion=deletion, execution_timeout=2 * LONG, **gently)
        prove = ProveErasureOperator(task_id="prove", deletion=deletion, execution_timeout=LONG, **gently)
        certify = CertifyOperator(task_id="certify", deletion=deletion, **gently)
        take >> erase >> prove >> certify

    tenants = purge.expand(deletion=due.output)
    unlock = ReleaseChangeLockOperator(task_id="unlock", namespace=namespace)
    report = PurgeReportOperator(task_id="report", trigger_rule="all_done", on_failure_callback=tell_on_call)
    due >> lock >> tenants
    # The end comes after the teardown: what lies between does not run when the lock was not to be had.
    tenants >> unlock.as_teardown(setups=lock)
    [tenants, unlock] >> report
