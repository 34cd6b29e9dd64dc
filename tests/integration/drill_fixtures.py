"""What tests of restore drills need: a small source, its backups, and a drill run task by task as its DAG wires it."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import hashlib
import json
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from airflow.sdk.exceptions import AirflowException, AirflowRuntimeError, AirflowSkipException, ErrorType
from airflow.sdk.execution_time.comms import ErrorResponse
from psycopg import sql

from sandbox.platform import data
from sandbox.service import Sandbox, find_program
from sandbox.services import postgres, s3
from tests.integration.acting_fixtures import complete
from vcci_ops.domain.backup_manifest import written
from vcci_ops.domain.drill import Assertion
from vcci_ops.hooks import table_sums
from vcci_ops.hooks.drill_record import Drills
from vcci_ops.operators.drill import (
    ChooseBackupOperator,
    DropScratchOperator,
    RestoreOperator,
    SabotageOperator,
    ScratchOperator,
)
from vcci_ops.operators.drill_jobs import KnownRevisionOperator, SmokeOperator, UpgradeOperator
from vcci_ops.operators.drill_report import DrillReportOperator
from vcci_ops.operators.drill_verify import PARTS, MeasureOperator, VerifyOperator

APPLICATION = ("known", "smoke", "upgrade")
KEY = "daily/vcci_production-%Y%m%dT%H%M%SZ.dump"
PRISTINE = "pristine"
EMISSIONS = 400
SAMPLED = 7
"""The sums of a large table hash one in so many of its rows."""
TENANT = data.TENANTS[0]


# The source --------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Source:
    """The production server of the sandbox with a small database, which tests may spoil: it is made anew each time."""

    sandbox: Sandbox

    def admin(self, database: str = postgres.PRODUCTION, **given: Any) -> Any:
        """Open a superuser's connection."""
        return postgres.admin(self.sandbox, postgres.Production(), database, **given)

    def fill(self) -> None:
        """Make the database that all others are copied from."""
        with self.admin("postgres") as connection:
            for role in ("vcci_app", "vcci_ops", *postgres.ACTING):
                postgres.create_role(connection, role, self.sandbox.secret(f"postgres-{role}"))
            postgres.create_database(connection, PRISTINE, "vcci_app")
        postgres.migrate(postgres.url(self.sandbox, "postgres-direct", "vcci_app", PRISTINE))
        now = dt.datetime.now(dt.UTC)
        with self.admin(PRISTINE, autocommit=False) as connection:
            data.load_others(connection, now)
            data.load_emissions(connection, now, EMISSIONS, 0, EMISSIONS)
            with connection.cursor() as cursor:
                # Those of the generator that these few emissions do not have.
                cursor.execute("DELETE FROM emission_attachments WHERE emission_id > %s", (EMISSIONS,))
                data.advance(cursor, "emissions")
            connection.commit()

    def renew(self, *statements: str, template: str = PRISTINE) -> None:
        """Make the production database anew, and change it as a superuser, without triggers."""
        name = sql.Identifier(postgres.PRODUCTION)
        with self.admin("postgres") as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name))
            made = sql.SQL("CREATE DATABASE {} TEMPLATE {} OWNER vcci_app")
            connection.execute(made.format(name, sql.Identifier(template)))
        self.change(*statements)

    def change(self, *statements: str) -> None:
        """Change it as a superuser, without triggers."""
        with self.admin() as connection:
            connection.execute("SET session_replication_role = replica")
            for statement in statements:
                connection.execute(statement.encode())

    def dump(self, *options: str, database: str = postgres.PRODUCTION) -> bytes:
        """Return a dump."""
        argv = [find_program("pg_dump") or "pg_dump", "-Fc", "-Z1", *options]
        argv += ["-h", "127.0.0.1", "-p", str(self.sandbox.port("postgres-direct")), "-U", "postgres", database]
        env = {"PGPASSWORD": self.sandbox.secret("pg-production-postgres")}
        return subprocess.run(argv, env=env, capture_output=True, check=True).stdout

    def sums(self, taken: dt.datetime) -> dict[str, Any]:
        """Return what a manifest of version 2 says of the database as it is now."""
        with self.admin() as connection:
            table_sums.alike(connection)
            tables = {}
            for table in table_sums.tables(connection):
                one_in = SAMPLED if table.name == "usage_events" else 1
                found = table_sums.sums(connection, table, taken, one_in)
                sampled = {"one_in": one_in, "rows": found.sampled_rows, "share": round(1 / one_in, 6)}
                tables[table.label] = {
                    "rows": found.rows,
                    "max_key": found.max_key,
                    "max_timestamp": found.max_timestamp,
                    "checksum": found.checksum,
                    "sampled": sampled if one_in > 1 else None,
                }
            sequences = connection.execute("SELECT sequencename, last_value FROM pg_sequences").fetchall()
            extensions = connection.execute("SELECT extname, extversion FROM pg_extension").fetchall()
            number = connection.execute("SELECT system_identifier::text FROM pg_control_system()").fetchone()
        return {
            "database": postgres.PRODUCTION,
            "system_identifier": number[0] if number else "",
            "schema_revision": "0005_activity_indexes",
            "extensions": dict(extensions),
            "tables": tables,
            "sequences": dict(sequences),
        }


# Its backups -------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Bucket:
    """The backups; :meth:`clear` removes them all."""

    sandbox: Sandbox

    @property
    def client(self) -> Any:
        return s3.client(self.sandbox)

    def clear(self) -> None:
        for item in self.client.list_objects_v2(Bucket=s3.BACKUPS).get("Contents", []):
            self.client.delete_object(Bucket=s3.BACKUPS, Key=item["Key"])

    def put(
        self,
        dump: bytes,
        told: dict[str, Any] | None,
        *,
        taken: dt.datetime,
        about: bytes | None = None,
        **changes: Any,
    ) -> str:
        """Put a backup and return its key.

        :param told: what its manifest says besides its digest; None: it has none.
        :param about: the dump that the manifest is of; default: this one.
        :param changes: of the manifest.
        """
        key, of = taken.strftime(KEY), dump if about is None else about
        self.client.put_object(Bucket=s3.BACKUPS, Key=key, Body=dump)
        if told is not None:
            manifest = {
                "schema_version": 2,
                "key": key,
                "taken_at": taken.isoformat(),
                "size": len(of),
                "sha256": hashlib.sha256(of).hexdigest(),
                **told,
                **changes,
            }
            self.client.put_object(Bucket=s3.BACKUPS, Key=key + ".manifest.json", Body=written(manifest))
        return key


# A drill -----------------------------------------------------------------------------------------------


class Ti:
    """Stands for the task instance of one task of a run."""

    map_index, try_number = -1, 1

    def __init__(self, run: Run, task_id: str) -> None:
        self.run, self.task_id = run, task_id
        self.dag_id, self.run_id = run.dag_id, run.run_id

    def xcom_push(self, key: str, value: Any) -> None:
        self.run.xcom[self.task_id, key] = json.loads(json.dumps(value))

    def xcom_pull(self, task_ids: str, key: str = "return_value") -> Any:
        return self.run.xcom.get((task_ids, key))

    def get_task_states(self, dag_id: str, run_ids: list[str]) -> dict[str, dict[str, str]]:
        return {run_ids[0]: dict(self.run.states)}

    def get_dagrun_state(self, dag_id: str, run_id: str) -> str:
        if run_id in self.run.under_way:
            return "running"
        missing = ErrorResponse(error=ErrorType.API_SERVER_ERROR, detail={"status_code": 404})
        raise AirflowRuntimeError(missing)


@dataclasses.dataclass
class Run:
    """A run of dr_restore_test, task by task, as its file wires them.

    :param namespace: where the platform's own programs run; empty: they do not.
    """

    params: dict[str, Any] = dataclasses.field(default_factory=dict)
    dag_id: str = "dr_restore_test"
    namespace: str = ""
    run_id: str = dataclasses.field(default_factory=lambda: f"manual__{uuid.uuid4().hex[:8]}")
    under_way: set[str] = dataclasses.field(default_factory=set)
    xcom: dict[tuple[str, str], Any] = dataclasses.field(default_factory=dict)
    states: dict[str, str] = dataclasses.field(default_factory=dict)
    said: dict[str, str] = dataclasses.field(default_factory=dict)
    """Why each task failed, by task."""
    triggering_user_name: str = "ines"
    start_date: dt.datetime = dataclasses.field(default_factory=lambda: dt.datetime.now(dt.UTC))

    @property
    def source(self) -> str:
        return f"{self.dag_id}/{self.run_id}"

    def context(self, task_id: str) -> Any:
        return {"dag_run": self, "ti": Ti(self, task_id), "params": self.params, "run_id": self.run_id}

    def task(self, task_id: str) -> Any:
        """Return a task as the DAG has it."""
        part = task_id.removeprefix("verify.")
        if part != task_id:
            return VerifyOperator(task_id=part, part=part)
        made: dict[str, Callable[[], Any]] = {
            "choose": lambda: ChooseBackupOperator(task_id=task_id),
            "scratch": lambda: ScratchOperator(task_id=task_id),
            "restore": lambda: RestoreOperator(task_id=task_id),
            "application.known": lambda: KnownRevisionOperator(task_id="known", program="known", **self.job),
            "application.smoke": lambda: SmokeOperator(task_id="smoke", program="smoke", **self.job),
            "application.upgrade": lambda: UpgradeOperator(task_id="upgrade", program="upgrade", **self.job),
            "sabotage": lambda: SabotageOperator(task_id=task_id),
            "measure": lambda: MeasureOperator(task_id=task_id),
            "drop": lambda: DropScratchOperator(task_id=task_id, namespace=self.namespace),
            "report": lambda: DrillReportOperator(task_id=task_id, namespace=self.namespace),
        }
        return made[task_id]()

    def do(self, task_id: str) -> bool:
        """Run a task; return whether it ended well."""
        context = self.context(task_id)
        self.states[task_id] = "running"
        try:
            with current(context):
                value = complete(self.task(task_id), context)
        except AirflowSkipException as skipped:
            self.states[task_id], self.said[task_id] = "skipped", str(skipped)
            return True
        except AirflowException as error:
            self.states[task_id], self.said[task_id] = "failed", str(error)
            return False
        self.states[task_id] = "success"
        self.said.pop(task_id, None)
        if value is not None:
            self.xcom[task_id, "return_value"] = json.loads(json.dumps(value))
        return True

    def all(self, between: Callable[[Run], None] = lambda run: None) -> Run:
        """Run it to its end.

        :param between: called when the copy is there, before it is verified.
        """
        if self.do("choose") and self.do("scratch"):
            if self.do("restore") and self.do("sabotage"):
                between(self)
                for part in PARTS:
                    self.do(f"verify.{part}")
            self.do("measure")
            for program in APPLICATION if self.namespace else ():
                self.do(f"application.{program}")
            self.do("drop")
        self.do("report")
        return self

    def some(self, *tasks: str) -> Run:
        """Run some tasks, one after the other, whatever becomes of them."""
        for task in tasks:
            self.do(task)
        return self

    @property
    def job(self) -> dict[str, Any]:
        return {"namespace": self.namespace, "poll": 0.2, "patience": 10.0}

    @property
    def drills(self) -> Drills:
        return Drills("sandbox")

    @property
    def assertions(self) -> dict[str, Assertion]:
        return {made.id: made for made in self.drills.assertions(self.source)}

    @property
    def outcome(self) -> str:
        found = self.drills.get(self.source)
        return found.outcome if found else "none"

    @property
    def failed(self) -> set[str]:
        """Return the ids of what does not hold or is unknown."""
        return {made.id for made in self.assertions.values() if made.status.fails_run}

    @property
    def database(self) -> str:
        from vcci_ops.operators.acting import Acting
        from vcci_ops.operators.drill import database_of

        return database_of(Acting.of(self.context("x")))


@contextlib.contextmanager
def current(context: Any) -> Iterator[None]:
    """Let a task find its context, as within Airflow."""
    from airflow.sdk.definitions._internal.contextmanager import _CURRENT_CONTEXT

    _CURRENT_CONTEXT.append(context)
    try:
        yield
    finally:
        _CURRENT_CONTEXT.pop()


@dataclasses.dataclass
class Restoring:
    """The restore server, as an administrator sees it."""

    sandbox: Sandbox

    def admin(self, database: str = "postgres") -> Any:
        return postgres.admin(self.sandbox, postgres.Restore(), database)

    def scratch(self) -> list[str]:
        """Return the scratch databases there are."""
        with self.admin() as connection:
            rows = connection.execute("SELECT datname FROM pg_database WHERE datname LIKE 'vcci_drill_%'").fetchall()
        return sorted(name for (name,) in rows)

    def change(self, database: str, *statements: str) -> None:
        """Change a database as a superuser, without triggers."""
        with self.admin(database) as connection:
            connection.execute("SET session_replication_role = replica")
            for statement in statements:
                connection.execute(statement.encode())


def restores_under_way(database: str) -> list[int]:
    """Return the pids of pg_restore that work on a database."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = file.read_bytes().split(b"\0")
            if any(b"pg_restore" in word for word in words) and any(database.encode() in word for word in words):
                found.append(int(file.parent.name))
    return found
