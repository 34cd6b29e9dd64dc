"""Change a Deployment and wait for its rollout, deferred."""

from __future__ import annotations

import datetime as dt
import time
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowSkipException

from vcci_ops.domain.rollouts import RUN, WorkloadChange, template_digest
from vcci_ops.exceptions import ChangeFailed, MeasurementError
from vcci_ops.hooks.kubernetes_writer import KubernetesWriter
from vcci_ops.hooks.lease import ChangeLock
from vcci_ops.operators.acting import failing_clearly
from vcci_ops.operators.lock import holder_of

if TYPE_CHECKING:
    from airflow.sdk import Context

__all__ = ["RolloutOperator", "WorkloadChange", "restart_mark"]

_GRACE = 300.0
"""Seconds after which Airflow itself ends a wait that the triggerer should have ended."""


def restart_mark(context: Context) -> str:
    """Return the time for ``WorkloadChange.restart``: the run's, so that a repeated task restarts nothing twice."""
    return str(context["dag_run"].run_after.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"))


class RolloutOperator(BaseOperator):
    """Make one change to a Deployment and wait until its rollout is complete, as ``kubectl rollout status`` means it.

    A subclass says in :meth:`change` what. A repeated task finds its change made and only waits. The change is
    refused when somebody changed the Deployment between the plan and now; a rollout that somebody else changes
    under way ends as superseded. What new pods suffer from fails it as soon as it will not pass by itself, with
    the pod's last log lines.

    Returns ``{workload, namespace, changed, generation, revision, images, replicas, seconds, message}``; ``changed``
    is false when the Deployment was so already, and not by this run.

    :param namespace: of the Deployment; templated.
    :param within: seconds the rollout may take.
    :param require_lock: refuse when this run does not hold the namespace's change lock.
    :param poll: seconds between two looks.
    :param patience: seconds for which an image that cannot be pulled, a missing Secret or an exhausted quota must
        last to be a failure.
    :param kubernetes_conn_id: Airflow connection of type kubernetes.
    :raises AirflowFailException: when it is refused, fails, or is superseded; says what was changed and what not.
    :raises AirflowSkipException: when there is nothing to change for this task.
    """

    template_fields = ("namespace",)
    ui_color = "#dcecf5"

    def __init__(
        self,
        *,
        namespace: str,
        within: float,
        require_lock: bool = True,
        poll: float = 1.0,
        patience: float = 15.0,
        kubernetes_conn_id: str = "vcci_kubernetes",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.namespace = namespace
        self.within = within
        self.require_lock = require_lock
        self.poll = poll
        self.patience = patience
        self.kubernetes_conn_id = kubernetes_conn_id

    @cached_property
    def api(self) -> KubernetesWriter:
        """The cluster."""
        return KubernetesWriter(self.kubernetes_conn_id)

    def change(self, context: Context) -> WorkloadChange | None:
        """Return what to change; None when this run has nothing for this task."""
        raise NotImplementedError

    def execute(self, context: Context) -> dict[str, Any]:
        """Change it, and begin to wait."""
        from vcci_ops.hooks.rollouts import apply_change

        with failing_clearly():
            change = self.change(context)
            if change is None:
                raise AirflowSkipException("this run changes nothing here")
            holder = holder_of(context)
            if self.require_lock:
                ChangeLock(self.namespace, kubernetes_conn_id=self.kubernetes_conn_id).require(holder)
            deployment, now = apply_change(self.api, self.namespace, change, holder)
        ours = now or (deployment["metadata"].get("annotations") or {}).get(RUN) == holder
        self._say(change, now, ours)
        if not now and (event := self._done(deployment)):
            return self.execute_complete(context, event, changed=ours, begun=time.time())
        self._wait(deployment, ours)
        raise AssertionError("not reached: defer() raises")

    def _done(self, deployment: dict[str, Any]) -> dict[str, Any] | None:
        """Return the event of a rollout that is complete already; None for any other.

        Airflow 3.3.2's scheduler takes a task whose trigger fires before it has seen the task park for one that was
        killed, and uses up a try. A repeated task that had nothing to wait for would run into that again and again.
        """
        from vcci_ops.hooks.rollouts import RolloutWatcher

        meta = deployment["metadata"]
        watcher = RolloutWatcher(
            self.namespace,
            meta["name"],
            uid=meta["uid"],
            generation=int(meta["generation"]),
            template=template_digest(deployment["spec"]["template"]),
            patience=self.patience,
            kubernetes_conn_id=self.kubernetes_conn_id,
        )
        try:
            event: dict[str, Any] | None = watcher.look()
        except MeasurementError as error:
            self.log.warning("%s; the trigger will look again", error)
            return None
        return event if event and event["status"] == "done" else None

    def execute_complete(self, context: Context, event: dict[str, Any], changed: bool, begun: float) -> dict[str, Any]:
        """Say how it ended."""
        for line in event["details"]:
            self.log.info("%s", line)
        with failing_clearly():
            if event["status"] != "done":
                raise ChangeFailed(event["message"])
        seconds = round(time.time() - begun, 1)
        self.log.info("%s, after %.1f s", event["message"], seconds)
        kept = {key: event[key] for key in ("workload", "message", "generation", "revision", "images", "replicas")}
        return {"namespace": self.namespace, "changed": changed, "seconds": seconds, **kept}

    def _say(self, change: WorkloadChange, now: bool, ours: bool) -> None:
        what = change.image or ("an earlier template" if change.template else f"a restart at {change.restart}")
        if now:
            self.log.info("Deployment %s changed: %s", change.workload, what)
        else:
            by = "by an earlier try of this task" if ours else "before this run, so there is nothing to do"
            self.log.info(
                "Deployment %s has it already (%s), %s; making sure that it is complete", change.workload, what, by
            )

    def _wait(self, deployment: dict[str, Any], changed: bool) -> None:
        from vcci_ops.triggers.rollout import RolloutTrigger

        meta = deployment["metadata"]
        trigger = RolloutTrigger(
            self.namespace,
            meta["name"],
            int(meta["generation"]),
            meta["uid"],
            within=self.within,
            poll=self.poll,
            patience=self.patience,
            template=template_digest(deployment["spec"]["template"]),
            kubernetes_conn_id=self.kubernetes_conn_id,
        )
        self.defer(
            trigger=trigger,
            method_name="execute_complete",
            kwargs={"changed": changed, "begun": time.time()},
            timeout=dt.timedelta(seconds=self.within + _GRACE),
        )
