"""The sandbox's databases, queues, backups and proxy are what a real platform's are, broken or whole."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import signal
import socket
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis as redis_client

from sandbox import __main__ as cli
from sandbox.platform import RELEASE_REVISION, backups, celery_app, data
from sandbox.service import Fault, Sandbox, SandboxError, Service, listening, wait_until
from sandbox.services import postgres, redis, s3
from sandbox.services.proxy import Proxy

pytestmark = pytest.mark.integration

PRODUCTION = postgres.PRODUCTION


def services() -> list[Service]:
    return [Proxy(), *postgres.services(), redis.Redis(), s3.S3()]


def processes_of(folder: Path) -> set[int]:
    """Return all processes that run in or for a sandbox, children too."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            mine = f"VCCI_SANDBOX_HOME={folder}".encode() in (entry / "environ").read_bytes()
            if mine or (entry / "cwd").readlink().is_relative_to(folder):
                found.add(int(entry.name))
        except OSError:
            continue
    return found


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    made = Sandbox(tmp_path_factory.mktemp("data") / "home")
    try:
        cli.up(made, services())
        yield made
    finally:
        cli.down(made, services())


@pytest.fixture
def broken(sandbox: Sandbox) -> Iterator[Callable[..., None]]:
    """Break something for the time of a test; healed after it, twice."""
    known: dict[str, Fault] = {fault.name: fault for service in services() for fault in service.faults}
    done = []

    def break_(name: str, **options: Any) -> None:
        done.append(name)
        cli.break_(sandbox, services(), name, [f"{key}={value}" for key, value in options.items()])

    yield break_
    for name in done:
        cli.heal(sandbox, services(), name)
        heal = known[name].heal
        if heal:
            heal(sandbox, dict(known[name].options))


def as_ops(sandbox: Sandbox) -> psycopg.Connection[Any]:
    """Connect as the checks do: the read-only role, through the proxy."""
    return psycopg.connect(**postgres.parameters(sandbox, "postgres", "vcci_ops", PRODUCTION), autocommit=True)


def ask(sandbox: Sandbox, query: str, *given: Any) -> list[Any]:
    with postgres.admin(sandbox, postgres.Production(), PRODUCTION) as connection:
        return connection.execute(query.encode(), given).fetchall()


# Schema and data --------------------------------------------------------------------------------


def test_the_schema_is_made_by_alembic_and_stands_at_the_release(sandbox: Sandbox) -> None:
    from alembic.script import ScriptDirectory

    script = ScriptDirectory(str(Path(backups.__file__).with_name("migrations")))

    assert script.get_heads() == [RELEASE_REVISION]
    assert ask(sandbox, "SELECT version_num FROM alembic_version") == [(RELEASE_REVISION,)]
    assert len(list(script.walk_revisions())) == 5


def test_every_migration_can_be_undone_and_done_again(sandbox: Sandbox) -> None:
    from alembic import command
    from alembic.config import Config

    server = postgres.Production()
    with postgres.admin(sandbox, server) as connection:
        postgres.create_database(connection, "migrated", "vcci_app")
    url = postgres.url(sandbox, "postgres-direct", "vcci_app", "migrated")
    config = Config(str(Path(backups.__file__).with_name("alembic.ini")))
    config.attributes["url"] = url
    postgres.migrate(url)
    command.downgrade(config, "base")
    with postgres.admin(sandbox, server, "migrated") as connection:
        assert list(backups.row_counts(connection)) == ["alembic_version"]
    postgres.migrate(url)
    with postgres.admin(sandbox, server) as connection:
        connection.execute("DROP DATABASE migrated")


def test_tenants_own_rows_in_every_way_that_makes_deletion_hard(sandbox: Sandbox) -> None:
    with_tenant = {row[0] for row in ask(
        sandbox, "SELECT table_name FROM information_schema.columns WHERE column_name = 'tenant_id'"
    )}  # fmt: skip
    keys = set(ask(sandbox, "SELECT conrelid::regclass::text, confrelid::regclass::text FROM pg_constraint "
                            "WHERE contype = 'f'"))  # fmt: skip

    assert {("calculation_inputs", "calculations"), ("emission_attachments", "emissions")} <= keys
    assert not {"calculation_inputs", "emission_attachments"} & with_tenant
    assert ("suppliers", "suppliers") in keys
    assert "usage_events" in with_tenant
    assert not [key for key in keys if key[0] in ("usage_events", "audit_log")]
    assert ask(sandbox, "SELECT count(*) > 50 FROM suppliers WHERE parent_supplier_id IS NOT NULL") == [(True,)]


def test_scale_one_is_five_tenants_and_fifty_thousand_emissions_and_all_references_hold(sandbox: Sandbox) -> None:
    with postgres.admin(sandbox, postgres.Production(), PRODUCTION) as connection:
        counts = backups.row_counts(connection)
        # Loading did not check foreign keys; checking them anew proves the rows.
        for table, name in connection.execute(
            "SELECT conrelid::regclass::text, conname FROM pg_constraint WHERE contype = 'f'"
        ).fetchall():
            definition = ask(sandbox, "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = %s", name)
            connection.execute(f"ALTER TABLE {table} DROP CONSTRAINT {name}".encode())
            connection.execute(f"ALTER TABLE {table} ADD CONSTRAINT {name} {definition[0][0]}".encode())

    assert (counts["tenants"], counts["emissions"]) == (5, 50_000)
    assert min(counts.values()) > 0


def test_new_rows_get_ids_behind_those_loaded(sandbox: Sandbox) -> None:
    for table in ("emissions", "calculations", "audit_log", "usage_events"):
        query = f"SELECT nextval(pg_get_serial_sequence('{table}', 'id')) > max(id) FROM {table}"
        assert ask(sandbox, query) == [(True,)], table


def test_data_is_the_same_each_time_and_however_it_is_cut() -> None:
    now = datetime(2026, 3, 1, 12, tzinfo=UTC)
    for _, rows in data.TABLES.values():
        assert list(rows(now)) == list(rows(now))
    whole = "".join(data.emissions(now, 50_000, 0, 9_000))
    cut = "".join("".join(data.emissions(now, 50_000, a, b)) for a, b in ((0, 7), (7, 5_003), (5_003, 9_000)))
    assert whole == cut


def test_a_hundredfold_comes_in_small_pieces() -> None:
    import tracemalloc

    chunks = data.emissions(datetime.now(UTC), 100 * data.EMISSIONS, 0, 100 * data.EMISSIONS)
    tracemalloc.start()
    try:
        for _, chunk in zip(range(2), chunks, strict=False):
            assert len(chunk) < 2_000_000
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()


def healthy_facts(sandbox: Sandbox) -> dict[str, Any]:
    """Return what the checks read, read as they read it."""
    queries = {
        "active": "SELECT count(DISTINCT tenant_id) FROM sessions WHERE last_active > now() - interval '24 hours'",
        "future": "SELECT (SELECT count(*) FROM sessions WHERE last_active > now())"
        " + (SELECT count(*) FROM audit_log WHERE created_at > now())",
        "admins": "SELECT count(*) FROM audit_log WHERE created_at > now() - interval '24 hours'"
        " AND action IN ('user.created', 'role.changed') AND coalesce(details ->> 'to', details ->> 'role') = 'admin'",
        "privileges": "SELECT count(*) FROM audit_log WHERE created_at > now() - interval '24 hours'"
        " AND action IN ('role.changed', 'user.created', 'api_key.created')",
        "slow": "SELECT count(*) FROM pg_stat_statements WHERE calls >= 20 AND mean_exec_time > 100",
        "long": "SELECT count(*) FROM pg_stat_activity WHERE now() - xact_start > interval '5 s'"
        " AND backend_type = 'client backend'",
        "attackers": "SELECT coalesce(max(n), 0) FROM (SELECT count(*) AS n FROM audit_log WHERE action ="
        " 'login.failed' AND created_at > now() - interval '24 hours' GROUP BY ip) AS by_address",
    }
    with as_ops(sandbox) as connection:
        facts = {name: connection.execute(query.encode()).fetchone()[0] for name, query in queries.items()}  # type: ignore[index]
        facts["failed"] = [
            connection.execute(
                "SELECT count(*) FROM audit_log WHERE action = 'login.failed' AND created_at > now() - %s::interval"
                " AND created_at <= now() - %s::interval",
                (f"{24 * (day + 1)} hours", f"{24 * day} hours"),
            ).fetchone()[0]  # type: ignore[index]
            for day in range(14)
        ]
    return facts


def assert_healthy(facts: dict[str, Any]) -> None:
    assert facts.pop("active") == 5
    failed = facts.pop("failed")
    assert all(7 <= n <= 14 for n in failed), failed
    assert facts.pop("attackers") < 5
    assert set(facts.values()) == {0}, facts


def test_a_healthy_platform_gives_no_reason_for_a_finding(sandbox: Sandbox) -> None:
    assert_healthy(healthy_facts(sandbox))


def test_a_start_on_a_later_day_looks_alive_again(sandbox: Sandbox) -> None:
    with postgres.admin(sandbox, postgres.Production(), PRODUCTION) as connection:
        for table, column in (("sessions", "last_active"), ("audit_log", "created_at"), ("users", "last_login")):
            connection.execute(f"UPDATE {table} SET {column} = {column} - interval '3 days'".encode())
    assert healthy_facts(sandbox)["active"] == 0
    begun = time.monotonic()
    postgres.Production().prepare(sandbox)
    took = time.monotonic() - begun

    assert_healthy(healthy_facts(sandbox))
    assert took < 2, f"{took:.2f} s"


def test_a_load_that_was_cut_short_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backups, "_dump", lambda *_: None)  # tested below, and they take long
    cut, server = Sandbox(tmp_path / "home"), postgres.Production()
    try:
        server.start(cut)
        server.prepare(cut)
        with cut.state.change() as state:
            del state["platform"]  # set when all is loaded
        with postgres.admin(cut, server, PRODUCTION) as connection:
            connection.execute("DELETE FROM emissions WHERE id > 20000")
        server.prepare(cut)
        with postgres.admin(cut, server, PRODUCTION) as connection:
            assert backups.row_counts(connection)["emissions"] == 50_000
    finally:
        server.stop(cut)


# The read-only role -----------------------------------------------------------------------------


def test_the_read_only_role_reads_what_checks_need_and_no_more(sandbox: Sandbox) -> None:
    with as_ops(sandbox) as connection, postgres.admin(sandbox, postgres.Production()):
        for allowed in (
            "SELECT count(*) FROM tenants WHERE status = 'active'",
            "SELECT tenant_id, last_active FROM sessions",
            "SELECT action, actor, target, ip, details, created_at FROM audit_log",
            "SELECT query, calls, mean_exec_time FROM pg_stat_statements WHERE query <> '<insufficient privilege>'",
            "SELECT pid, state, query FROM pg_stat_activity",
            "SELECT pg_database_size('vcci_production'), current_setting('max_connections')",
        ):
            assert connection.execute(allowed.encode()).fetchone(), allowed
        for denied in (
            "SELECT password_hash FROM users",
            "SELECT email FROM users",
            "SELECT name FROM tenants",
            "SHOW primary_conninfo",
            "SELECT token_hash FROM sessions",
            "SELECT * FROM emissions",
            "SELECT key_hash FROM api_keys",
            "UPDATE tenants SET status = 'suspended'",
            "SET default_transaction_read_only = off; DELETE FROM audit_log",
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'client backend'"
            " AND pid <> pg_backend_pid()",
            "COPY (SELECT 1) TO PROGRAM 'true'",
        ):
            with pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.ReadOnlySqlTransaction)):
                connection.execute(denied.encode())
    assert ask(sandbox, "SELECT rolsuper, rolcreaterole, rolcreatedb FROM pg_roles WHERE rolname = 'vcci_ops'") == [
        (False, False, False)
    ]


def test_a_wrong_password_is_refused(sandbox: Sandbox) -> None:
    given = {**postgres.parameters(sandbox, "postgres", "vcci_ops", PRODUCTION), "password": "wrong"}
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(**given)


# Backups ----------------------------------------------------------------------------------------


@functools.cache
def objects_of(sandbox: Sandbox) -> Any:
    """Return a client through the proxy; making one costs a good part of a second."""
    return s3.client(sandbox, "s3")


def bucket(sandbox: Sandbox) -> dict[str, int]:
    answer = objects_of(sandbox).list_objects_v2(Bucket="vcci-backups", Prefix="daily/")
    return {item["Key"]: item["Size"] for item in answer.get("Contents", [])}


def newest(sandbox: Sandbox) -> str:
    return max(key for key in bucket(sandbox) if key.endswith(".dump"))


def fetch(sandbox: Sandbox, key: str) -> bytes:
    body: bytes = objects_of(sandbox).get_object(Bucket="vcci-backups", Key=key)["Body"].read()
    return body


def age(key: str) -> timedelta:
    return datetime.now(UTC) - datetime.strptime(key, backups.KEY).replace(tzinfo=UTC)


def test_two_weeks_of_backups_grow_a_little_each_night(sandbox: Sandbox) -> None:
    there = bucket(sandbox)
    dumps = sorted(key for key in there if key.endswith(".dump"))
    sizes = [there[key] for key in dumps]

    assert len(dumps) == 14
    assert len(there) == 28
    assert age(dumps[-1]) < timedelta(hours=24, minutes=1)
    assert age(dumps[0]) - age(dumps[-1]) == pytest.approx(timedelta(days=13), abs=timedelta(minutes=1))
    assert sizes == sorted(set(sizes))
    assert sizes[-1] / sizes[0] < 1.1


def test_each_manifest_tells_the_truth_about_its_dump(sandbox: Sandbox) -> None:
    assert_manifests(sandbox, [key for key in bucket(sandbox) if key.endswith(".dump")])


def assert_manifests(sandbox: Sandbox, keys: list[str]) -> None:
    for key in keys:
        content, note = fetch(sandbox, key), json.loads(fetch(sandbox, key + ".manifest.json"))
        assert content.startswith(b"PGDMP")
        assert note["key"] == key
        assert note["size"] == len(content)
        assert note["sha256"] == hashlib.sha256(content).hexdigest()
        assert note["schema_revision"] == RELEASE_REVISION
        assert datetime.fromisoformat(note["taken_at"]).strftime(backups.KEY) == key
        assert set(note) == {"schema_version", "key", "database", "taken_at", "size", "sha256", "pg_version",
                             "tool_version", "schema_revision", "tables"}  # fmt: skip


def test_the_newest_backup_restores_with_the_rows_its_manifest_counts(sandbox: Sandbox, tmp_path: Path) -> None:
    key = newest(sandbox)
    file = tmp_path / "newest.dump"
    file.write_bytes(fetch(sandbox, key))
    wanted = {t: n["rows"] for t, n in json.loads(fetch(sandbox, key + ".manifest.json"))["tables"].items()}
    given = postgres.parameters(sandbox, "postgres-restore", "vcci_restore", "postgres")
    with psycopg.connect(**given, autocommit=True) as connection:
        connection.execute("CREATE DATABASE scratch")
    argv = [sandbox.program("pg_restore", "postgresql-client"), "--no-owner", "--no-privileges", "--exit-on-error"]
    argv += ["-h", "127.0.0.1", "-p", str(given["port"]), "-U", "vcci_restore", "-d", "scratch", str(file)]
    env = {**os.environ, "PGPASSWORD": given["password"]}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    with psycopg.connect(**{**given, "dbname": "scratch"}) as connection:
        assert backups.row_counts(connection) == wanted
    with psycopg.connect(**given, autocommit=True) as connection:
        connection.execute("DROP DATABASE scratch")


def test_backups_missing(sandbox: Sandbox, broken: Callable[..., None]) -> None:
    broken("backup-missing")
    assert age(newest(sandbox)) > timedelta(hours=36)


def test_backup_truncated(sandbox: Sandbox, broken: Callable[..., None]) -> None:
    broken("backup-truncated")
    key = newest(sandbox)
    said = json.loads(fetch(sandbox, key + ".manifest.json"))["size"]
    assert age(key) < timedelta(hours=25)
    assert len(fetch(sandbox, key)) == said * 6 // 10


def test_backup_shrunken(sandbox: Sandbox, broken: Callable[..., None]) -> None:
    usual = statistics.median(size for key, size in bucket(sandbox).items() if key.endswith(".dump"))
    broken("backup-shrunken")
    key = newest(sandbox)
    content, note = fetch(sandbox, key), json.loads(fetch(sandbox, key + ".manifest.json"))
    assert len(content) == note["size"] < 0.4 * usual
    assert hashlib.sha256(content).hexdigest() == note["sha256"]
    assert note["tables"]["emissions"]["rows"] == 12_500
    s3.S3().prepare(sandbox)  # a start must not heal it
    assert fetch(sandbox, key) == content


def test_healed_backups_are_all_there_and_right(sandbox: Sandbox) -> None:
    test_two_weeks_of_backups_grow_a_little_each_night(sandbox)
    assert_manifests(sandbox, [newest(sandbox)])


def test_the_documents_that_the_database_names_are_in_s3(sandbox: Sandbox) -> None:
    answer = objects_of(sandbox).list_objects_v2(Bucket="vcci-documents")
    there = {(item["Key"], item["Size"]) for item in answer["Contents"]}

    assert there == set(ask(sandbox, "SELECT s3_key, size_bytes FROM documents"))


# Queues -----------------------------------------------------------------------------------------


def test_queues_hold_priorities_and_unacknowledged_tasks_and_a_worker_consumes_them(sandbox: Sandbox) -> None:
    with redis.client(sandbox, port="redis") as connection:
        keys = {key.decode() for key in connection.scan_iter()}
        steps = {step for queue in celery_app.QUEUES for step in (3, 6, 9) if f"celery:{queue}\x06\x16{step}" in keys}
        ends = ("", "\x06\x163", "\x06\x166", "\x06\x169")
        waits = {queue: sum(connection.llen(f"celery:{queue}{end}") for end in ends) for queue in celery_app.QUEUES}
        oldest = connection.zrange("celery:unacked_index", 0, 0, withscores=True)

        assert steps == {3, 6, 9}
        assert {f"celery:_kombu.binding.{queue}" for queue in celery_app.QUEUES} <= keys
        assert all(5 <= depth <= 60 for depth in waits.values()), waits
        assert 1 <= connection.hlen("celery:unacked") <= 10
        assert time.time() - oldest[0][1] < 300
        message = json.loads(connection.lindex("celery:calculator\x06\x163", 0))
    assert message["headers"]["task"] == "vcci.calculator.compute"
    assert redis.consumed(redis.application(sandbox)) == set(celery_app.QUEUES)


def test_the_cache_is_in_a_database_of_its_own(sandbox: Sandbox) -> None:
    with redis.client(sandbox, redis.CACHE_DB, "redis") as connection:
        assert len(list(connection.scan_iter(f"cache:tenant:{data.TENANTS[0].id}:*"))) == 13
        assert not list(connection.scan_iter("celery:*"))


def test_redis_wants_its_password(sandbox: Sandbox) -> None:
    with redis_client.Redis(port=sandbox.port("redis")) as connection, pytest.raises(redis_client.AuthenticationError):
        connection.ping()


def test_queue_backlog(sandbox: Sandbox, broken: Callable[..., None]) -> None:
    broken("queue-backlog")
    assert celery_app.waiting(redis.application(sandbox))["calculator"] > 5_000
    with redis.client(sandbox) as connection:
        assert connection.llen("celery:calculator\x06\x169") > 100


def test_queue_backlog_is_gone_when_healed(sandbox: Sandbox) -> None:
    assert celery_app.waiting(redis.application(sandbox))["calculator"] <= 2 * celery_app.QUEUES["calculator"][2]


def test_queue_without_a_consumer_and_its_return(sandbox: Sandbox, broken: Callable[..., None]) -> None:
    broken("queue-no-consumer")
    app = redis.application(sandbox)
    assert redis.consumed(app) == set(celery_app.QUEUES) - {"reporting"}
    assert celery_app.waiting(app)["reporting"] >= 40
    cli.heal(sandbox, services(), "queue-no-consumer")
    assert redis.consumed(app) == set(celery_app.QUEUES)


def test_redis_down_closes_at_once_and_comes_back_filled(sandbox: Sandbox, broken: Callable[..., None]) -> None:
    broken("redis-down")
    begun = time.monotonic()
    with pytest.raises(redis_client.ConnectionError), redis.client(sandbox, port="redis") as connection:
        connection.ping()
    assert time.monotonic() - begun < 5
    cli.heal(sandbox, services(), "redis-down")
    test_queues_hold_priorities_and_unacknowledged_tasks_and_a_worker_consumes_them(sandbox)


# Faults of the database -------------------------------------------------------------------------


def test_connections_near_the_limit_still_let_the_checks_in(sandbox: Sandbox, broken: Callable[..., None]) -> None:
    broken("db-connections")
    query = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
    with as_ops(sandbox) as connection:
        assert connection.execute(query.encode()).fetchone()[0] in range(92, 97)  # type: ignore[index]
    cli.heal(sandbox, services(), "db-connections")
    wait_until("few connections again", lambda: ask(sandbox, query)[0][0] < 20, seconds=5)


def test_an_idle_transaction_holds_its_lock(sandbox: Sandbox, broken: Callable[..., None]) -> None:
    broken("db-idle-transaction", seconds=1)
    query = (
        "SELECT extract(epoch FROM clock_timestamp() - xact_start), query FROM pg_stat_activity "
        "WHERE state = 'idle in transaction'"
    )
    with as_ops(sandbox) as connection:
        seconds, statement = connection.execute(query.encode()).fetchall()[0]
    assert seconds >= 1
    assert statement.startswith("UPDATE suppliers")
    cli.heal(sandbox, services(), "db-idle-transaction")
    wait_until("no idle transaction", lambda: not ask(sandbox, query), seconds=5)


def test_postgres_down_closes_at_once_and_comes_back_whole(sandbox: Sandbox, broken: Callable[..., None]) -> None:
    broken("postgres-down")
    begun = time.monotonic()
    with pytest.raises(psycopg.OperationalError):
        as_ops(sandbox)
    assert time.monotonic() - begun < 5
    cli.heal(sandbox, services(), "postgres-down")
    assert_healthy(healthy_facts(sandbox))


def test_security_anomalies(sandbox: Sandbox, broken: Callable[..., None]) -> None:
    broken("security-anomalies")
    facts = healthy_facts(sandbox)
    assert facts["failed"][0] > 100
    assert facts["attackers"] == 120
    assert facts["admins"] == 1
    assert facts["privileges"] == 3
    assert facts["future"] == 0
    cli.heal(sandbox, services(), "security-anomalies")
    assert_healthy(healthy_facts(sandbox))


def test_slow_query(sandbox: Sandbox, broken: Callable[..., None]) -> None:
    broken("slow-query")
    assert healthy_facts(sandbox)["slow"] == 1
    cli.heal(sandbox, services(), "slow-query")
    assert healthy_facts(sandbox)["slow"] == 0


def test_faults_on_top_of_each_other_heal_in_the_order_they_came(sandbox: Sandbox, broken: Callable[..., None]) -> None:
    for name in ("security-anomalies", "queue-no-consumer", "postgres-down", "redis-down"):
        broken(name)
    with pytest.raises(SandboxError, match=r"pg-production does not run: .*heal postgres-down"):
        broken("db-connections")
    cli.heal(sandbox, services(), None)

    assert_healthy(healthy_facts(sandbox))
    assert redis.consumed(redis.application(sandbox)) == set(celery_app.QUEUES)


# What goes on while it stays up -----------------------------------------------------------------


def test_queues_that_run_low_are_refilled_and_others_left_alone(sandbox: Sandbox) -> None:
    app = redis.application(sandbox)
    celery_app.purge(app, "hotspot")
    before = celery_app.waiting(app)
    celery_app.top_up(app)
    after = celery_app.waiting(app)

    assert before["hotspot"] < celery_app.QUEUES["hotspot"][1] <= after["hotspot"]
    assert after["calculator"] <= celery_app.QUEUES["calculator"][2] + 2


def test_a_night_brings_a_backup_and_moves_the_days_on(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    from sandbox.platform import nightly

    key = newest(sandbox)
    objects_of(sandbox).delete_object(Bucket="vcci-backups", Key=key)
    ask(sandbox, "UPDATE sessions SET last_active = last_active - interval '1 day' RETURNING 1")
    monkeypatch.setenv("VCCI_SANDBOX_HOME", str(sandbox.folder))
    nightly.main()

    assert newest(sandbox) == key
    assert_healthy(healthy_facts(sandbox))


# The proxy --------------------------------------------------------------------------------------


def timed(act: Callable[[], Any]) -> float:
    begun = time.monotonic()
    act()
    return time.monotonic() - begun


def test_slow_delays_each_answer_of_each_system_once(sandbox: Sandbox, broken: Callable[..., None]) -> None:
    def query() -> None:
        with as_ops(sandbox) as connection:
            connection.execute("SELECT 1").fetchone()

    def ping() -> None:
        with redis.client(sandbox, port="redis") as connection:
            connection.ping()

    objects = objects_of(sandbox)
    acts = [
        query,
        ping,
        objects.list_buckets,
        lambda: objects.put_object(Bucket="vcci-exports", Key="big", Body=bytes(3_000_000)),
    ]
    assert max(timed(act) for act in acts) < 0.9
    broken("slow", seconds=1)
    with ThreadPoolExecutor(len(acts)) as pool:
        took = list(pool.map(timed, acts))
    # PostgreSQL: one answer to the log-in, one to the query.
    assert [int(seconds) for seconds in took] == [2, 1, 1, 1]
    cli.heal(sandbox, services(), "slow")
    assert max(timed(act) for act in acts) < 0.9


def test_the_proxy_passes_large_answers_whole(sandbox: Sandbox) -> None:
    body = os.urandom(8_000_000)
    objects = objects_of(sandbox)
    objects.put_object(Bucket="vcci-exports", Key="large", Body=body)

    assert objects.get_object(Bucket="vcci-exports", Key="large")["Body"].read() == body


def test_a_slow_answer_comes_whole_even_if_the_server_hangs_up_meanwhile(
    sandbox: Sandbox, broken: Callable[..., None]
) -> None:
    broken("slow", seconds=0.5)
    with socket.create_server(("127.0.0.1", sandbox.port("prometheus-direct"))) as server:
        with socket.create_connection(("127.0.0.1", sandbox.port("prometheus")), timeout=5) as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            other, _ = server.accept()
            other.recv(100)
            other.sendall(b"x" * 500_000)
            other.close()
            begun, got = time.monotonic(), 0
            while piece := client.recv(65_536):
                got += len(piece)
    assert got == 500_000
    assert 0.4 < time.monotonic() - begun < 2


def test_a_front_without_its_server_hangs_up_at_once(sandbox: Sandbox) -> None:
    with socket.create_connection(("127.0.0.1", sandbox.port("prometheus")), timeout=5) as client:
        begun = time.monotonic()
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(1) == b""
        assert time.monotonic() - begun < 1


# Airflow's connections --------------------------------------------------------------------------


def test_airflows_own_hooks_accept_the_connections(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.providers.amazon.aws.hooks.s3 import S3Hook
    from airflow.providers.postgres.hooks.postgres import PostgresHook

    for service in services():
        for id_, connection in service.connections(sandbox).items():
            monkeypatch.setenv(f"AIRFLOW_CONN_{id_.upper()}", json.dumps(connection))

    assert PostgresHook("vcci_postgres").get_first("SELECT count(*) FROM tenants") == (5,)
    assert PostgresHook("vcci_postgres_restore").get_first("SELECT current_user") == ("vcci_restore",)
    assert PostgresHook("vcci_ops_db").get_first("SELECT current_database()") == ("vcci_ops",)
    assert S3Hook("vcci_s3").check_for_bucket("vcci-backups")


def test_airflow_owns_its_metadata_database(sandbox: Sandbox) -> None:
    import sqlalchemy

    with sqlalchemy.create_engine(postgres.airflow_dsn(sandbox)).begin() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE made (id int)"))
        connection.execute(sqlalchemy.text("DROP TABLE made"))


# Starting and stopping --------------------------------------------------------------------------


def test_everything_listens_on_loopback_only(sandbox: Sandbox) -> None:
    ports = {port for name in sandbox.state.read()["ports"] if listening(port := sandbox.port(name))}
    addresses = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            address, _, port = fields[1].rpartition(":")
            if fields[3] == "0A" and int(port, 16) in ports:
                addresses.add(address)

    assert len(ports) >= 9
    assert addresses == {"0100007F"}


def test_no_password_is_on_a_command_line_or_in_a_log(sandbox: Sandbox) -> None:
    secrets = [secret.encode() for secret in sandbox.state.read()["secrets"].values()]
    texts = [(Path("/proc") / str(pid) / "cmdline").read_bytes() for pid in processes_of(sandbox.folder)]
    texts += [log.read_bytes() for log in (sandbox.folder / "logs").iterdir()]

    assert texts
    assert not [secret for secret in secrets for text in texts if secret in text]


def test_a_killed_postgres_recovers_with_all_it_had(sandbox: Sandbox) -> None:
    server = postgres.Production()
    pid = sandbox.pid(server.name)
    assert pid
    os.kill(pid, signal.SIGKILL)
    server.start(sandbox)

    assert sandbox.pid(server.name) != pid
    assert ask(sandbox, "SELECT count(*) FROM emissions") == [(50_000,)]


def test_down_leaves_no_process_and_the_next_start_is_quick_and_keeps_reports(sandbox: Sandbox) -> None:
    objects = s3.client(sandbox)
    objects.put_object(Bucket="vcci-reports", Key="reports/a.html", Body=b"<p>", ContentType="text/html")
    assert processes_of(sandbox.folder)
    cli.down(sandbox, services())

    wait_until("no process left", lambda: not processes_of(sandbox.folder), seconds=5)
    begun = time.monotonic()
    cli.up(sandbox, services())
    took = time.monotonic() - begun
    answer = s3.client(sandbox).get_object(Bucket="vcci-reports", Key="reports/a.html")
    assert (answer["Body"].read(), answer["ContentType"]) == (b"<p>", "text/html")
    assert_healthy(healthy_facts(sandbox))
    assert took < 30, f"{took:.1f} s"
