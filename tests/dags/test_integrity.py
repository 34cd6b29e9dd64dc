"""Every DAG: parses, is documented, owned, bounded in time, retried, and tells somebody when it cannot report."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import DAG
from airflow.serialization.serialized_objects import DagSerialization

from vcci_ops.operators.base import CheckOperator
from vcci_ops.settings import load_settings
from vcci_ops.tags import ALL, CHANGES_PRODUCTION

DAGS = Path(__file__).resolve().parents[2] / "dags"
DELIVERIES = {"report", "slack"}
WAITING = {"tenant_onboard": 16, "tenant_suspend": 100}
"""DAGs with many runs that only wait, for weeks: a new one must not wait for a place."""


@pytest.fixture(scope="session")
def dagbag() -> DagBag:
    """Parse dags/ once."""
    return DagBag(dag_folder=str(DAGS), collect_dags=True)


@pytest.fixture(params=sorted(path.stem for path in DAGS.glob("*.py")))
def dag(request: pytest.FixtureRequest, dagbag: DagBag) -> DAG:
    """Return each DAG; a file holds the DAG that it is named after."""
    return dagbag.dags[request.param]


def test_every_file_parses(dagbag: DagBag) -> None:
    assert dagbag.import_errors == {}
    assert dagbag.dags


def test_is_documented_owned_and_tagged(dag: DAG) -> None:
    assert dag.doc_md
    for part in ("Preconditions", "Parameters", "Rollback", "Triage", "Owner"):
        assert part in dag.doc_md, part
    assert dag.description
    assert set(dag.tags) <= ALL
    assert dag.tags
    assert {task.owner for task in dag.tasks} == {load_settings().owner}


def test_is_bounded_in_time_and_retried(dag: DAG) -> None:
    assert dag.catchup is False
    assert dag.dagrun_timeout
    # A run that waits for days (for an answer, for the end of a scale-up) takes a place; the change lock, not this
    # number, keeps two of them from acting at once.
    assert dag.max_active_runs <= WAITING.get(dag.dag_id, 4 if CHANGES_PRODUCTION in dag.tags else 2)
    for task in dag.tasks:
        assert task.execution_timeout, task.task_id
        assert task.retries >= 1 or task.task_id == "verdict", task.task_id
        if isinstance(task, CheckOperator):
            assert task.execution_timeout.total_seconds() > task.deadline


def test_none_is_run_for_a_time_that_had_passed_when_it_was_first_seen(dag: DAG) -> None:
    """A deployment at noon is no 02:00: it neither dumps production nor reviews anybody's access."""
    if dag.schedule is not None:
        each = getattr(dag.timetable, "timetables", [dag.timetable])
        assert {timetable.run_immediately for timetable in each} == {dt.timedelta(0)}


def test_a_failed_delivery_and_a_run_out_of_time_tell_somebody(dag: DAG) -> None:
    assert dag.on_failure_callback
    for task in dag.tasks:
        if task.task_id in DELIVERIES:
            assert task.on_failure_callback, task.task_id


def test_parameters_of_the_form_explain_themselves(dag: DAG) -> None:
    for name in dag.params:
        param = dag.params.get_param(name)
        assert param.schema.get("title"), name
        assert param.schema.get("type"), name
        assert param.description, name
        # What a person has to fill in has no default; on a schedule there is no person.
        if param.has_value or dag.timetable.can_be_scheduled:
            param.resolve()


def test_survives_serialization(dag: DAG) -> None:
    encoded = json.loads(json.dumps(DagSerialization.to_dict(dag)))
    again = DagSerialization.from_dict(encoded)
    assert set(again.task_ids) == set(dag.task_ids)
    assert not [word for word in ("password", "secret", "token=") if word in json.dumps(encoded).lower()]


def test_daily_health_check_runs_every_check_of_the_catalogue_once(dagbag: DagBag) -> None:
    tasks = [t for t in dagbag.dags["daily_health_check"].tasks if isinstance(t, CheckOperator)]
    reported = [check.id for task in tasks for check in task.chosen()]
    assert sorted(reported) == sorted(load_settings().checks)


def test_report_runs_whatever_the_checks_did(dagbag: DagBag) -> None:
    dag = dagbag.dags["daily_health_check"]
    checks = {t.task_id for t in dag.tasks if isinstance(t, CheckOperator)}
    assert dag.get_task("report").upstream_task_ids == checks
    for task_id in ("report", "slack", "verdict"):
        assert dag.get_task(task_id).trigger_rule == "all_done"
    assert not dag.get_task("verdict").downstream_task_ids
