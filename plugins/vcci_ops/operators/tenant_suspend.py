"""Suspending a tenant as tasks, and letting it work again: by hand, or at the end time.

Suspended means: the platform lets nobody of the tenant in (its status), sessions are ended, API keys that the
platform had in its cache are dropped, so that it looks the status up. Nothing of the customer's data is touched.
What a run suspended is kept in the history first; at the end time it is reactivated if it is still as this run left
it, and left alone when somebody has changed it meanwhile.
"""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowException, AirflowSkipException

from vcci_ops.domain.tenant_onboarding import Item, TenantRow
from vcci_ops.domain.tenant_request import REACTIVATE, SUSPEND, SuspendRequest
from vcci_ops.domain.tenant_suspension import notice, report_lines
from vcci_ops.exceptions import ChangeFailed, DeliveryFailed, NoData, Refused
from vcci_ops.hooks.tenant_history import Suspension, Suspensions
from vcci_ops.hooks.tenant_mail import Notices, Uncertain, notices
from vcci_ops.hooks.tenants import Deletion, Deletions
from vcci_ops.operators.acting import Acting, failing_clearly, pulled, tell
from vcci_ops.operators.tenant_base import TenantOperator
from vcci_ops.operators.tenant_report import item_results, store_report

if TYPE_CHECKING:
    from airflow.sdk import Context

    from vcci_ops.hooks.tenant_admin import Owner
    from vcci_ops.hooks.tenant_store import TenantKeys

ACTED, ENDING = "suspend", "suspend.ending"
"""Steps of the journal: what the run does, noted before it does; that it began to end its own suspension."""
ACTIVE, SUSPENDED = "active", "suspended"
ENDED, LEFT_ALONE, ENDED_BEFORE = "reactivated", "left alone", "ended before"
AT_ITS_TIME = "its end time"
_MEANING = "The tenant is as the form asked for, and nothing of the customer's is touched."
_ACTION = "Read the log of the task that failed, and clear it: each finds what it has done."


def acted(acting: Acting) -> dict[str, Any] | None:
    """Return what this run began to do: tenant_id, slug, name, action, before; None when it did nothing."""
    return acting.journal.recall(ACTED)


class SuspendOperator(TenantOperator):
    """What the tasks have in common.

    :param redis_conn_id: connection of the server that has the platform's cache.
    """

    def __init__(self, *, redis_conn_id: str = "vcci_redis", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.redis_conn_id = redis_conn_id

    def asked(self, acting: Acting) -> SuspendRequest:
        """Read the form. An end time that has passed meanwhile was good when the run began."""
        begun = acting.journal.recall(ACTED)
        now = dt.datetime.fromisoformat(begun["at"]) if begun else dt.datetime.now(dt.UTC)
        return SuspendRequest.of(acting.params, now, acting.settings.tenants.suspended_at_most)

    def keys(self, acting: Acting, tenant: Mapping[str, Any]) -> TenantKeys:
        """The tenant's keys in the cache."""
        from vcci_ops.hooks.tenant_store import TenantKeys

        return TenantKeys(acting.settings.tenants.cache, tenant["tenant_id"], tenant["slug"], self.redis_conn_id)

    def require_tenant(self, slug: str) -> TenantRow:
        """Return the tenant.

        :raises Refused: when no tenant has this slug, or it is deleted.
        """
        row = self.tenants.find(slug)
        if row is None:
            raise Refused(f"slug: no tenant has the slug {slug}; nothing was changed")
        if row.status not in (ACTIVE, SUSPENDED):
            raise Refused(f"slug: {row} can be neither suspended nor reactivated; nothing was changed")
        return row

    def stop_work(self, acting: Acting, tenant: Mapping[str, Any]) -> tuple[str, int, int]:
        """Suspend, end sessions, drop cached keys; return since when, and how many of each."""
        done = self.tenants.suspend(tenant["tenant_id"])
        return done.at, done.sessions, self.keys(acting, tenant).unlink()


def deletion_of(acting: Acting, tenant_id: str) -> Deletion | None:
    """Return the tenant's deletion that has not come to its end, or None.

    :raises Refused: when its rows are being deleted already.
    """
    found = Deletions(acting.settings.environment).of_tenant(tenant_id)
    if found and found.begun:
        raise Refused(f"{found} has begun: the tenant can be neither suspended nor reactivated")
    return found


class SuspendPlanOperator(SuspendOperator):
    """Read the form, look at the tenant, and say what will be done; changes nothing.

    :raises AirflowFailException: when a parameter cannot be used, or the tenant is not there or being deleted.
    """

    def execute(self, context: Context) -> dict[str, Any]:
        """Plan, and go on only if there is something to do."""
        with failing_clearly():
            acting = Acting.of(context)
            request = self.asked(acting)
            row = self.require_tenant(request.slug)
            deletion = deletion_of(acting, row.id)
            nothing = "" if acted(acting) else self._nothing(acting, request, row, deletion)
        plan = {"tenant_id": row.id, "slug": row.slug, "name": row.name, "action": request.action}
        context["ti"].xcom_push(key="plan", value={**plan, "nothing": nothing})
        if nothing:
            self.skip_rest(context, f"Nothing to do: {nothing}")
        self._say(request, row, deletion)
        if request.dry_run:
            self.skip_rest(context, "Dry run: nothing was changed")
        return plan

    def _nothing(self, acting: Acting, request: SuspendRequest, row: TenantRow, deletion: Deletion | None) -> str:
        """Return why there is nothing to do; empty when there is."""
        if request.action == REACTIVATE:
            return "" if row.status == SUSPENDED or deletion else f"{row} works already"
        if row.status == ACTIVE:
            return ""
        said = f"{row} is suspended already ({_why(acting, row, deletion)})"
        if request.until:
            raise Refused(f"{said}; nothing was changed. To give that an end time, reactivate it, then suspend it anew")
        return said

    def _say(self, request: SuspendRequest, row: TenantRow, deletion: Deletion | None) -> None:
        if request.action == SUSPEND:
            until = f"until {request.until:%Y-%m-%d %H:%M} UTC" if request.until else "until somebody reactivates it"
            sessions = self.tenants.sessions(row.id)
            self.log.info("Plan: suspend %s %s; end %d sessions; drop its cached keys", row, until, sessions)
        else:
            cancels = f"; this cancels {deletion}" if deletion else ""
            self.log.info("Plan: reactivate %s%s", row, cancels)
        if request.tell_owner:
            self.log.info("Plan: tell its administrators by mail, %d of them", len(self.tenants.owners(row.id)))


def _why(acting: Acting, row: TenantRow, deletion: Deletion | None) -> str:
    if deletion:
        return str(deletion)
    found = Suspensions(acting.settings.environment).open(row.id)
    return str(found) if found else "not by this DAG"


class SuspendApplyOperator(SuspendOperator):
    """Suspend or reactivate; needs the change lock.

    Reactivating cancels a deletion that waits in its days of grace. Of that and the purge exactly one wins.

    XCom: ``sessions`` ended, ``keys`` dropped, ``cancelled``: the deletion in words, or "".
    """

    def execute(self, context: Context) -> dict[str, Any]:
        """Look again, now that nobody else changes anything; note; act."""
        with failing_clearly():
            acting = Acting.of(context)
            self.require_lock(acting)
            request = self.asked(acting)
            noted = self._noted(acting, request)
            act = self._suspend if request.action == SUSPEND else self._reactivate
            done = act(acting, request, noted)
            summary = f"tenant {noted['slug']}: {request.action}: {request.reason}"
            acting.journal.changed("tenant", acting.requested_by, summary, done)
        self.log.info("%s: %s", request.action, done)
        return done

    def _noted(self, acting: Acting, request: SuspendRequest) -> dict[str, Any]:
        """Note what is about to be done and what was so before; what was noted first counts."""
        if acting.journal.recall(ENDING):
            raise Refused("the end time of this suspension has come already; start a new run")
        row = self.require_tenant(request.slug)
        deletion = deletion_of(acting, row.id)
        told = {"tenant_id": row.id, "slug": row.slug, "name": row.name, "action": request.action}
        now = dt.datetime.now(dt.UTC).isoformat()
        if acted(acting) is None and request.action == SUSPEND and row.status == SUSPENDED:
            raise Refused(f"{row} was suspended meanwhile ({_why(acting, row, deletion)}); nothing was changed")
        noted = acting.journal.remember(ACTED, {**told, "before": row.status, "at": now})
        if noted["tenant_id"] != row.id:
            raise Refused(f"{row.slug} is another tenant now than when this run began; start a new run")
        return noted

    def _suspend(self, acting: Acting, request: SuspendRequest, noted: Mapping[str, Any]) -> dict[str, Any]:
        record = Suspensions(acting.settings.environment)
        tenant = (noted["tenant_id"], noted["slug"])
        record.begin(tenant, request.reason, acting.requested_by, acting.source, request.until)
        since, sessions, keys = self.stop_work(acting, noted)
        record.note(acting.source, {"suspended_at": since, "sessions": sessions, "keys": keys})
        return {"sessions": sessions, "keys": keys, "cancelled": ""}

    def _reactivate(self, acting: Acting, request: SuspendRequest, noted: Mapping[str, Any]) -> dict[str, Any]:
        environment, id_ = acting.settings.environment, noted["tenant_id"]
        cancelled = Deletions(environment).cancel(id_, acting.requested_by, request.reason)
        self.tenants.reactivate(id_)
        Suspensions(environment).end(id_, f"{acting.requested_by}: {request.reason}")
        return {"sessions": 0, "keys": 0, "cancelled": str(cancelled) if cancelled else ""}


class SuspendVerifyOperator(SuspendOperator):
    """Look whether it is so, and end what has come in between: a session, a key that was cached at that moment.

    Needs the change lock, for it may have to act. Returns what there is.
    """

    def execute(self, context: Context) -> dict[str, Any]:
        """Look."""
        with failing_clearly():
            acting = Acting.of(context)
            self.require_lock(acting)
            noted = _needed(acting)
            if noted["action"] == SUSPEND:
                _, sessions, keys = self.stop_work(acting, noted)
                if sessions or keys:
                    self.log.info("Come in between, and ended: %d sessions, %d cached keys", sessions, keys)
            wrong = [str(item) for item in standing(self, acting, noted) if not item.ok]
            if wrong:
                raise ChangeFailed(f"{noted['slug']} is not as it shall be: {'; '.join(wrong)}")
        return {"status": SUSPENDED if noted["action"] == SUSPEND else ACTIVE}


def _needed(acting: Acting) -> dict[str, Any]:
    noted = acted(acting)
    if noted is None:
        raise Refused("this run has changed nothing: see the tasks before this one")
    return noted


def standing(task: SuspendOperator, acting: Acting, noted: Mapping[str, Any], wanted: str = "") -> list[Item]:
    """Look at the tenant as it is now.

    :param wanted: status; default: what the run was asked for.
    """
    wanted = wanted or (SUSPENDED if noted["action"] == SUSPEND else ACTIVE)
    row = task.tenants.by_id(noted["tenant_id"])
    status = row.status if row else "not there"
    found = [Item("status", status == wanted, status)]
    if wanted == SUSPENDED:
        sessions, keys = task.tenants.sessions(noted["tenant_id"]), task.keys(acting, noted).count()
        found += [Item("sessions", not sessions, str(sessions)), Item("cached keys", not keys, str(keys))]
    return found


class TellOwnersOperator(SuspendOperator):
    """Tell the tenant's administrators by mail what has happened, when the form asks for it.

    Addresses are read when they are written to. Each gets at most one mail of a run: that it is about to be sent is
    noted before, under the user's id. Returns how many were ``told``, and of how many that is not known (``unsure``).

    :param ending: tell that the end time has come, instead of what was asked for.
    :param outcome_task_id: with ``ending``: task that ended the suspension.
    :param smtp_conn_id: connection of the mail server.
    :raises AirflowFailException: when a mail was refused; the others are sent all the same.
    """

    def __init__(self, *, ending: bool = False, outcome_task_id: str = "", smtp_conn_id: str = "vcci_smtp", **kw: Any):
        super().__init__(**kw)
        self.ending = ending
        self.outcome_task_id = outcome_task_id
        self.smtp_conn_id = smtp_conn_id

    def execute(self, context: Context) -> dict[str, int]:
        """Write to each."""
        with failing_clearly():
            acting = Acting.of(context)
            request, noted = self.asked(acting), _needed(acting)
            if not request.tell_owner:
                raise AirflowSkipException("nobody asked to tell the owner")
            if self.ending and (pulled(context, self.outcome_task_id) or {}).get("outcome") != ENDED:
                raise AirflowSkipException("this run has not reactivated the tenant")
            owners = self.tenants.owners(noted["tenant_id"])
            with notices(self.smtp_conn_id) as mail:
                results = [self._tell(acting, mail, owner, self._words(noted, request)) for owner in owners]
            self.log.info("%d of %d administrators told", results.count("told"), len(results))
            if refused := results.count("refused"):
                raise ChangeFailed(f"{refused} of {len(results)} administrators could not be told; see the log")
        return {"told": results.count("told"), "unsure": results.count("unsure")}

    def _words(self, noted: Mapping[str, Any], request: SuspendRequest) -> tuple[str, str]:
        return notice(noted["name"], REACTIVATE if self.ending else request.action, request)

    def _tell(self, acting: Acting, mail: Notices, owner: Owner, words: tuple[str, str]) -> str:
        """Write to one: told, unsure or refused. What was refused for certain is tried again by the next try."""
        name, journal = f"told.{'end' if self.ending else 'begin'}.{owner.id}", acting.journal
        step = next(s for n in itertools.count(1) if not journal.recall((s := f"{name}.{n}") + ".refused"))
        if journal.recall(f"{step}.done"):
            return "told"
        if journal.recall(step):
            self.log.warning("User %s may have been told by an earlier try; not written to again", owner.id)
            return "unsure"
        journal.remember(step, {"user": owner.id})
        try:
            mail.send(owner.email, *words, key=f"{acting.source}/{name}", sender=acting.settings.on_call.mail_from)
        except Uncertain as error:
            self.log.warning("User %s may or may not have been told: %s", owner.id, error)
            return "unsure"
        except DeliveryFailed as error:
            self.log.error("User %s was not told: %s", owner.id, error)
            journal.remember(f"{step}.refused", {"why": str(error)})
            return "refused"
        journal.remember(f"{step}.done", {"user": owner.id})
        return "told"


class SuspendReportOperator(SuspendOperator):
    """Say how it stands, on the run's page, in log and Slack thread; end failed when it is not as asked.

    With ``trigger_rule="all_done"``: it runs whatever happened, and its end is the run's.

    :param plan_task_id: task that planned; :param apply_task_id: that acted; :param tell_task_id: that wrote mails.
    """

    def __init__(
        self, *, plan_task_id: str = "plan", apply_task_id: str = "apply", tell_task_id: str = "tell_owner", **kw: Any
    ) -> None:
        super().__init__(**kw)
        self.plan_task_id = plan_task_id
        self.apply_task_id = apply_task_id
        self.tell_task_id = tell_task_id

    def execute(self, context: Context) -> list[list[str]]:
        """Look, tell, judge."""
        with failing_clearly():
            acting = Acting.of(context)
            noted = acted(acting)
            if noted is None:
                return self._nothing_done(acting, context)
            request = self.asked(acting)
            found = [*standing(self, acting, noted), *self._mails(request, context)]
            cancelled = (pulled(context, self.apply_task_id) or {}).get("cancelled") or ""
            lines = report_lines(noted, request, found, acting.requested_by, cancelled)
            undelivered = _leave(context, acting, noted, found, lines)
            for item in found:
                self.log.info("%s %s", "ok  " if item.ok else "BAD ", item)
            if wrong := [str(item) for item in found if not item.ok]:
                raise ChangeFailed(f"{noted['slug']} is not as it shall be: {'; '.join(wrong)}")
        if undelivered:
            raise AirflowException(f"as asked, but not everybody was told: {'; '.join(undelivered)}")
        return [[item.what, item.said] for item in found]

    def _nothing_done(self, acting: Acting, context: Context) -> list[list[str]]:
        plan = pulled(context, self.plan_task_id, "plan")
        if plan and (plan["nothing"] or acting.params.get("dry_run") is not False):
            raise AirflowSkipException("there is nothing to report")
        raise ChangeFailed("nothing was changed: see the tasks before this one")

    def _mails(self, request: SuspendRequest, context: Context) -> list[Item]:
        if not request.tell_owner:
            return []
        told = pulled(context, self.tell_task_id)
        if told is None:
            return [Item("owner", False, f"was not told: see the task {self.tell_task_id}")]
        unsure = f", {told['unsure']} perhaps" if told["unsure"] else ""
        return [Item("owner", bool(told["told"] or told["unsure"]), f"{told['told']} administrators told{unsure}")]


def _leave(
    context: Context, acting: Acting, noted: Mapping[str, Any], found: list[Item], lines: list[str]
) -> list[str]:
    """Leave the page, post; return what did not arrive."""
    results = item_results("tenants.suspension", noted["slug"], found, meaning=_MEANING, action=_ACTION)
    return store_report(context, acting, f"Suspension of {noted['name']}", results, "\n".join(lines))


# The end time -----------------------------------------------------------------------------------------


class UntilOperator(SuspendOperator):
    """Wait, deferred, for the end time; skip what follows where there is none, or nothing was suspended."""

    def execute(self, context: Context) -> None:
        """Begin to wait."""
        from airflow.providers.standard.triggers.temporal import DateTimeTrigger

        with failing_clearly():
            acting = Acting.of(context)
            made = Suspensions(acting.settings.environment).of_run(acting.source)
        if made is None or made.until is None:
            raise AirflowSkipException("there is no end time" if made else "nothing was suspended")
        self.log.info("Reactivated at %s", made.until.isoformat())
        if made.until > dt.datetime.now(dt.UTC):
            self.defer(trigger=DateTimeTrigger(moment=made.until), method_name="execute_complete")

    def execute_complete(self, context: Context, event: Any) -> None:
        """Go on: the time has come."""
        self.log.info("The end time has come")


class SuspendEndOperator(SuspendOperator):
    """Reactivate what this run suspended, unless somebody has changed it meanwhile; needs the change lock.

    XCom: ``outcome`` (reactivated; ended before; left alone) and ``why``.
    """

    def execute(self, context: Context) -> dict[str, str]:
        """Look whether it is still this run's, and end it."""
        with failing_clearly():
            acting = Acting.of(context)
            self.require_lock(acting)
            record = Suspensions(acting.settings.environment)
            made = record.of_run(acting.source)
            if made is None:
                raise NoData("this run has suspended nothing")
            outcome, why = self._verdict(acting, made)
            if outcome == ENDED:
                acting.journal.remember(ENDING, {"suspended_at": made.detail["suspended_at"]})
                self.tenants.reactivate(made.tenant_id, made.detail["suspended_at"])
                record.end(made.tenant_id, AT_ITS_TIME, acting.source)
                summary = f"tenant {made.slug}: reactivate: the end time has come"
                acting.journal.changed("tenant", acting.requested_by, summary)
        self.log.info("%s%s", outcome, f": {why}" if why else "")
        return {"outcome": outcome, "why": why}

    def _verdict(self, acting: Acting, made: Suspension) -> tuple[str, str]:
        """Return what is to become of it, and why it is not reactivated."""
        if made.ended_at and made.ended_by != AT_ITS_TIME:
            return ENDED_BEFORE, f"{made.ended_by}, {made.ended_at:%Y-%m-%d %H:%M} UTC"
        if made.ended_at:
            return ENDED, ""
        why = self._changed_meanwhile(acting, made)
        return (LEFT_ALONE, why) if why else (ENDED, "")

    def _changed_meanwhile(self, acting: Acting, made: Suspension) -> str:
        """Say what somebody has done with the tenant since this run suspended it; empty: nothing."""
        row = self.tenants.by_id(made.tenant_id)
        if row is None:
            return "the tenant is not there any more"
        if deletion := Deletions(acting.settings.environment).of_tenant(row.id):
            return f"{deletion} is under way"
        if row.status == SUSPENDED:
            since = row.suspended_at.isoformat() if row.suspended_at else ""
            same = since == made.detail.get("suspended_at")
            return "" if same else f"it was suspended anew at {since}, not by this run"
        # Active, and this run began to reactivate it: killed before that was recorded.
        begun = row.status == ACTIVE and acting.journal.recall(ENDING)
        return "" if begun else f"it is {row.status}, and was not made so by this DAG"


class SuspendEndReportOperator(SuspendOperator):
    """Say what became of a suspension at its end time; end failed when it was left alone.

    :param outcome_task_id: task that ended it.
    """

    def __init__(self, *, outcome_task_id: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.outcome_task_id = outcome_task_id

    def execute(self, context: Context) -> dict[str, str]:
        """Tell, and judge."""
        with failing_clearly():
            acting = Acting.of(context)
            made = Suspensions(acting.settings.environment).of_run(acting.source)
            if made is None or made.until is None:
                raise AirflowSkipException("there is no end time")
            found = pulled(context, self.outcome_task_id) or {"outcome": LEFT_ALONE, "why": "see the tasks before this"}
            said = f"{found['outcome']} at the end time" + (f" ({found['why']})" if found["why"] else "")
            item = Item("end time", found["outcome"] != LEFT_ALONE, said)
            undelivered = self._tell(context, acting, made, item)
            if not item.ok:
                raise ChangeFailed(f"{made.slug}: {said}. Decide whether it is right as it is")
        if undelivered:
            raise AirflowException(f"{said}, but not everybody was told: {'; '.join(undelivered)}")
        return dict(found)

    def _tell(self, context: Context, acting: Acting, made: Suspension, item: Item) -> list[str]:
        """Say it under what was said in the beginning, and leave the page anew."""
        from vcci_ops.domain.mrkdwn import escape

        line = f"{':white_check_mark:' if item.ok else ':red_circle:'} {escape(f'{made.slug}: {item.said}')}"
        tell(acting, "end", line)
        return _leave(context, acting, _needed(acting), [item], [line])
