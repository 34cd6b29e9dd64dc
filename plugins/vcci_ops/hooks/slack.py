"""Slack: one message a run, details in its thread; see also :mod:`vcci_ops.hooks.thread`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from vcci_ops.exceptions import DeliveryFailed
from vcci_ops.hooks.lookups import remembered

if TYPE_CHECKING:
    from slack_sdk import WebClient
    from slack_sdk.http_retry import RetryHandler

SECONDS = 10


def marker(dag_id: str, run_id: str) -> str:
    """Return the block_id that names a run's message, so that a repeated task finds it again."""
    return "vcci-" + hashlib.sha256(f"{dag_id}/{run_id}".encode()).hexdigest()[:24]


class SlackRefused(DeliveryFailed):
    """Slack answered no.

    :param code: its error code, e.g. ``message_not_found``.
    """

    def __init__(self, method: str, code: str, told: Sequence[str] = ()) -> None:
        super().__init__("Slack", f"{method} refused: {code} {'; '.join(told)}".strip())
        self.code = code


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
        hook = remembered(SlackHook)(slack_conn_id=self.slack_conn_id, timeout=SECONDS, retry_handlers=handlers)
        client: WebClient = hook.get_conn()
        return client

    def call(self, method: str, **arguments: Any) -> dict[str, Any]:
        """Call a method of Slack's Web API.

        A refusal for too many calls (HTTP 429) is waited out, as long as Slack says.

        :raises SlackRefused: when Slack says no; has its error code.
        :raises DeliveryFailed: when Slack does not answer, or there is no such connection.
        """
        from airflow.sdk.exceptions import AirflowNotFoundException
        from slack_sdk.errors import SlackApiError, SlackClientError

        try:
            answer = self._client().api_call(method, json=arguments)
        except SlackApiError as error:
            code = error.response.get("error", "unknown error")
            told = error.response.get("response_metadata", {}).get("messages", [])
            raise SlackRefused(method, code, told) from error
        except AirflowNotFoundException as error:
            raise DeliveryFailed("Slack", f"there is no Airflow connection {self.slack_conn_id}") from error
        except (SlackClientError, OSError) as error:
            raise DeliveryFailed("Slack", f"{method}: no answer ({type(error).__name__})") from error
        return dict(answer.data) if isinstance(answer.data, dict) else {}

    def post(
        self, text: str, blocks: Sequence[dict[str, Any]], thread_ts: str | None = None, *, unfurl: bool = True
    ) -> tuple[str, str]:
        """Post a message; return channel id and time stamp, which together name it.

        :param unfurl: whether Slack may show previews of the links in it.
        """
        more: dict[str, Any] = {"thread_ts": thread_ts} if thread_ts else {}
        if not unfurl:
            more |= {"unfurl_links": False, "unfurl_media": False}
        answer = self.call("chat.postMessage", channel=self.channel, text=text, blocks=list(blocks), **more)
        return answer["channel"], answer["ts"]

    def update(self, channel: str, ts: str, text: str, blocks: Sequence[dict[str, Any]]) -> None:
        """Edit a message. https://docs.slack.dev/reference/methods/chat.update"""
        self.call("chat.update", channel=channel, ts=ts, text=text, blocks=list(blocks))

    def permalink(self, channel: str, ts: str) -> str:
        """Return the address of a message for people."""
        return str(self.call("chat.getPermalink", channel=channel, message_ts=ts).get("permalink", ""))

    def find(self, block_id: str, most: int = 100) -> tuple[str, str] | None:
        """Return the message of the channel that has a block of this id, among its newest ``most``."""
        channel = self._channel_id()
        if not channel:
            return None
        for message in self._pages("conversations.history", most, channel=channel):
            if any(block.get("block_id") == block_id for block in message.get("blocks", [])):
                return channel, message["ts"]
        return None

    def replies(self, channel: str, ts: str) -> dict[str, str]:
        """Return block_id → time stamp of the replies in a message's thread."""
        found = self._pages("conversations.replies", 1000, channel=channel, ts=ts)
        return {block.get("block_id", ""): reply["ts"] for reply in found for block in reply.get("blocks", [])}

    def _pages(self, method: str, most: int, **arguments: str) -> Iterator[dict[str, Any]]:
        cursor, left = "", most
        while left > 0:
            page = self.call(method, limit=min(left, 200), **arguments, **_given(cursor=cursor))
            messages = page.get("messages", [])
            yield from messages
            left -= max(len(messages), 1)
            cursor = (page.get("response_metadata") or {}).get("next_cursor", "")
            if not cursor:
                return

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
