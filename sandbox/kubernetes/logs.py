"""Pods' logs: of local processes, from files, or invented.

``<sandbox>/kube/logs/<namespace>/<pod>.log`` wins, if it is there: it is streamed as it is, in large
pieces, so that a log of gigabytes can be put on the stage. When its lines begin with a time (RFC 3339),
``sinceSeconds`` and ``sinceTime`` find their place by bisection; otherwise the whole file counts.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from aiohttp import web

from sandbox.kubernetes.errors import bad_request
from sandbox.kubernetes.lines import BURST_BEFORE, INVENTED, Line, crashed, generate, iso
from sandbox.kubernetes.resources import PODS
from sandbox.kubernetes.store import Object, Store, seconds
from sandbox.kubernetes.views import flag
from sandbox.state import ActiveFaults

_PIECE = 2**20
_DAY = 86400.0
_POLL = 0.5


@dataclasses.dataclass(frozen=True)
class Query:
    """What of a log is wanted."""

    after: float
    tail: int | None
    limit: int | None
    timestamps: bool
    follow: bool
    previous: bool

    @classmethod
    def of(cls, request: web.Request) -> Query:
        """Read the request's parameters.

        :raises ApiError: 400 for one that is not a number or time.
        """
        given = request.query
        try:
            after = 0.0
            if "sinceSeconds" in given:
                after = time.time() - int(given["sinceSeconds"])
            elif "sinceTime" in given:
                after = seconds(given["sinceTime"])
            tail = int(given["tailLines"]) if "tailLines" in given else None
            limit = int(given["limitBytes"]) if "limitBytes" in given else None
        except ValueError as error:
            raise bad_request(f"cannot read the log options: {error}") from error
        flags = [flag(given, name) for name in ("timestamps", "follow", "previous")]
        return cls(after, tail, limit, *flags)


class Logs:
    """Serves logs, and keeps those of local processes.

    :param folder: where they are.
    :param store: for the pods.
    :param faults: read for ``error-burst``.
    """

    def __init__(self, folder: Path, store: Store, faults: ActiveFaults) -> None:
        self._files, self._runs, self._store, self._faults = folder / "logs", folder / "runs", store, faults
        self._burst: float | None = None
        self._burst_pod = ""
        self.behaviour: Callable[[Object], str] = lambda _pod: ""
        """How a pod's image behaves: one with errors logs them."""
        self._runs.mkdir(parents=True, exist_ok=True)
        for old in self._runs.iterdir():
            old.unlink()

    def run_file(self, pod: Object) -> Path:
        """Return the file for a local process's output, each line behind its Unix time."""
        return self._runs / f"{pod['metadata']['uid']}.log"

    # Serving ------------------------------------------------------------------------------------

    async def serve(self, request: web.Request, pod: Object, closing: asyncio.Event) -> web.StreamResponse:
        """Answer a request for a container's log.

        :raises ApiError: 400 when there is no such container, or it has no log.
        """
        query = Query.of(request)
        status = _status(pod, _container(pod, request.query.get("container", "")))
        _refuse(pod, status, query)
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        file = self._files / pod["metadata"]["namespace"] / f"{pod['metadata']['name']}.log"
        if file.exists() and not query.previous:
            await _send_file(response, file, query)
            return response
        now = time.time()
        lines: Iterable[Line] = self._lines(pod, status, query, now)
        if query.tail is not None:
            lines = deque(lines, maxlen=query.tail)
        await _send(response, lines, query)
        if query.follow:
            await self._follow(response, pod, status, query, sent=now, closing=closing)
        return response

    async def _follow(
        self,
        response: web.StreamResponse,
        pod: Object,
        status: Object,
        query: Query,
        *,
        sent: float,
        closing: asyncio.Event,
    ) -> None:
        while not closing.is_set():
            meta = pod["metadata"]
            current = self._store.find(PODS, meta["namespace"], meta["name"])
            over = current is None or current["status"].get("phase") in ("Succeeded", "Failed")
            now = time.time()
            fresh = dataclasses.replace(query, after=sent, tail=None)
            await _send(response, self._lines(pod, status, fresh, now), fresh)
            sent = now
            if over:
                return
            await asyncio.sleep(_POLL)

    # Sources ------------------------------------------------------------------------------------

    def _lines(self, pod: Object, status: Object, query: Query, until: float) -> Iterator[Line]:
        run = self.run_file(pod)
        if run.exists():
            return _recorded(run, query.after, until)
        state = status.get("state") or {}
        last = (status.get("lastState") or {}).get("terminated") or {}
        app = pod["metadata"].get("labels", {}).get("app") or status["name"]
        if query.previous or "waiting" in state:
            ended = seconds(last["finishedAt"]) if "finishedAt" in last else until
            found = crashed(app, ended - (300 if query.previous else 0))
            return iter([line for line in found if query.after < line[0] <= until])
        ran = state.get("running") or state.get("terminated") or {}
        begun = seconds(ran["startedAt"]) if ran.get("startedAt") else until
        if "finishedAt" in ran:
            return iter([line for line in _job_lines(status["name"], ran) if query.after < line[0] <= until])
        return self._invented(pod, app, begun, query, until)

    def _invented(self, pod: Object, app: str, begun: float, query: Query, until: float) -> Iterator[Line]:
        burst, name = begun if self.behaviour(pod) == "errors" else self._burst_since(pod), pod["metadata"]["name"]
        after = max(query.after, until - _DAY) if app in INVENTED else query.after
        if query.tail is not None:
            near = max(after, until - (query.tail + 10) * 30)
            found = list(generate(app, name, begun=begun, after=near, until=until, burst=burst))
            if len(found) >= query.tail:
                return iter(found)
        return generate(app, name, begun=begun, after=after, until=until, burst=burst)

    def _burst_since(self, pod: Object) -> float | None:
        fault = self._faults.get("error-burst")
        if fault is None:
            self._burst = None
            return None
        if self._burst is None:
            self._burst, self._burst_pod = time.time() - BURST_BEFORE, ""
        pods = self._store.objects(PODS, "vcci-production")
        api = [p["metadata"] for p in pods if p["metadata"].get("labels", {}).get("app") == "backend-api"]
        if self._burst_pod not in [metadata["uid"] for metadata in api]:
            # Chosen once, and not one that is about to go: the burst must not wander while pods come and go.
            staying = [metadata["uid"] for metadata in api if "deletionTimestamp" not in metadata]
            self._burst_pod = staying[int(fault.get("pod", 1)) % len(staying)] if staying else ""
        return self._burst if pod["metadata"]["uid"] == self._burst_pod else None


def _container(pod: Object, asked: str) -> str:
    names = [c["name"] for c in pod["spec"]["containers"]]
    name = pod["metadata"]["name"]
    if not asked and len(names) > 1:
        raise bad_request(f"a container name must be specified for pod {name}, choose one of: [{' '.join(names)}]")
    if asked and asked not in names:
        raise bad_request(f"container {asked} is not valid for pod {name}")
    return asked or str(names[0])


def _status(pod: Object, container: str) -> Object:
    statuses = pod["status"].get("containerStatuses") or ()
    found: Object = next((s for s in statuses if s["name"] == container), {"name": container})
    return found


def _refuse(pod: Object, status: Object, query: Query) -> None:
    container, name = status["name"], pod["metadata"]["name"]
    last = (status.get("lastState") or {}).get("terminated")
    if query.previous and not last:
        raise bad_request(f'previous terminated container "{container}" in pod "{name}" not found')
    waiting = (status.get("state") or {}).get("waiting")
    if (not status.get("state") or waiting) and not last:
        reason = (waiting or {}).get("reason", "ContainerCreating")
        images = ("ImagePullBackOff", "ErrImagePull")
        why = "trying and failing to pull image" if reason in images else reason
        raise bad_request(f'container "{container}" in pod "{name}" is waiting to start: {why}')


def _job_lines(name: str, state: Object) -> list[Line]:
    begun, ended = seconds(state["startedAt"]), seconds(state["finishedAt"])
    told = [(begun, f"INFO {name} begins"), (ended, f"INFO {name} ends, nothing left to do")]
    return [(at, f"{iso(at)} {text}") for at, text in told]


def _recorded(file: Path, after: float, until: float) -> Iterator[Line]:
    with open(file, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            moment, _, text = line.rstrip("\n").partition(" ")
            if line.endswith("\n") and after < float(moment) <= until:
                yield float(moment), text


# Sending -------------------------------------------------------------------------------------------


async def _send(response: web.StreamResponse, lines: Iterable[Line], query: Query) -> None:
    left = query.limit
    remaining = iter(lines)
    while piece := list(itertools.islice(remaining, 2000)):
        texts = [f"{iso(at)[:-1]}000000Z {text}\n" if query.timestamps else f"{text}\n" for at, text in piece]
        data = "".join(texts).encode()
        if left is not None:
            data, left = data[:left], left - len(data)
        await response.write(data)
        if left is not None and left <= 0:
            return


async def _send_file(response: web.StreamResponse, path: Path, query: Query) -> None:
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        at = _tail(file, size, query.tail) if query.tail is not None else 0
        if query.after:
            at = max(at, _since(file, size, query.after))
        left = min(size - at, query.limit if query.limit is not None else size)
        file.seek(at)
        while left > 0 and (piece := file.read(min(_PIECE, left))):
            await response.write(piece)
            left -= len(piece)


def _tail(file: BinaryIO, size: int, count: int) -> int:
    at, seen = size, 0
    if count == 0:
        return size
    while at > 0:
        start = max(0, at - 65536)
        file.seek(start)
        piece = file.read(at - start)
        if at == size and piece.endswith(b"\n"):
            piece = piece[:-1]
        for place in range(len(piece) - 1, -1, -1):
            if piece[place] == 10:
                seen += 1
                if seen == count:
                    return start + place + 1
        at = start
    return 0


def _moment(line: bytes) -> float | None:
    try:
        return seconds(line.split(b" ", 1)[0].decode())
    except ValueError:
        return None


def _since(file: BinaryIO, size: int, after: float) -> int:
    """Return where the lines later than ``after`` begin; 0 when lines do not begin with a time."""
    low, high = 0, size
    while low < high:
        middle = (low + high) // 2
        file.seek(middle)
        if middle:
            file.readline()
        at, moment = file.tell(), None
        for line in iter(file.readline, b""):
            moment = _moment(line)
            if moment is not None or at - middle > 10 * 65536:
                break
        if moment is None and middle == 0:
            return 0
        if moment is None or moment > after:
            high = middle
        else:
            low = middle + 1
    file.seek(low)
    if low:
        file.readline()
    return file.tell()
