"""Hostile and mistaken parameters: refused with the field, the value and what would be accepted."""

from __future__ import annotations

from typing import Any

import pytest

from vcci_ops.domain.release_request import ReleaseRequest, RollbackRequest
from vcci_ops.exceptions import InvalidInput

KNOWN = ("backend-api", "worker", "beat", "frontend")
GOOD: dict[str, Any] = {
    "version": "v2.1.0",
    "ref": "release/v2.1",
    "workloads": [],
    "watch_minutes": 30,
    "images": "existing",
    "migration": "auto",
    "dry_run": True,
    "reason": "supplier hotspots",
    "if_locked": "refuse",
}
BACK: dict[str, Any] = {
    "target": "previous",
    "workloads": ["worker"],
    "database": "keep",
    "watch_minutes": 5,
    "if_locked": "wait",
    "dry_run": False,
    "reason": "p99 doubled",
}
MEGABYTE = "v" + "1" * 1_000_000


def test_no_workload_means_all_that_ship_the_release() -> None:
    assert ReleaseRequest.of(GOOD, KNOWN).workloads == KNOWN


def test_workloads_are_rolled_out_in_the_order_of_the_settings() -> None:
    assert ReleaseRequest.of({**GOOD, "workloads": ["frontend", "worker"]}, KNOWN).workloads == ("worker", "frontend")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        pytest.param("version", "2.1.0", id="without v"),
        pytest.param("version", "v2.1", id="two numbers"),
        pytest.param("version", "v2.1.0\n", id="newline"),
        pytest.param("version", "v2.1.0; rm -rf /", id="shell"),
        pytest.param("version", "v2.1.0' OR '1'='1", id="sql"),
        pytest.param("version", "v２.1.0", id="full-width digit"),
        pytest.param("version", "v2.1.0-гс1", id="cyrillic"),
        pytest.param("version", MEGABYTE, id="1 MB"),
        pytest.param("version", None, id="none"),
        pytest.param("version", ["v2.1.0"], id="list"),
        pytest.param("ref", "--upload-pack=touch /tmp/x", id="option"),
        pytest.param("ref", "main\n--help", id="ref with newline"),
        pytest.param("ref", "$(id)", id="ref with shell"),
        pytest.param("ref", "a..b", id="range"),
        pytest.param("ref", "mаin", id="look-alike a"),
        pytest.param("ref", "x" * 1_000_000, id="long ref"),
        pytest.param("workloads", ["backend-api", "postgres"], id="another workload"),
        pytest.param("workloads", ["backend-api; true"], id="workload with shell"),
        pytest.param("workloads", "backend-api", id="no list"),
        pytest.param("workloads", [["worker"]], id="list in a list"),
        pytest.param("watch_minutes", 0, id="no watch"),
        pytest.param("watch_minutes", 10**9, id="for ever"),
        pytest.param("watch_minutes", True, id="a truth"),
        pytest.param("watch_minutes", "30", id="a text"),
        pytest.param("images", "yes", id="images"),
        pytest.param("migration", "head; drop", id="migration"),
        pytest.param("dry_run", "false", id="dry run as text"),
        pytest.param("dry_run", None, id="dry run missing"),
        pytest.param("reason", "", id="no reason"),
        pytest.param("reason", "because\nkind: Pod", id="yaml in the reason"),
        pytest.param("reason", "x" * 1_000_000, id="long reason"),
        pytest.param("reason", "fine\u202ereversed", id="bidi control"),
        pytest.param("if_locked", "break", id="lock"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_name(field: str, value: Any) -> None:
    with pytest.raises(InvalidInput) as refusal:
        ReleaseRequest.of({**GOOD, field: value}, KNOWN)
    assert refusal.value.field == field
    assert "expected" in str(refusal.value)
    assert len(str(refusal.value)) < 400, "a megabyte is not repeated in a log"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        pytest.param("target", "v2.0.0\n", id="newline"),
        pytest.param("target", "-1", id="negative"),
        pytest.param("target", "0", id="kubectl's zero"),
        pytest.param("target", "２", id="full-width digit"),
        pytest.param("target", "previous; true", id="shell"),
        pytest.param("database", "0005'; DROP TABLE tenants; --", id="sql"),
        pytest.param("database", "-1", id="alembic's relative revision"),
        pytest.param("database", "head:base", id="range"),
        pytest.param("database", "", id="empty"),
        pytest.param("reason", "why", id="too short"),
    ],
)
def test_a_rollback_is_read_as_strictly(field: str, value: Any) -> None:
    with pytest.raises(InvalidInput) as refusal:
        RollbackRequest.of({**BACK, field: value}, KNOWN)
    assert refusal.value.field == field
