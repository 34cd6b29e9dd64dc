"""Wait for a rollout: a look a second, and an end as soon as it is certain how it ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from vcci_ops.exceptions import MeasurementError, Unreachable
from vcci_ops.hooks.rollouts import RolloutWatcher
from vcci_ops.triggers.polling import in_thread


class RolloutTrigger(BaseTrigger):
    """Fire when a Deployment's rollout is done, has failed, or is no longer the one that was begun.

    The event: ``workload``; ``status`` (done, failed or superseded); ``message``, for a failure with the pod's last
    log lines; ``details`` (lines); when done also ``generation``, ``revision``, ``images``, ``replicas``. An API server
    that does not answer is asked again until the time is up.

    :param namespace: of the Deployment.
    :param workload: its name.
    :param generation: that it had after the change; what is seen of an earlier one does not count.
    :param uid: of the Deployment.
    :param within: seconds until it counts as failed.
    :param poll: seconds between two looks.
    :param kubernetes_conn_id: Airflow connection of type kubernetes.
    :param template: digest of its pod template after the change
        (:func:`vcci_ops.domain.rollouts.template_digest`): another one is somebody else's. "" does not look at that.
    :param until: seconds since 1970 when the time is up; default: ``within`` from now. It stands in the serialized
        trigger, so that a restart of the triggerer adds nothing.
    :param patience: seconds for which an image that cannot be pulled, a missing Secret or an exhausted quota must
        last to be a failure.
    """

    def __init__(
        self,
        namespace: str,
        workload: str,
        generation: int,
        uid: str,
        *,
        within: float,
        poll: float = 1.0,
        kubernetes_conn_id: str = "vcci_kubernetes",
        template: str = "",
        until: float = 0.0,
        patience: float = 15.0,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.namespace = namespace
        self.workload = workload
        self.generation = generation
        self.uid = uid
        self.within = within
        self.poll = poll
        self.kubernetes_conn_id = kubernetes_conn_id
        self.template = template
        self.until = until or time.time() + within
        self.patience = patience

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and what makes it again."""
        keys = (
            "namespace",
            "workload",
            "generation",
            "uid",
            "within",
            "poll",
            "kubernetes_conn_id",
            "template",
            "until",
            "patience",
        )
        return "vcci_ops.triggers.rollout.RolloutTrigger", {key: getattr(self, key) for key in keys}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look until it has ended."""
        watcher = RolloutWatcher(
            self.namespace,
            self.workload,
            uid=self.uid,
            generation=self.generation,
            template=self.template,
            patience=self.patience,
            kubernetes_conn_id=self.kubernetes_conn_id,
        )
        look = in_thread(self._look)
        while (event := await look(watcher)) is None:
            await asyncio.sleep(self.poll)
        yield TriggerEvent(event)  # type: ignore[no-untyped-call]

    def _look(self, watcher: RolloutWatcher) -> dict[str, Any] | None:
        try:
            event = watcher.look()
        except Unreachable as error:
            self.log.warning("%s; looking again", error)
            event = None
        except MeasurementError as error:
            return _failed(self.workload, f"{self.workload} cannot be watched: {error}")
        if event is None and time.time() >= self.until:
            return watcher.timed_out(self.within)
        return event


def _failed(workload: str, message: str) -> dict[str, Any]:
    return {"status": "failed", "message": message, "details": [], "workload": workload}
