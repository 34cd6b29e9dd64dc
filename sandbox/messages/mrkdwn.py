"""Slack's mrkdwn as HTML: https://docs.slack.dev/messaging/formatting-message-text. Hostile text stays text."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from markupsafe import Markup, escape

_CODE = re.compile(r"```(.+?)```|`([^`\n]+)`", re.DOTALL)
_TOKEN = re.compile(r"<([^<>\n]+)>")
# Marks hold at the edges of words only, as in Slack: 2*3*4 and snake_case_names stay as they are.
_MARKS = tuple(
    (
        re.compile(
            rf"(?<![\w{re.escape(mark)}]){re.escape(mark)}(?=\S)([^\n]*?\S){re.escape(mark)}(?![\w{re.escape(mark)}])"
        ),
        tag,
    )
    for mark, tag in (("*", "b"), ("_", "i"), ("~", "s"))
)
_EMOJI = re.compile(r":([a-z0-9_+\-]+):")
_HELD = re.compile("\ue000(\\d+)\ue001")
_PRIVATE = re.compile("[\ue000\ue001]")
_DATE = re.compile(r"!date\^(\d+)\^([^|^]+)(?:\^([^|]+))?\|(.+)")

EMOJI = {
    "white_check_mark": "✅", "heavy_check_mark": "✔️", "x": "❌", "warning": "⚠️", "rotating_light": "🚨",
    "red_circle": "🔴", "large_green_circle": "🟢", "large_yellow_circle": "🟡", "large_orange_circle": "🟠",
    "large_purple_circle": "🟣",
    "large_blue_circle": "🔵", "white_circle": "⚪", "black_circle": "⚫", "grey_question": "❔", "question": "❓",
    "exclamation": "❗", "information_source": "ℹ️", "no_entry": "⛔", "hourglass_flowing_sand": "⏳",
    "hourglass": "⌛", "clock9": "🕘", "fire": "🔥", "eyes": "👀", "rocket": "🚀", "wrench": "🔧",
    "hammer_and_wrench": "🛠️", "bar_chart": "📊", "chart_with_upwards_trend": "📈",
    "chart_with_downwards_trend": "📉", "bell": "🔔", "lock": "🔒", "key": "🔑", "floppy_disk": "💾",
    "package": "📦", "memo": "📝", "mag": "🔍", "thumbsup": "👍", "+1": "👍", "thumbsdown": "👎", "-1": "👎",
    "tada": "🎉", "link": "🔗", "robot_face": "🤖", "ok": "🆗", "sos": "🆘", "construction": "🚧",
    "arrow_up": "⬆️", "arrow_down": "⬇️", "arrow_right": "➡️", "small_red_triangle": "🔺",
    "small_red_triangle_down": "🔻", "date": "📅", "page_facing_up": "📄", "clipboard": "📋", "ambulance": "🚑",
    "rewind": "⏪", "leftwards_arrow_with_hook": "↩️", "raised_hand": "✋",
}  # fmt: skip

_DRAWN = {
    "🔴": ("red", ""), "🟢": ("green", ""), "🟡": ("yellow", ""), "🟠": ("orange", ""), "🔵": ("blue", ""),
    "⚪": ("white", ""), "✅": ("green", "✓"), "❌": ("red", "✕"), "⛔": ("red", "–"), "🚨": ("red", "!"),
    "❗": ("red", "!"), "⚠️": ("yellow", "!"), "❔": ("white", "?"), "❓": ("white", "?"), "ℹ️": ("blue", "i"),
    "⏪": ("orange", "«"), "↩️": ("red", "↩"), "✋": ("yellow", "!"), "🚀": ("blue", "»"), "👀": ("blue", "…"),
}  # fmt: skip
"""Signs that must be seen where no emoji font is installed: colour and character of a drawn dot."""
_DRAWN_PATTERN = re.compile("|".join(_DRAWN))


def safe_url(url: str) -> str | None:
    """Return the URL if a browser may follow it (http, https, mailto)."""
    try:
        return url if urlsplit(url.strip()).scheme.lower() in ("http", "https", "mailto") else None
    except ValueError:
        return None


def link(url: str, label: str) -> Markup:
    """Return a link, or just its label where the URL is not to be followed."""
    if safe_url(url) is None:
        return escape(label)
    return Markup('<a href="{}" rel="noopener noreferrer" target="_blank">{}</a>').format(url, label)


def emoji(text: str) -> str:
    """Replace the :names: that are known."""
    return _EMOJI.sub(lambda match: EMOJI.get(match[1], match[0]), text)


def draw(marked: str) -> Markup:
    """Return HTML with the signs among its emoji drawn as dots."""

    def dot(match: re.Match[str]) -> str:
        color, sign = _DRAWN[match[0]]
        return f'<span class="dot {color}" role="img" aria-label="{match[0]}">{sign or "&#8203;"}</span>'

    return Markup(_DRAWN_PATTERN.sub(dot, marked))


def plain(text: str) -> Markup:
    """Return plain_text as HTML: nothing but emoji and line breaks."""
    return _breaks(draw(str(escape(emoji(_unescape(str(text)))))))


def html(text: str) -> Markup:
    """Return mrkdwn as HTML."""
    held: list[Markup] = []

    def hold(piece: Markup) -> str:
        held.append(piece)
        return f"\ue000{len(held) - 1}\ue001"

    text = _PRIVATE.sub("", str(text))
    text = _CODE.sub(lambda match: hold(_code(match)), text)
    text = _TOKEN.sub(lambda match: hold(_token(match[1])), text)
    marked = str(draw(str(escape(emoji(_unescape(text))))))
    for pattern, tag in _MARKS:
        marked = pattern.sub(rf"<{tag}>\1</{tag}>", marked)
    marked = str(_breaks(_quotes(marked)))
    # Links hold labels that are final; code holds no marks: one round puts everything back.
    return Markup(_HELD.sub(lambda match: str(held[int(match[1])]), marked))


def _code(match: re.Match[str]) -> Markup:
    if match[1] is not None:
        return Markup("<pre>{}</pre>").format(_flat(match[1]).strip("\n"))
    return Markup("<code>{}</code>").format(_flat(match[2]))


def _flat(text: str) -> str:
    """Return what a token-bearing text reads like without links."""
    return _unescape(_TOKEN.sub(lambda match: match[1].rpartition("|")[2] if "://" in match[1] else match[0], text))


def _token(inner: str) -> Markup:
    """Return what stands between < and >: a link, a mention, a date; else just that text."""
    target, _, label = inner.partition("|")
    target, label = _unescape(target), emoji(_unescape(label))
    if target[:1] in "@#":
        return Markup('<span class="mention">{}</span>').format(target[0] + (label or target[1:]))
    if date := _DATE.fullmatch(inner):
        return escape(_unescape(date[4]))
    if target.startswith("!"):
        return Markup('<span class="mention">{}</span>').format("@" + (label or target[1:].partition("^")[0]))
    if safe_url(target):
        return link(target, label or target.removeprefix("mailto:"))
    return escape(f"<{_unescape(inner)}>")


def _quotes(marked: str) -> str:
    lines = []
    for line in marked.split("\n"):
        quoted = line.startswith("&gt;")
        lines.append(f"<blockquote>{line[4:].strip()}</blockquote>" if quoted else line)
    return "\n".join(lines).replace("</blockquote>\n", "</blockquote>")


def _breaks(marked: str) -> Markup:
    return Markup(marked.replace("\n", "<br>"))


def _unescape(text: str) -> str:
    """Undo Slack's three entities; what else looks like one is text."""
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
