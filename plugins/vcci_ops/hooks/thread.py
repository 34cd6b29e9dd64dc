"""One Slack thread for each run: what is said again is edited, not posted again.

Where each message is stands in the history (table ``delivery``, channel ``slack:<key>``) with a digest of its
text. A process that is killed between posting and noting leaves its intent there; the next one then looks for the
message in Slack, by the block_id that only this run's message of this key has.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

from vcci_ops.domain.mrkdwn import SECTION_LIMIT, chunks, cut, escape, link
from vcci_ops.exceptions import DeliveryFailed, InvalidInput, MeasurementError
from vcci_ops.hooks.history import History
from vcci_ops.hooks.slack import SlackChannel, SlackRefused, marker
from vcci_ops.links import run_url
from vcci_ops.settings import load_settings

log = logging.getLogger(__name__)

ROOT = "root"
INTENT = "posting"
MOST_BLOCKS, TEXT_LIMIT = 50, 10_000
"""Slack takes 50 blocks, and some 13,200 characters in all of them together, their frames counted."""
GONE = ("message_not_found", "thread_not_found", "edit_window_closed", "cant_update_message")
"""Slack's words for: this message cannot be edited any more."""
LOCK_SECONDS = 60.0
ROOT_SEARCH = 1000


class RunThread:
    """What one run says in Slack.

    :param channel: ``#name`` or id.
    :param slack_conn_id: Slack API connection.
    :param history_conn_id: connection of the history database. Without it messages are still found, in Slack.
    :param environment: of the settings, unless said.
    :param page: address that the first message leads to; default: the run's in Airflow.
    """

    def __init__(
        self,
        channel: str,
        dag_id: str,
        run_id: str,
        *,
        slack_conn_id: str = "vcci_slack",
        history_conn_id: str = "vcci_ops_db",
        environment: str = "",
        page: str = "",
    ) -> None:
        self.channel = channel
        self.dag_id = dag_id
        self.run_id = run_id
        self.slack_conn_id = slack_conn_id
        self.history_conn_id = history_conn_id
        self._environment = environment
        self.page = page

    @cached_property
    def environment(self) -> str:
        """The environment whose run this is."""
        return self._environment or load_settings().environment

    def say(self, key: str, text: str, blocks: Sequence[dict[str, Any]] | None = None, *, root: bool = False) -> None:
        """Post once for each key, and edit that message when called again; do nothing when it says so already.

        :param key: what the message is about: ``plan``, ``watch``.
        :param text: Slack's mrkdwn. Escape what comes from outside (:func:`vcci_ops.domain.mrkdwn.escape`);
            mentions of everybody are taken out in any case. With blocks: what a notification shows.
        :param blocks: instead of the text; cut to what Slack takes.
        :param root: this is the thread's first message. Replies make one of their own if there is none.
        :raises DeliveryFailed: when Slack refuses or does not answer.
        """
        if not re.fullmatch(r"[a-z0-9_.-]{1,64}", key):
            raise InvalidInput("key", key, "up to 64 lower-case letters, digits, '_', '.', '-'")
        with self._alone() as known:
            self._say(known, ROOT if root else key, text, blocks)

    def permalink(self) -> str:
        """Return the address of the thread for people; empty when there is none yet.

        :raises DeliveryFailed: when Slack refuses or does not answer.
        """
        with self._alone() as known:
            place = self._place(known, ROOT, self._first)
        return self._slack.permalink(*place) if place else ""

    # Inside -------------------------------------------------------------------------------------

    @cached_property
    def _slack(self) -> SlackChannel:
        return SlackChannel(self.channel, self.slack_conn_id)

    def _say(self, known: _Known, key: str, text: str, blocks: Sequence[dict[str, Any]] | None) -> None:
        text = _harmless(self._leading(text) if key == ROOT and blocks is None else text)
        content = _fitting(blocks if blocks is not None else _sections(text), self._marker(key))
        digest = hashlib.sha256(json.dumps([text, content], sort_keys=True).encode()).hexdigest()[:16]
        if known.digest(key) == digest:
            return
        shown = cut(text, SECTION_LIMIT)
        thread = None if key == ROOT else self._root(known)
        find = (lambda block_id: self._reply(thread, block_id)) if thread else self._first
        place = self._place(known, key, find)
        if not (place and self._edited(place, shown, content)):
            place = self._post(known, key, thread, shown, content)
        known.note(key, place, digest)

    def _leading(self, text: str) -> str:
        """Return a first message that leads to its run, so that nobody has to look for it."""
        url = self.page or run_url(load_settings(), self.dag_id, self.run_id)
        return text if url in text else f"{text}\n{link(url, 'Airflow' if self.page else 'Run in Airflow')}"

    def _root(self, known: _Known) -> tuple[str, str]:
        place = self._place(known, ROOT, self._first)
        if place is None:
            self._say(
                known, ROOT, f"*{escape(self.dag_id)}* of *{escape(self.environment)}* · {escape(self.run_id)}", None
            )
            place = known.places[ROOT]
        return place

    def _place(self, known: _Known, key: str, find: Callable[[str], tuple[str, str] | None]) -> tuple[str, str] | None:
        """Return where the message of a key is, asking Slack only where the history cannot say."""
        if key not in known.places and known.doubtful(key) and (found := find(self._marker(key))):
            known.note(key, found, "")
        return known.places.get(key)

    def _first(self, block_id: str) -> tuple[str, str] | None:
        return self._slack.find(block_id, ROOT_SEARCH)

    def _reply(self, thread: tuple[str, str], block_id: str) -> tuple[str, str] | None:
        ts = self._slack.replies(*thread).get(block_id)
        return (thread[0], ts) if ts else None

    def _edited(self, place: tuple[str, str], text: str, blocks: Sequence[dict[str, Any]]) -> bool:
        try:
            self._slack.update(*place, text, blocks)
        except SlackRefused as error:
            if error.code not in GONE:
                raise
            log.warning("The Slack message cannot be edited any more (%s); it is posted anew", error.code)
            return False
        return True

    def _post(
        self, known: _Known, key: str, thread: tuple[str, str] | None, text: str, blocks: Sequence[dict[str, Any]]
    ) -> tuple[str, str]:
        known.intend(key)
        if thread is None:
            return self._slack.post(text, blocks, unfurl=False)
        try:
            return SlackChannel(thread[0], self.slack_conn_id).post(text, blocks, thread[1], unfurl=False)
        except SlackRefused as error:
            if error.code not in GONE:
                raise
        log.warning("The first message of the run's Slack thread is gone; a new thread is begun")
        known.forget()
        return SlackChannel(*self._root(known)[:1], self.slack_conn_id).post(
            text, blocks, known.places[ROOT][1], unfurl=False
        )

    def _marker(self, key: str) -> str:
        return f"{marker(f'{self.environment}/{self.dag_id}', self.run_id)}-{key}"

    @contextlib.contextmanager
    def _alone(self) -> Iterator[_Known]:
        """Yield what is known of the run's messages, while no other process says something for this run.

        Two tasks that begin the thread at the same moment would else begin two. The lock is the session's: it
        goes with a process that is killed.
        """
        history = History(self.history_conn_id)
        where = (self.environment, self.dag_id, self.run_id)
        with contextlib.ExitStack() as stack:
            known = _Known(None, where, {})
            try:
                connection = stack.enter_context(history.connect())
                _lock(connection, "/".join(where))
                known = _Known(history, where, history.deliveries(*where))
            except MeasurementError as error:
                log.warning("The history cannot say what was posted already (%s); asking Slack", error)
            yield known


class _Known:
    """Where the run's messages are and what they say, as far as the history knows."""

    def __init__(self, history: History | None, where: tuple[str, str, str], noted: dict[str, str]) -> None:
        self._history = history
        self._where = where
        self._noted = {name.removeprefix("slack:"): ref for name, ref in noted.items() if name.startswith("slack:")}
        self.places = {key: place for key, ref in self._noted.items() if (place := _parse(ref))}

    def digest(self, key: str) -> str:
        """Return the digest of what the message says; empty when that is not known."""
        return self._noted.get(key, "").partition("#")[2]

    def doubtful(self, key: str) -> bool:
        """Whether the message may be there though no place of it is known."""
        return self._history is None or self._noted.get(key) == INTENT

    def intend(self, key: str) -> None:
        """Note that the message is about to be posted."""
        self._write(key, INTENT)

    def note(self, key: str, place: tuple[str, str], digest: str) -> None:
        """Note where the message is and what it says."""
        self.places[key] = place
        self._write(key, f"{place[0]}/{place[1]}#{digest}")

    def forget(self) -> None:
        """Forget every place: the thread is gone."""
        self.places.clear()
        for key in self._noted:
            self._write(key, "gone")

    def _write(self, key: str, reference: str) -> None:
        self._noted[key] = reference
        if self._history is None:
            return
        try:
            self._history.record_delivery(*self._where, f"slack:{key}", reference)
        except MeasurementError as error:
            log.warning("What was posted in Slack could not be noted in the history: %s", error)


def _parse(reference: str) -> tuple[str, str] | None:
    match = re.fullmatch(r"([^/#]+)/([0-9.]+)#.*", reference)
    return (match[1], match[2]) if match else None


def _lock(connection: Any, name: str) -> None:
    """Take a lock that ends with the transaction; polled, for the connection gives a statement only seconds."""
    until = time.monotonic() + LOCK_SECONDS
    while not connection.execute("SELECT pg_try_advisory_xact_lock(hashtextextended(%s, 7))", (name,)).fetchone()[0]:
        if time.monotonic() > until:
            raise DeliveryFailed("Slack", f"another task of the run has been posting for {LOCK_SECONDS:.0f} s")
        time.sleep(0.1)


def _harmless(text: str) -> str:
    """Take the power from mentions of everybody, whoever wrote them; dates stay."""
    return re.sub(r"<!(?!date\^)", "&lt;!", text)


def _sections(text: str) -> list[dict[str, Any]]:
    lines = cut(text, TEXT_LIMIT).split("\n")
    return [{"type": "section", "text": {"type": "mrkdwn", "text": chunk}} for chunk in chunks(lines) if chunk.strip()]


def _fitting(blocks: Sequence[dict[str, Any]], block_id: str) -> list[dict[str, Any]]:
    """Return copies of the blocks that Slack takes, the first one with the mark by which the message is found."""
    fitting: list[dict[str, Any]] = []
    left = TEXT_LIMIT
    for block in json.loads(_harmless(json.dumps(list(blocks), ensure_ascii=False))):
        _shorten(block)
        left -= len(json.dumps(block.get("text", block.get("elements", ""))))
        if left < 0 or len(fitting) == MOST_BLOCKS - 1:
            note = {"type": "mrkdwn", "text": "… cut here. The report has everything."}
            fitting.append({"type": "context", "elements": [note]})
            break
        fitting.append(block)
    if not fitting:
        raise InvalidInput("text", "", "a text that says something")
    fitting[0]["block_id"] = block_id
    return fitting


def _shorten(block: dict[str, Any]) -> None:
    limit = 150 if block.get("type") == "header" else SECTION_LIMIT
    for part in [block.get("text"), *block.get("fields", []), *block.get("elements", [])]:
        if isinstance(part, dict) and isinstance(part.get("text"), str):
            part["text"] = cut(part["text"], limit if part is block.get("text") else 1900)
