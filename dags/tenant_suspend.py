"""# Suspend a tenant, or let it work again

The runbook's `UPDATE tenants SET status = 'suspended'`, and all that it forgets.

**What it does.** *plan* reads the form and looks at the tenant. **A dry run ends there.** Then *lock*, *apply*,
*verify*, *unlock*, *tell_owner* (if asked), *report*. Suspended means: nobody of the tenant can log in, sessions are
ended, API keys are refused. For that the keys which the platform has in its cache are dropped. **Nothing of the
customer's data is touched.** Reactivated, everybody logs in anew, and API keys work as before.

**Until.** With an end time the group *ends* waits for it, without holding a worker, takes the lock, and reactivates
the tenant, unless somebody has changed it meanwhile: reactivated it by hand (then there is nothing to do), suspended
it anew or begun to delete it (then it is left alone, and the run ends red).

**Deletion.** A tenant in its days of grace before a deletion is suspended. *reactivate* cancels that deletion, and
everything is back; the plan says so. Once the purge has begun to delete, this is refused.

**Preconditions.** Connections `vcci_postgres_tenants`, `vcci_redis` (with the rights on the cache in
`docs/connections.md`), `vcci_kubernetes`, `vcci_ops_db`, `vcci_slack`, `vcci_smtp`. Rights as in
`include/sql/grants/vcci_ops_tenants.sql`.

**Parameters, e.g.** `{"slug": "acme-corp", "action": "suspend", "reason": "invoices unpaid since June", "until":
"2026-12-01T18:00:00Z", "tell_owner": true, "dry_run": false}`. The slug counts, never the id.

**The owner** is every administrator of the tenant. Addresses are read when they are written to, and are in no log and
no record. Each gets one mail at most; *tell_owner* says how many.

**Rollback.** Run it with the other action.

**Killed or red?** Any task may be cleared: it finds what it has done.

**Triage.** *plan* red: the parameter or tenant it names; nothing was changed. *apply*, *verify*: what it says is not
so; clear it. *tell_owner*: the mail server; the tenant is as asked all the same. *ends.apply* left alone: decide
which is right.

**Owner.** The on-call of the settings.
"""

from __future__ import annotations

import datetime as dt

from airflow.sdk import DAG, Param, TaskGroup

from vcci_ops.domain.tenant_request import REACTIVATE, SLUG, SLUG_LENGTH, SUSPEND
from vcci_ops.notifications.mails import run_ended, task_failed
from vcci_ops.operators.lock import AcquireChangeLockOperator, ReleaseChangeLockOperator
from vcci_ops.operators.tenant_suspend import (
    SuspendApplyOperator,
    SuspendEndOperator,
    SuspendEndReportOperator,
    SuspendPlanOperator,
    SuspendReportOperator,
    SuspendVerifyOperator,
    TellOwnersOperator,
    UntilOperator,
)
from vcci_ops.settings import load_settings
from vcci_ops.tags import CHANGES_PRODUCTION, ON_DEMAND, TENANTS

settings = load_settings()
namespace = settings.kubernetes.namespace
DAY = dt.timedelta(days=1)

tell_of_silence = run_ended(settings)
tell_on_call = task_failed(settings, "The tenant may not be as it should be.")

with DAG(
    dag_id="tenant_suspend",
    description="Suspend a tenant, with an end time if wanted, or let it work again; cancels a deletion in its grace",
    doc_md=__doc__,
    schedule=None,
    catchup=False,
    # A run that waits for its end time takes a place; the change lock keeps two from acting at once.
    max_active_runs=100,
    dagrun_timeout=dt.timedelta(seconds=settings.tenants.suspended_at_most) + 2 * DAY,
    on_failure_callback=tell_of_silence,
    tags=[TENANTS, CHANGES_PRODUCTION, ON_DEMAND],
    default_args={
        "owner": settings.owner,
        "retries": 2,
        "retry_delay": dt.timedelta(seconds=5),
        "execution_timeout": dt.timedelta(minutes=5),
    },
    params={
        "slug": Param(
            type="string", pattern=f"^{SLUG}$", maxLength=SLUG_LENGTH, title="Slug", description="Of the tenant"
        ),
        "action": Param(
            SUSPEND,
            type="string",
            enum=[SUSPEND, REACTIVATE],
            values_display={
                SUSPEND: "suspend: nobody of the tenant gets in",
                REACTIVATE: "reactivate: let it work again; cancels a deletion that has not begun",
            },
            title="Action",
            description="What to do",
        ),
        "reason": Param(
            type="string",
            minLength=5,
            maxLength=500,
            title="Reason",
            description="Why; people read it in Slack and in the record, and the owner in the mail about a suspension",
        ),
        "until": Param(
            None,
            type=["null", "string"],
            format="date-time",
            title="Until",
            description="Optional, when suspending: when the tenant works again by itself",
        ),
        "tell_owner": Param(
            False,
            type="boolean",
            title="Tell the owner",
            description="Write a mail to the tenant's administrators, also at the end time",
        ),
        "if_locked": Param(
            "refuse",
            type="string",
            enum=["refuse", "wait"],
            title="If another change is under way",
            description="refuse this one, or wait for the other to end",
        ),
        "dry_run": Param(True, type="boolean", title="Dry run", description="Show the plan only; change nothing"),
    },
):
    plan = SuspendPlanOperator(task_id="plan", namespace=namespace)
    lock = AcquireChangeLockOperator(
        task_id="lock",
        namespace=namespace,
        purpose="{{ params.action }} tenant {{ params.slug }}",
        if_locked="{{ params.if_locked }}",
    )
    apply = SuspendApplyOperator(task_id="apply", namespace=namespace)
    verify = SuspendVerifyOperator(task_id="verify", namespace=namespace)
    unlock = ReleaseChangeLockOperator(task_id="unlock", namespace=namespace)
    told = TellOwnersOperator(task_id="tell_owner", namespace=namespace)
    # Whatever happened is told; what this task finds is the verdict, for it is a leaf.
    report = SuspendReportOperator(
        task_id="report", namespace=namespace, trigger_rule="all_done", on_failure_callback=tell_on_call
    )
    plan >> lock >> apply >> verify >> told >> report
    [apply, verify] >> unlock.as_teardown(setups=lock)

    with TaskGroup("ends") as ends:
        # Also when the report did not arrive: what was begun has an end.
        until = UntilOperator(task_id="until", namespace=namespace, trigger_rule="all_done")
        lock_again = AcquireChangeLockOperator(
            task_id="lock",
            namespace=namespace,
            purpose="reactivate tenant {{ params.slug }} at its time",
            if_locked="wait",
            within=DAY.total_seconds(),
            on_failure_callback=tell_on_call,
        )
        end = SuspendEndOperator(task_id="apply", namespace=namespace, on_failure_callback=tell_on_call)
        unlock_again = ReleaseChangeLockOperator(task_id="unlock", namespace=namespace)
        told_again = TellOwnersOperator(
            task_id="tell_owner", namespace=namespace, ending=True, outcome_task_id=end.task_id
        )
        report_again = SuspendEndReportOperator(
            task_id="report",
            namespace=namespace,
            outcome_task_id=end.task_id,
            trigger_rule="all_done",
            on_failure_callback=tell_on_call,
        )
        until >> lock_again >> end >> told_again >> report_again
        end >> unlock_again.as_teardown(setups=lock_again)
    unlock >> until
