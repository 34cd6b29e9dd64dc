"""Jobs on the played and the real API: run once, found again after a kill, told when they fail or cannot start."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from tests.integration.acting_fixtures import complete, context, deferred, fired, resumed
from tests.integration.kube_fixtures import Plane, connect, furnished, played_plane, real_plane, until
from vcci_ops.domain.jobs import JobRequest, base_name
from vcci_ops.hooks.lease import ChangeLock
from vcci_ops.operators.jobs import PlatformJobOperator
from vcci_ops.operators.lock import ReleaseChangeLockOperator
from vcci_ops.triggers.job import JobTrigger

pytestmark = [pytest.mark.kube, pytest.mark.integration]
HOLDER = "release_deploy/r1"
STEPS = (f"step-{number}" for number in itertools.count(1))
IMAGE = "vcci/backend-api:v2"
# Both in one: a program the played kubelet runs, and what the real plane's stand-in only reads ("fail" is exit code 1).
GOOD = ("python", "-c", "print('hello from', __import__('os').environ.get('GREETING', 'nobody'))")
FAILING = ("python", "-c", "print('password=hunter2 will not do'); raise SystemExit(1)  # fail")


class Task(PlatformJobOperator):
    """A Job that a test describes."""

    def __init__(self, *, wanted: JobRequest | None, **kwargs: Any) -> None:
        super().__init__(poll=0.3, patience=1.5, **kwargs)
        self.wanted = wanted

    def request(self, context: Context) -> JobRequest | None:
        return self.wanted


@pytest.fixture(scope="module", params=["played", "real"])
def plane(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    folder = tmp_path_factory.mktemp("kube")
    with played_plane(folder) if request.param == "played" else real_plane() as admin:
        with furnished(request.param, admin, folder, changes=True) as made:
            made.apply(
                {
                    "apiVersion": "v1",
                    "kind": "ConfigMap",
                    "metadata": {"name": "greetings", "namespace": made.namespace},
                    "data": {"GREETING": "the platform"},
                }
            )
            made.deploy("backend-api", "v1")
            source = {"envFrom": [{"configMapRef": {"name": "greetings"}}], "name": "backend-api"}
            patch = {"spec": {"template": {"spec": {"containers": [source]}}}}
            made.kubectl("patch", "deployment", "backend-api", "-n", made.namespace, "-p", json.dumps(patch))
            yield made


@pytest.fixture(scope="module")
def config(plane: Plane) -> dict[str, Any]:
    return plane.checks_config


@pytest.fixture(autouse=True)
def locked(plane: Plane, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    connect(monkeypatch, config)
    ChangeLock(plane.namespace).acquire(HOLDER, "a test", "ines")


def asked(**more: Any) -> JobRequest:
    given = {"step": next(STEPS), "image": IMAGE, "command": GOOD, "like": "backend-api", "timeout": 60.0}
    return JobRequest(**{**given, **more})


def task(plane: Plane, wanted: JobRequest | None, *, acting: bool = True) -> Task:
    return Task(task_id="job", wanted=wanted, namespace=plane.namespace, acting=acting)


def jobs(plane: Plane, wanted: JobRequest) -> list[dict[str, Any]]:
    selector = f"vcci-ops/job={base_name(wanted, HOLDER)}"
    return list(json.loads(plane.kubectl("get", "jobs", "-n", plane.namespace, "-l", selector, "-o", "json"))["items"])


def test_runs_like_the_deployment_without_a_token_and_its_output_is_told(
    plane: Plane, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = asked(env={"EXPECTED_VERSION": "v2.1.0"})
    result = complete(task(plane, wanted), context())
    assert (result["succeeded"], result["exit_code"], result["junit"]) == (True, 0, None)
    expected = "hello from the platform" if plane.name == "played" else "sim ran"
    assert expected in result["output"]
    assert expected in result["log_tail"][-1]
    assert f"| {expected}" in capsys.readouterr().out, "the output is in the task's log"
    (job,) = jobs(plane, wanted)
    assert result["job"] == job["metadata"]["name"] == base_name(wanted, HOLDER)
    assert job["metadata"]["annotations"]["vcci-ops/run"] == HOLDER
    pod = job["spec"]["template"]["spec"]
    (main,) = pod["containers"]
    assert (pod["automountServiceAccountToken"], pod["restartPolicy"]) == (False, "Never")
    assert job["spec"]["backoffLimit"] == 0
    if plane.name == "played":  # the real plane's version has no ttlSecondsAfterFinished without a feature gate
        assert job["spec"]["ttlSecondsAfterFinished"] == 86400
    assert pod["activeDeadlineSeconds"] < job["spec"]["activeDeadlineSeconds"] <= 120
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert main["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert main["envFrom"] == [{"configMapRef": {"name": "greetings"}}]
    assert {"name": "EXPECTED_VERSION", "value": "v2.1.0"} in main["env"]
    # A repeated task reads the result of the Job that it has run; nothing runs again.
    again = task(plane, wanted).execute(context())
    assert again == result
    assert [j["metadata"]["uid"] for j in jobs(plane, wanted)] == [job["metadata"]["uid"]]


def test_a_failed_job_says_why_and_runs_again_only_when_that_was_told(plane: Plane) -> None:
    wanted, given = asked(command=FAILING), context()
    with pytest.raises(AirflowFailException) as failure:
        complete(task(plane, wanted), given)
    said = str(failure.value)
    assert "failed: exit code 1" in said
    assert "hunter2" not in said
    if plane.name == "played":
        assert "Last lines:\npassword=*** will not do" in said
    kept = given["ti"].pushed["return_value"]
    assert (kept["succeeded"], kept["exit_code"]) == (False, 1)
    assert "hunter2" not in json.dumps(kept)
    (job,) = jobs(plane, wanted)
    # As if the task had been killed before it could tell: the next try tells, and does not run it again.
    plane.kubectl("annotate", "job", job["metadata"]["name"], "vcci-ops/reported-", "-n", plane.namespace)
    with pytest.raises(AirflowFailException, match="failed: exit code 1"):
        task(plane, wanted).execute(context())
    assert len(jobs(plane, wanted)) == 1
    # Told, and then cleared by a person: a second attempt.
    with pytest.raises(AirflowFailException, match=f"{job['metadata']['name']}-2 failed"):
        complete(task(plane, wanted), context())
    assert len(jobs(plane, wanted)) == 2


def test_a_killed_task_finds_its_running_job(plane: Plane) -> None:
    wanted = asked(command=("python", "-c", "import time; time.sleep(1.5); print('done once')"))
    deferred(task(plane, wanted), context())  # and then its process is killed
    (job,) = jobs(plane, wanted)
    result = complete(task(plane, wanted), context())
    assert result["job"] == job["metadata"]["name"]
    assert len(jobs(plane, wanted)) == 1
    if plane.name == "played":
        assert result["output"] == "done once\n"


def test_an_image_that_is_not_there_fails_in_seconds_and_cannot_start_later(plane: Plane) -> None:
    wanted, begun = asked(image="vcci/backend-api:bad"), time.monotonic()
    with pytest.raises(AirflowFailException, match=r"could not start: .*ImagePullBackOff.* It was deleted") as failure:
        complete(task(plane, wanted), context())
    assert time.monotonic() - begun < 20, failure.value
    until("the Job is gone", lambda: not jobs(plane, wanted))


def test_without_the_lock_nothing_is_begun(plane: Plane) -> None:
    wanted = asked()
    with pytest.raises(AirflowFailException, match="does not hold the change lock"):
        task(plane, wanted).execute(context("another"))
    with pytest.raises(AirflowSkipException):
        task(plane, None).execute(context())
    listed = plane.kubectl("get", "jobs", "-n", plane.namespace, "-l", f"vcci-ops/step={wanted.step}", "-o", "name")
    assert listed == ""


def test_another_job_of_that_name_is_left_alone(plane: Plane) -> None:
    wanted = asked()
    name = base_name(wanted, HOLDER)
    pod = {"restartPolicy": "Never", "containers": [{"name": "x", "image": IMAGE, "command": ["true"]}]}
    meta = {"name": name, "namespace": plane.namespace}
    plane.apply({"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": {"template": {"spec": pod}}})
    with pytest.raises(AirflowFailException, match=f"there is a Job {name} that is not of this run"):
        task(plane, wanted).execute(context())


def test_the_same_step_for_something_else_is_refused(plane: Plane) -> None:
    wanted = asked()
    deferred(task(plane, wanted), context())
    other = dataclasses.replace(wanted, command=("python", "-c", "print('something else')"))
    with pytest.raises(AirflowFailException, match=r"began the Job .* for something else"):
        task(plane, other).execute(context())


def test_a_job_without_its_deployment_or_manifest_is_refused(plane: Plane) -> None:
    with pytest.raises(AirflowFailException, match=r"there is no deployments.apps nowhere"):
        task(plane, asked(like="nowhere")).execute(context())
    with pytest.raises(AirflowFailException, match="has no container nginx"):
        task(plane, asked(container="nginx")).execute(context())
    with pytest.raises(AirflowFailException, match="manifest: 'nothing' is not accepted"):
        task(plane, asked(manifest="nothing")).execute(context())


def test_a_job_deleted_under_way_is_told(plane: Plane) -> None:
    wanted = asked(command=("python", "-c", "import time; time.sleep(30)"))
    one, given = task(plane, wanted), context()
    deferral = deferred(one, given)
    plane.kubectl("delete", "job", base_name(wanted, HOLDER), "-n", plane.namespace)
    event = asyncio.run(fired(deferral.trigger))
    if event["status"] == "ended":  # the real plane's stand-in was quicker than kubectl
        event = {"status": "gone", "message": "x"}
    with pytest.raises(AirflowFailException, match="was deleted before its result could be read"):
        resumed(one, given, deferral, event)


def test_a_log_that_is_gone_is_said_and_the_result_is_right_all_the_same(plane: Plane) -> None:
    wanted = asked()
    first = complete(task(plane, wanted), context())
    plane.kubectl("delete", "pods", "-l", f"vcci-ops/step={wanted.step}", "-n", plane.namespace)
    result = task(plane, wanted).execute(context())
    assert (result["succeeded"], result["exit_code"]) == (True, 0)
    assert (first["complete"], result["complete"], result["output"]) == (True, False, "")
    assert result["notes"] == ["its log is gone with its pod"]


def test_junit_in_the_output_becomes_evidence(plane: Plane) -> None:
    if plane.name == "real":
        pytest.skip("nothing runs in the real plane's Jobs")
    tests = "def test_one(): pass\ndef test_two(): assert 'token=abcdefgh1234' == 'x'"
    code = (
        "import sys, pytest, pathlib, tempfile\n"
        "folder = pathlib.Path(tempfile.mkdtemp())\n"
        f"(folder / 'test_smoke.py').write_text({tests!r})\n"
        "sys.exit(pytest.main(['-v', '-p', 'no:cacheprovider', '--rootdir', str(folder), '-c', '/dev/null', "
        "'--junitxml=/dev/stdout', str(folder)]))"
    )
    given = context()
    with pytest.raises(AirflowFailException, match=r"exit code 1; 1 of 2 tests failed: test_smoke::test_two: "):
        complete(task(plane, asked(command=("python", "-c", code), env={"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"})), given)
    kept = given["ti"].pushed["return_value"]
    junit = kept["junit"]
    assert (junit["tests"], junit["failures"], junit["errors"], junit["skipped"]) == (2, 1, 0, 0)
    assert [case["outcome"] for case in junit["cases"]] == ["failed", "passed"]
    assert "abcdefgh1234" not in json.dumps(kept)
    assert "<testsuites" not in kept["output"]
    assert "test_two FAILED" in kept["output"]


def test_a_job_that_takes_too_long_is_ended_and_its_log_is_kept(plane: Plane) -> None:
    if plane.name == "real":
        pytest.skip("the real plane's stand-in for nodes knows no deadline of a pod")
    slow = ("python", "-uc", "import time; print('connecting'); time.sleep(60)")
    with pytest.raises(
        AirflowFailException, match=r"took longer than 1 s \(DeadlineExceeded\)\nLast lines:\nconnecting"
    ):
        complete(task(plane, asked(command=slow, timeout=1.0)), context())


def test_the_trigger_is_made_again_with_the_same_end() -> None:
    assert JobTrigger("ns", "vcci-migrate-abc", "u-1", 1763974800.0).serialize() == (
        "vcci_ops.triggers.job.JobTrigger",
        {
            "namespace": "ns",
            "job": "vcci-migrate-abc",
            "uid": "u-1",
            "until": 1763974800.0,
            "poll": 2.0,
            "patience": 15.0,
            "kubernetes_conn_id": "vcci_kubernetes",
        },
    )


def test_the_lock_is_kept_while_a_job_goes_on_that_nobody_watches(plane: Plane) -> None:
    unlock = ReleaseChangeLockOperator(task_id="unlock", namespace=plane.namespace)
    running = task(plane, asked(step="migrate-long", command=("python", "-c", "__import__('time').sleep(600)")))
    if plane.name != "played":
        pytest.skip("its Jobs end at once")
    deferred(running, context())  # and then nobody resumes it
    with pytest.raises(AirflowFailException, match=r"the change lock is kept, for vcci-migrate-long-\w+ of this run"):
        unlock.execute(context())
    ChangeLock(plane.namespace).require(HOLDER)
    plane.kubectl("delete", "job", "-l", "vcci-ops/step=migrate-long", "-n", plane.namespace)
    assert unlock.execute(context()) is True
