"""Wait until the change lock is free."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, TypedDict

from airflow.triggers.base import BaseTrigger, TriggerEvent

from vcci_ops.exceptions import OpsError, Unreachable
from vcci_ops.hooks.lease import NAME, ChangeLock
from vcci_ops.triggers.polling import in_thread


class LockEvent(TypedDict):
    """What the waiting task is told."""

    status: str
    """free, timeout or failed."""
    message: str


class LockTrigger(BaseTrigger):
    """Fire when nobody holds the lock, or the time is up. It takes nothing: the task tries, and may be too late.

    :param namespace: whose lock.
    :param holder: who waits, as ``dag_id/run_id``; a lock that it has itself counts as free.
    :param until: seconds since 1970 when the time is up; absolute, so that a restart of the triggerer adds none.
    :param poll: seconds between two looks.
    :param kubernetes_conn_id: Airflow connection of type kubernetes.
    :param name: of the Lease.
    """

    def __init__(
        self,
        namespace: str,
        holder: str,
        until: float,
        *,
        poll: float = 5.0,
        kubernetes_conn_id: str = "vcci_kubernetes",
        name: str = NAME,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.namespace = namespace
        self.holder = holder
        self.until = until
        self.poll = poll
        self.kubernetes_conn_id = kubernetes_conn_id
        self.name = name

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and what makes it again."""
        keys = ("namespace", "holder", "until", "poll", "kubernetes_conn_id", "name")
        return "vcci_ops.triggers.lock.LockTrigger", {key: getattr(self, key) for key in keys}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look until it is free."""
        look = in_thread(self._look)
        lock = ChangeLock(self.namespace, kubernetes_conn_id=self.kubernetes_conn_id, name=self.name)
        while (event := await look(lock)) is None:
            await asyncio.sleep(self.poll)
        yield TriggerEvent(dict(event))  # type: ignore[no-untyped-call]

    def _look(self, lock: ChangeLock) -> LockEvent | None:
        try:
            state = lock.current()
        except Unreachable as error:
            said = str(error)
        except OpsError as error:
            return {"status": "failed", "message": str(error)}
        else:
            if state is None or state.holder in ("", self.holder):
                return {"status": "free", "message": "nobody holds the lock"}
            said = str(state)
        if time.time() < self.until:
            return None
        return {"status": "timeout", "message": said}
