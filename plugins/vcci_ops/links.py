"""Addresses of runs and reports, and the button on Airflow's pages that leads to ours."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow.sdk import BaseOperatorLink

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey

    from vcci_ops.settings import Settings


def airflow_url(settings: Settings) -> str:
    """Return where people reach this Airflow, without a closing slash."""
    return (os.environ.get("VCCI_OPS_AIRFLOW_URL") or settings.airflow_url).rstrip("/")


def run_url(settings: Settings, dag_id: str, run_id: str) -> str:
    """Return the address of a run's page in Airflow."""
    return f"{airflow_url(settings)}/dags/{dag_id}/runs/{quote(run_id, safe='')}"


def report_path(dag_id: str, run_id: str) -> str:
    """Return the path of a run's report below Airflow's own address."""
    return f"/vcci-ops/reports/{quote(dag_id, safe='')}/{quote(run_id, safe='')}"


def report_url(settings: Settings, dag_id: str, run_id: str) -> str:
    """Return the address of a run's report."""
    return airflow_url(settings) + report_path(dag_id, run_id)


class ReportLink(BaseOperatorLink):
    """A button on each task that opens the report of its run."""

    name = "vcci_ops"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Return the address of the run's report."""
        base: Any = os.environ.get("VCCI_OPS_AIRFLOW_URL", "").rstrip("/")
        return f"{base}{report_path(ti_key.dag_id, ti_key.run_id)}"
