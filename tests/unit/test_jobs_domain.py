"""What a Job is made of, how it ended, and what its output holds."""

from __future__ import annotations

import json
from typing import Any

import pytest

from vcci_ops.domain.jobs import Ending, JobRequest, JobResult, base_name, ending_of, job_manifest, why_failed
from vcci_ops.domain.junit import document_of, read_junit, told
from vcci_ops.exceptions import InvalidInput, Refused
from vcci_ops.hooks.platform_jobs import base_manifest

RUN = "release_deploy/r1"


def asked(**more: Any) -> JobRequest:
    given = {
        "step": "migrate",
        "image": "r/vcci/api:v2@sha256:1",
        "command": ("alembic", "upgrade", "x"),
        "like": "api",
    }
    return JobRequest(**{**given, **more})


LIKE: dict[str, Any] = {
    "metadata": {"name": "api"},
    "spec": {
        "template": {
            "spec": {
                "serviceAccountName": "api",
                "imagePullSecrets": [{"name": "pull"}],
                "nodeSelector": {"pool": "app"},
                "securityContext": {"runAsUser": 10001, "fsGroup": 10001, "sysctls": [{"name": "x", "value": "1"}]},
                "containers": [
                    {"name": "proxy", "image": "envoy"},
                    {
                        "name": "api",
                        "image": "r/vcci/api:v1",
                        "workingDir": "/app",
                        "securityContext": {"privileged": True, "runAsGroup": 7},
                        "env": [
                            {"name": "DATABASE_URL", "valueFrom": {"secretKeyRef": {"name": "db", "key": "url"}}},
                            {"name": "HOME", "value": "/app"},
                            {"name": "EXPECTED_VERSION", "value": "old"},
                        ],
                        "envFrom": [{"secretRef": {"name": "api"}}],
                        "volumeMounts": [
                            {"name": "config", "mountPath": "/etc/vcci"},
                            {"name": "scratch", "mountPath": "/tmp"},
                            {"name": "token", "mountPath": "/var/run/token"},
                            {"name": "docker", "mountPath": "/var/run/docker.sock"},
                            {"name": "disk", "mountPath": "/data"},
                        ],
                    },
                ],
                "volumes": [
                    {"name": "config", "configMap": {"name": "api"}},
                    {"name": "scratch", "emptyDir": {}},
                    {"name": "token", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}},
                    {"name": "docker", "hostPath": {"path": "/var/run/docker.sock"}},
                    {"name": "disk", "persistentVolumeClaim": {"claimName": "disk"}},
                    {"name": "unused", "secret": {"secretName": "unused"}},
                ],
            }
        }
    },
}


def made(request: JobRequest, attempt: int = 1, like: Any = LIKE) -> dict[str, Any]:
    return job_manifest(base_manifest(request.manifest), request, RUN, attempt, like)


def test_has_the_deployments_environment_and_nothing_of_its_privileges() -> None:
    job = made(asked(env={"EXPECTED_VERSION": "v2.1.0"}, timeout=90.5, keep=60))
    pod = job["spec"]["template"]["spec"]
    (main,) = pod["containers"]
    env = {v["name"]: v.get("value") or v.get("valueFrom") for v in main["env"]}
    assert env["EXPECTED_VERSION"] == "v2.1.0"
    assert env["DATABASE_URL"] == {"secretKeyRef": {"name": "db", "key": "url"}}
    assert env["HOME"] == "/app"
    assert len(main["env"]) == len(env)
    assert main["envFrom"] == [{"secretRef": {"name": "api"}}]
    assert main["image"] == "r/vcci/api:v2@sha256:1"
    assert [m["mountPath"] for m in main["volumeMounts"]] == ["/tmp", "/etc/vcci"]
    assert [v["name"] for v in pod["volumes"]] == ["job-tmp", "config"]
    assert (pod["serviceAccountName"], pod["automountServiceAccountToken"]) == ("api", False)
    assert (pod["imagePullSecrets"], pod["nodeSelector"]) == ([{"name": "pull"}], {"pool": "app"})
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
        "runAsUser": 10001,
        "fsGroup": 10001,
    }
    assert main["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
        "runAsGroup": 7,
    }
    assert (pod["activeDeadlineSeconds"], job["spec"]["activeDeadlineSeconds"]) == (91, 151)
    assert job["spec"]["ttlSecondsAfterFinished"] == 60
    assert "ports" not in main


def test_its_pods_are_no_service_s() -> None:
    labels = made(asked())["spec"]["template"]["metadata"]["labels"]
    assert "app" not in labels
    assert labels["vcci-ops/step"] == "migrate"


def test_is_called_the_same_for_the_same_step_run_and_image_only() -> None:
    name = base_name(asked(), RUN)
    assert name == base_name(asked(command=("other",)), RUN)
    others = [
        base_name(asked(step="smoke"), RUN),
        base_name(asked(image="r/vcci/api:v3"), RUN),
        base_name(asked(), "release_deploy/r2"),
    ]
    assert len({name, *others}) == 4
    assert made(asked())["metadata"]["name"] == name
    assert made(asked(), attempt=2)["metadata"]["name"] == f"{name}-2"
    longest = base_name(asked(step="s" * 30), RUN)
    assert len(f"{longest}-99") <= 63 - len("-abcde"), "the pod's name is a label, too"


def test_what_was_asked_for_is_told_apart_by_its_hash() -> None:
    assert asked().digest == asked().digest
    different = [asked(env={"A": "b"}), asked(timeout=1), asked(command=("x",)), asked(like="worker"), asked(keep=1)]
    assert len({asked().digest, *(request.digest for request in different)}) == 6


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("step", "Migrate"),
        ("step", "migrate\n"),
        ("step", "-x"),
        ("step", "x" * 31),
        ("step", "$(id)"),
        ("image", ""),
        ("image", "r/x:v1 --privileged"),
        ("command", ()),
        ("env", {"A=B": "c"}),
        ("env", {"A\n": "c"}),
        ("manifest", "../../../etc/passwd"),
    ],
)
def test_what_cannot_be_a_job_is_refused_by_field(field: str, value: Any) -> None:
    with pytest.raises(InvalidInput, match=f"^{field}: "):
        asked(**{field: value})


def test_what_a_person_typed_is_not_expanded_by_the_kubelet() -> None:
    job = made(asked(command=("echo", "$(DATABASE_URL)", "a$b"), env={"NOTE": "$(DATABASE_URL)"}))
    (main,) = job["spec"]["template"]["spec"]["containers"]
    assert main["command"] == ["echo", "$$(DATABASE_URL)", "a$$b"]
    assert main["env"][-1] == {"name": "NOTE", "value": "$$(DATABASE_URL)"}


def test_a_deployment_without_the_container_is_refused() -> None:
    with pytest.raises(Refused, match="Deployment api has no container nginx"):
        made(asked(container="nginx"))


def test_a_build_needs_no_deployment_and_no_token() -> None:
    job = made(asked(manifest="buildkit", like=""), like=None)
    pod = job["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["containers"][0]["securityContext"]["privileged"] is False


def ended_pod(code: int, why: str, created: str = "2026-11-24T09:00:00Z", **status: Any) -> dict[str, Any]:
    state = {"terminated": {"exitCode": code, "reason": why}}
    proxy = {"name": "istio-proxy", "state": {"terminated": {"exitCode": 0}}}
    statuses = [proxy, {"name": "job", "state": state}]
    return {"metadata": {"creationTimestamp": created}, "status": {"containerStatuses": statuses, **status}}


@pytest.mark.parametrize(
    ("pods", "words"),
    [
        pytest.param([ended_pod(3, "Error")], "exit code 3", id="error"),
        pytest.param([ended_pod(137, "OOMKilled")], "more memory than its limit (OOMKilled, exit code 137)", id="oom"),
        pytest.param([ended_pod(137, "Error", reason="DeadlineExceeded")], "took longer than 90 s", id="deadline"),
        pytest.param([ended_pod(127, "ContainerCannotRun")], "exit code 127 (ContainerCannotRun)", id="no program"),
        pytest.param([ended_pod(1, "Error"), ended_pod(2, "Error", "2026-11-24T09:01:00Z")], "exit code 2", id="last"),
        pytest.param([{"metadata": {}, "status": {"reason": "Evicted"}}], "by itself (Evicted)", id="evicted"),
        pytest.param([], "took longer than 90 s (DeadlineExceeded)", id="pod gone"),
    ],
)
def test_says_why_it_failed(pods: list[dict[str, Any]], words: str) -> None:
    late = {"type": "Failed", "status": "True", "reason": "DeadlineExceeded"}
    job = {"metadata": {"name": "j"}, "status": {"conditions": [late]}}
    assert words in why_failed(ending_of(job, pods, 1.0), 90)


def test_says_when_nothing_is_known() -> None:
    assert why_failed(Ending(None, "", 0), 90) == "none of its containers ended by itself (no reason given)"


def test_a_result_survives_json() -> None:
    result = JobResult("j", False, 1, 2.5, ("a", "b"), {"tests": 1}, "a\nb\n", False, "exit code 1", ("cut",))
    assert JobResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result


PYTEST = """<?xml version="1.0" encoding="utf-8"?><testsuites name="pytest tests"><testsuite name="pytest" errors="1" \
failures="1" skipped="1" tests="4" time="0.250"><testcase classname="t.smoke" name="test_ok" time="0.1" />\
<testcase classname="t.smoke" name="test_bad" time="0.1"><failure message="assert 503 == 200">long</failure>\
</testcase><testcase classname="t.smoke" name="test_setup" time="0"><error message="no token=abcdefgh12345">x</error>\
</testcase><testcase classname="t.smoke" name="test_later" time="0"><skipped message="later" /></testcase></testsuite>\
</testsuites>"""


def test_the_junit_document_is_found_between_other_lines() -> None:
    found = document_of(f"collected 4 items\n{PYTEST}generated xml file: /dev/stdout\n")
    assert found
    document, rest = found
    assert document.startswith("<testsuites")
    assert rest == "collected 4 items\ngenerated xml file: /dev/stdout\n"
    junit = read_junit(document)
    assert junit
    counted = {key: junit[key] for key in ("tests", "failures", "errors", "skipped", "seconds")}
    assert counted == {"tests": 4, "failures": 1, "errors": 1, "skipped": 1, "seconds": 0.25}
    assert [case["outcome"] for case in junit["cases"]] == ["failed", "error", "skipped", "passed"]
    assert junit["cases"][0] == {"name": "t.smoke::test_bad", "outcome": "failed", "message": "assert 503 == 200"}
    assert "abcdefgh12345" not in json.dumps(junit)
    assert told(junit).startswith("2 of 4 tests failed: t.smoke::test_bad: assert 503 == 200; t.smoke::test_setup")


@pytest.mark.parametrize(
    "document",
    [
        "<testsuites><testsuite></testsuites>",
        "<testsuites><testsuite tests='x' time='soon'/></testsuites>",
        "<!DOCTYPE x [<!ENTITY a 'aaaa'>]><testsuites>&a;</testsuites>",
        "<testsuites>\x00</testsuites>",
    ],
    ids=["unclosed", "no number", "entities", "binary"],
)
def test_a_document_that_cannot_be_read_is_none(document: str) -> None:
    assert read_junit(document) is None


def test_an_output_without_a_document_has_none() -> None:
    assert document_of("nothing here </testsuites> <testsuites") is None
    assert document_of("") is None
