"""The verdicts of a restore drill: each part of the copy is looked at by a task of its own, and hides no other."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException

from vcci_ops.domain.drill import PHASES, Assertion
from vcci_ops.domain.drill_measure import Before, Measured, judged
from vcci_ops.domain.results import Status
from vcci_ops.exceptions import MeasurementError
from vcci_ops.operators.acting import Acting, failing_clearly, needed
from vcci_ops.operators.drill import CHOOSE, DrillOperator, database_of, request_of

if TYPE_CHECKING:
    from airflow.sdk import Context

    from vcci_ops.hooks.drill_copy import Copy


PARTS = (
    "tables",
    "sequences",
    "constraints",
    "storage",
    "schema",
    "extensions",
    "grants",
    "freshness",
    "business",
    "tombstones",
)
"""What is looked at, each by a task of its own."""
Looked = tuple[list[Assertion], Mapping[str, Any]]
"""What is asserted, and what is kept with the drill."""


class VerifyOperator(DrillOperator):
    """Look at one part of the copy, record every assertion, and fail when one does not hold or cannot be made.

    Nothing is compared with production, which has moved on since. What a manifest of an older version does not say
    cannot be asserted: that is a warning with the reason, not a failure.

    :param part: one of :data:`PARTS`.
    :raises AirflowFailException: when an assertion does not hold; names it, with what was expected and found.
    """

    def __init__(self, *, part: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.part = part

    def execute(self, context: Context) -> dict[str, str]:
        """Look; return status by assertion."""
        acting = Acting.of(context)
        with failing_clearly():
            copy = self._copy(context, acting)
            try:
                found, kept = _LOOKS[self.part](self, acting, copy)
            except MeasurementError as error:
                self.note(acting, self.part, [_unmeasured(self.part, str(error))])
                raise
            self.note(acting, self.part, found)
            now = dt.datetime.now(dt.UTC).isoformat()
            self.drills.note(acting.source, {**kept, f"verified_{self.part}": now})
        require_all(found)
        return {made.id: str(made.status) for made in found}

    def _copy(self, context: Context, acting: Acting) -> Copy:
        from vcci_ops.hooks.drill_copy import Copy

        chosen = needed(context, CHOOSE)
        manifest = self.bucket.manifest(chosen["key"], chosen["manifest"])
        taken = dt.datetime.fromisoformat(chosen["taken_at"])
        return Copy(database_of(acting), manifest, taken, acting.settings.drill, self.restore_conn_id)


def require_all(found: list[Assertion]) -> None:
    """Pass when nothing failed.

    :raises AirflowFailException: names what did.
    """
    bad = [f"{made.title}: expected {made.expected}, found {made.found}" for made in found if made.status.fails_run]
    if bad:
        raise AirflowFailException("; ".join(bad))


def _unmeasured(part: str, why: str) -> Assertion:
    return Assertion(f"{part}.measured", part.capitalize(), Status.UNKNOWN, "looked at", why, "Clear this task.")


def _tables(task: VerifyOperator, acting: Acting, copy: Copy) -> Looked:
    from vcci_ops.hooks.drill_tables import verify_tables

    found, newest = verify_tables(copy)
    return found, {"newest_of_tables": newest}


def _sequences(task: VerifyOperator, acting: Acting, copy: Copy) -> Looked:
    from vcci_ops.hooks.drill_tables import verify_sequences

    return verify_sequences(copy), {}


def _freshness(task: VerifyOperator, acting: Acting, copy: Copy) -> Looked:
    from vcci_ops.hooks.drill_tables import verify_freshness

    found, newest = verify_freshness(copy)
    return found, {"newest": newest.isoformat() if newest else None}


def _constraints(task: VerifyOperator, acting: Acting, copy: Copy) -> Looked:
    from vcci_ops.hooks.drill_structure import verify_constraints

    return verify_constraints(copy), {}


def _storage(task: VerifyOperator, acting: Acting, copy: Copy) -> Looked:
    from vcci_ops.hooks.drill_structure import verify_storage

    return verify_storage(copy), {}


def _schema(task: VerifyOperator, acting: Acting, copy: Copy) -> Looked:
    from vcci_ops.hooks.drill_structure import verify_revision

    found, revision = verify_revision(copy)
    return found, {"revision": revision}


def _extensions(task: VerifyOperator, acting: Acting, copy: Copy) -> Looked:
    from vcci_ops.hooks.drill_structure import verify_extensions

    return verify_extensions(copy, acting.settings.database_backup.extensions_left_out), {}


def _grants(task: VerifyOperator, acting: Acting, copy: Copy) -> Looked:
    from vcci_ops.hooks.drill_structure import verify_grants

    roles = acting.settings.access_review.database_roles
    return verify_grants(copy, {name: role.kind for name, role in roles.items()}), {}


def _business(task: VerifyOperator, acting: Acting, copy: Copy) -> Looked:
    from vcci_ops.hooks.drill_business import verify_business

    return verify_business(copy), {}


def _tombstones(task: VerifyOperator, acting: Acting, copy: Copy) -> Looked:
    from vcci_ops.hooks.drill_structure import verify_tombstones

    kept = acting.settings.tenants.erasure.kept_tables
    return verify_tombstones(copy, task.drills.tombstones(), kept), {}


_LOOKS: Mapping[str, Callable[[VerifyOperator, Acting, Copy], Looked]] = {
    "tables": _tables,
    "sequences": _sequences,
    "constraints": _constraints,
    "storage": _storage,
    "schema": _schema,
    "extensions": _extensions,
    "grants": _grants,
    "freshness": _freshness,
    "business": _business,
    "tombstones": _tombstones,
}


class MeasureOperator(DrillOperator):
    """Measure recovery time and data loss, against the targets and the drills before.

    The recovery time goes from the choice of the backup to the moment in which the last part was verified, the waits
    between tasks included; the platform's own programs do not count. When a part could not be looked at, there is none.
    """

    def execute(self, context: Context) -> dict[str, Any]:
        """Measure, record, judge."""
        acting = Acting.of(context)
        with failing_clearly():
            request, drill = request_of(acting), acting.settings.drill
            measured = self.measured(acting)
            if measured.rto is not None and "verify" in measured.phases:
                self.drills.took(acting.source, "verify", measured.phases["verify"])
            found = judged(measured, request.rto, request.rpo, drill.slower_by, drill.forecast_days)
            self.note(acting, "measure", found)
            self.drills.note(acting.source, {"measured": measured.to_dict()})
        self._log_phases(measured)
        require_all(found)
        return measured.to_dict()

    def measured(self, acting: Acting) -> Measured:
        """Return what the record says of this drill."""
        own = self.drills.get(acting.source)
        if own is None:
            raise MeasurementError("the history knows nothing of this drill: the task choose did not begin it")
        detail, phases = own.detail, {k: float(v) for k, v in own.phases.items()}
        ready = _ready(detail)
        if ready and detail.get("restored_at"):
            phases["verify"] = (ready - dt.datetime.fromisoformat(detail["restored_at"])).total_seconds()
        newest = dt.datetime.fromisoformat(detail["newest"]) if detail.get("newest") else None
        before = [
            Before(past.started_at, past.rto, past.bytes, past.outcome)
            for past in self.drills.past(acting.source)
            if past.rto is not None and past.bytes
        ]
        return Measured(
            at=own.started_at,
            rto=(ready - own.started_at).total_seconds() if ready else None,
            rpo=(own.started_at - newest).total_seconds() if newest else None,
            bytes=own.bytes or 0,
            restored_bytes=int(detail.get("restored_bytes") or 0),
            phases=phases,
            before=tuple(before),
        )

    def _log_phases(self, measured: Measured) -> None:
        for phase in PHASES:
            if phase in measured.phases:
                self.log.info("%-8s %8.2f s", phase, measured.phases[phase])


def _ready(detail: Mapping[str, Any]) -> dt.datetime | None:
    """Return when the last part was verified; None when one was not."""
    moments = [detail.get(f"verified_{part}") for part in PARTS]
    if not all(moments):
        return None
    return max(dt.datetime.fromisoformat(str(moment)) for moment in moments)
