"""Releases on a whole Airflow and the sandbox's platform, triggered and approved through the API as people do it."""

from __future__ import annotations

import re

import pytest

from tests.e2e.release_fixtures import BEGINNING, WORKLOADS, Killer, Released, Run
from vcci_ops.settings import load_settings

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]
OLD, NEW = "v2.0.0", "v2.1.0"


def everywhere(version: str) -> dict[str, str]:
    return dict.fromkeys(WORKLOADS, version)


def texts(run: Run) -> str:
    return "\n".join(str(message.get("text")) for message in run.thread())


def roots(run: Run) -> int:
    return sum(1 for message in run.thread() if message.get("thread_ts") in (None, message["ts"]))


# Clean -----------------------------------------------------------------------------------------------


def test_a_clean_release_bars_a_second_one_and_the_same_again_is_nothing_to_do(released: Released) -> None:
    run = released.deploy(NEW, "release/v2.1", watch_minutes=1)
    run.answer("Approve", by="admin")  # the requester's own approval does not count
    run.answer("Approve", by="approver", comment="looks fine")
    run.until_task("watch", "deferred")
    second = released.deploy("v2.2.0", "release/v2.2")
    assert second.ended() == "failed"
    assert f"release_deploy/{run.run_id} holds the change lock" in second.log("validate.quiet")
    assert run.ended() == "success", run.tasks
    assert run.outcome == "released"
    assert released.images() == everywhere(NEW)
    assert released.schema() == "0006_supplier_scores"
    assert released.version_of_endpoint() == NEW
    assert released.git("rev-parse", f"{NEW}^{{commit}}") == released.git("rev-parse", "release/v2.1")
    assert released.git("cat-file", "-t", NEW).strip() == "tag"
    assert released.lock_holder() == ""
    assert roots(run) == 1
    for said in (f"*Migrated*: {BEGINNING} → 0006_supplier_scores (expand-only)", "*Rolled out*: ", f"reports {NEW}"):
        assert said in texts(run)
    assert "admin asked for it and may not approve it" in run.log("approve")
    assert run.xcom("verify.smoke")["junit"]["failures"] == 0
    query = "SELECT kind, version, from_version, outcome, requested_by, approved_by FROM release WHERE run_id = %s"
    assert released.history(query, run.run_id) == [("deploy", NEW, OLD, "released", "admin", "approver")]
    assert released.history("SELECT kind, summary FROM change_event") == [("deploy", f"{OLD} → {NEW}")]
    page = released.requester.raw(f"/vcci-ops/reports/release_deploy/{run.run_id}")
    assert page.status_code == 200
    assert "v2.1.0 is released" in page.text
    assert page.text.count("<svg") == len(load_settings().release.watch.metrics), "a chart of every metric"
    again = released.deploy(NEW, "release/v2.1")
    assert again.ended() == "success"
    assert again.outcome == "nothing-to-do"
    assert again.tasks["approve"] == "skipped"


# Killed, restarted, and back by hand ---------------------------------------------------------------------

ACTING = (
    "validate.request",
    "candidate.images",
    "plan",
    "lock",
    "begin",
    "tag",
    "publish",
    "migrate",
    *(f"roll_out.{workload}" for workload in WORKLOADS),
    "verify.ready",
    "verify.smoke",
    "watch",
    "finish",
    "unlock",
)


def test_killed_at_every_step_and_restarted_in_the_watch_it_ends_as_undisturbed_and_goes_back(
    released: Released,
) -> None:
    run = released.deploy(NEW, "release/v2.1", watch_minutes=1)
    with Killer(released, run, ACTING) as killer:
        run.answer("Approve")
        run.until("some samples", lambda: len(numbers(released, run)) >= 3, seconds=300)
        released.restart("scheduler", "triggerer")
        assert run.ended(300) == "success", run.tasks
    assert killer.killed == set(ACTING), "each was killed once"
    assert run.outcome == "released"
    assert numbers(released, run) == list(range(run.xcom("watch", "watch")["samples"])), "no sample lost, none twice"
    assert released.images() == everywhere(NEW)
    assert released.schema() == "0006_supplier_scores"
    assert released.lock_holder() == ""
    assert roots(run) == 1
    assert texts(run).count("*Release of v2.1.0* begins") == 1
    jobs = released.kubectl("get", "jobs", "-o", "name").splitlines()
    assert sum("vcci-migrate" in name for name in jobs) == 1
    assert len(released.history("SELECT 1 FROM change_event")) == 1
    assert released.history("SELECT outcome FROM release") == [("released",)]
    # The way back: the database first, from the newer image, after somebody has read what is dropped.
    conf = {"target": "previous", "database": BEGINNING, "reason": "p99 doubled", "dry_run": False, "watch_minutes": 1}
    back = released.run("release_rollback", conf)
    back.answer("Approve")
    assert "suppliers.data_score" in back.log("plan"), "the approver reads what is dropped"
    assert back.ended() == "success", back.tasks
    assert released.images() == everywhere(OLD)
    assert released.schema() == BEGINNING
    assert released.version_of_endpoint() == OLD
    assert released.history("SELECT kind, outcome FROM release ORDER BY started_at") == [
        ("deploy", "released"),
        ("rollback", "released"),
    ]


def numbers(released: Released, run: Run) -> list[int]:
    """The numbers of the samples that are stored."""
    query = "SELECT number FROM watch_sample WHERE watch LIKE %s ORDER BY number"
    return [number for (number,) in released.history(query, f"%{run.run_id}%")]


# Failing after the rollout, undone by itself ------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "task", "words"),
    [
        pytest.param("v2.1.1", "roll_out.backend-api", "CrashLoopBackOff", id="crash-loop"),
        pytest.param("v2.1.3", "watch", "Error rate", id="errors"),
        pytest.param("v2.1.4", "watch", "Latency", id="latency"),
        pytest.param("v2.1.5", "verify.smoke", "400 suppliers", id="smoke test"),
    ],
)
def test_what_fails_after_the_rollout_is_rolled_back_and_the_schema_stays(
    released: Released, version: str, task: str, words: str
) -> None:
    undoing = ("roll_back.decide", *(f"roll_back.{name}" for name in WORKLOADS), "roll_back.ready", "roll_back.smoke")
    killed = undoing if version == "v2.1.5" else ()
    run = released.deploy(version, f"release/{version}", watch_minutes=1)
    run.answer("Approve")
    with Killer(released, run, killed) as killer:
        assert run.ended() == "failed"
    assert killer.killed == set(killed), "each step of the way back was killed once"
    assert run.outcome == "rolled-back", run.tasks
    assert run.tasks[task] == "failed"
    assert released.images() == everywhere(OLD)
    assert released.version_of_endpoint() == OLD
    assert released.schema() == "0006_supplier_scores", "only expanded: kept"
    assert run.tasks["roll_back.smoke"] == "success"
    assert released.lock_holder() == ""
    assert words in run.log(task) + texts(run)
    assert released.history("SELECT outcome FROM release WHERE run_id = %s", run.run_id) == [("rolled-back",)]
    assert released.history("SELECT id FROM incident") == []


def test_a_destructive_migration_stops_and_asks_before_going_back(released: Released) -> None:
    run = released.deploy("v2.2.0", "release/v2.2", watch_minutes=30)
    run.answer("Approve")
    run.until_task("watch", "deferred")
    released.platform.break_("error-spike")
    run.until_task("roll_back.ask", "awaiting_input")
    assert released.images() == everywhere("v2.2.0"), "nothing is undone by itself"
    released.platform.heal("error-spike")
    run.answered = 0
    run.answer("Roll the images back", task_id="roll_back.ask")
    assert run.ended() == "failed"
    assert released.images() == everywhere(OLD)
    assert released.schema() == "0007_drop_old_engagement"
    assert "suppliers.engagement_status" in run.log("plan")
    assert "failed after a destructive migration" in str(released.platform.inbox("mail"))
    # What runs lacks the newer scripts now: the way down runs in the image that brought them.
    released.until_calm()
    conf = {"target": OLD, "database": BEGINNING, "reason": "back for good", "dry_run": False, "watch_minutes": 1}
    back = released.run("release_rollback", conf)
    back.answer("Approve")
    back.until_task("watch", "deferred")
    assert released.schema() == BEGINNING
    assert "v2.2.0" in back.xcom("plan")["schema"]["image"]
    assert back.ended() == "success", back.tasks


# Not judged: neither passed nor undone ---------------------------------------------------------------


def test_a_watch_without_prometheus_is_held_and_nothing_is_rolled_back(released: Released) -> None:
    run = released.deploy(NEW, "release/v2.1", watch_minutes=30)
    run.answer("Approve")
    run.until_task("watch", "deferred")
    released.platform.break_("prometheus-down")
    assert run.ended() == "failed"
    assert run.outcome == "held"
    assert released.images() == everywhere(NEW)
    assert run.tasks["roll_back.decide"] == "skipped"
    assert "the watch is held" in str(released.platform.inbox("mail"))


def test_somebody_elses_change_during_the_watch_ends_it_and_is_left_alone(released: Released) -> None:
    run = released.deploy(NEW, "release/v2.1", watch_minutes=30)
    run.answer("Approve")
    run.until_task("watch", "deferred")
    released.kubectl("set", "image", "deployment/frontend", "frontend=vcci/frontend:v1.9.0")
    assert run.ended() == "failed"
    assert run.outcome == "superseded"
    assert released.images() == {**everywhere(NEW), "frontend": "v1.9.0"}


def test_a_slow_start_is_waited_for_and_without_traffic_nothing_is_judged(released: Released) -> None:
    run = released.deploy("v2.1.2", "release/v2.1.2", watch_minutes=2, workloads=["backend-api"])
    run.answer("Approve")
    run.until_task("watch", "deferred", seconds=150)
    assert released.images() == {**everywhere(OLD), "backend-api": "v2.1.2"}
    released.platform.break_("traffic-loss")
    assert run.ended() == "failed"
    assert run.outcome == "inconclusive"
    assert released.images()["backend-api"] == "v2.1.2", "neither passed nor undone"
    assert "too little traffic" in texts(run)


# Stopped before anything changes ------------------------------------------------------------------------


def untouched(released: Released, run: Run) -> None:
    """Nothing of a release that did not begin is anywhere."""
    assert released.images() == everywhere(OLD)
    assert released.schema() == BEGINNING
    assert released.tags() == {"v1.9.0", OLD}
    assert released.lock_holder() == ""
    assert released.history("SELECT 1 FROM release WHERE run_id = %s", run.run_id) == []


def test_a_rejected_release_changes_nothing(released: Released) -> None:
    run = released.deploy(NEW, "release/v2.1")
    run.answer("Reject", comment="not on a Friday")
    assert run.ended() == "failed"
    assert run.outcome == "rejected"
    assert "rejected by approver: not on a Friday" in run.log("finish")
    untouched(released, run)


def test_nobody_answers(released: Released) -> None:
    with released.platform.setting("release.approvals.within", "6s"):
        run = released.deploy(NEW, "release/v2.1")
        assert run.ended() == "failed"
    assert run.outcome == "rejected"
    assert "nobody answered within 6 s" in run.log("approve") + texts(run)
    untouched(released, run)


def test_a_plan_that_went_stale_after_the_approval_changes_nothing(released: Released) -> None:
    run = released.deploy(NEW, "release/v2.1")
    run.until_task("approve", "awaiting_input")
    released.kubectl("set", "image", "deployment/worker", "worker=vcci/worker:v1.9.0")
    run.answer("Approve")
    assert run.ended() == "failed"
    said = run.log("begin")
    assert "the plan is stale" in said
    assert re.search(r"worker: planned \S+/vcci/worker:v2\.0\.0@sha256:\w+, found vcci/worker:v1\.9\.0", said)
    assert released.images() == {**everywhere(OLD), "worker": "v1.9.0"}
    assert released.tags() == {"v1.9.0", OLD}


def test_a_dry_run_ends_with_the_plan(released: Released) -> None:
    run = released.deploy(NEW, "release/v2.1", dry_run=True, migration="none")
    assert run.ended() == "success"
    assert run.outcome == "dry-run"
    said = run.log("plan")
    assert "**1 migration due and NOT run**, as the form asks" in said
    assert "ADD COLUMN" in said
    assert "expand-only" in said
    untouched(released, run)


@pytest.mark.parametrize(
    ("conf", "task", "words"),
    [
        pytest.param({"version": "v1.9.1", "ref": "main"}, "validate.request", "older than v2.0.0", id="older"),
        pytest.param({"version": NEW, "ref": "release/v1.9"}, "validate.request", "does not contain", id="ref"),
        pytest.param({"version": NEW, "ref": "no/such"}, "validate.request", "no/such", id="no ref"),
        pytest.param({"version": "v2.3.0", "ref": "release/v2.3"}, "candidate.build_backend-api", "build", id="image"),
        pytest.param(
            {"version": "v2.1.7", "ref": "release/v2.1.7"}, "candidate.environment", "VCCI_INTENSITY_URL", id="env"
        ),
        pytest.param({"version": NEW, "ref": "main\n--help"}, "validate.request", "ref: ", id="hostile ref"),
    ],
)
def test_what_speaks_against_a_release_is_found_before_anything_changes(
    released: Released, conf: dict[str, str], task: str, words: str
) -> None:
    run = released.deploy(**conf)
    assert run.ended() == "failed"
    assert run.tasks[task] == "failed"
    assert words in run.log(task)
    untouched(released, run)


def test_a_hostile_version_starts_nothing_at_all(released: Released) -> None:
    body = {"logical_date": None, "conf": {"version": "v2.1.0; rm -rf /", "reason": "a hostile test"}}
    answer = released.requester.post("dags/release_deploy/dagRuns", body)
    assert answer.status_code == 400
    assert "version" in answer.text


def test_a_metric_without_data_bars_the_release(released: Released) -> None:
    released.platform.break_("metric-renamed")
    run = released.deploy(NEW, "release/v2.1")
    assert run.ended() == "failed"
    assert run.tasks["validate.metrics"] == "failed"
    assert "the watch would be blind" in run.log("validate.metrics")
    untouched(released, run)


def test_a_missing_backup_bars_a_migration(released: Released) -> None:
    released.platform.break_("backup-missing")
    run = released.deploy(NEW, "release/v2.1")
    assert run.ended() == "failed"
    assert "no fresh, verified backup" in run.log("plan")
    untouched(released, run)


def test_a_failing_migration_stops_before_any_rollout(released: Released) -> None:
    run = released.deploy("v2.1.6", "release/v2.1.6")
    run.answer("Approve")
    assert run.ended() == "failed"
    assert "division by zero" in run.log("migrate")
    assert released.images() == everywhere(OLD)
    assert released.schema() == "0006_supplier_scores", "the first of two; each is its own transaction"
    assert "no Deployment was changed" in run.log("finish")


# Last, for afterwards the registry has these images: what lacks them is tried above.
def test_built_in_the_cluster_and_stopped_for_the_platform_fell_ill_before_the_approval(released: Released) -> None:
    run = released.deploy("v2.3.0", "release/v2.3", images="build")
    run.until_task("approve", "awaiting_input")
    assert run.tasks["candidate.build_backend-api"] == "success"
    images = run.xcom("plan")["images"]
    assert all("v2.3.0@sha256:" in image["reference"] for image in images.values())
    released.platform.break_("api-503")
    run.answer("Approve")
    assert run.ended() == "failed"
    assert "this is no moment for a change: the endpoint says unavailable (HTTP 503)" in run.log("begin")
    untouched(released, run)
