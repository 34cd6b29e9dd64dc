"""Run the business assertions in a copy: read-only, one statement each, a few rows of one column."""

from __future__ import annotations

import logging
from contextlib import closing
from itertools import islice
from typing import TYPE_CHECKING, cast

import psycopg

from vcci_ops.domain.business_assertions import MOST, BusinessAssertion, read_assertions
from vcci_ops.domain.drill import Assertion
from vcci_ops.hooks.drill_copy import Copy
from vcci_ops.settings import INCLUDE

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from vcci_ops.hooks.postgres import Row
    from vcci_ops.hooks.tenant_session import Connection

log = logging.getLogger("airflow.task")
_LIMITS = "SET statement_timeout = '5min'; SET default_transaction_read_only = on"


def verify_business(copy: Copy, folder: Path = INCLUDE / "sql" / "assertions") -> list[Assertion]:
    """Run every assertion of the folder, side by side; one that fails hides no other.

    :raises InvalidInput: when a file has no proper header.
    """
    return copy.side_by_side(read_assertions(folder), _ask)


def _ask(connection: Connection, assertion: BusinessAssertion) -> Assertion:
    try:
        connection.execute(_LIMITS)
        # Streamed: the extended protocol takes one statement only, and no more rows come than are shown.
        rows = connection.cursor().stream(assertion.sql.encode())
        with closing(cast("Generator[Row]", rows)):
            found = [str(row[0]) for row in islice(rows, MOST + 1)]
    except psycopg.Error as error:
        if connection.broken:
            raise
        said = error.diag.message_primary if isinstance(error, psycopg.ProgrammingError) else ""
        return assertion.unmeasured(f"it cannot be asked: {said or type(error).__name__}")
    log.info("%s: %s", assertion.title, f"{len(found[:MOST])} findings" if found else "holds")
    return assertion.held(found[:MOST], len(found) > MOST)
