"""Invite the first administrator of a tenant; running it again changes nothing.

python scripts/create_tenant_admin.py --tenant-slug acme-corp --email admin@acme.example --name "Jo Doe"

Nobody is given a password: the user is *invited*, and chooses one with the link of the welcome mail. What it prints
names the tenant and ids, never a person.
"""

from __future__ import annotations

import argparse
import json
import os
import sys

import psycopg


def tenant_of(connection: psycopg.Connection, slug: str) -> str:
    row = connection.execute("SELECT id::text, status FROM tenants WHERE slug = %s FOR UPDATE", (slug,)).fetchone()
    if row is None:
        raise SystemExit(f"error: there is no tenant {slug}")
    if row[1] != "active":
        raise SystemExit(f"error: the tenant {slug} is {row[1]}")
    return str(row[0])


def invite(connection: psycopg.Connection, tenant: str, email: str, name: str) -> tuple[str, bool]:
    query = "SELECT id::text, role FROM users WHERE tenant_id = %s AND lower(email) = lower(%s)"
    if row := connection.execute(query, (tenant, email)).fetchone():
        if row[1] != "admin":
            raise SystemExit(f"error: the user {row[0]} has this address already, as {row[1]}")
        return str(row[0]), False
    row = connection.execute(
        "INSERT INTO users (tenant_id, email, name, role, status) VALUES (%s, %s, %s, 'admin', 'invited') "
        "RETURNING id::text",
        (tenant, email, name),
    ).fetchone()
    user = str(row[0]) if row else ""
    connection.execute(
        "INSERT INTO audit_log (tenant_id, action, actor, target, details) VALUES (%s, 'user.created', %s, %s, %s)",
        (tenant, "create_tenant_admin.py", user, json.dumps({"role": "admin"})),
    )
    return user, True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tenant-slug", required=True)
    parser.add_argument("--email", required=True)
    parser.add_argument("--name", required=True)
    given = parser.parse_args()
    with psycopg.connect(os.environ["DATABASE_URL"].replace("+psycopg", "", 1), connect_timeout=5) as connection:
        user, made = invite(connection, tenant_of(connection, given.tenant_slug), given.email, given.name)
    print(f"{given.tenant_slug}: admin {user} {'invited' if made else 'is there already'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
