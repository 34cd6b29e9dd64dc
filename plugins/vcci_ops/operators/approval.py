"""Ask a person: to approve a plan by its hash, or to decide. The task waits without a worker or a trigger.

https://airflow.apache.org/docs/apache-airflow-providers-standard/stable/operators/hitl.html
"""

from __future__ import annotations

import copy
import datetime as dt
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import Param
from airflow.sdk.exceptions import AirflowFailException, TaskAwaitingInput

from vcci_ops.domain import release_text
from vcci_ops.domain.plans import SHORT, plan_hash
from vcci_ops.domain.units import duration
from vcci_ops.exceptions import DeliveryFailed, MeasurementError, Refused
from vcci_ops.links import run_url
from vcci_ops.settings import load_settings

if TYPE_CHECKING:
    from airflow.sdk import Context

APPROVE, REJECT = "Approve", "Reject"
COMMENT_LIMIT = 1000
BODY_LIMIT = 20_000
"""Characters of Markdown: the table takes more, but no person reads it and browsers grow slow."""
COMMENT = {
    "comment": Param(
        "",
        type=["string", "null"],
        format="multiline",
        maxLength=COMMENT_LIMIT,
        title="Comment",
        description="Why; it is kept with the run. May stay empty.",
        source="task",
    )
}


def approved_plan(context: Context, plan_task_id: str, approval_task_id: str) -> dict[str, Any]:
    """Return the plan that was approved, for a task that is about to act on it.

    :param plan_task_id: task that returned the plan.
    :param approval_task_id: its :class:`PlanApprovalOperator`.
    :raises Refused: when there is no plan or no approval, or the plan is not the one that was approved.
    """
    ti = context["ti"]
    plan = ti.xcom_pull(task_ids=plan_task_id)
    approval = ti.xcom_pull(task_ids=approval_task_id, key="approval")
    if not isinstance(plan, Mapping):
        raise Refused(f"the task {plan_task_id} left no plan: nothing is done without one")
    if not isinstance(approval, Mapping):
        raise Refused(f"the plan was not approved: the task {approval_task_id} left no answer. Nothing was changed")
    if approval.get("approved") is not True:
        raise Refused(f"the plan was not approved: {approval.get('reason') or 'rejected'}. Nothing was changed")
    digest = plan_hash(plan)
    if approval.get("plan_hash") != digest:
        was = str(approval.get("plan_hash"))[:SHORT]
        raise Refused(
            f"the plan is not the one that was approved: approved was {was}, found is {digest[:SHORT]}. "
            "Nothing was changed; start a new run"
        )
    return dict(plan)


class QuestionOperator(HITLOperator):
    """What the questions share: shown in the Airflow UI and in the run's Slack thread, answered within a time.

    :param within: seconds; by then somebody must have answered.
    :param channel: Slack's ``#name`` or id; default: that of the settings.
    :param kwargs: as for the provider's HITLOperator.
    """

    thread_key = "question"

    def __init__(self, *, within: float, channel: str = "", **kwargs: Any) -> None:
        super().__init__(response_timeout=dt.timedelta(seconds=within), **kwargs)
        self._blank = {name: copy.deepcopy(self.params.get_param(name)) for name in self.params}
        self.within = within
        self.channel = channel

    @property
    def serialized_params(self) -> dict[str, dict[str, Any]]:
        """Return the form's fields, blank.

        Airflow 3.3.2 writes what a run was triggered with into fields of the same name: whoever asks for a run would
        fill in the form of its approver.
        """
        return {name: field.serialize() for name, field in self._blank.items()}

    def _ask(self, context: Context, body: str, state: dict[str, Any]) -> TaskAwaitingInput:
        """Put the question (again); return what to raise to wait until the deadline in the state.

        Asking again under the same task instance takes the earlier answer off the question.
        """
        from airflow.sdk.execution_time.hitl import upsert_hitl_detail

        upsert_hitl_detail(
            ti_id=context["ti"].id,
            options=self.options,
            subject=self.subject,
            body=_cut_body(body),
            defaults=self.defaults,
            multiple=False,
            params=self.serialized_params,
        )
        left = dt.datetime.fromisoformat(state["deadline"]) - dt.datetime.now(dt.UTC)
        return TaskAwaitingInput(
            method_name="execute_complete", kwargs={"state": state}, timeout=max(left, dt.timedelta(seconds=1))
        )

    def _deadline(self) -> str:
        return (dt.datetime.now(dt.UTC) + dt.timedelta(seconds=self.within)).isoformat()

    def question_url(self, context: Context) -> str:
        """Return the page on which the question is answered."""
        ti = context["ti"]
        return f"{run_url(load_settings(), ti.dag_id, ti.run_id)}/tasks/{ti.task_id}/required_actions"

    def tell(self, context: Context, text: str) -> None:
        """Say it in the run's Slack thread; a Slack that does not take it keeps nobody from answering."""
        from vcci_ops.hooks.thread import RunThread

        run = context["dag_run"]
        channel = self.channel or load_settings().slack.channel
        try:
            RunThread(channel, str(run.dag_id), str(run.run_id)).say(self.thread_key, text)
        except (DeliveryFailed, MeasurementError) as error:
            self.log.warning("Slack was not told (%s): %s", error, text)


class PlanApprovalOperator(QuestionOperator):
    """Have a plan approved by its hash. The requester's own approval does not count, unless ``own_approval``.

    Approve and Reject; nobody answered in time is a rejection. An approval that does not count (the requester's
    own, the second of the same person, a comment that is too long) is told in the log and in Slack, and the
    question stays open until the same deadline. Withdrawing one's own plan is fine: anybody's Reject counts.

    XCom ``approval``: ``{"approved", "by", "at", "comment", "plan_hash", "reason"}``, and ``votes``, a list of those
    who approved.

    :param plan_task_id: task that returned the plan, a dict.
    :param own_approval: whether the one who asked may approve, too.
    :param within: seconds; nobody answered by then: rejected.
    :param approvers: how many people have to approve.
    :raises AirflowFailException: when the plan is rejected, with ``rejected by …``; acting tasks never start.
        Clearing the task asks again.
    """

    template_fields = ("channel",)
    thread_key = "approval"
    fields: ClassVar[Mapping[str, Param]] = COMMENT
    """What the approver fills in; a subclass may ask for more and judge it in :meth:`does_not_count`."""

    def __init__(
        self, *, plan_task_id: str, own_approval: bool, within: float, approvers: int = 1, **kwargs: Any
    ) -> None:
        if approvers < 1:
            raise ValueError("approvers: at least one")
        kwargs.pop("params", None)  # Airflow hands over the DAG's: they are none of the question's
        super().__init__(
            subject="Approve the plan",
            options=[APPROVE, REJECT],
            defaults=REJECT,
            params=dict(self.fields),
            within=within,
            **kwargs,
        )
        self.plan_task_id = plan_task_id
        self.own_approval = own_approval
        self.approvers = approvers

    # What a subclass may say differently ---------------------------------------------------------

    def title(self, context: Context, plan: Mapping[str, Any]) -> str:
        """Return the question's headline."""
        what = " ".join(str(plan.get(key, "")) for key in ("kind", "version")).strip() or str(context["dag_run"].dag_id)
        where = plan.get("environment") or load_settings().environment
        return f"Approve {what} on {where}, plan {plan_hash(plan)[:SHORT]}"

    def plan_body(self, context: Context, plan: Mapping[str, Any]) -> str:
        """Return what the approver reads, in Markdown; cut when it is very long."""
        text = json.dumps(plan, indent=1, sort_keys=True)
        return f"```json\n{text.replace('```', '` ` `')}\n```"

    def announcement(self, context: Context, plan: Mapping[str, Any]) -> str:
        """Return what Slack is told, in its mrkdwn."""
        return release_text.approval_asked(plan, self.question_url(context), self.within)

    def does_not_count(self, plan: Mapping[str, Any], by: str, given: Mapping[str, Any]) -> str:
        """Return why what was filled in makes an approval count for nothing; empty when it does count.

        :param by: who answered.
        :param given: what the form sent. Airflow does not validate it: any JSON, though no field of another name.
        """
        return ""

    # Asking and answering -------------------------------------------------------------------------

    def execute(self, context: Context) -> None:
        """Show the plan and wait."""
        plan = self._plan(context)
        self.subject = self.title(context, plan)
        digest, by = plan_hash(plan), requester(context)
        rule = f"not by {by}, who asked" if by and not self.own_approval else "by anybody who may"
        self.log.info(
            "%s: %d approval(s) wanted, %s, within %s", self.subject, self.approvers, rule, duration(self.within)
        )
        for notifier in self.notifiers:
            notifier(context)
        self.tell(context, self.announcement(context, plan))
        raise self._ask(
            context, self.plan_body(context, plan), {"deadline": self._deadline(), "plan_hash": digest, "votes": []}
        )

    def execute_complete(
        self, context: Context, event: dict[str, Any], state: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Take the answer: go on, ask again, or fail.

        :raises AirflowFailException: when the plan is rejected, or is not the one that was shown.
        """
        state = state or {}
        answer = self._answer(event, state)
        plan = self._plan(context)
        if plan_hash(plan) != state.get("plan_hash"):
            answer["reason"] = "the plan was made anew while it was being approved; clear this task to ask again"
            raise self._end(context, answer, f"rejected: {answer['reason']}")
        if answer["reason"]:
            raise self._end(context, answer, answer["reason"])
        why = self._does_not_count(context, event, state, answer) or self._fills_in_wrongly(plan, event, answer)
        if not why:
            state["votes"] = [*state["votes"], answer["by"]]
            if len(state["votes"]) >= self.approvers:
                return self._approved(context, answer, state["votes"])
        raise self._again(context, plan, state, answer, why)

    def _answer(self, event: Mapping[str, Any], state: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer as it is recorded; ``reason`` says why it is a rejection, empty for an approval."""
        user = event.get("responded_by_user") or {}
        by = str(user.get("name") or user.get("id") or "") if isinstance(user, Mapping) else ""
        at = event.get("responded_at") or dt.datetime.now(dt.UTC)
        answer = {
            "approved": False,
            "by": by,
            "at": at.isoformat() if isinstance(at, dt.datetime) else str(at),
            "comment": _comment(event, self.fields) or "",
            "plan_hash": str(state.get("plan_hash", "")),
            "reason": "",
        }
        if event.get("timedout") or event.get("error_type") == "timeout" or not by:
            votes = f"; approved by {', '.join(state['votes'])} only" if state.get("votes") else ""
            answer["reason"] = f"rejected: nobody answered within {duration(self.within)}{votes}"
        elif event.get("chosen_options") != [APPROVE]:
            said = f": {answer['comment']}" if answer["comment"] else ""
            answer["reason"] = f"rejected by {by}{said}"
        return answer

    def _does_not_count(
        self, context: Context, event: Mapping[str, Any], state: Mapping[str, Any], answer: Mapping[str, Any]
    ) -> str:
        """Return why an approval does not count; empty when it does."""
        by = answer["by"]
        if by == requester(context) and not self.own_approval:
            return f"{by} asked for it and may not approve it: this approval does not count"
        if by in state["votes"]:
            return f"{by} has approved already: another person is needed"
        if _comment(event, self.fields) is None:
            return f"the comment of {by} is no text of at most {COMMENT_LIMIT} characters: this approval does not count"
        return ""

    def _fills_in_wrongly(self, plan: Mapping[str, Any], event: Mapping[str, Any], answer: Mapping[str, Any]) -> str:
        return self.does_not_count(plan, str(answer["by"]), event.get("params_input") or {})

    def _approved(self, context: Context, answer: dict[str, Any], votes: Sequence[str]) -> dict[str, Any]:
        by = ", ".join(votes)
        answer |= {"approved": True, "by": by, "votes": list(votes), "reason": f"approved by {by}"}
        self.log.info("Plan %s: %s", answer["plan_hash"][:SHORT], answer["reason"])
        context["ti"].xcom_push(key="approval", value=answer)
        self.tell(context, release_text.approval_given(answer))
        return answer

    def _end(self, context: Context, answer: dict[str, Any], reason: str) -> AirflowFailException:
        context["ti"].xcom_push(key="approval", value=answer)
        self.log.error("%s", reason)
        self.tell(context, release_text.approval_refused(reason))
        return AirflowFailException(reason)

    def _again(
        self, context: Context, plan: Mapping[str, Any], state: dict[str, Any], answer: Mapping[str, Any], why: str
    ) -> TaskAwaitingInput:
        missing = self.approvers - len(state["votes"])
        note = why or f"approved by {answer['by']}; {missing} more needed"
        self.log.warning("%s. Asking again", note)
        self.tell(context, f"{self.announcement(context, plan)}\n{release_text.approval_note(note)}")
        self.subject = self.title(context, plan)
        return self._ask(context, self.plan_body(context, plan), state)

    def _plan(self, context: Context) -> dict[str, Any]:
        plan = context["ti"].xcom_pull(task_ids=self.plan_task_id)
        if not isinstance(plan, Mapping):
            raise AirflowFailException(f"there is no plan to approve: the task {self.plan_task_id} left none")
        return dict(plan)


class DecisionOperator(QuestionOperator):
    """Ask a person to choose one of several ways on.

    XCom ``decision``: ``{"option", "by", "at", "comment"}``; the option is returned, too.

    :param subject: the question, one line; templated, as is ``body``.
    :param options: what can be chosen; nothing is chosen for a person.
    :param within: seconds; nobody answered by then: undecided.
    :raises AirflowFailException: ``undecided: nobody answered within …``.
    """

    template_fields = ("subject", "body", "channel")
    thread_key = "decision"

    def __init__(self, *, subject: str, options: list[str], within: float, **kwargs: Any) -> None:
        kwargs.pop("params", None)
        super().__init__(subject=subject, options=options, params=COMMENT, within=within, **kwargs)

    def question(self, context: Context) -> tuple[str, str]:
        """Return headline and Markdown body; a subclass may build them from what the run knows."""
        return self.subject, self.body or ""

    def execute(self, context: Context) -> None:
        """Ask and wait."""
        self.subject, body = self.question(context)
        for notifier in self.notifiers:
            notifier(context)
        self.tell(
            context, release_text.decision_asked(self.subject, self.options, self.question_url(context), self.within)
        )
        raise self._ask(context, body, {"deadline": self._deadline()})

    def execute_complete(self, context: Context, event: dict[str, Any], state: dict[str, Any] | None = None) -> str:
        """Return what was chosen.

        :raises AirflowFailException: when nobody answered in time.
        """
        user, chosen = event.get("responded_by_user"), event.get("chosen_options") or []
        at = event.get("responded_at") or dt.datetime.now(dt.UTC)
        answer = {
            "option": chosen[0] if user and len(chosen) == 1 and chosen[0] in self.options else None,
            "by": str(user.get("name") or user.get("id")) if isinstance(user, Mapping) else "",
            "at": at.isoformat() if isinstance(at, dt.datetime) else str(at),
            "comment": (_comment(event) or "")[:COMMENT_LIMIT],
        }
        context["ti"].xcom_push(key="decision", value=answer)
        if answer["option"] is None:
            reason = f"undecided: nobody answered within {duration(self.within)}"
            self.log.error("%s", reason)
            self.tell(context, release_text.approval_refused(f"{self.subject}: {reason}"))
            raise AirflowFailException(reason)
        self.log.info("%s chose: %s", answer["by"], answer["option"])
        self.tell(context, release_text.decision_made(self.subject, answer))
        return str(answer["option"])


def requester(context: Context) -> str:
    """Return who triggered the run; empty when no person did."""
    return str(getattr(context["dag_run"], "triggering_user_name", None) or "")


def _comment(event: Mapping[str, Any], fields: Iterable[str] = COMMENT) -> str | None:
    """Return the comment; None when it is not one, for Airflow does not look at what the form sends."""
    given = event.get("params_input") or {}
    text = given.get("comment") if isinstance(given, Mapping) and set(given) <= set(fields) else given
    if text is None or text == {}:
        return ""
    if not isinstance(text, str) or len(text) > COMMENT_LIMIT:
        return None
    return " ".join(text.split())


def _cut_body(body: str) -> str:
    if len(body) <= BODY_LIMIT:
        return body
    cut = body[:BODY_LIMIT]
    fence = "\n```" if cut.count("```") % 2 else ""
    where = "The whole plan is in the run's folder of the report bucket and in the log of the plan task."
    return f"{cut}{fence}\n\n**Cut here.** {where}"
