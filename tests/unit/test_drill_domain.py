"""A restore drill by its rules: which backup, what the figures mean, what the report says."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import json
from typing import Any

import pytest

from vcci_ops.domain import drill_choice as choice
from vcci_ops.domain.backups import Backup, Names
from vcci_ops.domain.drill import (
    DATE,
    KEY,
    LATEST,
    RANDOM,
    SHOWN,
    Assertion,
    Request,
    asserted,
    not_provable,
    outcome,
    read_request,
)
from vcci_ops.domain.drill_choice import Looked, Manifest, Recorded
from vcci_ops.domain.drill_measure import Before, Measured, judged
from vcci_ops.domain.drill_report import DrillReport, render, slack_final, slack_root
from vcci_ops.domain.results import Status
from vcci_ops.exceptions import InvalidInput, NoData

NOW = dt.datetime(2026, 11, 24, 4, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
NAMES = Names(prefix="daily/", key_format="vcci_production-%Y%m%dT%H%M%SZ.dump")
SHA = "a" * 64


def backup(days: int = 0, size: int = 1000) -> Backup:
    taken = NOW - days * DAY
    return Backup(NAMES.key(taken), size, taken, taken)


def manifest(of: Backup, **changes: Any) -> Manifest:
    said = {
        "schema_version": 2,
        "key": of.key,
        "taken_at": of.taken_at.isoformat(),
        "size": of.size,
        "sha256": SHA,
        "tables": {},
    }
    return choice.read(json.dumps({**said, **changes}).encode())


def looked(of: Backup, *, recorded: Recorded | None = None, begins: bytes = b"PGDMP", **changes: Any) -> Looked:
    return Looked(of, manifest(of, **changes), begins, recorded)


# Which backup ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "it has no manifest"),
        (b"not json", "its manifest cannot be read (JSONDecodeError)"),
        (b'{"taken_at": "2026-11-24"}', "its manifest cannot be read (KeyError)"),
        (b"[]", "its manifest cannot be read (TypeError)"),
    ],
)
def test_a_manifest_that_cannot_be_read_says_why(content: bytes | None, problem: str) -> None:
    assert choice.read(content).problem == problem


def test_a_manifest_without_a_proper_digest_of_its_dump_is_none() -> None:
    assert manifest(backup(), sha256="short").problem == "its manifest cannot be read (ValueError)"


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (looked(backup()), ""),
        (looked(backup(), size=2000), "1,000 of the 2,000 bytes of its manifest (50 %): truncated"),
        (looked(backup(), key="daily/other.dump"), "that of another backup, daily/other.dump"),
        (looked(backup(), taken_at="2026-10-24T04:00:00+00:00"), "an old dump under a new name"),
        (looked(backup(), begins=b"<html"), "it does not begin as a pg_dump archive does"),
        (looked(backup(), recorded=Recorded("failed")), "the history says that it is failed"),
        (looked(backup(), recorded=Recorded("made", "b" * 64)), "names another SHA-256 than was recorded"),
        (looked(backup(), recorded=Recorded("made", SHA, "0" * 64)), "is not the one that was recorded"),
        (looked(backup(), recorded=Recorded("made", SHA)), ""),
    ],
)
def test_what_speaks_against_a_backup(found: Looked, words: str) -> None:
    why = choice.unusable(found, [], 50)
    assert words in why
    assert bool(why) == bool(words)


def test_a_backup_is_too_small_against_the_median_of_its_neighbours_and_no_other() -> None:
    small, usual = looked(backup(0, 400)), [backup(day, 1000) for day in range(1, 4)]
    assert "40 % of the median of its 3 neighbours" in choice.unusable(small, usual, 50)
    assert choice.unusable(small, usual, 40) == ""
    assert choice.unusable(looked(backup(0, 1000)), [*usual, backup(9, 1_000_000)], 50) == ""


def test_candidates_are_those_that_were_asked_for_the_newest_first() -> None:
    found = [backup(day) for day in (40, 3, 2, 1)]

    def chosen(**asked: Any) -> list[Backup]:
        return choice.candidates(found, Request(**asked), NOW, NAMES)

    assert chosen(which=LATEST) == found[::-1]
    assert chosen(which=DATE, date=(NOW - 2 * DAY).date()) == [backup(2)]
    assert chosen(which=KEY, key=backup(3).key) == [backup(3)]
    assert set(chosen(which=RANDOM, days=30)) == {backup(1), backup(2), backup(3)}
    with pytest.raises(
        NoData, match=r"no backup of 2026-01-01 under daily/; there are 4: from 2026-10-15 to 2026-11-23"
    ):
        chosen(which=DATE, date=dt.date(2026, 1, 1))


def test_a_bad_newer_one_is_a_finding_and_one_that_fits_less_is_not() -> None:
    bad, other = (
        choice.Skipped("a", "it has no manifest"),
        choice.Skipped("b", "3 tenants were deleted since", bad=False),
    )
    made = choice.chosen_well(Request(), "c", [bad, other])
    assert (made.status, made.found) == (Status.CRITICAL, "a: it has no manifest; restored instead: c")
    assert made.lines == ("a: it has no manifest", "b: 3 tenants were deleted since")
    assert choice.chosen_well(Request(), "c", [other]).status == Status.OK


def test_a_backup_without_a_manifest_is_being_made_for_a_while_and_bad_after_that() -> None:
    young = Looked(backup(), choice.read(None), b"PGDMP", None)
    assert choice.under_way(young, NOW + dt.timedelta(hours=1), 7200)
    assert not choice.under_way(young, NOW + dt.timedelta(hours=3), 7200)
    assert choice.under_way(dataclasses.replace(young, recorded=Recorded("running")), NOW, 7200)
    assert not choice.under_way(dataclasses.replace(young, recorded=Recorded("failed")), NOW, 7200)
    assert not choice.under_way(looked(backup()), NOW, 7200)
    skipped = [choice.Skipped("a", "it has no manifest yet: it is being made", bad=False)]
    assert choice.chosen_well(Request(), "b", skipped).status == Status.OK
    assert choice.chosen_well(Request(), "", skipped).status == Status.CRITICAL, "nothing was left"


def test_of_random_ones_that_is_taken_which_no_deletion_came_after() -> None:
    assert choice.fits_less(backup(1), [NOW - 2 * DAY]) is None
    assert choice.fits_less(backup(1), [NOW]) == choice.Skipped(backup(1).key, "1 tenant was deleted since", bad=False)


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"which": "any"}, "which"),
        ({"which": "date", "date": "2026-02-30"}, "date"),
        ({"which": "key", "key": "../../x y"}, "key"),
        ({"days": 0}, "days"),
        ({"depth": "shallow"}, "depth"),
        ({"keep_on_failure": "yes"}, "keep_on_failure"),
        ({"rto_minutes": "1e9"}, "rto_minutes"),
        ({"rpo_minutes": -1}, "rpo_minutes"),
        ({"sabotage": "orphan"}, "sabotage"),
    ],
)
def test_what_the_form_must_not_say_is_named(params: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput, match=f"^{field}: "):
        read_request(params, Request())


def test_the_form_wins_over_the_settings() -> None:
    defaults = Request(days=14, rto=3600, rpo=7200)
    assert read_request({}, defaults) == defaults
    asked = read_request({"which": "random", "days": 3, "rto_minutes": 5, "sabotage": "orphan"}, defaults, ("orphan",))
    assert (asked.days, asked.rto, asked.rpo, asked.sabotage) == (3, 300, 7200, "orphan")


# What the figures mean ---------------------------------------------------------------------------------


def measured(rto: float | None = 600, size: int = 1000, before: tuple[Before, ...] = (), **more: Any) -> Measured:
    phases = {"read": 10.0, "schema": 0.0, "data": 20.0, "indexes": 10.0}
    given: dict[str, Any] = {"rpo": 3600.0, "restored_bytes": 5000, "phases": phases, **more}
    return Measured(at=NOW, rto=rto, bytes=size, before=before, **given)


def past(days: int, rto: float = 600, size: int = 1000) -> Before:
    return Before(NOW - days * DAY, rto, size, "passed")


def found(m: Measured, rto: float = 3600, rpo: float = 7200) -> dict[str, Assertion]:
    return {made.id: made for made in judged(m, rto, rpo, 50, 180)}


def test_targets_are_met_up_to_the_second_and_missed_beyond_it() -> None:
    assert found(measured(3600))["measure.rto"].status == Status.OK
    assert found(measured(3601))["measure.rto"].status == Status.CRITICAL
    assert found(measured(rpo=7201))["measure.rpo"].status == Status.CRITICAL


def test_what_was_not_reached_is_unknown_and_what_no_row_tells_is_a_warning() -> None:
    made = found(measured(None, rpo=None))
    assert {id_: one.status for id_, one in made.items()} == {
        "measure.rto": Status.UNKNOWN,
        "measure.rpo": Status.WARNING,
    }


def test_slower_than_before_is_judged_by_byte_and_against_the_median() -> None:
    slow = tuple(past(30 * n) for n in range(1, 13))
    assert found(measured(1200, before=slow))["measure.regression"].status == Status.WARNING
    assert "100 % more" in found(measured(1200, before=slow))["measure.regression"].found
    assert found(measured(1200, size=2000, before=slow))["measure.regression"].status == Status.OK
    one_outlier = (past(30, rto=60_000), *slow[1:])
    assert found(measured(1200, before=one_outlier))["measure.regression"].status == Status.WARNING
    assert "nothing to compare with" in found(measured())["measure.regression"].found


def test_the_forecast_follows_the_growth_of_the_backups_and_warns_of_a_target_that_will_be_missed() -> None:
    growing = tuple(past(30 * n, size=1000 - 100 * n) for n in (1, 2, 3))
    assert measured(600, before=growing).forecast(30) == pytest.approx(660)
    assert found(measured(600, before=growing), rto=700)["measure.forecast"].status == Status.WARNING
    assert found(measured(600, before=growing), rto=1000)["measure.forecast"].status == Status.OK
    shrinking = tuple(past(30 * n, size=1000 + 100 * n) for n in (1, 2, 3))
    assert measured(600, before=shrinking).forecast(30) == 600
    assert measured(before=(past(30),)).forecast(30) is None
    assert measured(before=(past(0), past(0))).forecast(30) is None, "three drills within a day tell no growth"


def test_the_rate_is_of_reading_and_restoring_and_there_is_none_of_a_restore_that_broke_off() -> None:
    assert measured(size=4000).rate == 100
    assert measured(phases={"read": 1.0, "data": 2.0}).rate is None


# What is said ------------------------------------------------------------------------------------------


def test_what_is_bad_is_counted_and_the_first_of_it_named() -> None:
    bad = [f"t{n}: 1 row" for n in range(SHOWN + 5)]
    made = asserted("tables.rows", "Rows", bad, expected="as told", well="so", why="look", noun="table")
    assert made.found == f"{SHOWN + 5} tables: t0: 1 row; t1: 1 row; t2: 1 row; and {SHOWN + 2} more"
    assert (len(made.lines), made.lines[-1]) == (SHOWN + 1, "and 5 more")
    assert asserted("a.b", "T", [], expected="e", well="w", why="y").why == ""
    assert Assertion.from_dict(json.loads(json.dumps(made.to_dict()))) == made


def test_a_drill_passes_with_warnings_and_without_an_assertion_it_does_not() -> None:
    fine, warned = Assertion("a.b", "", Status.OK, "", ""), not_provable("a.c", "", "", "old")
    assert outcome([fine, warned]) == "passed"
    assert outcome([fine, dataclasses.replace(fine, status=Status.UNKNOWN)]) == "unknown"
    assert outcome([dataclasses.replace(fine, status=Status.CRITICAL), warned]) == "failed"
    assert outcome([]) == "unknown"


def report(*assertions: Assertion, **changes: Any) -> DrillReport:
    given: dict[str, Any] = {
        "environment": "production",
        "dag_id": "dr_restore_test",
        "run_id": "manual__1",
        "requested_by": "ines",
        "started_at": NOW,
        "finished_at": NOW + dt.timedelta(minutes=9),
        "parameters": {},
        "owner": "platform",
        "backup": {},
        "assertions": assertions,
        "measured": {},
        "facts": {},
        "targets": {"rto": 3600.0, "rpo": 7200.0},
        "due": {"critical": "2026-12-01", "warning": "2026-12-24"},
    }
    return DrillReport(**{**given, **changes})


GOOD = Assertion("tables.rows", "Row counts", Status.OK, "as told", "so")
BAD = Assertion("tables.checksums", "Checksums", Status.CRITICAL, "as told", "<b>users</b>: other rows", "Look & act.")


@pytest.mark.parametrize(
    ("made", "verdict", "compliance"),
    [
        (report(GOOD), "The backup can be restored, and is good", "met"),
        (report(GOOD, BAD), "The restored copy is NOT good: 1 assertion does not hold", "failed"),
        (
            report(Assertion("backup.sha256", "Digest", Status.CRITICAL, "a", "b")),
            "The backup can NOT be restored",
            "failed",
        ),
        (
            report(Assertion("choice.usable", "Backup", Status.CRITICAL, "a", "b")),
            "No backup can be restored",
            "failed",
        ),
        (
            report(
                Assertion("choice.usable", "Backup", Status.CRITICAL, "a", "b"),
                GOOD,
                backup={"key": "k", "size": 1, "taken_at": "", "sha256": "", "manifest": "", "manifest_version": 2},
            ),
            "A backup can NOT be used; the one restored instead is good",
            "failed",
        ),
        (
            report(GOOD, Assertion("measure.rto", "Recovery time", Status.CRITICAL, "a", "b")),
            "The backup can be restored, and is good, but NOT within the targets",
            "failed",
        ),
        (
            report(GOOD, Assertion("application.smoke", "Smoke tests", Status.CRITICAL, "a", "b")),
            "The data is good, but the release that runs does NOT work on it",
            "failed",
        ),
        (
            report(GOOD, failures=("scratch failed: no room",)),
            "It is not known whether the backup can be restored",
            "unknown",
        ),
        (report(), "It is not known whether the backup can be restored", "unknown"),
    ],
)
def test_the_verdict_comes_first_and_is_what_the_register_says(
    made: DrillReport, verdict: str, compliance: str
) -> None:
    assert (made.verdict, made.compliance) == (verdict, compliance)
    assert verdict in slack_root(made, "https://x").splitlines()[0]
    page = render(made)
    assert page.index(f"<h1>{verdict}</h1>") < page.index("<h2>")


def test_issues_have_an_owner_and_a_day_and_nothing_from_outside_is_markup() -> None:
    made = report(GOOD, BAD, not_provable("tables.keys", "Keys", "as told", "old", "Renew."))
    assert [(one.id, made.due_of(one)) for one in made.issues] == [
        ("tables.checksums", "2026-12-01"),
        ("tables.keys", "2026-12-24"),
    ]
    page = render(made)
    assert "&lt;b&gt;users&lt;/b&gt;: other rows" in page
    assert "<b>users" not in page
    assert "platform" in page
    assert "&lt;b&gt;users" in slack_final(made, "https://x")


def test_the_digest_is_that_of_the_document() -> None:
    made = report(GOOD)
    assert made.digest == hashlib.sha256(json.dumps(made.to_dict(), indent=1).encode()).hexdigest()
    assert made.digest in render(made)
