"""An access review's list, what may be typed about it, who must stay, and what rules and roles allow."""

from __future__ import annotations

import csv
import dataclasses
import datetime as dt
import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vcci_ops.domain import access_people, access_rbac, access_report, access_roles
from vcci_ops.domain.access import (
    APPROVE_ALL,
    APPROVE_EXCEPT,
    BY_HAND,
    DEACTIVATE,
    DONE,
    Line,
    Standing,
    excepted_lines,
    items_hash,
    last_admin,
    line_numbers,
    numbered,
    restorable,
    reviewer_addresses,
    settle,
    to_deactivate,
    unmeasured,
)
from vcci_ops.domain.access_rbac import Binding, power, rules_of, selected
from vcci_ops.domain.access_rbac import Role as ClusterRole
from vcci_ops.domain.results import Status
from vcci_ops.exceptions import InvalidInput
from vcci_ops.settings_tenants import AccessReview, DatabaseRole

NOW = dt.datetime(2026, 11, 25, 12, 0, tzinfo=dt.UTC)
SETTINGS = AccessReview()


def days(number: float) -> dt.datetime:
    return NOW - dt.timedelta(days=number)


def line(number: int = 1, *, user: str = "u1", section: str = "users", **more: Any) -> Line:
    known = {"key": f"{section}/{user}", "who": "viewer of a", "finding": "f", "recommendation": "r", "reason": "why"}
    rest = {"severity": Status.WARNING, "action": DEACTIVATE, "user_id": user, "tenant_id": "t1", "tenant": "a"}
    return Line(section=section, number=number, **{**known, **rest, **more})


# Typed by the reviewer ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("3", (3,)), ("3, 7-9", (3, 7, 8, 9)), (" 9-9;1\n2 ", (1, 2, 9)), ("2 - 4, 3", (2, 3, 4)), ("7–8", (7, 8))],
)
def test_line_numbers_are_read_as_people_write_them(text: str, numbers: tuple[int, ...]) -> None:
    assert line_numbers(text, 9, "excepted") == numbers


@pytest.mark.parametrize(
    "text", ["", " , ", "0", "10", "8-10", "3-1", "-3", "x", "3,x", "1.5", "²", "1;DROP", None, 3, ["3"], "1," * 2000]
)
def test_what_names_no_line_is_refused_with_what_would_be_accepted(text: object) -> None:
    with pytest.raises(InvalidInput, match="line numbers from 1 to 9, such as 3, 7-9"):
        line_numbers(text, 9, "excepted")


def test_the_numbers_go_with_the_option_and_exceptions_have_a_reason() -> None:
    lines = [line(n, user=f"u{n}") for n in (1, 2, 3)]
    assert excepted_lines(APPROVE_ALL, " ", "", lines) == ()
    assert excepted_lines(APPROVE_EXCEPT, "2", "on leave", lines) == (2,)
    assert [found.number for found in to_deactivate(lines, (2,))] == [1, 3]
    with pytest.raises(InvalidInput, match="to take lines out: Approve except"):
        excepted_lines(APPROVE_ALL, "2", "", lines)
    with pytest.raises(InvalidInput, match="a reason for the exceptions"):
        excepted_lines(APPROVE_EXCEPT, "2", "", lines)


def test_a_reviewer_is_known_by_name_and_domain() -> None:
    assert reviewer_addresses(["Ada", "ada@B.example"], "greenlang.io") == ["ada@b.example", "ada@greenlang.io"]
    assert reviewer_addresses(["ada"], "") == []


# The list ----------------------------------------------------------------------------------------------


def test_the_list_is_ordered_numbered_and_marks_what_is_new() -> None:
    lines = [line(user="u1"), line(section="keys", user="k"), unmeasured("Kubernetes", "down")]
    lines += [line(user="u2", severity=Status.CRITICAL)]
    found = numbered(lines, {"users/u1"})
    assert [(one.number, one.key, one.new) for one in found] == [
        (1, "unmeasured/Kubernetes", True),
        (2, "users/u2", True),
        (3, "users/u1", False),
        (4, "keys/k", True),
    ]
    assert {one.new for one in numbered(lines, None)} == {None}
    again = [Line.from_dict(one.to_dict()) for one in found]
    assert items_hash(again) == items_hash(found)
    assert items_hash([dataclasses.replace(again[0], finding="nothing"), *again[1:]]) != items_hash(found)


def person(user: str, seen: float | None, **more: Any) -> access_people.Person:
    known: dict[str, Any] = {"tenant_id": "t1", "tenant": "a", "role": "viewer", "status": "active", "service": False}
    last = None if seen is None else days(seen)
    return access_people.Person(
        **{"user_id": user, "seen": last, "created": days(400), "protected": False, "keys": 0, **known, **more}
    )


def test_only_who_has_not_been_seen_for_long_is_to_be_deactivated() -> None:
    people = [
        person("away", 91),
        person("here", 89),
        person("never", None),
        person("invited lately", None, status="invited", created=days(10)),
        person("invited long ago", None, status="invited", keys=2),
        person("service", 300, service=True),
        person("protected", 300, protected=True),
    ]
    found = {one.user_id: one for one in access_people.inactive_users(people, SETTINGS, NOW)}
    wanted = {user for user, one in found.items() if one.action == DEACTIVATE}
    assert wanted == {"away", "never", "invited long ago"}
    assert found["away"].finding == "not seen since 2026-08-26 (91 days)"
    assert found["never"].finding.startswith("has never logged in; created 2025-10-21")
    assert found["invited long ago"].finding.endswith("made 2 API keys that stay valid")
    assert found["protected"].recommendation == "Keep"
    (dormant,) = access_people.dormant_services(people, SETTINGS, NOW)
    assert (dormant.action, dormant.user_id) == (BY_HAND, ""), "a service account cannot be deactivated by its line"


def test_of_two_inactive_admins_the_one_seen_last_stays() -> None:
    people = [person("a", 200, role="admin"), person("b", 100, role="admin"), person("c", None, role="admin")]
    found = {one.user_id: one for one in access_people.inactive_users(people, SETTINGS, NOW)}
    assert {user for user, one in found.items() if one.action == DEACTIVATE} == {"a", "c"}
    assert found["b"].recommendation.startswith("Keep, and ask the tenant")
    people.append(person("d", 1, role="admin"))
    assert {one.action for one in access_people.inactive_users(people, SETTINGS, NOW)} == {DEACTIVATE}
    people[-1] = person("d", None, role="admin", status="invited", created=days(1))
    found = {one.user_id: one for one in access_people.inactive_users(people, SETTINGS, NOW)}
    assert found["b"].action == BY_HAND, "who is only invited leads nobody"


def test_admins_are_compared_with_the_last_review_and_say_so_without_one() -> None:
    people = [person("old", 1, role="admin"), person("new", 1, role="admin"), person("viewer", 1)]
    deeds = {"new": [(f"role.{n}", 9 - n) for n in range(8)]}
    past = access_people.Past("access_review/x", days(30), frozenset({"old"}), frozenset())
    old, new = access_people.admins(people, deeds, past.made_at, past)
    assert (old.severity, old.finding) == (Status.OK, "did nothing since 2026-10-26 that the audit log has")
    assert new.severity is Status.WARNING
    assert new.finding.startswith("administrator since the last review (2026-10-26); did since 2026-10-26: role.0 9,")
    assert new.finding.endswith("others 5")
    first, _ = access_people.admins(people, None, days(30), None)
    assert "no earlier review" in first.reason
    assert "is not known" in first.finding


def test_keys_unused_and_old() -> None:
    keys = [
        access_people.Key("k1", "t", "a", days(400), days(1), False, True),
        access_people.Key("k2", "t", "a", days(100), None, True, False),
    ]
    old, unused = access_people.keys(keys, SETTINGS, NOW)
    assert (old.finding, old.recommendation) == ("made 2025-10-21 (400 days)", "Ask the tenant to renew it")
    assert (unused.finding, unused.recommendation) == (
        "never used; made 2026-08-17 (100 days)",
        "Ask the tenant, then revoke it",
    )


# Looked at again, under lock ------------------------------------------------------------------------------


def standing(user: str = "u1", **more: Any) -> Standing:
    known: dict[str, Any] = {"tenant_status": "active", "role": "viewer", "status": "active", "service": False}
    return Standing(**{"user_id": user, "seen": days(100), "protected": False, **known, **more})


@pytest.mark.parametrize(
    ("now", "words"),
    [
        ([standing()], DONE),
        ([standing(status="invited", seen=None)], DONE),
        ([standing(seen=days(0.1))], "has been seen since the review"),
        ([standing(service=True)], "is a service account"),
        ([standing(protected=True)], "never to touch"),
        ([standing(tenant_status="suspended")], "the tenant is suspended now"),
        ([standing(status="inactive")], "is inactive already, not by this review"),
        ([standing(status="inactive", noted={"before": "active"})], DONE),
        ([standing(role="admin")], "last active administrator"),
        ([standing(role="admin"), standing("u2", role="admin")], DONE),
        ([standing(role="admin"), standing("u2", role="admin", status="inactive")], "last active administrator"),
        ([standing(role="admin"), standing("u2", role="admin", service=True)], "last active administrator"),
        ([], "not there any more"),
    ],
)
def test_a_user_is_deactivated_only_as_he_was_reviewed(now: list[Standing], words: str) -> None:
    assert words in settle(now, [line(seen=days(100).isoformat())])["u1"]


def test_who_logged_in_for_the_first_time_is_left_alone() -> None:
    assert "seen since" in settle([standing(seen=days(50))], [line(seen="")])["u1"]


PEOPLE = st.lists(
    st.builds(
        standing,
        st.sampled_from([f"u{n}" for n in range(6)]),
        role=st.sampled_from(["admin", "viewer"]),
        status=st.sampled_from(["active", "invited", "inactive"]),
        service=st.booleans(),
        seen=st.one_of(st.none(), st.integers(90, 200).map(days)),
    ),
    unique_by=lambda one: one.user_id,
)


@given(PEOPLE, st.sets(st.sampled_from([f"u{n}" for n in range(6)])))
def test_a_tenant_never_loses_its_last_administrator(people: list[Standing], wanted: set[str]) -> None:
    lines = [line(n, user=user, seen=days(1).isoformat()) for n, user in enumerate(sorted(wanted), 1)]
    outcome = settle(people, lines)
    assert set(outcome) == wanted
    going = {user for user, said in outcome.items() if said == DONE}
    leading = {one.user_id for one in people if one.leads}
    assert not leading or leading - going
    assert not going & {one.user_id for one in people if one.service}
    if kept := last_admin(people, wanted):
        assert kept in leading


def test_only_who_is_inactive_is_put_back() -> None:
    assert restorable(standing(status="inactive"), "active") == ""
    assert restorable(standing(status="active", noted={"before": "inactive"}), "active") == ""
    assert restorable(standing(), "active") == "is active already"
    assert restorable(None, "active") == "the user is not there any more"
    assert "nobody is put back" in restorable(standing(status="inactive"), "inactive")


# Database roles ------------------------------------------------------------------------------------------


def role(name: str, *, login: bool = True, member_of: tuple[str, ...] = (), **so: bool) -> access_roles.Role:
    ranks = ("superuser", "create_role", "create_database", "replication", "bypasses_row_security")
    return access_roles.Role(name, login, *(so.get(rank, False) for rank in ranks), member_of)


KNOWN = {
    "postgres": DatabaseRole(purpose="administrator", kind="administrator"),
    "app": DatabaseRole(purpose="the platform", kind="owner"),
    "eraser": DatabaseRole(purpose="deletions", kind="writer"),
    "checks": DatabaseRole(purpose="checks", kind="reader"),
    "dumps": DatabaseRole(purpose="backups", kind="copier"),
}
OWNED = access_roles.Right("app", "owns", 7, ("public.a", "public.b"))


def judged(*roles: access_roles.Role, rights: tuple[access_roles.Right, ...] = ()) -> dict[str, Line]:
    return {one.key.removeprefix("role/"): one for one in access_roles.lines(roles, rights, KNOWN)}


def test_roles_that_are_what_the_settings_say_are_for_information() -> None:
    roles = (role("postgres", superuser=True, replication=True), role("app"), role("eraser"), role("checks"))
    roles = (*roles, role("dumps", member_of=("pg_read_all_data",)))
    rights = (OWNED, access_roles.Right("eraser", "writes", 2, ("public.a", "public.b")))
    found = judged(*roles, role("group", login=False), rights=rights)
    assert set(found) == set(KNOWN), "a group that can do nothing is no line"
    assert {one.severity for one in found.values()} == {Status.OK}


@pytest.mark.parametrize(
    ("given", "severity", "words"),
    [
        (role("checks", superuser=True), Status.CRITICAL, "is a superuser"),
        (role("checks", create_role=True), Status.CRITICAL, "creates roles"),
        (role("checks", bypasses_row_security=True), Status.CRITICAL, "passes by row security"),
        (role("app", replication=True), Status.CRITICAL, "reads all by replication"),
        (role("checks", member_of=("pg_execute_server_program",)), Status.CRITICAL, "runs programs on the server"),
        (role("checks", member_of=("pg_write_all_data",)), Status.CRITICAL, "writes every table"),
        (role("checks", member_of=("pg_read_all_data",)), Status.WARNING, "reads every table"),
        (role("dumps", member_of=("pg_write_all_data",)), Status.CRITICAL, "writes every table"),
        (role("dumps", member_of=("app",)), Status.WARNING, "owns public.a, public.b and 5 more (through app)"),
        (role("checks", create_database=True), Status.WARNING, "creates databases"),
        (role("checks", member_of=("postgres",)), Status.CRITICAL, "a member of postgres, a superuser"),
        (role("checks", member_of=("app",)), Status.WARNING, "owns public.a, public.b and 5 more (through app)"),
        (role("stranger"), Status.WARNING, "may log in"),
        (role("hidden", login=False, superuser=True), Status.CRITICAL, "cannot log in itself; is a superuser"),
    ],
)
def test_what_a_role_can_do_beyond_its_kind_is_a_finding(
    given: access_roles.Role, severity: Status, words: str
) -> None:
    found = judged(role("postgres", superuser=True), given, rights=(OWNED,))[given.name]
    assert (found.severity, found.action) == (severity, BY_HAND)
    assert words in found.finding


def test_a_reader_that_may_write_and_what_everybody_may_write_are_findings() -> None:
    rights = (
        access_roles.Right("checks", "writes", 1, ("public.a",)),
        access_roles.Right("", "writes", 1, ("public.b",)),
    )
    found = judged(role("checks"), rights=rights)
    assert found["checks"].finding == "may log in; writes public.a"
    assert (found["PUBLIC"].severity, found["PUBLIC"].finding) == (Status.CRITICAL, "writes public.b")


# Kubernetes ----------------------------------------------------------------------------------------------

ALL_RULE = {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}


@pytest.mark.parametrize(
    ("rule", "everything", "verbs"),
    [
        (ALL_RULE, True, ("*",)),
        ({"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "list"]}, False, ("get", "list")),
        ({"apiGroups": ["*"], "resources": ["*"], "verbs": ["list"]}, False, ("list",)),
        ({"apiGroups": [""], "resources": ["*"], "verbs": ["*"]}, False, ("*",)),
        ({"apiGroups": [""], "resources": ["secrets"], "verbs": ["create", "delete"]}, False, ()),
        ({"apiGroups": ["apps"], "resources": ["*"], "verbs": ["*"]}, False, ()),
        ({"apiGroups": [""], "resources": ["pods", "secrets/status"], "verbs": ["get"]}, False, ()),
        ({"nonResourceURLs": ["*"], "verbs": ["*"]}, False, ()),
    ],
)
def test_rules_are_read_with_their_wildcards(rule: dict[str, Any], everything: bool, verbs: tuple[str, ...]) -> None:
    found = power([rule])
    assert (found.everything, found.verbs) == (everything, verbs)


def test_named_secrets_are_named_unless_another_rule_gives_all() -> None:
    some = {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"], "resourceNames": ["b", "a"]}
    assert power([some]).names == ("a", "b")
    assert power([some, {**some, "resourceNames": []}]).names == ()
    assert not power([{**ALL_RULE, "resourceNames": ["a"]}]).everything


@pytest.mark.parametrize(
    ("selector", "matches"),
    [
        ({"matchLabels": {"a": "1"}}, True),
        ({"matchLabels": {"a": "2"}}, False),
        ({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1", "2"]}]}, True),
        ({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}, False),
        ({"matchExpressions": [{"key": "b", "operator": "NotIn", "values": ["1"]}]}, True),
        ({"matchExpressions": [{"key": "b", "operator": "Exists"}]}, False),
        ({"matchExpressions": [{"key": "b", "operator": "DoesNotExist"}]}, True),
        ({}, True),
    ],
)
def test_labels_are_selected_as_kubernetes_does(selector: dict[str, Any], matches: bool) -> None:
    assert selected({"a": "1"}, selector) is matches


def test_aggregated_roles_are_followed_also_in_a_circle() -> None:
    reading = {"apiGroups": [""], "resources": ["secrets"], "verbs": ["list"]}
    first = ClusterRole("first", selectors=({"matchLabels": {"to": "first"}},))
    second = ClusterRole("second", labels={"to": "first"}, selectors=({"matchLabels": {"to": "second"}},))
    third = ClusterRole(
        "third", labels={"to": "second"}, rules=(reading,), selectors=({"matchLabels": {"to": "first"}},)
    )
    assert rules_of(first, [first, second, third]) == [reading]


def bound(*subjects: str, role: tuple[str, str] = ("", "cluster-admin"), namespace: str = "") -> Binding:
    return Binding("b", namespace, role, subjects)


ROLES = [
    ClusterRole("cluster-admin", rules=(ALL_RULE,)),
    ClusterRole("reader", rules=({"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]},)),
    ClusterRole("system:controller:x", rules=(ALL_RULE,)),
    ClusterRole("reader", "vcci", rules=()),
]


def subjects(*bindings: Binding) -> dict[str, Line]:
    found = access_rbac.lines(ROLES, bindings, "vcci", ["Group/system:masters"])
    return {one.key.removeprefix("kubernetes/"): one for one in found}


def test_subjects_are_judged_by_their_greatest_power() -> None:
    found = subjects(
        bound("User/eve", "Group/system:masters"),
        bound("User/eve", "ServiceAccount/vcci/app", role=("", "reader"), namespace="vcci"),
        bound("User/carl", namespace="vcci"),
        bound("User/nobody", role=("vcci", "reader"), namespace="vcci"),
        bound("Group/system:authenticated", role=("", "reader")),
        bound("User/gone", role=("", "no-such-role")),
    )
    assert {name: str(one.severity) for name, one in found.items()} == {
        "User/eve": "critical",
        "Group/system:masters": "ok",
        "ServiceAccount/vcci/app": "warning",
        "User/carl": "warning",
        "Group/system:authenticated": "critical",
    }
    assert found["User/eve"].finding == (
        "may do everything in the whole cluster: in every namespace through ClusterRoleBinding b → ClusterRole "
        "cluster-admin; get in vcci through RoleBinding b → ClusterRole reader"
    )
    assert found["User/carl"].finding.startswith("may do everything in the namespace")


def test_only_reserved_names_in_kubernetes_own_roles_pass_for_its_components() -> None:
    own = ("", "system:controller:x")
    found = subjects(
        bound("ServiceAccount/kube-system/x", "User/system:kube-scheduler", role=own),
        bound("User/eve", "ServiceAccount/vcci/app", "Group/system:serviceaccounts", role=own),
        bound("ServiceAccount/kube-system/x", role=("", "reader")),
    )
    assert set(found) == {
        "components",
        "User/eve",
        "ServiceAccount/vcci/app",
        "Group/system:serviceaccounts",
        "ServiceAccount/kube-system/x",
    }
    assert "2 can read Secrets" in found["components"].finding


def test_a_service_account_is_the_same_under_its_user_name() -> None:
    user = {"kind": "User", "name": "system:serviceaccount:vcci:app"}
    account = {"kind": "ServiceAccount", "name": "app", "namespace": "vcci"}
    assert access_rbac.subject_name(user, "") == access_rbac.subject_name(account, "x") == "ServiceAccount/vcci/app"
    assert access_rbac.subject_name({"kind": "ServiceAccount", "name": "app"}, "x") == "ServiceAccount/x/app"


# The report -----------------------------------------------------------------------------------------------

DECIDED = {
    "option": APPROVE_EXCEPT,
    "excepted": [2],
    "comment": "on leave",
    "by": "ines",
    "at": "2026-11-25T13:00:00+00:00",
}


def report(*lines: Line, state: str = "done", **more: Any) -> access_report.AccessReport:
    known = {"environment": "sandbox", "dag_id": "access_review", "run_id": "r1", "requested_by": "ada"}
    times = {"made_at": NOW, "started_at": NOW, "finished_at": NOW}
    return access_report.AccessReport(**{"lines": numbered(lines, None), "state": state, **known, **times, **more})


def test_the_verdict_tells_what_is_left_and_what_was_not_looked_at() -> None:
    whole = report(line(user="u1"), line(user="u2"), decisions=DECIDED, outcomes={"u1": DONE})
    assert (whole.status, whole.verdict) == (
        Status.OK,
        "Access was reviewed: 1 user deactivated, 0 findings to deal with",
    )
    hand = report(line(section="keys", user="", action=BY_HAND), decisions={**DECIDED, "excepted": []})
    assert hand.status is Status.WARNING
    partly = report(line(), unmeasured("Kubernetes", "down"), decisions={**DECIDED, "excepted": []})
    assert partly.status is Status.UNKNOWN
    assert partly.verdict.endswith("NOT COMPLETE")
    for state in ("rejected", "unfinished", "failed"):
        assert report(line(), state=state, decisions=DECIDED).status is Status.CRITICAL


def test_every_line_has_its_decision_in_the_table_and_no_cell_is_run() -> None:
    lines = [line(user="u1", who="=cmd|'/c calc'!A1", finding='a, "b"\nc'), line(user="u2")]
    whole = report(*lines, decisions=DECIDED, outcomes={"u1": DONE})
    first, second = csv.DictReader(io.StringIO(access_report.table(whole)))
    assert (first["decision"], first["outcome"], first["reviewed_by"]) == ("approved", DONE, "ines")
    assert first["who"] == "'=cmd|'/c calc'!A1"
    assert first["finding"] == 'a, "b"\nc'
    assert (second["decision"], second["outcome"]) == ("excepted", "")
    open_ = csv.DictReader(io.StringIO(access_report.table(report(line(), state="open"))))
    assert next(open_)["decision"] == ""


def test_page_and_form_escape_what_comes_from_outside() -> None:
    evil = "<script>alert(1)</script> | `x` [a](http://b)"
    lines = [line(user="u1", who=evil, finding=evil), line(user="u2")]
    whole = report(*lines, decisions={**DECIDED, "comment": evil}, outcomes={"u1": DONE}, notes=(evil,))
    page = access_report.render(whole)
    assert "<script>" not in page
    assert page.count("&lt;script&gt;") >= 4
    body = access_report.form_body(whole, "http://airflow/x")
    assert "\\<script\\>alert(1)\\</script\\> \\| \\`x\\` \\[a\\]" in body
    assert "<!" not in access_report.slack_final(report(line(who="<!channel>", action=BY_HAND)), "http://x")


def test_a_list_too_long_for_the_form_says_where_the_rest_is() -> None:
    long = report(*[line(user=f"u{n:04d}", finding="f" * 80) for n in range(400)], state="open")
    body = access_report.form_body(long, "http://airflow/x")
    assert len(body) < 20_000
    shown = body.count("viewer of a")
    assert f"**{400 - shown} more lines stand on the page.**" in body


def test_masked_addresses_are_on_page_and_form_only() -> None:
    whole = report(line(user="u1"), state="open", masked={"u1": "a…@b.example"})
    assert "a…@b.example" in access_report.render(whole)
    assert "a…@b.example" in access_report.form_body(whole, "http://x")
    assert "b.example" not in str(whole.to_dict())
    assert "b.example" not in access_report.table(whole)
