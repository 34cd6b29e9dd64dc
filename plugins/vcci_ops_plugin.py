"""The Airflow plugin: serves the reports to those who may see the run, and links to them.

Airflow leaves a plugin's web application open to everybody unless it asks; so the application has no
documentation pages, and every route depends on Airflow's own permission for runs of that DAG.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from typing import Any

from airflow.plugins_manager import AirflowPlugin

from vcci_ops.links import ReportLink

PREFIX = "/vcci-ops"
CLIENTS = (
    "airflow.sdk.execution_time.supervisor",
    "airflow.sdk.execution_time.task_runner",
    "airflow.providers.amazon.aws.hooks.s3",
    "airflow.providers.cncf.kubernetes.hooks.kubernetes",
    "airflow.providers.http.hooks.http",
    "airflow.providers.postgres.hooks.postgres",
    "airflow.providers.slack.hooks.slack",
    "airflow.providers.smtp.notifications.smtp",
    "celery.app.control",
    "kubernetes.utils.quantity",
    "psycopg",
    "redis",
)


def _preload() -> None:
    """Import the client libraries once, where tasks are forked from: a task then starts at once.

    Twelve check tasks that each import the Kubernetes client, boto3 and the like keep two cores busy for
    ten seconds. In the triggerer the first sample of a watch would be late by as much, and its event loop would
    stand still. The API server and the dag-processor import nothing here.
    """
    if sys.argv[1:2] in (["scheduler"], ["celery"], ["triggerer"]):
        for name in CLIENTS:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)


_preload()


def _application() -> Any:
    from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
    from airflow.api_fastapi.core_api.security import requires_access_dag
    from fastapi import Depends, FastAPI
    from fastapi.responses import HTMLResponse

    app = FastAPI(title="vcci-ops", docs_url=None, redoc_url=None, openapi_url=None)
    may_read = Depends(requires_access_dag(method="GET", access_entity=DagAccessEntity.RUN))
    # The page needs no script and no outside file; should one ever slip in, the browser refuses it.
    policy = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:"}

    def shown(dag_id: str, run_id: str, name: str, missing: str) -> HTMLResponse:
        from vcci_ops.hooks.reports import ReportStore
        from vcci_ops.settings import load_settings

        page = ReportStore.of(load_settings()).page(dag_id, run_id, name)
        return HTMLResponse(page or missing, status_code=200 if page else 404, headers=policy)

    @app.get("/reports/{dag_id}/{run_id}", response_class=HTMLResponse, dependencies=[may_read])
    def report(dag_id: str, run_id: str) -> HTMLResponse:
        """Return the report of a run."""
        missing = (
            "<h1>No report here</h1><p>This run still runs, was a dry run, or could not store its report: "
            "read the log of its task <i>report</i>.</p>"
        )
        return shown(dag_id, run_id, "report.html", missing)

    @app.get("/reports/{dag_id}/{run_id}/certificate", response_class=HTMLResponse, dependencies=[may_read])
    def certificate(dag_id: str, run_id: str) -> HTMLResponse:
        """Return the certificate of a deletion that a run of tenant_delete began."""
        missing = "<h1>No certificate here</h1><p>The tenant is not deleted yet: see <i>tenant_purge_due</i>.</p>"
        return shown(dag_id, run_id, "certificate.html", missing)

    return app


class VcciOpsPlugin(AirflowPlugin):
    """Reports, and the way to them."""

    name = "vcci_ops"
    operator_extra_links = [ReportLink()]  # noqa: RUF012  Airflow's own signature
    fastapi_apps = [{"app": _application(), "url_prefix": PREFIX, "name": "vcci-ops"}]  # noqa: RUF012
    external_views = [  # noqa: RUF012
        {
            "name": "Report",
            "href": f"{PREFIX}/reports/{{DAG_ID}}/{{RUN_ID}}",
            "url_route": "vcci-ops-report",
            "destination": "dag_run",
        }
    ]
