"""An access review as tasks: make the list, have it reviewed, deactivate who was approved, leave the evidence.

The list and what was decided about it stand in the history; XCom and logs have numbers, ids and hashes, and no address.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseOperator, Param
from airflow.sdk.exceptions import AirflowException, AirflowFailException, DownstreamTasksSkipped

from vcci_ops.domain.access import (
    DEACTIVATE,
    OPTIONS,
    REJECT,
    by_tenant,
    excepted_lines,
    reviewer_addresses,
    summary,
    to_deactivate,
)
from vcci_ops.domain.access_report import (
    AccessReport,
    form_body,
    render,
    slack_final,
    slack_question,
    slack_root,
    table,
)
from vcci_ops.domain.plans import SHORT
from vcci_ops.domain.units import duration
from vcci_ops.exceptions import (
    ChangeFailed,
    DeliveryFailed,
    InvalidInput,
    MeasurementError,
    NoData,
    OpsError,
    Refused,
)
from vcci_ops.hooks import access_record as record
from vcci_ops.hooks.access_record import Review, Reviews
from vcci_ops.links import ReportLink
from vcci_ops.operators.acting import Acting, failing_clearly, needed, pulled
from vcci_ops.operators.approval import COMMENT, COMMENT_LIMIT, QuestionOperator, requester
from vcci_ops.settings import load_settings

if TYPE_CHECKING:
    from airflow.sdk import Context
    from airflow.sdk.exceptions import TaskAwaitingInput

LISTED, APPROVAL, REPORT = "listed", "approval", "report"
"""XCom keys: what the list has and its hash; the answer; how the review ended."""
STEP = "deactivate"
"""Of the journal: whom a run is about to deactivate, noted before it does."""


class AccessOperator(BaseOperator):
    """What the tasks of a review have in common.

    :param namespace: of the platform, and of the change lock.
    :param users_conn_id: connection of the production database as vcci_ops_tenants.
    :param kubernetes_conn_id: Airflow connection of type kubernetes.
    """

    template_fields: Sequence[str] = ("namespace",)
    operator_extra_links = (ReportLink(),)
    ui_color = "#f3e9d2"

    def __init__(
        self,
        *,
        namespace: str,
        users_conn_id: str = "vcci_postgres_tenants",
        kubernetes_conn_id: str = "vcci_kubernetes",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.namespace = namespace
        self.users_conn_id = users_conn_id
        self.kubernetes_conn_id = kubernetes_conn_id

    @cached_property
    def reviews(self) -> Reviews:
        """The reviews of this environment."""
        return Reviews(load_settings().environment)

    def require_lock(self, acting: Acting) -> None:
        """Pass when this run holds the change lock.

        :raises Refused: when it does not.
        """
        from vcci_ops.hooks.lease import ChangeLock

        ChangeLock(self.namespace, kubernetes_conn_id=self.kubernetes_conn_id).require(acting.source)


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
        from vcci_ops.domain.access import numbered
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
    whom the list wants to deactivate. Anybody's rejection counts. Without an approved deactivation the tasks directly
    after this one are skipped.

    XCom ``approval``: ``{"option", "excepted", "comment", "by", "at", "items_hash"}``.

    :param own_approval: whether who began the review by hand may be its reviewer.
    :param within: seconds; nobody answered by then: unfinished.
    :raises AirflowFailException: when the list is rejected, or nobody answered.
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
        self.log.warning("%s. Asking again", why)
        try:
            review = Reviews(acting.settings.environment).get(acting.source)
        except MeasurementError as error:
            raise AirflowException(f"{why}; the list cannot be read to ask again: {error}") from None
        state["items_hash"] = review.items_hash  # of the list that is shown from now on
        self.tell(context, f"{self._asking(context, acting, review)}\n:warning: {_escaped(why)}")
        return self._question(context, acting, review, state, why)

    def _question(
        self, context: Context, acting: Acting, review: Review, state: dict[str, Any], why: str = ""
    ) -> TaskAwaitingInput:
        report = report_of(context, acting, review, self.users_conn_id)
        self.subject = f"Review who has access to {report.environment}, list {review.items_hash[:SHORT]}"
        body = form_body(report, page_url(acting))
        return self._ask(context, f"**Asked again:** {why}\n\n{body}" if why else body, state)

    def _asking(self, context: Context, acting: Acting, review: Review) -> str:
        report = report_of(context, acting, review, self.users_conn_id)
        return slack_question(report, self.question_url(context), self.within)

    def _say(self, context: Context, text: str) -> None:
        self.log.info("%s", text)
        self.tell(context, f":ballot_box_with_check: {_escaped(text)}")


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
        from vcci_ops.domain.access import DONE

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


class AccessReportOperator(AccessOperator):
    """Leave the evidence, tell Slack, and end the run as the review deserves.

    With ``trigger_rule="all_done"``: it runs whatever happened. Page, document and table go to the report bucket, the
    review and the run to the history, the verdict to Slack, each whatever became of the others.

    :param channel: Slack channel; templated.
    :raises AirflowFailException: when the review is rejected, unfinished, incomplete, or not all was done.
    :raises AirflowException: when the evidence did not arrive somewhere.
    """

    template_fields = ("namespace", "channel")

    def __init__(self, *, channel: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.channel = channel

    def execute(self, context: Context) -> str:
        """Judge, write, tell."""
        with failing_clearly():
            acting = Acting.of(context)
            try:
                review = self.reviews.get(acting.source)
            except NoData:
                raise ChangeFailed("there is no list: read the log of the task gather") from None
            if pulled(context, "gather", LISTED) is None:
                raise ChangeFailed("the list is not whole: read the log of the task gather")
            state, problems = _ending(review)
            report = report_of(context, acting, review, self.users_conn_id, state=state, problems=problems)
            context["ti"].xcom_push(key=REPORT, value=_pushed(report))
            self._leave(acting, review, report)
        self.log.info("%s", report.verdict)
        if report.status.fails_run:
            raise AirflowFailException("; ".join([report.verdict, *report.problems]))
        return report.verdict

    def _leave(self, acting: Acting, review: Review, report: AccessReport) -> None:
        failures: list[str] = []
        hashes: dict[str, str] = {}
        parts: dict[str, Callable[[], None]] = {
            "the report bucket": lambda: hashes.update(publish(report, acting)),
            "the history": lambda: self._record(review, report, hashes),
        }
        if report.state != record.DRY_RUN:
            parts["Slack"] = lambda: self._tell(acting, report)
        for where, leave in parts.items():
            try:
                leave()
            except OpsError as error:
                self.log.error("%s did not take it: %s", where, error)
                failures.append(f"{where}: {error}")
        if failures:
            raise DeliveryFailed("the evidence did not arrive everywhere", "; ".join(failures))

    def _record(self, review: Review, report: AccessReport, hashes: Mapping[str, str]) -> None:
        from vcci_ops.hooks.history import History

        state = record.APPROVED if report.state == "failed" else report.state
        self.reviews.end(review.review_id, state, {"verdict": report.verdict, "sha256": dict(hashes)})
        History().record(report, {})

    def _tell(self, acting: Acting, report: AccessReport) -> None:
        from vcci_ops.hooks.thread import RunThread

        thread = RunThread(self.channel, acting.dag_id, acting.run_id)
        thread.say("root", slack_root(report, page_url(acting)), root=True)
        thread.say("final", slack_final(report, page_url(acting)))


def _ending(review: Review) -> tuple[str, tuple[str, ...]]:
    """Return how a review stands now that nothing follows, and why when that is not well."""
    if review.state in (record.DRY_RUN, record.REJECTED):
        said = f"rejected by {review.reviewed_by}" if review.state == record.REJECTED else ""
        return review.state, (said,) if said else ()
    if review.state in (record.OPEN, record.UNFINISHED):
        return record.UNFINISHED, ("nobody answered in time, or the task review failed: nothing was changed",)
    outcomes = review.detail.get("outcomes") or {}
    missing = [
        line.number
        for line in to_deactivate(review.lines, review.decisions["excepted"])
        if line.user_id not in outcomes
    ]
    if missing:
        return "failed", (f"not done yet: lines {', '.join(map(str, missing))}; read the log of the task deactivate",)
    return record.FINISHED, ()


def _pushed(report: AccessReport) -> dict[str, Any]:
    return {"state": report.state, "status": str(report.status), "verdict": report.verdict, **report.counts}


# What the tasks share -----------------------------------------------------------------------------------


def report_of(
    context: Context,
    acting: Acting,
    review: Review,
    users_conn_id: str,
    *,
    state: str = "",
    problems: tuple[str, ...] = (),
) -> AccessReport:
    """Return the report of a review as it stands; the masked addresses are read for it alone.

    :param state: when it is judged otherwise than recorded.
    """
    run, now = context["dag_run"], dt.datetime.now(dt.UTC)
    report = AccessReport(
        environment=acting.settings.environment,
        dag_id=acting.dag_id,
        run_id=acting.run_id,
        state=state or (review.state if review.state != record.APPROVED else record.OPEN),
        made_at=review.made_at.astimezone(dt.UTC),
        started_at=run.start_date or now,
        finished_at=now,
        requested_by=requester(context),
        lines=review.lines,
        decisions=review.decisions,
        outcomes=review.detail.get("outcomes") or {},
        previous=review.detail.get("previous") or {},
        parameters=acting.params,
        problems=problems,
        notes=_notes(review),
    )
    return _with_addresses(report, users_conn_id)


def _notes(review: Review) -> tuple[str, ...]:
    if missing := [line.who for line in review.lines if line.section == "unmeasured"]:
        return (f"This review is not complete; could not be looked at: {'; '.join(missing)}.",)
    return ()


def _with_addresses(report: AccessReport, users_conn_id: str) -> AccessReport:
    from vcci_ops.hooks.access import Addresses

    users = {line.user_id for line in report.lines if line.user_id}
    try:
        return dataclasses.replace(report, masked=Addresses(users_conn_id).masked(users) if users else {})
    except MeasurementError as error:
        note = f"Users are shown by their id only, for their addresses could not be read: {error}"
        return dataclasses.replace(report, notes=(*report.notes, note))


def publish(report: AccessReport, acting: Acting) -> dict[str, str]:
    """Write page, document and table to the report bucket; return the SHA-256 of each.

    :raises DeliveryFailed: when the bucket does not take them.
    """
    import hashlib
    import json

    from vcci_ops.hooks.reports import ReportStore

    where = acting.settings.reports
    store = ReportStore(where.bucket, where.prefix, acting.settings.environment)
    page, lines = render(report), table(report)
    store.save(report, page)
    store.save_file(acting.dag_id, acting.run_id, "lines.csv", lines.encode(), "text/csv; charset=utf-8")
    texts = {"report.html": page, "report.json": json.dumps(report.to_dict(), indent=1), "lines.csv": lines}
    return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}


def page_url(acting: Acting) -> str:
    """Return where people read the page."""
    return acting.report_url


def _escaped(text: str) -> str:
    from vcci_ops.domain.mrkdwn import escape

    return escape(text)
