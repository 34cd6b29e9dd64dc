"""Wait until Prometheus has a series."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from vcci_ops.exceptions import MeasurementError, Unreachable
from vcci_ops.hooks.prometheus_async import AsyncPrometheus


class SeriesTrigger(BaseTrigger):
    """Fire when a query matches at least one series, Prometheus rejects it, or the time is up.

    The event: ``status`` (``done``, ``timeout`` or ``failed``) and ``message``.

    :param query: PromQL.
    :param until: seconds since 1970 when the time is up; absolute, so that a restart of the triggerer adds none.
    :param poll: seconds between two looks.
    :param http_conn_id: connection of Prometheus.
    """

    def __init__(self, query: str, until: float, *, poll: float = 3.0, http_conn_id: str = "vcci_prometheus") -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.query = query
        self.until = until
        self.poll = poll
        self.http_conn_id = http_conn_id

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and what makes it again."""
        keys = ("query", "until", "poll", "http_conn_id")
        return "vcci_ops.triggers.series.SeriesTrigger", {key: getattr(self, key) for key in keys}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look until it is there."""
        async with AsyncPrometheus(self.http_conn_id) as prometheus:
            while (event := await self._look(prometheus)) is None:
                await asyncio.sleep(self.poll)
        yield TriggerEvent(event)  # type: ignore[no-untyped-call]

    async def _look(self, prometheus: AsyncPrometheus) -> dict[str, str] | None:
        try:
            found = await prometheus.vector(self.query)
            lacking = f"no series in Prometheus for: {self.query}"
        except Unreachable as error:
            found, lacking = [], str(error)
        except MeasurementError as error:
            return {"status": "failed", "message": str(error)}
        if found:
            return {"status": "done", "message": f"{len(found)} series for: {self.query}"}
        return {"status": "timeout", "message": lacking} if time.time() >= self.until else None
