"""A process that holds on to the production database, as a leaking pool or a forgotten session does.

``python -m sandbox.platform.hold connections PERCENT`` opens connections until PERCENT of
max_connections are in use; ``... transaction`` changes a row and never commits; ``... migration SECONDS``
takes the lock that migrations take, for that long.
"""

from __future__ import annotations

import math
import signal
import sys
import time
from typing import Any

import psycopg

from sandbox.service import Sandbox
from sandbox.services.postgres import PRODUCTION, parameters


def main() -> None:
    given = parameters(Sandbox(), "postgres-direct", "vcci_app", PRODUCTION)
    held = [psycopg.connect(**given, application_name="backend-api")]
    if sys.argv[1] == "transaction":
        one = "SELECT id FROM suppliers ORDER BY id LIMIT 1"
        held[0].execute(f"UPDATE suppliers SET country = country WHERE id = ({one})")
    elif sys.argv[1] == "migration":
        held[0].execute("SELECT pg_advisory_lock(20250101)")  # LOCK of migrations/env.py
        held[0].commit()
        time.sleep(float(sys.argv[2]))
        return
    else:
        for _ in range(_missing(held[0], float(sys.argv[2]))):
            held.append(psycopg.connect(**given, application_name="backend-api"))
    signal.pause()


def _missing(connection: psycopg.Connection[Any], percent: float) -> int:
    connection.autocommit = True
    used = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
    query = f"SELECT current_setting('max_connections')::int, ({used})"
    for maximum, in_use in connection.execute(query.encode()):
        return max(0, math.ceil(float(maximum) * percent / 100) - int(in_use))
    return 0


if __name__ == "__main__":
    main()
