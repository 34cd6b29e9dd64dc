"""What tests of acting tasks need: a context without Airflow, and a task that is deferred and resumed in place."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from typing import Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import TaskDeferred
from airflow.serialization.serialized_objects import BaseSerialization


class Run:
    """Stands for a DAG run."""

    def __init__(self, run_id: str, dag_id: str = "release_deploy", by: str = "ines") -> None:
        self.dag_id, self.run_id, self.triggering_user_name = dag_id, run_id, by
        self.run_after = dt.datetime(2026, 11, 24, 9, 0, tzinfo=dt.UTC)


class Ti:
    """Stands for a task instance: keeps what a task pushes, and knows the states of DAG runs."""

    def __init__(self, states: dict[str, str] | None = None) -> None:
        self.pushed: dict[str, Any] = {}
        self.pulled: dict[tuple[str, str], Any] = {}
        self.states = states or {}

    def xcom_push(self, key: str, value: Any) -> None:
        json.dumps(value)
        self.pushed[key] = value

    def xcom_pull(self, task_ids: str, key: str = "return_value") -> Any:
        return self.pulled.get((task_ids, key))

    def get_dagrun_state(self, dag_id: str, run_id: str) -> str:
        from airflow.sdk.exceptions import AirflowRuntimeError, ErrorType
        from airflow.sdk.execution_time.comms import ErrorResponse

        try:
            return self.states[f"{dag_id}/{run_id}"]
        except KeyError:
            missing = ErrorResponse(error=ErrorType.API_SERVER_ERROR, detail={"status_code": 404})
            raise AirflowRuntimeError(missing) from None


def context(run_id: str = "r1", *, states: dict[str, str] | None = None, **params: Any) -> Any:
    """Return what a task gets of Airflow."""
    return {"dag_run": Run(run_id), "ti": Ti(states), "params": params}


async def fired(trigger: Any) -> dict[str, Any]:
    """Run a trigger to its event, as another process would: made again from its serialized form."""
    from airflow.sdk.module_loading import import_string

    path, kwargs = trigger.serialize()
    again = import_string(path)(**BaseSerialization.deserialize(BaseSerialization.serialize(kwargs)))
    assert again.serialize() == (path, kwargs)
    async for event in again.run():
        return dict(event.payload)
    raise AssertionError("the trigger ended without an event")


def deferred(task: BaseOperator, given: Any) -> TaskDeferred:
    """Execute a task up to the moment in which it gives its worker back."""
    try:
        result = task.execute(given)
    except TaskDeferred as deferral:
        return deferral
    raise AssertionError(f"not deferred, but returned {result!r}")


def resumed(task: BaseOperator, given: Any, deferral: TaskDeferred, event: dict[str, Any]) -> Any:
    """Go on with a task as Airflow does when its trigger has fired; an end without another deferral is returned."""
    json.dumps(event)
    return task.resume_execution(deferral.method_name, {**(deferral.kwargs or {}), "event": event}, given)


def complete(task: BaseOperator, given: Any, *, seconds: float = 60.0) -> Any:
    """Execute a task with all its deferrals and return its result."""
    try:
        return task.execute(given)
    except TaskDeferred as first:
        deferral = first
    while True:
        event = asyncio.run(asyncio.wait_for(fired(deferral.trigger), seconds))
        try:
            return resumed(task, given, deferral, event)
        except TaskDeferred as again:
            deferral = again
