"""# Put users back after an access review

Puts users whom an access review has deactivated back to what they were.

**What it does.** *plan* looks who would be put back to what, and changes nothing. **A dry run ends there.** Then
*lock*, *revert*, *unlock*, *report*. Who is not inactive any more is left alone, and the run ends red and says so.
Sessions stay ended: people log in again. Each is noted in the platform's audit log (`user.reactivated`) and in the
history.

**Preconditions.** Connections `vcci_postgres_tenants`, `vcci_kubernetes`, `vcci_slack`, `vcci_smtp`, `vcci_ops_db`;
rights as in `include/sql/grants/vcci_ops_tenants.sql` and `include/kubernetes/rbac-changes.yaml`.

**Parameters, e.g.** `{"review_id": "access_review/scheduled__2026-11-01T07:00:00+00:00", "lines": "3, 7-9", "reason":
"back from parental leave", "dry_run": false}`; the page of the review shows its id and the numbers. `all`: everybody
of it.

**Rollback.** The next review lists them again while nobody has seen them.

**Killed or red?** Any task may be cleared: it finds what it has done.

**Triage.** *plan* red: the parameter that it names, or there is no such review. *lock*: another change is under way.
*report*: says who was left alone, and why.

**Owner.** The on-call of the settings.
"""

from __future__ import annotations

import datetime as dt

from airflow.providers.smtp.notifications.smtp import send_smtp_notification
from airflow.sdk import DAG, Param

from vcci_ops.notifications.mails import run_ended
from vcci_ops.operators.access_revert import RevertPlanOperator, RevertReportOperator, RevertUsersOperator
from vcci_ops.operators.lock import AcquireChangeLockOperator, ReleaseChangeLockOperator
from vcci_ops.settings import load_settings
from vcci_ops.tags import ACCESS, CHANGES_PRODUCTION, ON_DEMAND

settings = load_settings()
namespace = settings.kubernetes.namespace

tell_of_silence = run_ended(settings)
tell_on_call = send_smtp_notification(
    **settings.on_call.mail,
    subject=f"[vcci-ops {settings.environment}] Not all users were put back",
    html_content="<p>{{ exception | e }}</p><p>Run {{ ti.run_id | e }} of {{ ti.dag_id }}.</p>",
)

with DAG(
    dag_id="access_revert",
    description="Put users whom an access review has deactivated back to what they were",
    doc_md=__doc__,
    schedule=None,
    catchup=False,
    max_active_runs=2,
    dagrun_timeout=dt.timedelta(hours=12),
    on_failure_callback=tell_of_silence,
    tags=[ACCESS, ON_DEMAND, CHANGES_PRODUCTION],
    default_args={
        "owner": settings.owner,
        "retries": 2,
        "retry_delay": dt.timedelta(seconds=5),
        "execution_timeout": dt.timedelta(minutes=15),
    },
    params={
        "review_id": Param(
            type="string",
            minLength=1,
            maxLength=270,
            title="Review",
            description="Its id, as its page shows it: access_review/ and the id of its run",
        ),
        "lines": Param(
            type="string",
            minLength=1,
            maxLength=2000,
            title="Lines",
            description="Numbers of the lines whose users are put back, such as 3, 7-9; or all",
        ),
        "reason": Param(
            type="string",
            minLength=5,
            maxLength=500,
            title="Reason",
            description="Why; people read it in Slack and in the record. No names of users",
        ),
        "if_locked": Param(
            "refuse",
            type="string",
            enum=["refuse", "wait"],
            title="If another change is under way",
            description="refuse this one, or wait for the other to end",
        ),
        "dry_run": Param(True, type="boolean", title="Dry run", description="Plan only; change nothing"),
    },
):
    plan = RevertPlanOperator(task_id="plan", namespace=namespace)
    lock = AcquireChangeLockOperator(
        task_id="lock",
        namespace=namespace,
        purpose="put back users after an access review",
        if_locked="{{ params.if_locked }}",
    )
    revert = RevertUsersOperator(task_id="revert", namespace=namespace)
    unlock = ReleaseChangeLockOperator(task_id="unlock", namespace=namespace)
    report = RevertReportOperator(
        task_id="report",
        namespace=namespace,
        channel=settings.slack.channel,
        trigger_rule="all_done",
        on_failure_callback=tell_on_call,
    )
    plan >> lock >> revert >> report
    revert >> unlock.as_teardown(setups=lock)
    unlock >> report
