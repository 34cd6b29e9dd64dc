"""Serve the stand-in API: plain HTTP on port ``api``, TLS on port ``api-tls``.

It stands for the pods of backend-api and the load balancer before them: the version it reports is that of one
ready pod after the other, as the played cluster tells them (``<sandbox>/kube/serving.json``).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler

from sandbox.api import spells
from sandbox.api.metrics import exposition
from sandbox.api.tenants import DIRECTORY, Directory, whoami
from sandbox.api.tls import server_context
from sandbox.api.traffic import Story
from sandbox.state import ActiveFaults, State

VERSION = "v2.0.0"
"""What it reports when no played cluster says what runs."""
FAULTS = web.AppKey("faults", ActiveFaults)


class Pods:
    """The ready pods behind the load balancer.

    :param folder: the sandbox's.
    """

    def __init__(self, folder: Path) -> None:
        self._serving = spells.Watched(folder / "kube" / "serving.json")
        self._turns = itertools.count()

    def version(self) -> str | None:
        """Return the version of the pod whose turn it is, None when no pod is ready."""
        told = self._serving.get()
        if told is None:
            return VERSION
        running = [version for version, count in sorted(told["versions"].items()) for _ in range(count)]
        return running[next(self._turns) % len(running)] if running else None


PODS = web.AppKey("pods", Pods)
SPELLS = web.AppKey("spells", Path)


@web.middleware
async def delay(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer late under the fault ``slow``; the metrics stay on time, for they are the evidence."""
    slow = request.app[FAULTS].get("slow")
    if slow is not None and request.path != "/metrics":
        await asyncio.sleep(float(slow.get("seconds", 3.0)))
    return await handler(request)


async def ready(request: web.Request) -> web.Response:
    """Answer whether the API can serve, as a load balancer asks it."""
    faults = request.app[FAULTS]
    if (slow := faults.get("api-slow")) is not None:
        await asyncio.sleep(float(slow.get("seconds", 3.0)))
    version = request.app[PODS].version()
    if version is None:
        return _nobody()
    checks = {"database": "ok", "redis": "ok", "storage": "ok"}
    if faults.get("api-503") is None:
        return web.json_response({"status": "ready", "version": version, "checks": checks})
    checks["database"] = "connection pool exhausted: no connection within 5 s"
    return web.json_response({"status": "unavailable", "version": version, "checks": checks}, status=503)


async def live(request: web.Request) -> web.Response:
    """Answer that the process runs; whether it can serve is another question."""
    version = request.app[PODS].version()
    return web.json_response({"status": "alive", "version": version}) if version else _nobody()


def _nobody() -> web.Response:
    checks = {"load balancer": "no pod of backend-api is ready"}
    return web.json_response({"status": "unavailable", "version": None, "checks": checks}, status=503)


async def metrics(request: web.Request) -> web.Response:
    """Answer with the metrics at this moment, in Prometheus' text format."""
    story = Story.of(request.app[FAULTS].get, spells.read(request.app[SPELLS]))
    tenants = await request.app[DIRECTORY].tenants()
    body, content_type = exposition(time.time(), story, tenants)
    return web.Response(body=body, headers={"Content-Type": content_type})


def application(faults: ActiveFaults, folder: Path) -> web.Application:
    """Return the API of the sandbox in a folder."""
    app = web.Application(middlewares=[delay])
    app[FAULTS], app[PODS], app[SPELLS] = faults, Pods(folder), folder
    app[DIRECTORY] = Directory(State(folder))
    app.router.add_get("/health/ready", ready)
    app.router.add_get("/health/live", live)
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/api/v1/whoami", whoami)
    return app


async def serve(state: State) -> None:
    """Listen on both ports for ever."""
    faults = ActiveFaults(state.folder)
    runner = web.AppRunner(application(faults, state.folder), access_log=None)
    await runner.setup()
    context = server_context(state.folder / "api", faults)
    await web.TCPSite(runner, "127.0.0.1", state.port("api-tls"), ssl_context=context).start()
    await web.TCPSite(runner, "127.0.0.1", state.port("api")).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(State()))
