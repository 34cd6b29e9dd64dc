"""BuildKit's client, played: ``python -m sandbox.releases.buildctl build ...`` for a Job that builds an image.

It takes what ``buildctl build`` takes for a build of a git repository by its Dockerfile frontend, clones the commit,
makes a real image of its tree and pushes it; RUN lines are only said. Anything else is refused as buildctl would.

Log-ins: git's is the secret ``GIT_AUTH_TOKEN`` (``--secret id=GIT_AUTH_TOKEN,env=NAME`` or ``,src=FILE``), the
registry's a ``config.json`` in ``DOCKER_CONFIG``, or mounted at /home/user/.docker, as in the real rootless image.
https://github.com/moby/buildkit#building-a-dockerfile-with-buildctl
"""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from sandbox.releases import images
from sandbox.releases.registry import Client, Reference, RegistryError
from sandbox.releases.repository import environment
from sandbox.releases.story import Files
from sandbox.state import ActiveFaults

FAULT = "build-fails"
_REPEATED = ("--opt", "--output", "--secret")
_ONCE = ("--frontend", "--progress", "--metadata-file")
_OUTPUT = ("type", "name", "push", "registry.insecure", "oci-mediatypes")


class Refused(Exception):
    """What is wrong with the request or the build; a sentence as buildctl says it."""


@dataclasses.dataclass
class Request:
    """What is to be built.

    :param options: of the frontend: context, filename, build-arg:NAME, label:NAME.
    :param output: of the exporter: type, name, push.
    :param secrets: by id.
    """

    options: dict[str, str]
    output: dict[str, str]
    secrets: dict[str, str]
    metadata_file: str = ""

    @classmethod
    def parse(cls, argv: list[str]) -> Request:
        """Read the arguments.

        :raises Refused: for what buildctl does not know, or this stand-in does not play.
        """
        if not argv or argv[0] != "build":
            raise Refused(f"No help topic for '{argv[0] if argv else ''}'")
        given = _flags(argv[1:])
        if given.get("--frontend") != ["dockerfile.v0"]:
            raise Refused("the sandbox plays --frontend dockerfile.v0 only")
        options = dict(_pair(text) for text in given.get("--opt", []))
        for name in options:
            if name not in ("context", "filename") and not name.startswith(("build-arg:", "label:")):
                raise Refused(f"unsupported frontend option {name}")
        outputs = given.get("--output", [])
        if len(outputs) != 1:
            raise Refused("the sandbox plays exactly one --output")
        secrets = dict(_secret(text) for text in given.get("--secret", []))
        return cls(options, _output(outputs[0]), secrets, given.get("--metadata-file", [""])[0])

    def named(self, prefix: str) -> dict[str, str]:
        """Return the options of a kind, by name."""
        return {key.removeprefix(prefix): value for key, value in self.options.items() if key.startswith(prefix)}


def _flags(words: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    rest = iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        if name == "--no-cache":
            continue
        if name not in _REPEATED + _ONCE:
            raise Refused(f"flag provided but not defined: {name.replace('--', '-', 1)}")
        if not equals and (value := next(rest, "")) == "":
            raise Refused(f"flag needs an argument: {name.replace('--', '-', 1)}")
        if name in _ONCE and name in found:
            raise Refused(f"{name} is given twice")
        found.setdefault(name, []).append(value)
    return found


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise Refused(f"invalid value {text} for --opt: expected key=value")
    return name, value


def _fields(text: str) -> dict[str, str]:
    return dict(_pair(part) if "=" in part else (part, "true") for part in text.split(","))


def _output(text: str) -> dict[str, str]:
    found = _fields(text)
    unknown = set(found) - set(_OUTPUT)
    if unknown:
        raise Refused(f"unknown output option {sorted(unknown)[0]}")
    if found.get("type") != "image" or not found.get("name"):
        raise Refused("the sandbox plays --output type=image,name=...,push=true only")
    return found


def _secret(text: str) -> tuple[str, str]:
    found = _fields(text)
    id_ = found.get("id", "")
    source = found.get("env") or (id_ if "src" not in found else "")
    if source:
        if source not in os.environ:
            raise Refused(f"could not find secret: environment variable {source} is not set")
        return id_, os.environ[source]
    try:
        return id_, Path(found["src"]).read_text().strip()
    except OSError as error:
        raise Refused(f"failed to stat {found['src']}: {error.strerror}") from error


class Log:
    """Says what happens in BuildKit's plain progress."""

    def __init__(self) -> None:
        self._step = 0

    @contextmanager
    def step(self, title: str) -> Iterator[Log]:
        """Number a step and say its end."""
        self._step += 1
        begun = time.monotonic()
        self.say(title)
        try:
            yield self
        except Exception as error:
            self.say(f"ERROR: {error}\n")
            raise
        self.say(f"DONE {time.monotonic() - begun:.1f}s\n")

    def say(self, text: str) -> None:
        """Say something of the step."""
        print(f"#{self._step} {text}", flush=True)


@dataclasses.dataclass(frozen=True)
class Source:
    """A commit, cloned."""

    commit: str
    when: int
    files: Files


def clone(context: str, token: str) -> Source:
    """Fetch one commit of a git repository.

    :param context: its URL, which ends in .git, and behind a # a branch, tag or commit.
    :param token: password for the user x-access-token, as BuildKit sends it; empty: none.
    :raises Refused: when git cannot get it.
    """
    url, _, ref = context.partition("#")
    if urlsplit(url).scheme not in ("http", "https") or not url.endswith(".git"):
        raise Refused(f"the sandbox plays contexts that are http addresses of a .git only, not {context}")
    if ref.startswith("-") or ":" in ref:
        raise Refused(f"invalid git ref {ref!r}")
    with tempfile.TemporaryDirectory() as folder:
        git = _Git(Path(folder), token)
        git("init", "--quiet")
        git("fetch", "--quiet", "--depth=1", "--", url, ref or "HEAD")
        commit, when = git("log", "-1", "--format=%H %ct", "FETCH_HEAD").decode().split()
        names = git("ls-tree", "-r", "-z", "--name-only", commit).decode().split("\0")
        files = {name: git("cat-file", "blob", f"{commit}:{name}") for name in names if name}
    return Source(commit, int(when), files)


class _Git:
    """Runs git in a folder, logged in by a token."""

    def __init__(self, folder: Path, token: str) -> None:
        self._folder, self._env = folder, environment()
        if token:
            pair = base64.b64encode(f"x-access-token:{token}".encode()).decode()
            self._env |= {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "http.extraHeader"}
            self._env |= {"GIT_CONFIG_VALUE_0": f"Authorization: Basic {pair}"}

    def __call__(self, *args: str) -> bytes:
        done = subprocess.run(["git", *args], cwd=self._folder, env=self._env, capture_output=True, check=False)
        if done.returncode:
            raise Refused(f"failed to fetch the context: git {args[0]}: {done.stderr.decode(errors='replace').strip()}")
        return done.stdout


def build(request: Request) -> str:
    """Build and push; return the digest.

    :raises Refused: when something fails.
    """
    log, context = Log(), request.options.get("context", "")
    dockerfile = request.options.get("filename", "Dockerfile")
    with log.step(f"[internal] load git source {context}"):
        source = clone(context, request.secrets.get("GIT_AUTH_TOKEN", ""))
        log.say(source.commit)
    with log.step(f"[internal] load build definition from {dockerfile}"):
        arguments, labels = request.named("build-arg:"), request.named("label:")
        image = images.build(source.files, dockerfile, arguments=arguments, labels=labels, when=source.when)
    _say_steps(log, source.files[dockerfile].decode())
    with log.step("exporting to image"):
        log.say("exporting layers done")
        log.say(f"exporting manifest {image.digest} done")
        log.say(f"exporting config {images.digest_of(image.config)} done")
        log.say(f"naming to {request.output['name']} done")
        if request.output.get("push") == "true":
            _push(log, request.output["name"], image)
    if request.metadata_file:
        found = {"containerimage.digest": image.digest, "image.name": request.output["name"]}
        Path(request.metadata_file).write_text(json.dumps(found, indent=2))
    return image.digest


def _say_steps(log: Log, dockerfile: str) -> None:
    shown = ("FROM", "WORKDIR", "COPY", "RUN")
    said = [(word, rest) for word, rest in images.instructions(dockerfile) if word in shown]
    faults = ActiveFaults()
    for number, (word, rest) in enumerate(said, 1):
        with log.step(f"[{number}/{len(said)}] {word} {rest}"):
            if word == "RUN" and faults.get(FAULT) is not None:
                log.say("0.112 SyntaxError: invalid syntax")
                raise Refused(f'process "/bin/sh -c {rest}" did not complete successfully: exit code: 1')


def _push(log: Log, name: str, image: images.Image) -> None:
    reference = Reference.parse(name)
    if reference is None or not reference.tag:
        raise Refused(f"invalid reference format: {name}")
    log.say("pushing layers")
    client = Client(reference.host, *_login(reference.host))
    client.push(reference.repository, [reference.tag], image)
    log.say("pushing layers done")
    log.say(f"pushing manifest for {name}@{image.digest} done")


def _login(host: str) -> tuple[str, str]:
    """Return name and password for a registry from the client's configuration; empty ones when it has none."""
    mounts = json.loads(os.environ.get("VCCI_SANDBOX_MOUNTS", "{}"))
    folder = os.environ.get("DOCKER_CONFIG") or mounts.get("/home/user/.docker", "")
    file = Path(folder) / "config.json"
    if not folder or not file.is_file():
        return "", ""
    auth = json.loads(file.read_text()).get("auths", {}).get(host, {}).get("auth", "")
    login, _, password = base64.b64decode(auth).decode().partition(":")
    return login, password


def main(argv: list[str]) -> int:
    """Run one command; returns the exit code."""
    try:
        build(Request.parse(argv))
    except (Refused, images.ImageError) as error:
        print(f"error: failed to solve: {error}", file=sys.stderr, flush=True)
        return 1
    except RegistryError as error:
        print(f"error: failed to solve: failed to push: {error}", file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
