"""Undoing an onboarding that did not come to its end: planned, approved by a person, and only what it made itself.

The order is plan, approve, lock, remove, unlock. Whatever the customer has brought or done in the meantime (a
session, a supplier, a document, an accepted invitation) ends it: nothing is removed then. The audit log is kept.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowSkipException

from vcci_ops.domain.plans import SHORT, plan_hash, require_unchanged
from vcci_ops.domain.tenant_onboarding import in_the_way, undo_asked, undo_markdown, undo_plan
from vcci_ops.exceptions import NoData, OpsError, Refused
from vcci_ops.hooks.tenant_history import UNDONE, Onboardings
from vcci_ops.operators.acting import Acting, failing_clearly, tell
from vcci_ops.operators.approval import PlanApprovalOperator, approved_plan
from vcci_ops.operators.tenant_onboard import UNDOING, OnboardOperator, begun_by, complete

if TYPE_CHECKING:
    from airflow.sdk import Context


class UndoOperator(OnboardOperator):
    """What plan and removal share.

    :param export_conn_id: connection that reads every tenant's rows, to count them.
    :param s3_conn_id: connection of the store of documents.
    """

    def __init__(self, *, export_conn_id: str = "vcci_postgres_export", s3_conn_id: str = "vcci_s3", **kw: Any) -> None:
        super().__init__(**kw)
        self.export_conn_id = export_conn_id
        self.s3_conn_id = s3_conn_id

    def undoable(self, acting: Acting) -> dict[str, Any]:
        """Return the plan.

        :raises NoData: when there is nothing to undo, with the reason.
        :raises Refused: when the tenant holds more than its onboarding made; names what.
        """
        from vcci_ops.hooks.tenant_undo import documents, rows_by_table

        begun = begun_by(acting)
        if begun is None:
            raise NoData("this run has created no tenant")
        onboarding = Onboardings(acting.settings.environment).find(begun["slug"])
        if onboarding is None or onboarding.source != acting.source:
            raise NoData(f"{onboarding.source if onboarding else 'nobody'} works on {begun['slug']} now, not this run")
        row = self.tenants.by_id(begun["tenant_id"])
        if row is None:
            raise NoData(f"there is no tenant {begun['slug']}")
        counts = rows_by_table(row.id, self.export_conn_id)
        admin = self.tenants.admin_of(row.id, self.asked(acting).admin_email)
        files = documents(row.id, row.slug, acting.settings.tenants.documents, self.s3_conn_id)
        if found := in_the_way(counts, admin, files):
            raise Refused(f"the tenant {row.slug} holds what its onboarding did not make: {'; '.join(found)}")
        return undo_plan(row, counts, self.tenants.welcome_state(row.id), acting.source, acting.requested_by)


class UndoPlanOperator(UndoOperator):
    """Return what would be removed, for a person to approve; skip when the tenant is onboarded or nothing was made.

    With ``trigger_rule="all_done"``: it runs whatever happened.
    """

    def execute(self, context: Context) -> dict[str, Any]:
        """Look, and plan."""
        with failing_clearly():
            acting = Acting.of(context)
            if begun_by(acting) is None or complete(acting):
                raise AirflowSkipException("there is nothing to undo")
            try:
                plan = self.undoable(acting)
            except NoData as error:
                raise AirflowSkipException(str(error)) from None
            except Refused as error:
                said = f"{error}. Nothing is removed: go on with the onboarding, or use tenant_delete"
                tell(acting, "undo", f":information_source: {said}")
                self.log.warning("%s", said)
                raise AirflowSkipException(said) from None
        self.log.info("Undo plan %s: removes %s, keeps %s", plan_hash(plan)[:SHORT], plan["removed"], plan["kept"])
        return plan


class UndoApprovalOperator(PlanApprovalOperator):
    """Ask a person whether the onboarding is undone."""

    def title(self, context: Context, plan: Mapping[str, Any]) -> str:
        """Return the question's headline."""
        return f"Undo the onboarding of {plan['tenant']['slug']}, plan {plan_hash(plan)[:SHORT]}"

    def plan_body(self, context: Context, plan: Mapping[str, Any]) -> str:
        """Return what the approver reads."""
        return undo_markdown(plan)

    def announcement(self, context: Context, plan: Mapping[str, Any]) -> str:
        """Return what Slack is told."""
        return undo_asked(plan, self.question_url(context), self.within)


class UndoRemoveOperator(UndoOperator):
    """Remove what was approved, if it is still all there is; needs the change lock.

    The tenant is suspended first, so that nobody comes in while it is looked at for the last time.

    :param plan_task_id: :class:`UndoPlanOperator`; :param approval_task_id: :class:`UndoApprovalOperator`.
    :param erase_conn_id: connection that may delete.
    """

    def __init__(
        self, *, plan_task_id: str, approval_task_id: str, erase_conn_id: str = "vcci_postgres_erase", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.plan_task_id = plan_task_id
        self.approval_task_id = approval_task_id
        self.erase_conn_id = erase_conn_id

    def execute(self, context: Context) -> dict[str, Any]:
        """Compare with the approved plan, note, remove, record."""
        with failing_clearly():
            acting = Acting.of(context)
            self.require_lock(acting)
            plan = approved_plan(context, self.plan_task_id, self.approval_task_id)
            tenant = plan["tenant"]
            if self._still_there(acting, plan):
                acting.journal.remember(UNDOING, plan)
                self._remove(acting, plan)
            Onboardings(acting.settings.environment).end(tenant["slug"], acting.source, UNDONE)
            summary = f"onboarding of tenant {tenant['slug']} undone"
            acting.journal.changed("tenant", acting.requested_by, summary, plan)
            tell(acting, "undo", f":leftwards_arrow_with_hook: The {summary}: nothing of it is left but the audit log")
        return plan

    def _remove(self, acting: Acting, plan: Mapping[str, Any]) -> None:
        from vcci_ops.hooks.tenant_undo import remove

        id_ = plan["tenant"]["id"]
        self.tenants.suspend(id_)
        try:
            require_unchanged(plan, self.undoable(acting))
            rows = remove(id_, self.erase_conn_id)
        except OpsError:
            with contextlib.suppress(OpsError):  # what went wrong first is what a person has to read
                self.tenants.reactivate(id_)
            raise
        self.log.info("%d rows removed", rows)

    def _still_there(self, acting: Acting, plan: Mapping[str, Any]) -> bool:
        """Whether the tenant is there; one that this very task has removed before is not."""
        if self.tenants.by_id(plan["tenant"]["id"]):
            return True
        if acting.journal.recall(UNDOING):
            self.log.info("The tenant is gone already: this task was killed after it removed it")
            return False
        raise Refused(f"there is no tenant {plan['tenant']['slug']} any more, and it was not this run that removed it")
