from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vcci_ops.domain.signatures import (
    SAMPLE_LENGTH,
    SIGNATURE_LENGTH,
    ErrorLines,
    Signatures,
    Tally,
    redact,
    sample,
    signature,
)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("2025-11-08 09:00:01,250 ERROR db: timeout on 42 after 30s", "ERROR db: timeout on <n> after <n>s"),
        ("[2025-11-08T09:00:01.5Z] ERROR tenant 'acme' gone", "ERROR tenant <str> gone"),
        ("ERROR id=123e4567-e89b-12d3-a456-426614174000", "ERROR id=<uuid>"),
        ("ERROR to 10.0.0.7:5432 and 0xdeadbeef or 9fceb02d0ae598e9", "ERROR to <ip> and <n> or <n>"),
        ("ERROR pod backend-api-7d9f8b6c5-x2x4z died", "ERROR pod backend-api-<pod> died"),
        ("ERROR mail to a.b@example.com failed", "ERROR mail to <email> failed"),
        ("ERROR can't open; don't retry", "ERROR can't open; don't retry"),
        ("ERROR GET /tenants/17/reports/99 failed", "ERROR GET /tenants/<n>/reports/<n> failed"),
        (json.dumps({"ts": "x", "level": "ERROR", "message": "db timeout on 42"}), "ERROR db timeout on <n>"),
        ("{not json ERROR 5", "{not json ERROR <n>"),
    ],
)
def test_what_changes_is_masked(line: str, expected: str) -> None:
    assert signature(line) == expected


@pytest.mark.parametrize(
    "line",
    [
        "ERROR login password=hunter2 failed",
        "ERROR {'db_password': 'hunter2', 'x': 1}",
        'ERROR {"api_key": "hunter2"}',
        r'{"message": "bad token=\"hunter2\" sent"}',
        "ERROR connect postgres://app:hunter2@db/vcci",
        "ERROR connect redis://:hunter2@cache:6379/0",
        "ERROR connect redis://:123/hunter2@cache:6379/0",
        "ERROR clone https://hunter2@git.example.com/x",
        "ERROR Authorization: Bearer hunter2hunter2",
        "ERROR authorization=Basic hunter2hunter2=",
        "ERROR sent bearer hunter2hunter2",
        "ERROR PGPASSWORD=hunter2 psql",
        "ERROR run --password hunter2 now",
        "ERROR X-Secret-Key: hunter2",
        "ERROR jwt eyJhbGciOi.hunter2.sig",
        "ERROR client_secret => hunter2",
        "ERROR POST https://hooks.slack.com/services/T01/B01/hunter2 answered 404",
        "ERROR connect postgres://app:p@ss-hunter2@db/vcci",
        "ERROR connect postgres://app:p'x/hunter2@db/vcci",
        "ERROR connect postgres://app:hunter2",
        "ERROR connect 'postgres://app:hunter2'",
        "ERROR DB_PASS=hunter2",
        "ERROR PGPASS=hunter2",
        "ERROR dbPass=hunter2",
        "ERROR {'user': 'x', 'pass': 'hunter2'}",
        "ERROR DefaultEndpointsProtocol=https;AccountKey=hunter2+/==;x=1",
        "ERROR GET https://x.blob.core/y?sv=1&sig=hunter2%3D",
        "ERROR GET /y?X-Amz-Signature=hunter2&x=1",
        'ERROR {"signature": "hunter2"}',
        "ERROR smtp: AUTH PLAIN AGh1bnRlcjIAhunter2==",
        "ERROR ALTER USER x PASSWORD 'a hunter2'",
        'ERROR the password is "hunter2"',
        "ERROR key sk-hunter2hunter2",
        "ERROR key AIzaSyhunter2hunter2",
        r'ERROR {"password": "a\"bc hunter2"}',
        r"ERROR {\"password\": \"a hunter2\"}",
        "ERROR run --password 'a hunter2' now",
        "ERROR password='a'hunter2",
        "ERROR -----BEGIN PRIVATE KEY-----\\nhunter2",
        f"ERROR {'x' * 980} connect postgres://app:hunter2@db/vcci",
        json.dumps({"message": f"ERROR {'x' * 980} connect postgres://app:hunter2@db/vcci"}),
    ],
)
def test_what_looks_like_a_secret_is_masked(line: str) -> None:
    assert "hunter2" not in sample(line)
    assert "hunter2" not in signature(line)
    assert "hunter2" not in redact(line)
    assert "***" in redact(line)


@pytest.mark.parametrize("cut", range(len("postgres://app:"), len("postgres://app:s3cr3t@db")))
def test_a_credential_that_is_cut_off_is_no_less_one(cut: int) -> None:
    assert "s3" not in redact("ERROR connect " + "postgres://app:s3cr3t@db"[:cut])


@pytest.mark.parametrize(
    "line",
    [
        "ERROR http://example.com/path?x=1 answered 500 in 30 s, retry: 3",
        "missing permission to list pods",
        "missing permission to get secrets in namespace vcci-production",
        "password authentication failed for user vcci_ops",
        'password authentication failed for user "vcci_ops"',
        'MountVolume.SetUp failed for volume "tls": secret "vcci-tls" not found',
        "Unexpected token '<' in JSON",
        "basic authentication is off",
        "2 of 9 pods",
        "https://grafana.vcci.greenlang.io/d/api",
        "http://127.0.0.1:9090/graph?g0.expr=up",
        "connection to http://127.0.0.1:9090",
        "http://host:8080/users/a@example.com",
        "s3://bucket/key",
        "s3://vcci-backups/daily/vcci_production-20260101T000000Z.dump",
        'sum by (route) (rate(http_requests_total{job="backend-api",status=~"5.."}[5m]))',
        "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction' AND usename <> 'vcci_ops'",
        "GET /api/v1/namespaces/vcci-production/pods/*/log?container=backend-api&sinceSeconds=3600",
        "AUTH LOGIN failed",
        "bypass=1, compass: north, design=2",
    ],
)
def test_ordinary_words_are_left_alone(line: str) -> None:
    assert redact(line) == line


WORDS = ("password", "pass", "Authorization", "token", "sig", "auth plain", "Bearer", "hooks.slack.com/services/")
PIECES = st.sampled_from([*WORDS, "://", "=>", '\\"', "***", "--password", "sk-", "a", "B1", "12345", *":=@'\"\\ /,}"])


@given(st.one_of(st.text(), st.lists(PIECES, max_size=25).map("".join)))
def test_what_is_masked_stays_as_it_is(text: str) -> None:
    once = redact(text)
    assert redact(once) == once


@pytest.mark.parametrize("text", ["://" * 3000, "password" * 3000, 'password="' + "\\" * 20000, "://a:" + "@'" * 9000])
def test_hostile_lines_cost_no_time(text: str) -> None:
    begun = time.process_time()
    signature(text)
    sample(text)
    assert time.process_time() - begun < 2


def test_addresses_of_people_are_masked_in_examples() -> None:
    line = "ERROR mail to anna.b+x@acme.com failed, not to postgres://app:x@db.acme.com/y"
    assert sample(line) == "ERROR mail to a***@acme.com failed, not to postgres://***@db.acme.com/y"


@given(st.text())
def test_any_text_has_a_bounded_signature(text: str) -> None:
    assert len(signature(text)) <= SIGNATURE_LENGTH
    assert len(sample(text)) <= SAMPLE_LENGTH


@given(st.lists(st.binary(max_size=80), max_size=30), st.data())
def test_lines_are_found_however_the_log_is_cut(lines: list[bytes], data: st.DataObject) -> None:
    endings = st.sampled_from([b"", b" ERROR x", b" FATAL ERROR"])
    marked = [line.replace(b"\n", b" ") + data.draw(endings) for line in lines]
    log = b"\n".join(marked)
    scanner, found, at = ErrorLines([b"ERROR", b"FATAL"]), [], 0
    while at < len(log):
        size = data.draw(st.integers(1, 40))
        found += scanner.feed(log[at : at + size])
        at += size
    found += scanner.end()
    assert sorted(found) == sorted(line for line in marked if b"ERROR" in line or b"FATAL" in line)


def test_a_line_without_an_end_is_counted_once_and_not_kept() -> None:
    scanner, found = ErrorLines([b"ERROR"]), []
    for chunk in [b"x" * 300_000, b"yERROR" + b"z" * 300_000, b"ERROR" * 100_000, b"\nERROR next\nfine\n"]:
        found += scanner.feed(chunk)
        assert len(scanner._held) < 300_000
    assert len(found) == 2
    assert found[1] == b"ERROR next"


@given(st.lists(st.binary(max_size=300), max_size=60))
def test_every_line_is_counted_whatever_it_holds(lines: list[bytes]) -> None:
    tally = Tally(most=5)
    tally.add(lines)
    assert tally.total == len(lines)
    assert len(tally.kinds) <= 5


def test_lines_that_differ_in_what_changes_are_one_kind() -> None:
    tally = Tally()
    tally.add(b"2025-11-08T09:00:%02dZ ERROR db: timeout on %d" % (n % 60, n) for n in range(1000))
    assert [(kind.signature, kind.count) for kind in tally.kinds.values()] == [("ERROR db: timeout on <n>", 1000)]


def test_a_tally_keeps_no_lines_once_its_log_is_read() -> None:
    def kept(rest: Tally) -> int:
        return sum(map(len, rest._cache))

    tally = Tally()
    tally.add(b"ERROR %s" % bytes([97 + n % 26, 97 + n // 26]) * 30 for n in range(500))
    assert kept(tally) > 10_000
    tally.forget_lines()
    assert (kept(tally), tally.total) == (0, 500)


def test_signatures_are_put_together_over_pods() -> None:
    together = Signatures(most=2)
    for pod, lines in {"a": [b"ERROR x 1"] * 3 + [b"ERROR y"], "b": [b"ERROR x 2"], "c": [b"ERROR z"], "d": []}.items():
        tally = Tally()
        tally.add(lines)
        together.merge(pod, tally)
    assert [str(kind) for kind in together.most_common()] == [
        "4x in 2 pods (most in a): ERROR x <n>",
        "1x in 1 pod (a): ERROR y",
    ]
    assert (together.total, together.others, together.pods) == (6, 1, {"a", "b", "c"})
    assert [kind.signature for kind in together.unseen(["ERROR x <n>"])] == ["ERROR y"]
