"""Waiting while the production database is busy, and saying who is in the way."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vcci_ops.exceptions import ChangeFailed
from vcci_ops.hooks.tenant_session import Connection, tenant_sql

if TYPE_CHECKING:
    from vcci_ops.settings_tenants import Erasure

log = logging.getLogger(__name__)
LONGEST = 3600.0
"""Seconds of one pause; then somebody has to look."""
EVERY = 1.0
"""Seconds from look to look."""


class Calm:
    """Lets the deletion go on only while standbys keep up and few wait for locks, as far as the role may see it.

    :param limits: pause_lag in seconds, pause_waits in sessions.
    """

    def __init__(self, connection: Connection, limits: Erasure) -> None:
        self.connection = connection
        self.limits = limits
        self.paused = 0.0
        self._looked = float("-inf")

    def wait(self) -> None:
        """Return once the database is calm; looks at most once a second.

        :raises ChangeFailed: when it is not within an hour.
        """
        if time.monotonic() - self._looked < EVERY:
            return
        begun = time.monotonic()
        while why := self._uneasy():
            if time.monotonic() - begun > LONGEST:
                raise ChangeFailed(f"paused for an hour, for {why}; run this again when it is over: it goes on")
            log.info("pausing: %s", why)
            time.sleep(EVERY)
        self._looked = time.monotonic()
        self.paused += self._looked - begun

    def _uneasy(self) -> str:
        lag, waiting = self.connection.execute(tenant_sql("calm")).fetchone() or (0.0, 0)
        if lag > self.limits.pause_lag:
            return f"a standby is {lag:.0f} s behind (limit: {self.limits.pause_lag:g} s)"
        if waiting > self.limits.pause_waits:
            return f"{waiting} sessions wait for locks (limit: {self.limits.pause_waits})"
        return ""

    def holders(self, names: Sequence[str]) -> str:
        """Return in words who holds locks of these tables: process, role, application, state, since when."""
        rows = self.connection.execute(tenant_sql("holders"), {"names": list(names)}).fetchall()
        return "; ".join(
            f"process {pid} ({user or '?'}, {application or 'no application name'}, {state}"
            f"{f', in a transaction since {since:%H:%M:%S} UTC' if since else ''})"
            for pid, user, application, state, since in rows
        )
