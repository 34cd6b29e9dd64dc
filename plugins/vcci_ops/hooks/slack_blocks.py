"""A report as Slack blocks: what a person can act on first, the rest for the thread.

https://docs.slack.dev/reference/block-kit/blocks
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from slack_sdk.models.blocks import (
    ActionsBlock,
    Block,
    ButtonElement,
    ContextBlock,
    DividerBlock,
    HeaderBlock,
    MarkdownTextObject,
    PlainTextObject,
    SectionBlock,
)

from vcci_ops.domain.mrkdwn import EMOJI
from vcci_ops.domain.mrkdwn import cut as _cut
from vcci_ops.domain.mrkdwn import escape as _escape
from vcci_ops.domain.report import Report
from vcci_ops.domain.results import Result, Status

MOST_PROBLEMS, MOST_CHANGES, SECTION_LIMIT = 5, 5, 2900
POST_LIMIT = 8_000
"""Characters to a post: Slack refuses more than some 13,200 in all blocks together, their frames counted."""
MOST_POSTS = 6


def message(report: Report, block_id: str, report_url: str, run_url: str) -> list[dict[str, Any]]:
    """Return the message: verdict, worst problems with what to do, changes, and two buttons.

    :param block_id: id of the first block, by which a later try finds the message.
    """
    when = f"{report.title} · *{_escape(report.environment)}* · {report.started_at:%a %-d %b, %H:%M} UTC"
    if report.left_out:
        when += f" · not looked at: {_escape(', '.join(report.left_out))}"
    blocks: list[Block] = [
        HeaderBlock(text=PlainTextObject(text=_cut(report.verdict, 150), emoji=True), block_id=block_id),
        ContextBlock(elements=[MarkdownTextObject(text=when)]),
    ]
    problems = report.problems
    blocks += [_section(_problem(result)) for result in problems[:MOST_PROBLEMS]]
    if len(problems) > MOST_PROBLEMS:
        more = len(problems) - MOST_PROBLEMS
        blocks.append(ContextBlock(elements=[MarkdownTextObject(text=f"and {more} more, see the thread")]))
    blocks += [DividerBlock(), _section(_changes(report))]
    notes = [_cut(_escape(note), 300) for note in report.notes[:5]]
    blocks += [ContextBlock(elements=[MarkdownTextObject(text=f":warning: {note}")]) for note in notes]
    buttons = [
        ButtonElement(text="Open the report", url=report_url, action_id="report", style="primary"),
        ButtonElement(text="Run in Airflow", url=run_url, action_id="run"),
    ]
    blocks.append(ActionsBlock(elements=buttons))
    return [block.to_dict() for block in blocks]


def thread(report: Report, block_id: str) -> list[list[dict[str, Any]]]:
    """Return the details for the thread: every result, by section, in as many posts as Slack needs.

    :param block_id: the message's; the posts' blocks are called ``<block_id>-<post>-<block>``.
    """
    texts = [
        text
        for section, results in report.sections.items()
        for text in _chunks([f"*{_escape(section)}*", *map(_line, results)])
    ]
    posts: list[list[str]] = [[]]
    for text in texts:
        if posts[-1] and sum(map(len, posts[-1])) + len(text) > POST_LIMIT:
            posts.append([])
        posts[-1].append(text)
    if len(posts) > MOST_POSTS:
        posts = [*posts[: MOST_POSTS - 1], ["… cut here. The report has everything."]]
    return [
        [
            SectionBlock(text=MarkdownTextObject(text=text), block_id=f"{block_id}-{number}-{index}").to_dict()
            for index, text in enumerate(texts)
        ]
        for number, texts in enumerate(posts)
        if texts
    ]


def _section(text: str) -> SectionBlock:
    return SectionBlock(text=MarkdownTextObject(text=_cut(text, SECTION_LIMIT)))


def _name(result: Result) -> str:
    return _escape(result.title) + (f" · {_escape(result.subject)}" if result.subject else "")


def _problem(result: Result) -> str:
    link = f" <{result.link}|Look here>" if result.link.startswith(("http://", "https://")) else ""
    found = _cut(_escape(result.summary), 600)
    first = "Make it measurable first. Then: " if result.status is Status.UNKNOWN else ""
    return f"{EMOJI[result.status]} *{_name(result)}* — {found}\n*Do:* {first}{_escape(result.action)}{link}"


def _line(result: Result) -> str:
    shown = f" `{_escape(result.display)}`" if result.display else ""
    lines = [f"{EMOJI[result.status]} {_name(result)}{shown} — {_cut(_escape(result.summary), 400)}"]
    if result.status is not Status.OK:
        lines += [f"      • {_cut(_escape(line), 200)}" for line in result.details[:5]]
    return "\n".join(lines)


def _changes(report: Report) -> str:
    if report.previous_at is None:
        return "*Changed:* the first report, nothing to compare with"
    changes = [_cut(_escape(change.words), 200) for change in report.changes]
    if not changes:
        return f"*Changed* since {report.previous_at:%a %-d %b, %H:%M}: nothing"
    more = [f"and {len(changes) - MOST_CHANGES} more"] if len(changes) > MOST_CHANGES else []
    lines = "\n".join(f"• {line}" for line in [*changes[:MOST_CHANGES], *more])
    return f"*Changed* since {report.previous_at:%a %-d %b, %H:%M}:\n{lines}"


def _chunks(lines: Iterable[str]) -> Iterable[str]:
    """Join lines to texts that fit a section block."""
    text = ""
    for line in lines:
        if text and len(text) + len(line) + 1 > SECTION_LIMIT:
            yield text
            text = ""
        text = f"{text}\n{_cut(line, SECTION_LIMIT)}" if text else _cut(line, SECTION_LIMIT)
    if text:
        yield text
