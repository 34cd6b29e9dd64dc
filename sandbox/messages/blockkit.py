"""Check Block Kit blocks as Slack does before it posts them.

Limits: https://docs.slack.dev/reference/block-kit/blocks. The messages have the form of Slack's own,
``[ERROR] must be less than 3001 characters [json-pointer:/blocks/0/text/text]``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

Found = Iterator[tuple[str, str]]
"""What is wrong, and the JSON pointer to where."""

MAX_BLOCKS = 50
MAX_TEXT = 13_200
"""Characters that all texts of a message's blocks may have together; beyond it Slack answers
``msg_blocks_too_long``. Slack does not document the number, it is what people observe, and the blocks
themselves seem to count a little, too: https://github.com/slackapi/bolt-js/issues/2509"""
_STYLES = ("primary", "danger")


def problems(blocks: Any, at: str = "/blocks") -> list[str]:
    """Return what is wrong with a message's blocks; empty if Slack would take them."""
    return [f"[ERROR] {text} [json-pointer:{pointer}]" for text, pointer in _blocks(blocks, at)]


def text_length(thing: Any) -> int:
    """Return how many characters of text blocks, or a part of them, show all in all."""
    if isinstance(thing, list):
        return sum(text_length(item) for item in thing)
    if not isinstance(thing, dict):
        return 0
    own = thing.get("text")
    return len(own) if isinstance(own, str) else sum(text_length(part) for part in thing.values())


def _blocks(blocks: Any, at: str) -> Found:
    if not isinstance(blocks, list):
        yield "must be a valid array", at
        return
    if len(blocks) > MAX_BLOCKS:
        yield f"no more than {MAX_BLOCKS} items allowed", at
    seen: set[str] = set()
    for number, block in enumerate(blocks):
        here = f"{at}/{number}"
        yield from _block(block, here)
        name = block.get("block_id") if isinstance(block, dict) else None
        if isinstance(name, str) and name:
            if name in seen:
                yield f'"block_id" already exists: {name}', f"{here}/block_id"
            seen.add(name)


def _block(block: Any, at: str) -> Found:
    if not isinstance(block, dict):
        yield "must be an object", at
        return
    kind = block.get("type")
    if not isinstance(kind, str):
        yield "missing required field: type", at
    elif kind not in _BLOCKS:
        yield f"unsupported type: {kind}", f"{at}/type"
    else:
        required, optional, check = _BLOCKS[kind]
        yield from _keys(block, at, required, ("block_id", *optional))
        if "block_id" in block:
            yield from _string(block["block_id"], f"{at}/block_id", 255)
        yield from check(block, at)


def _keys(thing: dict[str, Any], at: str, required: tuple[str, ...], optional: tuple[str, ...]) -> Found:
    for key in required:
        if key not in thing:
            yield f"missing required field: {key}", at
    for key in thing:
        if key not in (*required, *optional, "type"):
            yield f"invalid additional property: {key}", at


def _string(value: Any, at: str, most: int, least: int = 1) -> Found:
    if not isinstance(value, str):
        yield "must be a string", at
    elif len(value) < least:
        yield f"must be more than {least - 1} characters", at
    elif len(value) > most:
        yield f"must be less than {most + 1} characters", at


def _text(value: Any, at: str, most: int, kinds: tuple[str, ...] = ("plain_text", "mrkdwn")) -> Found:
    if not isinstance(value, dict):
        yield "must be an object", at
        return
    kind = value.get("type")
    if kind not in kinds:
        yield f"unsupported type: {kind}", f"{at}/type"
        return
    yield from _keys(value, at, ("text",), ("emoji",) if kind == "plain_text" else ("verbatim",))
    if "text" in value:
        yield from _string(value["text"], f"{at}/text", most)


def _items(value: Any, at: str, most: int) -> Found:
    if not isinstance(value, list):
        yield "must be a valid array", at
    elif not value:
        yield "must have at least 1 item", at
    elif len(value) > most:
        yield f"no more than {most} items allowed", at


def _each(value: Any, at: str, most: int, check: Callable[[Any, str], Found]) -> Found:
    yield from _items(value, at, most)
    if isinstance(value, list):
        for number, item in enumerate(value):
            yield from check(item, f"{at}/{number}")


def _section(block: dict[str, Any], at: str) -> Found:
    if "text" not in block and "fields" not in block:
        yield "must define either `text` or `fields`", at
    if "text" in block:
        yield from _text(block["text"], f"{at}/text", 3000)
    if "fields" in block:
        yield from _each(block["fields"], f"{at}/fields", 10, lambda field, here: _text(field, here, 2000))
    if "accessory" in block:
        yield from _element(block["accessory"], f"{at}/accessory")


def _header(block: dict[str, Any], at: str) -> Found:
    if "text" in block:
        yield from _text(block["text"], f"{at}/text", 150, ("plain_text",))


def _image(block: dict[str, Any], at: str) -> Found:
    if ("image_url" in block) == ("slack_file" in block):
        yield "must define either `image_url` or `slack_file`", at
    if "image_url" in block:
        yield from _url(block["image_url"], f"{at}/image_url")
    if "alt_text" in block:
        yield from _string(block["alt_text"], f"{at}/alt_text", 2000, 0)
    if "title" in block:
        yield from _text(block["title"], f"{at}/title", 2000, ("plain_text",))


def _url(value: Any, at: str) -> Found:
    yield from _string(value, at, 3000)
    if isinstance(value, str) and value and "://" not in value:
        yield "must be a valid url", at


def _context(block: dict[str, Any], at: str) -> Found:
    if "elements" in block:
        yield from _each(block["elements"], f"{at}/elements", 10, _context_element)


def _context_element(element: Any, at: str) -> Found:
    if isinstance(element, dict) and element.get("type") == "image":
        yield from _keys(element, at, ("alt_text",), ("image_url", "slack_file"))
        yield from _image(element, at)
    else:
        yield from _text(element, at, 2000)


def _actions(block: dict[str, Any], at: str) -> Found:
    if "elements" in block:
        yield from _each(block["elements"], f"{at}/elements", 25, _element)


def _element(element: Any, at: str) -> Found:
    kind = element.get("type") if isinstance(element, dict) else None
    if kind == "image":
        yield from _keys(element, at, ("alt_text",), ("image_url", "slack_file"))
        yield from _image(element, at)
    elif kind == "button":
        yield from _button(element, at)
    elif kind not in _OTHER_ELEMENTS:
        yield f"unsupported type: {kind}", f"{at}/type"


def _button(button: dict[str, Any], at: str) -> Found:
    yield from _keys(button, at, ("text",), ("action_id", "url", "value", "style", "confirm", "accessibility_label"))
    if "text" in button:
        yield from _text(button["text"], f"{at}/text", 75, ("plain_text",))
    if "url" in button:
        yield from _url(button["url"], f"{at}/url")
    for key, most in (("action_id", 255), ("value", 2000), ("accessibility_label", 75)):
        if key in button:
            yield from _string(button[key], f"{at}/{key}", most)
    if button.get("style", "primary") not in _STYLES:
        yield f"must be one of {', '.join(_STYLES)}", f"{at}/style"


def _markdown(block: dict[str, Any], at: str) -> Found:
    if "text" in block:
        yield from _string(block["text"], f"{at}/text", 12000)


def _rich_text(block: dict[str, Any], at: str) -> Found:
    if "elements" in block:
        yield from _each(block["elements"], f"{at}/elements", 3000, _rich_element)


def _rich_element(element: Any, at: str) -> Found:
    kind = element.get("type") if isinstance(element, dict) else None
    if kind not in ("rich_text_section", "rich_text_list", "rich_text_preformatted", "rich_text_quote"):
        yield f"unsupported type: {kind}", f"{at}/type"


def _table(block: dict[str, Any], at: str) -> Found:
    if "rows" in block:
        yield from _each(block["rows"], f"{at}/rows", 100, lambda row, here: _items(row, here, 20))


def _anything(_block: dict[str, Any], _at: str) -> Found:
    return iter(())


_Check = Callable[[dict[str, Any], str], Found]
# type → required keys, optional keys, further rules
_BLOCKS: dict[str, tuple[tuple[str, ...], tuple[str, ...], _Check]] = {
    "section": ((), ("text", "fields", "accessory", "expand"), _section),
    "header": (("text",), (), _header),
    "divider": ((), (), _anything),
    "image": (("alt_text",), ("image_url", "slack_file", "title"), _image),
    "context": (("elements",), (), _context),
    "actions": (("elements",), (), _actions),
    "markdown": (("text",), (), _markdown),
    "rich_text": (("elements",), (), _rich_text),
    "table": (("rows",), ("column_settings",), _table),
}
_OTHER_ELEMENTS = (
    "static_select", "multi_static_select", "overflow", "datepicker", "timepicker", "checkboxes", "radio_buttons",
    "users_select", "channels_select", "conversations_select", "datetimepicker",
)  # fmt: skip
