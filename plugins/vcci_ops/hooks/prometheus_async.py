"""Prometheus from an event loop: hundreds of queries side by side without a thread for each.

Beside :class:`~vcci_ops.hooks.http.Prometheus`, which serves tasks. A triggerer with 200 watches asks more than a
hundred queries in the same second; there the provider's hook looks the connection up before every single request,
through the supervisor, and opens a new TCP connection for it. Here both happen once to a triggerer.
https://prometheus.io/docs/prometheus/latest/querying/api/#instant-queries
"""

from __future__ import annotations

import asyncio
import dataclasses
import ssl
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from vcci_ops.exceptions import Forbidden, MeasurementError, UnexpectedAnswer, Unreachable

if TYPE_CHECKING:
    from aiohttp import ClientSession

SYSTEM = "Prometheus"
CONNECT_SECONDS, READ_SECONDS = 5.0, 12.0
AT_ONCE = 32
"""Connections that all watches of a triggerer have together."""
Vector = list[tuple[dict[str, str], float]]


@dataclasses.dataclass
class _Shared:
    """The connections of one event loop to one Prometheus."""

    users: int = 0
    session: ClientSession | None = None
    opening: asyncio.Lock = dataclasses.field(default_factory=asyncio.Lock)


_shared: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, _Shared]] = WeakKeyDictionary()


class AsyncPrometheus:
    """Instant queries of a Prometheus server; an asynchronous context manager.

    All of one event loop share :data:`AT_ONCE` connections, for Prometheus takes 512 by default
    (``--web.max-connections``) and lets any further client wait until somebody hangs up.

    :param http_conn_id: HTTP connection: host, port, schema, login and password; extra ``verify`` is the path of
        a CA bundle, or false.
    """

    def __init__(self, http_conn_id: str = "vcci_prometheus") -> None:
        self.http_conn_id = http_conn_id

    @property
    def _mine(self) -> _Shared:
        return _shared.setdefault(asyncio.get_running_loop(), {}).setdefault(self.http_conn_id, _Shared())

    async def __aenter__(self) -> AsyncPrometheus:
        self._mine.users += 1
        return self

    async def __aexit__(self, *_: object) -> None:
        self._mine.users -= 1
        if not self._mine.users:
            await self._hang_up()

    async def _hang_up(self) -> None:
        session, self._mine.session = self._mine.session, None
        if session:
            await session.close()

    async def _opened(self) -> ClientSession:
        async with self._mine.opening:
            if self._mine.session is None:
                self._mine.session = await self._open()
            return self._mine.session

    async def _open(self) -> ClientSession:
        import aiohttp
        from airflow.sdk import BaseHook
        from airflow.sdk.exceptions import AirflowNotFoundException

        try:
            conn = await BaseHook.aget_connection(self.http_conn_id)
        except AirflowNotFoundException as error:
            raise MeasurementError(f"there is no Airflow connection {self.http_conn_id}") from error
        auth = aiohttp.BasicAuth(conn.login, conn.password or "") if conn.login else None
        connector = aiohttp.TCPConnector(limit=AT_ONCE, ssl=_tls(conn.extra_dejson.get("verify")))
        # Not the whole time: waiting for one of the connections is no fault of Prometheus.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=READ_SECONDS)
        return aiohttp.ClientSession(_base(conn), auth=auth, connector=connector, timeout=timeout)

    async def vector(self, query: str, at: float | None = None) -> Vector:
        """Evaluate at one time; return labels and value of each series, possibly none.

        :param at: Unix time; default now.
        :raises Unreachable: when there is no answer.
        :raises Forbidden: for 401 and 403.
        :raises UnexpectedAnswer: when Prometheus rejects the query; has its message.
        """
        import aiohttp

        session = await self._opened()
        form = {"query": query, **({"time": f"{at:.3f}"} if at is not None else {})}
        try:
            async with session.post("api/v1/query", data=form) as answer:
                if answer.status in (401, 403):
                    await self._hang_up()  # the next one reads the connection anew: its password may have changed
                    raise Forbidden(SYSTEM, f"query (HTTP {answer.status})")
                body = await answer.json(content_type=None)
        except TimeoutError as error:
            raise Unreachable(SYSTEM, f"no answer within {READ_SECONDS:.0f} s") from error
        except aiohttp.ClientError as error:
            if isinstance(error, aiohttp.ClientConnectorError):
                await self._hang_up()  # it may have moved
            raise Unreachable(SYSTEM, _words(error)) from error
        except ValueError as error:
            raise UnexpectedAnswer(SYSTEM, f"HTTP {answer.status}, no JSON for: {query}") from error
        return _series(body, answer.status, query)


def _series(body: Any, status: int, query: str) -> Vector:
    if not isinstance(body, dict) or body.get("status") != "success":
        said = body.get("error", "") if isinstance(body, dict) else "no JSON object"
        raise UnexpectedAnswer(SYSTEM, f"HTTP {status} {said} for: {query}")
    data = body["data"]
    if data["resultType"] == "scalar":
        return [({}, float(data["result"][1]))]
    return [(series["metric"], float(series["value"][1])) for series in data["result"]]


def _base(conn: Any) -> str:
    host = conn.host or ""
    if "://" not in host:
        host = f"{conn.schema or 'http'}://{host}"
    return f"{host}:{conn.port}/" if conn.port else f"{host.rstrip('/')}/"


def _tls(verify: Any) -> ssl.SSLContext | bool:
    if verify is False:
        return False
    return ssl.create_default_context(cafile=verify) if isinstance(verify, str) and verify else True


def _words(error: Exception) -> str:
    """Name what happened by the error's type, for its text holds the address."""
    import aiohttp

    for kind, words in (
        (aiohttp.ClientConnectorCertificateError, "its certificate is not accepted"),
        (aiohttp.ClientSSLError, "TLS failed"),
        (aiohttp.ClientConnectorDNSError, "the host name is not known"),
        (aiohttp.ClientConnectorError, "connection refused or no route"),
        (aiohttp.ServerDisconnectedError, "closed without an answer"),
    ):
        if isinstance(error, kind):
            return words
    return f"the connection failed ({type(error).__name__})"
