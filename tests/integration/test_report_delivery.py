"""The report reaches S3, the history and Slack, each whatever happens to the others, and once."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from sandbox.service import Sandbox, Service, wait_until
from sandbox.services import postgres, s3
from sandbox.services.messages import Messages
from vcci_ops.domain.checks import judged
from vcci_ops.domain.results import Status
from vcci_ops.exceptions import Unreachable
from vcci_ops.hooks.history import MIGRATIONS, History, upgrade
from vcci_ops.hooks.reports import ReportStore, report_key
from vcci_ops.notifications.silence import SilentRunNotifier
from vcci_ops.operators.hourly import LookNoticeOperator, LookReportOperator
from vcci_ops.operators.http import ReadinessCheckOperator, TlsCheckOperator
from vcci_ops.operators.report import HealthReportOperator, SlackReportOperator, VerdictOperator
from vcci_ops.settings import load_settings

pytestmark = pytest.mark.integration
SETTINGS = load_settings("sandbox")


class Places:
    """The three places a report goes to."""

    def __init__(self, folder: Path) -> None:
        self.sandbox = Sandbox(folder)
        pg = next(s for s in postgres.services() if s.name == "pg-airflow")
        self.services: list[Service] = [pg, s3.S3(), Messages()]
        for service in self.services:
            service.start(self.sandbox)
            wait_until(service.name, lambda s=service: s.ready(self.sandbox), seconds=60)
        pg.prepare(self.sandbox)
        self.connections = {k: dict(v) for s in self.services for k, v in s.connections(self.sandbox).items()}
        extra = self.connections["vcci_s3"]["extra"]
        extra = json.loads(extra) if isinstance(extra, str) else extra
        extra["endpoint_url"] = f"http://127.0.0.1:{self.sandbox.port('s3-direct')}"
        self.connections["vcci_s3"]["extra"] = extra

    def inbox(self) -> Any:
        return requests.get(f"http://127.0.0.1:{self.sandbox.port('inbox')}/api/slack", timeout=5).text


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    """Start PostgreSQL, S3 and Slack once."""
    folder = tmp_path_factory.mktemp("places")
    os.environ["VCCI_SANDBOX_HOME"] = str(folder)
    places = Places(folder)
    try:
        yield places
    finally:
        for service in reversed(places.services):
            service.stop(places.sandbox)
        del os.environ["VCCI_SANDBOX_HOME"]


@pytest.fixture
def places(started: Places, monkeypatch: pytest.MonkeyPatch) -> Places:
    """Give the places with their connections in the environment, history migrated, bucket there."""
    for id_, connection in started.connections.items():
        monkeypatch.setenv(f"AIRFLOW_CONN_{id_.upper()}", json.dumps(connection))
    upgrade()
    client = ReportStore(SETTINGS.reports.bucket, "x/", "sandbox")._hook.get_conn()
    if SETTINGS.reports.bucket not in {b["Name"] for b in client.list_buckets()["Buckets"]}:
        client.create_bucket(
            Bucket=SETTINGS.reports.bucket, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"}
        )
    return started


class Run:
    """A DAG run as its operators see it, with two check tasks of which the second left nothing."""

    def __init__(self, task_class: Any, run_id: str = "manual__2026-11-23T09:00:00+00:00") -> None:
        self.task = task_class
        self.pulled: dict[tuple[str, str], Any] = {}
        self.params: dict[str, Any] = {}
        with DAG("daily_health_check", schedule=None) as self.dag:
            ready = ReadinessCheckOperator(task_id="system_health.readiness")
            tls = TlsCheckOperator(task_id="certificates.wire", hosts=SETTINGS.tls)
            self.report = HealthReportOperator(task_id="report", title="Daily health check")
            self.slack = SlackReportOperator(task_id="slack", report_task_id="report", channel="#vcci-ops")
            self.verdict = VerdictOperator(task_id="verdict", report_task_id="report", delivery_task_ids=["slack"])
            [ready, tls] >> self.report >> self.slack >> self.verdict
        self.run = types.SimpleNamespace(dag_id="daily_health_check", run_id=run_id, start_date=dt.datetime.now(dt.UTC))
        checks = SETTINGS.checks
        fine = [judged(checks["api.latency"], 0.1, "fine"), judged(checks["api.ready"], 1, "ready")]
        self.pulled["system_health.readiness", "results"] = [r.to_dict() for r in fine]

    def execute(self, operator: Any, try_number: int = 1) -> Any:
        ti = self.task(self.pulled, try_number)
        try:
            value = operator.execute({"ti": ti, "dag": self.dag, "dag_run": self.run, "params": self.params})
            self.pulled[operator.task_id, "return_value"] = value
            return value
        finally:
            self.pulled.update({(operator.task_id, key): value for key, value in ti.pushed.items()})


def test_a_check_task_that_left_nothing_is_reported_as_unknown(places: Places, recording_task: Any) -> None:
    run = Run(recording_task, "lost-task")
    run.execute(run.report)
    report = run.pulled["report", "report"]
    assert report["status"] == "unknown"
    document = History().report("sandbox", "daily_health_check", "lost-task")
    assert document is not None
    lost = next(r for r in document["results"] if r["check"] == "certificates.expiry")
    assert "its task certificates.wire did not finish" in lost["summary"]
    run.execute(run.slack)
    with pytest.raises(AirflowFailException, match=r"Not everything could be measured.*Certificate expiry"):
        run.execute(run.verdict)


def test_repeating_a_run_replaces_its_rows_and_is_not_its_own_past(places: Places, recording_task: Any) -> None:
    run = Run(recording_task, "twice")
    for _ in range(2):
        run.execute(run.report)
    document = History().report("sandbox", "daily_health_check", "twice")
    assert document is not None
    assert document["compared_with"] != document["started_at"]
    mine = [r for r in _runs() if r == "twice"]
    assert len(mine) == 1


def _runs() -> list[str]:
    with History().connect() as connection:
        return [run_id for (run_id,) in connection.execute("SELECT run_id FROM run ORDER BY started_at")]


def test_a_run_is_compared_with_its_like(places: Places, recording_task: Any) -> None:
    def compared(run_id: str, sections: list[str] | None = None) -> Any:
        run = Run(recording_task, run_id)
        run.params = {"sections": sections or ["system_health", "certificates"]}
        run.execute(run.report)
        document = History().report("sandbox", "daily_health_check", run_id)
        return document and document["started_at"], document and document["compared_with"]

    yesterday, _ = compared("scheduled__1")
    by_hand, before_hand = compared("manual__1")
    assert before_hand == yesterday
    part, _ = compared("manual__part", ["certificates"])
    _, scheduled_before = compared("scheduled__2")
    assert scheduled_before == yesterday
    _, part_before = compared("manual__part2", ["certificates"])
    assert part_before == part
    assert by_hand != part


def test_s3_refusing_leaves_the_report_in_the_history_and_fails_the_task(
    places: Places, recording_task: Any, monkeypatch: Any
) -> None:
    broken = {**places.connections["vcci_s3"]}
    broken["extra"] = {**broken["extra"], "endpoint_url": "http://127.0.0.1:1"}
    monkeypatch.setenv("AIRFLOW_CONN_VCCI_S3", json.dumps(broken))
    run = Run(recording_task, "no-s3")
    with pytest.raises(AirflowException, match=r"did not arrive everywhere: s3: s3://vcci-reports: EndpointConnection"):
        run.execute(run.report)
    assert History().report("sandbox", "daily_health_check", "no-s3")
    assert list(run.pulled["report", "report"]["arrived"]) == ["history"]
    run.execute(run.slack)
    assert "did not arrive in s3" in places.inbox()
    with pytest.raises(AirflowFailException, match="s3://vcci-reports"):
        run.execute(run.verdict)


def test_missing_bucket_is_named(places: Places, recording_task: Any) -> None:
    run = Run(recording_task, "no-bucket")
    run.report.settings = SETTINGS.model_copy(
        update={"reports": SETTINGS.reports.model_copy(update={"bucket": "nope"})}
    )
    with pytest.raises(AirflowException, match="s3://nope: NoSuchBucket"):
        run.execute(run.report)


def test_history_down_leaves_the_report_in_s3_and_says_there_is_no_comparison(
    places: Places, recording_task: Any, monkeypatch: Any
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_VCCI_OPS_DB", json.dumps({**places.connections["vcci_ops_db"], "port": 1}))
    run = Run(recording_task, "no-history")
    with pytest.raises(AirflowException, match="history: The history database did not answer"):
        run.execute(run.report)
    page = ReportStore(SETTINGS.reports.bucket, SETTINGS.reports.prefix, "sandbox").page(
        "daily_health_check", "no-history"
    )
    assert page is not None
    assert "No comparison with earlier reports and no trends: The history database did not answer" in page
    assert run.execute(run.slack).count("/") == 1


def test_a_try_that_died_after_posting_does_not_post_again(places: Places, recording_task: Any) -> None:
    run = Run(recording_task, "killed-after-post")
    run.execute(run.report)
    block_id = run.pulled["report", "report"]["slack"]["block_id"]
    first = run.execute(run.slack)
    again = run.execute(run.slack, try_number=2)
    assert first == again
    assert places.inbox().count(f'"{block_id}"') == 1


def test_slack_refusal_names_the_error_and_where_the_report_is(
    places: Places, recording_task: Any, monkeypatch: Any
) -> None:
    run = Run(recording_task, "wrong-token")
    run.execute(run.report)
    wrong = {**places.connections["vcci_slack"], "password": "xoxb-not-this-one"}
    monkeypatch.setenv("AIRFLOW_CONN_VCCI_SLACK", json.dumps(wrong))
    with pytest.raises(AirflowException, match=r"chat.postMessage refused: invalid_auth.*s3://vcci-reports/") as raised:
        run.execute(run.slack)
    assert "xoxb" not in str(raised.value)
    with pytest.raises(AirflowFailException, match="slack failed"):
        run.execute(run.verdict)


def test_slack_down_is_in_words(places: Places, recording_task: Any, monkeypatch: Any) -> None:
    run = Run(recording_task, "slack-down")
    run.execute(run.report)
    extra = {"base_url": "http://127.0.0.1:1/api/"}
    monkeypatch.setenv("AIRFLOW_CONN_VCCI_SLACK", json.dumps({**places.connections["vcci_slack"], "extra": extra}))
    with pytest.raises(AirflowException, match=r"Slack: chat\.postMessage: no answer"):
        run.execute(run.slack)


@pytest.mark.parametrize("channel", ["#Ops", "#ops\n", "ops", "<!channel>", "#" + "x" * 90])
def test_a_channel_that_cannot_be_is_refused_by_name(places: Places, recording_task: Any, channel: str) -> None:
    run = Run(recording_task, "bad-channel")
    run.execute(run.report)
    run.slack.channel = channel
    with pytest.raises(AirflowFailException, match=r"slack_channel: .* is not accepted; expected #name"):
        run.execute(run.slack)


def test_environments_that_share_bucket_and_history_do_not_overwrite_each_other(
    places: Places, recording_task: Any
) -> None:
    for environment in ("sandbox", "staging"):
        run = Run(recording_task, "scheduled__shared")
        run.report.settings = SETTINGS.model_copy(update={"environment": environment})
        run.execute(run.report)
    for environment in ("sandbox", "staging"):
        document = History().report(environment, "daily_health_check", "scheduled__shared")
        assert document is not None
        assert document["environment"] == environment
        page = ReportStore("vcci-reports", "reports/", environment).page("daily_health_check", "scheduled__shared")
        assert page is not None
        assert f"<strong>{environment}</strong>" in page


def test_no_two_runs_share_a_key() -> None:
    ids = ["manual__a:b", "manual__a_b", "manual__a+b", "manual__a=3Ab", "manual__a/b", "manual__a\u00e9"]
    keys = {report_key("reports/", "sandbox", "d", run_id) for run_id in ids}
    assert len(keys) == len(ids)
    assert all(re.fullmatch(r"[A-Za-z0-9._=/-]+", key) and key.count("/") == 4 for key in keys)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("tables", "history: The history database has not been migrated: run python -m vcci_ops.migrations"),
        ("connection", "history: there is no Airflow connection vcci_ops_db"),
    ],
)
def test_a_history_that_is_not_set_up_does_not_keep_the_report_from_s3_and_slack(
    places: Places, recording_task: Any, monkeypatch: Any, fault: str, words: str
) -> None:
    if fault == "tables":
        monkeypatch.setenv(
            "AIRFLOW_CONN_VCCI_OPS_DB", json.dumps({**places.connections["vcci_ops_db"], "schema": "postgres"})
        )
    else:
        monkeypatch.delenv("AIRFLOW_CONN_VCCI_OPS_DB")
    run = Run(recording_task, f"no-history-{fault}")
    with pytest.raises(AirflowException, match=words):
        run.execute(run.report)
    assert "s3" in run.pulled["report", "report"]["arrived"]
    run.execute(run.slack)
    assert "did not arrive in history" in places.inbox()


def test_a_cleared_run_brings_message_and_thread_up_to_date(places: Places, recording_task: Any) -> None:
    run = Run(recording_task, "cleared")
    run.execute(run.report)
    first = run.execute(run.slack)
    slow = judged(SETTINGS.checks["api.latency"], 77, "slow: seventy-seven")
    run.pulled["system_health.readiness", "results"] = [slow.to_dict()]
    run.execute(run.report)
    assert run.execute(run.slack, try_number=2) == first
    inbox = places.inbox()
    assert inbox.count(f"{run.pulled['report', 'report']['slack']['block_id']}-0-0") == 1
    assert inbox.count("slow: seventy-seven") >= 2


def test_a_run_that_told_nobody_tells_the_on_call_mailbox_and_only_that(places: Places, recording_task: Any) -> None:
    def mails() -> str:
        return requests.get(f"http://127.0.0.1:{places.sandbox.port('inbox')}/api/mail", timeout=5).text

    def ended(run: Run) -> None:
        notifier = SilentRunNotifier(
            smtp_conn_id="vcci_smtp",
            from_email="vcci-ops@greenlang.io",
            to="oncall-devops@greenlang.io",
            subject="ended without a report: {{ dag_run.run_id }}",
            html_content="<p>{{ dag_run.run_id | e }}</p>",
        )
        notifier({"dag": run.dag, "dag_run": run.run})

    told = Run(recording_task, "told-somebody")
    told.execute(told.report)
    told.execute(told.slack)
    ended(told)
    ended(Run(recording_task, "ran-out-of-time"))
    assert "ended without a report: ran-out-of-time" in mails()
    assert "told-somebody" not in mails()


# Hourly looks -------------------------------------------------------------------------------------------


class Look(Run):
    """One hourly look at the answer time."""

    def __init__(self, task_class: Any, hour: int, seconds: float) -> None:
        super().__init__(task_class)
        with DAG("hourly_checks", schedule=None) as self.dag:
            ready = ReadinessCheckOperator(task_id="answer_times", checks=SETTINGS.pick("api.latency"))
            self.report = LookReportOperator(task_id="report", title="Hourly checks")
            self.notice = LookNoticeOperator(
                task_id="notice", report_task_id="report", channel="#vcci-ops", title="Hourly checks"
            )
            ready >> self.report >> self.notice
        begun = dt.datetime(2026, 11, 26, hour, tzinfo=dt.UTC)
        run_id = f"scheduled__{begun.isoformat()}"
        self.run = types.SimpleNamespace(dag_id="hourly_checks", run_id=run_id, start_date=begun)
        judgement = judged(SETTINGS.checks["api.latency"], seconds, f"answered in {seconds} s")
        self.pulled = {("answer_times", "results"): [judgement.to_dict()]}

    def tell(self) -> str:
        self.execute(self.report)
        return str(self.execute(self.notice))


def test_hourly_looks_are_one_thread_a_day_loud_on_the_third_bad_one_and_when_it_is_over(
    places: Places, recording_task: Any
) -> None:
    def told() -> tuple[list[str], int]:
        base = f"http://127.0.0.1:{places.sandbox.port('inbox')}/api/"
        messages = [m["text"] for m in requests.get(f"{base}slack", timeout=5).json()["messages"]]
        mails = requests.get(f"{base}mail", timeout=5).text
        return [text for text in messages if "API answer time" in text], mails.count("red: API answer time")

    assert "All is well" in Look(recording_task, 6, 0.1).tell()
    assert told() == ([], 0)
    for hour, row in ((7, 1), (8, 2)):
        assert f"{row} bad in a row, not loud yet" in Look(recording_task, hour, 99).tell()
    assert told()[1] == 0, "nobody is called for two bad looks"
    for _ in ("the third", "its task cleared and run again"):
        assert "API answer time: red since 07:00" in Look(recording_task, 9, 99).tell()
    messages, mails = told()
    loud = [text for text in messages if "is red, bad since 07:00 UTC: answered in 99 s" in text]
    assert len(loud) == 1
    assert "*Do:* " in loud[0]
    assert mails == 1
    assert "red since 07:00" in Look(recording_task, 10, 0.1).tell()
    assert "API answer time: well again" in Look(recording_task, 11, 0.1).tell()
    assert sum("is well again, after trouble since Thu 07:00 UTC" in text for text in told()[0]) == 1
    inbox = requests.get(f"http://127.0.0.1:{places.sandbox.port('inbox')}/api/slack", timeout=5).json()["messages"]
    (root,) = [m for m in inbox if "*Hourly checks* of *sandbox*, Thu 26 Nov" in m["text"]]
    assert "nothing red at 11:00 UTC" in root["text"]
    lines = [m["text"][:5] for m in inbox if m.get("thread_ts") == root["ts"] and m["ts"] != root["ts"]]
    assert sorted(lines) == ["06:00", "07:00", "08:00", "09:00", "10:00", "11:00"]


# The history itself -------------------------------------------------------------------------------------


def test_migrations_can_run_twice(places: Places) -> None:
    upgrade()
    newest = max(file.stem for file in (MIGRATIONS / "versions").glob("0*.py"))
    with History().connect() as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == (newest,)
    assert History().snapshots("nowhere", "signatures", dt.datetime.now(dt.UTC), days=9) == []


def test_history_that_is_away_is_an_error_of_its_own(places: Places, monkeypatch: Any) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_VCCI_OPS_DB", json.dumps({**places.connections["vcci_ops_db"], "port": 1}))
    with pytest.raises(Unreachable, match="The history database did not answer"):
        History().report("x", "a", "b")
    assert Status.UNKNOWN.fails_run
