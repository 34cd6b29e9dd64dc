"""Storing the certificate of a deletion: in the report bucket, in the folder of the run that planned it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from vcci_ops.domain.tenant_certificate import certificate_of, render
from vcci_ops.hooks.reports import ReportStore, report_key

if TYPE_CHECKING:
    from vcci_ops.hooks.tenants import Deletion
    from vcci_ops.settings import Settings

DOCUMENT, PAGE = "certificate.json", "certificate.html"


def certify(settings: Settings, deletion: Deletion) -> dict[str, str]:
    """Write the certificate and its page; return ``key`` and ``sha256`` of the one, and ``page``, the key of the other.

    The same deletion gives the same files, whichever run writes them.

    :param deletion: proven.
    :raises DeliveryFailed: when the bucket does not take them.
    """
    where, erasure = settings.reports, settings.tenants.erasure
    certificate = certificate_of(
        dataclasses.asdict(deletion),
        environment=settings.environment,
        export_keep=erasure.export_keep,
        backups_kept=erasure.backups_kept,
    )
    dag_id, _, run_id = deletion.id.partition("/")
    store = ReportStore.of(settings)
    store.save_file(dag_id, run_id, PAGE, render(certificate).encode(), "text/html; charset=utf-8")
    store.save_file(dag_id, run_id, DOCUMENT, certificate.document(), "application/json")
    folder = report_key(where.prefix, settings.environment, dag_id, run_id)
    return {"key": folder + DOCUMENT, "sha256": certificate.sha256, "page": folder + PAGE}
