"""Plans are approved by people, on a real Airflow, through the same REST API that its pages use."""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pytest
import requests

from sandbox.airflow import Airflow, Client
from sandbox.service import Sandbox, Service, wait_until
from sandbox.services import postgres
from sandbox.services.messages import Messages
from vcci_ops.domain.plans import plan_hash
from vcci_ops.exceptions import Refused
from vcci_ops.operators.approval import BODY_LIMIT, COMMENT_LIMIT, DecisionOperator, PlanApprovalOperator, approved_plan

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

DAGS = '''
"""DAGs that ask."""
import datetime as dt
from airflow.sdk import DAG, Param, task
from vcci_ops.exceptions import Refused
from vcci_ops.operators.approval import DecisionOperator, PlanApprovalOperator, approved_plan

PLAN = {
    "kind": "deploy", "version": "v2.1.0", "from_version": "v2.0.0", "environment": "sandbox", "reason": "<!channel>",
    "workloads": {"backend-api": {"to": "r:5000/vcci/backend-api:v2.1.0@sha256:" + "a" * 64}},
    "schema": {"from": "r5", "to": "r6", "class": "expand-only", "apply": True, "migrations": []},
    "sql": ["SELECT 1 -- ``` {{ 1 + 1 }}\\n"] * 2000,
}

def plan_dag(dag_id, **how):
    with DAG(dag_id, schedule=None, default_args={"retries": 1, "retry_delay": dt.timedelta(seconds=1)}):
        @task
        def plan(**context):
            return {**PLAN, "requested_by": context["dag_run"].triggering_user_name}

        @task
        def act(**context):
            return approved_plan(context, "plan", "approve")["version"]

        @task(trigger_rule="all_done")
        def act_whatever(**context):
            try:
                return approved_plan(context, "plan", "approve")["version"]
            except Refused as error:
                print(error)
                raise

        asked = PlanApprovalOperator(task_id="approve", plan_task_id="plan", **how)
        plan() >> asked >> [act(), act_whatever()]

plan_dag("other", own_approval=False, within=900)
plan_dag("own", own_approval=True, within=900)
plan_dag("two", own_approval=False, within=900, approvers=2)
plan_dag("hasty", own_approval=False, within=30)

for name, within in (("decide", 900), ("undecided", 20)):
    with DAG(name, schedule=None):
        DecisionOperator(
            task_id="ask", subject="v2.1.0 failed: what now?", body="It *failed*.",
            options=["Keep the release", "Roll back"], within=within,
        )
'''


BEGUN = {"other": 5, "own": 1, "two": 1, "decide": 1, "undecided": 1}


class AskingAirflow(Airflow):
    """An Airflow that has only the DAGs above."""

    def environment(self, sandbox: Sandbox) -> dict[str, str]:
        folder = sandbox.data("dags")
        (folder / "asking.py").write_text(textwrap.dedent(DAGS))
        return {
            **super().environment(sandbox),
            "AIRFLOW__CORE__DAGS_FOLDER": str(folder),
            "AIRFLOW__SCHEDULER__TRIGGER_TIMEOUT_CHECK_INTERVAL": "2",
        }


class People:
    """An Airflow, and two people who use it."""

    def __init__(self, folder: Path) -> None:
        self.sandbox = Sandbox(folder)
        pg = next(s for s in postgres.services() if s.name == "pg-airflow")
        self.services: list[Service] = [pg, Messages()]

    def start(self) -> None:
        pg = self.services[0]
        for service in self.services:
            service.start(self.sandbox)
            wait_until(service.name, lambda s=service: s.ready(self.sandbox), seconds=60)
        pg.prepare(self.sandbox)
        connections = {k: v for s in self.services for k, v in s.connections(self.sandbox).items()}
        self.airflow = AskingAirflow(connections)
        self.services.append(self.airflow)
        self.airflow.start(self.sandbox)
        wait_until("airflow", lambda: self.airflow.ready(self.sandbox), seconds=300)
        url = self.airflow.url(self.sandbox)
        self.admin = Client(url, "admin", self.sandbox.secret("airflow-admin"))
        self.approver = Client(url, "approver", self.sandbox.secret("airflow-approver"))
        # Begun all at once, so that each test finds its question open.
        self.begun = {dag_id: [self.admin.trigger(dag_id) for _ in range(many)] for dag_id, many in BEGUN.items()}

    def slack(self) -> str:
        return requests.get(f"http://127.0.0.1:{self.sandbox.port('inbox')}/api/slack", timeout=5).text


class Asked:
    """A run whose question is open."""

    def __init__(self, people: People, dag_id: str, task_id: str = "approve") -> None:
        self.people, self.dag_id, self.task_id = people, dag_id, task_id
        self.answers = 0
        begun = people.begun.get(dag_id)
        self.run_id = begun.pop() if begun else people.admin.trigger(dag_id)

    @property
    def path(self) -> str:
        return f"dags/{self.dag_id}/dagRuns/{self.run_id}/taskInstances/{self.task_id}/-1/hitlDetails"

    def question(self) -> dict[str, Any]:
        return dict(self.people.admin.get(self.path))

    def open(self) -> bool:
        """Whether the question waits, and the scheduler has seen that its task has parked.

        Airflow 3.3.2 takes a task that is resumed before that, within a second, for one that was killed.
        """
        log = self.people.sandbox.log("airflow-scheduler").read_text()
        name = f"dag_id='{self.dag_id}', task_id='{self.task_id}', run_id='{self.run_id}'"
        parked = log.count(f"Received executor event with state success for task instance TaskInstanceKey({name}")
        states = self.people.admin.tasks(self.dag_id, self.run_id)
        waits = states[self.task_id] == "awaiting_input" and not self.question()["response_received"]
        return waits and parked > self.answers

    def answer(self, who: Client, option: str, params: Any = None) -> requests.Response:
        wait_until("question open", self.open, seconds=120, every=0.2)
        self.answers += 1
        return self.try_to_answer(who, option, params)

    def try_to_answer(self, who: Client, option: str, params: Any = None) -> requests.Response:
        body = {"chosen_options": [option], "params_input": {} if params is None else params}
        return who._session.patch(f"{who.url}/api/v2/{self.path}", json=body, timeout=30)

    def ended(self) -> tuple[str, dict[str, str]]:
        state = self.people.admin.wait(self.dag_id, self.run_id, seconds=180)
        return state, self.people.admin.tasks(self.dag_id, self.run_id)

    def approval(self, key: str = "approval") -> Any:
        return self.people.admin.xcom(self.dag_id, self.run_id, self.task_id, key)

    def log(self, task_id: str = "") -> str:
        return self.people.admin.log(self.dag_id, self.run_id, task_id or self.task_id)


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Iterator[People]:
    """Start an Airflow with its database and Slack once."""
    folder = tmp_path_factory.mktemp("people")
    os.environ["VCCI_SANDBOX_HOME"] = str(folder)
    people = People(folder)
    try:
        people.start()
        yield people
    finally:
        for service in reversed(people.services):
            service.stop(people.sandbox)
        del os.environ["VCCI_SANDBOX_HOME"]


def test_another_person_approves_and_the_acting_task_gets_that_plan(people: People) -> None:
    asked = Asked(people, "other")
    wait_until("question open", asked.open, seconds=120, every=0.2)
    slack = people.slack()
    assert "Who approves v2.1.0?" in slack
    assert f"/dags/other/runs/{quote(asked.run_id, safe='')}/tasks/approve/required_actions" in slack
    assert "<!channel>" not in slack
    assert asked.answer(people.approver, "Approve", {"comment": "looks\ngood"}).ok
    assert asked.ended()[0] == "success"
    approval = asked.approval()
    plan = people.admin.xcom("other", asked.run_id, "plan", "return_value")
    assert approval["approved"] is True
    assert approval["by"] == "approver"
    assert approval["comment"] == "looks good"
    assert approval["plan_hash"] == plan_hash(plan)
    assert approval["at"].startswith("20")
    assert people.admin.xcom("other", asked.run_id, "act", "return_value") == "v2.1.0"
    question = asked.question()
    assert question["subject"] == f"Approve deploy v2.1.0 on sandbox, plan {plan_hash(plan)[:12]}"
    assert question["options"] == ["Approve", "Reject"]
    assert len(question["body"]) < BODY_LIMIT + 300
    assert "**Cut here.**" in question["body"]
    assert "{{ 1 + 1 }}" in question["body"]
    assert "Approved* by approver" in people.slack()


def test_approvals_that_do_not_count_leave_the_question_open(people: People) -> None:
    asked = Asked(people, "other")
    assert asked.answer(people.admin, "Approve").ok
    wait_until("asked again", asked.open, seconds=120, every=0.2)
    assert "admin asked for it and may not approve it: this approval does not count" in asked.log()
    assert "may not approve it: this approval does not count" in people.slack()
    assert people.admin.tasks("other", asked.run_id)["act"] == "None"
    forged = [{"comment": "x" * (COMMENT_LIMIT + 1)}, {"comment": ["a"]}, {"comment": "fine", "approved": True}]
    for number, params in enumerate(forged, 1):
        assert asked.answer(people.approver, "Approve", params).ok
        wait_until("asked again", asked.open, seconds=120, every=0.2)
        assert asked.log().count(f"the comment of approver is no text of at most {COMMENT_LIMIT} characters") == number
    assert asked.answer(people.approver, "Approve").ok
    assert asked.ended()[0] == "success"
    assert asked.approval()["by"] == "approver"


def test_settings_may_let_the_requester_approve(people: People) -> None:
    asked = Asked(people, "own")
    assert asked.answer(people.admin, "Approve").ok
    assert asked.ended()[0] == "success"
    assert asked.approval()["by"] == "admin"


def test_two_approvers_are_two_people(people: People) -> None:
    asked = Asked(people, "two")
    assert asked.answer(people.approver, "Approve").ok
    assert asked.answer(people.approver, "Approve").ok
    wait_until("asked again", asked.open, seconds=120, every=0.2)
    log = asked.log()
    assert "approved by approver; 1 more needed" in log
    assert "approver has approved already: another person is needed" in log
    assert asked.answer(people.admin, "Reject", {"comment": "too late in the day"}).ok
    assert asked.ended()[0] == "failed"
    assert asked.approval()["approved"] is False


def test_the_requester_may_withdraw(people: People) -> None:
    asked = Asked(people, "other")
    assert asked.answer(people.admin, "Reject").ok
    assert asked.ended()[0] == "failed"
    assert asked.approval()["reason"] == "rejected by admin"


def test_a_rejection_ends_the_run_red_and_nothing_acts_until_it_is_asked_again(people: People) -> None:
    asked = Asked(people, "other")
    assert asked.answer(people.approver, "Reject", {"comment": "not on a Friday"}).ok
    state, tasks = asked.ended()
    assert state == "failed"
    assert tasks == {"plan": "success", "approve": "failed", "act": "upstream_failed", "act_whatever": "failed"}
    assert asked.approval()["reason"] == "rejected by approver: not on a Friday"
    assert "rejected by approver: not on a Friday" in asked.log()
    assert "the plan was not approved: rejected by approver" in asked.log("act_whatever")
    assert "Rejected by approver: not on a Friday" in people.slack()
    cleared = people.admin.post(
        "dags/other/clearTaskInstances",
        {"dag_run_id": asked.run_id, "task_ids": ["approve"], "include_downstream": True, "dry_run": False,
         "only_failed": False, "reset_dag_runs": True},
    )  # fmt: skip
    assert cleared.ok, cleared.text
    asked.answers += 1  # the end of the first try was an event, too
    assert asked.answer(people.approver, "Approve").ok
    assert asked.ended()[0] == "success"
    assert asked.approval()["approved"] is True


def test_nobody_answering_is_a_rejection_and_an_own_approval_does_not_stop_the_clock(people: People) -> None:
    asked = Asked(people, "hasty")
    assert asked.answer(people.admin, "Approve").ok
    state, tasks = asked.ended()
    assert (state, tasks["approve"], tasks["act"]) == ("failed", "failed", "upstream_failed")
    assert asked.approval()["reason"] == "rejected: nobody answered within 30 s"
    assert asked.try_to_answer(people.approver, "Approve").status_code == 409


def test_a_plan_that_is_made_anew_while_the_question_is_open_is_not_approved(people: People) -> None:
    asked = Asked(people, "other")
    wait_until("question open", asked.open, seconds=120, every=0.2)
    tamper(people, asked)
    assert asked.answer(people.approver, "Approve").ok
    assert asked.ended()[0] == "failed"
    assert "the plan was made anew while it was being approved" in asked.approval()["reason"]


def tamper(people: People, asked: Asked) -> None:
    """Replace the plan as somebody could who may write XComs."""
    path = f"dags/{asked.dag_id}/dagRuns/{asked.run_id}/taskInstances/plan/xcomEntries/return_value"
    plan = people.admin.get(path, deserialize=True)["value"]
    answer = people.admin._session.patch(
        f"{people.admin.url}/api/v2/{path}", json={"value": {**plan, "version": "v6.6.6"}}, timeout=30
    )
    assert answer.ok, answer.text


def test_a_person_decides(people: People) -> None:
    asked = Asked(people, "decide", "ask")
    assert asked.answer(people.admin, "Roll back", {"comment": "errors everywhere"}).ok
    assert asked.ended()[0] == "success"
    assert asked.approval("return_value") == "Roll back"
    decision = asked.approval("decision")
    assert (decision["option"], decision["by"]) == ("Roll back", "admin")
    assert decision["comment"] == "errors everywhere"
    assert "*Roll back*, chosen by admin: errors everywhere" in people.slack()


def test_what_nobody_decides_stays_undecided(people: People) -> None:
    asked = Asked(people, "undecided", "ask")
    assert asked.ended()[0] == "failed"
    assert "undecided: nobody answered within 20 s" in asked.log()
    assert asked.approval("decision")["option"] is None


# Without an Airflow: what an acting task looks at ----------------------------------------------------

PLAN = {"version": "v2.1.0", "n": 1.5, "none": None}
GOOD = {"approved": True, "by": "approver", "plan_hash": plan_hash(PLAN), "reason": "approved by approver"}


def context(plan: Any, approval: Any) -> Any:
    left = {("plan", "return_value"): plan, ("approve", "approval"): approval}
    return {"ti": SimpleNamespace(xcom_pull=lambda task_ids, key="return_value": left[task_ids, key])}


def test_an_approved_plan_is_given_out() -> None:
    assert approved_plan(context(PLAN, GOOD), "plan", "approve") == PLAN


@pytest.mark.parametrize(
    ("plan", "approval", "words"),
    [
        pytest.param(None, GOOD, "the task plan left no plan", id="no plan"),
        pytest.param(PLAN, None, "the task approve left no answer", id="marked as success by hand"),
        pytest.param(PLAN, {**GOOD, "approved": False, "reason": "rejected by x"}, "rejected by x", id="rejected"),
        pytest.param(PLAN, {**GOOD, "approved": "yes"}, "was not approved", id="not quite true"),
        pytest.param({**PLAN, "version": "v2.1.1"}, GOOD, "not the one that was approved", id="tampered"),
        pytest.param(PLAN, {**GOOD, "plan_hash": None}, "not the one that was approved", id="no hash"),
    ],
)
def test_nothing_acts_on_a_plan_that_was_not_approved(plan: Any, approval: Any, words: str) -> None:
    with pytest.raises(Refused, match=words):
        approved_plan(context(plan, approval), "plan", "approve")


def test_no_field_is_filled_in_by_who_triggers_the_run() -> None:
    from airflow.sdk import DAG, Param
    from airflow.sdk.definitions.param import process_params

    from vcci_ops.operators.tenant_delete import DeletionApprovalOperator

    with DAG("filled", schedule=None, params={"slug": Param(type="string"), "why": Param(type="string")}) as dag:
        approve = DeletionApprovalOperator(task_id="approve", plan_task_id="plan", own_approval=False, within=60)
    process_params(dag, approve, {"slug": "acme", "why": "x", "comment": "read it"}, suppress_exception=False)
    assert {name: field["value"] for name, field in approve.serialized_params.items()} == {"slug": "", "comment": ""}


def test_the_questions_survive_serialization() -> None:
    from airflow.sdk import DAG
    from airflow.serialization.serialized_objects import DagSerialization

    with DAG("serialized", schedule=None) as dag:
        PlanApprovalOperator(task_id="approve", plan_task_id="plan", own_approval=False, within=60)
        DecisionOperator(task_id="ask", subject="What now?", options=["Keep", "Roll back"], within=60)
    again = DagSerialization.from_dict(json.loads(json.dumps(DagSerialization.to_dict(dag))))
    assert set(again.task_dict) == {"approve", "ask"}
