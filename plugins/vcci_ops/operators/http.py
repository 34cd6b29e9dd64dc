"""Checks of HTTP endpoints and their certificates."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from vcci_ops.domain.checks import judged, stated
from vcci_ops.domain.results import Result, Status
from vcci_ops.domain.units import duration
from vcci_ops.exceptions import MeasurementError
from vcci_ops.operators.base import CheckOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from vcci_ops.settings import TlsHost


class ReadinessCheckOperator(CheckOperator):
    """Ask an HTTP service whether it is ready, and how long it takes to say so.

    Ready is HTTP 200 with a JSON document whose ``status`` is one of ``ready_status``. Anything else is
    critical and names the dependencies that the document calls not ok. No answer at all is unknown.

    :param path: path of the readiness endpoint.
    :param ready_status: accepted values of ``status``.
    :param http_conn_id: HTTP connection of the service.
    """

    measures = ("api.ready", "api.latency")
    system = "The API"
    preloads = ("airflow.providers.http.hooks.http",)
    template_fields = ("path",)

    def __init__(
        self,
        *,
        path: str = "/health/ready",
        ready_status: Sequence[str] = ("ready", "ok"),
        http_conn_id: str = "vcci_api",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.path = path
        self.ready_status = ready_status
        self.http_conn_id = http_conn_id

    def measure(self, context: Context) -> Iterator[Result]:
        """Yield ``api.ready`` and ``api.latency``."""
        from vcci_ops.hooks.http import JsonApi

        self.log.info("Asking the API for %s", self.path)
        status, body, seconds = JsonApi(self.http_conn_id, self.system).get(self.path)
        if check := self.check("api.ready"):
            yield self._readiness(check, status, body)
        if check := self.check("api.latency"):
            yield judged(check, seconds, f"{self.path} answered after {duration(seconds)}", query=f"GET {self.path}")

    def _readiness(self, check: Any, status: int, body: Any) -> Result:
        document = body if isinstance(body, dict) else {}
        said = str(document.get("status", "nothing"))[:80]
        parts = document.get("checks")
        details = tuple(f"{k}: {v}"[:200] for k, v in parts.items())[:20] if isinstance(parts, dict) else ()
        ready = status == 200 and said in self.ready_status
        version = f", version {str(document['version'])[:40]}" if document.get("version") else ""
        return stated(
            check,
            Status.OK if ready else Status.CRITICAL,
            f"{'ready' if ready else 'NOT ready'}: HTTP {status}, status {said!r}{version}",
            display="ready" if ready else f"HTTP {status}",
            details=details,
            query=f"GET {self.path}",
            threshold=f"HTTP 200 and status {' or '.join(self.ready_status)}",
        )


class TlsCheckOperator(CheckOperator):
    """Check the certificate on the wire: days left, chain and name, as a client sees them.

    A host that no client would accept (expired, wrong name, unknown authority) is critical whatever
    its days left.

    :param hosts: what to connect to; a host without an address uses that of ``http_conn_id`` and its CA
        bundle (extra ``verify``); others are verified with the system's authorities.
    :param http_conn_id: HTTP connection.
    """

    measures = ("certificates.expiry",)
    system = "TLS"

    def __init__(self, *, hosts: Sequence[TlsHost], http_conn_id: str = "vcci_api", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.hosts = hosts
        self.http_conn_id = http_conn_id

    def measure(self, context: Context) -> Iterator[Result]:
        """Yield ``certificates.expiry`` for each host."""
        from airflow.sdk import BaseHook

        from vcci_ops.hooks.crew import Crew

        connection = BaseHook.get_connection(self.http_conn_id)
        verify = connection.extra_dejson.get("verify")
        ca_file = verify if isinstance(verify, str) else None
        own_port = connection.port or 443
        with Crew(len(self.hosts)) as crew:  # a host that hangs must not hide the others
            answers = [
                crew.submit(partial(self._host, host, host.host, host.port or 443, None))
                if host.host
                else crew.submit(partial(self._host, host, str(connection.host), host.port or own_port, ca_file))
                for host in self.hosts
            ]
            yield from [answer.result() for answer in answers]

    def _host(self, host: TlsHost, address: str, port: int, ca_file: str | None) -> Result:
        from vcci_ops.domain.checks import unknown
        from vcci_ops.hooks.tls import presented

        (check,) = self.chosen()
        asked = f"TLS handshake with {address}:{port} for {host.server_name}"
        subject = f"{host.server_name} at {address}" if host.host else host.server_name
        self.log.info("%s", asked)
        try:
            found = presented(address, port, host.server_name, ca_file=ca_file)
        except MeasurementError as error:
            return unknown(check, error, subject=subject, query=asked)
        left = (found.not_after - dt.datetime.now(dt.UTC)).total_seconds()
        more: dict[str, Any] = {
            "subject": subject,
            "query": asked,
            "details": (f"issuer {found.issuer}", f"names {', '.join(found.names)}", f"serial {found.serial}"),
        }
        until = f"{found.not_after:%Y-%m-%d %H:%M} UTC"
        if found.problem:
            summary = f"clients refuse it: {found.problem} (valid until {until})"
            return stated(check, Status.CRITICAL, summary, value=left, unit="s", display=duration(left), **more)
        return judged(check, left, f"{duration(left)} left, until {until}", **more)
