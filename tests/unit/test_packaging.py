"""What people deploy from: images, Compose, keys, settings, docs, and the script that makes a machine ready."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.fernet import Fernet

from vcci_ops.settings import load_settings

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
CONNECTIONS = {
    *("vcci_kubernetes", "vcci_postgres", "vcci_postgres_restore", "vcci_redis", "vcci_s3", "vcci_slack"),
    *("vcci_postgres_tenants", "vcci_postgres_export", "vcci_postgres_erase", "vcci_postgres_backup"),
    *("vcci_postgres_maintenance", "vcci_postgres_drill_app"),
    *("vcci_ops_db", "vcci_prometheus", "vcci_api", "vcci_statuspage", "vcci_smtp", "vcci_git", "vcci_registry"),
}
KEYS = {
    *("FERNET_KEY", "API_SECRET_KEY", "JWT_SECRET", "POSTGRES_PASSWORD", "AIRFLOW_DB_PASSWORD"),
    *("OPS_DB_PASSWORD", "REDIS_PASSWORD", "ADMIN_PASSWORD"),
}


def run(*argv: str | Path, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(a) for a in argv], capture_output=True, text=True, timeout=120, check=False, **more)


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    data: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yaml").read_text())
    return data


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def strings(value: Any) -> Iterator[str]:
    """Yield every string in a structure."""
    if isinstance(value, dict):
        for item in value.values():
            yield from strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)
    elif isinstance(value, str):
        yield value


# Compose --------------------------------------------------------------------------------------


def test_compose_file_fits_the_specification() -> None:
    done = run(BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", ROOT / "docker-compose.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_key_is_required_and_says_how_to_make_it(compose: dict[str, Any]) -> None:
    used = re.findall(r"(?<!\$)\$\{([A-Z_]+)([^}]*)\}", "\n".join(strings(compose["services"])))
    assert not KEYS - {name for name, _ in used}
    for name, rest in used:
        if name in KEYS:
            assert rest.startswith(":?"), f"{name} would be empty without .env: ${{{name}{rest}}}"
            assert "make env" in rest


def test_nothing_secret_stands_in_the_compose_file(compose: dict[str, Any]) -> None:
    secret = re.compile(r"PASSWORD|SECRET|FERNET|_CONN|BACKEND|BROKER")
    for service, about in compose["services"].items():
        for name, value in (about.get("environment") or {}).items():
            if secret.search(name):
                assert ":?" in str(value), f"{service}: {name} has a literal value"
    assert not re.search(r"://[^:/\s]*:[^$@/\s]+@", (ROOT / "docker-compose.yaml").read_text())


def test_every_airflow_service_shares_one_configuration(compose: dict[str, Any]) -> None:
    services = compose["services"]
    airflow = ("init", "api-server", "scheduler", "dag-processor", "triggerer", "worker")
    shared = services["scheduler"]["environment"]
    for name in airflow:
        assert shared.items() <= services[name]["environment"].items(), name
        assert services[name]["user"] == "50000:0"
    for name in airflow[1:]:
        assert services[name]["depends_on"]["init"] == {"condition": "service_completed_successfully"}
        assert services[name]["restart"] == "unless-stopped"
    for name in {*services} - {"init", "sandbox"}:
        assert services[name]["healthcheck"]["test"], name


def test_published_ports_are_on_loopback_unless_asked(compose: dict[str, Any]) -> None:
    ports = [port for about in compose["services"].values() for port in about.get("ports", [])]
    assert ports
    assert all(port.startswith("${AIRFLOW_BIND:-127.0.0.1}:") for port in ports)


def test_files_that_compose_mounts_exist(compose: dict[str, Any]) -> None:
    for about in compose["services"].values():
        for volume in about.get("volumes", []):
            if volume.startswith("./"):
                assert (ROOT / volume.split(":")[0]).exists(), volume
    assert os.access(ROOT / "include" / "compose" / "databases.sh", os.X_OK)


def test_the_celery_executor_of_the_deployments_can_be_loaded() -> None:
    done = run(BIN / "python", "-c", "import airflow.providers.celery.executors.celery_executor")
    assert done.returncode == 0, done.stderr[-600:]


# Images ---------------------------------------------------------------------------------------


def test_dockerfile_is_clean() -> None:
    done = run(BIN / "hadolint", "--config", ROOT / ".hadolint.yaml", ROOT / "Dockerfile")
    assert done.returncode == 0, done.stdout


def test_the_image_has_the_airflow_that_is_locked() -> None:
    locked = re.search(r"^apache-airflow==(\S+)", (ROOT / "requirements.txt").read_text(), re.M)
    base = re.search(r"^FROM apache/airflow:slim-([\d.]+)-python", (ROOT / "Dockerfile").read_text(), re.M)
    chart = yaml.safe_load((ROOT / "include" / "helm" / "values.yaml").read_text())
    assert locked
    assert base
    assert base[1] == locked[1] == chart["airflowVersion"]


def test_the_build_context_leaves_out_keys_and_history() -> None:
    rules = (ROOT / ".dockerignore").read_text().split("\n")
    allowed = {rule[1:] for rule in rules if rule.startswith("!")}
    assert "*" in rules
    assert not allowed & {".env", "connections.env", ".git", ".venv", ".sandbox"}
    copied = re.findall(r"^COPY (?:--\S+ )*(\S+)(?: (\S+))? \S+$", (ROOT / "Dockerfile").read_text(), re.M)
    assert {name for pair in copied for name in pair if name} <= allowed


def test_helm_values_hold_no_secret() -> None:
    text = (ROOT / "include" / "helm" / "values.yaml").read_text()
    values = yaml.safe_load(text)
    assert values["createUserJob"]["enabled"] is False
    for key in ("fernetKey", "apiSecretKey", "jwtSecret"):
        assert key not in values
    for name in ("fernetKeySecretName", "apiSecretKeySecretName", "jwtSecretName"):
        assert values[name]
    assert "metadataConnection" not in values["data"]
    assert not values["postgresql"]["enabled"]


# Keys -----------------------------------------------------------------------------------------


def test_make_env_writes_fresh_keys_once(tmp_path: Path) -> None:
    first, second = tmp_path / "one", tmp_path / "two"
    for file in (first, second):
        done = run(BIN / "python", ROOT / "scripts" / "make_env.py", "--file", file)
        assert done.returncode == 0, done.stderr
        assert "docker compose up" in done.stdout
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    made, other = (dict(re.findall(r"^(\w+)=(.+)$", file.read_text(), re.M)) for file in (first, second))
    assert set(made) == KEYS
    assert all(made[key] != other[key] for key in KEYS)
    assert len(set(made.values())) == len(KEYS)
    assert all(re.fullmatch(r"[A-Za-z0-9_=-]{24,}", value) for value in made.values()), "safe in URLs"
    assert not made["ADMIN_PASSWORD"].startswith("-"), "it is an argument of a command"
    Fernet(made["FERNET_KEY"]).encrypt(b"works")
    assert not any(value in done.stdout for value in other.values()), "keys do not go to the terminal"


def test_make_env_never_overwrites(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("FERNET_KEY=mine\n")
    done = run(BIN / "python", ROOT / "scripts" / "make_env.py", "--file", file)
    assert done.returncode == 1
    assert "stays as it is" in done.stderr
    assert file.read_text() == "FERNET_KEY=mine\n"


def test_secret_files_are_ignored_by_git() -> None:
    done = run("git", "check-ignore", ".env", "connections.env", ".sandbox/state.json", cwd=ROOT)
    if "not a git repository" in done.stderr:
        pytest.skip("not a git checkout")
    assert done.stdout.split() == [".env", "connections.env", ".sandbox/state.json"]


# Settings -------------------------------------------------------------------------------------


def keys(value: Any, path: str = "") -> set[str]:
    """Return the dotted keys of mappings, below ``links`` and ``checks`` too."""
    if not isinstance(value, dict):
        return {path}
    return {path, *(key for name, item in value.items() for key in keys(item, f"{path}.{name}".strip(".")))}


@pytest.mark.parametrize("environment", ["production", "sandbox"])
def test_settings_load(environment: str) -> None:
    assert load_settings(environment).environment == environment


def test_production_describes_every_key_the_sandbox_uses() -> None:
    folder = ROOT / "include" / "settings"
    production, sandbox = (keys(yaml.safe_load((folder / f"{n}.yaml").read_text())) for n in ("production", "sandbox"))
    assert not sandbox - production
    full = keys(load_settings("production").model_dump(by_alias=True, exclude={"checks", "links"}))
    # Entries of a list or table: each shows the keys it needs, and a comment names the others.
    full = {key for key in full if not key.startswith(("kubernetes.workloads.", "tls.", "scaling.workloads."))}
    assert not full - production, "keys that exist and that production.yaml does not show"


def test_every_key_of_production_is_commented() -> None:
    text = (ROOT / "include" / "settings" / "production.yaml").read_text()
    text = re.sub(r"\nlinks:\n(  .*\n)+", "\n", text).partition("\nchecks:\n")[0]
    lines = text.split("\n")
    for number, line in enumerate(lines):
        if re.match(r"^(  )?[a-z_]+: \S", line):
            assert any("#" in other for other in lines[max(number - 2, 0) : number + 1]), line


# Docs -----------------------------------------------------------------------------------------


def test_every_connection_is_documented() -> None:
    text = (ROOT / "docs" / "connections.md").read_text()
    for connection in CONNECTIONS:
        assert f"\n### {connection}\n" in text, connection
        assert f"| `{connection}` |" in text, connection


def test_connections_that_the_code_uses_are_known() -> None:
    sources = [*(ROOT / "plugins").rglob("*.py"), *(ROOT / "dags").glob("*.py")]
    used = {name for file in sources for name in re.findall(r"conn_id(?:: str)? ?= ?\"(vcci_\w+)\"", file.read_text())}
    assert used
    assert used <= CONNECTIONS


def test_every_dependency_has_its_reason(project: dict[str, Any]) -> None:
    text = (ROOT / "docs" / "dependencies.md").read_text()
    groups = project["dependency-groups"]
    for entry in [*project["project"]["dependencies"], *groups["sandbox"], *groups["dev"]]:
        name = re.split(r"[\[=<>!~; ]", entry)[0]
        assert f"| `{name}` |" in text, name


def test_links_between_pages_lead_somewhere() -> None:
    pages = [ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")]
    for page in pages:
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} → {target}"


def test_every_fault_is_in_the_sandbox_page() -> None:
    from sandbox.services import all_services

    text = (ROOT / "docs" / "sandbox.md").read_text()
    faults = {fault.name for service in all_services() for fault in service.faults}
    assert faults == set(re.findall(r"^\| `([a-z0-9-]+)` \|", text, re.M))


@contextlib.contextmanager
def redis_server(folder: Path) -> Iterator[int]:
    """Run a Redis on a free loopback port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    argv = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    server = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    try:
        until = time.monotonic() + 10
        while run("redis-cli", "-p", str(port), "ping").stdout.strip() != "PONG":
            assert time.monotonic() < until
            time.sleep(0.05)
        yield port
    finally:
        server.terminate()
        server.wait(10)


@pytest.mark.integration
def test_documented_redis_rights_read_and_take_nothing(tmp_path: Path) -> None:
    import redis

    rule = re.search(r"^ACL SETUSER .+$", (ROOT / "docs" / "connections.md").read_text(), re.M)
    assert rule
    with redis_server(tmp_path) as port:
        admin = redis.Redis(port=port)
        words = re.findall(r"\([^)]*\)|\S+", rule[0].replace(">PASSWORD", ">password"))
        admin.execute_command(*words)
        admin.rpush("celery:intake", "task")
        account = redis.Redis(port=port, username="vcci_ops", password="password")
        assert account.llen("celery:intake") == 1
        assert account.publish("celery:/0.celery.pidbox", "ping") == 0
        account.sadd("celery:_kombu.binding.reply.celery.pidbox", "me")
        assert account.rpop("celery:me.reply.celery.pidbox") is None
        refused = (
            ("LPOP", "celery:intake"),
            ("RPOP", "celery:intake"),
            ("DEL", "celery:intake"),
            ("RPUSH", "celery:intake", "x"),
            ("SADD", "celery:_kombu.binding.intake", "x"),
            ("GET", "cache:tenant:1:x"),
            ("FLUSHDB",),
            ("CONFIG", "GET", "*"),
        )
        for command in refused:
            with pytest.raises(redis.exceptions.NoPermissionError):
                account.execute_command(*command)
        assert admin.lrange("celery:intake", 0, -1) == [b"task"]


# The DAG reference ----------------------------------------------------------------------------


SAMPLE = '''"""# Sample

Does a thing.
"""
from airflow.sdk import DAG, Param
from airflow.providers.standard.operators.empty import EmptyOperator

with DAG("sample", schedule="0 9 * * *", doc_md=__doc__, description="A sample", tags=["read-only"],
         default_args={"owner": "devops"}, params={"window": Param("24h", type="string", description="A | B")}):
    EmptyOperator(task_id="first", doc_md="Start here.") >> EmptyOperator(task_id="second")
'''


def test_dag_reference_is_written_from_the_dags_and_notices_when_it_is_stale(tmp_path: Path) -> None:
    dags, page = tmp_path / "dags", tmp_path / "dags.md"
    dags.mkdir()
    (dags / "sample.py").write_text(SAMPLE)
    reference = (BIN / "python", ROOT / "scripts" / "dag_reference.py", "--dags", dags, "--page", page)
    assert run(*reference).returncode == 0
    text = page.read_text()
    for line in (
        "| `0 9 * * *` | devops | read-only | dags/sample.py |",
        '| `window` | string | `"24h"` | A \\| B |',
        "| `first` | `EmptyOperator` | Start here. | - |",
        "#### Sample",
    ):
        assert line in text
    (dags / "sample.py").write_text(SAMPLE.replace("24h", "48h"))
    stale = run(*reference, "--check")
    assert stale.returncode == 1
    assert '+| `window` | string | `"48h"`' in stale.stdout
    assert "dag_reference.py" in stale.stderr
    assert page.read_text() == text, "--check writes nothing"


def test_the_dag_reference_is_current() -> None:
    done = run(BIN / "python", ROOT / "scripts" / "dag_reference.py", "--check")
    assert done.returncode == 0, done.stdout + done.stderr


# A machine made ready -------------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout that has only what scripts/bootstrap reads, and no environment."""
    for name in ("scripts/bootstrap", "requirements-dev.txt"):
        target = tmp_path / "checkout" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target)
    return tmp_path / "checkout"


def bare_path(folder: Path, *programs: str) -> dict[str, str]:
    """Return an environment whose PATH has these programs and no others."""
    folder.mkdir()
    for program in ("bash", "dirname", "sed", "sort", "sha256sum", "readlink", *programs):
        (folder / program).symlink_to(str(shutil.which(program)))
    return {"PATH": str(folder), "HOME": str(folder)}


def ready(checkout: Path) -> float:
    """Pretend the environment is there, made from this lock; return how long bootstrap then takes."""
    venv = checkout / ".venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to(sys.executable)
    (venv / "pyvenv.cfg").write_text("home = /usr/bin\nversion = 3.11.2\n")
    digest = run("sha256sum", checkout / "requirements-dev.txt").stdout.split()[0]
    (venv / ".stamp").write_text(f"{digest} 3.11.2 {venv}\n")
    begun = time.perf_counter()
    done = run(checkout / "scripts" / "bootstrap")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return time.perf_counter() - begun


def test_bootstrap_does_nothing_when_all_is_there(checkout: Path) -> None:
    assert min(ready(checkout), 1.0) < 0.5


def test_bootstrap_begins_again_when_the_lock_changed_and_says_when_no_index_answers(checkout: Path) -> None:
    ready(checkout)
    with open(checkout / "requirements-dev.txt", "a") as lock:
        lock.write("# changed\n")
    unreachable = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_CONFIG_FILE": "/dev/null", "PIP_RETRIES": "0"}
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_"))}
    env |= {**unreachable, "PIP_NO_CACHE_DIR": "1"}
    done = run(checkout / "scripts" / "bootstrap", "--python-only", env=env)
    assert done.returncode == 1
    assert re.search(r"\[2/3\] Python environment: \.venv, from Python 3\.1[123]", done.stdout)
    assert re.search(r"\[3/3\] Python packages: \d+, pinned with hashes", done.stdout)
    assert "Is a package index reachable?" in done.stderr
    assert not (checkout / ".venv" / ".stamp").exists(), "the next call has to try again"


def test_bootstrap_says_what_is_missing_and_how_to_get_it(checkout: Path, tmp_path: Path) -> None:
    done = run("/bin/bash", checkout / "scripts" / "bootstrap", env=bare_path(tmp_path / "bin", "git"))
    assert done.returncode == 1
    assert "This machine has no apt-get" in done.stderr
    missing = re.search(r"apt-get install (.+)", done.stderr)
    assert missing
    for package in ("prometheus", "redis-server"):
        if not any((Path(folder) / package).exists() for folder in ("/usr/sbin", "/sbin")):
            assert package in missing[1].split()
    assert "git" not in missing[1].split(), "it is there"


def test_bootstrap_passes_over_a_python_that_does_not_run(checkout: Path, tmp_path: Path) -> None:
    env = bare_path(tmp_path / "bin")
    shim = tmp_path / "bin" / "python3.11"
    shim.write_text("#!/bin/bash\necho 'python3.11: command not found' >&2\nexit 127\n")
    shim.chmod(0o755)
    script = (checkout / "scripts" / "bootstrap").read_text().rpartition("\ncase ")[0]
    (tmp_path / "bin" / "python3.12").symlink_to(sys.executable)
    (checkout / "scripts" / "functions").write_text(f"{script}\nfind_python\n")
    assert run("/bin/bash", checkout / "scripts" / "functions", env=env).stdout.strip() == "python3.12"


def test_shell_scripts_are_clean() -> None:
    scripts = [ROOT / "scripts" / "bootstrap", ROOT / "include" / "compose" / "databases.sh"]
    done = run(BIN / "shellcheck", *scripts)
    assert done.returncode == 0, done.stdout
