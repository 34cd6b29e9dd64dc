"""200 watches at once in one event loop, as in one triggerer, keep their interval within 10 %.

    python benchmarks/watches.py [watches] [same]

Starts the sandbox's API, Prometheus and PostgreSQL, then as many triggers as said, with the metrics of Prometheus
that the settings have, each sample stored in the history database. The interval is 10 s, a sixth of production's.
They begin at random within the first interval; with ``same`` all in the same second, which tries Prometheus more
than it tries the triggers. Compared is when one sample was begun with when the one before it was. Exits 1 when the
worst is off by more than 10 %, when a sample is missing, or when a watch does not leave its worker at once.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
import random
import resource
import statistics
import sys
import tempfile
import time
import types
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "plugins")]
os.environ.setdefault("VCCI_OPS_SETTINGS", "sandbox")
os.environ["AIRFLOW__LOGGING__LOGGING_LEVEL"] = "CRITICAL"
os.environ.setdefault("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "sqlite:////dev/null/none.db")

from airflow.sdk.exceptions import TaskDeferred  # noqa: E402

from sandbox.service import Sandbox, Service, wait_until  # noqa: E402
from sandbox.services import postgres  # noqa: E402
from sandbox.services.api import Api  # noqa: E402
from sandbox.services.prometheus import Prometheus  # noqa: E402
from vcci_ops.hooks.history import upgrade  # noqa: E402
from vcci_ops.hooks.samples import WatchSamples  # noqa: E402
from vcci_ops.operators.watch import WatchOperator, WatchSubject  # noqa: E402
from vcci_ops.settings import load_settings  # noqa: E402
from vcci_ops.settings_watch import Watch  # noqa: E402
from vcci_ops.triggers.watch import WatchTrigger  # noqa: E402

LIMIT, INTERVAL, SAMPLES = 0.10, 10.0, 5


def start(folder: str) -> tuple[Sandbox, list[Service]]:
    """Start the servers, and put their connections where hooks find them."""
    os.environ["VCCI_SANDBOX_HOME"] = folder
    sandbox = Sandbox(Path(folder))
    services: list[Service] = [Api(), Prometheus(), next(s for s in postgres.services() if s.name == "pg-airflow")]
    for service in services:
        service.start(sandbox)
        wait_until(service.name, lambda s=service: s.ready(sandbox), seconds=60)
        service.prepare(sandbox)
        for id_, connection in service.connections(sandbox).items():
            given = dict(connection)
            if id_ == "vcci_prometheus":  # the proxy in front of it is not running here
                given["port"] = sandbox.port("prometheus-direct")
            os.environ[f"AIRFLOW_CONN_{id_.upper()}"] = json.dumps(given)
    upgrade()
    return sandbox, services


def settings() -> Watch:
    """Return the sandbox's watch, with what Prometheus answers."""
    watch = load_settings().release.watch
    asked = [metric.model_dump() for metric in watch.metrics if metric.source == "prometheus"]
    return Watch.model_validate({**watch.model_dump(), "interval": INTERVAL, "warm_up": 0, "metrics": asked})


def triggers(count: int, watch: Watch, spread: float) -> list[WatchTrigger]:
    """Make watches that begin within ``spread`` seconds."""
    begin, dice = time.time() + 5, random.Random(200)
    return [
        WatchTrigger(
            watch=f"benchmark/{number}/{begin:.0f}/watch",
            namespace="vcci-production",
            settings=watch.model_dump(mode="json"),
            total=SAMPLES,
            started_at=begin + dice.uniform(0, spread),
            workloads={},
            baseline={},
        )
        for number in range(count)
    ]


async def fired(trigger: WatchTrigger) -> dict[str, Any]:
    """Run a trigger to its event."""
    async for event in trigger.run():
        return dict(event.payload)
    raise AssertionError("it did not fire")


async def watch_all(made: list[WatchTrigger]) -> tuple[list[dict[str, Any]], float]:
    """Run all at once; return their events and the longest time the loop was busy."""
    worst = 0.0

    async def pulse() -> None:
        nonlocal worst
        while True:
            begun = time.perf_counter()
            await asyncio.sleep(0.05)
            worst = max(worst, time.perf_counter() - begun - 0.05)

    beat = asyncio.create_task(pulse())
    events = await asyncio.gather(*(fired(trigger) for trigger in made))
    beat.cancel()
    return list(events), worst


def deviations(made: list[WatchTrigger]) -> tuple[list[float], int]:
    """Return how far the time between two samples was off, as a share of the interval, and how many are missing."""
    off: list[float] = []
    missing = 0
    for trigger in made:
        begun = [sample.observed_at for sample in WatchSamples(trigger.watch).read()]
        missing += SAMPLES - len(begun)
        off += [abs(b - a - INTERVAL) / INTERVAL for a, b in itertools.pairwise(begun)]
    return off, missing


def seconds_in_worker() -> float:
    """Return how long a watch of half an hour holds its worker: until it defers."""

    class Half(WatchOperator):
        def subject(self, context: Any) -> WatchSubject:
            return WatchSubject(workloads={}, baseline={}, minutes=30)

    task = types.SimpleNamespace(xcom_push=lambda **_: None, map_index=-1)
    run = types.SimpleNamespace(dag_id="benchmark", run_id=f"slot-{time.time()}")
    begun = time.perf_counter()
    try:
        Half(task_id="watch", namespace="vcci-production").execute({"ti": task, "dag_run": run})  # type: ignore[typeddict-item]
    except TaskDeferred:
        return time.perf_counter() - begun
    raise AssertionError("it did not defer")


def main() -> int:
    """Print the figures; return 1 when a limit is passed."""
    count = next((int(word) for word in sys.argv[1:] if word.isdigit()), 200)
    logging.disable(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        sandbox, services = start(folder)
        try:
            time.sleep(20)  # Prometheus needs a window of live samples
            watch = settings()
            seconds_in_worker()  # imports
            held = seconds_in_worker()
            made = triggers(count, watch, 0 if "same" in sys.argv else INTERVAL)
            begun = time.process_time()
            events, busy = asyncio.run(watch_all(made))
            spent = time.process_time() - begun
            off, missing = deviations(made)
        finally:
            for service in reversed(services):
                service.stop(sandbox)
    outcomes = {
        outcome: sum(1 for e in events if e["outcome"] == outcome) for outcome in {e["outcome"] for e in events}
    }
    errors = sum(event["counts"]["error"] for event in events)
    print(
        f"{count} watches, {len(watch.metrics)} metrics, one sample every {INTERVAL:g} s: {outcomes}, {errors} errors"
    )
    print(
        f"interval off by: median {statistics.median(off):.2%}, worst {max(off):.2%} (limit {LIMIT:.0%}); "
        f"{missing} samples missing"
    )
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rate = spent / (INTERVAL * SAMPLES)
    print(f"event loop held up {busy * 1000:.0f} ms at worst; {rate:.0%} of one processor; peak memory {memory:.0f} MB")
    print(f"a watch of 30 min holds its worker for {held * 1000:.0f} ms, then waits deferred")
    return int(max(off) > LIMIT or missing > 0 or held > 5)


if __name__ == "__main__":
    sys.exit(main())
