"""Parsing any DAG file against a file that only imports airflow.sdk: at most 1.5 times.

Fresh interpreters, in turn, median of 5 (after one warm-up). The dag-processor pays this for every
file, again and again, and every task pays it once more.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 1.5
BASE = "import airflow.sdk\nfrom airflow.sdk import DAG\nwith DAG('empty'):\n    pass\n"


def seconds(file: Path) -> float:
    """Run the file in a fresh interpreter and return the seconds it took."""
    env = {**os.environ, "PYTHONPATH": str(ROOT / "plugins"), "VCCI_OPS_SETTINGS": "production"}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    begun = time.perf_counter()
    subprocess.run([sys.executable, str(file)], env=env, check=True, capture_output=True)
    return time.perf_counter() - begun


def main() -> int:
    """Print a line a DAG; return 1 when one is above the limit."""
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "base.py"
        base.write_text(BASE)
        for dag in sorted((ROOT / "dags").glob("*.py")):
            seconds(base), seconds(dag)
            pairs = [(seconds(base), seconds(dag)) for _ in range(5)]
            plain, ours = (statistics.median(side) for side in zip(*pairs, strict=True))
            ratio = ours / plain
            failed |= ratio > LIMIT
            print(f"{dag.name}: {ours:.2f} s against {plain:.2f} s, ratio {ratio:.2f} (limit {LIMIT})")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
