from __future__ import annotations

import bisect
import datetime as dt
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vcci_ops.domain.backups import MAX_LISTS, Names, Page, Search, Stored, read_manifest
from vcci_ops.exceptions import NoData

NOW = dt.datetime(2026, 3, 2, 9, tzinfo=dt.UTC)
NAMES = Names(prefix="daily/", key_format="vcci_production-%Y%m%dT%H%M%SZ.dump")
DAY = dt.timedelta(days=1)


class Bucket:
    """Lists as S3 does: by name, what comes after a key, a thousand at a time."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = sorted(key for key in keys if key.startswith(NAMES.common))
        self.requests = 0

    def list_after(self, start: str) -> Page:
        self.requests += 1
        begin = bisect.bisect_right(self._keys, start)
        found = self._keys[begin : begin + 1000]
        return Page(tuple(Stored(key, 1, NOW) for key in found), begin + 1000 < len(self._keys))


def keys(every: dt.timedelta, count: int, newest: dt.timedelta = dt.timedelta(hours=7)) -> list[str]:
    """Names of backups with manifests, the newest that long ago."""
    dumps = [NAMES.key(NOW - newest - every * number) for number in range(count)]
    return [*dumps, *(f"{key}.manifest.json" for key in dumps)]


def newest(found: Sequence[str], wanted: int = 8) -> tuple[list[str], int]:
    result = Search(Bucket(found).list_after, NAMES, NOW, wanted).run()
    return [b.key for b in result.backups], result.requests


@pytest.mark.parametrize(
    ("every", "count", "age", "requests"),
    [
        pytest.param(DAY, 14, dt.timedelta(hours=7), 1, id="two-weeks-daily"),
        pytest.param(DAY, 4000, dt.timedelta(hours=7), 1, id="eleven-years-daily"),
        pytest.param(DAY / 24, 20_000, dt.timedelta(minutes=20), 1, id="two-years-hourly"),
        pytest.param(DAY / 96, 20_000, dt.timedelta(minutes=5), 2, id="every-quarter-of-an-hour"),
        pytest.param(DAY / 1440, 20_000, dt.timedelta(seconds=30), 2, id="every-minute"),
        pytest.param(DAY / 96, 20_000, dt.timedelta(hours=30), 5, id="every-quarter-of-an-hour-until-yesterday"),
        pytest.param(DAY, 300, 40 * DAY, 2, id="stopped-forty-days-ago"),
        pytest.param(DAY, 300, 700 * DAY, 3, id="stopped-two-years-ago"),
        pytest.param(7 * DAY, 100, DAY, 2, id="weekly"),
        pytest.param(DAY, 1, DAY, 4, id="the-only-one"),
        pytest.param(DAY, 3, -2 * DAY, 1, id="future-dated"),
    ],
)
def test_the_newest_is_found_in_few_requests(every: dt.timedelta, count: int, age: dt.timedelta, requests: int) -> None:
    found, used = newest(keys(every, count, age))
    assert found[-1] == NAMES.key(NOW - age)
    assert used <= requests <= MAX_LISTS


def test_no_backup_is_none_found() -> None:
    assert newest([])[0] == []
    assert newest(["daily/vcci_production-latest.dump", "daily/vcci_production-20260301T000000Z.dump.tmp"])[0] == []


def test_things_of_other_kinds_are_ignored() -> None:
    clutter = [f"daily/vcci_production-zzz-{n:06}" for n in range(900)]
    clutter += ["daily/vcci_production-20260301T000000Z.dump.partial", "daily/vcci_production-20261399T000000Z.dump"]
    found, _ = newest([*keys(DAY, 20), *clutter])
    assert found[-1] == NAMES.key(NOW - dt.timedelta(hours=7))
    assert len(found) == 8


def test_it_gives_up_saying_between_which_moments_the_newest_lies() -> None:
    with pytest.raises(NoData, match="did not reach the newest"):
        newest([*keys(DAY, 20), *(f"daily/vcci_production-zzz-{n:06}" for n in range(9000))])


@given(
    st.lists(st.integers(-3 * 86400, 3000 * 86400), min_size=1, max_size=60, unique=True),
    st.integers(1, 10),
)
def test_the_newest_is_never_missed(ages: list[int], wanted: int) -> None:
    there = [NAMES.key(NOW - dt.timedelta(seconds=age)) for age in ages]
    found, used = newest(there, wanted)
    assert found[-1] == max(there)
    assert found == sorted(there)[-len(found) :]
    assert used <= MAX_LISTS


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3000), st.integers(1, 8_000), st.integers(0, 30 * 1440))
def test_a_search_among_very_many_is_right_or_gives_up(minutes: int, count: int, age: int) -> None:
    there = keys(dt.timedelta(minutes=minutes), count, dt.timedelta(minutes=age))
    try:
        found, used = newest(there)
    except NoData:
        return
    assert found[-1] == NAMES.key(NOW - dt.timedelta(minutes=age))
    assert used <= MAX_LISTS


@pytest.mark.parametrize(
    "key",
    [
        "daily/vcci_production-20260301T000000Z.dump.manifest.json",
        "daily/vcci_production-2026031T000000Z.dump",
        "daily/sub/vcci_production-20260301T000000Z.dump",
        "vcci_production-20260301T000000Z.dump",
        "daily/",
        "",
    ],
)
def test_other_names_are_no_backups(key: str) -> None:
    assert NAMES.taken_at(key) is None


@pytest.mark.parametrize("content", [b"", b"null", b"[]", b"\xff", b'{"size": "x", "taken_at": "2026-01-01"}', None])
def test_a_useless_manifest_says_so(content: bytes | None) -> None:
    assert read_manifest(content).problem


def test_a_time_without_a_zone_is_utc() -> None:
    manifest = read_manifest(b'{"size": 5, "taken_at": "2026-01-01T02:00:00"}')
    assert manifest.taken_at == dt.datetime(2026, 1, 1, 2, tzinfo=dt.UTC)
