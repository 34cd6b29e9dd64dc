"""Watch a fresh release, sample after sample, without a worker and over restarts of the triggerer."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from vcci_ops.domain.watch import MetricVerdict, Outcome, Sample, Verdict, WatchState, event_of, judge_sample
from vcci_ops.domain.watched import change_of, scaled
from vcci_ops.exceptions import Forbidden, MeasurementError, Unreachable
from vcci_ops.hooks.lookups import remembering
from vcci_ops.hooks.prometheus_async import AsyncPrometheus
from vcci_ops.hooks.samples import WatchSamples
from vcci_ops.hooks.watch import MetricReader, in_thread
from vcci_ops.hooks.watch_live import Connections, Found
from vcci_ops.settings_watch import Watch

LATE = "observed late: what shows only the present is left out"
AT_ONCE = 8
"""Samples that are made up at the same time."""
TALK_EVERY = 10.0
"""Seconds between two edits of the Slack message, at least."""
TALK_WITHIN = 15.0
_LEVELS = {Verdict.PASS: logging.INFO, Verdict.INCONCLUSIVE: logging.WARNING}


class WatchTrigger(BaseTrigger):
    """Take the samples of one watch at their due times, and fire when it is decided.

    Sample *n* is due at ``started_at`` + warm-up + *n* × interval, whatever the ones before it took. Each is stored
    as soon as it was observed. A trigger that begins again, after a restart or in another triggerer, reads what is
    stored and makes up what fell due meanwhile: Prometheus is asked for that moment, other sources are left out.

    :param watch: name of the watch in the history database.
    :param settings: :class:`~vcci_ops.settings_watch.Watch` as JSON, as it was when the watch began.
    :param total: number of samples.
    :param started_at: Unix time.
    :param workloads: name → what is expected of a Deployment (:func:`~vcci_ops.domain.watched.expected_of`).
    :param baseline: id of a metric → what is normal.
    :param connections: ids of connections that are not the usual ones.
    :param thread: ``channel``, ``dag_id``, ``run_id`` of the Slack thread; none: nothing is told there.
    """

    def __init__(
        self,
        *,
        watch: str,
        namespace: str,
        settings: dict[str, Any],
        total: int,
        started_at: float,
        workloads: dict[str, dict[str, Any]],
        baseline: dict[str, dict[str, Any]],
        connections: dict[str, str] | None = None,
        thread: dict[str, str] | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow's base has no types
        self.watch = watch
        self.namespace = namespace
        self.settings = settings
        self.total = total
        self.started_at = started_at
        self.workloads = workloads
        self.baseline = baseline
        self.connections = connections or {}
        self.thread = thread

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class and what a new instance needs to go on with this watch."""
        names = (
            "watch",
            "namespace",
            "settings",
            "total",
            "started_at",
            "workloads",
            "baseline",
            "connections",
            "thread",
        )
        return "vcci_ops.triggers.watch.WatchTrigger", {name: getattr(self, name) for name in names}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Watch, and fire once with what became of it."""
        event = await Watcher(self).run()
        yield TriggerEvent(event)  # type: ignore[no-untyped-call]  # Airflow's class has no types


class Watcher:
    """One watch at work: what a trigger does between its begin and its event."""

    def __init__(self, trigger: WatchTrigger) -> None:
        self.log = trigger.log
        self.trigger = trigger
        self.watch = Watch.model_validate(trigger.settings)
        self.state = WatchState(self.watch, trigger.total)
        self.connections = Connections(**trigger.connections)
        self.store = WatchSamples(trigger.watch, self.connections.history)
        self.reader = MetricReader(
            self.watch, trigger.namespace, workloads=trigger.workloads, connections=self.connections
        )
        self.known = (trigger.baseline.get("new_errors") or {}).get("known") or ()
        self.superseded = ""
        self.unsaved: dict[int, Sample] = {}
        self.loaded = False
        self.unanswered = 0
        """How many times in a row the history database did not answer."""
        self._why_unsaved = ""
        self._saving = asyncio.Lock()
        self._looked_up: dict[str, Any] = {}
        self._talking: asyncio.Task[None] | None = None
        self._talked_at = 0.0

    def due(self, number: int) -> float:
        """Return when a sample is due; Unix time."""
        return self.trigger.started_at + self.watch.warm_up + number * self.watch.interval

    async def run(self) -> dict[str, Any]:
        """Watch until it is decided; return the event."""
        try:
            with remembering(self._looked_up):
                ended = await self._until_decided()
        except Exception as error:  # a fault of ours is no fault of the release: nobody may roll back for it
            self.log.exception("The watch has a fault of its own")
            ended = Outcome.HELD, f"the watch has a fault of its own ({type(error).__name__}, see the task's log)"
        if self._talking:  # so that it does not come after what the task says last
            await asyncio.wait([self._talking])
        return self._event(*ended)

    async def _until_decided(self) -> tuple[Outcome, str]:
        running: dict[int, asyncio.Task[None]] = {}
        async with AsyncPrometheus(self.connections.prometheus) as prometheus:
            try:
                await self._save()
                await self._look_for_changes()
                await self._try(prometheus)
                while (ended := self._ended()) is None:
                    self._begin(prometheus, running)
                    await self._wait(running)
            finally:
                for task in running.values():
                    task.cancel()
                await asyncio.gather(*running.values(), return_exceptions=True)
        return ended

    async def _try(self, prometheus: AsyncPrometheus) -> None:
        """Ask every source once before the first sample is due, for log-ins and imports take their time."""
        if self.due(0) > time.time():
            await self.reader.observe(prometheus, time.time(), live=True, known=self.known)

    # The clock --------------------------------------------------------------------------------------

    def _begin(self, prometheus: AsyncPrometheus, running: dict[int, asyncio.Task[None]]) -> None:
        """Begin what is due. What is long overdue waits until it is known what an earlier trigger has stored."""
        now = time.time()
        for number in self.state.missing:
            if number in running or self.due(number) > now:
                continue
            late = self._is_late(number, now)
            if late and (not self.loaded or sum(self._is_late(n, now) for n in running) >= AT_ONCE):
                continue
            running[number] = asyncio.create_task(self._take(prometheus, number, late=late))

    def _is_late(self, number: int, now: float) -> bool:
        return now - self.due(number) > self.watch.interval / 2

    async def _wait(self, running: dict[int, asyncio.Task[None]]) -> None:
        """Wait for the next sample to be due, or for one to be done."""
        now = time.time()
        ahead = [self.due(n) - now for n in self.state.missing if n not in running and self.due(n) > now]
        if running:
            done, _ = await asyncio.wait(
                running.values(), timeout=min(ahead, default=None), return_when=asyncio.FIRST_COMPLETED
            )
            for number in [n for n, task in running.items() if task in done]:
                running.pop(number).result()
        elif ahead:
            await asyncio.sleep(min(ahead))
        else:  # all that is left fell due before: only the database knows whether somebody has it
            await asyncio.sleep(self.watch.interval)
            await self._save()

    # One sample -------------------------------------------------------------------------------------

    async def _take(self, prometheus: AsyncPrometheus, number: int, *, late: bool) -> None:
        observed = time.time()
        if late:
            readings, notes, blind = await self._make_up(prometheus, number), [LATE], None
        else:
            asking = self.reader.observe(prometheus, self.due(number), live=True, known=self.known)
            readings, (notes, blind) = await asyncio.gather(asking, self._look_for_changes())
        if self.superseded:
            return
        sample = judge_sample(
            self.watch,
            number,
            due_at=self.due(number),
            observed_at=observed,
            readings=readings,
            baseline=self.trigger.baseline,
            notes=notes,
        )
        if any(isinstance(reading, Forbidden) for reading in readings.values()):
            self._looked_up.clear()  # a password may have been changed
        if blind:
            sample = dataclasses.replace(sample, metrics=(*sample.metrics, blind))
        self.state.add(sample)
        self.unsaved[number] = sample
        self.log.log(_LEVELS.get(sample.verdict, logging.ERROR), "%s", sample.line(self.state.total))
        await self._save()
        self._talk()

    async def _make_up(self, prometheus: AsyncPrometheus, number: int) -> Found:
        """Ask for a moment that is past. It can be asked for again, so a Prometheus that is away now is waited for.

        As long as for live samples, so that a restart of both is not held at once.
        """
        for _ in range(self.watch.error_limit):
            found = await self.reader.observe(prometheus, self.due(number), live=False)
            if not any(isinstance(reading, Unreachable) for reading in found.values()):
                break
            await asyncio.sleep(self.watch.interval)
        return found

    async def _look_for_changes(self) -> tuple[list[str], MetricVerdict | None]:
        """Notice when a watched Deployment is no longer what was released; say what else happened to them."""
        if not self.trigger.workloads:
            return [], None
        try:
            found = await self.reader.within("Kubernetes", in_thread(self.reader.live.manifests, "kubernetes"))
        except MeasurementError as error:
            words = f"Deployments: {error}"
            return [], MetricVerdict("deployments", "Deployments", "", Verdict.ERROR, words)
        notes = []
        for name, expected in self.trigger.workloads.items():
            if change := change_of(name, expected, found.get(name)):
                self.superseded = self.superseded or change
            else:
                notes.append(scaled(name, expected, found[name]))
        return [note for note in notes if note], None

    # The history database ---------------------------------------------------------------------------

    async def _save(self) -> None:
        """Store what is not stored yet, and take over what is. What cannot be stored is kept and tried again."""
        async with self._saving:
            samples = list(self.unsaved.values())
            try:
                stored = await self.reader.within(
                    "The history database", in_thread(lambda: self._stored(samples), "history")
                )
            except MeasurementError as error:
                self.unanswered += 1
                self._looked_up.pop(self.connections.history, None)  # it may have moved
                self._why_unsaved = str(error)
                self.log.warning("%d samples are kept in memory, for they cannot be stored: %s", len(samples), error)
                return
            if self.unanswered:
                self.log.info("The history database answers again; %d samples are stored now", len(samples))
            self.unanswered, self.loaded = 0, True
            self.state.adopt(stored)
            for sample in samples:
                self.unsaved.pop(sample.number, None)

    def _stored(self, samples: list[Sample]) -> list[Sample]:
        stored = self.store.store(samples) if samples else []
        return stored if self.loaded else self.store.read()

    # The end ----------------------------------------------------------------------------------------

    def _ended(self) -> tuple[Outcome, str] | None:
        if self.superseded:
            return Outcome.SUPERSEDED, self.superseded
        outcome = self.state.outcome
        if outcome:
            return outcome, self.state.reason(outcome)
        if self.unanswered >= self.watch.error_limit:
            why = f"{self.unanswered} times in a row no sample could be stored (limit {self.watch.error_limit})"
            return Outcome.HELD, f"{why}: {self._why_unsaved}"
        return None

    def _event(self, outcome: Outcome, reason: str) -> dict[str, Any]:
        event = event_of(
            self.state,
            outcome,
            watch=self.trigger.watch,
            started_at=self.trigger.started_at,
            ended_at=time.time(),
            reason=reason,
        )
        return {**event, "unsaved": [sample.to_dict() for sample in self.unsaved.values()]}

    # Slack ------------------------------------------------------------------------------------------

    def _talk(self) -> None:
        """Edit the message in the thread, now and then; never wait for it."""
        busy = self._talking is not None and not self._talking.done()
        if self.trigger.thread is None or busy or time.monotonic() - self._talked_at < TALK_EVERY:
            return
        self._talked_at = time.monotonic()
        self._talking = asyncio.create_task(self._say(self.trigger.thread, self.state.progress()))

    async def _say(self, thread: Mapping[str, str], text: str) -> None:
        try:
            await asyncio.wait_for(in_thread(lambda: say(thread, self.connections, text), "slack"), TALK_WITHIN)
        except Exception as error:  # whatever it is, it must not end the watch
            self.log.warning("The Slack thread was not told (%s); the watch goes on", type(error).__name__)


def say(thread: Mapping[str, str], connections: Connections, text: str) -> None:
    """Write the watch's one message in the run's thread, or edit it."""
    from vcci_ops.domain.mrkdwn import escape
    from vcci_ops.hooks.thread import RunThread

    RunThread(
        thread["channel"],
        thread["dag_id"],
        thread["run_id"],
        slack_conn_id=connections.slack,
        history_conn_id=connections.history,
    ).say(thread.get("key", "watch"), escape(text))
