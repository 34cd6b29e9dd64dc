"""An access review as tasks: make the list, and have it reviewed.

The list and what was decided about it stand in the history; XCom and logs have numbers, ids and hashes, and no address.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import Param
from airflow.sdk.exceptions import AirflowException, AirflowFailException, DownstreamTasksSkipped

from vcci_ops.domain.access import (
    DEACTIVATE,
    OPTIONS,
    REJECT,
    excepted_lines,
    numbered,
    reviewer_addresses,
    summary,
    to_deactivate,
)
from vcci_ops.domain.access_report import form_body, slack_question
from vcci_ops.domain.mrkdwn import escape
from vcci_ops.domain.plans import SHORT
from vcci_ops.domain.units import duration
from vcci_ops.exceptions import InvalidInput, MeasurementError, Refused
from vcci_ops.hooks import access_record as record
from vcci_ops.hooks.access_record import Review, Reviews
from vcci_ops.links import ReportLink
from vcci_ops.operators.access_base import APPROVAL, LISTED, AccessOperator, publish, report_of
from vcci_ops.operators.acting import Acting, failing_clearly
from vcci_ops.operators.approval import COMMENT, COMMENT_LIMIT, QuestionOperator, requester

if TYPE_CHECKING:
    from airflow.sdk import Context
    from airflow.sdk.exceptions import TaskAwaitingInput


class GatherAccessOperator(AccessOperator):
    """Look at everything and make the list; changes nothing.

    What cannot be looked at becomes a line of its own, and the review is incomplete. A list that somebody has answered
    stays as it is when the task runs again. Leaves numbers and hash in XCom under ``listed``.

    :param postgres_conn_id: connection of the production database as vcci_ops: API keys, database roles.
    :raises AirflowFailException: when the history does not take the list.
    """

    def __init__(self, *, postgres_conn_id: str = "vcci_postgres", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.postgres_conn_id = postgres_conn_id

    def execute(self, context: Context) -> None:
        """Look, record, publish; a dry run ends here."""
        with failing_clearly():
            acting = Acting.of(context)
            dry_run = str(acting.params.get("dry_run", False)).lower() == "true"
            review = self._listed(acting, record.DRY_RUN if dry_run else record.OPEN)
            report = report_of(context, acting, review, self.users_conn_id)
            publish(report, acting)
        counts = summary(review.lines)
        self.log.info("%s; list %s", report.verdict, review.items_hash[:SHORT])
        for line in review.lines:
            self.log.info("%3d %-8s %s: %s", line.number, line.severity, line.who, line.finding)
        context["ti"].xcom_push(key=LISTED, value={**counts, "items_hash": review.items_hash})
        if dry_run:
            self.log.info("Dry run: nobody is asked, nothing is changed")
            raise DownstreamTasksSkipped(  # type: ignore[no-untyped-call]
                tasks=sorted(context["task"].downstream_task_ids)
            )

    def _listed(self, acting: Acting, state: str) -> Review:
        from vcci_ops.hooks.access import AccessReader

        past = self.reviews.past(acting.source)
        found = AccessReader(
            acting.settings.access_review,
            self.namespace,
            dt.datetime.now(dt.UTC),
            past,
            self.users_conn_id,
            self.postgres_conn_id,
            self.kubernetes_conn_id,
        ).look()
        previous = {"review_id": past.review_id, "made_at": past.made_at.isoformat()} if past else {}
        lines = numbered(found.lines, past.keys if past else None)
        return self.reviews.begin(acting.source, state, lines, {"admins": found.admins, "previous": previous})


class ReviewAccessOperator(QuestionOperator):
    """Have a person review the list: approve all of it, or all but some lines, or reject it.

    An answer that does not count leaves the question open until the same deadline, and the log and Slack say why: wrong
    line numbers, an exception without a reason, the answer of who began the review by hand (settings), or of somebody
    whom the list wants to deactivate. A list that was made anew meanwhile ends the task: cleared, it shows the new one.
    Anybody's rejection counts. Without an approved deactivation the tasks directly
    after this one are skipped.

    XCom ``approval``: ``{"option", "excepted", "comment", "by", "at", "items_hash"}``.

    :param own_approval: whether who began the review by hand may be its reviewer.
    :param within: seconds; nobody answered by then: unfinished.
    :raises AirflowFailException: when the list is rejected, was made anew, or nobody answered.
    """

    template_fields = ("channel",)
    operator_extra_links = (ReportLink(),)
    thread_key = "review"
    fields: ClassVar[Mapping[str, Param]] = {
        "excepted": Param(
            "",
            type=["string", "null"],
            maxLength=2000,
            title="Except these lines",
            description="Only with Approve except…: their numbers, such as 3, 7-9",
            source="task",
        ),
        **COMMENT,
    }

    def __init__(
        self,
        *,
        own_approval: bool,
        within: float,
        users_conn_id: str = "vcci_postgres_tenants",
        **kwargs: Any,
    ) -> None:
        kwargs.pop("params", None)  # Airflow hands over the DAG's: they are none of the question's
        super().__init__(
            subject="Review who has access", options=list(OPTIONS), params=dict(self.fields), within=within, **kwargs
        )
        self.own_approval = own_approval
        self.users_conn_id = users_conn_id

    def execute(self, context: Context) -> None:
        """Show the list and wait."""
        with failing_clearly():
            acting = Acting.of(context)
            review = Reviews(acting.settings.environment).get(acting.source)
            review.require_intact()
        state = {"deadline": self._deadline(), "items_hash": review.items_hash}
        self.tell(context, self._asking(context, acting, review))
        raise self._question(context, acting, review, state)

    def execute_complete(
        self, context: Context, event: dict[str, Any], state: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Take the answer: go on, ask again, or fail.

        :raises AirflowFailException: when the list is rejected, or nobody answered.
        """
        state = state or {}
        acting = Acting.of(context)
        answer = _answer(event, str(state.get("items_hash", "")))
        if not answer["by"]:
            raise self._unfinished(context, acting)
        try:
            review = Reviews(acting.settings.environment).get(acting.source)
            answer["excepted"] = self._judged(context, acting, review, event, answer)
            decided = record.REJECTED if answer["option"] == REJECT else record.APPROVED
            Reviews(acting.settings.environment).decide(review.review_id, answer["items_hash"], decided, answer)
        except (InvalidInput, Refused, MeasurementError) as error:
            raise self._again(context, acting, state, f"the answer of {answer['by']} does not count: {error}") from None
        context["ti"].xcom_push(key=APPROVAL, value=answer)
        return self._decided(context, review, answer)

    def _judged(
        self, context: Context, acting: Acting, review: Review, event: Mapping[str, Any], answer: Mapping[str, Any]
    ) -> list[int]:
        """Return the lines that are excepted.

        :raises InvalidInput: when what was typed cannot be used.
        :raises Refused: when this person may not approve this list.
        """
        given = event.get("params_input") or {}
        if not isinstance(given, Mapping) or not set(given) <= set(self.fields):
            raise InvalidInput("form", given, f"the fields {', '.join(self.fields)}")
        comment = given.get("comment") or ""
        if not isinstance(comment, str) or len(comment) > COMMENT_LIMIT:
            raise InvalidInput("comment", comment, f"a text of at most {COMMENT_LIMIT} characters")
        if answer["option"] == REJECT:
            return []
        if answer["by"] == requester(context) and not self.own_approval:
            raise Refused("who began a review does not approve it")
        self._require_impartial(acting, review, event)
        return list(excepted_lines(answer["option"], given.get("excepted"), answer["comment"], review.lines))

    def _require_impartial(self, acting: Acting, review: Review, event: Mapping[str, Any]) -> None:
        """Pass when the list does not want to deactivate the reviewer, approved or not.

        :raises Refused: when it does.
        """
        from vcci_ops.hooks.access import Addresses

        user = event["responded_by_user"]
        names = {str(user[key]) for key in ("id", "name") if user.get(key)}
        addresses = reviewer_addresses(names, acting.settings.access_review.mail_domain)
        users = [line.user_id for line in review.lines if line.action == DEACTIVATE]
        if users and addresses and Addresses(self.users_conn_id).among(users, addresses):
            raise Refused("the list wants to deactivate the reviewer; somebody else has to review it")

    def _decided(self, context: Context, review: Review, answer: dict[str, Any]) -> dict[str, Any]:
        but = f" but {', '.join(map(str, answer['excepted']))}" if answer["excepted"] else ""
        said = f"{answer['option']}{but}, by {answer['by']}" + (f": {answer['comment']}" if answer["comment"] else "")
        self._say(context, f"List {review.items_hash[:SHORT]}: {said}")
        if answer["option"] == REJECT:
            raise AirflowFailException(f"rejected: {said}")
        if not to_deactivate(review.lines, answer["excepted"]):
            self.log.info("No deactivation is approved: nothing is to be changed")
            raise DownstreamTasksSkipped(  # type: ignore[no-untyped-call]
                tasks=sorted(context["task"].downstream_task_ids)
            )
        return answer

    def _unfinished(self, context: Context, acting: Acting) -> AirflowFailException:
        reason = f"unfinished: nobody reviewed the list within {duration(self.within)}"
        try:
            Reviews(acting.settings.environment).end(acting.source, record.UNFINISHED, {})
        except MeasurementError as error:
            self.log.warning("That could not be recorded (%s); the task report records it", error)
        self._say(context, reason)
        return AirflowFailException(reason)

    def _again(self, context: Context, acting: Acting, state: dict[str, Any], why: str) -> TaskAwaitingInput:
        """Ask again. The form that is open stays as it was shown: Airflow takes no new text for it.

        So Slack and the log say why, and a list that was made anew is shown by a new question only.
        """
        try:
            review = Reviews(acting.settings.environment).get(acting.source)
        except MeasurementError as error:
            raise AirflowException(f"{why}; the list cannot be read to ask again: {error}") from None
        if review.items_hash != state["items_hash"]:
            raise AirflowFailException(f"{why}. The list was made anew: clear this task, and read it")
        self.log.warning("%s. Asking again", why)
        self.tell(context, f"{self._asking(context, acting, review)}\n:warning: {escape(why)}")
        return self._question(context, acting, review, state)

    def _question(self, context: Context, acting: Acting, review: Review, state: dict[str, Any]) -> TaskAwaitingInput:
        report = report_of(context, acting, review, self.users_conn_id)
        self.subject = f"Review who has access to {report.environment}, list {review.items_hash[:SHORT]}"
        body = form_body(report, acting.report_url)
        return self._ask(context, body, state)

    def _asking(self, context: Context, acting: Acting, review: Review) -> str:
        report = report_of(context, acting, review, self.users_conn_id)
        return slack_question(report, self.question_url(context), self.within)

    def _say(self, context: Context, text: str) -> None:
        self.log.info("%s", text)
        self.tell(context, f":ballot_box_with_check: {escape(text)}")


def _answer(event: Mapping[str, Any], items_hash: str) -> dict[str, Any]:
    user, chosen = event.get("responded_by_user") or {}, event.get("chosen_options") or []
    at = event.get("responded_at") or dt.datetime.now(dt.UTC)
    given = event.get("params_input") or {}
    comment = given.get("comment") if isinstance(given, Mapping) else ""
    answered = not event.get("timedout") and event.get("error_type") != "timeout" and len(chosen) == 1
    return {
        "option": chosen[0] if answered and chosen[0] in OPTIONS else REJECT,
        "excepted": [],
        "comment": " ".join(comment.split())[:COMMENT_LIMIT] if isinstance(comment, str) else "",
        "by": str(user.get("name") or user.get("id") or "") if answered else "",
        "at": at.isoformat() if isinstance(at, dt.datetime) else str(at),
        "items_hash": items_hash,
    }
