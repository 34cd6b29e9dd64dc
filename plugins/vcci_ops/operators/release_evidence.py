"""What a release leaves: its record, the evidence page with a chart of every watched metric, and who was told."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from vcci_ops.domain import release_text
from vcci_ops.domain.charts import line_chart
from vcci_ops.domain.release_outcome import Ending, Facts
from vcci_ops.domain.release_report import ReleaseReport, render
from vcci_ops.domain.watch import Sample, Verdict, worst_baseline
from vcci_ops.operators.acting import FAILURE, Acting, pulled
from vcci_ops.operators.release_plan import PLAN, REQUEST, in_order
from vcci_ops.settings_watch import WatchMetric

if TYPE_CHECKING:
    from airflow.sdk import Context

SMOKE = {"Smoke tests": "verify.smoke", "Smoke tests after the rollback": "roll_back.smoke"}
FOUND = 200
"""Characters of what a task returned that are still words and no data."""
QUIET = ("dry-run", "nothing-to-do")
"""Endings of which Slack is told nothing: nothing was asked of anybody, nothing was changed."""


class Evidence:
    """Everything a run leaves behind; each part can be written again and replaces what it wrote."""

    def __init__(self, context: Context, acting: Acting, facts: Facts, ending: Ending) -> None:
        self.context = context
        self.acting = acting
        self.facts = facts
        self.ending = ending
        self.plan: dict[str, Any] = in_order(pulled(context, PLAN) or {}, acting.settings.release.workloads)
        self.asked: dict[str, Any] = pulled(context, REQUEST) or {}

    # Parts, each tried whatever the others did --------------------------------------------------------

    def incident(self) -> None:
        """Open an incident record and page, when the platform is left in a state that nobody wanted."""
        from vcci_ops.hooks.pager import page

        if not self.ending.graver:
            return
        title = f"{self.version} on {self.acting.settings.environment}: the rollback failed"
        detail = {"words": self.ending.words, "failed": self.facts.failed}
        text = f"P0: {title}\n\n{self.ending.words}\n\n{self.ending.action}\n\n{self.run_url}"
        # First somebody is called; the record may have to wait for its database.
        page(f"P0: {title}", text, key=f"{self.acting.source}/rollback-failed")
        self.acting.journal.open_incident("P0", title, detail)

    def history(self) -> None:
        """Write the release's record and the run's."""
        from vcci_ops.hooks.history import History
        from vcci_ops.hooks.releases import Releases

        detail = {"words": self.ending.words, "watch": dict(self.facts.watch), "failed": self.facts.failed}
        Releases(self.acting.settings.environment).end(self.acting.journal, self.ending.outcome, detail)
        History().record(self.document, {})

    def report(self) -> None:
        """Store page and document."""
        from vcci_ops.hooks.reports import ReportStore

        ReportStore.of(self.acting.settings).save(self.document, render(self.document))

    def statuspage(self) -> None:
        """End the maintenance, if one was announced."""
        from vcci_ops.hooks.statuspage import Statuspage

        announced = self.acting.journal.recall("statuspage")
        if not announced:
            return
        said = {"released": f"{self.version} is released.", "rolled-back": "We went back to the earlier version."}
        text = said.get(self.ending.outcome, "The maintenance has ended; we keep an eye on it.")
        Statuspage().update(announced["incident"], "completed", text)

    def slack(self) -> None:
        """Bring the headline up to date and post the verdict."""
        from vcci_ops.hooks.thread import RunThread

        if self.ending.outcome in QUIET or not self.asked:
            return
        thread = RunThread(self.acting.settings.slack.channel, self.acting.dag_id, self.acting.run_id)
        told: Mapping[str, Any] = self.plan or {**self.asked, "environment": self.acting.settings.environment}
        headline = release_text.headline(self.ending.outcome, told, note=self.ending.words, url=self.report_url)
        thread.say("root", headline, root=True)
        thread.say(
            "final",
            release_text.final(
                self.ending.outcome,
                told,
                self.ending.words,
                self.ending.action,
                report_url=self.report_url,
                run_url=self.run_url,
            ),
        )

    # What they say ------------------------------------------------------------------------------------

    @property
    def version(self) -> str:
        """The version it is about, as far as the form told."""
        return str(self.asked.get("version") or self.acting.params.get("version") or "a release")

    @property
    def report_url(self) -> str:
        """Where people read the page."""
        return self.acting.report_url

    @property
    def run_url(self) -> str:
        """Where people see the run."""
        return self.acting.run_url

    @cached_property
    def document(self) -> ReleaseReport:
        """The report."""
        run = self.context["dag_run"]
        now = dt.datetime.now(dt.UTC)
        return ReleaseReport(
            title="Rollback" if self.facts.kind == "rollback" else "Release",
            kind=self.facts.kind,
            environment=self.acting.settings.environment,
            dag_id=self.acting.dag_id,
            run_id=self.acting.run_id,
            version=self.version,
            from_version=str(self.asked.get("from_version") or ""),
            outcome=self.ending.outcome,
            words=self.ending.words,
            action=self.ending.action,
            requested_by=self.acting.requested_by,
            started_at=run.start_date or now,
            finished_at=now,
            parameters=self.acting.params,
            reason=str(self.asked.get("reason") or ""),
            approval=self.facts.approval,
            plan=self.plan,
            steps=tuple(self._steps()),
            changelog=self.asked.get("changelog") or "",
            smoke={title: job["junit"] for title, task in SMOKE.items() if (job := self._job(task)) and job["junit"]},
            watch=self._watch(),
            links={"Run in Airflow": self.run_url},
        )

    def _job(self, task: str) -> dict[str, Any]:
        return pulled(self.context, task) or {} if task in self.facts.states else {}

    def _steps(self) -> Iterator[dict[str, Any]]:
        """Yield the run's tasks in their order, with how each ended."""
        ti = self.context["ti"]
        crumbs = ti.get_task_breadcrumbs(ti.dag_id, ti.run_id)  # type: ignore[attr-defined]
        took = {crumb["task_id"]: crumb.get("duration") for crumb in crumbs}
        for task in self.context["dag"].topological_sort():  # type: ignore[no-untyped-call]
            state = self.facts.states.get(task.task_id)
            if state and task.task_id != self.context["ti"].task_id:
                seconds = None if state == "skipped" else took.get(task.task_id)
                yield {"name": task.task_id, "status": state, "seconds": seconds, "detail": self._found(task.task_id)}

    def _found(self, task: str) -> str:
        """Return in a few words what a task found, or why it failed."""
        if self.facts.states[task] == "failed":
            return str(pulled(self.context, task, FAILURE) or "")
        left = pulled(self.context, task) if self.facts.states[task] == "success" else None
        if not isinstance(left, Mapping):
            return left if isinstance(left, str) and len(left) <= FOUND else ""
        if left.get("junit"):
            return f"{left['junit']['tests']} tests passed"
        return str(left.get("message") or left.get("words") or "")

    def _watch(self) -> dict[str, Any]:
        watched = dict(self.facts.watch)
        if not watched.get("watch"):
            return {}
        from vcci_ops.hooks.samples import WatchSamples

        samples = WatchSamples(str(watched["watch"])).read()
        baseline = self.plan.get("baseline") or {}
        metrics = self.acting.settings.release.watch.metrics
        watched["minutes"] = (self.plan.get("watch") or {}).get("minutes")
        watched["metrics"] = [metric_evidence(metric, samples, baseline.get(metric.id)) for metric in metrics]
        return watched


def metric_evidence(metric: WatchMetric, samples: list[Sample], baseline: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what the page shows of one metric: its chart, its limits, the worst of it.

    :param samples: of the whole watch.
    :param baseline: of this metric, as the plan has it.
    """
    found = [(sample, verdict) for sample in samples for verdict in sample.metrics if verdict.id == metric.id]
    points = [(dt.datetime.fromtimestamp(s.due_at, dt.UTC), v.value, str(v.verdict)) for s, v in found]
    normal = worst_baseline(metric, baseline)
    limits = {name: value for name, value in (("above", metric.above), ("below", metric.below)) if value is not None}
    values = [value for _, value, _ in points if value is not None]
    worst = (min if metric.falling else max)(values, default=None)
    gravest = max((v.verdict for _, v in found), key=lambda verdict: verdict.rank, default=Verdict.INCONCLUSIVE)
    return {
        "id": metric.id,
        "title": metric.title,
        "unit": metric.unit,
        "svg": line_chart(metric.title, metric.unit, points, normal, limits) if points else "",
        "baseline": normal,
        "limits": limits,
        "worst": worst,
        "verdict": str(gravest),
        "query": next((v.query for _, v in found), ""),
    }
