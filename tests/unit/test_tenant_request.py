"""What may be asked of a tenant's forms, and which names cannot be told apart."""

from __future__ import annotations

import datetime as dt
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vcci_ops.domain.look_alikes import look_alikes, skeletons
from vcci_ops.domain.tenant_onboarding import (
    TenantRow,
    arguments,
    in_the_way,
    items,
    undo_markdown,
    undo_plan,
)
from vcci_ops.domain.tenant_request import SLUG, Hidden, OnboardRequest, SuspendRequest, hide, mail
from vcci_ops.exceptions import InvalidInput
from vcci_ops.settings import load_settings

ALLOWED = load_settings("sandbox").tenants.onboarding
NOW = dt.datetime(2026, 11, 24, 9, 0, tzinfo=dt.UTC)


def form(**more: Any) -> dict[str, Any]:
    asked = {
        "name": "ACME Corp",
        "slug": "acme-corp",
        "tier": "enterprise",
        "admin_email": "Jo.Doe@acme.example",
        "admin_name": "Jo Doe",
        "emission_factors": "ecoinvent",
        "reporting_standard": "ghg-protocol",
        "welcome_again": False,
        "dry_run": True,
        "if_locked": "wait",
    }
    return {**asked, **more}


def asked(**more: Any) -> OnboardRequest:
    return OnboardRequest.of(form(**more), ALLOWED)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("acme", "Acme"),
        ("acme", "аcme"),  # a Cyrillic а
        ("acme", "ａｃｍｅ"),
        ("acme", "acrne"),
        ("acme", "ac\u200bme"),
        ("acme-corp", "acme‑corp"),
        ("bluepeak-foods", "bluepeak-f00ds"),
        ("bluepeak", "b1uepeak"),
        ("bluepeak", "bIuepeak"),
        ("jose@x.example", "josé@x.example"),
    ],
)
def test_what_looks_alike_is_found(one: str, other: str) -> None:
    assert not skeletons(one).isdisjoint(skeletons(other))
    assert list(look_alikes(other, [("zebra", 1), (one, 2)])) == [2]


@pytest.mark.parametrize(
    ("one", "other"),
    [("acme", "acne"), ("acme-corp", "acmecorp"), ("halden", "haldem"), ("a", "b"), ("acme-2", "acme-3")],
)
def test_what_can_be_told_apart_is_let_alone(one: str, other: str) -> None:
    assert skeletons(one).isdisjoint(skeletons(other))


@given(st.text(max_size=40))
def test_everything_looks_like_itself_in_any_case(text: str) -> None:
    assert skeletons(text)
    assert not skeletons(text).isdisjoint(skeletons(text.casefold()))


@given(st.from_regex(SLUG, fullmatch=True))
def test_a_slug_that_is_accepted_is_one_for_the_platform(slug: str) -> None:
    try:
        request = asked(slug=slug)
    except InvalidInput:
        assert re.fullmatch(r"[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}", slug)
    else:
        assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", request.slug, re.ASCII)


@pytest.mark.parametrize(
    "address", ["a@b.example", "jo.q+vcci@sub.acme.example", "o'neil@acme.example", "x" * 64 + "@acme.example"]
)
def test_addresses_are_accepted(address: str) -> None:
    assert mail({"m": address}, "m") == address


@pytest.mark.parametrize(
    "address",
    [
        *("", "jo", "jo@", "@acme.example", "jo@acme", "jo@@acme.example", "jo@acme..example", ".jo@acme.example"),
        *(
            "jo.@acme.example",
            "j..o@acme.example",
            "jo@-acme.example",
            "jo@acme.example\n",
            "jo@acme.example\r\nBcc: x",
        ),
        *(" jo@acme.example", "jo@acme.example ", '"jo doe"@acme.example', "jo@[127.0.0.1]", "jö@acme.example"),
        *(
            "jo@аcme.example",
            "x" * 65 + "@acme.example",
            "a" * 300,
            "jo@acme.example,x@y.example",
            None,
            3,
            ["a@b.example"],
        ),
    ],
)
def test_other_addresses_are_refused_and_not_shown(address: Any) -> None:
    with pytest.raises(InvalidInput) as refusal:
        asked(admin_email=address)
    if isinstance(address, str) and address:
        assert address not in str(refusal.value)
        assert f"({len(address)} characters)" in str(refusal.value)
    assert repr(Hidden(address)) in str(refusal.value)


def test_a_request_shows_no_person_and_is_the_same_however_it_is_to_run() -> None:
    request = asked()
    assert "Jo" not in repr(request)
    assert "acme.example" not in repr(request)
    assert "Jo" not in str(request)
    assert request.digest == asked(dry_run=False, welcome_again=True, if_locked="refuse").digest
    assert request.digest == asked(admin_email="jo.doe@ACME.example").digest
    others = [{"name": "X Corp"}, {"tier": "starter"}, {"admin_email": "a@b.example"}, {"admin_name": "Bo"}]
    assert len({request.digest, *(asked(**other).digest for other in others)}) == len(others) + 1


def test_names_are_composed_and_trimmed() -> None:
    assert asked(name="  So\u0308hne AG ").name == "Söhne AG"


def test_no_value_is_taken_for_an_option() -> None:
    given = arguments("admin", asked(admin_email="-x@acme.example", admin_name="--help me"))
    assert given == ("--tenant-slug=acme-corp", "--email=-x@acme.example", "--name=--help me")
    assert arguments("welcome", asked()) == ("--tenant-slug=acme-corp",)
    assert arguments("welcome", asked(welcome_again=True))[-1] == "--again"


def test_personal_data_is_hidden_wherever_it_stands() -> None:
    said = hide("invited JO DOE <jo.doe@acme.example>, cc: bo@y.example; id 7", asked().private)
    assert said == "invited *** <***>, cc: ***; id 7"


def row(**more: Any) -> TenantRow:
    settings = {"emission_factors": "ecoinvent", "reporting_standard": "ghg-protocol", "other": 1}
    given = {"id": "1", "slug": "acme-corp", "name": "ACME Corp", "tier": "enterprise", "status": "active"}
    return TenantRow(**{**given, "settings": settings, "suspended_at": None, **more})


ADMIN = {"role": "admin", "status": "invited", "name": "Jo Doe"}


def test_what_is_as_asked_is_ok() -> None:
    assert all(item.ok for item in items(asked(), row(), ADMIN, "sent"))
    assert all(item.ok for item in items(asked(), row(), {**ADMIN, "status": "active"}, "sent"))


@pytest.mark.parametrize(
    ("found", "admin", "welcome", "words"),
    [
        (None, None, "", "tenant: is not there"),
        (row(tier="starter"), ADMIN, "sent", "tenant: tier is starter, not enterprise"),
        (row(status="suspended"), ADMIN, "sent", "tenant: status is suspended, not active"),
        (row(settings={}), ADMIN, "sent", "configuration: emission_factors is None, not ecoinvent"),
        (row(), None, "sent", "administrator: nobody has the address"),
        (row(), {**ADMIN, "role": "viewer"}, "sent", "administrator: the role is viewer, not admin"),
        (row(), {**ADMIN, "status": "inactive"}, "sent", "administrator: the status is inactive"),
        (row(), {**ADMIN, "name": "Bo"}, "sent", "administrator: the name is another one"),
        (row(), ADMIN, "", "welcome mail: not sent"),
        (row(), ADMIN, "failed", r"welcome mail: not sent \(failed\)"),
        (row(), ADMIN, "sending", "welcome mail: it may have been sent, and may not"),
    ],
)
def test_what_is_not_is_said_without_the_person(found: Any, admin: Any, welcome: str, words: str) -> None:
    wrong = [str(item) for item in items(asked(), found, admin, welcome) if not item.ok]
    assert len(wrong) == 1
    assert re.match(words, wrong[0])
    assert "Jo" not in wrong[0]


def test_only_what_an_onboarding_makes_can_be_undone() -> None:
    made = {"tenants": 1, "users": 1, "audit_log": 3, "suppliers": 0}
    assert in_the_way(made, ADMIN, 0) == []
    assert in_the_way({"tenants": 1}, None, 0) == []
    assert in_the_way({**made, "suppliers": 2, "other.invoices": 1}, ADMIN, 4) == [
        "2 rows in suppliers",
        "1 rows in other.invoices",
        "4 documents",
    ]
    assert in_the_way({**made, "users": 2}, ADMIN, 0) == ["2 users"]
    assert in_the_way(made, {**ADMIN, "status": "active"}, 0)
    assert in_the_way(made, None, 0)


def test_the_undo_plan_is_shown_whole_and_harmless() -> None:
    plan = undo_plan(
        row(name="A*B|C`<x>"), {"tenants": 1, "users": 1, "audit_log": 2}, "sent", "tenant_onboard/r1", "bo"
    )
    text = undo_markdown(plan)
    assert "| users | 1 | removed |" in text
    assert "| audit_log | 2 | kept |" in text
    assert "A\\*B\\|C\\`\\<x\\>" in text


def suspension(**more: Any) -> dict[str, Any]:
    given = {"slug": "acme-corp", "action": "suspend", "reason": "unpaid invoices", "until": None}
    return {**given, "tell_owner": False, "dry_run": False, "if_locked": "refuse", **more}


def test_a_suspension_is_read_whole() -> None:
    request = SuspendRequest.of(suspension(until="2026-12-01T18:00:00+01:00"), NOW, 90 * 86400)
    assert request.until == dt.datetime(2026, 12, 1, 17, 0, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"slug": "acme-corp\n"}, "slug"),
        ({"slug": "6f0f4f0e-3a51-4d5e-9d0b-5c0f6f1d2a11"}, "slug"),
        ({"slug": "6f0f4f0e3a514d5e9d0b5c0f6f1d2a11"}, "slug"),
        ({"action": "Suspend"}, "action"),
        ({"until": "2026-11-24T08:59:59Z"}, "until"),
        ({"until": "2027-11-24T09:00:00Z"}, "until"),
        ({"until": "2026-12-24"}, "until"),
        ({"action": "reactivate", "until": "2026-12-01T18:00:00Z"}, "until"),
        ({"tell_owner": "yes"}, "tell_owner"),
        ({"if_locked": "break"}, "if_locked"),
    ],
)
def test_a_suspension_that_cannot_be_is_refused(changed: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        SuspendRequest.of(suspension(**changed), NOW, 90 * 86400)
    assert refusal.value.field == field
