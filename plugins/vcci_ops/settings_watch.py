"""Settings of the watch over a fresh release: which metrics, how often, how much is too much."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vcci_ops.settings_base import Duration, Model


class WatchMetric(Model):
    """A number that is looked at again and again after a release."""

    id: str = Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")
    title: str
    unit: str
    source: Literal["prometheus", "kubernetes", "redis", "postgres", "logs"] = "prometheus"
    """Where it comes from; all but prometheus measure what their name says and take no query."""
    query: str = ""
    """PromQL with {window}; one series."""
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
    worse_by_at_least: float = 0
    """... if it is also worse by this much in its own unit, so that 1 after 0 is no catastrophe."""


class Watch(Model):
    """How a fresh release is watched."""

    minutes: int = Field(default=30, ge=1, le=1440)
    """How long; the form's default."""
    interval: Duration = Field(default=60.0, gt=0)
    """Between two samples."""
    warm_up: Duration = 60.0
    """Before the first sample."""
    window: Duration = 120.0
    """Range of the queries, {window}."""
    failure_limit: int = Field(default=3, ge=1)
    """This many failed samples in all: the release has failed."""
    error_limit: int = Field(default=4, ge=1)
    """This many samples in a row without data: hold and page; never passed, never rolled back."""
    metrics: tuple[WatchMetric, ...] = Field(min_length=1)
