"""A tenant with something in every table, bucket and cache, for tests that delete it; never one of the sandbox's."""

from __future__ import annotations

import dataclasses
import uuid
from typing import Any

import psycopg
from psycopg import sql

DOCUMENTS = "vcci-documents"
_TABLES = (
    *("tenants", "users", "sessions", "api_keys", "suppliers", "calculations", "calculation_inputs", "emissions"),
    *("emission_attachments", "audit_log", "usage_events", "documents", "reports"),
)
_ROWS = """
WITH u AS (
    INSERT INTO users (tenant_id, email, name, role, password_hash, last_login)
    SELECT %(id)s::uuid, 'p' || n || '@' || %(slug)s::text || '.example', 'Person ' || n, 'admin', 'hash', now()
    FROM generate_series(1, 3) n RETURNING id
), one AS (SELECT min(id::text)::uuid AS id FROM u), se AS (
    INSERT INTO sessions (tenant_id, user_id, token_hash) SELECT %(id)s::uuid, id, md5(id::text) FROM u
), k AS (
    INSERT INTO api_keys (tenant_id, created_by, name, key_hash, scopes)
    SELECT %(id)s::uuid, id, 'erp', md5(id::text), '{reports:read}' FROM u
), top AS (
    INSERT INTO suppliers (tenant_id, name, country, industry)
    VALUES (%(id)s::uuid, E'Top\\t\\\\', 'DE', 'steel') RETURNING id
), s AS (
    INSERT INTO suppliers (tenant_id, parent_supplier_id, name, country, industry)
    SELECT %(id)s::uuid, id, 'Süpplier ' || n, 'SE', 'energy' FROM top, generate_series(1, 4) n RETURNING id
), c AS (
    INSERT INTO calculations (tenant_id, requested_by, method, status)
    SELECT %(id)s::uuid, one.id, 'hybrid', 'done' FROM one, generate_series(1, 2) RETURNING id
), ci AS (
    INSERT INTO calculation_inputs (calculation_id, name, value, unit, source)
    SELECT id, 'mass', 1.5, 'kg', 'erp' FROM c
), e AS (
    INSERT INTO emissions (tenant_id, supplier_id, calculation_id, category, period, activity, unit, factor, co2e_kg,
                           data_quality)
    SELECT %(id)s::uuid, s.id, (SELECT min(id) FROM c), 1, '2026-01-01', n, 'kg', 2, 2 * n, 3
    FROM s, generate_series(1, %(emissions)s) n RETURNING id
), ea AS (
    INSERT INTO emission_attachments (emission_id, file_name, s3_key, size_bytes)
    SELECT id, 'invoice.pdf', 'tenants/' || %(id_text)s::text || '/attachments/' || id, 10 FROM e LIMIT 5
), ue AS (
    INSERT INTO usage_events (tenant_id, kind, quantity) SELECT %(id)s::uuid, 'api', n FROM generate_series(1, 7) n
), al AS (
    INSERT INTO audit_log (tenant_id, action, actor, details)
    SELECT %(id)s::uuid, 'login.succeeded', 'somebody', '{"a": [1, null]}' FROM generate_series(1, 4)
), r AS (
    INSERT INTO reports (tenant_id, calculation_id, title, standard, status)
    SELECT %(id)s::uuid, id, 'Scope 3', 'ghg-protocol', 'final' FROM c
)
INSERT INTO documents (tenant_id, supplier_id, uploaded_by, file_name, s3_key, content_type, size_bytes)
SELECT %(id)s::uuid, top.id, one.id, 'a.pdf', 'tenants/' || %(id_text)s::text || '/a.pdf', 'application/pdf', 7
FROM top, one
"""


@dataclasses.dataclass(frozen=True)
class Victim:
    """A tenant that a test may delete."""

    slug: str
    id: str

    @property
    def prefix(self) -> str:
        """Of its documents."""
        return f"tenants/{self.id}/"


def insert(connection: psycopg.Connection[Any], slug: str = "", *, emissions: int = 25) -> Victim:
    """Insert a tenant with rows in every table.

    :param emissions: rows per supplier; there are four of those.
    """
    victim = Victim(slug or f"gone-{uuid.uuid4().hex[:8]}", str(uuid.uuid4()))
    with connection.transaction():
        connection.execute(
            "INSERT INTO tenants (id, name, slug, subscription_tier) VALUES (%s, %s, %s, 'starter')",
            (victim.id, f"Gone {victim.slug} | GmbH", victim.slug),
        )
        given = {"id": victim.id, "id_text": victim.id, "slug": victim.slug, "emissions": emissions}
        connection.execute(_ROWS.encode(), given)
    return victim


def furnish(victim: Victim, s3: Any, cache: Any) -> None:
    """Give it documents and cached keys.

    :param s3: boto3 client; :param cache: Redis client of the cache's database.
    """
    s3.put_object(Bucket=DOCUMENTS, Key=f"{victim.prefix}a.pdf", Body=b"%PDF-a\n")
    for number in range(5):
        s3.put_object(Bucket=DOCUMENTS, Key=f"{victim.prefix}attachments/ä {number}.bin", Body=bytes([number]) * 10)
        cache.set(f"cache:tenant:{victim.id}:k{number}", "x")
    cache.set(f"apikey:{victim.id}:1", "x")


def everything(connection: psycopg.Connection[Any], besides: Victim | None = None) -> dict[str, tuple[int, str]]:
    """Return rows and a checksum of every table, leaving out one tenant's rows."""
    own = {
        "tenants": "t.id = %(id)s",
        "calculation_inputs": "calculation_id IN (SELECT id FROM calculations WHERE tenant_id = %(id)s)",
        "emission_attachments": "emission_id IN (SELECT id FROM emissions WHERE tenant_id = %(id)s)",
    }
    found = {}
    for table in _TABLES:
        query = sql.SQL("SELECT count(*), md5(coalesce(string_agg(t::text, '' ORDER BY t::text), '')) FROM {} t WHERE ")
        mine = own.get(table, "t.tenant_id IS NOT DISTINCT FROM %(id)s::uuid")
        text = query.format(sql.Identifier(table)) + sql.SQL(f"({mine}) IS NOT TRUE")  # type: ignore[arg-type]
        found[table] = tuple(connection.execute(text, {"id": besides.id if besides else None}).fetchone() or ())
    return found


def rows_of(connection: psycopg.Connection[Any], victim: Victim) -> dict[str, int]:
    """Return how many rows of a tenant each table has."""
    all_, others = everything(connection), everything(connection, victim)
    return {table: all_[table][0] - others[table][0] for table in _TABLES}
