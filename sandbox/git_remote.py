"""A git remote over smart HTTP: ``git http-backend`` as a CGI behind Basic authentication.

``python -m sandbox.git_remote`` serves the repositories of the sandbox's folder ``git`` on the port ``git``. Whoever
has the password of the secret ``git`` may read and push, as user ``vcci-ops`` or, as BuildKit logs in with its
GIT_AUTH_TOKEN, ``x-access-token``.
https://git-scm.com/docs/git-http-backend
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
from pathlib import Path

from aiohttp import web

from sandbox.releases.repository import environment
from sandbox.state import ActiveFaults, State

USERS = ("vcci-ops", "x-access-token")
_PIECE = 2**16
_LARGEST_PUSH = 64 * 2**20


class Remote:
    """Answers requests.

    :param folder: where the repositories are.
    :param password: of both users.
    :param faults: read for ``slow``.
    """

    def __init__(self, folder: Path, password: str, faults: ActiveFaults) -> None:
        self._folder, self._faults = folder, faults
        pairs = [base64.b64encode(f"{user}:{password}".encode()).decode() for user in USERS]
        self._accepted = [f"Basic {pair}" for pair in pairs]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Pass a request to git, if it comes with the log-in."""
        given = request.headers.get("Authorization", "")
        if not any(hmac.compare_digest(given.encode(), known.encode()) for known in self._accepted):
            return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="vcci"'}, text="who are you?\n")
        slow = self._faults.get("slow")
        if slow is not None:
            await asyncio.sleep(float(slow.get("seconds", 3.0)))
        return await self._backend(request, await request.read())

    async def _backend(self, request: web.Request, body: bytes) -> web.StreamResponse:
        process = await asyncio.create_subprocess_exec(
            "git",
            "http-backend",
            env=self._environment(request, body),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdin
        assert process.stdout
        feeding = asyncio.create_task(_feed(process.stdin, body))
        try:
            response = await _head(process.stdout)
            await response.prepare(request)
            while piece := await process.stdout.read(_PIECE):
                await response.write(piece)
            await response.write_eof()
        finally:
            feeding.cancel()
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()
            await process.wait()
        return response

    def _environment(self, request: web.Request, body: bytes) -> dict[str, str]:
        return {
            **environment(),
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
            "GIT_PROJECT_ROOT": str(self._folder),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_PROTOCOL": request.headers.get("Git-Protocol", ""),
            "PATH_INFO": request.path,
            "QUERY_STRING": request.query_string,
            "REQUEST_METHOD": request.method,
            "CONTENT_TYPE": request.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),  # as it is now: aiohttp has inflated what came compressed
            "REMOTE_USER": USERS[0],
            "REMOTE_ADDR": request.remote or "",
        }


async def _feed(stdin: asyncio.StreamWriter, body: bytes) -> None:
    with contextlib.suppress(ConnectionError):
        stdin.write(body)
        await stdin.drain()
        stdin.close()


async def _head(out: asyncio.StreamReader) -> web.StreamResponse:
    """Read a CGI's headers."""
    response = web.StreamResponse()
    while line := (await out.readline()).decode().strip():
        name, _, value = line.partition(": ")
        if name == "Status":
            response.set_status(int(value.split()[0]))
        else:
            response.headers[name] = value
    return response


async def serve(state: State) -> None:
    """Listen for ever."""
    remote = Remote(state.folder / "git", state.secret("git"), ActiveFaults(state.folder))
    app = web.Application(client_max_size=_LARGEST_PUSH)
    app.router.add_route("*", "/{path:.*}", remote.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", state.port("git")).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(State()))
