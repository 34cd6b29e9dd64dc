"""After the grace: find what is due, look again at everything, delete, prove, certify. One tenant's failure hides none.

Each due tenant goes through four tasks, mapped over the tenants. How far it is stands in the history, so that a task
that was killed anywhere and is cleared goes on where it was.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException, DownstreamTasksSkipped

from vcci_ops.domain import tenant_deletion as domain
from vcci_ops.domain import tenant_deletion_text as text
from vcci_ops.domain.results import Result, Status
from vcci_ops.domain.tenant_request import slug as required_slug
from vcci_ops.exceptions import ChangeFailed, NoData, Refused
from vcci_ops.links import report_url
from vcci_ops.operators.acting import Acting, failing_clearly, pulled, require_lock
from vcci_ops.operators.tenant_delete import belongings, record, stopping
from vcci_ops.operators.tenant_report import failures, store_report
from vcci_ops.settings import load_settings

if TYPE_CHECKING:
    from airflow.sdk import Context

    from vcci_ops.hooks.tenants import Deletion

DUE = "due"
MOST = 200
"""Tenants that one run deletes at most; the rest is due the next day."""


class DueDeletionsOperator(BaseOperator):
    """Find the deletions that are due; return their ids. Where there is none, what follows directly is skipped.

    Begun and unfinished ones are always due. One that stopped after its first row only when its slug is asked for.

    :raises AirflowFailException: when a slug was asked for and nothing of it is due; says why.
    """

    def execute(self, context: Context) -> list[str]:
        """Look."""
        with failing_clearly():
            acting = Acting.of(context)
            slug = required_slug(acting.params) if acting.params.get("slug") is not None else ""
            found = record(acting).due(dt.datetime.now(dt.UTC), slug)[:MOST]
            if slug and not found:
                raise NoData(f"nothing of {slug} is due: {record(acting).latest(slug) or 'nobody asked to delete it'}")
        for deletion in found:
            self.log.info("Due: %s, approved by %s", deletion, ", ".join(deletion.approved_by))
        if not found:
            self.log.info("Nothing is due")
            raise DownstreamTasksSkipped(  # type: ignore[no-untyped-call]
                tasks=sorted(context["task"].downstream_task_ids)
            )
        return [deletion.id for deletion in found]


class PurgeOperator(BaseOperator):
    """What the four tasks of a tenant have in common: the change lock, and the deletion as it is recorded.

    :param deletion: id of the deletion; templated, and mapped.
    """

    template_fields: Sequence[str] = ("deletion",)
    ui_color = "#f3e9d2"

    def __init__(self, *, deletion: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.deletion = deletion

    def execute(self, context: Context) -> Any:
        """Act; what is refused or fails for good stops the deletion and calls a person."""
        with failing_clearly():
            acting = Acting.of(context)
            require_lock(acting)
            found = self.find(acting)
            context["slug"] = found.slug  # type: ignore[typeddict-unknown-key]  # the UI's name of the mapped task
            if found.state == "deleted":
                self.log.info("Done already: %s", found)
                return found.slug
            with stopping(acting, found):
                self.act(acting, found)
        return found.slug

    def find(self, acting: Acting) -> Deletion:
        """Return the deletion, when it is this task's turn.

        :raises Refused: when it is not, as after a reactivation.
        """
        found = record(acting).get(self.deletion)
        if found.state not in ("deleting", "proving", "deleted"):
            raise Refused(f"{found} is not being deleted; nothing was deleted by this task")
        return found

    def act(self, acting: Acting, deletion: Deletion) -> None:
        """Do it."""
        raise NotImplementedError


class TakeDueOperator(PurgeOperator):
    """Take the deletion, so that nobody can cancel it any more, and look whether everything is as it was exported.

    Once rows may be gone, only what can still be looked at is: the hold and the status.
    """

    def find(self, acting: Acting) -> Deletion:
        """Take it: from ``grace`` to ``deleting`` at once, or not at all."""
        return record(acting).take(self.deletion, dt.datetime.now(dt.UTC))

    def act(self, acting: Acting, deletion: Deletion) -> None:
        """Compare.

        :raises Refused: when the tenant is active, on hold, referred to by others, or anything came or went.
        """
        where = belongings(acting)
        if deletion.begun:
            where.require_unhindered(deletion)
            self.log.info("Begun at %s: going on", deletion.begun_at)
            return
        where.require_suspended(deletion)
        graph = where.catalog.graph(deletion.tenant_id)
        moved = domain.drift(deletion.export["baseline"], where.baseline(graph, deletion))
        if moved:
            raise Refused(f"not as it was exported: {domain.bounded(moved)}. Nothing was deleted")
        if blocking := where.catalog.blocked(graph, deletion.tenant_id):
            raise Refused(f"rows that are not {deletion.slug}'s refer to it: {domain.bounded(blocking)}")
        self.log.info("As it was exported: %s", domain.summary(deletion.plan))


class EraseOperator(PurgeOperator):
    """Delete: rows in batches, children first; then documents and cached keys."""

    def act(self, acting: Acting, deletion: Deletion) -> None:
        """Note what other tenants have, then delete what is there."""
        if deletion.state == "proving":
            return
        where = belongings(acting)
        where.require_unhindered(deletion)
        graph = where.catalog.graph(deletion.tenant_id)
        if not deletion.begun:
            deletion = record(acting).mark_begun(deletion.id, {"others": where.others(graph, deletion)})
        where.erase(graph, deletion, self.log.info)
        summary = f"tenant {deletion.slug} deleted: {domain.summary(deletion.plan)}"
        acting.journal.changed(
            "tenant-purge",
            deletion.requested_by,
            summary,
            {"deletion": deletion.id, "approved_by": deletion.approved_by},
        )


class ProveErasureOperator(PurgeOperator):
    """Search for what is left of the tenant, anywhere, and compare what other tenants have with before.

    :raises ChangeFailed: when something is left.
    """

    def act(self, acting: Acting, deletion: Deletion) -> None:
        """Prove it, and note what was found."""
        record(acting).prove(deletion.id)
        if "proof" in deletion.detail:
            return
        where = belongings(acting)
        graph = where.catalog.graph(deletion.tenant_id)
        if left := where.leftovers(graph, deletion):
            raise ChangeFailed(f"still there after the deletion: {domain.bounded(left)}")
        proof = where.proof(graph, deletion)
        for words in (*proof["findings"], *proof["others"]):
            self.log.warning("%s", words)
        self.log.info(
            "Nothing of %s is left in %d tables, its documents and its keys", deletion.slug, len(graph.places)
        )
        record(acting).note(deletion.id, {"proof": proof})


class CertifyOperator(PurgeOperator):
    """Store the certificate, put the tombstone, end the deletion."""

    def act(self, acting: Acting, deletion: Deletion) -> None:
        """Certify. A repeated task writes the same certificate: it is made of the record alone."""
        from vcci_ops.hooks.tenant_certificates import certify
        from vcci_ops.hooks.tenants import Tombstone, Tombstones

        if "proof" not in deletion.detail:
            raise Refused(f"{deletion} was not proven: clear its task prove")
        if "certificate" not in deletion.detail:
            deletion = record(acting).note(deletion.id, {"certificate": certify(acting.settings, deletion)})
        certificate = deletion.detail["certificate"]
        proven = dt.datetime.fromisoformat(deletion.detail["proof"]["at"])
        stone = Tombstone(
            deletion.tenant_id, deletion.slug, deletion.name, proven, certificate["key"], certificate["sha256"]
        )
        Tombstones(acting.settings.environment).put(stone)
        record(acting).finish(deletion.id, {})
        self.log.info("Certificate %s, SHA-256 %s", certificate["key"], certificate["sha256"])


class PurgeReportOperator(BaseOperator):
    """Tell what became of each due tenant, leave the report, and give the run its colour; whatever happened before.

    :raises AirflowFailException: when a tenant that was due is not deleted and proven so.
    """

    def execute(self, context: Context) -> dict[str, str]:
        """Look at the record, tell, judge."""
        acting = Acting.of(context)
        with failing_clearly():
            due, failed = pulled(context, DUE), failures(context)
            if not due and failed:
                raise ChangeFailed(failed)
            if not due:
                raise AirflowSkipException("nothing was due")
            found = [record(acting).get(id_) for id_ in due]
        lines = [(one.slug, one.state, _words(one)) for one in found]
        for line in lines:
            self.log.info("%s: %s %s", *line)
        headline = text.purged(lines)
        undelivered = store_report(
            context, acting, "Deletion of due tenants", [_result(one) for one in found], headline
        )
        bad = [f"{slug}: {state} {words}".strip() for slug, state, words in lines if state != "deleted"]
        if bad:
            raise AirflowFailException("; ".join([*bad, failed]))
        if undelivered:
            raise AirflowException(f"deleted, but not everybody was told: {'; '.join(undelivered)}")
        return {slug: state for slug, state, _ in lines}


def _words(deletion: Deletion) -> str:
    if deletion.state == "deleted":
        return f"certificate {deletion.detail['certificate']['key']}"
    return str(deletion.detail.get("why") or "") if deletion.state == "stopped" else ""


def _result(deletion: Deletion) -> Result:
    """Return what the report says of one tenant."""
    well = deletion.state == "deleted"
    details = list(domain.plan_details(deletion.plan))
    if well:
        certificate, proof = deletion.detail["certificate"], deletion.detail["proof"]
        details = [f"certificate {certificate['key']}", f"SHA-256 {certificate['sha256']}", *details]
        details += [*proof["findings"][:10], *proof["others"][:10]]
    return Result(
        check="tenants.purge",
        subject=deletion.slug,
        status=Status.OK if well else Status.CRITICAL,
        summary=f"{text.WORDS.get(deletion.state, deletion.state)}. {_words(deletion)}",
        title=f"Deletion of {deletion.name}",
        section="Tenants",
        meaning="Everything that was the tenant's is deleted, nothing is left anywhere, other tenants are untouched.",
        action="Nothing." if well else text.what_to_do(begun=deletion.begun),
        runbook="Tenant offboarding",
        link=f"{report_url(load_settings(), *deletion.id.split('/', 1))}/certificate" if well else "",
        details=tuple(details),
    )
