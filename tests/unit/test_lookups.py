"""Airflow connections are looked up once while something is watched, and each time elsewhere."""

from __future__ import annotations

from typing import Any

from vcci_ops.hooks.lookups import remembered, remembering


class Provider:
    """A provider's hook."""

    asked = 0

    @classmethod
    def get_connection(cls, conn_id: str) -> Any:
        Provider.asked += 1
        return f"{conn_id} {Provider.asked}"


def test_outside_of_a_watch_every_use_looks_it_up() -> None:
    hook = remembered(Provider)
    assert hook.get_connection("a") != hook.get_connection("a")


def test_a_watch_looks_it_up_once_until_it_is_told_to_forget() -> None:
    hook, known = remembered(Provider), {}
    with remembering(known):
        first = hook.get_connection("a")
        assert hook.get_connection("a") == first
        assert hook.get_connection("b") != first
        known.clear()
        assert hook.get_connection("a") != first
    assert hook.get_connection("a") != hook.get_connection("a")


def test_a_hook_keeps_its_name_in_logs() -> None:
    assert remembered(Provider).__name__ == "Provider"
    assert remembered(Provider) is remembered(Provider)
