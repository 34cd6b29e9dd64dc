"""HTTP endpoints: the platform's API and Prometheus, through the HTTP provider's hook."""

from __future__ import annotations

import logging
import math
import time
from functools import cached_property
from typing import TYPE_CHECKING, Any

from vcci_ops.exceptions import Forbidden, NoData, UnexpectedAnswer, Unreachable

if TYPE_CHECKING:
    from airflow.providers.http.hooks.http import HttpHook
    from requests import Response

CONNECT_SECONDS, READ_SECONDS = 5.0, 12.0


class JsonApi:
    """GET JSON from the endpoint of an HTTP connection.

    The connection's fields: host, port, schema (http or https), login and password for basic
    authentication; extra ``verify`` is the path of a CA bundle.

    :param http_conn_id: id of the connection.
    :param system: what the endpoint is called in messages.
    """

    def __init__(self, http_conn_id: str, system: str) -> None:
        self.http_conn_id = http_conn_id
        self.system = system

    @cached_property
    def hook(self) -> HttpHook:
        """The provider's hook."""
        from airflow.providers.http.hooks.http import HttpHook

        hook = HttpHook(method="GET", http_conn_id=self.http_conn_id)
        # It announces a retry that it does not make, with addresses of objects; what happened is said below.
        logging.getLogger(f"airflow.task.hooks.{HttpHook.__module__}.{HttpHook.__name__}").setLevel(logging.ERROR)
        return hook

    def get(self, path: str, params: dict[str, Any] | None = None) -> tuple[int, Any, float]:
        """Return status code, decoded JSON body (None when it is not JSON) and seconds it took.

        :raises Unreachable: when there is no answer: refused, unknown host, TLS failure, time-out.
        :raises Forbidden: for 401 and 403.
        """
        import requests

        begun = time.monotonic()
        try:
            response: Response = self.hook.run(
                path,
                data=params or {},
                extra_options={"timeout": (CONNECT_SECONDS, READ_SECONDS), "check_response": False},
            )
        except requests.exceptions.SSLError as error:
            raise Unreachable(self.system, f"TLS failed ({_reason(error)})") from error
        except requests.exceptions.ConnectTimeout as error:
            raise Unreachable(self.system, f"no connection within {CONNECT_SECONDS:.0f} s") from error
        except requests.exceptions.Timeout as error:
            raise Unreachable(self.system, f"no answer within {READ_SECONDS:.0f} s") from error
        except requests.exceptions.ConnectionError as error:
            raise Unreachable(self.system, f"the connection failed ({_reason(error)})") from error
        seconds = time.monotonic() - begun
        if response.status_code in (401, 403):
            raise Forbidden(self.system, f"GET {path} (HTTP {response.status_code})")
        try:
            return response.status_code, response.json(), seconds
        except requests.exceptions.JSONDecodeError:
            return response.status_code, None, seconds


class Prometheus:
    """Instant and range queries of a Prometheus server.

    https://prometheus.io/docs/prometheus/latest/querying/api/
    """

    def __init__(self, http_conn_id: str = "vcci_prometheus") -> None:
        self._api = JsonApi(http_conn_id, "Prometheus")

    def vector(self, query: str, at: float | None = None) -> list[tuple[dict[str, str], float]]:
        """Evaluate at one time; return labels and value of each series, possibly none.

        :param at: Unix time; default now.
        :raises UnexpectedAnswer: when Prometheus rejects the query; has its message.
        """
        data = self._ask("api/v1/query", {"query": query, **({"time": at} if at else {})})
        if data["resultType"] == "scalar":
            return [({}, float(data["result"][1]))]
        return [(series["metric"], float(series["value"][1])) for series in data["result"]]

    def number(self, query: str) -> float:
        """Evaluate a query that gives one number.

        :raises NoData: when no series matches, or the value is not a number (0/0).
        :raises UnexpectedAnswer: when several series match.
        """
        found = self.vector(query)
        if not found:
            raise NoData(f"no series in Prometheus matches: {query}")
        if len(found) > 1:
            raise UnexpectedAnswer("Prometheus", f"{len(found)} series where one was expected: {query}")
        value = found[0][1]
        if math.isnan(value):
            raise NoData(f"Prometheus has no number (NaN) for: {query}")
        return value

    def samples(self, query: str, seconds: float, step: float) -> list[float]:
        """Evaluate over the last ``seconds`` in steps of ``step`` seconds; oldest first, one series."""
        now = time.time()
        data = self._ask("api/v1/query_range", {"query": query, "start": now - seconds, "end": now, "step": step})
        if len(data["result"]) > 1:
            raise UnexpectedAnswer("Prometheus", f"{len(data['result'])} series where one was expected: {query}")
        return [float(value) for series in data["result"] for _, value in series["values"]]

    def _ask(self, path: str, params: dict[str, Any]) -> Any:
        status, body, _ = self._api.get(path, params)
        if not isinstance(body, dict) or body.get("status") != "success":
            said = body.get("error", "") if isinstance(body, dict) else "no JSON"
            raise UnexpectedAnswer("Prometheus", f"HTTP {status} {said} for: {params['query']}")
        return body["data"]


def _reason(error: Exception) -> str:
    """Name the innermost cause by its type, for the texts of these errors hold addresses and objects."""
    cause: BaseException = error
    seen = set()
    while id(cause) not in seen:
        seen.add(id(cause))
        inner = getattr(cause, "reason", None) or next((a for a in cause.args if isinstance(a, BaseException)), None)
        if not isinstance(inner, BaseException):
            break
        cause = inner
    words = {
        "NewConnectionError": "connection refused or no route",
        "NameResolutionError": "the host name is not known",
        "RemoteDisconnected": "closed without an answer",
        "ProtocolError": "closed without an answer",
        "SSLCertVerificationError": f"certificate not accepted: {getattr(cause, 'verify_message', '')}",
    }
    return words.get(type(cause).__name__, type(cause).__name__)
