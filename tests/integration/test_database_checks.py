"""The PostgreSQL checks on a real server with the platform's schema, data and the shipped grants."""

from __future__ import annotations

import datetime as dt
import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from sandbox.service import Sandbox
from sandbox.services import postgres
from vcci_ops.domain.database import Earlier
from vcci_ops.operators.database import (
    DatabaseCheckOperator,
    SecurityCheckOperator,
    SlowQueryCheckOperator,
    SqlCheckOperator,
)
from vcci_ops.settings import Check, Threshold, load_settings

pytestmark = pytest.mark.integration
SECRET = "correct-horse-battery"


class Recorder:
    def __init__(self) -> None:
        self.pushed: dict[str, Any] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = json.loads(json.dumps(value))


def run(operator: Any) -> SimpleNamespace:
    """Execute without failing; results by check id (and subject), and whatever else went to XCom."""
    recorder = Recorder()
    operator.fail = False
    operator.execute({"ti": recorder})
    results = {f"{r['check']}{'/' if r['subject'] else ''}{r['subject']}": r for r in recorder.pushed.pop("results")}
    return SimpleNamespace(results=results, xcom=recorder.pushed, text=json.dumps([results, recorder.pushed]))


def check(id_: str, **limits: Any) -> Check:
    """The settings' check with limits of the test's own."""
    found = load_settings("sandbox").checks[id_]
    unit = found.threshold.unit if found.threshold else ""
    return found.model_copy(update={"threshold": Threshold(unit=unit, **limits)})


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    sandbox = Sandbox(tmp_path_factory.mktemp("sandbox"))
    server = postgres.Production()
    server.start(sandbox)
    try:
        server.prepare(sandbox)
        yield sandbox
    finally:
        server.stop(sandbox)


@pytest.fixture(autouse=True)
def connection(box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """vcci_postgres as the sandbox gives it, on the server's own port."""
    given = postgres.airflow_connection(box, "postgres-direct", "vcci_ops", "vcci_production")
    monkeypatch.setenv("AIRFLOW_CONN_VCCI_POSTGRES", json.dumps(given))
    monkeypatch.setenv("VCCI_OPS_SETTINGS", "sandbox")
    return given


@contextmanager
def superuser(box: Sandbox, **options: Any) -> Iterator[psycopg.Connection[Any]]:
    with postgres.admin(box, postgres.Production(), "vcci_production", **options) as opened:
        yield opened


@contextmanager
def regranted(box: Sandbox) -> Iterator[psycopg.Connection[Any]]:
    """A superuser who takes rights away; afterwards the shipped grants are back."""
    with superuser(box) as admin:
        try:
            yield admin
        finally:
            for file in sorted(postgres.GRANTS.glob("*.sql")):
                admin.execute(file.read_bytes())


def as_app(box: Sandbox, **more: Any) -> psycopg.Connection[Any]:
    return psycopg.connect(**postgres.parameters(box, "postgres-direct", "vcci_app", "vcci_production"), **more)


def test_a_healthy_database_is_ok_with_exactly_the_shipped_grants() -> None:
    done = run(DatabaseCheckOperator(task_id="database"))
    assert {r["status"] for r in done.results.values()} == {"ok"}
    assert set(done.results) == set(DatabaseCheckOperator.measures)
    assert "of 97 usable connections" in done.results["database.connections"]["summary"]
    assert any("emissions (public)" in line for line in done.results["database.size"]["details"])
    assert done.xcom["samples"]["tenants.active/86400"] == 5
    assert done.xcom["samples"]["database.size"] == done.results["database.size"]["value"]
    assert "all 5 tenants" in done.results["tenants.active"]["summary"]
    assert "make_interval(secs => 86400" in done.results["tenants.active"]["query"]


def test_everything_is_read_over_one_connection_that_cannot_write(box: Sandbox) -> None:
    with superuser(box) as admin:
        count = "SELECT sessions FROM pg_stat_database WHERE datname = 'vcci_production'"
        admin.execute("SELECT pg_stat_clear_snapshot()")
        before = admin.execute(count).fetchone()[0]
        run(DatabaseCheckOperator(task_id="database"))
        deadline = time.monotonic() + 5
        while (after := admin.execute(count).fetchone()[0]) == before and time.monotonic() < deadline:
            time.sleep(0.05)
    assert after - before == 1
    done = run(SqlCheckOperator(task_id="sql", check_id="database.size", sql="CREATE TABLE mine (a int)"))
    assert done.results["database.size"]["status"] == "unknown"
    assert "read-only" in done.results["database.size"]["summary"]


def test_a_stopped_server_is_unknown_with_the_reason_and_without_the_password(
    box: Sandbox, connection: dict[str, Any]
) -> None:
    server = postgres.Production()
    server.stop(box)
    try:
        begun = time.monotonic()
        done = run(DatabaseCheckOperator(task_id="database"))
        assert time.monotonic() - begun < 5
    finally:
        server.start(box)
    assert {r["status"] for r in done.results.values()} == {"unknown"}
    assert {r["reason"] for r in done.results.values()} == {"unreachable"}
    assert "Connection refused" in done.results["database.size"]["summary"]
    assert connection["password"] not in done.text


def test_a_frozen_server_is_unknown_within_20_seconds(box: Sandbox) -> None:
    pid = box.pid("pg-production")
    assert pid
    os.kill(pid, signal.SIGSTOP)
    begun = time.monotonic()
    try:
        done = run(DatabaseCheckOperator(task_id="database"))
    finally:
        os.kill(pid, signal.SIGCONT)
    assert time.monotonic() - begun < 20
    assert {r["reason"] for r in done.results.values()} == {"unreachable"}
    assert "no log-in at 127.0.0.1" in done.results["database.size"]["summary"]


def test_a_wrong_password_is_named_and_not_shown(connection: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_VCCI_POSTGRES", json.dumps({**connection, "password": SECRET}))
    done = run(DatabaseCheckOperator(task_id="database"))
    result = done.results["database.connections"]
    assert (result["status"], result["reason"]) == ("unknown", "forbidden")
    assert "log in as vcci_ops" in result["summary"]
    assert "28P01" in result["summary"]
    assert SECRET not in done.text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param({"schema": "nope"}, "no database nope", id="no-such-database"),
        pytest.param({"login": "vcci_restore", "password": "x"}, "log in as vcci_restore", id="no-such-role"),
    ],
)
def test_other_refused_log_ins_say_why(
    connection: dict[str, Any], monkeypatch: pytest.MonkeyPatch, change: dict[str, str], words: str
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_VCCI_POSTGRES", json.dumps(connection | change))
    assert words in run(DatabaseCheckOperator(task_id="database")).results["database.size"]["summary"]


def test_a_missing_connection_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_OTHER", "postgres://127.0.0.1:1/x")
    monkeypatch.setattr(
        "vcci_ops.hooks.postgres.PostgresHook.get_connection", classmethod(lambda _cls, _id: _not_found())
    )
    done = run(DatabaseCheckOperator(task_id="database", postgres_conn_id="nobody"))
    assert "no Airflow connection nobody" in done.results["database.size"]["summary"]


def _not_found() -> Any:
    from airflow.sdk.exceptions import AirflowNotFoundException

    raise AirflowNotFoundException


def test_a_missing_grant_makes_only_its_check_unknown_and_is_named(box: Sandbox) -> None:
    with regranted(box) as admin:
        admin.execute("REVOKE SELECT ON sessions FROM vcci_ops")
        admin.execute("REVOKE SELECT (tenant_id, last_active) ON sessions FROM vcci_ops")
        done = run(DatabaseCheckOperator(task_id="database"))
    tenants = done.results.pop("tenants.active")
    assert (tenants["status"], tenants["reason"]) == ("unknown", "forbidden")
    assert "permission denied for table sessions" in tenants["summary"]
    assert {r["status"] for r in done.results.values()} == {"ok"}


def test_the_role_reads_the_columns_of_the_checks_and_no_secret_setting(box: Sandbox) -> None:
    with postgres.admin(box, postgres.Production()) as admin:
        admin.execute(f"ALTER SYSTEM SET primary_conninfo = 'host=primary password={SECRET}'")
        admin.execute("SELECT pg_reload_conf()")
    given = postgres.parameters(box, "postgres-direct", "vcci_ops", "vcci_production")
    try:
        with psycopg.connect(**given, autocommit=True) as role:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                role.execute("SHOW primary_conninfo")
            assert role.execute("SELECT 1 FROM pg_settings WHERE name = 'primary_conninfo'").fetchall() == []
            readable = role.execute(
                "SELECT table_name, array_agg(column_name::text ORDER BY column_name) FROM information_schema"
                ".column_privileges WHERE table_schema = 'public' AND grantee = current_user GROUP BY 1"
            ).fetchall()
    finally:
        with postgres.admin(box, postgres.Production()) as admin:
            admin.execute("ALTER SYSTEM RESET primary_conninfo")
            admin.execute("SELECT pg_reload_conf()")
    tables = dict(readable)
    assert tables.pop("audit_log") == ["action", "actor", "created_at", "details", "id", "ip", "target"]
    assert tables.pop("sessions") == ["last_active", "tenant_id"]
    assert tables.pop("tenants") == ["id", "slug", "status"]
    assert tables.pop("api_keys") == ["created_at", "id", "last_used_at", "revoked_at", "tenant_id"], "and no hash"
    assert tables.pop("alembic_version") == ["version_num"]
    # Views of the extension, open to everybody.
    assert set(tables) <= {"pg_stat_statements", "pg_stat_statements_info"}


def test_a_replica_is_told_from_the_primary(box: Sandbox) -> None:
    signal_file = box.folder / "pg-production" / "standby.signal"
    server = postgres.Production()
    assert "replica" not in run(DatabaseCheckOperator(task_id="database")).text
    server.stop(box)
    signal_file.touch()
    try:
        server.start(box)
        done = run(DatabaseCheckOperator(task_id="database"))
    finally:
        server.stop(box)
        signal_file.unlink()
        server.start(box)
    assert "in recovery, a replica" in done.results["database.size"]["details"][0]
    assert done.results["database.size"]["status"] == "ok"


def test_hidden_sessions_do_not_pass_for_no_transactions(box: Sandbox) -> None:
    with regranted(box) as admin, as_app(box) as app:
        app.execute("SELECT 1")
        admin.execute("REVOKE pg_read_all_stats FROM vcci_ops")
        done = run(DatabaseCheckOperator(task_id="database"))
        slow = run(SlowQueryCheckOperator(task_id="slow"))
    assert done.results["database.transactions"]["reason"] == "forbidden"
    assert "GRANT pg_read_all_stats" in done.results["database.transactions"]["summary"]
    assert done.results["database.connections"]["reason"] == "forbidden"
    assert slow.results["database.slow_queries"]["reason"] == "forbidden"


def test_an_idle_transaction_is_found_with_its_owner_and_without_its_literals(box: Sandbox) -> None:
    checks = [check("database.transactions", warning=0, critical=0)]
    with as_app(box, application_name="nightly-import") as app:
        app.execute(f"SELECT '{SECRET}', 4111111111111111 /* {SECRET} */ FROM tenants -- {SECRET}")
        done, pid = run(DatabaseCheckOperator(task_id="database", checks=checks)), app.info.backend_pid
    result = done.results["database.transactions"]
    assert result["status"] == "critical"
    assert f"pid {pid}, vcci_app (nightly-import), idle in transaction" in result["summary"]
    assert "SELECT ?, ? FROM tenants" in result["details"][0]
    assert SECRET not in done.text
    assert "4111" not in done.text


def test_few_connections_left_is_a_warning_and_none_left_is_critical(box: Sandbox) -> None:
    with ExitStack() as held:
        for _ in range(83):
            held.enter_context(as_app(box, application_name="api"))
        done = run(DatabaseCheckOperator(task_id="database"))
        result = done.results["database.connections"]
        assert result["status"] == "warning"
        assert any("by api as vcci_app" in line for line in result["details"])
        while True:
            try:
                held.enter_context(as_app(box))
            except psycopg.OperationalError:
                break
        done = run(DatabaseCheckOperator(task_id="database"))
    result = done.results["database.connections"]
    assert result["status"] == "critical"
    assert "no connection left for vcci_ops" in result["summary"]
    assert done.results["database.size"]["status"] == "unknown"


def test_a_lock_delays_one_check_and_hides_none(box: Sandbox) -> None:
    with as_app(box) as app:
        app.execute("LOCK TABLE sessions IN ACCESS EXCLUSIVE MODE")
        begun = time.monotonic()
        done = run(DatabaseCheckOperator(task_id="database"))
    assert time.monotonic() - begun < 15
    tenants = done.results.pop("tenants.active")
    assert tenants["status"] == "unknown"
    assert "for a lock" in tenants["summary"]
    assert done.results["database.size"]["status"] == "ok"
    # Its table cannot be measured meanwhile; the size of the database can.
    assert done.results["database.size"]["value"] > 1_000_000


def test_a_hostile_table_name_is_just_a_name(box: Sandbox) -> None:
    name = 'x"; DROP TABLE tenants; --'
    with superuser(box) as admin:
        table = psycopg.sql.Identifier(name)
        admin.execute(
            psycopg.sql.SQL("CREATE TABLE {} AS SELECT repeat('x', 900) FROM generate_series(1, 60000)").format(table)
        )
        admin.execute(psycopg.sql.SQL("ANALYZE {}").format(table))
        try:
            done = run(DatabaseCheckOperator(task_id="database"))
        finally:
            admin.execute(psycopg.sql.SQL("DROP TABLE {}").format(table))
    assert any(name in line for line in done.results["database.size"]["details"])
    assert done.results["tenants.active"]["status"] == "ok"


def test_growth_and_tenants_are_compared_with_earlier_runs() -> None:
    now = dt.datetime.now(dt.UTC)

    class WithHistory(DatabaseCheckOperator):
        def previous_value(self, context: Any, check_id: str, subject: str) -> Earlier:
            assert (check_id, subject) == ("database.size", "")
            return Earlier(10_000_000, now - dt.timedelta(days=2))

        def previous_values(self, context: Any, name: str) -> list[Earlier]:
            assert name == "tenants.active/86400"
            return [Earlier(n, now - dt.timedelta(weeks=w)) for w, n in ((1, 50), (2, 40), (3, 60))]

    done = run(WithHistory(task_id="database"))
    growth, tenants = done.results["database.growth"], done.results["tenants.active"]
    assert growth["value"] == pytest.approx(100 * (done.xcom["samples"]["database.size"] / 1e7 - 1) / 2, rel=0.01)
    assert growth["status"] in ("warning", "critical")
    assert tenants["value"] == pytest.approx(10)
    assert tenants["status"] == "critical"
    assert "50 on this weekday (median of 3)" in tenants["summary"]


def test_a_history_that_fails_takes_only_its_own_check_with_it() -> None:
    class Broken(DatabaseCheckOperator):
        def previous_values(self, context: Any, name: str) -> Any:
            from vcci_ops.exceptions import Unreachable

            raise Unreachable("The history", "gone")

    done = run(Broken(task_id="database"))
    assert done.results.pop("tenants.active")["summary"] == "The history did not answer: gone"
    assert {r["status"] for r in done.results.values()} == {"ok"}


def test_a_window_of_ones_own_is_compared_with_the_same_window_and_each_day_counts_once() -> None:
    this_hour = dt.datetime.now(dt.UTC)

    class WithHistory(DatabaseCheckOperator):
        def earlier(self, context: Any, kind: str, *, days: float) -> Any:
            week, minute = dt.timedelta(weeks=1), dt.timedelta(minutes=1)
            by_hand = [(this_hour - week - minute * n, {"tenants.active/60": 1}) for n in range(20)]
            return [
                (this_hour - week, {"tenants.active/86400": 40}),
                *by_hand,
                *((this_hour - week - minute * 30, {"tenants.active/86400": 1}) for _ in range(5)),
                (this_hour - 2 * week, {"tenants.active/86400": 60}),
                (this_hour - 2 * week, {"tenants.active": 1}),
            ]

    if this_hour.hour == 0:  # half an hour before would be another day
        this_hour += dt.timedelta(hours=1)
    done = run(WithHistory(task_id="database", checks=[check("tenants.active", warning=70, direction="below")]))
    assert "50 on this weekday (median of 2)" in done.results["tenants.active"]["summary"]
    minute = run(WithHistory(task_id="database", checks=[check("tenants.active")], active_within="1m"))
    assert minute.xcom["samples"] == {"tenants.active/60": minute.xcom["samples"]["tenants.active/60"]}
    assert "against 1 on this weekday (median of 1)" in minute.results["tenants.active"]["summary"]


# Slow statements --------------------------------------------------------------------------------


def slow(before: Any = None) -> SimpleNamespace:
    class Compared(SlowQueryCheckOperator):
        def previous_statements(self, context: Any) -> Any:
            return before

    return run(Compared(task_id="slow", slow_query_ms=20, min_calls=3, factor=2))


def test_slow_statements_are_told_new_slower_or_known(box: Sandbox) -> None:
    with superuser(box) as admin, as_app(box, autocommit=True) as app:
        admin.execute("SELECT pg_stat_statements_reset()")

        def call(seconds: float, times: int = 3) -> None:
            for _ in range(times):
                app.execute("SELECT id, pg_sleep(%s) FROM tenants LIMIT 1", (seconds,))

        quiet = slow()
        assert quiet.results["database.slow_queries"]["value"] == 0
        call(0.03)
        new = slow(quiet.xcom["statements"]).results["database.slow_queries"]
        assert new["value"] == 1
        assert new["summary"].startswith("1 new and 0 slower")
        assert "SELECT id, pg_sleep($1) FROM tenants" in new["details"][0]
        first = slow()
        assert "no earlier snapshot" in first.results["database.slow_queries"]["summary"]
        assert first.results["database.slow_queries"]["value"] == 1
        call(0.03, times=9)
        known = slow(first.xcom["statements"])
        assert known.results["database.slow_queries"]["summary"].startswith("0 new and 0 slower")
        assert "1 as slow as before" in known.results["database.slow_queries"]["summary"]
        # Against the mean since the reset this would be less than twice as slow; against yesterday it is.
        call(0.12)
        slower = slow(known.xcom["statements"]).results["database.slow_queries"]
        assert slower["summary"].startswith("0 new and 1 slower")
        admin.execute("SELECT pg_stat_statements_reset()")
        call(0.12)
        reset = slow(known.xcom["statements"]).results["database.slow_queries"]
        assert any("were reset" in line for line in reset["details"])


def test_a_run_by_hand_minutes_ago_hides_nothing_that_is_new_since_yesterday(box: Sandbox) -> None:
    now, kept = dt.datetime.now(dt.UTC), []

    class WithHistory(SlowQueryCheckOperator):
        def earlier(self, context: Any, kind: str, *, days: float) -> Any:
            return kept

    def look() -> SimpleNamespace:
        return run(WithHistory(task_id="slow", slow_query_ms=20, min_calls=3))

    with superuser(box) as admin, as_app(box, autocommit=True) as app:
        admin.execute("SELECT pg_stat_statements_reset()")
        kept = [(now - dt.timedelta(days=3), look().xcom["statements"])]
        for _ in range(4):
            app.execute("SELECT slug, pg_sleep(%s) FROM tenants LIMIT 1", (0.03,))
        by_hand = look()
        assert by_hand.results["database.slow_queries"]["summary"].startswith("1 new")
        kept = [(now - dt.timedelta(minutes=5), by_hand.xcom["statements"]), *kept]
        assert look().results["database.slow_queries"]["summary"].startswith("1 new")


def test_a_snapshot_is_left_though_the_history_does_not_answer() -> None:
    class Broken(SlowQueryCheckOperator):
        def earlier(self, context: Any, kind: str, *, days: float) -> Any:
            from vcci_ops.exceptions import Unreachable

            raise Unreachable("The history", "gone")

    done = run(Broken(task_id="slow"))
    result = done.results["database.slow_queries"]
    assert (result["status"], result["reason"]) == ("unknown", "unreachable")
    assert done.xcom["statements"]["statements"]


def test_no_secret_of_a_statement_reaches_the_snapshot(box: Sandbox) -> None:
    with superuser(box) as admin:
        admin.execute(f"ALTER ROLE vcci_app CONNECTION LIMIT -1 VALID UNTIL 'infinity' /* {SECRET} */")
        admin.execute("CREATE ROLE leaky")
        try:
            admin.execute(f"ALTER ROLE leaky PASSWORD '{SECRET}'")
            kept = admin.execute("SELECT count(*) FROM pg_stat_statements WHERE query LIKE %s", (f"%{SECRET}%",))
            assert kept.fetchone()[0] > 0, "PostgreSQL keeps the texts of utility statements"
            done = slow()
        finally:
            admin.execute("DROP ROLE leaky")
            admin.execute("SELECT pg_stat_statements_reset()")
    assert any("ALTER ROLE leaky PASSWORD ?" in s["query"] for s in done.xcom["statements"]["statements"])
    assert SECRET not in done.text
    assert len(done.xcom["statements"]["statements"]) <= 200


def test_without_the_extension_slow_queries_are_unknown_with_what_to_do(box: Sandbox) -> None:
    with superuser(box) as admin:
        admin.execute("DROP EXTENSION pg_stat_statements")
        try:
            result = slow().results["database.slow_queries"]
        finally:
            admin.execute("CREATE EXTENSION pg_stat_statements")
    assert (result["status"], result["reason"]) == ("unknown", "no_data")
    assert "CREATE EXTENSION" in result["summary"]


# Audit log --------------------------------------------------------------------------------------


@contextmanager
def audited(box: Sandbox, *rows: tuple[str, str, str, str]) -> Iterator[None]:
    insert = (
        "INSERT INTO audit_log (action, actor, target, ip, details) VALUES (%s, %s, %s, '203.0.113.9', %s) RETURNING id"
    )
    with superuser(box) as admin:
        ids = [admin.execute(insert, row).fetchone()[0] for row in rows]
        try:
            yield
        finally:
            admin.execute("DELETE FROM audit_log WHERE id = ANY(%s)", (ids,))


def test_an_ordinary_day_raises_no_alarm() -> None:
    done = run(SecurityCheckOperator(task_id="security"))
    assert {r["status"] for r in done.results.values()} == {"ok"}
    assert 0 < done.results["security.failed_logins"]["value"] <= 50
    assert done.results["security.admins"]["summary"].startswith("No new administrators")


def test_attacks_and_new_administrators_are_told_without_addresses_of_persons(box: Sandbox) -> None:
    rows = [("login.failed", "ada.brandt@acme.com", "login", "{}")] * 60
    rows += [
        ("user.created", "root@acme.com", "mallory@evil.example", '{"role": "admin"}'),
        ("role.changed", "root@acme.com", "bo@acme.com", '{"from": "viewer", "to": "Owner"}'),
        ("role.changed", "root@acme.com", "carla@acme.com", '{"from": "viewer", "to": "analyst"}'),
        ("api_key.created", "root@acme.com", "erp'; DROP TABLE users; --", "{}"),
    ]
    with audited(box, *rows):
        done = run(SecurityCheckOperator(task_id="security", lookback="1h"))
    failed = done.results["security.failed_logins"]
    assert failed["status"] == "warning"
    assert "60 from 203.0.113.9" in failed["details"]
    assert "60 for a***@acme.com" in failed["details"]
    admins = done.results["security.admins"]
    assert (admins["status"], admins["value"]) == ("warning", 2)
    assert any("user.created m***@evil.example (admin), by r***@acme.com" in line for line in admins["details"])
    assert any("role.changed b***@acme.com viewer → Owner" in line for line in admins["details"])
    assert done.results["security.privileges"]["value"] == 2
    assert "mallory" not in done.text
    assert "ada.brandt" not in done.text


def test_a_silent_audit_log_is_unknown_not_quiet(box: Sandbox) -> None:
    with superuser(box, autocommit=False) as admin:
        admin.execute("UPDATE audit_log SET created_at = created_at - interval '3 days'")
        admin.commit()
        try:
            done = run(SecurityCheckOperator(task_id="security", lookback="24h"))
        finally:
            admin.execute("UPDATE audit_log SET created_at = created_at + interval '3 days'")
            admin.commit()
    assert {r["status"] for r in done.results.values()} == {"unknown"}
    assert "is it still written?" in done.results["security.admins"]["summary"]


def test_a_missing_grant_on_the_audit_log_is_named(box: Sandbox) -> None:
    with regranted(box) as admin:
        admin.execute("REVOKE SELECT (ip) ON audit_log FROM vcci_ops")
        done = run(SecurityCheckOperator(task_id="security"))
    assert done.results["security.failed_logins"]["reason"] == "forbidden"
    assert "audit_log" in done.results["security.failed_logins"]["summary"]
    assert done.results["security.admins"]["status"] == "ok"


# Any SQL ----------------------------------------------------------------------------------------


def sql_check(sql: str, parameters: dict[str, Any] | None = None) -> SimpleNamespace:
    checks = [check("database.size", warning=3, critical=10)]
    return run(SqlCheckOperator(task_id="sql", check_id="database.size", sql=sql, parameters=parameters, checks=checks))


def test_a_number_or_numbers_by_subject_are_judged() -> None:
    hostile = {"status": "'; DROP TABLE tenants; --"}
    done = sql_check("SELECT count(*) FROM tenants WHERE status <> %(status)s", hostile)
    assert done.results["database.size"]["status"] == "warning"
    done = sql_check("SELECT action, length(action) FROM audit_log GROUP BY action ORDER BY action LIMIT 5")
    assert done.results["database.size/document.uploaded"]["status"] == "critical"
    assert len(done.results) == 5


@pytest.mark.parametrize(
    ("sql", "reason", "words"),
    [
        pytest.param("SELECT NULL::int", "no_data", "NULL", id="null"),
        pytest.param("SELECT 1 WHERE false", "no_data", "no row", id="no-row"),
        pytest.param("SELECT 'a', 'b'", "unexpected_answer", "instead of a number", id="text"),
        pytest.param("SELECT 1, 2, 3", "unexpected_answer", "one number", id="three-columns"),
        pytest.param(
            "SELECT n::text, n FROM generate_series(1, 101) n", "unexpected_answer", "than 100 rows", id="101"
        ),
        pytest.param("SET lock_timeout = 0", "unexpected_answer", "gave no rows", id="no-query"),
        pytest.param("SELECT x FROM nowhere", "no_data", '"nowhere" does not exist', id="no-table"),
        pytest.param("SELECT password_hash FROM users", "forbidden", "permission denied for table users", id="grant"),
        pytest.param("SELECT 1/0", "unexpected_answer", "22012", id="division"),
    ],
)
def test_what_gives_no_number_is_unknown_with_the_reason(sql: str, reason: str, words: str) -> None:
    result = sql_check(sql).results["database.size"]
    assert (result["status"], result["reason"]) == ("unknown", reason)
    assert words in result["summary"]


def test_a_hundred_rows_are_judged_and_very_many_are_not_even_fetched() -> None:
    assert len(sql_check("SELECT n::text, n FROM generate_series(1, 100) n").results) == 100
    begun = time.monotonic()
    many = "SELECT n::text, n FROM (SELECT generate_series(1, 100000000) AS n) numbers"
    result = sql_check(many).results["database.size"]
    assert time.monotonic() - begun < 5
    assert result["summary"].endswith("more than 100 rows")


def test_a_statement_that_takes_too_long_is_ended_by_the_server() -> None:
    operator = SqlCheckOperator(task_id="sql", check_id="database.size", sql="SELECT 1 FROM pg_sleep(60)")
    operator.hook.statement_timeout = 1
    begun = time.monotonic()
    result = run(operator).results["database.size"]
    assert result["reason"] == "unreachable"
    assert "longer than 1 s" in result["summary"]
    assert time.monotonic() - begun < 5
