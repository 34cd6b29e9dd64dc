"""A platform that can take on tenants: database, cache, mail, API, played Kubernetes whose Jobs run; no Airflow."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime as dt
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import requests
from airflow.sdk.exceptions import DownstreamTasksSkipped, TaskDeferred

from sandbox.platform import RELEASE_REVISION, data
from sandbox.service import Sandbox, wait_until
from sandbox.services import postgres, redis, s3
from sandbox.services.api import Api
from sandbox.services.kube import NAMESPACE, Kube, kubeconfig
from sandbox.services.messages import Messages
from sandbox.services.prometheus import Prometheus
from sandbox.state import ROOT
from tests.integration.kube_fixtures import Plane, rbac
from vcci_ops.hooks.history import History
from vcci_ops.hooks.reports import report_key
from vcci_ops.operators.lock import AcquireChangeLockOperator, ReleaseChangeLockOperator


class Young(Prometheus):
    """A Prometheus without a past, which nothing here asks for; it scrapes every second."""

    def _config(self, sandbox: Sandbox) -> dict[str, Any]:
        often = {"scrape_interval": "1s", "scrape_timeout": "1s"}
        return {**super()._config(sandbox), "global": often}

    def _fill(self, sandbox: Sandbox) -> None:
        pass


class Platform:
    """What tests do with it."""

    def __init__(self, folder: Path) -> None:
        self.sandbox = Sandbox(folder)
        self.production, self.history = postgres.Production(), postgres.Airflow()
        self.kube, self.redis, self.s3 = Kube(), redis.Redis(), s3.S3()
        self.services = [
            *(self.production, self.history, self.redis, Messages(), self.kube, Api(), self.s3, Young()),
        ]

    def start(self) -> None:
        """Start everything, and fill it with as little as the tests need."""
        for service in self.services:
            service.start(self.sandbox)
        for service in self.services:
            wait_until(service.name, lambda s=service: s.ready(self.sandbox), seconds=60)
        self.history.prepare(self.sandbox)
        self._fill()
        for bucket in (s3.DOCUMENTS, "vcci-reports"):
            s3.client(self.sandbox).create_bucket(
                Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": s3.REGION}
            )
        self.plane = Plane("played", kubeconfig(self.sandbox), self.sandbox.folder, NAMESPACE)
        self.plane.apply(*rbac(NAMESPACE, changes=True))
        # An image that no registry has runs where its container says: in the platform's tree.
        container = {"name": "backend-api", "workingDir": str(ROOT / "sandbox" / "platform")}
        patch = {"spec": {"template": {"spec": {"containers": [container]}}}}
        self.plane.kubectl("patch", "deployment/backend-api", "-n", NAMESPACE, "-p", json.dumps(patch))

    def _fill(self) -> None:
        with postgres.admin(self.sandbox, self.production) as connection:
            for role in ("vcci_app", "vcci_ops", *postgres.ACTING):
                postgres.create_role(connection, role, self.sandbox.secret(f"postgres-{role}"))
            postgres.create_database(connection, postgres.PRODUCTION, "vcci_app")
        url = postgres.url(self.sandbox, "postgres-direct", "vcci_app", postgres.PRODUCTION)
        postgres.migrate(url, RELEASE_REVISION)
        with self.admin() as connection:
            connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
            for role in ("vcci_ops", *postgres.ACTING):
                connection.execute((postgres.GRANTS / f"{role}.sql").read_bytes())
        with postgres.admin(self.sandbox, self.production, postgres.PRODUCTION, autocommit=False) as connection:
            data.load_others(connection, dt.datetime.now(dt.UTC))

    def stop(self) -> None:
        """Stop everything."""
        for service in reversed(self.services):
            with contextlib.suppress(Exception):
                service.stop(self.sandbox)

    def connections(self) -> dict[str, dict[str, Any]]:
        """Return Airflow's connections, straight to the servers, each with the shipped rights."""
        given = {id_: dict(c) for service in self.services for id_, c in service.connections(self.sandbox).items()}
        for id_, found in given.items():
            for port in ("postgres", "redis", "prometheus", "s3"):
                if found.get("port") == self.sandbox.port(port):
                    given[id_]["port"] = self.sandbox.port(f"{port}-direct")
        given["vcci_s3"]["extra"]["endpoint_url"] = f"http://127.0.0.1:{self.sandbox.port('s3-direct')}"
        given["vcci_kubernetes"] = {"conn_type": "kubernetes", "extra": {"kube_config": self.plane.checks_config}}
        return given

    @contextlib.contextmanager
    def admin(self) -> Iterator[psycopg.Connection[Any]]:
        """Open a superuser's connection to the production database."""
        with postgres.admin(self.sandbox, self.production, postgres.PRODUCTION) as connection:
            yield connection

    def rows(self, query: str, *given: Any) -> list[tuple[Any, ...]]:
        """Return what a superuser reads in the production database."""
        with self.admin() as connection:
            return connection.execute(query, given).fetchall()

    def said(self, kind: str) -> str:
        """Return all that Slack, or the mail server, has got."""
        got = requests.get(f"http://127.0.0.1:{self.sandbox.port('inbox')}/api/{kind}", timeout=5).json()
        return json.dumps(got, ensure_ascii=False)

    def page(self, run: Run) -> str:
        """Return the page that a run has left in the report bucket, and its document."""
        where = report_key("reports/", "sandbox", run.dag_id, run.run_id)
        store = s3.client(self.sandbox)
        found = [store.get_object(Bucket="vcci-reports", Key=f"{where}report.{kind}") for kind in ("html", "json")]
        return "".join(answer["Body"].read().decode() for answer in found)

    def mails(self, to: str) -> list[dict[str, Any]]:
        """Return the mails to an address."""
        found = json.loads(self.said("mail"))
        listed = found if isinstance(found, list) else found["mails"]
        return [mail for mail in listed if to in mail["envelope_to"]]

    def metrics(self) -> str:
        """Return the API's page of metrics."""
        return requests.get(f"http://127.0.0.1:{self.sandbox.port('api')}/metrics", timeout=5).text

    def whoami(self, key: str) -> tuple[int, dict[str, Any]]:
        """Ask the API whose a key is."""
        url = f"http://127.0.0.1:{self.sandbox.port('api')}/api/v1/whoami"
        answer = requests.get(url, headers={"X-API-Key": key}, timeout=5)
        return answer.status_code, answer.json()


class Ti:
    """Stands for the task instance of one task of a run."""

    map_index = -1

    def __init__(self, run: Run, task_id: str) -> None:
        self.run, self.task_id = run, task_id

    def xcom_push(self, key: str, value: Any) -> None:
        self.run.xcom[self.task_id, key] = json.loads(json.dumps(value))

    def xcom_pull(self, task_ids: str, key: str = "return_value") -> Any:
        return self.run.xcom.get((task_ids, key))


@dataclasses.dataclass
class Run:
    """A run of one of the two DAGs, task by task."""

    dag_id: str
    params: dict[str, Any]
    by: str = "ines"
    run_id: str = dataclasses.field(default_factory=lambda: f"manual__{uuid.uuid4().hex[:8]}")
    xcom: dict[tuple[str, str], Any] = dataclasses.field(default_factory=dict)

    @property
    def source(self) -> str:
        return f"{self.dag_id}/{self.run_id}"

    def context(self, operator: Any) -> Any:
        """Return what a task gets of Airflow."""
        run = SimpleNamespace(dag_id=self.dag_id, run_id=self.run_id, triggering_user_name=self.by)
        return {"dag_run": run, "ti": Ti(self, operator.task_id), "params": self.params, "task": operator}

    def do(self, kind: type[Any], task_id: str, **more: Any) -> Any:
        """Run a task as a worker and the triggerer do, deferred parts included."""
        operator = kind(task_id=task_id, namespace=NAMESPACE, **more)
        context = self.context(operator)
        try:
            outcome = operator.execute(context)
        except TaskDeferred as deferred:
            outcome = self.resume(operator, context, deferred)
        except DownstreamTasksSkipped:
            return "skipped the rest"
        if outcome is not None:
            self.xcom[task_id, "return_value"] = json.loads(json.dumps(outcome))
        return outcome

    def resume(self, operator: Any, context: Any, deferred: TaskDeferred) -> Any:
        """Run a trigger, made again from its serialized form, and go on with the task."""
        _, kwargs = deferred.trigger.serialize()
        again = type(deferred.trigger)(**kwargs)

        async def first() -> Any:
            async for event in again.run():
                return event.payload
            return None

        event = asyncio.run(asyncio.wait_for(first(), 60))
        return getattr(operator, deferred.method_name)(context, event=event, **(deferred.kwargs or {}))

    def lock(self, task_id: str = "lock") -> None:
        self.do(AcquireChangeLockOperator, task_id, purpose="a test")

    def unlock(self) -> None:
        self.do(ReleaseChangeLockOperator, "unlock")


def history_text() -> str:
    """Return everything that the history database holds, as one text."""
    with History().connect() as connection:
        tables = connection.execute("SELECT relname FROM pg_stat_user_tables").fetchall()
        found = [connection.execute(f"SELECT t::text FROM {name} t").fetchall() for (name,) in tables]
    return "\n".join(str(row[0]) for rows in found for row in rows)
