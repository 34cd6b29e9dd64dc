"""What a deletion asks for, plans, compares and says."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from vcci_ops.domain import tenant_deletion as domain
from vcci_ops.domain import tenant_deletion_text as text
from vcci_ops.domain.tenant_deletion import DeletionRequest
from vcci_ops.domain.tenant_graph import Graph, Link, Place
from vcci_ops.exceptions import InvalidInput, Refused
from vcci_ops.settings import load_settings

FORM = {
    "slug": "acme-gmbh",
    "reason": " contract ended\n",
    "grace_days": 30,
    "legal_basis": "end of contract",
    "dry_run": False,
}
TENANT = {"id": "6f0f4f0e-3a51-4d5e-9d0b-5c0f6f1d2a11", "slug": "acme-gmbh", "name": "Ac|me <b> GmbH"}


def request_of(**changed: Any) -> DeletionRequest:
    return DeletionRequest.of({**FORM, **changed}, load_settings().tenants.erasure)


def graph(**rows: int) -> dict[str, Any]:
    places = tuple(
        Place("public", table, ("tenant_id names the tenant",), number, number * 100, withheld=("token_hash",))
        for table, number in rows.items()
    )
    kept = (Place("public", "invoices", rows=2),)
    links = (
        Link("audit_user", "public.audit", ("user_id",), "public.users", ("id",), "set null", owns=False, clears=3),
    )
    return Graph("public.tenants", "id", places, kept=kept, links=links, warnings=("slow: no index",)).to_dict()


def plan(**changed: Any) -> dict[str, Any]:
    documents = {"bucket": "vcci-documents", "prefix": "tenants/6f/", "count": 2, "bytes": 2048}
    made = domain.deletion_plan(
        request_of(),
        TENANT,
        graph(users=3, sessions=0, tenants=1),
        documents,
        {"db 1 cache:tenant:6f:*": 4},
        environment="test",
        requested_by="ines",
        warnings=["this takes the place of another"],
    )
    return {**made, **changed}


def test_the_form_is_read_whole() -> None:
    assert request_of() == DeletionRequest("acme-gmbh", "contract ended", 30, "end of contract", False)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("slug", TENANT["id"], "not of the form of an id"),
        ("slug", TENANT["id"].upper(), "slug"),
        ("slug", "acme\n", "slug"),
        ("slug", "acme'; DROP TABLE tenants; --", "slug"),
        ("slug", None, "slug"),
        ("reason", "no", "reason"),
        ("reason", ["a"], "reason"),
        ("grace_days", -1, "whole days"),
        ("grace_days", 3651, "whole days"),
        ("grace_days", True, "whole days"),
        ("grace_days", "30", "whole days"),
        ("grace_days", 1.5, "whole days"),
        ("legal_basis", "because", "one of"),
        ("dry_run", "false", "true or false"),
        ("dry_run", None, "true or false"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(field: str, value: Any, words: str) -> None:
    with pytest.raises(InvalidInput, match=words) as refused:
        request_of(**{field: value})
    assert refused.value.field == field


def test_slugs_that_were_meant_are_found() -> None:
    others = ["acme-gmbh", "acme-ag", "umbrella", "globex"]
    assert domain.near("acme-gmhb", others)[0] == "acme-gmbh"
    assert domain.near("globe", others) == ["globex"]
    assert domain.near("zzzzzzzzzz", others) == []


def test_the_approver_reads_what_goes_in_order_what_stays_and_what_is_no_html() -> None:
    body = domain.plan_markdown(plan())
    assert "# Delete **Ac\\|me &lt;b> GmbH** (`acme-gmbh`) on *test*" in body
    assert "### 4 rows in 2 tables, in this order" in body
    assert body.index("| `public.users` | 3 | 300 B |") < body.index("| `public.tenants` | 1 |")
    assert "Nothing of this tenant in: `public.sessions`." in body
    assert "- `public.invoices`: 2 rows" in body
    assert "- `public.audit` (audit_user): 3" in body
    assert "Deleted, but not exported, for they are secrets: `token_hash`." in body
    assert "- 2 documents (2.05 kB) below `s3://vcci-documents/tenants/6f/`" in body
    assert "- 4 cached keys `db 1 cache:tenant:6f:*`" in body
    assert "this takes the place of another" in body
    assert "slow: no index" in body
    assert "Deleted 30 days after the export" in body
    assert "no grace" in domain.plan_markdown(plan(grace_days=0))


def counted(documents: int = 2, **tables: tuple[int, str]) -> dict[str, Any]:
    rows = {table: number for table, (number, _) in tables.items()}
    sums = {table: checksum for table, (_, checksum) in tables.items()}
    return domain.baseline(rows, sums, {"count": documents, "bytes": documents * 10, "versions": documents})


def test_what_did_not_move_is_no_drift() -> None:
    assert domain.drift(counted(users=(3, "a")), counted(users=(3, "a"))) == []
    assert domain.drift(counted(users=(3, "a")), counted(users=(3, "a"), new=(0, ""))) == [], "empty: nothing of it"


@pytest.mark.parametrize(
    ("now", "words"),
    [
        (counted(users=(4, "b")), "users: 3 rows exported, 4 rows now"),
        (counted(users=(1, "b")), "users: 3 rows exported, 1 row now"),
        (counted(users=(3, "b")), "users: rows were changed since the export"),
        (counted(), "users: is no longer there"),
        (counted(users=(3, "a"), notes=(1, "c")), "notes: was not there"),
        (counted(documents=3, users=(3, "a")), "documents: 2 (20 B) exported, 3 (30 B) now"),
    ],
)
def test_whatever_moved_is_drift(now: dict[str, Any], words: str) -> None:
    assert domain.drift(counted(users=(3, "a")), now) == [words]


def test_rows_may_come_and_go_until_the_tenant_is_suspended_but_no_table() -> None:
    assert domain.moved_since_plan(graph(users=3), graph(users=5)) == [
        "public.users: 3 rows planned, 5 rows at the export"
    ]
    with pytest.raises(Refused, match=r"public\.notes is new"):
        domain.moved_since_plan(graph(users=3), graph(users=3, notes=1))
    with pytest.raises(Refused, match=r"public\.users is gone"):
        domain.moved_since_plan(graph(users=3), graph(notes=0))


def test_an_export_that_misses_a_row_is_not_proven() -> None:
    before = counted(users=(3, "a"), tenants=(1, "b"))
    assert domain.not_exported(before, {"tables": {"users": {"rows": 3}, "tenants": {"rows": 1}}}) == []
    assert domain.not_exported(before, {"tables": {"users": {"rows": 2}}}) == [
        "users: 3 rows counted, 2 rows exported",
        "tenants: 1 row counted, 0 rows exported",
    ]


def test_what_is_left_is_named() -> None:
    assert domain.leftovers({"users": 0}, 0, {"db 1 x": 0}) == []
    assert domain.leftovers({"users": 1}, 2, {"db 1 x": 3}) == [
        "1 row in users",
        "2 versions of documents, or parts of them",
        "3 cached keys db 1 x",
    ]


def test_slack_reads_no_mention_and_says_that_nothing_is_deleted_yet() -> None:
    evil = plan(reason="<!channel> now", tenant={**TENANT, "name": "<!here>"})
    said = text.headline("grace", evil, note=text.in_grace(dt.datetime(2026, 12, 1, tzinfo=dt.UTC), 30, "s3://b/f/"))
    assert "<!" not in said
    assert "NOT deleted yet" in said
    assert "This run deletes nothing: tenant_purge_due does, after 2026-12-01 00:00 UTC" in said
    asked = text.approval_asked(evil, "https://airflow/answer", 172800, 2)
    assert "<!" not in asked
    assert "*2 people* have to approve" in asked
    assert "with its next run" in text.in_grace(dt.datetime(2026, 12, 1, tzinfo=dt.UTC), 0, "s3://b/f/")


def test_the_page_says_whether_rows_are_gone() -> None:
    subject, words = text.page("acme", "drift", "http://run", begun=False)
    assert "before anything was deleted" in subject
    assert "tenant_delete again" in words
    subject, words = text.page("acme", "left", "http://run", begun=True)
    assert "half-way" in subject
    assert "tenant_purge_due with the slug" in words


def test_a_purge_tells_each_tenant() -> None:
    said = text.purged([("a", "deleted", "certificate c"), ("b", "stopped", "users: 1 row")])
    assert "1 of 2 due tenants deleted" in said
    assert "`b` STOPPED: a person has to look: users: 1 row" in said
