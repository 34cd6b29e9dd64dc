"""The tags that DAGs wear; one list, so that filters in the Airflow UI stay useful."""

from __future__ import annotations

DAILY = "daily"
READ_ONLY = "read-only"
ALL = frozenset({DAILY, READ_ONLY})
