"""Putting users back whom an access review has deactivated: plan, act, tell."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowSkipException, DownstreamTasksSkipped

from vcci_ops.domain.access import LEFT, Line, line_numbers
from vcci_ops.exceptions import ChangeFailed, InvalidInput, Refused
from vcci_ops.hooks.access_record import Change, Review
from vcci_ops.operators.access_base import AccessOperator
from vcci_ops.operators.acting import Acting, failing_clearly, needed, pulled

if TYPE_CHECKING:
    from airflow.sdk import Context

PLAN, OUTCOME = "plan", "outcome"
"""XCom keys: who is put back to what; what became of each."""
ALL = "all"
STEP = "revert"
"""Of the journal: whom a run is about to put back, noted before it does."""
REVIEW = "access_review"
_REVIEW_ID = r"[A-Za-z0-9_][A-Za-z0-9_.:+~-]{0,249}"


def review_id_of(given: object) -> str:
    """Return the id of a review: its own, or that of its run.

    :raises InvalidInput: when it is neither.
    """
    text = given.strip().removeprefix(f"{REVIEW}/") if isinstance(given, str) else ""
    if not re.fullmatch(_REVIEW_ID, text):
        raise InvalidInput("review_id", given, f"{REVIEW}/ and the id of a run, as the review's page shows it")
    return f"{REVIEW}/{text}"


def chosen(review: Review, changes: Sequence[Change], given: object) -> list[tuple[Line, Change]]:
    """Return the lines whose users are put back, with what they were before.

    :param given: ``all``, or line numbers of the review.
    :raises InvalidInput: when a line is not one of those whose users the review has deactivated.
    """
    of = {change.user_id: change for change in changes if not change.reverted_at}
    lines = {line.number: line for line in review.lines if line.user_id in of and line.section == "users"}
    if isinstance(given, str) and given.strip().lower() == ALL:
        return [(line, of[line.user_id]) for line in lines.values()]
    numbers = line_numbers(given, len(review.lines), "lines")
    if wrong := [number for number in numbers if number not in lines]:
        there = ", ".join(map(str, lines)) or "none any more"
        accepted = f"{ALL}, or lines whose users this review has deactivated and nobody put back: {there}"
        raise InvalidInput("lines", ", ".join(map(str, wrong)), accepted)
    return [(lines[number], of[lines[number].user_id]) for number in numbers]


class RevertPlanOperator(AccessOperator):
    """Look who would be put back to what; changes nothing. A dry run, or nothing to do, skips what follows directly.

    A run that has begun keeps its plan. Leaves it in XCom under ``plan``.

    :raises AirflowFailException: when a parameter cannot be used, or there is no such review.
    """

    def execute(self, context: Context) -> None:
        """Plan and publish."""
        with failing_clearly():
            acting = Acting.of(context)
            plan = acting.journal.recall(STEP) or self._plan(acting)
        context["ti"].xcom_push(key=PLAN, value=plan)
        for user, change in plan["users"].items():
            self.log.info(
                "line %d, user %s of %s: back to %s", change["line"], user, change["tenant"], change["before"]
            )
        dry_run = str(acting.params.get("dry_run", True)).lower() != "false"
        if dry_run or not plan["users"]:
            self.log.info("%s", "Dry run: nothing was changed" if plan["users"] else "There is nobody to put back")
            raise DownstreamTasksSkipped(  # type: ignore[no-untyped-call]
                tasks=sorted(context["task"].downstream_task_ids)
            )

    def _plan(self, acting: Acting) -> dict[str, Any]:
        reason = " ".join(str(acting.params.get("reason") or "").split())
        if not 5 <= len(reason) <= 500:
            raise InvalidInput("reason", reason, "5 to 500 characters that say why")
        review = self.reviews.get(review_id_of(acting.params.get("review_id")))
        found = chosen(review, self.reviews.changes(review.review_id), acting.params.get("lines"))
        users = {
            line.user_id: {
                "line": line.number,
                "tenant": line.tenant,
                "tenant_id": change.tenant_id,
                "before": change.before,
            }
            for line, change in found
        }
        return {"review_id": review.review_id, "reason": reason, "users": users}


class RevertUsersOperator(AccessOperator):
    """Put users back to what they were before the review; needs the change lock.

    One transaction a tenant. Who is not inactive any more is left alone. A repeated task finds what it did in the
    platform's audit log. Their sessions stay ended: they log in again.
    """

    def execute(self, context: Context) -> None:
        """Act, and leave what became of each user."""
        from vcci_ops.hooks.access_changes import Users

        with failing_clearly():
            acting = Acting.of(context)
            self.require_lock(acting)
            plan = acting.journal.remember(STEP, needed(context, "plan", PLAN))
            outcomes: dict[str, str] = {}
            users = Users(plan["review_id"], conn_id=self.users_conn_id)
            for tenant_id, before in _by_tenant(plan["users"]).items():
                for change in users.restore(tenant_id, before, acting.requested_by):
                    outcomes[change.user_id] = change.outcome
                    self.log.info("user %s: %s", change.user_id, change.outcome)
                back = [user for user in before if not outcomes[user].startswith(LEFT)]
                self.reviews.reverted(plan["review_id"], back)
            done = sum(not outcome.startswith(LEFT) for outcome in outcomes.values())
            said = f"{done} users put back after {plan['review_id']}: {plan['reason']}"
            acting.journal.changed("access", acting.requested_by, said, {"users": done})
        context["ti"].xcom_push(key=OUTCOME, value=outcomes)


def _by_tenant(users: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    grouped: dict[str, dict[str, str]] = {}
    for user, change in users.items():
        grouped.setdefault(change["tenant_id"], {})[user] = change["before"]
    return grouped


class RevertReportOperator(AccessOperator):
    """Say in Slack what became of each user, and end failed when one could not be put back.

    :param channel: Slack channel; templated.
    """

    template_fields = ("namespace", "channel")

    def __init__(self, *, channel: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.channel = channel

    def execute(self, context: Context) -> None:
        """Tell and judge."""
        with failing_clearly():
            acting = Acting.of(context)
            plan, outcomes = pulled(context, "plan", PLAN), pulled(context, "revert", OUTCOME)
            if plan is None:
                raise ChangeFailed("nothing was planned: read the log of the task plan")
            begun = acting.journal.recall(STEP)
            if begun is None and (not plan["users"] or str(acting.params.get("dry_run", True)).lower() != "false"):
                raise AirflowSkipException("nothing was to be changed")
            left = {user: why for user, why in (outcomes or {}).items() if why.startswith(LEFT)}
            self._tell(acting, plan, outcomes or {}, left)
            if outcomes is None:
                raise ChangeFailed("not all users were put back: read the logs of the tasks before this one")
            if left:
                raise Refused("; ".join(f"user {user}: {why}" for user, why in left.items()))

    def _tell(
        self, acting: Acting, plan: Mapping[str, Any], outcomes: Mapping[str, str], left: Mapping[str, str]
    ) -> None:
        from vcci_ops.domain.mrkdwn import escape
        from vcci_ops.hooks.thread import RunThread

        thread = RunThread(self.channel, acting.dag_id, acting.run_id)
        asked = f"*Putting back users of {escape(plan['review_id'])}*, asked for by {escape(acting.requested_by)}"
        thread.say("root", f"{asked}: {escape(plan['reason'])}", root=True)
        lines = [f":white_check_mark: {len(outcomes) - len(left)} of {len(plan['users'])} users put back"]
        lines += [f":red_circle: line {plan['users'][user]['line']}: {escape(why)}" for user, why in left.items()]
        thread.say("final", "\n".join(lines))
