"""A real registry, Debian's docker-registry, with the images of the platform's releases."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import requests

from sandbox.releases import shipping
from sandbox.releases.registry import Client
from sandbox.service import Fault, Sandbox, Service, wait_until
from sandbox.services.prometheus import bcrypt

USER = "vcci-ops"
DOWN = "registry-down"


def host(sandbox: Sandbox) -> str:
    """Return host and port, as image references begin."""
    return f"127.0.0.1:{sandbox.port('registry')}"


def client(sandbox: Sandbox) -> Client:
    """Return a client with the log-in."""
    return Client(host(sandbox), USER, sandbox.secret("registry"))


class Registry(Service):
    """The registry, its storage in the sandbox's folder; a log-in is needed for everything.

    docker-registry's htpasswd knows no anonymous pull; the played nodes have the log-in, as real ones
    have in their configuration.
    """

    name = "registry"
    ports = ("registry",)
    programs: Mapping[str, str] = {"docker-registry": "docker-registry", "git": "git"}

    def start(self, sandbox: Sandbox) -> None:
        """Settle the digests of the releases, write the configuration, spawn it; nothing while ``registry-down``."""
        shipping.plan(sandbox)
        if sandbox.pid(self.name) or DOWN in sandbox.state.faults():
            return
        folder = sandbox.data("registry")
        passwords = folder / "htpasswd"
        passwords.touch(mode=0o600)
        passwords.write_text(f"{USER}:{bcrypt(sandbox.secret('registry'))}\n")
        config = folder / "config.yml"
        config.touch(mode=0o600)
        config.write_text(json.dumps(self._config(sandbox), indent=1))  # JSON is YAML
        sandbox.spawn(self.name, [sandbox.program("docker-registry", "docker-registry"), "serve", str(config)])

    def ready(self, sandbox: Sandbox) -> bool:
        """Whether it answers one who is logged in."""
        if DOWN in sandbox.state.faults():
            return True
        try:
            answer = requests.get(f"http://{host(sandbox)}/v2/", auth=(USER, sandbox.secret("registry")), timeout=1)
        except requests.RequestException:
            return False
        return answer.status_code == 200

    def prepare(self, sandbox: Sandbox) -> None:
        """Push the images of the releases that are not there."""
        if DOWN not in sandbox.state.faults():
            shipping.ship(sandbox, client(sandbox))

    def connections(self, sandbox: Sandbox) -> dict[str, dict[str, Any]]:
        """Return ``vcci_registry``."""
        return {
            "vcci_registry": {
                "conn_type": "http",
                "schema": "http",
                "host": "127.0.0.1",
                "port": sandbox.port("registry"),
                "login": USER,
                "password": sandbox.secret("registry"),
            }
        }

    def _config(self, sandbox: Sandbox) -> dict[str, Any]:
        folder = sandbox.data("registry")
        return {
            "version": "0.1",
            "log": {"level": "warn", "accesslog": {"disabled": True}},
            "storage": {
                "filesystem": {"rootdirectory": str(folder / "storage")},
                "delete": {"enabled": True},
                "cache": {"blobdescriptor": "inmemory"},
            },
            "http": {"addr": host(sandbox), "secret": sandbox.secret("registry-http")},
            "auth": {"htpasswd": {"realm": "vcci", "path": str(folder / "htpasswd")}},
        }


def _down(sandbox: Sandbox, _options: dict[str, Any]) -> None:
    Registry().stop(sandbox)


def _up(sandbox: Sandbox, _options: dict[str, Any]) -> None:
    service = Registry()
    service.start(sandbox)
    wait_until("the registry", lambda: service.ready(sandbox))
    service.prepare(sandbox)


Registry.faults = (
    Fault(
        "build-fails",
        "builds of the platform's images fail in their RUN step",
        "a release that has to build fails there, with the build's last lines",
    ),
    Fault(
        DOWN,
        "the registry is stopped: images that no node has yet cannot be pulled, releases cannot be planned",
        "a release is refused: the registry cannot be reached",
        apply=_down,
        heal=_up,
    ),
)
