"""# Release

The runbook's *Deploying a New Release*, eleven steps, as one run: planned, approved, watched for half an hour,
and undone by itself when the numbers say so.

**What it does.**

1. *validate*: is the version newer than what runs, does the ref contain it, is there a freeze, another change, a
   grave incident, is the platform healthy now, does every metric of the watch have data? Nothing is changed here.
2. *candidate*: the images by digest (found in the registry, or built in the cluster with rootless BuildKit and
   pushed under the commit), the environment validation script and the migrations' SQL, both from the new image.
3. *plan*: what will change, saved in the report bucket and hashed. **A dry run ends here.**
4. *approve*: somebody else reads the plan and approves exactly it. Nobody answers in time: rejected.
5. *lock*, *begin*: the namespace's change lock; is the world still as planned? Slack thread, Statuspage.
6. *tag*, *publish*: the annotated git tag; the version's tag on the approved digests.
7. *migrate*: `alembic upgrade` to the recorded revision, with the new image.
8. *roll_out*: each Deployment by digest, one after the other, failing fast on crash loops and missing images.
9. *verify*: every pod ready, the public endpoint reports the version, smoke tests.
10. *watch*: error rate, latency, restarts, readiness, queues, connections, new errors, against limits and baseline.
11. *finish*: Statuspage, Slack, the record, the evidence page (tab *Report*).

**When something fails after the migration**, *roll_back* brings the previous digests back. The schema stays when
the migrations only expanded it; after a destructive one it stops, pages and asks. When Prometheus does not answer,
the watch is *held*: the on-call is paged, nothing is passed and nothing rolled back.

**Preconditions.** Connections `vcci_kubernetes`, `vcci_git`, `vcci_registry`, `vcci_postgres`, `vcci_prometheus`,
`vcci_redis`, `vcci_s3`, `vcci_api`, `vcci_slack`, `vcci_smtp`, `vcci_ops_db`; optional `vcci_statuspage`. Rights:
`include/kubernetes/rbac.yaml` and `rbac-changes.yaml`, `include/sql/grants/`. The running version has its tag in git.

**Parameters, e.g.** `{"version": "v2.1.0", "ref": "release/v2.1", "reason": "supplier hotspots", "dry_run": false}`.
*workloads* empty means all that ship the release. *images*: `existing` finds them in the registry, `build` builds
what is missing. *migration*: `auto` runs what is due, `none` leaves the schema alone. *if_locked*: `refuse` or `wait`.

**Rollback.** By itself, as above; later by `release_rollback`.

**Killed or red?** Any task may be cleared: it finds what it has done and does not do it twice. A run that is dead
and still holds the lock: `break_glass_unlock`.

**Triage.** *validate.request* failed: its log names the parameter. *begin*, "the plan is stale": somebody changed the
platform after the plan; start a new run. *roll_out* failed: the message has the pod's last lines. *HELD*: look at
Prometheus.

**Owner.** The on-call of the settings.
"""

from __future__ import annotations

import datetime as dt

from airflow.sdk import DAG, Param, TaskGroup
from airflow.sdk.bases.operator import chain

from vcci_ops.notifications.mails import run_ended
from vcci_ops.operators.backups import BackupCheckOperator
from vcci_ops.operators.database import DatabaseCheckOperator
from vcci_ops.operators.http import ReadinessCheckOperator
from vcci_ops.operators.kubernetes import PodsCheckOperator
from vcci_ops.operators.lock import AcquireChangeLockOperator, ReleaseChangeLockOperator
from vcci_ops.operators.prometheus import TrafficCheckOperator
from vcci_ops.operators.queues import QueueCheckOperator
from vcci_ops.operators.release_act import (
    BeginReleaseOperator,
    MigrateOperator,
    PublishImagesOperator,
    ReadyOperator,
    ReleaseWatchOperator,
    RolloutWorkloadOperator,
    SmokeOperator,
    TagOperator,
)
from vcci_ops.operators.release_end import (
    AskRollbackOperator,
    DecideRollbackOperator,
    FinishReleaseOperator,
    RolledBackReadyOperator,
    RolledBackSmokeOperator,
    UndoWorkloadOperator,
)
from vcci_ops.operators.release_plan import (
    BuildImageOperator,
    DryRunGate,
    PlanOperator,
    ReleaseApprovalOperator,
    ReleaseJobOperator,
    ResolveImagesOperator,
    SchemaPlanOperator,
)
from vcci_ops.operators.release_validate import MetricsGateOperator, QuietOperator, ReleaseRequestOperator
from vcci_ops.settings import load_settings
from vcci_ops.tags import CHANGES_PRODUCTION, ON_DEMAND, RELEASE

settings = load_settings()
release = settings.release
namespace = settings.kubernetes.namespace

tell_of_silence = run_ended(
    settings, "ended red and Slack may not have been told. Look at the run in Airflow, first at the task <i>finish</i>."
)

with DAG(
    dag_id="release_deploy",
    description="Release a version: plan, approve, migrate, roll out, verify, watch, and roll back by itself",
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
        "version": Param(
            type="string",
            maxLength=128,
            pattern=r"^v(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)(-[0-9A-Za-z.-]+)?$",
            title="Version",
            description="vMAJOR.MINOR.PATCH[-pre], newer than what runs, e.g. v2.1.0",
        ),
        "ref": Param("main", type="string", maxLength=200, title="Git ref", description="Branch, tag or commit to tag"),
        "workloads": Param(
            [],
            type=["null", "array"],  # may stay empty, and the form says so
            items={"type": "string", "enum": list(release.workloads)},
            examples=list(release.workloads),
            title="Workloads",
            description="Deployments to change; none chosen: all that ship the release",
        ),
        "images": Param(
            "existing",
            type="string",
            enum=["existing", "build"],
            title="Images",
            description="existing: they are in the registry; build: build in the cluster what is missing",
        ),
        "migration": Param(
            "auto",
            type="string",
            enum=["auto", "none"],
            title="Migration",
            description="auto: run the migrations that are due; none: leave the schema alone",
        ),
        "watch_minutes": Param(
            release.watch.minutes,
            type="integer",
            minimum=1,
            maximum=1440,
            title="Watch (minutes)",
            description="How long the release is watched before it counts as good",
        ),
        "if_locked": Param(
            "refuse",
            type="string",
            enum=["refuse", "wait"],
            title="If another change is under way",
            description="refuse this release, or wait for the other change to end",
        ),
        "reason": Param(
            type="string",
            minLength=5,
            maxLength=500,
            title="Reason",
            description="Why now; people read it in Slack and in the record",
        ),
        "dry_run": Param(True, type="boolean", title="Dry run", description="Validate and plan only; change nothing"),
    },
):
    with TaskGroup("validate") as validate:
        request = ReleaseRequestOperator(task_id="request")
        request >> QuietOperator(task_id="quiet", namespace=namespace, request_task_id="validate.request")
        request >> MetricsGateOperator(task_id="metrics", namespace=namespace)
        # The daily checks' own operators: critical or unknown stops the release.
        request >> PodsCheckOperator(
            task_id="pods",
            namespace=namespace,
            workloads=[workload.name for workload in settings.kubernetes.workloads],
            restart_window=settings.kubernetes.restart_window,
            page_size=settings.kubernetes.page_size,
        )
        request >> ReadinessCheckOperator(
            task_id="endpoint", path=settings.api.readiness_path, ready_status=settings.api.ready_status
        )
        request >> TrafficCheckOperator(
            task_id="errors",
            checks=settings.pick("api.error_rate"),
            requests=settings.metrics.requests,
            errors=settings.metrics.errors,
            up=settings.metrics.up,
            window="1h",
            compare_weeks=settings.metrics.compare_weeks,
            min_requests=settings.metrics.min_requests,
        )
        request >> DatabaseCheckOperator(task_id="database", checks=settings.pick("database.connections"))
        request >> QueueCheckOperator(
            task_id="queues",
            queues=settings.queues.names,
            key_prefix=settings.queues.key_prefix,
            priority_steps=settings.queues.priority_steps,
            separator=settings.queues.separator,
        )
        # Only a migration needs the backup: `plan` decides, so this one does not fail by itself.
        request >> BackupCheckOperator(
            task_id="backup",
            bucket=settings.backups.bucket,
            prefix=settings.backups.prefix,
            key_format=settings.backups.key_format,
            manifest_suffix=settings.backups.manifest_suffix,
            manifest_within=settings.backups.manifest_within,
            compare=settings.backups.compare,
            fail=False,
        )

    with TaskGroup("candidate") as candidate:
        builds = [
            BuildImageOperator(
                task_id=f"build_{image.repository.rpartition('/')[2]}", namespace=namespace, repository=image.repository
            )
            for image in release.images
        ]
        # Built or found: the digests are asked for in any case.
        images = ResolveImagesOperator(task_id="images", trigger_rule="none_failed_min_one_success")
        environment = ReleaseJobOperator(
            task_id="environment", namespace=namespace, step="validate", command="validation", acting=False
        )
        schema = SchemaPlanOperator(
            task_id="schema", namespace=namespace, step="schema-plan", command="alembic", acting=False
        )
        # Whatever did not have to be built is skipped; the request keeps `images` from being skipped, too.
        [request, *builds] >> images >> [environment, schema]

    # A release without a migration skips `schema`; that must not skip the plan.
    plan = PlanOperator(task_id="plan", trigger_rule="none_failed_min_one_success")
    gate = DryRunGate(task_id="dry_run_ends_here")
    approve = ReleaseApprovalOperator(
        task_id="approve", plan_task_id="plan", own_approval=release.approvals.own, within=release.approvals.within
    )
    lock = AcquireChangeLockOperator(
        task_id="lock",
        namespace=namespace,
        purpose="release {{ params.version }}",
        if_locked="{{ params.if_locked }}",
        within=release.approvals.within,
    )
    begin = BeginReleaseOperator(task_id="begin")
    tag = TagOperator(task_id="tag")
    publish = PublishImagesOperator(task_id="publish")
    migrate = MigrateOperator(task_id="migrate", namespace=namespace, step="migrate", command="alembic", acting=True)

    with TaskGroup("roll_out") as roll_out:
        rollouts = [
            RolloutWorkloadOperator(
                task_id=workload,
                namespace=namespace,
                workload=workload,
                within=release.rollout_within,
                # One that is not part of this release is skipped, and must not skip the next.
                trigger_rule="none_failed_min_one_success",
            )
            for workload in release.workloads
        ]
        # No migration due: `migrate` is skipped. That the release goes on at all, `publish` says.
        publish >> rollouts
        chain(*rollouts)

    with TaskGroup("verify") as verify:
        ready = ReadyOperator(task_id="ready", namespace=namespace, trigger_rule="none_failed_min_one_success")
        rollouts >> ready
        smoke = SmokeOperator(
            task_id="smoke", namespace=namespace, step="smoke", command="smoke", junit=True, acting=True
        )
        ready >> smoke
    watch = ReleaseWatchOperator(task_id="watch", namespace=namespace)

    # The way back is not given up because something does not answer for a minute.
    patiently = {"retries": 8, "retry_exponential_backoff": True, "max_retry_delay": dt.timedelta(minutes=2)}

    with TaskGroup("roll_back") as roll_back:
        # One failure anywhere after the migration is enough; whether anything is to be undone, it looks up itself.
        decide = DecideRollbackOperator(task_id="decide", trigger_rule="one_failed", **patiently)
        ask = AskRollbackOperator(task_id="ask", within=release.approvals.within)
        undo = [
            UndoWorkloadOperator(
                task_id=workload,
                namespace=namespace,
                workload=workload,
                within=release.rollout_within,
                **patiently,
                # `ask` is skipped when nobody has to be asked; `decide` when there is nothing to undo.
                trigger_rule="none_failed_min_one_success",
            )
            for workload in release.workloads
        ]
        back = RolledBackReadyOperator(
            task_id="ready", namespace=namespace, trigger_rule="none_failed_min_one_success", **patiently
        )
        smoke_again = RolledBackSmokeOperator(
            task_id="smoke", namespace=namespace, step="smoke-after-rollback", command="smoke", junit=True, acting=True
        )
        decide >> ask >> undo
        decide >> undo
        undo >> back >> smoke_again

    finish = FinishReleaseOperator(
        task_id="finish",
        trigger_rule="all_done",
        undo_task_ids=[task.task_id for task in undo],
    )
    unlock = ReleaseChangeLockOperator(task_id="unlock", namespace=namespace)

    (
        validate
        >> candidate
        >> plan
        >> gate
        >> approve
        >> lock
        >> begin
        >> tag
        >> publish
        >> migrate
        >> roll_out
        >> verify
        >> watch
    )
    [*rollouts, ready, smoke, watch] >> decide
    # What lies between setup and teardown does not run when the setup did not, whatever its trigger rule: so the
    # end, which has to tell of that, comes after both.
    [watch, ask, back, smoke_again, *undo] >> unlock.as_teardown(setups=lock)
    [watch, decide, ask, back, smoke_again, *undo, unlock] >> finish
