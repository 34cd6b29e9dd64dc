"""The samples of watches in the history database: written as soon as they are observed, never twice."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence

from vcci_ops.domain.watch import Sample
from vcci_ops.hooks.history import History


class WatchSamples:
    """The samples of one watch.

    :param watch: ``environment/dag_id/run_id/task_id``.
    :param conn_id: PostgreSQL connection of the history database.
    """

    def __init__(self, watch: str, conn_id: str = "vcci_ops_db") -> None:
        self.watch = watch
        self.conn_id = conn_id

    def read(self) -> list[Sample]:
        """Return the samples that are stored, by number.

        :raises MeasurementError: when the database refuses or does not answer.
        """
        query = "SELECT sample FROM watch_sample WHERE watch = %s ORDER BY number"
        with History(self.conn_id).connect() as connection:
            return [Sample.from_dict(row[0]) for row in connection.execute(query, (self.watch,))]

    def store(self, samples: Sequence[Sample]) -> list[Sample]:
        """Write samples, and return what stands under their numbers then.

        Of two that have the same number (two triggerers at the same watch) the first one stays.

        :raises MeasurementError: when the database refuses or does not answer; then none is written.
        """
        with History(self.conn_id).connect() as connection, connection.cursor() as cursor:
            cursor.executemany(
                """
                INSERT INTO watch_sample (watch, number, due_at, observed_at, verdict, sample)
                VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (watch, number) DO NOTHING
                """,
                [
                    (
                        self.watch,
                        s.number,
                        _time(s.due_at),
                        _time(s.observed_at),
                        str(s.verdict),
                        json.dumps(s.to_dict()),
                    )
                    for s in samples
                ],
            )
            query = "SELECT sample FROM watch_sample WHERE watch = %s AND number = ANY(%s) ORDER BY number"
            found = cursor.execute(query, (self.watch, [sample.number for sample in samples]))
            return [Sample.from_dict(row[0]) for row in found]


def _time(seconds: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.UTC)
