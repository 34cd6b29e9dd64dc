"""Releases in the sandbox: a real git remote and registry, and a played cluster that runs what is really in them."""

from __future__ import annotations

import io
import itertools
import re
import subprocess
import tarfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from kubernetes import client, config

from sandbox import __main__ as cli
from sandbox.airflow import USERS, Airflow
from sandbox.api import spells
from sandbox.api.__main__ import Pods
from sandbox.api.traffic import Story, amounts
from sandbox.kubernetes.pulling import Puller
from sandbox.releases import images, repository, shipping, story
from sandbox.releases.registry import Reference
from sandbox.service import Sandbox, Service, wait_until
from sandbox.services import api, git, kube, postgres, prometheus, redis, registry
from sandbox.state import ROOT

pytestmark = [pytest.mark.integration, pytest.mark.kube]

PLATFORM = "vcci-production"


def services() -> list[Service]:
    return [git.Git(), registry.Registry(), postgres.Production(), kube.Kube(), api.Api(), prometheus.Prometheus()]


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    made = Sandbox(tmp_path_factory.mktemp("releases") / "home")
    server = redis.Redis()
    try:
        server.start(made)  # the server alone: no queues are needed here
        cli.up(made, services())
        yield made
    finally:
        cli.down(made, [server, *services()])


@pytest.fixture(scope="module")
def kubernetes(sandbox: Sandbox) -> client.ApiClient:
    return config.new_client_from_config(str(kube.kubeconfig(sandbox)))


@pytest.fixture
def broken(sandbox: Sandbox) -> Iterator[Callable[..., None]]:
    yield lambda name, *given: cli.break_(sandbox, services(), name, list(given))
    cli.heal(sandbox, services(), None)


@pytest.fixture
def cluster(sandbox: Sandbox, kubernetes: client.ApiClient) -> Iterator[Cluster]:
    """Give the cluster, and put v2.0.0 and the schema back afterwards."""
    made = Cluster(sandbox, kubernetes)
    yield made
    if made.released:
        made.release("v2.0.0")
        made.wait_rolled_out()


def until(what: str, probe: Callable[[], Any], seconds: float = 20.0) -> Any:
    end = time.monotonic() + seconds
    while not (value := probe()):
        assert time.monotonic() < end, f"not so within {seconds} s: {what}"
        time.sleep(0.1)
    return value


class Cluster:
    """What these tests do with the played cluster."""

    def __init__(self, sandbox: Sandbox, kubernetes: client.ApiClient) -> None:
        self.sandbox = sandbox
        self.core, self.apps = client.CoreV1Api(kubernetes), client.AppsV1Api(kubernetes)
        self.batch = client.BatchV1Api(kubernetes)
        self.released = False

    def image(self, version: str, component: str = "backend-api") -> str:
        name = f"vcci/{component}"
        digest = shipping.digests(self.sandbox.folder)[version][name]
        return f"{registry.host(self.sandbox)}/{name}:{version}@{digest}"

    def release(self, version: str, image: str = "") -> None:
        self.released = True
        container = {"name": "backend-api", "image": image or self.image(version)}
        self.apps.patch_namespaced_deployment(
            "backend-api", PLATFORM, {"spec": {"template": {"spec": {"containers": [container]}}}}
        )

    def pods(self) -> list[Any]:
        found = self.core.list_namespaced_pod(PLATFORM, label_selector="app=backend-api").items
        return [pod for pod in found if not pod.metadata.deletion_timestamp]

    def waiting(self, reason: str) -> Any:
        def find() -> Any:
            states = [(p, s.state.waiting) for p in self.pods() for s in p.status.container_statuses or ()]
            return next(((pod, waiting) for pod, waiting in states if waiting and waiting.reason == reason), None)

        return until(reason, find)

    def wait_rolled_out(self) -> None:
        def so() -> bool:
            found = self.apps.read_namespaced_deployment("backend-api", PLATFORM)
            status, wanted = found.status, found.spec.replicas
            seen = status.observed_generation >= found.metadata.generation
            counts = (status.updated_replicas, status.available_replicas, status.replicas)
            return bool(seen and counts == (wanted, wanted, wanted))

        until("rolled out", so)

    def job(self, image: str, *command: str, env: dict[str, str] | None = None, **container: Any) -> tuple[bool, str]:
        """Run a Job with the environment of backend-api; return whether it succeeded, and its log."""
        deployment = self.apps.read_namespaced_deployment("backend-api", PLATFORM)
        sources = client.ApiClient().sanitize_for_serialization(deployment.spec.template.spec.containers[0].env_from)
        volumes = container.pop("volumes", [])
        spec = {"name": "job", "image": image, "command": list(command), "envFrom": sources, **container}
        spec["env"] = [*spec.pop("variables", []), *({"name": k, "value": v} for k, v in (env or {}).items())]
        template = {"spec": {"restartPolicy": "Never", "containers": [spec], "volumes": volumes}}
        return self.run({"metadata": {}, "spec": {"backoffLimit": 0, "template": template}})

    def run(self, job: dict[str, Any]) -> tuple[bool, str]:
        """Run a Job; return whether it succeeded, and its log."""
        name = job["metadata"]["name"] = f"job-{uuid.uuid4().hex[:8]}"
        self.batch.create_namespaced_job(PLATFORM, job)

        def ended() -> Any:
            status = self.batch.read_namespaced_job(name, PLATFORM).status
            return status if status.succeeded or status.failed else None

        done = until(f"job {name} ended", ended, 60)
        pod = self.core.list_namespaced_pod(PLATFORM, label_selector=f"job-name={name}").items
        pod = pod or [p for p in self.core.list_namespaced_pod(PLATFORM).items if p.metadata.name.startswith(name)]
        answer = self.core.read_namespaced_pod_log(pod[0].metadata.name, PLATFORM, _preload_content=False)
        return bool(done.succeeded), answer.data.decode()

    def ready(self) -> dict[str, Any]:
        answer = requests.get(f"http://127.0.0.1:{self.sandbox.port('api')}/health/ready", timeout=5)
        return dict(answer.json())


# The git remote ----------------------------------------------------------------------------------


def run_git(folder: Path, *args: str, check: bool = True) -> str:
    argv = ["git", "-c", "user.name=t", "-c", "user.email=t@example.com", *args]
    done = subprocess.run(
        argv, cwd=folder, capture_output=True, text=True, check=False, env=repository.environment(), timeout=30
    )
    assert not check or done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def address(sandbox: Sandbox, user: str = "vcci-ops", password: str = "") -> str:
    host = git.Git().connections(sandbox)["vcci_git"]["host"]
    return str(host).replace("http://", f"http://{user}:{password or sandbox.secret('git')}@")


def test_every_start_makes_the_same_history(tmp_path: Path) -> None:
    bares = [repository.ensure(Sandbox(tmp_path / name)) for name in ("one", "two")]
    refs = [repository.git(bare, "for-each-ref") for bare in bares]
    assert refs[0] == refs[1]
    assert repository.git(bares[0], "cat-file", "-t", "v2.0.0").strip() == "tag"
    subjects = repository.git(bares[0], "log", "--format=%s", "v2.0.0..release/v2.1").splitlines()
    assert any(re.fullmatch(r"feat\(\w+\): .* \(#\d+\)", subject) for subject in subjects)
    assert not all(re.match(r"\w+(\(\w+\))?!?: ", subject) for subject in subjects)


@pytest.mark.parametrize(
    ("ref", "contains"),
    [("release/v2.1", True), ("release/v2.3", True), ("release/bad-smoke", True), ("release/v1.9", False)],
)
def test_which_branches_contain_what_runs(sandbox: Sandbox, ref: str, contains: bool) -> None:
    bare = repository.path(sandbox)
    base = repository.git(bare, "merge-base", "v2.0.0", ref).strip()
    assert (base == repository.commit_of(bare, "v2.0.0")) is contains


def test_a_tag_can_be_pushed_and_outlives_a_restart(sandbox: Sandbox, tmp_path: Path) -> None:
    run_git(tmp_path, "clone", "--quiet", address(sandbox), "here")
    here = tmp_path / "here"
    run_git(here, "tag", "-a", "v2.1.0-rc1", "-m", "try", "origin/release/v2.1")
    run_git(here, "push", "--quiet", "origin", "v2.1.0-rc1")
    service = git.Git()
    service.stop(sandbox)
    service.start(sandbox)
    wait_until("git", lambda: service.ready(sandbox))
    assert "refs/tags/v2.1.0-rc1^{}" in run_git(here, "ls-remote", "--tags", "origin")
    run_git(here, "push", "--quiet", "origin", ":refs/tags/v2.1.0-rc1")


def test_nobody_reads_without_the_password(sandbox: Sandbox, tmp_path: Path) -> None:
    assert "Authentication failed" in run_git(tmp_path, "ls-remote", address(sandbox, password="guess"), check=False)
    assert "refs/heads/main" in run_git(tmp_path, "ls-remote", address(sandbox, user="x-access-token"))


def test_the_git_remote_goes_down_and_comes_back(sandbox: Sandbox, broken: Callable[..., None], tmp_path: Path) -> None:
    broken("git-down")
    assert git.Git().ready(sandbox)
    assert "Failed to connect" in run_git(tmp_path, "ls-remote", address(sandbox), check=False)
    cli.heal(sandbox, services(), "git-down")
    assert "refs/heads/main" in run_git(tmp_path, "ls-remote", address(sandbox))


# The registry ------------------------------------------------------------------------------------


def test_the_registry_has_every_release_but_the_one_to_be_built(sandbox: Sandbox) -> None:
    asked = registry.client(sandbox)
    bare = repository.path(sandbox)
    for version, ref in story.SHIPPED.items():
        image = asked.pull("vcci/backend-api", version)
        assert image is not None
        assert image.digest == shipping.digests(sandbox.folder)[version]["vcci/backend-api"]
        assert image.labels[images.VERSION_LABEL] == version
        assert image.labels[images.REVISION_LABEL] == repository.commit_of(bare, ref)
    assert asked.manifest("vcci/backend-api", "v2.3.0") is None
    digests = {asked.pull(f"vcci/{name}", "v2.0.0").digest for name in shipping.COMPONENTS}  # type: ignore[union-attr]
    assert len(digests) == 3


def test_digests_are_the_same_in_every_sandbox(sandbox: Sandbox, tmp_path: Path) -> None:
    assert shipping.plan(Sandbox(tmp_path / "other")) == shipping.digests(sandbox.folder)


def test_images_that_are_there_are_not_pushed_again(sandbox: Sandbox) -> None:
    assert shipping.ship(sandbox, registry.client(sandbox)) < 0.5


def test_the_registry_wants_a_log_in(sandbox: Sandbox) -> None:
    url = f"http://{registry.host(sandbox)}/v2/vcci/worker/manifests/v2.0.0"
    assert requests.get(url, timeout=5).status_code == 401
    login = registry.Registry().connections(sandbox)["vcci_registry"]
    answer = requests.head(
        url, auth=(login["login"], login["password"]), timeout=5, headers={"Accept": images.MANIFEST_TYPE}
    )
    assert answer.headers["Docker-Content-Digest"] == shipping.digests(sandbox.folder)["v2.0.0"]["vcci/worker"]


def test_a_layer_cannot_write_outside_of_its_folder(tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        entry = tarfile.TarInfo("../escaped")
        tar.addfile(entry, io.BytesIO())
    with pytest.raises(images.ImageError, match="leads out of the image"):
        images.unpack(out.getvalue(), tmp_path / "root")
    assert not (tmp_path / "escaped").exists()


# The cluster -------------------------------------------------------------------------------------


def test_what_runs_at_the_start_is_in_the_registry(sandbox: Sandbox, cluster: Cluster) -> None:
    (container,) = cluster.apps.read_namespaced_deployment("backend-api", PLATFORM).spec.template.spec.containers
    assert container.image == cluster.image("v2.0.0")
    ids = {pod.status.container_statuses[0].image_id for pod in cluster.pods()}
    assert ids == {container.image.replace(":v2.0.0@", "@")}
    assert cluster.ready()["version"] == "v2.0.0"


def test_a_release_is_pulled_by_digest_and_reported_by_the_api(cluster: Cluster) -> None:
    cluster.release("v2.1.0")
    cluster.wait_rolled_out()
    assert cluster.image("v2.1.0").endswith(cluster.pods()[0].status.container_statuses[0].image_id.partition("@")[2])
    until("v2.1.0 reported", lambda: [cluster.ready()["version"] for _ in range(3)] == ["v2.1.0"] * 3, 5)


def test_a_digest_that_is_not_there_is_never_pulled(cluster: Cluster) -> None:
    host = registry.host(cluster.sandbox)
    cluster.release("", f"{host}/vcci/backend-api:v9.9.9@sha256:{'0' * 64}")
    pod, waiting = cluster.waiting("ImagePullBackOff")
    assert "not found" in waiting.message
    assert pod.status.container_statuses[0].image_id == ""
    assert cluster.ready()["version"] == "v2.0.0"


def test_a_pull_succeeds_once_the_registry_is_back(cluster: Cluster, broken: Callable[..., None]) -> None:
    broken("registry-down")
    cluster.release("v2.2.0")
    _, waiting = cluster.waiting("ErrImagePull")
    assert "connection refused" in waiting.message
    cli.heal(cluster.sandbox, services(), "registry-down")
    cluster.wait_rolled_out()


def test_a_crashing_release_says_why_in_its_log(cluster: Cluster) -> None:
    cluster.release("v2.1.1")
    pod, _ = cluster.waiting("CrashLoopBackOff")
    log = cluster.core.read_namespaced_pod_log(pod.metadata.name, PLATFORM, previous=True)
    assert "Traceback" in log
    assert pod.status.container_statuses[0].image_id.startswith(registry.host(cluster.sandbox))


def test_a_release_that_needs_too_much_memory_is_killed(cluster: Cluster) -> None:
    cluster.release("v2.1.8")
    pod, _ = cluster.waiting("CrashLoopBackOff")
    ended = pod.status.container_statuses[0].last_state.terminated
    assert (ended.reason, ended.exit_code) == ("OOMKilled", 137)


@pytest.mark.parametrize("version", ["v2.1.2", "v2.1.9"])
def test_a_slow_or_unready_release_runs_and_is_not_ready(cluster: Cluster, version: str) -> None:
    cluster.release(version)

    def found() -> Any:
        running = [p for p in cluster.pods() if version in p.spec.containers[0].image and p.status.phase == "Running"]
        return running[0] if running else None

    pod = until("a running pod", found)
    time.sleep(1)
    again = cluster.core.read_namespaced_pod(pod.metadata.name, PLATFORM)
    assert again.status.container_statuses[0].ready is False


# Jobs --------------------------------------------------------------------------------------------


def revision(sandbox: Sandbox) -> Any:
    with postgres.admin(sandbox, postgres.Production(), postgres.PRODUCTION) as connection:
        return postgres.revision(connection)


def columns(sandbox: Sandbox, table: str) -> set[str]:
    query = "SELECT column_name FROM information_schema.columns WHERE table_name = %s"
    with postgres.admin(sandbox, postgres.Production(), postgres.PRODUCTION) as connection:
        return {row[0] for row in connection.execute(query, (table,))}


def test_the_environment_is_valid_for_a_release_and_not_for_one_that_wants_more(cluster: Cluster) -> None:
    command = ("python", "scripts/validate_production_env.py", "--env", "production")
    assert cluster.job(cluster.image("v2.1.0"), *command)[0]
    good, log = cluster.job(cluster.image("v2.1.7"), *command)
    assert not good
    assert "error: VCCI_INTENSITY_URL is not set" in log
    good, log = cluster.job(cluster.image("v2.1.0"), *command[:-1], "staging")
    assert not good
    assert "VCCI_ENVIRONMENT is production, not staging" in log


def test_smoke_tests_tell_a_good_release_from_a_bad_one(cluster: Cluster) -> None:
    good, log = cluster.job(cluster.image("v2.0.0"), "pytest", "tests/smoke/", "-v", env={"EXPECTED_VERSION": "v2.0.0"})
    assert good, log
    assert "5 passed" in log
    good, log = cluster.job(cluster.image("v2.0.0"), "pytest", "tests/smoke/", env={"EXPECTED_VERSION": "v2.1.0"})
    assert not good
    assert "test_the_api_reports_the_expected_version" in log


def test_a_smoke_test_of_v2_1_5_fails(cluster: Cluster) -> None:
    good, log = cluster.job(cluster.image("v2.1.5"), "pytest", "tests/smoke/test_scores.py")
    assert not good
    assert "400 of 400 suppliers have no score" in log


def test_migrations_go_up_and_down_again_and_fail_where_they_shall(sandbox: Sandbox, cluster: Cluster) -> None:
    def alembic(version: str, *command: str) -> tuple[bool, str]:
        return cluster.job(cluster.image(version), "alembic", *command)

    good, log = alembic("v2.2.0", "upgrade", "0005_activity_indexes:head", "--sql")
    assert good, log
    assert "CREATE INDEX CONCURRENTLY IF NOT EXISTS emissions_supplier_period" in log
    assert "DROP TABLE emission_attachments" in log
    assert revision(sandbox) == "0005_activity_indexes"
    good, log = alembic("v2.1.6", "upgrade", "head")
    assert not good
    assert "division by zero" in log
    assert revision(sandbox) == "0006_supplier_scores"
    assert columns(sandbox, "intensity_units") == set()
    assert alembic("v2.1.0", "upgrade", "head")[0]
    assert alembic("v2.2.0", "upgrade", "0007_drop_old_engagement")[0]
    assert "engagement_status" not in columns(sandbox, "suppliers")
    good, log = alembic("v2.1.0", "current")
    assert not good
    assert "Can't locate revision" in log
    assert alembic("v2.2.0", "downgrade", "0005_activity_indexes")[0]
    assert revision(sandbox) == "0005_activity_indexes"
    assert "data_score" not in columns(sandbox, "suppliers")
    assert "id" in columns(sandbox, "emission_attachments")


def test_a_migration_waits_while_somebody_else_migrates(
    sandbox: Sandbox, cluster: Cluster, broken: Callable[..., None]
) -> None:
    broken("migration-slow", "seconds=3")
    begun = time.monotonic()
    assert cluster.job(cluster.image("v2.0.0"), "alembic", "current")[0]
    assert time.monotonic() - begun > 2


def test_a_job_runs_in_the_tree_of_its_image_with_a_clean_environment(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = "import os, vcci; print(vcci.__version__, sorted(k for k in os.environ if 'PYTEST_C' in k), os.getcwd())"
    good, log = cluster.job(cluster.image("v2.2.0"), "python", "-c", script)
    assert good
    digest = shipping.digests(cluster.sandbox.folder)["v2.2.0"]["vcci/backend-api"].replace(":", "-")
    assert log.strip() == f"v2.2.0 [] {cluster.sandbox.folder}/kube/images/{digest}/root/app"


def test_volumes_of_a_job_are_there_under_their_paths(cluster: Cluster) -> None:
    mount = {"volumeMounts": [{"name": "login", "mountPath": "/login"}, {"name": "out", "mountPath": "/tmp"}]}
    volumes = [{"name": "login", "secret": {"secretName": "vcci-ops-git"}}, {"name": "out", "emptyDir": {}}]
    good, log = cluster.job(
        cluster.image("v2.0.0"), "sh", "-c", "cp /login/token /tmp/copy && wc -c < /tmp/copy", **mount, volumes=volumes
    )
    assert good, log
    assert int(log) == len(cluster.sandbox.secret("git"))
    assert list((cluster.sandbox.folder / "kube" / "volumes").iterdir()) == []


# Traffic -----------------------------------------------------------------------------------------


def error_percent(sandbox: Sandbox) -> float:
    job = 'http_requests_total{job="backend-api"'
    found = prometheus.query(sandbox, f'100 * sum(increase({job},status=~"5.."}}[9s])) / sum(increase({job}}}[9s]))')
    return float(found[0]["value"][1]) if found else -1.0


def going(sandbox: Sandbox) -> dict[str, float]:
    """Return kind and share of the spells that go on."""
    return {spell.kind: spell.share for spell in spells.read(sandbox.folder) if spell.until is None}


def test_errors_come_with_a_release_and_go_with_it(cluster: Cluster) -> None:
    cluster.release("v2.1.3")
    cluster.wait_rolled_out()
    until("errors", lambda: error_percent(cluster.sandbox) > 4)
    pod = cluster.pods()[0].metadata.name
    until("an error logged", lambda: " ERROR vcci." in str(cluster.core.read_namespaced_pod_log(pod, PLATFORM)))
    cluster.release("v2.0.0")
    cluster.wait_rolled_out()
    until("all good again", lambda: error_percent(cluster.sandbox) < 0.5)


def test_a_release_that_is_late_is_so_by_the_share_of_its_pods(cluster: Cluster) -> None:
    cluster.release("v2.1.4")
    shares = []

    def seen() -> bool:
        shares.append(going(cluster.sandbox).get("late", 0.0))
        return shares[-1] == 0.25

    until("all pods late", seen)
    assert shares == sorted(shares)
    cluster.release("v2.0.0")
    cluster.wait_rolled_out()
    until("no longer", lambda: going(cluster.sandbox) == {}, 3)


def counted(sandbox: Sandbox) -> dict[str, float]:
    """Return what the API has counted by now: requests, errors, and those answered within 2.5 s."""
    page = requests.get(f"http://127.0.0.1:{sandbox.port('api')}/metrics", timeout=5).text
    found = {"requests": 0.0, "errors": 0.0, "timely": 0.0, "answered": 0.0}
    for line in page.splitlines():
        name, _, value = line.rpartition(" ")
        found["requests"] += float(value) if name.startswith("http_requests_total") else 0
        found["errors"] += float(value) if re.match(r'http_requests_total.*status="5', name) else 0
        found["timely"] += float(value) if re.match(r'http_request_duration_seconds_bucket.*le="2.5"', name) else 0
        found["answered"] += float(value) if name.startswith("http_request_duration_seconds_count") else 0
    return found


def during(sandbox: Sandbox, seconds: float = 2.0) -> dict[str, float]:
    """Return what it counts in some seconds from now."""
    before = counted(sandbox)
    time.sleep(seconds)
    after = counted(sandbox)
    return {name: after[name] - before[name] for name in after}


def test_spikes_and_silence_begin_now_and_leave_the_past_alone(sandbox: Sandbox, broken: Callable[..., None]) -> None:
    before = counted(sandbox)
    broken("error-spike", "percent=30")
    broken("latency-spike", "percent=50")
    assert counted(sandbox)["errors"] - before["errors"] < 50
    seen = during(sandbox)
    assert seen["errors"] / seen["requests"] == pytest.approx(0.3, abs=0.15)
    assert seen["timely"] / seen["answered"] < 0.9  # each route's counters are whole numbers
    cli.heal(sandbox, services(), None)
    healed = counted(sandbox)
    assert healed["errors"] >= before["errors"] + seen["errors"]
    broken("traffic-loss")
    assert during(sandbox, 1.0)["requests"] == 0
    cli.heal(sandbox, services(), None)
    seen = during(sandbox)
    assert seen["requests"] > 10
    assert seen["errors"] <= 2
    assert counted(sandbox)["errors"] >= healed["errors"]


def test_the_load_balancer_sends_to_one_ready_pod_after_the_other(tmp_path: Path) -> None:
    pods, file = Pods(tmp_path), tmp_path / "kube" / "serving.json"
    assert pods.version() == "v2.0.0"
    file.parent.mkdir()
    file.write_text('{"versions": {"v2.0.0": 1, "v2.1.0": 2}}')
    assert sorted(filter(None, (pods.version() for _ in range(6)))) == ["v2.0.0"] * 2 + ["v2.1.0"] * 4
    file.unlink()
    file.write_text('{"versions": {}}')
    assert pods.version() is None


def test_counters_never_fall_whatever_spells_there_were(tmp_path: Path) -> None:
    now = time.time()
    told = (
        spells.Spell("errors", "cluster", 0.08, now - 300, now - 200),
        spells.Spell("late", "cluster", 0.25, now - 250, now - 150),
        spells.Spell("silence", "traffic-loss", 1.0, now - 220, now - 100),
        spells.Spell("errors", "error-spike", 0.5, now - 120),
    )
    seen = [amounts(now - 400 + 10 * number, Story(spells=told)) for number in range(45)]
    for before, after in itertools.pairwise(seen):
        assert after.requests >= before.requests
        assert after.errors >= before.errors
        assert after.late >= before.late
    assert seen[0] == amounts(now - 400, Story())


def test_spells_of_faults_end_with_the_api(sandbox: Sandbox, broken: Callable[..., None]) -> None:
    broken("error-spike")
    service = api.Api()
    service.stop(sandbox)
    assert not [spell for spell in spells.read(sandbox.folder) if spell.until is None]
    service.start(sandbox)
    wait_until("the API", lambda: service.ready(sandbox))


# Builds ------------------------------------------------------------------------------------------


def build_job(cluster: Cluster, ref: str, tag: str, *more: str, **container: Any) -> tuple[bool, str]:
    """Build as the release pipeline does: rootless BuildKit, log-ins from Secrets."""
    name = f"{registry.host(cluster.sandbox)}/vcci/backend-api:{tag}"
    args = ["build", "--frontend", "dockerfile.v0", "--opt", f"context={git.url(cluster.sandbox)}#{ref}"]
    args += ["--opt", "filename=docker/backend-api.Dockerfile", "--opt", f"build-arg:VERSION={tag}"]
    args += ["--opt", f"build-arg:REVISION={ref}", "--secret", "id=GIT_AUTH_TOKEN,env=GIT_AUTH_TOKEN"]
    args += ["--output", f"type=image,name={name},push=true", *more]
    login = {"secretName": "vcci-ops-registry", "items": [{"key": ".dockerconfigjson", "path": "config.json"}]}
    given: dict[str, Any] = {
        "args": args,
        "env": {"DOCKER_CONFIG": "/docker"},
        "variables": [
            {"name": "GIT_AUTH_TOKEN", "valueFrom": {"secretKeyRef": {"name": "vcci-ops-git", "key": "token"}}}
        ],
        "volumeMounts": [{"name": "docker", "mountPath": "/docker"}],
        "volumes": [{"name": "docker", "secret": login}],
    }
    return cluster.job("moby/buildkit:v0.24.0-rootless", "buildctl-daemonless.sh", **{**given, **container})


def test_a_release_that_is_not_there_is_built_pushed_and_rolled_out(cluster: Cluster) -> None:
    commit = repository.commit_of(repository.path(cluster.sandbox), "release/v2.3")
    good, log = build_job(cluster, commit, "v2.3.0")
    assert good, log
    pushed = re.search(r"pushing manifest for \S+:v2.3.0@(sha256:\w{64}) done", log)
    assert pushed
    image = registry.client(cluster.sandbox).pull("vcci/backend-api", "v2.3.0")
    assert image is not None
    assert (image.digest, image.labels[images.REVISION_LABEL]) == (pushed[1], commit)
    assert cluster.sandbox.secret("git") not in log
    cluster.release("", f"{registry.host(cluster.sandbox)}/vcci/backend-api:v2.3.0@{pushed[1]}")
    cluster.wait_rolled_out()
    until("v2.3.0 reported", lambda: cluster.ready()["version"] == "v2.3.0", 5)


def test_the_manifest_that_is_shipped_builds_with_labels_given(cluster: Cluster) -> None:
    job = yaml.safe_load((ROOT / "include" / "kubernetes" / "jobs" / "buildkit.yaml").read_text())
    name = f"{registry.host(cluster.sandbox)}/vcci/worker:sha-1"
    options = {"context": f"{git.url(cluster.sandbox)}#release/v2.3", "filename": "docker/worker.Dockerfile"}
    options["label:org.opencontainers.image.version"] = "v2.3.0"
    command = ["buildctl-daemonless.sh", "build", "--frontend", "dockerfile.v0"]
    command += [word for key, value in options.items() for word in ("--opt", f"{key}={value}")]
    command += ["--secret", "id=GIT_AUTH_TOKEN,env=GIT_AUTH_TOKEN", "--output", f"type=image,name={name},push=true"]
    container = job["spec"]["template"]["spec"]["containers"][0]
    container.update(image="moby/buildkit:v0.26.2-rootless", command=command)
    good, log = cluster.run(job)
    assert good, log
    image = registry.client(cluster.sandbox).pull("vcci/worker", "sha-1")
    assert image is not None
    assert image.labels[images.VERSION_LABEL] == "v2.3.0"


def test_building_a_shipped_release_gives_the_same_image(cluster: Cluster) -> None:
    commit = repository.commit_of(repository.path(cluster.sandbox), "release/v2.1")
    good, log = build_job(cluster, commit, "v2.1.0")
    assert good, log
    assert shipping.digests(cluster.sandbox.folder)["v2.1.0"]["vcci/backend-api"] in log


def test_a_build_fails_in_its_run_step(cluster: Cluster, broken: Callable[..., None]) -> None:
    broken("build-fails")
    good, log = build_job(cluster, "release/v2.3", "v2.3.1")
    assert not good
    assert 'failed to solve: process "/bin/sh -c python -m compileall -q vcci" did not complete successfully' in log
    assert registry.client(cluster.sandbox).manifest("vcci/backend-api", "v2.3.1") is None


@pytest.mark.parametrize(
    ("ref", "more", "container", "words"),
    [
        pytest.param("release/v2.3", ["--privileged"], {}, "flag provided but not defined: -privileged", id="flag"),
        pytest.param("release/v2.3", ["--opt", "x=y"], {}, "unsupported frontend option x", id="option"),
        pytest.param("no-such-branch", [], {}, "couldn't find remote ref no-such-branch", id="ref"),
        pytest.param(
            "release/v2.3",
            ["--opt", "filename=nowhere"],
            {},
            "failed to read dockerfile: open nowhere",
            id="dockerfile",
        ),
        pytest.param(
            "release/v2.3", [], {"variables": []}, "environment variable GIT_AUTH_TOKEN is not set", id="no token"
        ),
        pytest.param(
            "release/v2.3",
            [],
            {"variables": [{"name": "GIT_AUTH_TOKEN", "value": "guess"}]},
            "failed to fetch the context",
            id="wrong token",
        ),
        pytest.param("release/v2.3", [], {"env": {}}, "401 Unauthorized", id="no registry log-in"),
    ],
)
def test_a_build_that_cannot_be_is_refused_in_words(
    cluster: Cluster, ref: str, more: list[str], container: dict[str, Any], words: str
) -> None:
    good, log = build_job(cluster, ref, "v2.3.9", *more, **container)
    assert not good
    assert words in log


# Small things ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:5000/vcci/worker:v1", Reference("127.0.0.1:5000", "vcci/worker", "v1")),
        (f"h:1/a/b:v1@sha256:{'a' * 64}", Reference("h:1", "a/b", "v1", f"sha256:{'a' * 64}")),
        (f"h:1/a@sha256:{'a' * 64}", Reference("h:1", "a", "", f"sha256:{'a' * 64}")),
        ("worker", None),
        ("h/a@sha256:short", None),
    ],
)
def test_references_are_read(text: str, expected: Reference | None) -> None:
    assert Reference.parse(text) == expected


def test_a_cluster_without_a_registry_knows_no_image_of_its_own(tmp_path: Path) -> None:
    alone = Sandbox(tmp_path)
    alone.port("registry")
    assert Puller(alone.state).host == ""


def test_airflow_knows_one_who_asks_and_two_who_approve(tmp_path: Path) -> None:
    env = Airflow({}).environment(Sandbox(tmp_path))
    given = env["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS"]
    assert given == "admin:admin,viewer:viewer,approver:admin,second-approver:admin"
    assert set(USERS) == {"admin", "viewer", "approver", "second-approver"}
