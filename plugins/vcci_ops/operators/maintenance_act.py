"""Vacuuming and rebuilding as tasks: each finds in the history what it has done already, and does the rest."""

from __future__ import annotations

import dataclasses
import datetime as dt
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowException

from vcci_ops.domain.maintenance import ANALYZE, DROP, REINDEX, VACUUM, Work, reckoned, reindex_works
from vcci_ops.domain.maintenance_plan import (
    DONE,
    FAILED,
    GIVEN_UP,
    LEFT,
    MaintenancePlan,
    Outcome,
    Shift,
    go_through,
)
from vcci_ops.domain.maintenance_windows import longest
from vcci_ops.domain.plans import SHORT, plan_hash
from vcci_ops.domain.units import duration, humanize
from vcci_ops.exceptions import ChangeFailed
from vcci_ops.operators.acting import UNKNOWN, Acting, failing_clearly
from vcci_ops.operators.maintenance import (
    DECIDED,
    SCHEDULE,
    MaintenanceOperator,
    actions_of,
    now_utc,
    planned,
    speeds,
)

if TYPE_CHECKING:
    from airflow.sdk import Context

    from vcci_ops.domain.maintenance import Index
    from vcci_ops.hooks.lease import ChangeLock
    from vcci_ops.hooks.maintenance_record import Actions
    from vcci_ops.hooks.maintenance_session import MaintenanceSession
    from vcci_ops.settings_maintenance import Maintenance

log = logging.getLogger("airflow.task")
_MARKED = 100_000_000
"""Bytes from which on a vacuum is marked on the trends."""
_ENDED = (DONE, FAILED, GIVEN_UP)


@dataclasses.dataclass(frozen=True)
class Hands:
    """What a task works with: the run, its record, the one session, the time it has, the lock it must hold."""

    acting: Acting
    plan: MaintenancePlan
    actions: Actions
    session: MaintenanceSession
    shift: Shift
    lock: ChangeLock

    @property
    def settings(self) -> Maintenance:
        """The limits."""
        return self.acting.settings.maintenance

    def go(self, works: Sequence[Work], act: Callable[[Work], Outcome]) -> dict[str, int]:
        """Go through what this run has not ended; record each; return how many ended how.

        :raises AirflowException: when the task was told to end; a retry goes on.
        """
        ended = {(action.kind, action.object) for action in self.actions.all() if action.state in _ENDED}
        missing = [work for work in works if (work.kind, str(work)) not in ended]
        counts: dict[str, int] = {}
        for work, outcome in go_through(missing, self.shift, act):
            detail = {**outcome.detail, "words": outcome.words, "why": work.why}
            self.actions.end(work.kind, str(work), outcome.state, detail)
            level = logging.INFO if outcome.state == DONE else logging.WARNING
            log.log(level, "%s %s: %s%s", work.kind, work, outcome.state, outcome.words and f": {outcome.words}")
            self._mark(work, outcome)
            counts[outcome.state] = counts.get(outcome.state, 0) + 1
            if self.session.ended:
                raise AirflowException("the task was ended from outside; what it had begun was stopped and tidied")
        return counts

    def do(self, act: Callable[[Work, float], Outcome], work: Work) -> Outcome:
        """Do one work, noted before it begins; needs the change lock."""
        self.lock.require(self.acting.source)
        self.actions.begin(work.kind, str(work), {"why": work.why, "freeze": work.freeze})
        return act(work, self.shift.left)

    def vacuum(self, work: Work) -> Outcome:
        """Vacuum or analyze one table."""
        return self.do(self.session.vacuum, work)

    def changed(self, summary: str, detail: Any = None) -> None:
        """Mark on the trends what has changed."""
        by = self.acting.requested_by
        self.acting.journal.changed("maintenance", SCHEDULE if by == UNKNOWN else by, summary, dict(detail or {}))

    def _mark(self, work: Work, outcome: Outcome) -> None:
        if outcome.state != DONE:
            return
        if work.kind == REINDEX:
            before, after = (humanize(outcome.detail[f"bytes_{when}"], "bytes") for when in ("before", "after"))
            self.changed(f"reindex {work}: {before} → {after}", outcome.detail)
        elif work.kind == VACUUM and (work.freeze or work.bytes >= _MARKED):
            self.changed(f"vacuum {work}: {work.why}", outcome.detail)


class ActingMaintenanceOperator(MaintenanceOperator):
    """A task that changes the database: needs the change lock, and never begins what does not fit into its time."""

    @contextmanager
    def at_work(self, acting: Acting, plan: MaintenancePlan) -> Iterator[Hands]:
        """Yield what to work with; there is never a second session.

        :raises ChangeFailed: when the plan has no time to act in.
        """
        from vcci_ops.hooks.maintenance_session import MaintenanceSession

        if plan.until is None:
            raise ChangeFailed("the plan has no time to act in: start a new run")
        settings = acting.settings.maintenance
        shift = Shift(plan.until, longest(settings.windows), now_utc)
        with MaintenanceSession.open(self.postgres_conn_id, settings, acting.source) as session:
            self._session = session
            yield Hands(acting, plan, actions_of(acting), session, shift, self.change_lock)


class VacuumOperator(ActingMaintenanceOperator):
    """Vacuum and analyze what the plan lists, the most urgent first, until its time is over.

    :raises AirflowFailException: when the run does not hold the change lock.
    """

    def execute(self, context: Context) -> dict[str, int]:
        """Go through the list; return how many ended how."""
        with failing_clearly():
            acting = Acting.of(context)
            self.change_lock.require(acting.source)
            plan = planned(acting)
            works = [work for work in plan.works if work.kind in (VACUUM, ANALYZE)]
            if not works:
                self.log.info("There is nothing to vacuum or analyze")
                return {}
            with self.at_work(acting, plan) as hands:
                return hands.go(works, hands.vacuum)


class ReindexOperator(ActingMaintenanceOperator):
    """Tidy, analyze, decide, and rebuild one index after the other, until its time is over.

    What dead rebuilds have left over is dropped where that is provable. A transaction in the way is waited for without
    holding a worker.

    :param poll: seconds between two looks for transactions in the way.
    :raises AirflowFailException: when the run does not hold the change lock.
    """

    def __init__(self, *, poll: float = 30.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.poll = poll

    def execute(self, context: Context, patience: float | None = None) -> dict[str, int]:
        """Go through the list; return how many ended how.

        :param patience: time (Unix) until which this run waits for transactions; none: it has not waited yet.
        """
        with failing_clearly():
            acting = Acting.of(context)
            self.change_lock.require(acting.source)
            plan = planned(acting)
            if REINDEX not in plan.kinds:
                self.log.info("Rebuilding is not due, or not asked for")
                return {}
            with self.at_work(acting, plan) as hands:
                self._tidy(hands)
                return hands.go(self._decided(hands), partial(self._reindex, hands, patience))

    def execute_complete(self, context: Context, event: Any, patience: float) -> dict[str, int]:
        """Look again: go on, wait on, or give up."""
        return self.execute(context, patience)

    def _tidy(self, hands: Hands) -> None:
        for index in hands.session.look.invalid():
            if why := index.why_kept:
                self.log.warning("invalid index %s is left alone: %s", index, why)
                continue
            hands.lock.require(hands.acting.source)
            reason = f"left over from a rebuild of {index.original}"
            hands.actions.begin(DROP, str(index), {"bytes_before": index.bytes, "why": reason})
            why = hands.session.drop(index)
            hands.actions.end(DROP, str(index), GIVEN_UP if why else DONE, {"words": why})
            self.log.info("invalid index %s, %s: %s", index, reason, why or "dropped")
            if not why:
                hands.changed(f"dropped {index}, {reason}")

    def _decided(self, hands: Hands) -> list[Work]:
        """Return which indexes to rebuild; decided once in a run, after fresh statistics."""
        noted = hands.acting.journal.recall(DECIDED)
        if noted is None:
            chosen = frozenset(hands.plan.chosen)
            if not chosen:
                hands.go(self._stale(hands), hands.vacuum)
            hands.session.rest()
            indexes = hands.session.look.indexes(hands.settings)
            works, left = reindex_works(indexes, chosen, hands.settings, speeds(hands.actions, hands.settings))
            decided = {
                "works": [work.to_dict() for work in works],
                "left": [dataclasses.asdict(item) for item in left],
                "measured": _measured(indexes),
            }
            noted = hands.acting.journal.remember(DECIDED, {**decided, "hash": plan_hash(decided)})
            self.log.info("%d indexes to rebuild, list %s", len(noted["works"]), noted["hash"][:SHORT])
        return [Work.from_dict(work) for work in noted["works"]]

    def _stale(self, hands: Hands) -> list[Work]:
        """Return the tables to analyze: large enough indexes to be worth a rebuild, and old statistics."""
        limits, known = hands.settings.reindex, speeds(hands.actions, hands.settings)
        hands.session.rest()
        stale: dict[str, Work] = {}
        for index in hands.session.look.indexes(hands.settings):
            old = index.statistics_age is None or index.statistics_age > limits.analyzed_within
            if old and index.allowed and index.schema != "pg_toast" and index.bytes >= limits.bloat_bytes:
                name = (index.table_schema, index.table_name)
                seconds = reckoned(index.bytes, ANALYZE, known)
                stale[index.table] = Work(ANALYZE, name, index.table, "before bloat is estimated", 0, seconds)
        return list(stale.values())

    def _reindex(self, hands: Hands, patience: float | None, work: Work) -> Outcome:
        hands.session.rest()
        why, transactions = hands.session.in_the_way(work)
        if why:
            return Outcome(LEFT, why)
        if transactions:
            self._wait(hands, patience, transactions)
            waited = duration(hands.settings.reindex.wait_for_transactions)
            return Outcome(
                GIVEN_UP,
                f"a rebuild has to wait for every older transaction, and after {waited} there still was "
                f"{'; '.join(transactions)}. End it, or find out why it takes so long",
            )
        return hands.do(hands.session.reindex, work)

    def _wait(self, hands: Hands, patience: float | None, transactions: Sequence[str]) -> None:
        """Give the worker back for a while; return when this run has waited for long enough."""
        from airflow.providers.standard.triggers.temporal import DateTimeTrigger

        now = now_utc()
        longest_wait = now.timestamp() + hands.settings.reindex.wait_for_transactions
        until = patience or min(longest_wait, hands.shift.until.timestamp())
        if now.timestamp() >= until:
            return
        self.log.info("Waiting for %s", "; ".join(transactions))
        moment = min(now + dt.timedelta(seconds=self.poll), dt.datetime.fromtimestamp(until, dt.UTC))
        self.defer(trigger=DateTimeTrigger(moment=moment), method_name="execute_complete", kwargs={"patience": until})


def _measured(indexes: Sequence[Index]) -> dict[str, int]:
    """Count how the waste of indexes was found out."""
    counts: dict[str, int] = {}
    for index in indexes:
        how = index.bloat.measured if index.bloat else "not measured"
        counts[how] = counts.get(how, 0) + 1
    return counts
