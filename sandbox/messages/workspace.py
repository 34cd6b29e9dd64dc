"""A Slack workspace: its channels, messages, threads, reactions and files, kept in a journal."""

from __future__ import annotations

import base64
import hashlib
import time
from typing import Any

from sandbox.messages.journal import Journal

CHANNELS = ("general", "vcci-ops", "incidents", "releases")
FOREIGN_CHANNEL = "random"
"""Exists, but the app was not invited: posting answers not_in_channel until it joins."""
TEAM = {"team_id": "T0VCCISAND", "team": "GL-VCCI sandbox"}
BOT = {"user_id": "U0VCCIOPSB", "user": "vcci_ops", "bot_id": "B0VCCIOPSB", "app_id": "A0VCCIOPSA"}


class Workspace:
    """The state; every change is an event that is written first and then applied.

    :param journal: where the events are kept.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._last_ts = 0.0
        self.channels: dict[str, dict[str, Any]] = {}
        self.messages: dict[str, dict[str, dict[str, Any]]] = {}
        """Channel id → ts → message, in order of arrival."""
        self.files: dict[str, dict[str, Any]] = {}
        self._seed()
        for event in journal:
            self._apply(event)

    @property
    def version(self) -> int:
        """Number that grows with each change."""
        return self._journal.version

    def clear(self) -> None:
        """Begin anew: the channels of the start, no messages."""
        self._journal.clear()
        self.channels, self.messages, self.files = {}, {}, {}
        self._seed()

    def record(self, kind: str, **fields: Any) -> None:
        """Write an event and apply it."""
        event = {"kind": kind, **fields}
        self._journal.append(event)
        self._apply(event)

    def next_ts(self) -> str:
        """Return a message's time stamp, which is its id too: unique, growing."""
        self._last_ts = max(time.time(), self._last_ts + 0.000_001)
        return f"{self._last_ts:.6f}"

    def find_channel(self, wanted: str) -> dict[str, Any] | None:
        """Find a channel by id, name or #name."""
        if wanted in self.channels:
            return self.channels[wanted]
        name = wanted.removeprefix("#")
        return next((channel for channel in self.channels.values() if channel["name"] == name), None)

    def thread(self, channel: str, ts: str) -> list[dict[str, Any]]:
        """Return a message and its replies, oldest first."""
        messages = self.messages[channel].values()
        return [message for message in messages if ts in (message["ts"], message.get("thread_ts"))]

    def top_level(self, channel: str) -> list[dict[str, Any]]:
        """Return the messages that are not replies, newest first."""
        messages = [m for m in self.messages[channel].values() if m.get("thread_ts", m["ts"]) == m["ts"]]
        return messages[::-1]

    def _seed(self) -> None:
        for name in (*CHANNELS, FOREIGN_CHANNEL):
            self._apply({"kind": "channel", "name": name, "member": name != FOREIGN_CHANNEL, "created": 0})

    def _apply(self, event: dict[str, Any]) -> None:
        getattr(self, f"_on_{event['kind']}")(event)

    def _on_channel(self, event: dict[str, Any]) -> None:
        name = event["name"]
        made = channel_id(name)
        self.channels[made] = {
            "id": made,
            "name": name,
            "name_normalized": name,
            "created": event["created"],
            "creator": BOT["user_id"],
            "is_channel": True,
            "is_private": False,
            "is_archived": False,
            "is_member": event["member"],
            "context_team_id": TEAM["team_id"],
        }
        self.messages.setdefault(made, {})

    def _on_join(self, event: dict[str, Any]) -> None:
        self.channels[event["channel"]]["is_member"] = True

    def _on_message(self, event: dict[str, Any]) -> None:
        message = event["message"]
        self._last_ts = max(self._last_ts, float(message["ts"]))
        messages = self.messages[event["channel"]]
        messages[message["ts"]] = message
        parent = messages.get(message.get("thread_ts", ""))
        if parent is not None and parent is not message:
            parent["thread_ts"] = parent["ts"]
            parent["reply_count"] = parent.get("reply_count", 0) + 1
            parent["latest_reply"] = message["ts"]

    def _on_update(self, event: dict[str, Any]) -> None:
        message = self.messages[event["channel"]][event["ts"]]
        message.update(event["changes"])

    def _on_delete(self, event: dict[str, Any]) -> None:
        messages = self.messages[event["channel"]]
        gone = messages.pop(event["ts"])
        parent = messages.get(gone.get("thread_ts", ""))
        if parent is not None:
            parent["reply_count"] -= 1

    def _on_reaction(self, event: dict[str, Any]) -> None:
        reactions = self.messages[event["channel"]][event["ts"]].setdefault("reactions", [])
        reactions.append({"name": event["name"], "count": 1, "users": [BOT["user_id"]]})

    def _on_file(self, event: dict[str, Any]) -> None:
        self.files[event["file"]["id"]] = event["file"]


def channel_id(name: str) -> str:
    """Return the id a channel of this name has here."""
    return "C" + base64.b32encode(hashlib.sha256(name.encode()).digest()).decode()[:10]
