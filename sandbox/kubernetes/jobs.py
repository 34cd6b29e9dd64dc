"""Jobs: pods until enough of them succeeded, or too many failed.

https://kubernetes.io/docs/concepts/workloads/controllers/job/
"""

from __future__ import annotations

import time

from sandbox.kubernetes.controllers import Controllers, delete_pod, is_active, is_ready, pod_of
from sandbox.kubernetes.resources import JOBS, PODS
from sandbox.kubernetes.store import Object, now, seconds

_BACKOFF = 1.0
_LONGEST_BACKOFF = 20.0
_SOURCE = "job-controller"


class Jobs:
    """Makes a Job's pods and counts them.

    The pause after a failed pod doubles from 1 s to 20 s; the real one's is ten times as long.
    """

    def __init__(self, controllers: Controllers) -> None:
        self._controllers, self._store = controllers, controllers.store
        controllers.register(JOBS, self.reconcile)

    def reconcile(self, job: Object) -> None:
        """Take the Job's next step and write its status."""
        if "deletionTimestamp" in job["metadata"]:
            return
        ended = _ending(job)
        if ended:
            self._expire(job, ended)
            return
        pods = self._store.owned(job, PODS)
        active = [pod for pod in pods if is_active(pod)]
        failed = [pod for pod in pods if pod["status"].get("phase") == "Failed"]
        succeeded = sum(pod["status"].get("phase") == "Succeeded" for pod in pods)
        status = {**job.get("status", {})}
        if not job["spec"].get("suspend"):
            status.setdefault("startTime", now())
        why = self._verdict(job, status, active, failed, succeeded)
        if why:
            active = self._stop(active)
            status.update(_conclusion(*why))
            self._controllers.tell(JOBS, job, why[1], why[2], source=_SOURCE, warning=why[0] == "Failed")
        elif not job["spec"].get("suspend"):
            active = self._grow(job, active, failed, succeeded)
        else:
            active = self._stop(active)
        self._count(job, status, active, failed=len(failed), succeeded=succeeded)

    def _count(self, job: Object, status: Object, active: list[Object], *, failed: int, succeeded: int) -> None:
        ready = sum(is_ready(pod) for pod in active)
        counts = {"active": len(active), "succeeded": succeeded, "failed": failed, "ready": ready}
        for key, count in counts.items():
            status.pop(key, None)
            if count or key == "ready":
                status[key] = count
        self._store.set_status(JOBS, job, status)

    def _verdict(
        self, job: Object, status: Object, active: list[Object], failed: list[Object], succeeded: int
    ) -> tuple[str, str, str] | None:
        spec = job["spec"]
        if len(failed) > spec["backoffLimit"]:
            return "Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit"
        limit = spec.get("activeDeadlineSeconds")
        if limit and "startTime" in status:
            left = limit - (time.time() - seconds(status["startTime"]))
            if left <= 0:
                return "Failed", "DeadlineExceeded", "Job was active longer than specified deadline"
            self._controllers.look_at(JOBS, job, after=left + 0.1)
        wanted = spec.get("completions")
        enough = succeeded >= wanted if wanted is not None else succeeded > 0 and not active
        return ("Complete", "CompletionsReached", "Reached expected number of succeeded pods") if enough else None

    def _stop(self, active: list[Object]) -> list[Object]:
        for pod in active:
            delete_pod(self._controllers, pod)
        return []

    def _grow(self, job: Object, active: list[Object], failed: list[Object], succeeded: int) -> list[Object]:
        spec = job["spec"]
        wanted = spec["parallelism"]
        if spec.get("completions") is not None:
            wanted = min(wanted, spec["completions"] - succeeded)
        elif succeeded:
            wanted = 0
        if failed and len(active) < wanted:
            last = max(_finished(pod) for pod in failed)
            pause = min(_BACKOFF * 2 ** (len(failed) - 1), _LONGEST_BACKOFF) - (time.time() - last)
            if pause > 0:
                self._controllers.look_at(JOBS, job, after=pause + 0.05)
                return active
        for _ in range(wanted - len(active)):
            pod = self._controllers.create(PODS, pod_of(JOBS, job, job["metadata"]["name"]))
            active.append(pod)
            text = f"Created pod: {pod['metadata']['name']}"
            self._controllers.tell(JOBS, job, "SuccessfulCreate", text, source=_SOURCE)
        return active

    def _expire(self, job: Object, ended: float) -> None:
        keep = job["spec"].get("ttlSecondsAfterFinished")
        if keep is None:
            return
        left = ended + keep - time.time()
        if left > 0:
            self._controllers.look_at(JOBS, job, after=left + 0.1)
            return
        meta = job["metadata"]
        self._controllers.verbs.delete(JOBS, meta["namespace"], meta["name"], {"propagationPolicy": "Background"})


def _finished(pod: Object) -> float:
    states = [c.get("state") or {} for c in pod["status"].get("containerStatuses") or ()]
    ends = [seconds(state["terminated"]["finishedAt"]) for state in states if "terminated" in state]
    return max(ends, default=time.time())


def _ending(job: Object) -> float | None:
    """Return when the Job completed or failed; None while it has not."""
    for condition in (job.get("status") or {}).get("conditions") or ():
        if condition["type"] in ("Complete", "Failed") and condition["status"] == "True":
            return seconds(condition["lastTransitionTime"])
    return None


def _conclusion(kind: str, reason: str, message: str) -> Object:
    moment = now()
    condition = {"type": kind, "status": "True", "lastProbeTime": moment, "lastTransitionTime": moment}
    done: Object = {"conditions": [{**condition, "reason": reason, "message": message}]}
    if kind == "Complete":
        done["completionTime"] = moment
    return done
