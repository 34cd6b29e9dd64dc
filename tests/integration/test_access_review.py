"""Access reviews: a real database with the shipped grants, Kubernetes played and real, history, Slack and S3."""

from __future__ import annotations

import csv
import dataclasses
import datetime as dt
import io
import json
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
import yaml
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from sandbox.__main__ import break_, heal
from sandbox.platform.data import TENANTS
from sandbox.service import Sandbox
from sandbox.services.kube import Kube
from tests.integration.access_fixtures import RBAC, Run, Stage
from tests.integration.kube_fixtures import Plane, connect, furnished, played_plane, real_plane, until
from vcci_ops.domain.access import APPROVE_ALL, APPROVE_EXCEPT, BY_HAND, DEACTIVATE, DONE, REJECT
from vcci_ops.domain.access_rbac import lines
from vcci_ops.exceptions import Forbidden
from vcci_ops.hooks.access import RbacReader
from vcci_ops.hooks.access_changes import Users
from vcci_ops.hooks.access_record import Reviews
from vcci_ops.hooks.history import History, upgrade
from vcci_ops.hooks.reports import ReportStore
from vcci_ops.operators.access_review import ReviewAccessOperator
from vcci_ops.settings import load_settings

pytestmark = [pytest.mark.integration, pytest.mark.kube]
SETTINGS = load_settings("sandbox")
NOBODY = json.dumps({"conn_type": "postgres", "host": "127.0.0.1", "port": 1, "login": "x", "schema": "x"})


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with Stage(tmp_path_factory.mktemp("sandbox")).running() as running:
        yield running


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    """The played Kubernetes, for whatever is not about Kubernetes."""
    folder = tmp_path_factory.mktemp("kube")
    with played_plane(folder) as admin, furnished("played", admin, folder, changes=True) as plane:
        yield plane


@pytest.fixture
def platform(stage: Stage, played: Plane, monkeypatch: pytest.MonkeyPatch) -> Stage:
    """The platform as it was, with the connections to it."""
    connect(monkeypatch, played.checks_config)
    for id_, connection in stage.connections().items():
        monkeypatch.setenv(f"AIRFLOW_CONN_{id_.upper()}", json.dumps(connection))
    upgrade()
    stage.make_bucket()
    stage.reset()
    return stage


@pytest.fixture
def run(platform: Stage, played: Plane, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Run]:
    """Make runs; Airflow's own part of a question is kept here instead of in its database.

    As there, what a form shows stays until its task is cleared (execution_api/routes/hitl.py).
    """
    questions: dict[str, dict[str, Any]] = {}

    def upsert(ti_id: str, **question: Any) -> None:
        questions.setdefault(ti_id, json.loads(json.dumps(question)))

    monkeypatch.setattr("airflow.sdk.execution_time.hitl.upsert_hitl_detail", upsert)
    return lambda **more: Run(played, questions, **more)


def listed(run: Run, section: str) -> dict[str, Any]:
    return {line.key.partition("/")[2]: line for line in run.review.lines if line.section == section}


def asked(run: Callable[..., Run], **more: Any) -> Run:
    """A run whose question is open."""
    made = run(**more)
    made.gather()
    made.ask()
    return made


def finished(run: Callable[..., Run]) -> Run:
    """A review that is done, with everything approved."""
    made = asked(run)
    made.answer(APPROVE_ALL, {})
    made.act()
    made.report()
    return made


# The list ------------------------------------------------------------------------------------------------


def test_the_list_has_every_part_and_names_nobody(
    platform: Stage, run: Callable[..., Run], caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO)
    review = asked(run)
    users = listed(review, "users")
    assert len(users) == 10, "two of each tenant have not been seen"
    assert {line.action for line in users.values()} == {DEACTIVATE}
    assert len(listed(review, "admins")) == len(TENANTS)
    roles = listed(review, "roles")
    assert {line.severity.value for line in roles.values()} == {"ok"}, "the shipped grants give nothing beyond"
    assert set(SETTINGS.access_review.database_roles) <= set(roles)
    assert [line.number for line in review.review.lines] == list(range(1, len(review.review.lines) + 1))
    said = (
        caplog.text
        + capsys.readouterr().out
        + json.dumps([str(key) + str(value) for key, value in review.xcom.items()])
    )
    kept = json.dumps([line.to_dict() for line in review.review.lines], default=str)
    for text in (said, kept):
        assert "@" not in text.replace("http://", "")
    assert "…@nordwind-manufacturing.example" in review.question["body"]
    assert "…@nordwind-manufacturing.example" in page(review)
    shown = review.question["body"] + page(review)
    assert not [address for (address,) in platform.ask("SELECT email FROM users") if address in shown]
    assert "There is no earlier review: nothing is compared." in review.question["body"]
    assert review.question["options"] == [APPROVE_ALL, APPROVE_EXCEPT, REJECT]
    assert set(review.question["params"]) == {"excepted", "comment"}
    assert review.question["defaults"] is None, "nothing is chosen for the reviewer"


def test_who_is_seen_protected_new_or_suspended_is_told_from_who_is_away(
    platform: Stage, run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    old = dt.datetime.now(dt.UTC) - dt.timedelta(days=120)
    never, invited = platform.user(), platform.user(status="invited")
    works = platform.user(last_login=old)
    platform.session(works)
    new = platform.user(created_at=dt.datetime.now(dt.UTC) - dt.timedelta(days=20))
    service = platform.user(role="service", is_service_account=True)
    kept = platform.user(last_login=old, email="Break.Glass@nordwind-manufacturing.example")
    suspended = platform.user(TENANTS[4], last_login=old)
    platform.ask("UPDATE tenants SET status = 'suspended' WHERE id = %s", TENANTS[4].id)
    settings(monkeypatch, never_touched=("break.glass@nordwind-manufacturing.example",))
    review = asked(run)
    users = listed(review, "users")
    assert {never, invited, kept} <= set(users)
    assert not {works, new, service, suspended} & set(users)
    assert users[kept].recommendation == "Keep"
    assert service in listed(review, "services")
    assert not [line for line in review.review.lines if line.tenant == TENANTS[4].slug and line.section == "users"]


def test_keys_and_tenants_without_an_administrator(platform: Stage, run: Callable[..., Run]) -> None:
    old, idle = (str(id_) for (id_,) in platform.ask("SELECT id FROM api_keys ORDER BY id LIMIT 2"))
    platform.ask("UPDATE api_keys SET created_at = now() - interval '400 days' WHERE id = %s", old)
    platform.ask("UPDATE api_keys SET last_used_at = NULL WHERE id = %s", idle)
    platform.ask("UPDATE users SET status = 'inactive' WHERE role = 'admin' AND tenant_id = %s", TENANTS[1].id)
    review = asked(run)
    assert {key: line.recommendation for key, line in listed(review, "keys").items()} == {
        old: "Ask the tenant to renew it",
        idle: "Ask the tenant, then revoke it",
    }
    assert [line.tenant for line in listed(review, "tenants").values()] == [TENANTS[1].slug]


def test_roles_that_can_do_too_much_are_found(platform: Stage, run: Callable[..., Run]) -> None:
    made = ("stray", "hidden", "dumper", "child")
    try:
        platform.ask('CREATE ROLE "stray" LOGIN SUPERUSER')
        platform.ask("CREATE ROLE hidden NOLOGIN BYPASSRLS")
        platform.ask("CREATE ROLE dumper LOGIN; GRANT pg_read_all_data TO dumper")
        platform.ask("CREATE ROLE child NOLOGIN; GRANT pg_execute_server_program TO child")
        platform.ask("GRANT child TO vcci_ops; GRANT UPDATE (status) ON tenants TO vcci_ops_export")
        platform.ask("GRANT INSERT ON usage_events TO PUBLIC")
        review = asked(run)
    finally:
        platform.ask(
            "REVOKE UPDATE (status) ON tenants FROM vcci_ops_export; REVOKE INSERT ON usage_events FROM PUBLIC"
        )
        for role in made:
            platform.ask(f"DROP OWNED BY {role}; DROP ROLE {role}")
    found = {name: line for name, line in listed(review, "roles").items() if line.severity.value != "ok"}
    assert {name: str(line.severity) for name, line in found.items()} == {
        "stray": "critical",
        "hidden": "critical",
        "dumper": "warning",
        "child": "critical",
        "vcci_ops": "critical",
        "vcci_ops_export": "warning",
        "PUBLIC": "critical",
    }
    assert "runs programs on the server (pg_execute_server_program)" in found["vcci_ops"].finding
    assert "writes public.tenants" in found["vcci_ops_export"].finding
    assert found["PUBLIC"].finding == "writes public.usage_events"


def test_the_faults_of_the_sandbox_are_lines(platform: Stage, played: Plane, run: Callable[..., Run]) -> None:
    places = (
        (platform.sandbox, platform.services, "stray-admin"),
        (Sandbox(played.folder), [Kube()], "stray-cluster-admin"),
    )
    for sandbox, services, fault in places:
        break_(sandbox, services, fault, [])
    try:
        review = asked(run)
    finally:
        for sandbox, services, fault in places:
            heal(sandbox, services, fault)
    assert str(listed(review, "roles")["debug_superuser"].severity) == "critical"
    assert len(listed(review, "admins")) == len(TENANTS) + 1
    assert len(listed(review, "keys")) == 1
    kubernetes = {name: str(line.severity) for name, line in listed(review, "kubernetes").items()}
    assert kubernetes["User/contractor"] == "critical"
    assert kubernetes["Group/system:masters"] == "ok"
    healed = asked(run)
    assert "debug_superuser" not in listed(healed, "roles")
    assert not listed(healed, "keys")
    assert "User/contractor" not in listed(healed, "kubernetes")


def test_the_next_review_says_what_is_new_and_what_admins_did(platform: Stage, run: Callable[..., Run]) -> None:
    first = finished(run)
    assert {line.new for line in first.review.lines} == {None}
    admin, address = platform.ask(
        "SELECT id::text, email FROM users WHERE role = 'admin' AND tenant_id = %s", TENANTS[0].id
    )[0]
    note = "INSERT INTO audit_log (tenant_id, action, actor, created_at) VALUES (%s, %s, %s, %s)"
    before = first.review.made_at - dt.timedelta(minutes=1)
    for action, actor, at in (
        ("role.changed", address.upper(), first.review.made_at),
        ("role.changed", address, first.review.made_at + dt.timedelta(seconds=1)),
        ("user.created", address, first.review.made_at),
        ("api_key.created", address, before),
    ):
        platform.ask(note, TENANTS[0].id, action, actor, at)
    platform.ask(note, TENANTS[1].id, "user.created", address, first.review.made_at)  # of another tenant
    promoted = platform.user(last_login=dt.datetime.now(dt.UTC), role="admin")
    second = asked(run)
    admins = listed(second, "admins")
    assert f"did since {first.review.made_at:%Y-%m-%d}: role.changed 2, user.created 1" in admins[admin].finding
    assert (admins[promoted].severity.value, admins[promoted].new) == ("warning", True)
    assert (admins[admin].severity.value, admins[admin].new) == ("ok", False)
    assert f"Compared with the review of {first.review.made_at:%Y-%m-%d}." in second.question["body"]


def test_a_review_that_nobody_finished_is_no_review_to_compare_with(platform: Stage, run: Callable[..., Run]) -> None:
    rejected = asked(run)
    with pytest.raises(AirflowFailException):
        rejected.answer(REJECT, {})
    assert {line.new for line in asked(run).review.lines} == {None}


def test_what_cannot_be_looked_at_is_unknown_and_hides_nothing(
    platform: Stage, run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
        "users": [{"name": "u", "user": {}}],
    }
    gone = {**config, "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}], "current-context": "x"}
    connect(monkeypatch, {"apiVersion": "v1", "kind": "Config", **gone})
    platform.ask("REVOKE SELECT (actor) ON audit_log FROM vcci_ops_tenants")
    try:
        review = asked(run)
    finally:
        platform.ask("GRANT SELECT (actor) ON audit_log TO vcci_ops_tenants")
    missing = listed(review, "unmeasured")
    assert set(missing) == {"Kubernetes: cluster-admins and readers of Secrets", "what administrators did"}
    assert {str(line.severity) for line in missing.values()} == {"unknown"}
    assert len(listed(review, "users")) == 10
    assert "is not known: the audit log could not be read" in next(iter(listed(review, "admins").values())).finding
    assert "This review is not complete" in review.question["body"]
    everyone = [line.number for line in review.review.lines if line.action == DEACTIVATE]
    form = {"excepted": ",".join(map(str, everyone)), "comment": "next month"}
    assert review.answer(APPROVE_EXCEPT, form) == "skipped the rest"
    with pytest.raises(AirflowFailException, match=r"0 users deactivated, 2 findings to deal with · NOT COMPLETE"):
        review.report()
    assert "NOT COMPLETE" in page(review)
    assert review.review.state == "done"


def test_without_the_database_kubernetes_is_reviewed_all_the_same(
    platform: Stage, run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    for id_ in ("VCCI_POSTGRES", "VCCI_POSTGRES_TENANTS"):
        monkeypatch.setenv(f"AIRFLOW_CONN_{id_}", NOBODY)
    review = asked(run)
    assert len(listed(review, "unmeasured")) == 6
    assert listed(review, "kubernetes") == {} or all(line.section for line in review.review.lines)
    assert "Users are shown by their id only" not in page(review), "there are none to show"


def test_a_dry_run_lists_asks_nobody_and_changes_nothing(platform: Stage, run: Callable[..., Run]) -> None:
    review = run(params={"dry_run": True})
    assert review.gather() == "skipped the rest"
    assert review.report().startswith("Listed only (dry run)")
    assert platform.inactive() == set()
    assert "Listed only" in page(review)
    assert not [message for message in platform.slack() if review.run_id in json.dumps(message)]


# The answer ------------------------------------------------------------------------------------------------


WRONG: tuple[tuple[str, Any, str, str], ...] = (
    (APPROVE_EXCEPT, {"excepted": "999", "comment": "x"}, "ines", "line numbers from 1 to"),
    (APPROVE_EXCEPT, {"excepted": "1; DROP TABLE users", "comment": "x"}, "ines", "line numbers from 1 to"),
    (APPROVE_EXCEPT, {"excepted": "", "comment": "x"}, "ines", "line numbers from 1 to"),
    (APPROVE_EXCEPT, {"excepted": ["1"], "comment": "x"}, "ines", "line numbers from 1 to"),
    (APPROVE_EXCEPT, {"excepted": "1", "comment": " "}, "ines", "a reason for the exceptions"),
    (APPROVE_ALL, {"excepted": "1"}, "ines", "to take lines out"),
    (APPROVE_ALL, {"comment": "x" * 1001}, "ines", "at most 1000 characters"),
    (APPROVE_ALL, {"approved": True}, "ines", "the fields excepted, comment"),
    (APPROVE_ALL, ["x"], "ines", "the fields excepted, comment"),
    (APPROVE_ALL, None, "ada", "who began a review does not approve it"),
)


def test_an_answer_that_does_not_count_is_asked_for_again_and_says_why(
    platform: Stage, run: Callable[..., Run]
) -> None:
    review = asked(run)
    deadline = review.state["deadline"]
    for option, form, by, words in WRONG:
        assert review.answer(option, form, by=by) == "asked again", form
        assert words in told(platform), form
        assert review.state["deadline"] == deadline, "the time goes on"
    assert review.review.state == "open"
    assert review.answer(APPROVE_ALL, {"excepted": "", "comment": None})["by"] == "ines"


def test_who_is_to_be_deactivated_does_not_review(platform: Stage, run: Callable[..., Run]) -> None:
    platform.user(email="Ines@GreenLang.io")
    review = asked(run)
    assert review.answer(APPROVE_ALL, {}) == "asked again"
    assert "the list wants to deactivate the reviewer" in told(platform)
    everyone = f"1-{len(review.review.lines)}"
    assert review.answer(APPROVE_EXCEPT, {"excepted": everyone, "comment": "me too"}) == "asked again"
    assert review.answer(APPROVE_ALL, {}, by="carl")["by"] == "carl"


def test_the_settings_may_let_who_began_it_review_and_a_scheduled_run_has_nobody(run: Callable[..., Run]) -> None:
    assert asked(run).answer(APPROVE_ALL, {}, by="ada", own=True)["by"] == "ada"
    assert asked(run, by=None).answer(APPROVE_ALL, {}, by="ada")["by"] == "ada"


def test_an_answer_that_cannot_be_checked_does_not_count(
    platform: Stage, run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    review = asked(run)
    with monkeypatch.context() as away:
        away.setenv("AIRFLOW_CONN_VCCI_POSTGRES_TENANTS", NOBODY)
        assert review.answer(APPROVE_ALL, {}) == "asked again"
    assert "PostgreSQL did not answer" in told(platform)


def told(platform: Stage) -> str:
    """Return what Slack has been told."""
    return json.dumps(platform.slack(), ensure_ascii=False)


def test_a_list_made_anew_while_the_question_is_open_is_not_approved_unseen(
    platform: Stage, run: Callable[..., Run]
) -> None:
    review = asked(run)
    new = platform.user()
    review.gather()
    for option in (APPROVE_ALL, REJECT):
        with pytest.raises(AirflowFailException, match=r"not the one that was shown.* made anew: clear this task"):
            review.answer(option, {})
    assert review.review.state == "open"
    review.ask()  # cleared
    assert review.answer(APPROVE_ALL, {})["items_hash"] == review.review.items_hash
    review.gather()
    assert new in {line.user_id for line in review.review.lines}
    assert review.review.state == "approved", "an answered list stays"


def test_a_rejected_list_changes_nothing_and_ends_red(platform: Stage, run: Callable[..., Run]) -> None:
    review = asked(run)
    with pytest.raises(AirflowFailException, match="rejected: Reject, by ada: not my tenants"):
        review.answer(REJECT, {"excepted": "nonsense", "comment": "not my tenants"}, by="ada")
    with pytest.raises(AirflowFailException, match="The list was rejected: access is not reviewed"):
        review.report()
    assert platform.inactive() == set()
    assert review.review.state == "rejected"
    assert "The list was rejected" in page(review)
    with pytest.raises(AirflowFailException, match="the list is not approved: the review is rejected"):
        review.act()


def test_nobody_answering_ends_unfinished_and_red(platform: Stage, run: Callable[..., Run]) -> None:
    review = asked(run)
    event = {"timedout": True, "chosen_options": [], "responded_by_user": None, "error_type": "timeout", "error": "x"}
    with pytest.raises(AirflowFailException, match="unfinished: nobody reviewed the list within 10 min"):
        review.answer("", {}, **event)
    with pytest.raises(AirflowFailException, match="Nobody reviewed the list"):
        review.report()
    assert review.review.state == "unfinished"
    assert "Nobody reviewed the list" in page(review)
    assert "Nobody reviewed the list" in json.dumps(platform.slack())
    assert review.answer(APPROVE_ALL, {})["by"] == "ines", "cleared, it is asked and answered"


# Acting ----------------------------------------------------------------------------------------------------


def test_approved_by_exception_users_are_deactivated_and_all_of_it_is_evidence(
    platform: Stage, run: Callable[..., Run]
) -> None:
    invited = platform.user(status="invited")
    platform.session(invited)
    platform.ask("UPDATE sessions SET last_active = now() - interval '100 days' WHERE user_id = %s", invited)
    review = asked(run)
    users = [line for line in review.review.lines if line.action == DEACTIVATE]
    spared = next(line for line in users if line.user_id != invited)
    review.answer(APPROVE_EXCEPT, {"excepted": str(spared.number), "comment": "on parental leave"})
    outcomes = review.act()
    gone = {line.user_id for line in users} - {spared.user_id}
    assert set(outcomes) == gone
    assert set(outcomes.values()) == {DONE}
    assert platform.inactive() == gone
    assert platform.status(spared.user_id) == ["active"]
    assert platform.sessions(invited) == 0
    assert {(change.user_id, change.before) for change in review.changes} == {
        (user, "invited" if user == invited else "active") for user in gone
    }
    noted = platform.ask("SELECT target, actor, details FROM audit_log WHERE action = 'user.deactivated'")
    assert {row[0] for row in noted} == gone
    assert {row[1] for row in noted} == {"vcci-ops"}
    assert noted[0][2]["review"] == review.source
    assert noted[0][2]["approved_by"] == "ines"
    review.report()
    evidence(platform, review, spared.number, len(gone))


def evidence(platform: Stage, review: Run, spared: int, gone: int) -> None:
    """Page, document, table, history and Slack say the same."""
    shown = page(review)
    assert f"Access was reviewed: {gone} users deactivated" in shown
    assert "on parental leave" in shown
    assert review.review.items_hash in shown
    document = json.loads(stored(review, "report.json"))
    assert document["decisions"]["by"] == "ines"
    assert document["items_hash"] == review.review.items_hash
    assert document["lines"][spared - 1]["decision"] == "excepted"
    rows = list(csv.DictReader(io.StringIO(stored(review, "lines.csv"))))
    assert len(rows) == len(review.review.lines)
    assert [row["outcome"] for row in rows].count(DONE) == gone
    assert (rows[spared - 1]["decision"], rows[spared - 1]["reviewed_by"]) == ("excepted", "ines")
    assert "@" not in stored(review, "lines.csv") + stored(review, "report.json")
    assert review.review.state == "done"
    import hashlib

    kept = review.review.detail["sha256"]
    for name in ("report.html", "report.json", "lines.csv"):
        assert kept[name] == hashlib.sha256(stored(review, name).encode()).hexdigest(), name
    with History().connect() as connection:
        ((status, summary),) = connection.execute(
            "SELECT status, (SELECT summary FROM change_event WHERE source = %s) FROM run WHERE run_id = %s",
            (review.source, review.run_id),
        ).fetchall()
    assert status in ("ok", "warning")
    assert summary == f"{gone} inactive users deactivated, approved by ines"
    messages = [m for m in platform.slack() if review.run_id in json.dumps(m)]
    roots = [m for m in messages if m.get("thread_ts") in (None, m["ts"])]
    assert f"{gone} users deactivated" in json.dumps(roots)
    assert len(roots) == 1


def test_what_changed_since_the_list_is_left_alone_and_said(platform: Stage, run: Callable[..., Run]) -> None:
    old = dt.datetime.now(dt.UTC) - dt.timedelta(days=200)
    back, works, turned, elsewhere = (platform.user(last_login=old) for _ in range(4))
    lead = platform.user(TENANTS[1], role="admin", last_login=old)
    review = asked(run)
    review.answer(APPROVE_ALL, {})
    platform.ask("UPDATE users SET last_login = now() WHERE id = %s", back)
    platform.session(works)
    platform.ask("UPDATE users SET is_service_account = true WHERE id = %s", turned)
    platform.ask("UPDATE users SET status = 'inactive' WHERE id = %s", elsewhere)
    platform.ask(
        "UPDATE users SET status = 'inactive' WHERE role = 'admin' AND tenant_id = %s AND id <> %s", TENANTS[1].id, lead
    )
    outcomes = review.act()
    assert {user: outcomes[user].removeprefix("left alone: ") for user in (back, works, turned, elsewhere, lead)} == {
        back: "has been seen since the review",
        works: "has been seen since the review",
        turned: "is a service account",
        elsewhere: "is inactive already, not by this review",
        lead: "is the last active administrator of the tenant",
    }
    assert platform.status(back, works, turned, lead) == ["active"] * 4
    assert platform.sessions(works) == 1
    assert not {back, works, turned, elsewhere, lead} & {change.user_id for change in review.changes}
    review.report()
    assert "left alone: has been seen since the review" in page(review)


def test_of_a_tenant_whose_admins_are_all_away_one_stays(platform: Stage, run: Callable[..., Run]) -> None:
    old = dt.datetime.now(dt.UTC) - dt.timedelta(days=200)
    platform.ask("UPDATE users SET status = 'inactive' WHERE role = 'admin' AND tenant_id = %s", TENANTS[2].id)
    first = platform.user(TENANTS[2], role="admin", last_login=old)
    last = platform.user(TENANTS[2], role="admin", last_login=old + dt.timedelta(days=1))
    review = asked(run)
    assert review.line(last).action == BY_HAND
    review.answer(APPROVE_ALL, {})
    review.act()
    assert platform.status(first, last) == ["inactive", "active"]


def test_a_session_that_is_being_made_is_waited_for(platform: Stage, run: Callable[..., Run]) -> None:
    user = platform.user()
    review = asked(run)
    review.answer(APPROVE_ALL, {})
    outcome: dict[str, Any] = {}
    with platform.app() as logging_in:
        logging_in.execute(
            "INSERT INTO sessions (tenant_id, user_id, token_hash) VALUES (%s, %s, 'x')", (TENANTS[0].id, user)
        )
        acting = threading.Thread(target=lambda: outcome.update(review.act()))
        acting.start()
        waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%%FOR UPDATE%%'"
        until("it waits", lambda: platform.ask(waits) == [(1,)])
        logging_in.commit()
        acting.join(30)
    assert outcome[user] == "left alone: has been seen since the review"
    assert platform.status(user) == ["active"]


def test_a_log_in_that_waited_for_the_lock_leaves_no_session(platform: Stage) -> None:
    user = platform.user()
    platform.ask("UPDATE users SET status = 'inactive' WHERE id = %s", user)
    platform.session(user)
    assert Users("access_review/x").end_sessions([user]) == 1
    platform.ask("UPDATE users SET status = 'active' WHERE id = %s", user)
    platform.session(user)
    assert Users("access_review/x").end_sessions([user]) == 0, "who is active again keeps his"


def test_a_row_that_somebody_holds_is_tried_again(
    platform: Stage, run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vcci_ops.hooks.access_changes.LOCK_TIMEOUT", 0.5)
    user = platform.user()
    review = asked(run)
    review.answer(APPROVE_ALL, {})
    with platform.app() as other:
        other.execute("UPDATE users SET name = 'x' WHERE id = %s", (user,))
        with pytest.raises(AirflowException, match=r"waited longer than 0\.5 s for a lock") as raised:
            review.act()
        assert not isinstance(raised.value, AirflowFailException)
        other.rollback()
    assert review.act()[user] == DONE


@pytest.mark.parametrize("where", ["before it is recorded", "in the transaction"])
def test_killed_between_tenants_it_goes_on_and_ends_the_same(
    platform: Stage, run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    review = asked(run)
    review.answer(APPROVE_ALL, {})
    wanted = {line.user_id for line in review.review.lines if line.action == DEACTIVATE}
    calls = 0

    def killed(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as dying:
        owner, name = (Reviews, "changed") if where == "before it is recorded" else (Users, "_end_sessions")
        original = getattr(owner, name)
        dying.setattr(owner, name, lambda *given: (killed(), original(*given))[1])
        with pytest.raises(KeyboardInterrupt):
            review.act()
    assert len(platform.inactive()) == (6 if where == "before it is recorded" else 4)
    with pytest.raises(AirflowFailException, match="Approved, but NOT all was done"):
        review.report()
    assert set(review.act().values()) == {DONE}
    assert platform.inactive() == wanted
    assert {(change.user_id, change.before) for change in review.changes} == {(user, "active") for user in wanted}
    assert platform.ask("SELECT count(*) FROM audit_log WHERE action = 'user.deactivated'") == [(len(wanted),)]
    review.report()
    assert review.review.state == "done"


def test_run_again_later_it_does_not_undo_what_people_did_since(platform: Stage, run: Callable[..., Run]) -> None:
    review = finished(run)
    back = review.changes[0].user_id
    platform.ask("UPDATE users SET status = 'active' WHERE id = %s", back)
    assert review.act()[back] == DONE
    assert platform.status(back) == ["active"]
    assert len(review.changes) == 10


def test_without_the_lock_or_with_another_list_nothing_is_changed(platform: Stage, run: Callable[..., Run]) -> None:
    review = asked(run)
    review.answer(APPROVE_ALL, {})
    with pytest.raises(AirflowFailException, match="lock"):
        review.deactivate()
    user = platform.user(last_login=dt.datetime.now(dt.UTC))
    kept = review.review.lines
    forged = [dataclasses.replace(kept[0], user_id=user).to_dict(), *(line.to_dict() for line in kept[1:])]
    with History().connect() as connection:
        connection.execute("UPDATE access_review SET items = %s WHERE id = %s", (json.dumps(forged), review.source))
    with pytest.raises(AirflowFailException, match="its hash differs"):
        review.act()
    review.xcom["review", "approval"] |= {"excepted": [1]}
    with History().connect() as connection:
        items = json.dumps([line.to_dict() for line in kept])
        connection.execute("UPDATE access_review SET items = %s WHERE id = %s", (items, review.source))
    with pytest.raises(AirflowFailException, match="not the one that was approved"):
        review.act()
    assert platform.inactive() == set()


def test_the_role_that_acts_can_do_no_more(platform: Stage, stage: Stage) -> None:
    from sandbox.services.postgres import PRODUCTION, parameters

    given = parameters(stage.sandbox, "postgres-direct", "vcci_ops_tenants", PRODUCTION)
    with psycopg.connect(**given, autocommit=True) as connection:
        for denied in (
            "UPDATE users SET role = 'admin'",
            "UPDATE users SET email = 'x'",
            "DELETE FROM users",
            "SELECT password_hash FROM users",
            "SELECT token_hash FROM sessions",
            "UPDATE audit_log SET actor = 'x'",
            "DELETE FROM audit_log",
            "UPDATE api_keys SET revoked_at = now()",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(denied.encode())


def test_a_bucket_that_refuses_is_told_and_the_rest_arrives(
    platform: Stage, run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    review = asked(run)
    review.answer(APPROVE_ALL, {})
    review.act()
    with monkeypatch.context() as broken:
        connection = platform.connections()["vcci_s3"]
        connection["extra"] = {**connection["extra"], "endpoint_url": "http://127.0.0.1:1"}
        broken.setenv("AIRFLOW_CONN_VCCI_S3", json.dumps(connection))
        with pytest.raises(
            AirflowException, match="the evidence did not arrive everywhere: the report bucket"
        ) as raised:
            review.report()
        assert not isinstance(raised.value, AirflowFailException), "tried again"
    assert review.review.state == "done"
    assert "10 users deactivated" in json.dumps(platform.slack())
    review.report()
    assert "10 users deactivated" in page(review)


# Putting back ------------------------------------------------------------------------------------------------


def reverting(run: Callable[..., Run], review: Run, lines: str, **more: Any) -> Run:
    form = {"review_id": review.source, "lines": lines, "reason": "back from leave", "dry_run": False, **more}
    return run(dag_id="access_revert", params=form)


def test_chosen_users_are_put_back_to_what_they_were(platform: Stage, run: Callable[..., Run]) -> None:
    invited = platform.user(status="invited")
    review = finished(run)
    line = review.line(invited)
    dry = reverting(run, review, str(line.number), dry_run=True)
    assert dry.plan() == "skipped the rest"
    with pytest.raises(AirflowSkipException):
        dry.report_revert()
    back = reverting(run, review, str(line.number))
    back.plan()
    back.revert()
    back.revert()  # cleared
    back.report_revert()
    assert platform.status(invited) == ["invited"]
    assert len(platform.inactive()) == 10
    assert [change.user_id for change in review.changes if change.reverted_at] == [invited]
    assert platform.ask("SELECT details FROM audit_log WHERE action = 'user.reactivated'")[0][0]["asked_by"] == "ada"
    assert "1 of 1 users put back" in json.dumps(platform.slack())
    again = reverting(run, review, str(line.number))
    with pytest.raises(AirflowFailException, match=r"lines: .* is not accepted; expected all, or lines whose users"):
        again.plan()
    rest = reverting(run, review, "all")
    rest.plan()
    rest.revert()
    rest.report_revert()
    assert platform.inactive() == set()


def test_who_was_changed_since_is_left_alone_by_the_way_back(platform: Stage, run: Callable[..., Run]) -> None:
    review = finished(run)
    first, *others = (change.user_id for change in review.changes)
    platform.ask("UPDATE users SET status = 'active' WHERE id = %s", first)
    back = reverting(run, review, "all")
    back.plan()
    back.revert()
    with pytest.raises(AirflowFailException, match="left alone: is active already"):
        back.report_revert()
    assert platform.inactive() == set()
    assert len([change for change in review.changes if change.reverted_at]) == len(others)


WRONG_WAYS = (
    ({"review_id": "access_review/none"}, "there is no access review access_review/none"),
    ({"review_id": "../../etc"}, "review_id"),
    ({"review_id": "x' OR 1=1 --"}, "review_id"),
    ({"lines": "0"}, "lines"),
    ({"lines": "everybody"}, "lines"),
    ({"reason": "no"}, "reason"),
)


def test_a_way_back_that_cannot_be_is_refused(run: Callable[..., Run]) -> None:
    review = asked(run)
    for form, words in WRONG_WAYS:
        with pytest.raises(AirflowFailException, match=words):
            reverting(run, review, **{"lines": "all", **form}).plan()


# Kubernetes ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["played", "real"])
def plane(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    """A Kubernetes with exactly the shipped rights."""
    folder = tmp_path_factory.mktemp("kube")
    with played_plane(folder) if request.param == "played" else real_plane() as admin:
        with furnished(request.param, admin, folder) as made:
            yield made


@pytest.fixture(scope="module")
def reviewed(plane: Plane) -> Iterator[Plane]:
    """The same, and the review's own rights."""
    with given(plane, *access_rbac(plane)):
        yield plane


class given:
    """Objects that are there for a while."""

    def __init__(self, plane: Plane, *objects: dict[str, Any]) -> None:
        self.plane, self.objects = plane, objects

    def __enter__(self) -> None:
        self.plane.apply(*self.objects)

    def __exit__(self, *_: object) -> None:
        for made in self.objects:
            meta = made["metadata"]
            where = ["-n", meta["namespace"]] if meta.get("namespace") else []
            self.plane.kubectl("delete", made["kind"], meta["name"], *where)


def access_rbac(plane: Plane) -> list[dict[str, Any]]:
    text = RBAC.read_text().replace("vcci-production", plane.namespace)
    return list(
        yaml.safe_load_all(text.replace("name: vcci-ops-access-review", f"name: vcci-ops-access-{plane.namespace}"))
    )


def role(kind: str, name: str, namespace: str = "", **more: Any) -> dict[str, Any]:
    meta = {"name": name, **({"namespace": namespace} if namespace else {}), **more.pop("metadata", {})}
    return {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": meta, **more}


def binding(name: str, of: tuple[str, str], *subjects: str, namespace: str = "") -> dict[str, Any]:
    group = "rbac.authorization.k8s.io"
    listed = []
    for subject in subjects:
        kind, *rest = subject.split("/")
        if kind == "ServiceAccount":
            listed.append({"kind": kind, "namespace": rest[0], "name": rest[1]})
        else:
            listed.append({"kind": kind, "name": rest[0], "apiGroup": group})
    ref = {"apiGroup": group, "kind": of[0], "name": of[1]}
    return role("RoleBinding" if namespace else "ClusterRoleBinding", name, namespace, roleRef=ref, subjects=listed)


def secrets(*verbs: str, **more: Any) -> dict[str, Any]:
    return {"apiGroups": [""], "resources": ["secrets"], "verbs": list(verbs), **more}


def found(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    connect(monkeypatch, plane.checks_config)
    reader = RbacReader(page_size=7)
    every = lines(
        reader.roles(plane.namespace), reader.bindings(plane.namespace), plane.namespace, ["Group/system:masters"]
    )
    return {line.key.removeprefix("kubernetes/"): line for line in every}


def test_who_is_cluster_admin_or_reads_secrets_is_found_through_roles(
    reviewed: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    ns = reviewed.namespace
    label = {"labels": {"aggregate-to": ns}}
    selector = {"clusterRoleSelectors": [{"matchLabels": {"aggregate-to": ns}}]}
    objects = [
        role("ClusterRole", f"{ns}-everything", rules=[{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]),
        role("ClusterRole", f"{ns}-part", metadata=label, rules=[secrets("list")]),
        role("ClusterRole", f"{ns}-whole", aggregationRule=selector, rules=[]),
        role("Role", "one-secret", ns, rules=[secrets("get", resourceNames=["vcci-database"])]),
        role("Role", "core-wildcard", ns, rules=[{"apiGroups": [""], "resources": ["*"], "verbs": ["get"]}]),
        role(
            "Role",
            "maker",
            ns,
            rules=[secrets("create", "delete"), {"apiGroups": [""], "resources": ["pods"], "verbs": ["*"]}],
        ),
        binding(f"{ns}-1", ("ClusterRole", f"{ns}-everything"), f"User/eve-{ns}"),
        binding(f"{ns}-2", ("ClusterRole", f"{ns}-whole"), f"Group/team-{ns}"),
        binding("three", ("Role", "one-secret"), f"ServiceAccount/{ns}/app", namespace=ns),
        binding("four", ("Role", "core-wildcard"), f"User/system:serviceaccount:{ns}:tool", namespace=ns),
        binding("five", ("ClusterRole", f"{ns}-everything"), f"User/boss-{ns}", namespace=ns),
        binding("six", ("Role", "maker"), f"User/maker-{ns}", namespace=ns),
        binding(f"{ns}-7", ("ClusterRole", f"{ns}-part"), "Group/system:authenticated"),
    ]
    with given(reviewed, *objects):
        seen = found(reviewed, monkeypatch)
    ours = {name: line for name, line in seen.items() if ns in name}
    assert {name: str(line.severity) for name, line in ours.items()} == {
        f"User/eve-{ns}": "critical",
        f"Group/team-{ns}": "warning",
        f"ServiceAccount/{ns}/app": "warning",
        f"ServiceAccount/{ns}/tool": "warning",
        f"User/boss-{ns}": "warning",
    }
    assert "list in every namespace" in ours[f"Group/team-{ns}"].finding
    assert f"get only vcci-database, in {ns} through RoleBinding three" in ours[f"ServiceAccount/{ns}/app"].finding
    assert "everything in the namespace" in ours[f"User/boss-{ns}"].finding
    assert str(seen["Group/system:authenticated"].severity) == "critical"
    if reviewed.name == "real":
        assert str(seen["Group/system:masters"].severity) == "ok"
        assert "ServiceAccount" not in "".join(
            name for name in seen if "kube-system" in name and "components" not in name
        )
        assert "User/system:kube-controller-manager" in seen["components"].finding
    assert f"ServiceAccount/{ns}/vcci-ops" not in seen, "the shipped rights read no Secret"


def test_without_its_rights_kubernetes_is_not_reviewed(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    if plane.name == "played":
        pytest.skip("the played API enforces no rights")
    connect(monkeypatch, plane.checks_config)
    own = [made for made in access_rbac(plane) if made["kind"].endswith("Binding")]
    for made in own:
        where = ["-n", made["metadata"]["namespace"]] if made["metadata"].get("namespace") else []
        plane.kubectl("delete", made["kind"], made["metadata"]["name"], "--ignore-not-found", *where)
    with pytest.raises(Forbidden, match="list clusterroles"):
        until("rights are gone", lambda: RbacReader().roles(plane.namespace) and None)
    plane.apply(*own)


# What was kept -------------------------------------------------------------------------------------------------


def settings(monkeypatch: pytest.MonkeyPatch, **changed: Any) -> None:
    """Run with other settings of the review."""
    access = SETTINGS.access_review.model_copy(update=changed)
    other = SETTINGS.model_copy(update={"access_review": access})
    monkeypatch.setattr("vcci_ops.operators.acting.load_settings", lambda: other)


def page(run: Run) -> str:
    return stored(run, "report.html")


def stored(run: Run, name: str) -> str:
    where = SETTINGS.reports
    store = ReportStore(where.bucket, where.prefix, "sandbox")
    from vcci_ops.hooks.reports import report_key

    key = report_key(where.prefix, "sandbox", run.dag_id, run.run_id) + name
    body: bytes = store._hook.get_conn().get_object(Bucket=where.bucket, Key=key)["Body"].read()
    return body.decode()


def test_the_question_survives_serialization() -> None:
    from airflow.sdk import DAG
    from airflow.serialization.serialized_objects import DagSerialization

    with DAG("serialized", schedule=None) as dag:
        ReviewAccessOperator(task_id="review", own_approval=False, within=60)
    again = DagSerialization.from_dict(json.loads(json.dumps(DagSerialization.to_dict(dag))))
    assert set(again.task_dict) == {"review"}
