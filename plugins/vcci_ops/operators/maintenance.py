"""Maintenance of the database: what its tasks share, and the plan.

The plan, what was seen before it, and the list of rebuilds stand in the journal; what became of each object in
``maintenance_action``. So a task that is killed and runs again, or that gave its worker back while it waited for
somebody's transaction, goes on with what is missing.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import DownstreamTasksSkipped

from vcci_ops.domain import maintenance_plan as planning
from vcci_ops.domain.maintenance import REINDEX, VACUUM, reindex_works, usual_speed, vacuum_works
from vcci_ops.domain.maintenance_plan import MaintenancePlan
from vcci_ops.domain.maintenance_windows import current, following, longest
from vcci_ops.domain.plans import SHORT
from vcci_ops.domain.units import duration
from vcci_ops.exceptions import ChangeFailed, InvalidInput
from vcci_ops.hooks.maintenance_record import Actions
from vcci_ops.links import ReportLink
from vcci_ops.operators.acting import Acting, ActingOperator, failing_clearly, scheduled

if TYPE_CHECKING:
    from airflow.sdk import Context

    from vcci_ops.hooks.maintenance import Looker
    from vcci_ops.hooks.maintenance_session import MaintenanceSession
    from vcci_ops.settings_maintenance import Maintenance

PLAN, LOCK_WITHIN = "plan", "lock_within"
"""XCom keys: the plan with its hash; seconds for which the change lock may be waited for."""
SEEN, DECIDED = "seen", "reindex"
"""Steps of the journal, beside the plan: what was there before; which indexes are rebuilt, decided after ANALYZE."""
MOST = 400
"""Tables and indexes that are kept and shown, the largest first."""
SCHEDULE = "the schedule"


class MaintenanceOperator(ActingOperator):
    """What the tasks of maintenance have in common.

    :param postgres_conn_id: connection of the production database as vcci_ops_maintenance, straight to the server or
        through a pooler in session mode.
    """

    operator_extra_links = (ReportLink(),)

    def __init__(self, *, postgres_conn_id: str = "vcci_postgres_maintenance", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.postgres_conn_id = postgres_conn_id
        self._session: MaintenanceSession | None = None

    def on_kill(self) -> None:
        """Stop the statement that runs; the task then tidies and ends."""
        if self._session:
            self._session.cancel()


def now_utc() -> dt.datetime:
    """Return the present time."""
    return dt.datetime.now(dt.UTC)


def planned(acting: Acting) -> MaintenancePlan:
    """Return the run's plan.

    :raises ChangeFailed: when there is none.
    """
    noted = acting.journal.recall(PLAN)
    if noted is None:
        raise ChangeFailed("there is no plan, nothing was changed: read the log of the task plan")
    return MaintenancePlan.from_dict(noted)


def actions_of(acting: Acting) -> Actions:
    """Return the record of what the run does."""
    return Actions(acting.settings.environment, acting.source)


def speeds(actions: Actions, settings: Maintenance) -> dict[str, float]:
    """Return how fast vacuum and rebuild go here."""
    return {
        VACUUM: usual_speed(actions.past(VACUUM), settings.vacuum.speed),
        REINDEX: usual_speed(actions.past(REINDEX), settings.reindex.speed),
    }


class MaintenancePlanOperator(MaintenanceOperator):
    """Look at everything, and say what will be done and when it stops; changes nothing.

    Leaves the plan in XCom under ``plan``, with its hash. When nothing is due, outside of the windows, and on a dry
    run the tasks directly after it are skipped. A run that has a plan keeps it.

    :raises AirflowFailException: when a parameter cannot be used; nothing was changed.
    """

    def execute(self, context: Context) -> None:
        """Plan, publish, and go on only if there is something to do."""
        with failing_clearly():
            acting = Acting.of(context)
            noted = acting.journal.recall(PLAN)
            plan = MaintenancePlan.from_dict(noted) if noted else self._plan(acting, scheduled(context))
            plan = MaintenancePlan.from_dict(acting.journal.remember(PLAN, plan.to_dict()))
        self._publish(context, plan)
        if not plan.acts:
            why = plan.why_not or ("Dry run: nothing was changed" if plan.dry_run else "Nothing is due")
            self.log.info("%s", why)
            raise DownstreamTasksSkipped(  # type: ignore[no-untyped-call]
                tasks=[task for task in sorted(context["task"].downstream_task_ids) if task != "report"]
            )

    def _publish(self, context: Context, plan: MaintenancePlan) -> None:
        until = plan.until or now_utc()
        context["ti"].xcom_push(key=PLAN, value={**plan.to_dict(), "hash": plan.digest})
        context["ti"].xcom_push(key=LOCK_WITHIN, value=max((until - now_utc()).total_seconds(), 0.0))
        self.log.info("Window: %s. Plan %s", plan.window, plan.digest[:SHORT])
        for work in plan.works:
            self.log.info("%s %s: %s (about %s)", work.kind, work, work.why, duration(work.seconds))
        for left in plan.left:
            self.log.info("left alone: %s: %s", left.object, left.why)
        for note in plan.notes:
            self.log.info("%s", note)

    def _plan(self, acting: Acting, by_schedule: bool) -> MaintenancePlan:
        from vcci_ops.hooks.maintenance import Looker, MaintenancePostgres

        request = planning.MaintenanceRequest.of(acting.params, scheduled=by_schedule)
        settings, actions, now = acting.settings.maintenance, actions_of(acting), now_utc()
        window, until, why_not = _time(request, settings, now)
        last = actions.last_passes(acting.dag_id, request.kinds)
        kinds = planning.due_kinds(request, last, settings, now)
        with MaintenancePostgres(postgres_conn_id=self.postgres_conn_id).session() as connection:
            looker = Looker(connection)
            tables, indexes = looker.tables(), looker.indexes(settings)
            chosen = planning.named(tables, request.tables)
            acting.journal.remember(SEEN, seen(looker, settings, tables, indexes))
        known = speeds(actions, settings)
        works, left = vacuum_works(tables, chosen, settings, known, now) if VACUUM in kinds else ([], [])
        more, more_left = reindex_works(indexes, chosen, settings, known) if REINDEX in kinds else ([], [])
        return MaintenancePlan(
            kinds=kinds,
            chosen=tuple(sorted(chosen)),
            by=SCHEDULE if by_schedule else acting.requested_by,
            reason=request.reason,
            dry_run=request.dry_run,
            scheduled=by_schedule,
            window=window,
            until=until,
            why_not=why_not,
            works=(*works, *more),
            left=(*left, *more_left),
            notes=tuple(_notes(request, kinds, last)),
        )


def _time(
    request: planning.MaintenanceRequest, settings: Maintenance, now: dt.datetime
) -> tuple[str, dt.datetime | None, str]:
    """Return the window in words, when it ends, and why there is none.

    :raises InvalidInput: when a person would act outside of the windows without saying so.
    """
    span = current(settings.windows, now)
    if span:
        return str(span), span.end, ""
    following_one = following(settings.windows, now)
    if request.ignore_window:
        return f"ignored: {request.reason}", now + longest(settings.windows), ""
    if request.scheduled or request.dry_run:
        return f"none is open; the next: {following_one}", None, f"No window is open; the next: {following_one}"
    raise InvalidInput("ignore_window", False, f"true, with a reason, for no window is open; the next: {following_one}")


def _notes(request: planning.MaintenanceRequest, kinds: Sequence[str], last: Mapping[str, dt.datetime]) -> list[str]:
    notes = [
        f"{kind} is not due: its last whole pass was {last[kind]:%Y-%m-%d}"
        for kind in request.kinds
        if kind not in kinds
    ]
    if REINDEX in kinds:
        notes.append(
            "which indexes are rebuilt is decided after a fresh ANALYZE; what stands here is by what is known now"
        )
    return notes


def seen(looker: Looker, settings: Maintenance, tables: Sequence[Any], indexes: Sequence[Any]) -> dict[str, Any]:
    """Return what there is to see, JSON-safe: the largest tables and indexes, the server, what is in the way."""
    import json

    largest = sorted(tables, key=lambda table: -(table.bytes + table.index_bytes))[:MOST]
    widest = sorted(indexes, key=lambda index: -index.bytes)[:MOST]
    blockers = [
        {**dataclasses.asdict(b), "said": str(b), "action": b.action} for b in looker.blockers() if b.matters(settings)
    ]
    invalid = [
        {**dataclasses.asdict(i), "said": str(i), "why": i.why_kept, "action": i.action} for i in looker.invalid()
    ]
    found = {
        "server": dataclasses.asdict(looker.server()),
        "tables": [
            {
                **dataclasses.asdict(t),
                "said": str(t),
                "dead_percent": t.dead_percent,
                "freeze_percent": t.freeze_percent,
            }
            for t in largest
        ],
        "indexes": [{**dataclasses.asdict(i), "said": str(i), "table": i.table} for i in widest],
        "blockers": blockers,
        "invalid": invalid,
        "counts": {"tables": len(tables), "indexes": len(indexes)},
        "at": now_utc().isoformat(),
    }
    plain: dict[str, Any] = json.loads(json.dumps(found, default=lambda value: value.isoformat()))
    return plain
