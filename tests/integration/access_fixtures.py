"""A platform with users, a history, Slack and a bucket; and a review run task by task, as its DAG wires them."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
import requests
from airflow.sdk.exceptions import DownstreamTasksSkipped, TaskAwaitingInput

from sandbox.platform import data
from sandbox.service import Sandbox, Service, wait_until
from sandbox.services import postgres, s3
from sandbox.services.messages import Messages
from tests.integration.kube_fixtures import Plane
from vcci_ops.hooks.access_record import Change, Review, Reviews
from vcci_ops.hooks.history import History
from vcci_ops.hooks.reports import ReportStore
from vcci_ops.operators.access_act import DeactivateUsersOperator
from vcci_ops.operators.access_report import AccessReportOperator
from vcci_ops.operators.access_revert import RevertPlanOperator, RevertReportOperator, RevertUsersOperator
from vcci_ops.operators.access_review import GatherAccessOperator, ReviewAccessOperator
from vcci_ops.operators.lock import AcquireChangeLockOperator, ReleaseChangeLockOperator
from vcci_ops.settings import load_settings

RBAC = Path(__file__).resolve().parents[2] / "include" / "kubernetes" / "rbac-access-review.yaml"
MUTABLE = ("users", "sessions", "api_keys", "tenants")


class Stage:
    """The platform's database with the shipped grants, the history, Slack and S3."""

    def __init__(self, folder: Path) -> None:
        self.sandbox = Sandbox(folder)
        self.production, self.history, self.bucket = postgres.Production(), postgres.Airflow(), s3.S3()
        self.services: list[Service] = [self.production, self.history, self.bucket, Messages()]

    @contextmanager
    def running(self) -> Iterator[Stage]:
        with ExitStack() as stack:
            for service in self.services:
                service.start(self.sandbox)
                stack.callback(service.stop, self.sandbox)
            for service in self.services:
                wait_until(service.name, lambda s=service: s.ready(self.sandbox), seconds=60)
            self.history.prepare(self.sandbox)
            self._fill()
            yield self

    def _fill(self) -> None:
        sandbox = self.sandbox
        with postgres.admin(sandbox, self.production) as connection:
            for role in ("vcci_app", "vcci_ops", *postgres.ACTING):
                postgres.create_role(connection, role, sandbox.secret(f"postgres-{role}"))
            postgres.create_database(connection, postgres.PRODUCTION, "vcci_app")
        with self.admin() as connection:
            connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
            postgres.migrate(postgres.url(sandbox, "postgres-direct", "vcci_app", postgres.PRODUCTION))
            for file in sorted(postgres.GRANTS.glob("*.sql")):
                connection.execute(file.read_bytes())
        with postgres.admin(sandbox, self.production, postgres.PRODUCTION, autocommit=False) as connection:
            data.load_others(connection, dt.datetime.now(dt.UTC))
        with self.admin() as connection:
            connection.execute("CREATE SCHEMA saved")
            for table in MUTABLE:
                connection.execute(f"CREATE TABLE saved.{table} AS TABLE public.{table}".encode())

    def reset(self) -> None:
        """Bring users, sessions, keys and tenants back to what they were, and forget all reviews."""
        with self.admin() as connection, connection.transaction():
            connection.execute("SET LOCAL session_replication_role = replica")
            for table in MUTABLE:
                connection.execute(f"DELETE FROM {table}".encode())
                connection.execute(f"INSERT INTO {table} SELECT * FROM saved.{table}".encode())
            connection.execute("DELETE FROM audit_log WHERE id >= %s", (data.FIRST_OWN_ID,))
        with History().connect() as connection:
            connection.execute("DELETE FROM access_review")

    def admin(self) -> Any:
        return postgres.admin(self.sandbox, self.production, postgres.PRODUCTION)

    def ask(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with self.admin() as connection:
            found = connection.execute(query.encode(), parameters)
            return list(found.fetchall()) if found.description else []

    def app(self) -> psycopg.Connection[Any]:
        given = postgres.parameters(self.sandbox, "postgres-direct", "vcci_app", postgres.PRODUCTION)
        return psycopg.connect(**given)

    def connections(self) -> dict[str, Any]:
        found = {**self.history.connections(self.sandbox), **Messages().connections(self.sandbox)}
        for id_, role in {"vcci_postgres": "vcci_ops", "vcci_postgres_tenants": "vcci_ops_tenants"}.items():
            found[id_] = postgres.airflow_connection(self.sandbox, "postgres-direct", role, postgres.PRODUCTION)
        found["vcci_s3"] = dict(self.bucket.connections(self.sandbox)["vcci_s3"])
        extra = found["vcci_s3"]["extra"]
        extra = json.loads(extra) if isinstance(extra, str) else dict(extra)
        found["vcci_s3"]["extra"] = {**extra, "endpoint_url": f"http://127.0.0.1:{self.sandbox.port('s3-direct')}"}
        return found

    def make_bucket(self) -> None:
        name = load_settings().reports.bucket
        client = ReportStore(name, "x/", "sandbox")._hook.get_conn()
        if name not in {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}:
            client.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})

    def slack(self) -> list[dict[str, Any]]:
        url = f"http://127.0.0.1:{self.sandbox.port('inbox')}/api/slack"
        page = requests.get(url, timeout=5).json()
        return list(page["messages"] if isinstance(page, dict) else page)

    # Making people ----------------------------------------------------------------------------------

    def user(self, tenant: data.Tenant = data.TENANTS[0], **columns: Any) -> str:
        """Make a user who was created long ago and never logged in, unless said."""
        given = {"role": "viewer", "status": "active", "is_service_account": False, "last_login": None, **columns}
        email = given.pop("email", f"{uuid.uuid4().hex}@{tenant.slug}.example")
        created = given.pop("created_at", dt.datetime.now(dt.UTC) - dt.timedelta(days=400))
        ((id_,),) = self.ask(
            "INSERT INTO users (tenant_id, email, name, role, status, is_service_account, last_login, created_at) "
            "VALUES (%s, %s, 'A Person', %s, %s, %s, %s, %s) RETURNING id::text",
            *(tenant.id, email, *given.values(), created),
        )
        return str(id_)

    def status(self, *users: str) -> list[str]:
        found = dict(self.ask("SELECT id::text, status FROM users WHERE id = ANY(%s::uuid[])", list(users)))
        return [found[user] for user in users]

    def inactive(self) -> set[str]:
        return {user for (user,) in self.ask("SELECT id::text FROM users WHERE status = 'inactive'")}

    def sessions(self, user: str) -> int:
        return int(self.ask("SELECT count(*) FROM sessions WHERE user_id = %s", user)[0][0])

    def session(self, user: str, tenant: data.Tenant = data.TENANTS[0]) -> None:
        self.ask("INSERT INTO sessions (tenant_id, user_id, token_hash) VALUES (%s, %s, 'x')", tenant.id, user)


class Ti:
    """Stands for the task instance of one task of a run."""

    map_index = -1

    def __init__(self, run: Run, task_id: str) -> None:
        self.run, self.task_id, self.dag_id, self.run_id = run, task_id, run.dag_id, run.run_id
        self.id = f"{run.run_id}/{task_id}"

    def xcom_push(self, key: str, value: Any) -> None:
        self.run.xcom[self.task_id, key] = json.loads(json.dumps(value))

    def xcom_pull(self, task_ids: str, key: str = "return_value") -> Any:
        return self.run.xcom.get((task_ids, key))


@dataclasses.dataclass
class Run:
    """A run of access_review or access_revert, task by task."""

    plane: Plane
    questions: dict[str, dict[str, Any]]
    params: dict[str, Any] = dataclasses.field(default_factory=dict)
    dag_id: str = "access_review"
    by: str | None = "ada"
    run_id: str = dataclasses.field(default_factory=lambda: f"manual__{uuid.uuid4().hex[:8]}")
    xcom: dict[tuple[str, str], Any] = dataclasses.field(default_factory=dict)
    state: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def source(self) -> str:
        return f"{self.dag_id}/{self.run_id}"

    @property
    def review(self) -> Review:
        return Reviews("sandbox").get(self.source)

    @property
    def changes(self) -> list[Change]:
        return Reviews("sandbox").changes(self.source)

    @property
    def question(self) -> dict[str, Any]:
        """What the form shows."""
        return self.questions[f"{self.run_id}/review"]

    def context(self, operator: Any) -> Any:
        run = SimpleNamespace(
            dag_id=self.dag_id,
            run_id=self.run_id,
            triggering_user_name=self.by,
            start_date=dt.datetime.now(dt.UTC),
            run_after=dt.datetime.now(dt.UTC),
        )
        return {"dag_run": run, "ti": Ti(self, operator.task_id), "params": self.params, "task": operator}

    def do(self, kind: type[Any], task_id: str, **more: Any) -> Any:
        operator = kind(task_id=task_id, **{"namespace": self.plane.namespace, **more})
        try:
            outcome = operator.execute(self.context(operator))
        except DownstreamTasksSkipped:
            return "skipped the rest"
        self.xcom[task_id, "return_value"] = outcome
        return outcome

    def gather(self, **more: Any) -> Any:
        return self.do(GatherAccessOperator, "gather", **more)

    def _asking(self, own: bool) -> ReviewAccessOperator:
        return ReviewAccessOperator(task_id="review", own_approval=own, within=600, channel="#vcci-ops")

    def ask(self) -> dict[str, Any]:
        """Put the question, as a task that was cleared does; return what the form shows."""
        self.questions.pop(f"{self.run_id}/review", None)
        operator = self._asking(False)
        with pytest.raises(TaskAwaitingInput) as waiting:
            operator.execute(self.context(operator))
        self.state = json.loads(json.dumps(waiting.value.kwargs["state"]))
        return self.question

    def answer(self, option: str, form: Any = None, *, by: str = "ines", own: bool = False, **event: Any) -> Any:
        """Answer as the API does; "asked again" when the answer does not count."""
        operator = self._asking(own)
        given = {"chosen_options": [option], "params_input": form, "responded_by_user": {"id": by, "name": by}}
        try:
            return operator.execute_complete(self.context(operator), {**given, **event}, state=self.state)
        except TaskAwaitingInput as waiting:
            self.state = json.loads(json.dumps(waiting.kwargs["state"]))
            return "asked again"
        except DownstreamTasksSkipped:
            return "skipped the rest"

    def lock(self) -> Any:
        return self.do(AcquireChangeLockOperator, "lock", purpose="a test")

    def unlock(self) -> Any:
        return self.do(ReleaseChangeLockOperator, "unlock")

    def deactivate(self) -> Any:
        return self.do(DeactivateUsersOperator, "deactivate")

    def act(self) -> Any:
        """Lock, deactivate, unlock."""
        self.lock()
        try:
            return self.deactivate()
        finally:
            self.unlock()

    def report(self) -> Any:
        return self.do(AccessReportOperator, "report", channel="#vcci-ops")

    def line(self, user: str, section: str = "users") -> Any:
        return next(line for line in self.review.lines if line.key.endswith(user) and line.section == section)

    # access_revert

    def plan(self) -> Any:
        return self.do(RevertPlanOperator, "plan")

    def revert(self) -> Any:
        self.lock()
        try:
            return self.do(RevertUsersOperator, "revert")
        finally:
            self.unlock()

    def report_revert(self) -> Any:
        return self.do(RevertReportOperator, "report", channel="#vcci-ops")
