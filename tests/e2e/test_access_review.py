"""Access is reviewed on a whole Airflow: run by hand, approved by exception, evidence served, and put back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from sandbox.services import postgres
from tests.e2e.release_fixtures import Released, Run
from vcci_ops.domain.access import APPROVE_EXCEPT

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(200)]


class Access:
    """Who has access to the sandbox's platform."""

    def __init__(self, platform: Any) -> None:
        self.released = Released(platform)

    def ask(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        sandbox = self.released.sandbox
        with postgres.admin(sandbox, postgres.Production(), postgres.PRODUCTION) as connection:
            found = connection.execute(query.encode(), parameters)
            return list(found.fetchall()) if found.description else []

    def inactive(self) -> set[str]:
        return {user for (user,) in self.ask("SELECT id::text FROM users WHERE status = 'inactive'")}

    def answer(self, run: Run, by: str, option: str, **form: str) -> None:
        """Answer the open question as a person does."""
        run.until("the review asks", lambda: run._asks("review"))
        run.answered += 1
        client = self.released.people[by]
        path = f"dags/{run.dag_id}/dagRuns/{run.run_id}/taskInstances/review/-1/hitlDetails"
        body = {"chosen_options": [option], "params_input": form}
        client._session.patch(f"{client.url}/api/v2/{path}", json=body, timeout=30).raise_for_status()

    def question(self, run: Run) -> dict[str, Any]:
        path = f"dags/{run.dag_id}/dagRuns/{run.run_id}/taskInstances/review/-1/hitlDetails"
        return dict(self.released.requester.get(path))


@pytest.fixture
def access(healthy: Any) -> Iterator[Access]:
    """The platform, and its users as they were afterwards."""
    access = Access(healthy)
    before = access.inactive()
    healthy.break_("stray-cluster-admin")
    yield access
    access.ask(
        "UPDATE users SET status = 'active' WHERE status = 'inactive' AND NOT id::text = ANY(%s)", sorted(before)
    )
    access.ask("DELETE FROM audit_log WHERE action IN ('user.deactivated', 'user.reactivated')")


def test_a_review_by_hand_is_approved_by_exception_and_leaves_its_evidence(access: Access) -> None:
    before = access.inactive()
    run = access.released.run("access_review", {})
    access.answer(run, "admin", APPROVE_EXCEPT, excepted="2", comment="mine")
    access.answer(run, "approver", APPROVE_EXCEPT, excepted="1-9999", comment="all of them")
    run.until("asked again", lambda: run._asks("review"))
    said = "the answer of approver does not count: excepted: '1-9999' is not accepted"
    assert said in run.log("review")
    assert said in json.dumps(run.thread(), ensure_ascii=False)
    ((lines,),) = access.released.history(
        "SELECT items FROM access_review WHERE id = %s", f"access_review/{run.run_id}"
    )
    users = [line for line in lines if line["action"] == "deactivate"]
    spared, *gone = users
    access.answer(run, "approver", APPROVE_EXCEPT, excepted=str(spared["number"]), comment="on parental leave")
    assert run.ended(90) == "success", run.tasks
    assert "who began a review does not approve it" in run.log("review")
    assert access.inactive() - before == {line["user_id"] for line in gone}
    assert access.released.lock_holder() == ""
    shown_to_the_auditor(access, run, len(gone))
    put_back(access, run, gone[0])


def shown_to_the_auditor(access: Access, run: Run, gone: int) -> None:
    page = access.released.requester.raw(f"/vcci-ops/reports/access_review/{run.run_id}")
    assert page.status_code == 200
    assert f"Access was reviewed: {gone} users deactivated" in page.text
    assert "on parental leave" in page.text
    assert "User/contractor" in page.text
    assert requests.get(page.url, timeout=10).status_code in (401, 403), "not without a log-in"
    left = [
        run.xcom("gather", "listed"),
        run.xcom("review", "approval"),
        run.xcom("deactivate"),
        run.xcom("report", "report"),
    ]
    said = json.dumps(left) + "".join(run.log(task) for task in run.tasks)
    addresses = [address for (address,) in access.ask("SELECT email FROM users")]
    assert not [address for address in addresses if address in said + page.text]
    thread = json.dumps(run.thread(), ensure_ascii=False)
    assert f"{gone} users deactivated" in thread
    assert "User/contractor" in thread


def put_back(access: Access, run: Run, line: dict[str, Any]) -> None:
    conf = {"review_id": run.run_id, "lines": str(line["number"]), "reason": "back already", "dry_run": False}
    back = access.released.run("access_revert", conf)
    assert back.ended(60) == "success", back.tasks
    assert line["user_id"] not in access.inactive()
    query = "SELECT user_id FROM access_change WHERE reverted_at IS NOT NULL AND review_id = %s"
    assert access.released.history(query, f"access_review/{run.run_id}") == [(line["user_id"],)]
