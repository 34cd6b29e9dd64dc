"""# Scale workloads

The runbook's *Scale up for the reporting deadline* (`kubectl scale ... --replicas=10`, later back to 3), made safe.

**What it does.** *plan* reads the form and looks at Deployments, autoscalers and the database's connections; it shows
before, after and the arithmetic, and changes nothing. **A dry run ends there.** Then *lock*, *apply*, *ready* (waits
without holding a worker), *unlock*, *report*. With an end time, the group *put_back* waits for it, takes the lock
again, and puts back what was there before, but only what is still as this run set it; what somebody has changed
meanwhile is left alone, and the run ends red and says so.

**Autoscalers.** `kubectl scale` is undone by one. So its bounds are moved: the number asked for becomes its minimum;
its maximum grows where it must and never shrinks on the way up; scaled down, it returns to `ceiling` of the settings.
It follows the load between them, so after scaling down pods go when it thinks so. Without one, replicas are set.

**Connections.** Refused when replicas x pool size of all workloads would pass `max_connections`, less what PostgreSQL
and the settings keep back and what other clients hold. An autoscaler counts with its maximum. The refusal says what
would fit. Scaling down is never refused for that, nor for a database that does not answer.

**Preconditions.** Connections `vcci_kubernetes`, `vcci_postgres`, `vcci_ops_db`, `vcci_slack`, `vcci_smtp`; rights as
in `include/kubernetes/rbac-changes.yaml`; `scaling` in the settings. No rollout under way.

**Parameters, e.g.** `{"profile": "reporting-deadline", "until": "2026-12-01T18:00:00Z", "reason": "CSRD deadline",
"dry_run": false}`, or `{"profile": "custom", "replicas_worker": 8, ...}`.

**Rollback.** Run it with the profile `normal`. To end an end time early, do that, too: the waiting run then finds its
size changed and leaves it alone. The wait is to be seen with kubectl as the annotation `vcci-ops/put-back`.

**Killed or red?** Any task may be cleared: it finds what it has done. What was there before is kept in the history.

**Triage.** *plan* red: the parameter, Deployment or sum it names; nothing was changed. *lock*: another change is under
way. *ready*: the pods it names do not come up; often the nodes are full. *put_back*: somebody changed the size
meanwhile; decide which one is right.

**Owner.** The on-call of the settings.
"""

from __future__ import annotations

import datetime as dt

from airflow.sdk import DAG, Param, TaskGroup

from vcci_ops.domain.scaling import field_of
from vcci_ops.notifications.mails import run_ended, task_failed
from vcci_ops.operators.lock import AcquireChangeLockOperator, ReleaseChangeLockOperator
from vcci_ops.operators.scaling import (
    HoldOperator,
    ScaleApplyOperator,
    ScalePlanOperator,
    ScalePutBackOperator,
    ScaleReadyOperator,
    ScaleReportOperator,
)
from vcci_ops.settings import load_settings
from vcci_ops.settings_scaling import CUSTOM
from vcci_ops.tags import CHANGES_PRODUCTION, ON_DEMAND

settings = load_settings()
scaling = settings.scaling
namespace = settings.kubernetes.namespace
DAY = dt.timedelta(days=1)

tell_of_silence = run_ended(settings)
tell_on_call = task_failed(settings, "The platform may not have the size it should have.")

with DAG(
    dag_id="scale_workloads",
    description="Scale up or down by profile, within what the database can bear; put it back at an end time",
    doc_md=__doc__,
    schedule=None,
    catchup=False,
    max_active_runs=4,
    dagrun_timeout=dt.timedelta(seconds=scaling.until_at_most) + 2 * DAY,
    on_failure_callback=tell_of_silence,
    tags=[CHANGES_PRODUCTION, ON_DEMAND],
    default_args={
        "owner": settings.owner,
        "retries": 2,
        "retry_delay": dt.timedelta(seconds=5),
        "execution_timeout": dt.timedelta(minutes=5),
    },
    params={
        "profile": Param(
            next(iter(scaling.profiles)),
            type="string",
            enum=[*scaling.profiles, CUSTOM],
            values_display={
                **{
                    name: f"{name}: {', '.join(f'{workload} {number}' for workload, number in sizes.items())}"
                    for name, sizes in scaling.profiles.items()
                },
                CUSTOM: f"{CUSTOM}: the numbers below",
            },
            title="Profile",
            description="How large",
        ),
        "until": Param(
            None,
            type=["null", "string"],
            format="date-time",
            title="Until",
            description="Optional: when to put back what is there now",
        ),
        "reason": Param(
            type="string",
            minLength=5,
            maxLength=500,
            title="Reason",
            description="Why; people read it in Slack and in the record",
        ),
        "if_locked": Param(
            "refuse",
            type="string",
            enum=["refuse", "wait"],
            title="If another change is under way",
            description="refuse this one, or wait for the other to end",
        ),
        "dry_run": Param(True, type="boolean", title="Dry run", description="Plan only; change nothing"),
        **{
            field_of(name): Param(
                None,
                type=["null", "integer"],
                minimum=workload.least,
                maximum=workload.most,
                title=name,
                description=f"Replicas, {workload.least} to {workload.most}; empty: leave it as it is",
                section=f"Numbers for the profile {CUSTOM}",
            )
            for name, workload in scaling.workloads.items()
        },
    },
):
    plan = ScalePlanOperator(task_id="plan", namespace=namespace)
    lock = AcquireChangeLockOperator(
        task_id="lock", namespace=namespace, purpose="scale to {{ params.profile }}", if_locked="{{ params.if_locked }}"
    )
    apply = ScaleApplyOperator(task_id="apply", namespace=namespace)
    ready = ScaleReadyOperator(task_id="ready", namespace=namespace)
    unlock = ReleaseChangeLockOperator(task_id="unlock", namespace=namespace)
    # Whatever happened is told; what this task finds is the verdict, for it is a leaf.
    report = ScaleReportOperator(
        task_id="report",
        namespace=namespace,
        channel=settings.slack.channel,
        trigger_rule="all_done",
        on_failure_callback=tell_on_call,
    )
    plan >> lock >> apply >> ready >> report
    [apply, ready] >> unlock.as_teardown(setups=lock)

    with TaskGroup("put_back") as put_back:
        # Also when not all pods came up: what was begun has an end.
        hold = HoldOperator(task_id="until", namespace=namespace, trigger_rule="all_done")
        lock_again = AcquireChangeLockOperator(
            task_id="lock",
            namespace=namespace,
            purpose="put back after {{ params.profile }}",
            if_locked="wait",
            within=DAY.total_seconds(),
            on_failure_callback=tell_on_call,
        )
        back = ScalePutBackOperator(
            task_id="apply",
            namespace=namespace,
            retries=30,  # during somebody's rollout
            retry_delay=dt.timedelta(minutes=1),
            on_failure_callback=tell_on_call,
        )
        ready_again = ScaleReadyOperator(task_id="ready", namespace=namespace, put_back_task_id=back.task_id)
        unlock_again = ReleaseChangeLockOperator(task_id="unlock", namespace=namespace)
        report_again = ScaleReportOperator(
            task_id="report",
            namespace=namespace,
            channel=settings.slack.channel,
            put_back_task_id=back.task_id,
            trigger_rule="all_done",
            on_failure_callback=tell_on_call,
        )
        hold >> lock_again >> back >> ready_again >> report_again
        [back, ready_again] >> unlock_again.as_teardown(setups=lock_again)
    unlock >> hold
