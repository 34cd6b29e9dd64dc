"""Restoring a dump from S3 into a scratch database: several pg_restore at once, each fed through a pipe, no disk.

``pg_restore --jobs`` needs a file that it can seek in, and a worker has no room for one. So the dump is read once,
which gives its SHA-256 and where each table's data lies; then several pg_restore run beside each other, and each gets
the head of the dump and only those parts that it restores, by ranged reads. The dump is read twice in all, whatever
the number of processes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import logging
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import IO

import psycopg
from psycopg.conninfo import make_conninfo

from vcci_ops.domain import drill_plan as plan
from vcci_ops.domain.drill_plan import Unit
from vcci_ops.domain.units import duration, humanize
from vcci_ops.exceptions import ChangeFailed, MeasurementError
from vcci_ops.hooks.crew import Crew
from vcci_ops.hooks.drill_source import Dump, Survey, joined
from vcci_ops.hooks.postgres_programs import PASSED_ON, Address, address, find
from vcci_ops.hooks.tenant_session import TenantPostgres

log = logging.getLogger("airflow.task")
PROGRAM = "pg_restore"
_ALWAYS = ("--exit-on-error", "--no-password", "--no-publications", "--no-subscriptions")
_FILLING = (
    "CREATE TABLE pg_temp.vcci_ops_room AS SELECT repeat(md5(n::text), 250) AS filler "
    "FROM generate_series(1, 1000) AS n"
)
"""Writes 8 MB: pg_restore tells what was refused, and not whether the next try would be, too."""
_TELL_EVERY = 10.0
_ERROR_LINES = 400
_PIPE = 1 << 20
"""Bytes: the most that Linux gives to everybody."""
_ENDED = 5.0
"""Seconds a process gets to end when it is asked."""


class RestoreFailed(ChangeFailed):
    """pg_restore did not come to its end; the text has its words, without values of rows."""


@dataclasses.dataclass(frozen=True)
class Target:
    """Where to restore to.

    :param conn_id: PostgreSQL connection of the restore server.
    :param session: settings of the sessions.
    """

    database: str
    conn_id: str = "vcci_postgres_restore"
    session: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def address(self) -> Address:
        """Return how pg_restore gets there: the password is in no argument list."""
        at = address(self.conn_id)
        options = " ".join(f"-c {name}={value}" for name, value in self.session.items())
        given = make_conninfo(at.conninfo, dbname=self.database, options=options, application_name="vcci-ops drill")
        return Address(given, at.password)


class Restorer:
    """Restore one dump.

    :param survey: what a pass over it has found.
    :param jobs: how many pg_restore at once.
    :param small: bytes of dump below which tables share a process.
    """

    def __init__(self, dump: Dump, survey: Survey, target: Target, jobs: int, small: int = plan.SMALL) -> None:
        self.dump, self.survey, self.target, self.jobs, self.small = dump, survey, target, jobs, small
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._guard = threading.Lock()
        self._stopped = False
        self._passed = 0
        self._told = time.monotonic()

    def run(self, took: Callable[[str, float], None]) -> None:
        """Restore everything.

        :param took: called with each phase and its seconds.
        :raises RestoreFailed: what pg_restore says, of which part of the dump.
        :raises Unreachable: when S3 breaks off for good.
        """
        head, blocks = self.survey.head, self.survey.blocks
        attach = plan.attach_unit(head)
        phases: tuple[tuple[str, tuple[tuple[str, Sequence[Unit]], ...]], ...] = (
            ("schema", (("pre-data", [plan.Unit("tables, types and functions", plan.schema_entries(head))]),)),
            ("data", (("data", plan.data_units(head, blocks, self.small)),)),
            (
                "indexes",
                (
                    ("post-data", plan.index_units(head, blocks, self.small)),
                    ("post-data", [attach] if attach else []),
                    ("post-data", plan.reference_units(head, blocks, self.small)),
                    ("post-data", [plan.last_unit(head)]),
                ),
            ),
        )
        for what in plan.left_out(head).values():
            log.info("left out: %s", what)
        for phase, steps in phases:
            begun = time.monotonic()
            for section, units in steps:
                self._work(section, units)
            took(phase, time.monotonic() - begun)

    def stop(self) -> None:
        """End what runs; for the moment in which the task is killed."""
        self._stopped = True
        with self._guard:
            running = list(self._processes)
        for process in running:
            _end(process)

    def _work(self, section: str, units: Sequence[Unit]) -> None:
        """Run the units of a step, as many at once as may be; the first failure stops all."""
        waiting, running = list(units), dict[Future[None], Unit]()
        done = 0
        with Crew(self.jobs) as crew:
            try:
                while waiting or running:
                    while len(running) < self.jobs and (unit := plan.next_unit(waiting, running.values())):
                        waiting.remove(unit)
                        running[crew.submit(_call(self._restore, section, unit))] = unit
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        unit = running.pop(future)
                        future.result()
                        done += 1
                        log.info("%s: %s of %s done: %s", section, done, len(units), unit.label)
            except BaseException:
                self.stop()
                wait(running, timeout=2 * _ENDED)
                raise

    def _restore(self, section: str, unit: Unit) -> None:
        begun = time.monotonic()
        with _listed(unit.entries) as listing:
            process = self._start([*_ALWAYS, f"--section={section}", f"--use-list=/dev/fd/{listing}"], listing)
            try:
                words = self._feed(process, unit)
                process.wait()
            finally:
                _end(process)
                with self._guard:
                    self._processes.discard(process)
        if process.returncode:
            raise RestoreFailed(f"{unit.label}: {words() or f'{PROGRAM} ended with code {process.returncode}'}")
        if unit.blocks:
            log.info("%s: %s in %s", unit.label, humanize(unit.bytes, "bytes"), duration(time.monotonic() - begun))

    def _start(self, arguments: list[str], listing: int) -> subprocess.Popen[bytes]:
        at = self.target.address()
        argv = [find(PROGRAM), *arguments, f"--dbname={at.conninfo}"]
        if tied := shutil.which("setpriv"):
            # The kernel ends it when this process is killed; its thread here lives longer than it in any case.
            argv = [tied, "--pdeathsig", "TERM", "--", *argv]
        environment = {key: os.environ[key] for key in PASSED_ON if key in os.environ}
        with self._guard:
            if self._stopped:
                raise RestoreFailed("the restore was stopped")
            process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env={**environment, "LC_ALL": "C.UTF-8", **at.environment},
                pass_fds=(listing,),
                bufsize=0,
            )
            self._processes.add(process)
        return process

    def _feed(self, process: subprocess.Popen[bytes], unit: Unit) -> Callable[[], str]:
        """Give a process its part of the dump; return what asks for its words once it has ended."""
        assert process.stdin is not None and process.stderr is not None  # noqa: S101, PT018 - both are pipes
        said: list[bytes] = []
        reader = threading.Thread(target=_collect, args=(process.stderr, said), daemon=True)
        reader.start()
        # A process that has all it needs, or that fails, stops reading: its exit code says which it was.
        with contextlib.suppress(BrokenPipeError), process.stdin as pipe:
            _widen(pipe)
            for chunk in joined(self.survey.head_bytes, self.dump, unit.blocks):
                view = memoryview(chunk)
                while view:
                    view = view[pipe.write(view) :]
                self._progress(unit, len(chunk))

        def words() -> str:
            reader.join(_ENDED)
            return in_words(b"".join(said).decode("utf-8", "replace"), _names(self.survey))

        return words

    def _progress(self, unit: Unit, length: int) -> None:
        if not unit.blocks:
            return
        with self._guard:
            self._passed += length
            now = time.monotonic()
            if now - self._told < _TELL_EVERY:
                return
            self._told = now
        share = 100 * self._passed / max(self.survey.bytes, 1)
        log.info("%s: under way; %.0f %% of the dump is in", unit.label, min(share, 100))


def _call(work: Callable[[str, Unit], None], section: str, unit: Unit) -> Callable[[], None]:
    return lambda: work(section, unit)


@contextlib.contextmanager
def _listed(entries: Iterable[int]) -> Iterator[int]:
    """Yield a file in memory that says which entries to restore."""
    listing = os.memfd_create("vcci-ops-restore-list")
    try:
        os.write(listing, "".join(f"{entry};\n" for entry in entries).encode())
        yield listing
    finally:
        os.close(listing)


def _widen(pipe: IO[bytes]) -> None:
    """Let a pipe hold more, so that the two at its ends wait for each other less often; an ordinary one will do."""
    with contextlib.suppress(OSError):
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE)


def _collect(stream: IO[bytes], said: list[bytes]) -> None:
    for line in stream:
        if len(said) < _ERROR_LINES:
            said.append(line)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process, asked first."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_ENDED)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _names(survey: Survey) -> set[str]:
    """Return what may be quoted in an error: names of objects, which are no one's data."""
    names = set[str]()
    for entry in survey.head.entries:
        names |= {entry.name, entry.schema, entry.owner, *entry.name.split()}
    return names


def in_words(said: str, names: set[str]) -> str:
    """Return pg_restore's errors without details, contexts and values: those are data of people.

    :param names: what may stay in quotation marks.
    """
    kept = []
    for line in said.splitlines():
        if found := re.match(r"pg_restore: (?:error|hint|detail): (.*)", line):
            kept.append(re.sub(r'"([^"]*)"', lambda m: m[0] if m[1] in names else '"…"', found[1]))
    return "; ".join(kept[:3])[:1000]


def why_server(target: Target) -> str:
    """Say what is wrong with the restore server, if it can tell: it is down, or its disk is full. Empty: nothing."""
    hook = TenantPostgres(target.conn_id, database=target.database, statement_timeout=60)
    try:
        with hook.session(writes=True) as connection, connection.transaction(force_rollback=True):
            connection.execute(_FILLING)
    except MeasurementError as failure:
        if isinstance(failure.__context__, psycopg.errors.DiskFull):
            return "the disk of the restore server is full"
        return f"the restore server does not take anything any more ({failure})"
    return ""
