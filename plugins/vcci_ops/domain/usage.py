"""Nodes and their load, pods and their memory limits.

Quantities (``250m``, ``64Mi``) arrive here as numbers: cores and bytes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from vcci_ops.domain.pods import epoch
from vcci_ops.domain.units import humanize

Quantity = Callable[[Any], float]
"""Reads a Kubernetes quantity as cores or bytes."""

PRESSURES = ("MemoryPressure", "DiskPressure", "PIDPressure", "NetworkUnavailable")
SETTLED_AFTER = 300.0
"""Seconds after which a node that is there, or a pod that is ready, must have metrics; first samples take time."""


@dataclasses.dataclass(frozen=True, slots=True)
class Amounts:
    """CPU in cores, memory in bytes."""

    cpu: float
    memory: float

    @classmethod
    def from_json(cls, data: Mapping[str, Any], quantity: Quantity) -> Amounts:
        """Read a ResourceList of the API."""
        return cls(quantity(data.get("cpu") or 0), quantity(data.get("memory") or 0))


@dataclasses.dataclass(frozen=True, slots=True)
class Node:
    """A node's status."""

    name: str
    created: float
    ready: bool
    why: str
    """Reason and message of a Ready condition that is not true."""
    pressures: tuple[str, ...]
    cordoned: bool
    allocatable: Amounts

    @classmethod
    def from_json(cls, data: Mapping[str, Any], quantity: Quantity) -> Node:
        """Read a Node of the API."""
        status = data.get("status") or {}
        conditions = {c["type"]: c for c in status.get("conditions") or ()}
        ready = conditions.get("Ready") or {"reason": "no Ready condition"}
        why = ": ".join(part for part in (ready.get("reason"), ready.get("message")) if part)
        return cls(
            name=data["metadata"]["name"],
            created=epoch(data["metadata"].get("creationTimestamp")) or 0.0,
            ready=ready.get("status") == "True",
            why=why,
            pressures=tuple(p for p in PRESSURES if (conditions.get(p) or {}).get("status") == "True"),
            cordoned=bool((data.get("spec") or {}).get("unschedulable")),
            allocatable=Amounts.from_json(status.get("allocatable") or {}, quantity),
        )

    @property
    def trouble(self) -> str:
        """What is wrong with it; "" when nothing is."""
        parts = [] if self.ready else [f"not ready ({self.why})"]
        return ", ".join([*parts, *self.pressures])


@dataclasses.dataclass(frozen=True, slots=True)
class PodLimits:
    """The memory limits of a pod that runs."""

    name: str
    ready_since: float | None
    """None when it is not ready: it need not have metrics then."""
    limits: Mapping[str, float]
    """Container → limit in bytes; containers without one are left out."""
    unlimited: tuple[str, ...]

    @classmethod
    def from_json(cls, data: Mapping[str, Any], quantity: Quantity) -> PodLimits | None:
        """Read a Pod of the API; None when it is not running."""
        status = data.get("status") or {}
        if status.get("phase") != "Running" or data["metadata"].get("deletionTimestamp"):
            return None
        conditions = {c["type"]: c for c in status.get("conditions") or ()}
        ready = conditions.get("Ready") or {}
        limits = {
            c["name"]: ((c.get("resources") or {}).get("limits") or {}).get("memory")
            for c in data["spec"].get("containers") or ()
        }
        return cls(
            name=data["metadata"]["name"],
            ready_since=epoch(ready.get("lastTransitionTime")) if ready.get("status") == "True" else None,
            limits={name: quantity(limit) for name, limit in limits.items() if limit},
            unlimited=tuple(name for name, limit in limits.items() if not limit),
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Share:
    """How much of what it may use something uses."""

    name: str
    what: str
    used: float
    of: float

    @property
    def percent(self) -> float:
        """Used, in percent of what there is."""
        return 100.0 * self.used / self.of

    def __str__(self) -> str:
        """Say it in one line, as the report shows it."""
        unit = "cores" if self.what == "CPU" else "bytes"
        amounts = f"{humanize(self.used, unit)} of {humanize(self.of, unit)}"
        return f"{self.name}: {self.what} {self.percent:.0f} % ({amounts})"


@dataclasses.dataclass(frozen=True, slots=True)
class Load:
    """Shares, highest first, and what could not be measured."""

    shares: tuple[Share, ...]
    missing: tuple[str, ...]
    """Names without metrics that should have some."""
    unlimited: int = 0
    """Containers without a memory limit."""


def node_load(nodes: Iterable[Node], used: Mapping[str, Amounts], *, now: float) -> Load:
    """Compare the nodes' use with what they can give to pods (allocatable)."""
    shares, missing = [], []
    for node in nodes:
        amounts = used.get(node.name)
        if amounts is None:
            if node.ready and now - node.created > SETTLED_AFTER:
                missing.append(node.name)
            continue
        for what, have, there in (
            ("CPU", amounts.cpu, node.allocatable.cpu),
            ("memory", amounts.memory, node.allocatable.memory),
        ):
            if there > 0:
                shares.append(Share(node.name, what, have, there))
    return Load(_sorted(shares), tuple(missing))


def memory_load(pods: Iterable[PodLimits], used: Mapping[str, Mapping[str, float]], *, now: float) -> Load:
    """Compare the containers' memory with their limits.

    :param used: pod → container → bytes.
    """
    shares, missing, unlimited = [], [], 0
    for pod in pods:
        containers = used.get(pod.name)
        unlimited += len(pod.unlimited)
        if containers is None:
            if pod.ready_since is not None and now - pod.ready_since > SETTLED_AFTER:
                missing.append(pod.name)
            continue
        alone = len(pod.limits) + len(pod.unlimited) == 1
        for name, limit in pod.limits.items():
            if limit > 0 and name in containers:
                shares.append(Share(pod.name if alone else f"{pod.name}/{name}", "memory", containers[name], limit))
    return Load(_sorted(shares), tuple(missing), unlimited)


def _sorted(shares: Iterable[Share]) -> tuple[Share, ...]:
    return tuple(sorted(shares, key=lambda share: -share.percent))
