"""Serve Slack, Statuspage, SMTP and the inbox on their loopback ports until ended."""

from __future__ import annotations

import asyncio
import contextlib

from aiohttp import web

from sandbox.messages.inbox import Inbox
from sandbox.messages.journal import Journal
from sandbox.messages.mail import Mailbox, listen
from sandbox.messages.slack import SlackApi
from sandbox.messages.statuspage import StatuspageApi
from sandbox.messages.workspace import Workspace
from sandbox.state import ActiveFaults, State

MAIL_USER = "vcci-ops"


async def _site(app: web.Application, port: int) -> None:
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()


async def serve(state: State) -> None:
    """Listen for ever."""
    faults, folder = ActiveFaults(state.folder), state.folder / "messages"
    folder.mkdir(parents=True, exist_ok=True)
    workspace = Workspace(Journal(folder / "slack.jsonl"))
    mailbox = Mailbox(journal=Journal(folder / "mail.jsonl"), faults=faults)
    statuspage = StatuspageApi(
        journal=Journal(folder / "statuspage.jsonl"), key=state.secret("statuspage"), faults=faults
    )
    slack = SlackApi(
        workspace=workspace,
        token=state.secret("slack", "xoxb-"),
        folder=folder / "files",
        inbox=f"http://127.0.0.1:{state.port('inbox')}",
        own=f"http://127.0.0.1:{state.port('slack')}",
        faults=faults,
    )
    inbox = Inbox(workspace=workspace, statuspage=statuspage, mailbox=mailbox, files=folder / "files")
    await _site(slack.application(), state.port("slack"))
    await _site(statuspage.application(), state.port("statuspage"))
    await _site(inbox.application(), state.port("inbox"))
    await listen(mailbox, state.port("smtp"), user=MAIL_USER, password=state.secret("smtp"))
    await asyncio.Event().wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(State()))
