"""The platform's data: the same for the same scale and moment, told relative to that moment.

Rows come from generators and go through COPY, so that memory stays flat however many there are.
"""

from __future__ import annotations

import hashlib
import json
import random
import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import psycopg
from psycopg import sql

Row = tuple[Any, ...]

NAMESPACE = uuid.UUID("6f0f4f0e-3a51-4d5e-9d0b-5c0f6f1d2a11")
EMISSIONS = 50_000
EMISSION_DAYS = 400
"""The emissions were recorded evenly over this many days up to now."""
AUDIT_DAYS = 15
FIRST_OWN_ID = 1_000_000
"""Rows written after the load get audit ids from here on; those below are history, and kept fresh."""
ATTACHED_EMISSIONS = 2_000
CALCULATIONS = 1_000
CHUNK = 5_000


class Tenant(NamedTuple):
    """A customer of the platform."""

    name: str
    slug: str
    tier: str

    @property
    def id(self) -> str:
        return str(uuid.uuid5(NAMESPACE, f"tenant:{self.slug}"))


TENANTS = (
    Tenant("Nordwind Manufacturing", "nordwind-manufacturing", "enterprise"),
    Tenant("Bluepeak Foods", "bluepeak-foods", "enterprise"),
    Tenant("Cascade Retail Group", "cascade-retail", "professional"),
    Tenant("Halden Logistics", "halden-logistics", "professional"),
    Tenant("Mirador Textiles", "mirador-textiles", "starter"),
)
_FIRST = (
    *("Ada", "Bo", "Carla", "Deniz", "Elif", "Femi", "Grace", "Hugo", "Ines", "Jun"),
    *("Karin", "Luca", "Mona", "Nils", "Olga", "Priya", "Quinn", "Rosa", "Sven", "Tara"),
)
_LAST = (
    *("Abel", "Brandt", "Costa", "Diallo", "Eriksen", "Fischer", "Garcia", "Haddad"),
    *("Ito", "Jansen", "Kaya", "Lopez", "Meier", "Novak", "Okoye", "Park"),
)
_ROLES = ("admin", "manager", "manager", *("analyst",) * 8, *("viewer",) * 8)
_INDUSTRIES = ("steel", "packaging", "freight", "chemicals", "textiles", "electronics", "agriculture", "energy")
_COUNTRIES = ("DE", "SE", "CN", "IN", "US", "BR", "PL", "TR", "VN", "MX")
_UNITS = ("kg", "tkm", "kWh", "EUR")
_METHODS = ("spend-based", "average-data", "hybrid", "supplier-specific")
SUPPLIERS_PER_TENANT = 80
AWAY = 7
"""Every seventh user has not been there for months: no log-in, no session."""


def _id(kind: str, *parts: object) -> str:
    return str(uuid.uuid5(NAMESPACE, ":".join([kind, *map(str, parts)])))


def _away(number: int) -> bool:
    return number % AWAY == AWAY - 1


def supplier_id(tenant: Tenant, number: int) -> str:
    """Return the id of a tenant's supplier, 0 to SUPPLIERS_PER_TENANT - 1."""
    return _id("supplier", tenant.slug, number)


def tenants(now: datetime) -> Iterator[Row]:
    """Yield id, name, slug, tier, settings, created_at."""
    for number, tenant in enumerate(TENANTS):
        settings = {"emission_factors": "ecoinvent", "reporting_standard": "ghg-protocol"}
        created = now - timedelta(days=900 - 120 * number)
        yield (tenant.id, tenant.name, tenant.slug, tenant.tier, json.dumps(settings), created)


def users(now: datetime) -> Iterator[Row]:
    """Yield id, tenant, email, name, role, status, password hash, service account, last login, created."""
    rng = random.Random("users")
    for tenant in TENANTS:
        for number, role in enumerate((*_ROLES, "service")):
            service = role == "service"
            first, last = _FIRST[number % len(_FIRST)], rng.choice(_LAST)
            name = "Importer" if service else f"{first} {last}"
            email = f"{name.lower().replace(' ', '.')}@{tenant.slug}.example"
            away = _away(number) and not service
            login = now - timedelta(days=rng.randint(95, 300) if away else 0, minutes=rng.randint(5, 1200))
            hashed = f"$argon2id$v=19$m=65536${rng.getrandbits(128):032x}"
            created = now - timedelta(days=rng.randint(320, 700))
            yield (_id("user", tenant.slug, number), tenant.id, email, name, role, "active", hashed, service, login,
                   created)  # fmt: skip


def sessions(now: datetime) -> Iterator[Row]:
    """Yield id, tenant, user, token hash, ip, created, last active; the newest is 30 s old."""
    rng = random.Random("sessions")
    present = [number for number in range(len(_ROLES)) if not _away(number)]
    for tenant in TENANTS:
        for number in range(60):
            ago = 30 if number == 0 else rng.randint(60, 6 * 3600 if number < 20 else 6 * 86400)
            active = now - timedelta(seconds=ago)
            user = _id("user", tenant.slug, present[number % len(present)])
            yield (_id("session", tenant.slug, number), tenant.id, user, f"{rng.getrandbits(256):064x}",
                   f"198.51.100.{rng.randint(1, 254)}", active - timedelta(hours=2), active)  # fmt: skip


def api_key(tenant: Tenant, name: str = "erp-import") -> str:
    """Return a tenant's API key, which the database knows only by its hash; nothing but the sandbox takes it."""
    return f"vcci.{tenant.id}.{_id('key', tenant.slug, name)}"


def api_keys(now: datetime) -> Iterator[Row]:
    """Yield id, tenant, creator, name, hash, scopes, last used, created."""
    for tenant in TENANTS:
        for number, name in enumerate(("erp-import", "bi-export")):
            yield (_id("api_key", tenant.slug, name), tenant.id, _id("user", tenant.slug, 0), name,
                   hashlib.sha256(api_key(tenant, name).encode()).hexdigest(),
                   ["emissions:write", "reports:read"][: 2 - number],
                   now - timedelta(hours=1 + number), now - timedelta(days=200))  # fmt: skip


def suppliers(now: datetime) -> Iterator[Row]:
    """Yield id, tenant, parent, name, country, industry, created; every fourth begins a group of four."""
    rng = random.Random("suppliers")
    for tenant in TENANTS:
        for number in range(SUPPLIERS_PER_TENANT):
            parent = supplier_id(tenant, number - number % 4) if number % 4 and number % 8 < 4 else None
            industry = rng.choice(_INDUSTRIES)
            name = f"{rng.choice(_LAST)} {industry.title()} {number + 1:03d}"
            yield (supplier_id(tenant, number), tenant.id, parent, name, rng.choice(_COUNTRIES), industry,
                   now - timedelta(days=rng.randint(420, 800)))  # fmt: skip


def calculations(now: datetime) -> Iterator[Row]:
    """Yield id, tenant, requester, method, status, created, finished."""
    rng = random.Random("calculations")
    for number in range(1, CALCULATIONS + 1):
        tenant = TENANTS[number % len(TENANTS)]
        created = now - timedelta(hours=EMISSION_DAYS * 24 * (CALCULATIONS - number + 1) / CALCULATIONS)
        status = "failed" if rng.random() < 0.02 else "done"
        yield (number, tenant.id, _id("user", tenant.slug, rng.randint(0, 10)), rng.choice(_METHODS), status, created,
               created + timedelta(seconds=rng.randint(4, 300)))  # fmt: skip


def calculation_inputs(_now: datetime) -> Iterator[Row]:
    """Yield id, calculation, name, value, unit, source."""
    rng = random.Random("inputs")
    for number in range(3 * CALCULATIONS):
        name = ("spend", "distance", "mass")[number % 3]
        yield (number + 1, number // 3 + 1, name, round(rng.random() * 1e5, 4), _UNITS[number % 4], "erp")


def attachments(_now: datetime) -> Iterator[Row]:
    """Yield id, emission, file name, key, size; for every fifth of the first emissions."""
    rng = random.Random("attachments")
    for number in range(1, ATTACHED_EMISSIONS + 1):
        tenant = TENANTS[(number * 5) % len(TENANTS)]
        file = f"invoice-{number:05d}.pdf"
        yield (number, number * 5, file, f"tenants/{tenant.id}/attachments/{file}", rng.randint(20_000, 900_000))


def audit_log(now: datetime) -> Iterator[Row]:
    """Yield id, tenant, action, actor, target, ip, details, created; an ordinary fortnight."""
    rng = random.Random("audit")
    number = 0
    for day in reversed(range(AUDIT_DAYS)):
        actions = ["login.failed"] * rng.randint(9, 11) + ["login.succeeded"] * 90 + ["calculation.started"] * 30
        actions += ["report.created"] * 6 + ["document.uploaded"] * 12
        # Roles and keys change now and then, but nothing did in the last two days.
        actions += ["role.changed", "user.created", "api_key.created"] if day % 4 == 3 else []
        moments = sorted(rng.uniform(60, 86_340) for _ in actions)
        rng.shuffle(actions)
        for moment, action in zip(moments, actions, strict=True):
            number += 1
            created = now - timedelta(days=day + 1) + timedelta(seconds=moment)
            yield (number, *_audited(rng, action), created)


def _audited(rng: random.Random, action: str) -> Row:
    tenant = rng.choice(TENANTS)
    actor = f"{rng.choice(_FIRST).lower()}.{rng.choice(_LAST).lower()}@{tenant.slug}.example"
    kind, what = action.split(".")
    details = {
        "login.failed": {"reason": "bad password"},
        "role.changed": {"from": "viewer", "to": "analyst"},
        "user.created": {"role": "viewer"},
    }.get(action, {})
    target = f"{rng.choice(_FIRST).lower()}@{tenant.slug}.example" if what in ("changed", "created") else kind
    return tenant.id, action, actor, target, f"198.51.100.{rng.randint(1, 254)}", json.dumps(details)


def usage_events(now: datetime) -> Iterator[Row]:
    """Yield id, tenant, kind, quantity, occurred."""
    rng = random.Random("usage")
    for number in range(5_000):
        occurred = now - timedelta(minutes=4 * (5_000 - number))
        yield (number + 1, TENANTS[number % 5].id, rng.choice(("api_call", "import_row", "report")),
               rng.randint(1, 500), occurred)  # fmt: skip


def documents(now: datetime) -> Iterator[Row]:
    """Yield id, tenant, supplier, uploader, file, key, type, size, created; S3 holds just these."""
    for tenant in TENANTS:
        for number in range(12):
            id_ = _id("document", tenant.slug, number)
            file = f"evidence-{number:02d}.csv"
            yield (id_, tenant.id, supplier_id(tenant, number), _id("user", tenant.slug, 1), file,
                   f"tenants/{tenant.id}/documents/{id_}.csv", "text/csv", len(document(tenant, number)),
                   now - timedelta(days=10 + number))  # fmt: skip


def document(tenant: Tenant, number: int) -> bytes:
    """Return the content of a tenant's document."""
    rng = random.Random(f"document:{tenant.slug}:{number}")
    lines = [f"{supplier_id(tenant, number)},{1 + i % 15},{rng.random() * 1e4:.3f}" for i in range(120)]
    return ("supplier,category,co2e_kg\n" + "\n".join(lines) + "\n").encode()


def reports(now: datetime) -> Iterator[Row]:
    """Yield id, tenant, calculation, title, standard, status, key, created."""
    for number in range(40):
        tenant = TENANTS[number % 5]
        id_ = _id("report", tenant.slug, number)
        yield (id_, tenant.id, 5 * number + 5 + number % 5, f"Scope 3 inventory {number // 5 + 1}", "ghg-protocol",
               "draft" if number >= 35 else "final", f"tenants/{tenant.id}/reports/{id_}.pdf",
               now - timedelta(days=2 * (40 - number)))  # fmt: skip


TABLES: dict[str, tuple[str, Any]] = {
    "tenants": ("id name slug subscription_tier settings created_at", tenants),
    "users": (
        "id tenant_id email name role status password_hash is_service_account last_login created_at",
        users,
    ),
    "sessions": ("id tenant_id user_id token_hash ip created_at last_active", sessions),
    "api_keys": ("id tenant_id created_by name key_hash scopes last_used_at created_at", api_keys),
    "suppliers": ("id tenant_id parent_supplier_id name country industry created_at", suppliers),
    "calculations": ("id tenant_id requested_by method status created_at finished_at", calculations),
    "calculation_inputs": ("id calculation_id name value unit source", calculation_inputs),
    "emission_attachments": ("id emission_id file_name s3_key size_bytes", attachments),
    "audit_log": ("id tenant_id action actor target ip details created_at", audit_log),
    "usage_events": ("id tenant_id kind quantity occurred_at", usage_events),
    "documents": (
        "id tenant_id supplier_id uploaded_by file_name s3_key content_type size_bytes created_at",
        documents,
    ),
    "reports": ("id tenant_id calculation_id title standard status s3_key created_at", reports),
}
"""All tables but emissions, parents first: columns, and what yields their rows."""

_EMISSION_COLUMNS = (
    "id tenant_id supplier_id calculation_id category period activity unit factor co2e_kg data_quality created_at"
)


def emissions(now: datetime, total: int, start: int, stop: int) -> Iterator[str]:
    """Yield the emissions start+1 to stop of ``total`` as COPY text, a chunk of lines at a time.

    They are in the order of their recording, spread evenly over EMISSION_DAYS, the last one now.
    Any cut of the range gives the same rows.
    """
    suppliers_of = [[supplier_id(t, n) for n in range(SUPPLIERS_PER_TENANT)] for t in TENANTS]
    ids = [t.id for t in TENANTS]
    step = timedelta(days=EMISSION_DAYS) / total
    for begin in range(start, stop, CHUNK):
        lines = []
        for number in range(begin + 1, min(begin + CHUNK, stop) + 1):
            noise = number * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
            noise ^= noise >> 29
            which = number % 5
            created = now - step * (total - number)
            activity, factor = 1 + noise % 9_999_000 / 1000, (noise >> 24) % 5_000_000 / 1e6
            calculation = 1 + (number - 1) * CALCULATIONS // total
            calculation += (which - calculation) % 5
            lines.append(
                f"{number}\t{ids[which]}\t{suppliers_of[which][(noise >> 40) % 80]}\t"
                f"{calculation if calculation <= CALCULATIONS else calculation - 5}\t{1 + (noise >> 50) % 15}\t"
                f"{created.year}-{created.month:02d}-01\t{activity:.3f}\t{_UNITS[(noise >> 55) % 4]}\t{factor:.6f}\t"
                f"{activity * factor:.3f}\t{1 + (noise >> 58) % 5}\t{created.isoformat()}\n"
            )
        yield "".join(lines)


def recorded_before(now: datetime, total: int, moment: datetime) -> int:
    """Return how many of ``total`` emissions had been recorded at ``moment``."""
    age = max(timedelta(0), now - moment) / timedelta(days=EMISSION_DAYS)
    return max(0, int(total - age * total))


def load_emissions(connection: psycopg.Connection[Any], now: datetime, total: int, start: int, stop: int) -> None:
    """COPY a range of emissions and commit."""
    columns = sql.SQL(", ").join(map(sql.Identifier, _EMISSION_COLUMNS.split()))
    with connection.cursor() as cursor:
        # The rows refer to each other rightly by construction; checking millions one by one takes minutes.
        cursor.execute("SET LOCAL session_replication_role = replica")
        with cursor.copy(sql.SQL("COPY emissions ({}) FROM STDIN").format(columns)) as copy:
            for chunk in emissions(now, total, start, stop):
                copy.write(chunk)
    connection.commit()


def load_others(connection: psycopg.Connection[Any], now: datetime) -> None:
    """COPY every other table and commit; the sequences stand behind what was loaded."""
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        for table, (columns, rows) in TABLES.items():
            named = sql.SQL(", ").join(map(sql.Identifier, columns.split()))
            with cursor.copy(sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(table), named)) as copy:
                for row in rows(now):
                    copy.write_row(row)
        for table in ("calculations", "calculation_inputs", "emission_attachments", "usage_events"):
            advance(cursor, table)
        cursor.execute("SELECT setval(pg_get_serial_sequence('audit_log', 'id'), %s, false)", (FIRST_OWN_ID,))
    connection.commit()


def advance(cursor: psycopg.Cursor[Any], table: str) -> None:
    """Set a table's id sequence behind its last row."""
    statement = "SELECT setval(pg_get_serial_sequence({}, 'id'), (SELECT max(id) FROM {}))"
    cursor.execute(sql.SQL(statement).format(sql.Literal(table), sql.Identifier(table)))


def refresh(connection: psycopg.Connection[Any]) -> None:
    """Move the recent past up to now: sessions, log-ins and the audit log's history, as one moved clock would."""
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL pg_stat_statements.track = 'none'")
        for table, newest, where, columns in (
            ("sessions", "last_active", "true", ("last_active", "created_at")),
            ("users", "last_login", "true", ("last_login",)),
            ("audit_log", "created_at", f"id < {FIRST_OWN_ID}", ("created_at",)),
        ):
            statement = sql.SQL(
                "WITH moved AS (SELECT now() - max({newest}) - interval '1 minute' AS by FROM {table} WHERE {where}) "
                "UPDATE {table} SET {sets} FROM moved WHERE by > interval '5 minutes' AND {where}"
            )
            sets = sql.SQL(", ").join(sql.SQL("{0} = {0} + by").format(sql.Identifier(c)) for c in columns)
            cursor.execute(
                statement.format(
                    newest=sql.Identifier(newest), table=sql.Identifier(table), where=sql.SQL(where), sets=sets
                )
            )
