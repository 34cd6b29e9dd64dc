"""What a person asks for in the release's form, read whole and strictly before anything else happens."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

from vcci_ops.domain import versions
from vcci_ops.exceptions import InvalidInput

REF_LENGTH, REASON_LENGTH, REASON_LEAST = 200, 500, 5
KEEP = "keep"
_TARGET = re.compile(r"previous|[1-9][0-9]{0,8}|v[0-9A-Za-z.-]{5,127}", re.ASCII)
_SCHEMA_REVISION = re.compile(r"[0-9A-Za-z_][0-9A-Za-z_-]{0,63}", re.ASCII)
_REF = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*", re.ASCII)


@dataclasses.dataclass(frozen=True)
class ReleaseRequest:
    """A release as it was asked for."""

    version: str
    ref: str
    workloads: tuple[str, ...]
    watch_minutes: int
    images: Literal["existing", "build"]
    migration: Literal["auto", "none"]
    dry_run: bool
    reason: str
    if_locked: Literal["refuse", "wait"]

    @classmethod
    def of(cls, params: Mapping[str, Any], known: Sequence[str]) -> ReleaseRequest:
        """Read the run's parameters.

        :param known: names of the Deployments that a release can change, in the order of the rollout.
        :raises InvalidInput: names the field, the value and what would be accepted.
        """
        version = str(versions.parse(text(params, "version", 128), "version"))
        return cls(
            version=version,
            ref=git_ref(params, "ref"),
            workloads=names(params, "workloads", known),
            watch_minutes=whole(params, "watch_minutes", 1, 1440),
            images=cast(Any, choice(params, "images", ("existing", "build"))),
            migration=cast(Any, choice(params, "migration", ("auto", "none"))),
            dry_run=flag(params, "dry_run"),
            reason=reason(params),
            if_locked=cast(Any, choice(params, "if_locked", ("refuse", "wait"))),
        )


@dataclasses.dataclass(frozen=True)
class RollbackRequest:
    """A rollback as it was asked for."""

    workloads: tuple[str, ...]
    target: str
    database: str
    watch_minutes: int
    if_locked: str
    dry_run: bool
    reason: str

    @classmethod
    def of(cls, params: Mapping[str, Any], known: Sequence[str]) -> RollbackRequest:
        """Read the run's parameters.

        :raises InvalidInput: names the field, the value and what would be accepted.
        """
        target = text(params, "target", 128)
        if not _TARGET.fullmatch(target):
            raise InvalidInput("target", target, "previous, a revision's number, or a version such as v2.0.0")
        database = text(params, "database", 64)
        if not _SCHEMA_REVISION.fullmatch(database):
            raise InvalidInput("database", database, "keep, or the exact revision to downgrade to")
        return cls(
            workloads=names(params, "workloads", known),
            target=target,
            database=database,
            watch_minutes=whole(params, "watch_minutes", 1, 1440),
            if_locked=choice(params, "if_locked", ("refuse", "wait")),
            dry_run=flag(params, "dry_run"),
            reason=reason(params),
        )


def text(params: Mapping[str, Any], field: str, most: int) -> str:
    """Return a parameter that is a text of at most so many characters."""
    value = params.get(field)
    if not isinstance(value, str) or len(value) > most:
        raise InvalidInput(field, value, f"a text of at most {most} characters")
    return value


def reason(params: Mapping[str, Any]) -> str:
    """Return the reason: a line that people will read in Slack and in the record."""
    value = text(params, "reason", REASON_LENGTH).strip()
    if len(value) < REASON_LEAST or not value.isprintable():
        raise InvalidInput("reason", value, f"one line of {REASON_LEAST} to {REASON_LENGTH} printable characters")
    return value


def git_ref(params: Mapping[str, Any], field: str) -> str:
    """Return a parameter that names a branch, a tag or a commit."""
    value = text(params, field, REF_LENGTH)
    if not _REF.fullmatch(value) or ".." in value or value.endswith(("/", ".", ".lock")) or "//" in value:
        raise InvalidInput(field, value, "a branch, a tag or a commit: ASCII letters, digits and . _ / - only")
    return value


def names(params: Mapping[str, Any], field: str, known: Sequence[str]) -> tuple[str, ...]:
    """Return a parameter that is a choice of the known names, in their order; none means all."""
    value = params.get(field)
    if value is None or value == []:
        return tuple(known)
    if not isinstance(value, list) or len(value) > len(known) or not all(isinstance(name, str) for name in value):
        raise InvalidInput(field, value, f"a list of some of {', '.join(known)}")
    for name in value:
        if name not in known:
            raise InvalidInput(field, name, f"one of {', '.join(known)}")
    return tuple(name for name in known if name in value)


def whole(params: Mapping[str, Any], field: str, least: int, most: int) -> int:
    """Return a parameter that is a whole number within limits."""
    value = params.get(field)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise InvalidInput(field, value, f"a whole number from {least} to {most}")
    return value


def choice(params: Mapping[str, Any], field: str, allowed: Sequence[str]) -> str:
    """Return a parameter that is one of a few words."""
    value = params.get(field)
    if not isinstance(value, str) or value not in allowed:
        raise InvalidInput(field, value, f"one of {', '.join(allowed)}")
    return value


def flag(params: Mapping[str, Any], field: str) -> bool:
    """Return a parameter that is yes or no."""
    value = params.get(field)
    if not isinstance(value, bool):
        raise InvalidInput(field, value, "true or false")
    return value
