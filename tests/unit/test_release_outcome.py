"""How a release ended: each way it can go wrong is told apart, and none passes for well."""

from __future__ import annotations

from typing import Any

import pytest

from vcci_ops.domain.release_outcome import Facts, judge

UNDO = ("roll_back.backend-api", "roll_back.worker")
GOOD = {"plan": "success", "begin": "success", "watch": "success", "roll_back.decide": "skipped"}
PASSED = {"outcome": "passed"}
DECISION = {"roll_back": True, "ask": False, "why": "error rate 4 %"}


def ending(**given: Any) -> Any:
    facts: dict[str, Any] = {"states": GOOD, "undone": UNDO, "begun": True, **given}
    return judge(Facts(**facts))


@pytest.mark.parametrize(
    ("given", "outcome", "well"),
    [
        pytest.param({"watch": PASSED}, "released", True, id="clean"),
        pytest.param({}, "inconclusive", False, id="the watch was marked done by hand"),
        pytest.param({"watch": PASSED, "states": {**GOOD, "unlock": "failed"}}, "released", True, id="lock still held"),
        pytest.param(
            {"states": {"roll_out.worker": "success", "verify.smoke": "failed", "roll_back.decide": "failed"}},
            "rollback-failed",
            False,
            id="nobody could decide",
        ),
        pytest.param(
            {"states": {"roll_out.worker": "failed", "roll_back.decide": "skipped"}},
            "failed",
            False,
            id="not ours",
        ),
        pytest.param({"kind": "rollback", "watch": PASSED}, "released", True, id="asked for"),
        pytest.param({"dry_run": True, "begun": False}, "dry-run", True, id="dry run"),
        pytest.param({"nothing_to_do": True, "begun": False}, "nothing-to-do", True, id="again"),
        pytest.param(
            {
                "states": {"approve": "failed"},
                "approval": {"approved": False, "reason": "rejected by eve"},
                "begun": False,
            },
            "rejected",
            False,
            id="rejected",
        ),
        pytest.param({"states": {"validate.quiet": "failed"}, "begun": False}, "failed", False, id="validation"),
        pytest.param({"states": {"migrate": "failed"}}, "failed", False, id="migration"),
        pytest.param({"watch": {"outcome": "held", "reason": "no data"}}, "held", False, id="Prometheus down"),
        pytest.param({"watch": {"outcome": "superseded"}}, "superseded", False, id="changed by somebody"),
        pytest.param({"watch": {"outcome": "inconclusive"}}, "inconclusive", False, id="no traffic"),
        pytest.param(
            {"states": {"watch": "failed", **dict.fromkeys(UNDO, "success")}, "decision": DECISION},
            "rolled-back",
            False,
            id="rolled back",
        ),
        pytest.param(
            {"states": {"watch": "failed", UNDO[0]: "failed", UNDO[1]: "success"}, "decision": DECISION},
            "rollback-failed",
            False,
            id="rollback failed",
        ),
        pytest.param(
            {"states": {**dict.fromkeys(UNDO, "success"), "roll_back.smoke": "failed"}, "decision": DECISION},
            "rollback-failed",
            False,
            id="rolled back, and still not well",
        ),
        pytest.param(
            {
                "states": {**dict.fromkeys(UNDO, "upstream_failed"), "roll_back.ask": "failed"},
                "decision": {**DECISION, "ask": True},
            },
            "failed",
            False,
            id="destructive, nobody decided",
        ),
        pytest.param(
            {"kind": "rollback", "states": {"roll_back.worker": "failed"}}, "rollback-failed", False, id="by hand"
        ),
    ],
)
def test_each_ending_has_its_name_and_colour(given: dict[str, Any], outcome: str, well: bool) -> None:
    found = ending(**given)
    assert (found.outcome, found.well) == (outcome, well)
    assert found.words
    assert found.action


def test_a_failed_rollback_needs_an_incident() -> None:
    found = ending(states={UNDO[0]: "failed"}, decision=DECISION)
    assert found.graver
    assert "error rate 4 %" in found.words
    assert UNDO[0] in found.action
