"""Check that this release finds what it needs in its environment; exit 1 and say what is missing.

python scripts/validate_production_env.py --env production
"""

from __future__ import annotations

import argparse
import os
import sys

import psycopg

REQUIRED = ("DATABASE_URL", "REDIS_URL", "VCCI_API_URL", "VCCI_ENVIRONMENT", "VCCI_LOG_LEVEL", "VCCI_TIMEZONE")


def missing() -> list[str]:
    return [f"{name} is not set" for name in REQUIRED if not os.environ.get(name)]


def wrong(environment: str) -> list[str]:
    given = os.environ.get("VCCI_ENVIRONMENT")
    return [f"VCCI_ENVIRONMENT is {given}, not {environment}"] if given and given != environment else []


def database() -> list[str]:
    url = os.environ.get("DATABASE_URL", "").replace("+psycopg", "", 1)
    if not url:
        return []
    try:
        with psycopg.connect(url, connect_timeout=5) as connection:
            row = connection.execute("SELECT current_database(), current_setting('server_version')").fetchone()
    except psycopg.Error as error:
        return [f"DATABASE_URL: PostgreSQL does not let us in: {type(error).__name__}"]
    print(f"ok: database {row[0]} on PostgreSQL {row[1]}" if row else "ok: database")
    return []


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", required=True, help="name of the environment this shall be")
    given = parser.parse_args().env
    problems = missing() + wrong(given) + database()
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    print(f"{given}: {'not valid' if problems else 'valid'}, {len(REQUIRED)} variables, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
