"""The revision of the schema, on a real server with the platform's migrations and the shipped grants."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from sandbox.platform import RELEASE_REVISION
from sandbox.service import Sandbox
from sandbox.services import postgres
from vcci_ops.domain.migrations import SchemaChange, classify
from vcci_ops.exceptions import Forbidden, MeasurementError, NoData, UnexpectedAnswer, Unreachable
from vcci_ops.hooks.schema import column_types, current_revision

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    sandbox = Sandbox(tmp_path_factory.mktemp("sandbox"))
    server = postgres.Production()
    server.start(sandbox)
    try:
        with postgres.admin(sandbox, server) as connection:
            postgres.create_role(connection, "vcci_app", sandbox.secret("postgres-vcci_app"))
            postgres.create_role(connection, "vcci_ops", sandbox.secret("postgres-vcci_ops"))
            postgres.create_database(connection, postgres.PRODUCTION, "vcci_app")
        postgres.migrate(postgres.url(sandbox, "postgres-direct", "vcci_app", postgres.PRODUCTION))
        grant(sandbox)
        yield sandbox
    finally:
        server.stop(sandbox)


@pytest.fixture(autouse=True)
def connection(box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    given = postgres.airflow_connection(box, "postgres-direct", "vcci_ops", postgres.PRODUCTION)
    monkeypatch.setenv("AIRFLOW_CONN_VCCI_POSTGRES", json.dumps(given))
    return given


def grant(box: Sandbox) -> None:
    with postgres.admin(box, postgres.Production(), postgres.PRODUCTION) as opened:
        opened.execute((postgres.GRANTS / "vcci_ops.sql").read_bytes())


@contextmanager
def superuser(box: Sandbox) -> Iterator[psycopg.Connection[Any]]:
    """Change the version table; afterwards it is as it was."""
    with postgres.admin(box, postgres.Production(), postgres.PRODUCTION) as opened:
        try:
            yield opened
        finally:
            opened.execute("DROP SCHEMA IF EXISTS other CASCADE; DROP TABLE IF EXISTS alembic_version")
            opened.execute("CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY)")
            opened.execute("INSERT INTO alembic_version VALUES (%s)", (RELEASE_REVISION,))
            grant(box)


def test_the_revision_is_read_with_exactly_the_shipped_grants() -> None:
    assert current_revision("vcci_postgres") == RELEASE_REVISION


def test_several_heads_are_no_revision(box: Sandbox) -> None:
    with superuser(box) as opened:
        opened.execute("INSERT INTO alembic_version VALUES ('0006_branch')")
        with pytest.raises(UnexpectedAnswer, match=f"at 2 revisions at once: {RELEASE_REVISION}, 0006_branch"):
            current_revision()


def test_no_migration_has_run(box: Sandbox) -> None:
    with superuser(box) as opened:
        opened.execute("DELETE FROM alembic_version")
        assert current_revision() is None
        opened.execute("DROP TABLE alembic_version")
        assert current_revision() is None
        grant(box)  # safe without the table


def test_not_being_allowed_to_read_it_is_not_the_same_as_none(box: Sandbox) -> None:
    with superuser(box) as opened:
        opened.execute("REVOKE SELECT ON alembic_version FROM vcci_ops")
        with pytest.raises(Forbidden, match="alembic_version"):
            current_revision()


def test_a_table_elsewhere_is_not_taken_for_none(box: Sandbox) -> None:
    with superuser(box) as opened:
        opened.execute("CREATE SCHEMA other; ALTER TABLE alembic_version SET SCHEMA other")
        with pytest.raises(NoData):
            current_revision()


def test_the_role_still_writes_nothing(box: Sandbox, connection: dict[str, Any]) -> None:
    url = postgres.url(box, "postgres-direct", "vcci_ops", postgres.PRODUCTION).replace("+psycopg", "")
    with psycopg.connect(url, options="-c default_transaction_read_only=off") as opened:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            opened.execute("UPDATE alembic_version SET version_num = 'x'")


def test_a_server_that_is_down(connection: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_VCCI_POSTGRES", json.dumps({**connection, "port": 1}))
    with pytest.raises(Unreachable):
        current_revision()
    monkeypatch.delenv("AIRFLOW_CONN_VCCI_POSTGRES")
    with pytest.raises(MeasurementError, match="there is no Airflow connection vcci_postgres"):
        current_revision()


def test_types_of_columns_tell_a_widening_from_a_change(box: Sandbox) -> None:
    with postgres.admin(box, postgres.Production(), postgres.PRODUCTION) as opened:
        opened.execute("CREATE SCHEMA apart CREATE TABLE t (a varchar(20)); CREATE TABLE texts (a varchar(50), b text)")
    types = column_types()
    assert types["emissions.co2e_kg"] == "numeric(18,3)"
    assert types["texts.a"] == "character varying(50)"
    assert types["apart.t.a"] == "character varying(20)"
    assert not any(name.startswith(("pg_", "information_schema")) for name in types)
    for change, kind in {
        "emissions ALTER co2e_kg TYPE numeric(20, 3)": SchemaChange.EXPAND_ONLY,
        "emissions ALTER co2e_kg TYPE numeric(10, 3)": SchemaChange.DESTRUCTIVE,
        "usage_events ALTER quantity TYPE bigint": SchemaChange.EXPAND_ONLY,
        "apart.t ALTER a TYPE text": SchemaChange.EXPAND_ONLY,
        "texts ALTER b TYPE varchar(50)": SchemaChange.DESTRUCTIVE,
    }.items():
        assert classify(f"ALTER TABLE {change}", types=types).kind == kind
