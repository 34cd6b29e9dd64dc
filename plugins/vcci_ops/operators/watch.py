"""Watch a fresh release until its numbers say whether it is good."""

from __future__ import annotations

import dataclasses
import datetime as dt
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.bases.operator import TRIGGER_FAIL_REPR
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from vcci_ops.domain.watch import Outcome, Sample, WatchState, event_of
from vcci_ops.domain.watched import expected_of
from vcci_ops.exceptions import MeasurementError, NoData, OpsError, Refused, Unreachable
from vcci_ops.hooks.watch_live import Connections
from vcci_ops.settings import load_settings
from vcci_ops.settings_watch import Watch

if TYPE_CHECKING:
    from airflow.sdk import Context

    from vcci_ops.hooks.releases import Journal

WATCH_KEY = "watch"
"""XCom key of what became of the watch."""
GRACE = 6 * 3600.0
"""Seconds beyond its planned end after which a watch that nobody carries on (no triggerer) ends the task failed."""
UNFINISHED = "the watch did not come to its end"
_AGAIN = frozenset({Outcome.HELD, Outcome.INCONCLUSIVE})
"""Outcomes after which a cleared task watches anew; the others stand."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class WatchSubject:
    """What is watched.

    :param workloads: name of a Deployment → ``generation`` and ``image`` that it has now; with ``spec`` as
        well (:func:`~vcci_ops.domain.watched.expected_of`) where time may pass until the watch begins: without it,
        a change of replicas in that time counts as a change of the release.
    :param baseline: what :meth:`MetricReader.baseline` found before the release.
    :param minutes: how long; default: the settings'.
    """

    workloads: Mapping[str, Mapping[str, Any]]
    baseline: Mapping[str, Mapping[str, Any]]
    minutes: float | None = None


class WatchOperator(BaseOperator):
    """Watch a release: sample its numbers at fixed times, deferred, until they decide.

    Leaves in XCom ``watch`` what became of it, before the task ends: ``outcome`` (passed, failed, held,
    inconclusive, superseded), ``reason``, ``counts``, ``samples``, ``started_at``, ``ended_at`` and ``watch``, the
    name under which every sample stands in the table watch_sample of the history database.

    Only ``passed`` ends the task well. ``failed``: as many samples failed as ``failure_limit`` says. ``held``:
    nothing could be seen for ``error_limit`` samples in a row; the on-call is paged, and nobody may take that for
    a reason to roll back. ``inconclusive``: too little traffic all the time. ``superseded``: somebody changed a
    watched Deployment. A task that was killed and is cleared goes on with the same watch; one that is cleared
    after it was held or inconclusive watches anew; any other outcome stands.

    :param namespace: where the Deployments are (templated).
    :param workloads: Deployments to watch, where :meth:`subject` is not overridden; default: all of a release.
    :param minutes: how long to watch, where :meth:`subject` is not overridden; default: the settings'.
    :param watch: limits and metrics; default: the settings' ``release.watch``.
    :param channel: Slack channel of the run's thread; "" tells nothing there; default: the settings'.
    :raises AirflowFailException: for every outcome but passed; its text begins with the outcome.
    """

    template_fields: Sequence[str] = ("namespace",)
    ui_color = "#e3ecf7"

    def __init__(
        self,
        *,
        namespace: str,
        workloads: Sequence[str] = (),
        minutes: float | None = None,
        watch: Watch | None = None,
        channel: str | None = None,
        connections: Connections = Connections(),  # noqa: B008  frozen
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.namespace = namespace
        self.workloads = workloads
        self.minutes = minutes
        self.watch = watch
        self.channel = channel
        self.connections = connections

    def subject(self, context: Context) -> WatchSubject:
        """Return what to watch; called once, when the watch begins.

        As it is here: the Deployments as they are now, compared with what was normal until now.

        :raises Refused: when it is not there any more as it was released; the watch then ends *superseded*.
        """
        from vcci_ops.hooks.watch import MetricReader

        reader = MetricReader(self._settings, self.namespace, workloads=self.workloads, connections=self.connections)
        found = reader.live.manifests()
        missing = sorted(reader.live.workloads - set(found))
        if missing:
            raise NoData(f"there is no Deployment {', '.join(missing)} in namespace {self.namespace}")
        workloads = {name: expected_of(manifest) for name, manifest in found.items()}
        return WatchSubject(workloads=workloads, baseline=reader.baseline(), minutes=self.minutes)

    def execute(self, context: Context) -> None:
        """Begin the watch, or find the one that this run has begun; then wait deferred."""
        book = _Book(self, context)
        # Whatever kills this task: who reads what became of the watch must not take its silence for a failed release.
        context["ti"].xcom_push(key=WATCH_KEY, value=self._unwatched(book, Outcome.HELD, UNFINISHED))
        try:
            begun = book.begun() or book.begin(self._with_digests(self.subject(context)), self._settings)
        except Refused as error:
            self._finish(context, book, self._unwatched(book, Outcome.SUPERSEDED, str(error)))
            return
        except Unreachable as error:
            raise AirflowException(str(error)) from error
        except OpsError as error:
            raise AirflowFailException(str(error)) from error
        self._defer(context, book, begun)

    def _defer(self, context: Context, book: _Book, begun: dict[str, Any]) -> None:
        from vcci_ops.triggers.watch import WatchTrigger

        watch = Watch.model_validate(begun["settings"])
        lasts = watch.warm_up + begun["total"] * watch.interval
        self.log.info(
            "Watching %s: %d samples, one every %g s, until %s; the samples stand under %s",
            ", ".join(begun["workloads"]),
            begun["total"],
            watch.interval,
            dt.datetime.fromtimestamp(begun["started_at"] + lasts, dt.UTC).isoformat(timespec="seconds"),
            book.watch,
        )
        trigger = WatchTrigger(
            watch=book.watch,
            namespace=self.namespace,
            connections=dataclasses.asdict(self.connections),
            thread=self._thread(context),
            **begun,
        )
        self.defer(
            trigger=trigger,
            method_name="execute_complete",
            timeout=dt.timedelta(seconds=lasts + GRACE),
        )

    def execute_complete(self, context: Context, event: dict[str, Any]) -> None:
        """Publish what became of the watch, then end as it says."""
        self._finish(context, _Book(self, context), event)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Go on after the wait; a trigger that failed or ran out of time is a watch that nobody kept: held."""
        if next_method != TRIGGER_FAIL_REPR:
            return super().resume_execution(next_method, next_kwargs, context)
        given = next_kwargs or {}
        for line in given.get("traceback") or ():
            self.log.error("%s", line.rstrip())
        book = _Book(self, context)
        why = f"the watch itself broke off ({given.get('error', 'unknown')}); its samples so far are stored"
        return self._finish(context, book, self._unwatched(book, Outcome.HELD, why))

    def page(self, subject: str, text: str) -> None:
        """Call the on-call."""
        from vcci_ops.hooks.pager import page

        page(subject, text)

    # How --------------------------------------------------------------------------------------------

    @property
    def _settings(self) -> Watch:
        return self.watch or load_settings().release.watch

    def _with_digests(self, subject: WatchSubject) -> WatchSubject:
        """Add what tells an autoscaler's change from others, to Deployments that are still as the subject says."""
        from vcci_ops.hooks.watch import MetricReader

        lacking = [name for name, expected in subject.workloads.items() if "spec" not in expected]
        if not lacking:
            return subject
        reader = MetricReader(self._settings, self.namespace, workloads=lacking, connections=self.connections)
        workloads = dict(subject.workloads)
        for name, manifest in reader.live.manifests().items():
            now = expected_of(manifest, str(workloads[name].get("image") or ""))
            if now["generation"] == workloads[name]["generation"]:
                workloads[name] = now
        return dataclasses.replace(subject, workloads=workloads)

    def _unwatched(self, book: _Book, outcome: Outcome, reason: str) -> dict[str, Any]:
        now = time.time()
        state = WatchState(self._settings, 0)
        return event_of(state, outcome, watch=book.watch, started_at=now, ended_at=now, reason=reason)

    def _thread(self, context: Context) -> dict[str, str] | None:
        channel = load_settings().slack.channel if self.channel is None else self.channel
        run = context["dag_run"]
        key = {
            "dag_id": str(run.dag_id),
            "run_id": str(run.run_id),
            "key": re.sub(r"[^a-z0-9_.-]", "-", self.task_id.lower())[:64],
        }
        return {"channel": channel, **key} if channel else None

    def _finish(self, context: Context, book: _Book, event: dict[str, Any]) -> None:
        outcome = Outcome(event["outcome"])
        book.save([Sample.from_dict(data) for data in event.get("unsaved") or ()])
        result = {key: value for key, value in event.items() if key != "unsaved"}
        context["ti"].xcom_push(key=WATCH_KEY, value=result)
        words = f"{outcome.upper()}: {event['reason']}"
        if outcome is Outcome.HELD:
            self._call_somebody(context, words)
        self._tell(context, outcome, words)
        book.end(outcome)
        if outcome is not Outcome.PASSED:
            raise AirflowFailException(words)
        self.log.info("%s", words)

    def _call_somebody(self, context: Context, words: str) -> None:
        run = context["dag_run"]
        text = (
            f"{words}\n\n{run.dag_id} / {run.run_id}: the release runs and is not judged. It was neither passed nor "
            "rolled back. See what the metrics' systems lack, look at the release yourself, then clear this task to "
            "watch it again, or roll back."
        )
        try:
            self.page(f"{run.dag_id}: the watch is held", text)
        except Exception:
            self.log.exception("The on-call could not be paged")

    def _tell(self, context: Context, outcome: Outcome, words: str) -> None:
        thread = self._thread(context)
        if thread is None:
            return
        try:
            from vcci_ops.triggers.watch import say

            say(thread, self.connections, f"Watch {words}")
        except Exception as error:
            self.log.warning("The Slack thread was not told (%s)", type(error).__name__)


class _Book:
    """Where a task notes that its watch has begun and how it ended, so that a repeated one goes on with it.

    In the history database; and in Airflow's task state as well, so that a watch can begin while that is away.
    """

    def __init__(self, operator: WatchOperator, context: Context) -> None:
        self.log = operator.log
        self.history = operator.connections.history
        self._store = context.get("task_state_store")
        run, ti = context["dag_run"], context["ti"]
        self._run = (load_settings().environment, str(run.dag_id), str(run.run_id))
        index = getattr(ti, "map_index", -1)
        self._task = operator.task_id if index in (None, -1) else f"{operator.task_id}[{index}]"
        self.attempt = self._attempt()

    @property
    def watch(self) -> str:
        """Name of the watch."""
        again = f"#{self.attempt}" if self.attempt > 1 else ""
        return "/".join((*self._run, self._task)) + again

    @property
    def _step(self) -> str:
        return f"{self._task}.watch.{self.attempt}"

    def begun(self) -> dict[str, Any] | None:
        """Return how the present watch began, or None when it did not yet."""
        return self._recall(self._step)

    def begin(self, subject: WatchSubject, watch: Watch) -> dict[str, Any]:
        """Note once that it begins now; return what stands there."""
        detail = {
            "settings": watch.model_dump(mode="json"),
            "total": watch.samples(subject.minutes),
            "started_at": time.time(),
            "workloads": {name: dict(expected) for name, expected in subject.workloads.items()},
            "baseline": {name: dict(normal) for name, normal in subject.baseline.items()},
        }
        return self._remember(self._step, detail)

    def end(self, outcome: Outcome) -> None:
        """Note how it ended, last of all: a task that is killed before finds the same end again."""
        try:
            self._remember(f"{self._step}.end", {"outcome": str(outcome)})
        except MeasurementError as error:
            self.log.warning("How the watch ended is not noted: %s", error)

    def save(self, samples: Sequence[Sample]) -> None:
        """Store what the trigger could not store."""
        from vcci_ops.hooks.samples import WatchSamples

        if not samples:
            return
        try:
            WatchSamples(self.watch, self.history).store(samples)
        except MeasurementError as error:
            for sample in samples:
                self.log.warning("Not stored: %s", sample.to_dict())
            self.log.exception("%d samples stand in this log only: %s", len(samples), error)

    def _attempt(self) -> int:
        for attempt in _from_one():
            self.attempt = attempt
            ended = self._recall(f"{self._step}.end")
            if ended is None or ended["outcome"] not in _AGAIN:
                return attempt
        raise AssertionError("unreachable")

    @property
    def _journal(self) -> Journal:
        from vcci_ops.hooks.releases import Journal

        return Journal(*self._run, conn_id=self.history)

    def _recall(self, step: str) -> dict[str, Any] | None:
        try:
            noted = self._journal.recall(step)
        except MeasurementError as error:
            self.log.warning("What this run has done is looked up in Airflow's task state only: %s", error)
            noted = None
        if noted is None and self._store:
            kept = self._store.get(step)
            noted = dict(kept) if isinstance(kept, dict) else None
        return noted

    def _remember(self, step: str, detail: dict[str, Any]) -> dict[str, Any]:
        try:
            detail = self._journal.remember(step, detail)
        except MeasurementError as error:
            self.log.warning("What this run does is noted in Airflow's task state only: %s", error)
            if self._store is None:
                raise
        if self._store:
            self._store.set(step, detail)
        return detail


def _from_one() -> Iterator[int]:
    number = 1
    while True:
        yield number
        number += 1
