"""A tenant is deleted on a whole Airflow, every phase killed once: asked for, approved by two, purged, certified."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import Any

import pytest

from sandbox.services import postgres, redis, s3
from tests.e2e.release_fixtures import Killer, Released, Run
from tests.tenant_fixtures import Victim, everything, furnish, insert, rows_of
from vcci_ops.settings import load_settings

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]
PREPARING = ("plan", "suspend", "export", "prove_export", "grace")
PURGING = ("tenant.erase", "tenant.prove", "tenant.certify")
"""A task of each phase; those that every procedure has (lock, unlock, report) are killed by the tests of releases."""


class Tenants:
    """The platform's tenants as this test sees them, beside its releases."""

    def __init__(self, platform: Any) -> None:
        self.platform = platform
        self.sandbox = platform.sandbox
        self.released = Released(platform)
        self.released.people["second-approver"] = platform.demo.client("second-approver")
        self.s3 = s3.client(self.sandbox)
        self.cache = redis.client(self.sandbox, redis.CACHE_DB)

    def production(self) -> Any:
        return postgres.admin(self.sandbox, postgres.Production(), postgres.PRODUCTION)

    def victim(self) -> Victim:
        with self.production() as connection:
            victim = insert(connection)
        furnish(victim, self.s3, self.cache)
        return victim

    def rows(self, victim: Victim) -> dict[str, int]:
        with self.production() as connection:
            return rows_of(connection, victim)

    def others(self, victim: Victim) -> dict[str, Any]:
        with self.production() as connection:
            return everything(connection, victim)

    def objects(self, victim: Victim) -> int:
        return int(self.s3.list_objects_v2(Bucket="vcci-documents", Prefix=victim.prefix)["KeyCount"])

    def keys(self, victim: Victim) -> int:
        return len(list(self.cache.scan_iter(f"*{victim.id}*")))

    def approve(self, run: Run, by: str, slug: str) -> None:
        """Answer the open question as a person does."""
        run.until("the approval asks", lambda: run._asks("approve"))
        run.answered += 1
        client = self.released.people[by]
        path = f"dags/{run.dag_id}/dagRuns/{run.run_id}/taskInstances/approve/-1/hitlDetails"
        form = client.get(path)["params"]
        assert {name: field["value"] for name, field in form.items()} == {"slug": "", "comment": ""}
        body = {"chosen_options": ["Approve"], "params_input": {"slug": slug, "comment": "read it"}}
        client._session.patch(f"{client.url}/api/v2/{path}", json=body, timeout=30).raise_for_status()


@pytest.fixture
def tenants(platform: Any) -> Iterator[Tenants]:
    platform.heal()
    yield Tenants(platform)
    platform.heal()


def test_killed_in_every_phase_a_tenant_is_gone_everywhere_and_nothing_else_is(tenants: Tenants) -> None:
    victim = tenants.victim()
    others = tenants.others(victim)
    form = {"slug": victim.slug, "reason": "the contract ended", "grace_days": 0, "legal_basis": "end of contract"}
    run = tenants.released.run("tenant_delete", {**form, "dry_run": False})
    with Killer(tenants.released, run, PREPARING) as killer:
        tenants.approve(run, "admin", victim.slug)  # asked for it
        tenants.approve(run, "approver", victim.slug)
        tenants.approve(run, "second-approver", victim.slug)
        assert run.ended() == "success", run.tasks
    assert killer.killed == set(PREPARING), "each was killed once"
    said = run.log("approve")
    assert "admin asked for it and may not approve it" in said
    assert "approved by approver; 1 more needed" in said
    assert tenants.rows(victim)["emissions"] == 100, "nothing is deleted yet"
    assert f"(`{victim.slug}`) is suspended and exported, NOT deleted yet" in str(tenants.platform.inbox("slack"))
    purge = tenants.released.run("tenant_purge_due", {"slug": victim.slug})
    with Killer(tenants.released, purge, PURGING) as killer:
        assert purge.ended(300) == "success", purge.tasks
    assert killer.killed == set(PURGING), "each was killed once"
    assert set(tenants.rows(victim).values()) == {0}
    assert tenants.objects(victim) == tenants.keys(victim) == 0
    assert tenants.others(victim) == others, "other tenants are as they were"
    assert tenants.released.lock_holder() == ""
    told(tenants, victim, run, purge)


def told(tenants: Tenants, victim: Victim, run: Run, purge: Run) -> None:
    """What stays: the record, the tombstone, the certificate, the pages, the marks on the trends; nobody's data."""
    history = tenants.released.history
    (found,) = history("SELECT state, approved_by, id, detail FROM tenant_deletion WHERE slug = %s", victim.slug)
    assert found[:3] == ("deleted", ["approver", "second-approver"], f"tenant_delete/{run.run_id}")
    (stone,) = history("SELECT tenant_id, certificate, certificate_sha256 FROM tombstone WHERE slug = %s", victim.slug)
    assert stone[0] == victim.id
    document = tenants.s3.get_object(Bucket=load_settings().reports.bucket, Key=stone[1])["Body"].read()
    assert hashlib.sha256(document).hexdigest() == stone[2]
    served = tenants.released.requester.raw(f"/vcci-ops/reports/tenant_delete/{run.run_id}/certificate")
    assert served.status_code == 200
    for words in (victim.slug, victim.id, "approver", "second-approver", "end of contract"):
        assert words in served.text
        assert words in document.decode()
    assert not re.search(r"Person \d|@\S+\.example", served.text + document.decode())
    kinds = history("SELECT kind FROM change_event WHERE summary LIKE %s ORDER BY at", f"%{victim.slug}%")
    assert kinds == [("tenant-delete",), ("tenant-purge",)]
    for one in (run, purge):
        shown = tenants.released.requester.raw(f"/vcci-ops/reports/{one.dag_id}/{one.run_id}")
        assert shown.status_code == 200
        assert victim.slug in shown.text
    slack = str(tenants.platform.inbox("slack"))
    assert f"`{victim.slug}` is deleted, and proven so" in slack
    logs = "\n".join(run.log(task) for task in run.tasks)
    assert f"@{victim.slug}.example" not in logs
