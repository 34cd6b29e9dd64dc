"""# Onboard a tenant

The runbook's *Adding a new tenant* (an INSERT and three scripts by hand), made one run that can be repeated.

**What it does.** *plan* reads the form, looks whether slug and mail address are free, and says what will be done. **A
dry run ends there.** Then *lock*, *create* (the row), *admin*, *configure*, *welcome* (the platform's own scripts, as
Jobs in the image that runs), *verify* (row, administrator, configuration and mail, as a stranger would look at them),
*monitored* (waits until Prometheus knows the tenant), *unlock*, *report*.

**Taken?** A slug or mail address that is in use is refused, and so is one that differs only in case or look-alike
letters (`acme`, `аcme` with a Cyrillic а, `acrne`); the refusal names the tenant that has it.

**Died half-way?** Run it again with the same form: it goes on where it was. The same slug with a different form is
refused, as long as there is a tenant of it.

**The welcome mail** is sent at most once. The platform claims it before it is sent and confirms it afterwards. Should
its script die in between, nobody knows whether the mail went out: the run ends red and says so. Ask the customer,
then run it again with *welcome again*.

**The administrator** is invited by mail; nobody here sets how they log in. Mail address and name are in the form, so
in the run's parameters, and in the arguments of one Job, which is deleted when it has succeeded. They are in no log,
no Slack message, no record. See `docs/tenants.md`.

**Preconditions.** Connections `vcci_postgres_tenants`, `vcci_kubernetes`, `vcci_prometheus`, `vcci_ops_db`,
`vcci_slack`, `vcci_smtp`; for undoing also `vcci_postgres_export`, `vcci_postgres_erase`, `vcci_s3`. Rights as in
`include/sql/grants/` and `include/kubernetes/rbac-changes.yaml`; `tenants` in the settings.

**Parameters, e.g.** `{"name": "ACME Corp", "slug": "acme-corp", "tier": "enterprise", "admin_email": "...",
"admin_name": "...", "emission_factors": "ecoinvent", "reporting_standard": "ghg-protocol", "dry_run": false}`.

**Rollback.** When a run fails after it created the tenant, the group *undo* shows what it made and asks a person
whether that is removed again; the one who asked for the run does not count, unless the settings say so. What holds
anything of the customer's is never removed. No answer, or a no: all stays, and the next run goes on with it. A tenant
that is onboarded is removed with `tenant_delete`.

**Triage.** *plan* red: the parameter or tenant it names; nothing was changed. *lock*: another change is under way.
*admin*, *configure*, *welcome*: the Job's last lines are in the log. *verify*: what is not as asked. *monitored*: the
API does not export the tenant's series, or Prometheus does not scrape it. Then run it again with the same form.

**Owner.** The on-call of the settings.
"""

from __future__ import annotations

import datetime as dt

from airflow.sdk import DAG, Param, TaskGroup

from vcci_ops.domain.tenant_request import MAIL_LENGTH, NAME_LENGTH, SLUG, SLUG_LENGTH
from vcci_ops.notifications.mails import run_ended, task_failed
from vcci_ops.operators.lock import AcquireChangeLockOperator, ReleaseChangeLockOperator
from vcci_ops.operators.tenant_onboard import (
    CreateTenantOperator,
    OnboardPlanOperator,
    OnboardReportOperator,
    TenantJobOperator,
    TenantMonitoredOperator,
    VerifyTenantOperator,
)
from vcci_ops.operators.tenant_undo import UndoApprovalOperator, UndoPlanOperator, UndoRemoveOperator
from vcci_ops.settings import load_settings
from vcci_ops.tags import CHANGES_PRODUCTION, ON_DEMAND, TENANTS

settings = load_settings()
onboarding = settings.tenants.onboarding
namespace = settings.kubernetes.namespace
DAY = dt.timedelta(days=1)

tell_of_silence = run_ended(settings)
tell_on_call = task_failed(settings, "A tenant may be onboarded half-way.")

with DAG(
    dag_id="tenant_onboard",
    description="Create a tenant, its administrator and configuration, welcome it once, and prove that it is there",
    doc_md=__doc__,
    schedule=None,
    catchup=False,
    # A run that waits for an answer to its undo plan takes a place; the change lock keeps two from acting at once.
    max_active_runs=16,
    dagrun_timeout=dt.timedelta(seconds=onboarding.undo_within) + DAY,
    on_failure_callback=tell_of_silence,
    tags=[TENANTS, CHANGES_PRODUCTION, ON_DEMAND],
    default_args={
        "owner": settings.owner,
        "retries": 2,
        "retry_delay": dt.timedelta(seconds=5),
        "execution_timeout": dt.timedelta(minutes=5),
    },
    params={
        "name": Param(
            type="string",
            minLength=2,
            maxLength=NAME_LENGTH,
            title="Name",
            description="Of the customer: ACME Corp",
        ),
        "slug": Param(
            type="string",
            pattern=f"^{SLUG}$",
            maxLength=SLUG_LENGTH,
            title="Slug",
            description="Its name in addresses, e.g. acme-corp: a-z, 0-9 and -. It cannot be changed later",
        ),
        "tier": Param(
            onboarding.tiers[0],
            type="string",
            enum=[*onboarding.tiers],
            title="Tier",
            description="What the customer has subscribed to",
        ),
        "admin_email": Param(
            type="string",
            maxLength=MAIL_LENGTH,
            title="Mail address of the first administrator",
            description="The invitation goes there. Shown nowhere but in this run's parameters",
        ),
        "admin_name": Param(
            type="string",
            minLength=2,
            maxLength=NAME_LENGTH,
            title="Name of the first administrator",
            description="As the platform shall write it",
        ),
        "emission_factors": Param(
            onboarding.emission_factors[0],
            type="string",
            enum=[*onboarding.emission_factors],
            title="Emission factors",
            description="The database that calculations take their factors from",
        ),
        "reporting_standard": Param(
            onboarding.reporting_standards[0],
            type="string",
            enum=[*onboarding.reporting_standards],
            title="Reporting standard",
            description="What reports are made by",
        ),
        "welcome_again": Param(
            False,
            type="boolean",
            title="Send the welcome mail again",
            description="Only when an earlier run says that the mail may or may not have been sent, and you have asked",
            section="Rarely needed",
        ),
        "if_locked": Param(
            "refuse",
            type="string",
            enum=["refuse", "wait"],
            title="If another change is under way",
            description="refuse this one, or wait for the other to end",
            section="Rarely needed",
        ),
        "dry_run": Param(True, type="boolean", title="Dry run", description="Show the plan only; change nothing"),
    },
):
    plan = OnboardPlanOperator(task_id="plan", namespace=namespace)
    lock = AcquireChangeLockOperator(
        task_id="lock", namespace=namespace, purpose="onboard a tenant", if_locked="{{ params.if_locked }}"
    )
    create = CreateTenantOperator(task_id="create", namespace=namespace)
    admin, configure, welcome = (
        TenantJobOperator(
            task_id=step,
            step=step,
            namespace=namespace,
            execution_timeout=dt.timedelta(seconds=settings.tenants.jobs.timeout) + dt.timedelta(minutes=10),
        )
        for step in ("admin", "configure", "welcome")
    )
    verify = VerifyTenantOperator(task_id="verify", namespace=namespace)
    monitored = TenantMonitoredOperator(task_id="monitored", namespace=namespace)
    unlock = ReleaseChangeLockOperator(task_id="unlock", namespace=namespace)
    # Whatever happened is told; what this task finds is the verdict, for it is a leaf.
    report = OnboardReportOperator(
        task_id="report", namespace=namespace, trigger_rule="all_done", on_failure_callback=tell_on_call
    )
    plan >> lock >> create >> admin >> configure >> welcome >> verify >> monitored >> report
    [create, admin, configure, welcome, verify, monitored] >> unlock.as_teardown(setups=lock)

    with TaskGroup("undo") as undo:
        undo_plan = UndoPlanOperator(task_id="plan", namespace=namespace, trigger_rule="all_done")
        approve = UndoApprovalOperator(
            task_id="approve",
            plan_task_id=undo_plan.task_id,
            own_approval=onboarding.undo_own,
            within=onboarding.undo_within,
            execution_timeout=dt.timedelta(minutes=5),
        )
        undo_lock = AcquireChangeLockOperator(
            task_id="lock", namespace=namespace, purpose="undo an onboarding", if_locked="wait"
        )
        remove = UndoRemoveOperator(
            task_id="remove",
            namespace=namespace,
            plan_task_id=undo_plan.task_id,
            approval_task_id=approve.task_id,
            on_failure_callback=tell_on_call,
        )
        undo_unlock = ReleaseChangeLockOperator(task_id="unlock", namespace=namespace)
        undo_plan >> approve >> undo_lock >> remove
        remove >> undo_unlock.as_teardown(setups=undo_lock)
    unlock >> undo_plan
