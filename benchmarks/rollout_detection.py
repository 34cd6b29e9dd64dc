"""How much later than ``kubectl rollout status`` a deferred rollout is known to be complete: at most 2 s.

Both watch the same rollout: once one trigger alone, then 200 of them in one process. On a real control plane when
VCCI_TEST_KUBECONFIG names its kubeconfig, else on the played one. Run: python benchmarks/rollout_detection.py
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "plugins")]
os.environ.setdefault("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "sqlite:////dev/null/none.db")
os.environ.setdefault("AIRFLOW__LOGGING__LOGGING_LEVEL", "ERROR")

from tests.integration.kube_fixtures import KUBECTL, Plane, furnished, played_plane, real_plane  # noqa: E402
from vcci_ops.domain.rollouts import template_digest  # noqa: E402
from vcci_ops.triggers.rollout import RolloutTrigger  # noqa: E402

NAME, LIMIT, ROLLOUTS, MANY = "backend-api", 2.0, 5, 200


def begin(plane: Plane, tag: str) -> RolloutTrigger:
    """Begin a rollout and return a trigger that waits for it."""
    plane.kubectl("set", "image", f"deployment/{NAME}", f"{NAME}=vcci/{NAME}:{tag}", "-n", plane.namespace)
    found = json.loads(plane.kubectl("get", "deployment", NAME, "-n", plane.namespace, "-o", "json"))
    meta, template = found["metadata"], template_digest(found["spec"]["template"])
    return RolloutTrigger(plane.namespace, NAME, meta["generation"], meta["uid"], within=120, template=template)


async def known(trigger: RolloutTrigger) -> float:
    """Return when a trigger fires."""
    async for event in trigger.run():
        assert event.payload["status"] == "done", event.payload
        return time.monotonic()
    raise AssertionError("no event")


async def kubectl(plane: Plane) -> float:
    """Return when kubectl says that the rollout is complete."""
    argv = [
        str(KUBECTL),
        f"--kubeconfig={plane.admin}",
        "rollout",
        "status",
        f"deployment/{NAME}",
        "-n",
        plane.namespace,
    ]
    process = await asyncio.create_subprocess_exec(*argv, stdout=subprocess.DEVNULL)
    assert await process.wait() == 0
    return time.monotonic()


async def race(plane: Plane, tag: str, count: int) -> list[float]:
    """Return how many seconds after kubectl each trigger fires; negative is before it."""
    first = begin(plane, tag)
    kwargs: dict[str, Any] = first.serialize()[1]
    triggers = [RolloutTrigger(**kwargs) for _ in range(count)]
    reference, *fired = await asyncio.gather(kubectl(plane), *map(known, triggers))
    return [moment - reference for moment in fired]


def main() -> int:
    """Run both, and compare with the limit."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        real = bool(os.environ.get("VCCI_TEST_KUBECONFIG"))
        admin = stack.enter_context(real_plane() if real else played_plane(folder))
        plane = stack.enter_context(furnished("real" if real else "played", admin, folder, changes=True))
        connection = {"conn_type": "kubernetes", "extra": {"kube_config": plane.checks_config}}
        os.environ["AIRFLOW_CONN_VCCI_KUBERNETES"] = json.dumps(connection)
        plane.deploy(NAME, "v0", replicas=3)
        plane.wait_ready(NAME)
        asyncio.run(race(plane, "warm-up", 1))
        one = [asyncio.run(race(plane, f"v{n}", 1))[0] for n in range(1, ROLLOUTS + 1)]
        print(
            f"{plane.name} plane, {ROLLOUTS} rollouts, one trigger: median {median(one):+.2f} s, most {max(one):+.2f} s"
        )
        before = time.monotonic(), sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        many = asyncio.run(race(plane, "slow-v9", MANY))
        share = (sum(resource.getrusage(resource.RUSAGE_SELF)[:2]) - before[1]) / (time.monotonic() - before[0])
        print(f"{MANY} triggers at once: median {median(many):+.2f} s, most {max(many):+.2f} s, {share:.0%} of a core")
        print(f"(against kubectl rollout status; limit: +{LIMIT:.0f} s)")
    return 0 if max(*one, *many) <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
