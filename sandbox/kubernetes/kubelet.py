"""Scheduler and kubelet, played: pods get a node, an address, and a life according to their image.

An image of the sandbox's registry is really pulled, and its label ``vcci.sandbox.behaviour`` says how its pods
behave: ``crash`` and ``oom`` crash-loop, ``slow`` takes 20 s to get ready, ``unready`` never gets there; with
``errors`` and ``latency`` it is the API that suffers (:mod:`sandbox.kubernetes.serving`). Of any other image the
tag says it: with ``bad`` it never pulls (ImagePullBackOff), with ``crash`` it crash-loops, with ``slow`` it takes
20 s to get ready. Everything else is ready after half a second.

Pods whose restartPolicy is not Always run their first container's command for real, as a local process, in the
image's tree if it was pulled; without a command they end after a second, well unless the tag holds ``fail``.
"""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections.abc import Mapping

from sandbox.kubernetes.controllers import Controllers, condition
from sandbox.kubernetes.logs import Logs
from sandbox.kubernetes.processes import NoSuchProgram, Process
from sandbox.kubernetes.pulling import Pulled, Puller, PullError
from sandbox.kubernetes.resources import NODES, PODS
from sandbox.kubernetes.store import Event, Object, now

log = logging.getLogger(__name__)

READY_AFTER = 0.5
SLOW_AFTER = 20.0
CRASH_EVERY = 3.0
PULL_BACKOFF = (1.0, 2.0, 4.0, 8.0)
"""Seconds between attempts to pull; a real kubelet's grow from 10 s to 5 min."""
_GRACE = 0.2
_CONDITIONS = ("Initialized", "Ready", "ContainersReady", "PodScheduled")


def conditions(pod: Object, ready: bool, *, since: str = "", reason: str = "ContainersNotReady") -> list[Object]:
    """Return a pod's conditions; those that do not change keep their time.

    :param since: time of a change, as objects hold it; empty is now.
    """
    found = []
    for kind in _CONDITIONS:
        value = "True" if ready or kind in ("Initialized", "PodScheduled") else "False"
        before = condition(pod, kind)
        changed = before["lastTransitionTime"] if before.get("status") == value and not since else since or now()
        entry = {"type": kind, "status": value, "lastProbeTime": None, "lastTransitionTime": changed}
        if value == "False":
            names = " ".join(c["name"] for c in pod["spec"]["containers"])
            entry.update(reason=reason, message=f"containers with unready status: [{names}]")
        found.append(entry)
    return found


def container_statuses(
    pod: Object,
    state: Object,
    *,
    ready: bool,
    restarts: int = 0,
    last: Object | None = None,
    pulled: Mapping[str, Pulled] | None = None,
) -> list[Object]:
    """Return the same status for each of a pod's containers.

    :param pulled: the images of those containers that were pulled, by the container's name.
    """
    shown = {"state": state, "lastState": last or {}, "ready": ready, "restartCount": restarts}
    before = {status["name"]: status["imageID"] for status in (pod.get("status") or {}).get("containerStatuses") or ()}
    found = []
    for container in pod["spec"]["containers"]:
        image = (pulled or {}).get(container["name"])
        id_ = before.get(container["name"]) or _image_id(container["image"], state, image.digest if image else "")
        names = {"name": container["name"], "image": container["image"], "imageID": id_}
        found.append({**names, **shown, "started": "running" in state})
    return found


def _image_id(image: str, state: Object, digest: str = "") -> str:
    if "waiting" in state and state["waiting"].get("reason") != "CrashLoopBackOff":
        return ""
    name, _, pinned = image.partition("@")
    if digest or pinned:
        path, colon, tag = name.rpartition(":")
        return f"{path if colon and '/' not in tag else name}@{digest or pinned}"
    return f"docker.io/{image.partition(':')[0]}@sha256:{zlib.crc32(image.encode()):08x}"


def address(pod: Object) -> str:
    """Return a pod's address, made of its uid."""
    code = zlib.crc32(pod["metadata"]["uid"].encode())
    return f"10.244.{code >> 8 & 3}.{2 + code % 250}"


class Kubelet:
    """Runs the pods of all nodes.

    :param runs: environment and folder for local processes.
    :param puller: pulls images of the sandbox's registry.
    """

    def __init__(self, controllers: Controllers, logs: Logs, runs: Process, puller: Puller) -> None:
        self._controllers, self._store, self._logs, self._runs = controllers, controllers.store, logs, runs
        self._puller = puller
        self._lives: dict[str, asyncio.Task[None]] = {}

    def start(self) -> None:
        """Begin to run pods: those that wait already, and every new one."""
        self._store.listeners.append(self._changed)
        for pod in self._store.objects(PODS):
            self._admit(pod)

    async def stop(self) -> None:
        """End all pods' processes."""
        for life in self._lives.values():
            life.cancel()
        await asyncio.gather(*self._lives.values(), return_exceptions=True)

    def _changed(self, event: Event) -> None:
        if event.resource is not PODS:
            return
        pod = event.new.obj
        uid = pod["metadata"]["uid"]
        if event.type == "ADDED":
            self._admit(pod)
        elif event.type == "DELETED":
            self._end(uid)
        elif _condemned(event):
            self._end(uid)
            asyncio.get_running_loop().call_later(_GRACE, self._store.remove, PODS, pod)

    def _admit(self, pod: Object) -> None:
        uid = pod["metadata"]["uid"]
        if pod["status"].get("phase") == "Pending" and uid not in self._lives:
            life = asyncio.get_running_loop().create_task(self._live(pod))
            self._lives[uid] = life
            life.add_done_callback(lambda done: self._over(uid, done))

    def _over(self, uid: str, life: asyncio.Task[None]) -> None:
        self._lives.pop(uid, None)
        if not life.cancelled() and life.exception():
            log.error("a pod's life ended in an error", exc_info=life.exception())

    def _end(self, uid: str) -> None:
        life = self._lives.get(uid)
        if life:
            life.cancel()

    # A pod's life -------------------------------------------------------------------------------

    def _current(self, pod: Object) -> Object:
        return self._store.find(PODS, pod["metadata"]["namespace"], pod["metadata"]["name"]) or pod

    def _report(self, pod: Object, phase: str, ready: bool, statuses: list[Object], reason: str = "") -> None:
        pod = self._current(pod)
        because = {"reason": reason} if reason else {}
        status = {
            **pod["status"],
            "phase": phase,
            "conditions": conditions(pod, ready, **because),
            "containerStatuses": statuses,
            "podIP": address(pod),
            "podIPs": [{"ip": address(pod)}],
            "hostIP": "127.0.0.1",
        }
        status.setdefault("startTime", now())
        self._store.set_status(PODS, pod, status)

    async def _live(self, pod: Object) -> None:
        await asyncio.sleep(0.02)
        pod = self._schedule(self._current(pod))
        if not pod["spec"].get("nodeName"):
            return
        creating = {"waiting": {"reason": "ContainerCreating"}}
        self._report(pod, "Pending", False, container_statuses(pod, creating, ready=False))
        pulled = await self._pull(pod)
        if pulled:
            await self._play(pod, next(iter(pulled.values())).behaviour, pulled)
        else:
            await self._play(pod, _behaviour_by_tag(pod), {})

    async def _play(self, pod: Object, behaviour: str, pulled: Mapping[str, Pulled]) -> None:
        if behaviour == "bad":
            await self._never_pull(pod)
        elif pod["spec"].get("restartPolicy", "Always") != "Always":
            await self._run_once(pod, pulled)
        elif behaviour in ("crash", "oom"):
            await self._crash(pod, behaviour, pulled)
        else:
            running = {"running": {"startedAt": now()}}
            self._say(pod, "Started", f"Started container {pod['spec']['containers'][0]['name']}")
            self._report(pod, "Running", False, container_statuses(pod, running, ready=False, pulled=pulled))
            if behaviour == "unready":
                text = "Readiness probe failed: HTTP probe failed with statuscode: 503"
                self._say(pod, "Unhealthy", text, warning=True)
                return
            await asyncio.sleep(SLOW_AFTER if behaviour == "slow" else READY_AFTER)
            self._report(pod, "Running", True, container_statuses(pod, running, ready=True, pulled=pulled))

    async def _pull(self, pod: Object) -> dict[str, Pulled]:
        """Return the images of the sandbox's registry that a pod's containers run, however long it takes."""
        found = {}
        for container in pod["spec"]["containers"]:
            reference = self._puller.reference(container["image"])
            attempt = 0
            while reference and container["name"] not in found:
                try:
                    found[container["name"]] = await self._puller.pull(reference)
                except PullError as error:
                    await self._no_image(pod, container["image"], str(error), attempt)
                    attempt += 1
        return found

    async def _no_image(self, pod: Object, image: str, why: str, attempt: int) -> None:
        """Report that an image could not be pulled, and wait until it is tried again."""
        self._say(pod, "Failed", f'Failed to pull image "{image}": {why}', warning=True)
        if attempt == 0:
            waiting = {"waiting": {"reason": "ErrImagePull", "message": why}}
            self._report(pod, "Pending", False, container_statuses(pod, waiting, ready=False))
            await asyncio.sleep(PULL_BACKOFF[0])
        text = f'Back-off pulling image "{image}"'
        self._say(pod, "BackOff", text, warning=True)
        waiting = {"waiting": {"reason": "ImagePullBackOff", "message": f"{text}: ErrImagePull: {why}"}}
        self._report(pod, "Pending", False, container_statuses(pod, waiting, ready=False))
        await asyncio.sleep(PULL_BACKOFF[min(attempt, len(PULL_BACKOFF) - 1)])

    def _say(self, pod: Object, reason: str, text: str, *, warning: bool = False) -> None:
        self._controllers.tell(PODS, pod, reason, text, source="kubelet", warning=warning)

    def _schedule(self, pod: Object) -> Object:
        meta = pod["metadata"]
        if pod["spec"].get("nodeName"):
            return pod
        nodes = [n for n in self._store.objects(NODES) if not n["spec"].get("unschedulable")]
        if not nodes:
            return pod
        chosen = nodes[zlib.crc32(meta["name"].encode()) % len(nodes)]["metadata"]["name"]
        text = f"Successfully assigned {meta['namespace']}/{meta['name']} to {chosen}"
        self._controllers.tell(PODS, pod, "Scheduled", text, source="default-scheduler")
        return self._store.put(PODS, {**pod, "spec": {**pod["spec"], "nodeName": chosen}})

    async def _never_pull(self, pod: Object) -> None:
        image = pod["spec"]["containers"][0]["image"]
        waiting = {"reason": "ImagePullBackOff", "message": f'Back-off pulling image "{image}"'}
        self._say(pod, "Failed", f'Failed to pull image "{image}": manifest unknown', warning=True)
        self._say(pod, "BackOff", f'Back-off pulling image "{image}"', warning=True)
        self._report(pod, "Pending", False, container_statuses(pod, {"waiting": waiting}, ready=False))

    async def _crash(self, pod: Object, behaviour: str, pulled: Mapping[str, Pulled]) -> None:
        restarts = 0
        while True:
            restarts += 1
            self._say(pod, "BackOff", "Back-off restarting failed container", warning=True)
            state, last = crash_states(pod, oom=behaviour == "oom")
            statuses = container_statuses(pod, state, ready=False, restarts=restarts, last=last, pulled=pulled)
            self._report(pod, "Running", False, statuses)
            await asyncio.sleep(CRASH_EVERY)

    async def _run_once(self, pod: Object, pulled: Mapping[str, Pulled]) -> None:
        running = {"running": {"startedAt": now()}}
        self._report(pod, "Running", True, container_statuses(pod, running, ready=True, pulled=pulled))
        image = pulled.get(pod["spec"]["containers"][0]["name"])
        try:
            code, reason = await self._runs.run(pod, self._logs.run_file(pod), image)
            message = ""
        except NoSuchProgram as error:
            code, reason, message = 127, "ContainerCannotRun", str(error)
        reason = reason or ("Completed" if code == 0 else "Error")
        ended = {"exitCode": code, "reason": reason, "startedAt": running["running"]["startedAt"], "finishedAt": now()}
        if message:
            ended["message"] = message
        phase = "Succeeded" if code == 0 else "Failed"
        statuses = container_statuses(pod, {"terminated": ended}, ready=False, pulled=pulled)
        self._report(pod, phase, False, statuses, "PodCompleted" if code == 0 else "PodFailed")


def _condemned(event: Event) -> bool:
    """Whether the pod has just been told to end."""
    before = event.old.obj["metadata"] if event.old else {}
    return "deletionTimestamp" in event.new.obj["metadata"] and "deletionTimestamp" not in before


def _behaviour_by_tag(pod: Object) -> str:
    """Return what the tags of a pod's images say; the worst counts."""
    tags = " ".join(c["image"].rpartition(":")[2] for c in pod["spec"]["containers"])
    return next((word for word in ("bad", "crash", "slow") if word in tags), "")


def crash_states(pod: Object, *, oom: bool = False) -> tuple[Object, Object]:
    """Return state and lastState of a container that has just crashed again, or run out of memory."""
    name, spec = pod["metadata"]["name"], pod["spec"]["containers"][0]
    text = f"back-off 5m0s restarting failed container={spec['name']} pod={name}_{pod['metadata']['namespace']}"
    how: Object = {"exitCode": 137, "reason": "OOMKilled"} if oom else {"exitCode": 1, "reason": "Error"}
    ended = {**how, "startedAt": now(-2), "finishedAt": now()}
    return {"waiting": {"reason": "CrashLoopBackOff", "message": text}}, {"terminated": ended}
