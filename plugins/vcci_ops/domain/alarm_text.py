"""What people read when something that is looked at every hour turns: in Slack, the mail and the log."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from vcci_ops.domain.alarms import Notice
from vcci_ops.domain.mrkdwn import EMOJI, escape, link
from vcci_ops.domain.results import Result, Status


def line(at: dt.datetime, report: Mapping[str, Any], notice: Notice, notes: Sequence[str]) -> str:
    """Return a look's line in the day's thread: time, verdict, and what is not well.

    :param report: its ``verdict``, ``status`` and ``url``.
    """
    first = (
        f"{at:%H:%M} {EMOJI[Status(report['status'])]} {escape(report['verdict'])} · {link(report['url'], 'report')}"
    )
    wavering = [f"• {_what(result)}: {row} bad in a row, not loud yet" for result, row in notice.wavering]
    red = [f"• {_what(result)}: red since {_clock(since, at)}" for result, since in (*notice.turned_red, *notice.red)]
    green = [f"• {_what(result)}: well again" for result, _ in notice.turned_green]
    told = [f":warning: {escape(note)}" for note in notes]
    return "\n".join([first, *red, *wavering, *green, *told])


def day(title: str, environment: str, at: dt.datetime, notice: Notice) -> str:
    """Return the headline of the day's thread: how it stands now."""
    red = [_what(result) for result, _ in (*notice.turned_red, *notice.red)]
    stands = f"red: {', '.join(red)}" if red else "nothing red"
    sign = EMOJI[Status.CRITICAL] if red else EMOJI[Status.OK]
    return f"{sign} *{escape(title)}* of *{escape(environment)}*, {at:%a %d %b}: {stands} at {at:%H:%M} UTC"


def turned(notice: Notice, url: str) -> str:
    """Return the message about what turned; empty when nothing did."""
    return "\n".join([*_turned(notice), link(url, "Report")]) if notice.turned_red or notice.turned_green else ""


def _turned(notice: Notice) -> Iterator[str]:
    for result, since in notice.turned_red:
        said = f"bad since {since:%H:%M} UTC: {escape(result.summary)}"
        yield f"{EMOJI[Status.CRITICAL]} *{_what(result)}* is red, {said}"
        if result.action:
            yield f"*Do:* {escape(result.action)}"
    for result, since in notice.turned_green:
        yield f"{EMOJI[Status.OK]} *{_what(result)}* is well again, after trouble since {since:%a %H:%M} UTC"


def page(notice: Notice, url: str) -> tuple[str, str]:
    """Return subject and text of the mail to the on-call."""
    names = [result.name for result, _ in notice.turned_red]
    subject = f"red: {', '.join(names)}"
    lines = [
        f"{result.name}: {result.summary} (bad since {since:%H:%M} UTC)\n{result.action}".strip()
        for result, since in notice.turned_red
    ]
    return subject, "\n\n".join([*lines, f"Report: {url}"])


def log_lines(notice: Notice) -> Iterable[str]:
    """Return what the task's log says."""
    yield from (f"turned red   {result.name}, bad since {since:%H:%M}" for result, since in notice.turned_red)
    yield from (f"turned green {result.name}" for result, _ in notice.turned_green)
    yield from (f"still red    {result.name}, since {since:%a %H:%M}" for result, since in notice.red)
    yield from (f"wavering     {result.name}, bad looks in a row: {row}" for result, row in notice.wavering)


def _what(result: Result) -> str:
    return escape(result.name)


def _clock(since: dt.datetime, now: dt.datetime) -> str:
    return f"{since:%H:%M}" if since.date() == now.date() else f"{since:%a %H:%M}"
