"""Settings of the watch over a fresh release: which metrics, how often, how much is too much."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from vcci_ops.settings_base import Duration, Model

LIVE: dict[str, frozenset[str]] = {
    "kubernetes": frozenset({"restarts", "not_ready"}),
    "redis": frozenset({"queue_depth", "queue_age"}),
    "postgres": frozenset({"connections"}),
    "logs": frozenset({"new_errors"}),
}
"""Sources that see only the present, and what they measure."""


class WatchMetric(Model):
    """A number that is looked at again and again after a release."""

    id: str = Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")
    title: str
    unit: str
    source: Literal["prometheus", "kubernetes", "redis", "postgres", "logs"] = "prometheus"
    """Where it comes from; all but prometheus measure what their id says and take no query."""
    query: str = ""
    """PromQL with {window}; one series. Its value must not grow with {window} (a rate, a ratio, a quantile), for
    the baseline is asked with {window} = 1h."""
    traffic: str = ""
    """PromQL with {window}: how many requests the value stands on; empty: it does not depend on any."""
    min_traffic: float = 0
    """Below this much traffic the sample is inconclusive."""
    above: float | None = None
    """Absolute limit: a value beyond it fails."""
    below: float | None = None
    """Absolute limit for what must not fall."""
    worse_by_percent: float | None = Field(default=None, gt=0)
    """Relative limit: a value this much worse than the baseline fails ..."""
    worse_by_at_least: float = Field(default=0, ge=0)
    """... if it is also worse by this much in its own unit, so that 1 after 0 is no catastrophe."""

    @model_validator(mode="after")
    def _usable(self) -> WatchMetric:
        if self.above is None and self.below is None and self.worse_by_percent is None:
            raise ValueError("a limit: above, below or worse_by_percent")
        if self.source == "prometheus":
            if not self.query:
                raise ValueError("a query, for the source is prometheus")
            return self
        if self.id not in LIVE[self.source]:
            raise ValueError(f"for the source {self.source} one of the ids {', '.join(sorted(LIVE[self.source]))}")
        if self.query or self.traffic:
            raise ValueError(f"no query and no traffic, for the source {self.source} takes none")
        return self

    @property
    def falling(self) -> bool:
        """Whether less is worse."""
        return self.below is not None and self.above is None


class Watch(Model):
    """How a fresh release is watched."""

    minutes: int = Field(default=30, ge=1, le=1440)
    """How long; the form's default."""
    interval: Duration = Field(default=60.0, gt=0)
    """Between two samples."""
    warm_up: Duration = Field(default=60.0, ge=0)
    """Before the first sample."""
    window: Duration = Field(default=120.0, ge=1)
    """Range of the queries, {window}; at least twice the scrape interval of Prometheus."""
    failure_limit: int = Field(default=3, ge=1)
    """This many failed samples in all: the release has failed."""
    error_limit: int = Field(default=4, ge=1)
    """This many samples in a row without data: hold and page; never passed, never rolled back.

    This many at the end with too little traffic: inconclusive.
    """
    metrics: tuple[WatchMetric, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _each_once(self) -> Watch:
        ids = [metric.id for metric in self.metrics]
        if len(set(ids)) != len(ids):
            raise ValueError("each metric's id once")
        return self

    def samples(self, minutes: float | None = None) -> int:
        """Return how many samples a watch takes.

        :param minutes: how long it lasts; default: :attr:`minutes`.
        """
        return max(round((self.minutes if minutes is None else minutes) * 60 / self.interval), 1)

    @property
    def deadline(self) -> float:
        """Seconds a sample may take; below the interval, so that one never runs into the next."""
        return min(0.8 * self.interval, 45.0)
