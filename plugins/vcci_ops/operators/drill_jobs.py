"""The platform's own programs against a restored copy, as Jobs in the image that runs in production.

The copy's DATABASE_URL is in a Secret that this run makes and its teardown removes: it stands in no manifest of a Job,
in no argument, no log and no XCom. The role behind it can log in to scratch databases only. It is set last of all the
Job's variables, so one of the Deployment cannot win over it; and before anything is migrated, it is shown that the
program did connect to the copy.
"""

from __future__ import annotations

import base64
import hashlib
import re
import time
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow.sdk.exceptions import AirflowSkipException

from vcci_ops.domain.drill import DATA, Assertion, not_provable
from vcci_ops.domain.jobs import JobRequest, JobResult
from vcci_ops.domain.junit import told
from vcci_ops.domain.results import Status
from vcci_ops.exceptions import ChangeFailed, Conflict, MeasurementError
from vcci_ops.hooks.drill_record import Drills
from vcci_ops.hooks.kubernetes_writer import SECRETS, KubernetesWriter
from vcci_ops.operators.acting import Acting, failing_clearly
from vcci_ops.operators.drill import database_of, request_of
from vcci_ops.operators.jobs import PlatformJobOperator
from vcci_ops.operators.release_validate import running
from vcci_ops.settings import load_settings

if TYPE_CHECKING:
    from airflow.sdk import Context

    from vcci_ops.settings_drill import DrillJobs

KEY = "url"
"""Key of the URL in the Secret."""
CONNECTED = "application_connected"
"""Kept with the drill: the smoke tests have used the copy."""
LOGIN = "login"
"""Step of the journal: this run has made, or was about to make, its Secret."""
_WITHIN = 10.0
"""Seconds in which the server counts a session that has ended."""


def secret_name(run: str) -> str:
    """Return the name of a run's Secret."""
    return f"vcci-ops-drill-{hashlib.sha256(run.encode()).hexdigest()[:16]}"


def remove_secret(api: KubernetesWriter, namespace: str, run: str) -> bool:
    """Remove a run's Secret; return whether there was one."""
    return api.delete(SECRETS, namespace, secret_name(run))


class DrillJobOperator(PlatformJobOperator):
    """Run one of the platform's programs with the copy as its database, and record what it asserts.

    It changes nothing of the platform, so it needs no change lock.

    :param program: which one, as ``drill.application`` names it: known, smoke or upgrade.
    :param app_conn_id: PostgreSQL connection that logs in to copies as the platform does.
    :param restore_conn_id: PostgreSQL connection of the restore server.
    """

    assertion: str
    title: str
    expected: str

    def __init__(
        self,
        *,
        program: str,
        app_conn_id: str = "vcci_postgres_drill_app",
        restore_conn_id: str = "vcci_postgres_restore",
        **kwargs: Any,
    ) -> None:
        super().__init__(acting=False, **kwargs)
        self.program = program
        self.app_conn_id = app_conn_id
        self.restore_conn_id = restore_conn_id

    @cached_property
    def drills(self) -> Drills:
        """The record of drills of this environment."""
        return Drills(load_settings().environment)

    def request(self, context: Context) -> JobRequest | None:
        """Return the Job; record why there is none where the settings or the form say so."""
        acting = Acting.of(context)
        given = acting.settings.drill.application
        if "restored_at" not in self.drills.detail(acting.source):
            raise AirflowSkipException("there is no restored copy")
        if why := _left_out(acting, given):
            self.record(acting, not_provable(self.assertion, self.title, self.expected, why))
            return None
        self.prepare(acting)
        self._make_secret(acting, given)
        return JobRequest(
            step=f"drill-{self.program}",
            image=str(running(self.jobs.api, self.namespace, (given.like,))[given.like]["image"]),
            command=self.command(given),
            secret_env={given.variable: (secret_name(acting.source), KEY)},
            like=given.like,
            container=given.container,
            timeout=given.timeout,
            keep=given.keep,
        )

    def command(self, given: DrillJobs) -> tuple[str, ...]:
        """Return what runs."""
        command: tuple[str, ...] = getattr(given, self.program)
        return command

    def prepare(self, acting: Acting) -> None:
        """Look whether it may begin; nothing by itself."""

    def succeeded(self, context: Context, result: JobResult) -> None:
        """Record what its success shows."""
        acting = Acting.of(context)
        with failing_clearly():
            made = self.shown(acting, result)
            self.record(acting, made)
            if made.status.fails_run:
                raise ChangeFailed(f"{made.title}: expected {made.expected}, found {made.found}")

    def shown(self, acting: Acting, result: JobResult) -> Assertion:
        """Return what its success shows."""
        return Assertion(self.assertion, self.title, Status.OK, self.expected, f"it did, in {result.seconds:.0f} s")

    def record(self, acting: Acting, made: Assertion) -> None:
        """Record an assertion, in place of an earlier try's."""
        self.drills.asserted(acting.source, made.id, [made])

    def _finish(self, context: Context, **kept: Any) -> dict[str, Any]:
        try:
            return super()._finish(context, **kept)
        except ChangeFailed as error:
            words = re.sub(r"\s+", " ", str(error))[:600]
            why = "The release that runs could not work on this copy. Its log has the program's own words."
            acting = Acting.of(context)
            found = {made.id: made for made in self.drills.assertions(acting.source)}
            if not (self.assertion in found and found[self.assertion].status.fails_run):
                self.record(acting, Assertion(self.assertion, self.title, Status.CRITICAL, self.expected, words, why))
            raise

    # The Secret ------------------------------------------------------------------------------------

    def _make_secret(self, acting: Acting, given: DrillJobs) -> None:
        name = secret_name(acting.source)
        manifest = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "labels": {"app.kubernetes.io/managed-by": "vcci-ops"}},
            "type": "Opaque",
            "immutable": True,
            "data": {KEY: base64.b64encode(self._url(acting, given).encode()).decode()},
        }
        acting.journal.remember(LOGIN, {"name": name})
        try:
            self.jobs.api.create(SECRETS, self.namespace, manifest)
        except Conflict:
            # It may be read by nobody here, so it cannot be compared: make it anew.
            self.jobs.api.delete(SECRETS, self.namespace, name)
            self.jobs.api.create(SECRETS, self.namespace, manifest)

    def _url(self, acting: Acting, given: DrillJobs) -> str:
        from vcci_ops.hooks.postgres import ReadOnlyPostgresHook

        found = ReadOnlyPostgresHook.get_connection(self.app_conn_id)
        user, password = quote(found.login or "", safe=""), quote(found.password or "", safe="")
        host = given.host or f"{found.host}:{found.port or 5432}"
        mode = found.extra_dejson.get("sslmode")
        tls = f"?sslmode={quote(str(mode))}" if mode else ""
        return f"{given.url_scheme}://{user}:{password}@{host}/{database_of(acting)}{tls}"


def _left_out(acting: Acting, given: DrillJobs) -> str:
    if not given.enabled:
        return "drill.application.enabled is off in the settings"
    return "the form asked for the data only" if request_of(acting).depth == DATA else ""


class KnownRevisionOperator(DrillJobOperator):
    """Does the release that runs know the revision of the copy's schema?"""

    assertion = "application.revision"
    title = "The release knows the schema"
    expected = "the copy's revision among those of the release"

    def shown(self, acting: Acting, result: JobResult) -> Assertion:
        """Look for the revision in what the program lists."""
        revision = str(self.drills.detail(acting.source).get("revision") or "")
        words = set(re.findall(r"[\w.-]+", result.output))
        if revision and revision in words:
            return Assertion(self.assertion, self.title, Status.OK, self.expected, f"{revision}, which it knows")
        why = "This release cannot run on this backup: restore with the release of its time, then upgrade."
        found = f"{revision or 'no revision'}, which it does not list"
        return Assertion(self.assertion, self.title, Status.CRITICAL, self.expected, found, why)


class SmokeOperator(DrillJobOperator):
    """Do the smoke tests of the release that runs pass on the copy, and did they use it?"""

    assertion = "application.smoke"
    title = "Readiness and smoke tests on the copy"
    expected = "all of them pass, connected to the copy"

    def command(self, given: DrillJobs) -> tuple[str, ...]:
        """Return the tests, with their results as a document where it is pytest that runs."""
        junit = ("--junitxml=/dev/stdout",) if "pytest" in given.smoke[0] else ()
        return (*given.smoke, *junit)

    def prepare(self, acting: Acting) -> None:
        """Note how many sessions the copy has seen before."""
        acting.journal.remember("smoke_sessions", {"before": self._sessions(acting)})

    def shown(self, acting: Acting, result: JobResult) -> Assertion:
        """Look whether the copy has seen the tests' sessions: tests of another database show nothing."""
        before = (acting.journal.recall("smoke_sessions") or {"before": 0})["before"]
        until = time.monotonic() + _WITHIN
        while (now := self._sessions(acting)) <= before and time.monotonic() < until:
            time.sleep(0.2)
        if now <= before:
            found = "they passed without connecting to the copy"
            why = "drill.application.variable is not what the platform reads its database from. Nothing was migrated."
            return Assertion(self.assertion, self.title, Status.CRITICAL, self.expected, found, why)
        self.drills.note(acting.source, {CONNECTED: True})
        tests = told(dict(result.junit)) if result.junit else "exit code 0"
        return Assertion(self.assertion, self.title, Status.OK, self.expected, tests)

    def _sessions(self, acting: Acting) -> int:
        """Return how many sessions the copy has seen; those of drills look at it from outside meanwhile.

        https://www.postgresql.org/docs/current/monitoring-stats.html#MONITORING-PG-STAT-DATABASE-VIEW
        """
        from vcci_ops.hooks.drill_scratch import ScratchServer

        settings = acting.settings
        with ScratchServer(settings.drill, settings.environment, self.restore_conn_id).session() as server:
            query = "SELECT sessions FROM pg_catalog.pg_stat_database WHERE datname = %s"
            row: Any = server.execute(query, (database_of(acting),)).fetchone()
        return int(row[0]) if row else 0


class UpgradeOperator(DrillJobOperator):
    """Does the release's own migration bring the copy to its head? Only once it was shown that it uses the copy."""

    assertion = "application.upgrade"
    title = "Migration to the release's head, in the copy"
    expected = "it ends well"

    def prepare(self, acting: Acting) -> None:
        """Pass when the smoke tests were seen in the copy: a migration must not run anywhere else.

        :raises AirflowSkipException: when they were not.
        """
        if self.drills.detail(acting.source).get(CONNECTED):
            return
        because = "it was not shown that the platform's programs use the copy, and a migration must run nowhere else"
        self.record(acting, not_provable(self.assertion, self.title, self.expected, because))
        raise AirflowSkipException(because)

    def shown(self, acting: Acting, result: JobResult) -> Assertion:
        """Return from where to where."""
        from vcci_ops.hooks.drill_scratch import ScratchServer

        settings = acting.settings
        server = ScratchServer(settings.drill, settings.environment, self.restore_conn_id)
        before = self.drills.detail(acting.source).get("revision") or "?"
        try:
            now = server.revision(database_of(acting))
        except MeasurementError as error:
            now = f"unknown ({error})"
        found = f"{before} → {now}" if before != now else f"{now}, which is its head already"
        return Assertion(self.assertion, self.title, Status.OK, self.expected, f"{found}, in {result.seconds:.0f} s")
