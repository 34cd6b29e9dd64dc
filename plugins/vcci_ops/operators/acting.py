"""What all tasks share that change the platform: who they are, what they noted, and how they fail."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator, get_current_context
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from vcci_ops import links
from vcci_ops.exceptions import DeliveryFailed, MeasurementError, OpsError, Refused, Unreachable
from vcci_ops.hooks.releases import Journal
from vcci_ops.settings import Settings, load_settings

if TYPE_CHECKING:
    from airflow.sdk import Context

    from vcci_ops.hooks.lease import ChangeLock

log = logging.getLogger("airflow.task")
UNKNOWN = "unknown"
"""Who asked, where no person did."""
FAILURE = "failure"
"""XCom key under which a task leaves why it failed, for the reports."""


@contextmanager
def failing_clearly() -> Iterator[None]:
    """Turn this library's errors into Airflow's: tried again where that may help, failed at once where not.

    The reason stands in the log as a line of its own, above the traceback, and in XCom under :data:`FAILURE`.

    :raises AirflowException: for what did not answer; a retry may find it well.
    :raises AirflowFailException: for refusals, failed changes, wrong input, missing rights.
    """
    try:
        yield
    except (Unreachable, DeliveryFailed) as error:
        _leave(error)
        raise AirflowException(str(error)) from error
    except OpsError as error:
        _leave(error)
        raise AirflowFailException(str(error)) from None


def _leave(error: OpsError) -> None:
    log.error("%s", error)
    try:
        get_current_context()["ti"].xcom_push(key=FAILURE, value=str(error)[:2000])
    except Exception as unsaid:  # the log has it; the error itself must come through
        log.debug("not left in XCom: %s", unsaid)


@dataclasses.dataclass(frozen=True)
class Acting:
    """A run that changes the platform, as its tasks see it."""

    dag_id: str
    run_id: str
    requested_by: str
    settings: Settings
    params: dict[str, Any]

    @classmethod
    def of(cls, context: Context) -> Acting:
        """Read it off a task's context."""
        run = context["dag_run"]
        by = getattr(run, "triggering_user_name", None) or UNKNOWN
        return cls(str(run.dag_id), str(run.run_id), str(by), load_settings(), dict(context.get("params") or {}))

    @cached_property
    def journal(self) -> Journal:
        """What this run has done so far."""
        return Journal(self.settings.environment, self.dag_id, self.run_id)

    def require_requester(self) -> None:
        """Pass when it is known who asked, so that somebody else can approve.

        :raises Refused: for a run that no person has triggered.
        """
        if self.requested_by == UNKNOWN:
            raise Refused(
                "nobody is known to have asked for this run, so it cannot be told whether somebody else approves it. "
                "Trigger it with a log-in of your own (UI, or REST API), or allow own approvals in the settings"
            )

    @property
    def run_url(self) -> str:
        """Where people see this run."""
        return links.run_url(self.settings, self.dag_id, self.run_id)

    @property
    def report_url(self) -> str:
        """Where people read this run's report."""
        return links.report_url(self.settings, self.dag_id, self.run_id)

    @property
    def source(self) -> str:
        """The run as locks and records name it."""
        return f"{self.dag_id}/{self.run_id}"


def require_lock(acting: Acting) -> None:
    """Pass when this run holds the change lock of the settings' namespace.

    :raises Refused: when it does not (any more).
    """
    from vcci_ops.hooks.lease import ChangeLock

    ChangeLock(acting.settings.kubernetes.namespace).require(acting.source)


class ActingOperator(BaseOperator):
    """A task that changes the platform under the namespace's change lock.

    :param namespace: of the platform, and of the change lock.
    :param kubernetes_conn_id: Airflow connection of type kubernetes, with the rights of
        include/kubernetes/rbac-changes.yaml.
    """

    template_fields: Sequence[str] = ("namespace",)
    ui_color = "#f3e9d2"

    def __init__(self, *, namespace: str, kubernetes_conn_id: str = "vcci_kubernetes", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.namespace = namespace
        self.kubernetes_conn_id = kubernetes_conn_id

    @cached_property
    def change_lock(self) -> ChangeLock:
        """The namespace's change lock."""
        from vcci_ops.hooks.lease import ChangeLock

        return ChangeLock(self.namespace, kubernetes_conn_id=self.kubernetes_conn_id)

    def require_lock(self, acting: Acting) -> None:
        """Pass when this run holds the change lock.

        :raises Refused: when it does not.
        """
        self.change_lock.require(acting.source)


def pulled(context: Context, task_id: str, key: str = "return_value") -> Any:
    """Return what a task of this run left, or None."""
    return context["ti"].xcom_pull(task_ids=task_id, key=key)


def scheduled(context: Context) -> bool:
    """Return whether nobody asked for the run: its schedule did."""
    return str(getattr(context["dag_run"], "run_type", "")).rpartition(".")[2].lower() == "scheduled"


def task_states(context: Context) -> dict[str, str]:
    """Return the state of each task of this run."""
    ti = context["ti"]
    found = ti.get_task_states(dag_id=ti.dag_id, run_ids=[ti.run_id]).get(ti.run_id, {})
    return {task: str(state) for task, state in found.items()}


def failed_tasks(context: Context) -> dict[str, str]:
    """Return which tasks of this run failed, by name, and why."""
    failed = sorted(task for task, state in task_states(context).items() if state == "failed")
    return {task: str(pulled(context, task, FAILURE) or "see its log") for task in failed}


def undelivered(parts: Mapping[str, Callable[[], object]]) -> list[str]:
    """Do each part, whatever became of the others; return which did not work, in words.

    :param parts: the place that is to get something → what brings it there.
    """
    failures = []
    for place, deliver in parts.items():
        try:
            deliver()
        except OpsError as error:
            log.error("%s: %s", place, error)
            failures.append(f"{place}: {error}")
    return failures


def tell(acting: Acting, key: str, text: str, *, root: bool = False) -> None:
    """Say something in the run's Slack thread; a Slack that does not take it ends no change that is under way.

    The run's last task posts the verdict and fails when that does not arrive.
    """
    from vcci_ops.hooks.thread import RunThread

    try:
        RunThread(acting.settings.slack.channel, acting.dag_id, acting.run_id).say(key, text, root=root)
    except (DeliveryFailed, MeasurementError) as error:
        log.warning("Slack did not take this message (%s): %s", error, text)


def needed(context: Context, task_id: str, key: str = "return_value") -> Any:
    """Return what a task of this run left.

    :raises MeasurementError: when it left nothing, for it did not run to its end.
    """
    value = pulled(context, task_id, key)
    if value is None:
        raise MeasurementError(f"the task {task_id} left nothing under {key}: it did not run to its end")
    return value
