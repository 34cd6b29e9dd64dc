"""The check of Celery's queues on Redis."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from vcci_ops.domain import queues as domain
from vcci_ops.domain.queues import Broker, Layout
from vcci_ops.domain.results import Result
from vcci_ops.operators.base import CheckOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from vcci_ops.hooks.redis import Question, TimedRedisHook, WorkerMailbox


class QueueCheckOperator(CheckOperator):
    """Check Celery's queues on Redis: how much is undone, for how long, and who works on it.

    Per queue: waiting tasks of all priorities and those that workers took and have not finished; how
    long ago the oldest of these was taken; which workers consume it. Redis reads a key that does not
    exist as an empty list; here zero counts only when the queue is proven to be one, and is *unknown*
    otherwise (wrong prefix or database, misspelt name, a key of another type).

    Everything is read in one round trip, with the question to the workers, ``celery inspect
    active_queues``. The Redis user needs read access to the broker's keys, and for the question SADD,
    SREM, PUBLISH, BRPOP and DEL on ``*.pidbox``.

    :param queues: names of the queues.
    :param key_prefix: Celery's global_keyprefix; default none.
    :param priority_steps: Celery's priority_steps; default 0, 3, 6, 9, as kombu's. Tasks that wait under
        another priority from 0 to 9 count and are named, for no worker takes them.
    :param separator: kombu's sep.
    :param exchanges: exchanges to find the queues' bindings in, beside those called like the queues.
    :param patience: seconds to wait for the first worker's answer, at most 4; default 1.5.
    :param redis_conn_id: Airflow connection; its ``db`` is the broker's; default ``vcci_redis``.
    """

    measures = ("queues.depth", "queues.oldest", "queues.consumers")
    system = "Redis"
    preloads = ("vcci_ops.hooks.redis",)
    template_fields: Sequence[str] = ("redis_conn_id", "queues", "key_prefix")

    def __init__(
        self,
        *,
        queues: Sequence[str],
        key_prefix: str = "",
        priority_steps: Sequence[int] = (0, 3, 6, 9),
        separator: str = "\x06\x16",
        exchanges: Sequence[str] = ("celery",),
        patience: float = 1.5,
        redis_conn_id: str = "vcci_redis",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.queues = queues
        self.key_prefix = key_prefix
        self.priority_steps = priority_steps
        self.separator = separator
        self.exchanges = exchanges
        self.patience = patience
        self.redis_conn_id = redis_conn_id

    @cached_property
    def hook(self) -> TimedRedisHook:
        """The hook with time limits."""
        from vcci_ops.hooks.redis import TimedRedisHook

        return TimedRedisHook(self.redis_conn_id)

    def measure(self, context: Context) -> Iterator[Result]:
        """Read the broker and ask the workers in one round trip; judge; then collect the workers' answers."""
        from vcci_ops.hooks.redis import CeleryBroker

        layout = self._layout()
        try:
            mailbox = self._mailbox() if self.check("queues.consumers") else None
            question, put = mailbox.question() if mailbox else (None, [])
            broker, answers = CeleryBroker(self.hook, layout).read(put)
            yield from self._kept(layout, broker)
            if mailbox and question:
                yield from self._consumed(layout, broker, mailbox, question, answers[-1])
        finally:
            self.hook.close()

    def _layout(self) -> Layout:
        return Layout(
            queues=tuple(self.queues),
            prefix=self.key_prefix,
            steps=tuple(self.priority_steps),
            separator=self.separator,
            exchanges=tuple(self.exchanges),
        )

    def _mailbox(self) -> WorkerMailbox:
        from vcci_ops.hooks.redis import WorkerMailbox

        return WorkerMailbox(self.hook, prefix=self.key_prefix, separator=self.separator)

    def _kept(self, layout: Layout, broker: Broker) -> Iterator[Result]:
        now = time.time()
        depth, oldest = self.check("queues.depth"), self.check("queues.oldest")
        if depth:
            yield from [domain.depth(depth, queue, broker, layout) for queue in layout.queues]
        if oldest:
            yield from [domain.oldest(oldest, queue, broker, layout, now) for queue in layout.queues]

    def _consumed(
        self, layout: Layout, broker: Broker, mailbox: WorkerMailbox, question: Question, receivers: Any
    ) -> Iterator[Result]:
        from vcci_ops.hooks.redis import refused

        if isinstance(receivers, Exception):
            raise refused(receivers)
        answers = mailbox.answers(question, receivers, self.patience)
        workers = domain.read_workers(answers, receivers)
        for check in filter(None, [self.check("queues.consumers")]):
            yield from [domain.consumers(check, queue, broker, layout, workers) for queue in layout.queues]
