"""The platform's git repository, made of the story by one ``git fast-import``.

Commit ids are the same at every start, for authors and dates are the story's.
https://git-scm.com/docs/git-fast-import
"""

from __future__ import annotations

import fcntl
import io
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sandbox.releases import story
from sandbox.releases.story import Commit, Story
from sandbox.service import Sandbox, SandboxError

NAME = "vcci/platform.git"
_SETTINGS = {
    "http.receivepack": "true",
    "uploadpack.allowAnySHA1InWant": "true",  # a build asks for a commit, not for a branch
    "receive.denyDeletes": "false",
    "gc.auto": "0",
    "core.logAllRefUpdates": "true",
    "transfer.hideRefs": "refs/sandbox",
}
_TAGGER = "Karin Meier <karin.meier@greenlang.io>"


def environment() -> dict[str, str]:
    """Return an environment in which git obeys nobody's configuration."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    return {**clean, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0"}


def git(folder: Path, *args: str, given: bytes | None = None) -> str:
    """Run git in a folder and return what it said.

    :raises SandboxError: when it fails.
    """
    argv = ["git", "-c", "safe.directory=*", *args]
    done = subprocess.run(argv, cwd=folder, input=given, capture_output=True, check=False, env=environment())
    if done.returncode:
        raise SandboxError(f"git {args[0]} failed: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout.decode()


def path(sandbox: Sandbox) -> Path:
    """Return where the bare repository is."""
    return sandbox.data("git") / NAME


def ensure(sandbox: Sandbox) -> Path:
    """Make the repository unless it is there; what was pushed to it since stays, as long as the story does."""
    bare, wanted = path(sandbox), story.digest()
    stamp = sandbox.data("git") / "made-of"
    with locked(sandbox.data("git") / "lock"):
        if bare.exists() and stamp.exists() and stamp.read_text() == wanted:
            return bare
        fresh = bare.with_suffix(".new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        create(fresh, story.tell())
        shutil.rmtree(bare, ignore_errors=True)
        fresh.rename(bare)
        stamp.write_text(wanted)
    return bare


def create(folder: Path, told: Story) -> None:
    """Make a bare repository with a story's history in an empty folder."""
    git(folder, "init", "--quiet", "--bare", "--initial-branch=main")
    with open(folder / "config", "a") as config:
        for key, value in _SETTINGS.items():
            section, _, name = key.partition(".")
            config.write(f"[{section}]\n\t{name} = {value}\n")
    git(folder, "fast-import", "--quiet", "--done", given=_stream(told))


def commit_of(bare: Path, ref: str) -> str:
    """Return the commit that a branch or tag names."""
    return git(bare, "rev-parse", "--verify", f"{ref}^{{commit}}").strip()


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold a lock file: services start side by side."""
    with open(file, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _stream(told: Story) -> bytes:
    out = io.BytesIO()
    for number, commit in enumerate(told.commits):
        _commit(out, number, commit)
    for name, number in told.branches.items():
        out.write(f"reset refs/heads/{name}\nfrom :{number + 1}\n\n".encode())
    for name, number in told.tags.items():
        when = told.commits[number].when + 600
        out.write(f"tag {name}\nfrom :{number + 1}\ntagger {_TAGGER} {when} +0000\n".encode())
        _data(out, f"Release {name}\n".encode())
    out.write(b"done\n")
    return out.getvalue()


def _commit(out: io.BytesIO, number: int, commit: Commit) -> None:
    out.write(f"commit refs/sandbox/story\nmark :{number + 1}\n".encode())
    for who in ("author", "committer"):
        out.write(f"{who} {commit.author} {commit.when} +0000\n".encode())
    _data(out, commit.message.encode())
    if commit.parent is not None:
        out.write(f"from :{commit.parent + 1}\n".encode())
    for name, data in commit.changed.items():
        if data is None:
            out.write(f"D {name}\n".encode())
        else:
            out.write(f"M 100644 inline {name}\n".encode())
            _data(out, data)
    out.write(b"\n")


def _data(out: io.BytesIO, data: bytes) -> None:
    out.write(f"data {len(data)}\n".encode() + data + b"\n")
