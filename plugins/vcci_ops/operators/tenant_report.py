"""How runs about tenants tell their end: a page in the report bucket, rows in the history, the headline in Slack."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

from vcci_ops.domain.mrkdwn import link
from vcci_ops.domain.report import Report
from vcci_ops.domain.results import Result, Status
from vcci_ops.domain.tenant_onboarding import Item
from vcci_ops.operators.acting import Acting, failed_tasks, undelivered

if TYPE_CHECKING:
    from airflow.sdk import Context

log = logging.getLogger("airflow.task")


def failures(context: Context) -> str:
    """Return which tasks of this run failed, in words; empty when none did."""
    return "; ".join(f"{task} failed: {why}" for task, why in failed_tasks(context).items())


def item_results(check: str, slug: str, items: Iterable[Item], *, meaning: str, action: str) -> list[Result]:
    """Return what was asked for, each thing as a result of its own.

    :param check: such as ``tenants.onboarding``: what their checks begin with.
    :param meaning: of all of them; :param action: for what is not as it was asked for.
    """
    return [
        Result(
            check=f"{check}.{item.what.replace(' ', '_')}",
            subject=slug,
            status=Status.OK if item.ok else Status.CRITICAL,
            summary=item.said,
            title=item.what[:1].upper() + item.what[1:],
            section="Tenants",
            meaning=meaning,
            action="Nothing." if item.ok else action,
        )
        for item in items
    ]


def store_report(
    context: Context,
    acting: Acting,
    title: str,
    results: Sequence[Result],
    headline: str,
    *,
    private: Collection[str] = (),
) -> list[str]:
    """Store, record and post; each is tried whatever the others did. Return what did not arrive, in words.

    Done again, each replaces what it wrote.

    :param headline: mrkdwn; the first message of the run's thread.
    :param private: names of the parameters that are personal data, and so stand nowhere in the report.
    """
    report = _report(context, acting, title, results, private)
    return undelivered(
        {
            "the report bucket": lambda: _page(report, acting),
            "the history": lambda: _history(report),
            "Slack": lambda: _slack(acting, headline),
        }
    )


def _report(
    context: Context, acting: Acting, title: str, results: Sequence[Result], private: Collection[str]
) -> Report:
    now = dt.datetime.now(dt.UTC)
    return Report(
        title=title,
        environment=acting.settings.environment,
        dag_id=acting.dag_id,
        run_id=acting.run_id,
        started_at=getattr(context["dag_run"], "start_date", None) or now,
        finished_at=now,
        parameters={name: value for name, value in acting.params.items() if name not in private},
        results=tuple(results),
    )


def _page(report: Report, acting: Acting) -> None:
    from vcci_ops.domain.pages import render
    from vcci_ops.hooks.reports import ReportStore

    ReportStore.of(acting.settings).save(report, render(report))


def _history(report: Report) -> None:
    from vcci_ops.hooks.history import History

    History().record(report, {})


def _slack(acting: Acting, headline: str) -> None:
    from vcci_ops.hooks.thread import RunThread

    thread = RunThread(acting.settings.slack.channel, acting.dag_id, acting.run_id)
    thread.say("root", headline, root=True)
    # Its place in the history is how the run's own alarm knows that somebody was told.
    thread.say("final", link(acting.report_url, "Report"))
