"""How much more memory the pod check takes for 10,000 pods than for 10: must stay under 150 MB.

Each in a fresh process; its peak is the kernel's own count. Run: python benchmarks/pod_check_memory.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
LIMIT_MB = 150

CHILD = """
import json, logging, os, re, sys, time
logging.disable(logging.INFO)
from vcci_ops.operators.kubernetes import PodsCheckOperator
from vcci_ops.settings import load_settings
class Ti:
    def xcom_push(self, key, value): self.value = value
ti = Ti()
op = PodsCheckOperator(task_id="pods", namespace="vcci-production", fail=False, deadline=120,
                       checks=load_settings("sandbox").pick(*PodsCheckOperator.measures))
begun = time.monotonic()
op.execute({"ti": ti})
summary = next(r["summary"] for r in ti.value if r["check"] == "pods.ready")
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
print(json.dumps({"kb": peak, "seconds": time.monotonic() - begun, "summary": summary}))
"""


def measure(pods: int) -> dict[str, float]:
    argv = [sys.executable, HERE / "stub_kubernetes.py", str(pods)]
    server = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert server.stdout
    try:
        url = f"http://127.0.0.1:{server.stdout.readline().strip()}"
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
    finally:
        server.terminate()
        server.wait()


def kubeconfig(server: str) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": {"token": "benchmark"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }


def main() -> int:
    few, many = measure(10), measure(10_000)
    more = (many["kb"] - few["kb"]) / 1024
    for pods, one in ((10, few), (10_000, many)):
        print(f"{pods:>6} pods: peak {one['kb'] / 1024:6.1f} MB, {one['seconds']:5.1f} s, {one['summary']}")
    print(f"10,000 pods take {more:.1f} MB more than 10 (limit: {LIMIT_MB} MB)")
    return 0 if more < LIMIT_MB else 1


if __name__ == "__main__":
    sys.exit(main())
