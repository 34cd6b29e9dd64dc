"""Up to the grace: plan a tenant's deletion, have it approved by people who type its slug, suspend, export, prove.

Nothing here deletes. How far a deletion is stands in the history (:class:`~vcci_ops.hooks.tenants.Deletions`), by
which every task finds what it has done when it runs again.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseOperator, Param
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException, DownstreamTasksSkipped

from vcci_ops.domain import tenant_deletion as domain
from vcci_ops.domain import tenant_deletion_text as text
from vcci_ops.domain.plans import SHORT, plan_hash
from vcci_ops.domain.results import Result, Status
from vcci_ops.domain.tenant_deletion import DeletionRequest
from vcci_ops.exceptions import ChangeFailed, DeliveryFailed, MeasurementError, OpsError, Refused, Unreachable
from vcci_ops.operators.acting import Acting, failing_clearly, needed, pulled, require_lock, tell
from vcci_ops.operators.approval import COMMENT, PlanApprovalOperator, approved_plan
from vcci_ops.operators.tenant_report import failures, store_report

if TYPE_CHECKING:
    from airflow.sdk import Context

    from vcci_ops.hooks.tenant_belongings import Belongings
    from vcci_ops.hooks.tenants import Deletion, Deletions

log = logging.getLogger("airflow.task")
PLAN, APPROVAL, EXPORT = "plan", "approve", "export"
"""Tasks that leave the plan, the approval, the export."""


def record(acting: Acting) -> Deletions:
    """Return the record of deletions."""
    from vcci_ops.hooks.tenants import Deletions

    return Deletions(acting.settings.environment)


def belongings(acting: Acting) -> Belongings:
    """Return where a tenant's things are."""
    from vcci_ops.hooks.tenant_belongings import Belongings

    return Belongings(acting.settings)


@contextmanager
def stopping(acting: Acting, deletion: Deletion) -> Iterator[None]:
    """Let the deletion wait for a person, and call one, when what is done within is refused or fails.

    What did not answer stops nothing: the next try may do.
    """
    try:
        yield
    except (Unreachable, DeliveryFailed):
        raise
    except OpsError as error:
        from vcci_ops.hooks.pager import page

        stopped = record(acting).stop(deletion.id, str(error))
        subject, words = text.page(deletion.slug, str(error), acting.run_url, begun=stopped.begun)
        try:
            page(subject, words, key=f"{acting.source}/{deletion.tenant_id}/stopped")
        except (DeliveryFailed, MeasurementError) as unsaid:
            log.error("the on-call could not be paged: %s", unsaid)
        raise


class DeletionPlanOperator(BaseOperator):
    """Read the form, find everything that is the tenant's, and say what would be deleted; changes nothing.

    Returns the plan; a run that was approved keeps the one that was. On a dry run, what follows directly is skipped.

    :raises AirflowFailException: when a parameter cannot be used, or something speaks against the deletion.
    """

    def execute(self, context: Context) -> dict[str, Any]:
        """Plan, publish, and go on unless it is a dry run."""
        with failing_clearly():
            acting = Acting.of(context)
            erasure = acting.settings.tenants.erasure
            request = DeletionRequest.of(acting.params, erasure)
            if not request.dry_run and not erasure.approval.own:
                acting.require_requester()
            known = record(acting).known(acting.source)
            plan = known.plan if known else self._plan(acting, request)
        self.log.info("Plan %s\n%s", plan_hash(plan), domain.plan_markdown(plan))
        if request.dry_run:
            self.log.info("Dry run: the plan above is all; nothing was changed")
            raise DownstreamTasksSkipped(  # type: ignore[no-untyped-call]
                tasks=sorted(context["task"].downstream_task_ids)
            )
        tell(acting, "root", text.headline("waiting", plan, url=acting.run_url), root=True)
        return plan

    def _plan(self, acting: Acting, request: DeletionRequest) -> dict[str, Any]:
        where = belongings(acting)
        tenant = self._tenant(acting, request.slug, where)
        warnings = self._require_free(acting, tenant)
        graph = where.catalog.graph(tenant.id)
        if blocking := where.catalog.blocked(graph, tenant.id):
            raise Refused(
                f"rows that are not {tenant.slug}'s refer to it, so that it cannot be deleted: "
                f"{domain.bounded(blocking)}. Nothing was changed. Let the platform's owner move them first"
            )
        warnings += [f"finding: {found}" for found in where.catalog.findings(tenant.id, tenant.slug)]
        return domain.deletion_plan(
            request,
            {"id": tenant.id, "slug": tenant.slug, "name": tenant.name},
            graph.to_dict(),
            where.documents(tenant.id, tenant.slug),
            where.keys(tenant.id, tenant.slug),
            environment=acting.settings.environment,
            requested_by=acting.requested_by,
            warnings=warnings,
        )

    def _tenant(self, acting: Acting, slug: str, where: Belongings) -> Any:
        """Return the tenant that the slug names.

        :raises Refused: when there is none, with what is near; or it was deleted, with the certificate's place.
        """
        from vcci_ops.hooks.tenants import Tombstones

        tenant = where.find(slug)
        if tenant:
            return tenant
        if stone := Tombstones(acting.settings.environment).of_slug(slug):
            raise Refused(
                f"tenant {slug} was deleted on {stone.deleted_at:%Y-%m-%d}. The certificate: "
                f"s3://{acting.settings.reports.bucket}/{stone.certificate}, SHA-256 {stone.certificate_sha256}"
            )
        if (last := record(acting).latest(slug)) and last.begun:
            raise Refused(f"{last} has begun: run tenant_purge_due with this slug, it goes on where it was")
        near = domain.near(slug, where.slugs())
        raise Refused(f"there is no tenant {slug}" + (f"; near it: {', '.join(near)}" if near else ""))

    def _require_free(self, acting: Acting, tenant: Any) -> list[str]:
        """Pass when nothing else is under way with the tenant; return what the approver must know.

        :raises Refused: for a legal hold, another deletion, an onboarding.
        """
        from vcci_ops.hooks.tenant_history import RUNNING, Onboardings
        from vcci_ops.hooks.tenants import Tombstones

        environment = acting.settings.environment
        if tenant.hold:
            raise Refused(f"a legal hold is on tenant {tenant.slug}: {tenant.hold}. Nothing was changed")
        warnings = []
        if open_ := record(acting).of_tenant(tenant.id):
            if open_.begun or open_.state != "stopped":
                raise Refused(f"{open_} is under way already; nothing was changed")
            warnings.append(f"this takes the place of {open_}")
        onboarded = Onboardings(environment).find(tenant.slug)
        if onboarded and onboarded.state == RUNNING:
            by = onboarded.source
            raise Refused(f"tenant {tenant.slug} is being onboarded by {by}; let that end, or undo it, first")
        if any(stone.tenant_id == tenant.id for stone in Tombstones(environment).all()):
            warnings.append("this tenant was deleted before and is back, as after a restore of an old backup")
        return warnings


class DeletionApprovalOperator(PlanApprovalOperator):
    """Ask for the approval of a deletion; an approval counts when the slug was typed again."""

    fields: ClassVar[Mapping[str, Param]] = {
        "slug": Param(
            "",
            type=["string", "null"],
            maxLength=63,
            title="Slug of the tenant",
            description="Type it again to approve; leave it empty to reject",
            source="task",
        ),
        **COMMENT,
    }

    def title(self, context: Context, plan: Mapping[str, Any]) -> str:
        """Return the headline: what is approved, and where."""
        tenant = plan["tenant"]
        return f"Delete {tenant['name']} ({tenant['slug']}) on {plan['environment']}? Plan {plan_hash(plan)[:SHORT]}"

    def plan_body(self, context: Context, plan: Mapping[str, Any]) -> str:
        """Return the plan as people read it."""
        return domain.plan_markdown(plan)

    def announcement(self, context: Context, plan: Mapping[str, Any]) -> str:
        """Return what Slack is told."""
        return text.approval_asked(plan, self.question_url(context), self.within, self.approvers)

    def does_not_count(self, plan: Mapping[str, Any], by: str, given: Mapping[str, Any]) -> str:
        """Return that the slug was not typed, if so; what was typed instead is not repeated."""
        typed, slug = given.get("slug"), plan["tenant"]["slug"]
        if isinstance(typed, str) and typed.strip() == slug:
            return ""
        return f"{by} did not type the slug {slug} of the tenant: this approval does not count"


class DeletionOperator(BaseOperator):
    """What the acting tasks share: an approved plan, the change lock, and a deletion that is to be exported."""

    def execute(self, context: Context) -> Any:
        """Look whether it may act, then act; what fails for good stops the deletion."""
        with failing_clearly():
            acting = Acting.of(context)
            plan = approved(context)
            require_lock(acting)
            deletion = self.deletion(context, acting, plan)
            if deletion.state != "exporting":
                if deletion.state in ("cancelled", "stopped"):
                    raise Refused(f"{deletion} does not go on with this task. Clear the task lock and what follows it")
                self.log.info("Done already: %s", deletion)
                return self.done(context, deletion)
            with stopping(acting, deletion):
                self.require_kept_still(acting, deletion)
                return self.act(context, acting, deletion)

    def deletion(self, context: Context, acting: Acting, plan: Mapping[str, Any]) -> Deletion:
        """Return the deletion as it is recorded."""
        return record(acting).get(acting.source)

    def done(self, context: Context, deletion: Deletion) -> Any:
        """Return what it returned when it was done."""
        return pulled(context, self.task_id)

    def require_kept_still(self, acting: Acting, deletion: Deletion) -> None:
        """Pass when the tenant is the one of the plan, suspended, and under no hold."""
        belongings(acting).require_suspended(deletion)

    def act(self, context: Context, acting: Acting, deletion: Deletion) -> Any:
        """Do it."""
        raise NotImplementedError


def approved(context: Context) -> dict[str, Any]:
    """Return the plan of this run, approved and unchanged.

    :raises Refused: when it is not, or this is a dry run, whatever somebody marked in the UI.
    """
    if Acting.of(context).params.get("dry_run") is not False:
        raise Refused("this is a dry run: nothing is changed")
    return approved_plan(context, PLAN, APPROVAL)


class SuspendForDeletionOperator(DeletionOperator):
    """Record the approved deletion, then suspend the tenant: no log-in, no session, no key in the cache."""

    def deletion(self, context: Context, acting: Acting, plan: Mapping[str, Any]) -> Deletion:
        """Begin it, once; a run that stopped before its grace begins again."""
        answer = needed(context, APPROVAL, "approval")
        approval = {"by": answer.get("votes") or [answer["by"]], "at": answer["at"]}
        return record(acting).begin(acting.source, plan, plan_hash(plan), approval)

    def require_kept_still(self, acting: Acting, deletion: Deletion) -> None:
        """Pass when the tenant is the one of the plan, and under no hold."""
        belongings(acting).require_same(deletion)

    def act(self, context: Context, acting: Acting, deletion: Deletion) -> str:
        """Suspend it, and say what the approver did not read."""
        self.log.info("%s: %s", deletion.slug, belongings(acting).suspend(deletion))
        tell(acting, "root", text.headline("exporting", deletion.plan, url=acting.run_url), root=True)
        summary = f"tenant {deletion.slug} suspended, to be deleted: {deletion.reason}"
        acting.journal.changed("tenant-delete", acting.requested_by, summary, {"deletion": deletion.id})
        return "suspended"


class ExportTenantOperator(DeletionOperator):
    """Note what is there, then export it. A repeated task does both again, in this order: so nothing moves unseen."""

    def act(self, context: Context, acting: Acting, deletion: Deletion) -> dict[str, Any]:
        """Export; return the export and what the purge compares with."""
        where = belongings(acting)
        graph = where.catalog.graph(deletion.tenant_id)
        for words in domain.moved_since_plan(deletion.plan["graph"], graph.to_dict()):
            self.log.info("since the plan, %s", words)
        if blocking := where.catalog.blocked(graph, deletion.tenant_id):
            raise Refused(f"rows that are not {deletion.slug}'s refer to it: {domain.bounded(blocking)}")
        before = where.baseline(graph, deletion)
        exported = where.export(graph, deletion)
        return {"export": exported, "baseline": before}


class ProveExportOperator(DeletionOperator):
    """Load the export into a scratch database on another server, and compare."""

    def act(self, context: Context, acting: Acting, deletion: Deletion) -> str:
        """Prove it.

        :raises ChangeFailed: with what is not right about the export.
        """
        found = needed(context, EXPORT)
        problems = belongings(acting).prove_export(found["export"])
        problems += domain.not_exported(found["baseline"], found["export"])
        if problems:
            raise ChangeFailed(f"the export is not proven: {domain.bounded(problems)}. Nothing was deleted")
        return "proven"


class GraceOperator(DeletionOperator):
    """Begin the days of grace. Only a proven export gets here."""

    def act(self, context: Context, acting: Acting, deletion: Deletion) -> str:
        """Record when it is due; return that."""
        if needed(context, "prove_export") != "proven":
            raise Refused("the export of this run was not proven")
        due_at = dt.datetime.now(dt.UTC) + dt.timedelta(days=int(deletion.plan["grace_days"]))
        kept = record(acting).await_end_of_grace(deletion.id, needed(context, EXPORT), due_at)
        return str(kept.due_at)


class DeletionReportOperator(BaseOperator):
    """Tell how it stands, leave the report, and give the run its colour; whatever happened before.

    :raises AirflowFailException: when the tenant is not in its grace, or further.
    """

    def execute(self, context: Context) -> str:
        """Look at the record, tell, judge."""
        with failing_clearly():
            acting = Acting.of(context)
            if acting.params.get("dry_run") is not False:
                raise AirflowSkipException("dry run: there is nothing to report")
            standing = self._standing(context, acting)
        undelivered = self._tell(context, acting, standing)
        self.log.info("%s: %s", standing.state, standing.words)
        if not standing.well:
            raise AirflowFailException(f"{standing.state}: {standing.words}")
        if undelivered:
            raise AirflowException(f"{standing.state}, but not everybody was told: {'; '.join(undelivered)}")
        return standing.state

    def _standing(self, context: Context, acting: Acting) -> Standing:
        deletion, failed = record(acting).known(acting.source), failures(context)
        if deletion and deletion.state == "exporting":  # its tries are used up: it must not bar the next run
            deletion = record(acting).stop(deletion.id, failed or "it did not come to its end")
        if deletion:
            return Standing(deletion.state, _words(deletion), deletion.plan, begun=deletion.begun)
        plan, answer = pulled(context, PLAN), pulled(context, APPROVAL, "approval") or {}
        if plan and answer.get("approved") is False:
            return Standing("rejected", str(answer.get("reason")), plan)
        return Standing("failed", f"nothing was changed; {failed or 'see the tasks before this one'}", plan)

    def _tell(self, context: Context, acting: Acting, standing: Standing) -> list[str]:
        """Store and post; return what did not arrive."""
        plan = standing.plan
        if not plan:
            return []
        result = Result(
            check="tenants.deletion",
            subject=plan["tenant"]["slug"],
            status=Status.OK if standing.well else Status.CRITICAL,
            summary=f"{text.WORDS.get(standing.state, standing.state)}. {standing.words}",
            title=f"Deletion of {plan['tenant']['name']}",
            section="Tenants",
            meaning="Everything that is the tenant's is deleted when its days of grace are over, and proven so.",
            action="Nothing." if standing.state != "stopped" else text.what_to_do(begun=standing.begun),
            runbook="Tenant offboarding",
            details=tuple(domain.plan_details(plan)),
        )
        headline = text.headline(standing.state, plan, note=standing.words, url=acting.run_url)
        return store_report(context, acting, "Deletion of a tenant", [result], headline)


@dataclasses.dataclass(frozen=True)
class Standing:
    """How a run's deletion stands at its end.

    :param state: that of the record; ``rejected`` or ``failed`` when nothing was recorded.
    :param plan: None when there is none.
    """

    state: str
    words: str
    plan: dict[str, Any] | None
    begun: bool = False

    @property
    def well(self) -> bool:
        """Whether the run has done what it was asked for."""
        return self.state in ("grace", "deleting", "proving", "deleted")


def _words(deletion: Deletion) -> str:
    if deletion.state == "stopped":
        return f"{text.stopped(str(deletion.detail.get('why')))} {text.what_to_do(begun=deletion.begun)}"
    if deletion.state == "cancelled":
        return f"{deletion.detail.get('cancelled_by', '')} {deletion.detail.get('because')}".strip()
    location = str(deletion.export.get("export", {}).get("location", ""))
    due = deletion.due_at or dt.datetime.now(dt.UTC)
    return text.in_grace(due, int(deletion.plan["grace_days"]), location)
