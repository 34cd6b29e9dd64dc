"""Slack's Web API, as far as an app that posts reports needs it: https://docs.slack.dev/reference/methods."""

from __future__ import annotations

import asyncio
import hmac
import json
import re
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiohttp import web

from sandbox.messages import blockkit
from sandbox.messages.workspace import BOT, TEAM, Workspace
from sandbox.state import ActiveFaults

BURST, PER_SECOND = 20, 1.0
"""chat.postMessage: about one a second per channel, short bursts allowed; chat.update (tier 3) much the same.
https://docs.slack.dev/apis/web-api/rate-limits"""
LIMITED = ("chat.postMessage", "chat.update")
MAX_TEXT = 40_000
_NAME = re.compile(r"[a-z0-9_\-]{1,80}")
_JSON_ARGUMENTS = ("blocks", "attachments", "metadata", "files")


class Refused(Exception):
    """Slack's answer is no: ``{"ok": false, "error": ...}`` with HTTP status 200."""

    def __init__(self, error: str, **more: Any) -> None:
        super().__init__(error)
        self.answer = {"ok": False, "error": error, **more}


class Bucket:
    """A token bucket: ``BURST`` at once, ``PER_SECOND`` after that."""

    def __init__(self) -> None:
        self._left, self._at = float(BURST), time.monotonic()

    def take(self) -> bool:
        """Take one; False when none is left."""
        now = time.monotonic()
        self._left = min(BURST, self._left + (now - self._at) * PER_SECOND)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


Args = dict[str, Any]


class SlackApi:
    """The methods below /api/, and the uploads below /upload/.

    :param workspace: what they read and change.
    :param token: the bot token that is let in.
    :param folder: where uploaded files are kept.
    :param inbox: URL of the inbox page, for permalinks.
    :param own: URL of this server, for uploads.
    :param faults: ``slack-refuses`` and ``slow``.
    """

    def __init__(
        self, *, workspace: Workspace, token: str, folder: Path, inbox: str, own: str, faults: ActiveFaults
    ) -> None:
        self._workspace = workspace
        self._token = token
        self._folder = folder
        self._inbox = inbox
        self._own = own
        self._faults = faults
        self._buckets: dict[str, Bucket] = {}
        self._uploads: dict[str, dict[str, Any]] = {}
        self._methods: dict[str, Callable[[Args], Args]] = {
            "api.test": lambda args: {"args": args},
            "auth.test": self._auth_test,
            "chat.postMessage": self._post,
            "chat.update": self._update,
            "chat.delete": self._delete,
            "chat.getPermalink": self._permalink,
            "conversations.list": self._list,
            "conversations.create": self._create,
            "conversations.join": self._join,
            "conversations.info": lambda args: {"channel": self._channel(args)},
            "conversations.history": self._history,
            "conversations.replies": self._replies,
            "reactions.add": self._react,
            "files.getUploadURLExternal": self._upload_url,
            "files.completeUploadExternal": self._complete_upload,
        }

    def application(self) -> web.Application:
        """Return the server."""
        app = web.Application(client_max_size=50 * 2**20)
        app.router.add_route("*", "/api/{method}", self.call)
        app.router.add_post("/upload/{id}", self.upload)
        return app

    async def call(self, request: web.Request) -> web.Response:
        """Answer one method call."""
        if (slow := self._faults.get("slow")) is not None:
            await asyncio.sleep(float(slow.get("seconds", 3.0)))
        name = request.match_info["method"]
        try:
            args = await _arguments(request)
            self._let_in(request, args)
            if name in LIMITED and not self._bucket(name, args).take():
                answer = {"ok": False, "error": "ratelimited"}
                return web.json_response(answer, status=429, headers={"Retry-After": "1"})
            if name not in self._methods:
                raise Refused("unknown_method", req_method=name)
            return web.json_response({"ok": True, **self._methods[name](args)})
        except Refused as refused:
            return web.json_response(refused.answer)

    def _let_in(self, request: web.Request, args: Args) -> None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        given = token if scheme.lower() == "bearer" else args.pop("token", "")
        if not given:
            raise Refused("not_authed")
        if not hmac.compare_digest(given.encode(), self._token.encode()):
            raise Refused("invalid_auth")
        if (refuses := self._faults.get("slack-refuses")) is not None:
            raise Refused(str(refuses.get("error", "account_inactive")))

    def _bucket(self, method: str, args: Args) -> Bucket:
        channel = self._workspace.find_channel(str(args.get("channel", "")))
        return self._buckets.setdefault(f"{method} {channel['id'] if channel else ''}", Bucket())

    def _channel(self, args: Args) -> dict[str, Any]:
        if not args.get("channel"):
            raise _missing("channel")
        channel = self._workspace.find_channel(str(args["channel"]))
        if channel is None:
            raise Refused("channel_not_found")
        return channel

    def _message(self, args: Args, key: str = "ts", error: str = "message_not_found") -> tuple[str, dict[str, Any]]:
        channel: str = self._channel(args)["id"]
        found = self._workspace.messages[channel].get(str(args.get(key, "")))
        if found is None:
            raise Refused(error)
        return channel, found

    # Methods ------------------------------------------------------------------------------------

    def _auth_test(self, _: Args) -> Args:
        return {"url": f"{self._inbox}/", **TEAM, **{k: BOT[k] for k in ("user", "user_id", "bot_id")}}

    def _post(self, args: Args) -> Args:
        channel = self._channel(args)
        if not channel["is_member"]:
            raise Refused("not_in_channel")
        content = _content(args)
        if not any(content.get(key) for key in ("text", "blocks", "attachments")):
            raise Refused("no_text")
        message = {
            "type": "message",
            "subtype": "bot_message",
            "ts": self._workspace.next_ts(),
            **content,
            **_sender(args),
        }
        if args.get("thread_ts"):
            _, parent = self._message(args, "thread_ts", "thread_not_found")
            message["thread_ts"] = parent.get("thread_ts", parent["ts"])
        self._workspace.record("message", channel=channel["id"], message=message)
        return {"channel": channel["id"], "ts": message["ts"], "message": message}

    def _update(self, args: Args) -> Args:
        channel, message = self._message(args)
        changes = _content({"text": message["text"], **args})
        changes["edited"] = {"user": BOT["user_id"], "ts": self._workspace.next_ts()}
        self._workspace.record("update", channel=channel, ts=message["ts"], changes=changes)
        return {"channel": channel, "ts": message["ts"], "text": message["text"], "message": message}

    def _delete(self, args: Args) -> Args:
        channel, message = self._message(args)
        self._workspace.record("delete", channel=channel, ts=message["ts"])
        return {"channel": channel, "ts": message["ts"]}

    def _permalink(self, args: Args) -> Args:
        channel, message = self._message(args, "message_ts")
        path = f"archives/{channel}/p{message['ts'].replace('.', '')}"
        return {"channel": channel, "permalink": f"{self._inbox}/{path}"}

    def _list(self, args: Args) -> Args:
        page, cursor = _page(list(self._workspace.channels.values()), args, 100)
        return {"channels": page, "response_metadata": {"next_cursor": cursor}}

    def _create(self, args: Args) -> Args:
        name = str(args.get("name", ""))
        if not _NAME.fullmatch(name):
            raise Refused("invalid_name_specials" if name else "invalid_name_required")
        if self._workspace.find_channel(name):
            raise Refused("name_taken")
        self._workspace.record("channel", name=name, member=True, created=int(time.time()))
        return {"channel": self._workspace.find_channel(name)}

    def _join(self, args: Args) -> Args:
        channel = self._channel(args)
        self._workspace.record("join", channel=channel["id"])
        return {"channel": channel}

    def _history(self, args: Args) -> Args:
        messages = self._workspace.top_level(self._channel(args)["id"])
        oldest, latest = float(args.get("oldest") or 0), float(args.get("latest") or "inf")
        page, cursor = _page([m for m in messages if oldest < float(m["ts"]) < latest], args, 100)
        return {"messages": page, "has_more": bool(cursor), "response_metadata": {"next_cursor": cursor}}

    def _replies(self, args: Args) -> Args:
        channel, parent = self._message(args, error="thread_not_found")
        page, cursor = _page(self._workspace.thread(channel, parent["ts"]), args, 1000)
        return {"messages": page, "has_more": bool(cursor), "response_metadata": {"next_cursor": cursor}}

    def _react(self, args: Args) -> Args:
        channel, message = self._message(args, "timestamp")
        name = str(args.get("name", "")).strip(":")
        if not re.fullmatch(r"[a-z0-9_+\-']{1,100}", name):
            raise Refused("invalid_name")
        if any(reaction["name"] == name for reaction in message.get("reactions", [])):
            raise Refused("already_reacted")
        self._workspace.record("reaction", channel=channel, ts=message["ts"], name=name)
        return {}

    # Files --------------------------------------------------------------------------------------

    def _upload_url(self, args: Args) -> Args:
        for key in ("filename", "length"):
            if not args.get(key):
                raise _missing(key)
        made = "F" + secrets.token_hex(5).upper()
        self._uploads[made] = {"id": made, "name": str(args["filename"]), "size": int(args["length"])}
        return {"file_id": made, "upload_url": f"{self._own}/upload/{made}"}

    async def upload(self, request: web.Request) -> web.Response:
        """Take a file's bytes, as the body or as a form's one part."""
        made = request.match_info["id"]
        if made not in self._uploads:
            return web.Response(status=404, text="no such upload")
        if request.content_type.startswith("multipart/"):
            parts = [part for part in (await request.post()).values() if isinstance(part, web.FileField)]
            body = parts[0].file.read() if parts else b""
        else:
            body = await request.read()
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / made).write_bytes(body)
        self._uploads[made]["size"] = len(body)
        return web.Response(text=f"OK - {len(body)}")

    def _complete_upload(self, args: Args) -> Args:
        wanted = args.get("files")
        if not isinstance(wanted, list) or not wanted:
            raise _missing("files")
        done = []
        for one in wanted:
            file = self._uploads.pop(one.get("id", ""), None)
            if file is None or not (self._folder / file["id"]).exists():
                raise Refused("file_not_found")
            done.append({**file, "title": one.get("title") or file["name"]})
            done[-1]["permalink"] = f"{self._inbox}/files/{file['id']}"
        for file in done:
            self._workspace.record("file", file=file)
        if args.get("channel_id"):
            self._share(args, done)
        return {"files": done}

    def _share(self, args: Args, files: list[dict[str, Any]]) -> None:
        channel = self._channel({"channel": args["channel_id"]})
        message = {"type": "message", "ts": self._workspace.next_ts(), "text": args.get("initial_comment", "")}
        message |= {"files": files, **_sender({})}
        if args.get("thread_ts"):
            message["thread_ts"] = args["thread_ts"]
        self._workspace.record("message", channel=channel["id"], message=message)


async def _arguments(request: web.Request) -> Args:
    """Read the arguments as Slack does: query, form or JSON; some form fields hold JSON themselves."""
    args: Args = dict(request.query)
    if request.content_type == "application/json":
        try:
            given = json.loads(await request.read() or b"{}")
        except ValueError:
            raise Refused("invalid_json") from None
        if not isinstance(given, dict):
            raise Refused("json_not_object")
        return args | given
    if request.method == "POST":
        args |= {key: value for key, value in (await request.post()).items() if isinstance(value, str)}
    for key in _JSON_ARGUMENTS:
        if isinstance(args.get(key), str):
            try:
                args[key] = json.loads(args[key])
            except ValueError:
                raise Refused(f"invalid_{key}_format") from None
    return args


def _content(args: Args) -> dict[str, Any]:
    """Return text, blocks and attachments after Slack's checks."""
    text = args.get("text") or ""
    if not isinstance(text, str):
        raise Refused(
            "invalid_arguments", response_metadata={"messages": ["[ERROR] must be a string [json-pointer:/text]"]}
        )
    if len(text) > MAX_TEXT:
        raise Refused("msg_too_long")
    content: dict[str, Any] = {"text": text}
    if args.get("blocks"):
        _check(blockkit.problems(args["blocks"]), "invalid_blocks")
        if blockkit.text_length(args["blocks"]) > blockkit.MAX_TEXT:
            raise Refused("msg_blocks_too_long")
        content["blocks"] = args["blocks"]
    if args.get("attachments"):
        content["attachments"] = _attachments(args["attachments"])
    for key in ("metadata", "mrkdwn"):
        if key in args:
            content[key] = args[key]
    return content


def _attachments(given: Any) -> list[dict[str, Any]]:
    if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
        raise Refused("invalid_attachments")
    if len(given) > 100:
        raise Refused("too_many_attachments")
    for number, one in enumerate(given):
        if one.get("blocks"):
            _check(blockkit.problems(one["blocks"], f"/attachments/{number}/blocks"), "invalid_attachments")
    return given


def _check(found: list[str], error: str) -> None:
    if found:
        plain = [text.removeprefix("[ERROR] ") for text in found]
        raise Refused(error, errors=plain, response_metadata={"messages": found})


def _sender(args: Args) -> dict[str, Any]:
    sender = {"user": BOT["user_id"], "bot_id": BOT["bot_id"], "app_id": BOT["app_id"], "team": TEAM["team_id"]}
    return sender | {key: args[key] for key in ("username", "icon_emoji") if args.get(key)}


def _missing(key: str) -> Refused:
    text = f"[ERROR] missing required field: {key}"
    return Refused("invalid_arguments", response_metadata={"messages": [text]})


def _page(rows: list[dict[str, Any]], args: Args, most: int) -> tuple[list[dict[str, Any]], str]:
    try:
        first, limit = int(args.get("cursor") or 0), min(int(args.get("limit") or most), 1000)
    except ValueError:
        raise Refused("invalid_cursor") from None
    after = first + limit
    return rows[first:after], str(after) if after < len(rows) else ""
