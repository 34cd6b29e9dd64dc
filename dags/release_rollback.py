"""# Rollback

The runbook's *Rollback Procedure*, in the order in which it works: the database first, from the newer image, then
the Deployments.

**What it does.** *validate.request* shows the history (revisions, versions, times, who released them, how that
ended) and chooses the revision to go back to; *plan* is what will change, hashed; *approve* asks somebody else when
the database is downgraded, and lists the data that each step drops; *lock*, *begin*; *downgrade* runs
`alembic downgrade` to the exact revision with the image that runs now, for the older one lacks the newer scripts;
*roll_back* brings each Deployment's template back as `kubectl rollout undo` does; *verify* and a short *watch*.
**A dry run ends after the plan.**

**Preconditions.** As for `release_deploy`. The Deployments still keep the revision (`revisionHistoryLimit`).

**Parameters, e.g.** `{"target": "previous", "reason": "p99 doubled since v2.1.0", "dry_run": false}`. *target*:
`previous` (the newest earlier version whose release did not fail), a revision's number, or a version. *database*:
`keep`, or the exact Alembic revision to downgrade to; the form does not guess it.

**Rollback of the rollback.** `release_deploy` with the newer version.

**Killed or red?** Any task may be cleared: it finds what it has done. A failed rollback opens an incident record and
pages; the message says which task failed.

**Triage.** *validate.request*, "has no revision": it lists those there are. *approve*: "rejected by …".
*roll_back* failed: the message has the pod's last lines.

**Owner.** The on-call of the settings.
"""

from __future__ import annotations

import datetime as dt

from airflow.sdk import DAG, Param, TaskGroup

from vcci_ops.notifications.mails import run_ended
from vcci_ops.operators.lock import AcquireChangeLockOperator, ReleaseChangeLockOperator
from vcci_ops.operators.release_act import BeginReleaseOperator, ReadyOperator, ReleaseWatchOperator
from vcci_ops.operators.release_end import FinishReleaseOperator
from vcci_ops.operators.release_plan import DryRunGate
from vcci_ops.operators.release_rollback import (
    DowngradeOperator,
    DowngradePlanOperator,
    ReturnedSmokeOperator,
    ReturnWorkloadOperator,
    RollbackApprovalOperator,
    RollbackPlanOperator,
    RollbackRequestOperator,
)
from vcci_ops.operators.release_validate import MetricsGateOperator
from vcci_ops.settings import load_settings
from vcci_ops.tags import CHANGES_PRODUCTION, ON_DEMAND, RELEASE

settings = load_settings()
release = settings.release
namespace = settings.kubernetes.namespace

tell_of_silence = run_ended(
    settings, "ended red and Slack may not have been told. Look at the run in Airflow, first at the task <i>finish</i>."
)

with DAG(
    dag_id="release_rollback",
    description="Go back to an earlier version: history, plan, database first, then the Deployments, verify, watch",
    doc_md=__doc__,
    schedule=None,
    catchup=False,
    max_active_runs=2,
    dagrun_timeout=dt.timedelta(days=2),
    on_failure_callback=tell_of_silence,
    tags=[RELEASE, CHANGES_PRODUCTION, ON_DEMAND],
    default_args={
        "owner": settings.owner,
        "retries": 2,
        "retry_delay": dt.timedelta(seconds=5),
        "execution_timeout": dt.timedelta(minutes=10),
    },
    params={
        "target": Param(
            "previous",
            type="string",
            maxLength=128,
            title="Target",
            description="previous: the newest earlier version whose release did not fail; or a revision, or a version",
        ),
        "workloads": Param(
            [],
            type=["null", "array"],  # may stay empty, and the form says so
            items={"type": "string", "enum": list(release.workloads)},
            examples=list(release.workloads),
            title="Workloads",
            description="Deployments to bring back; none chosen: all that ship the release",
        ),
        "database": Param(
            "keep",
            type="string",
            maxLength=64,
            title="Database",
            description="keep, or the exact Alembic revision to downgrade to; that needs an approval",
        ),
        "watch_minutes": Param(
            5, type="integer", minimum=1, maximum=1440, title="Watch (minutes)", description="How long it is watched"
        ),
        "if_locked": Param(
            "refuse",
            type="string",
            enum=["refuse", "wait"],
            title="If another change is under way",
            description="refuse this rollback, or wait for the other change to end",
        ),
        "reason": Param(
            type="string",
            minLength=5,
            maxLength=500,
            title="Reason",
            description="Why; people read it in Slack and in the record",
        ),
        "dry_run": Param(True, type="boolean", title="Dry run", description="History and plan only; change nothing"),
    },
):
    with TaskGroup("validate") as validate:
        request = RollbackRequestOperator(task_id="request")
        request >> MetricsGateOperator(task_id="metrics", namespace=namespace, rollback=True)

    with TaskGroup("candidate") as candidate:
        schema = DowngradePlanOperator(
            task_id="schema", namespace=namespace, step="downgrade-plan", command="alembic", acting=False
        )

    # A rollback that keeps the database skips `schema`; that must not skip the plan.
    plan = RollbackPlanOperator(task_id="plan", trigger_rule="none_failed_min_one_success")
    gate = DryRunGate(task_id="dry_run_ends_here")
    approve = RollbackApprovalOperator(
        task_id="approve", plan_task_id="plan", own_approval=release.approvals.own, within=release.approvals.within
    )
    lock = AcquireChangeLockOperator(
        task_id="lock",
        namespace=namespace,
        purpose="rollback to {{ params.target }}",
        if_locked="{{ params.if_locked }}",
        within=release.approvals.within,
    )
    begin = BeginReleaseOperator(task_id="begin")
    # The database goes back first, while the image that has the scripts still runs.
    downgrade = DowngradeOperator(
        task_id="downgrade", namespace=namespace, step="downgrade", command="alembic", acting=True
    )

    with TaskGroup("roll_back") as roll_back:
        returns = [
            ReturnWorkloadOperator(
                task_id=workload,
                namespace=namespace,
                workload=workload,
                within=release.rollout_within,
                # `downgrade` is skipped when the database is kept.
                trigger_rule="none_failed_min_one_success",
            )
            for workload in release.workloads
        ]

    with TaskGroup("verify") as verify:
        ready = ReadyOperator(task_id="ready", namespace=namespace, trigger_rule="none_failed_min_one_success")
        smoke = ReturnedSmokeOperator(
            task_id="smoke", namespace=namespace, step="smoke-back", command="smoke", junit=True, acting=True
        )
        ready >> smoke
    watch = ReleaseWatchOperator(task_id="watch", namespace=namespace, trigger_rule="none_failed_min_one_success")

    finish = FinishReleaseOperator(task_id="finish", kind="rollback", trigger_rule="all_done")
    unlock = ReleaseChangeLockOperator(task_id="unlock", namespace=namespace)

    request >> schema
    [validate, candidate] >> plan
    plan >> gate >> approve >> lock >> begin >> downgrade >> returns >> ready
    begin >> returns
    # What lies between setup and teardown does not run when the setup did not, whatever its trigger rule: so the
    # end, which has to tell of that, comes after both.
    [ready, smoke] >> watch >> unlock.as_teardown(setups=lock)
    [watch, unlock] >> finish
