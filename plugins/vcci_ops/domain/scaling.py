"""Scaling: what was asked for, what it makes of each workload, and whether the database can bear it.

Where a workload has an autoscaler, its bounds are what is moved: it would undo replicas set by hand. The number
asked for becomes its minimum. Its maximum grows where it must, and never shrinks when scaling up; scaled down, it
returns to the ``ceiling`` of the settings. For the database its maximum counts, for it may go there by itself.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

from vcci_ops.domain.release_request import choice, flag, reason
from vcci_ops.domain.workloads import Deployment, Rollout
from vcci_ops.exceptions import InvalidInput, Refused
from vcci_ops.settings_scaling import CUSTOM, ScaledWorkload, Scaling

HOLD = "vcci-ops/put-back"
"""Annotation on what is scaled until a time: ``<time> <dag_id/run_id>``; to be seen with kubectl, too."""
_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?(Z|[+-][0-9]{2}:?[0-9]{2})?"
)


def field_of(workload: str) -> str:
    """Return the name of the form's field for a workload's replicas."""
    return f"replicas_{workload.replace('-', '_')}"


@dataclasses.dataclass(frozen=True)
class ScaleRequest:
    """What a person asked for."""

    profile: str
    replicas: dict[str, int]
    until: dt.datetime | None
    reason: str
    if_locked: Literal["refuse", "wait"]
    dry_run: bool

    @classmethod
    def of(cls, params: Mapping[str, Any], scaling: Scaling, now: dt.datetime) -> ScaleRequest:
        """Read the run's parameters.

        :raises InvalidInput: names the field, the value and what would be accepted.
        """
        profile = choice(params, "profile", (*scaling.profiles, CUSTOM))
        given = _numbers(params, scaling)
        if profile == CUSTOM and not given:
            first = field_of(next(iter(scaling.workloads)))
            raise InvalidInput(first, None, f"a number for at least one workload with the profile {CUSTOM}")
        if profile != CUSTOM and given:
            name = next(iter(given))
            raise InvalidInput(field_of(name), given[name], f"nothing with the profile {profile}; choose {CUSTOM}")
        return cls(
            profile=profile,
            replicas=given or dict(scaling.profiles[profile]),
            until=moment(params.get("until"), "until", now, scaling.until_at_most),
            reason=reason(params),
            if_locked=cast(Any, choice(params, "if_locked", ("refuse", "wait"))),
            dry_run=flag(params, "dry_run"),
        )


def _numbers(params: Mapping[str, Any], scaling: Scaling) -> dict[str, int]:
    fields = {field_of(name): name for name in scaling.workloads}
    given: dict[str, int] = {}
    for field, value in params.items():
        if not field.startswith("replicas"):
            continue
        if field not in fields:
            raise InvalidInput(field, value, f"one of the fields {', '.join(fields)}")
        if value is None:
            continue
        known = scaling.workloads[fields[field]]
        if not isinstance(value, int) or isinstance(value, bool) or not known.least <= value <= known.most:
            raise InvalidInput(field, value, f"a whole number from {known.least} to {known.most}")
        given[fields[field]] = value
    return given


def moment(value: Any, field: str, now: dt.datetime, at_most: float) -> dt.datetime | None:
    """Read an end time; nothing means none.

    :param at_most: seconds it may lie ahead.
    :raises InvalidInput: when it is no time with its zone, has passed, or lies too far ahead.
    """
    if value is None or value == "":
        return None
    latest = now + dt.timedelta(seconds=at_most)
    wanted = f"a time with its zone, such as 2026-12-01T18:00:00Z, after now and not after {latest:%Y-%m-%dT%H:%MZ}"
    if not isinstance(value, str) or len(value) > 40 or not _TIME.fullmatch(value):
        raise InvalidInput(field, value, wanted)
    try:
        read = dt.datetime.fromisoformat(value)
    except ValueError:
        raise InvalidInput(field, value, wanted) from None
    if read.tzinfo is None or not now < read <= latest:
        raise InvalidInput(field, value, wanted)
    return read.astimezone(dt.UTC).replace(microsecond=0)


@dataclasses.dataclass(frozen=True)
class Size:
    """How large a workload is, or shall be."""

    replicas: int
    """Of the Deployment's specification; below an autoscaler its own business, kept to be shown."""
    least: int | None = None
    most: int | None = None
    """The autoscaler's bounds; none: there is no autoscaler."""

    @property
    def possible(self) -> int:
        """How many pods there may be without anybody's doing."""
        return self.replicas if self.most is None else max(self.most, self.replicas)

    def same(self, other: Size) -> bool:
        """Whether both ask the same of Kubernetes: the bounds, or without an autoscaler the replicas."""
        if self.most is None or other.most is None:
            return self == other
        return (self.least, self.most) == (other.least, other.most)

    def __str__(self) -> str:
        return str(self.replicas) if self.most is None else f"{self.least} to {self.most} (autoscaler)"


@dataclasses.dataclass(frozen=True)
class Hold:
    """Somebody's run will put a workload back at a time."""

    until: dt.datetime
    source: str

    @classmethod
    def read(cls, annotations: Mapping[str, str] | None) -> Hold | None:
        """Read it off an object's annotations; what cannot be read is none."""
        time, _, source = ((annotations or {}).get(HOLD) or "").partition(" ")
        if not _TIME.fullmatch(time) or not source:
            return None
        until = dt.datetime.fromisoformat(time)
        return cls(until, source) if until.tzinfo else None

    def __str__(self) -> str:
        return f"{self.until:%Y-%m-%dT%H:%M:%SZ} {self.source}"


@dataclasses.dataclass(frozen=True)
class Standing:
    """A workload as it is."""

    name: str
    size: Size
    available: int
    autoscaler: str = ""
    """Name of its autoscaler; "" when it has none."""
    wants: int | None = None
    """Replicas the autoscaler wants now."""
    hold: Hold | None = None
    obstacle: str = ""
    """Why it must not be touched now."""
    version: str = ""
    """resourceVersion of what has to be patched: the autoscaler, or without one the Deployment."""

    def __str__(self) -> str:
        said = f"{self.name}: {self.size}, {self.available} of {self.size.replicas} replicas available"
        return f"{said}, the autoscaler wants {self.wants}" if self.wants is not None else said


def obstacle(deployment: Deployment) -> str:
    """Say why a Deployment must not be scaled or restarted now; "" when it may.

    A rollout under way, also a paused or stuck one, is in the way. Pods that are missing are not: more of them may be
    the very reason to scale. A Deployment that is paused while nothing of it is new or old can be scaled.
    """
    if deployment.rollout is Rollout.UNSEEN:
        return "the controller has not seen its newest specification yet"
    scaling_only = deployment.replicas <= deployment.updated and deployment.progress in ("", "NewReplicaSetAvailable")
    if deployment.rollout in (Rollout.COMPLETE, Rollout.DEGRADED) or scaling_only:
        return ""
    words = {Rollout.PAUSED: "a rollout is paused half-way", Rollout.STUCK: "a rollout is stuck half-way"}
    return f"{words.get(deployment.rollout, 'a rollout is under way')} ({deployment.summary()})"


def resized(now: Standing, replicas: int, known: ScaledWorkload) -> Size:
    """Return what a workload shall be.

    :raises Refused: when its autoscaler cannot do that.
    """
    if now.size.most is None or now.size.least is None:
        return Size(replicas)
    if replicas == 0 or now.size.replicas == 0:
        raise Refused(
            f"{now.name} has {now.size.replicas} replicas and the autoscaler {now.autoscaler}, which does not work with"
            " none: its minimum is 1, and a Deployment with 0 replicas is left alone by it. Nothing was changed."
        )
    if replicas >= now.size.least:
        return Size(now.size.replicas, replicas, max(now.size.most, replicas, known.ceiling or 0))
    return Size(now.size.replicas, replicas, max(replicas, known.ceiling or now.size.most))


@dataclasses.dataclass(frozen=True)
class Server:
    """What PostgreSQL says of its connections."""

    maximum: int
    reserved: int
    ours: int
    """Sessions of the workloads' roles."""
    others: int


@dataclasses.dataclass(frozen=True)
class Part:
    """A workload's share of the connections."""

    name: str
    pool: int
    before: int
    after: int
    """Pods there may be."""
    raised: bool = False
    """Whether more of them are asked for: the replicas, or one of the autoscaler's bounds."""


@dataclasses.dataclass(frozen=True)
class Budget:
    """Whether the database can bear it: Σ replicas x pool <= max_connections - reserve - other clients."""

    server: Server
    reserve: int
    parts: tuple[Part, ...]
    excess: int = 0
    """Sessions of the workloads' roles beyond what their present pods can hold: pools are larger than the settings say,
    or somebody else uses the role."""

    @property
    def needed(self) -> int:
        """Connections there may be afterwards."""
        return sum(part.pool * part.after for part in self.parts)

    @property
    def free(self) -> int:
        """Connections the workloads may have together."""
        return self.server.maximum - self.server.reserved - self.reserve - self.server.others - self.excess

    @property
    def fits(self) -> bool:
        """Whether it is enough."""
        return self.needed <= self.free

    def arithmetic(self) -> str:
        """Show the sum with all its numbers."""
        terms = " + ".join(f"{part.name} {part.after} x {part.pool}" for part in self.parts if part.pool)
        over = f" - {self.excess} sessions beyond the pools" if self.excess else ""
        return (
            f"{terms or 'no connections'} = {self.needed} {'<=' if self.fits else '>'} {self.free} = "
            f"max_connections {self.server.maximum} - {self.server.reserved} of PostgreSQL - reserve {self.reserve}"
            f" - {self.server.others} of other clients{over}"
        )

    def fitting(self) -> str:
        """Say, for each workload that grows, what would fit if the others stay as asked for."""
        said = []
        for part in self.parts:
            if part.pool and part.raised:
                most = max((self.free - self.needed + part.pool * part.after) // part.pool, 0)
                below = f" (there may be {part.before} already)" if most < part.before else ""
                said.append(f"{part.name} up to {most}{below}")
        return "; or ".join(said)

    def require(self) -> None:
        """Pass when it fits, or when no more is asked for than before: scaling down must work when all is full.

        :raises Refused: otherwise; with the numbers, and what would fit.
        """
        if grows(self.parts) and not self.fits:
            raise Refused(
                f"the database has not enough connections: {self.arithmetic()}. With the rest as asked for, this would"
                f" fit: {self.fitting()}. An autoscaler counts with its maximum. Nothing was changed."
            )


def shares(scaling: Scaling, standings: Sequence[Standing], after: Mapping[str, Size]) -> tuple[Part, ...]:
    """Return what each workload takes of the connections.

    :param standings: all workloads of the settings, as they are.
    :param after: those that change, as they shall be.
    """
    return tuple(_part(s, scaling.workloads[s.name].pool_size, after.get(s.name, s.size)) for s in standings)


def budget(server: Server, scaling: Scaling, standings: Sequence[Standing], parts: tuple[Part, ...]) -> Budget:
    """Reckon whether the database has that many."""
    possible_now = sum(part.pool * max(s.size.replicas, s.available) for part, s in zip(parts, standings, strict=True))
    return Budget(server, scaling.reserve, parts, max(server.ours - possible_now, 0))


def grows(parts: Sequence[Part]) -> bool:
    """Whether more is asked for than before, of something that takes connections."""
    return any(part.raised and part.pool for part in parts)


def _part(now: Standing, pool: int, after: Size) -> Part:
    raised = after.possible > now.size.possible or (after.least or 0) > (now.size.least or 0)
    return Part(now.name, pool, now.size.possible, after.possible, raised)


@dataclasses.dataclass(frozen=True)
class Change:
    """What is done to one workload."""

    name: str
    autoscaler: str
    before: Size
    after: Size

    @property
    def nothing(self) -> bool:
        """Whether it is so already."""
        return self.before.same(self.after)

    def __str__(self) -> str:
        if self.nothing:
            return f"{self.name}: {self.before}, as it shall be"
        return f"{self.name}: {self.before} → {self.after}"

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Change:
        """Read it from JSON."""
        return cls(data["name"], data["autoscaler"], Size(**data["before"]), Size(**data["after"]))


def warnings(standings: Sequence[Standing], after: Mapping[str, Size], source: str) -> list[str]:
    """Return what a person should read before it begins."""
    said = []
    for now in standings:
        size = after.get(now.name)
        if size is None:
            continue
        if size.most is not None and now.wants is not None and now.wants > size.most:
            said.append(f"{now.name}: its autoscaler wants {now.wants} now, the new maximum {size.most} cuts it")
        if now.hold and now.hold.source != source:
            ends = "puts it back" if now.size.same(size) else "finds it changed and leaves it alone"
            said.append(f"{now.name}: at {now.hold.until:%Y-%m-%d %H:%M} UTC {now.hold.source} {ends}")
        if now.available < now.size.replicas:
            said.append(f"{now.name}: only {now.available} of {now.size.replicas} replicas are available now")
    return said


@dataclasses.dataclass(frozen=True)
class ScalePlan:
    """What a run will do; kept before the first change, so that what was there before is known for good."""

    profile: str
    reason: str
    requested_by: str
    until: dt.datetime | None
    dry_run: bool
    changes: tuple[Change, ...]
    notes: tuple[str, ...]
    """What a person should read before it begins: the arithmetic, holds, warnings."""

    @property
    def nothing(self) -> bool:
        """Whether all is as it shall be."""
        return all(change.nothing for change in self.changes)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            **dataclasses.asdict(self),
            "until": self.until.isoformat() if self.until else None,
            "changes": [dataclasses.asdict(change) for change in self.changes],
            "notes": list(self.notes),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ScalePlan:
        """Read it from JSON."""
        until = dt.datetime.fromisoformat(data["until"]) if data["until"] else None
        changes = tuple(Change.from_dict(change) for change in data["changes"])
        return cls(**{**data, "until": until, "changes": changes, "notes": tuple(data["notes"])})


def require_possible(standings: Sequence[Standing], request: ScaleRequest, source: str, now: dt.datetime) -> None:
    """Pass when none of the workloads is in the middle of something.

    :raises Refused: when a rollout is under way, or an end time would meet another run's.
    """
    for standing in standings:
        if standing.obstacle:
            raise Refused(f"{standing.name}: {standing.obstacle}; scale when it has ended. Nothing was changed.")
        hold = standing.hold
        if request.until and hold and hold.until > now and hold.source != source:
            raise Refused(
                f"{standing.name} is put back at {hold.until:%Y-%m-%d %H:%M} UTC by {hold.source}; a second end time"
                " on top of it would bring back the wrong size. Wait for it, or scale without an end time: that run"
                " then leaves alone what this one has set. Nothing was changed."
            )


def require_as_planned(now: Standing, change: Change) -> None:
    """Pass when a workload is as before, or already as it shall be.

    :raises Refused: when somebody else changed it, its autoscaler came or went, or a rollout is under way.
    """
    if now.autoscaler != change.autoscaler:
        raise Refused(
            f"{change.name}: the plan was made with {_named(change.autoscaler)}, now there is"
            f" {_named(now.autoscaler)}; it was left alone"
        )
    if not now.size.same(change.before) and not now.size.same(change.after):
        raise Refused(f"{change.name}: somebody else made it {now.size}; the plan began at {change.before}; left alone")
    if now.obstacle:
        raise Refused(f"{change.name}: {now.obstacle}; it was left alone")


def _named(autoscaler: str) -> str:
    return f"the autoscaler {autoscaler}" if autoscaler else "no autoscaler"


def missing(deployment: Deployment, wanted: Size) -> str:
    """Say what a Deployment still lacks to be this large; "" when it is.

    With an autoscaler it has to be within its bounds: what lies between them is the autoscaler's business.

    :raises Refused: when somebody else has set other replicas meanwhile.
    """
    least, most = wanted.least or 0, wanted.most
    if most is None:
        least = most = wanted.replicas
        if deployment.desired != wanted.replicas:
            raise Refused(f"{deployment.name}: somebody else set {deployment.desired} replicas, not {wanted.replicas}")
    if deployment.observed < deployment.generation:
        return f"{deployment.name}: the controller has not seen it yet"
    if not least <= deployment.desired <= most:
        return f"{deployment.name}: the autoscaler has not moved it from {deployment.desired} to {wanted} yet"
    if deployment.available < least or deployment.replicas > most:
        return f"{deployment.name}: {deployment.summary()}"
    return ""


def table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Set rows in columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
