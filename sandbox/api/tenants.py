"""The tenants as the API knows them: for its metrics, and to say whose an API key is.

Read from the production database and kept a few seconds; while that is away, what was known last. A key that was
accepted is kept in the cache (Redis database 1) under ``apikey:<tenant id>:<hash>``, as real APIs do: whoever
suspends a tenant has to drop these keys, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
import time
from typing import Any, NamedTuple

import psycopg
import redis.asyncio
from aiohttp import web
from redis.exceptions import RedisError

from sandbox.state import State

FRESH = 3.0
"""Seconds for which what was read counts as new."""
PATIENCE = 0.8
"""Seconds that a page of metrics waits for the database; the scrape has little more."""
CACHED = 300
CACHE_DB = 1
_KEY = re.compile(r"vcci\.([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\.[0-9A-Za-z-]{1,64}")


class Known(NamedTuple):
    """A tenant in the metrics."""

    id: str
    slug: str
    status: str


def beginning() -> tuple[Known, ...]:
    """Return the tenants that the platform has when the curtain rises."""
    from sandbox.platform.data import TENANTS

    return tuple(Known(tenant.id, tenant.slug, "active") for tenant in TENANTS)


class Directory:
    """Reads tenants and keys."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._known, self._read_at = beginning(), float("-inf")
        self._reading: asyncio.Task[None] | None = None

    async def tenants(self) -> tuple[Known, ...]:
        """Return the tenants, as new as the database lets them be; never late."""
        if time.monotonic() - self._read_at > FRESH and (self._reading is None or self._reading.done()):
            self._reading = asyncio.create_task(self._read())
        if self._reading:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._reading), PATIENCE)
        return self._known

    async def _read(self) -> None:
        # An attempt that failed counts, too: a database that is away is not asked at every request.
        self._read_at = time.monotonic()
        with contextlib.suppress(psycopg.Error):
            self._known = tuple(Known(*row) for row in await self._rows(_TENANTS))

    async def _rows(self, query: Any, given: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        connection = await psycopg.AsyncConnection.connect(
            host="127.0.0.1",
            port=self._state.port("postgres-direct"),
            user="vcci_app",
            password=self._state.secret("postgres-vcci_app"),
            dbname="vcci_production",
            connect_timeout=2,
            application_name="backend-api",
        )
        async with connection:
            return await (await connection.execute(query, given)).fetchall()

    async def whose(self, key: str) -> tuple[int, dict[str, Any]]:
        """Return HTTP status and body for an API key."""
        found = _KEY.fullmatch(key)
        if not found:
            return 401, {"error": "no API key, or none that could be one"}
        tenant, digest = found[1], hashlib.sha256(key.encode()).hexdigest()
        place = f"apikey:{tenant}:{digest}"
        if cached := await self._cached(place):
            return 200, json.loads(cached)
        try:
            rows = await self._rows(_OWNER, (tenant, digest))
        except psycopg.Error:
            return 503, {"error": "the database does not answer"}
        if not rows:
            return 401, {"error": "this API key is not known, or was revoked"}
        slug, status, scopes = rows[0]
        if status != "active":
            return 403, {"error": f"the tenant {slug} is {status}"}
        body = {"tenant_id": tenant, "slug": slug, "scopes": scopes}
        await self._cache(place, json.dumps(body))
        return 200, body

    async def _cached(self, place: str) -> bytes | None:
        with contextlib.suppress(RedisError):
            async with self._redis() as client:
                found: bytes | None = await client.get(place)
                return found
        return None

    async def _cache(self, place: str, body: str) -> None:
        with contextlib.suppress(RedisError):
            async with self._redis() as client:
                await client.set(place, body, ex=CACHED)

    def _redis(self) -> redis.asyncio.Redis:
        port, password = self._state.port("redis-direct"), self._state.secret("redis")
        return redis.asyncio.Redis(
            host="127.0.0.1", port=port, password=password, db=CACHE_DB, socket_connect_timeout=1, socket_timeout=1
        )


_TENANTS = "SELECT id::text, slug, status FROM tenants WHERE status <> 'deleted' ORDER BY slug"
_OWNER = """
    SELECT tenants.slug, tenants.status, api_keys.scopes FROM api_keys JOIN tenants ON tenants.id = api_keys.tenant_id
    WHERE tenants.id = %s AND api_keys.key_hash = %s AND api_keys.revoked_at IS NULL AND tenants.status <> 'deleted'"""
DIRECTORY = web.AppKey("directory", Directory)


async def whoami(request: web.Request) -> web.Response:
    """Answer whose the request's key is: 200; 401 unknown or revoked; 403 the tenant is suspended."""
    status, body = await request.app[DIRECTORY].whose(request.headers.get("X-API-Key", ""))
    return web.json_response(body, status=status)
