"""A tenant's rows found, deleted and proven gone, on a real server with the shipped grants and hostile schemas."""

from __future__ import annotations

import dataclasses
import functools
import json
import multiprocessing
import os
import re
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandbox.service import Sandbox
from sandbox.services import postgres
from tests.integration.tenant_schemas import ADA, BOB, ROWS, Database, Databases
from vcci_ops.domain.plans import plan_hash
from vcci_ops.domain.tenant_graph import Graph
from vcci_ops.exceptions import ChangeFailed, Forbidden, InvalidInput, NoData
from vcci_ops.hooks.tenant_erase import Batch, Erased, erase
from vcci_ops.hooks.tenant_graph import TenantCatalog
from vcci_ops.hooks.tenant_others import unharmed
from vcci_ops.settings_tenants import Erasure

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def databases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Databases]:
    sandbox, server = Sandbox(tmp_path_factory.mktemp("sandbox")), postgres.Production()
    server.start(sandbox)
    try:
        made = Databases(sandbox, server)
        made.prepare()
        yield made
    finally:
        server.stop(sandbox)


def limits(**changes: Any) -> Erasure:
    """Return the default limits with small batches."""
    erasure = Erasure(legal_bases=("test",), export_bucket="exports")
    return erasure.model_copy(update={"batch_rows": 4, "lock_timeout": 0.2, **changes})


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Any:
    def connected(database: Database) -> Database:
        for name, value in database.connections().items():
            monkeypatch.setenv(name, value)
        return database

    return connected


@pytest.fixture
def hostile(databases: Databases, connect: Any) -> Database:
    """The hostile schema; Bob has rows in it, so does nobody."""
    database: Database = connect(databases.fresh("hostile"))
    database.fill(BOB, "bob", 100_000)
    database.run("INSERT INTO rates VALUES (1, 100001), (2, NULL)", "INSERT INTO comments VALUES (999999, NULL, NULL)")
    return database


@pytest.fixture
def bare(databases: Databases, connect: Any) -> Database:
    """A table of tenants with two of them, and nothing else."""
    database: Database = connect(databases.fresh("bare"))
    database.run(f"INSERT INTO tenants VALUES ('{ADA}', 'ada', 'Ada', 'active'), ('{BOB}', 'bob', 'Bob', 'active')")
    return database


def planned(tenant_id: str = ADA, **changes: Any) -> Graph:
    return TenantCatalog(erasure=limits(**changes)).graph(tenant_id)


def blocked(tenant_id: str = ADA, **changes: Any) -> list[str]:
    catalog = TenantCatalog(erasure=limits(**changes))
    return catalog.blocked(catalog.graph(tenant_id), tenant_id)


def erased(graph: Graph | None = None, tenant_id: str = ADA, **changes: Any) -> Erased:
    return erase(graph or planned(tenant_id), tenant_id, limits(**changes))


def counted(graph: Graph) -> dict[str, int]:
    return {place.name: place.rows for place in graph.places if place.rows}


# Found and deleted ------------------------------------------------------------------------------


def test_a_hostile_schema_is_as_it_was_before_the_tenant_came(hostile: Database) -> None:
    before = hostile.everything()
    hostile.fill(ADA, "ada", 0)
    graph = planned()
    assert counted(graph) == ROWS
    assert blocked() == []
    assert Graph.from_dict(json.loads(json.dumps(graph.to_dict()))) == graph
    result = erased(graph)
    after = hostile.everything()
    orphan = [row for row in after["notes"] if row not in before["notes"]]
    assert orphan == [f"(,1,{ADA},,)"]  # its key is not whole: it refers to nothing, and names nobody
    after["notes"].remove(orphan[0])
    assert after == before
    by_keys = ROWS.keys() & result.also.keys()  # ON DELETE CASCADE took some of these
    assert {name: count for name, count in result.rows.items() if name not in by_keys} == {
        name: count for name, count in ROWS.items() if name not in by_keys
    }
    assert counted(planned()) == {}
    assert "public.notes.w: 1 row has the tenant's id" in TenantCatalog(erasure=limits()).findings(ADA, "ada")


def test_children_come_before_parents_and_the_tenant_last_where_it_can_be(hostile: Database) -> None:
    order = [place.name for place in planned().places]
    for child, parent in (("notes", "lines"), ("lines", "orders"), ("files", "folders"), ("event_details", "events")):
        assert order.index(f"public.{child}") < order.index(f"public.{parent}")
    cycles = planned().cycles
    assert any({"public.teams", "public.users", "public.tenants"} <= set(group) for group in cycles)
    assert ("public.folders",) in cycles


def test_every_reason_is_told(hostile: Database) -> None:
    reasons = {place.name: place.reasons for place in planned().places}
    assert reasons["public.tenants"] == ("the tenant itself",)
    assert reasons["public.lines"] == ("belongs to public.orders by whose, number",)
    assert reasons["public.hens"][0] == "tenant_id names the tenant, without a foreign key"
    assert "belongs to public.users by user_id where tenant_id is empty" in reasons["public.comments"]
    assert reasons['"Ten ant".order'] == ('belongs to "Ten ant"."We""ird.Table" by select',)


def test_a_row_of_nobody_that_outlives_its_reference_stays_and_the_plan_says_so(hostile: Database) -> None:
    hostile.fill(ADA, "ada", 0)
    hostile.run("INSERT INTO rates VALUES (3, 1), (4, 2)")
    graph = planned()
    (link,) = [link for link in graph.links if link.child == "public.rates"]
    assert ([place.name for place in graph.shared], link.clears) == (["public.rates"], 2)
    result = erased(graph)
    assert hostile.everything()["rates"] == ["(1,100001)", "(2,)", "(3,)", "(4,)"]
    assert result.also["public.rates"] == 2


def test_a_setting_makes_such_a_row_the_tenants(hostile: Database) -> None:
    hostile.fill(ADA, "ada", 0)
    hostile.run("INSERT INTO rates VALUES (3, 1), (4, 2)")
    through = {"belongs_through": ("public.rates.rates_checked_by_fkey",)}
    with hostile.admin() as connection:  # as the file has it when its list names the key, too
        connection.execute("GRANT DELETE, SELECT (ctid, tableoid, xmin, id, checked_by) ON rates TO vcci_ops_erase")
    graph = planned(**through)
    assert counted(graph)["public.rates"] == 2
    erased(graph, **through)
    assert hostile.everything()["rates"] == ["(1,100001)", "(2,)"]


def test_a_tenant_without_rows(hostile: Database) -> None:
    hostile.run(f"INSERT INTO tenants VALUES ('{ADA}', 'ada', 'Ada', 'active')")
    assert counted(planned()) == {"public.tenants": 1}
    assert erased().rows["public.tenants"] == 1
    assert erased().rows.get("public.tenants", 0) == 0  # a second time finds nothing, and is content


@pytest.mark.parametrize(
    "tenant_id", ["", "x'; DROP TABLE tenants; --", "{" + ADA + "}", ADA + "\n", ADA.replace("-", "")]
)
def test_an_id_that_is_none_reaches_no_statement(bare: Database, tenant_id: str) -> None:
    with pytest.raises(InvalidInput, match="tenant_id"):
        planned(tenant_id)
    with pytest.raises(InvalidInput, match="tenant_id"):
        erase(planned(), tenant_id, limits())


def test_a_slug_that_is_anothers_id_finds_whose_slug_it_is(bare: Database) -> None:
    bare.run(f"INSERT INTO tenants VALUES (gen_random_uuid(), '{BOB}', 'Trick', 'active')")
    assert TenantCatalog(erasure=limits()).find(BOB).name == "Trick"
    with pytest.raises(NoData, match="no tenant has the slug nobody"):
        TenantCatalog(erasure=limits()).find("nobody")


def test_a_legal_hold_is_read(bare: Database) -> None:
    bare.run(f"""UPDATE tenants SET settings = '{{"legal_hold": " case 7 "}}' WHERE id = '{ADA}'""")
    assert (TenantCatalog(erasure=limits()).find("ada").hold, TenantCatalog(erasure=limits()).find("bob").hold) == (
        "case 7",
        "",
    )


# What stands against it -------------------------------------------------------------------------


SUPPLIERS = """
CREATE TABLE suppliers (id int PRIMARY KEY, tenant_id uuid NOT NULL REFERENCES tenants);
INSERT INTO suppliers VALUES (1, '{ada}'), (2, '{bob}')
"""


@pytest.mark.parametrize("action", ["", "ON DELETE CASCADE", "ON DELETE SET NULL"])
def test_a_row_of_another_tenant_that_refers_to_it_is_named_whatever_its_key_would_do(
    bare: Database, action: str
) -> None:
    bare.run(
        SUPPLIERS.format(ada=ADA, bob=BOB),
        "CREATE TABLE deals (a int, b int, tenant_id uuid NOT NULL, supplier_id int REFERENCES suppliers "
        f"{action}, PRIMARY KEY (a, b))",
        f"INSERT INTO deals SELECT n, 7, '{BOB}', 1 FROM generate_series(1, 8) n",
        f"INSERT INTO deals VALUES (9, 7, '{BOB}', 2), (10, 7, '{ADA}', 1)",
    )
    (said,) = blocked()
    assert said.startswith("rows of another tenant refer to it: public.deals (supplier_id) → public.suppliers")
    assert said.endswith("a=1, b=7; a=2, b=7; a=3, b=7; a=4, b=7; a=5, b=7; 8 in all")
    with pytest.raises(ChangeFailed, match=r"rows of the tenant are left: .*public.suppliers"):
        erased()
    everything = bare.everything()
    assert len(everything["deals"]) == 9
    assert all(row.endswith(",1)") for row in everything["deals"] if row.startswith("(1,"))


def test_a_tenant_that_another_tenant_names_as_its_parent(bare: Database) -> None:
    bare.run(
        "ALTER TABLE tenants ADD parent uuid REFERENCES tenants ON DELETE SET NULL",
        f"UPDATE tenants SET parent = '{ADA}' WHERE id = '{BOB}'",
    )
    assert blocked() == [
        f"rows of another tenant refer to it: public.tenants (parent) → public.tenants, tenants_parent_fkey: id={BOB}"
    ]


def test_a_child_of_two_tenants_is_nobodys_to_delete(bare: Database) -> None:
    bare.run(
        SUPPLIERS.format(ada=ADA, bob=BOB),
        "CREATE TABLE pairs (id int PRIMARY KEY, one int REFERENCES suppliers, other int REFERENCES suppliers)",
        "INSERT INTO pairs VALUES (1, 1, 1), (2, 1, 2), (3, 2, 2), (4, 1, NULL)",
    )
    assert blocked() == [
        "rows of two tenants at once: public.pairs (one) → public.suppliers, pairs_one_fkey: id=2"
    ] or blocked() == ["rows of two tenants at once: public.pairs (other) → public.suppliers, pairs_other_fkey: id=2"]


def test_kept_tables_stay_and_cannot_when_they_refer_to_what_goes(bare: Database) -> None:
    bare.run(
        "CREATE TABLE invoices (id int PRIMARY KEY, tenant_id uuid NOT NULL)",
        f"INSERT INTO invoices VALUES (1, '{ADA}')",
    )
    kept = {"kept_tables": ("public.invoices",)}
    assert (blocked(**kept), counted(planned(**kept))) == ([], {"public.tenants": 1})
    assert [(place.name, place.rows) for place in planned(**kept).kept] == [("public.invoices", 1)]
    bare.run("ALTER TABLE invoices ADD FOREIGN KEY (tenant_id) REFERENCES tenants")
    assert "kept rows cannot stay, for they refer to what is deleted" in blocked(**kept)[0]


def test_an_ignored_schema_that_refers_to_the_tenant_is_not_ignored(bare: Database) -> None:
    bare.run(
        "CREATE SCHEMA apart CREATE TABLE facts (id int PRIMARY KEY, tenant_id uuid, whose uuid REFERENCES tenants)",
        f"INSERT INTO apart.facts VALUES (1, '{ADA}', NULL)",
    )
    ignored = {"schemas_ignored": ("apart",)}
    assert (blocked(**ignored), counted(planned(**ignored))) == ([], {"public.tenants": 1})
    bare.run(f"UPDATE apart.facts SET whose = '{ADA}'")
    assert "apart.facts (whose) → public.tenants" in blocked(**ignored)[0]


def test_what_cannot_be_deleted_is_a_finding(bare: Database) -> None:
    bare.run(
        "CREATE TABLE odd (tenant_id int)",
        "CREATE MATERIALIZED VIEW summed AS SELECT id AS tenant_id FROM tenants",
        "CREATE VIEW seen AS SELECT id AS tenant_id FROM tenants",
        "SELECT lo_create(0)",
    )
    warnings = " | ".join(planned().warnings)
    assert "finding: public.odd.tenant_id (int4) is no uuid" in warnings
    assert "finding: the materialized view public.summed has a column tenant_id; refresh it afterwards" in warnings
    assert "finding: 1 large objects" in warnings
    assert "seen" not in warnings


def test_a_missing_index_that_makes_it_slow_is_told(bare: Database) -> None:
    bare.run(
        "CREATE TABLE a (id int PRIMARY KEY, tenant_id uuid)",
        "CREATE TABLE b (id int PRIMARY KEY, tenant_id uuid, a_id int REFERENCES a)",
        f"INSERT INTO a SELECT n, '{ADA}' FROM generate_series(1, 4000) n",
        f"INSERT INTO b SELECT n, '{BOB}' FROM generate_series(1, 4000) n",
        "ANALYZE",
    )
    (said,) = planned().warnings
    assert said.startswith("slow: no index of public.b begins with a_id")
    assert "4,000 rows deleted from public.a" in said
    bare.run("CREATE INDEX ON b (a_id)")
    assert planned().warnings == ()


# The plan is stale ------------------------------------------------------------------------------


def test_a_row_added_between_plan_and_deletion_is_another_plan(bare: Database) -> None:
    bare.run("CREATE TABLE things (id int, tenant_id uuid)")
    before = plan_hash(planned().identity())
    bare.run("ANALYZE")
    assert plan_hash(planned().identity()) == before
    bare.run(f"INSERT INTO things VALUES (1, '{ADA}')")
    assert plan_hash(planned().identity()) != before


def test_a_table_born_since_the_plan_is_found_by_the_proof(bare: Database) -> None:
    graph = planned()
    bare.run("CREATE TABLE born (tenant_id text)", f"INSERT INTO born VALUES ('{ADA}')")
    erased(graph)
    assert counted(planned()) == {"public.born": 1}


def test_a_foreign_key_born_since_the_plan_cannot_reach_into_another_tenants_rows(bare: Database) -> None:
    bare.run(SUPPLIERS.format(ada=ADA, bob=BOB))
    graph = planned()
    bare.run(
        "CREATE TABLE deals (id int, tenant_id uuid, supplier_id int REFERENCES suppliers ON DELETE CASCADE)",
        f"INSERT INTO deals VALUES (1, '{BOB}', 1)",
    )
    with pytest.raises(ChangeFailed, match=r"deleting from public.suppliers would also change 1 rows of public.deals"):
        erased(graph)
    assert bare.everything()["deals"] == [f"(1,{BOB},1)"]
    assert len(bare.everything()["suppliers"]) == 2


def test_triggers_are_told_and_what_they_write_is_counted(bare: Database) -> None:
    bare.run(
        "CREATE TABLE things (id int, tenant_id uuid); CREATE TABLE log (id int)",
        f"INSERT INTO things SELECT n, '{ADA}' FROM generate_series(1, 6) n",
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS "
        "$$ BEGIN INSERT INTO log VALUES (old.id); RETURN old; END $$",
        "CREATE TRIGGER noted AFTER DELETE ON things FOR EACH ROW EXECUTE FUNCTION note()",
    )
    graph = planned()
    assert "public.things has triggers that run for each deleted row: noted" in graph.warnings
    assert erased(graph).also == {"public.log": 6}


def test_a_trigger_that_keeps_rows_does_not_pass_for_done(bare: Database) -> None:
    bare.run(
        "CREATE TABLE things (id int, tenant_id uuid)",
        f"INSERT INTO things VALUES (1, '{ADA}')",
        "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$",
        "CREATE TRIGGER kept BEFORE DELETE ON things FOR EACH ROW EXECUTE FUNCTION keep()",
    )
    with pytest.raises(ChangeFailed, match=r"public.things keeps 1 rows that it was told to delete"):
        erased()


# Batches, kills, locks --------------------------------------------------------------------------


def test_each_batch_is_bounded_and_told(bare: Database) -> None:
    bare.run("CREATE TABLE things (tenant_id uuid)", f"INSERT INTO things SELECT '{ADA}' FROM generate_series(1, 10)")
    told: list[Batch] = []
    erase(planned(), ADA, limits(), told.append)
    assert [(batch.place, batch.rows, batch.total) for batch in told] == [
        ("public.things", 4, 4),
        ("public.things", 4, 8),
        ("public.things", 2, 10),
        ("public.tenants", 1, 1),
    ]


def _erase_and_tell(graph: Graph, told: Any) -> None:
    erase(graph, ADA, limits(), lambda batch: told.send(batch.total))


def test_killed_at_any_batch_it_goes_on_and_ends_the_same(hostile: Database) -> None:
    before = hostile.everything()
    hostile.fill(ADA, "ada", 0)
    hostile.run("DELETE FROM notes WHERE l IS NULL AND w = '" + ADA + "'")
    graph = planned()
    forking = multiprocessing.get_context("fork")
    for batches in (1, 9, 20):
        here, there = forking.Pipe(duplex=False)
        child = forking.Process(target=_erase_and_tell, args=(graph, there))
        child.start()
        there.close()
        for _ in range(batches):
            here.recv()
        child.kill()
        child.join()
        assert 0 < sum(counted(planned()).values()) < sum(ROWS.values())
    erased()
    assert hostile.everything() == before


def test_who_holds_a_lock_is_named(bare: Database) -> None:
    bare.run("CREATE TABLE things (id int, tenant_id uuid)", f"INSERT INTO things VALUES (1, '{ADA}'), (2, '{BOB}')")
    graph = planned()
    with bare.admin(autocommit=False) as other:
        other.execute("SET application_name = 'nightly import'")
        other.execute(f"SELECT FROM things WHERE tenant_id = '{ADA}' FOR UPDATE")
        pid = other.info.backend_pid
        with pytest.raises(ChangeFailed) as failed:
            erased(graph, lock_timeout=0.05)
    said = str(failed.value)
    assert re.search(
        rf"held by process {pid} \(postgres, nightly import, idle in transaction, in a transaction since", said
    )
    assert "End what holds it, then run this again" in said
    assert erased(graph).rows["public.things"] == 1


def test_it_pauses_while_others_wait_for_locks(bare: Database) -> None:
    bare.run(
        "CREATE TABLE things (id int, tenant_id uuid); CREATE TABLE busy (id int)",
        f"INSERT INTO things VALUES (1, '{ADA}'), (2, '{BOB}')",
    )
    graph, result, done = planned(), list[Erased](), threading.Event()
    with bare.admin(autocommit=False) as first:
        first.execute("LOCK TABLE busy IN ACCESS EXCLUSIVE MODE")
        waiters = [threading.Thread(target=_quietly, args=(bare, "SELECT FROM busy")) for _ in range(3)]
        deleting = threading.Thread(target=lambda: (result.append(erased(graph, pause_waits=2)), done.set()))
        for thread in waiters:
            thread.start()
        _until_waiting(bare, 3)
        deleting.start()
        assert not done.wait(0.7)
        with bare.admin() as second:
            assert second.execute("SELECT count(*) FROM things").fetchone() == (2,)
        first.rollback()
    assert done.wait(20)
    for thread in (*waiters, deleting):
        thread.join()
    assert result[0].paused > 0.5


def _quietly(database: Database, text: str) -> None:
    with database.admin() as connection:
        connection.execute(text)


def _until_waiting(database: Database, count: int) -> None:
    deadline = time.monotonic() + 20
    with database.admin() as connection:
        while time.monotonic() < deadline:
            row = connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
            ).fetchone()
            if row and row[0] >= count:
                return
            time.sleep(0.02)
    raise AssertionError("nobody waits")


# Other tenants ----------------------------------------------------------------------------------


def test_another_tenant_works_on_unharmed_meanwhile(databases: Databases, connect: Any) -> None:
    database: Database = connect(databases.fresh("platform"))
    ids = {"ada": ADA, "bob": BOB}
    for slug, id_ in ids.items():
        database.run(
            f"INSERT INTO tenants (id, name, slug, subscription_tier) VALUES ('{id_}', 'T', '{slug}', 'starter')",
            f"INSERT INTO suppliers (tenant_id, name, country, industry) SELECT '{id_}', 's', 'SE', 'steel' FROM "
            "generate_series(1, 30)",
            "INSERT INTO emissions (tenant_id, supplier_id, category, period, activity, unit, factor, co2e_kg, "
            f"data_quality) SELECT tenant_id, id, 1, '2026-01-01', 1, 'kg', 1, 1, 1 FROM suppliers, "
            f"generate_series(1, 40) WHERE tenant_id = '{id_}'",
        )
    catalog, stop, failures = TenantCatalog(erasure=limits()), threading.Event(), list[BaseException]()
    graph = catalog.graph(ADA)
    before = catalog.others(graph, ADA)

    def work() -> None:
        try:
            with database.as_role("vcci_app") as connection:
                connection.execute("SET lock_timeout = '1s'")
                while not stop.is_set():
                    connection.execute(
                        "UPDATE emissions SET co2e_kg = co2e_kg + 1 WHERE id = "
                        "(SELECT id FROM emissions WHERE tenant_id = %s ORDER BY random() LIMIT 1)",
                        (BOB,),
                    )
                    connection.execute(
                        "INSERT INTO suppliers (tenant_id, name, country, industry) VALUES (%s, 'new', 'SE', 'steel')",
                        (BOB,),
                    )
        except BaseException as error:
            failures.append(error)

    worker = threading.Thread(target=work)
    worker.start()
    erase(graph, ADA, limits(batch_rows=50))
    stop.set()
    worker.join()
    assert failures == []
    after = catalog.others(graph, ADA, next(iter(before.values()))["horizon"])
    assert after["public.users"] == before["public.users"]
    changed = [said for said in unharmed(before, after) if not said.startswith("public.emissions: ")]
    assert changed == []  # new suppliers are none of those that stood before
    assert counted(catalog.graph(BOB))["public.emissions"] == 1200
    assert counted(catalog.graph(ADA)) == {}


def test_a_changed_row_of_another_tenant_is_seen_whatever_the_order(bare: Database) -> None:
    bare.run(
        SUPPLIERS.format(ada=ADA, bob=BOB), f"INSERT INTO suppliers SELECT n, '{BOB}' FROM generate_series(3, 9) n"
    )
    catalog = TenantCatalog(erasure=limits())
    graph = catalog.graph(ADA)
    before = catalog.others(graph, ADA)
    horizon = before["public.suppliers"]["horizon"]
    bare.run(f"INSERT INTO suppliers VALUES (100, '{BOB}')", "UPDATE suppliers SET tenant_id = tenant_id WHERE id = 1")
    assert unharmed(before, catalog.others(graph, ADA, horizon)) == []
    bare.run("DELETE FROM suppliers WHERE id IN (4, 5)")
    assert unharmed(before, catalog.others(graph, ADA, horizon)) == [
        "public.suppliers: 2 of 8 rows of others were changed or deleted meanwhile"
    ]


def test_id_and_slug_are_found_wherever_they_stand_elsewhere(bare: Database) -> None:
    bare.run(
        "CREATE TABLE letters (id int, body text, extra jsonb, tags varchar(80)[], key uuid, secret bytea)",
        f"""INSERT INTO letters VALUES
            (1, 'Dear ADA,', '{{"deep": [{{"id": "{ADA.upper()}"}}]}}', ARRAY['x', 'ada'], NULL, NULL),
            (2, 'adamant, canada, ada-2', '{{}}', '{{}}', '{ADA}', NULL),
            (3, '{ADA.replace("-", "")}', 'null', NULL, NULL, NULL)""",
        "CREATE TABLE own (tenant_id uuid, text text)",
        f"INSERT INTO own VALUES ('{ADA}', 'ada'), ('{BOB}', 'bob')",
    )
    assert TenantCatalog(erasure=limits()).findings(ADA, "ada") == [
        "public.letters.body: 1 row has the tenant's id",
        "public.letters.body: 1 row has the tenant's slug",
        "public.letters.extra: 1 row has the tenant's id",
        "public.letters.tags: 1 row has the tenant's slug",
        "public.letters.key: 1 row has the tenant's id",
    ]
    with bare.admin(autocommit=False) as other:
        other.execute("LOCK TABLE letters IN ACCESS EXCLUSIVE MODE")
        assert TenantCatalog(erasure=limits(lock_timeout=0.05)).findings(ADA, "ada") == [
            "not searched: public.letters, for somebody holds its lock"
        ]


# Rights -----------------------------------------------------------------------------------------

READABLE = {
    "tenants": {"id"},
    "users": {"id", "tenant_id"},
    "sessions": {"id", "tenant_id", "user_id"},
    "api_keys": {"id", "tenant_id", "created_by"},
    "suppliers": {"id", "tenant_id", "parent_supplier_id"},
    "calculations": {"id", "tenant_id", "requested_by"},
    "calculation_inputs": {"id", "calculation_id"},
    "emissions": {"id", "tenant_id", "supplier_id", "calculation_id"},
    "emission_attachments": {"id", "emission_id"},
    "documents": {"id", "tenant_id", "supplier_id", "uploaded_by"},
    "reports": {"id", "tenant_id", "calculation_id"},
    "audit_log": {"id", "tenant_id"},
    "usage_events": {"id", "tenant_id"},
}
"""What the role that deletes may read of the platform, of every tenant: keys, and whose a row is."""


def test_the_roles_have_what_they_need_and_no_more(databases: Databases) -> None:
    database = databases.fresh("platform")
    refused = {
        "vcci_ops_export": (
            "SELECT password_hash FROM users",
            "SELECT * FROM sessions",
            "SELECT key_hash FROM api_keys",
            "DELETE FROM usage_events",
        ),
        "vcci_ops_erase": (
            "SELECT email FROM users",
            "SELECT name FROM tenants",
            "SELECT co2e_kg FROM emissions",
            "UPDATE suppliers SET parent_supplier_id = NULL",
            "INSERT INTO usage_events (tenant_id, kind, quantity) VALUES (gen_random_uuid(), '', 1)",
            "TRUNCATE usage_events",
            "DELETE FROM alembic_version",
        ),
    }
    allowed = {
        "vcci_ops_export": "SELECT email, name FROM users",
        "vcci_ops_erase": "SELECT ctid, id, tenant_id, supplier_id FROM emissions",
    }
    for role, statements in refused.items():
        with database.as_role(role) as connection:
            connection.execute("SET default_transaction_read_only = off")
            connection.execute(allowed[role])
            for statement in statements:
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(statement)
    with database.admin() as connection:
        roles = connection.execute(
            "SELECT bool_or(rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls) FROM pg_roles "
            "WHERE rolname IN ('vcci_ops_export', 'vcci_ops_erase')"
        ).fetchone()
    assert roles == (False,)


def test_the_deleting_role_reads_keys_and_whose_a_row_is_and_nothing_else_of_any_tenant(databases: Databases) -> None:
    database = databases.fresh("platform")
    with database.admin() as connection:
        granted = connection.execute(
            "SELECT c.relname, a.attname, t.typname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid "
            "JOIN pg_type t ON t.oid = a.atttypid JOIN pg_namespace n ON n.oid = c.relnamespace "
            "WHERE c.relkind IN ('r', 'p', 'v', 'm') AND n.nspname NOT IN ('pg_catalog', 'information_schema') "
            "AND a.attnum > 0 AND NOT a.attisdropped "
            "AND has_column_privilege('vcci_ops_erase', c.oid, a.attnum, 'SELECT')"
        ).fetchall()
        on_tables = connection.execute(
            "SELECT DISTINCT privilege_type FROM information_schema.table_privileges WHERE grantee = 'vcci_ops_erase'"
        ).fetchall()
    readable: dict[str, set[str]] = {}
    for table, column, _ in granted:
        readable.setdefault(table, set()).add(column)
    assert readable == READABLE
    assert {kind for _, _, kind in granted} <= {"uuid", "int4", "int8"}  # no text, so no personal data
    assert on_tables == [("DELETE",)]


def test_withheld_columns_are_named_and_left_out(databases: Databases, connect: Any) -> None:
    connect(databases.fresh("platform"))
    users = planned(str(uuid.uuid4())).place("public.users")
    assert users.withheld == ("password_hash",)
    assert "password_hash" not in users.columns
    assert "email" in users.columns


def test_a_table_that_came_without_its_grants_stops_the_plan(bare: Database) -> None:
    with bare.admin() as connection:
        connection.execute("CREATE TABLE late (id int, tenant_id uuid)")
    with pytest.raises(Forbidden, match="late"):
        planned()


def test_rows_that_a_policy_hides_are_not_taken_for_none(bare: Database) -> None:
    bare.run(
        "CREATE TABLE things (id int, tenant_id uuid)",
        "ALTER TABLE things ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY mine ON things USING (false)",
    )
    with pytest.raises(Forbidden, match="ALTER ROLE vcci_ops_export BYPASSRLS"):
        planned()


# Any schema -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Schema:
    """Some tables: whether each names the tenant (and may leave it empty), and what each refers to."""

    owners: tuple[str, ...]
    keys: tuple[tuple[int, int, str], ...]
    rows: tuple[tuple[int, ...], ...]


@st.composite
def schemas(draw: st.DrawFn) -> Schema:
    count = draw(st.integers(2, 5))
    owners = tuple(draw(st.sampled_from(["", "uuid", "uuid NOT NULL", "text"])) for _ in range(count))
    tables = st.integers(0, count - 1)
    actions = st.sampled_from(["", "ON DELETE CASCADE", "ON DELETE RESTRICT", "DEFERRABLE INITIALLY DEFERRED"])
    keys = tuple(draw(st.lists(st.tuples(tables, tables, actions), max_size=7)))
    rows = tuple(tuple(draw(st.lists(st.integers(-1, 5), min_size=6, max_size=6))) for _ in keys)
    return Schema(owners, keys, rows)


@given(schema=schemas())
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_any_schema_is_as_it_was_before_the_tenant_came(databases: Databases, schema: Schema) -> None:
    database = _swept(databases)
    database.run(*_tables(schema), *_rows(schema, BOB, 100), *_rows(schema, ADA, 0))
    expected = {
        f"t{n}": {f"{base + row}" for base in (0, 100) for row in range(6) if base or (n, row) not in _reached(schema)}
        for n in range(len(schema.owners))
    }
    graph = planned()
    assert blocked() == []
    erased(graph)
    left = database.everything()
    assert {name: {row.strip("()").split(",")[0] for row in left[name]} for name in expected} == expected
    assert sum(counted(graph).values()) == 1 + len(_reached(schema))
    assert counted(planned()) == {}


@functools.cache
def _of_any_schema(databases: Databases) -> Database:
    return databases.fresh("bare")


def _swept(databases: Databases) -> Database:
    """Return a database without any table but that of tenants, which is empty."""
    database = _of_any_schema(databases)
    os.environ.update(database.connections())
    with database.admin() as connection:
        connection.execute("DROP TABLE IF EXISTS t0, t1, t2, t3, t4 CASCADE; DELETE FROM tenants")
    return database


def _reached(schema: Schema) -> set[tuple[int, int]]:
    """Return (table, row) of what is the tenant's, worked out in the plainest way."""
    found = {(n, row) for n, owner in enumerate(schema.owners) if owner for row in range(6)}
    while True:
        new = {
            (child, row)
            for (child, parent, _), targets in zip(schema.keys, schema.rows, strict=True)
            for row, target in enumerate(targets)
            if target >= 0 and (parent, target) in found
        }
        if new <= found:
            return found
        found |= new


def _tables(schema: Schema) -> list[str]:
    owned = [f", tenant_id {owner}" if owner else "" for owner in schema.owners]
    return [
        *(f"CREATE TABLE t{n} (id int PRIMARY KEY{column})" for n, column in enumerate(owned)),
        *(
            f"ALTER TABLE t{child} ADD k{n} int REFERENCES t{parent} {action}"
            for n, (child, parent, action) in enumerate(schema.keys)
        ),
    ]


def _rows(schema: Schema, tenant_id: str, base: int) -> list[str]:
    slug = {ADA: "ada", BOB: "bob"}[tenant_id]
    found = [f"INSERT INTO tenants VALUES ('{tenant_id}', '{slug}', 'T', 'active')"]
    for n, owner in enumerate(schema.owners):
        column = ", tenant_id" if owner else ""
        value = f", '{tenant_id}'" if owner else ""
        found.append(f"INSERT INTO t{n} (id{column}) SELECT {base} + i{value} FROM generate_series(0, 5) i")
    for n, ((child, _, _), targets) in enumerate(zip(schema.keys, schema.rows, strict=True)):
        for row, target in enumerate(targets):
            if target >= 0:
                found.append(f"UPDATE t{child} SET k{n} = {base + target} WHERE id = {base + row}")
    return found
