"""Checks of PostgreSQL: the server itself, its statements, the audit log, or any number that SQL gives."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from vcci_ops.domain import database, security, statements
from vcci_ops.domain.checks import unknown
from vcci_ops.domain.database import Earlier
from vcci_ops.domain.results import Result
from vcci_ops.exceptions import InvalidInput, MeasurementError, NoData
from vcci_ops.operators.base import CheckOperator
from vcci_ops.settings_base import parse_duration

if TYPE_CHECKING:
    from airflow.sdk import Context

    from vcci_ops.hooks.postgres import Answer, ReadOnlyPostgresHook
    from vcci_ops.hooks.postgres import Statement as Sql

SAMPLES_KEY = "samples"
"""XCom key: numbers of this run, name → value, that later runs compare with."""
STATEMENTS_KEY = "statements"
"""XCom key: the snapshot of pg_stat_statements that the next run compares with."""
_DAY = 86400.0
_MOST_ROWS = 100


class _PostgresCheckOperator(CheckOperator):
    system = "PostgreSQL"
    preloads = ("vcci_ops.hooks.postgres",)

    def __init__(self, *, postgres_conn_id: str = "vcci_postgres", database: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.postgres_conn_id = postgres_conn_id
        self.database = database

    @cached_property
    def hook(self) -> ReadOnlyPostgresHook:
        """The read-only hook."""
        from vcci_ops.hooks.postgres import ReadOnlyPostgresHook

        return ReadOnlyPostgresHook(postgres_conn_id=self.postgres_conn_id, database=self.database)

    @staticmethod
    def shipped(name: str, parameters: Mapping[str, Any] | None = None) -> Sql:
        """Return the statement of include/sql/checks/<name>.sql."""
        from vcci_ops.hooks.postgres import Statement, check_sql

        return Statement(check_sql(name), parameters)

    def reported(self, id_: str, answer: Answer, judge: Any) -> Iterator[Result]:
        """Yield what ``judge(check, rows)`` makes of an answer, or unknown when it cannot."""
        check = self.check(id_)
        if check is None:
            return
        try:
            if answer.error:
                raise answer.error
            yield judge(check, answer.rows)
        except MeasurementError as error:
            yield unknown(check, error, query=answer.query)


class DatabaseCheckOperator(_PostgresCheckOperator):
    """Check a PostgreSQL database: connections, transactions, size, growth, active tenants.

    Everything is read over one read-only connection in one round trip; include/sql/checks/ has the
    statements, include/sql/grants/ what the connection's role must be granted. What it lacks makes
    just the checks concerned unknown. A server that refuses the log-in because its connections are
    used up is *critical*, not unknown: that is what ``database.connections`` watches.

    Growth and the usual number of tenants come from the history (``history_conn_id``); without it the
    results say so. This run's numbers are in XCom under ``samples``, to be kept for that:
    ``database.size`` in bytes, and the count of active tenants under the name that :func:`tenants_sample`
    gives it, so that runs with different windows are not compared.

    :param postgres_conn_id: Airflow connection; default ``vcci_postgres``.
    :param database: database to check; default: the connection's.
    :param active_within: a tenant with a session younger than this is active; seconds, or a duration
        such as ``24h``; templated; default 24 h.
    """

    measures = ("database.connections", "database.transactions", "database.size", "database.growth", "tenants.active")
    remembered = (SAMPLES_KEY,)
    template_fields: Sequence[str] = ("postgres_conn_id", "database", "active_within")

    def __init__(self, *, active_within: float | str = 86400.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.active_within = active_within

    def previous_value(self, context: Context, check_id: str, subject: str) -> Earlier | None:
        """Return the sample of an earlier run whose age is nearest to a day; None when there is none."""
        runs = [(at, found[check_id]) for at, found in self.earlier(context, SAMPLES_KEY, days=3) if check_id in found]
        found = nearest_to_a_day(runs, dt.datetime.now(dt.UTC))
        return Earlier(float(found[1]), found[0]) if found else None

    def previous_values(self, context: Context, name: str) -> Sequence[Earlier]:
        """Return earlier samples of this name from the same weekday, at most five weeks back.

        Of each day the last: a day with many runs by hand is no more usual than another.
        """
        now = dt.datetime.now(dt.UTC)
        of_day: dict[dt.date, Earlier] = {}
        for at, found in self.earlier(context, SAMPLES_KEY, days=36):  # newest first
            if name in found and at.weekday() == now.weekday() and at.date() < now.date():
                of_day.setdefault(at.date(), Earlier(float(found[name]), at))
        return list(of_day.values())

    def measure(self, context: Context) -> Iterator[Result]:
        """Read everything at once, then judge."""
        from vcci_ops.hooks.postgres import ConnectionsExhausted

        seconds = window("active_within", self.active_within)
        samples: dict[str, float] = {}
        try:
            for answer in self._answers(seconds):
                yield from self._judged(context, answer, seconds, samples)
        except ConnectionsExhausted as error:
            check = self.check("database.connections")
            if check:
                yield database.exhausted(check, str(error))
            raise
        finally:
            context["ti"].xcom_push(key=SAMPLES_KEY, value=samples)

    def _answers(self, seconds: float) -> Iterator[Answer]:
        needed = {
            "connections": ("database.connections",),
            "transactions": ("database.transactions",),
            "active_tenants": ("tenants.active",),
            "tables": ("database.size",),
            # Last, as its answer is judged together with the tables', and it may take longest.
            "size": ("database.size", "database.growth"),
        }
        wanted = [name for name, ids in needed.items() if any(self.check(id_) for id_ in ids)]
        parameters = {"active_tenants": {"seconds": seconds}}
        yield from self.hook.read({name: self.shipped(name, parameters.get(name)) for name in wanted})

    def _judged(self, context: Context, answer: Answer, seconds: float, samples: dict[str, float]) -> Iterator[Result]:
        query = answer.query
        match answer.name:
            case "connections":
                yield from self.reported(
                    "database.connections", answer, lambda c, rows: database.connections(c, rows[0], query)
                )
            case "transactions":
                yield from self.reported(
                    "database.transactions", answer, lambda c, rows: database.transactions(c, rows, query)
                )
            case "active_tenants":
                sample = tenants_sample(seconds)
                if answer.rows:
                    samples[sample] = float(answer.rows[0][0])
                yield from self.reported(
                    "tenants.active",
                    answer,
                    lambda c, rows: database.active_tenants(
                        c, rows[0], seconds, self.previous_values(context, sample), query
                    ),
                )
            case "tables":
                self._tables = answer
            case "size":
                yield from self._sized(context, answer, samples)

    def _sized(self, context: Context, answer: Answer, samples: dict[str, float]) -> Iterator[Result]:
        query = answer.query
        if answer.rows:
            samples["database.size"] = float(answer.rows[0][1])
        tables: list[tuple[Any, ...]] | str = []
        if self.check("database.size"):
            tables = str(self._tables.error) if self._tables.error else self._tables.rows
        yield from self.reported("database.size", answer, lambda c, rows: database.size(c, rows[0], tables, query))
        yield from self.reported(
            "database.growth",
            answer,
            lambda c, rows: database.growth(
                c,
                Earlier(float(rows[0][1]), dt.datetime.now(dt.UTC)),
                self.previous_value(context, "database.size", ""),
                query,
            ),
        )


class SlowQueryCheckOperator(_PostgresCheckOperator):
    """Find statements that are new among the slow ones, or slower than at the last look.

    Reads pg_stat_statements (PostgreSQL 14 or newer, the extension created in this database, role
    ``pg_read_all_stats``). A statement's time is its mean since the last look, not since the server's reset,
    in which one bad day would drown. The snapshot is left in XCom under ``statements``: at most 200
    normalised statements without literals. The last look is the one in the history (``history_conn_id``)
    whose age is nearest to a day, so that a run by hand minutes ago hides nothing; without any, the
    statements that are slow now are reported, and that is said.

    :param slow_query_ms: mean execution time above which a statement is slow; milliseconds; default 100.
    :param min_calls: a statement with fewer calls says nothing; default 20.
    :param factor: how much slower than at the last look is slower; default 2.
    :param postgres_conn_id: Airflow connection; default ``vcci_postgres``.
    :param database: database whose statements are looked at; default: the connection's.
    """

    measures = ("database.slow_queries",)
    remembered = (STATEMENTS_KEY,)
    template_fields: Sequence[str] = ("postgres_conn_id", "database")

    def __init__(
        self, *, slow_query_ms: float = 100.0, min_calls: int = 20, factor: float = 2.0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.slow_query_ms = slow_query_ms
        self.min_calls = min_calls
        self.factor = factor

    def previous_statements(self, context: Context) -> Mapping[str, Any] | None:
        """Return the snapshot of an earlier run whose age is nearest to a day; None when there is none."""
        found = nearest_to_a_day(self.earlier(context, STATEMENTS_KEY, days=14), dt.datetime.now(dt.UTC))
        return found[1] if found else None

    def measure(self, context: Context) -> Iterator[Result]:
        """Take a snapshot, publish it, compare it."""
        sql = self.shipped("statements", {"slow_ms": self.slow_query_ms, "min_calls": self.min_calls})
        try:
            answer = self.hook.read_one(sql)
        except NoData as error:
            words = f"pg_stat_statements cannot be read ({error}): preload the library, then CREATE EXTENSION"
            raise NoData(words) from error
        before = None
        try:
            before = self.previous_statements(context)
        finally:
            # Published even when the history does not answer: the next run has something to compare with.
            taken = statements.snapshot(answer.rows, before, dt.datetime.now(dt.UTC))
            context["ti"].xcom_push(key=STATEMENTS_KEY, value=taken)
        limits = statements.Limits(self.slow_query_ms, self.min_calls, self.factor)
        for check in filter(None, [self.check("database.slow_queries")]):
            yield statements.slow_queries(check, taken, before, limits, answer.query)


class SecurityCheckOperator(_PostgresCheckOperator):
    """Look for security anomalies in the platform's audit log.

    Failed log-ins with the addresses and accounts that had most; users created as or made
    administrators; other changes of roles, permissions and API keys. Accounts are shown by their first
    letter and domain. An audit log without any entry in the window makes all three unknown.

    :param lookback: window, seconds or a duration such as ``24h``; templated; default 24 h.
    :param admin_roles: roles that make an administrator, in upper or lower case.
    :param failed_actions: actions that are failed log-ins.
    :param granting_actions: actions whose ``details`` name the role given, as ``to`` or ``role``.
    :param changing_actions: actions that change privileges.
    :param postgres_conn_id: Airflow connection; default ``vcci_postgres``.
    :param database: database with the table ``audit_log``; default: the connection's.
    """

    measures = ("security.failed_logins", "security.admins", "security.privileges")
    template_fields: Sequence[str] = ("postgres_conn_id", "database", "lookback")

    def __init__(
        self,
        *,
        lookback: float | str = 86400.0,
        admin_roles: Sequence[str] = security.ADMIN_ROLES,
        failed_actions: Sequence[str] = security.FAILED,
        granting_actions: Sequence[str] = security.GRANTING,
        changing_actions: Sequence[str] = security.CHANGING,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.lookback = lookback
        self.admin_roles = admin_roles
        self.failed_actions = failed_actions
        self.granting_actions = granting_actions
        self.changing_actions = changing_actions

    def measure(self, context: Context) -> Iterator[Result]:
        """Read the audit log in one round trip."""
        seconds = window("lookback", self.lookback)
        failed = {"seconds": seconds, "failed": list(self.failed_actions)}
        granted = {
            "seconds": seconds,
            "granting": list(self.granting_actions),
            "changing": list(self.changing_actions),
            "admin_roles": [role.lower() for role in self.admin_roles],
        }
        asked = {
            "failed_logins": self.shipped("failed_logins", failed),
            "privilege_changes": self.shipped("privilege_changes", granted),
        }
        for answer in self.hook.read(asked):
            yield from self._judged(answer, seconds)

    def _judged(self, answer: Answer, seconds: float) -> Iterator[Result]:
        query = answer.query
        if answer.name == "failed_logins":
            yield from self.reported(
                "security.failed_logins", answer, lambda c, rows: security.failed_logins(c, rows[0], seconds, query)
            )
            return
        for id_, admin in (("security.admins", True), ("security.privileges", False)):
            yield from self.reported(
                id_, answer, lambda c, rows, admin=admin: security.changes(c, rows, seconds, admin=admin, query=query)
            )


class SqlCheckOperator(_PostgresCheckOperator):
    """Judge a number that SQL gives: one check, any query.

    The query returns one number, or rows of a subject and a number, at most 100; more are *unknown*. It
    runs read-only, with a time limit. No row and NULL are *unknown*, so say ``coalesce`` where nothing means zero.

    :param check_id: id of the check, in the settings or among ``checks``.
    :param sql: the query, or the path of a .sql file; templated. Values belong into ``parameters``, not
        into the template.
    :param parameters: bound as ``%(name)s``; templated.
    :param postgres_conn_id: Airflow connection; default ``vcci_postgres``.
    :param database: database to ask; default: the connection's.
    """

    template_fields: Sequence[str] = ("postgres_conn_id", "database", "sql", "parameters")
    template_ext: Sequence[str] = (".sql",)
    template_fields_renderers: ClassVar[dict[str, str]] = {"sql": "postgresql", "parameters": "json"}

    def __init__(self, *, check_id: str, sql: str, parameters: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.measures = (check_id,)
        self.sql = sql
        self.parameters = parameters

    def measure(self, context: Context) -> Iterator[Result]:
        """Ask, and judge each row."""
        from vcci_ops.hooks.postgres import Statement

        answer = self.hook.read_few(Statement(self.sql, self.parameters), _MOST_ROWS)
        for check in filter(None, [self.check(self.measures[0])]):
            yield from database.measured(check, answer.rows, answer.query)


def tenants_sample(seconds: float) -> str:
    """Return the name that samples of active tenants in a window of so many seconds have."""
    return f"tenants.active/{seconds:g}"


def nearest_to_a_day(runs: Sequence[tuple[dt.datetime, Any]], now: dt.datetime) -> tuple[dt.datetime, Any] | None:
    """Return the run whose age is nearest to a day, as a ratio; None when there is none.

    As a ratio, for on a Monday the run of Friday says more about what changed than the one of ten
    minutes ago.
    """
    return min(runs, key=lambda run: abs(math.log(max((now - run[0]).total_seconds(), 1.0) / _DAY)), default=None)


def window(field: str, value: float | str) -> float:
    """Read a window given as seconds or as a duration such as ``24h``.

    :raises InvalidInput: when it is neither, or not positive.
    """
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parse_duration(value)
        except ValueError as error:
            raise InvalidInput(field, value, "seconds, or a duration such as 24h") from error
    if not 0 < seconds < math.inf:
        raise InvalidInput(field, value, "more than zero, and an end")
    return seconds
