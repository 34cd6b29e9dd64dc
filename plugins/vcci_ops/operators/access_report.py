"""The end of an access review: the evidence, the verdict, and who is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException

from vcci_ops.domain.access import to_deactivate
from vcci_ops.domain.access_report import AccessReport, slack_final, slack_root
from vcci_ops.exceptions import ChangeFailed, DeliveryFailed, NoData
from vcci_ops.hooks import access_record as record
from vcci_ops.hooks.access_record import Review
from vcci_ops.operators.access_base import LISTED, REPORT, AccessOperator, publish, report_of
from vcci_ops.operators.acting import Acting, failing_clearly, pulled, undelivered

if TYPE_CHECKING:
    from airflow.sdk import Context


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
        hashes: dict[str, str] = {}
        parts: dict[str, Callable[[], object]] = {
            "the report bucket": lambda: hashes.update(publish(report, acting)),
            "the history": lambda: self._record(review, report, hashes),
        }
        if report.state != record.DRY_RUN:
            parts["Slack"] = lambda: self._tell(acting, report)
        if failures := undelivered(parts):
            raise DeliveryFailed("the evidence did not arrive everywhere", "; ".join(failures))

    def _record(self, review: Review, report: AccessReport, hashes: Mapping[str, str]) -> None:
        from vcci_ops.hooks.history import History

        state = record.APPROVED if report.state == "failed" else report.state
        self.reviews.end(review.review_id, state, {"verdict": report.verdict, "sha256": dict(hashes)})
        History().record(report, {})

    def _tell(self, acting: Acting, report: AccessReport) -> None:
        from vcci_ops.hooks.thread import RunThread

        thread = RunThread(self.channel, acting.dag_id, acting.run_id)
        thread.say("root", slack_root(report, acting.report_url), root=True)
        thread.say("final", slack_final(report, acting.report_url))


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
