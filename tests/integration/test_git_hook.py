"""The repository hook on real git: over file URLs, and over HTTP on the sandbox's remote."""

from __future__ import annotations

import datetime as dt
import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.service import Sandbox, wait_until
from sandbox.services import git as git_service
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
from vcci_ops.hooks import git as hook
from vcci_ops.hooks.git import PlatformRepository

pytestmark = pytest.mark.integration
TAGGER = "vcci-ops <vcci-ops@greenlang.io>"
AT = dt.datetime(2026, 11, 3, 9, tzinfo=dt.UTC)
CLEAN = {
    **{"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null", "PATH": os.environ["PATH"]},
    **{"GIT_AUTHOR_NAME": "Ada", "GIT_AUTHOR_EMAIL": "ada@example.org"},
    **{"GIT_COMMITTER_NAME": "Ada", "GIT_COMMITTER_EMAIL": "ada@example.org"},
}


class Origin:
    """A bare repository on disk, and what it takes to write to it."""

    def __init__(self, path: Path) -> None:
        self.path, self.clock = path, 1_790_000_000
        self.git("init", "--quiet", "--bare", "--initial-branch=main", str(path), where=path.parent)

    def git(self, *args: str, given: str = "", where: Path | None = None) -> str:
        env = {**CLEAN, "GIT_AUTHOR_DATE": f"{self.clock} +0000", "GIT_COMMITTER_DATE": f"{self.clock} +0000"}
        done = subprocess.run(
            ["git", *args], cwd=where or self.path, env=env, input=given, text=True, capture_output=True, check=True
        )
        return done.stdout.strip()

    def commit(self, message: str, parent: str = "", branch: str = "main", files: dict[str, str] | None = None) -> str:
        self.clock += 60
        lines = [
            f"100644 blob {self.git('hash-object', '-w', '--stdin', given=text)}\t{name}"
            for name, text in (files or {"a": message}).items()
        ]
        tree = self.git("mktree", given="\n".join(lines) + "\n")
        sha = self.git("commit-tree", tree, *(["-p", parent] if parent else []), given=message)
        self.git("update-ref", f"refs/heads/{branch}", sha)
        return sha

    def tags(self) -> dict[str, str]:
        listed = self.git("for-each-ref", "--format=%(refname:short) %(objectname)", "refs/tags").splitlines()
        return dict(line.split() for line in listed)


@pytest.fixture
def origin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Origin:
    """main: first - second - third; side: first - aside; v1.0.0 on first."""
    made = Origin(tmp_path / "platform.git")
    first = made.commit("feat: begin", files={"README": "hello\n", "VERSION": "1.0.0\n"})
    made.git("tag", "-a", "v1.0.0", "-m", "Release v1.0.0", first)
    second = made.commit("fix: the count (#12)\n\nIt was one short.\nBREAKING CHANGE: none", first)
    made.commit("feat!: <!channel> é\n\nbody", second, files={"README": "new\n", "big": "x" * (5 * 1024 * 1024)})
    made.commit("chore: aside", first, branch="side")
    connect(monkeypatch, host=f"file://{made.path}")
    return made


def connect(monkeypatch: pytest.MonkeyPatch, **fields: object) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_VCCI_GIT", json.dumps({"conn_type": "git", **fields}))


# Reading ------------------------------------------------------------------------------------------


def test_refs_become_commits(origin: Origin) -> None:
    with PlatformRepository() as repository:
        main = origin.git("rev-parse", "main")
        assert repository.commit_of("main") == main
        assert repository.commit_of(main) == main
        assert repository.commit_of(main[:10]) == main
        assert repository.commit_of("HEAD") == main
        assert repository.commit_of("v1.0.0") == origin.git("rev-parse", "v1.0.0^{commit}")
        assert repository.commit_of("refs/heads/side") == origin.git("rev-parse", "side")


def test_a_plain_path_will_do(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    connect(monkeypatch, host=str(origin.path))
    with PlatformRepository() as repository:
        assert repository.commit_of("main") == origin.git("rev-parse", "main")


def test_a_ref_that_is_not_there_is_no_data(origin: Origin) -> None:
    with PlatformRepository() as repository:
        for ref in ("nowhere", "0" * 40, "deadbeef", "v9.9.9"):
            with pytest.raises(NoData, match=f"no branch, tag or commit {ref}"):
                repository.commit_of(ref)


def test_a_commit_on_no_branch_is_not_released(origin: Origin) -> None:
    origin.git("config", "uploadpack.allowAnySHA1InWant", "true")
    lost = origin.commit("feat: unreviewed", origin.git("rev-parse", "main"), branch="gone")
    origin.git("update-ref", "-d", "refs/heads/gone")
    with PlatformRepository() as repository, pytest.raises(NoData):
        repository.commit_of(lost)


HOSTILE_REFS: list[object] = [
    *(
        "-x",
        "--upload-pack=/bin/id",
        "",
        " ",
        "a b",
        "main\n",
        "main;id",
        "$(id)",
        "`id`",
        "a..b",
        "main^",
        "main~1",
    ),
    *(
        "main:README",
        "@",
        "main@{u}",
        "ｍain",
        "a//b",
        "a.lock",
        "a/",
        "/a",
        "a.",
        ".a",
        "x" * 300,
        "a\0b",
        "*",
        "[a]",
    ),
    *("feature/.hidden", "ext::sh -c id", None, 7, "x" * 1_000_000),
]


def test_a_hostile_ref_never_reaches_git(origin: Origin) -> None:
    with PlatformRepository() as repository:
        for ref in HOSTILE_REFS:
            for call in (repository.commit_of, lambda text: repository.create_tag(text, "main", "m", TAGGER)):
                with pytest.raises(InvalidInput) as caught:
                    call(ref)  # type: ignore[operator]  # on purpose of other types, too
                assert len(str(caught.value)) < 300
    assert list(origin.tags()) == ["v1.0.0"]


def test_a_name_of_two_things_is_refused(origin: Origin) -> None:
    origin.git("update-ref", "refs/tags/side", origin.git("rev-parse", "main"))
    with (
        PlatformRepository() as repository,
        pytest.raises(InvalidInput, match="a branch and a tag on different commits"),
    ):
        repository.commit_of("side")


def test_ancestry(origin: Origin) -> None:
    with PlatformRepository() as repository:
        assert repository.is_ancestor("v1.0.0", "main")
        assert not repository.is_ancestor("main", "v1.0.0")
        assert not repository.is_ancestor("side", "main")


def test_commits_between_two_versions(origin: Origin) -> None:
    with PlatformRepository() as repository:
        newest, older = repository.commits("v1.0.0", "main")
        assert repository.commits("main", "v1.0.0") == []
    assert newest.sha == origin.git("rev-parse", "main")
    assert newest.subject == "feat!: <!channel> é"
    assert older.subject == "fix: the count (#12)"
    assert older.body.startswith("It was one short.\nBREAKING CHANGE")
    assert older.author == "Ada"
    assert older.at == dt.datetime.fromtimestamp(1_790_000_120, dt.UTC)


def test_files_of_a_commit(origin: Origin) -> None:
    with PlatformRepository() as repository:
        assert repository.file("v1.0.0", "README") == b"hello\n"
        assert repository.file("main", "README") == b"new\n"
        with pytest.raises(NoData, match="has no file VERSION"):
            repository.file("main", "VERSION")
        with pytest.raises(UnexpectedAnswer, match="big has 5242880 bytes"):
            repository.file("main", "big")


def test_a_hostile_path_is_refused_or_not_there(origin: Origin) -> None:
    paths: list[object] = ["../x", "/etc/passwd", "a/../b", "", "a\nb", ".", "a//b", "a/", None, ":(top)README"]
    with PlatformRepository() as repository:
        for path in paths:
            with pytest.raises((InvalidInput, NoData)):
                repository.file("main", path)  # type: ignore[arg-type]  # on purpose of other types, too


def test_the_copy_is_removed(origin: Origin, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    seen: list[Path] = []

    def work() -> None:
        with PlatformRepository():
            seen.extend((tmp_path / "tmp").glob("vcci-git-*"))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        work()
    assert len(seen) == 1
    assert list((tmp_path / "tmp").iterdir()) == []


def test_the_machines_configuration_counts_for_nothing(
    origin: Origin, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "bad").write_text("[protocol]\n\tallow = never\n[tag]\n\tgpgSign = true\n[alias]\n\tlog = !false\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "bad"))
    monkeypatch.setenv("GIT_DIR", str(tmp_path))
    monkeypatch.setenv("GIT_TRACE", str(tmp_path / "trace"))
    with PlatformRepository() as repository:
        assert repository.create_tag("v1.1.0", "main", "m", TAGGER) == "created"
    assert not (tmp_path / "trace").exists()


# The tag of a release -----------------------------------------------------------------------------


def test_a_tag_is_made_once_and_is_the_same_however_often(origin: Origin) -> None:
    with PlatformRepository() as repository:
        assert repository.tag("v1.1.0") is None
        assert repository.create_tag("v1.1.0", "main", "Release v1.1.0\n\nby Eve", TAGGER, at=AT) == "created"
        tag = repository.tag("v1.1.0")
        assert repository.create_tag("v1.1.0", "main", "Release v1.1.0\n\nby Eve", TAGGER, at=AT) == "exists"
    assert tag is not None
    assert (tag.commit, tag.tagger, tag.at) == (origin.git("rev-parse", "main"), TAGGER, AT)
    assert tag.message.strip() == "Release v1.1.0\n\nby Eve"
    assert origin.git("cat-file", "-t", "v1.1.0") == "tag"
    before = origin.tags()["v1.1.0"]
    assert before == tag.object
    with PlatformRepository() as repository:
        assert repository.create_tag("v1.1.0", "main", "Release v1.1.0\n\nby Eve", TAGGER, at=AT) == "exists"
    origin.git("tag", "-d", "v1.1.0")
    with PlatformRepository() as repository:
        assert repository.create_tag("v1.1.0", "main", "Release v1.1.0\n\nby Eve", TAGGER, at=AT) == "created"
    assert origin.tags()["v1.1.0"] == before


def test_without_a_date_it_is_the_commits(origin: Origin) -> None:
    with PlatformRepository() as repository:
        repository.create_tag("v1.1.0", "v1.0.0", "m", TAGGER)
        tag = repository.tag("v1.1.0")
    assert tag is not None
    assert tag.at == dt.datetime.fromtimestamp(1_790_000_060, dt.UTC)


def test_only_the_tag_is_pushed(origin: Origin) -> None:
    before = origin.git("for-each-ref", "refs/heads")
    with PlatformRepository() as repository:
        repository.create_tag("v1.1.0", "main", "m", TAGGER)
    assert origin.git("for-each-ref", "refs/heads") == before
    assert sorted(origin.tags()) == ["v1.0.0", "v1.1.0"]


def test_the_same_tag_on_another_commit_is_refused_and_says_whose_it_is(origin: Origin) -> None:
    first, main = origin.git("rev-parse", "v1.0.0^{commit}"), origin.git("rev-parse", "main")
    with PlatformRepository() as repository, pytest.raises(Conflict) as caught:
        repository.create_tag("v1.0.0", "main", "m", TAGGER)
    text = str(caught.value)
    assert first[:12] in text
    assert main[:12] in text
    assert "Ada <ada@example.org> on 2026-09-21" in text
    assert list(origin.tags()) == ["v1.0.0"]


def test_a_lightweight_tag_counts(origin: Origin) -> None:
    origin.git("tag", "v1.1.0", "main")
    with PlatformRepository() as repository:
        assert repository.create_tag("v1.1.0", "main", "m", TAGGER) == "exists"
        with pytest.raises(Conflict, match="lightweight"):
            repository.create_tag("v1.1.0", "side", "m", TAGGER)


@pytest.mark.parametrize(("theirs", "outcome"), [("main", "exists"), ("side", "conflict")])
def test_who_loses_the_race_reads_again(origin: Origin, theirs: str, outcome: str) -> None:
    with PlatformRepository() as repository:
        origin.git("tag", "-a", "v1.1.0", "-m", "theirs", theirs)  # after our copy was made
        before = origin.tags()
        if outcome == "exists":
            assert repository.create_tag("v1.1.0", "main", "ours", TAGGER) == "exists"
        else:
            with pytest.raises(Conflict, match=r"Ada <ada@example\.org>"):
                repository.create_tag("v1.1.0", "main", "ours", TAGGER)
    assert origin.tags() == before


def test_two_at_once_make_one_tag(origin: Origin) -> None:
    outcomes: list[str] = []
    barrier = threading.Barrier(2)

    def release(repository: PlatformRepository) -> None:
        barrier.wait()
        outcomes.append(repository.create_tag("v1.1.0", "main", "m", TAGGER, at=AT))

    with PlatformRepository() as one, PlatformRepository() as other:
        threads = [threading.Thread(target=release, args=[repository]) for repository in (one, other)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
    assert len(outcomes) == 2
    assert set(outcomes) <= {"created", "exists"}
    assert len(origin.tags()) == 2


def test_a_hook_of_the_server_may_say_no(origin: Origin) -> None:
    script = origin.path / "hooks" / "pre-receive"
    script.parent.mkdir(exist_ok=True)
    script.write_text("#!/bin/sh\necho 'tags are made on Mondays' >&2\nexit 1\n")
    script.chmod(0o755)
    with PlatformRepository() as repository, pytest.raises(Refused, match="tags are made on Mondays"):
        repository.create_tag("v1.1.0", "main", "m", TAGGER)
    assert list(origin.tags()) == ["v1.0.0"]


def test_a_tagger_is_a_name_and_an_address(origin: Origin) -> None:
    with PlatformRepository() as repository:
        for tagger in ("", "Eve", "Eve <a> <b>", "Eve <a\nb>", "Eve\nobject 0 <a@b>", "Eve <>"):
            with pytest.raises(InvalidInput, match=r"^tagger: "):
                repository.create_tag("v1.1.0", "main", "m", tagger)


def test_the_message_is_only_a_message(origin: Origin) -> None:
    message = "--force\nobject 0000\n\n-----BEGIN\0 $(id) `id` é"
    with PlatformRepository() as repository:
        repository.create_tag("v1.1.0", "main", message, TAGGER)
    assert origin.git("for-each-ref", "--format=%(contents)", "refs/tags/v1.1.0") == message.replace("\0", "")


# The server ---------------------------------------------------------------------------------------


def test_a_repository_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connect(monkeypatch, host=f"file://{tmp_path}/none.git")
    with pytest.raises(NoData, match="no repository at"), PlatformRepository():
        pass


@pytest.mark.parametrize(
    "host", ["", "ext::sh -c id", "git://h/x", "-x", "ftp://h/x", "http://", "h t", "relative/path"]
)
def test_other_protocols_are_refused(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    connect(monkeypatch, host=host)
    with pytest.raises(MeasurementError, match="the Airflow connection vcci_git"), PlatformRepository():
        pass


def test_a_token_as_the_user_name_of_the_url_is_refused_unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    connect(monkeypatch, host="https://ghp_s3cretTOKEN@git.example/x.git")
    with pytest.raises(MeasurementError, match="put it into login") as caught, PlatformRepository():
        pass
    assert "s3cret" not in str(caught.value)


def test_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_VCCI_GIT", raising=False)
    with pytest.raises(MeasurementError, match="there is no Airflow connection vcci_git"), PlatformRepository():
        pass


def test_a_git_that_hangs_is_ended_with_all_its_processes(
    origin: Origin, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = tmp_path / "bin" / "git"
    script.parent.mkdir()
    script.write_text(f"#!/bin/sh\nsleep 300 &\necho $! > {tmp_path}/pid\nwait\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")
    begun = time.monotonic()
    with pytest.raises(Unreachable, match="git clone took longer than 1 s"), PlatformRepository(timeout=1.0):
        pass
    assert time.monotonic() - begun < 5
    sleeper = Path("/proc", (tmp_path / "pid").read_text().strip())
    wait_until("the sleeper gone", lambda: not sleeper.exists() or ") Z " in (sleeper / "stat").read_text(), seconds=5)


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    sandbox = Sandbox(tmp_path_factory.mktemp("sandbox"))
    service = git_service.Git()
    service.start(sandbox)
    try:
        wait_until("git remote", lambda: service.ready(sandbox))
        yield sandbox
    finally:
        service.stop(sandbox)


@pytest.fixture
def served(box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The sandbox's remote over HTTP; returns where its repository is."""
    connection = git_service.Git().connections(box)["vcci_git"]
    monkeypatch.setenv("AIRFLOW_CONN_VCCI_GIT", json.dumps(connection))
    return git_service.repository.path(box)


def test_over_http_it_reads_and_pushes_and_shows_no_credentials(
    box: Sandbox, served: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    script, secret = tmp_path / "git", box.secret("git")
    real = subprocess.run(["which", "git"], capture_output=True, text=True, check=True).stdout.strip()
    script.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >> {tmp_path}/argv\nexec {real} "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with PlatformRepository() as repository:
        main = repository.commit_of("main")
        assert repository.commits("v2.0.0", "main")
        assert repository.file("main", "alembic.ini")
        assert repository.create_tag("v2.9.0", "main", "Release v2.9.0", TAGGER, at=AT) == "created"
        assert repository.create_tag("v2.9.0", "main", "Release v2.9.0", TAGGER, at=AT) == "exists"
        copy = repository._folder
        written = "".join(path.read_text(errors="replace") for path in copy.rglob("*") if path.is_file())
        assert secret not in written
        assert secret not in "".join(v for k, v in os.environ.items() if k != "AIRFLOW_CONN_VCCI_GIT")
    assert git_service.repository.commit_of(served, "v2.9.0") == main
    assert "clone" in (tmp_path / "argv").read_text()
    assert secret not in (tmp_path / "argv").read_text()
    assert secret not in caplog.text
    assert not copy.exists()


def test_over_http_only_what_is_needed_is_copied(served: Path) -> None:
    subprocess.run(["git", "config", "uploadpack.allowFilter", "true"], cwd=served, check=True)
    try:
        with PlatformRepository() as repository:
            kinds = subprocess.run(
                ["git", "cat-file", "--batch-all-objects", "--batch-check=%(objecttype)"],
                cwd=repository._folder,
                capture_output=True,
                text=True,
                check=True,
            ).stdout.split()
            assert set(kinds) == {"commit", "tag"}
            assert repository.file("main", "alembic.ini")
            assert repository.create_tag("v2.9.1", "main", "Release v2.9.1", TAGGER, at=AT) == "created"
    finally:
        subprocess.run(["git", "config", "--unset", "uploadpack.allowFilter"], cwd=served, check=True)


def test_a_wrong_password_is_forbidden(box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    given = git_service.Git().connections(box)["vcci_git"]
    for password in ("wrong-password", None):
        monkeypatch.setenv("AIRFLOW_CONN_VCCI_GIT", json.dumps({**given, "password": password}))
        with pytest.raises(Forbidden, match=r"read the repository http://127\.0\.0\.1.*HTTP 401") as caught:
            with PlatformRepository():
                pass
        assert "wrong-password" not in str(caught.value)


def test_credentials_that_may_only_read_cannot_tag(served: Path) -> None:
    subprocess.run(["git", "config", "http.receivepack", "false"], cwd=served, check=True)
    try:
        with PlatformRepository() as repository, pytest.raises(Forbidden, match=r"push tags .*HTTP 403"):
            repository.create_tag("v2.9.2", "main", "m", TAGGER)
    finally:
        subprocess.run(["git", "config", "http.receivepack", "true"], cwd=served, check=True)


def test_no_repository_under_the_url(box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    given = git_service.Git().connections(box)["vcci_git"]
    connect(monkeypatch, **{**given, "host": given["host"].replace("platform.git", "other.git")})
    with pytest.raises(NoData, match=r"no repository at .*other\.git"), PlatformRepository():
        pass


def test_a_server_that_is_down_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    connect(monkeypatch, host=f"http://127.0.0.1:{port}/x.git", login="a", password="secret-word")
    with pytest.raises(Unreachable, match=r"Git did not answer: the connection to .* failed") as caught:
        with PlatformRepository():
            pass
    assert "secret-word" not in str(caught.value)


def test_a_server_that_says_nothing_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hook, "READ_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        connect(monkeypatch, host=f"http://127.0.0.1:{silent.getsockname()[1]}/x.git")
        with pytest.raises(Unreachable, match="no answer from"), PlatformRepository():
            pass
