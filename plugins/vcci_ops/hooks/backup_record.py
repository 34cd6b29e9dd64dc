"""Backups in the history: which run makes which, how far it is, what it turned out to be."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from collections.abc import Mapping
from typing import Any

from vcci_ops.exceptions import Refused
from vcci_ops.hooks.history import History

RUNNING, MADE, FAILED, DELETING, DELETED = "running", "made", "failed", "deleting", "deleted"
_COLUMNS = "key, source, state, taken_at, verified_at, restored_at, bytes, sha256, detail"


@dataclasses.dataclass(frozen=True)
class Recorded:
    """A backup as the history has it.

    :param source: ``dag_id/run_id`` that made it.
    :param taken_at: of its snapshot; before there is one, when it was begun.
    :param bytes: of the dump; None: it has not come to its end.
    """

    key: str
    source: str
    state: str
    taken_at: dt.datetime
    verified_at: dt.datetime | None
    restored_at: dt.datetime | None
    bytes: int | None
    sha256: str | None
    detail: Mapping[str, Any]

    @property
    def dumped(self) -> bool:
        """Whether its dump has come to its end."""
        return bool(self.bytes and self.sha256)


@dataclasses.dataclass(frozen=True)
class BackupRecord:
    """The backups of an environment."""

    environment: str
    conn_id: str = "vcci_ops_db"

    def of_run(self, source: str) -> Recorded | None:
        """Return the backup that a run makes or has made; the newest, when it gave up earlier ones."""
        found = self._where(
            "source = %s AND state IN ('running', 'failed', 'made') AND NOT detail ? 'given_up'", source
        )
        return max(found, key=lambda one: one.taken_at, default=None)

    def begin(self, key: str, source: str, at: dt.datetime) -> None:
        """Record that a run is about to make a backup.

        :raises Refused: when another run has one of this key.
        """
        with History(self.conn_id).connect() as connection:
            row = connection.execute(
                "INSERT INTO backup (environment, key, source, state, taken_at) VALUES (%s, %s, %s, 'running', %s) "
                "ON CONFLICT (environment, key) DO UPDATE SET taken_at = excluded.taken_at, state = 'running', "
                "bytes = NULL, sha256 = NULL, detail = '{}' "
                "WHERE backup.source = excluded.source AND backup.state <> 'made' RETURNING key",
                (self.environment, key, source, at),
            ).fetchone()
        if row is None:
            raise Refused(f"another run has made or is making {key}; nothing was changed. Try again in a minute")

    def dumped(self, key: str, taken_at: dt.datetime, size: int, sha256: str, detail: Mapping[str, Any]) -> None:
        """Record that the dump is stored; it still has to be read back."""
        self._update(
            "taken_at = %s, bytes = %s, sha256 = %s, detail = %s", key, taken_at, size, sha256, json.dumps(detail)
        )

    def note(self, key: str, detail: Mapping[str, Any]) -> None:
        """Keep something with a backup; of two of a name the later one stays."""
        self._update("detail = detail || %s::jsonb", key, json.dumps(detail))

    def made(self, key: str, detail: Mapping[str, Any]) -> None:
        """Record that the backup was read back and its manifest written: from now on it counts."""
        self._update(
            "state = 'made', verified_at = now(), detail = (detail - 'manifest' - 'why') || %s::jsonb",
            key,
            json.dumps(detail),
        )

    def failed(self, key: str, why: str, *, given_up: bool = False) -> None:
        """Record that no backup came of it, unless one did; a run that is cleared may still finish it.

        :param given_up: whether nobody is to finish it: the run has begun another one.
        """
        detail = {"why": why} | ({"given_up": True} if given_up else {})
        self._update("state = 'failed', detail = detail || %s::jsonb", key, json.dumps(detail), unless=MADE)

    def deleting(self, key: str, taken_at: dt.datetime, source: str, why: str) -> None:
        """Record that a backup is about to be deleted, and why; also one that vcci-ops did not make."""
        with History(self.conn_id).connect() as connection:
            connection.execute(
                "INSERT INTO backup (environment, key, source, state, taken_at, detail) "
                "VALUES (%s, %s, %s, 'deleting', %s, %s) ON CONFLICT (environment, key) "
                "DO UPDATE SET state = 'deleting', detail = backup.detail || excluded.detail",
                (self.environment, key, source, taken_at, json.dumps({"deleted_by": source, "deleted_because": why})),
            )

    def deleted(self, key: str) -> None:
        """Record that a backup is gone."""
        self._update("state = 'deleted', detail = detail || jsonb_build_object('deleted_at', now())", key)

    def known(self) -> dict[str, Recorded]:
        """Return every backup that is not deleted, by key."""
        return {one.key: one for one in self._where("state <> %s", DELETED)}

    def tombstones(self) -> list[str]:
        """Return the ids of tenants that were deleted and must stay so."""
        query = "SELECT tenant_id FROM tombstone WHERE environment = %s ORDER BY tenant_id"
        with History(self.conn_id).connect() as connection:
            return [str(row[0]) for row in connection.execute(query, (self.environment,))]

    def _where(self, condition: str, *values: object) -> list[Recorded]:
        query = f"SELECT {_COLUMNS} FROM backup WHERE environment = %s AND {condition}"  # noqa: S608 - fixed text
        with History(self.conn_id).connect() as connection:
            rows = connection.execute(query, (self.environment, *values)).fetchall()
        return [Recorded(*row) for row in rows]

    def _update(self, changes: str, key: str, *values: object, unless: str = "") -> None:
        query = f"UPDATE backup SET {changes} WHERE environment = %s AND key = %s AND state <> %s"  # noqa: S608 - fixed text
        with History(self.conn_id).connect() as connection:
            connection.execute(query, (*values, self.environment, key, unless))
