"""A mistake in the settings names the key, the value and what would be accepted."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from vcci_ops.exceptions import InvalidInput
from vcci_ops.settings import INCLUDE, load_settings
from vcci_ops.settings_base import parse_duration

GOOD = yaml.safe_load((INCLUDE / "settings" / "sandbox.yaml").read_text())


@pytest.fixture
def load(tmp_path: Path) -> Callable[[Callable[[dict[str, Any]], Any]], Any]:
    """Return a function that loads the sandbox's settings after a change to them."""

    def changed(change: Callable[[dict[str, Any]], Any]) -> Any:
        data = copy.deepcopy(GOOD)
        change(data)
        path = tmp_path / "changed.yaml"
        path.write_text(yaml.safe_dump(data))
        return load_settings(path)

    return changed


def test_every_check_of_the_catalogue_is_loaded_with_its_limits() -> None:
    checks = load_settings("sandbox").checks
    assert set(checks) == set(yaml.safe_load((INCLUDE / "checks.yaml").read_text()))
    assert checks["pods.ready"].threshold is not None
    assert checks["pods.ready"].threshold.for_ == 120
    assert checks["pods.ready"].link.startswith("https://")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(
            lambda d: d.update(enviroment="x"),
            "enviroment: 'x' is not accepted; expected no such key",
            id="unknown key",
        ),
        pytest.param(
            lambda d: d.pop("kubernetes"),
            "kubernetes: None is not accepted; expected a value, for this key is required",
            id="missing",
        ),
        pytest.param(
            lambda d: d["kubernetes"].update(namespace="Bad_Name"), "kubernetes.namespace: 'Bad_Name'", id="name"
        ),
        pytest.param(lambda d: d["kubernetes"].update(namespace="x\n"), "kubernetes.namespace", id="trailing newline"),
        pytest.param(
            lambda d: d["kubernetes"].update(restart_window="soon"), "such as 30s, 5m, 24h or 7d", id="duration"
        ),
        pytest.param(lambda d: d["slack"].update(channel="ops"), "slack.channel", id="channel"),
        pytest.param(
            lambda d: d["checks"]["database.connections"].update(warning=99, critical=90),
            "expected a warning limit that is passed before the critical one (direction: above)",
            id="limits in the wrong order",
        ),
        pytest.param(
            lambda d: d["checks"].update({"pods.reday": {"unit": "x"}}), "checks.pods.reday", id="no such check"
        ),
        pytest.param(lambda d: d["checks"]["api.latency"].update({"for": "5m"}), "sees only the present", id="for"),
        pytest.param(lambda d: d["checks"]["api.latency"].update(link="nowhere"), "one of links: ", id="link"),
        pytest.param(lambda d: d.update(checks=[]), "checks: [] is not accepted; expected a mapping", id="shape"),
    ],
)
def test_mistakes_name_the_key(load: Any, change: Any, words: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        load(change)
    assert words in str(raised.value).replace("changed.yaml: ", "")
    assert "changed.yaml" in str(raised.value)


def test_a_missing_file_names_what_there_is() -> None:
    with pytest.raises(InvalidInput, match=r"'prodution'.*production, sandbox"):
        load_settings("prodution")


def test_broken_yaml_says_where(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("a: [1,\nb: 2")
    with pytest.raises(InvalidInput, match=r"x\.yaml: line 3"):
        load_settings(tmp_path / "x.yaml")


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump(GOOD))
    assert load_settings(path).owner == "devops"
    path.write_text(yaml.safe_dump({**GOOD, "owner": "sre"}))
    assert load_settings(path).owner == "sre"


def test_unknown_checks_are_refused() -> None:
    with pytest.raises(InvalidInput, match=r"check: 'nope' is not accepted; expected one of api.error_rate"):
        load_settings("sandbox").pick("nope")


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", None), (90, 90), ("1h30m", 5400), ("7d", 604800), ("5m\n5", None)]
)
def test_durations(text: Any, seconds: float | None) -> None:
    if seconds is None:
        with pytest.raises(ValueError, match="expected a duration"):
            parse_duration(text)
    else:
        assert parse_duration(text) == seconds
