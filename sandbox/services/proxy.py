"""The delay proxy as a service, and the fault ``slow``."""

from __future__ import annotations

from sandbox.proxy import FRONTS
from sandbox.service import Fault, Sandbox, Service


class Proxy(Service):
    """Stands before PostgreSQL, Redis, S3 and Prometheus; see :mod:`sandbox.proxy`."""

    name = "proxy"
    ports = tuple(FRONTS)
    faults = (
        Fault(
            name="slow",
            summary="every system answers some seconds later",
            shows_as="nothing while answers come within the time-outs (5 s to connect, 10 s to answer); "
            "api.latency warning or critical",
            options={"seconds": 3.0},
        ),
    )

    def start(self, sandbox: Sandbox) -> None:
        """Run the proxy; its servers need not be there yet."""
        sandbox.python(self.name, "sandbox.proxy")
