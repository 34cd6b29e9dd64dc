"""Write a tenant's initial configuration; what else its settings hold stays, and running it again changes nothing.

python scripts/configure_tenant.py --tenant-slug acme-corp --emission-factors defra --reporting-standard ghg-protocol
"""

from __future__ import annotations

import argparse
import json
import os
import sys

import psycopg

EMISSION_FACTORS = ("ecoinvent", "defra", "epa")
REPORTING_STANDARDS = ("ghg-protocol", "iso-14064", "esrs-e1")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tenant-slug", required=True)
    parser.add_argument("--emission-factors", required=True, choices=EMISSION_FACTORS)
    parser.add_argument("--reporting-standard", required=True, choices=REPORTING_STANDARDS)
    given = parser.parse_args()
    wanted = {"emission_factors": given.emission_factors, "reporting_standard": given.reporting_standard}
    with psycopg.connect(os.environ["DATABASE_URL"].replace("+psycopg", "", 1), connect_timeout=5) as connection:
        done = connection.execute(
            "UPDATE tenants SET settings = settings || %s::jsonb WHERE slug = %s AND status = 'active'",
            (json.dumps(wanted), given.tenant_slug),
        )
        if not done.rowcount:
            raise SystemExit(f"error: there is no active tenant {given.tenant_slug}")
    print(f"{given.tenant_slug}: {', '.join(f'{key}={value}' for key, value in wanted.items())}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
