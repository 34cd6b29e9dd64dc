"""The inbox: one page of everything that Slack, Statuspage and the mail server received, and the same as JSON."""

from __future__ import annotations

import datetime
import re
from pathlib import Path
from typing import Any

import jinja2
from aiohttp import web

from sandbox.messages import mrkdwn, render
from sandbox.messages.mail import Mailbox
from sandbox.messages.statuspage import StatuspageApi
from sandbox.messages.workspace import Workspace

_HERE = Path(__file__).parent
_HEADERS = {
    # Whatever is in a message, the page runs no script but its own.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; connect-src 'self'; frame-src 'self'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' https: http://127.0.0.1:*; form-action 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Inbox:
    """The page, its JSON, and the files that were uploaded to Slack.

    :param workspace: Slack's messages.
    :param statuspage: incidents and components.
    :param mailbox: mails.
    :param files: folder of uploaded files.
    """

    def __init__(self, *, workspace: Workspace, statuspage: StatuspageApi, mailbox: Mailbox, files: Path) -> None:
        self._workspace = workspace
        self._statuspage = statuspage
        self._mailbox = mailbox
        self._files = files
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(_HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True
        )
        environment.filters |= {"message": render.message, "when": _when, "emoji": mrkdwn.plain, "iso": _iso}
        self._template = environment.get_template("inbox.html")

    def application(self) -> web.Application:
        """Return the server."""
        app = web.Application(middlewares=[_with_headers])
        app.router.add_get("/", self.page)
        for name in ("inbox.css", "inbox.js"):
            app.router.add_get(f"/{name}", _static(name))
        app.router.add_get("/archives/{channel}/{message}", self.permalink)
        app.router.add_get("/files/{id}", self.file)
        app.router.add_get("/api/version", self.version)
        for name in ("slack", "mail", "statuspage"):
            app.router.add_get(f"/api/{name}", getattr(self, f"{name}_json"))
            app.router.add_delete(f"/api/{name}", self.clear)
        app.router.add_delete("/api", self.clear)
        return app

    async def page(self, _: web.Request) -> web.Response:
        """Answer with the page."""
        html = self._template.render(
            channels=self._channels(),
            incidents=self._statuspage.newest_first(),
            components=list(self._statuspage.components.values()),
            mails=self._mailbox.mails[::-1],
            version=self._version(),
        )
        return web.Response(text=html, content_type="text/html")

    async def permalink(self, request: web.Request) -> web.Response:
        """Send a message's permalink on to its place on the page."""
        match = re.fullmatch(r"p(\d+)(\d{6})", request.match_info["message"])
        channel = request.match_info["channel"]
        if match is None or channel not in self._workspace.channels:
            raise web.HTTPNotFound
        raise web.HTTPFound(f"/#{channel}-{match[1]}.{match[2]}")

    async def file(self, request: web.Request) -> web.Response:
        """Answer with an uploaded file, to be saved, never shown as a page of ours."""
        file = self._workspace.files.get(request.match_info["id"])
        if file is None:
            raise web.HTTPNotFound
        name = re.sub(r"[^\w. -]", "_", file["name"], flags=re.ASCII)
        headers = {"Content-Disposition": f'attachment; filename="{name}"'}
        return web.Response(body=(self._files / file["id"]).read_bytes(), headers=headers)

    async def version(self, _: web.Request) -> web.Response:
        """Answer with what changes whenever something arrives."""
        return web.json_response({"version": self._version()})

    async def slack_json(self, _: web.Request) -> web.Response:
        """Answer with all messages, oldest first, replies among them, with their channel's name."""
        found = [
            {"channel": channel["name"], "channel_id": channel["id"], **message}
            for channel in self._workspace.channels.values()
            for message in self._workspace.messages[channel["id"]].values()
        ]
        return web.json_response({"messages": sorted(found, key=lambda message: float(message["ts"]))})

    async def mail_json(self, _: web.Request) -> web.Response:
        """Answer with all mails, oldest first."""
        return web.json_response({"mails": self._mailbox.mails})

    async def statuspage_json(self, _: web.Request) -> web.Response:
        """Answer with incidents, newest first, and components."""
        components = list(self._statuspage.components.values())
        return web.json_response({"incidents": self._statuspage.newest_first(), "components": components})

    async def clear(self, request: web.Request) -> web.Response:
        """Forget what one of them received, or all."""
        stores: dict[str, Workspace | Mailbox | StatuspageApi] = {
            "slack": self._workspace,
            "mail": self._mailbox,
            "statuspage": self._statuspage,
        }
        wanted = request.path.removeprefix("/api").strip("/")
        for name, store in stores.items():
            if wanted in ("", name):
                store.clear()
        return web.json_response({"cleared": wanted or "all"})

    def _channels(self) -> list[dict[str, Any]]:
        """Return the channels that have messages, the one written to last first."""
        found = []
        for channel in self._workspace.channels.values():
            threads = [
                {"first": message, "replies": self._workspace.thread(channel["id"], message["ts"])[1:]}
                for message in self._workspace.top_level(channel["id"])
            ]
            if threads:
                found.append({**channel, "threads": threads, "latest": max(self._workspace.messages[channel["id"]])})
        return sorted(found, key=lambda channel: channel["latest"], reverse=True)

    def _version(self) -> str:
        return f"{self._workspace.version}.{self._statuspage.version}.{self._mailbox.version}"


@web.middleware
async def _with_headers(request: web.Request, handler: Any) -> web.StreamResponse:
    try:
        answer: web.StreamResponse = await handler(request)
    except web.HTTPException as problem:
        problem.headers.update(_HEADERS)
        raise
    answer.headers.update(_HEADERS)
    return answer


def _static(name: str) -> Any:
    async def serve(_: web.Request) -> web.Response:
        kind = {"css": "text/css", "js": "text/javascript"}[name.rpartition(".")[2]]
        return web.Response(text=(_HERE / name).read_text(encoding="utf-8"), content_type=kind)

    return serve


def _iso(moment: str | float) -> str:
    """Return a Slack time stamp, seconds since the epoch or an ISO time as an ISO time."""
    try:
        return datetime.datetime.fromtimestamp(float(moment), datetime.UTC).isoformat(timespec="seconds")
    except ValueError:
        return str(moment)


def _when(moment: str | float) -> str:
    """Return a time as people read it; all times are UTC."""
    try:
        return f"{datetime.datetime.fromisoformat(_iso(moment)).astimezone(datetime.UTC):%a %d %b, %H:%M:%S} UTC"
    except ValueError:
        return str(moment)
