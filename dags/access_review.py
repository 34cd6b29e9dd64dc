"""# Access review

The runbook's monthly *Access Review* (review user access, remove inactive users, audit admin accounts), with a list
that a person approves and evidence that an auditor can read.

**What it does.** *gather* looks at everything and makes one numbered list; *review* asks a person, who approves all
of it, all but some lines, or rejects it; *lock*, *deactivate*, *unlock*; *report* leaves page, document and table,
tells Slack, and ends the run as the review deserves. Of all recommendations only one is carried out by itself:
**approved inactive users are deactivated and their sessions end.** Nothing else is changed, nothing but sessions is
deleted.

**The list.** Users whom nobody has seen for `inactive_after` (no log-in, no session), or who never logged in; tenants
without an active administrator; administrators, what they did, who is new; API keys unused or old; database roles
that may log in, and what each can do beyond its kind; who is cluster-admin in Kubernetes or can read what it keeps
confidential; dormant service accounts. Each line says what was found, what to do, and why. What could not be looked
at is a line, too, and the run ends red: the review is not complete.

**Never touched:** service accounts, the last active administrator of a tenant (of several who are all inactive, the
one who was seen last stays), `never_touched` of the settings, users of suspended tenants. That is looked at again in
the transaction that deactivates; who has been seen since the list was made is left alone, and the page says so.

**Preconditions.** Connections `vcci_postgres`, `vcci_postgres_tenants`, `vcci_kubernetes`, `vcci_s3`, `vcci_slack`,
`vcci_smtp`, `vcci_ops_db`; rights as in `include/kubernetes/rbac-access-review.yaml` and `rbac-changes.yaml`,
`include/sql/grants/vcci_ops.sql` and `vcci_ops_tenants.sql`; `access_review` in the settings.

**Parameters, e.g.** `{"dry_run": true}`: list only. On schedule there are none.

**The reviewer** answers the task *review* in the Airflow UI (*Required actions*): *Approve except…* wants line
numbers, such as `3, 7-9`, and a reason. Who began a review by hand, or is on the list to be deactivated, is not its
reviewer.

**Rollback.** `access_revert` puts users of a review back to what they were.

**Killed or red?** Any task may be cleared: it finds what it has done. *review* asks again, with the time it has anew.

**Triage.** *report* red and *unknown* on the page: the part it names could not be looked at; run it again when it
can. *review* red: rejected, nobody answered within `approve_within`, or the list was made anew while it was read
(clear *review*). *lock*: another change is under way for a day. *deactivate* red: clear it; tenants that are done stay
done.

**Owner.** The on-call of the settings.
"""

from __future__ import annotations

import datetime as dt

from airflow.providers.smtp.notifications.smtp import send_smtp_notification
from airflow.sdk import DAG, CronTriggerTimetable, Param

from vcci_ops.notifications.mails import run_ended
from vcci_ops.operators.access_act import DeactivateUsersOperator
from vcci_ops.operators.access_report import AccessReportOperator
from vcci_ops.operators.access_review import GatherAccessOperator, ReviewAccessOperator
from vcci_ops.operators.lock import AcquireChangeLockOperator, ReleaseChangeLockOperator
from vcci_ops.settings import load_settings
from vcci_ops.tags import ACCESS, CHANGES_PRODUCTION, MONTHLY

settings = load_settings()
review_settings = settings.access_review
namespace = settings.kubernetes.namespace
DAY = dt.timedelta(days=1)

tell_of_silence = run_ended(settings)
tell_on_call = send_smtp_notification(
    **settings.on_call.mail,
    subject=f"[vcci-ops {settings.environment}] The access review did not end well",
    html_content="<p>{{ exception | e }}</p><p>Run {{ ti.run_id | e }} of {{ ti.dag_id }}.</p>",
)

with DAG(
    dag_id="access_review",
    description="List who has access, have it reviewed, deactivate inactive users who were approved, keep the evidence",
    doc_md=__doc__,
    schedule=CronTriggerTimetable(review_settings.schedule, timezone="UTC", run_immediately=dt.timedelta(0)),
    catchup=False,
    max_active_runs=2,
    dagrun_timeout=dt.timedelta(seconds=review_settings.approve_within) + 3 * DAY,
    on_failure_callback=tell_of_silence,
    tags=[MONTHLY, ACCESS, CHANGES_PRODUCTION],
    default_args={
        "owner": settings.owner,
        "retries": 2,
        "retry_delay": dt.timedelta(seconds=10),
        "execution_timeout": dt.timedelta(minutes=15),
    },
    params={
        "dry_run": Param(
            False, type="boolean", title="Dry run", description="List only; nobody is asked, nothing is changed"
        ),
    },
):
    gather = GatherAccessOperator(task_id="gather", namespace=namespace)
    review = ReviewAccessOperator(
        task_id="review",
        own_approval=review_settings.own_approval,
        within=review_settings.approve_within,
        channel=settings.slack.channel,
    )
    lock = AcquireChangeLockOperator(
        task_id="lock",
        namespace=namespace,
        purpose="deactivate users after the access review",
        if_locked="wait",
        within=DAY.total_seconds(),
    )
    deactivate = DeactivateUsersOperator(task_id="deactivate", namespace=namespace)
    unlock = ReleaseChangeLockOperator(task_id="unlock", namespace=namespace)
    # Whatever happened is told; what this task finds is the verdict, for it is a leaf.
    report = AccessReportOperator(
        task_id="report",
        namespace=namespace,
        channel=settings.slack.channel,
        trigger_rule="all_done",
        on_failure_callback=tell_on_call,
    )
    gather >> review >> lock >> deactivate >> report
    deactivate >> unlock.as_teardown(setups=lock)
    unlock >> report
