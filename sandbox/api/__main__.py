"""Serve the stand-in API: plain HTTP on port ``api``, TLS on port ``api-tls``."""

from __future__ import annotations

import asyncio
import contextlib
import time

from aiohttp import web
from aiohttp.typedefs import Handler

from sandbox.api.metrics import exposition
from sandbox.api.tls import server_context
from sandbox.api.traffic import Story
from sandbox.state import ActiveFaults, State

VERSION = "v2.0.0"
FAULTS = web.AppKey("faults", ActiveFaults)


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
    checks = {"database": "ok", "redis": "ok", "storage": "ok"}
    if faults.get("api-503") is None:
        return web.json_response({"status": "ready", "version": VERSION, "checks": checks})
    checks["database"] = "connection pool exhausted: no connection within 5 s"
    return web.json_response({"status": "unavailable", "version": VERSION, "checks": checks}, status=503)


async def live(_: web.Request) -> web.Response:
    """Answer that the process runs; whether it can serve is another question."""
    return web.json_response({"status": "alive", "version": VERSION})


async def metrics(request: web.Request) -> web.Response:
    """Answer with the metrics at this moment, in Prometheus' text format."""
    story = Story.of(request.app[FAULTS].get)
    body, content_type = exposition(time.time(), story)
    return web.Response(body=body, headers={"Content-Type": content_type})


def application(faults: ActiveFaults) -> web.Application:
    """Return the API."""
    app = web.Application(middlewares=[delay])
    app[FAULTS] = faults
    app.router.add_get("/health/ready", ready)
    app.router.add_get("/health/live", live)
    app.router.add_get("/metrics", metrics)
    return app


async def serve(state: State) -> None:
    """Listen on both ports for ever."""
    faults = ActiveFaults(state.folder)
    runner = web.AppRunner(application(faults), access_log=None)
    await runner.setup()
    context = server_context(state.folder / "api", faults)
    await web.TCPSite(runner, "127.0.0.1", state.port("api-tls"), ssl_context=context).start()
    await web.TCPSite(runner, "127.0.0.1", state.port("api")).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(State()))
