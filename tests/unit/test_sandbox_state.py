"""The sandbox's memory and its processes: what survives a command, and what must never be ended by mistake."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox import __main__ as cli
from sandbox.service import Fault, Sandbox, SandboxError, Service, find_program, wait_until
from sandbox.state import ActiveFaults, State

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)",
]


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Sandbox]:
    made = Sandbox(tmp_path / "home")
    yield made
    for name in made.state.read().get("pids", {}):
        made.end(name, how=signal.SIGKILL)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


# State ------------------------------------------------------------------------------------------


def test_a_port_is_chosen_once_and_kept(tmp_path: Path) -> None:
    first = State(tmp_path).port("postgres")

    assert State(tmp_path).port("postgres") == first
    assert State(tmp_path).port("redis") != first


def test_a_port_that_another_program_took_is_chosen_anew_and_others_stay(tmp_path: Path) -> None:
    state = State(tmp_path)
    taken, kept = state.port("taken"), state.port("kept")
    with socket.create_server(("127.0.0.1", taken)):
        state.renew_taken_ports(["taken", "kept", "never-chosen"])

    assert state.port("taken") != taken
    assert state.port("kept") == kept


def test_a_secret_is_made_once_and_only_the_owner_can_read_it(tmp_path: Path) -> None:
    state = State(tmp_path)
    secret = state.secret("redis", "prefix-")

    assert secret.startswith("prefix-")
    assert len(secret) > 30
    assert State(tmp_path).secret("redis", "prefix-") == secret
    assert state.secret("other") != state.secret("redis")
    assert (tmp_path / "state.json").stat().st_mode & 0o077 == 0


def test_a_change_that_fails_changes_nothing(tmp_path: Path) -> None:
    state = State(tmp_path)
    state.port("postgres")
    before = state.read()

    def fail() -> None:
        with state.change() as data:
            data["ports"] = {}
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()

    assert state.read() == before


def test_changes_of_many_processes_at_once_are_all_kept(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from sandbox.state import State\n"
        "state = State(Path(sys.argv[1]))\n"
        "for n in range(20): state.secret(f'{sys.argv[2]}-{n}')"
    )
    root = Path(cli.__file__).parents[1]
    running = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path), str(n)], cwd=root) for n in range(4)]

    assert [process.wait(30) for process in running] == [0, 0, 0, 0]
    assert len(State(tmp_path).read()["secrets"]) == 80


def test_threads_that_ask_for_the_same_port_get_the_same(tmp_path: Path) -> None:
    state, got = State(tmp_path), set[int]()
    threads = [threading.Thread(target=lambda: got.add(state.port("same"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(got) == 1


def test_active_faults_are_seen_by_a_running_stand_in_and_so_is_their_end(tmp_path: Path) -> None:
    state, seen = State(tmp_path), ActiveFaults(tmp_path)
    assert seen.get("slow") is None

    state.set_fault("slow", {"seconds": 2.0})
    assert seen.get("slow") == {"seconds": 2.0}

    state.set_fault("slow", {"seconds": 4.0})
    assert seen.get("slow") == {"seconds": 4.0}

    state.set_fault("slow", None)
    state.set_fault("slow", None)
    assert seen.get("slow") is None


def test_the_scale_of_the_first_start_stays(tmp_path: Path) -> None:
    with Sandbox(tmp_path, scale=7).state.change() as data:
        data["scale"] = 7

    assert Sandbox(tmp_path, scale=1).scale == 7


# Processes --------------------------------------------------------------------------------------


def test_a_process_is_found_again_by_a_later_command_and_started_once(sandbox: Sandbox) -> None:
    pid = sandbox.spawn("sleeper", SLEEP)

    assert Sandbox(sandbox.folder).pid("sleeper") == pid
    assert sandbox.spawn("sleeper", SLEEP) == pid


def test_output_goes_to_the_log_and_the_environment_names_the_folder(sandbox: Sandbox) -> None:
    program = "import os; print(os.environ['VCCI_SANDBOX_HOME'], os.environ['MORE'])"
    sandbox.spawn("talker", [sys.executable, "-c", program], env={"MORE": "more"})
    wait_until("the talker done", lambda: sandbox.pid("talker") is None)

    assert sandbox.log("talker").read_text() == f"{sandbox.folder} more\n"


def test_end_lets_a_process_finish_and_forgets_it(sandbox: Sandbox) -> None:
    pid = sandbox.spawn("sleeper", SLEEP)
    sandbox.end("sleeper")

    assert not _alive(pid)
    assert sandbox.pid("sleeper") is None
    assert "sleeper" not in sandbox.state.read()["pids"]
    sandbox.end("sleeper")


def test_end_kills_what_does_not_listen(sandbox: Sandbox) -> None:
    pid = sandbox.spawn("stubborn", STUBBORN)
    wait_until("deaf", lambda: "deaf" in sandbox.log("stubborn").read_text())
    begun = time.monotonic()
    sandbox.end("stubborn", patience=0.3)

    wait_until("dead", lambda: not _alive(pid), seconds=5)
    assert 0.3 <= time.monotonic() - begun < 5


def test_end_reaches_a_stopped_process(sandbox: Sandbox) -> None:
    pid = sandbox.spawn("paused", SLEEP)
    os.kill(pid, signal.SIGSTOP)
    sandbox.end("paused", patience=5)

    assert not _alive(pid)


def test_another_program_that_got_the_same_pid_is_not_ours_and_is_left_alone(sandbox: Sandbox) -> None:
    stranger = subprocess.Popen(SLEEP)
    try:
        with sandbox.state.change() as data:
            data["pids"] = {"ours": [stranger.pid, "1"]}

        assert sandbox.pid("ours") is None
        sandbox.end("ours")
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_process_that_died_is_started_again(sandbox: Sandbox) -> None:
    first = sandbox.spawn("sleeper", SLEEP)
    os.kill(first, signal.SIGKILL)
    wait_until("gone", lambda: sandbox.pid("sleeper") is None, seconds=5)

    assert sandbox.spawn("sleeper", SLEEP) != first


# Programs ---------------------------------------------------------------------------------------


def test_a_missing_program_is_named_with_its_package(sandbox: Sandbox) -> None:
    with pytest.raises(SandboxError, match="no-such-program is missing: apt-get install some-package"):
        sandbox.program("no-such-program", "some-package")


def test_programs_beside_this_python_are_found() -> None:
    assert find_program("python")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has privileges to drop")
def test_unprivileged_is_not_root_and_still_reaches_a_closed_folder(sandbox: Sandbox, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (closed / "file").write_text("inside")
    argv = sandbox.unprivileged(["sh", "-c", f"id -un; cat {closed}/file; touch {closed}/new"])
    done = subprocess.run(argv, capture_output=True, text=True, check=False)

    assert done.stdout == "postgres\ninside"
    assert not (closed / "new").exists()


def test_wait_until_says_what_did_not_happen() -> None:
    with pytest.raises(SandboxError, match="the sky falls: not so within 0 s"):
        wait_until("the sky falls", lambda: False, seconds=0.2, every=0.05)


# Commands ---------------------------------------------------------------------------------------


class Toy(Service):
    """A service that is a listening socket, and one fault that leaves a file."""

    name = "toy"
    ports = ("toy",)

    def __init__(self) -> None:
        self.prepared = 0
        mark: Any = lambda sandbox, options: (sandbox.folder / "mark").write_text(json.dumps(options))  # noqa: E731
        clear: Any = lambda sandbox, _: (sandbox.folder / "mark").unlink(missing_ok=True)  # noqa: E731
        self.faults = (Fault("toy-breaks", "the toy breaks", "toy: critical", mark, clear, {"seconds": 3.0}),)

    def start(self, sandbox: Sandbox) -> None:
        port = sandbox.port("toy")
        program = f"import socket, time; s = socket.create_server(('127.0.0.1', {port})); time.sleep(60)"
        sandbox.spawn("toy", [sys.executable, "-c", program])

    def prepare(self, sandbox: Sandbox) -> None:
        self.prepared += 1


class Later(Service):
    """A service that needs the toy."""

    name = "later"
    needs = ("toy",)

    def __init__(self, toy: Toy) -> None:
        self.toy, self.saw = toy, -1

    def start(self, sandbox: Sandbox) -> None:
        self.saw = self.toy.prepared


def test_up_starts_a_service_only_when_what_it_needs_is_filled_and_down_ends_all(sandbox: Sandbox) -> None:
    toy = Toy()
    later = Later(toy)
    cli.up(sandbox, [later, toy])

    assert later.saw == 1
    assert cli.status(sandbox, [toy, later])
    pid = sandbox.pid("toy")
    assert pid is not None
    cli.down(sandbox, [toy, later])
    assert not _alive(pid)
    assert not cli.status(sandbox, [toy, later])


def test_up_ends_with_the_reason_when_a_service_fails_and_does_not_wait_for_ever(sandbox: Sandbox) -> None:
    class Broken(Toy):
        def prepare(self, sandbox: Sandbox) -> None:
            raise SandboxError("no data today")

    broken = Broken()
    with pytest.raises(SandboxError, match="no data today"):
        cli.up(sandbox, [broken, Later(broken)])


def test_up_names_all_missing_programs_and_the_command_that_gets_them(sandbox: Sandbox) -> None:
    class Wanting(Toy):
        programs = {"no-such-server": "zeta", "no-such-client": "alpha"}  # noqa: RUF012

    with pytest.raises(SandboxError, match=r"no-such-server, no-such-client.*apt-get install alpha zeta"):
        cli.up(sandbox, [Wanting()])
    assert sandbox.pid("toy") is None


def test_break_applies_options_in_their_type_and_heal_undoes_it_twice(sandbox: Sandbox) -> None:
    services: list[Service] = [Toy()]
    cli.break_(sandbox, services, "toy-breaks", ["seconds=5"])

    assert sandbox.state.faults() == {"toy-breaks": {"seconds": 5.0}}
    assert json.loads((sandbox.folder / "mark").read_text()) == {"seconds": 5.0}
    cli.heal(sandbox, services, None)
    cli.heal(sandbox, services, "toy-breaks")
    assert sandbox.state.faults() == {}
    assert not (sandbox.folder / "mark").exists()


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        pytest.param("toy-brakes", [], "no fault 'toy-brakes'; there are: toy-breaks", id="unknown fault"),
        pytest.param("toy-breaks", ["minutes=5"], "no option 'minutes'; it has: seconds", id="unknown option"),
        pytest.param("toy-breaks", ["seconds=soon"], "seconds=soon: expected float", id="wrong type"),
    ],
)
def test_break_refuses_what_it_does_not_know(sandbox: Sandbox, name: str, options: list[str], words: str) -> None:
    with pytest.raises(SandboxError, match=words):
        cli.break_(sandbox, [Toy()], name, options)
    assert sandbox.state.faults() == {}
