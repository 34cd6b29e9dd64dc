"""Settings: one typed YAML file per environment, under include/settings/.

``VCCI_OPS_SETTINGS`` names the file to use (a path, or the name of an environment). What the checks
mean and what to do about them is the same everywhere and lives in include/checks.yaml; which values
are too high lives in the environment's file. No secret belongs in either: credentials are Airflow
connections. A mistake raises :class:`~vcci_ops.exceptions.InvalidInput` naming the key.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import Field, ValidationError, model_validator

from vcci_ops.exceptions import InvalidInput
from vcci_ops.settings_backup import DatabaseBackup
from vcci_ops.settings_base import DnsLabel, Duration, Model
from vcci_ops.settings_drill import Drill
from vcci_ops.settings_maintenance import Maintenance
from vcci_ops.settings_release import Release
from vcci_ops.settings_scaling import Scaling
from vcci_ops.settings_tenants import AccessReview, Tenants

INCLUDE = Path(os.environ.get("VCCI_OPS_INCLUDE") or Path(__file__).resolve().parents[2] / "include")
DEFAULT_ENVIRONMENT = "production"

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

M = TypeVar("M", bound=Model)


class Threshold(Model):
    """When a value is a warning, and when it is critical."""

    unit: str
    """Unit of both limits, and of the value: percent, s, bytes, pods, tasks ..."""
    warning: float | None = None
    """Warning from beyond this value on; none: never a warning."""
    critical: float | None = None
    """Critical from beyond this value on; none: never critical."""
    direction: Literal["above", "below"] = "above"
    """Which side of the limits is bad. The limit itself is still good."""
    warning_above: float | None = None
    """With direction below: far too much is a warning too, from beyond this value on."""
    for_: Duration = Field(default=0.0, alias="for")
    """How long it must have been so, in seconds; only for checks that can look back in time."""

    @model_validator(mode="after")
    def _ordered(self) -> Threshold:
        if self.warning_above is not None and (self.direction == "above" or self.warning_above <= (self.warning or 0)):
            raise ValueError("warning_above only with direction below, and above the warning limit")
        if self.warning is not None and self.critical is not None:
            wrong = self.warning > self.critical if self.direction == "above" else self.warning < self.critical
            if wrong:
                raise ValueError(
                    f"a warning limit that is passed before the critical one (direction: {self.direction})"
                )
        return self


class Check(Model):
    """A check as settings describe it: what it means, what to do, when it is bad."""

    id: str
    section: str
    title: str
    meaning: str
    action: str
    runbook: str
    threshold: Threshold | None = None
    link: str = ""
    can_look_back: bool = False
    """Whether ``for`` may be set: the check sees how long a value has been what it is."""


class Workload(Model):
    """A Deployment that the platform needs."""

    name: DnsLabel
    """Name of the Deployment."""
    container: DnsLabel
    """The container whose logs and image matter."""
    selector: str
    """Label selector of its pods, for pages that a person opens next; the checks follow owners."""


class Kubernetes(Model):
    """Where the platform runs."""

    namespace: DnsLabel
    workloads: tuple[Workload, ...] = Field(min_length=1)
    restart_window: Duration = 3600.0
    """Restarts count when the last one is younger than this."""
    page_size: int = Field(default=500, ge=1, le=5000)
    """Objects per list request; bounds memory."""


class Logs(Model):
    """Whose logs are searched for errors."""

    workload: DnsLabel
    """Deployment whose pods' logs are read."""
    container: DnsLabel
    error_markers: tuple[str, ...] = ("ERROR", "CRITICAL", "FATAL")
    """A line with one of these is an error line."""
    max_signatures: int = Field(default=200, ge=1)
    """Distinct signatures kept; further ones are counted together."""


class Api(Model):
    """The platform's own health endpoint."""

    readiness_path: str = "/health/ready"
    ready_status: tuple[str, ...] = ("ready", "ok")
    """Values of ``status`` in the readiness document that count as ready."""


class Metrics(Model):
    """What is asked of Prometheus."""

    requests: str
    """PromQL: number of requests in {window}{offset}."""
    errors: str
    """PromQL: number of requests answered with 5xx in {window}{offset}."""
    up: str = 'up{job="backend-api"}'
    """PromQL: the scrape targets that must exist for 'no requests' to mean no requests."""
    compare_weeks: int = Field(default=4, ge=1, le=12)
    """How many same weekdays of the past a value is compared with."""
    min_requests: float = 100
    """Below this many requests an error ratio says nothing."""


class Database(Model):
    """The production database."""

    name: str
    """Name of the production database."""
    active_within: Duration = 86400.0
    """A tenant with a session younger than this is active."""
    slow_query_min_calls: int = Field(default=20, ge=1)
    slow_query_ms: float = Field(default=100.0, gt=0)
    """Mean execution time above which a statement counts as slow."""
    slow_query_factor: float = Field(default=2.0, gt=1)
    """How much slower than in the last snapshot counts as slower."""


class Queues(Model):
    """Celery's queues on Redis."""

    names: tuple[str, ...] = Field(min_length=1)
    key_prefix: str = ""
    """Celery's global_keyprefix."""
    priority_steps: tuple[int, ...] = (0, 3, 6, 9)
    """Celery's priority_steps: a list per queue and step."""
    separator: str = "\x06\x16"
    """Celery's sep between queue and priority."""


class Backups(Model):
    """Where the database's backups are."""

    bucket: str
    prefix: str
    """Key prefix of the daily backups, with the closing slash."""
    key_format: str = "vcci_production-%Y%m%dT%H%M%SZ.dump"
    """strftime of a backup's file name below the prefix; sorting by name is sorting by time."""
    manifest_suffix: str = ".manifest.json"
    manifest_within: Duration = 7200.0
    """So long a newest backup without a manifest is taken for one that is being made, and the one before it counts."""
    compare: int = Field(default=7, ge=1, le=60)
    """The size is compared with the median of this many earlier backups."""


class TlsHost(Model):
    """A certificate to watch on the wire."""

    host: str | None = None
    """Address to connect to; default: that of the connection vcci_api."""
    port: int | None = Field(default=None, ge=1, le=65535)
    """Default: that of the connection vcci_api, else 443."""
    server_name: str
    """Name the certificate must be valid for (SNI)."""


class Reports(Model):
    """Where reports are kept."""

    bucket: str
    prefix: str = "reports/"


class Slack(Model):
    """Where people are told."""

    channel: str = Field(pattern=r"^(#[a-z0-9_-]{1,79}|[CG][A-Z0-9]{8,})$")
    """Channel the reports go to, by #name or id."""


class OnCall(Model):
    """Who is told when a report cannot be delivered."""

    mail_from: str = Field(pattern=r"^[^@\s]+@[^@\s]+$")
    mail_to: str = Field(pattern=r"^[^@\s]+@[^@\s]+$")
    """The on-call mailbox."""

    @property
    def mail(self) -> dict[str, str]:
        """What the SMTP provider's notifiers need to write to the on-call mailbox."""
        return {"smtp_conn_id": "vcci_smtp", "from_email": self.mail_from, "to": self.mail_to}


class DailyHealthCheck(Model):
    """The morning health check."""

    schedule: str = "0 9 * * *"
    """Cron, in UTC."""
    lookback: Literal["1h", "6h", "24h", "7d"] = "24h"
    """Window of the key metrics, the active tenants and the audit log."""
    error_window: Literal["15m", "1h", "6h", "24h"] = "1h"
    """Window of the error logs."""


class HourlyChecks(Model):
    """The looks of every hour."""

    schedule: str = "0 * * * *"
    """Cron, in UTC."""
    red_after: int = Field(default=3, ge=1)
    """Bad looks in a row that turn a check red: a message of its own, and a page."""
    green_after: int = Field(default=2, ge=1)
    """Good looks in a row that turn it green again."""


class Settings(Model):
    """All settings of one environment."""

    environment: str
    owner: str
    """Owner shown on the DAGs."""
    kubernetes: Kubernetes
    logs: Logs
    api: Api = Api()
    metrics: Metrics
    database: Database
    queues: Queues
    backups: Backups
    tls: tuple[TlsHost, ...] = Field(min_length=1)
    reports: Reports
    slack: Slack
    on_call: OnCall
    airflow_url: str
    """Where people reach this Airflow, for links in Slack and reports."""
    links: dict[str, str] = Field(default_factory=dict)
    """Named pages (dashboards) that checks link to."""
    daily_health_check: DailyHealthCheck = DailyHealthCheck()
    hourly_checks: HourlyChecks = HourlyChecks()
    release: Release
    scaling: Scaling
    tenants: Tenants
    access_review: AccessReview = AccessReview()
    database_backup: DatabaseBackup = DatabaseBackup()
    drill: Drill = Drill()
    maintenance: Maintenance
    checks: dict[str, Check]

    @model_validator(mode="after")
    def _no_backup_outlives_its_promise(self) -> Settings:
        kept, promised = self.database_backup.retention.longest, self.tenants.erasure.backups_kept
        if self.database_backup.enabled and kept > promised:
            raise ValueError(
                f"database_backup.retention keeps backups for {kept / 86400:.0f} days, and certificates of deletion "
                f"promise that none is older than tenants.erasure.backups_kept, {promised / 86400:.0f} days"
            )
        return self

    def pick(self, *ids: str) -> tuple[Check, ...]:
        """Return the checks with these ids.

        :raises InvalidInput: when the settings describe no such check.
        """
        for id_ in ids:
            if id_ not in self.checks:
                raise InvalidInput("check", id_, f"one of {', '.join(sorted(self.checks))}")
        return tuple(self.checks[id_] for id_ in ids)


def load_settings(source: str | Path | None = None) -> Settings:
    """Load and validate the settings; cached per file and its time of change.

    :param source: path of a YAML file or name of an environment; default ``VCCI_OPS_SETTINGS``, else
        ``production``.
    :raises InvalidInput: when the file is missing or a key is wrong; names file and key.
    """
    named = str(source or os.environ.get("VCCI_OPS_SETTINGS") or DEFAULT_ENVIRONMENT)
    path = Path(named) if named.endswith((".yaml", ".yml")) else INCLUDE / "settings" / f"{named}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in (INCLUDE / "settings").glob("*.yaml")))
        raise InvalidInput("VCCI_OPS_SETTINGS", named, f"the path of a YAML file, or one of {known}")
    texts = INCLUDE / "checks.yaml"
    return _load(path, path.stat().st_mtime_ns, texts, texts.stat().st_mtime_ns)


@functools.lru_cache(maxsize=8)
def _load(path: Path, _changed: int, texts: Path, _texts_changed: int) -> Settings:
    data = _mapping(_read(path), path.name)
    described = _mapping(_read(texts), texts.name)
    limits = _mapping(data.get("checks"), f"{path.name}: checks")
    for id_ in limits:
        if id_ not in described:
            raise InvalidInput(f"{path.name}: checks.{id_}", limits[id_], f"a check of {texts.name}")
    links = _mapping(data.get("links"), f"{path.name}: links")
    data["checks"] = {
        id_: _check(f"{path.name}: checks.{id_}", id_, text, limits.get(id_), links) for id_, text in described.items()
    }
    return _validated(Settings, data, path.name)


def _check(where: str, id_: str, text: dict[str, Any], limits: Any, links: dict[str, str]) -> Check:
    given = dict(_mapping(limits, where))
    link = given.pop("link", text.get("link", ""))
    if link and "://" not in link:
        if link not in links:
            raise InvalidInput(f"{where}.link", link, f"a URL or one of links: {', '.join(sorted(links)) or 'none'}")
        link = links[link]
    if given.get("for") and not text.get("can_look_back"):
        raise InvalidInput(f"{where}.for", given["for"], "nothing: this check sees only the present")
    threshold = _validated(Threshold, given, where) if given else None
    return _validated(Check, {**text, "id": id_, "link": link, "threshold": threshold}, where)


def _read(path: Path) -> Any:
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_LOADER)  # noqa: S506  a safe loader, in C
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path.name}: line {mark.line + 1}" if mark else path.name
        raise InvalidInput(where, getattr(error, "problem", str(error)), "valid YAML") from error


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidInput(where, value, "a mapping of keys to values")
    return value


def _validated(model: type[M], data: dict[str, Any], where: str) -> M:
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise _first_problem(error.errors(), where) from error


def _first_problem(problems: Iterable[Any], where: str) -> InvalidInput:
    problem = next(iter(problems))
    key = ".".join(str(part) for part in problem["loc"])
    wanted, given = problem["msg"].removeprefix("Value error, ").removeprefix("Input should be "), problem["input"]
    if problem["type"] == "missing":
        wanted, given = "a value, for this key is required", None
    elif problem["type"] == "extra_forbidden":
        wanted = "no such key: is it misspelt?"
    return InvalidInput(f"{where}: {key}" if key else where, given, wanted)
