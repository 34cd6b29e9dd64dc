"""Schemas that make a tenant's rows hard to find and hard to delete, and a server to try them on."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import sql

from sandbox.service import Sandbox
from sandbox.services import postgres

ADA, BOB = (str(uuid.UUID(int=0xABCDEF00 + number)) for number in (1, 2))
"""The tenant that goes, and the one that stays."""
TENANTS = """
CREATE TABLE tenants (id uuid PRIMARY KEY, slug text NOT NULL UNIQUE, name text NOT NULL, status text NOT NULL,
                      settings jsonb NOT NULL DEFAULT '{}')
"""

HOSTILE = """
-- Composite keys; a child that has no tenant_id, and its child, which names the columns otherwise.
CREATE TABLE orders (tenant_id uuid REFERENCES tenants, number int, PRIMARY KEY (tenant_id, number));
CREATE TABLE lines (whose uuid, number int, line int, price numeric,
                    doubled numeric GENERATED ALWAYS AS (price * 2) STORED,
                    PRIMARY KEY (line, number, whose), FOREIGN KEY (whose, number) REFERENCES orders);
CREATE TABLE notes (l int, n int, w uuid, body bytea, tags text[], FOREIGN KEY (l, n, w) REFERENCES lines);

-- A tree that only its root ties to the tenant; a table in it that the root does not reach.
CREATE TABLE libraries (id int PRIMARY KEY, tenant_id uuid NOT NULL REFERENCES tenants);
CREATE TABLE folders (id int PRIMARY KEY, library_id int REFERENCES libraries, parent_id int REFERENCES folders);
CREATE TABLE files (id int PRIMARY KEY, folder_id int NOT NULL REFERENCES folders ON DELETE CASCADE, data jsonb);

-- Circles: owned, with the table of tenants in it; not owned; deferred and never NULL; a row that refers to itself.
CREATE TABLE teams (id int PRIMARY KEY, tenant_id uuid NOT NULL REFERENCES tenants, lead_id int);
CREATE TABLE users (id int PRIMARY KEY, tenant_id uuid NOT NULL REFERENCES tenants, team_id int REFERENCES teams,
                    manager_id int REFERENCES users);
ALTER TABLE teams ADD FOREIGN KEY (lead_id) REFERENCES users;
ALTER TABLE tenants ADD main_user int REFERENCES users;
CREATE TABLE nodes (id int PRIMARY KEY, team_id int REFERENCES teams, edge_id int);
CREATE TABLE edges (id int PRIMARY KEY, node_id int REFERENCES nodes);
ALTER TABLE nodes ADD FOREIGN KEY (edge_id) REFERENCES edges ON DELETE CASCADE;
CREATE TABLE hens (id int PRIMARY KEY, tenant_id uuid NOT NULL, egg_id int NOT NULL);
CREATE TABLE eggs (id int PRIMARY KEY, hen_id int NOT NULL REFERENCES hens DEFERRABLE INITIALLY DEFERRED);
ALTER TABLE hens ADD FOREIGN KEY (egg_id) REFERENCES eggs DEFERRABLE INITIALLY DEFERRED;

-- Partitions of partitions, a key to them and from them.
CREATE TABLE events (id int, tenant_id uuid NOT NULL, at date NOT NULL, order_number int, PRIMARY KEY (id, at),
                     FOREIGN KEY (tenant_id, order_number) REFERENCES orders) PARTITION BY RANGE (at);
CREATE TABLE events_old PARTITION OF events FOR VALUES FROM ('2020-01-01') TO ('2025-01-01') PARTITION BY HASH (id);
CREATE TABLE events_old_0 PARTITION OF events_old FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE events_old_1 PARTITION OF events_old FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE events_rest PARTITION OF events DEFAULT;
CREATE TABLE event_details (event_id int, event_at date, text text, FOREIGN KEY (event_id, event_at) REFERENCES events);

-- Another schema, odd names, keywords; whose a row is told by a text, in capitals or not, without a foreign key.
CREATE SCHEMA "Ten ant";
CREATE TABLE "Ten ant"."We""ird.Table" ("Id" int PRIMARY KEY, tenant_id varchar(40), "t" text);
CREATE TABLE "Ten ant"."order" ("select" int REFERENCES "Ten ant"."We""ird.Table", p text);
CREATE INDEX ON "Ten ant"."order" ("select") WHERE "select" IS NOT NULL;
CREATE DOMAIN whose AS uuid;
CREATE TABLE "Ten ant"."DOMAIN" (tenant_id whose NOT NULL, point point);

-- Inheritance: rows of the child are seen through the parent, and are not its own.
CREATE TABLE base (id int PRIMARY KEY, tenant_id uuid);
CREATE TABLE derived (more text) INHERITS (base);

-- A row of nobody may refer to the tenant's: it stays when the key says so, goes when it does not.
CREATE TABLE rates (id int PRIMARY KEY, checked_by int REFERENCES users ON DELETE SET NULL);
CREATE TABLE comments (id int PRIMARY KEY, tenant_id uuid, user_id int REFERENCES users ON DELETE CASCADE);
-- Cleared, then deleted: both are the tenant's.
CREATE TABLE avatars (id int PRIMARY KEY, tenant_id uuid NOT NULL, made_by int REFERENCES users ON DELETE SET NULL);
ALTER TABLE users ADD avatar_id int REFERENCES avatars;
"""

FILL = """
INSERT INTO tenants (id, slug, name, status) VALUES ('{id}', '{slug}', E'a\\tb\\\\ "c" é', 'active');
INSERT INTO orders SELECT '{id}', n FROM generate_series(1, 9) n;
INSERT INTO lines SELECT '{id}', n, m, n * m FROM generate_series(1, 9) n, generate_series(1, 3) m;
INSERT INTO notes SELECT line, number, whose, '\\x00ff', ARRAY['x', NULL, E'y\\n'] FROM lines WHERE whose = '{id}';
INSERT INTO notes VALUES (NULL, 1, '{id}', NULL, NULL);
INSERT INTO libraries VALUES ({n}, '{id}');
INSERT INTO folders SELECT {n} + i, CASE i WHEN 1 THEN {n} END, CASE WHEN i > 1 THEN {n} + i / 2 END
FROM generate_series(1, 20) i;
INSERT INTO files SELECT {n} + i, {n} + i, '{{"a": [1, null]}}' FROM generate_series(1, 20) i;
INSERT INTO teams SELECT {n} + i, '{id}' FROM generate_series(1, 3) i;
INSERT INTO users SELECT {n} + i, '{id}', {n} + 1 + i % 3, {n} + greatest(i - 1, 1) FROM generate_series(1, 12) i;
UPDATE teams SET lead_id = id WHERE tenant_id = '{id}';
UPDATE tenants SET main_user = {n} + 1 WHERE id = '{id}';
INSERT INTO nodes SELECT {n} + i, CASE i WHEN 1 THEN {n} + 1 END, NULL FROM generate_series(1, 6) i;
INSERT INTO edges SELECT {n} + i, {n} + i FROM generate_series(1, 6) i;
UPDATE nodes SET edge_id = id - 1 WHERE id BETWEEN {n} + 2 AND {n} + 6;
UPDATE nodes SET edge_id = {n} + 6 WHERE id = {n} + 1;
BEGIN; INSERT INTO hens SELECT {n} + i, '{id}', {n} + i FROM generate_series(1, 4) i;
INSERT INTO eggs SELECT {n} + i, {n} + i FROM generate_series(1, 4) i; COMMIT;
INSERT INTO events SELECT {n} + i, '{id}', date '2021-01-01' + 200 * i, 1 + i % 9 FROM generate_series(1, 15) i;
INSERT INTO event_details SELECT id, at, 'x' FROM events WHERE tenant_id = '{id}';
INSERT INTO "Ten ant"."We""ird.Table" SELECT {n} + i, CASE WHEN i % 2 = 0 THEN '{id}' ELSE upper('{id}') END, '💡 '
FROM generate_series(1, 6) i;
INSERT INTO "Ten ant"."order" SELECT {n} + 1 + i % 6, '' FROM generate_series(1, 10) i;
INSERT INTO "Ten ant"."DOMAIN" SELECT '{id}', '(1,2)' FROM generate_series(1, 5) i;
INSERT INTO base SELECT {n} + i, '{id}' FROM generate_series(1, 4) i;
INSERT INTO derived SELECT {n} + i, '{id}', 'more' FROM generate_series(5, 9) i;
INSERT INTO comments SELECT {n} + i, CASE WHEN i % 2 = 0 THEN '{id}'::uuid END, {n} + i FROM generate_series(1, 8) i;
INSERT INTO avatars SELECT {n} + i, '{id}', {n} + i FROM generate_series(1, 5) i;
UPDATE users SET avatar_id = id WHERE tenant_id = '{id}' AND id <= {n} + 5;
"""
ROWS = {
    **{"public.orders": 9, "public.lines": 27, "public.notes": 27, "public.libraries": 1, "public.folders": 20},
    **{"public.files": 20, "public.teams": 3, "public.users": 12, "public.nodes": 6, "public.edges": 6},
    **{"public.hens": 4, "public.eggs": 4, "public.events": 15, "public.event_details": 15, "public.tenants": 1},
    **{'"Ten ant"."We""ird.Table"': 6, '"Ten ant".order': 10, '"Ten ant"."DOMAIN"': 5, "public.base": 4},
    **{"public.derived": 5, "public.comments": 8, "public.avatars": 5},
}
"""What FILL gives a tenant, table by table."""


class Databases:
    """A server, and a fresh database from a template for whoever asks."""

    def __init__(self, box: Sandbox, server: postgres.Production) -> None:
        self.box, self.server, self.count = box, server, 0

    def prepare(self) -> None:
        """Create the roles, the database that the grants name, and the templates."""
        with postgres.admin(self.box, self.server) as connection:
            for role in ("vcci_app", *postgres.ACTING):
                postgres.create_role(connection, role, self.box.secret(f"postgres-{role}"))
            for name in (postgres.PRODUCTION, "platform", "bare", "hostile"):
                postgres.create_database(connection, name, "vcci_app")
        postgres.migrate(postgres.url(self.box, "postgres-direct", "vcci_app", "platform"))
        for name, text in (("bare", TENANTS), ("hostile", TENANTS + ";" + HOSTILE)):
            with postgres.admin(self.box, self.server, name) as connection:
                connection.execute(text)
        for name in ("platform", "bare", "hostile"):
            self.grant(name)

    def grant(self, name: str) -> None:
        """Run the shipped grants."""
        with postgres.admin(self.box, self.server, name) as connection:
            for role in ("vcci_ops_export", "vcci_ops_erase"):
                connection.execute((postgres.GRANTS / f"{role}.sql").read_bytes())
                as_connect = sql.SQL("GRANT CONNECT ON DATABASE {} TO {}")
                connection.execute(as_connect.format(sql.Identifier(name), sql.Identifier(role)))

    def fresh(self, template: str) -> Database:
        """Return a new database."""
        self.count += 1
        name = f"test_{self.count}"
        with postgres.admin(self.box, self.server) as connection:
            connection.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy").format(
                    sql.Identifier(name), sql.Identifier(template)
                )
            )
            for role in ("vcci_ops_export", "vcci_ops_erase"):
                as_connect = sql.SQL("GRANT CONNECT ON DATABASE {} TO {}")
                connection.execute(as_connect.format(sql.Identifier(name), sql.Identifier(role)))
        return Database(self, name)


class Database:
    """One database of a test."""

    def __init__(self, all_: Databases, name: str) -> None:
        self.all, self.name = all_, name

    def connections(self) -> dict[str, str]:
        """Return Airflow's connections as the environment has them."""
        return {
            f"AIRFLOW_CONN_{id_.upper()}": json.dumps(
                postgres.airflow_connection(self.all.box, "postgres-direct", role, self.name)
            )
            for role, id_ in postgres.ACTING.items()
        }

    @contextmanager
    def admin(self, *, autocommit: bool = True) -> Iterator[psycopg.Connection[Any]]:
        """Open a superuser's connection."""
        with postgres.admin(self.all.box, self.all.server, self.name, autocommit=autocommit) as connection:
            yield connection

    def as_role(self, role: str) -> psycopg.Connection[Any]:
        """Open a role's connection."""
        return psycopg.connect(**postgres.parameters(self.all.box, "postgres-direct", role, self.name), autocommit=True)

    def run(self, *texts: str) -> None:
        """Run SQL as the superuser, then the grants again, as after a migration."""
        with self.admin() as connection:
            for text in texts:
                connection.execute(text)
        self.all.grant(self.name)

    def fill(self, tenant_id: str, slug: str, number: int) -> None:
        """Give a tenant rows of the hostile schema."""
        with self.admin() as connection:
            connection.execute(FILL.format(id=tenant_id, slug=slug, n=number))

    def everything(self) -> dict[str, list[str]]:
        """Return every row of every table, sorted."""
        with self.admin() as connection:
            names = connection.execute(
                "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace "
                "WHERE relkind = 'r' AND nspname NOT IN ('pg_catalog', 'information_schema') AND nspname !~ '^pg_'"
            ).fetchall()
            found = {}
            for (name,) in names:
                rows = connection.execute(f"SELECT t::text FROM ONLY {name} t ORDER BY 1").fetchall()
                found[name] = [row for (row,) in rows]
        return found
