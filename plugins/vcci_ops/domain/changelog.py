"""What a release brings, from its commits: grouped by conventional-commit type, linked, safe to show.

Whoever can commit writes these texts. Whatever is in them is shown as text: it formats nothing, mentions nobody and
links nowhere. https://www.conventionalcommits.org/en/v1.0.0/
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import re
from collections.abc import Callable, Sequence
from typing import Any

MOST, LONGEST_SUBJECT = 200, 200
"""Commits that are shown, and characters of each one's subject."""
_GROUPS = (
    ("Breaking changes", ()),
    ("Features", ("feat", "feature")),
    ("Fixes", ("fix", "bugfix", "hotfix", "security")),
    ("Performance", ("perf",)),
    ("Reverts", ("revert",)),
    ("Documentation", ("docs", "doc")),
    ("Maintenance", ("refactor", "style", "test", "tests", "build", "ci", "chore")),
    ("Other", ()),
)
_BY_TYPE = {word: title for title, words in _GROUPS for word in words}
_CONVENTIONAL = re.compile(r"([A-Za-z]{1,20})(?:\(([^()\r\n]{1,60})\))?(!?): *(\S.*)", re.DOTALL)
_BREAKING = re.compile(r"^BREAKING[ -]CHANGE: ", re.MULTILINE)
_ISSUE = re.compile(r"(?<![\w#&/])#([0-9]{1,9})(?![\w])", re.ASCII)
_SHA = re.compile(r"[0-9a-f]{7,64}")
# Control characters, and those that turn the direction of writing or show as nothing.
_INVISIBLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]+"
)
_MARKDOWN = re.compile(r"([!-/:-@\[-`{-~])")


@dataclasses.dataclass(frozen=True)
class Commit:
    """A commit.

    :param sha: its full name in hexadecimal digits.
    :param subject: first line of its message.
    :param body: the rest of it.
    :param author: name.
    :param at: when it was committed, with zone.
    """

    sha: str
    subject: str
    body: str
    author: str
    at: dt.datetime


@dataclasses.dataclass(frozen=True)
class Entry:
    """A line of the change log, as plain text of one line."""

    sha: str
    title: str
    scope: str
    author: str


@dataclasses.dataclass(frozen=True)
class Changelog:
    """The commits between two versions, grouped, in the order of what matters.

    :param groups: title → entries; at most 200 entries together.
    :param total: number of commits, with those that are not shown.
    :param commit_url: where a person sees a commit, with {sha}; "" for no links.
    :param issue_url: where a person sees an issue, with {number}; "" for no links.
    """

    groups: dict[str, list[Entry]]
    total: int
    commit_url: str = ""
    issue_url: str = ""

    @property
    def left_out(self) -> int:
        """Number of commits that are not shown."""
        return self.total - sum(map(len, self.groups.values()))

    def markdown(self) -> str:
        """Return it as Markdown, for Airflow's pages."""
        return self._rendered(_Markdown) or "No commits."

    def mrkdwn(self, limit: int = 2900) -> str:
        """Return it as Slack's mrkdwn.

        :param limit: characters; what does not fit is counted at the end.
        """
        return self._rendered(_Mrkdwn, limit) or "No commits."

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON, with the links made."""
        groups = {
            title: [{**dataclasses.asdict(e), "url": _url(self.commit_url, "sha", e.sha)} for e in entries]
            for title, entries in self.groups.items()
        }
        return {"groups": groups, "total": self.total, "left_out": self.left_out}

    def _rendered(self, style: type[_Markdown] | type[_Mrkdwn], limit: int | None = None) -> str:
        lines: list[str] = []
        shown, used = 0, 40  # room for the last line
        for title, entries in self.groups.items():
            new = [*([""] if lines else []), *style.heading(title)]
            for entry in entries:
                new.append(self._line(style, entry))
                used += sum(map(len, new)) + len(new)
                if limit is not None and used > limit:
                    return "\n".join([*lines, f"and {self.total - shown} more"])
                lines += new
                new, shown = [], shown + 1
        return "\n".join([*lines, "", f"and {self.left_out} more"] if self.left_out else lines)

    def _line(self, style: type[_Markdown] | type[_Mrkdwn], entry: Entry) -> str:
        scope = f"{style.strong(entry.scope)}: " if entry.scope else ""
        title = _with_issues(entry.title, style.text, lambda number: self._issue(style, number))
        url = _url(self.commit_url, "sha", entry.sha)
        sha = style.link(entry.sha[:8], url) if url else entry.sha[:8]
        return f"{style.bullet} {scope}{title} ({sha}, {style.text(entry.author)})"

    def _issue(self, style: type[_Markdown] | type[_Mrkdwn], number: str) -> str:
        url = _url(self.issue_url, "number", number)
        return style.link(f"#{number}", url) if url else style.text(f"#{number}")


def changelog(commits: Sequence[Commit], *, commit_url: str = "", issue_url: str = "", most: int = MOST) -> Changelog:
    """Group commits.

    :param commits: newest first, as git gives them; of many, breaking changes, features and fixes are kept before the
        rest.
    :param most: entries to show.
    """
    found: dict[str, list[Entry]] = {title: [] for title, _ in _GROUPS}
    for commit in commits:
        title, entry = _entry(commit)
        found[title].append(entry)
    groups: dict[str, list[Entry]] = {}
    left = most
    for title, entries in found.items():
        if kept := entries[:left]:
            groups[title] = kept
        left -= len(kept)
    return Changelog(groups, len(commits), commit_url, issue_url)


def one_line(text: str, longest: int = LONGEST_SUBJECT) -> str:
    """Return a text without line breaks, control and invisible characters, cut to a length."""
    plain = " ".join(_INVISIBLE.sub(" ", text[: longest * 8]).split())
    return plain if len(plain) <= longest else plain[: longest - 1] + "…"


def escape_markdown(text: str) -> str:
    """Return Markdown that shows a text of one line as it is. https://spec.commonmark.org/0.31.2/#backslash-escapes"""
    return _MARKDOWN.sub(r"\\\1", text)


def escape_mrkdwn(text: str) -> str:
    """Return mrkdwn that shows a text of one line: no mention, no link, no code.

    Slack has no escape for its formatting characters; a zero-width space before one takes its meaning.
    https://docs.slack.dev/messaging/formatting-message-text#escaping
    """
    safe = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([*_~`])", "\u200b\\1", safe)


class _Markdown:
    bullet = "-"
    text = staticmethod(escape_markdown)

    @staticmethod
    def heading(title: str) -> list[str]:
        return [f"**{title}**", ""]

    @staticmethod
    def strong(text: str) -> str:
        return f"**{escape_markdown(text)}**"

    @staticmethod
    def link(label: str, url: str) -> str:
        return f"[{escape_markdown(label)}](<{url}>)"


class _Mrkdwn:
    bullet = "•"
    text = staticmethod(escape_mrkdwn)

    @staticmethod
    def heading(title: str) -> list[str]:
        return [f"*{title}*"]

    @staticmethod
    def strong(text: str) -> str:
        return f"*{escape_mrkdwn(text)}*"

    @staticmethod
    def link(label: str, url: str) -> str:
        return f"<{url.replace('&', '&amp;')}|{escape_mrkdwn(label)}>"


def _entry(commit: Commit) -> tuple[str, Entry]:
    subject = one_line(commit.subject, LONGEST_SUBJECT * 2)
    match = _CONVENTIONAL.fullmatch(subject)
    kind, scope, bang, title = match.groups() if match else ("", "", "", subject)
    group = _BY_TYPE.get(kind.lower(), "Other")
    if group == "Other" and not bang:  # "Note: ..." is no type of the convention
        scope, title = "", subject
    if bang or _BREAKING.search(commit.body[:20_000]):
        group = "Breaking changes"
    sha = commit.sha if _SHA.fullmatch(commit.sha) else ""
    return group, Entry(sha, one_line(title) or "(no subject)", one_line(scope or "", 40), one_line(commit.author, 60))


def _with_issues(text: str, plain: Callable[[str], str], link: Callable[[str], str]) -> str:
    done, end = "", 0
    for match in _ISSUE.finditer(text):
        done += plain(text[end : match.start()]) + link(match.group(1))
        end = match.end()
    return done + plain(text[end:])


def _url(template: str, name: str, value: str) -> str:
    """Fill a URL of the settings; "" when there is none, or nothing to fill in."""
    url = template.replace(f"{{{name}}}", value) if value else ""
    return url if re.fullmatch(r"https?://[^\s<>|\"]+", url) else ""
