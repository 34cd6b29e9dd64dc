"""Which revision to go back to."""

from __future__ import annotations

from typing import Any

import pytest

from vcci_ops.domain.rollback import choose, history
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


def test_the_previous_good_one_passes_over_a_version_that_failed() -> None:
    assert choose("api", REVISIONS, "previous", {"v2.1.1"}).version == "v2.0.0"


def test_without_failures_previous_is_the_one_before() -> None:
    assert choose("api", REVISIONS, "previous", ()).number == 3


@pytest.mark.parametrize(("target", "number"), [("1", 1), ("v2.0.0", 2)])
def test_a_revision_or_a_version_can_be_named(target: str, number: int) -> None:
    assert choose("api", REVISIONS, target, {"v2.0.0"}).number == number


@pytest.mark.parametrize("target", ["7", "v3.0.0"])
def test_what_is_not_kept_is_refused_with_what_there_is(target: str) -> None:
    with pytest.raises(Refused) as refusal:
        choose("api", REVISIONS, target, ())
    assert "4 (v2.1.2), 3 (v2.1.1), 2 (v2.0.0), 1 (v1.9.0)" in str(refusal.value)


def test_nothing_earlier_is_refused() -> None:
    with pytest.raises(Refused, match="no revision previous"):
        choose("api", REVISIONS[-1:], "previous", ())
