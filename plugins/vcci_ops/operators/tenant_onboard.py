"""Onboarding a tenant as tasks: plan, create, run the platform's scripts, verify, report.

The id of the tenant is chosen, and kept in the history, before the tenant is created: a row of this id is this
onboarding's and nobody else's. So a run that died half-way is resumed by the next one with the same form, and every
task that runs again finds what it has done. The form's personal data is read by each task from the run's parameters
and goes nowhere but to the database's comparison and the Job that invites the administrator.
"""

from __future__ import annotations

import datetime as dt
import time
import uuid
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowException, AirflowSkipException

from vcci_ops.domain.jobs import JobRequest, JobResult
from vcci_ops.domain.signatures import redact
from vcci_ops.domain.tenant_onboarding import (
    ADMIN,
    CONFIGURE,
    SENDING,
    UNSURE,
    WELCOME,
    Item,
    Step,
    arguments,
    items,
    plan_lines,
)
from vcci_ops.domain.tenant_request import MAIL_LENGTH, OnboardRequest, hide
from vcci_ops.exceptions import ChangeFailed, InvalidInput, MeasurementError, Refused
from vcci_ops.hooks.tenant_history import DONE, FAILED, Onboarding, Onboardings
from vcci_ops.hooks.tenants import OPEN, Deletions
from vcci_ops.operators.acting import Acting, failing_clearly, needed, pulled, tell
from vcci_ops.operators.jobs import PlatformJobOperator
from vcci_ops.operators.tenant_base import TenantOperator
from vcci_ops.operators.tenant_report import item_results, store_report

if TYPE_CHECKING:
    from airflow.sdk import Context

BEGUN, VERIFIED, MONITORED, UNDOING = "onboard", "onboard.verified", "onboard.monitored", "onboard.undo"
"""Steps of the journal."""
_MEANING = "Row, administrator, configuration, welcome mail and monitoring are as the form asked for."
_ACTION = "Read the log of the task that failed, then run it again with the same form: it goes on where it was."
_SLACK = 300.0
"""Seconds after which Airflow itself ends a wait that the triggerer should have ended."""


class OnboardOperator(TenantOperator):
    """What the tasks of an onboarding have in common."""

    # What there is of this slug and address already ---------------------------------------------------

    def asked(self, acting: Acting) -> OnboardRequest:
        """Read the form; a slug or address that is refused anyway is told with the tenant that it looks like.

        :raises InvalidInput: names the field.
        :raises Refused: names the tenant.
        """
        try:
            return OnboardRequest.of(acting.params, acting.settings.tenants.onboarding)
        except InvalidInput as error:
            given = acting.params.get(error.field)
            if error.field in ("slug", "admin_email") and isinstance(given, str) and 0 < len(given) <= MAIL_LENGTH:
                self._require_unlike(error.field, given, "")
            raise

    def require_free(self, acting: Acting, request: OnboardRequest) -> Onboarding | None:
        """Return this tenant's own onboarding where it was begun before; else pass when nobody has slug and address.

        :raises Refused: names the tenant that has one of them, or one that looks like it.
        """
        deletion = Deletions(acting.settings.environment).latest(request.slug)
        if deletion and deletion.state in OPEN:
            raise Refused(f"slug: {deletion} has not come to its end; nothing was changed")
        begun = Onboardings(acting.settings.environment).find(request.slug)
        mine = self.tenants.by_id(begun.tenant_id) if begun else None
        if begun and mine and begun.request_hash != request.digest:
            raise Refused(
                f"slug: {request.slug} is that of {mine}, which {begun.source} onboarded ({begun.state}) for another "
                "form: name, tier, administrator or configuration differ. Nothing was changed. To go on with it, give "
                "the same form"
            )
        taken = None if mine else self.tenants.find(request.slug)
        if taken:
            raise Refused(f"slug: {request.slug} is that of {taken}; nothing was changed")
        besides = mine.id if mine else ""
        self._require_unlike("slug", request.slug, besides)
        self._require_unlike("admin_email", request.admin_email, besides)
        return begun if mine else None

    def _require_unlike(self, field: str, given: str, besides: str) -> None:
        """Pass when no tenant has a slug or address that looks like this one."""
        if field == "slug":
            if found := self.tenants.with_slug_like(given, besides):
                said = f"{given!r:.80} cannot be told apart from the slug of {_few(found)}"
                raise Refused(f"slug: {said} (case, look-alike letters); nothing was changed")
        elif found := self.tenants.with_mail_like(given, besides):
            said = "the address is in use, or differs only in case or look-alike letters from one in use"
            raise Refused(f"{field}: {said}, by a user of {_few(found)}; nothing was changed")

    def standing(self, request: OnboardRequest, tenant_id: str) -> list[Item]:
        """Look at all that was asked for, as it is now."""
        row = self.tenants.by_id(tenant_id)
        if row is None:
            return items(request, None, None, "")
        admin = self.tenants.admin_of(tenant_id, request.admin_email)
        return items(request, row, admin, self.tenants.welcome_state(tenant_id))


def _few(found: list[str]) -> str:
    return ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")


def begun_by(acting: Acting) -> dict[str, Any] | None:
    """Return tenant_id, slug and name of what this run began to create, or None."""
    return acting.journal.recall(BEGUN)


class OnboardPlanOperator(OnboardOperator):
    """Read the form, look whether slug and address are free, and say what will be done; changes nothing.

    :raises AirflowFailException: when a parameter cannot be used, or the slug or address is another tenant's.
    """

    def execute(self, context: Context) -> dict[str, Any]:
        """Plan, and go on only if there is something to do."""
        with failing_clearly():
            acting = Acting.of(context)
            request = self.asked(acting)
            begun = self.require_free(acting, request)
            for line in plan_lines(request):
                self.log.info("Plan: %s", line)
            if begun:
                self._say_how_far(request, begun)
        plan = {"slug": request.slug, "name": request.name, "tier": request.tier, **request.configuration}
        context["ti"].xcom_push(key="plan", value={**plan, "resumes": begun.source if begun else ""})
        if request.dry_run:
            self.skip_rest(context, "Dry run: nothing was changed")
        return plan

    def _say_how_far(self, request: OnboardRequest, begun: Onboarding) -> None:
        self.log.info("%s began this onboarding (%s); it is gone on with:", begun.source, begun.state)
        for item in self.standing(request, begun.tenant_id):
            self.log.info("- %s", item)


class CreateTenantOperator(OnboardOperator):
    """Create the tenant, under an id that is kept in the history first; needs the change lock.

    XCom: ``tenant_id``, ``slug``, ``name``, ``created`` (false: it was there, by this onboarding).
    """

    def execute(self, context: Context) -> dict[str, Any]:
        """Look again, now that nobody else changes anything; note; create."""
        with failing_clearly():
            acting = Acting.of(context)
            self.require_lock(acting)
            request = self.asked(acting)
            mine = self.require_free(acting, request)
            told = self._noted(acting, request, mine)
            Onboardings(acting.settings.environment).begin(
                request.slug, told["tenant_id"], request.digest, acting.source, anew=mine is None
            )
            created = self.tenants.create(told["tenant_id"], request)
            summary = f"tenant {request.slug} created as {told['tenant_id']}"
            acting.journal.changed("tenant", acting.requested_by, summary, {**told, "tier": request.tier})
        self.log.info("The tenant %s %s", request, "is created" if created else "is there already, by this onboarding")
        tell(acting, "onboard", _headline(request, acting, "is being onboarded", ":large_blue_circle:"), root=True)
        return {**told, "created": created}

    def _noted(self, acting: Acting, request: OnboardRequest, mine: Onboarding | None) -> dict[str, Any]:
        """Note which tenant this run works on, before anything is there; return what was noted first."""
        if acting.journal.recall(UNDOING):
            raise Refused("this run's onboarding was undone; start a new run")
        id_ = mine.tenant_id if mine else str(uuid.uuid4())
        told = acting.journal.remember(BEGUN, {"tenant_id": id_, "slug": request.slug, "name": request.name})
        if mine and told["tenant_id"] != mine.tenant_id:
            raise Refused(f"{mine.source} has begun to onboard {request.slug} anew meanwhile; start a new run")
        return told


class TenantJobOperator(PlatformJobOperator):
    """Run one of the platform's scripts for the tenant, in the image that runs; needs the change lock.

    The script that invites the administrator takes address and name as arguments, for that is what it takes. So
    whoever may read Jobs in the namespace can read them, until the Job is deleted: as soon as it has succeeded; when
    it failed, after ``tenants.jobs.keep``. Its log, XCom and errors are without them, whatever the script prints.

    :param step: ``admin``, ``configure`` or ``welcome``.
    :param create_task_id: task that created the tenant.
    """

    def __init__(
        self,
        *,
        step: Step,
        create_task_id: str = "create",
        postgres_conn_id: str = "vcci_postgres_tenants",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.step = step
        self.create_task_id = create_task_id
        self.postgres_conn_id = postgres_conn_id

    def request(self, context: Context) -> JobRequest:
        """Return the script with what the form says."""
        acting = Acting.of(context)
        if acting.params.get("dry_run") is not False:
            raise Refused("this is a dry run: nothing is changed")
        needed(context, self.create_task_id)
        jobs, asked = acting.settings.tenants.jobs, self._asked(context)
        script = {ADMIN: jobs.admin, CONFIGURE: jobs.configure, WELCOME: jobs.welcome}[self.step]
        return JobRequest(
            step=f"tenant-{self.step}",
            image=self._image(jobs.like),
            command=(*script, *arguments(self.step, asked)),
            like=jobs.like,
            timeout=jobs.timeout,
            keep=jobs.keep,
        )

    def _image(self, name: str) -> str:
        from vcci_ops.operators.release_validate import running

        return str(running(self.jobs.api, self.namespace, (name,))[name]["image"])

    def _asked(self, context: Context) -> OnboardRequest:
        acting = Acting.of(context)
        return OnboardRequest.of(acting.params, acting.settings.tenants.onboarding)

    def mask(self, context: Context, text: str) -> str:
        """Hide the administrator, and whatever looks like a mail address."""
        return hide(redact(text), self._asked(context).private)

    def succeeded(self, context: Context, result: JobResult) -> None:
        """Delete the Job whose arguments name a person; running it again would change nothing."""
        if self.step != ADMIN:
            return
        from vcci_ops.hooks.kubernetes_writer import JOBS

        try:
            self.jobs.api.delete(JOBS, self.namespace, result.job)
        except MeasurementError as error:
            self.log.warning("The Job %s goes by itself later, not now: %s", result.job, error)

    def _finish(self, context: Context, **kept: Any) -> dict[str, Any]:
        try:
            return super()._finish(context, **kept)
        except ChangeFailed as error:
            if self.step == WELCOME and self._mail_is_unsure(context):
                raise ChangeFailed(f"Welcome mail: {UNSURE}. {error}") from None
            raise

    def _mail_is_unsure(self, context: Context) -> bool:
        from vcci_ops.hooks.tenant_admin import TenantAdmin

        tenant = needed(context, self.create_task_id)["tenant_id"]
        return TenantAdmin(self.postgres_conn_id).welcome_state(tenant) == SENDING


class VerifyTenantOperator(OnboardOperator):
    """Look at row, administrator, configuration and mail, as one would who has not done it; changes nothing.

    :raises AirflowFailException: lists all that is not as asked.
    """

    def execute(self, context: Context) -> list[str]:
        """Look, and note that it is so."""
        with failing_clearly():
            acting = Acting.of(context)
            begun = _needed_begun(acting)
            found = self.standing(self.asked(acting), begun["tenant_id"])
            for item in found:
                self.log.info("%s %s", "ok  " if item.ok else "BAD ", item)
            if wrong := [str(item) for item in found if not item.ok]:
                raise ChangeFailed(f"the tenant {begun['slug']} is not as it was asked for: {'; '.join(wrong)}")
            acting.journal.remember(VERIFIED, {"tenant_id": begun["tenant_id"]})
        return [str(item) for item in found]


class TenantMonitoredOperator(OnboardOperator):
    """Wait, deferred, until Prometheus knows the tenant.

    :param poll: seconds between two looks.
    :param prometheus_conn_id: connection of Prometheus.
    :raises AirflowFailException: when it does not in ``tenants.onboarding.monitored_within``.
    """

    def __init__(self, *, poll: float = 3.0, prometheus_conn_id: str = "vcci_prometheus", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.poll = poll
        self.prometheus_conn_id = prometheus_conn_id

    def execute(self, context: Context) -> None:
        """Begin to wait."""
        from vcci_ops.triggers.series import SeriesTrigger

        with failing_clearly():
            acting = Acting.of(context)
            begun, onboarding = _needed_begun(acting), acting.settings.tenants.onboarding
        query = onboarding.monitored.replace("{tenant_id}", begun["tenant_id"]).replace("{slug}", begun["slug"])
        self.log.info("Waiting until Prometheus knows %s: %s", begun["slug"], query)
        within = onboarding.monitored_within
        self.defer(
            trigger=SeriesTrigger(query, time.time() + within, poll=self.poll, http_conn_id=self.prometheus_conn_id),
            method_name="execute_complete",
            timeout=dt.timedelta(seconds=within + _SLACK),
        )

    def execute_complete(self, context: Context, event: dict[str, Any]) -> None:
        """Pass when it does."""
        with failing_clearly():
            if event["status"] != "done":
                raise ChangeFailed(f"monitoring does not see the tenant: {event['message']}")
            acting = Acting.of(context)
            acting.journal.remember(MONITORED, {"seen": event["message"]})
        self.log.info("%s", event["message"])


def _needed_begun(acting: Acting) -> dict[str, Any]:
    begun = begun_by(acting)
    if begun is None:
        raise Refused("this run has created no tenant: see the tasks before this one")
    return begun


def complete(acting: Acting) -> bool:
    """Whether this run has onboarded its tenant to the end."""
    steps = acting.journal.steps()
    return VERIFIED in steps and MONITORED in steps


class OnboardReportOperator(OnboardOperator):
    """Say how it ended, on the run's page, in log, Slack thread and history; end failed when it is not onboarded.

    With ``trigger_rule="all_done"``: it runs whatever happened, and its end is the run's.

    :param plan_task_id: task that planned.
    :raises AirflowFailException: when the tenant is not onboarded, with all that is missing.
    :raises AirflowException: when that did not arrive somewhere.
    """

    def __init__(self, *, plan_task_id: str = "plan", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.plan_task_id = plan_task_id

    def execute(self, context: Context) -> list[list[str]]:
        """Look, record, tell, judge."""
        with failing_clearly():
            acting = Acting.of(context)
            begun = begun_by(acting)
            if begun is None:
                return self._nothing_begun(acting, context)
            request = self.asked(acting)
            found = self._found(acting, request, begun["tenant_id"])
            wrong = [str(item) for item in found if not item.ok]
            state = FAILED if wrong else DONE
            detail = {"items": {item.what: item.said for item in found}}
            Onboardings(acting.settings.environment).end(request.slug, acting.source, state, detail)
            undelivered = self._tell(context, acting, request, found)
            if wrong:
                raise ChangeFailed(f"the tenant {request.slug} is not onboarded: {'; '.join(wrong)}")
        if undelivered:
            raise AirflowException(f"{request.slug} is onboarded, but not everybody was told: {'; '.join(undelivered)}")
        return [[item.what, item.said] for item in found]

    def _nothing_begun(self, acting: Acting, context: Context) -> list[list[str]]:
        if pulled(context, self.plan_task_id, "plan") and acting.params.get("dry_run") is not False:
            raise AirflowSkipException("dry run: there is nothing to report")
        raise ChangeFailed("nothing was changed: see the tasks before this one")

    def _found(self, acting: Acting, request: OnboardRequest, tenant_id: str) -> list[Item]:
        seen = MONITORED in acting.journal.steps()
        said = "Prometheus has its series" if seen else "Prometheus was not seen to know it"
        return [*self.standing(request, tenant_id), Item("monitoring", seen, said)]

    def _tell(self, context: Context, acting: Acting, request: OnboardRequest, found: list[Item]) -> list[str]:
        """Leave the page, post; return what did not arrive."""
        from vcci_ops.domain.mrkdwn import escape

        good = all(item.ok for item in found)
        verdict, sign = ("is onboarded", ":large_green_circle:") if good else ("is NOT onboarded", ":red_circle:")
        lines = [f"{':white_check_mark:' if item.ok else ':red_circle:'} {escape(item)}" for item in found]
        tell(acting, "done", "\n".join(lines))
        for item in found:
            self.log.info("%s %s", "ok  " if item.ok else "BAD ", item)
        results = item_results("tenants.onboarding", request.slug, found, meaning=_MEANING, action=_ACTION)
        headline = _headline(request, acting, verdict, sign)
        title = f"Onboarding of {request.name}"
        return store_report(context, acting, title, results, headline, private=("admin_email", "admin_name"))


def _headline(request: OnboardRequest, acting: Acting, verdict: str, sign: str) -> str:
    from vcci_ops.domain.mrkdwn import code, escape

    what = f"*{escape(request.name)}* ({code(request.slug)}, {escape(request.tier)})"
    return f"{sign} {what} {verdict}, asked for by {escape(acting.requested_by)}"
