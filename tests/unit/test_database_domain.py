from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vcci_ops.domain import database, security, statements
from vcci_ops.domain.database import Earlier, masked
from vcci_ops.exceptions import InvalidInput, NoData, UnexpectedAnswer
from vcci_ops.operators.database import nearest_to_a_day, window
from vcci_ops.settings import Check, load_settings

NOW = dt.datetime(2026, 3, 2, 9, tzinfo=dt.UTC)


def check(id_: str) -> Check:
    return load_settings("sandbox").checks[id_]


@pytest.mark.parametrize(
    ("sql", "shown"),
    [
        pytest.param("SELECT 'a''b', 1.5e3", "SELECT ?, ?", id="strings-and-numbers"),
        pytest.param(r"SELECT E'it\'s secret', 2", "SELECT ?, ?", id="escape-string"),
        pytest.param("SELECT $$a 'b'$$, $x$ $y$ $x$", "SELECT ?, ?", id="dollar-quotes"),
        pytest.param("SELECT $1, $2", "SELECT $1, $2", id="parameters-stay"),
        pytest.param('SELECT "a""b1" FROM t1', 'SELECT "a""b1" FROM t1', id="names-stay"),
        pytest.param("SELECT 1 -- secret 'x\nFROM t", "SELECT ? FROM t", id="line-comment"),
        pytest.param("/* a /* b */ secret */ SELECT 2", "SELECT ?", id="nested-comment"),
        pytest.param("SELECT 'cut off in the midd", "SELECT ?", id="cut-off-string"),
        pytest.param("SELECT /* cut off", "SELECT", id="cut-off-comment"),
        pytest.param("SELECT $a$ cut off", "SELECT ?", id="cut-off-dollar-quote"),
        pytest.param("ALTER ROLE x PASSWORD 'hunter2'", "ALTER ROLE x PASSWORD ?", id="password"),
    ],
)
def test_literals_and_comments_are_masked(sql: str, shown: str) -> None:
    assert masked(sql) == shown


@given(st.text(alphabet="abc '\\$\"/*-\n", max_size=30), st.integers(0, 60))
def test_a_quoted_secret_never_survives_a_cut(inside: str, cut: int) -> None:
    literal = "'" + inside.replace("'", "''") + "S3CRET'"
    text = f"SELECT {literal}, x"
    # As pg_stat_activity cuts: anywhere, even in the literal.
    assert "S3CRET" not in masked(text[: max(cut, 7)])


def test_a_long_statement_is_cut_visibly() -> None:
    assert masked("SELECT " + "a, " * 200).endswith("…")
    assert len(masked("SELECT " + "a, " * 200)) == database.QUERY_LENGTH


def test_reserved_connections_do_not_count_as_usable() -> None:
    row = (100, 10, 81, {"idle": 70, "active": 11}, [["api", "vcci_app", 80]], True)
    result = database.connections(check("database.connections"), row)
    assert result.value == 90
    assert result.status == "warning"
    assert result.details[0] == "70 idle"


def test_a_server_with_nothing_but_reserved_connections_is_an_unexpected_answer() -> None:
    with pytest.raises(UnexpectedAnswer):
        database.connections(check("database.connections"), (3, 3, 0, None, None, True))


@pytest.mark.parametrize(
    ("before", "hours", "percent"),
    [
        pytest.param(100.0, 24, 21.0, id="a-day"),
        pytest.param(100.0, 48, 10.5, id="two-days"),
        pytest.param(100.0, 0.1, 21.0, id="minutes-are-not-blown-up"),
        pytest.param(242.0, 24, -50.0, id="shrunk"),
        pytest.param(100.0, -3, 21.0, id="clock-went-back"),
    ],
)
def test_growth_is_per_day(before: float, hours: float, percent: float) -> None:
    earlier = Earlier(before, NOW - dt.timedelta(hours=hours))
    assert database.growth(check("database.growth"), Earlier(121.0, NOW), earlier).value == pytest.approx(percent)


@pytest.mark.parametrize(
    ("now", "status"),
    [(5.0, "critical"), (85.0, "warning"), (95.0, "ok"), (105.0, "ok"), (115.0, "warning"), (160.0, "critical")],
)
def test_shrinking_is_as_bad_as_growing(now: float, status: str) -> None:
    earlier = Earlier(100.0, NOW - dt.timedelta(days=1))
    result = database.growth(check("database.growth"), Earlier(now, NOW), earlier)
    assert result.status == status
    assert result.threshold == "warning above 10 %, critical above 50 %, growing or shrinking"
    assert ("was data deleted" in result.summary) == (now < 90)


@pytest.mark.parametrize("before", [None, Earlier(0.0, NOW)])
def test_growth_without_an_earlier_value_says_so(before: Earlier | None) -> None:
    result = database.growth(check("database.growth"), Earlier(121.0, NOW), before)
    assert result.status == "ok"
    assert "No earlier value" in result.summary


def test_tenants_without_history_nor_tenants_are_unknown() -> None:
    with pytest.raises(NoData):
        database.active_tenants(check("tenants.active"), (0, 0), 86400, [])


@pytest.mark.parametrize("rows", [[], [(None,)], [("a", None)]])
def test_no_number_is_no_data(rows: list[Any]) -> None:
    with pytest.raises(NoData):
        database.measured(check("database.size"), rows)


@pytest.mark.parametrize(
    ("given_value", "seconds"), [(90, 90), ("90", 90), ("1.5", 1.5), ("24h", 86400), ("1h30m", 5400)]
)
def test_windows_are_seconds_or_durations(given_value: float | str, seconds: float) -> None:
    assert window("lookback", given_value) == seconds


@pytest.mark.parametrize("value", ["", "soon", "-1", 0, "1h; DROP TABLE x", "nan", "inf"])
def test_other_windows_are_refused(value: float | str) -> None:
    with pytest.raises(InvalidInput, match="lookback"):
        window("lookback", value)


@pytest.mark.parametrize(
    ("ages", "chosen"),
    [
        pytest.param([], None, id="none"),
        pytest.param([0.1, 23, 47], 23, id="yesterday-and-by-hand"),
        pytest.param([0.2, 72], 72, id="a-weekend-and-by-hand"),
        pytest.param([-1, 0.2], 0.2, id="only-by-hand-and-a-clock-that-went-back"),
    ],
)
def test_the_run_nearest_to_a_day_ago_is_compared_with(ages: list[float], chosen: float | None) -> None:
    runs = [(NOW - dt.timedelta(hours=age), age) for age in ages]
    found = nearest_to_a_day(runs, NOW)
    assert (found and found[1]) == chosen


# Statements -------------------------------------------------------------------------------------

LIMITS = statements.Limits(slow_ms=100, min_calls=20, factor=2)


def snapshot(before: Any = None, reset: int = 0, dealloc: int = 0, **rows: tuple[int, float]) -> dict[str, Any]:
    at = NOW + dt.timedelta(minutes=reset)
    tail = (at, dealloc, True)
    found = [(key, "app", calls, total / calls, total, f"SELECT {key}", *tail) for key, (calls, total) in rows.items()]
    return statements.snapshot(found or [(None,) * 6 + tail], before, NOW + dt.timedelta(days=1))


def judged(taken: Any, before: Any) -> Any:
    return statements.slow_queries(check("database.slow_queries"), taken, before, LIMITS)


def test_a_mean_of_a_year_does_not_hide_a_bad_day() -> None:
    first = snapshot(a=(100_000, 100_000 * 101.0))
    second = snapshot(first, a=(100_100, 100_000 * 101.0 + 100 * 5000.0))
    assert judged(second, first).summary.startswith("0 new and 1 slower")
    assert "5 s x 100, was 101 ms" in judged(second, first).details[0]


def test_few_calls_say_nothing() -> None:
    first = snapshot(a=(100, 100 * 110.0))
    assert judged(snapshot(first, a=(110, 100 * 110.0 + 10 * 9000.0)), first).value == 0
    assert judged(snapshot(b=(19, 19 * 900.0)), snapshot()).value == 0


def test_what_became_slow_since_is_new_among_the_slow() -> None:
    first = snapshot(a=(1000, 1000 * 5.0))
    second = snapshot(first, a=(2000, 1000 * 5.0 + 1000 * 500.0))
    assert judged(second, first).summary.startswith("1 new")


def test_what_was_too_rare_to_be_reported_is_new_once_it_is_frequent() -> None:
    first = snapshot(a=(5, 5 * 30_000.0))
    assert judged(first, snapshot()).value == 0
    second = snapshot(first, a=(5005, 5005 * 30_000.0))
    assert judged(second, first).summary.startswith("1 new and 0 slower")


def test_a_day_without_calls_makes_a_known_statement_neither_new_nor_a_rare_one_known() -> None:
    first = snapshot(often=(1000, 1000 * 500.0), rare=(5, 5 * 500.0))
    idle = snapshot(first, often=(1000, 1000 * 500.0), rare=(5, 5 * 500.0))
    again = snapshot(idle, often=(2000, 2000 * 500.0), rare=(1005, 1005 * 500.0))
    result = judged(again, idle)
    assert result.summary.startswith("1 new and 0 slower")
    assert "1 as slow as before" in result.summary
    assert "SELECT rare" in result.details[0]


def test_what_was_not_called_again_stays_as_it_was() -> None:
    first = snapshot(a=(1000, 1000 * 500.0))
    second = snapshot(first, a=(1000, 1000 * 500.0))
    assert judged(second, first).value == 0
    assert second["statements"][0]["recent_ms"] == 500


def test_an_evicted_entry_counts_anew_and_is_said() -> None:
    first = snapshot(a=(1000, 1000 * 500.0))
    second = snapshot(first, dealloc=7, a=(30, 30 * 600.0))
    assert judged(second, first).value == 0
    assert "evicted" in judged(second, first).details[-1]


def test_without_a_first_look_nothing_is_called_new() -> None:
    result = judged(snapshot(a=(100, 100 * 500.0)), None)
    assert result.value == 1
    assert "no earlier snapshot" in result.summary


# Security ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("person", "shown"),
    [
        ("ada.brandt@acme.com", "a***@acme.com"),
        ("system", "system"),
        ("", "?"),
        (None, "?"),
        ("@acme.com", "***@acme.com"),
        ('"a@b"@acme.com', '"***@acme.com'),
    ],
)
def test_persons_are_shown_by_a_letter_and_their_domain(person: str | None, shown: str) -> None:
    assert security.shown(person) == shown


def test_an_empty_audit_log_is_no_quiet_night() -> None:
    with pytest.raises(NoData, match="is it written"):
        security.failed_logins(check("security.failed_logins"), (None, 0, None, None), 86400)


def test_more_changes_than_are_shown_are_counted() -> None:
    row = (60.0, False, 25, NOW, "api_key.created", "a@b.c", "erp", None, None)
    result = security.changes(check("security.privileges"), [row] * 10, 86400, admin=False)
    assert result.value == 25
    assert result.details[-1] == "15 earlier ones"
