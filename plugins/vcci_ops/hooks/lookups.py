"""Airflow connections, looked up once for as long as something is watched.

Each look-up hands the connection's secrets to the process that writes the logs, to be masked there, and waits until it
has them. A task does that a few times. A watch does it for every sample and source, and all watches of a triggerer
share the one loop that answers: with many of them, samples would wait for look-ups.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from airflow.sdk import Connection

H = TypeVar("H", bound=type[Any])
_known: ContextVar[dict[str, Connection] | None] = ContextVar("vcci_ops_connections", default=None)


@contextmanager
def remembering(known: dict[str, Connection]) -> Iterator[None]:
    """Let hooks that are :class:`Remembering` look each connection up once in this context and its threads.

    :param known: where they are kept; clear it, and they are looked up again.
    """
    before = _known.set(known)
    try:
        yield
    finally:
        _known.reset(before)


class Remembering:
    """A hook that takes its connection from the context, where one remembers it; goes before the provider's class."""

    @classmethod
    def get_connection(cls, conn_id: str) -> Connection:
        """Return the Airflow connection."""
        known = _known.get()
        if known is None:
            return super().get_connection(conn_id)  # type: ignore[misc,no-any-return]  # the next class has it
        if conn_id not in known:
            known[conn_id] = super().get_connection(conn_id)  # type: ignore[misc]
        return known[conn_id]


@cache
def remembered(hook: H) -> H:
    """Return a provider's hook class as one that is :class:`Remembering`."""
    return type(hook.__name__, (Remembering, hook), {"__module__": hook.__module__})  # type: ignore[return-value]
