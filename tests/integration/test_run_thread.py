"""A run says each thing once in its one Slack thread, and edits it; whoever is killed in between."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from sandbox.service import Sandbox, Service, wait_until
from sandbox.services import postgres
from sandbox.services.messages import Messages
from vcci_ops.exceptions import DeliveryFailed, InvalidInput
from vcci_ops.hooks.history import History, upgrade
from vcci_ops.hooks.pager import page
from vcci_ops.hooks.slack import SlackChannel
from vcci_ops.hooks.thread import RunThread

pytestmark = pytest.mark.integration
DAG = "release_deploy"


class Places:
    """Slack, the mailbox and the history."""

    def __init__(self, folder: Path) -> None:
        self.sandbox = Sandbox(folder)
        pg = next(s for s in postgres.services() if s.name == "pg-airflow")
        self.services: list[Service] = [pg, Messages()]
        for service in self.services:
            service.start(self.sandbox)
            wait_until(service.name, lambda s=service: s.ready(self.sandbox), seconds=60)
        pg.prepare(self.sandbox)
        self.connections = {k: v for s in self.services for k, v in s.connections(self.sandbox).items()}

    def inbox(self, kind: str) -> Any:
        return requests.get(f"http://127.0.0.1:{self.sandbox.port('inbox')}/api/{kind}", timeout=5).json()

    def messages(self, run_id: str) -> list[dict[str, Any]]:
        """Return the messages of the thread that has this run_id in its first message, which comes first."""
        token = self.connections["vcci_slack"]["password"]
        base = self.connections["vcci_slack"]["extra"]["base_url"]
        header = {"Authorization": f"Bearer {token}"}

        def call(method: str, **args: Any) -> Any:
            return requests.post(f"{base}{method}", json=args, headers=header, timeout=5).json()

        channel = next(c["id"] for c in call("conversations.list")["channels"] if c["name"] == "releases")
        history = call("conversations.history", channel=channel, limit=1000)["messages"]
        roots = [message for message in history if run_id in json.dumps(message)]
        assert len(roots) == 1, roots
        return list(call("conversations.replies", channel=channel, ts=roots[0]["ts"])["messages"])


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    """Start PostgreSQL, Slack and the mailbox once."""
    folder = tmp_path_factory.mktemp("thread")
    os.environ["VCCI_SANDBOX_HOME"] = str(folder)
    places = Places(folder)
    try:
        yield places
    finally:
        for service in reversed(places.services):
            service.stop(places.sandbox)
        del os.environ["VCCI_SANDBOX_HOME"]


@pytest.fixture
def places(started: Places, monkeypatch: pytest.MonkeyPatch) -> Places:
    """Give the places with their connections in the environment."""
    for id_, connection in started.connections.items():
        monkeypatch.setenv(f"AIRFLOW_CONN_{id_.upper()}", json.dumps(connection))
    upgrade()
    return started


def thread(run_id: str) -> RunThread:
    """Return the thread as a new process would make it."""
    return RunThread("#releases", DAG, run_id)


def texts(messages: list[dict[str, Any]]) -> list[str]:
    """Return what was said; without the link to its run that each first message ends with."""
    return [message["text"].partition("\n<http")[0] for message in messages]


def test_what_is_said_again_is_edited_not_posted_again(places: Places) -> None:
    thread("edits").say("headline", "edits: *v2.1.0* begins", root=True)
    for percent in (10, 50, 100):
        thread("edits").say("watch", f"watched {percent} %")
        thread("edits").say("plan", "the plan")
    thread("edits").say("headline", "edits: *v2.1.0* is out", root=True)
    found = places.messages("edits")
    assert texts(found) == ["edits: *v2.1.0* is out", "watched 100 %", "the plan"]
    assert ["edited" in message for message in found] == [True, True, False]


def test_the_first_message_leads_to_its_run_once(places: Places) -> None:
    thread("scheduled__2026-11-25T06:00:00+00:00").say("root", "a change begins", root=True)
    (found,) = places.messages("a change begins")
    page = f"<http://127.0.0.1:8080/dags/{DAG}/runs/scheduled__2026-11-25T06%3A00%3A00%2B00%3A00|Run in Airflow>"
    assert found["text"] == f"a change begins\n{page}"
    thread("linked").say(
        "root", "its own link: <http://127.0.0.1:8080/dags/release_deploy/runs/linked|look>", root=True
    )
    (own,) = places.messages("its own link")
    assert "Run in Airflow" not in own["text"]


def test_the_same_words_again_cost_slack_no_call(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    thread("same").say("root", "same words", root=True)
    thread("same").say("plan", "the plan")
    nowhere = {**places.connections["vcci_slack"], "extra": {"base_url": "http://127.0.0.1:1/api/"}}
    monkeypatch.setenv("AIRFLOW_CONN_VCCI_SLACK", json.dumps(nowhere))
    thread("same").say("plan", "the plan")
    with pytest.raises(DeliveryFailed, match=r"Slack: chat.update: no answer"):
        thread("same").say("plan", "another plan")


def test_a_reply_makes_its_own_first_message_which_the_headline_then_replaces(places: Places) -> None:
    thread("no-root").say("plan", "the plan")
    assert texts(places.messages("no-root")) == ["*release_deploy* of *sandbox* · no-root", "the plan"]
    thread("no-root").say("root", "no-root has its headline", root=True)
    assert texts(places.messages("no-root")) == ["no-root has its headline", "the plan"]


def test_tasks_that_speak_at_the_same_moment_share_one_thread(places: Places) -> None:
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda n: thread("together").say(f"task-{n % 3}", f"task {n % 3}"), range(6)))
    found = texts(places.messages("together"))
    assert sorted(found[1:]) == ["task 0", "task 1", "task 2"]


def _say_and_die(run_id: str, key: str, root: bool) -> None:
    """Post, and be killed before that can be noted."""
    post = SlackChannel.post

    def post_and_die(*args: Any, **more: Any) -> Any:
        answer = post(*args, **more)
        if key in json.dumps(args[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        return answer

    SlackChannel.post = post_and_die  # type: ignore[method-assign]  # the moment of the kill is what is tested
    thread(run_id).say(key, f"{run_id}: words of a dead process", root=root)


@pytest.mark.parametrize(("key", "root"), [("root", True), ("plan", False)])
def test_a_process_killed_between_posting_and_noting_is_not_repeated(places: Places, key: str, root: bool) -> None:
    run_id = f"killed-{key}"
    if not root:
        thread(run_id).say("root", f"{run_id} begins", root=True)
    process = multiprocessing.get_context("fork").Process(target=_say_and_die, args=(run_id, key, root))
    process.start()
    process.join(30)
    assert process.exitcode == -signal.SIGKILL
    assert History().deliveries("sandbox", DAG, run_id)[f"slack:{key}"] == "posting"
    thread(run_id).say(key, f"{run_id}: words of the next try", root=root)
    found = texts(places.messages(run_id))
    assert len(found) == (1 if root else 2)
    assert found[-1] == f"{run_id}: words of the next try"


def test_without_the_history_the_messages_are_found_in_slack(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    thread("no-history").say("root", "no-history begins", root=True)
    thread("no-history").say("plan", "first")
    monkeypatch.setenv("AIRFLOW_CONN_VCCI_OPS_DB", json.dumps({**places.connections["vcci_ops_db"], "port": 1}))
    thread("no-history").say("plan", "second")
    thread("no-history").say("new", "third")
    assert texts(places.messages("no-history")) == ["no-history begins", "second", "third"]


def test_a_message_that_somebody_deleted_is_posted_anew(places: Places) -> None:
    thread("deleted").say("root", "deleted begins", root=True)
    thread("deleted").say("plan", "first")
    slack = SlackChannel("#releases")
    message = places.messages("deleted")[1]
    where = History().deliveries("sandbox", DAG, "deleted")["slack:plan"].partition("/")[0]
    slack.call("chat.delete", channel=where, ts=message["ts"])
    thread("deleted").say("plan", "second")
    assert texts(places.messages("deleted")) == ["deleted begins", "second"]


def test_a_thread_that_somebody_deleted_is_begun_anew(places: Places) -> None:
    thread("begun-anew").say("root", "begun-anew begins", root=True)
    channel, ts = History().deliveries("sandbox", DAG, "begun-anew")["slack:root"].partition("#")[0].split("/")
    SlackChannel("#releases").call("chat.delete", channel=channel, ts=ts)
    thread("begun-anew").say("plan", "the plan")
    assert texts(places.messages("begun-anew"))[1:] == ["the plan"]


def test_more_posts_than_slack_takes_in_a_moment_wait_as_long_as_it_says(places: Places) -> None:
    for number in range(24):
        thread("busy").say(f"n{number}", f"number {number}")
    assert len(places.messages("busy")) == 25


def test_texts_longer_than_slack_takes_are_cut_and_mentions_of_everybody_lose_their_power(places: Places) -> None:
    thread("long").say("root", "long: <!channel> & <!here|x> <!date^1|{date}|then>\n" + "a line\n" * 9000, root=True)
    (message,) = places.messages("long")
    shown = "".join(block["text"]["text"] for block in message["blocks"] if block["type"] == "section")
    assert "&lt;!channel>" in shown
    assert "<!date^1" in shown
    assert len(shown) < 10_100
    assert all(len(block["text"]["text"]) <= 3000 for block in message["blocks"] if block["type"] == "section")


def test_more_blocks_than_slack_takes_are_cut_and_the_cut_is_said(places: Places) -> None:
    blocks = [{"type": "section", "text": {"type": "mrkdwn", "text": f"block {n}: " + "x" * 4000}} for n in range(60)]
    thread("many-parts").say("root", "many-parts", blocks, root=True)
    (message,) = places.messages("many-parts")
    assert len(message["blocks"]) <= 50
    assert "cut here" in json.dumps(message["blocks"][-1])
    tiny = [{"type": "section", "text": {"type": "mrkdwn", "text": f"{n}"}} for n in range(60)]
    thread("many-parts").say("root", "many-parts", tiny, root=True)
    assert len(places.messages("many-parts")[0]["blocks"]) == 50


def test_the_thread_has_an_address(places: Places) -> None:
    assert thread("address").permalink() == ""
    thread("address").say("root", "address", root=True)
    assert "/archives/C" in thread("address").permalink()


@pytest.mark.parametrize("key", ["", "Plan", "a b", "x" * 65, "plan\n"])
def test_a_key_that_cannot_be_is_refused(places: Places, key: str) -> None:
    with pytest.raises(InvalidInput, match="key: "):
        thread("bad-key").say(key, "words")


def test_a_missing_connection_is_named(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_VCCI_SLACK")
    with pytest.raises(DeliveryFailed, match="there is no Airflow connection vcci_slack"):
        thread("no-connection").say("plan", "words")


# The pager -----------------------------------------------------------------------------------------


def mails(places: Places, subject: str) -> list[dict[str, Any]]:
    return [mail for mail in places.inbox("mail")["mails"] if subject in json.dumps(mail)]


def test_the_on_call_is_paged_once_for_each_key(places: Places) -> None:
    for _ in range(2):
        assert page("rollback failed <now>", "Schema is at r2\n<b>call</b>", key="release_deploy/x/rollback")
    assert page("rollback failed <now>", "again", key="release_deploy/y/rollback")
    found = mails(places, "rollback failed")
    assert len(found) == 2
    assert "[vcci-ops sandbox] rollback failed <now>" in json.dumps(found[0])
    assert "&lt;b&gt;call" in json.dumps(found[0])


def test_a_page_goes_out_though_the_history_is_away(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_VCCI_OPS_DB", json.dumps({**places.connections["vcci_ops_db"], "port": 1}))
    page("history away", "words", key="k")
    assert len(mails(places, "history away")) == 1


@pytest.mark.parametrize("fault", ["refused", "password", "missing"])
def test_a_page_that_did_not_go_out_is_an_error(places: Places, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    smtp = places.connections["vcci_smtp"]
    if fault == "missing":
        monkeypatch.delenv("AIRFLOW_CONN_VCCI_SMTP")
    else:
        wrong = {"port": 1} if fault == "refused" else {"password": "not-this-one"}
        monkeypatch.setenv("AIRFLOW_CONN_VCCI_SMTP", json.dumps({**smtp, **wrong}))
    with pytest.raises(DeliveryFailed, match=r"mail to oncall-devops@greenlang\.io") as raised:
        page(f"never arrives: {fault}", "words", key=f"never-{fault}")
    assert "not-this-one" not in str(raised.value)
    monkeypatch.setenv("AIRFLOW_CONN_VCCI_SMTP", json.dumps(smtp))
    page(f"never arrives: {fault}", "words", key=f"never-{fault}")
    assert len(mails(places, f"never arrives: {fault}")) == 1
