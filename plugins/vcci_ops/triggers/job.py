"""Wait for a Job to end, or for the certainty that it cannot begin."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, TypedDict

from airflow.triggers.base import BaseTrigger, TriggerEvent

from vcci_ops.exceptions import MeasurementError, Unreachable
from vcci_ops.hooks.kubernetes_writer import KubernetesWriter
from vcci_ops.hooks.platform_jobs import JobWatcher, PlatformJobs
from vcci_ops.triggers.polling import in_thread


class JobEvent(TypedDict):
    """What the waiting task is told."""

    status: str
    """ended, stuck (its pod cannot start), gone (it was deleted), timeout or failed (it cannot be asked for)."""
    message: str


class JobTrigger(BaseTrigger):
    """Fire when a Job has ended, cannot start, or is gone. It reads nothing of its output and stops nothing.

    :param namespace: of the Job.
    :param job: its name.
    :param uid: its uid.
    :param until: seconds since 1970 when the time is up; absolute, so that a restart of the triggerer adds none.
    :param poll: seconds between two looks.
    :param patience: seconds for which its pod may fail to start.
    :param kubernetes_conn_id: Airflow connection of type kubernetes.
    """

    def __init__(
        self,
        namespace: str,
        job: str,
        uid: str,
        until: float,
        *,
        poll: float = 2.0,
        patience: float = 15.0,
        kubernetes_conn_id: str = "vcci_kubernetes",
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.namespace = namespace
        self.job = job
        self.uid = uid
        self.until = until
        self.poll = poll
        self.patience = patience
        self.kubernetes_conn_id = kubernetes_conn_id

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and what makes it again."""
        keys = ("namespace", "job", "uid", "until", "poll", "patience", "kubernetes_conn_id")
        return "vcci_ops.triggers.job.JobTrigger", {key: getattr(self, key) for key in keys}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look until it has ended."""
        jobs = PlatformJobs(KubernetesWriter(self.kubernetes_conn_id), self.namespace)
        watcher = JobWatcher(jobs, self.job, self.uid, self.patience)
        look = in_thread(self._look)
        while (event := await look(watcher)) is None:
            await asyncio.sleep(self.poll)
        yield TriggerEvent(dict(event))  # type: ignore[no-untyped-call]

    def _look(self, watcher: JobWatcher) -> JobEvent | None:
        try:
            event = watcher.look()
        except Unreachable as error:
            self.log.warning("%s; looking again", error)
            event = None
        except MeasurementError as error:
            return {"status": "failed", "message": str(error)}
        if event:
            return {"status": event["status"], "message": event["message"]}
        if time.time() < self.until:
            return None
        return {"status": "timeout", "message": watcher.standing()}
