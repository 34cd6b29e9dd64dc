"""Slack: one message a run, details in its thread."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vcci_ops.exceptions import DeliveryFailed

if TYPE_CHECKING:
    from slack_sdk import WebClient

SECONDS = 10


def marker(dag_id: str, run_id: str) -> str:
    """Return the block_id that names a run's message, so that a repeated task finds it again."""
    return "vcci-" + hashlib.sha256(f"{dag_id}/{run_id}".encode()).hexdigest()[:24]


class SlackChannel:
    """Post to one channel.

    :param channel: ``#name`` or id.
    :param slack_conn_id: Slack API connection; its password is the bot token (scopes ``chat:write``,
        ``channels:read``, ``channels:history``).
    """

    def __init__(self, channel: str, slack_conn_id: str = "vcci_slack") -> None:
        self.channel = channel
        self.slack_conn_id = slack_conn_id

    def _client(self) -> WebClient:
        from airflow.providers.slack.hooks.slack import SlackHook
        from slack_sdk.http_retry.builtin_handlers import ConnectionErrorRetryHandler, RateLimitErrorRetryHandler

        handlers = [RateLimitErrorRetryHandler(max_retry_count=3), ConnectionErrorRetryHandler(max_retry_count=1)]
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
        name = self.channel.removeprefix("#")
        channels = self.call("conversations.list", limit=1000).get("channels", [])
        ids = [c["id"] for c in channels if name in (c["id"], c["name"])]
        if not ids:
            return None
        for message in self.call("conversations.history", channel=ids[0], limit=100).get("messages", []):
            if any(block.get("block_id") == block_id for block in message.get("blocks", [])):
                return ids[0], message["ts"]
        return None

    def has_replies(self, channel: str, ts: str) -> bool:
        """Whether somebody, most likely an earlier try, has answered in the thread."""
        return len(self.call("conversations.replies", channel=channel, ts=ts).get("messages", [])) > 1

    def permalink(self, channel: str, ts: str) -> str:
        """Return the message's address."""
        return str(self.call("chat.getPermalink", channel=channel, message_ts=ts).get("permalink", ""))
