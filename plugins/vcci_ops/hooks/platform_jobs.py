"""Begin a Job or find the one that was begun, follow it, and read what it left."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import yaml

from vcci_ops.domain.jobs import (
    JOB,
    MAIN,
    MANAGED,
    OUTPUT_LENGTH,
    REPORTED,
    TAIL,
    JobRequest,
    JobResult,
    attempt_of,
    base_name,
    ended,
    ending_of,
    is_reported,
    job_manifest,
    require_same,
    why_failed,
)
from vcci_ops.domain.junit import document_of, read_junit, told
from vcci_ops.domain.pods import epoch
from vcci_ops.domain.rollouts import RUN, Patience, condition, troubles, unscheduled
from vcci_ops.domain.signatures import redact
from vcci_ops.exceptions import Conflict, InvalidInput, MeasurementError, NoData
from vcci_ops.hooks.kubernetes_writer import DEPLOYMENTS, JOBS, MERGE, PODS, KubernetesWriter
from vcci_ops.settings import INCLUDE

READ = 8 << 20
"""Bytes of a log that are looked at: its end."""
_TRIES = 5
_PODS_EVERY = 3


def base_manifest(name: str) -> dict[str, Any]:
    """Return a parsed manifest of include/kubernetes/jobs/.

    :raises InvalidInput: when there is none of this name.
    """
    try:
        text = (INCLUDE / "kubernetes" / "jobs" / f"{name}.yaml").read_text()
    except FileNotFoundError:
        raise InvalidInput("manifest", name, "the name of a file below include/kubernetes/jobs/") from None
    return dict(yaml.safe_load(text))


class PlatformJobs:
    """The Jobs of one namespace.

    :param api: the cluster.
    """

    def __init__(self, api: KubernetesWriter, namespace: str) -> None:
        self.api = api
        self.namespace = namespace

    def ensure(self, request: JobRequest, run: str) -> tuple[dict[str, Any], bool]:
        """Return the Job of this step of this run, and whether it was begun now.

        A Job that runs or succeeded is taken over. One that failed is taken over, too, until a task has told of
        it: only then has somebody decided to run it again, and a new attempt begins.

        :param run: ``dag_id/run_id``.
        :raises Refused: when a Job of this name is another's, or was begun for something else.
        """
        for _ in range(_TRIES):
            found = self._last_attempt(request, run)
            if found and not (ended(found) == "Failed" and is_reported(found)):
                return found, False
            like = self.api.object(DEPLOYMENTS, self.namespace, request.like) if request.like else None
            attempt = attempt_of(found) + 1 if found else 1
            manifest = job_manifest(base_manifest(request.manifest), request, run, attempt, like)
            try:
                return self.api.create(JOBS, self.namespace, manifest), True
            except Conflict:
                self._check_name(manifest["metadata"]["name"], request, run)
        raise Conflict(f"the Job of step {request.step} is made and deleted all the time; it was not begun")

    def unfinished(self, run: str) -> list[str]:
        """Return the names of the Jobs of a run that have not ended.

        :param run: ``dag_id/run_id``.
        """
        listed = self.api.objects(JOBS, self.namespace, MANAGED)
        ours = [job for job in listed if (job["metadata"].get("annotations") or {}).get(RUN) == run]
        return sorted(
            job["metadata"]["name"] for job in ours if not ended(job) and not job["metadata"].get("deletionTimestamp")
        )

    def _last_attempt(self, request: JobRequest, run: str) -> dict[str, Any] | None:
        listed = self.api.objects(JOBS, self.namespace, f"{JOB}={base_name(request, run)}")
        found = [dict(job) for job in listed if not job["metadata"].get("deletionTimestamp")]
        if not found:
            return None
        last = max(found, key=attempt_of)
        require_same(last, request, run)
        return last

    def _check_name(self, name: str, request: JobRequest, run: str) -> None:
        try:
            require_same(self.api.object(JOBS, self.namespace, name), request, run)
        except NoData:
            time.sleep(0.2)  # it is being deleted

    def job(self, name: str, uid: str) -> dict[str, Any]:
        """Return a Job.

        :raises NoData: when it is gone, or another has its name.
        """
        found = self.api.object(JOBS, self.namespace, name)
        if found["metadata"]["uid"] != uid:
            raise NoData(f"the Job {name} was deleted and made again by somebody else")
        return found

    def pods(self, job: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the pods of a Job."""
        uid, name = job["metadata"]["uid"], job["metadata"]["labels"][JOB]
        pods = self.api.objects(PODS, self.namespace, f"{JOB}={name}")
        return [p for p in pods if any(o["uid"] == uid for o in p["metadata"].get("ownerReferences") or ())]

    def note_reported(self, job: Mapping[str, Any]) -> None:
        """Note on a failed Job that a task has told of it."""
        meta = job["metadata"]
        patch = {"metadata": {"uid": meta["uid"], "annotations": {REPORTED: "true"}}}
        self.api.patch(JOBS, self.namespace, meta["name"], patch, how=MERGE)

    def stop(self, name: str, uid: str) -> None:
        """Delete a Job with its pods: what could not start must not start later, when nobody looks."""
        self.api.delete(JOBS, self.namespace, name, uid=uid)

    # What it left ----------------------------------------------------------------------------------

    def result(
        self,
        job: Mapping[str, Any],
        *,
        timeout: float,
        verbatim: bool = False,
        mask: Callable[[str], str] = redact,
    ) -> JobResult:
        """Return how a Job ended, with its output as far as that is still there.

        :param mask: takes from a text what nobody may read.
        """
        pods = self.pods(job)
        ending = ending_of(job, pods, _seconds(job))
        text, complete, notes = self._text(pods)
        document = document_of(text)
        junit = read_junit(document[0]) if document else None
        plain = document[1] if document and junit else text
        if document and junit is None:
            notes.append("its JUnit document cannot be read")
        output, tail = _output(plain, verbatim, mask)
        failed = ended(job) == "Failed"
        reason = why_failed(ending, timeout) if failed else ""
        if failed and junit and junit["failures"] + junit["errors"]:
            reason = f"{reason}; {told(junit)}"
        return JobResult(
            job=job["metadata"]["name"],
            succeeded=not failed,
            exit_code=ending.exit_code if failed or ending.exit_code is not None else 0,
            seconds=ending.seconds,
            log_tail=tail,
            junit=junit,
            output=output,
            complete=complete and len(output) < OUTPUT_LENGTH,
            reason=reason,
            notes=tuple(notes),
        )

    def _text(self, pods: list[dict[str, Any]]) -> tuple[str, bool, list[str]]:
        for pod in sorted(pods, key=lambda p: str(p["metadata"].get("creationTimestamp")), reverse=True):
            try:
                data, cut = self.api.log_end(self.namespace, pod["metadata"]["name"], MAIN, most=READ)
            except MeasurementError as error:
                return "", False, [f"its log cannot be read: {error}"]
            notes = [f"its log is longer than {READ >> 20} MB; the beginning was left out"] if cut else []
            return data.decode("utf-8", "replace"), not cut, notes
        return "", False, ["its log is gone with its pod"]


class JobWatcher:
    """Follow a Job, look by look; every third look asks for its pods, too.

    :param patience: seconds for which its pod may fail to start before that counts.
    """

    def __init__(self, jobs: PlatformJobs, name: str, uid: str, patience: float) -> None:
        self._jobs, self._name, self._uid = jobs, name, uid
        self._patience, self._missing = Patience(patience), Patience(2 * patience)
        self._looks = 0

    def look(self, clock: Callable[[], float] = time.monotonic) -> dict[str, str] | None:
        """Return ``status`` (ended, stuck or gone) and ``message``, or None while it runs."""
        self._looks += 1
        try:
            job = self._jobs.job(self._name, self._uid)
        except NoData as error:
            return {"status": "gone", "message": str(error)}
        if how := ended(job):
            return {"status": "ended", "message": how}
        if self._looks % _PODS_EVERY:
            return None
        pods = self._jobs.pods(job)
        if certain := self._patience.certain(troubles(pods), clock()):
            return {"status": "stuck", "message": "; ".join(map(str, certain))}
        if self._missing.lasting({} if pods else {"pods": "none"}, clock()):
            why = "no pod of it could be made (a quota, or an admission rule); kubectl describe job tells which"
            return {"status": "stuck", "message": why}
        return None

    def standing(self) -> str:
        """Say what holds it up, for the end of a wait."""
        try:
            pods = self._jobs.pods(self._jobs.job(self._name, self._uid))
        except MeasurementError as error:
            return str(error)
        return "; ".join([*map(str, troubles(pods)), *unscheduled(pods)]) or "it still runs"


def _seconds(job: Mapping[str, Any]) -> float:
    status = job.get("status") or {}
    begun = epoch(status.get("startTime"))
    end = epoch(status.get("completionTime") or condition(job, "Failed").get("lastTransitionTime"))
    return round(end - begun, 1) if begun is not None and end is not None else 0.0


def _output(text: str, verbatim: bool, mask: Callable[[str], str]) -> tuple[str, tuple[str, ...]]:
    """Return what goes on in the run, and the last lines to show; cut at lines, for half a secret is not masked."""
    if len(text) > OUTPUT_LENGTH:
        text = text[-OUTPUT_LENGTH:].partition("\n")[2]
    masked = mask(text)
    tail = tuple(line[:500] for line in masked.splitlines()[-TAIL:])
    return (text if verbatim else masked)[-OUTPUT_LENGTH:], tail
