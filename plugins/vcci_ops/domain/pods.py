"""What the Kubernetes API says of pods, reduced to what a verdict needs, and the verdict itself.

A pod that is *Running* may still serve nobody, and one that *Succeeded* is not missing. So a pod counts
as not ready when it should run, is not being deleted, and its ``Ready`` condition has not been true for
a while. See https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from vcci_ops.domain.signatures import redact
from vcci_ops.domain.units import duration

BROKEN = frozenset(
    {
        "CrashLoopBackOff",
        "ImagePullBackOff",
        "ErrImagePull",
        "ErrImageNeverPull",
        "InvalidImageName",
        "CreateContainerConfigError",
        "CreateContainerError",
        "RunContainerError",
        "StartError",
    }
)
"""Reasons of waiting containers that do not pass by themselves; shown first."""
CRASHES_ENOUGH = 3
"""A container that has ended this often and is held back counts at once: the moments in which it was
ready between two crashes would otherwise set its clock to zero again and again."""
STUCK_AFTER = 600.0
"""Seconds past the end of its grace period after which a pod's deletion no longer counts as normal."""
CLOCK_SKEW = 60.0
"""Seconds by which a moment may lie ahead of this clock before its age says nothing."""
MESSAGE_LENGTH = 240
_CRON_RUN = re.compile(r"-\d{8,}$")
"""What a CronJob adds to the names of its Jobs."""


def epoch(stamp: str | None) -> float | None:
    """Read the API's timestamps (RFC 3339) as seconds since 1970."""
    return dt.datetime.fromisoformat(stamp).timestamp() if stamp else None


@dataclasses.dataclass(frozen=True, slots=True)
class Container:
    """A container's status."""

    name: str
    image: str
    ready: bool
    restarts: int
    state: str
    """running, waiting, terminated, or "" when the kubelet has said nothing yet."""
    reason: str
    """Why it waits or ended."""
    message: str
    exit_code: int | None
    has_previous: bool
    """Whether an earlier run of this container is known (``lastState.terminated``)."""
    ended_at: float | None
    """When it ended last, in this run or the one before."""
    ended_reason: str
    ended_code: int | None

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Container:
        """Read a containerStatus of the API."""
        state, detail = next(iter((data.get("state") or {}).items()), ("", None))
        detail = detail or {}
        last = (data.get("lastState") or {}).get("terminated") or {}
        end = detail if state == "terminated" else last
        return cls(
            name=sys.intern(data.get("name", "")),
            image=sys.intern(data.get("image", "")),
            ready=bool(data.get("ready")),
            restarts=int(data.get("restartCount") or 0),
            state=sys.intern(state),
            reason=sys.intern(detail.get("reason") or ""),
            message=_message(detail.get("message")),
            exit_code=detail.get("exitCode"),
            has_previous=bool(last),
            ended_at=epoch(end.get("finishedAt")),
            ended_reason=sys.intern(end.get("reason") or ""),
            ended_code=end.get("exitCode"),
        )

    @property
    def started(self) -> bool:
        """Whether it ever ran, so that there is a log."""
        return self.state in ("running", "terminated") or self.has_previous

    @property
    def trouble(self) -> str:
        """What holds it up, in the API's word; "" when nothing does."""
        if self.state == "waiting":
            return self.reason
        if self.state == "terminated" and self.exit_code:
            return f"{self.reason or 'Error'} (exit code {self.exit_code})"
        return ""


@dataclasses.dataclass(frozen=True, slots=True)
class Pod:
    """A pod's status."""

    name: str
    owner_kind: str
    owner_name: str
    phase: str
    reason: str
    """Reason of the pod itself, e.g. Evicted."""
    created: float
    started: float | None
    deleting: float | None
    """When its grace period ends, if it is being deleted."""
    ready: bool
    since: float
    """Since when it has (not) been ready."""
    message: str
    """What the Ready or PodScheduled condition says."""
    unschedulable: bool
    init: tuple[Container, ...]
    containers: tuple[Container, ...]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Pod:
        """Read a Pod of the API."""
        meta, status = data["metadata"], data.get("status") or {}
        owner: Mapping[str, Any] = next((o for o in meta.get("ownerReferences") or () if o.get("controller")), {})
        conditions = {c["type"]: c for c in status.get("conditions") or ()}
        placed, ready = conditions.get("PodScheduled") or {}, conditions.get("Ready") or {}
        unplaced = placed.get("status") == "False"
        decisive = placed if unplaced else ready
        created = epoch(meta.get("creationTimestamp")) or 0.0
        return cls(
            name=meta["name"],
            owner_kind=sys.intern(owner.get("kind", "")),
            owner_name=sys.intern(owner.get("name", "")),
            phase=sys.intern(status.get("phase") or ""),
            reason=sys.intern(status.get("reason") or ""),
            created=created,
            started=epoch(status.get("startTime")),
            deleting=epoch(meta.get("deletionTimestamp")),
            ready=ready.get("status") == "True",
            since=epoch(decisive.get("lastTransitionTime")) or created,
            message=_message(decisive.get("message") or status.get("message")),
            unschedulable=unplaced,
            init=tuple(Container.from_json(c) for c in status.get("initContainerStatuses") or ()),
            containers=tuple(Container.from_json(c) for c in status.get("containerStatuses") or ()),
        )

    @property
    def finished(self) -> bool:
        """Whether it has ended for good: completed, failed, evicted. Its owner replaces it if need be."""
        return self.phase in ("Succeeded", "Failed")

    @property
    def over_at(self) -> float:
        """When a finished pod ended, as far as the API tells."""
        return max((c.ended_at for c in self.containers if c.ended_at), default=self.since)

    def workload(self, deployments: Mapping[str, str]) -> str:
        """Name what runs it: a Deployment by its name, anything else as ``Job migrate``.

        :param deployments: ReplicaSet → its Deployment.
        """
        if self.owner_kind == "ReplicaSet":
            return deployments.get(self.owner_name) or f"ReplicaSet {self.owner_name}"
        return f"{self.owner_kind} {self.owner_name}" if self.owner_kind else "no owner"


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """A pod that should be ready and is not."""

    pod: str
    workload: str
    reason: str
    message: str
    image: str
    seconds: float
    """How long it has been so."""
    at_once: bool = False
    """Counts whatever its age."""

    @property
    def rank(self) -> tuple[int, float]:
        """Sort key: what does not pass by itself first, then the oldest."""
        return (0 if self.reason in BROKEN else 1, -self.seconds)

    @property
    def skewed(self) -> bool:
        """Whether the cluster's clock and this one differ so much that its age says nothing."""
        return self.seconds < -CLOCK_SKEW

    def counts(self, for_: float) -> bool:
        """Whether it has lasted long enough to count."""
        return self.at_once or self.skewed or self.seconds >= for_

    def __str__(self) -> str:
        """Say it in one line, as the report shows it."""
        said = f": {self.message}" if self.message else ""
        image = f" [image {self.image}]" if self.image else ""
        since = f"for {duration(max(self.seconds, 0))}"
        if self.skewed:
            since = f"since a moment {duration(-self.seconds)} ahead of this clock"
        return f"{self.pod} ({self.workload}): {self.reason} {since}{said}{image}"


def problem_of(pod: Pod, deployments: Mapping[str, str], now: float) -> Problem | None:
    """Say what is wrong with a pod; None when it is ready, finished, or on its normal way out."""
    if pod.finished or (pod.ready and pod.deleting is None):
        return None
    workload = pod.workload(deployments)
    if pod.deleting is not None:
        late = now - pod.deleting
        reason = "still Terminating after its grace period"
        return Problem(pod.name, workload, reason, "", "", late) if late > STUCK_AFTER else None
    if pod.unschedulable:
        return Problem(pod.name, workload, "Unschedulable", pod.message, "", now - pod.since)
    culprit = _culprit(pod)
    if culprit is None:
        return Problem(pod.name, workload, _unready(pod), pod.message, _image(pod), now - pod.since)
    crashing = culprit.reason == "CrashLoopBackOff" and culprit.restarts >= CRASHES_ENOUGH
    where = f"container {culprit.name} " if len(pod.init) + len(pod.containers) > 1 else ""
    return Problem(
        pod=pod.name,
        workload=workload,
        reason=culprit.trouble,
        message=where + (culprit.message or _last_end(culprit)),
        image=culprit.image,
        seconds=now - pod.since,
        at_once=crashing,
    )


def _culprit(pod: Pod) -> Container | None:
    """Find the container that holds the pod up; an init container first, for the others wait for it."""
    troubled = [c for c in (*pod.init, *pod.containers) if c.trouble and not c.ready]
    return min(troubled, key=lambda c: c.reason not in BROKEN, default=None)


def _unready(pod: Pod) -> str:
    if pod.phase == "Running":
        return "Running but not ready (readiness probe)"
    return f"not ready ({pod.reason or pod.phase or 'no status yet'})"


def _image(pod: Pod) -> str:
    return next((c.image for c in pod.containers if not c.ready), "")


def _last_end(container: Container) -> str:
    if not container.ended_reason and container.ended_code is None:
        return ""
    return f"ended last with {ended(container)}"


def ended(container: Container) -> str:
    """Say how a container ended last: ``OOMKilled (exit code 137)``."""
    reason = container.ended_reason or "an unknown reason"
    return reason if container.ended_code is None else f"{reason} (exit code {container.ended_code})"


def _message(text: str | None) -> str:
    line = redact(" ".join((text or "").split()))
    return line if len(line) <= MESSAGE_LENGTH else line[: MESSAGE_LENGTH - 1] + "…"


@dataclasses.dataclass(slots=True)
class Readiness:
    """The pods of a namespace, judged."""

    counted: int = 0
    """Pods that should run."""
    by_workload: Counter[str] = dataclasses.field(default_factory=Counter)
    problems: list[Problem] = dataclasses.field(default_factory=list)
    """Pods not ready for long enough, worst first."""
    young: list[Problem] = dataclasses.field(default_factory=list)
    """Pods not ready yet, but not for long enough to count."""
    ended_badly: Counter[str] = dataclasses.field(default_factory=Counter)
    """Finished pods that failed, by reason; they count nowhere, but somebody should tidy up."""
    failed_jobs: Counter[str] = dataclasses.field(default_factory=Counter)
    """Pods of Jobs that failed of late, by Job; those of a CronJob's runs together."""

    def job_failures(self, when: str) -> list[str]:
        """Say which Jobs failed, most pods first.

        :param when: the time that was looked at, in words.
        """
        return [f"{_pods(count)} of Job {name} failed {when}" for name, count in self.failed_jobs.most_common()]

    def note_end(self, pod: Pod, since: float) -> None:
        """Keep how a finished pod ended.

        :param since: a Job's pod that failed after this moment is news.
        """
        if pod.phase == "Failed" and pod.owner_kind == "Job" and pod.over_at >= since:
            self.failed_jobs[_CRON_RUN.sub("", pod.owner_name)] += 1
        elif pod.phase == "Failed":
            self.ended_badly[pod.reason or "Failed"] += 1

    def notes(self) -> Iterator[str]:
        """Say what does not count, for completeness."""
        if self.young:
            yield f"not counted: {len(self.young)} not ready yet, e.g. {self.young[0]}"
        if self.ended_badly:
            kinds = ", ".join(f"{count} {reason}" for reason, count in self.ended_badly.most_common(3))
            yield f"not counted: pods that ended and were left lying: {kinds}"

    def summary(self) -> str:
        """Say in a sentence which workloads miss pods, and why."""
        if not self.problems:
            if not self.young:
                return f"all {self.counted} pods are ready" if self.counted else "no pods that should run"
            ready = self.counted - len(self.young)
            return f"{ready} of {self.counted} pods are ready, {len(self.young)} not yet, but too short to count"
        reasons: dict[str, Counter[str]] = {}
        for problem in self.problems:
            reasons.setdefault(problem.workload, Counter())[problem.reason] += 1
        parts = [
            f"{name} {sum(why.values())} of {self.by_workload[name]} ({', '.join(why)})"
            for name, why in sorted(reasons.items(), key=lambda item: -sum(item[1].values()))
        ]
        more = f" and {len(parts) - 3} more workloads" if len(parts) > 3 else ""
        return f"{len(self.problems)} of {self.counted} pods are not ready: {', '.join(parts[:3])}{more}"


def readiness(
    pods: Iterable[Pod], deployments: Mapping[str, str], *, now: float, for_: float = 0.0, window: float = 3600.0
) -> Readiness:
    """Judge all pods of a namespace.

    A pod counts once it has not been ready for ``for_``. Three count at once: one that keeps crashing; one
    that is not ready since a moment more than :data:`CLOCK_SKEW` ahead of this clock, for then its age is
    not known; and those of a workload without a single ready pod, as flapping pods would set the clock to
    zero again and again while nobody is served. The last holds for pods older than ``for_`` only, so that
    a first start or a rollout that replaces all pods has as much time as any other.

    :param deployments: ReplicaSet → its Deployment.
    :param for_: seconds a pod may be not ready before it counts.
    :param window: seconds; a failed pod of a Job is news when it ended within.
    """
    seen, served, young = Readiness(), set[str](), list[tuple[str, Pod, Problem]]()
    for pod in pods:
        if pod.finished:
            seen.note_end(pod, now - window)
            continue
        problem = problem_of(pod, deployments, now)
        if pod.deleting is not None and problem is None:
            continue
        name = pod.workload(deployments)
        seen.counted += 1
        seen.by_workload[name] += 1
        group = name if pod.owner_kind else pod.name
        if problem is None:
            served.add(group)
        elif problem.counts(for_):
            seen.problems.append(problem)
        else:
            young.append((group, pod, problem))
    for group, pod, problem in young:
        down = group not in served and now - pod.created >= for_
        (seen.problems if down else seen.young).append(problem)
    seen.problems.sort(key=lambda p: p.rank)
    seen.young.sort(key=lambda p: p.rank)
    return seen


@dataclasses.dataclass(frozen=True, slots=True)
class Restarts:
    """A container that was started again within the window."""

    pod: str
    container: str
    workload: str
    count: int
    """Restarts within the window, as far as the API tells."""
    known: str
    """How sure that is: "" (exact), "at least" or "about"."""
    total: int
    how: str
    seconds: float | None
    """How long ago it ended last."""

    def __str__(self) -> str:
        """Say it in one line, as the report shows it."""
        ago = f", last {duration(max(self.seconds, 0))} ago" if self.seconds is not None else ""
        part = f", {self.known} {self.count} of them within the window" if self.known else ""
        return f"{self.pod}/{self.container} ({self.workload}): {self.total} restarts{part}{ago}: {self.how}"


def restarts(pods: Iterable[Pod], deployments: Mapping[str, str], *, now: float, window: float) -> list[Restarts]:
    """List the containers that were started again within the window, most restarts first.

    The API keeps a count since the pod began and the end of the last run only. All restarts of a pod
    younger than the window are within it. Of an older one the last is for certain; one that is held back
    for crashing was restarted as often as the back-off allows, or as the count says.
    """
    found = [
        one
        for pod in pods
        if not pod.finished and pod.deleting is None
        for container in (*pod.init, *pod.containers)
        if (one := _restarts(pod, container, deployments, now, window))
    ]
    return sorted(found, key=lambda r: (-r.count, r.seconds or 0.0))


def _restarts(
    pod: Pod, container: Container, deployments: Mapping[str, str], now: float, window: float
) -> Restarts | None:
    if not container.restarts:
        return None
    ago = None if container.ended_at is None else now - container.ended_at
    young = now - (pod.started or pod.created) <= window
    held_back = container.reason == "CrashLoopBackOff"
    if not young and not held_back and (ago is None or ago > window):
        return None
    told = container.ended_reason or container.ended_code is not None
    possible = min(container.restarts, _possible(window)) if held_back else 1
    return Restarts(
        pod=pod.name,
        container=container.name,
        workload=pod.workload(deployments),
        count=container.restarts if young else possible,
        known="" if young else "about" if held_back else "at least",
        total=container.restarts,
        how=ended(container) if told else container.trouble or "no reason given",
        seconds=ago,
    )


def _pods(count: int) -> str:
    return "1 pod" if count == 1 else f"{count} pods"


def _possible(window: float) -> int:
    """Return how often the kubelet can restart a container within the window: after 10 s, 20 s ... 5 min."""
    count, passed, pause = 0, 0.0, 10.0
    while (passed := passed + pause) <= window:
        count, pause = count + 1, min(pause * 2, 300.0)
    return max(count, 1)


def bounded(lines: Sequence[object], most: int = 10, what: str = "more") -> list[str]:
    """Turn at most ``most`` things into lines; a last line says how many were left out."""
    shown = [str(line) for line in lines[:most]]
    return [*shown, f"and {len(lines) - most} {what}"] if len(lines) > most else shown
