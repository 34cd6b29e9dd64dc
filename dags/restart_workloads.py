"""# Restart workloads

The runbook's *rolling restart* (`kubectl rollout restart`), one workload after the other, each waited for.

**What it does.** *plan* reads the form and looks whether each workload can be restarted without being down; it changes
nothing. **A dry run ends there.** Then *lock*, and in the order of the settings *restart.&lt;workload&gt;*: new pods
come up before old ones go, and the task waits, without holding a worker, until all are new and available. The first
one that fails stops those after it. *report* says what was restarted and what was not.

**Zero downtime.** Refused for a workload whose strategy is *Recreate*, or whose `maxUnavailable` lets all of its
replicas be away at once, unless *allow downtime* is ticked; and for one with a rollout under way.

**Preconditions.** Connections `vcci_kubernetes`, `vcci_ops_db`, `vcci_slack`, `vcci_smtp`; rights as in
`include/kubernetes/rbac-changes.yaml`. During a restart there are more pods than usual: `scaling.reserve` of the
settings keeps database connections for them.

**Parameters, e.g.** `{"workloads": ["backend-api", "worker"], "reason": "new CA bundle", "dry_run": false}`.

**Rollback.** There is nothing to go back to: image and settings stay as they are. When new pods do not come up, old
ones keep serving; `release_rollback` brings back the template before, without the restart.

**Killed or red?** Any task may be cleared: the restart bears the run's time, so it is not done twice.

**Triage.** *plan* red: the workload and why; nothing was changed. *lock*: another change is under way. *restart.…*
red: the message has the pod's last log lines; what comes after it was not restarted.

**Owner.** The on-call of the settings.
"""

from __future__ import annotations

import datetime as dt

from airflow.sdk import DAG, Param, TaskGroup
from airflow.sdk.bases.operator import chain

from vcci_ops.notifications.mails import run_ended, task_failed
from vcci_ops.operators.lock import AcquireChangeLockOperator, ReleaseChangeLockOperator
from vcci_ops.operators.restart import RestartOperator, RestartPlanOperator, RestartReportOperator
from vcci_ops.settings import load_settings
from vcci_ops.tags import CHANGES_PRODUCTION, ON_DEMAND

settings = load_settings()
namespace = settings.kubernetes.namespace
WORKLOADS = [workload.name for workload in settings.kubernetes.workloads]

tell_of_silence = run_ended(settings)
tell_on_call = task_failed(settings)

with DAG(
    dag_id="restart_workloads",
    description="Restart workloads without downtime, one after the other",
    doc_md=__doc__,
    schedule=None,
    catchup=False,
    max_active_runs=4,
    dagrun_timeout=dt.timedelta(hours=12),
    on_failure_callback=tell_of_silence,
    tags=[CHANGES_PRODUCTION, ON_DEMAND],
    default_args={
        "owner": settings.owner,
        "retries": 2,
        "retry_delay": dt.timedelta(seconds=5),
        "execution_timeout": dt.timedelta(minutes=5),
    },
    params={
        "workloads": Param(
            type="array",
            items={"type": "string", "enum": WORKLOADS},
            examples=WORKLOADS,
            minItems=1,
            title="Workloads",
            description="What to restart; always in the order of the settings",
        ),
        "reason": Param(
            type="string",
            minLength=5,
            maxLength=500,
            title="Reason",
            description="Why; people read it in Slack and in the record",
        ),
        "allow_downtime": Param(
            False,
            type="boolean",
            title="Allow downtime",
            description="Also restart what has no pod for a while, such as a single replica with strategy Recreate",
        ),
        "if_locked": Param(
            "refuse",
            type="string",
            enum=["refuse", "wait"],
            title="If another change is under way",
            description="refuse this one, or wait for the other to end",
        ),
        "dry_run": Param(True, type="boolean", title="Dry run", description="Look only; restart nothing"),
    },
):
    plan = RestartPlanOperator(task_id="plan", namespace=namespace, workloads=WORKLOADS)
    lock = AcquireChangeLockOperator(
        task_id="lock",
        namespace=namespace,
        purpose="restart of {{ params.workloads | join(', ') }}",
        if_locked="{{ params.if_locked }}",
    )
    with TaskGroup("restart") as restart:
        restarts = [
            RestartOperator(
                task_id=name,
                workload=name,
                namespace=namespace,
                within=settings.release.rollout_within,
                # One that was not chosen is skipped and stops nothing; one that failed stops all after it. Airflow
                # wants all_success directly after a setup.
                trigger_rule="all_success" if name == WORKLOADS[0] else "none_failed",
            )
            for name in WORKLOADS
        ]
        chain(*restarts)
    unlock = ReleaseChangeLockOperator(task_id="unlock", namespace=namespace)
    report = RestartReportOperator(
        task_id="report",
        restart_task_ids={name: f"restart.{name}" for name in WORKLOADS},
        channel=settings.slack.channel,
        trigger_rule="all_done",
        on_failure_callback=tell_on_call,
    )
    plan >> lock >> restart >> report
    restarts >> unlock.as_teardown(setups=lock)
