"""The platform's git remote: git's own ``http-backend`` behind :mod:`sandbox.git_remote`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import requests

from sandbox.releases import repository
from sandbox.service import Fault, Sandbox, Service, wait_until

USER = "vcci-ops"
DOWN = "git-down"


def url(sandbox: Sandbox) -> str:
    """Return the address of the platform's repository."""
    return f"http://127.0.0.1:{sandbox.port('git')}/{repository.NAME}"


class Git(Service):
    """A git remote over smart HTTP, to read and to push, for those who have the log-in."""

    name = "git"
    ports = ("git",)
    programs: Mapping[str, str] = {"git": "git"}

    def start(self, sandbox: Sandbox) -> None:
        """Make the repository if there is none, and serve it; nothing while ``git-down``."""
        repository.ensure(sandbox)
        sandbox.secret("git")
        if DOWN not in sandbox.state.faults():
            sandbox.python(self.name, "sandbox.git_remote")

    def ready(self, sandbox: Sandbox) -> bool:
        """Whether it lists the refs to one who is logged in."""
        if DOWN in sandbox.state.faults():
            return True
        address = f"{url(sandbox)}/info/refs?service=git-upload-pack"
        try:
            return requests.get(address, auth=(USER, sandbox.secret("git")), timeout=2).status_code == 200
        except requests.RequestException:
            return False

    def connections(self, sandbox: Sandbox) -> dict[str, dict[str, Any]]:
        """Return ``vcci_git``, as GitHook reads it."""
        return {
            "vcci_git": {
                "conn_type": "git",
                "host": url(sandbox),
                "login": USER,
                "password": sandbox.secret("git"),
            }
        }


def _down(sandbox: Sandbox, _options: dict[str, Any]) -> None:
    Git().stop(sandbox)


def _up(sandbox: Sandbox, _options: dict[str, Any]) -> None:
    service = Git()
    service.start(sandbox)
    wait_until("the git remote", lambda: service.ready(sandbox))


Git.faults = (
    Fault(
        DOWN,
        "the git remote is stopped",
        "a release is refused: the repository cannot be reached",
        apply=_down,
        heal=_up,
    ),
)
