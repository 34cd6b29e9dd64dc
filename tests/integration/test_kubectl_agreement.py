"""An unmodified kubectl finds the played Kubernetes API to be as a real one is.

The script of commands, with what each must show, is scripts/kubectl_agreement.py.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from scripts.kubectl_agreement import STEPS, Outcome, Step, disagreements, mistakes, play, report

pytestmark = [pytest.mark.integration, pytest.mark.kube, pytest.mark.xdist_group("kubectl_agreement")]


@pytest.fixture(scope="module")
def outcomes() -> dict[str, list[Outcome]]:
    """Run the script once, on both planes at the same time when there are two."""
    real = os.environ.get("VCCI_TEST_KUBECONFIG")
    planes, found = play(Path(real) if real else None)
    return {plane.name: steps for plane, steps in zip(planes, found, strict=True)}


@pytest.mark.parametrize("plane", ["played", "real"])
def test_every_command_shows_what_is_recorded(outcomes: dict[str, list[Outcome]], plane: str) -> None:
    if plane not in outcomes:
        pytest.skip("VCCI_TEST_KUBECONFIG names no kubeconfig of a real control plane")
    assert len(outcomes[plane]) == len(STEPS)
    assert report(plane, outcomes[plane]) == []


def test_the_outcomes_agree(outcomes: dict[str, list[Outcome]]) -> None:
    if "real" not in outcomes:
        pytest.skip("VCCI_TEST_KUBECONFIG names no kubeconfig of a real control plane")
    assert disagreements(outcomes["played"], outcomes["real"]) == []


def test_the_comparison_sees_other_words_and_other_codes() -> None:
    step = Step("get x", shows=("^one$",))
    good, other, failed = Outcome(step, 0, "one"), Outcome(step, 0, "two"), Outcome(step, 1, "one")
    assert mistakes(good) == []
    assert mistakes(other) == ["does not show '^one$'"]
    assert mistakes(failed) == ["exit code 1, expected 0"]
    assert len(disagreements([good, good], [other, failed])) == 2
    excepted = Step("get x", differs="because")
    assert disagreements([Outcome(excepted, 0, "a")], [Outcome(excepted, 0, "b")]) == []
    assert len(disagreements([Outcome(excepted, 0, "a")], [Outcome(excepted, 1, "a")])) == 1
