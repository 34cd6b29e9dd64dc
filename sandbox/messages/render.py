"""Messages as HTML, block by block, the way Slack shows them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from markupsafe import Markup, escape

from sandbox.messages import mrkdwn

Block = dict[str, Any]
_COLORS = {"good": "#2eb67d", "warning": "#ecb22e", "danger": "#e01e5a"}


def message(content: Block) -> Markup:
    """Return a message's body: its blocks, or its text where there are none, then attachments and files."""
    parts = [blocks(content["blocks"])] if content.get("blocks") else [_paragraph(content.get("text", ""))]
    parts += [_attachment(one) for one in content.get("attachments", [])]
    parts += [_file(one) for one in content.get("files", [])]
    return Markup("").join(parts)


def blocks(many: list[Block]) -> Markup:
    """Return blocks in order."""
    return Markup("").join(_BLOCKS.get(block.get("type", ""), _unknown)(block) for block in many)


def text(thing: Block | None) -> Markup:
    """Return a text object."""
    if not thing:
        return Markup("")
    return mrkdwn.html(thing["text"]) if thing.get("type") == "mrkdwn" else mrkdwn.plain(thing["text"])


def _paragraph(source: str) -> Markup:
    return Markup('<div class="section">{}</div>').format(mrkdwn.html(source)) if source else Markup("")


def _section(block: Block) -> Markup:
    fields = Markup("").join(Markup("<div>{}</div>").format(text(field)) for field in block.get("fields", []))
    main = Markup("<div>{}</div>").format(text(block["text"])) if block.get("text") else Markup("")
    if fields:
        main += Markup('<div class="fields">{}</div>').format(fields)
    side = (
        Markup('<div class="accessory">{}</div>').format(_element(block["accessory"])) if block.get("accessory") else ""
    )
    return Markup('<div class="section"><div class="grow">{}</div>{}</div>').format(main, side)


def _header(block: Block) -> Markup:
    return Markup('<h3 class="header">{}</h3>').format(text(block["text"]))


def _divider(_: Block) -> Markup:
    return Markup("<hr>")


def _context(block: Block) -> Markup:
    parts = [_element(one) if one.get("type") == "image" else text(one) for one in block["elements"]]
    return Markup('<div class="context">{}</div>').format(
        Markup("").join(Markup("<span>{}</span>").format(part) for part in parts)
    )


def _actions(block: Block) -> Markup:
    return Markup('<div class="actions">{}</div>').format(Markup("").join(map(_element, block["elements"])))


def _element(element: Block) -> Markup:
    if element.get("type") == "image":
        return _picture(element)
    label = text(element.get("text")) or escape(element.get("type", "").replace("_", " "))
    style = element.get("style", "")
    kind = Markup("button {}").format(style if style in ("primary", "danger") else "")
    url = mrkdwn.safe_url(str(element.get("url", "")))
    if url:
        return Markup('<a class="{}" href="{}" rel="noopener noreferrer" target="_blank">{}</a>').format(
            kind, url, label
        )
    return Markup('<span class="{}">{}</span>').format(kind, label)


def _picture(block: Block) -> Markup:
    alt = block.get("alt_text", "")
    url = mrkdwn.safe_url(str(block.get("image_url", "")))
    if not url:
        return Markup('<span class="alt">{}</span>').format(alt)
    return Markup('<img src="{}" alt="{}" loading="lazy" referrerpolicy="no-referrer">').format(url, alt)


def _image(block: Block) -> Markup:
    title = Markup("<figcaption>{}</figcaption>").format(text(block["title"])) if block.get("title") else ""
    return Markup("<figure>{}{}</figure>").format(title, _picture(block))


def _markdown(block: Block) -> Markup:
    # Standard Markdown, of which the common part is close enough to mrkdwn once ** is *.
    source = re.sub(r"\*\*(.+?)\*\*", r"*\1*", block["text"])
    source = re.sub(r"^#{1,6} +(.+)$", r"*\1*", source, flags=re.MULTILINE)
    return _paragraph(re.sub(r"\[([^\]\n]+)\]\((https?://[^)\s]+)\)", r"<\2|\1>", source))


def _rich_text(block: Block) -> Markup:
    return Markup('<div class="section"><div class="grow">{}</div></div>').format(
        Markup("").join(map(_rich_element, block["elements"]))
    )


def _rich_element(element: Block) -> Markup:
    inner = element.get("elements", [])
    kind = element.get("type")
    if kind == "rich_text_list":
        items = Markup("").join(Markup("<li>{}</li>").format(_rich_element(item)) for item in inner)
        return Markup("<ol>{}</ol>" if element.get("style") == "ordered" else "<ul>{}</ul>").format(items)
    content = Markup("").join(map(_rich_piece, inner))
    shape = {"rich_text_preformatted": "<pre>{}</pre>", "rich_text_quote": "<blockquote>{}</blockquote>"}
    return Markup(shape.get(str(kind), "<div>{}</div>")).format(content)


def _rich_piece(piece: Block) -> Markup:
    kind = piece.get("type")
    if kind == "link":
        made = mrkdwn.link(str(piece.get("url", "")), str(piece.get("text") or piece.get("url", "")))
    elif kind == "emoji":
        made = mrkdwn.draw(str(escape(mrkdwn.emoji(f":{piece.get('name', '')}:"))))
    elif kind in ("user", "channel", "usergroup", "broadcast"):
        name = piece.get(f"{kind}_id") or piece.get("range") or ""
        made = Markup('<span class="mention">@{}</span>').format(name)
    else:
        made = Markup(str(escape(piece.get("text", ""))).replace("\n", "<br>"))
    style = piece.get("style") or {}
    for key, tag in (("code", "code"), ("bold", "b"), ("italic", "i"), ("strike", "s")):
        if isinstance(style, dict) and style.get(key):
            made = Markup(f"<{tag}>{{}}</{tag}>").format(made)
    return made


def _table(block: Block) -> Markup:
    rows = Markup("")
    for number, row in enumerate(block["rows"]):
        cell = "<th>{}</th>" if number == 0 else "<td>{}</td>"
        rows += Markup("<tr>{}</tr>").format(Markup("").join(Markup(cell).format(_cell(one)) for one in row))
    return Markup('<table class="block">{}</table>').format(rows)


def _cell(cell: Block) -> Markup:
    if cell.get("type") == "rich_text":
        return Markup("").join(map(_rich_element, cell.get("elements", [])))
    return mrkdwn.plain(cell.get("text", ""))


def _unknown(block: Block) -> Markup:
    return Markup('<div class="context">[{}]</div>').format(block.get("type", "block"))


def _attachment(one: Block) -> Markup:
    color = _COLORS.get(str(one.get("color")), str(one.get("color", "")))
    if not re.fullmatch(r"#?[0-9a-fA-F]{3,8}", color):
        color = "#8886"
    parts = [_paragraph(one.get("pretext", ""))] if one.get("pretext") else []
    inner = [blocks(one["blocks"])] if one.get("blocks") else _legacy(one)
    bar = Markup('<div class="attachment" style="border-color:{}">{}</div>')
    return Markup("").join([*parts, bar.format(f"#{color.lstrip('#')}", Markup("").join(inner))])


def _legacy(one: Block) -> list[Markup]:
    parts = []
    if one.get("title"):
        title = mrkdwn.link(str(one.get("title_link", "")), str(one["title"]))
        parts.append(Markup('<div class="section"><b>{}</b></div>').format(title))
    parts.append(_paragraph(one.get("text") or ("" if one.get("title") else one.get("fallback", ""))))
    fields = [
        Markup("<div><b>{}</b><br>{}</div>").format(field.get("title", ""), mrkdwn.html(field.get("value", "")))
        for field in one.get("fields", [])
    ]
    if fields:
        parts.append(Markup('<div class="fields">{}</div>').format(Markup("").join(fields)))
    if one.get("footer"):
        parts.append(Markup('<div class="context">{}</div>').format(mrkdwn.html(one["footer"])))
    return parts


def _file(one: Block) -> Markup:
    return Markup('<div class="file"><a href="/files/{}">{}</a> <small>{:,} bytes</small></div>').format(
        one["id"], one.get("title") or one["name"], one["size"]
    )


_BLOCKS: dict[str, Callable[[Block], Markup]] = {
    "section": _section,
    "header": _header,
    "divider": _divider,
    "context": _context,
    "actions": _actions,
    "image": _image,
    "markdown": _markdown,
    "rich_text": _rich_text,
    "table": _table,
}
