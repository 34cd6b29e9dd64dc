"""The change lock as tasks: take it first, give it back last, break that of a dead run.

Use the first two as setup and teardown around whatever changes the namespace::

    take = AcquireChangeLockOperator(task_id="lock", namespace=namespace, purpose="...").as_setup()
    give = ReleaseChangeLockOperator(task_id="unlock", namespace=namespace).as_teardown(setups=take)
"""

from __future__ import annotations

import datetime as dt
import time
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowRuntimeError

from vcci_ops.exceptions import ChangeFailed, InvalidInput, LockHeld, Refused, Unreachable
from vcci_ops.hooks.lease import NAME, ChangeLock, LockState
from vcci_ops.operators.acting import Acting, failing_clearly, needed

if TYPE_CHECKING:
    from airflow.sdk import Context

REFUSE, WAIT = "refuse", "wait"
REASON_LENGTH = 10
"""Characters that a reason has at least."""
MOST = 500
"""Characters that a reason and a holder's name have at most."""
LONGEST = 7 * 86400.0
"""Seconds that a run may wait for the lock at most."""
_SLACK = 300.0
"""Seconds after which Airflow itself ends a wait that the triggerer should have ended."""


def holder_of(context: Context) -> str:
    """Return how locks name the run of a task: ``dag_id/run_id``."""
    run = context["dag_run"]
    return f"{run.dag_id}/{run.run_id}"


class _LockOperator(BaseOperator):
    """What the three have in common.

    :param namespace: whose lock.
    :param kubernetes_conn_id: Airflow connection of type kubernetes.
    :param name: of the Lease.
    """

    template_fields: tuple[str, ...] = ("namespace",)
    ui_color = "#f3e9d2"

    def __init__(
        self, *, namespace: str, kubernetes_conn_id: str = "vcci_kubernetes", name: str = NAME, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.namespace = namespace
        self.kubernetes_conn_id = kubernetes_conn_id
        self.name = name

    @cached_property
    def lock(self) -> ChangeLock:
        """The lock."""
        return ChangeLock(self.namespace, kubernetes_conn_id=self.kubernetes_conn_id, name=self.name)


class AcquireChangeLockOperator(_LockOperator):
    """Take the namespace's change lock for this run, or wait for it deferred, or refuse.

    A repeated task finds that its run has the lock already.

    :param purpose: what for, in words that the next one reads who finds it taken; templated.
    :param if_locked: ``refuse`` or ``wait`` when another run has it; templated.
    :param within: seconds to wait at most; templated. Default: an hour.
    :param poll: seconds between two looks while waiting.
    :raises AirflowFailException: when it is taken; says by whom, since when, what for, and what to do.
    """

    template_fields = ("namespace", "purpose", "if_locked", "within")

    def __init__(
        self, *, purpose: str, if_locked: str = REFUSE, within: float | str = 3600.0, poll: float = 5.0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.purpose = purpose
        self.if_locked = if_locked
        self.within = within
        self.poll = poll

    def execute(self, context: Context) -> dict[str, str]:
        """Take it, or begin to wait."""
        with failing_clearly():
            if self.if_locked not in (REFUSE, WAIT):
                raise InvalidInput("if_locked", self.if_locked, f"{REFUSE} or {WAIT}")
            return self._take(context, time.time() + self._seconds())

    def execute_complete(self, context: Context, event: dict[str, Any], until: float) -> dict[str, str]:
        """Go on after the wait: try again, for others may have waited, too."""
        with failing_clearly():
            if event["status"] == "failed":
                raise Refused(event["message"])
            return self._take(context, until)

    def _seconds(self) -> float:
        try:
            seconds = float(self.within)
        except ValueError:
            seconds = -1.0
        if not 0 <= seconds <= LONGEST:
            raise InvalidInput("within", self.within, f"seconds, at most {LONGEST:.0f}")
        return seconds

    def _take(self, context: Context, until: float) -> dict[str, str]:
        holder = holder_of(context)
        try:
            self.lock.acquire(holder, self.purpose, Acting.of(context).requested_by)
        except LockHeld as held:
            if self.if_locked == REFUSE:
                raise
            if time.time() >= until:
                raise LockHeld(held.holder, f"waited as long as this run may, and {held}") from None
            self.log.info("Waiting until %s, for %s", _clock(until), held)
            self._wait(holder, until)
        self.log.info("This run holds the change lock of namespace %s as %s", self.namespace, holder)
        return {"holder": holder, "namespace": self.namespace}

    def _wait(self, holder: str, until: float) -> None:
        from vcci_ops.triggers.lock import LockTrigger

        self.defer(
            trigger=LockTrigger(
                self.namespace,
                holder,
                until,
                poll=self.poll,
                kubernetes_conn_id=self.kubernetes_conn_id,
                name=self.name,
            ),
            method_name="execute_complete",
            kwargs={"until": until},
            timeout=dt.timedelta(seconds=until - time.time() + _SLACK),
        )


class ReleaseChangeLockOperator(_LockOperator):
    """Give the lock back, if this run has it; safe to run twice, and never takes another's.

    It is kept while a Job of this run goes on that nobody watches any more, such as a migration that took longer than
    its time: the next change must not begin beside it.

    :raises AirflowFailException: when it is kept; names the Job. Clear the task when that has ended.
    """

    def execute(self, context: Context) -> bool:
        """Give it back."""
        holder = holder_of(context)
        with failing_clearly():
            current = self.lock.current()
            if current and current.holder == holder:
                self._require_no_job(holder)
            had = self.lock.release(holder)
        said = "is free again" if had else "was not this run's (any more); left alone"
        self.log.info("The change lock of namespace %s %s", self.namespace, said)
        return had

    def _require_no_job(self, holder: str) -> None:
        from vcci_ops.hooks.kubernetes_writer import KubernetesWriter
        from vcci_ops.hooks.platform_jobs import PlatformJobs

        going_on = PlatformJobs(KubernetesWriter(self.kubernetes_conn_id), self.namespace).unfinished(holder)
        if going_on:
            raise ChangeFailed(
                f"the change lock is kept, for {', '.join(going_on)} of this run still goes on and may change the "
                "platform. Wait for its end (kubectl get job), or delete it, then clear this task"
            )


class BreakChangeLockOperator(_LockOperator):
    """Release the lock of a run that cannot do it itself, and record who did so before it is done.

    :param expected_holder: who must hold it; templated.
    :param reason: why, in at least ten characters; templated.
    :param confirm: true, or nothing happens; templated.
    :param even_if_running: break it although Airflow says that the holder still runs; templated.
    :raises AirflowFailException: when nobody or another holds it, or the holder still runs; nothing was changed.
    """

    template_fields = ("namespace", "expected_holder", "reason", "confirm", "even_if_running")

    def __init__(
        self,
        *,
        expected_holder: str,
        reason: str,
        confirm: bool | str = False,
        even_if_running: bool | str = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.expected_holder = expected_holder
        self.reason = reason
        self.confirm = confirm
        self.even_if_running = even_if_running

    def execute(self, context: Context) -> dict[str, str]:
        """Check, record, break."""
        with failing_clearly():
            self._check_input()
            acting = Acting.of(context)
            state = self.lock.current() or LockState("")
            if state.broken.get("source") != acting.source:  # else: killed after it broke the lock
                self.lock.require_breakable(state, self.expected_holder)
            running = self._state_of_holder(context)
            summary = f"change lock of namespace {self.namespace} taken from {self.expected_holder}: {self.reason}"
            detail = {"holder": self.expected_holder, "holder_state": running, "since": state.acquired}
            acting.journal.changed("lock-broken", acting.requested_by, summary, {**detail, "reason": self.reason})
            self.lock.break_(self.expected_holder, acting.requested_by, self.reason, source=acting.source)
        self.log.warning("%s broke a lock: %s", acting.requested_by, summary)
        return {"summary": summary, "by": acting.requested_by, "holder_state": running}

    def _check_input(self) -> None:
        if str(self.confirm).lower() != "true":
            raise InvalidInput("confirm", self.confirm, "true: you have looked at what the run left half-way")
        if not REASON_LENGTH <= len(self.reason.strip()) <= MOST:
            raise InvalidInput("reason", self.reason, f"{REASON_LENGTH} to {MOST} characters that say why")
        if len(self.expected_holder) > MOST or not all(self.expected_holder.strip().partition("/")):
            raise InvalidInput("expected_holder", self.expected_holder, "dag_id/run_id, as the Lease has it")

    def _state_of_holder(self, context: Context) -> str:
        dag_id, _, run_id = self.expected_holder.partition("/")
        try:
            state = str(context["ti"].get_dagrun_state(dag_id, run_id))
        except AirflowRuntimeError as error:
            if (error.error.detail or {}).get("status_code") == 404:
                return "unknown to this Airflow"
            raise Unreachable("Airflow", f"cannot say whether {self.expected_holder} still runs") from None
        state = getattr(state, "value", state)
        if state in ("running", "queued") and str(self.even_if_running).lower() != "true":
            raise Refused(
                f"{self.expected_holder} is {state}: it may be changing the platform at this moment. Nothing was "
                "changed. Let it end, or mark it failed in Airflow and wait for its tasks to stop; only when that "
                "does not help, tick `even_if_running`"
            )
        return state


class TellLockBrokenOperator(BaseOperator):
    """Tell Slack that a lock was broken; a repeated task edits its message.

    :param break_task_id: task that broke it.
    :param channel: ``#name`` or id.
    """

    ui_color = "#dbe9f6"

    def __init__(self, *, break_task_id: str, channel: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.break_task_id = break_task_id
        self.channel = channel

    def execute(self, context: Context) -> None:
        """Post it."""
        from vcci_ops.domain.mrkdwn import escape
        from vcci_ops.hooks.thread import RunThread

        run = context["dag_run"]
        with failing_clearly():
            broken = needed(context, self.break_task_id)
            text = (
                f":warning: *Break glass*: {escape(broken['by'])} broke a lock: {escape(broken['summary'])}\n"
                f"Airflow says that run is: {escape(broken['holder_state'])}"
            )
            RunThread(self.channel, str(run.dag_id), str(run.run_id)).say("lock-broken", text, root=True)


def _clock(moment: float) -> str:
    return dt.datetime.fromtimestamp(moment, dt.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
