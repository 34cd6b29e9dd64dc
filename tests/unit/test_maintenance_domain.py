"""What of maintenance is worth it, what fits into a window, what may be dropped, how what is in the way is named."""

from __future__ import annotations

import dataclasses
import datetime as dt
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vcci_ops.domain.bloat import Entries, Pages, estimate, exact, fresh_size
from vcci_ops.domain.maintenance import ANALYZE, REINDEX, VACUUM, Index, Table, Work, reindex_works, vacuum_works
from vcci_ops.domain.maintenance_obstacles import Blocker, Invalid, left_over_of
from vcci_ops.domain.maintenance_plan import (
    BUSY,
    DONE,
    GIVEN_UP,
    LEFT,
    MaintenanceRequest,
    Outcome,
    Shift,
    due_kinds,
    go_through,
)
from vcci_ops.domain.maintenance_windows import crons, current, following, longest
from vcci_ops.exceptions import InvalidInput
from vcci_ops.settings_maintenance import Maintenance

NOW = dt.datetime(2026, 11, 25, 3, 0, tzinfo=dt.UTC)  # a Wednesday
SETTINGS = Maintenance.model_validate(
    {
        "windows": [{"days": ["sunday", "wednesday"], "begin": "02:00", "end": "06:00"}],
        "volumes": {"pg_default": 10**12},
    }
)
SPEEDS = {VACUUM: 40e6, REINDEX: 10e6}
NOBODY: frozenset[str] = frozenset()


def table(name: str, **given: Any) -> Table:
    plain: dict[str, Any] = {field.name: 0 for field in dataclasses.fields(Table)}
    times = dict.fromkeys(("last_vacuum", "last_autovacuum", "last_autoanalyze"))
    well = {"kind": "r", "live": 100_000, "freeze_max": 200_000_000, "mxid_freeze_max": 400_000_000, "allowed": True}
    named = {"schema": "public", "name": name, "owner": "vcci_app", "autovacuum_off": False, "root": ""}
    return Table(**{**plain, **times, **well, **named, "last_analyze": NOW, "bytes": 10_000_000, **given})


def index(name: str, waste: int = 0, **given: Any) -> Index:
    size = 200_000_000
    bloat = exact(size, Pages(size // 8192, 90 * (1 - waste / 100), 0, 0, 90))
    plain: dict[str, Any] = {"schema": "public", "name": name, "table_schema": "public", "table_name": "emissions"}
    well = {"method": "btree", "bytes": size, "valid": True, "exclusion": False, "allowed": True, "owner": "vcci_app"}
    return Index(**{**plain, **well, "tablespace": "pg_default", "bloat": bloat, **given})


# Windows ------------------------------------------------------------------------------------------------


def windows(*given: tuple[list[str], str, str]) -> Any:
    made = [{"days": days, "begin": begin, "end": end} for days, begin, end in given]
    return Maintenance.model_validate({"windows": made, "volumes": {"pg_default": 1}}).windows


@pytest.mark.parametrize(
    ("now", "open_now"),
    [
        pytest.param("2026-11-25T01:59:59", "", id="a second before"),
        pytest.param("2026-11-25T02:00:00", "Wed 25 Nov 02:00 to 06:00 UTC", id="its begin"),
        pytest.param("2026-11-25T05:59:59", "Wed 25 Nov 02:00 to 06:00 UTC", id="its last second"),
        pytest.param("2026-11-25T06:00:00", "", id="its end"),
        pytest.param("2026-11-26T03:00:00", "", id="another day"),
        pytest.param("2026-11-29T03:00:00", "Sun 29 Nov 02:00 to 06:00 UTC", id="sunday"),
    ],
)
def test_a_window_is_open_from_its_begin_until_before_its_end(now: str, open_now: str) -> None:
    span = current(SETTINGS.windows, dt.datetime.fromisoformat(now).replace(tzinfo=dt.UTC))
    assert str(span or "") == open_now


def test_one_over_midnight_is_of_the_day_it_begins_on_and_the_next_one_is_named() -> None:
    night = windows((["saturday"], "22:00", "04:00"))
    sunday = dt.datetime(2026, 11, 29, 3, 0, tzinfo=dt.UTC)
    assert str(current(night, sunday)) == "Sat 28 Nov 22:00 to 04:00 UTC"
    assert current(night, sunday + dt.timedelta(hours=1)) is None
    assert following(night, sunday).begin == dt.datetime(2026, 12, 5, 22, 0, tzinfo=dt.UTC)
    assert longest(night) == dt.timedelta(hours=6)


def test_schedules_begin_with_the_windows() -> None:
    assert crons(SETTINGS.windows) == ["0 2 * * 0,3"]
    assert crons(windows((["saturday"], "22:30", "04:00"), (["sunday"], "22:30", "04:00"))) == [
        "30 22 * * 0",
        "30 22 * * 6",
    ]


@pytest.mark.parametrize(("begin", "end"), [("02:00", "02:00"), ("2:00", "06:00"), ("02:00", "24:00"), (1320, "06:00")])
def test_a_window_that_cannot_be_is_refused(begin: Any, end: Any) -> None:
    with pytest.raises(ValueError, match=r"a time of day in quotes|an end that is not the begin"):
        windows((["sunday"], begin, end))


# What is worth it ---------------------------------------------------------------------------------------


def test_what_is_nearest_to_a_forced_vacuum_comes_first_then_what_gives_back_most_then_statistics() -> None:
    tables = [
        table("fine"),
        table("stale", changed=50_000),
        table("dead", dead=40_000),
        table("old", age=130_000_000),
        table("older", mxid_age=380_000_000),
        table("large", dead=40_000, bytes=10**9),
        table("grown", inserted=30_000),
        table("toasted", toast_live=1000, toast_dead=20_000),
        table("few dead", dead=9_999, live=10_000),
        table("a small share", dead=20_000, live=10_000_000),
    ]
    works, left = vacuum_works(tables, NOBODY, SETTINGS, SPEEDS, NOW)
    assert left == []
    order = ["older", "old", "large", "dead", "toasted", "grown", "stale"]
    assert [work.object[1] for work in works] == order
    assert [(work.kind, work.freeze) for work in works] == [(VACUUM, True)] * 2 + [(VACUUM, False)] * 4 + [
        (ANALYZE, False)
    ]
    why = {work.object[1]: work.why for work in works}
    assert why["old"] == "its oldest rows are 65 % on their way to a forced vacuum"
    assert why["dead"] == "40,000 dead rows, 29 %"
    assert why["toasted"] == "TOAST: 20,000 dead rows, 95 %"


def test_what_may_not_be_touched_is_left_with_its_reason_unless_a_person_names_it() -> None:
    limits = SETTINGS.model_copy(update={"excluded": ("public.huge",)})
    tables = [table("huge", dead=50_000), table("theirs", dead=50_000, allowed=False, owner="stranger")]
    works, left = vacuum_works(tables, NOBODY, limits, SPEEDS, NOW)
    assert works == []
    assert [(item.object, item.why.partition(" (")[0]) for item in left] == [
        ("public.huge", "excluded by the settings"),
        ("public.theirs", "the role may not: its owner is stranger"),
    ]
    works, _ = vacuum_works(tables, frozenset({"public.huge"}), limits, SPEEDS, NOW)
    assert [work.object[1] for work in works] == ["huge"]


def test_a_partitioned_table_is_analyzed_as_a_whole_which_autovacuum_never_does() -> None:
    parents = [table("never", kind="p", last_analyze=None), table("lately", kind="p")]
    works, _ = vacuum_works(parents, NOBODY, SETTINGS, SPEEDS, NOW)
    assert [(work.kind, work.object[1]) for work in works] == [(ANALYZE, "never")]


def test_indexes_are_rebuilt_by_their_waste_and_not_where_that_would_bar_writers_or_room_is_unknown() -> None:
    indexes = [
        index("some", 35),
        index("most", 80),
        index("little", 20),
        index("exclusion", 80, exclusion=True),
        index("elsewhere", 80, tablespace="fast"),
        index("broken", 80, valid=False),
        index("unknown", bloat=None),
    ]
    works, left = reindex_works(indexes, NOBODY, SETTINGS, SPEEDS)
    assert [work.object[1] for work in works] == ["most", "some"]
    assert works[0].why == "80 % is waste, 160.00 MB (exact)"
    assert {item.object: item.why.split(":")[0] for item in left} == {
        "public.exclusion": "it backs an exclusion constraint",
        "public.elsewhere": "the settings do not say how large the volume of tablespace fast is",
    }


def test_waste_is_what_a_new_index_would_not_need() -> None:
    entries = Entries(1_000_000, 8.0)
    assert estimate(fresh_size(entries), entries).bytes == 0  # type: ignore[union-attr]
    bloat = estimate(3 * fresh_size(entries), entries)
    assert bloat is not None
    assert 66 < bloat.percent < 67
    assert estimate(10**9, Entries(-1, 8.0)) is None
    assert estimate(10**9, Entries(1000, None)) is None
    assert exact(8192 * 100, Pages(100, float("nan"), 0, 0, 90)).bytes == 0


@given(st.integers(0, 10**12), st.floats(0, 1e10), st.floats(0, 2000), st.integers(10, 100))
def test_waste_is_never_negative_nor_more_than_the_index(size: int, number: float, width: float, fill: int) -> None:
    bloat = estimate(size, Entries(number, width, fillfactor=max(fill, 30)))
    assert bloat is not None
    assert 0 <= bloat.bytes <= size
    assert 0 <= bloat.percent <= 100


# Time ---------------------------------------------------------------------------------------------------


class Clock:
    """A clock that goes on by what each work takes."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> dt.datetime:
        return self.now


def work(name: str, seconds: float) -> Work:
    return Work(VACUUM, ("public", name), f"public.{name}", "due", 0, seconds)


def test_nothing_is_begun_that_does_not_fit_and_what_is_shorter_still_has_its_turn() -> None:
    clock = Clock()

    def act(done: Work) -> Outcome:
        clock.now += dt.timedelta(seconds=done.seconds)
        return Outcome(DONE)

    shift = Shift(NOW + dt.timedelta(hours=1), dt.timedelta(hours=4), clock)
    works = [work("a", 3000), work("b", 900), work("c", 500), work("d", 5 * 3600), work("e", 200)]
    ended = {done.object[1]: outcome for done, outcome in go_through(works, shift, act)}
    assert {name: outcome.state for name, outcome in ended.items()} == {
        "a": DONE,
        "b": LEFT,
        "c": DONE,
        "d": LEFT,
        "e": LEFT,
    }
    assert ended["b"].words == "it is reckoned to take 15 min, and 10 min were left; the next window"
    assert ended["b"].detail == {"never_fits": False}
    assert "no window is that long" in ended["d"].words
    assert ended["d"].detail == {"never_fits": True}
    clock.now = shift.until
    ((_, late),) = go_through([work("f", 1)], shift, act)
    assert late.words == "the time was over; it goes on in the next window"


def test_what_somebody_has_locked_waits_behind_the_rest_and_is_given_up_after_three_tries() -> None:
    seen: list[str] = []

    def act(tried: Work) -> Outcome:
        seen.append(tried.object[1])
        return Outcome(BUSY, "held by process 7") if tried.object[1] == "held" else Outcome(DONE)

    shift = Shift(NOW + dt.timedelta(hours=1), dt.timedelta(hours=4), Clock())
    ended = list(go_through([work("held", 1), work("free", 1)], shift, act))
    assert seen == ["held", "free", "held", "held"]
    assert [(done.object[1], outcome.state) for done, outcome in ended] == [("free", DONE), ("held", GIVEN_UP)]
    assert ended[1][1].words == "held by process 7; tried 3 times"


def test_on_schedule_a_pass_is_due_when_the_last_one_is_long_enough_ago() -> None:
    scheduled = MaintenanceRequest.of({}, scheduled=True)
    last = {VACUUM: NOW - dt.timedelta(days=7), REINDEX: NOW - dt.timedelta(days=14)}
    assert due_kinds(scheduled, last, SETTINGS, NOW) == (VACUUM,)
    assert due_kinds(scheduled, {}, SETTINGS, NOW) == (VACUUM, REINDEX)
    by_hand = MaintenanceRequest.of(
        {"kind": "reindex", "tables": [], "ignore_window": False, "dry_run": True}, scheduled=False
    )
    assert due_kinds(by_hand, last, SETTINGS, NOW) == (REINDEX,)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tables", "worn"),
        ("tables", ["a\n"]),
        ("tables", [7]),
        ("tables", ["x"] * 201),
        ("kind", "full"),
        ("dry_run", "no"),
    ],
)
def test_a_form_that_cannot_be_used_is_refused_by_its_field(field: str, value: Any) -> None:
    form = {"kind": "vacuum", "tables": [], "ignore_window": False, "dry_run": True, field: value}
    with pytest.raises(InvalidInput, match=f"^{field}: "):
        MaintenanceRequest.of(form, scheduled=False)


# What is in the way -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("blocker", "said", "action"),
    [
        pytest.param(
            Blocker("session", "7", "app, web-1", 5000, 7200, "idle in transaction"),
            "process 7 (app, web-1), idle in transaction, for 2 h, 5,000 transactions back",
            "pg_terminate_backend(7)",
            id="left open",
        ),
        pytest.param(
            Blocker("session", "8", "app", None, 4000, "active"),
            "process 8 (app), active",
            "pg_cancel_backend(8)",
            id="long",
        ),
        pytest.param(
            Blocker("slot", "o'slot", "physical", 9_000_000, None, "inactive"),
            "replication slot o'slot (physical), inactive, 9,000,000 transactions back",
            "pg_drop_replication_slot('o''slot')",
            id="slot",
        ),
        pytest.param(
            Blocker("standby", "replica-1", "10.0.0.7", 100, None, None),
            "hot_standby_feedback of standby replica-1 (10.0.0.7), 100 transactions back",
            "turn hot_standby_feedback off",
            id="standby",
        ),
        pytest.param(
            Blocker("prepared", "it's", "vcci_app", 10, 9000, None),
            "prepared transaction 'it's' of vcci_app, for 2 h 30 min, 10 transactions back",
            "ROLLBACK PREPARED 'it''s'",
            id="prepared",
        ),
    ],
)
def test_what_keeps_dead_rows_is_named_with_the_statement_that_ends_it(
    blocker: Blocker, said: str, action: str
) -> None:
    assert said in str(blocker)
    assert action in blocker.action


def left(name: str, **given: Any) -> Invalid:
    plain: dict[str, Any] = {"schema": "public", "table_schema": "public", "table_name": "t", "bytes": 8192, "busy": ()}
    return Invalid(**{**plain, "name": name, "alike": ("t_body",), "allowed": True, **given})


def test_only_what_is_provably_left_over_may_be_dropped() -> None:
    assert left("t_body_ccnew").why_kept == ""
    assert left("t_body_ccold3").why_kept == ""
    assert "not left over from a rebuild by its name" in left("t_body").why_kept
    assert "there is no valid index of that name" in left("t_other_ccnew").why_kept
    assert "somebody may be building it: process 9" in left("t_body_ccnew", busy=("process 9",)).why_kept
    assert left("t_body_ccnew", allowed=False).why_kept == "only its owner may drop it"


def test_names_that_postgresql_had_to_cut_are_known_again() -> None:
    name = "x" * 63
    assert left_over_of("x" * 57 + "_ccnew", name)
    assert not left_over_of("x" * 56 + "_ccnew", name)
    assert not left_over_of("t_body_ccnew", "t_bod")
