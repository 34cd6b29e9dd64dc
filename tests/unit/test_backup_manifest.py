"""What a manifest says, and which backups retention lets go."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vcci_ops.domain import backup_manifest as told
from vcci_ops.domain.backup_retention import Fate, Known, missing_holds, plan, require_sane
from vcci_ops.domain.backups import Backup, Names, read_manifest
from vcci_ops.exceptions import InvalidInput, Refused, UnexpectedAnswer
from vcci_ops.settings import load_settings
from vcci_ops.settings_backup import DatabaseBackup, Retention

NOW = dt.datetime(2026, 11, 25, 3, 0, tzinfo=dt.UTC)
NAMES = Names(prefix="daily/", key_format="vcci_production-%Y%m%dT%H%M%SZ.dump")
TABLE = {"rows": 3, "max_key": "3", "max_timestamp": None, "checksum": "00", "sampled": None}
MANIFEST = {
    "key": "daily/x.dump",
    "taken_at": "2026-11-25T02:00:00+00:00",
    "size": 10,
    "sha256": "a" * 64,
    "tables": {"tenants": TABLE, "billing.invoices": TABLE},
}
LISTING = """;
; Archive created at 2026-11-25 02:00:00 UTC
;     TOC Entries: 12
;
209; 1259 16448 TABLE public tenants vcci_app
3366; 0 16448 TABLE DATA public tenants vcci_app
3367; 0 16449 TABLE DATA billing invoices vcci_app
3368; 0 16450 TABLE DATA public my  table vcci_app
3369; 0 16451 TABLE DATA odd.schema a.b vcci_app
"""


# Manifest ---------------------------------------------------------------------------------------


def test_a_manifest_is_read_by_the_morning_check() -> None:
    read = read_manifest(told.written(told.build([MANIFEST])))
    assert (read.problem, read.size, read.sha256, read.tables) == ("", 10, "a" * 64, 2)
    assert read.taken_at == dt.datetime(2026, 11, 25, 2, 0, tzinfo=dt.UTC)


def test_a_manifest_is_written_alike_whenever_it_is_written() -> None:
    there_and_back = json.loads(told.written(told.build([MANIFEST])))
    assert told.written(there_and_back) == told.written(told.build([dict(reversed(MANIFEST.items()))]))


def test_a_manifest_cannot_say_a_thing_twice() -> None:
    with pytest.raises(UnexpectedAnswer, match="two values for size"):
        told.build([MANIFEST, {"size": 11}])


def test_a_summary_says_what_was_sampled_and_what_not_counted() -> None:
    sampled = {**TABLE, "sampled": {"share": 0.5, "one_in": 2, "rows": 1}}
    unknown: dict[str, Any] = dict.fromkeys(TABLE)
    said = told.summary({"tables": {"a": TABLE, "b": sampled, "c": unknown}})
    assert said == "3 tables, 6 rows, 1 of them with sampled checksums, 1 of them NOT counted"


@pytest.mark.parametrize("name", ["tenants", "billing.invoices", "my  table", "odd.schema.a.b"])
def test_a_table_is_found_in_the_table_of_contents(name: str) -> None:
    assert told.unlisted(LISTING, [name]) == []


@pytest.mark.parametrize("name", ["tenant", "invoices", "billing.tenants", "vcci_app", "users"])
def test_a_table_that_is_not_in_the_dump_is_named(name: str) -> None:
    assert told.unlisted(LISTING, [name, "tenants"]) == [name]


def test_the_table_of_contents_says_how_long_it_is() -> None:
    assert told.entries(LISTING) == 12
    assert told.entries("") == 0


@given(size=st.integers(0, 10**15), whole=st.integers(1, 10**12))
def test_about_as_much_of_a_table_is_hashed_as_the_settings_say(size: int, whole: int) -> None:
    share = told.one_in(size, whole)
    assert share & (share - 1) == 0
    assert size / share <= whole
    assert share == 1 or 2 * size / share > whole


@given(st.integers(0, 50 * 10**12))
def test_a_dump_as_large_as_its_database_fits_into_one_upload(database: int) -> None:
    first = told.part_size(database, 8 << 20)
    # 10,000 parts; after each thousand they become larger by the first one's size.
    assert sum(1000 * (first * grown) for grown in range(1, 11)) >= database
    assert first == 8 << 20 or database > 300 * 10**9


def test_a_server_newer_than_pg_dump_is_refused_with_what_helps() -> None:
    told.require_tool(150018, "15.18", "15.3")
    told.require_tool(140009, "14.9", "15.18")
    with pytest.raises(Refused, match=r"PostgreSQL 17\.2 and pg_dump here is 15\.18.*postgresql-client-17"):
        told.require_tool(170002, "17.2", "15.18")


# Settings ---------------------------------------------------------------------------------------


def test_retention_keeps_no_longer_than_certificates_of_deletion_promise(tmp_path: Any) -> None:
    for environment in ("production", "sandbox"):
        settings = load_settings(environment)
        assert settings.database_backup.retention.longest <= settings.tenants.erasure.backups_kept
    text = (load_settings.__globals__["INCLUDE"] / "settings" / "production.yaml").read_text()
    file = tmp_path / "long.yaml"
    file.write_text(text.replace("    monthly: 11", "    monthly: 24"))
    with pytest.raises(InvalidInput, match=r"for 744 days.*promise.*backups_kept, 365 days"):
        load_settings(file)


def test_a_kms_key_without_kms_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="kms_key only with encryption aws:kms"):
        DatabaseBackup(kms_key="alias/backups")


# Retention --------------------------------------------------------------------------------------


def backup(days: float, why: str = "", *, ours: bool = True, restored: bool = False) -> Known:
    taken = NOW - dt.timedelta(days=days, hours=1)
    return Known(Backup(NAMES.key(taken), 1000, taken, taken), why, ours, restored)


def deleted(fates: tuple[Fate, ...]) -> set[str]:
    return {fate.key for fate in fates if fate.delete}


def test_daily_weekly_and_monthly_backups_are_kept() -> None:
    known = [backup(days) for days in range(400)]
    fates = plan(known, Retention(daily=14, weekly=8, monthly=11), NOW)
    kept = [fate for fate in fates if not fate.delete]
    assert [fate.key for fate in kept[:14]] == [one.backup.key for one in known[:14]]
    assert kept[0].why == "the newest verified backup"
    assert kept[1].why == "daily backup 2 of 14"
    # 14 days; of 8 weeks those that these days do not show; then the last day of each earlier month of eleven.
    assert [NAMES.taken_at(fate.key).strftime("%m-%d") for fate in kept[14:]] == [  # type: ignore[union-attr]
        *("11-08", "11-01", "10-31", "10-25", "10-18", "10-11", "09-30"),
        *("08-31", "07-31", "06-30", "05-31", "04-30", "03-31", "02-28", "01-31"),
    ]
    gone = next(fate for fate in fates if fate.delete)
    assert gone.replaced_by in {fate.key for fate in kept}
    assert "beyond 14 daily, 8 weekly, 11 monthly ones; replaced by daily/vcci_production-202611" in str(gone)


def test_a_pause_deletes_nothing() -> None:
    known = [backup(100 + days) for days in range(5)]
    assert deleted(plan(known, Retention(daily=5, weekly=0, monthly=0), NOW)) == set()


def test_what_was_made_before_a_change_is_not_replaced_by_what_was_made_after_it() -> None:
    known = [backup(0), backup(0.1), backup(0.2), backup(2), backup(2.1)]
    fates = plan(known, Retention(daily=1, weekly=0, monthly=0), NOW)
    assert [fate.delete for fate in fates] == [False, False, False, True, True]
    assert fates[1].why == "younger than 2 d"


def test_what_is_not_verified_replaces_nothing() -> None:
    known = [backup(0, "it was never read back"), backup(1, "it has no manifest"), backup(2), backup(3)]
    fates = plan(known, Retention(daily=1, weekly=0, monthly=0), NOW)
    assert deleted(fates) == {known[3].backup.key}
    assert fates[-1].replaced_by == known[2].backup.key


def test_what_a_dead_run_left_goes_once_a_newer_backup_is_verified() -> None:
    dead, foreign = backup(3, "it was never read back"), backup(3.1, "it has no manifest", ours=False)
    rules = Retention(daily=5)
    assert deleted(plan([dead, foreign], rules, NOW)) == set()
    assert deleted(plan([dead, foreign, backup(4)], rules, NOW)) == set()
    assert deleted(plan([dead, foreign, backup(0)], rules, NOW)) == {dead.backup.key}
    young = backup(1, "it was never read back")
    assert deleted(plan([young, backup(0)], rules, NOW)) == set()


def test_what_is_on_hold_stays_and_a_hold_that_is_not_there_is_said() -> None:
    known = [backup(0), backup(50)]
    rules = Retention(daily=1, weekly=0, monthly=0, hold=(known[1].backup.key, "daily/misspelt.dump"))
    assert deleted(plan(known, rules, NOW)) == set()
    assert missing_holds(known, rules) == ["daily/misspelt.dump"]


def test_the_newest_that_a_drill_has_restored_stays() -> None:
    known = [backup(0), backup(20), backup(40, restored=True), backup(60, restored=True)]
    assert deleted(plan(known, Retention(daily=1, weekly=0, monthly=0), NOW)) == {
        known[1].backup.key,
        known[3].backup.key,
    }


def test_a_backup_of_the_future_replaces_nothing_and_is_left_to_people() -> None:
    known = [backup(-30), backup(0), backup(3)]
    fates = plan(known, Retention(daily=1, weekly=0, monthly=0), NOW)
    assert deleted(fates) == {known[2].backup.key}
    assert "dated in the future" in fates[0].why


def test_a_plan_that_would_delete_what_nothing_replaces_is_refused() -> None:
    known = [backup(0), backup(1)]
    for bad in (known[:1], known):
        fates = [Fate(one.backup.key, 1, one in bad, "x", known[0].backup.key) for one in known]
        with pytest.raises(Refused, match="which nothing replaces; nothing was deleted"):
            require_sane(fates, known, Retention())


@st.composite
def shelves(draw: st.DrawFn) -> list[Known]:
    hours = draw(st.lists(st.integers(-100, 24 * 500), unique=True, max_size=60))
    return [
        backup(
            hour / 24,
            draw(st.sampled_from(["", "", "", "it has no manifest"])),
            ours=draw(st.booleans()),
            restored=draw(st.sampled_from([False, False, True])),
        )
        for hour in hours
    ]


@given(shelves(), st.tuples(st.integers(1, 30), st.integers(0, 9), st.integers(0, 12), st.integers(0, 99)), st.data())
def test_whatever_is_there_what_counts_stays(
    known: list[Known], numbers: tuple[int, int, int, int], data: st.DataObject
) -> None:
    daily, weekly, monthly, hours = numbers
    keys = [one.backup.key for one in known]
    hold = tuple(data.draw(st.lists(st.sampled_from(keys), max_size=3))) if keys else ()
    rules = Retention(daily=daily, weekly=weekly, monthly=monthly, younger_than=3600.0 * hours, hold=hold)
    fates = plan(known, rules, NOW)
    require_sane(fates, known, rules)
    gone, by_key = deleted(fates), {one.backup.key: one for one in known}
    assert {fate.key for fate in fates} == set(keys)
    good = [one for one in known if not one.unverified and one.backup.taken_at <= NOW]
    newest_first = sorted(good, key=lambda one: one.backup.taken_at, reverse=True)
    # Never the newest verified, nor the newest restored, nor what is on hold, nor what another tool left unexplained.
    assert not gone & {one.backup.key for one in newest_first[:1]}
    assert not gone & {one.backup.key for one in [one for one in newest_first if one.restored][:1]}
    assert not gone & set(hold)
    assert not gone & {one.backup.key for one in known if one.unverified and not one.ours}
    for fate in fates:
        if fate.delete:  # what replaces it is newer, verified, and stays
            replacing = by_key[fate.replaced_by]
            assert fate.replaced_by not in gone
            assert not replacing.unverified
            assert replacing.backup.taken_at > by_key[fate.key].backup.taken_at
    # Planned again after it was done, nothing more goes.
    assert deleted(plan([one for one in known if one.backup.key not in gone], rules, NOW)) == set()
