"""Wait until workloads are as large as they shall be."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any, TypedDict

from airflow.triggers.base import BaseTrigger, TriggerEvent

from vcci_ops.domain.scaling import Size, missing
from vcci_ops.exceptions import NoData, OpsError, Refused, Unreachable
from vcci_ops.hooks.kubernetes import KubernetesReader
from vcci_ops.triggers.polling import in_thread


class ScaleEvent(TypedDict):
    """What the waiting task is told."""

    status: str
    """done, failed or superseded."""
    message: str


class ScaleTrigger(BaseTrigger):
    """Fire when all workloads are as large as they shall be, somebody else changed one, or the time is up.

    :param namespace: of the workloads.
    :param wanted: name → replicas, least, most (:class:`~vcci_ops.domain.scaling.Size`).
    :param until: seconds since 1970 when the time is up; absolute, so that a restart of the triggerer adds none.
    :param poll: seconds between two looks.
    :param kubernetes_conn_id: Airflow connection of type kubernetes.
    """

    def __init__(
        self,
        namespace: str,
        wanted: Mapping[str, Mapping[str, int | None]],
        until: float,
        *,
        poll: float = 2.0,
        kubernetes_conn_id: str = "vcci_kubernetes",
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.namespace = namespace
        self.wanted = wanted
        self.until = until
        self.poll = poll
        self.kubernetes_conn_id = kubernetes_conn_id

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and what makes it again."""
        keys = ("namespace", "wanted", "until", "poll", "kubernetes_conn_id")
        return "vcci_ops.triggers.scaling.ScaleTrigger", {key: getattr(self, key) for key in keys}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look until it is so."""
        look = in_thread(self._look)
        reader = KubernetesReader(self.kubernetes_conn_id)
        while (event := await look(reader)) is None:
            await asyncio.sleep(self.poll)
        yield TriggerEvent(dict(event))  # type: ignore[no-untyped-call]

    def _look(self, reader: KubernetesReader) -> ScaleEvent | None:
        try:
            lacking = [said for name, size in self.wanted.items() if (said := self._missing(reader, name, size))]
        except Unreachable as error:
            lacking = [str(error)]
        except (Refused, NoData) as error:
            return {"status": "superseded", "message": str(error)}
        except OpsError as error:
            return {"status": "failed", "message": str(error)}
        if not lacking:
            return {"status": "done", "message": "all are as large as they shall be"}
        return {"status": "failed", "message": "; ".join(lacking)} if time.time() >= self.until else None

    def _missing(self, reader: KubernetesReader, name: str, size: Mapping[str, Any]) -> str:
        return missing(reader.deployment(self.namespace, name), Size(**size))
