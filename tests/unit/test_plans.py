"""Plans: the same plan has the same hash, another has another, and a world that moved is told."""

from __future__ import annotations

import pytest

from vcci_ops.domain.plans import plan_hash, require_unchanged
from vcci_ops.exceptions import Refused

PLAN = {"version": "v2.1.0", "workloads": {"backend-api": "v2.0.0", "worker": "v2.0.0"}, "schema": "0005"}


def test_the_order_of_keys_does_not_matter() -> None:
    assert plan_hash(PLAN) == plan_hash(dict(reversed(list(PLAN.items()))))


def test_one_changed_character_is_another_plan() -> None:
    assert plan_hash(PLAN) != plan_hash({**PLAN, "schema": "0006"})


def test_what_is_no_number_cannot_be_hashed_by_accident() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        plan_hash({"baseline": float("nan")})


def test_a_world_that_moved_is_told_in_full_and_nothing_is_changed() -> None:
    found = {**PLAN, "workloads": {"backend-api": "v2.0.1"}, "schema": None}
    with pytest.raises(Refused) as refusal:
        require_unchanged(PLAN, found)
    said = str(refusal.value)
    assert "stale" in said
    assert "nothing was changed" in said
    assert "workloads.backend-api: planned v2.0.0, found v2.0.1" in said
    assert "workloads.worker: planned v2.0.0, found nothing" in said
    assert "schema: planned 0005, found nothing" in said


def test_the_same_world_passes() -> None:
    require_unchanged(PLAN, dict(PLAN))
