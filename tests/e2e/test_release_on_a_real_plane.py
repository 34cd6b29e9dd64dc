"""Releases through a whole Airflow on a real Kubernetes control plane, with exactly the rights that are shipped."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.real_plane import ReallyReleased, platform_on, push
from tests.e2e.release_fixtures import WORKLOADS, Run
from tests.integration.kube_fixtures import real_plane

pytestmark = [pytest.mark.e2e, pytest.mark.kube, pytest.mark.timeout(300)]
OLD, NEW, NEWER = "v2.0.0", "v2.1.0", "v2.2.0"
CAUSE = "kubernetes.io/change-cause"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReallyReleased]:
    kept = os.environ.get("VCCI_TEST_SANDBOX_HOME")
    with real_plane() as admin:
        home = Path(f"{kept}-real") if kept else tmp_path_factory.mktemp("real-plane")
        home.mkdir(exist_ok=True)
        with platform_on(admin, home) as released:
            yield released


@pytest.fixture
def released(shared: ReallyReleased) -> ReallyReleased:
    """A platform at v2.0.0, each Deployment at its first revision."""
    shared.set_back()
    assert shared.revisions() == dict.fromkeys(WORKLOADS, "1")
    return shared


def deploy(released: ReallyReleased, version: str, ref: str, minutes: int) -> Run:
    """Begin a release without a migration, for Jobs do not really run here."""
    return released.deploy(version, ref, migration="none", watch_minutes=minutes)


def everywhere(version: str) -> dict[str, str]:
    return dict.fromkeys(WORKLOADS, version)


def thread(run: Run) -> str:
    """The run's Slack thread, which must be one."""
    messages = run.thread()
    assert sum(m.get("thread_ts") in (None, m["ts"]) for m in messages) == 1
    return "\n".join(str(message.get("text")) for message in messages)


def outcomes(released: ReallyReleased) -> list[tuple[str, str, str]]:
    return released.history("SELECT run_id, version, outcome FROM release ORDER BY started_at")


def test_a_clean_release(released: ReallyReleased) -> None:
    rights = ["auth", "can-i", "delete", "deployments", "--as", "system:serviceaccount:vcci-production:vcci-ops"]
    assert released.kubectl(*rights, check=False) == "", "the shipped rights, and not an admin's"
    run = deploy(released, NEW, "release/v2.1", 1)
    run.answer("Approve")
    run.until_task("watch", "deferred")
    assert released.lock_holder() == f"release_deploy/{run.run_id}"
    assert run.ended() == "success", run.tasks
    assert run.outcome == "released"
    planned = {name: {workload["to"]} for name, workload in run.xcom("plan")["workloads"].items()}
    assert released.running() == planned, "by digest, and nothing else is left"
    assert released.images() == everywhere(NEW)
    assert released.version_of_endpoint() == NEW
    assert released.revisions() == everywhere("2")
    for workload in WORKLOADS:
        assert released.annotation(workload, CAUSE) == f"release {NEW} ({run.run_id}): a test of the release"
    assert f"release {NEW}" in released.kubectl("rollout", "history", "deployment/backend-api")
    assert "sim ran ['pytest', 'tests/smoke/'" in run.log("verify.smoke")
    assert released.git("rev-parse", f"{NEW}^{{commit}}") == released.git("rev-parse", "release/v2.1")
    assert released.lock_holder() == ""
    assert "v2.1.0 is released" in thread(run)
    assert outcomes(released) == [(run.run_id, NEW, "released")]


def test_an_image_that_no_node_can_pull_fails_fast_and_all_goes_back_by_itself(released: ReallyReleased) -> None:
    version = "v2.1.10"
    for component in ("backend-api", "worker", "frontend"):
        push(released.sandbox, version, "release/v2.1", component, pulled=component != "worker")
    run = deploy(released, version, "release/v2.1", 1)
    run.answer("Approve")
    run.until_task("roll_out.worker", "deferred", "failed")
    assert released.running()["worker"] == {released.before["worker"]}, "the old pods go on"
    assert run.ended() == "failed"
    assert run.outcome == "rolled-back", run.tasks
    assert run.tasks["roll_out.backend-api"] == "success"
    assert run.tasks["roll_out.worker"] == "failed"
    assert run.tasks["roll_out.beat"] == "upstream_failed"
    assert "ImagePullBackOff" in run.log("roll_out.worker")
    assert released.running() == {name: {image} for name, image in released.before.items()}
    assert released.version_of_endpoint() == OLD
    # There, and back to the first template, which the real controller then counts as the newest.
    assert released.revisions() == {**everywhere("1"), "backend-api": "3", "worker": "3"}
    assert released.annotation("worker", CAUSE).startswith(f"automatic rollback of {version}: ")
    assert released.annotation("beat", CAUSE) == "release v2.0.0"
    assert run.tasks["roll_back.smoke"] == "success"
    assert released.lock_holder() == ""
    assert version in released.tags(), "a tag that was pushed stays"
    assert f"{version} was ROLLED BACK" in thread(run)
    assert outcomes(released) == [(run.run_id, version, "rolled-back")]
    assert released.history("SELECT id FROM incident") == []


def test_of_two_at_once_one_is_refused_and_somebody_elses_change_ends_the_other(released: ReallyReleased) -> None:
    runs = [deploy(released, NEW, "release/v2.1", 30), deploy(released, NEWER, "release/v2.2", 30)]
    for run in runs:  # both have passed the look at the lock, and now go for it
        run.until_task("approve", "awaiting_input")
    for run in runs:
        run.answer("Approve")
    runs[0].until("one of them has the lock", released.lock_holder)
    winner, loser = sorted(runs, key=lambda run: not released.lock_holder().endswith(run.run_id))
    assert loser.ended() == "failed"
    assert loser.tasks["lock"] == "failed"
    assert f"release_deploy/{winner.run_id}" in loser.log("lock"), "says who has it"
    assert loser.tasks["begin"] == "upstream_failed"
    winner.until_task("watch", "deferred")
    assert released.lock_holder() == f"release_deploy/{winner.run_id}", "the loser's end did not free it"
    wanted = winner.xcom("plan")["version"]
    assert released.images() == everywhere(wanted)
    assert released.tags() == {"v1.9.0", OLD, wanted}
    released.kubectl("set", "image", "deployment/frontend", f"frontend={released.before['frontend']}")
    assert winner.ended() == "failed"
    assert winner.outcome == "superseded"
    assert winner.tasks["roll_back.decide"] == "skipped"
    released.kubectl("rollout", "status", "deployment/frontend", "--timeout=20s")
    assert released.images() == {**everywhere(wanted), "frontend": OLD}, "left alone"
    assert released.revisions() == {**everywhere("2"), "frontend": "3"}
    assert released.lock_holder() == ""
    assert "was changed by somebody else meanwhile" in thread(winner)
    assert outcomes(released) == [(winner.run_id, wanted, "superseded")]
