"""The database's backup as tasks: dump, read back, retention, report. Each finds what it did when it runs again.

Which backup a run makes, and how far it is, stands in the history (table ``backup``). None of them holds the change
lock: nothing of the platform is changed, and a backup must not wait for a release, nor keep one waiting.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import DownstreamTasksSkipped

from vcci_ops.domain import backup_retention as retention
from vcci_ops.domain.units import duration, humanize
from vcci_ops.exceptions import ChangeFailed, DeliveryFailed, InvalidInput, MeasurementError
from vcci_ops.operators.acting import Acting, failing_clearly, pulled, scheduled
from vcci_ops.operators.tenant_report import failures

if TYPE_CHECKING:
    from airflow.sdk import Context

    from vcci_ops.hooks.backup import BackupMaker
    from vcci_ops.hooks.backup_record import Recorded

AUTO, APPLY, PLAN_ONLY = "auto", "apply", "plan"
RETENTION = (AUTO, APPLY, PLAN_ONLY)
"""Delete what is due in a scheduled run and only plan it in one by hand; delete it; only plan it."""


class BackupOperator(BaseOperator):
    """What the tasks of a backup have in common.

    :param postgres_conn_id: connection of a role with include/sql/grants/vcci_ops_backup.sql.
    :param aws_conn_id: S3 connection that may write and delete below the backups' prefix.
    """

    ui_color = "#e0f0e3"
    template_fields: Sequence[str] = ("postgres_conn_id", "aws_conn_id")

    def __init__(
        self, *, postgres_conn_id: str = "vcci_postgres_backup", aws_conn_id: str = "vcci_s3", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.postgres_conn_id = postgres_conn_id
        self.aws_conn_id = aws_conn_id

    def maker(self, acting: Acting) -> BackupMaker:
        """Return what makes this run's backup."""
        from vcci_ops.hooks.backup import BackupMaker

        return BackupMaker(acting.settings, acting.source, self.postgres_conn_id, self.aws_conn_id)


class BackupDumpOperator(BackupOperator):
    """Dump the database into S3, and sum up its tables in the same snapshot.

    Where the settings say that another tool makes the backups, it says so and skips all that follows.

    :raises AirflowFailException: when a parameter cannot be used, pg_dump is too old, or a right is missing.
    :raises AirflowException: when a system does not answer or pg_dump fails; another try may do.
    """

    def execute(self, context: Context) -> str | None:
        """Dump, and return the backup's key."""
        with failing_clearly():
            acting = Acting.of(context)
            asked_retention(acting)
            if not acting.settings.database_backup.enabled:
                tool = acting.settings.database_backup.made_by or "another tool"
                self.log.info("Nothing to do: by the settings (database_backup.enabled), %s makes the backups", tool)
                raise DownstreamTasksSkipped(  # type: ignore[no-untyped-call]
                    tasks=sorted(context["task"].get_flat_relative_ids(upstream=False))
                )
            return self.maker(acting).dump().key


class BackupReadBackOperator(BackupOperator):
    """Read the dump from S3, hold it against what was dumped, parse its table of contents, then write its manifest.

    :raises AirflowFailException: when what lies there is not what was dumped.
    """

    def execute(self, context: Context) -> str:
        """Read it, and return its key."""
        with failing_clearly():
            return self.maker(Acting.of(context)).read_back().key


class BackupRetentionOperator(BackupOperator):
    """Plan which backups go, say what and why, and delete them where that is asked for.

    :raises AirflowFailException: when a plan would delete what nothing replaces, or S3 keeps an object.
    """

    def execute(self, context: Context) -> str:
        """Plan and delete; return in a line what became of it."""
        from vcci_ops.hooks.backup_store import Shelf, lines

        with failing_clearly():
            acting = Acting.of(context)
            deletes, maker = _deletes(context, asked_retention(acting)), self.maker(acting)
            shelf = Shelf(maker.store, maker.record, acting.settings, acting.source)
            rules = shelf.rules
            known = shelf.known()
            fates = retention.plan(known, rules, dt.datetime.now(dt.UTC))
            for line in lines(fates, shelf.unfinished()):
                self.log.info("%s", line)
            for key in retention.missing_holds(known, rules):
                self.log.warning("on hold, and not there: %s (database_backup.retention.hold)", key)
            going = [fate for fate in fates if fate.delete]
            size = humanize(sum(fate.size for fate in going), "bytes")
            if not deletes:
                return f"{len(going)} backups could go ({size}), none was deleted: only planned" if going else ""
            shelf.clear(fates, known)
        return f"{len(going)} older backups deleted ({size})" if going else ""


class BackupReportOperator(BackupOperator):
    """Tell in Slack: one line when all went well; else loudly, and page the on-call.

    With ``trigger_rule="all_done"``: it runs whatever happened, and its end is the run's.

    :param retention_task_id: task that left a line on what was deleted.
    :raises AirflowFailException: when there is no verified backup of this run, or a task failed.
    """

    def __init__(self, *, retention_task_id: str = "retention", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.retention_task_id = retention_task_id

    def execute(self, context: Context) -> str:
        """Tell, and judge."""
        with failing_clearly():
            acting = Acting.of(context)
            wrong = failures(context)
            try:
                made = self.maker(acting).record.of_run(acting.source)
            except MeasurementError as error:
                made, wrong = None, "; ".join(filter(None, (wrong, str(error))))
            verified = made is not None and made.verified_at is not None
            if not verified:
                wrong = wrong or "the tasks before this one left no verified backup"
            if made and verified:
                text = self._good(made, str(pulled(context, self.retention_task_id) or ""))
            else:
                text = f"No backup of {acting.settings.database.name} was made"
            if wrong:
                self._alarm(acting, made, f"{text}: {wrong}" if not verified else f"{text}. But {wrong}")
            _say(acting, text)
        return text

    @staticmethod
    def _good(made: Recorded, deleted: str) -> str:
        size, name = humanize(made.bytes or 0, "bytes"), made.key.rpartition("/")[2]
        took = duration((made.verified_at - made.taken_at).total_seconds()) if made.verified_at else "?"
        said = f"Backup {name}: {size}, {made.detail.get('summary', '')}; made and read back in {took}"
        return f"{said}; {deleted}" if deleted else said

    def _alarm(self, acting: Acting, made: Recorded | None, text: str) -> None:
        """Record the failure, page, post; each is tried, whatever the others did.

        :raises ChangeFailed: always; says also what did not arrive.
        """
        from vcci_ops.hooks.pager import page

        problems = [text]
        help_ = f"{text}\n\nRun: {acting.run_url}\nWhat to do: docs/recovery.md, Backups."
        steps = (
            lambda: self.maker(acting).record.failed(made.key, text) if made else None,
            lambda: page("the database was not backed up", help_, key=f"{acting.source}/backup"),
            lambda: _say(acting, f":rotating_light: {text}", loud=True),
        )
        for step in steps:
            try:
                step()
            except (DeliveryFailed, MeasurementError) as error:
                self.log.error("%s", error)
                problems.append(str(error))
        raise ChangeFailed("; ".join(problems))


def asked_retention(acting: Acting) -> str:
    """Return what the form says of retention.

    :raises InvalidInput: when it is none of the choices.
    """
    asked = acting.params.get("retention", AUTO)
    if asked not in RETENTION:
        raise InvalidInput("retention", asked, f"one of {', '.join(RETENTION)}")
    return str(asked)


def _deletes(context: Context, asked: str) -> bool:
    if asked != AUTO:
        return asked == APPLY
    return scheduled(context)


def _say(acting: Acting, text: str, *, loud: bool = False) -> None:
    from vcci_ops.domain.mrkdwn import escape, link
    from vcci_ops.hooks.thread import RunThread

    reason = str(acting.params.get("reason") or "")[:500]
    thread = RunThread(acting.settings.slack.channel, acting.dag_id, acting.run_id)
    thread.say("root", escape(text) + (f" ({escape(reason)})" if reason else ""), root=True)
    if loud:  # its place in the history is how the run's own alarm knows that somebody was told
        thread.say("final", f"{link(acting.run_url, 'Run')} · what to do: docs/recovery.md, Backups")
