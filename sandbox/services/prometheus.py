"""Debian's Prometheus, scraping the stand-in API, with five weeks of history from the first start on."""

from __future__ import annotations

import base64
import ctypes
import ctypes.util
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any

from sandbox.service import Fault, Sandbox, SandboxError, Service, find_program, wait_until

SCRAPE_SECONDS = 3
USER = "vcci-ops"


def query(sandbox: Sandbox, promql: str, *, timeout: float = 5.0) -> list[dict[str, Any]]:
    """Return the series of an instant query, asked directly (not through the delay proxy).

    :raises OSError: when Prometheus does not answer.
    """
    address = f"/api/v1/query?{urllib.parse.urlencode({'query': promql})}"
    found: list[dict[str, Any]] = json.loads(_get(sandbox, address, timeout))["data"]["result"]
    return found


def _get(sandbox: Sandbox, path: str, timeout: float) -> bytes:
    url = f"http://127.0.0.1:{sandbox.port('prometheus-direct')}{path}"
    pair = base64.b64encode(f"{USER}:{sandbox.secret('prometheus')}".encode()).decode()
    request = urllib.request.Request(url, headers={"Authorization": f"Basic {pair}"})
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        body: bytes = answer.read()
    return body


def begin_story(sandbox: Sandbox, name: str, options: dict[str, Any]) -> None:
    """Let a fault of the metrics begin now: record when, and write the past as it has been since."""
    since = time.time()
    sandbox.state.set_fault(name, {**options, "since": since})
    rewrite_history(sandbox, since)


def rewrite_history(sandbox: Sandbox, since: float) -> None:
    """Write the metrics anew from a day before ``since`` on, as the active faults have it; takes 1 to 2 s.

    Prometheus cannot take samples back, so it is stopped meanwhile if it runs.
    """
    from sandbox import metrics_history

    service, runs = Prometheus(), sandbox.pid(Prometheus.name)
    if runs:
        service.stop(sandbox)
    data = sandbox.data("prometheus") / "data"
    metrics_history.forget(data, since - metrics_history.RECENT)
    if runs:
        service.start(sandbox)
        wait_until("prometheus ready", lambda: service.ready(sandbox))


def _down(sandbox: Sandbox, _: dict[str, Any]) -> None:
    Prometheus().stop(sandbox)


def _up(sandbox: Sandbox, _: dict[str, Any]) -> None:
    service = Prometheus()
    service.start(sandbox)
    wait_until("prometheus ready", lambda: service.ready(sandbox))


class Prometheus(Service):
    """Prometheus behind HTTP basic authentication, its samples kept for 60 days."""

    name = "prometheus"
    needs = ("api",)
    ports = ("prometheus-direct",)
    programs: Mapping[str, str] = {"prometheus": "prometheus", "promtool": "prometheus"}
    faults = (
        Fault(
            "prometheus-down",
            "Prometheus is stopped",
            "api.requests and api.error_rate unknown",
            apply=_down,
            heal=_up,
        ),
    )

    def start(self, sandbox: Sandbox) -> None:
        """Write its configuration, fill its history up to now, spawn it; nothing while ``prometheus-down``."""
        if sandbox.pid(self.name) or "prometheus-down" in sandbox.state.faults():
            return
        folder = sandbox.data("prometheus")
        (folder / "prometheus.yml").write_text(json.dumps(self._config(sandbox), indent=1))  # JSON is YAML
        self._write_web_config(sandbox)
        self._fill(sandbox)
        sandbox.spawn(self.name, self._argv(sandbox))

    def ready(self, sandbox: Sandbox) -> bool:
        """Whether it has read its storage and answers queries."""
        if "prometheus-down" in sandbox.state.faults():
            return True
        try:
            _get(sandbox, "/-/ready", 1.0)
        except OSError:
            return False
        return True

    def connections(self, sandbox: Sandbox) -> dict[str, dict[str, Any]]:
        """Return ``vcci_prometheus``, through the delay proxy."""
        return {
            "vcci_prometheus": {
                "conn_type": "http",
                "host": "127.0.0.1",
                "port": sandbox.port("prometheus"),
                "schema": "http",
                "login": USER,
                "password": sandbox.secret("prometheus"),
            }
        }

    def pages(self, sandbox: Sandbox) -> dict[str, str]:
        """Return its own user interface."""
        return {f"Prometheus (user {USER})": f"http://127.0.0.1:{sandbox.port('prometheus-direct')}/graph"}

    def _argv(self, sandbox: Sandbox) -> list[str]:
        folder = sandbox.data("prometheus")
        return [
            sandbox.program("prometheus", "prometheus"),
            f"--config.file={folder / 'prometheus.yml'}",
            f"--web.config.file={folder / 'web.yml'}",
            f"--web.listen-address=127.0.0.1:{sandbox.port('prometheus-direct')}",
            f"--storage.tsdb.path={folder / 'data'}",
            "--storage.tsdb.retention.time=60d",
            # Its lock file outlives a killed Prometheus; the pid in the sandbox's state guards the folder.
            "--no-storage.tsdb.use-lockfile",
            "--web.page-title=VCCI sandbox: Prometheus",
            "--log.level=warn",
        ]

    def _config(self, sandbox: Sandbox) -> dict[str, Any]:
        from sandbox.api.traffic import JOB

        target = {"targets": [f"127.0.0.1:{sandbox.port('api')}"], "labels": {"instance": JOB["instance"]}}
        return {
            "global": {"scrape_interval": f"{SCRAPE_SECONDS}s", "scrape_timeout": f"{SCRAPE_SECONDS}s"},
            "scrape_configs": [{"job_name": JOB["job"], "static_configs": [target]}],
        }

    def _write_web_config(self, sandbox: Sandbox) -> None:
        path = sandbox.data("prometheus") / "web.yml"
        path.touch(mode=0o600)
        hashed = bcrypt(sandbox.secret("prometheus"))
        path.write_text(json.dumps({"basic_auth_users": {USER: hashed}}))

    def _fill(self, sandbox: Sandbox) -> None:
        from sandbox import metrics_history
        from sandbox.api import spells
        from sandbox.api.traffic import Story

        data = sandbox.data("prometheus") / "data"
        pause = time.time() - metrics_history.last_write(data)
        if pause < metrics_history.GAP and (data / "wal").exists():
            return
        metrics_history.forget(data, time.time())
        promtool = find_program("promtool")
        if promtool is None:
            raise SandboxError("the program promtool is missing: apt-get install prometheus")
        story = Story.of(sandbox.state.faults().get, spells.read(sandbox.folder))
        metrics_history.fill(data, story, promtool=promtool)


def bcrypt(password: str) -> str:
    """Hash a password as Prometheus wants it, by the system's libcrypt.

    https://prometheus.io/docs/prometheus/latest/configuration/https/
    """
    library = ctypes.CDLL(ctypes.util.find_library("crypt") or "libcrypt.so.1")
    library.crypt.restype = ctypes.c_char_p
    # 2^4 rounds: the password is 128 random bits, and Prometheus checks it on every request.
    hashed: bytes | None = library.crypt(password.encode(), b"$2b$04$vcciSandboxSaltVcciSau")
    if not hashed or not hashed.startswith(b"$2b$"):
        raise SandboxError("libcrypt cannot make bcrypt hashes: apt-get install libcrypt1")
    return hashed.decode()
