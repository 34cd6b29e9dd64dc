"""The sandbox's web parts: the API with its faults, Prometheus' history, Slack, Statuspage, mail and the inbox."""

from __future__ import annotations

import email.message
import json
import smtplib
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from slack_sdk import WebClient
from slack_sdk.errors import SlackApiError
from slack_sdk.http_retry.builtin_handlers import RateLimitErrorRetryHandler

from sandbox.messages import blockkit, mrkdwn
from sandbox.service import Fault, Sandbox, Service, find_program, wait_until
from sandbox.services.api import Api
from sandbox.services.messages import Messages
from sandbox.services.prometheus import Prometheus, query

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not find_program("promtool"), reason="Prometheus is not installed"),
    pytest.mark.xdist_group("sandbox_web"),
]

REQUESTS = 'sum(increase(http_requests_total{job="backend-api"}[24h]%s))'
ERRORS = 'sum(increase(http_requests_total{job="backend-api",status=~"5.."}[24h]))'
SERVICES: tuple[Service, ...] = (Api(), Prometheus(), Messages())


def start(sandbox: Sandbox, service: Service) -> None:
    service.start(sandbox)
    wait_until(f"{service.name} ready", lambda: service.ready(sandbox))
    service.prepare(sandbox)


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    made = Sandbox(tmp_path_factory.mktemp("sandbox"))
    try:
        for service in SERVICES:
            start(made, service)
        yield made
    finally:
        for service in reversed(SERVICES):
            service.stop(made)


@contextmanager
def broken(sandbox: Sandbox, name: str, **options: Any) -> Iterator[None]:
    """Break and heal as the command line does."""
    fault: Fault = {fault.name: fault for service in SERVICES for fault in service.faults}[name]
    given = {**fault.options, **options}
    sandbox.state.set_fault(name, given)
    try:
        if fault.apply:
            fault.apply(sandbox, given)
        yield
    finally:
        given = sandbox.state.faults()[name]
        sandbox.state.set_fault(name, None)
        if fault.heal:
            fault.heal(sandbox, given)


def number(sandbox: Sandbox, promql: str) -> float:
    (series,) = query(sandbox, promql)
    return float(series["value"][1])


# The API ------------------------------------------------------------------------------------------


def api(sandbox: Sandbox, path: str, **more: Any) -> requests.Response:
    connection = Api().connections(sandbox)["vcci_api"]
    url = f"{connection['schema']}://{connection['host']}:{connection['port']}{path}"
    return requests.get(url, verify=connection["extra"]["verify"], timeout=10, **more)


def days_left(sandbox: Sandbox, server_name: str | None) -> float:
    context = ssl.create_default_context(cafile=str(sandbox.folder / "api" / "ca.pem"))
    if server_name is None:
        context.check_hostname = False
    with socket.create_connection(("127.0.0.1", sandbox.port("api-tls")), timeout=5) as plain:
        with context.wrap_socket(plain, server_hostname=server_name) as wire:
            certificate = wire.getpeercert()
    assert certificate
    return (ssl.cert_time_to_seconds(str(certificate["notAfter"])) - time.time()) / 86400


def test_api_is_ready_over_verified_tls_and_plain_http(sandbox: Sandbox) -> None:
    expected = {
        "status": "ready",
        "version": "v2.0.0",
        "checks": {"database": "ok", "redis": "ok", "storage": "ok"},
    }
    assert api(sandbox, "/health/ready").json() == expected
    plain = requests.get(f"http://127.0.0.1:{sandbox.port('api')}/health/ready", timeout=5)
    assert plain.json() == expected
    assert api(sandbox, "/health/live").json()["status"] == "alive"


def test_api_connection_leaks_nothing_into_headers_of_airflows_hook(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.providers.http.hooks.http import HttpHook

    monkeypatch.setenv("AIRFLOW_CONN_VCCI_API", json.dumps(Api().connections(sandbox)["vcci_api"]))
    hook = HttpHook(method="GET", http_conn_id="vcci_api")
    answer = hook.run("/health/ready", extra_options={"timeout": 5})
    assert answer.json()["status"] == "ready"
    assert set(answer.request.headers) == {"User-Agent", "Accept-Encoding", "Accept", "Connection"}


def test_api_503_names_what_is_wrong_and_heals(sandbox: Sandbox) -> None:
    with broken(sandbox, "api-503"):
        answer = api(sandbox, "/health/ready")
        assert answer.status_code == 503
        assert answer.json()["status"] == "unavailable"
        assert "connection" in answer.json()["checks"]["database"]
        assert api(sandbox, "/health/live").status_code == 200
    assert api(sandbox, "/health/ready").status_code == 200


def test_api_slow_answers_late_and_shifts_latency(sandbox: Sandbox) -> None:
    p50 = "histogram_quantile(0.5, sum by (le) (increase(http_request_duration_seconds_bucket[10s])))"
    with broken(sandbox, "api-slow", seconds=0.7):
        assert api(sandbox, "/health/ready").elapsed.total_seconds() >= 0.7
        wait_until("slow requests in the histogram", lambda: bool(query(sandbox, f"{p50} > 0.5")), seconds=20)
    assert api(sandbox, "/health/ready").elapsed.total_seconds() < 0.5


def test_slow_delays_all_but_the_metrics(sandbox: Sandbox) -> None:
    with broken_slow(sandbox, 0.6):
        assert api(sandbox, "/health/live").elapsed.total_seconds() >= 0.6
        assert api(sandbox, "/metrics").elapsed.total_seconds() < 0.6
        begun = time.monotonic()
        assert slack(sandbox).auth_test()["ok"]
        assert time.monotonic() - begun >= 0.6


@contextmanager
def broken_again(sandbox: Sandbox, name: str) -> Iterator[None]:
    """Type the same break a second time, which must not count twice."""
    fault = {fault.name: fault for service in SERVICES for fault in service.faults}[name]
    sandbox.state.set_fault(name, dict(fault.options))
    assert fault.apply
    fault.apply(sandbox, dict(fault.options))
    yield


@contextmanager
def broken_slow(sandbox: Sandbox, seconds: float) -> Iterator[None]:
    sandbox.state.set_fault("slow", {"seconds": seconds})
    try:
        yield
    finally:
        sandbox.state.set_fault("slow", None)


@pytest.mark.parametrize("server_name", ["api.vcci.greenlang.io", "127.0.0.1", None])
def test_tls_near_expiry_shows_on_new_connections_and_heals(sandbox: Sandbox, server_name: str | None) -> None:
    assert days_left(sandbox, server_name) == pytest.approx(80, abs=0.1)
    with broken(sandbox, "tls-near-expiry"):
        assert days_left(sandbox, server_name) == pytest.approx(9, abs=0.1)
    with broken(sandbox, "tls-near-expiry", days=-1.0), pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        days_left(sandbox, server_name)
    assert days_left(sandbox, server_name) == pytest.approx(80, abs=0.1)


def test_ca_stays_the_same_when_the_api_restarts(sandbox: Sandbox) -> None:
    before = (sandbox.folder / "api" / "ca.pem").read_bytes()
    Api().stop(sandbox)
    start(sandbox, Api())
    assert (sandbox.folder / "api" / "ca.pem").read_bytes() == before
    assert api(sandbox, "/health/ready").status_code == 200


# Prometheus ---------------------------------------------------------------------------------------


def test_history_reads_like_five_weeks_of_one_platform(sandbox: Sandbox) -> None:
    today = number(sandbox, REQUESTS % "")
    assert 1_500_000 < today < 4_000_000
    for weeks in range(1, 5):
        assert number(sandbox, REQUESTS % f" offset {weeks}w") == pytest.approx(today, rel=0.15)
    assert number(sandbox, f"100 * {ERRORS} / {REQUESTS % ''}") == pytest.approx(0.1, abs=0.03)
    wait_until("the API scraped", lambda: bool(query(sandbox, 'up{job="backend-api"} == 1')))
    p95 = "histogram_quantile(0.95, sum by (le) (increase(http_request_duration_seconds_bucket[24h])))"
    assert 0.15 < number(sandbox, p95) < 0.35
    assert {series["metric"]["queue"] for series in query(sandbox, "celery_queue_length")} == {
        "intake",
        "calculator",
        "hotspot",
        "engagement",
        "reporting",
    }
    assert number(sandbox, "vcci_active_tenants") == len(query(sandbox, "vcci_tenant_info"))


def test_live_samples_join_the_history_without_a_reset(sandbox: Sandbox) -> None:
    live = 'count_over_time(up{job="backend-api"}[20s]) > 3'
    wait_until("live samples", lambda: bool(query(sandbox, live)), seconds=20)
    assert number(sandbox, "sum(resets(http_requests_total[1h])) + sum(resets(http_requests_total[35d]))") == 0
    assert number(sandbox, "sum(rate(http_requests_total[20s]))") == pytest.approx(30, rel=0.8)


def test_prometheus_wants_the_password(sandbox: Sandbox) -> None:
    connection = Prometheus().connections(sandbox)["vcci_prometheus"]
    url = f"http://127.0.0.1:{sandbox.port('prometheus-direct')}/api/v1/query?query=up"
    assert requests.get(url, timeout=5).status_code == 401
    answer = requests.get(url, auth=(connection["login"], connection["password"]), timeout=5)
    assert answer.json()["status"] == "success"


def test_errors_5xx_shows_within_24h_at_once_and_heals(sandbox: Sandbox) -> None:
    ratio = f"100 * {ERRORS} / {REQUESTS % ''}"
    with broken(sandbox, "errors-5xx"), broken_again(sandbox, "errors-5xx"):
        assert number(sandbox, ratio) == pytest.approx(6, abs=0.5)
    assert number(sandbox, ratio) == pytest.approx(0.1, abs=0.03)


def test_no_traffic_is_zero_requests_while_up_and_heals(sandbox: Sandbox) -> None:
    before = number(sandbox, REQUESTS % "")
    with broken(sandbox, "no-traffic"):
        assert number(sandbox, REQUESTS % "") == 0
        assert number(sandbox, 'sum(up{job="backend-api"})') == 1
        assert number(sandbox, REQUESTS % " offset 7d") > 1_000_000
    assert number(sandbox, REQUESTS % "") == pytest.approx(before, rel=0.01)


def test_metric_renamed_matches_no_series_rather_than_zero_and_heals(sandbox: Sandbox) -> None:
    with broken(sandbox, "metric-renamed"):
        assert query(sandbox, REQUESTS % "") == []
        assert number(sandbox, "sum(increase(http_server_requests_total[24h]))") > 1_000_000
        assert number(sandbox, REQUESTS % " offset 7d") > 1_000_000
        assert "http_server_requests_total{" in api(sandbox, "/metrics").text
        assert "\nhttp_requests_total{" not in api(sandbox, "/metrics").text
    assert number(sandbox, REQUESTS % "") > 1_000_000


def test_faults_of_the_metrics_survive_each_other(sandbox: Sandbox) -> None:
    with broken(sandbox, "prometheus-down"), broken(sandbox, "no-traffic"):
        with pytest.raises(OSError, match="refused"):
            query(sandbox, "up")
    assert number(sandbox, REQUESTS % "") > 1_000_000


def test_prometheus_starts_again_after_a_kill_keeping_its_samples(sandbox: Sandbox) -> None:
    before = number(sandbox, REQUESTS % "")
    sandbox.end("prometheus", how=9)
    begun = time.monotonic()
    start(sandbox, Prometheus())
    assert time.monotonic() - begun < 5
    assert number(sandbox, REQUESTS % "") == pytest.approx(before, rel=0.01)


def test_a_long_pause_is_filled(sandbox: Sandbox, tmp_path: Path) -> None:
    from sandbox import metrics_history
    from sandbox.api.traffic import Story, requests_until

    promtool = find_program("promtool")
    assert promtool
    now = time.time()
    for at in (now - 7200, now):
        metrics_history.fill(tmp_path / "data", Story(), promtool=promtool, now=at)
    listed = metrics_history._blocks(tmp_path / "data")
    assert max(end for _, end in listed) == pytest.approx(now, abs=1)
    spans = sorted(json.loads(p.read_text())["minTime"] for p in (tmp_path / "data").glob("*/meta.json"))
    ends = sorted(end * 1000 for _, end in listed)
    assert all(begin - end <= 300_000 for begin, end in zip(spans[1:], ends, strict=False))
    assert requests_until(now) > requests_until(now - 1)


# Slack --------------------------------------------------------------------------------------------


@pytest.fixture
def inbox(sandbox: Sandbox) -> str:
    url = f"http://127.0.0.1:{sandbox.port('inbox')}"
    assert requests.delete(f"{url}/api", timeout=5).json() == {"cleared": "all"}
    return url


def slack(sandbox: Sandbox, token: str | None = None, **more: Any) -> WebClient:
    connection = Messages().connections(sandbox)["vcci_slack"]
    return WebClient(token=token or connection["password"], base_url=connection["extra"]["base_url"], **more)


def refusal(call: Callable[[], Any]) -> dict[str, Any]:
    with pytest.raises(SlackApiError) as caught:
        call()
    answer: dict[str, Any] = caught.value.response.data  # type: ignore[assignment]
    return answer


def section(text: str) -> dict[str, Any]:
    return {"type": "section", "text": {"type": "mrkdwn", "text": text}}


def test_slack_thread_reaction_update_and_permalink(sandbox: Sandbox, inbox: str) -> None:
    client = slack(sandbox)
    first = client.chat_postMessage(channel="#vcci-ops", text="verdict", blocks=[section("*critical*")])
    client.chat_postMessage(channel=first["channel"], text="details", thread_ts=first["ts"])
    client.reactions_add(channel=first["channel"], timestamp=first["ts"], name="eyes")
    client.chat_update(channel=first["channel"], ts=first["ts"], text="verdict, again")
    (only,) = client.conversations_history(channel=first["channel"])["messages"]
    assert (only["text"], only["reply_count"], only["reactions"][0]["name"]) == ("verdict, again", 1, "eyes")
    replies = client.conversations_replies(channel=first["channel"], ts=first["ts"])["messages"]
    assert [message["text"] for message in replies] == ["verdict, again", "details"]
    link = client.chat_getPermalink(channel=first["channel"], message_ts=first["ts"])["permalink"]
    page = requests.get(link, timeout=5)
    assert page.url.endswith(f"#{first['channel']}-{first['ts']}")
    assert f'id="{first["channel"]}-{first["ts"]}"' in page.text


def test_slack_hook_of_airflow_posts_and_uploads(sandbox: Sandbox, inbox: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.providers.slack.hooks.slack import SlackHook

    monkeypatch.setenv("AIRFLOW_CONN_VCCI_SLACK", json.dumps(Messages().connections(sandbox)["vcci_slack"]))
    hook = SlackHook(slack_conn_id="vcci_slack", timeout=5)
    posted = hook.call("chat.postMessage", json={"channel": "#vcci-ops", "text": "hello"})
    hook.send_file_v2(
        channel_id=posted["channel"], file_uploads={"content": "a,b\n", "filename": "rows.csv"}, thread_ts=posted["ts"]
    )
    messages = requests.get(f"{inbox}/api/slack", timeout=5).json()["messages"]
    assert [message["channel"] for message in messages] == ["vcci-ops", "vcci-ops"]
    (file,) = messages[1]["files"]
    download = requests.get(f"{inbox}/files/{file['id']}", timeout=5)
    assert download.text == "a,b\n"
    assert download.headers["Content-Disposition"] == 'attachment; filename="rows.csv"'


@pytest.mark.parametrize(
    ("method", "arguments", "error"),
    [
        pytest.param("chat.postMessage", {"channel": "#nowhere", "text": "x"}, "channel_not_found", id="channel"),
        pytest.param("chat.postMessage", {"channel": "#random", "text": "x"}, "not_in_channel", id="not-invited"),
        pytest.param("chat.postMessage", {"channel": "#vcci-ops"}, "no_text", id="nothing-to-say"),
        pytest.param("chat.postMessage", {"text": "x"}, "invalid_arguments", id="no-channel"),
        pytest.param("chat.postMessage", {"channel": "#vcci-ops", "text": "x" * 40_001}, "msg_too_long", id="long"),
        pytest.param(
            "chat.update", {"channel": "#vcci-ops", "ts": "1.0", "text": "x"}, "message_not_found", id="update"
        ),
        pytest.param("conversations.create", {"name": "general"}, "name_taken", id="taken"),
        pytest.param("conversations.create", {"name": "No Spaces"}, "invalid_name_specials", id="name"),
        pytest.param("chat.dance", {}, "unknown_method", id="method"),
    ],
)
def test_slack_refuses_as_slack_does(
    sandbox: Sandbox, inbox: str, method: str, arguments: dict[str, Any], error: str
) -> None:
    assert refusal(lambda: slack(sandbox).api_call(method, json=arguments))["error"] == error


def test_slack_wants_its_token(sandbox: Sandbox) -> None:
    assert refusal(slack(sandbox, token="xoxb-wrong").auth_test)["error"] == "invalid_auth"
    url = f"http://127.0.0.1:{sandbox.port('slack')}/api/auth.test"
    assert requests.post(url, timeout=5).json() == {"ok": False, "error": "not_authed"}


def test_slack_refuses_fault_and_heals(sandbox: Sandbox, inbox: str) -> None:
    client = slack(sandbox)
    with broken(sandbox, "slack-refuses"):
        assert refusal(lambda: client.chat_postMessage(channel="#vcci-ops", text="x"))["error"] == "account_inactive"
    assert client.chat_postMessage(channel="#vcci-ops", text="x")["ok"]


@pytest.mark.parametrize(
    ("block", "message"),
    [
        pytest.param(section("x" * 3001), "must be less than 3001 characters [0/text/text]", id="long"),
        pytest.param(section(""), "must be more than 0 characters [0/text/text]", id="empty"),
        pytest.param({"type": "section"}, "must define either `text` or `fields` [0]", id="bare"),
        pytest.param(
            {"type": "section", "fields": [{"type": "mrkdwn", "text": "x"}] * 11},
            "no more than 10 items allowed [0/fields]",
            id="fields",
        ),
        pytest.param(
            {"type": "header", "text": {"type": "mrkdwn", "text": "x"}},
            "unsupported type: mrkdwn [0/text/type]",
            id="header-mrkdwn",
        ),
        pytest.param(
            {"type": "header", "text": {"type": "plain_text", "text": "x" * 151}},
            "must be less than 151 characters [0/text/text]",
            id="header-long",
        ),
        pytest.param(
            {"type": "context", "elements": [{"type": "mrkdwn", "text": "x"}] * 11},
            "no more than 10 items allowed [0/elements]",
            id="context",
        ),
        pytest.param(
            {"type": "actions", "elements": [{"type": "button", "text": {"type": "plain_text", "text": "x" * 76}}]},
            "must be less than 76 characters [0/elements/0/text/text]",
            id="button",
        ),
        pytest.param(
            {"type": "actions", "elements": [{"type": "button", "text": {"type": "plain_text", "text": "x"}}] * 26},
            "no more than 25 items allowed [0/elements]",
            id="actions",
        ),
        pytest.param({"type": "chart"}, "unsupported type: chart [0/type]", id="unknown"),
        pytest.param({"type": "image", "image_url": "https://x/a"}, "missing required field: alt_text [0]", id="image"),
        pytest.param({"type": "divider", "color": "red"}, "invalid additional property: color [0]", id="additional"),
    ],
)  # fmt: skip
def test_invalid_blocks_are_named(block: dict[str, Any], message: str) -> None:
    text, _, place = message.partition(" [0")
    assert f"[ERROR] {text} [json-pointer:/blocks/0{place}" in blockkit.problems([block])


def test_invalid_blocks_reach_the_client_and_are_not_posted(sandbox: Sandbox, inbox: str) -> None:
    client = slack(sandbox)
    many = [section("x")] * 51
    answer = refusal(lambda: client.chat_postMessage(channel="#vcci-ops", text="x", blocks=many))
    assert answer["error"] == "invalid_blocks"
    assert answer["response_metadata"]["messages"] == ["[ERROR] no more than 50 items allowed [json-pointer:/blocks]"]
    assert requests.get(f"{inbox}/api/slack", timeout=5).json()["messages"] == []


def test_blocks_whose_texts_are_too_long_together_are_refused(sandbox: Sandbox, inbox: str) -> None:
    client = slack(sandbox)
    fields = {"type": "section", "fields": [{"type": "mrkdwn", "text": "x" * 1200}]}
    most = [section("x" * 3000)] * 4 + [fields]
    more = [*most, {"type": "context", "elements": [{"type": "plain_text", "text": "x"}]}]
    posted = client.chat_postMessage(channel="#vcci-ops", text="x" * 5000, blocks=most)
    update = {"channel": posted["channel"], "ts": posted["ts"], "text": "x", "blocks": more}
    for call in (
        lambda: client.chat_postMessage(channel="#vcci-ops", text="x", blocks=more),
        lambda: client.chat_update(**update),
    ):
        assert refusal(call)["error"] == "msg_blocks_too_long"
    (only,) = requests.get(f"{inbox}/api/slack", timeout=5).json()["messages"]
    assert only["text"] == "x" * 5000


def test_rate_limit_says_when_to_retry_and_the_sdk_obeys(sandbox: Sandbox, inbox: str) -> None:
    client = slack(sandbox)
    channel = client.conversations_create(name=f"busy-{time.time_ns()}")["channel"]["id"]
    for count in range(20):
        client.chat_postMessage(channel=channel, text=str(count))
    flood = [f"{count} too many" for count in range(10)]
    with pytest.raises(SlackApiError) as caught:
        _ = [client.chat_postMessage(channel=channel, text=text) for text in flood]
    assert caught.value.response.status_code == 429
    assert caught.value.response.headers["Retry-After"] == "1"
    patient = slack(sandbox, retry_handlers=[RateLimitErrorRetryHandler(max_retry_count=2)])
    assert patient.chat_postMessage(channel=channel, text="late")["ok"]
    assert client.chat_postMessage(channel="#vcci-ops", text="another channel is free")["ok"]


def test_messages_are_kept_over_a_restart(sandbox: Sandbox, inbox: str) -> None:
    posted = slack(sandbox).chat_postMessage(channel="#vcci-ops", text="still here")
    Messages().stop(sandbox)
    with open(sandbox.folder / "messages" / "slack.jsonl", "a") as journal:
        journal.write('{"kind": "mess')  # as a kill in the middle of a write would leave it
    start(sandbox, Messages())
    slack(sandbox).chat_postMessage(channel="#vcci-ops", text="reply", thread_ts=posted["ts"])
    Messages().stop(sandbox)
    start(sandbox, Messages())
    messages = requests.get(f"{inbox}/api/slack", timeout=5).json()["messages"]
    assert [message["text"] for message in messages] == ["still here", "reply"]


# Inbox, Statuspage, mail --------------------------------------------------------------------------

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'><b>&lt;script&gt; <javascript:alert(1)|go>"


def test_hostile_text_stays_text_everywhere(sandbox: Sandbox, inbox: str) -> None:
    blocks = [
        {"type": "header", "text": {"type": "plain_text", "text": HOSTILE}},
        section(HOSTILE),
        section(f"```{HOSTILE}``` `{HOSTILE}` *{HOSTILE}* \ue0000\ue001"),
        {"type": "context", "elements": [{"type": "mrkdwn", "text": HOSTILE}]},
        {"type": "image", "image_url": 'https://x.example/"onload="alert(1)', "alt_text": HOSTILE},
        {
            "type": "actions",
            "elements": [
                {"type": "button", "text": {"type": "plain_text", "text": "go"}, "url": "javascript://%0aalert(1)"}
            ],
        },
    ]
    attachment = {"color": '"><script>', "title": HOSTILE, "title_link": "javascript:alert(1)", "text": HOSTILE}
    slack(sandbox).chat_postMessage(
        channel="#vcci-ops", text=HOSTILE, blocks=blocks, attachments=[attachment], username=HOSTILE
    )
    headers, base = statuspage(sandbox)
    requests.post(
        f"{base}/incidents", headers=headers, json={"incident": {"name": HOSTILE, "body": HOSTILE}}, timeout=5
    )
    send_mail(sandbox, HOSTILE.replace("\n", ""), HOSTILE)
    page = requests.get(inbox, timeout=5)
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert page.text.count("<script") == 1  # its own
    assert "<img src=x" not in page.text
    assert 'onload="' not in page.text
    assert 'href="javascript' not in page.text
    assert page.text.count("&lt;script&gt;alert(1)") >= 9


@pytest.mark.parametrize(
    ("source", "html"),
    [
        ("*bold* _it_ ~gone~ `code`", "<b>bold</b> <i>it</i> <s>gone</s> <code>code</code>"),
        ("2*3*4 snake_case_name", "2*3*4 snake_case_name"),
        ("`*not bold*`", "<code>*not bold*</code>"),
        ("a &lt;b&gt; &amp;amp;", "a &lt;b&gt; &amp;amp;"),
        ("> quoted\nnot", "<blockquote>quoted</blockquote>not"),
        ("<!here> <@U1>", '<span class="mention">@here</span> <span class="mention">@U1</span>'),
        (
            "*<https://x.example/?a=1&amp;b=2|go>*",
            '<b><a href="https://x.example/?a=1&amp;b=2" rel="noopener noreferrer" target="_blank">go</a></b>',
        ),
    ],
)
def test_mrkdwn_reads_as_in_slack(source: str, html: str) -> None:
    assert mrkdwn.html(source) == html


def statuspage(sandbox: Sandbox) -> tuple[dict[str, str], str]:
    connection = Messages().connections(sandbox)["vcci_statuspage"]
    base = f"http://127.0.0.1:{connection['port']}/v1/pages/{connection['extra']['page_id']}"
    return {"Authorization": f"OAuth {connection['password']}"}, base


def test_statuspage_incident_from_begin_to_end(sandbox: Sandbox, inbox: str) -> None:
    headers, base = statuspage(sandbox)
    component = requests.get(f"{base}/components.json", headers=headers, timeout=5).json()[0]["id"]
    body = {"name": "API errors", "body": "We are looking.", "components": {component: "partial_outage"}}
    made = requests.post(f"{base}/incidents.json", headers=headers, json={"incident": body}, timeout=5)
    assert (made.status_code, made.json()["status"], made.json()["impact"]) == (201, "investigating", "major")
    change = {"status": "resolved", "body": "It is over.", "components": {component: "operational"}}
    url = f"{base}/incidents/{made.json()['id']}"
    ended = requests.patch(url, headers=headers, json={"incident": change}, timeout=5).json()
    assert ended["resolved_at"]
    assert [update["status"] for update in ended["incident_updates"]] == ["resolved", "investigating"]
    assert requests.get(f"{base}/incidents/unresolved", headers=headers, timeout=5).json() == []
    assert requests.get(f"{base}/components/{component}", headers=headers, timeout=5).json()["status"] == "operational"
    assert "It is over." in requests.get(inbox, timeout=5).text


@pytest.mark.parametrize(
    ("incident", "said"),
    [
        ({}, "Name can't be blank"),
        ({"name": "x", "status": "scheduled"}, "Status must be one of investigating"),
        ({"name": "x", "scheduled_for": "2026-01-02T00:00:00Z", "scheduled_until": "2026-01-01T00:00:00Z"}, "after"),
        ({"name": "x", "scheduled_for": "soon", "scheduled_until": "later"}, "not an ISO 8601 time"),
        ({"name": "x", "component_ids": ["nope"]}, "not a component"),
    ],
)
def test_statuspage_refuses_what_makes_no_sense(
    sandbox: Sandbox, inbox: str, incident: dict[str, Any], said: str
) -> None:
    headers, base = statuspage(sandbox)
    answer = requests.post(f"{base}/incidents", headers=headers, json={"incident": incident}, timeout=5)
    assert answer.status_code == 422
    assert said in answer.json()["error"][0]


def test_statuspage_wants_its_key_and_knows_its_page(sandbox: Sandbox) -> None:
    headers, base = statuspage(sandbox)
    assert requests.get(f"{base}/incidents", timeout=5).status_code == 401
    other = base.rpartition("/")[0] + "/otherpage/incidents"
    assert requests.get(other, headers=headers, timeout=5).status_code == 404


def send_mail(sandbox: Sandbox, subject: str, text: str, html: str = "") -> None:
    connection = Messages().connections(sandbox)["vcci_smtp"]
    mail = email.message.EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "vcci-ops@greenlang.io", "oncall@greenlang.io", subject
    mail.set_content(text)
    if html:
        mail.add_alternative(html, subtype="html")
    with smtplib.SMTP(connection["host"], connection["port"], timeout=5) as server:
        server.login(connection["login"], connection["password"])
        server.send_message(mail)


def test_mail_arrives_with_both_bodies(sandbox: Sandbox, inbox: str) -> None:
    send_mail(sandbox, "Grüße: critical", "plain part", "<p>html part</p>")
    (mail,) = requests.get(f"{inbox}/api/mail", timeout=5).json()["mails"]
    assert (mail["subject"], mail["to"]) == ("Grüße: critical", "oncall@greenlang.io")
    assert (mail["text"].strip(), mail["html"].strip()) == ("plain part", "<p>html part</p>")
    assert 'sandbox="" srcdoc="&lt;p&gt;html part' in requests.get(inbox, timeout=5).text


def test_airflows_smtp_hook_logs_in_and_sends(sandbox: Sandbox, inbox: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.providers.smtp.hooks.smtp import SmtpHook

    monkeypatch.setenv("AIRFLOW_CONN_VCCI_SMTP", json.dumps(Messages().connections(sandbox)["vcci_smtp"]))
    with SmtpHook(smtp_conn_id="vcci_smtp") as hook:
        hook.send_email_smtp(to="oncall@greenlang.io", subject="from Airflow", html_content="<b>x</b>")
    (mail,) = requests.get(f"{inbox}/api/mail", timeout=5).json()["mails"]
    assert (mail["subject"], mail["from"]) == ("from Airflow", "vcci-ops@greenlang.io")


def test_wrong_mail_password_is_refused(sandbox: Sandbox) -> None:
    with smtplib.SMTP("127.0.0.1", sandbox.port("smtp"), timeout=5) as server:
        with pytest.raises(smtplib.SMTPAuthenticationError):
            server.login("vcci-ops", "wrong")
