"""Exporting a tenant of 5 million rows, beside ``psql \\copy`` of the same tables.

By hand, psql copies each table of the tenant to a plain file on the local disk:
``\\copy (SELECT ... FROM table WHERE tenant_id = ...) TO file``. An export does more in the same time: one snapshot,
counts, checksums and SHA-256, gzip, and encrypted objects in the sandbox's S3, each looked at once it is there. psql
into ``gzip -1`` is shown beside it: that is what one types when the files are to be small.

- an export has at least 0.9 times the rows per second of the plain ``\\copy``;
- the process that exports stays below 200 MB, imports and all;
- a tenth of the rows takes as much memory, give or take a tenth: it is flat.

Each way runs as a fresh process, warm, and by turns; the median counts. What is measured of the export is the export
itself, without imports and the planning before it. That the export holds what it should is proven after that, and the
time of the proof is shown.

Run: python benchmarks/tenant_export.py [--rows 5000000] [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "plugins")]
os.environ.setdefault("VCCI_OPS_SETTINGS", "sandbox")
os.environ["AIRFLOW__LOGGING__LOGGING_LEVEL"] = "CRITICAL"

from benchmarks.tenant_erase import BIG, ORDER, Bench  # noqa: E402
from sandbox.service import wait_until  # noqa: E402
from sandbox.services import postgres, s3  # noqa: E402

SPEED, MEGABYTES, FLAT = 0.9, 200, 1.1
EXPORTS = "vcci-exports"
CONDITIONS = {
    **{one: f"tenant_id = '{BIG}'" for one in ORDER if isinstance(one, str)},
    **{
        one[0]: f"{one[1]} IN (SELECT id FROM {one[2]} WHERE tenant_id = '{BIG}')"
        for one in ORDER
        if not isinstance(one, str)
    },
    "tenants": f"id = '{BIG}'",
}
"""Table → the condition that somebody would type."""
CHILD = """
import json, logging, re, sys, time
logging.disable(logging.INFO)
from vcci_ops.hooks.tenant_export import Destination, export, prove
from vcci_ops.hooks.tenant_graph import TenantCatalog
tenant = {"id": sys.argv[1], "slug": "big", "name": "Big"}
graph = TenantCatalog().graph(sys.argv[1])
begun = time.monotonic()
done = export(graph, tenant, "0" * 64, Destination("vcci-exports", "", sys.argv[2]))
seconds = time.monotonic() - begun
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
begun = time.monotonic()
problems = prove(done) if len(sys.argv) > 3 else []
proof = time.monotonic() - begun
size = sum(table["bytes"] for table in done.tables.values())
print(json.dumps({"seconds": seconds, "mb": peak / 1024, "rows": done.rows, "bytes": size, "folder": done.folder,
                  "proof": proof, "problems": problems}))
"""


class ExportBench(Bench):
    """The server, the data, S3, and a server to prove on."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.folder, self.restore = folder, postgres.Restore()

    def start(self) -> None:
        """Start the servers."""
        for service in (self.server, self.restore, s3.S3()):
            service.start(self.box)
        wait_until("S3", lambda: s3.S3().ready(self.box), seconds=60)
        self.restore.prepare(self.box)
        s3.client(self.box).create_bucket(Bucket=EXPORTS, CreateBucketConfiguration={"LocationConstraint": s3.REGION})

    def stop(self) -> None:
        """Stop them."""
        for service in (s3.S3(), self.restore, self.server):
            self.box.end(service.name)

    def environment(self, database: str) -> dict[str, str]:
        """Return what both sides need, both with the export's role."""
        store = s3.S3().connections(self.box)["vcci_s3"]
        store["extra"]["endpoint_url"] = f"http://127.0.0.1:{self.box.port('s3-direct')}"
        given = {"vcci_s3": store, **self.restore.connections(self.box)}
        role = postgres.parameters(self.box, "postgres-direct", "vcci_ops_export", database)
        return {
            **super().environment(database),
            **{f"AIRFLOW_CONN_{id_.upper()}": json.dumps(connection) for id_, connection in given.items()},
            **{"PGUSER": "vcci_ops_export", "PGPASSWORD": role["password"]},
        }

    # What is compared --------------------------------------------------------------------

    def by_hand(self, database: str, packer: str = "") -> float:
        """Copy each table with psql; return seconds.

        :param packer: a program between psql and the file; default: none.
        """
        where = self.folder / "hand"
        where.mkdir()
        script = self.folder / "hand.sql"
        script.write_text("".join(f"{line}\n" for line in self.copies(database, where, packer)))
        begun = time.monotonic()
        argv = ["psql", "-Xq", "-v", "ON_ERROR_STOP=1", "-f", str(script)]
        subprocess.run(argv, env=self.environment(database), check=True)
        seconds = time.monotonic() - begun
        shutil.rmtree(where)
        return seconds

    def copies(self, database: str, where: Path, packer: str) -> Iterator[str]:
        """Yield psql's commands, with the columns that the export has, too."""
        query = (
            "SELECT string_agg(quote_ident(column_name), ', ' ORDER BY ordinal_position) FROM "
            "information_schema.columns WHERE table_schema = 'public' AND table_name = %s "
            "AND is_generated = 'NEVER' AND column_name NOT IN ('password_hash', 'token_hash', 'key_hash')"
        )
        with self.admin(database) as connection:
            for table, rows in CONDITIONS.items():
                (columns,) = connection.execute(query, (table,)).fetchone()
                to = f"PROGRAM '{packer} > {where}/{table}.gz'" if packer else f"'{where}/{table}'"
                yield f"\\copy (SELECT {columns} FROM {table} WHERE {rows}) TO {to}"

    def ours(self, database: str, run: str, *, prove: bool = False) -> dict[str, Any]:
        """Start a process that exports; return what it says."""
        argv = [sys.executable, "-c", CHILD, BIG, run, *(["prove"] if prove else [])]
        done = subprocess.run(argv, env=self.environment(database), stdout=subprocess.PIPE, text=True, check=True)
        told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        assert not told["problems"], told["problems"]
        client = s3.client(self.box)
        for item in client.list_objects_v2(Bucket=EXPORTS, Prefix=told["folder"])["Contents"]:
            client.delete_object(Bucket=EXPORTS, Key=item["Key"])  # the local S3 keeps all in memory
        return told


def compare(bench: ExportBench, rounds: int) -> tuple[float, float]:
    """Print and return the ratio of the medians, and the highest peak."""
    plain, packed, ours = [], [], []
    bench.by_hand("data")  # warm
    for number in range(rounds):
        ours.append(bench.ours("data", f"run-{number}", prove=number == rounds - 1))
        plain.append(bench.by_hand("data"))
        packed.append(bench.by_hand("data", "gzip -1"))
    seconds, rows = median(one["seconds"] for one in ours), ours[0]["rows"]
    hand, gzip, peak = median(plain), median(packed), max(one["mb"] for one in ours)
    print(
        f"exporting {rows:,} rows, median of {rounds}: {seconds:.1f} s ({rows / seconds:,.0f} rows/s, "
        f"{ours[0]['bytes'] / 1e6:.0f} MB); psql \\copy to plain files {hand:.1f} s ({rows / hand:,.0f} rows/s): "
        f"{hand / seconds:.2f} of its speed (limit: {SPEED}); to gzip -1 {gzip:.1f} s: {gzip / seconds:.2f}; "
        f"proving takes {ours[-1]['proof']:.1f} s",
        flush=True,
    )
    told = ", ".join(f"{one['seconds']:.1f}/{by:.1f}/{gz:.1f}" for one, by, gz in zip(ours, plain, packed, strict=True))
    print(f"each round, ours/plain/gzip, in s: {told}", flush=True)
    return hand / seconds, peak


def measure(folder: Path, rows: int, rounds: int) -> tuple[float, float]:
    """Load so many rows and compare."""
    folder.mkdir()
    folder.chmod(0o755)
    bench = ExportBench(folder)
    try:
        bench.start()
        bench.prepare(rows)
        return compare(bench, rounds)
    finally:
        bench.stop()
        shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    top = Path(tempfile.mkdtemp(prefix="tenant-export-"))
    top.chmod(0o755)
    _, small = measure(top / "small", args.rows // 10, 1)
    ratio, peak = measure(top / "large", args.rows, args.rounds)
    shutil.rmtree(top, ignore_errors=True)
    print(f"peak {peak:.0f} MB (limit: {MEGABYTES}), {small:.0f} MB with a tenth of the rows (limit: {FLAT} times)")
    return 0 if ratio >= SPEED and peak < MEGABYTES and peak <= FLAT * small else 1


if __name__ == "__main__":
    sys.exit(main())
