"""The plan of a release: what is due is shown whether it is run or not, and who asked must be known."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from tests.integration.acting_fixtures import context
from vcci_ops.domain.migrations import Migration
from vcci_ops.domain.release_plan import plan_markdown, schema_part
from vcci_ops.operators.release_rollback import RollbackRequestOperator
from vcci_ops.operators.release_validate import ReleaseRequestOperator

DROP = Migration("0007_drop", "0006", "ALTER TABLE suppliers DROP COLUMN score;")
WIDER = Migration("0008_wider", "0007", "ALTER TABLE suppliers ALTER COLUMN name TYPE varchar(200);")


def written(schema: dict[str, Any]) -> str:
    plan = {
        "kind": "deploy",
        "environment": "sandbox",
        "version": "v2.2.0",
        "from_version": "v2.0.0",
        "requested_by": "ines",
        "reason": "a test",
        "workloads": {},
        "schema": schema,
    }
    return plan_markdown(plan)


def test_what_is_due_and_left_out_is_shown_with_what_it_would_drop() -> None:
    schema = schema_part("0006", [DROP], apply=False)
    assert (schema["from"], schema["to"], schema["apply"], schema["class"]) == ("0006", "0006", False, "none")
    text = written(schema)
    assert "**1 migration due and NOT run**, as the form asks" in text
    assert "drops **suppliers.score**" in text
    assert "DROP COLUMN score" in text


def test_migrations_that_could_not_be_read_are_said_to_be_unread() -> None:
    text = written({**schema_part("0006", [], apply=False), "unread": "Job vcci-schema-plan failed: exit code 1"})
    assert "**Which migrations are due could not be read**" in text
    assert "exit code 1" in text


@pytest.mark.parametrize(
    ("types", "kind"),
    [({"suppliers.name": "character varying(50)"}, "expand-only"), ({}, "destructive"), (None, "destructive")],
)
def test_a_wider_column_is_no_loss_where_the_type_is_known(types: dict[str, str] | None, kind: str) -> None:
    assert schema_part("0007", [WIDER], apply=True, types=types)["class"] == kind


@pytest.mark.parametrize(
    ("operator", "params"),
    [
        (ReleaseRequestOperator, {"version": "v2.1.0", "ref": "main", "images": "existing", "migration": "auto"}),
        (RollbackRequestOperator, {"target": "previous", "database": "0005_activity_indexes"}),
    ],
)
def test_a_run_that_nobody_asked_for_is_refused_before_anything(
    operator: Any, params: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    common = {"workloads": [], "watch_minutes": 1, "if_locked": "refuse", "reason": "a test", "dry_run": False}
    given = context(**params, **common)
    given["dag_run"].triggering_user_name = None
    with pytest.raises(AirflowFailException, match="nobody is known to have asked for this run"):
        operator(task_id="request").execute(given)
