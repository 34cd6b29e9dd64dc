"""The stand-in VCCI API (:mod:`sandbox.api`) as a service of the sandbox."""

from __future__ import annotations

from typing import Any

from sandbox.api import spells
from sandbox.service import Fault, Sandbox, Service


def _begin(name: str) -> Any:
    def apply(sandbox: Sandbox, options: dict[str, Any]) -> None:
        from sandbox.services.prometheus import begin_story

        begin_story(sandbox, name, options)

    return apply


def _end(sandbox: Sandbox, options: dict[str, Any]) -> None:
    from sandbox.services.prometheus import rewrite_history

    if "since" in options:
        rewrite_history(sandbox, options["since"])


def _cast(name: str, kind: spells.Kind) -> Any:
    def apply(sandbox: Sandbox, options: dict[str, Any]) -> None:
        spells.begin(sandbox.folder, kind, name, float(options.get("percent", 100.0)) / 100)

    return apply


def _lift(name: str) -> Any:
    return lambda sandbox, _options: spells.end(sandbox.folder, name)


class Api(Service):
    """Health endpoints and metrics over plain HTTP, the same over TLS with a CA of its own."""

    name = "api"
    ports = ("api", "api-tls")
    faults = (
        Fault("api-503", "the API answers 503 to its readiness probe", "api.ready critical"),
        Fault(
            "api-slow",
            "the API answers its readiness probe late, and requests take longer",
            "api.latency critical",
            apply=_begin("api-slow"),
            heal=_end,
            options={"seconds": 3.0},
        ),
        Fault(
            "tls-near-expiry",
            "the certificate on the API's TLS endpoint runs out in a few days",
            "certificates.expiry critical",
            options={"days": 9.0},
        ),
        Fault(
            "errors-5xx",
            "a share of the last 24 h's requests was answered with 5xx, and goes on being so",
            "api.error_rate critical",
            apply=_begin("errors-5xx"),
            heal=_end,
            options={"percent": 6.0},
        ),
        Fault(
            "no-traffic",
            "no request has reached the API for a day, though it is up",
            "api.requests critical, api.error_rate unknown",
            apply=_begin("no-traffic"),
            heal=_end,
        ),
        Fault(
            "traffic-loss",
            "from now on no request reaches the API; what came before stays counted",
            "watches of a release: too little traffic to judge",
            apply=_cast("traffic-loss", "silence"),
            heal=_lift("traffic-loss"),
        ),
        Fault(
            "error-spike",
            "from now on a share of the requests is answered with 5xx; what came before stays counted",
            "watches of a release: error rate; the daily check hardly sees it",
            apply=_cast("error-spike", "errors"),
            heal=_lift("error-spike"),
            options={"percent": 8.0},
        ),
        Fault(
            "latency-spike",
            "from now on a share of the requests takes 3 s longer; what came before stays counted",
            "watches of a release: p95 and p99 latency",
            apply=_cast("latency-spike", "late"),
            heal=_lift("latency-spike"),
            options={"percent": 25.0},
        ),
        Fault(
            "metric-renamed",
            "a release renamed http_requests_total a day ago: the queries match nothing",
            "api.requests and api.error_rate unknown",
            apply=_begin("metric-renamed"),
            heal=_end,
        ),
    )

    def start(self, sandbox: Sandbox) -> None:
        """Spawn the API's process."""
        sandbox.data("api")
        # Of a sandbox that was killed: the faults it had are over, or still there.
        spells.end_all(sandbox.folder, but=["cluster", *sandbox.state.faults()])
        sandbox.python(self.name, "sandbox.api")

    def stop(self, sandbox: Sandbox) -> None:
        """Stop it; its faults are over with it."""
        super().stop(sandbox)
        spells.end_all(sandbox.folder, but=["cluster"])

    def connections(self, sandbox: Sandbox) -> dict[str, dict[str, Any]]:
        """Return ``vcci_api``: the TLS endpoint, verified against the sandbox's CA."""
        ca = str(sandbox.folder / "api" / "ca.pem")
        port = sandbox.port("api-tls")
        return {
            "vcci_api": {
                "conn_type": "http",
                "host": "127.0.0.1",
                "port": port,
                "schema": "https",
                "extra": {"verify": ca},
            }
        }

    def pages(self, sandbox: Sandbox) -> dict[str, str]:
        """Return the readiness document's address."""
        return {"VCCI API, readiness": f"http://127.0.0.1:{sandbox.port('api')}/health/ready"}
