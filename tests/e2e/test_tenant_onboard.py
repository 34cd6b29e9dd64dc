"""A tenant is onboarded and suspended on a whole Airflow: broken off and gone on with, mailed once, until a time."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from typing import Any

import pytest

from sandbox.platform import data
from sandbox.services import postgres
from sandbox.services.prometheus import query
from tests.e2e.release_fixtures import Killer, Released, Run

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(200)]
CUSTOMER = data.TENANTS[2]
SLUG, MAIL, PERSON = "solvang-foods", "jo.doe-4c1d@solvang.example", "Jo Q. Doe-Sandström"
FORM = {
    "name": "Solvang Foods & Söhne",
    "slug": SLUG,
    "tier": "professional",
    "admin_email": MAIL,
    "admin_name": PERSON,
    "emission_factors": "defra",
    "reporting_standard": "esrs-e1",
    "dry_run": False,
}


class Onboarded(Released):
    """The platform with its tenants."""

    def ask(self, statement: str, *given: Any) -> list[tuple[Any, ...]]:
        with postgres.admin(self.sandbox, postgres.Production(), postgres.PRODUCTION) as connection:
            found = connection.execute(statement.encode(), given)
            return list(found.fetchall()) if found.description else []

    def mails(self, to: str) -> list[dict[str, Any]]:
        found = self.platform.inbox("mail")
        return [m for m in (found if isinstance(found, list) else found["mails"]) if to in m["envelope_to"]]

    def page(self, run: Run) -> str:
        """The run's page, as a person who is logged in reads it."""
        shown = self.requester.raw(f"/vcci-ops/reports/{run.dag_id}/{run.run_id}")
        assert shown.status_code == 200
        return str(shown.text)

    def metric(self, slug: str) -> str:
        """The status that Prometheus knows of a tenant."""
        found = query(self.sandbox, f'vcci_tenant_info{{slug="{slug}"}}')
        return str(found[0]["metric"]["status"]) if found else ""


@pytest.fixture
def tenants(healthy: Any) -> Iterator[Onboarded]:
    tenants = Onboarded(healthy)
    sessions = tenants.ask("SELECT * FROM sessions WHERE tenant_id = %s", CUSTOMER.id)
    yield tenants
    for session in sessions:
        values = ", ".join(["%s"] * len(session))
        tenants.ask(f"INSERT INTO sessions VALUES ({values}) ON CONFLICT DO NOTHING", *session)
    tenants.ask("DELETE FROM audit_log WHERE tenant_id IN (SELECT id FROM tenants WHERE slug = %s)", SLUG)
    tenants.ask("DELETE FROM users WHERE tenant_id IN (SELECT id FROM tenants WHERE slug = %s)", SLUG)
    tenants.ask("DELETE FROM tenants WHERE slug = %s", SLUG)


def test_an_onboarding_that_broke_off_is_gone_on_with_and_welcomes_once(tenants: Onboarded) -> None:
    broken = broken_off(tenants)
    run = tenants.run("tenant_onboard", FORM)
    with Killer(tenants, run, ("create", "admin")) as killer:
        assert run.ended(150) == "success", run.tasks
    assert killer.killed == {"create", "admin"}, "each was killed once"
    assert f"tenant_onboard/{broken.run_id} began this onboarding (failed)" in run.log("plan")
    ((id_, status, settings),) = tenants.ask("SELECT id::text, status, settings FROM tenants WHERE slug = %s", SLUG)
    assert (status, settings) == ("active", {"emission_factors": "defra", "reporting_standard": "esrs-e1"})
    admins = tenants.ask("SELECT email, name, role, status FROM users WHERE tenant_id = %s", id_)
    assert admins == [(MAIL, PERSON, "admin", "invited")]
    (mail,) = tenants.mails(MAIL)
    assert mail["message_id"] == f"<welcome.{id_}@vcci.greenlang.io>"
    assert tenants.metric(SLUG) == "active"
    assert tenants.lock_holder() == ""
    told(tenants, broken, run)


def broken_off(tenants: Onboarded) -> Run:
    """A run whose lock was taken from it after the tenant was created: it stops, and offers to undo."""
    run = tenants.run("tenant_onboard", FORM)
    run.until_task("create", "success")
    tenants.kubectl("delete", "lease", "vcci-ops-change")
    run.until_task("report", "failed", seconds=90)
    run.answer("Reject", task_id="undo.approve", comment="we go on with it")
    assert run.ended(60) == "failed"
    assert run.tasks["undo.remove"] in ("upstream_failed", "skipped")
    return run


def told(tenants: Onboarded, broken: Run, run: Run) -> None:
    """Page, thread and history tell of the tenant; nothing anywhere tells who its administrator is."""
    page, slack = tenants.page(run), json.dumps(run.thread(), ensure_ascii=False)
    assert "Onboarding of Solvang Foods" in page
    assert "Prometheus has its series" in page
    assert "is onboarded, asked for by admin" in slack
    assert "is NOT onboarded" in json.dumps(broken.thread(), ensure_ascii=False)
    assert tenants.history("SELECT state, source FROM tenant_onboarding WHERE slug = %s", SLUG) == [
        ("done", f"tenant_onboard/{run.run_id}")
    ]
    logs = "".join(one.log(task) for one in (broken, run) for task in one.tasks)
    left = json.dumps([run.xcom("create"), run.xcom("report")])
    for place in (page, slack, logs, left, tenants.kubectl("get", "jobs", "-o", "yaml")):
        assert MAIL not in place
        assert "Sandström" not in place
        assert json.dumps("Sandström")[1:-1] not in place


def test_suspended_until_a_time_nobody_gets_in_and_then_everybody_does(tenants: Onboarded) -> None:
    slug, id_ = CUSTOMER.slug, CUSTOMER.id
    ends = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=35)
    form = {"slug": slug, "action": "suspend", "reason": "invoices unpaid since June", "tell_owner": True}
    run = tenants.run("tenant_suspend", {**form, "until": ends.isoformat(timespec="seconds"), "dry_run": False})
    run.until_task("report", "success")
    run.until_task("ends.until", "deferred")
    assert tenants.ask("SELECT status FROM tenants WHERE id = %s", id_) == [("suspended",)]
    assert tenants.ask("SELECT count(*) FROM sessions WHERE tenant_id = %s", id_) == [(0,)]
    assert tenants.lock_holder() == "", "nothing is barred while it waits for its end time"
    (owner,) = tenants.ask(
        "SELECT email FROM users WHERE tenant_id = %s AND role = 'admin' AND NOT is_service_account", id_
    )
    assert [mail["subject"].partition(": ")[2] for mail in tenants.mails(owner[0])] == ["access to VCCI is suspended"]
    assert "Suspension of" in tenants.page(run)
    assert run.ended(120) == "success", run.tasks
    assert dt.datetime.now(dt.UTC) >= ends
    assert tenants.ask("SELECT status FROM tenants WHERE id = %s", id_) == [("active",)]
    assert len(tenants.mails(owner[0])) == 2
    page, slack = tenants.page(run), json.dumps(run.thread(), ensure_ascii=False)
    assert "reactivated at the end time" in page
    assert f"{slug}: reactivated at the end time" in slack
    said = "".join(run.log(task) for task in run.tasks) + page + slack
    assert owner[0] not in said
    assert tenants.history("SELECT ended_by FROM tenant_suspension WHERE slug = %s", slug) == [("its end time",)]
