"""A platform that stands at v2.0.0 before each release, and what a test asks of it afterwards."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import requests

from sandbox.airflow import Client
from sandbox.releases import repository, story
from sandbox.service import wait_until
from sandbox.services.kube import kubeconfig
from sandbox.services.postgres import PRODUCTION, Production, admin
from sandbox.services.prometheus import query

NAMESPACE = "vcci-production"
WORKLOADS = ("backend-api", "worker", "beat", "frontend")
KUBECTL = Path(sys.executable).parent / "kubectl"
BEGINNING = "0005_activity_indexes"


@dataclasses.dataclass
class Run:
    """A run of a release's DAG."""

    dag_id: str
    run_id: str
    released: Released
    answered: int = 0

    def _asks(self, task_id: str) -> bool:
        """Whether the question waits, and the scheduler has seen that its task has parked.

        Airflow 3.3.2 takes a task that is answered before that, within a second, for one that was killed.
        """
        log = self.released.sandbox.log("airflow-scheduler").read_text(errors="replace")
        name = f"dag_id='{self.dag_id}', task_id='{task_id}', run_id='{self.run_id}'"
        parked = log.count(f"Received executor event with state success for task instance TaskInstanceKey({name}")
        return self.tasks[task_id] == "awaiting_input" and parked > self.answered

    def _client(self) -> Client:
        return self.released.requester

    @property
    def state(self) -> str:
        return self._client().state(self.dag_id, self.run_id)

    @property
    def tasks(self) -> dict[str, str]:
        return self._client().tasks(self.dag_id, self.run_id)

    def log(self, task_id: str) -> str:
        """Everything that a task said, in all its tries."""
        said = []
        for attempt in (1, 2, 3):
            with contextlib.suppress(requests.HTTPError):
                said.append(self._client().log(self.dag_id, self.run_id, task_id, attempt))
        return "\n".join(said)

    def xcom(self, task_id: str, key: str = "return_value") -> Any:
        return self._client().xcom(self.dag_id, self.run_id, task_id, key)

    def until(self, what: str, probe: Callable[[], Any], seconds: float = 120) -> Any:
        """Poll; a run that has ended meanwhile ends the wait, too."""
        end = time.monotonic() + seconds
        while not (found := probe()):
            states = self.tasks
            assert self.state in ("running", "queued"), f"{what}: the run ended before: {states}"
            assert time.monotonic() < end, f"{what}: not so within {seconds:.0f} s: {states}"
            time.sleep(0.3)
        return found

    def until_task(self, task_id: str, *states: str, seconds: float = 120) -> None:
        self.until(f"{task_id} {states}", lambda: self.tasks.get(task_id) in states, seconds)

    def ended(self, seconds: float = 240) -> str:
        """Wait for the end."""
        return self._client().wait(self.dag_id, self.run_id, seconds)

    def answer(self, option: str, *, by: str = "approver", task_id: str = "approve", comment: str = "") -> Any:
        """Answer the run's question as a person does."""
        self.until(f"{task_id} asks", lambda: self._asks(task_id))
        self.answered += 1
        client = self.released.people[by]
        path = f"dags/{self.dag_id}/dagRuns/{self.run_id}/taskInstances/{task_id}/-1/hitlDetails"
        url = f"{client.url}/api/v2/{path}"
        body = {"chosen_options": [option], "params_input": {"comment": comment}}
        answered = client._session.patch(url, json=body, timeout=30)
        answered.raise_for_status()
        return answered.json()

    @property
    def outcome(self) -> str:
        """How the run says it ended."""
        return str(self.xcom("finish", "outcome"))

    def thread(self) -> list[dict[str, Any]]:
        """The Slack messages of the run's thread, the first one first."""
        page = requests.get(f"http://127.0.0.1:{self.released.sandbox.port('inbox')}/api/slack", timeout=10).json()
        messages = page["messages"] if isinstance(page, dict) else page
        ours = quote(self.run_id, safe="")
        roots = [m for m in messages if self.run_id in _text(m) or ours in _text(m)]
        threads = {m.get("thread_ts") or m["ts"] for m in roots}
        return sorted((m for m in messages if (m.get("thread_ts") or m["ts"]) in threads), key=lambda m: m["ts"])


def _text(message: dict[str, Any]) -> str:
    return json.dumps(message, ensure_ascii=False)


class Released:
    """The sandbox's platform as releases see it."""

    def __init__(self, platform: Any) -> None:
        self.platform = platform
        self.sandbox = platform.sandbox
        self.people = {name: platform.demo.client(name) for name in ("admin", "approver")}
        self.requester = self.people["admin"]
        self._beginning = self._references()

    # Doing --------------------------------------------------------------------------------------

    def deploy(self, version: str, ref: str, **given: Any) -> Run:
        """Trigger a release as the admin."""
        conf = {"version": version, "ref": ref, "reason": "a test of the release", "dry_run": False, **given}
        return self.run("release_deploy", conf)

    def run(self, dag_id: str, conf: dict[str, Any]) -> Run:
        return Run(dag_id, self.requester.trigger(dag_id, conf), self)

    def restart(self, *components: str) -> None:
        """Kill parts of Airflow with -9 and start them again."""
        airflow, sandbox = self.platform.demo.airflow, self.sandbox
        for component in components:
            pid = sandbox.pid(f"airflow-{component}")
            if pid:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
            sandbox.end(f"airflow-{component}", patience=5)
            argv = [str(Path(sys.executable).with_name("airflow")), component]
            sandbox.spawn(f"airflow-{component}", argv, env=airflow.environment(sandbox))

    # Asking -------------------------------------------------------------------------------------

    def kubectl(self, *args: str, given: str | None = None, check: bool = True) -> str:
        argv = [str(KUBECTL), f"--kubeconfig={kubeconfig(self.sandbox)}", "-n", NAMESPACE, *args]
        done = subprocess.run(argv, input=given, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0 or not check, f"{args}: {done.stderr}"
        return done.stdout

    def images(self) -> dict[str, str]:
        """The tag of the image that each Deployment asks for."""
        return {name: image.split("@")[0].rpartition(":")[2] for name, image in self._references().items()}

    def _references(self) -> dict[str, str]:
        listed = json.loads(self.kubectl("get", "deployments", "-o", "json"))["items"]
        found = {d["metadata"]["name"]: d["spec"]["template"]["spec"]["containers"][0]["image"] for d in listed}
        return {name: found[name] for name in WORKLOADS}

    def schema(self) -> str:
        with admin(self.sandbox, Production(), PRODUCTION) as connection:
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        return str(row[0]) if row else ""

    def tags(self) -> set[str]:
        return set(self.git("tag", "--list").split())

    def git(self, *args: str) -> str:
        return repository.git(repository.path(self.sandbox), *args)

    def lock_holder(self) -> str:
        found = self.kubectl("get", "lease", "vcci-ops-change", "-o", "jsonpath={.spec.holderIdentity}", check=False)
        return found.strip()

    def history(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        from sandbox.history import _connect

        with _connect(self.sandbox) as connection:
            return list(connection.execute(query, parameters).fetchall())

    def history_execute(self, statement: str) -> None:
        """Write to the history."""
        with psycopg.connect(self._history_dsn(), autocommit=True) as connection:
            connection.execute(statement)

    def until_calm(self) -> None:
        """Wait until Prometheus's windows hold nothing of a spike that is over."""
        failed = 'sum(increase(http_requests_total{job="backend-api",status=~"5.."}[60s]))'
        share = f'{failed} / sum(increase(http_requests_total{{job="backend-api"}}[60s])) < 0.01'
        wait_until("few errors within the last minute", lambda: bool(query(self.sandbox, share)), seconds=90, every=1)

    def version_of_endpoint(self) -> str:
        url = f"http://127.0.0.1:{self.sandbox.port('api')}/health/ready"
        return str(requests.get(url, timeout=10).json().get("version"))

    # Setting back -------------------------------------------------------------------------------

    def set_back(self) -> None:
        """Bring everything back to where it was before any release."""
        self.platform.heal()
        self._end_runs()
        self.kubectl("delete", "jobs", "-l", "app.kubernetes.io/managed-by=vcci-ops", "--ignore-not-found")
        self.kubectl("delete", "lease", "vcci-ops-change", "--ignore-not-found")
        self._workloads()
        self._schema()
        for tag in self.tags() - {"v1.9.0", "v2.0.0"}:
            self.git("tag", "--delete", tag)
        wait_until("requests are counted", self._counted, seconds=60, every=0.5)
        for table in ("incident", "release", "change_event"):
            self.history_execute(f"DELETE FROM {table}")

    def _counted(self) -> bool:
        """Whether Prometheus has seen requests lately, as after it was away."""
        try:
            (found,) = query(self.sandbox, 'sum(increase(http_requests_total{job="backend-api"}[15s]))')
            return float(found["value"][1]) > 100
        except (OSError, ValueError):
            return False

    def _history_dsn(self) -> str:
        from sandbox.history import _connect

        with _connect(self.sandbox) as connection:
            return f"{connection.info.dsn} password={connection.info.password}"

    def _end_runs(self) -> None:
        for dag_id in ("release_deploy", "release_rollback", "scale_workloads", "restart_workloads"):
            runs = self.requester.get(f"dags/{dag_id}/dagRuns", state=["running", "queued"])["dag_runs"]
            for run in runs:
                url = f"{self.requester.url}/api/v2/dags/{dag_id}/dagRuns/{run['dag_run_id']}"
                self.requester._session.patch(url, json={"state": "failed"}, timeout=30).raise_for_status()

    def _workloads(self) -> None:
        if all(tag == "v2.0.0" for tag in self.images().values()):
            return
        for name, image in self._beginning.items():
            self.kubectl("set", "image", f"deployment/{name}", f"{name}={image}")
        for name in WORKLOADS:
            self.kubectl("rollout", "status", f"deployment/{name}", "--timeout=50s")

    def _schema(self) -> None:
        if self.schema() == BEGINNING:
            return
        # The newest release's tree has the scripts of every revision.
        with tempfile.TemporaryDirectory() as tree:
            for path, content in story.tell().tree("release/v2.2").items():
                file = Path(tree) / path
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
            with admin(self.sandbox, Production(), PRODUCTION) as connection:
                info = connection.info
                url = f"postgresql+psycopg://{info.user}:{info.password}@{info.host}:{info.port}/{info.dbname}"
            argv = [str(Path(sys.executable).with_name("alembic")), "downgrade", BEGINNING]
            subprocess.run(argv, cwd=tree, env={**os.environ, "DATABASE_URL": url}, check=True, capture_output=True)


class Killer:
    """Kills the process of each of a run's tasks once with -9, as soon as it is there, in the background.

    :param tasks: which; a task that waits deferred is killed in its first process.
    """

    def __init__(self, released: Released, run: Run, tasks: tuple[str, ...]) -> None:
        self.killed: set[str] = set()
        self._released, self._run, self._tasks = released, run, set(tasks)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._hunt, daemon=True)

    def __enter__(self) -> Killer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)

    def _hunt(self) -> None:
        client = self._released.people["approver"]
        path = f"dags/{self._run.dag_id}/dagRuns/{self._run.run_id}/taskInstances"
        while not self._stop.wait(0.05):
            with contextlib.suppress(requests.RequestException):
                for task in client.get(path, limit=100, state=["running"])["task_instances"]:
                    if task["task_id"] in self._tasks - self.killed and self._kill(task["id"]):
                        self.killed.add(task["task_id"])

    @staticmethod
    def _kill(instance: str) -> bool:
        """Kill the process of a task instance: a child of the executor's, and both bear its id in their title."""
        parents: dict[int, int] = {}
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                if instance in (entry / "cmdline").read_bytes().decode(errors="replace"):
                    stat = (entry / "stat").read_text().rpartition(")")[2].split()
                    parents[int(entry.name)] = int(stat[1])
        children = [pid for pid, parent in parents.items() if parent in parents]
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return bool(children)
