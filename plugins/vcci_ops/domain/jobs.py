"""Jobs that run something once in an image of the platform: what they are made of, and how they ended.

A Job's name is made of the step, the run and the image, so that a task that is killed and runs again finds the Job
that it began. https://kubernetes.io/docs/concepts/workloads/controllers/job/
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from vcci_ops.domain.rollouts import RUN, condition, container_of
from vcci_ops.exceptions import InvalidInput, Refused

Object = Mapping[str, Any]
JOB, ATTEMPT, STEP = "vcci-ops/job", "vcci-ops/attempt", "vcci-ops/step"
"""Labels: the name without the attempt, the attempt, the step."""
MANAGED = "app.kubernetes.io/managed-by=vcci-ops"
"""Selector of all of them."""
SPEC, REPORTED = "vcci-ops/spec", "vcci-ops/reported"
"""Annotations: hash of what was asked for; "true" when a task has told of its failure."""
MAIN = "job"
"""Name of a Job's container."""
OUTPUT_LENGTH = 512 * 1024
"""Characters of a Job's output that go on in the run."""
TAIL = 40
_STEP = r"[a-z0-9]([a-z0-9-]{0,28}[a-z0-9])?"
_ENV = r"[A-Za-z_][A-Za-z0-9_]{0,127}"
_GRACE = 60


@dataclasses.dataclass(frozen=True)
class JobRequest:
    """What is to run."""

    step: str
    """What it is called in the cluster: at most 30 characters of a-z, 0-9 and -; once in a run."""
    image: str
    command: tuple[str, ...]
    """As a list: no shell reads it."""
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Besides, and before, what the Deployment's container has."""
    secret_env: Mapping[str, tuple[str, str]] = dataclasses.field(default_factory=dict)
    """Likewise, from Secrets of the namespace: variable → name of the Secret and its key."""
    like: str = ""
    """Deployment whose environment, volumes and account it gets; "" for none."""
    container: str = ""
    """Which of its containers; default: the one that is called as the Deployment is, else the first."""
    timeout: float = 900.0
    """Seconds it may run."""
    keep: float = 86400.0
    """Seconds it is kept when it has ended."""
    manifest: str = "platform"
    """File below include/kubernetes/jobs/ that it is made from."""
    verbatim: bool = False
    """Keep its output as it is, for what reads it is a program, and no secret can be in it; else secrets are masked."""

    def __post_init__(self) -> None:
        """Refuse what cannot be a Job."""
        if not re.fullmatch(_STEP, self.step):
            raise InvalidInput("step", self.step, "at most 30 characters of a-z, 0-9 and -, none of the ends a -")
        if not self.image or re.search(r"\s", self.image):
            raise InvalidInput("image", self.image, "the reference of an image")
        if not self.command:
            raise InvalidInput("command", self.command, "at least the program to run")
        for name in (*self.env, *self.secret_env):
            if not re.fullmatch(_ENV, name):
                raise InvalidInput("env", name, "the name of an environment variable")
        if not re.fullmatch(r"[a-z][a-z0-9-]{0,40}", self.manifest):
            raise InvalidInput("manifest", self.manifest, "the name of a file below include/kubernetes/jobs/")

    @property
    def digest(self) -> str:
        """Return the hash of all that was asked for; of equal names only equal requests are the same Job."""
        asked = dataclasses.asdict(self)
        if not self.secret_env:  # Jobs that a version without it has begun are still known
            del asked["secret_env"]
        return _hash(json.dumps(asked, sort_keys=True), 16)


@dataclasses.dataclass(frozen=True)
class JobResult:
    """How it ended."""

    job: str
    succeeded: bool
    exit_code: int | None
    """None when no container of it ended."""
    seconds: float
    log_tail: tuple[str, ...] = ()
    """Its last lines, secrets masked."""
    junit: Mapping[str, Any] | None = None
    """tests, failures, errors, skipped, seconds, cases; None when its output holds no such document."""
    output: str = ""
    """What it wrote, without the JUnit document; at most its last 512 kB."""
    complete: bool = True
    """Whether ``output`` is all of it."""
    reason: str = ""
    """Why it failed, in a sentence."""
    notes: tuple[str, ...] = ()
    """What could not be had, such as a log that is gone, or was cut."""

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        data = dataclasses.asdict(self)
        return {**data, "log_tail": list(self.log_tail), "notes": list(self.notes)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> JobResult:
        """Read what :meth:`to_dict` gave."""
        return cls(**{**data, "log_tail": tuple(data["log_tail"]), "notes": tuple(data["notes"])})


# Making ----------------------------------------------------------------------------------------------


def base_name(request: JobRequest, run: str) -> str:
    """Return the name of the first attempt: the same for the same step, run and image."""
    return f"vcci-{request.step}-{_hash(json.dumps([run, request.step, request.image]), 10)}"


def job_manifest(base: Object, request: JobRequest, run: str, attempt: int, like: Object | None) -> dict[str, Any]:
    """Return the Job to create.

    :param base: a parsed manifest with one container, of include/kubernetes/jobs/.
    :param run: ``dag_id/run_id``.
    :param attempt: 1 for the first.
    :param like: the Deployment it is like.
    :raises Refused: when that has no such container.
    """
    job = copy.deepcopy(dict(base))
    name = base_name(request, run)
    labels = {JOB: name, STEP: request.step, ATTEMPT: str(attempt)}
    meta, spec = job.setdefault("metadata", {}), job["spec"]
    meta["name"] = name if attempt == 1 else f"{name}-{attempt}"
    meta["labels"] = {**(meta.get("labels") or {}), **labels}
    meta["annotations"] = {**(meta.get("annotations") or {}), RUN: run, SPEC: request.digest}
    spec["ttlSecondsAfterFinished"] = math.ceil(request.keep)
    # The pod's own limit keeps the pod, and its log; the Job's ends what never started, and takes the pods with it.
    spec["activeDeadlineSeconds"] = math.ceil(request.timeout) + _GRACE
    pod_meta, pod = spec["template"].setdefault("metadata", {}), spec["template"]["spec"]
    pod_meta["labels"] = {**(pod_meta.get("labels") or {}), **labels}
    pod["activeDeadlineSeconds"] = math.ceil(request.timeout)
    (main,) = pod["containers"]
    main.update(name=MAIN, image=request.image, command=[_literal(part) for part in request.command])
    if like is not None:
        _take_after(pod, main, like, request)
    main["env"] = _by_name(main.get("env") or (), [*_variables(request.env), *_from_secrets(request.secret_env)])
    return job


def _take_after(pod: dict[str, Any], main: dict[str, Any], like: Object, request: JobRequest) -> None:
    """Give it environment, volumes, account and place of a Deployment's container; nothing else."""
    template = like["spec"]["template"]
    source = _chosen(like, request.container)
    main["env"] = _by_name(main.get("env") or (), source.get("env") or ())
    if source.get("envFrom"):
        main["envFrom"] = [*(main.get("envFrom") or ()), *source["envFrom"]]
    if source.get("workingDir"):
        main["workingDir"] = source["workingDir"]
    for key in ("serviceAccountName", "imagePullSecrets", "nodeSelector", "tolerations"):
        if template["spec"].get(key):
            pod[key] = template["spec"][key]
    users = {k: v for k, v in (template["spec"].get("securityContext") or {}).items() if k in _USERS}
    pod["securityContext"] = {**(pod.get("securityContext") or {}), **users}
    own = {k: v for k, v in (source.get("securityContext") or {}).items() if k in ("runAsUser", "runAsGroup")}
    main["securityContext"] = {**(main.get("securityContext") or {}), **own}
    volumes = {v["name"]: v for v in template["spec"].get("volumes") or () if _is_plain(v)}
    taken = {mount["mountPath"] for mount in main.get("volumeMounts") or ()}
    mounts = [m for m in source.get("volumeMounts") or () if m["name"] in volumes and m["mountPath"] not in taken]
    main["volumeMounts"] = [*(main.get("volumeMounts") or ()), *mounts]
    used = [volumes[name] for name in dict.fromkeys(mount["name"] for mount in mounts)]
    pod["volumes"] = [*(pod.get("volumes") or ()), *used]


_USERS = ("runAsUser", "runAsGroup", "fsGroup", "supplementalGroups")


def _chosen(like: Object, container: str) -> Object:
    template, name = like["spec"]["template"], like["metadata"]["name"]
    if container:
        found = container_of(template, container)
        if found is None:
            raise Refused(f"Deployment {name} has no container {container}, which the Job should be like")
        return found
    first: Object = template["spec"]["containers"][0]
    return container_of(template, name) or first


def _is_plain(volume: Object) -> bool:
    """Whether a volume holds configuration or scratch space: no token, nothing of the node, no disk of another pod."""
    if any("serviceAccountToken" in source for source in (volume.get("projected") or {}).get("sources") or ()):
        return False
    return any(kind in volume for kind in ("configMap", "secret", "emptyDir", "projected", "downwardAPI"))


def _by_name(first: Iterable[Object], then: Iterable[Object]) -> list[Object]:
    """Join two lists of variables; of two of a name the later one counts, at its own place."""
    later = list(then)
    names = {variable["name"] for variable in later}
    return [*(v for v in first if v["name"] not in names), *later]


def _variables(env: Mapping[str, str]) -> list[Object]:
    return [{"name": name, "value": _literal(value)} for name, value in env.items()]


def _from_secrets(env: Mapping[str, tuple[str, str]]) -> list[Object]:
    return [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}
        for name, (secret, key) in env.items()
    ]


def _literal(text: str) -> str:
    """Keep the kubelet from reading ``$(NAME)`` in what a person typed.

    https://kubernetes.io/docs/tasks/inject-data-application/define-command-argument-container/
    """
    return text.replace("$", "$$")


def _hash(text: str, length: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:length]


# Judging ---------------------------------------------------------------------------------------------


def require_same(job: Object, request: JobRequest, run: str) -> None:
    """Pass when a Job is the one that was asked for.

    :raises Refused: when it only has its name.
    """
    name, notes = job["metadata"]["name"], job["metadata"].get("annotations") or {}
    if notes.get(RUN) != run:
        raise Refused(f"there is a Job {name} that is not of this run ({notes.get(RUN) or 'no run'}); look whose it is")
    if notes.get(SPEC) != request.digest:
        raise Refused(
            f"this run began the Job {name} for something else: another command, environment or limit. What it did is "
            "in its log. Start a new run"
        )


def ended(job: Object) -> str:
    """Return how a Job ended: Complete, Failed, or "" while it runs."""
    return next((kind for kind in ("Complete", "Failed") if condition(job, kind).get("status") == "True"), "")


def attempt_of(job: Object) -> int:
    """Return which attempt a Job is."""
    return int((job["metadata"].get("labels") or {}).get(ATTEMPT) or 1)


def is_reported(job: Object) -> bool:
    """Whether a task has told of its failure, so that running it again is somebody's decision."""
    return (job["metadata"].get("annotations") or {}).get(REPORTED) == "true"


@dataclasses.dataclass(frozen=True)
class Ending:
    """What the pod says of its end."""

    exit_code: int | None
    reason: str
    seconds: float


def ending_of(job: Object, pods: Iterable[Object], seconds: float) -> Ending:
    """Return exit code and reason of a Job that has ended; of several pods the last one counts.

    :param seconds: how long it took by the Job's own times, where the pod is gone.
    """
    newest = sorted(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp")))
    for pod in reversed(newest):
        status = pod.get("status") or {}
        for container in status.get("containerStatuses") or ():
            end = (container.get("state") or {}).get("terminated")
            if end and container["name"] == MAIN:
                reason = status.get("reason") or end.get("reason") or ""
                return Ending(end.get("exitCode"), reason, seconds)
        if status.get("reason"):
            return Ending(None, status["reason"], seconds)
    return Ending(None, str(condition(job, "Failed").get("reason") or ""), seconds)


def why_failed(ending: Ending, timeout: float) -> str:
    """Say in a sentence why a Job failed."""
    if ending.reason == "DeadlineExceeded":
        return f"it took longer than {timeout:.0f} s (DeadlineExceeded)"
    if ending.reason == "OOMKilled":
        return f"it took more memory than its limit (OOMKilled, exit code {ending.exit_code})"
    if ending.exit_code is None:
        return f"none of its containers ended by itself ({ending.reason or 'no reason given'})"
    return f"exit code {ending.exit_code}" + (f" ({ending.reason})" if ending.reason not in ("", "Error") else "")
