"""Celery's queues as kombu keeps them in Redis: what is where, and what it means.

A queue is a list per priority step; tasks that a worker took and has not acknowledged are in one hash
for all queues. A key that is missing reads as an empty list, so nothing is believed to be empty that
is not proven to be a queue: by its binding, which every worker and producer declares, by waiting
tasks, or by tasks in flight. See kombu.transport.redis, Channel and QoS.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from vcci_ops.domain.checks import judged, unknown
from vcci_ops.domain.results import Result
from vcci_ops.domain.units import duration
from vcci_ops.exceptions import MeasurementError, NoData
from vcci_ops.settings import Check

PRIORITIES = range(10)
"""What Celery's priorities can be on Redis."""
SAMPLE = 1000
"""Unacknowledged tasks that are read; beyond, their shares are estimated from these."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """Where kombu keeps things.

    :param prefix: Celery's global_keyprefix.
    :param steps: Celery's priority_steps. The lists of all priorities 0 to 9 are read, for a producer with
        other steps puts tasks where no worker looks.
    :param separator: kombu's sep, between queue and priority.
    :param exchanges: exchanges whose bindings are read, beside those called like a queue.
    """

    queues: tuple[str, ...]
    prefix: str = ""
    steps: tuple[int, ...] = (0, 3, 6, 9)
    separator: str = "\x06\x16"
    exchanges: tuple[str, ...] = ("celery",)

    def lists(self, queue: str) -> dict[int, str]:
        """Return priority → key of its list, also of those that are no step; the lowest has the bare name."""
        return {n: f"{self.prefix}{queue}{f'{self.separator}{n}' if n else ''}" for n in self.priorities}

    @property
    def priorities(self) -> tuple[int, ...]:
        """Priorities whose lists are read."""
        return tuple(sorted({*PRIORITIES, *self.steps}))

    def binding(self, exchange: str) -> str:
        """Return the key of an exchange's bindings."""
        return f"{self.prefix}_kombu.binding.{exchange}"

    @property
    def bindings(self) -> tuple[str, ...]:
        """Exchanges to look at."""
        return tuple(dict.fromkeys((*self.queues, *self.exchanges)))

    @property
    def unacked(self) -> str:
        """Key of the hash delivery tag → task."""
        return f"{self.prefix}unacked"

    @property
    def index(self) -> str:
        """Key of the sorted set delivery tag → when it was taken."""
        return f"{self.prefix}unacked_index"

    def members(self, raw: Sequence[bytes]) -> list[tuple[str, str]]:
        """Read bindings as (routing key, queue)."""
        split = (member.decode(errors="replace").split(self.separator) for member in raw)
        return [(parts[0], parts[-1]) for parts in split if len(parts) == 3]

    def shown(self, queue: str) -> str:
        """Return a queue's keys in one readable line."""
        others = ", ".join(str(priority) for priority in self.priorities if priority)
        return f"LLEN {self.prefix}{queue}" + (f" and its priorities {others}" if others else "")


class Task(NamedTuple):
    """A task that a worker took."""

    tag: str
    queue: str
    """"" when it cannot be told."""
    name: str
    id: str


@dataclasses.dataclass(kw_only=True)
class Broker:
    """What the broker holds.

    :param waiting: queue → priority → tasks, or why it is not known.
    :param routes: (exchange, routing key) → queue, from the bindings.
    :param in_flight: unacknowledged tasks of all queues.
    :param tasks: delivery tag → task, a sample of those.
    :param taken: delivery tag → when it was taken (Unix time), the oldest first.
    """

    waiting: dict[str, dict[int, int] | MeasurementError]
    routes: dict[tuple[str, str], str]
    in_flight: int
    tasks: dict[str, Task]
    taken: dict[str, float]

    def waits(self, queue: str) -> int:
        """Number of waiting tasks of a queue; raises why it is not known."""
        found = self.waiting[queue]
        if isinstance(found, MeasurementError):
            raise found
        return sum(found.values())

    def flying(self, queue: str) -> int:
        """Number of a queue's tasks in flight, estimated when there are very many."""
        seen = sum(1 for task in self.tasks.values() if task.queue == queue)
        return seen if len(self.tasks) >= self.in_flight else round(seen * self.in_flight / max(len(self.tasks), 1))

    @property
    def sampled(self) -> bool:
        """Whether only a part of the tasks in flight was read."""
        return len(self.tasks) < self.in_flight

    def is_proven(self, queue: str) -> bool:
        """Whether this is known to be a queue, so that empty means empty."""
        return queue in self.routes.values() or self.waits(queue) > 0 or self.flying(queue) > 0

    def require(self, queue: str, layout: Layout) -> None:
        """Raise unless the queue is proven.

        :raises NoData: says whether it is this queue or all of them.
        """
        if self.is_proven(queue):
            return
        if not any(self.waiting[q] and not isinstance(self.waiting[q], MeasurementError) and self.is_proven(q)
                   for q in layout.queues):  # fmt: skip
            raise NoData(
                f"no key of Celery under the prefix {layout.prefix!r} in this database: are key_prefix and db right?"
            )
        raise NoData(f"no worker or producer ever bound a queue {queue}, so an empty list proves nothing")


def read_task(tag: str, raw: bytes, routes: Mapping[tuple[str, str], str], queues: Sequence[str]) -> Task:
    """Read an entry of the hash of unacknowledged tasks: [message, exchange, routing key]."""
    try:
        message, exchange, routing_key = json.loads(raw)
        headers = message.get("headers") or {}
        name, id_ = str(headers.get("task", "?")), str(headers.get("id", "?"))
    except (ValueError, TypeError, AttributeError):
        return Task(tag, "", "?", "?")
    queue = routes.get((exchange, routing_key), "")
    if not queue:
        queue = next((q for q in (routing_key, exchange) if q in queues), "")
    return Task(tag, queue, name[:100], id_[:40])


def depth(check: Check, queue: str, broker: Broker, layout: Layout) -> Result:
    """Judge how many tasks of a queue are not done: waiting ones of all priorities, and those in flight."""
    query = f"{layout.shown(queue)}; HLEN, HSCAN {layout.unacked}"
    try:
        waits, flying = broker.waits(queue), broker.flying(queue)
        broker.require(queue, layout)
    except MeasurementError as error:
        return unknown(check, error, subject=queue, query=query)
    by_priority = broker.waiting[queue]
    details = []
    if isinstance(by_priority, dict):
        details = [
            f"priority {priority}: {n} waiting{'' if priority in layout.steps else ', not in priority_steps'}"
            for priority, n in by_priority.items()
            if n
        ]
    about = "about " if broker.sampled else ""
    summary = f"{waits} waiting, {about}{flying} taken by workers and not finished"
    return judged(check, waits + flying, summary, subject=queue, details=tuple(details), query=query)


def oldest(check: Check, queue: str, broker: Broker, layout: Layout, now: float) -> Result:
    """Judge for how long the oldest task of a queue is in flight, in seconds."""
    query = f"ZRANGE {layout.index} 0 {SAMPLE - 1} WITHSCORES; HSCAN {layout.unacked}"
    try:
        flying = broker.flying(queue)
        broker.require(queue, layout)
    except MeasurementError as error:
        return unknown(check, error, subject=queue, query=query)
    tasks = [(at, broker.tasks[tag]) for tag, at in broker.taken.items() if tag in broker.tasks]
    own = [(at, task) for at, task in tasks if task.queue == queue]
    if not flying:
        return judged(check, 0.0, "No task in flight", display="none in flight", subject=queue, query=query)
    if not own:
        bound = max(now - max(broker.taken.values(), default=now), 0.0)
        summary = f"{flying} in flight, none among the {len(broker.taken)} oldest of all queues"
        return judged(check, bound, summary, subject=queue, query=query)
    age = max(now - own[0][0], 0.0)
    details = tuple(f"{duration(max(now - at, 0.0))}: {task.name} {task.id}" for at, task in own[:5])
    summary = f"{own[0][1].name} was taken {duration(age)} ago; {flying} in flight"
    return judged(check, age, summary, subject=queue, details=details, query=query)


class Workers(NamedTuple):
    """What the workers said."""

    queues: Mapping[str, frozenset[str]]
    """Worker → the queues it consumes."""
    receivers: int
    """How many workers got the question."""


def read_workers(answers: Mapping[str, Any], receivers: int) -> Workers:
    """Read the answers to active_queues."""
    found = {}
    for worker, queues in answers.items():
        listed = queues if isinstance(queues, list) else []
        found[worker] = frozenset(str(q["name"]) for q in listed if isinstance(q, dict) and "name" in q)
    return Workers(found, receivers)


def consumers(check: Check, queue: str, broker: Broker, layout: Layout, workers: Workers) -> Result:
    """Judge how many workers consume a queue."""
    query = f"PUBLISH {layout.prefix}/N.celery.pidbox active_queues"
    having = sorted(worker for worker, queues in workers.queues.items() if queue in queues)
    silent = workers.receivers - len(workers.queues)
    try:
        if not having:
            broker.require(queue, layout)
        if not having and silent > 0:
            raise NoData(f"{silent} of {workers.receivers} workers did not say what they consume")
        waits = broker.waits(queue)
    except MeasurementError as error:
        return unknown(check, error, subject=queue, query=query)
    if having:
        summary = f"{len(having)} of {workers.receivers} workers: {', '.join(having[:5])}"
    elif workers.queues:
        summary = f"None of {len(workers.queues)} workers takes from it; {waits} tasks wait"
    else:
        summary = f"There is no worker; {waits} tasks wait"
    display = f"{len(having)} workers" if len(having) != 1 else "1 worker"
    return judged(check, len(having), summary, subject=queue, display=display, details=tuple(having[:20]), query=query)
