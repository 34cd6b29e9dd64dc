"""Access reviews in the history database: lists, decisions, and what was changed because of them."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vcci_ops.domain.access import Line, items_hash
from vcci_ops.domain.access_people import Past
from vcci_ops.exceptions import NoData, Refused
from vcci_ops.hooks.access_changes import INACTIVE, Changed
from vcci_ops.hooks.history import History

OPEN, APPROVED, REJECTED, UNFINISHED, FINISHED, DRY_RUN = (
    "open",
    "approved",
    "rejected",
    "unfinished",
    "done",
    "dry-run",
)
"""States of a review."""


@dataclasses.dataclass(frozen=True)
class Review:
    """A review as it is recorded.

    :param decisions: option, excepted, comment, by, at; empty until somebody has answered.
    :param detail: admins, previous, outcomes (user id → what became of it) and so on.
    """

    review_id: str
    state: str
    made_at: dt.datetime
    items_hash: str
    lines: tuple[Line, ...]
    decisions: Mapping[str, Any]
    reviewed_by: str
    reviewed_at: dt.datetime | None
    detail: Mapping[str, Any]

    def require_intact(self) -> None:
        """Pass when the list is the one that its hash was taken of.

        :raises Refused: when somebody has changed it.
        """
        if items_hash(self.lines) != self.items_hash:
            raise Refused("the list is not the one that was made: its hash differs. Nothing was changed")


@dataclasses.dataclass(frozen=True)
class Change:
    """A user whom a review has deactivated."""

    user_id: str
    tenant_id: str
    before: str
    reverted_at: dt.datetime | None


@dataclasses.dataclass(frozen=True)
class Reviews:
    """The access reviews of an environment."""

    environment: str
    conn_id: str = "vcci_ops_db"

    def begin(self, review_id: str, state: str, lines: Sequence[Line], detail: Mapping[str, Any]) -> Review:
        """Record the list; made again before anybody has answered, it replaces the earlier one.

        :returns: what stands there: this list, or the one that somebody has answered already.
        """
        with History(self.conn_id).connect() as connection:
            connection.execute(
                "INSERT INTO access_review (id, environment, state, items_hash, items, detail) "
                "VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (id) DO UPDATE SET made_at = now(), "
                "state = excluded.state, items_hash = excluded.items_hash, items = excluded.items, "
                "detail = excluded.detail, ended_at = NULL WHERE access_review.reviewed_at IS NULL",
                (
                    review_id,
                    self.environment,
                    state,
                    items_hash(lines),
                    json.dumps([line.to_dict() for line in lines]),
                    json.dumps(detail),
                ),
            )
        return self.get(review_id)

    def get(self, review_id: str) -> Review:
        """Return a review.

        :raises NoData: when there is none of this id.
        """
        query = (
            "SELECT id, state, made_at, items_hash, items, decisions, coalesce(reviewed_by, ''), reviewed_at, detail "
            "FROM access_review WHERE id = %s AND environment = %s"
        )
        with History(self.conn_id).connect() as connection:
            row = connection.execute(query, (review_id, self.environment)).fetchone()
        if row is None:
            raise NoData(f"there is no access review {review_id} in {self.environment}")
        names = [field.name for field in dataclasses.fields(Review)]
        return Review(**{**dict(zip(names, row, strict=True)), "lines": tuple(map(Line.from_dict, row[4]))})

    def decide(self, review_id: str, digest: str, state: str, decision: Mapping[str, Any]) -> None:
        """Record what the reviewer decided about a list.

        :param digest: hash of the list that was shown.
        :param state: approved or rejected.
        :raises Refused: when the list is another one by now, or the review is done.
        """
        with History(self.conn_id).connect() as connection:
            changed = connection.execute(
                "UPDATE access_review SET state = %s, decisions = %s, reviewed_by = %s, reviewed_at = %s "
                "WHERE id = %s AND environment = %s AND items_hash = %s AND state <> %s",
                (
                    state,
                    json.dumps(decision),
                    decision["by"],
                    decision["at"],
                    review_id,
                    self.environment,
                    digest,
                    FINISHED,
                ),
            ).rowcount
        if not changed:
            raise Refused("the list is not the one that was shown, or the review is done already")

    def end(self, review_id: str, state: str, detail: Mapping[str, Any]) -> None:
        """Record how it ended."""
        with History(self.conn_id).connect() as connection:
            connection.execute(
                "UPDATE access_review SET state = %s, ended_at = now(), detail = detail || %s::jsonb "
                "WHERE id = %s AND environment = %s",
                (state, json.dumps(detail), review_id, self.environment),
            )

    def changed(self, review_id: str, changed: Iterable[Changed]) -> None:
        """Record what became of users: for good before and after, and of each the outcome."""
        done = list(changed)
        outcomes = json.dumps({change.user_id: change.outcome for change in done})
        with History(self.conn_id).connect() as connection:
            for change in done:
                if change.before:
                    connection.execute(
                        "INSERT INTO access_change (review_id, user_id, tenant_id, before, after) "
                        "VALUES (%s, %s, %s, %s, %s) ON CONFLICT (review_id, user_id) DO NOTHING",
                        (review_id, change.user_id, change.tenant_id, change.before, INACTIVE),
                    )
            connection.execute(
                "UPDATE access_review SET detail = jsonb_set(detail, '{outcomes}', "
                "coalesce(detail -> 'outcomes', '{}') || %s::jsonb) WHERE id = %s AND environment = %s",
                (outcomes, review_id, self.environment),
            )

    def changes(self, review_id: str) -> list[Change]:
        """Return the users whom a review has deactivated."""
        query = (
            "SELECT c.user_id, c.tenant_id, c.before, c.reverted_at FROM access_change AS c "
            "JOIN access_review AS r ON r.id = c.review_id WHERE r.id = %s AND r.environment = %s ORDER BY c.user_id"
        )
        with History(self.conn_id).connect() as connection:
            return [Change(*row) for row in connection.execute(query, (review_id, self.environment)).fetchall()]

    def reverted(self, review_id: str, users: Iterable[str]) -> None:
        """Record that users were put back; when is told once."""
        with History(self.conn_id).connect() as connection:
            connection.execute(
                "UPDATE access_change SET reverted_at = now() "
                "WHERE review_id = %s AND user_id = ANY (%s) AND reverted_at IS NULL",
                (review_id, list(users)),
            )

    def past(self, review_id: str) -> Past | None:
        """Return the last review before this one that was done and knew the administrators; None: there is none."""
        query = (
            "SELECT id, made_at, detail -> 'admins', items FROM access_review WHERE environment = %s AND state = %s "
            "AND id <> %s AND jsonb_typeof(detail -> 'admins') = 'array' ORDER BY made_at DESC LIMIT 1"
        )
        with History(self.conn_id).connect() as connection:
            row = connection.execute(query, (self.environment, FINISHED, review_id)).fetchone()
        if row is None:
            return None
        return Past(row[0], row[1], frozenset(row[2]), frozenset(item["key"] for item in row[3]))
