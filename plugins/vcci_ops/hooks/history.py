"""The history database: what every run reported, so that the next one can say what changed."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vcci_ops.domain.report import Point, Report
from vcci_ops.domain.results import Result, Status
from vcci_ops.exceptions import MeasurementError, Unreachable
from vcci_ops.hooks.lookups import remembered

if TYPE_CHECKING:
    from psycopg import Connection

    from vcci_ops.domain.access_report import AccessReport
    from vcci_ops.domain.drill_report import DrillReport
    from vcci_ops.domain.maintenance_report import MaintenanceReport
    from vcci_ops.domain.release_report import ReleaseReport

MIGRATIONS = Path(__file__).resolve().parents[1] / "migrations"


def upgrade(revision: str = "head", conn_id: str = "vcci_ops_db") -> None:
    """Migrate the history database; safe to run at every start and by several at once."""
    from airflow.providers.postgres.hooks.postgres import PostgresHook
    from alembic import command
    from alembic.config import Config
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    engine = create_engine(PostgresHook(conn_id).sqlalchemy_url, poolclass=NullPool)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


class History:
    """Read and write the history.

    :param conn_id: PostgreSQL connection of the history database.
    """

    def __init__(self, conn_id: str = "vcci_ops_db") -> None:
        self.conn_id = conn_id

    @contextmanager
    def connect(self) -> Iterator[Connection[Any]]:
        """Yield a connection whose transaction is committed when the block ends well.

        :raises MeasurementError: when the database is missing, not migrated, or refuses.
        :raises Unreachable: when it does not answer.
        """
        import psycopg
        from airflow.providers.postgres.hooks.postgres import PostgresHook
        from airflow.sdk.exceptions import AirflowNotFoundException

        try:
            hook = remembered(PostgresHook)(self.conn_id, options="-c statement_timeout=10s -c lock_timeout=5s")
            with hook.get_conn() as connection:
                yield connection
        except AirflowNotFoundException as error:
            raise MeasurementError(f"there is no Airflow connection {self.conn_id}") from error
        except psycopg.errors.UndefinedTable as error:
            what = "The history database has not been migrated: run python -m vcci_ops.migrations"
            raise MeasurementError(what) from error
        except psycopg.OperationalError as error:
            raise Unreachable("The history database", type(error).__name__) from error
        except psycopg.Error as error:
            raise MeasurementError(f"The history database refused: {type(error).__name__}") from error

    def record(
        self,
        report: Report | ReleaseReport | AccessReport | DrillReport | MaintenanceReport,
        snapshots: Mapping[str, Any],
    ) -> None:
        """Write a run with its results and snapshots; writing it again replaces it.

        :raises Unreachable: when the database does not answer.
        """
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute(
                """
                INSERT INTO run (dag_id, run_id, environment, started_at, finished_at, status, parameters, report)
                VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
                ON CONFLICT (environment, dag_id, run_id) DO UPDATE SET finished_at = excluded.finished_at,
                    status = excluded.status, parameters = excluded.parameters, report = excluded.report
                RETURNING id
                """,
                (
                    report.dag_id,
                    report.run_id,
                    report.environment,
                    report.started_at,
                    report.finished_at,
                    str(report.status),
                    json.dumps(report.parameters),
                    json.dumps(report.to_dict()),
                ),
            )
            (run,) = cursor.fetchone() or (None,)
            cursor.execute("DELETE FROM result WHERE run = %s", (run,))
            cursor.execute("DELETE FROM snapshot WHERE run = %s", (run,))
            cursor.executemany(
                """
                INSERT INTO result (run, check_id, subject, status, value, unit, observed_at, result)
                VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
                ON CONFLICT (run, check_id, subject) DO NOTHING
                """,
                [_row(run, result) for result in report.results],
            )
            cursor.executemany(
                "INSERT INTO snapshot (run, kind, payload) VALUES (%s, %s, %s)",
                [(run, kind, json.dumps(payload)) for kind, payload in snapshots.items()],
            )

    def previous(self, run: Report) -> tuple[dt.datetime, list[Result]] | None:
        """Return start and results of the run to compare with, or None when there is none.

        Like with like: the last run before it that looked at the same sections, and for a scheduled run
        the last scheduled one, so that a run by hand at 08:55 does not hide what changed since yesterday.
        A run that is repeated is not its own past.
        """
        from psycopg.types.json import Jsonb

        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute(
                """
                SELECT run.started_at, result.result FROM result JOIN run ON run.id = result.run
                WHERE run.id = (
                    SELECT id FROM run
                    WHERE dag_id = %(dag)s AND environment = %(environment)s AND started_at < %(before)s
                      AND run_id <> %(run)s AND coalesce(report -> 'left_out', '[]') = %(left_out)s
                    ORDER BY %(scheduled)s AND starts_with(run_id, 'scheduled__') DESC, started_at DESC LIMIT 1)
                ORDER BY check_id, subject
                """,
                {
                    "dag": run.dag_id,
                    "environment": run.environment,
                    "before": run.started_at,
                    "run": run.run_id,
                    "left_out": Jsonb(list(run.left_out)),
                    "scheduled": run.run_id.startswith("scheduled__"),
                },
            )
            rows = cursor.fetchall()
        return (rows[0][0], [Result.from_dict(row[1]) for row in rows]) if rows else None

    def series(self, run: Report, *, days: int = 30) -> dict[tuple[str, str], list[Point]]:
        """Return value and status of every check and subject in the days before a run, oldest first."""
        found: dict[tuple[str, str], list[Point]] = {}
        since = run.started_at - dt.timedelta(days=days)
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute(
                """
                SELECT check_id, subject, run.started_at, result.value, result.status
                FROM result JOIN run ON run.id = result.run
                WHERE dag_id = %s AND environment = %s AND started_at < %s AND started_at >= %s AND run_id <> %s
                ORDER BY run.started_at
                """,
                (run.dag_id, run.environment, run.started_at, since, run.run_id),
            )
            for check, subject, at, value, status in cursor:
                found.setdefault((check, subject), []).append(Point(at=at, value=value, status=Status(status)))
        return found

    def snapshots(
        self, environment: str, kind: str, before: dt.datetime, *, days: float, besides: str = ""
    ) -> list[tuple[dt.datetime, Any]]:
        """Return time and payload of the snapshots of a kind in the days before a time, newest first.

        :param besides: run_id to pass over; when it is a scheduled run's, only scheduled runs are looked at.
        """
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute(
                """
                SELECT run.started_at, payload FROM snapshot JOIN run ON run.id = snapshot.run
                WHERE kind = %s AND environment = %s AND started_at < %s AND started_at >= %s AND run_id <> %s
                  AND (starts_with(run_id, 'scheduled__') OR NOT starts_with(%s, 'scheduled__'))
                ORDER BY started_at DESC LIMIT 200
                """,
                (kind, environment, before, before - dt.timedelta(days=days), besides, besides),
            )
            return [(at, payload) for at, payload in cursor]

    def record_delivery(self, environment: str, dag_id: str, run_id: str, channel: str, reference: str) -> None:
        """Note that a report arrived."""
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute(
                """
                INSERT INTO delivery (environment, dag_id, run_id, channel, at, reference)
                VALUES (%s, %s, %s, %s, now(), %s) ON CONFLICT (environment, dag_id, run_id, channel)
                DO UPDATE SET at = now(), reference = excluded.reference
                """,
                (environment, dag_id, run_id, channel, reference),
            )

    def deliveries(self, environment: str, dag_id: str, run_id: str) -> dict[str, str]:
        """Return where a run's report arrived: channel → reference."""
        query = "SELECT channel, reference FROM delivery WHERE environment = %s AND dag_id = %s AND run_id = %s"
        with self.connect() as connection, connection.cursor() as cursor:
            return dict(cursor.execute(query, (environment, dag_id, run_id)).fetchall())

    def report(self, environment: str, dag_id: str, run_id: str) -> dict[str, Any] | None:
        """Return the report of a run as JSON, or None."""
        query = "SELECT report FROM run WHERE environment = %s AND dag_id = %s AND run_id = %s"
        with self.connect() as connection, connection.cursor() as cursor:
            row: Iterable[Any] | None = cursor.execute(query, (environment, dag_id, run_id)).fetchone()
        return next(iter(row)) if row else None


def _row(run: Any, result: Result) -> tuple[Any, ...]:
    return (
        run,
        result.check,
        result.subject,
        str(result.status),
        result.value,
        result.unit,
        result.observed_at,
        json.dumps(result.to_dict()),
    )
