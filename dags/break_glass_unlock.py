"""# Break glass: release a dead run's change lock

Whatever changes the platform holds the namespace's change lock. It does not expire: what a dead run left half-way
must be looked at before the next change. When a run is dead and cannot give its lock back, this DAG takes it away.

**What it does.** *break_lock* compares the holder with the one you expect, asks Airflow whether that run still runs,
writes who breaks the lock and why into the history (`change_event`, kind *lock-broken*), and only then releases it.
*slack* tells the channel. The run that had the lock stops before its next act, should it still be alive.

**Preconditions.** Connections `vcci_kubernetes`, `vcci_ops_db`, `vcci_slack`, `vcci_smtp`; rights as in
`include/kubernetes/rbac-changes.yaml`. You know which run holds the lock. The task that was refused names it; so does

    kubectl get lease vcci-ops-change -n NAMESPACE -o jsonpath='{.spec.holderIdentity}'

**Before you break it.** Open that run in Airflow. Is one of its tasks running or deferred? Then it is not dead: wait,
or mark it failed. Clearing its last task often ends it properly, and gives the lock back by itself. Look what it left
half-way: `kubectl rollout status`, the schema's revision, its thread in Slack.

**Parameters, e.g.** `{"expected_holder": "release_deploy/manual__2026-11-24T09:00:00+00:00", "reason": "its worker's
node is gone, nothing was rolled out yet", "confirm": true}`.

**Rollback.** None: the run that had the lock cannot have it back. Start it anew.

**Killed or red?** *break_lock* may be cleared: it finds that it broke the lock already, and never breaks that of a
run that came after. When *slack* fails, the lock is broken and the record is there all the same.

**Triage.** *nobody holds*: there is nothing to do. *is not held by*: another run has it now; look at that one. *is
running*: it may be changing the platform at this moment.

**Owner.** The on-call of the settings.
"""

from __future__ import annotations

import datetime as dt

from airflow.providers.smtp.notifications.smtp import send_smtp_notification
from airflow.sdk import DAG, Param

from vcci_ops.operators.lock import BreakChangeLockOperator, TellLockBrokenOperator
from vcci_ops.settings import load_settings
from vcci_ops.tags import CHANGES_PRODUCTION, ON_DEMAND

settings = load_settings()

tell_on_call = send_smtp_notification(
    **settings.on_call.mail,
    subject=f"[vcci-ops {settings.environment}] {{{{ dag_run.dag_id }}}}: a change lock was not broken, or not told of",
    html_content="<p>Run {{ dag_run.run_id | e }} of {{ dag_run.dag_id }} did not end well. Look at it in Airflow.</p>",
)

with DAG(
    dag_id="break_glass_unlock",
    description="Release the change lock of a run that is dead, with a record of who did so and why",
    doc_md=__doc__,
    schedule=None,
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=dt.timedelta(minutes=30),
    on_failure_callback=tell_on_call,
    tags=[CHANGES_PRODUCTION, ON_DEMAND],
    default_args={
        "owner": settings.owner,
        "retries": 2,
        "retry_delay": dt.timedelta(seconds=10),
        "execution_timeout": dt.timedelta(minutes=5),
    },
    params={
        "expected_holder": Param(
            "",
            type="string",
            maxLength=500,
            title="Expected holder",
            description="dag_id/run_id, as the refused task names it; or: kubectl get lease vcci-ops-change "
            f"-n {settings.kubernetes.namespace} -o jsonpath='{{.spec.holderIdentity}}'",
        ),
        "reason": Param(
            "",
            type="string",
            maxLength=500,
            title="Reason",
            description="Why that run is dead and what you found that it left; at least 10 characters, kept for good",
        ),
        "even_if_running": Param(
            False,
            type="boolean",
            title="Even if it is running",
            description="Break it although Airflow says that the run still runs: it may be in the middle of a change",
        ),
        "confirm": Param(
            False,
            type="boolean",
            title="Confirm",
            description="I have looked at that run, and at what it left half-way",
        ),
    },
):
    break_lock = BreakChangeLockOperator(
        task_id="break_lock",
        namespace=settings.kubernetes.namespace,
        expected_holder="{{ params.expected_holder }}",
        reason="{{ params.reason }}",
        confirm="{{ params.confirm }}",
        even_if_running="{{ params.even_if_running }}",
    )
    slack = TellLockBrokenOperator(
        task_id="slack",
        break_task_id="break_lock",
        channel=settings.slack.channel,
        on_failure_callback=tell_on_call,
    )
    break_lock >> slack
