"""The platform's repository: what a version is, what lies between two of them, and the tag of a release.

git runs with argument lists, without hooks and without the configuration of machine or user; credentials reach it
through its environment only. What git says in words is shown to people and decides nothing: that is left to exit
codes, to the status code of the server, and to reading again.
"""

from __future__ import annotations

import datetime as dt
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

from vcci_ops.domain.changelog import Commit, one_line
from vcci_ops.exceptions import (
    Conflict,
    Forbidden,
    InvalidInput,
    MeasurementError,
    NoData,
    Refused,
    UnexpectedAnswer,
    Unreachable,
)

SYSTEM = "Git"
MOST_COMMITS, LONGEST_BODY, LARGEST_FILE = 5000, 20_000, 4 * 1024 * 1024
CONNECT_SECONDS, READ_SECONDS = 5.0, 12.0

_SHA = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_REF = re.compile(r"(?!.*(?:\.\.|//|@\{|\.lock(?:/|\Z)|/\.))[A-Za-z0-9][A-Za-z0-9._/+@-]{0,253}(?<![./])")
_TAGGER = re.compile(r"[^<>\x00-\x1f\x7f]{1,100} <[^<>\s\x00-\x1f\x7f]{1,100}>")
_PATH = re.compile(r"(?!.*(?:^|/)\.{0,2}(?:/|$))[^\x00-\x1f\x7f]{1,500}")
_USED = ("PATH", "LANG", "TMPDIR", "SSH_AUTH_SOCK", "SSL_CERT_FILE", "SSL_CERT_DIR", "GIT_SSL_CAINFO", "GIT_SSL_CAPATH")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
_FROM_HOOK = re.compile(
    r"GIT_CONFIG_(?:COUNT|KEY_[0-9]+|VALUE_[0-9]+)|GIT_SSH_COMMAND|SSH_ASKPASS(?:_REQUIRE)?|DISPLAY|AIRFLOW_GIT_\w+"
)
_PROTOCOLS = "http:https:ssh:file"


class Tag(NamedTuple):
    """A tag of the repository."""

    name: str
    commit: str
    object: str
    """Its own object, or the commit when it is a lightweight one."""
    tagger: str
    """Name and address; "" for a lightweight one."""
    at: dt.datetime | None
    message: str


class _Done(NamedTuple):
    code: int
    out: bytes
    said: str


class PlatformRepository:
    """A fresh copy of the repository's history, and its remote; a context manager.

    The copy holds commits and tags, files are fetched when they are asked for (a partial clone, where the server
    knows these: https://git-scm.com/docs/partial-clone). It lies in a folder of its own, which is removed at the end.

    >>> with PlatformRepository() as repository:           # doctest: +SKIP
    ...     commit = repository.commit_of("main")

    :param git_conn_id: connection of type git: host = URL (http, https, ssh, file), login and password for http, the
        Git provider's extras for ssh and for a GitHub App.
    :param timeout: seconds for the copy; a single question may take a quarter of it; default 240.
    :raises Unreachable: on entering, when the server does not answer.
    :raises Forbidden: on entering, when it refuses the credentials.
    :raises NoData: on entering, when there is no repository.
    """

    def __init__(self, git_conn_id: str = "vcci_git", *, timeout: float = 240.0) -> None:
        self.git_conn_id = git_conn_id
        self.timeout = timeout
        self._stack = ExitStack()
        self._hook: Any = None
        self._url = ""
        self._folder = Path()
        self._env: dict[str, str] = {}

    def __enter__(self) -> PlatformRepository:
        with ExitStack() as stack:
            self._hook = _hook(self.git_conn_id)
            self._url = _checked_url(self._hook.repo_url, self.git_conn_id)
            self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vcci-git-")))
            stack.enter_context(self._hook.configure_hook_env())
            self._env = _environment(self._hook.env, self._folder)
            # The hook puts it there, too, where every other program that the task starts would get it.
            os.environ.pop("AIRFLOW_GIT_TOKEN", None)
            self._clone()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        self._env = {}

    @property
    def url(self) -> str:
        """Return the repository's address, without anything secret in it.

        :raises MeasurementError: when the connection is missing or has no usable URL.
        """
        return self._url or _checked_url(_hook(self.git_conn_id).repo_url, self.git_conn_id)

    # Reading --------------------------------------------------------------------------------------

    def commit_of(self, ref: str, field: str = "ref") -> str:
        """Return the commit that a branch, a tag or (the beginning of) a commit's name stands for.

        :param field: name of the parameter, for the error.
        :raises InvalidInput: when it cannot be a ref, or is a branch and a tag on different commits.
        :raises NoData: when the repository has no such ref, or the commit is on no branch and no tag.
        """
        name = checked_ref(ref, field)
        both = [self._resolved(f"refs/{kind}/{name}") for kind in ("heads", "tags")]
        if all(both) and both[0] != both[1]:
            raise InvalidInput(field, ref, "a name that is not a branch and a tag on different commits at once")
        commit = both[1] or both[0] or self._resolved(name)
        if commit is None:
            raise NoData(f"the repository has no branch, tag or commit {ref}")
        on_any = self._local("for-each-ref", "--count=1", "--format=%(refname)", f"--contains={commit}")
        if not on_any.out:
            raise NoData(f"commit {commit[:12]} is on no branch and no tag of the repository")
        return commit

    def is_ancestor(self, ancestor: str, commit: str) -> bool:
        """Whether a commit contains another; both as :meth:`commit_of` takes them."""
        older, newer = self.commit_of(ancestor), self.commit_of(commit)
        done = self._local("merge-base", "--is-ancestor", older, newer)
        if done.code not in (0, 1):
            raise self._unreadable(done)
        return done.code == 0

    def commits(self, old: str, new: str) -> list[Commit]:
        """Return the commits that ``new`` has and ``old`` has not, newest first; at most 5,000.

        :raises NoData: as :meth:`commit_of`.
        """
        span = f"{self.commit_of(old)}..{self.commit_of(new)}"
        fields = "%H%x00%s%x00%b%x00%an%x00%cI"
        done = self._local("log", "-z", f"--max-count={MOST_COMMITS}", f"--format={fields}", span, "--")
        if done.code:
            raise self._unreadable(done)
        words = done.out.decode("utf-8", "replace").split("\0")
        rows = zip(*[iter(words[: len(words) // 5 * 5])] * 5, strict=True)
        return [
            Commit(
                sha.strip(), subject[:LONGEST_BODY], body[:LONGEST_BODY], author[:200], dt.datetime.fromisoformat(at)
            )
            for sha, subject, body, author, at in rows
        ]

    def tag(self, name: str) -> Tag | None:
        """Return a tag as the copy has it; None when there is none.

        :raises InvalidInput: when it cannot be the name of a tag.
        """
        ref = f"refs/tags/{checked_ref(name, 'tag')}"
        commit = self._resolved(ref)
        fields = "%(refname)%00%(objectname)%00%(taggername) %(taggeremail)%00%(taggerdate:iso-strict)%00%(contents)"
        done = self._local("for-each-ref", f"--format={fields}", ref)
        found = done.out.decode("utf-8", "replace").rstrip("\n").split("\0")
        if commit is None or found[0] != ref:
            return None
        at = dt.datetime.fromisoformat(found[3]) if found[3] else None
        return Tag(name, commit, found[1], found[2].strip(), at, found[4] if at else "")

    def file(self, commit: str, path: str) -> bytes:
        """Return the content of a file at a commit.

        :param path: from the top of the repository.
        :raises NoData: when the commit has no such file.
        :raises UnexpectedAnswer: when it is larger than 4 MiB.
        """
        if not isinstance(path, str) or not _PATH.fullmatch(path):
            raise InvalidInput("path", path, "the path of a file from the top of the repository")
        sha = self.commit_of(commit, "commit")
        listed = self._git("ls-tree", "-z", "--full-tree", "-l", sha, "--", path)
        if listed.code:
            raise self._unreadable(listed)
        mode, _, _, size, name = [*re.split(r"\s+", listed.out.decode("utf-8", "replace"), maxsplit=4), "", "", "", ""][
            :5
        ]
        if name.rstrip("\0") != path or mode not in ("100644", "100755"):
            raise NoData(f"commit {sha[:12]} has no file {path}")
        if int(size) > LARGEST_FILE:
            raise UnexpectedAnswer(SYSTEM, f"{path} has {size} bytes, more than {LARGEST_FILE}")
        content = self._git("cat-file", "blob", f"{sha}:{path}")
        if content.code:
            raise self._unreadable(content)
        return content.out

    # The tag of a release -------------------------------------------------------------------------

    def create_tag(
        self, name: str, commit: str, message: str, tagger: str, *, at: dt.datetime | None = None
    ) -> Literal["created", "exists"]:
        """Put an annotated tag on a commit and push it, and nothing else, without force.

        The same arguments make the same object, so that whoever is interrupted may do it again.

        :param tagger: ``Name <address>``.
        :param at: date of the tag, with zone; default the commit's.
        :return: "exists" when the remote has this tag on this commit already, whoever put it there.
        :raises Conflict: when the remote has it on another commit; says who put it there, and when.
        :raises Forbidden: when the credentials may not push.
        :raises Refused: when the server takes the credentials and not the tag (a protected name, a hook).
        :raises Unreachable: when the server does not answer.
        """
        sha, ref = self.commit_of(commit, "commit"), f"refs/tags/{checked_ref(name, 'tag')}"
        if existing := self.tag(name):
            return _same(existing, sha)
        made = self._tag_object(name, sha, message, tagger, at)
        self._probe("git-receive-pack", "push tags")
        pushed = self._git("push", "--porcelain", "--no-verify", "--", self._url, f"{made}:{ref}")
        self._fetch(ref)
        after = self.tag(name)
        if after:
            return "created" if pushed.code == 0 and after.object == made else _same(after, sha)
        if any(line.startswith(b"!") for line in pushed.out.splitlines()):
            raise Refused(f"{SYSTEM} did not take the tag {name}; the server said: {self._shown(pushed)}")
        raise Unreachable(SYSTEM, f"the push of the tag {name} ended early: {self._shown(pushed)}")

    def _tag_object(self, name: str, commit: str, message: str, tagger: str, at: dt.datetime | None) -> str:
        if not _TAGGER.fullmatch(tagger):
            raise InvalidInput("tagger", tagger, "Name <address>")
        when = int(at.timestamp()) if at else int(self._local("show", "-s", "--format=%ct", commit, "--").out)
        text = message.replace("\0", "").strip()[:LONGEST_BODY]
        made = self._local(
            "mktag",
            given=f"object {commit}\ntype commit\ntag {name}\ntagger {tagger} {when} +0000\n\n{text}\n".encode(),
        )
        if made.code:
            raise Refused(f"{SYSTEM} cannot make the tag {name}: {self._shown(made)}")
        return made.out.decode().strip()

    def _fetch(self, ref: str) -> None:
        """Read one ref from the remote again, into the copy."""
        self._local("update-ref", "-d", ref)
        listed = self._git("ls-remote", "--refs", "--", self._url, ref)
        if listed.code:
            raise self._no_answer("read the repository", listed)
        if listed.out.strip():
            fetched = self._git("fetch", "--quiet", "--no-tags", "--force", "origin", f"{ref}:{ref}")
            if fetched.code:
                raise self._no_answer("read the repository", fetched)

    # Talking to git -------------------------------------------------------------------------------

    def _clone(self) -> None:
        self._probe("git-upload-pack", "read the repository")
        self._folder = self._folder / "copy.git"
        options = ("--bare", "--quiet", "--filter=tree:0", "--template=")
        done = self._run(["git", "clone", *options, "--", self._url, str(self._folder)], self.timeout, cwd=None)
        if done.code:
            raise self._no_answer("read the repository", done)

    def _probe(self, service: str, permission: str) -> None:
        """Ask an http server for the service before git does, for its status code says what git's words only tell.

        https://git-scm.com/docs/http-protocol
        """
        scheme = urlsplit(self._url).scheme
        if scheme == "file" and not Path(urlsplit(self._url).path).is_dir():
            raise NoData(f"there is no repository at {self._url}")
        if scheme not in ("http", "https"):
            return
        status = _status(f"{self._url.rstrip('/')}/info/refs", service, self._hook)
        if status in (401, 403):
            raise Forbidden(SYSTEM, f"{permission} {self._url} (HTTP {status})")
        if status == 404:
            raise NoData(f"there is no repository at {self._url}, or the credentials may not see it (HTTP 404)")
        if status >= 500 or status == 429:
            raise Unreachable(SYSTEM, f"{self._url} answered HTTP {status}")
        if status != 200:
            raise UnexpectedAnswer(SYSTEM, f"{self._url} answered HTTP {status}")

    def _resolved(self, name: str) -> str | None:
        done = self._local("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
        sha = done.out.decode("ascii", "replace").strip()
        return sha if done.code == 0 and _SHA.fullmatch(sha) else None

    def _local(self, *args: str, given: bytes = b"") -> _Done:
        """Ask the copy only: what it lacks is not there, and not fetched."""
        return self._run(self._command(args), self.timeout / 4, given=given, protocols="none")

    def _git(self, *args: str) -> _Done:
        return self._run(self._command(args), self.timeout / 4)

    def _command(self, args: Sequence[str]) -> list[str]:
        return ["git", f"--git-dir={self._folder}", "-c", "i18n.logOutputEncoding=UTF-8", *args]

    def _run(
        self,
        argv: list[str],
        seconds: float,
        *,
        given: bytes = b"",
        protocols: str = _PROTOCOLS,
        cwd: Path | None = None,
    ) -> _Done:
        """Run git in a group of processes of its own, which ends as a whole when the time is up."""
        process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**self._env, "GIT_ALLOW_PROTOCOL": protocols},
            cwd=cwd or self._folder.parent,
            start_new_session=True,
        )
        try:
            out, said = process.communicate(given, timeout=seconds)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            if isinstance(error, subprocess.TimeoutExpired):
                raise Unreachable(SYSTEM, f"git {_verb(argv)} took longer than {seconds:g} s") from None
            raise
        return _Done(process.returncode, out, said.decode("utf-8", "replace"))

    def _shown(self, done: _Done) -> str:
        """Return git's last words for people: of one line, without the credentials."""
        lines = [line for line in done.said.splitlines() if line.strip()] or [f"exit code {done.code}"]
        text = " / ".join(lines[-4:])
        for secret in filter(None, (self._hook.auth_token, self._hook.private_key_passphrase)):
            text = text.replace(secret, "***")
        return one_line(text, 400)

    def _no_answer(self, permission: str, done: _Done) -> MeasurementError:
        return Unreachable(
            SYSTEM, f"could not {permission} {self._url} (git's exit code {done.code}: {self._shown(done)})"
        )

    def _unreadable(self, done: _Done) -> MeasurementError:
        return UnexpectedAnswer(SYSTEM, f"exit code {done.code}: {self._shown(done)}")


def checked_ref(text: object, field: str = "ref") -> str:
    """Return the name of a branch or tag, or a commit's, as it is.

    :raises InvalidInput: when it is not up to 254 ASCII letters, digits and ``._/+@-``, in an order that git takes.
    """
    if not isinstance(text, str) or len(text) > 254 or not _REF.fullmatch(text):
        raise InvalidInput(field, text, "a branch, a tag or a commit, of ASCII letters, digits and . _ / + @ -")
    return text


def _same(existing: Tag, commit: str) -> Literal["exists"]:
    if existing.commit == commit:
        return "exists"
    when = f" on {existing.at:%Y-%m-%d %H:%M %Z}".rstrip() if existing.at else ""
    who = f"by {one_line(existing.tagger)}{when}" if existing.tagger else "as a lightweight tag, which says not by whom"
    raise Conflict(
        f"the tag {existing.name} is on commit {existing.commit[:12]} already, put there {who};"
        f" it was to be on {commit[:12]}. A tag is not moved: choose another version"
    )


def _hook(git_conn_id: str) -> Any:
    from airflow.providers.git.hooks.git import GitHook
    from airflow.sdk.exceptions import AirflowNotFoundException

    try:
        return GitHook(git_conn_id)
    except AirflowNotFoundException as error:
        raise MeasurementError(f"there is no Airflow connection {git_conn_id}") from error
    except ValueError as error:
        raise MeasurementError(f"the Airflow connection {git_conn_id} cannot be used: {error}") from error


def _checked_url(url: object, git_conn_id: str) -> str:
    """Return the URL without anything secret in it; a path becomes a file URL, ``git@host:path`` an ssh one."""
    if not isinstance(url, str) or not url or url.startswith("-") or re.search(r"[\s\x00-\x1f]", url):
        raise MeasurementError(f"the Airflow connection {git_conn_id} has no URL of a repository as its host")
    if url.startswith("/"):
        return f"file://{url}"
    if short := re.fullmatch(r"([A-Za-z0-9_.-]+@[A-Za-z0-9.-]+):(?!//)([^:]+)", url):
        return f"ssh://{short[1]}/{short[2].lstrip('/')}"
    parts = urlsplit(url)
    if parts.scheme not in _PROTOCOLS.split(":") or (parts.scheme != "file" and not parts.hostname):
        raise MeasurementError(f"the Airflow connection {git_conn_id}: its URL is not http, https, ssh or file")
    if parts.scheme in ("http", "https") and "@" in parts.netloc:
        raise MeasurementError(
            f"the Airflow connection {git_conn_id} has a user name in its URL, where others can read it;"
            " put it into login and the token into password"
        )
    return url


def _environment(of_hook: dict[str, str], home: Path) -> dict[str, str]:
    """Return git's environment: what the hook prepared, and nothing of the machine's own configuration."""
    kept = {name: os.environ[name] for name in (*_USED, *_PROXIES) if name in os.environ}
    hook = {name: value for name, value in {**os.environ, **of_hook}.items() if _FROM_HOOK.fullmatch(name)}
    if ssh := hook.get("GIT_SSH_COMMAND"):
        hook["GIT_SSH_COMMAND"] = f"{ssh} -o ConnectTimeout={CONNECT_SECONDS:.0f} -o NumberOfPasswordPrompts=1"
    return {
        **kept,
        **hook,
        "HOME": str(home),
        "LC_ALL": "C.UTF-8",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "/bin/false",
        "GIT_LITERAL_PATHSPECS": "1",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_HTTP_LOW_SPEED_LIMIT": "1",
        "GIT_HTTP_LOW_SPEED_TIME": "30",
    }


def _status(url: str, service: str, hook: Any) -> int:
    """Return the status code with which a git server answers to the connection's credentials."""
    import requests
    from requests.auth import HTTPBasicAuth

    # Something has to be given, or the machine's .netrc answers.
    auth = HTTPBasicAuth(hook.user_name, hook.auth_token) if hook.auth_token else (lambda request: request)
    try:
        with requests.get(
            url,
            params={"service": service},
            auth=auth,
            stream=True,
            timeout=(CONNECT_SECONDS, READ_SECONDS),
            verify=os.environ.get("GIT_SSL_CAINFO") or True,
        ) as answer:
            return answer.status_code
    except requests.exceptions.SSLError as error:
        raise Unreachable(SYSTEM, f"TLS failed at {url}") from error
    except requests.exceptions.Timeout as error:
        raise Unreachable(SYSTEM, f"no answer from {url} within {READ_SECONDS:.0f} s") from error
    except requests.exceptions.RequestException as error:
        raise Unreachable(SYSTEM, f"the connection to {url} failed ({type(error).__name__})") from error


def _verb(argv: Sequence[str]) -> str:
    words = argv[4:] if argv[1].startswith("--git-dir") else argv[1:]
    return words[0]
