"""Containers that run to their end, as local processes.

A container of a pulled image begins in the image's tree, with the image's and its own variables and hardly any
of the sandbox's. What it mounts is a folder of its pod's; wherever the path of a mount stands in its command or
variables, the process gets that folder's, and ``VCCI_SANDBOX_MOUNTS`` has them all (JSON). The image of
BuildKit's client is played by :mod:`sandbox.releases.buildctl`.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from sandbox.kubernetes.metrics import quantity
from sandbox.kubernetes.pulling import Pulled
from sandbox.kubernetes.resources import SECRETS, resource
from sandbox.kubernetes.store import Object, Store
from sandbox.state import ROOT

_CONFIGMAPS = resource("configmaps")
_REFERENCE = re.compile(r"\$\(([A-Za-z_][A-Za-z0-9_.-]*)\)")
_PATIENCE = 2.0
_BUILDKIT = re.compile(r"(.*/)?moby/buildkit:.*rootless(@.*)?")
_BUILDCTL = "buildctl-daemonless.sh"
_PLAYED_BUILDCTL = (sys.executable, "-m", "sandbox.releases.buildctl")
_HANDED_DOWN = ("HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "VCCI_SANDBOX_HOME")
MOUNTS = "VCCI_SANDBOX_MOUNTS"


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

    async def run(self, pod: Object, file: Path, image: Pulled | None = None) -> tuple[int, str]:
        """Run the command and write its output to a file, each line behind its time.

        Return exit code and reason, which is empty unless Kubernetes ended it.

        :param image: the image, when it was pulled.
        :raises NoSuchProgram: when the command cannot be started.
        """
        container = pod["spec"]["containers"][0]
        mounts = self._mount(pod, container, _volumes(file))
        env = self._mounted(self.environment_of(pod, container, image), mounts)
        given = [str(part) for part in (container.get("command") or []) + (container.get("args") or [])]
        argv = [_moved(_expand(part, env), mounts) for part in given]
        if not argv:
            return await _pretend(container, file)
        if _BUILDKIT.fullmatch(container["image"]) and argv[0].rpartition("/")[2] == _BUILDCTL:
            argv[:1] = _PLAYED_BUILDCTL
            env["PYTHONPATH"] = str(ROOT)
        try:
            process = await self._start(argv, container, env, image)
            return await _attend(process, file, pod["spec"].get("activeDeadlineSeconds"))
        finally:
            shutil.rmtree(_volumes(file), ignore_errors=True)

    async def _start(
        self, argv: list[str], container: Object, env: dict[str, str], image: Pulled | None
    ) -> asyncio.subprocess.Process:
        try:
            return await asyncio.create_subprocess_exec(
                *argv,
                cwd=self._begin(container, image),
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                limit=2**20,
            )
        except OSError as error:
            raise NoSuchProgram(f'exec: "{argv[0]}": {error.strerror}') from error

    def _begin(self, container: Object, image: Pulled | None) -> Path:
        """Return the working directory."""
        given = container.get("workingDir")
        if image:
            inside = image.root / given.lstrip("/") if given else image.folder
            return inside if inside.is_dir() else image.root
        return Path(given) if given and Path(given).is_dir() else self._folder

    def _mount(self, pod: Object, container: Object, folder: Path) -> dict[str, str]:
        """Put a container's volumes into a folder; return where each mount path is."""
        volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes") or ()}
        namespace, found = pod["metadata"]["namespace"], {}
        for mount in container.get("volumeMounts") or ():
            volume, at = volumes.get(mount["name"], {}), folder / mount["name"]
            at.mkdir(parents=True, exist_ok=True)
            for kind, key in (("secret", "secretName"), ("configMap", "name")):
                if kind in volume:
                    names = {item["key"]: item["path"] for item in volume[kind].get("items") or ()}
                    for name, value in self._values(kind, namespace, volume[kind][key]).items():
                        if not names or name in names:
                            (at / Path(names.get(name, name)).name).write_text(value)
            found[mount["mountPath"].rstrip("/")] = str(at)
        return found

    def _mounted(self, env: dict[str, str], mounts: Mapping[str, str]) -> dict[str, str]:
        """Return variables with the paths of mounts moved, in those that are not this machine's own."""
        own = {**self._environment, "PATH": env["PATH"]}
        moved = {key: value if own.get(key) == value else _moved(value, mounts) for key, value in env.items()}
        return {**moved, MOUNTS: json.dumps(mounts)} if mounts else moved

    def environment_of(self, pod: Object, container: Object, image: Pulled | None = None) -> dict[str, str]:
        """Return a container's environment: the image's, envFrom, then env, with references resolved."""
        namespace = pod["metadata"]["namespace"]
        env = dict(self._environment)
        if image:
            env = {key: env[key] for key in _HANDED_DOWN if key in env} | image.environment
        env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{self._environment.get('PATH', os.defpath)}"
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


def _volumes(file: Path) -> Path:
    return file.parent.with_name("volumes") / file.stem


def _moved(text: str, mounts: Mapping[str, str]) -> str:
    """Return a text with the paths of mounts as this machine has them."""
    if not mounts:
        return text
    # In one pass: where a mount is on this machine may itself begin like the path of another one.
    paths = "|".join(re.escape(path) for path in sorted(mounts, key=len, reverse=True))
    return re.sub(rf"(?<![\w/.-])({paths})(?![\w.-])", lambda found: mounts[found[1]], text)


async def _attend(process: asyncio.subprocess.Process, file: Path, limit: float | None) -> tuple[int, str]:
    try:
        await asyncio.wait_for(_record(process, file), limit)
    except TimeoutError:
        return 137, "DeadlineExceeded"
    finally:
        await _end(process)
    code = process.returncode or 0
    return (128 - code, "") if code < 0 else (code, "")


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
