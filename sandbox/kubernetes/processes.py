"""Containers that run to their end, as local processes."""

from __future__ import annotations

import asyncio
import base64
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from sandbox.kubernetes.metrics import quantity
from sandbox.kubernetes.resources import SECRETS, resource
from sandbox.kubernetes.store import Object, Store

_CONFIGMAPS = resource("configmaps")
_REFERENCE = re.compile(r"\$\(([A-Za-z_][A-Za-z0-9_.-]*)\)")
_PATIENCE = 2.0


class NoSuchProgram(Exception):
    """The container's command is not there."""


class Process:
    """Runs a pod's first container.

    :param store: for Secrets and ConfigMaps that the environment takes from.
    :param folder: working directory, where the platform image's scripts are.
    :param environment: what every process gets besides its container's own variables.
    """

    def __init__(self, *, store: Store, folder: Path, environment: Mapping[str, str]) -> None:
        self._store, self._folder, self._environment = store, folder, environment

    async def run(self, pod: Object, file: Path) -> tuple[int, str]:
        """Run the command and write its output to a file, each line behind its time.

        Return exit code and reason, which is empty unless Kubernetes ended it.

        :raises NoSuchProgram: when the command cannot be started.
        """
        container = pod["spec"]["containers"][0]
        env = self.environment_of(pod, container)
        argv = [_expand(str(part), env) for part in (container.get("command") or []) + (container.get("args") or [])]
        if not argv:
            return await _pretend(container, file)
        process = await self._start(argv, container, env)
        limit = pod["spec"].get("activeDeadlineSeconds")
        try:
            await asyncio.wait_for(_record(process, file), limit)
        except TimeoutError:
            return 137, "DeadlineExceeded"
        finally:
            await _end(process)
        code = process.returncode or 0
        return (128 - code, "") if code < 0 else (code, "")

    async def _start(self, argv: list[str], container: Object, env: dict[str, str]) -> asyncio.subprocess.Process:
        folder = container.get("workingDir")
        cwd = folder if folder and Path(folder).is_dir() else self._folder
        try:
            return await asyncio.create_subprocess_exec(
                *argv,
                cwd=cwd,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                limit=2**20,
            )
        except OSError as error:
            raise NoSuchProgram(f'exec: "{argv[0]}": {error.strerror}') from error

    def environment_of(self, pod: Object, container: Object) -> dict[str, str]:
        """Return a container's environment: envFrom, then env, with references resolved."""
        namespace = pod["metadata"]["namespace"]
        env = dict(self._environment)
        env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env.get('PATH', os.defpath)}"
        env["HOSTNAME"] = pod["metadata"]["name"]
        for source in container.get("envFrom") or ():
            for kind in ("configMapRef", "secretRef"):
                if kind in source:
                    values = self._values(kind, namespace, source[kind]["name"])
                    env.update({source.get("prefix", "") + key: value for key, value in values.items()})
        for variable in container.get("env") or ():
            value = (
                self._from(pod, container, variable["valueFrom"]) if "valueFrom" in variable else variable.get("value")
            )
            if value is not None:
                env[variable["name"]] = _expand(str(value), env)
        return env

    def _values(self, kind: str, namespace: str, name: str) -> dict[str, str]:
        if kind.startswith("configMap"):
            found = self._store.find(_CONFIGMAPS, namespace, name) or {}
            return dict(found.get("data") or {})
        found = self._store.find(SECRETS, namespace, name) or {}
        return {key: base64.b64decode(value).decode() for key, value in (found.get("data") or {}).items()}

    def _from(self, pod: Object, container: Object, source: Object) -> str | None:
        namespace = pod["metadata"]["namespace"]
        for kind in ("configMapKeyRef", "secretKeyRef"):
            if kind in source:
                return self._values(kind, namespace, source[kind]["name"]).get(source[kind]["key"])
        if "resourceFieldRef" in source:
            section, _, name = source["resourceFieldRef"]["resource"].partition(".")
            return str(round(quantity(((container.get("resources") or {}).get(section) or {}).get(name))))
        path = source["fieldRef"]["fieldPath"]
        if found := re.fullmatch(r"metadata\.(labels|annotations)\['(.+)'\]", path):
            return (pod["metadata"].get(found[1]) or {}).get(found[2])
        at: object = pod
        for step in path.split("."):
            at = at.get(step) if isinstance(at, dict) else None
        return None if at is None else str(at)


def _expand(text: str, env: Mapping[str, str]) -> str:
    return _REFERENCE.sub(lambda found: env.get(found[1], found[0]), text)


async def _pretend(container: Object, file: Path) -> tuple[int, str]:
    file.write_text(f"{time.time():.6f} INFO {container['name']} has no command to run\n")
    await asyncio.sleep(1)
    return (1 if "fail" in container["image"].rpartition(":")[2] else 0), ""


async def _record(process: asyncio.subprocess.Process, file: Path) -> None:
    assert process.stdout is not None
    with open(file, "w", encoding="utf-8") as out:
        while True:
            try:
                line = await process.stdout.readuntil(b"\n")
            except asyncio.IncompleteReadError as end:
                line = end.partial
            except asyncio.LimitOverrunError as much:
                line = await process.stdout.read(much.consumed)
            if not line:
                break
            out.write(f"{time.time():.6f} {line.decode(errors='replace').rstrip(chr(10))}\n")
            out.flush()
    await process.wait()


async def _end(process: asyncio.subprocess.Process) -> None:
    """End what is left of the process and its children."""
    if process.returncode is not None:
        return
    for how in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, how)
            await asyncio.wait_for(process.wait(), _PATIENCE)
        except ProcessLookupError:
            return
        except TimeoutError:
            continue
        return
