"""A restore drill beside ``aws s3 cp``, ``pg_restore -j2`` and ``pg_amcheck``: dumps of 0.5, 1 and 2 GB.

By hand, the dump is loaded to a local disk, restored into a fresh database by two jobs, and every table and index of
that is read by ``pg_amcheck --heapallindexed``. A drill does the same and more: it holds the SHA-256 of the dump and
every row against the manifest, looks for rows that break a constraint, runs the business assertions, drops the copy and
leaves its report; it needs no disk. The platform's own programs are left out on our side, for nobody types them.

- a drill of 2 GB and more, from the choice of the backup to the stored report, takes at most 1.3 times what the three
  commands take; of less, its fixed part of a few seconds shows, and is printed with the rest;
- the process that does it stays below 300 MB, imports and all; its pg_restore, both together, below 100 MB;
- four times the dump takes at most 4.8 times as long (a straight line, and a fifth for noise).

The backup is one of ``database_backup``, with its manifest. The drill runs in one process, its looks two at a time, as
with two workers; what Airflow needs to start each task is not in it. Both sides load the dump from a plain file server
that stands before the local S3, for that one copies the whole dump in memory for each range of it. The processor time
of both sides' own processes is shown: on a busy machine it tells more than the clock. Both sides take turns, and the
best of each counts.

Run: python benchmarks/restore_drill.py [--gigabytes 0.5 1 2] [--rounds 2]; it takes some 20 GB of disk and 8 GB of
memory, which is what the local S3 needs. ``aws`` is the AWS CLI, of the machine or else as ``uv tool run`` gets it.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from boto3.s3.transfer import TransferConfig

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "plugins")]
os.environ.setdefault("VCCI_OPS_SETTINGS", "sandbox")
os.environ["AIRFLOW__LOGGING__LOGGING_LEVEL"] = "CRITICAL"

from benchmarks import database_backup as backup  # noqa: E402
from sandbox.service import find_program, wait_until  # noqa: E402
from sandbox.services import postgres, s3  # noqa: E402
from sandbox.services.messages import Messages  # noqa: E402

RATIO, FROM, MEGABYTES, RESTORES, LINEAR = 1.3, 2.0, 300, 100, 1.2
JOBS = "2"
HAND = "by_hand"
"""Database that the commands restore into."""
DRILL = """
import json, logging, re, resource, threading, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
logging.disable(logging.CRITICAL)
from tests.integration.drill_fixtures import PARTS, Run
run = Run({"depth": "data"})

def cpu():
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))

def size(pid, what):
    try:
        return int(re.search(what + r":\\s+(\\d+) kB", Path(f"/proc/{pid}/status").read_text())[1]) / 1024
    except (OSError, TypeError):
        return 0

def restoring():
    pids = {pid for file in Path("/proc/self/task").glob("*/children") for pid in file.read_text().split()}
    return sum(size(pid, "VmRSS") for pid in pids if Path(f"/proc/{pid}/exe").readlink().name == "pg_restore")

def watch():
    while not done.wait(0.05):
        try:
            most[0] = max(most[0], restoring())
        except OSError:
            pass

most, done = [0], threading.Event()
threading.Thread(target=watch, daemon=True).start()
used, begun, taken = cpu(), time.monotonic(), {}
def do(task):
    before = time.monotonic()
    assert run.do(task), run.said
    taken[task] = time.monotonic() - before

for task in ("choose", "scratch", "restore"):
    do(task)
with ThreadPoolExecutor(2) as pool:
    list(pool.map(do, [f"verify.{part}" for part in PARTS]))
for task in ("measure", "drop", "report"):
    do(task)
seconds, used = time.monotonic() - begun, cpu() - used
done.set()
found = {"seconds": seconds, "cpu": used, "mb": size("self", "VmHWM"), "restores": most[0]}
print(json.dumps({**found, "taken": taken, "phases": run.drills.get(run.source).phases}))
"""
BACKUP = """
import logging, uuid
logging.disable(logging.INFO)
from vcci_ops.hooks.backup import BackupMaker
from vcci_ops.settings import load_settings
settings = load_settings("sandbox")
own = settings.database_backup.model_copy(update={"compression": 6})
maker = BackupMaker(settings.model_copy(update={"database_backup": own}), "benchmark/" + uuid.uuid4().hex)
made = maker.dump()
maker.read_back()
print(made.key)
"""


class Front(ThreadingHTTPServer):
    """Stands before the local S3 and serves one object from a file, whole or in ranges; all else goes through."""

    daemon_threads = True
    behind: int
    key, file = "", Path()


class Door(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Front

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self) -> None:
        behind = http.client.HTTPConnection("127.0.0.1", self.server.behind, timeout=300)
        length = int(self.headers.get("Content-Length") or 0)
        given, body = dict(self.headers), self.rfile.read(length)
        if self.command == "GET" and self.server.key and self.path.partition("?")[0].endswith(self.server.key):
            self.send_file()
            return
        behind.request(self.command, self.path, body, given)
        got = behind.getresponse()
        content = got.read()
        self.send_response(got.status)
        for name, value in got.getheaders():
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                self.send_header(name, value)
        self.send_header("Content-Length", got.getheader("Content-Length") or str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer

    def send_file(self) -> None:
        size = self.server.file.stat().st_size
        asked = (self.headers.get("Range") or f"bytes=0-{size - 1}").removeprefix("bytes=").split("-")
        start, end = int(asked[0]), min(int(asked[1] or size), size - 1)
        self.send_response(206 if "Range" in self.headers else 200)
        self.send_header("Content-Length", str(end + 1 - start))
        self.send_header("Content-Range", f"bytes {start}-{end}/{size}")
        self.send_header("ETag", self.headers.get("If-Match") or '"0"')
        self.end_headers()
        self.wfile.flush()
        with self.server.file.open("rb") as file:
            while start <= end:
                start += os.sendfile(self.connection.fileno(), file.fileno(), start, end + 1 - start)


class Bench(backup.Bench):
    """The servers of the backups' benchmark, a restore server, and somebody who hears of it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.restore, self.messages = postgres.Restore(), Messages()
        self.folder = folder
        self.front = Front(("127.0.0.1", 0), Door)

    def start(self) -> None:
        """Start the servers; what is dumped belongs to the platform's role."""
        for service in (self.restore, self.messages):
            service.start(self.box)
            wait_until(service.name, lambda one=service: one.ready(self.box), seconds=60)
        self.restore.prepare(self.box)
        self.front.behind = self.box.port("s3-direct")
        threading.Thread(target=self.front.serve_forever, daemon=True).start()
        super().start()
        s3.client(self.box).create_bucket(
            Bucket=s3.REPORTS, CreateBucketConfiguration={"LocationConstraint": s3.REGION}
        )
        with postgres.admin(self.box, self.production, postgres.PRODUCTION) as connection:
            for number in range(backup.TABLES):
                connection.execute(f"ALTER TABLE bulk{number} OWNER TO vcci_app")

    def stop(self) -> None:
        """Stop them."""
        super().stop()
        self.front.shutdown()
        for service in (self.messages, self.restore):
            self.box.end(service.name)

    def environment(self) -> dict[str, str]:
        """Return what both sides need to reach the servers."""
        given = {**self.restore.connections(self.box), **self.messages.connections(self.box)}
        given["vcci_postgres"] = postgres.airflow_connection(self.box, "postgres-direct", "vcci_app", "postgres")
        found = super().environment()
        store = json.loads(found["AIRFLOW_CONN_VCCI_S3"])
        at = store["extra"]["endpoint_url"] = f"http://127.0.0.1:{self.front.server_port}"
        given["vcci_s3"] = store
        return {
            **found,
            **{f"AIRFLOW_CONN_{id_.upper()}": json.dumps(connection) for id_, connection in given.items()},
            **{"PYTHONPATH": f"{ROOT / 'plugins'}:{ROOT}", "AWS_ENDPOINT_URL": at},
        }

    def back_up(self) -> str:
        """Make a backup, let the file server have its dump, and return its key."""
        key = backup.said(BACKUP)
        file = self.folder / "served.dump"
        s3.client(self.box).download_file(
            s3.BACKUPS, key, str(file), Config=TransferConfig(multipart_threshold=1 << 40)
        )
        self.front.file, self.front.key = file, key
        return key

    # What is compared --------------------------------------------------------------------

    def by_hand(self, key: str) -> dict[str, float]:
        """Type the three commands; return seconds, processor time, and the bytes of the dump."""
        file, server = self.folder / "hand.dump", self._server()
        with postgres.admin(self.box, self.restore) as connection:
            connection.execute(f"CREATE DATABASE {HAND} OWNER vcci_app")
        used, begun = _cpu(), time.monotonic()
        commands = {
            "download": [*backup.aws(), "--cli-read-timeout", "300", "s3", "cp", f"s3://{s3.BACKUPS}/{key}", str(file)],
            "restore": [_program("pg_restore"), "-j", JOBS, *server, "-d", HAND, "--exit-on-error", str(file)],
            "amcheck": [_program("pg_amcheck"), "-j", JOBS, *server, "-d", HAND, "--heapallindexed"],
        }
        taken = {}
        for what, argv in commands.items():
            before = time.monotonic()
            given = {**os.environ, "PGPASSWORD": self.box.secret("pg-restore-postgres")}
            subprocess.run(argv, env=given, stdout=subprocess.DEVNULL, check=True)
            taken[what] = time.monotonic() - before
        seconds, used = time.monotonic() - begun, _cpu() - used
        size = file.stat().st_size
        file.unlink()
        with postgres.admin(self.box, self.restore) as connection:
            connection.execute(f"DROP DATABASE {HAND} WITH (FORCE)")
        return {"seconds": seconds, "cpu": used, "bytes": size, **taken}

    def _server(self) -> list[str]:
        return ["-h", "127.0.0.1", "-p", str(self.box.port("postgres-restore")), "-U", "postgres"]


def _program(name: str) -> str:
    found = find_program(name)
    if not found:
        sys.exit(f"there is no {name}")
    return found


def _cpu() -> float:
    """Return the processor time of children that have ended."""
    return sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])


def measure(bench: Bench, gigabytes: float, rounds: int) -> tuple[float, bool]:
    """Compare at one size; return the seconds of our drill, and whether it is within the limits."""
    bench.grow(gigabytes * 1e9)
    key = bench.back_up()
    turns: list[tuple[dict[str, float], dict[str, Any]]] = []
    for _ in range(rounds):
        turns.append((bench.by_hand(key), json.loads(backup.said(DRILL))))
    for suffix in ("", ".manifest.json"):
        bench.remove(key + suffix)
    hand, ours = (min(found, key=lambda one: one["seconds"]) for found in zip(*turns, strict=True))
    peak, restores = (max(one[what] for _, one in turns) for what in ("mb", "restores"))
    ratio = ours["seconds"] / hand["seconds"]
    print(
        f"{hand['bytes'] / 1e9:.2f} GB of dump: by hand {hand['seconds']:.1f} s (download {hand['download']:.1f}, "
        f"restore {hand['restore']:.1f}, amcheck {hand['amcheck']:.1f}); the drill {ours['seconds']:.1f} s: "
        f"{ratio:.2f} times by hand (limit: {RATIO} from {FROM:g} GB on); own processes' processor {hand['cpu']:.1f} s "
        f"and {ours['cpu']:.1f} s; peak {peak:.0f} MB (limit: {MEGABYTES}), its pg_restore together {restores:.0f} MB "
        f"(limit: {RESTORES})",
        flush=True,
    )
    slow = {name: round(seconds, 1) for name, seconds in {**ours["taken"], **ours["phases"]}.items() if seconds >= 0.3}
    print(f"  of the drill: {', '.join(f'{name} {seconds}' for name, seconds in slow.items())}", flush=True)
    fast = ratio <= RATIO or gigabytes < FROM
    return ours["seconds"], fast and peak < MEGABYTES and restores < RESTORES


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[0.5, 1.0, 2.0])
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    sizes = args.gigabytes
    folder = Path(tempfile.mkdtemp(prefix="restore-drill-"))
    folder.chmod(0o755)
    bench = Bench(folder)
    try:
        bench.start()
        subprocess.run([*backup.aws(), "--version"], check=True)
        found = [measure(bench, size, args.rounds) for size in sizes]
    finally:
        bench.stop()
        shutil.rmtree(folder, ignore_errors=True)
    grown = (found[-1][0] / found[0][0]) / (sizes[-1] / sizes[0])
    print(f"{sizes[-1] / sizes[0]:g} times the dump: {grown:.2f} times a straight line (limit: {LINEAR})")
    return 0 if all(within for _, within in found) and grown <= LINEAR else 1


if __name__ == "__main__":
    sys.exit(main())
