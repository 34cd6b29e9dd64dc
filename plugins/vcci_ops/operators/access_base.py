"""What the tasks of an access review share: their connections, the report as it stands, where its pages go."""

from __future__ import annotations

import dataclasses
import datetime as dt
from functools import cached_property
from typing import TYPE_CHECKING, Any

from vcci_ops.domain.access_report import AccessReport, render, table
from vcci_ops.exceptions import MeasurementError
from vcci_ops.hooks import access_record as record
from vcci_ops.hooks.access_record import Review, Reviews
from vcci_ops.links import ReportLink
from vcci_ops.operators.acting import Acting, ActingOperator
from vcci_ops.operators.approval import requester
from vcci_ops.settings import load_settings

if TYPE_CHECKING:
    from airflow.sdk import Context

LISTED, APPROVAL, REPORT = "listed", "approval", "report"
"""XCom keys: what the list has and its hash; the answer; how the review ended."""


class AccessOperator(ActingOperator):
    """What the tasks of a review have in common.

    :param users_conn_id: connection of the production database as vcci_ops_tenants.
    """

    operator_extra_links = (ReportLink(),)

    def __init__(self, *, users_conn_id: str = "vcci_postgres_tenants", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.users_conn_id = users_conn_id

    @cached_property
    def reviews(self) -> Reviews:
        """The reviews of this environment."""
        return Reviews(load_settings().environment)


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

    store = ReportStore.of(acting.settings)
    page, lines = render(report), table(report)
    store.save(report, page)
    store.save_file(acting.dag_id, acting.run_id, "lines.csv", lines.encode(), "text/csv; charset=utf-8")
    texts = {"report.html": page, "report.json": json.dumps(report.to_dict(), indent=1), "lines.csv": lines}
    return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
