"""Which revision to go back to."""

from __future__ import annotations

from typing import Any

import pytest

from vcci_ops.domain.rollback import choose, failed_versions, history, previous_version
from vcci_ops.exceptions import Refused


def replica_set(number: int, version: str, owner: str = "api", **more: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "name": f"{owner}-{number}",
            "annotations": {"deployment.kubernetes.io/revision": str(number), **more},
            "ownerReferences": [{"controller": True, "kind": "Deployment", "name": owner}],
            "creationTimestamp": "2026-11-01T00:00:00Z",
        },
        "spec": {"template": {"spec": {"containers": [{"name": "api", "image": f"r:5000/vcci/api:{version}"}]}}},
    }


SETS = [replica_set(n, v) for n, v in ((3, "v2.1.1"), (1, "v1.9.0"), (4, "v2.1.2"), (2, "v2.0.0"))]
REVISIONS = history([*SETS, replica_set(9, "v9.0.0", owner="other")], "api", "api")


def test_the_history_is_the_deployments_own_newest_first() -> None:
    assert [(r.number, r.version) for r in REVISIONS] == [(4, "v2.1.2"), (3, "v2.1.1"), (2, "v2.0.0"), (1, "v1.9.0")]


WORKER = history([replica_set(n, v, owner="worker") for n, v in ((2, "v2.0.0"), (1, "v1.9.0"))], "worker", "api")


def test_all_go_back_to_the_one_version_that_was_good() -> None:
    assert previous_version({"api": REVISIONS}, {"v2.1.1"}) == "v2.0.0"


def test_a_half_way_release_sends_nobody_further_back_than_the_others() -> None:
    target = previous_version({"api": REVISIONS, "worker": WORKER}, {"v2.1.1"})
    assert target == "v2.0.0"
    assert choose("worker", WORKER, target) == WORKER[0], "it runs that already"


def test_without_failures_previous_is_the_one_before() -> None:
    assert previous_version({"api": REVISIONS}, set()) == "v2.1.1"


def test_only_how_its_newest_release_went_counts() -> None:
    records = [
        {"kind": "rollback", "version": "v2.0.0", "outcome": "rollback-failed"},
        {"kind": "deploy", "version": "v2.1.1", "outcome": "rolled-back"},
        {"kind": "deploy", "version": "v2.0.0", "outcome": "released"},
        {"kind": "deploy", "version": "v2.0.0", "outcome": "failed"},
    ]
    assert failed_versions(records) == {"v2.1.1"}


@pytest.mark.parametrize(("target", "number"), [("1", 1), ("v2.0.0", 2), ("4", 4)])
def test_a_revision_or_a_version_can_be_named(target: str, number: int) -> None:
    assert choose("api", REVISIONS, target).number == number


@pytest.mark.parametrize("target", ["7", "v3.0.0"])
def test_what_is_not_kept_is_refused_with_what_there_is(target: str) -> None:
    with pytest.raises(Refused) as refusal:
        choose("api", REVISIONS, target)
    assert "4 (v2.1.2), 3 (v2.1.1), 2 (v2.0.0), 1 (v1.9.0)" in str(refusal.value)


@pytest.mark.parametrize(("kept", "words"), [(REVISIONS[-1:], "no earlier version"), ([], "no revision that is kept")])
def test_nothing_earlier_is_refused(kept: list[Any], words: str) -> None:
    with pytest.raises(Refused, match=words):
        previous_version({"api": kept}, set())
