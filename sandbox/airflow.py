"""A whole Airflow on the sandbox: api-server, scheduler, dag-processor, triggerer, metadata in PostgreSQL."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import requests

from sandbox.service import Sandbox, SandboxError, Service, wait_until
from sandbox.services.postgres import airflow_dsn
from sandbox.state import ROOT

USERS = {"admin": "admin", "viewer": "viewer", "approver": "admin", "second-approver": "admin"}
"""Who may log in → their role. The one who asks for a release does not approve it: that takes two."""
COMPONENTS = ("api-server", "scheduler", "dag-processor", "triggerer")


class Airflow(Service):
    """Airflow's processes, each by the command that runs it in production.

    :param connections: Airflow connections by id, in Airflow's JSON form.
    """

    name = "airflow"
    needs = ("pg-airflow",)
    patience = 150.0
    ports = ("airflow", "airflow-triggerer-logs", "airflow-worker-logs")

    def __init__(self, connections: dict[str, dict[str, Any]]) -> None:
        self._connections = connections
        self._warmed = False

    def url(self, sandbox: Sandbox) -> str:
        """Return the address of the UI and the REST API."""
        return f"http://127.0.0.1:{sandbox.port('airflow')}"

    def environment(self, sandbox: Sandbox) -> dict[str, str]:
        """Return the environment of every Airflow process."""
        home = sandbox.data("airflow")
        url = self.url(sandbox)
        env = {
            "AIRFLOW_HOME": str(home),
            "PYTHONDONTWRITEBYTECODE": "",  # empty is off: every task would compile the library again
            "VCCI_OPS_SETTINGS": os.environ.get("VCCI_OPS_SETTINGS", "sandbox"),
            "VCCI_OPS_AIRFLOW_URL": url,
            "PYTHONPATH": os.pathsep.join([str(ROOT / "plugins"), str(ROOT)]),
            "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__PARALLELISM": "12",
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(f"{user}:{role}" for user, role in USERS.items()),
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(home / "passwords.json"),
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
            "AIRFLOW__CORE__FERNET_KEY": self._fernet(sandbox),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": airflow_dsn(sandbox),
            "AIRFLOW__API__BASE_URL": url,
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(sandbox.port("airflow")),
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__API__SECRET_KEY": sandbox.secret("airflow-secret-key"),
            "AIRFLOW__API_AUTH__JWT_SECRET": sandbox.secret("airflow-jwt") + sandbox.secret("airflow-jwt-2"),
            "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "5",
            # A file that changes is read at once all the same; reading all over and over takes a third of a core.
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "600",
            "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1",
            # Between two links of a chain the scheduler sleeps this long; the default is a second.
            "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.2",
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(sandbox.port("airflow-worker-logs")),
            "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(sandbox.port("airflow-triggerer-logs")),
            # A task whose process ends slowly is noticed after this many seconds only; on a busy machine that is often.
            "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "2",
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        }
        for id_, connection in self._connections.items():
            env[f"AIRFLOW_CONN_{id_.upper()}"] = json.dumps(connection)
        return env

    def start(self, sandbox: Sandbox) -> None:
        """Migrate the metadata and the history once per version, then start the processes."""
        env = self.environment(sandbox)
        (sandbox.data("airflow") / "passwords.json").write_text(
            json.dumps({user: sandbox.secret(f"airflow-{user}") for user in USERS})
        )
        self._migrate(sandbox, env)
        for component in COMPONENTS:
            sandbox.spawn(f"airflow-{component}", [_airflow(), component], env=env)

    def ready(self, sandbox: Sandbox) -> bool:
        """Whether the API server answers and scheduler and dag-processor are alive.

        :raises SandboxError: when one of the processes has ended; names its log.
        """
        for component in COMPONENTS:
            if not sandbox.pid(f"airflow-{component}"):
                raise SandboxError(f"airflow {component} has ended: read {sandbox.log(f'airflow-{component}')}")
        url = self.url(sandbox)
        try:
            health = requests.get(f"{url}/api/v2/monitor/health", timeout=2).json()
            if not self._warmed:
                # The tasks' API builds its routes at its first request, which takes seconds: best now,
                # while the other processes still start.
                self._warmed = True
                requests.get(f"{url}/execution/health", timeout=30)
        except (requests.RequestException, ValueError):
            return False
        return all(health[part]["status"] == "healthy" for part in ("metadatabase", "scheduler", "dag_processor"))

    def stop(self, sandbox: Sandbox) -> None:
        """Stop the processes; tasks that run are ended by the scheduler."""
        with ThreadPoolExecutor(len(COMPONENTS)) as pool:
            list(pool.map(lambda component: sandbox.end(f"airflow-{component}", patience=20), COMPONENTS))

    def _migrate(self, sandbox: Sandbox, env: dict[str, str]) -> None:
        migrations = sorted((ROOT / "plugins" / "vcci_ops" / "migrations" / "versions").glob("*.py"))
        wanted = hashlib.sha256((ROOT / "requirements.txt").read_bytes())
        for file in migrations:
            wanted.update(file.read_bytes())
        stamp = sandbox.data("airflow") / "migrated"
        if stamp.exists() and stamp.read_text() == wanted.hexdigest():
            return
        for argv in ([_airflow(), "db", "migrate"], [sys.executable, "-m", "vcci_ops.migrations"]):
            with open(sandbox.log("airflow-migrate"), "ab") as log:
                subprocess.run(argv, env={**os.environ, **env}, stdout=log, stderr=log, cwd=ROOT, check=True)
        stamp.write_text(wanted.hexdigest())

    @staticmethod
    def _fernet(sandbox: Sandbox) -> str:
        import base64

        return base64.urlsafe_b64encode(bytes.fromhex(sandbox.secret("airflow-fernet") * 2)[:32]).decode()


class Client:
    """Airflow's REST API as a person with a login uses it."""

    def __init__(self, url: str, user: str, password: str) -> None:
        self.url = url
        self._session = requests.Session()
        answer = self._session.post(f"{url}/auth/token", json={"username": user, "password": password}, timeout=10)
        answer.raise_for_status()
        self._session.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"

    def get(self, path: str, **params: Any) -> Any:
        """GET below /api/v2."""
        answer = self._session.get(f"{self.url}/api/v2/{path}", params=params, timeout=30)
        answer.raise_for_status()
        return answer.json()

    def raw(self, path: str, **params: Any) -> requests.Response:
        """GET any page, with the login."""
        return self._session.get(f"{self.url}{path}", params=params, timeout=30)

    def post(self, path: str, body: dict[str, Any]) -> requests.Response:
        """POST below /api/v2."""
        return self._session.post(f"{self.url}/api/v2/{path}", json=body, timeout=30)

    def trigger(self, dag_id: str, conf: dict[str, Any] | None = None) -> str:
        """Trigger a run once the DAG is known; return its run_id."""
        wait_until(f"DAG {dag_id} parsed", lambda: self._knows(dag_id), seconds=60, every=0.3)
        answer = self.post(f"dags/{dag_id}/dagRuns", {"logical_date": None, "conf": conf or {}})
        answer.raise_for_status()
        return str(answer.json()["dag_run_id"])

    def _knows(self, dag_id: str) -> bool:
        answer = self.raw(f"/api/v2/dags/{dag_id}/details")
        return answer.status_code == 200 and not answer.json()["is_stale"]

    def state(self, dag_id: str, run_id: str) -> str:
        """Return the state of a run."""
        return str(self.get(f"dags/{dag_id}/dagRuns/{run_id}")["state"])

    def wait(self, dag_id: str, run_id: str, seconds: float = 180) -> str:
        """Wait for a run's end and return its state."""
        done = ("success", "failed")
        wait_until(f"run {run_id} ended", lambda: self.state(dag_id, run_id) in done, seconds=seconds, every=0.5)
        return self.state(dag_id, run_id)

    def tasks(self, dag_id: str, run_id: str) -> dict[str, str]:
        """Return the state of each task of a run."""
        found = self.get(f"dags/{dag_id}/dagRuns/{run_id}/taskInstances", limit=100)["task_instances"]
        return {task["task_id"]: str(task["state"]) for task in found}

    def log(self, dag_id: str, run_id: str, task_id: str, attempt: int = 1) -> str:
        """Return a task's log as text."""
        path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/logs/{attempt}"
        lines = self.get(path, full_content=True)["content"]
        return "\n".join(line if isinstance(line, str) else _said(line) for line in lines)

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str) -> Any:
        """Return a value that a task left."""
        path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/{key}"
        return self.get(path, deserialize=True)["value"]


def _said(line: dict[str, Any]) -> str:
    errors = [f"{e.get('exc_type')}: {e.get('exc_value')}" for e in line.get("error_detail") or ()]
    return "\n".join([str(line.get("event", "")), *errors])


def _airflow() -> str:
    return str(Path(sys.executable).with_name("airflow"))
