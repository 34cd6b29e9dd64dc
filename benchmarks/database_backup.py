"""A backup beside ``pg_dump -Fc | aws s3 cp -``: dumps of 0.5, 1 and 2 GB, one server, one local S3.

Both pack alike (gzip, level 6), and send to the sandbox's S3. What a backup does beyond that is named: the manifest's
sums, which it reads in the same snapshot while the dump runs, are also read by themselves, with the same statements.

- dumping, with the manifest's sums, takes at most 1.2 times what the two commands take, plus the sums by themselves;
- the process that does it stays below 300 MB, imports and all;
- four times the dump takes at most 4.8 times as long (a straight line, and a fifth for noise).

Reading the dump back, which the two commands do not do, is shown beside it; so is the processor time of both sides' own
processes, on which other work on the machine tells less. Both sides take turns, and the best of each counts.

Run: python benchmarks/database_backup.py [--gigabytes 0.5 1 2] [--rounds 2]; it takes some 12 GB of disk and 8 GB of
memory, which is what the local S3 needs. ``aws`` is the AWS CLI, of the machine or else as ``uv tool run`` gets it.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "plugins")]
os.environ.setdefault("VCCI_OPS_SETTINGS", "sandbox")
os.environ["AIRFLOW__LOGGING__LOGGING_LEVEL"] = "CRITICAL"

from sandbox.service import Sandbox, wait_until  # noqa: E402
from sandbox.services import postgres, s3  # noqa: E402

RATIO, MEGABYTES, LINEAR = 1.2, 300, 1.2
ROW = 600
"""Bytes of a row's random text; gzip takes a quarter of base64 away."""
PACKED = 0.76
TABLES = 4
CHILD = """
import json, logging, re, resource, sys, time, uuid
logging.disable(logging.INFO)
from vcci_ops.hooks.backup import BackupMaker
from vcci_ops.settings import load_settings
settings = load_settings("sandbox")
own = settings.database_backup.model_copy(update={"compression": 6})
maker = BackupMaker(settings.model_copy(update={"database_backup": own}), "benchmark/" + uuid.uuid4().hex)
def cpu():
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
used, begun = cpu(), time.monotonic()
made = maker.dump()
used, dumped = cpu() - used, time.monotonic()
maker.read_back()
read = time.monotonic()
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
print(json.dumps({"mb": peak / 1024, "dump": dumped - begun, "read": read - dumped, "key": made.key, "cpu": used}))
"""
SUMS = """
import datetime as dt, logging, time
logging.disable(logging.INFO)
from vcci_ops.hooks import table_sums
begun = time.monotonic()
with table_sums.snapshot("vcci_postgres_backup") as connection:
    for table in table_sums.tables(connection):
        table_sums.sums(connection, table, dt.datetime.now(dt.UTC))
print(time.monotonic() - begun)
"""


class Bench:
    """The servers, and the data."""

    def __init__(self, folder: Path) -> None:
        self.box = Sandbox(folder)
        self.production, self.history = postgres.Production(), postgres.Airflow()
        self.rows = 0

    def start(self) -> None:
        """Start the servers and load the schema."""
        for service in (self.production, self.history, s3.S3()):
            service.start(self.box)
            wait_until(service.name, lambda one=service: one.ready(self.box), seconds=60)
        self.history.prepare(self.box)
        s3.client(self.box).create_bucket(
            Bucket=s3.BACKUPS, CreateBucketConfiguration={"LocationConstraint": s3.REGION}
        )
        with postgres.admin(self.box, self.production) as connection:
            for role in ("vcci_app", "vcci_ops_backup"):
                postgres.create_role(connection, role, self.box.secret(f"postgres-{role}"))
            postgres.create_database(connection, postgres.PRODUCTION, "vcci_app")
        postgres.migrate(postgres.url(self.box, "postgres-direct", "vcci_app", postgres.PRODUCTION))
        with postgres.admin(self.box, self.production, postgres.PRODUCTION) as connection:
            connection.execute((postgres.GRANTS / "vcci_ops_backup.sql").read_bytes())
            for number in range(TABLES):
                connection.execute(f"CREATE TABLE bulk{number} (id bigint PRIMARY KEY, at timestamptz, body text)")
        os.environ.update(self.environment())
        from vcci_ops.hooks.history import upgrade  # noqa: PLC0415 - reads its connection when imported

        upgrade()

    def stop(self) -> None:
        """Stop them."""
        for service in (s3.S3(), self.history, self.production):
            self.box.end(service.name)

    def environment(self) -> dict[str, str]:
        """Return what both sides need to reach the servers."""
        backup = postgres.airflow_connection(self.box, "postgres-direct", "vcci_ops_backup", postgres.PRODUCTION)
        store = s3.S3().connections(self.box)["vcci_s3"]
        store["extra"]["endpoint_url"] = f"http://127.0.0.1:{self.box.port('s3-direct')}"
        # The local S3 puts the parts of an upload together while the client waits.
        store["extra"]["config_kwargs"].update(read_timeout=300, request_checksum_calculation="when_required")
        given = {"vcci_postgres_backup": backup, "vcci_s3": store, **self.history.connections(self.box)}
        role = postgres.parameters(self.box, "postgres-direct", "vcci_ops_backup", postgres.PRODUCTION)
        return {
            **{f"AIRFLOW_CONN_{id_.upper()}": json.dumps(connection) for id_, connection in given.items()},
            **{"PYTHONPATH": str(ROOT / "plugins"), "PGHOST": role["host"], "PGPORT": str(role["port"])},
            **{"PGUSER": role["user"], "PGPASSWORD": role["password"], "PGDATABASE": role["dbname"]},
            **{"AWS_ACCESS_KEY_ID": store["login"], "AWS_SECRET_ACCESS_KEY": store["password"]},
            **{"AWS_ENDPOINT_URL": store["extra"]["endpoint_url"], "AWS_DEFAULT_REGION": s3.REGION},
            **{"AWS_REQUEST_CHECKSUM_CALCULATION": "when_required", "AWS_EC2_METADATA_DISABLED": "true"},
        }

    def grow(self, dump: float) -> None:
        """Load rows until a dump has about so many bytes."""
        until = int(dump / PACKED / ROW)
        with postgres.admin(self.box, self.production, postgres.PRODUCTION) as connection:
            for number in range(TABLES):
                copying = f"COPY bulk{number} FROM STDIN"
                with connection.cursor() as cursor, cursor.copy(copying) as copy:
                    for row in range(self.rows // TABLES, until // TABLES):
                        text = base64.b64encode(os.urandom(ROW * 3 // 4)).decode()
                        copy.write(f"{row}\t2026-01-01\t{text}\n")
                connection.execute(f"VACUUM ANALYZE bulk{number}")
            connection.execute("CHECKPOINT")
        self.rows = until

    # What is compared --------------------------------------------------------------------

    def by_hand(self) -> dict[str, float]:
        """Type the two commands; return seconds, processor time, and the bytes of the dump."""
        used, begun = _cpu(), time.monotonic()
        dump = subprocess.Popen(["pg_dump", "-Fc"], stdout=subprocess.PIPE)
        sent = subprocess.run(
            # The local S3 takes its time to put the parts together.
            [*aws(), "--cli-read-timeout", "300", "s3", "cp", "-", f"s3://{s3.BACKUPS}/hand"],
            stdin=dump.stdout,
            check=False,
        )
        if dump.wait() or sent.returncode:
            sys.exit("by hand, it failed")
        seconds, used = time.monotonic() - begun, _cpu() - used
        size = s3.client(self.box).head_object(Bucket=s3.BACKUPS, Key="hand")["ContentLength"]
        self.remove("hand")
        return {"dump": seconds, "cpu": used, "bytes": size}

    def ours(self) -> dict[str, Any]:
        """Start a process that makes a backup."""
        found: dict[str, Any] = json.loads(said(CHILD))
        self.remove(found["key"])
        return found

    def remove(self, key: str) -> None:
        """Remove an object, for the local S3 keeps all of them in memory or on disk."""
        s3.client(self.box).delete_object(Bucket=s3.BACKUPS, Key=key)


def said(program: str) -> str:
    """Run a program of Python and return the last line that it says."""
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.splitlines()[-1]


def _cpu() -> float:
    """Return the processor time of children that have ended."""
    return sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])


def aws() -> list[str]:
    """Return how the AWS CLI is started."""
    found = shutil.which("aws")
    return [found] if found else [str(ROOT / ".venv" / "bin" / "uv"), "tool", "run", "--from", "awscli", "aws"]


def measure(bench: Bench, gigabytes: float, rounds: int) -> tuple[float, bool]:
    """Compare at one size; return the seconds of our dump, and whether it is within the limits."""
    bench.grow(gigabytes * 1e9)
    sums, turns = [], []
    for _ in range(rounds):
        sums.append(float(said(SUMS)))  # it warms the server's cache, too
        turns.append((bench.by_hand(), bench.ours()))
    hand, ours = (min(found, key=lambda one: one["dump"]) for found in zip(*turns, strict=True))
    peak, limit = max(one["mb"] for _, one in turns), RATIO * hand["dump"] + min(sums)
    print(
        f"{hand['bytes'] / 1e9:.2f} GB of dump: by hand {hand['dump']:.1f} s, the sums alone {min(sums):.1f} s; ours "
        f"{ours['dump']:.1f} s: {ours['dump'] / hand['dump']:.2f} times by hand (limit: {limit / hand['dump']:.2f}, of "
        f"which the sums {min(sums) / hand['dump']:.2f}); processor {hand['cpu']:.1f} s and {ours['cpu']:.1f} s; read "
        f"back {ours['read']:.1f} s; peak {peak:.0f} MB (limit: {MEGABYTES})",
        flush=True,
    )
    return ours["dump"], ours["dump"] <= limit and peak < MEGABYTES


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[0.5, 1.0, 2.0])
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    sizes = args.gigabytes
    folder = Path(tempfile.mkdtemp(prefix="database-backup-"))
    folder.chmod(0o755)
    bench = Bench(folder)
    try:
        bench.start()
        subprocess.run([*aws(), "--version"], check=True)
        found = [measure(bench, size, args.rounds) for size in sizes]
    finally:
        bench.stop()
        shutil.rmtree(folder, ignore_errors=True)
    grown = (found[-1][0] / found[0][0]) / (sizes[-1] / sizes[0])
    print(f"{sizes[-1] / sizes[0]:g} times the dump: {grown:.2f} times a straight line (limit: {LINEAR})")
    return 0 if all(within for _, within in found) and grown <= LINEAR else 1


if __name__ == "__main__":
    sys.exit(main())
