"""Onboarding and suspending tenants: real PostgreSQL, Redis, Prometheus, mail; Jobs that run; the shipped rights."""

from __future__ import annotations

import datetime as dt
import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from aiosmtpd.controller import Controller
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from sandbox.platform import data
from sandbox.services import postgres, redis, s3
from sandbox.services.kube import NAMESPACE
from sandbox.state import ROOT
from tests.integration.kube_fixtures import until
from tests.integration.onboard_fixtures import Platform, Run, history_text
from vcci_ops.domain.plans import plan_hash
from vcci_ops.hooks.history import History, upgrade
from vcci_ops.hooks.lease import ChangeLock
from vcci_ops.hooks.tenant_admin import TenantAdmin
from vcci_ops.hooks.tenant_history import Onboardings
from vcci_ops.hooks.tenants import Deletions
from vcci_ops.operators import tenant_onboard, tenant_suspend, tenant_undo

pytestmark = [pytest.mark.kube, pytest.mark.integration]
MAIL, PERSON = "jo.doe-7f3a@acme.example", "Jo Q. Doe-Sandström"
VICTIM, OTHER = data.TENANTS[0], data.TENANTS[1]
STEPS = ("admin", "configure", "welcome")


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    platform = Platform(tmp_path_factory.mktemp("tenants"))
    before = os.environ.get("VCCI_SANDBOX_HOME")
    os.environ["VCCI_SANDBOX_HOME"] = str(platform.sandbox.folder)
    try:
        platform.start()
        yield platform
    finally:
        platform.stop()
        if before is None:
            del os.environ["VCCI_SANDBOX_HOME"]
        else:
            os.environ["VCCI_SANDBOX_HOME"] = before


@pytest.fixture(scope="module")
def given(started: Platform) -> dict[str, str]:
    return {f"AIRFLOW_CONN_{id_.upper()}": json.dumps(c) for id_, c in started.connections().items()}


@pytest.fixture
def platform(started: Platform, given: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Platform]:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    upgrade()
    yield started
    held = ChangeLock(NAMESPACE).current()
    if held and held.holder:
        ChangeLock(NAMESPACE).release(held.holder)


# Onboarding -------------------------------------------------------------------------------------------


def form(slug: str = "", **more: Any) -> dict[str, Any]:
    slug = slug or f"acme-{uuid.uuid4().hex[:6]}"
    asked = {
        "name": "ACME <Corp> & Söhne",
        "slug": slug,
        "tier": "enterprise",
        "admin_email": f"{slug}.{MAIL}",
        "admin_name": PERSON,
        "emission_factors": "defra",
        "reporting_standard": "esrs-e1",
        "welcome_again": False,
        "if_locked": "refuse",
        "dry_run": False,
    }
    return {**asked, **more}


class Onboarding(Run):
    """A run of tenant_onboard, as its file wires it."""

    def __init__(self, params: dict[str, Any]) -> None:
        super().__init__("tenant_onboard", params)

    def plan(self) -> Any:
        return self.do(tenant_onboard.OnboardPlanOperator, "plan")

    def create(self) -> Any:
        return self.do(tenant_onboard.CreateTenantOperator, "create")

    def job(self, step: str) -> Any:
        return self.do(tenant_onboard.TenantJobOperator, step, step=step, poll=0.2)

    def verify(self) -> Any:
        return self.do(tenant_onboard.VerifyTenantOperator, "verify")

    def monitored(self) -> Any:
        return self.do(tenant_onboard.TenantMonitoredOperator, "monitored", poll=0.3)

    def report(self) -> Any:
        return self.do(tenant_onboard.OnboardReportOperator, "report")

    def until(self, last: str) -> Any:
        """Run all tasks up to one."""
        for step in ("plan", "lock", "create", *STEPS, "verify", "monitored"):
            outcome = self.job(step) if step in STEPS else getattr(self, step)()
            if step == last:
                return outcome
        self.unlock()
        return self.report()

    def all(self) -> Any:
        return self.until("report")

    def undo_plan(self) -> Any:
        return self.do(tenant_undo.UndoPlanOperator, "undo.plan")

    def undo(self) -> Any:
        """Approve what was planned, and remove it."""
        self.xcom["undo.approve", "approval"] = {
            "approved": True,
            "plan_hash": plan_hash(self.xcom["undo.plan", "return_value"]),
        }
        self.lock("undo.lock")
        kind = tenant_undo.UndoRemoveOperator
        try:
            return self.do(kind, "undo.remove", plan_task_id="undo.plan", approval_task_id="undo.approve")
        finally:
            self.unlock()


def tenant(platform: Platform, slug: str) -> list[tuple[Any, ...]]:
    query = "SELECT id::text, name, subscription_tier, status, settings FROM tenants WHERE slug = %s"
    return platform.rows(query, slug)


def people(platform: Platform, slug: str) -> list[tuple[Any, ...]]:
    query = (
        "SELECT u.email, u.name, u.role, u.status, u.password_hash FROM users u JOIN tenants t ON t.id = u.tenant_id "
        "WHERE t.slug = %s"
    )
    return platform.rows(query, slug)


def state(platform: Platform, slug: str) -> str:
    found = Onboardings("sandbox").find(slug)
    return found.state if found else ""


def test_a_tenant_is_onboarded_and_nobody_reads_who_its_administrator_is(
    platform: Platform, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Onboarding(form())
    slug, name, email = (run.params[key] for key in ("slug", "name", "admin_email"))
    rows = run.all()
    ((id_, *row),) = tenant(platform, slug)
    assert row == [name, "enterprise", "active", {"emission_factors": "defra", "reporting_standard": "esrs-e1"}]
    assert people(platform, slug) == [(email, PERSON, "admin", "invited", None)]
    (mail,) = platform.mails(email)
    assert mail["message_id"] == f"<welcome.{id_}@vcci.greenlang.io>"
    assert dict(rows)["monitoring"] == "Prometheus has its series"
    assert state(platform, slug) == "done"
    assert ChangeLock(NAMESPACE).current().holder == ""
    slack = platform.said("slack")
    assert f"*ACME &lt;Corp&gt; &amp; Söhne* (`{slug}`, enterprise) is onboarded" in slack
    # The Job whose arguments name the administrator is gone; the others are kept.
    jobs = platform.plane.kubectl("get", "jobs", "-n", NAMESPACE, "-o", "yaml")
    logged, page = capsys.readouterr().out, platform.page(run)
    assert "Job vcci-tenant-admin-" in logged
    assert "Onboarding of ACME &lt;Corp&gt; &amp; Söhne" in page
    for place in (jobs, logged, slack, page, json.dumps([*run.xcom.values()]), history_text()):
        for secret in (email, MAIL, PERSON, "Sandström"):
            assert secret not in place
            assert json.dumps(secret)[1:-1] not in place
    # A second run with the same form finds everything, and sends no second mail.
    again = Onboarding({**run.params})
    again.all()
    assert [row[0] for row in tenant(platform, slug)] == [id_]
    assert len(people(platform, slug)) == len(platform.mails(email)) == 1


def test_a_run_that_dies_between_any_two_steps_is_gone_on_with_by_the_next(platform: Platform) -> None:
    asked = form()
    # Died after it was recorded, before the tenant was created: nothing is there, the next one begins anew.
    Onboardings("sandbox").begin(asked["slug"], str(uuid.uuid4()), "0" * 64, "tenant_onboard/dead", anew=True)
    ids = set()
    for last in ("create", *STEPS, "verify", "report"):
        run = Onboarding({**asked})
        run.until(last)
        run.unlock()
        ids |= {row[0] for row in tenant(platform, asked["slug"])}
    assert len(ids) == 1
    assert len(people(platform, asked["slug"])) == 1
    assert len(platform.mails(asked["admin_email"])) == 1
    assert state(platform, asked["slug"]) == "done"


def test_a_slug_whose_deletion_has_not_come_to_its_end_is_not_given_anew(platform: Platform) -> None:
    run, deletions, gone = Onboarding(form()), Deletions("sandbox"), str(uuid.uuid4())
    plan = {
        "tenant": {"id": gone, "slug": run.params["slug"], "name": "Gone"},
        **{"reason": "end of contract", "legal_basis": "end of contract", "requested_by": "bo"},
    }
    now = dt.datetime.now(dt.UTC)
    deletions.begin("tenant_delete/half", plan, "abc", {"by": ["ada", "eve"], "at": now.isoformat()})
    deletions.await_end_of_grace("tenant_delete/half", {}, now)
    deletions.take("tenant_delete/half", now)
    deletions.mark_begun("tenant_delete/half", {})
    deletions.stop("tenant_delete/half", "documents are left")
    with pytest.raises(AirflowFailException, match=r"slug: the deletion of .* \(stopped\).* has not come to its end"):
        run.plan()
    assert tenant(platform, run.params["slug"]) == []
    for go_on in (lambda id_: deletions.take(id_, now), deletions.prove, lambda id_: deletions.finish(id_, {})):
        go_on("tenant_delete/half")
    run.plan()


def test_a_killed_task_finds_what_it_did(platform: Platform) -> None:
    run = Onboarding(form())
    run.until("create")
    first = run.xcom["create", "return_value"]
    run.xcom.pop(("create", "return_value"))
    assert run.create() == {**first, "created": False}
    # Killed after the row was written, before anything else was.
    platform.rows("DELETE FROM tenants WHERE slug = %s RETURNING 1", run.params["slug"])
    assert run.create() == {**first, "created": True}
    run.unlock()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"slug": VICTIM.slug}, rf"slug: {VICTIM.slug} is that of {VICTIM.name} \({VICTIM.slug}, active\)"),
        ({"slug": "Nordwind-Manufacturing"}, f"cannot be told apart from the slug of {VICTIM.name}"),
        ({"slug": "nordwind-rnanufacturing"}, f"cannot be told apart from the slug of {VICTIM.name}"),
        ({"slug": "nоrdwind-manufacturing"}, f"cannot be told apart from the slug of {VICTIM.name}"),  # a Cyrillic о
        ({"slug": "bluepeak-f00ds"}, f"cannot be told apart from the slug of {OTHER.name}"),
        ({"slug": VICTIM.id}, "slug: .* is not accepted; expected 1 to 63 characters"),
        ({"slug": "acme\n"}, "slug: .* is not accepted"),
        ({"slug": "'; DROP TABLE tenants; --"}, "slug: .* is not accepted"),
        ({"slug": "a" * 2**20}, r"slug: .*characters\) is not accepted"),
        ({"name": "A" * 2**20}, r"name: .*characters\) is not accepted"),
        ({"name": "ACME\u202eproC"}, "name: .* is not accepted"),
        ({"tier": "platinum"}, "tier: 'platinum' is not accepted; expected one of starter, professional, enterprise"),
        ({"emission_factors": "--tenant-slug=other"}, "emission_factors: .* is not accepted"),
        ({"reporting_standard": None}, "reporting_standard: None is not accepted"),
        ({"admin_name": "Jo\nBcc: everybody"}, r"admin_name: what was given \(17 characters\) is not accepted"),
        ({"admin_email": "jo@acme.example\nBcc: x@y.example"}, r"admin_email: what was given \(\d+ characters\)"),
        ({"admin_email": "jo@acme.example" * 70000}, r"admin_email: what was given \(1050000 characters\)"),
        ({"admin_email": "--name=x"}, r"admin_email: what was given \(8 characters\)"),
        ({"dry_run": "false"}, "dry_run: 'false' is not accepted"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name_before_anything_changes(
    platform: Platform, changed: dict[str, Any], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = platform.rows("SELECT count(*) FROM tenants")
    with pytest.raises(AirflowFailException, match=words):
        Onboarding(form(**changed)).plan()
    assert platform.rows("SELECT count(*) FROM tenants") == before
    assert "Bcc" not in capsys.readouterr().out


def test_an_address_in_use_or_like_one_is_refused_without_being_shown(
    platform: Platform, capsys: pytest.CaptureFixture[str]
) -> None:
    ((email,),) = platform.rows("SELECT email FROM users WHERE tenant_id = %s ORDER BY id LIMIT 1", VICTIM.id)
    alike = (email, email.upper(), email.replace("a", "а"), email.replace("o", "0"), email.replace("m", "rn"))
    for given in dict.fromkeys(alike):
        with pytest.raises(AirflowFailException) as refusal:
            Onboarding(form(admin_email=given)).plan()
        assert f"by a user of {VICTIM.name} ({VICTIM.slug})" in str(refusal.value), given
        assert given not in str(refusal.value)
    said = capsys.readouterr().out
    assert not any(given in said for given in alike)


def test_the_same_slug_for_another_form_is_refused(platform: Platform) -> None:
    run = Onboarding(form())
    run.until("create")
    run.unlock()
    for key, value in {"tier": "starter", "admin_email": "x@y.example", "name": "Another Corp"}.items():
        with pytest.raises(AirflowFailException, match=f"{run.params['slug']} is that of .*{run.source} onboarded"):
            Onboarding({**run.params, key: value}).plan()


def test_a_dry_run_and_a_run_without_the_lock_change_nothing(
    platform: Platform, capsys: pytest.CaptureFixture[str]
) -> None:
    dry = Onboarding(form(dry_run=True))
    assert dry.plan() == "skipped the rest"
    assert "Plan: create the tenant ACME" in capsys.readouterr().out
    with pytest.raises(AirflowSkipException):
        dry.report()
    dry.lock()
    with pytest.raises(AirflowFailException, match="this is a dry run"):
        dry.create()
    dry.unlock()
    run = Onboarding(form())
    run.plan()
    with pytest.raises(AirflowFailException, match="does not hold the change lock"):
        run.create()
    with pytest.raises(AirflowFailException, match="nothing was changed"):
        run.report()
    assert not tenant(platform, dry.params["slug"])
    assert not tenant(platform, run.params["slug"])


# The welcome mail -------------------------------------------------------------------------------------


class Cut:
    """A mail server behind whose 250 the sender dies: what it wanted to note then waits for a lock that we hold."""

    def __init__(self, platform: Platform) -> None:
        self.platform, self.taken = platform, 0
        self.lock: psycopg.Connection[Any] | None = None

    async def handle_DATA(self, *_: Any) -> str:
        box = self.platform.sandbox
        parameters = postgres.parameters(box, "postgres-direct", "vcci_app", postgres.PRODUCTION)
        self.lock = psycopg.connect(**parameters)
        self.lock.execute("LOCK TABLE audit_log IN ACCESS EXCLUSIVE MODE")
        self.taken += 1
        return "250 taken"


def script(platform: Platform, slug: str) -> subprocess.Popen[bytes]:
    url = postgres.url(platform.sandbox, "postgres-direct", "vcci_app", postgres.PRODUCTION)
    env = {**os.environ, "DATABASE_URL": url, "SMTP_HOST": "127.0.0.1", "SMTP_PORT": str(platform.sandbox.port("cut"))}
    argv = [sys.executable, "scripts/send_welcome_email.py", f"--tenant-slug={slug}"]
    cwd = ROOT / "sandbox" / "platform"
    return subprocess.Popen(argv, cwd=cwd, env={**env, "SMTP_STARTTLS": "false"}, stdout=-1, stderr=-1)


def test_a_mail_whose_sender_died_in_the_gap_is_not_sent_again_by_itself(platform: Platform) -> None:
    run = Onboarding(form())
    run.until("configure")
    slug, email = run.params["slug"], run.params["admin_email"]
    cut = Cut(platform)
    server = Controller(cut, hostname="127.0.0.1", port=platform.sandbox.port("cut"))
    server.start()
    try:
        sender = script(platform, slug)
        until("the mail was taken", lambda: cut.taken)
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        until("the sender waits to note it", lambda: platform.rows(waiting) != [(0,)])
        sender.send_signal(signal.SIGKILL)
        sender.wait(10)
        # Its server process waits on, and would write once it gets the lock: it dies, too.
        platform.rows("SELECT pg_terminate_backend(pid, 5000) FROM pg_locks WHERE NOT granted")
    finally:
        assert cut.lock
        cut.lock.close()
        server.stop()
    # The run goes on: it does not send, says so, and ends red with the way on.
    with pytest.raises(AirflowFailException, match=r"may have been sent, and may not.*Ask the customer.*welcome_again"):
        run.job("welcome")
    run.unlock()
    with pytest.raises(AirflowFailException, match="welcome mail: it may have been sent"):
        run.report()
    again = Onboarding({**run.params})
    with pytest.raises(AirflowFailException, match="may have been sent, and may not"):
        again.until("welcome")
    again.unlock()
    assert (cut.taken, platform.mails(email), state(platform, slug)) == (1, [], "running")
    # A person has asked the customer.
    decided = Onboarding({**run.params, "welcome_again": True})
    decided.until("verify")
    decided.unlock()
    # Ticked again by mistake: it is known to be sent now.
    Onboarding({**run.params, "welcome_again": True}).until("verify")
    assert len(platform.mails(email)) == 1


def test_a_mail_that_was_refused_for_certain_is_sent_by_the_next_run(platform: Platform) -> None:
    class Refusing:
        async def handle_DATA(self, *_: Any) -> str:
            return "554 no"

    run = Onboarding(form())
    run.until("admin")
    server = Controller(Refusing(), hostname="127.0.0.1", port=platform.sandbox.port("cut"))
    server.start()
    try:
        sender = script(platform, run.params["slug"])
        _, said = sender.communicate(timeout=20)
    finally:
        server.stop()
    assert (sender.returncode, said.decode().strip()) == (1, "error: the mail server did not take it: SMTPDataError")
    run.job("configure")
    run.job("welcome")
    run.unlock()
    assert len(platform.mails(run.params["admin_email"])) == 1


# Undoing ----------------------------------------------------------------------------------------------


def broken_off(platform: Platform, last: str = "admin") -> Onboarding:
    """Return a run that has not come to its end."""
    run = Onboarding(form())
    run.until(last)
    run.unlock()
    with pytest.raises(AirflowFailException, match=r"is not onboarded: .*configuration: .*welcome mail: not sent"):
        run.report()
    assert state(platform, run.params["slug"]) == "failed"
    return run


def test_what_a_failed_onboarding_made_is_removed_after_approval_and_the_slug_is_free_again(
    platform: Platform,
) -> None:
    run = broken_off(platform)
    slug = run.params["slug"]
    plan = run.undo_plan()
    assert (plan["removed"], plan["welcome_mail"]) == ({"tenants": 1, "users": 1}, "not sent")
    assert tenant(platform, slug)
    run.undo()
    assert tenant(platform, slug) == []
    assert people(platform, slug) == []
    assert state(platform, slug) == "undone"
    run.undo()  # killed after it removed, and run again
    run.lock()
    with pytest.raises(AirflowFailException, match="was undone; start a new run"):
        run.create()
    run.unlock()
    Onboarding({**run.params, "tier": "starter"}).until("create")
    assert tenant(platform, slug)[0][2] == "starter"


BROUGHT = {
    "1 rows in suppliers": "INSERT INTO suppliers (tenant_id, name, country, industry) VALUES (%s, 'S', 'DE', 'steel')",
    "1 rows in usage_events": "INSERT INTO usage_events (tenant_id, kind, quantity) VALUES (%s, 'api_call', 1)",
    "a user who is not the invited": "UPDATE users SET status = 'active' WHERE tenant_id = %s",
}


def test_what_holds_anything_of_the_customers_is_never_removed(platform: Platform) -> None:
    run = broken_off(platform)
    id_, slug = run.undo_plan()["tenant"]["id"], run.params["slug"]
    store = s3.client(platform.sandbox)
    store.put_object(Bucket=s3.DOCUMENTS, Key=f"tenants/{id_}/a.pdf", Body=b"x")
    with pytest.raises(AirflowFailException, match="holds what its onboarding did not make: 1 documents"):
        run.undo()
    store.delete_object(Bucket=s3.DOCUMENTS, Key=f"tenants/{id_}/a.pdf")
    for words, statement in BROUGHT.items():
        with platform.admin() as connection:
            connection.execute(statement, (id_,))
        with pytest.raises(AirflowFailException, match=words):
            run.undo()
        assert (tenant(platform, slug)[0][3], len(people(platform, slug))) == ("active", 1)
    # Known when it is planned: nobody is asked at all.
    with pytest.raises(AirflowSkipException, match="holds what its onboarding did not make"):
        run.undo_plan()
    assert "Nothing is removed: go on with the onboarding, or use tenant_delete" in platform.said("slack")


def test_nothing_is_undone_of_an_onboarding_that_another_run_goes_on_with(platform: Platform) -> None:
    run = broken_off(platform, "create")
    run.undo_plan()
    other = Onboarding({**run.params})
    other.all()
    with pytest.raises(AirflowFailException, match=r"works on .* now, not this run"):
        run.undo()
    with pytest.raises(AirflowSkipException, match="nothing to undo"):
        other.undo_plan()
    assert tenant(platform, run.params["slug"])[0][3] == "active"


# Suspending -------------------------------------------------------------------------------------------


class Suspending(Run):
    """A run of tenant_suspend, as its file wires it."""

    def __init__(self, slug: str, action: str = "suspend", **more: Any) -> None:
        asked = {"slug": slug, "action": action, "reason": "invoices unpaid since June", "until": None}
        super().__init__(
            "tenant_suspend", {**asked, "tell_owner": False, "if_locked": "refuse", "dry_run": False, **more}
        )

    def plan(self) -> Any:
        return self.do(tenant_suspend.SuspendPlanOperator, "plan")

    def apply(self) -> Any:
        return self.do(tenant_suspend.SuspendApplyOperator, "apply")

    def verify(self) -> Any:
        return self.do(tenant_suspend.SuspendVerifyOperator, "verify")

    def tell(self, **more: Any) -> Any:
        return self.do(tenant_suspend.TellOwnersOperator, "tell_owner", **more)

    def report(self) -> Any:
        return self.do(tenant_suspend.SuspendReportOperator, "report")

    def all(self) -> Any:
        self.plan()
        self.lock()
        self.apply()
        self.verify()
        self.unlock()
        if self.params["tell_owner"]:
            self.tell()
        return self.report()

    def wait(self) -> Any:
        return self.do(tenant_suspend.UntilOperator, "ends.until")

    def end(self) -> Any:
        self.lock("ends.lock")
        try:
            return self.do(tenant_suspend.SuspendEndOperator, "ends.apply")
        finally:
            self.unlock()

    def end_report(self) -> Any:
        return self.do(tenant_suspend.SuspendEndReportOperator, "ends.report", outcome_task_id="ends.apply")


@pytest.fixture
def customer(platform: Platform) -> Iterator[str]:
    """A tenant of the platform that works, with sessions, keys and people; put back afterwards."""
    with platform.admin() as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept_sessions AS SELECT * FROM sessions")
    yield VICTIM.slug
    with platform.admin() as connection:
        connection.execute("UPDATE tenants SET status = 'active', suspended_at = NULL WHERE slug = %s", (VICTIM.slug,))
        connection.execute("INSERT INTO sessions SELECT * FROM kept_sessions ON CONFLICT DO NOTHING")
    with History().connect() as connection:
        connection.execute("DELETE FROM tenant_suspension")
        connection.execute("DELETE FROM tenant_deletion")


def status(platform: Platform, slug: str) -> str:
    return str(platform.rows("SELECT status FROM tenants WHERE slug = %s", slug)[0][0])


def content(platform: Platform) -> dict[str, Any]:
    """Return a checksum of every table that a suspension must not touch."""
    tables = [t for t in data.TABLES if t not in ("tenants", "sessions")]
    sums = "SELECT count(*), coalesce(sum(hashtextextended(t::text, 0)::numeric), 0) FROM {} t"
    return {t: platform.rows(sums.format(t)) for t in tables}


def test_suspended_nobody_gets_in_and_nothing_of_the_customers_is_touched(
    platform: Platform, customer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    mine, other = data.api_key(VICTIM), data.api_key(OTHER)
    assert platform.whoami(mine)[0] == platform.whoami(mine)[0] == platform.whoami(other)[0] == 200
    cache = redis.client(platform.sandbox, redis.CACHE_DB)
    cache.set(f"cache:tenant:{VICTIM.id}:suppliers:1", "x")
    cache.set(f"cache:tenant:{OTHER.id}:suppliers:1", "x")
    assert cache.keys(f"apikey:{VICTIM.id}:*")
    before = content(platform)
    run = Suspending(customer)
    rows = dict(run.all())
    assert rows == {"status": "suspended", "sessions": "0", "cached keys": "0"}
    assert run.xcom["apply", "return_value"]["sessions"] == 60
    assert platform.whoami(mine) == (403, {"error": f"the tenant {customer} is suspended"})
    assert platform.whoami(other)[0] == 200
    assert content(platform) == before
    assert platform.rows("SELECT count(*) FROM sessions WHERE tenant_id = %s", OTHER.id) == [(60,)]
    assert [key.decode() for key in cache.keys("cache:tenant:*")] == [f"cache:tenant:{OTHER.id}:suppliers:1"]
    assert until("metrics", lambda: f'slug="{customer}",status="suspended"' in platform.metrics())
    # Again: nothing to do. And back.
    assert Suspending(customer).plan() == "skipped the rest"
    assert "suspended by ines since" in capsys.readouterr().out
    Suspending(customer, "reactivate").all()
    assert (platform.whoami(mine)[0], status(platform, customer)) == (200, "active")
    assert content(platform) == before
    assert Suspending(customer, "reactivate").plan() == "skipped the rest"


def test_killed_anywhere_a_suspension_comes_to_the_same_end(platform: Platform, customer: str) -> None:
    run = Suspending(customer, until=soon(3600))
    run.plan()
    run.lock()
    admin = TenantAdmin()
    # Killed between the platform's database and the record: the row is suspended, nothing else was noted.
    run.apply()
    since = admin.find(customer)
    with platform.admin() as connection:
        user = connection.execute("SELECT user_id, tenant_id FROM kept_sessions WHERE tenant_id = %s", (VICTIM.id,))
        person, id_ = user.fetchone() or ("", "")
        connection.execute(
            "INSERT INTO sessions (tenant_id, user_id, token_hash) VALUES (%s, %s, 'late')", (id_, person)
        )
    assert run.apply()["sessions"] == 1
    assert admin.find(customer) == since
    run.verify()
    run.unlock()
    assert dict(run.report())["sessions"] == "0"


def soon(seconds: float) -> str:
    return (dt.datetime.now(dt.UTC) + dt.timedelta(seconds=seconds)).isoformat()


def test_until_its_time_and_not_longer(platform: Platform, customer: str) -> None:
    run = Suspending(customer, until=soon(4))
    run.all()
    run.wait()
    assert run.end() == {"outcome": "reactivated", "why": ""}
    assert status(platform, customer) == "active"
    assert run.end() == {"outcome": "reactivated", "why": ""}  # cleared
    run.end_report()
    assert f"{customer}: reactivated at the end time" in platform.said("slack")
    assert "reactivated at the end time" in platform.page(run)


def test_what_somebody_changed_meanwhile_is_left_alone_at_the_end_time(platform: Platform, customer: str) -> None:
    first = Suspending(customer, until=soon(3600))
    first.all()
    Suspending(customer, "reactivate", reason="they have paid").all()
    assert first.end()["outcome"] == "ended before"
    first.end_report()
    second = Suspending(customer)
    second.all()
    assert first.end()["outcome"] == "ended before"
    third = Suspending(customer, "reactivate")
    third.all()
    fourth = Suspending(customer, until=soon(3600))
    fourth.all()
    platform.rows("UPDATE tenants SET suspended_at = now() WHERE slug = %s RETURNING 1", customer)
    assert fourth.end()["outcome"] == "left alone"
    with pytest.raises(AirflowFailException, match="suspended anew"):
        fourth.end_report()
    assert status(platform, customer) == "suspended"


def test_reactivating_in_the_days_of_grace_cancels_the_deletion(platform: Platform, customer: str) -> None:
    deletions = Deletions("sandbox")
    plan = {
        "tenant": {"id": VICTIM.id, "slug": customer, "name": VICTIM.name},
        **{"reason": "end of contract", "legal_basis": "end of contract", "requested_by": "bo"},
    }
    now = dt.datetime.now(dt.UTC)
    approval = {"by": ["ada", "eve"], "at": now.isoformat()}
    deletions.begin("tenant_delete/r1", plan, "abc", approval)
    deletions.await_end_of_grace("tenant_delete/r1", {}, now + dt.timedelta(days=30))
    TenantAdmin().suspend(VICTIM.id)
    run = Suspending(customer, "reactivate", reason="they stay with us")
    run.all()
    found = deletions.get("tenant_delete/r1")
    assert (found.state, found.detail["cancelled_by"], status(platform, customer)) == ("cancelled", "ines", "active")
    assert "cancelled: the deletion of" in platform.said("slack")
    # A suspension that began before, and ends within the days of grace, does not bring the tenant back.
    until = Suspending(customer, until=soon(3600))
    until.all()
    deletions.begin("tenant_delete/r0", plan, "abc", approval)
    deletions.await_end_of_grace("tenant_delete/r0", {}, now)
    assert Suspending(customer).plan() == "skipped the rest"
    assert until.end()["outcome"] == "left alone"
    with pytest.raises(AirflowFailException, match=r"the deletion of .* is under way.*Decide whether"):
        until.end_report()
    # At the last minute: the purge has it, and has deleted nothing yet.
    late = Suspending(customer, "reactivate")
    late.plan()
    deletions.take("tenant_delete/r0", now)
    late.lock()
    with pytest.raises(AirflowFailException, match="has begun and cannot be cancelled"):
        late.apply()
    late.unlock()
    assert status(platform, customer) == "suspended"
    deletions.stop("tenant_delete/r0", "of another test")
    assert deletions.cancel(VICTIM.id, "ines", "they stay")
    # Once the purge has begun, neither way.
    deletions.begin("tenant_delete/r2", plan, "abc", approval)
    deletions.await_end_of_grace("tenant_delete/r2", {}, now - dt.timedelta(days=1))
    deletions.take("tenant_delete/r2", now)
    deletions.mark_begun("tenant_delete/r2", {})
    for action in ("suspend", "reactivate"):
        with pytest.raises(AirflowFailException, match="has begun: the tenant can be neither"):
            Suspending(customer, action).plan()


def test_the_owner_is_told_once_and_addresses_stay_where_they_are(
    platform: Platform, customer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Suspending(customer, tell_owner=True)
    rows = dict(run.all())
    query = "SELECT email FROM users WHERE tenant_id = %s AND role = 'admin' AND NOT is_service_account"
    owners = [row[0] for row in platform.rows(query, VICTIM.id)]
    assert rows["owner"] == f"{len(owners)} administrators told"
    run.tell()
    for address in owners:
        (mail,) = platform.mails(address)
        assert mail["subject"] == f"{VICTIM.name}: access to VCCI is suspended"
        assert "invoices unpaid since June" in mail["html"]
        assert mail["envelope_to"] == [address]
    logged = capsys.readouterr().out
    for place in (logged, platform.said("slack"), json.dumps([*run.xcom.values()]), history_text()):
        assert not any(address in place for address in owners)


def test_a_mail_server_that_is_away_leaves_the_tenant_suspended_and_says_so(
    platform: Platform, customer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = {"conn_type": "smtp", "host": "127.0.0.1", "port": 1, "extra": {"disable_ssl": True, "disable_tls": True}}
    there = os.environ["AIRFLOW_CONN_VCCI_SMTP"]
    monkeypatch.setenv("AIRFLOW_CONN_VCCI_SMTP", json.dumps(away))
    run = Suspending(customer, tell_owner=True)
    with pytest.raises(AirflowException, match="The mail server did not answer"):
        run.all()
    with pytest.raises(AirflowFailException, match="owner: was not told"):
        run.report()
    assert status(platform, customer) == "suspended"
    monkeypatch.setenv("AIRFLOW_CONN_VCCI_SMTP", there)
    assert run.tell() == {"told": 1, "unsure": 0}
    run.report()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"slug": "nobody-here"}, "no tenant has the slug nobody-here"),
        ({"slug": VICTIM.id}, "slug: .* is not accepted"),
        ({"slug": f"{VICTIM.slug}' OR '1'='1"}, "slug: .* is not accepted"),
        ({"slug": "x" * 2**20}, r"slug: .*characters\) is not accepted"),
        ({"action": "delete"}, "action: 'delete' is not accepted"),
        ({"reason": "line\nbreak"}, "reason: .* is not accepted"),
        ({"until": "yesterday"}, "until: 'yesterday' is not accepted"),
        ({"until": "2020-01-01T00:00:00Z"}, "until: .* is not accepted"),
        ({"until": "2999-01-01T00:00:00Z"}, "until: .* is not accepted"),
        ({"action": "reactivate", "until": "2026-12-24T00:00:00Z"}, "until: .* is not accepted"),
        ({"tell_owner": 1}, "tell_owner: 1 is not accepted"),
    ],
)
def test_a_suspension_that_cannot_be_is_refused_by_name(
    platform: Platform, customer: str, changed: dict[str, Any], words: str
) -> None:
    with pytest.raises(AirflowFailException, match=words):
        Suspending(**{"slug": customer, **changed}).plan()
    assert status(platform, customer) == "active"


def test_the_shipped_rights_of_the_role_end_where_its_work_does(platform: Platform) -> None:
    parameters = postgres.parameters(platform.sandbox, "postgres-direct", "vcci_ops_tenants", postgres.PRODUCTION)
    with psycopg.connect(**parameters, autocommit=True) as connection:
        for statement in (
            "SELECT password_hash FROM users",
            "SELECT name FROM suppliers",
            "SELECT key_hash FROM api_keys",
            "DELETE FROM tenants",
            "DELETE FROM users",
            "UPDATE tenants SET name = 'x'",
            "UPDATE tenants SET settings = '{}'",
            "UPDATE users SET role = 'admin'",
            "UPDATE users SET email = 'x'",
            "INSERT INTO users (tenant_id, email, name, role) SELECT id, 'x', 'x', 'admin' FROM tenants",
            "SELECT token_hash FROM sessions",
            "UPDATE audit_log SET action = 'x'",
            "DELETE FROM audit_log",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)
