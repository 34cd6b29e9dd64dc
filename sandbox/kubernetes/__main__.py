"""``python -m sandbox.kubernetes``: the played Kubernetes API on the sandbox's port ``kube``, until SIGTERM."""

from __future__ import annotations

import asyncio
import logging
import signal

from sandbox.kubernetes.stage import Stage, write_kubeconfig
from sandbox.state import State


async def main() -> None:
    """Play until asked to stop."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    state = State()
    write_kubeconfig(state)
    await Stage(state).run(stop)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    asyncio.run(main())
