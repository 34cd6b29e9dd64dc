"""Slack: one message a run, details in its thread."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vcci_ops.exceptions import DeliveryFailed

if TYPE_CHECKING:
    from slack_sdk import WebClient
    from slack_sdk.http_retry import RetryHandler

SECONDS = 10


def marker(dag_id: str, run_id: str) -> str:
    """Return the block_id that names a run's message, so that a repeated task finds it again."""
    return "vcci-" + hashlib.sha256(f"{dag_id}/{run_id}".encode()).hexdigest()[:24]


class SlackChannel:
    """Post to one channel.

    :param channel: ``#name`` or id.
    :param slack_conn_id: Slack API connection; its password is the bot token (scopes ``chat:write``,
        ``channels:read``, ``channels:history``, and ``groups:`` the same for a private channel).
    """

    def __init__(self, channel: str, slack_conn_id: str = "vcci_slack") -> None:
        self.channel = channel
        self.slack_conn_id = slack_conn_id

    def _client(self) -> WebClient:
        from airflow.providers.slack.hooks.slack import SlackHook
        from slack_sdk.http_retry.builtin_handlers import RateLimitErrorRetryHandler

        # Only what Slack has certainly not done is repeated: a lost answer may be that of a posted message.
        handlers: list[RetryHandler] = [RateLimitErrorRetryHandler(max_retry_count=3)]
        hook = SlackHook(slack_conn_id=self.slack_conn_id, timeout=SECONDS, retry_handlers=handlers)
        return hook.get_conn()

    def call(self, method: str, **arguments: Any) -> dict[str, Any]:
        """Call a method of Slack's Web API.

        :raises DeliveryFailed: when Slack refuses (with its error code) or does not answer.
        """
        from slack_sdk.errors import SlackApiError, SlackClientError

        try:
            answer = self._client().api_call(method, json=arguments)
        except SlackApiError as error:
            code = error.response.get("error", "unknown error")
            told = error.response.get("response_metadata", {}).get("messages", [])
            raise DeliveryFailed("Slack", f"{method} refused: {code} {'; '.join(told)}".strip()) from error
        except (SlackClientError, OSError) as error:
            raise DeliveryFailed("Slack", f"{method}: no answer ({type(error).__name__})") from error
        return dict(answer.data) if isinstance(answer.data, dict) else {}

    def post(self, text: str, blocks: Sequence[dict[str, Any]], thread_ts: str | None = None) -> tuple[str, str]:
        """Post a message; return channel id and time stamp, which together name it."""
        thread = {"thread_ts": thread_ts} if thread_ts else {}
        answer = self.call("chat.postMessage", channel=self.channel, text=text, blocks=list(blocks), **thread)
        return answer["channel"], answer["ts"]

    def find(self, block_id: str) -> tuple[str, str] | None:
        """Return the message of the channel that has a block of this id, among its newest hundred."""
        channel = self._channel_id()
        if not channel:
            return None
        for message in self.call("conversations.history", channel=channel, limit=100).get("messages", []):
            if any(block.get("block_id") == block_id for block in message.get("blocks", [])):
                return channel, message["ts"]
        return None

    def replies(self, channel: str, ts: str) -> dict[str, str]:
        """Return block_id → time stamp of the replies in a message's thread."""
        found = self.call("conversations.replies", channel=channel, ts=ts, limit=200).get("messages", [])
        return {block.get("block_id", ""): reply["ts"] for reply in found for block in reply.get("blocks", [])}

    def _channel_id(self) -> str | None:
        if not self.channel.startswith("#"):
            return self.channel
        cursor = ""
        while True:
            page = self.call(
                "conversations.list", types="public_channel,private_channel", limit=1000, **_given(cursor=cursor)
            )
            for channel in page.get("channels", []):
                if channel["name"] == self.channel[1:]:
                    return str(channel["id"])
            cursor = (page.get("response_metadata") or {}).get("next_cursor", "")
            if not cursor:
                return None


def _given(**arguments: str) -> dict[str, str]:
    return {name: value for name, value in arguments.items() if value}
