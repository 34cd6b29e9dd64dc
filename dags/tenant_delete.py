"""# Delete a tenant

The runbook's *Tenant offboarding* (three DELETE statements and a `pg_dump` option that does not exist), made safe.
This DAG **deletes nothing**: it plans, has the plan approved, suspends, exports, proves the export, and begins the
days of grace. `tenant_purge_due` deletes when they are over; with 0 days, its next run does.

**What it does.** *plan* finds everything that is the tenant's: by foreign keys at any depth, by every column
`tenant_id`, in every schema; its documents; its cached keys. It refuses when there is no such tenant, when it is
deleted or being deleted or onboarded, for a legal hold, and when a row of another tenant refers to one of this. **A
dry run ends there.** *approve* asks people (settings: how many, and whether the one who asked counts); each types the
slug. Then *lock*, *suspend* (no log-in, no session, no cached key), *export* (in one snapshot, to the export bucket),
*prove_export* (loaded into a scratch database, counted and compared), *grace*, *unlock*, *report*.

**Preconditions.** Connections `vcci_postgres_tenants`, `vcci_postgres_export`, `vcci_postgres_restore`, `vcci_s3`,
`vcci_redis`, `vcci_kubernetes`, `vcci_ops_db`, `vcci_slack`, `vcci_smtp`, with the grants of `include/sql/grants/`;
`tenants` in the settings.

**Parameters, e.g.** `{"slug": "acme-gmbh", "reason": "contract ended", "legal_basis": "end of contract",
"grace_days": 30, "dry_run": false}`.

**Rollback.** Until `tenant_purge_due` begins: `tenant_suspend` with *reactivate* cancels the deletion, and everything
is as it was. Afterwards there is the export.

**Killed or red?** Any task may be cleared: it finds what it has done. When it ended red after *approve*, clear *lock*
and what follows it, or start a new run. The tenant stays suspended meanwhile; `tenant_suspend` brings it back.

**Triage.** *plan* red: it says what speaks against it; nothing was changed. *approve* red: rejected, or not enough
people in time. *export*, *prove_export* red: the bucket, or the platform still writes for the tenant; nothing is
deleted without a proven export.

**Owner.** The on-call of the settings.
"""

from __future__ import annotations

import datetime as dt

from airflow.sdk import DAG, Param

from vcci_ops.domain.tenant_deletion import GRACE_MOST
from vcci_ops.notifications.mails import run_ended, task_failed
from vcci_ops.operators.lock import AcquireChangeLockOperator, ReleaseChangeLockOperator
from vcci_ops.operators.tenant_delete import (
    APPROVAL,
    EXPORT,
    PLAN,
    DeletionApprovalOperator,
    DeletionPlanOperator,
    DeletionReportOperator,
    ExportTenantOperator,
    GraceOperator,
    ProveExportOperator,
    SuspendForDeletionOperator,
)
from vcci_ops.settings import load_settings
from vcci_ops.tags import CHANGES_PRODUCTION, ON_DEMAND, TENANTS

settings = load_settings()
erasure = settings.tenants.erasure
namespace = settings.kubernetes.namespace
LONG = dt.timedelta(hours=12)

tell_of_silence = run_ended(settings, "ended red. Nothing was deleted. Look at the run in Airflow.")
tell_on_call = task_failed(settings, "Nothing was deleted; the tenant may be suspended.")

with DAG(
    dag_id="tenant_delete",
    description="Plan, approve, suspend, export and prove; deletes nothing before the days of grace are over",
    doc_md=__doc__,
    schedule=None,
    catchup=False,
    max_active_runs=4,
    dagrun_timeout=dt.timedelta(seconds=erasure.approval.within) + 3 * LONG,
    on_failure_callback=tell_of_silence,
    tags=[TENANTS, CHANGES_PRODUCTION, ON_DEMAND],
    default_args={
        "owner": settings.owner,
        "retries": 2,
        "retry_delay": dt.timedelta(seconds=5),
        "execution_timeout": dt.timedelta(minutes=30),
    },
    params={
        "slug": Param(
            type="string",
            minLength=1,
            maxLength=63,
            pattern="^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
            title="Tenant",
            description="Its slug, such as acme-gmbh; not its id",
        ),
        "reason": Param(
            type="string",
            minLength=5,
            maxLength=500,
            title="Reason",
            description="Why; people read it in Slack and in the record. Name no person",
        ),
        "legal_basis": Param(
            erasure.legal_bases[0],
            type="string",
            enum=list(erasure.legal_bases),
            title="Legal basis",
            description="Stands in the certificate",
        ),
        "grace_days": Param(
            erasure.grace_days,
            type="integer",
            minimum=0,
            maximum=GRACE_MOST,
            title="Days of grace",
            description="Between the export and the deletion; 0: the next run of tenant_purge_due deletes",
        ),
        "if_locked": Param(
            "refuse",
            type="string",
            enum=["refuse", "wait"],
            title="If another change is under way",
            description="refuse this one after its approval, or wait for the other to end",
        ),
        "dry_run": Param(True, type="boolean", title="Dry run", description="Plan only; change nothing"),
    },
):
    plan = DeletionPlanOperator(task_id=PLAN)
    approve = DeletionApprovalOperator(
        task_id=APPROVAL,
        plan_task_id=PLAN,
        own_approval=erasure.approval.own,
        within=erasure.approval.within,
        approvers=erasure.approval.people,
    )
    lock = AcquireChangeLockOperator(
        task_id="lock",
        namespace=namespace,
        purpose="suspend and export tenant {{ params.slug }}, to be deleted",
        if_locked="{{ params.if_locked }}",
        within=LONG.total_seconds(),
    )
    suspend = SuspendForDeletionOperator(task_id="suspend")
    export = ExportTenantOperator(task_id=EXPORT, execution_timeout=LONG)
    prove = ProveExportOperator(task_id="prove_export", execution_timeout=LONG)
    grace = GraceOperator(task_id="grace")
    unlock = ReleaseChangeLockOperator(task_id="unlock", namespace=namespace)
    report = DeletionReportOperator(task_id="report", trigger_rule="all_done", on_failure_callback=tell_on_call)
    plan >> approve >> lock >> suspend >> export >> prove >> grace
    # What lies between setup and teardown does not run when the setup did not: so the end comes after both.
    [suspend, export, prove, grace] >> unlock.as_teardown(setups=lock)
    [grace, unlock] >> report
