"""A restore drill as tasks: choose a backup, make a scratch database, restore into it, drop it."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowRuntimeError

from vcci_ops.domain import drill_choice as choice
from vcci_ops.domain.backups import Backup, Names
from vcci_ops.domain.drill import DATE, KEY, LATEST, RANDOM, Assertion, Request, read_request
from vcci_ops.domain.results import Status
from vcci_ops.domain.units import duration, humanize
from vcci_ops.exceptions import ChangeFailed, NoData, OpsError, Refused, UnexpectedAnswer, Unreachable
from vcci_ops.hooks.drill_record import SCRATCH, Drills
from vcci_ops.links import ReportLink
from vcci_ops.operators.acting import Acting, failing_clearly, needed
from vcci_ops.settings import Settings, load_settings

if TYPE_CHECKING:
    from airflow.sdk import Context

    from vcci_ops.hooks.drill_restore import Restorer
    from vcci_ops.hooks.drill_scratch import ScratchServer
    from vcci_ops.hooks.drill_source import BackupBucket, Dump, Survey

CHOOSE = "choose"
CHOSEN = "backup"
"""Step of the journal that keeps which backup a run restores."""


def sabotages(settings: Settings) -> tuple[str, ...]:
    """Return what may be asked for in an environment: nothing outside of a sandbox."""
    from vcci_ops.hooks.drill_sabotage import ALL

    return ALL if settings.drill.sandbox else ()


def request_of(acting: Acting) -> Request:
    """Return what the run was asked for.

    :raises InvalidInput: naming the field.
    """
    drill = acting.settings.drill
    defaults = Request(days=drill.lookback, rto=drill.rto, rpo=drill.rpo)
    return read_request(acting.params, defaults, sabotages(acting.settings))


class DrillOperator(BaseOperator):
    """What the tasks of a drill have in common.

    :param restore_conn_id: PostgreSQL connection of the restore server, of a role with CREATEDB.
    :param aws_conn_id: AWS connection of the backups.
    """

    operator_extra_links = (ReportLink(),)
    ui_color = "#dff0e4"

    def __init__(
        self, *, restore_conn_id: str = "vcci_postgres_restore", aws_conn_id: str = "vcci_s3", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.restore_conn_id = restore_conn_id
        self.aws_conn_id = aws_conn_id

    @cached_property
    def drills(self) -> Drills:
        """The record of drills of this environment."""
        return Drills(load_settings().environment)

    @cached_property
    def server(self) -> ScratchServer:
        """The restore server."""
        from vcci_ops.hooks.drill_scratch import ScratchServer

        settings = load_settings()
        return ScratchServer(settings.drill, settings.environment, self.restore_conn_id)

    @cached_property
    def bucket(self) -> BackupBucket:
        """Where the backups are."""
        from vcci_ops.hooks.drill_source import BackupBucket

        where = load_settings().backups
        names = Names(prefix=where.prefix, key_format=where.key_format)
        return BackupBucket(where.bucket, names, where.manifest_suffix, self.aws_conn_id)

    def dump(self, chosen: dict[str, Any]) -> Dump:
        """Return the dump that was chosen."""
        from vcci_ops.hooks.drill_source import Dump

        return Dump(self.bucket.bucket, chosen["key"], chosen["size"], etag=chosen["etag"], conn_id=self.aws_conn_id)

    @contextmanager
    def timed(self, acting: Acting, phase: str) -> Iterator[None]:
        """Record how long a phase took when it ends well."""
        begun = time.monotonic()
        yield
        self.drills.took(acting.source, phase, time.monotonic() - begun)

    def note(self, acting: Acting, part: str, assertions: Sequence[Assertion]) -> None:
        """Record and log what a part of the drill asserts, in place of what it asserted before."""
        self.drills.asserted(acting.source, part, assertions)
        for made in assertions:
            text = f"{made.title}: expected {made.expected}; found {made.found}"
            if made.status == Status.OK:
                self.log.info("ok       %s", text)
                continue
            say = self.log.warning if made.status == Status.WARNING else self.log.error
            say("%-8s %s%s", made.status, text, f". {made.why}" if made.why else "")


def database_of(acting: Acting) -> str:
    """Return the name of this run's scratch database.

    :raises NoData: when it has none.
    """
    noted = acting.journal.recall(SCRATCH)
    if not noted:
        raise NoData("this run has no scratch database: the task scratch has not run")
    return str(noted["database"])


# Choosing ----------------------------------------------------------------------------------------------


class ChooseBackupOperator(DrillOperator):
    """Choose a backup, and say of each that was considered and not chosen why.

    A newer backup that cannot be used is a finding of its own: the drill goes on with the one that would be restored
    instead, so that what would be lost is told honestly, and ends red. Which one it is stays with the run: a repeated
    task does not choose again. Returns ``key``, ``size``, ``etag``, ``taken_at``, ``sha256`` and ``manifest`` (the
    manifest's own SHA-256).

    :raises AirflowFailException: when no backup can be restored.
    """

    def execute(self, context: Context) -> dict[str, Any]:
        """Choose."""
        acting = Acting.of(context)
        with failing_clearly():
            request = request_of(acting)
            self.drills.begin(acting.source, dt.datetime.now(dt.UTC))
            self.drills.note(acting.source, {"requested_by": acting.requested_by, "sabotage": request.sabotage or None})
            if noted := acting.journal.recall(CHOSEN):
                self.log.info("This run has chosen %s", noted["key"])
                return noted
            self._sabotage(acting, request)
            with self.timed(acting, "choose"):
                chosen = self._choose(acting, request)
            kept = acting.journal.remember(CHOSEN, chosen)
            self.drills.chosen(acting.source, kept["key"], kept["size"])
        self.log.info("%s, %s, taken %s", kept["key"], humanize(kept["size"], "bytes"), kept["taken_at"])
        return kept

    def _choose(self, acting: Acting, request: Request) -> dict[str, Any]:
        now = dt.datetime.now(dt.UTC)
        found = self._found(request, acting.settings, now)
        wanted = choice.candidates(found, request, now, self.bucket.names)
        recorded = self.drills.recorded([backup.key for backup in found])
        tombstones = self.drills.tombstones()
        skipped = list[choice.Skipped]()
        for backup in wanted:
            looked = self.bucket.look(backup, recorded.get(backup.key))
            skip = self._against(looked, found, request, acting.settings)
            if not skip and request.which == RANDOM and backup is not wanted[-1]:
                skip = choice.fits_less(backup, tombstones.values())
            if not skip:
                self.note(acting, "choice", [choice.chosen_well(request, backup.key, skipped)])
                return self._chosen(looked)
            self.log.warning("Not %s: %s", backup.key, skip.why)
            skipped.append(skip)
        self.note(acting, "choice", [choice.chosen_well(request, "", skipped)])
        raise Refused(f"no backup can be restored: {'; '.join(f'{s.key}: {s.why}' for s in skipped[:5])}")

    def _sabotage(self, acting: Acting, request: Request) -> None:
        """Let this drill find a damaged copy of the newest backup; in a sandbox only."""
        from vcci_ops.hooks.drill_sabotage import IN_BACKUP, DamagedBackup

        if request.sabotage not in IN_BACKUP:
            return
        newest = self.bucket.newest(dt.datetime.now(dt.UTC), 1)[-1]
        damaged = DamagedBackup(acting.settings.drill, self.bucket, acting.source)
        damaged.make(newest.key, newest.size, request.sabotage)
        self.bucket.names = damaged.names
        self.log.warning("SABOTAGE: %s, in a copy of %s", request.sabotage, newest.key)

    def _found(self, request: Request, settings: Settings, now: dt.datetime) -> list[Backup]:
        """Return the backups that come into question, with enough of their neighbours."""
        drill = settings.drill
        if request.which == LATEST:
            return self.bucket.newest(now, drill.neighbours + 3)
        since = now - dt.timedelta(days=request.days + drill.neighbours)
        if request.which == DATE and request.date:
            since = dt.datetime.combine(request.date, dt.time(), dt.UTC) - dt.timedelta(days=drill.neighbours)
        if request.which == KEY and (taken := self.bucket.names.taken_at(request.key)):
            since = taken - dt.timedelta(days=drill.neighbours)
        return self.bucket.since(since)

    @staticmethod
    def _against(
        looked: choice.Looked, found: Sequence[Backup], request: Request, settings: Settings
    ) -> choice.Skipped | None:
        if choice.under_way(looked, dt.datetime.now(dt.UTC), settings.backups.manifest_within):
            return choice.Skipped(looked.backup.key, "it has no manifest yet: it is being made", bad=False)
        around = choice.neighbours_of(looked.backup, found, settings.drill.neighbours)
        # Whoever names one means that one, whatever its size.
        why = choice.unusable(looked, [] if request.which == KEY else around, settings.drill.smaller_than)
        return choice.Skipped(looked.backup.key, why) if why else None

    def _chosen(self, looked: choice.Looked) -> dict[str, Any]:
        from vcci_ops.hooks.drill_source import Dump

        backup, manifest = looked.backup, looked.manifest
        return {
            "key": backup.key,
            "size": backup.size,
            "etag": Dump(self.bucket.bucket, backup.key, backup.size, conn_id=self.aws_conn_id).etag,
            "taken_at": (manifest.taken_at or backup.taken_at).isoformat(),
            "sha256": manifest.sha256,
            "manifest": manifest.digest,
            "manifest_version": manifest.version,
        }


# Scratch -----------------------------------------------------------------------------------------------


class ScratchOperator(DrillOperator):
    """Make a fresh database on the restore server; the setup of the drill.

    Refused when that server is production, which is told by system identifier and not by name, and when there is no
    room. What dead runs have left is dropped; what a run that goes on has made is not. The database's name is noted in
    the history before it is made, and in its comment stands whose it is. Returns the name.

    :param production_conn_id: PostgreSQL connection of production.
    """

    def __init__(self, *, production_conn_id: str = "vcci_postgres", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.production_conn_id = production_conn_id

    def execute(self, context: Context) -> str:
        """Make it."""
        acting = Acting.of(context)
        with failing_clearly():
            chosen = needed(context, CHOOSE)
            with self.timed(acting, SCRATCH):
                known = self.bucket.manifest(chosen["key"], chosen["manifest"]).data.get("system_identifier")
                shown = self.server.require_not_production(self.production_conn_id, str(known) if known else None)
                self.log.info("Not production: %s", shown)
                collected = self.server.collect(acting.source, lambda run: _alive(context, run), self.drills.run_of)
                for line in collected:
                    self.log.warning("%s", line)
                room = self.server.require_room(self._expected(acting, chosen["size"]))
                self.log.info("Room: %s", room)
                name = str(acting.journal.remember(SCRATCH, {"database": self.server.new_name()})["database"])
                self.server.create(name, acting.source)
            self.drills.note(acting.source, {"server": shown, "room": room, "collected": collected})
        self.log.info("%s is there, empty", name)
        return name

    def _expected(self, acting: Acting, size: int) -> int:
        """Return how large the copy will be, by what the last drill has measured."""
        for past in self.drills.past(acting.source, 1):
            if past.bytes and past.detail.get("restored_bytes"):
                return int(size * past.detail["restored_bytes"] / past.bytes)
        return int(size * acting.settings.drill.expansion)


def _alive(context: Context, run: str) -> bool:
    """Whether a run goes on.

    :raises Unreachable: when Airflow cannot say.
    """
    dag_id, _, run_id = run.partition("/")
    try:
        state = context["ti"].get_dagrun_state(dag_id, run_id)
    except AirflowRuntimeError as error:
        if (error.error.detail or {}).get("status_code") == 404:
            return False
        raise Unreachable("Airflow", f"cannot say whether {run} still runs") from None
    return str(getattr(state, "value", state)) in ("running", "queued")


class DropScratchOperator(DrillOperator):
    """Drop the scratch database, whatever became of the drill; its teardown.

    When the form says so and something failed, it stays for people to look at, for as long as the settings allow, and a
    later drill drops it. The Secret with which the platform's programs logged in to it goes in any case.

    :param namespace: of the platform.
    :param kubernetes_conn_id: Airflow connection of type kubernetes.
    """

    def __init__(self, *, namespace: str, kubernetes_conn_id: str = "vcci_kubernetes", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.namespace = namespace
        self.kubernetes_conn_id = kubernetes_conn_id

    def execute(self, context: Context) -> str:
        """Drop it, or let it be."""
        acting = Acting.of(context)
        with failing_clearly():
            name = database_of(acting)
            if request_of(acting).keep_on_failure and self._failed(acting):
                until = self.server.keep(name, acting.source)
                said = f"{name} is kept until {until:%Y-%m-%d %H:%M} UTC; it holds personal data"
            else:
                self.server.drop(name)
                said = f"{name} was dropped"
            self.drills.note(acting.source, {"scratch": said})
            self.log.info("%s", said)
            self._remove_secret(acting)
        return said

    def _remove_secret(self, acting: Acting) -> None:
        """Remove it where there may be one; a cluster that no program was run in is not asked."""
        from vcci_ops.hooks.kubernetes_writer import KubernetesWriter
        from vcci_ops.operators.drill_jobs import LOGIN, remove_secret

        if acting.journal.recall(LOGIN) and remove_secret(
            KubernetesWriter(self.kubernetes_conn_id), self.namespace, acting.source
        ):
            self.log.info("The Secret of the platform's programs was removed")

    def _failed(self, acting: Acting) -> bool:
        found = self.drills.assertions(acting.source)
        ready = "restored_at" in self.drills.detail(acting.source)
        return not ready or any(made.status.fails_run for made in found)


class SabotageOperator(DrillOperator):
    """Damage the copy, when the form asks for it; a drill of the drill. There is no such task outside of a sandbox."""

    def execute(self, context: Context) -> None:
        """Damage it."""
        from vcci_ops.hooks.drill_sabotage import IN_COPY, damage_copy

        acting = Acting.of(context)
        with failing_clearly():
            how = request_of(acting).sabotage
            if how not in IN_COPY:
                self.log.info("No sabotage of the copy was asked for")
                return
            damage_copy(acting.settings.drill, self.server, database_of(acting), how)
        self.log.warning("SABOTAGE: %s", how)


# Restoring ---------------------------------------------------------------------------------------------


class RestoreOperator(DrillOperator):
    """Restore the dump into the scratch database, streamed from S3, several parts at once.

    First the dump is read as a whole: nothing is restored of one that is not what its manifest says. The database is
    made anew at each try, so a task that was killed begins again with an empty one. When the task is killed, its
    pg_restore are ended.
    """

    restorer: Restorer | None = None

    def execute(self, context: Context) -> None:
        """Read, then restore."""
        acting = Acting.of(context)
        with failing_clearly():
            chosen, name = needed(context, CHOOSE), database_of(acting)
            dump = self.dump(chosen)
            with self.timed(acting, "read"):
                survey = self._survey(acting, dump, chosen)
            self.server.require_fit(survey.head)
            self.server.create(name, acting.source)
            self._restore(acting, dump, survey, name)
            now, size = dt.datetime.now(dt.UTC), self.server.size(name)
            self.drills.note(acting.source, {"restored_at": now.isoformat(), "restored_bytes": size})
        self.log.info("%s: %s, from a dump of %s", name, humanize(size, "bytes"), humanize(survey.bytes, "bytes"))

    def _survey(self, acting: Acting, dump: Dump, chosen: dict[str, Any]) -> Survey:
        from vcci_ops.hooks.drill_source import DamagedDump

        expected = chosen["sha256"]
        try:
            survey = dump.survey(_Progress(self.log, dump.size))
        except DamagedDump as error:
            found = f"{error.sha256}: {error}"
            self.note(acting, "backup", [_digest(expected, found, Status.CRITICAL)])
            raise ChangeFailed(f"the dump is damaged: {error}. Its SHA-256 is {error.sha256}, not {expected}") from None
        if survey.sha256 != expected:
            self.note(acting, "backup", [_digest(expected, survey.sha256, Status.CRITICAL)])
            raise ChangeFailed(
                f"the dump is not what its manifest says: its SHA-256 is {survey.sha256}, not {expected}. It was "
                "changed after it was made; nothing of it was restored"
            )
        self.note(acting, "backup", [_digest(expected, survey.sha256, Status.OK), self._origin(chosen, survey)])
        self._require_origin(chosen, survey)
        return survey

    def _origin(self, chosen: dict[str, Any], survey: Survey) -> Assertion:
        """Return whether the dump is of the database that its manifest names."""
        title, expected = "Database that was dumped", self._database(chosen)
        found = survey.head.database
        why = "The job that makes backups dumps something else. Do not rely on this backup."
        status = Status.OK if found == expected else Status.CRITICAL
        return Assertion("backup.database", title, status, expected, found, "" if status == Status.OK else why)

    def _require_origin(self, chosen: dict[str, Any], survey: Survey) -> None:
        if survey.head.database != self._database(chosen):
            raise ChangeFailed(
                f"the dump is of the database {survey.head.database}, not of {self._database(chosen)}: it was taken "
                "of another one. Nothing of it was restored"
            )

    def _database(self, chosen: dict[str, Any]) -> str:
        manifest = self.bucket.manifest(chosen["key"], chosen["manifest"])
        return str(manifest.data.get("database") or load_settings().database.name)

    def _restore(self, acting: Acting, dump: Dump, survey: Survey, name: str) -> None:
        from vcci_ops.hooks.drill_restore import RestoreFailed, Restorer, Target, why_server

        drill = acting.settings.drill
        target = Target(name, self.restore_conn_id, drill.session)
        self.restorer = Restorer(dump, survey, target, drill.jobs)
        number = len(survey.head.entries)
        try:
            self.restorer.run(lambda phase, seconds: self.drills.took(acting.source, phase, seconds))
        except (RestoreFailed, UnexpectedAnswer) as error:
            # It is the backup's fault only when the server is well.
            server = why_server(target)
            words = f"{server}: {error}" if server else str(error)
            self.note(acting, "restore", [_restored(number, words, Status.UNKNOWN if server else Status.CRITICAL)])
            raise ChangeFailed(f"the dump {'could not' if server else 'cannot'} be restored: {words}") from None
        except OpsError as error:
            self.note(acting, "restore", [_restored(number, str(error), Status.UNKNOWN)])
            raise
        self.note(acting, "restore", [_restored(number, "", Status.OK)])

    def on_kill(self) -> None:
        """End what runs."""
        if self.restorer:
            self.restorer.stop()


def _digest(expected: str, found: str, status: Status) -> Assertion:
    why = "The dump was changed, cut or replaced after it was made. Do not rely on it; look at who may write there."
    title = "Digest of the dump (SHA-256)"
    return Assertion("backup.sha256", title, status, expected, found, "" if status == Status.OK else why)


def _restored(entries: int, error: str, status: Status) -> Assertion:
    why = {
        Status.CRITICAL: "This backup cannot be restored as it is. Make a new one, and restore that.",
        Status.UNKNOWN: "This says nothing about the backup. Put right what is named, and clear the task.",
    }
    found = error or "without an error"
    return Assertion(
        "restore.complete", "Restore", status, f"{entries} entries without an error", found, why.get(status, "")
    )


class _Progress:
    """Says every ten seconds how far the reading is."""

    def __init__(self, log: Any, size: int) -> None:
        self._log, self._size = log, size
        self._begun = self._told = time.monotonic()

    def __call__(self, done: int) -> None:
        now = time.monotonic()
        if done < self._size and now - self._told < 10:
            return
        self._told = now
        share, took = 100 * done / max(self._size, 1), duration(now - self._begun)
        self._log.info("read %.0f %% (%s) in %s", share, humanize(done, "bytes"), took)
