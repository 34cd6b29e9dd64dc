"""Ask an outside system from a trigger without holding up the triggerer's loop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

# Not the loop's own pool: a system that hangs would take its few threads from everything else in the triggerer.
_POOL = ThreadPoolExecutor(32, thread_name_prefix="vcci-ops-poll")


def in_thread(function: Callable[P, R]) -> Callable[P, Awaitable[R]]:
    """Return the blocking function as one to await.

    What it asks of Airflow there (its connections) goes through the triggerer's loop, which is free meanwhile; what
    it logs goes where the trigger's own lines go.
    """
    from asgiref.sync import sync_to_async

    return sync_to_async(function, thread_sensitive=False, executor=_POOL)
