"""Deactivating the users whose lines of an access review were approved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vcci_ops.domain.access import DONE, by_tenant, to_deactivate
from vcci_ops.exceptions import Refused
from vcci_ops.hooks import access_record as record
from vcci_ops.hooks.access_record import Review
from vcci_ops.operators.access_base import APPROVAL, AccessOperator
from vcci_ops.operators.acting import Acting, failing_clearly, needed

if TYPE_CHECKING:
    from airflow.sdk import Context

STEP = "deactivate"
"""Of the journal: whom a run is about to deactivate, noted before it does."""


class DeactivateUsersOperator(AccessOperator):
    """Deactivate the users whose lines were approved; needs the change lock.

    Each tenant is one transaction in which everything is looked at again; who has been seen since, is the last active
    administrator or a service account by now, is left alone. A repeated task finds what was done in the platform's
    audit log. Nothing is deleted but sessions.

    :raises AirflowFailException: when there is no approval of this very list.
    """

    def execute(self, context: Context) -> dict[str, str]:
        """Act, and return what became of each user."""
        from vcci_ops.hooks.access_changes import Users

        with failing_clearly():
            acting = Acting.of(context)
            self.require_lock(acting)
            review = self._approved(context, acting)
            lines = to_deactivate(review.lines, review.decisions["excepted"])
            acting.journal.remember(STEP, {"users": [line.user_id for line in lines], "list": review.items_hash})
            users = Users(
                review.review_id,
                [address.lower() for address in acting.settings.access_review.never_touched],
                self.users_conn_id,
            )
            outcomes: dict[str, str] = {}
            for tenant_id, of_tenant in by_tenant(lines):
                changed = users.deactivate(tenant_id, of_tenant, review.reviewed_by)
                self.reviews.changed(review.review_id, changed)
                for change in changed:
                    self.log.info("user %s of %s: %s", change.user_id, of_tenant[0].tenant, change.outcome)
                    outcomes[change.user_id] = change.outcome
            self._finish(acting, review, users, outcomes)
        return outcomes

    def _finish(self, acting: Acting, review: Review, users: Any, outcomes: Mapping[str, str]) -> None:
        done = [user for user, outcome in outcomes.items() if outcome == DONE]
        if ended := users.end_sessions(done):
            self.log.info("%d sessions were begun meanwhile, and ended", ended)
        if done:
            said = f"{len(done)} inactive users deactivated, approved by {review.reviewed_by}"
            acting.journal.changed("access", review.reviewed_by, said, {"users": len(done), "list": review.items_hash})

    def _approved(self, context: Context, acting: Acting) -> Review:
        review = self.reviews.get(acting.source)
        review.require_intact()
        approval = needed(context, "review", APPROVAL)
        if review.state not in (record.APPROVED, record.FINISHED):
            raise Refused(f"the list is not approved: the review is {review.state}. Nothing was changed")
        agrees = approval["items_hash"] == review.items_hash == review.decisions.get("items_hash")
        if not agrees or approval["excepted"] != review.decisions["excepted"]:
            raise Refused("the list is not the one that was approved. Nothing was changed; start a new run")
        return review
