"""Slack's markup: escaping, links, and texts cut to what Slack takes.

https://docs.slack.dev/messaging/formatting-message-text
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from vcci_ops.domain.results import Status

SECTION_LIMIT = 2900
"""Characters to a section; Slack takes 3,000."""
EMOJI = {
    Status.OK: ":large_green_circle:",
    Status.WARNING: ":large_yellow_circle:",
    Status.CRITICAL: ":red_circle:",
    Status.UNKNOWN: ":large_purple_circle:",
}


def escape(text: object) -> str:
    """Escape what Slack reads as control characters, so that no text from outside mentions a channel or a link."""
    return str(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def link(url: str, label: str) -> str:
    """Return a link; only the label when the address is none that a browser opens."""
    if not url.startswith(("http://", "https://")):
        return escape(label)
    return f"<{escape(url).replace('|', '%7C')}|{escape(label).replace('|', '¦')}>"


def code(text: object) -> str:
    """Return text in the type of code; a backtick in it would end it."""
    return f"`{escape(text).replace('`', chr(39))}`"


def cut(text: str, most: int) -> str:
    """Cut to ``most`` characters, the last one an ellipsis."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def chunks(lines: Iterable[str], most: int = SECTION_LIMIT) -> Iterator[str]:
    """Join lines to texts of at most ``most`` characters."""
    text = ""
    for line in lines:
        if text and len(text) + len(line) + 1 > most:
            yield text
            text = ""
        text = f"{text}\n{cut(line, most)}" if text else cut(line, most)
    if text:
        yield text
