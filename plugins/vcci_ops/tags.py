"""The tags that DAGs wear; one list, so that filters in the Airflow UI stay useful."""

from __future__ import annotations

DAILY = "daily"
HOURLY = "hourly"
READ_ONLY = "read-only"
RELEASE = "release"
CHANGES_PRODUCTION = "changes-production"
ON_DEMAND = "on-demand"
TENANTS = "tenants"
MONTHLY = "monthly"
ACCESS = "access"
WEEKLY = "weekly"
RECOVERY = "recovery"
MAINTENANCE = "maintenance"
ALL = frozenset(
    {
        DAILY,
        HOURLY,
        READ_ONLY,
        RELEASE,
        CHANGES_PRODUCTION,
        ON_DEMAND,
        TENANTS,
        MONTHLY,
        ACCESS,
        WEEKLY,
        RECOVERY,
        MAINTENANCE,
    }
)
