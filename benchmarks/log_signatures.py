"""Error signatures of a big log against ``kubectl logs | grep -c ERROR``: at least half its speed, flat memory.

Both read the same log through the same server. The operator's time is that of ``execute`` in a fresh process,
the import of the Kubernetes client included. Run: python benchmarks/log_signatures.py [--megabytes 1000]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from pod_check_memory import kubeconfig  # noqa: E402

CHILD = """
import json, logging, re, time
logging.disable(logging.INFO)
from vcci_ops.operators.logs import LogsCheckOperator
from vcci_ops.settings import load_settings
class Ti:
    def xcom_push(self, key, value): setattr(self, key, value)
ti = Ti()
op = LogsCheckOperator(task_id="logs", namespace="vcci-production", workload="backend-api", fail=False,
                       deadline=600, checks=load_settings("sandbox").pick(*LogsCheckOperator.measures))
begun = time.monotonic()
op.execute({"ti": ti})
seconds = time.monotonic() - begun
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
count = next(r["value"] for r in ti.results if r["check"] == "errors.count")
print(json.dumps({"kb": peak, "seconds": seconds, "count": count, "kinds": len(ti.signatures)}))
"""


def write_log(file: Path, megabytes: int, errors: float) -> None:
    """Write a log as services write them: times, request ids, a share of error lines of some 20 kinds."""
    random.seed(1)
    lines = []
    for n in range(50_000):
        head = f"2026-01-01T09:{n // 60 % 60:02d}:{n % 60:02d}.{n % 1000:03d}Z"
        request = f"request_id={random.getrandbits(128):032x}"
        if random.random() < errors:
            kind = ("timeout on", "cannot reach host", "deadlock in", "no row for", "refused by")[n % 5]
            where = f"app.{'abcd'[n % 4]} {request}"
            lines.append(f"{head} ERROR {where} {kind} {n} after {n % 777}ms for tenant {n % 50}\n")
        else:
            lines.append(f"{head} INFO app.http {request} GET /api/v1/suppliers/{n} 200 {n % 777}ms Mozilla/5.0\n")
    block = "".join(lines).encode()
    with file.open("wb") as out:
        for _ in range(max(megabytes * 1_000_000 // len(block), 1)):
            out.write(block)


def with_kubectl(config: Path) -> tuple[float, int]:
    kubectl = shutil.which("kubectl", path=str(Path(sys.executable).parent)) or "kubectl"
    argv = [kubectl, f"--kubeconfig={config}", "-n", "vcci-production", "logs", "backend-api-7d9f8b6c5-00000"]
    begun = time.monotonic()
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as logs:
        grep = subprocess.run(["grep", "-c", "ERROR"], stdin=logs.stdout, capture_output=True, text=True, check=False)
    return time.monotonic() - begun, int(grep.stdout)


def with_operator(url: str) -> dict[str, float]:
    connection = {"conn_type": "kubernetes", "extra": {"kube_config": kubeconfig(url)}}
    env = {
        **os.environ,
        "PYTHONPATH": str(HERE.parent / "plugins"),
        "AIRFLOW_CONN_VCCI_KUBERNETES": json.dumps(connection),
    }
    done = subprocess.run([sys.executable, "-c", CHILD], env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def compare(folder: Path, megabytes: int, errors: float, rounds: int) -> tuple[float, float]:
    """Return how fast the operator is in terms of kubectl's speed, and its peak in MB."""
    log = folder / "log"
    write_log(log, megabytes, errors)
    argv = [sys.executable, HERE / "stub_kubernetes.py", "1", log]
    server = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert server.stdout
    try:
        url = f"http://127.0.0.1:{server.stdout.readline().strip()}"
        config = folder / "kubeconfig"
        config.write_text(json.dumps(kubeconfig(url)))
        kubectl = [with_kubectl(config) for _ in range(rounds)]
        operator = [with_operator(url) for _ in range(rounds)]
    finally:
        server.terminate()
        server.wait()
    assert {count for _, count in kubectl} == {int(one["count"]) for one in operator}, "they count differently"
    slow = statistics.median(seconds for seconds, _ in kubectl)
    ours = statistics.median(one["seconds"] for one in operator)
    peak = max(one["kb"] for one in operator) / 1024
    print(
        f"{megabytes} MB, {errors:.1%} error lines ({operator[0]['count']:,.0f} of {operator[0]['kinds']:.0f} kinds): "
        f"kubectl | grep {slow:.2f} s, operator {ours:.2f} s, {slow / ours:.2f} of its speed, peak {peak:.0f} MB"
    )
    return slow / ours, peak


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--errors", type=float, nargs="*", default=[0.001, 0.01, 0.05], help="shares of error lines")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        _, small = compare(Path(folder), 10, 0.01, 1)
        found = [compare(Path(folder), args.megabytes, errors, args.rounds) for errors in args.errors]
    growth = max(peak for _, peak in found) - small
    ratio = min(ratio for ratio, _ in found)
    print(f"memory: {growth:.0f} MB more than for 10 MB (limit: 50); speed: at least {ratio:.2f} (limit: 0.50)")
    return 0 if growth < 50 and ratio >= 0.5 else 1


if __name__ == "__main__":
    sys.exit(main())
