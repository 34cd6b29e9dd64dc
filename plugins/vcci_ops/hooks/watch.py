"""Read the metrics of a watch: now or at a past moment, their baseline, and whether they exist at all."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from asgiref.sync import sync_to_async

from vcci_ops.domain.watch import HOUR, WEEK, Reading
from vcci_ops.exceptions import MeasurementError, NoData, OpsError, UnexpectedAnswer, Unreachable
from vcci_ops.hooks.watch_live import Connections, Found, LiveSources
from vcci_ops.settings import Settings, load_settings
from vcci_ops.settings_watch import Watch, WatchMetric

if TYPE_CHECKING:
    from vcci_ops.hooks.prometheus_async import AsyncPrometheus

log = logging.getLogger(__name__)
T = TypeVar("T")
Vector = list[tuple[dict[str, str], float]]
THREADS = 16
"""Threads for blocking calls, shared by all watches of a process."""
LATE_SECONDS = 12.0
"""A sample that is made up may take this long, for nothing waits for it."""
NAMES = {"kubernetes": "Kubernetes", "redis": "Redis", "postgres": "PostgreSQL", "logs": "Kubernetes (logs)"}


@cache
def _pool(name: str) -> ThreadPoolExecutor:
    """Return a pool of its own to each source, so that one that hangs does not hold up the others."""
    return ThreadPoolExecutor(THREADS, thread_name_prefix=f"watch-{name}")


async def in_thread(call: Callable[[], T], pool: str) -> T:
    """Run a blocking call in one of the watches' threads; Airflow's connections can be looked up there."""
    return await sync_to_async(call, thread_sensitive=False, executor=_pool(pool))()


class MetricReader:
    """Reads the metrics of a watch.

    :param watch: its settings.
    :param namespace: where the workloads are.
    :param workloads: the Deployments whose pods are looked at; default: all that a release changes.
    :param settings: default: those of the environment.
    """

    def __init__(
        self,
        watch: Watch,
        namespace: str,
        *,
        workloads: Iterable[str] = (),
        settings: Settings | None = None,
        connections: Connections = Connections(),  # noqa: B008  frozen
    ) -> None:
        self.watch = watch
        self.settings = settings or load_settings()
        self.connections = connections
        self.live = LiveSources(
            namespace,
            tuple(workloads) or self.settings.release.workloads,
            settings=self.settings,
            window=watch.window,
            grace=watch.interval,
            connections=connections,
        )

    # In a task --------------------------------------------------------------------------------------

    def read(self, metric: WatchMetric, at: float | None = None, known: Iterable[str] = ()) -> Reading:
        """Measure one metric.

        :param at: Unix time, for metrics of Prometheus; default now.
        :param known: error signatures that are not new.
        :raises NoData: when there is nothing to measure.
        :raises MeasurementError: when it cannot be measured.
        """
        if metric.source == "prometheus":
            return self._asked(metric, self.watch.window, at)
        found = self.live.read(metric.source, [metric.id], known)[metric.id]
        if isinstance(found, MeasurementError):
            raise found
        return found

    def baseline(self, metrics: Sequence[WatchMetric] = ()) -> dict[str, dict[str, Any]]:
        """Measure what is normal: over the last hour, over the same hour last week, or where only that is there, now.

        ``{id: {"last_hour": ..., "last_week": ..., "now": ..., "query": ...}}``; None where there is no data or too
        little traffic. The metric ``new_errors`` has ``known``, the signatures that are there already.

        :param metrics: default: all of the watch.
        :raises MeasurementError: when a system does not answer; "no baseline" would be a guess.
        """
        return {metric.id: self._baseline(metric) for metric in metrics or self.watch.metrics}

    def probe(self, metrics: Sequence[WatchMetric] = ()) -> list[str]:
        """Return what is wrong with the metrics, in words: each must have data before anything changes.

        Little traffic is no fault: a watch says so by itself.

        :param metrics: default: all of the watch.
        """
        problems = []
        for metric in metrics or self.watch.metrics:
            try:
                self.read(metric)
            except MeasurementError as error:
                problems.append(f"{metric.title} ({metric.id}): {error}")
        return problems

    @cached_property
    def _prometheus(self) -> Any:
        from vcci_ops.hooks.http import Prometheus

        return Prometheus(self.connections.prometheus)

    def _asked(self, metric: WatchMetric, window: float, at: float | None = None) -> Reading:
        query, traffic = queries(metric, window)
        requests = self._prometheus.vector(traffic, at) if traffic else None
        return reading_of(metric, query, self._prometheus.vector(query, at), traffic, requests)

    def _baseline(self, metric: WatchMetric) -> dict[str, Any]:
        empty: dict[str, Any] = {"last_hour": None, "last_week": None}
        if metric.source == "logs":
            return {**empty, "known": self.live.known_signatures(), "query": self.read(metric).query}
        if metric.source != "prometheus":
            found = self.read(metric)
            return {**empty, "now": found.value, "query": found.query}
        now = time.time()
        then = {"last_hour": now, "last_week": now - WEEK}
        return {**{name: self._normal(metric, at) for name, at in then.items()}, "query": queries(metric, HOUR)[0]}

    def _normal(self, metric: WatchMetric, at: float) -> float | None:
        try:
            found = self._asked(metric, HOUR, at)
        except NoData:
            return None
        return None if (found.traffic or 0.0) < metric.min_traffic and metric.traffic else found.value

    # In a trigger -----------------------------------------------------------------------------------

    async def observe(self, prometheus: AsyncPrometheus, at: float, *, live: bool, known: Iterable[str] = ()) -> Found:
        """Measure all metrics at once, each within the sample's deadline.

        :param at: Unix time for Prometheus.
        :param live: whether the present is that moment; else only Prometheus is asked.
        """
        groups: dict[str, list[WatchMetric]] = {}
        for metric in self.watch.metrics:
            groups.setdefault(metric.source, []).append(metric)
        patience = self.watch.deadline if live else max(self.watch.deadline, LATE_SECONDS)
        jobs = [self._live(s, found, known) for s, found in groups.items() if live and s != "prometheus"]
        if "prometheus" in groups:
            jobs.append(self._from_prometheus(prometheus, groups["prometheus"], at, patience))
        merged: Found = {}
        for part in await asyncio.gather(*jobs):
            merged.update(part)
        return merged

    async def _live(self, source: str, metrics: list[WatchMetric], known: Iterable[str]) -> Found:
        ids = [metric.id for metric in metrics]
        call = in_thread(lambda: self.live.read(source, ids, known), source)
        try:
            return await self.within(NAMES[source], call)
        except MeasurementError as error:
            return dict.fromkeys(ids, error)

    async def _from_prometheus(
        self, prometheus: AsyncPrometheus, metrics: list[WatchMetric], at: float, patience: float
    ) -> Found:
        """Ask each query once, for several metrics stand on the same traffic."""
        asked = [(metric, *queries(metric, self.watch.window)) for metric in metrics]
        texts = list(dict.fromkeys(text for _, *both in asked for text in both if text))
        given = await asyncio.gather(*(self._vector(prometheus, text, at, patience) for text in texts))
        answers = dict(zip(texts, given, strict=True))
        found: Found = {}
        for metric, query, traffic in asked:
            try:
                requests = _or_raise(answers[traffic]) if traffic else None
                found[metric.id] = reading_of(metric, query, _or_raise(answers[query]), traffic, requests)
            except MeasurementError as error:
                found[metric.id] = error
        return found

    async def _vector(
        self, prometheus: AsyncPrometheus, query: str, at: float, patience: float
    ) -> Vector | MeasurementError:
        try:
            return await self.within("Prometheus", prometheus.vector(query, at), patience)
        except MeasurementError as error:
            return error

    async def within(self, system: str, call: Awaitable[T], patience: float | None = None) -> T:
        """Wait for a call no longer than a sample may take.

        :param patience: seconds; default: the sample's deadline.
        :raises Unreachable: when the time is over.
        :raises MeasurementError: whatever else went wrong: it is an answer that could not be had.
        """
        try:
            return await asyncio.wait_for(call, patience or self.watch.deadline)
        except TimeoutError:
            raise Unreachable(system, f"no answer within {patience or self.watch.deadline:.3g} s") from None
        except OpsError as error:
            raise error if isinstance(error, MeasurementError) else MeasurementError(str(error)) from error
        except Exception as error:
            log.exception("Asking %s has a fault of its own", system)
            what = f"{system} could not be asked: {type(error).__name__} (see the task's log)"
            raise MeasurementError(what) from error


def queries(metric: WatchMetric, window: float) -> tuple[str, str]:
    """Return a metric's two queries (value and traffic) with the window filled in."""
    seconds = f"{max(round(window), 1)}s"
    return metric.query.replace("{window}", seconds).strip(), metric.traffic.replace("{window}", seconds).strip()


def reading_of(metric: WatchMetric, query: str, value: Vector, traffic: str, requests: Vector | None) -> Reading:
    """Put the answers to a metric's two queries together.

    A value that is not a number (0/0) is no data, except where there is too little traffic for one.

    :raises NoData: when no series matches.
    :raises UnexpectedAnswer: when several do.
    """
    count = _one(requests, traffic) if requests is not None else None
    number = _one(value, query)
    little = count is not None and not count >= metric.min_traffic
    if not math.isfinite(number) and not little:
        raise NoData(f"Prometheus has no number ({number}) for: {query}")
    asked = f"{query} | traffic: {traffic}" if traffic else query
    return Reading(number if math.isfinite(number) else None, count, asked)


def _one(found: Vector, query: str) -> float:
    if not found:
        raise NoData(f"no series in Prometheus matches: {query}")
    if len(found) > 1:
        raise UnexpectedAnswer("Prometheus", f"{len(found)} series where one was expected: {query}")
    return found[0][1]


def _or_raise(answer: Mapping[str, Any] | Vector | MeasurementError) -> Any:
    if isinstance(answer, MeasurementError):
        raise answer
    return answer
