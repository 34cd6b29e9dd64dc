"""The change log: grouped and linked, and no commit's text does anything in Airflow or Slack."""

from __future__ import annotations

import datetime as dt
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vcci_ops.domain.changelog import Changelog, Commit, changelog, one_line

AT = dt.datetime(2026, 11, 3, 9, tzinfo=dt.UTC)
URLS = {"commit_url": "https://git.example/c/{sha}", "issue_url": "https://git.example/i/{number}"}


def commit(subject: str, body: str = "", sha: str = "0123abcd" * 5, author: str = "Ada") -> Commit:
    return Commit(sha, subject, body, author, AT)


def made(*subjects: str) -> Changelog:
    return changelog([commit(subject) for subject in subjects], **URLS)


def test_commits_are_grouped_with_what_breaks_first() -> None:
    log = changelog(
        [
            *(commit("chore: tidy"), commit("Fix typo"), commit("fix(api): count once"), commit("perf: less work")),
            *(commit("feat: regions"), commit("feat(db)!: drop the notes"), commit("Note: something", "")),
            *(commit("fix: x", "why\n\nBREAKING CHANGE: the API answers 404"), commit("revert: y"), commit("api!: z")),
        ]
    )
    titles = [(title, [entry.title for entry in entries]) for title, entries in log.groups.items()]
    assert titles == [
        ("Breaking changes", ["drop the notes", "x", "z"]),
        ("Features", ["regions"]),
        ("Fixes", ["count once"]),
        ("Performance", ["less work"]),
        ("Reverts", ["y"]),
        ("Maintenance", ["tidy"]),
        ("Other", ["Fix typo", "Note: something"]),
    ]


def test_commits_and_issues_are_linked() -> None:
    log = made("feat(api): regions of suppliers (#12)")
    sha = "0123abcd" * 5
    assert log.markdown() == (
        "**Features**\n\n"
        "- **api**: regions of suppliers \\([\\#12](<https://git.example/i/12>)\\) "
        f"([0123abcd](<https://git.example/c/{sha}>), Ada)"
    )
    assert log.mrkdwn() == (
        "*Features*\n• *api*: regions of suppliers (<https://git.example/i/12|#12>) "
        f"(<https://git.example/c/{sha}|0123abcd>, Ada)"
    )
    assert json.loads(json.dumps(log.to_dict()))["groups"]["Features"][0] == {
        **{"sha": sha, "title": "regions of suppliers (#12)", "scope": "api", "author": "Ada"},
        "url": f"https://git.example/c/{sha}",
    }


def test_without_urls_nothing_is_linked() -> None:
    log = changelog([commit("fix: #7 again")])
    assert log.markdown() == "**Fixes**\n\n- \\#7 again (0123abcd, Ada)"
    assert log.mrkdwn() == "*Fixes*\n• #7 again (0123abcd, Ada)"
    assert (
        changelog([commit("fix: a")], commit_url="javascript:alert({sha})").mrkdwn() == "*Fixes*\n• a (0123abcd, Ada)"
    )


@pytest.mark.parametrize("text", ["a#12", "##12", "#12a", "/#12", "&#12;", "#1234567890", "#١٢"])
def test_only_a_number_on_its_own_is_an_issue(text: str) -> None:
    assert "git.example/i/" not in made(f"fix: see {text} there").markdown()


def test_no_commits_say_so() -> None:
    assert made().markdown() == made().mrkdwn() == "No commits."


HOSTILE = [
    "<!channel> <@U123> <https://evil.example|docs>",
    "[x](javascript:alert(1)) ![y](http://evil.example/a.png) <script>alert(1)</script>",
    "`code` ```block``` **bold** __it__ ~~gone~~ # heading > quote | a | b | &lt; \\",
    "line\nbreak\r\n\r\n# heading\n- item\u2028sep\x00nul\x1b[31m\u202eright-to-left",
    "x" * 10_000,
    "feat(<!here>)!: `a`",
]


@pytest.mark.parametrize("subject", HOSTILE)
def test_a_hostile_subject_is_only_text_in_slack(subject: str) -> None:
    log = changelog([commit(subject, author=subject), commit("fix: next")])
    text = log.mrkdwn()
    assert "<" not in text
    assert not re.search(r"(?<!\u200b)[`~]", text)
    assert len(text.splitlines()) == 5  # two headings, two lines, a gap
    assert len(text) < 1000


@pytest.mark.parametrize("subject", HOSTILE)
def test_a_hostile_subject_is_only_text_in_markdown(subject: str) -> None:
    log = changelog([commit(subject, author=subject)])
    heading, gap, line = log.markdown().split("\n")
    assert heading.startswith("**")
    assert gap == ""
    shown = re.sub(r"\\[!-/:-@\[-`{-~]", "", line.removeprefix("- "))
    assert not re.search(r"[`<>\[\]!#~|\\_]", shown)
    assert len(line) < 1000
    assert "\u202e" not in line
    assert "\x1b" not in line


@given(st.text(max_size=300), st.text(max_size=100))
def test_whatever_a_commit_says_it_stays_one_line(subject: str, author: str) -> None:
    log = changelog([commit(subject, author=author)], **URLS)
    assert len(log.markdown().splitlines()) == 3
    assert len(log.mrkdwn().splitlines()) == 2
    assert not re.search(r"<(?!https://git\.example/)", log.mrkdwn())
    assert not re.search(r"(?<!\\)<(?!https://git\.example/)", log.markdown())


def test_a_long_history_is_cut_and_counted() -> None:
    log = changelog([commit(f"chore: {n}") for n in range(1000)] + [commit("feat: kept")], **URLS)
    assert log.left_out == 801
    assert sum(map(len, log.groups.values())) == 200
    assert log.groups["Features"][0].title == "kept"
    assert log.markdown().endswith("\n\nand 801 more")
    assert log.to_dict()["left_out"] == 801


def test_slack_gets_as_much_as_fits() -> None:
    log = made(*[f"feat: number {n} of many" for n in range(150)])
    text = log.mrkdwn(limit=1000)
    assert len(text) <= 1000
    shown = text.count("•")
    assert shown >= 5
    assert text.endswith(f"and {150 - shown} more")


def test_a_line_is_cut_with_a_sign() -> None:
    assert one_line("a" * 30, 10) == "a" * 9 + "…"
    assert one_line(" a \t b\u200b ") == "a b"
    assert made("").groups["Other"][0].title == "(no subject)"
