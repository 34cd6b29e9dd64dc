"""What all tests share."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

# Hooks look for connections in the environment first; no test may reach for a metadata database.
os.environ.setdefault("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "sqlite:////dev/null/none.db")
os.environ.setdefault("VCCI_OPS_SETTINGS", "sandbox")


class RecordingTask:
    """Stands for Airflow's task instance: keeps what an operator pushes."""

    def __init__(self, pulled: dict[tuple[str, str], Any] | None = None, try_number: int = 1) -> None:
        self.pushed: dict[str, Any] = {}
        self.pulled = pulled or {}
        self.try_number = try_number

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value

    def xcom_pull(self, task_ids: str, key: str = "return_value") -> Any:
        return self.pulled.get((task_ids, key))


@pytest.fixture
def recording_task() -> Callable[..., RecordingTask]:
    """Return the class that stands for a task instance."""
    return RecordingTask
