"""Everything of a tenant, wherever it is: rows, documents, cached keys; looked at alike by plan, purge and proof."""

from __future__ import annotations

import dataclasses
import datetime as dt
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from psycopg import sql

from vcci_ops.domain.tenant_deletion import baseline, leftovers
from vcci_ops.domain.units import duration
from vcci_ops.exceptions import NoData, Refused
from vcci_ops.hooks.tenant_rows import condition, source
from vcci_ops.hooks.tenant_session import TenantPostgres, tenant_sql
from vcci_ops.hooks.tenant_store import TenantDocuments, TenantKeys

if TYPE_CHECKING:
    from vcci_ops.domain.tenant_graph import Graph, Place
    from vcci_ops.hooks.tenant_erase import Batch
    from vcci_ops.hooks.tenant_graph import Tenant, TenantCatalog
    from vcci_ops.hooks.tenants import Deletion
    from vcci_ops.settings import Settings

SUSPENDED = "suspended"


@dataclasses.dataclass(frozen=True)
class Belongings:
    """What is a tenant's, by the settings of an environment.

    :param export_conn_id: connection that may read every tenant's rows; :param erase_conn_id: that deletes.
    """

    settings: Settings
    export_conn_id: str = "vcci_postgres_export"
    erase_conn_id: str = "vcci_postgres_erase"

    @cached_property
    def catalog(self) -> TenantCatalog:
        """The database's view."""
        from vcci_ops.hooks.tenant_graph import TenantCatalog

        return TenantCatalog(self.export_conn_id)

    def slugs(self) -> list[str]:
        """Return every tenant's slug."""
        with self.catalog.hook.session() as connection:
            return [str(slug) for (slug,) in connection.execute(tenant_sql("slugs"))]

    def find(self, slug: str) -> Tenant | None:
        """Return the tenant of a slug, or None."""
        try:
            return self.catalog.find(slug)
        except NoData:
            return None

    def require_same(self, deletion: Deletion) -> Tenant:
        """Return the tenant as it is now, when it is still the one whose deletion was approved, and under no hold.

        :raises Refused: otherwise.
        """
        tenant = self.find(deletion.slug)
        if tenant is None or tenant.id != deletion.tenant_id:
            raise Refused(f"the tenant {deletion.slug} is no longer the one whose deletion was approved: it is gone")
        if tenant.hold:
            raise Refused(f"a legal hold is on tenant {deletion.slug}: {tenant.hold}")
        return tenant

    def require_suspended(self, deletion: Deletion) -> Tenant:
        """Return the tenant as it is now, when it is the same, under no hold, and suspended.

        :raises Refused: otherwise.
        """
        tenant = self.require_same(deletion)
        if tenant.status != SUSPENDED:
            raise Refused(f"the tenant {deletion.slug} is {tenant.status}, not suspended: somebody works in it")
        return tenant

    def require_unhindered(self, deletion: Deletion) -> None:
        """Pass when a deletion that has begun may go on: also half-way a hold, or somebody at work, stops it.

        The tenant's own row may be gone already, and its slug be another's by now.

        :raises Refused: for a hold, or when the tenant is not suspended.
        """
        tenant = self.find(deletion.slug)
        if tenant and tenant.id == deletion.tenant_id:
            self.require_suspended(deletion)

    def suspend(self, deletion: Deletion) -> str:
        """Suspend the tenant, end its sessions, drop its cached keys; return in words what was done."""
        from vcci_ops.hooks.tenant_admin import TenantAdmin

        done = TenantAdmin().suspend(deletion.tenant_id)
        dropped = self._keys(deletion.tenant_id, deletion.slug).unlink()
        was = "suspended" if done.changed else "was suspended already"
        return f"{was}; {done.sessions} sessions ended, {dropped} cached keys dropped"

    # What is there ----------------------------------------------------------------------------------

    def documents(self, tenant_id: str, slug: str) -> dict[str, Any]:
        """Return bucket and prefix of the tenant's documents, and how many there are."""
        found = self._documents(tenant_id, slug)
        return {"bucket": found.bucket, "prefix": found.prefix, **dataclasses.asdict(found.look())}

    def keys(self, tenant_id: str, slug: str) -> dict[str, int]:
        """Return how many cached keys there are, by their patterns."""
        if not self.settings.tenants.cache:
            return {}
        found = self._keys(tenant_id, slug)
        return {", ".join(f"db {db} {pattern}" for db, pattern in found.patterns): found.count()}

    def leftovers(self, graph: Graph, deletion: Deletion) -> list[str]:
        """Return in words what of the tenant is anywhere."""
        documents = self.documents(deletion.tenant_id, deletion.slug)
        return leftovers(
            {place.name: place.rows for place in graph.places},
            int(documents["versions"]) + int(documents["uploads"]),
            self.keys(deletion.tenant_id, deletion.slug),
        )

    def baseline(self, graph: Graph, deletion: Deletion) -> dict[str, Any]:
        """Return what must not move until the deletion: rows and a checksum by table, the documents."""
        rows, checksums = self._fingerprints(graph, deletion.tenant_id)
        return baseline(rows, checksums, self.documents(deletion.tenant_id, deletion.slug))

    def _fingerprints(self, graph: Graph, tenant_id: str) -> tuple[dict[str, int], dict[str, str]]:
        """Count the tenant's rows and sum their hashes, in one snapshot; the order of rows does not matter."""
        rows, checksums = {}, {}
        with TenantPostgres(self.export_conn_id, statement_timeout=0).snapshot() as connection:
            for place in graph.places:
                found = connection.execute(_fingerprint(graph, place, tenant_id)).fetchone() or (0, 0)
                rows[place.name], checksums[place.name] = int(found[0]), f"{int(found[1]) % 2**64:016x}"
        return rows, checksums

    # Export, deletion, proof ------------------------------------------------------------------------

    def export(self, graph: Graph, deletion: Deletion) -> dict[str, Any]:
        """Export everything; return what the record keeps of it."""
        from vcci_ops.hooks.tenant_export import Destination, export

        erasure, documents = self.settings.tenants.erasure, self._documents(deletion.tenant_id, deletion.slug)
        destination = Destination(
            bucket=erasure.export_bucket,
            prefix=erasure.export_prefix,
            run=deletion.id.rpartition("/")[2],
            encryption=erasure.encryption,
            kms_key=erasure.kms_key,
            documents_bucket=documents.bucket,
            documents_prefix=documents.prefix,
        )
        tenant = {"id": deletion.tenant_id, "slug": deletion.slug, "name": deletion.name}
        return export(graph, tenant, deletion.plan_hash, destination, conn_id=self.export_conn_id).to_dict()

    def prove_export(self, exported: Mapping[str, Any]) -> list[str]:
        """Return in words what is not right about an export."""
        from vcci_ops.hooks.tenant_export import Export, prove

        return prove(Export.from_dict(exported))

    def others(self, graph: Graph, deletion: Deletion) -> dict[str, Any]:
        """Return checksums over what is not the tenant's; after its rows were gone, of the same rows as before."""
        before = deletion.detail.get("others") or {}
        horizon = next((str(one["horizon"]) for one in before.values()), "")
        return self.catalog.others(graph, deletion.tenant_id, horizon)

    def erase(self, graph: Graph, deletion: Deletion, say: Callable[[str], None]) -> None:
        """Delete rows, then documents, then cached keys; say how it goes."""
        from vcci_ops.hooks.tenant_erase import erase

        limits = self.settings.tenants.erasure
        erased = erase(graph, deletion.tenant_id, limits, _Progress(graph, say), self.erase_conn_id)
        say(
            f"{sum(erased.rows.values()):,} rows in {erased.batches} transactions, "
            f"{duration(erased.seconds)}, of which {duration(erased.paused)} waiting for others"
        )
        for table, number in erased.also.items():
            say(f"{table}: {number:,} rows were changed by foreign keys or triggers")
        gone = self._documents(deletion.tenant_id, deletion.slug).delete()
        say(f"{gone:,} versions of documents, {self._keys(deletion.tenant_id, deletion.slug).unlink():,} cached keys")

    def proof(self, graph: Graph, deletion: Deletion) -> dict[str, Any]:
        """Return what the certificate tells of the search for leftovers, which found none."""
        from vcci_ops.hooks.tenant_others import unharmed

        return {
            "at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            "tables": [place.name for place in graph.places],
            "kept": {place.name: place.rows for place in graph.kept if place.rows},
            "findings": self.catalog.findings(deletion.tenant_id, deletion.slug),
            "others": unharmed(deletion.detail.get("others") or {}, self.others(graph, deletion)),
        }

    def _documents(self, tenant_id: str, slug: str) -> TenantDocuments:
        return TenantDocuments(self.settings.tenants.documents, tenant_id, slug)

    def _keys(self, tenant_id: str, slug: str) -> TenantKeys:
        return TenantKeys(self.settings.tenants.cache, tenant_id, slug)


class _Progress:
    """Says how far the deletion of a table is: when it is done, and every ten seconds on the way."""

    def __init__(self, graph: Graph, say: Callable[[str], None]) -> None:
        self.rows = {place.name: place.rows for place in graph.places}
        self.say = say
        self.said = time.monotonic()

    def __call__(self, batch: Batch) -> None:
        whole = self.rows.get(batch.place, 0)
        if batch.total >= whole or time.monotonic() - self.said > 10:
            self.say(f"{batch.place}: {batch.total:,} of {whole:,} rows deleted")
            self.said = time.monotonic()


def _fingerprint(graph: Graph, place: Place, tenant_id: str) -> sql.Composed:
    columns = sql.SQL(", ").join(sql.Identifier("t", column) for column in place.columns)
    return sql.SQL(
        "SELECT count(*), coalesce(sum(hashtextextended(ROW({})::text, 0)::numeric), 0) FROM {} t WHERE {}"
    ).format(columns, source(place), condition(graph, place, tenant_id))
