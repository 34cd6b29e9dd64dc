"""Requests side by side, without ever holding up the one who waits for them.

``concurrent.futures``' pools wait for their threads when a block or the interpreter ends. A check that
ran out of time must not wait: these threads are daemons, and those that are told to stop take no more
work. What still runs is bounded by its own request's time-out.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import TypeVar

T = TypeVar("T")


class Crew:
    """Run calls in up to ``size`` daemon threads.

    Use it as a context manager: leaving the block ends the threads after what they are doing, without
    waiting. :attr:`stopped` is for calls that can stop half-way.

    >>> with Crew(2) as crew:
    ...     crew.submit(lambda: 1 + 1).result()
    2
    """

    def __init__(self, size: int = 4) -> None:
        self.size = size
        self.stopped = threading.Event()
        self._calls: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._threads = 0

    def submit(self, call: Callable[[], T]) -> Future[T]:
        """Queue a call; the future carries its result or its exception."""
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(call())
            except BaseException as error:
                future.set_exception(error)

        self._calls.put(run)
        if self._threads < self.size:
            self._threads += 1
            threading.Thread(target=self._work, daemon=True, name=f"crew-{self._threads}").start()
        return future

    def _work(self) -> None:
        while not self.stopped.is_set():
            try:
                self._calls.get(timeout=0.2)()
            except Empty:
                continue

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stopped.set()
