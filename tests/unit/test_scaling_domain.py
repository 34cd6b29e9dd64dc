"""Scaling without any server: what is asked for, what becomes of it, and what the database can bear."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from pydantic import ValidationError

from vcci_ops.domain.restarts import RestartRequest, downtime, require_restartable
from vcci_ops.domain.scaling import (
    HOLD,
    Budget,
    Change,
    Hold,
    Part,
    ScalePlan,
    ScaleRequest,
    Server,
    Size,
    Standing,
    budget,
    missing,
    require_as_planned,
    require_possible,
    resized,
    shares,
    warnings,
)
from vcci_ops.domain.workloads import Deployment
from vcci_ops.exceptions import InvalidInput, Refused
from vcci_ops.settings import load_settings
from vcci_ops.settings_scaling import ScaledWorkload, Scaling

NOW = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)
SCALING = load_settings("sandbox").scaling
FORM: dict[str, Any] = {
    "profile": "reporting-deadline",
    "until": None,
    "reason": "the reporting deadline",
    "if_locked": "refuse",
    "dry_run": False,
}


def asked(**params: Any) -> ScaleRequest:
    return ScaleRequest.of({**FORM, **params}, SCALING, NOW)


def deployment(replicas: int = 3, **more: Any) -> dict[str, Any]:
    counts = ("replicas", "updatedReplicas", "availableReplicas")
    status = {"observedGeneration": 1, **dict.fromkeys(counts, replicas), **more.pop("status", {})}
    status["conditions"] = [
        {"type": "Progressing", "status": "True", "reason": more.pop("reason", "NewReplicaSetAvailable")}
    ]
    return {"metadata": {"name": "web", "generation": 1}, "spec": {"replicas": replicas, **more}, "status": status}


# What is asked for ----------------------------------------------------------------------------------------


def test_a_profile_asks_for_its_numbers_and_custom_for_those_of_the_form() -> None:
    assert asked().replicas == {"backend-api": 10, "worker": 20}
    assert asked(replicas_worker=None).replicas == {"backend-api": 10, "worker": 20}
    assert asked(profile="custom", replicas_backend_api=4).replicas == {"backend-api": 4}


@pytest.mark.parametrize(
    ("field", "params"),
    [
        pytest.param("profile", {"profile": "huge"}, id="no-such-profile"),
        pytest.param("profile", {"profile": ["normal"]}, id="profile-no-text"),
        pytest.param("replicas_backend_api", {"profile": "custom"}, id="custom-without-numbers"),
        pytest.param("replicas_worker", {"replicas_worker": 4}, id="number-beside-a-profile"),
        pytest.param("replicas_worker", {"profile": "custom", "replicas_worker": -1}, id="negative"),
        pytest.param("replicas_worker", {"profile": "custom", "replicas_worker": 0}, id="below-the-least"),
        pytest.param("replicas_worker", {"profile": "custom", "replicas_worker": 10**9}, id="huge"),
        pytest.param("replicas_worker", {"profile": "custom", "replicas_worker": 3.0}, id="no-whole-number"),
        pytest.param("replicas_worker", {"profile": "custom", "replicas_worker": True}, id="true"),
        pytest.param("replicas_worker", {"profile": "custom", "replicas_worker": "3; rm -rf /"}, id="shell"),
        pytest.param("replicas_worker", {"profile": "custom", "replicas_worker": "٣"}, id="unicode-digit"),
        pytest.param("replicas_beat", {"profile": "custom", "replicas_beat": 2}, id="a-second-beat"),
        pytest.param("replicas_nginx", {"profile": "custom", "replicas_nginx": 2}, id="unknown-workload"),
        pytest.param("replicas", {"profile": "custom", "replicas": {"worker": 2}}, id="unknown-field"),
        pytest.param("reason", {"reason": "x"}, id="no-reason"),
        pytest.param("reason", {"reason": "line\nbreak and more"}, id="newline-in-the-reason"),
        pytest.param("reason", {"reason": "x" * 1_000_000}, id="reason-of-a-megabyte"),
        pytest.param("if_locked", {"if_locked": "break"}, id="if-locked"),
        pytest.param("dry_run", {"dry_run": "false"}, id="dry-run-as-text"),
        pytest.param("until", {"until": "2026-11-25T12:00:00"}, id="time-without-zone"),
        pytest.param("until", {"until": "2026-11-24T11:59:59Z"}, id="time-has-passed"),
        pytest.param("until", {"until": "2026-11-24T12:00:00Z"}, id="now"),
        pytest.param("until", {"until": "2026-12-24T12:00:00Z"}, id="too-far-ahead"),
        pytest.param("until", {"until": "2026-13-45T12:00:00Z"}, id="no-such-day"),
        pytest.param("until", {"until": "٢٠٢٦-11-25T12:00:00Z"}, id="unicode-digits-in-the-time"),
        pytest.param("until", {"until": "2026-11-25T12:00:00Z\n"}, id="trailing-newline"),
        pytest.param("until", {"until": "tomorrow"}, id="words"),
        pytest.param("until", {"until": 1_800_000_000}, id="epoch"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_field(field: str, params: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput) as refused:
        asked(**params)
    assert refused.value.field == field
    assert len(str(refused.value)) < 500


def test_an_end_time_of_any_zone_becomes_utc() -> None:
    assert asked(until="2026-11-25T12:00:00.123+02:00").until == dt.datetime(2026, 11, 25, 10, tzinfo=dt.UTC)
    assert asked(until="").until is None


# What becomes of it ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("least", "most", "replicas", "ceiling", "bounds"),
    [
        pytest.param(3, 10, 10, 10, (10, 10), id="up-to-the-maximum"),
        pytest.param(3, 10, 15, 10, (15, 15), id="up-beyond-the-maximum"),
        pytest.param(3, 30, 10, 10, (10, 30), id="up-never-lowers-the-maximum"),
        pytest.param(10, 15, 3, 10, (3, 10), id="down-returns-to-the-ceiling"),
        pytest.param(10, 15, 3, None, (3, 15), id="down-without-a-ceiling-keeps-the-maximum"),
        pytest.param(20, 20, 12, 10, (12, 12), id="down-to-more-than-the-ceiling"),
        pytest.param(3, 10, 3, 10, (3, 10), id="the-same"),
    ],
)
def test_an_autoscaler_is_moved_by_its_bounds(
    least: int, most: int, replicas: int, ceiling: int | None, bounds: tuple[int, int]
) -> None:
    now = Standing("web", Size(5, least, most), 5, "web")
    after = resized(now, replicas, ScaledWorkload(pool_size=1, most=40, ceiling=ceiling))
    assert (after.least, after.most) == bounds


def test_nothing_and_an_autoscaler_do_not_go_together() -> None:
    known = ScaledWorkload(pool_size=1, least=0, most=40)
    for now, replicas in (
        (Standing("web", Size(3, 3, 10), 3, "web"), 0),
        (Standing("web", Size(0, 3, 10), 0, "web"), 5),
    ):
        with pytest.raises(Refused, match="autoscaler"):
            resized(now, replicas, known)
    assert resized(Standing("web", Size(3), 3), 0, known) == Size(0)


def test_a_rollout_under_way_is_in_the_way_and_missing_pods_are_not() -> None:
    def said(data: dict[str, Any]) -> str:
        from vcci_ops.domain.scaling import obstacle

        return obstacle(Deployment.from_json(data))

    assert said(deployment()) == ""
    assert said(deployment(status={"availableReplicas": 1})) == ""
    assert said(deployment(paused=True)) == ""
    assert said(deployment(status={"replicas": 2, "updatedReplicas": 2, "availableReplicas": 2})) == ""
    assert "under way" in said(deployment(status={"updatedReplicas": 1}))
    assert "under way" in said(deployment(status={"availableReplicas": 2}, reason="ReplicaSetUpdated"))
    assert "paused half-way" in said(deployment(paused=True, status={"updatedReplicas": 1}))
    assert "stuck" in said(deployment(status={"updatedReplicas": 1}, reason="ProgressDeadlineExceeded"))
    assert "not seen" in said(deployment(status={"observedGeneration": 0}))


def test_what_somebody_else_changed_is_no_longer_as_planned() -> None:
    change = Change("web", "", Size(3), Size(10))
    require_as_planned(Standing("web", Size(3), 3), change)
    require_as_planned(Standing("web", Size(10), 3), change)
    with pytest.raises(Refused, match="somebody else made it 7"):
        require_as_planned(Standing("web", Size(7), 3), change)
    with pytest.raises(Refused, match="no autoscaler, now there is the autoscaler web"):
        require_as_planned(Standing("web", Size(3, 3, 10), 3, "web"), change)


def test_a_second_end_time_on_top_of_another_runs_is_refused_and_no_end_time_is_told_of_it() -> None:
    held = Hold.read({HOLD: "2026-11-25T00:00:00Z scale_workloads/a"})
    now = [Standing("worker", Size(20), 20, hold=held)]
    with pytest.raises(Refused, match="put back at 2026-11-25 00:00 UTC by scale_workloads/a"):
        require_possible(now, asked(until="2026-11-25T12:00:00Z"), "scale_workloads/b", NOW)
    require_possible(now, asked(until="2026-11-25T12:00:00Z"), "scale_workloads/a", NOW)
    require_possible(now, asked(until="2026-11-25T12:00:00Z"), "scale_workloads/b", NOW + dt.timedelta(days=1))
    assert "puts it back" in warnings(now, {"worker": Size(20)}, "scale_workloads/b")[0]
    assert "leaves it alone" in warnings(now, {"worker": Size(3)}, "scale_workloads/b")[0]


@pytest.mark.parametrize("text", ["", "soon me", "2026-11-25T00:00:00 me", "2026-11-25T00:00:00Z", "x" * 9999])
def test_a_note_that_cannot_be_read_is_none(text: str) -> None:
    assert Hold.read({HOLD: text}) is None


def test_what_is_still_missing_is_said() -> None:
    def lacks(wanted: Size, **more: Any) -> str:
        return missing(Deployment.from_json(deployment(5, **more)), wanted)

    assert lacks(Size(5)) == ""
    assert lacks(Size(0, 3, 10)) == ""
    assert "4 of 5" in lacks(Size(5), status={"availableReplicas": 4})
    assert "has not moved it" in lacks(Size(0, 7, 10))
    assert "has not moved it" in lacks(Size(0, 1, 4))
    assert "not seen" in lacks(Size(5), status={"observedGeneration": 0})
    assert lacks(Size(5), status={"replicas": 7})
    with pytest.raises(Refused, match="somebody else set 5 replicas"):
        lacks(Size(8))


def test_a_plan_survives_json() -> None:
    changes = (Change("web", "web", Size(5, 3, 10), Size(5, 10, 10)), Change("beat", "", Size(1), Size(1)))
    plan = ScalePlan("p", "why it is so", "ada", NOW, False, changes, ("note",))
    assert ScalePlan.from_dict(plan.to_dict()) == plan
    assert not plan.nothing
    assert str(changes[1]) == "beat: 1, as it shall be"


# What the database can bear ---------------------------------------------------------------------------------


def parts(api: Size, worker: Size, now: Size | None = None) -> tuple[tuple[Part, ...], list[Standing]]:
    standings = [
        Standing("backend-api", now or Size(3), 3),
        Standing("worker", Size(3), 3),
        Standing("beat", Size(1), 1),
    ]
    return shares(SCALING, standings, {"backend-api": api, "worker": worker}), standings


def test_a_refusal_names_the_numbers_and_what_would_fit() -> None:
    shared, standings = parts(Size(15), Size(25))
    reckoned = budget(Server(100, 3, 15, 4), SCALING, standings, shared)
    with pytest.raises(Refused) as refused:
        reckoned.require()
    said = str(refused.value)
    assert "backend-api 15 x 3 + worker 25 x 2 + beat 1 x 1 = 96 > 83" in said
    assert "max_connections 100 - 3 of PostgreSQL - reserve 10 - 4 of other clients" in said
    assert "backend-api up to 10; or worker up to 18" in said


def test_an_autoscaler_counts_with_its_maximum() -> None:
    shared, standings = parts(Size(3, 10, 15), Size(25), now=Size(3, 3, 15))
    assert shared[0].after == 15
    with pytest.raises(Refused, match=r"backend-api up to 10 \(there may be 15 already\)"):
        budget(Server(100, 3, 15, 4), SCALING, standings, shared).require()


def test_sessions_beyond_the_pools_of_the_settings_count_against_it() -> None:
    shared, standings = parts(Size(10), Size(20))
    assert budget(Server(100, 3, 16, 4), SCALING, standings, shared).fits
    over = budget(Server(100, 3, 40, 4), SCALING, standings, shared)
    assert over.excess == 24
    with pytest.raises(Refused, match="- 24 sessions beyond the pools"):
        over.require()


def test_scaling_down_is_never_refused_for_connections() -> None:
    shared, standings = parts(Size(1), Size(1))
    full = budget(Server(10, 3, 15, 4), SCALING, standings, shared)
    assert not full.fits
    full.require()


def test_what_takes_no_connections_may_grow_when_none_is_left() -> None:
    Budget(Server(10, 3, 0, 99), 10, (Part("frontend", 0, 2, 6, raised=True),)).require()


# Settings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "profiles",
    [{"custom": {"web": 2}}, {"Über": {"web": 2}}, {"big": {"web": 9}}, {"big": {"nginx": 2}}, {"big": {}}, {}],
)
def test_profiles_that_do_not_fit_are_refused(profiles: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Scaling(
            workloads={"web": ScaledWorkload(pool_size=1, most=5)},
            profiles=profiles,
            database_roles=("app",),
            reserve=1,
        )


# Restarting -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("replicas", "strategy", "down"),
    [
        pytest.param(3, {}, False, id="defaults"),
        pytest.param(1, {}, False, id="one-replica-with-a-surge"),
        pytest.param(1, {"rollingUpdate": {"maxUnavailable": 1}}, True, id="one-replica-that-may-be-away"),
        pytest.param(1, {"rollingUpdate": {"maxUnavailable": "100%"}}, True, id="all-may-be-away"),
        pytest.param(1, {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 0}}, True, id="nothing-may-move"),
        pytest.param(2, {"rollingUpdate": {"maxUnavailable": "50%"}}, False, id="half-may-be-away"),
        pytest.param(3, {"type": "Recreate"}, True, id="recreate"),
        pytest.param(0, {"type": "Recreate"}, False, id="nothing-runs"),
    ],
)
def test_a_restart_that_leaves_no_pod_is_found(replicas: int, strategy: dict[str, Any], down: bool) -> None:
    data = deployment(replicas, strategy=strategy)
    assert bool(downtime(data)) is down
    if down:
        with pytest.raises(Refused, match="tick allow_downtime"):
            require_restartable(data, allow_downtime=False)
    assert ("down for a while" in require_restartable(data, allow_downtime=True)) is down


@pytest.mark.parametrize("chosen", [None, [], "backend-api", ["nginx"], [1], ["worker"] * 99])
def test_workloads_to_restart_are_refused_by_name(chosen: Any) -> None:
    form = {"workloads": chosen, "reason": "a good one", "allow_downtime": False, "if_locked": "wait", "dry_run": True}
    with pytest.raises(InvalidInput, match="workloads"):
        RestartRequest.of(form, ["backend-api", "worker"])


def test_workloads_are_restarted_in_the_order_of_the_settings() -> None:
    form = {
        "workloads": ["b", "a"],
        "reason": "a good one",
        "allow_downtime": False,
        "if_locked": "wait",
        "dry_run": True,
    }
    assert RestartRequest.of(form, ["a", "b", "c"]).workloads == ("a", "b")
