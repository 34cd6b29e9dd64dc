"""Run something once in an image of the platform, as a Kubernetes Job, and wait for it, deferred."""

from __future__ import annotations

import datetime as dt
import time
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowSkipException

from vcci_ops.domain.jobs import JobRequest, JobResult, ended
from vcci_ops.domain.signatures import redact
from vcci_ops.exceptions import ChangeFailed, MeasurementError, NoData
from vcci_ops.hooks.kubernetes_writer import KubernetesWriter
from vcci_ops.hooks.lease import ChangeLock
from vcci_ops.hooks.platform_jobs import PlatformJobs
from vcci_ops.operators.acting import failing_clearly
from vcci_ops.operators.lock import holder_of

if TYPE_CHECKING:
    from airflow.sdk import Context

LOGGED = 2000
"""Lines of a Job's output that go into the task's log: its last."""
_GRACE = 120.0
"""Seconds beyond its time-out in which Kubernetes ends a Job by itself."""


class PlatformJobOperator(BaseOperator):
    """Run a Job and return how it ended; a subclass says in :meth:`request` which.

    Repeating it is safe: the Job's name is made of step, run and image, so a task that is killed and runs again
    finds its Job, waits on, or reads its result. A Job that succeeded is never run again by the same run. One that
    failed is run again, as a new attempt, only after a task has told of the failure: then somebody has cleared
    that task. When Airflow kills the task, the Job goes on: a migration that is cut off half-way is worse than one
    that ends unobserved, and the next try finds it.

    Its output goes into the task's log, secrets masked. XCom ``return_value`` holds
    :meth:`vcci_ops.domain.jobs.JobResult.to_dict`, also when it failed.

    :param namespace: where it runs; templated.
    :param acting: it changes the platform: refuse when this run does not hold the namespace's change lock.
    :param poll: seconds between two looks.
    :param patience: seconds for which its pod may fail to start (an image that cannot be pulled, a Secret that is
        missing) before the Job is deleted and the task fails.
    :param kubernetes_conn_id: Airflow connection of type kubernetes.
    :raises AirflowFailException: when the Job failed, with exit code, reason and its last lines; when it is refused.
    :raises AirflowSkipException: when there is nothing to run.
    """

    template_fields = ("namespace",)
    ui_color = "#e9e3f4"

    def __init__(
        self,
        *,
        namespace: str,
        acting: bool = True,
        poll: float = 2.0,
        patience: float = 15.0,
        kubernetes_conn_id: str = "vcci_kubernetes",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.namespace = namespace
        self.acting = acting
        self.poll = poll
        self.patience = patience
        self.kubernetes_conn_id = kubernetes_conn_id

    @cached_property
    def jobs(self) -> PlatformJobs:
        """The Jobs of the namespace."""
        return PlatformJobs(KubernetesWriter(self.kubernetes_conn_id), self.namespace)

    def request(self, context: Context) -> JobRequest | None:
        """Return what to run; None when this run has nothing for this task."""
        raise NotImplementedError

    def mask(self, context: Context, text: str) -> str:
        """Return a text as log, XCom and errors may show it: without secrets. A subclass may have more to hide."""
        return redact(text)

    def succeeded(self, context: Context, result: JobResult) -> None:
        """Say so where people follow the run; nothing by itself."""

    def execute(self, context: Context) -> dict[str, Any]:
        """Begin the Job or find it, and wait for it."""
        with failing_clearly():
            request = self.request(context)
            if request is None:
                raise AirflowSkipException("there is nothing to run in this run")
            holder = holder_of(context)
            if self.acting:
                ChangeLock(self.namespace, kubernetes_conn_id=self.kubernetes_conn_id).require(holder)
            job, begun = self.jobs.ensure(request, holder)
            name, uid = job["metadata"]["name"], job["metadata"]["uid"]
            if begun:
                command = [self.mask(context, part) for part in request.command]
                self.log.info("Job %s begun: %s in %s", name, command, request.image)
            else:
                self.log.info("Job %s was begun by an earlier try of this task (%s)", name, ended(job) or "it runs")
            kept = {"job": name, "uid": uid, "timeout": request.timeout, "verbatim": request.verbatim}
            if ended(job):
                return self._finish(context, **kept)
        self._wait(kept)
        raise AssertionError("not reached: defer() raises")

    def execute_complete(self, context: Context, event: dict[str, Any], **kept: Any) -> dict[str, Any]:
        """Read what it left, and say how it ended."""
        with failing_clearly():
            status, message = event["status"], event["message"]
            if status == "stuck":
                self.jobs.stop(kept["job"], kept["uid"])
                raise ChangeFailed(
                    f"Job {kept['job']} could not start: {message}. It was deleted, so that it does not start later"
                )
            if status == "timeout":
                raise ChangeFailed(f"Job {kept['job']} has not ended in its time: {message}. It was left as it is")
            if status == "failed":
                raise ChangeFailed(f"Job {kept['job']} cannot be watched: {message}. It was left as it is")
            return self._finish(context, **kept)

    def _finish(self, context: Context, *, job: str, uid: str, timeout: float, verbatim: bool) -> dict[str, Any]:
        try:
            found = self.jobs.job(job, uid)
        except NoData as error:
            said = f"Job {job} was deleted before its result could be read ({error}): what it did is not known"
            raise ChangeFailed(said) from None
        masked = partial(self.mask, context)
        result = self.jobs.result(found, timeout=timeout, verbatim=verbatim, mask=masked)
        self._log_output(result)
        if result.succeeded:
            self.succeeded(context, result)
            return result.to_dict()
        context["ti"].xcom_push(key="return_value", value=result.to_dict())
        try:
            self.jobs.note_reported(found)
        except MeasurementError as error:
            self.log.warning(
                "Not noted that this failure was told, so clearing this task will tell it again: %s", error
            )
        raise ChangeFailed(_failure(result))

    def _log_output(self, result: JobResult) -> None:
        lines = redact(result.output).splitlines()  # also of what is kept verbatim
        if len(lines) > LOGGED:
            self.log.info("[%d earlier lines left out]", len(lines) - LOGGED)
        for line in lines[-LOGGED:]:
            self.log.info("| %s", line)
        for note in result.notes:
            self.log.warning("%s: %s", result.job, note)
        how = "succeeded" if result.succeeded else f"failed: {result.reason}"
        self.log.info("Job %s %s, after %.0f s", result.job, how, result.seconds)

    def _wait(self, kept: dict[str, Any]) -> None:
        from vcci_ops.triggers.job import JobTrigger

        trigger = JobTrigger(
            self.namespace,
            kept["job"],
            kept["uid"],
            time.time() + kept["timeout"] + _GRACE,
            poll=self.poll,
            patience=self.patience,
            kubernetes_conn_id=self.kubernetes_conn_id,
        )
        timeout = dt.timedelta(seconds=kept["timeout"] + 3 * _GRACE)
        self.defer(trigger=trigger, method_name="execute_complete", kwargs=kept, timeout=timeout)


def _failure(result: JobResult) -> str:
    notes = f" ({'; '.join(result.notes)})" if result.notes else ""
    lines = "\n".join(result.log_tail[-15:])
    return f"Job {result.job} failed: {result.reason}{notes}" + (f"\nLast lines:\n{lines}" if lines else "")
