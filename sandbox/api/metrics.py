"""The metrics page: what :mod:`sandbox.api.traffic` says of this moment, through the Prometheus client library."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from sandbox.api import traffic
from sandbox.api.tenants import Known
from sandbox.api.traffic import Amounts, Series, Story

_HELP = {
    "celery_queue_length": "Messages waiting in a queue.",
    "vcci_active_tenants": "Tenants with a session in the last 24 h.",
    "vcci_tenant_info": "Tenants by id and status, always 1.",
}


class _Moment(Collector):
    def __init__(self, at: float, story: Story, tenants: Sequence[Known]) -> None:
        self._at, self._story, self._tenants = at, story, tenants

    def collect(self) -> Iterator[Metric]:
        amounts = traffic.amounts(self._at, self._story)
        name = self._story.requests_name(self._at)
        yield _counter(name, "HTTP requests answered.", traffic.request_series(), amounts)
        yield _counter("vcci_calculations_total", "Calculations by outcome.", traffic.calculation_series(), amounts)
        yield _latency(self._story, amounts)
        yield from _gauges(self._at, self._tenants)


def exposition(at: float, story: Story, tenants: Sequence[Known]) -> tuple[bytes, str]:
    """Return the page's body and content type."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Moment(at, story, tenants))
    return generate_latest(registry), CONTENT_TYPE_LATEST


def _counter(name: str, documentation: str, series: Iterable[Series], amounts: Amounts) -> Metric:
    many = list(series)
    family = CounterMetricFamily(name, documentation, labels=[label for label, _ in many[0].labels])
    for one in many:
        family.add_metric([value for _, value in one.labels], one.value(amounts))
    return family


def _latency(story: Story, amounts: Amounts) -> Metric:
    family = HistogramMetricFamily("http_request_duration_seconds", "Time to answer a request.", labels=["route"])
    buckets: dict[str, list[tuple[str, float]]] = {}
    sums: dict[str, float] = {}
    for series in traffic.latency_series(story.slow_seconds):
        labels = dict(series.labels)
        if series.name.endswith("_bucket"):
            buckets.setdefault(labels["route"], []).append((labels["le"], series.value(amounts)))
        elif series.name.endswith("_sum"):
            sums[labels["route"]] = series.value(amounts)
    for route, found in buckets.items():
        family.add_metric([route], buckets=found, sum_value=sums[route])
    return family


def _gauges(at: float, tenants: Sequence[Known]) -> Iterator[Metric]:
    families: dict[str, GaugeMetricFamily] = {}
    for name, labels, value in traffic.gauges(at, tenants):
        if name not in families:
            families[name] = GaugeMetricFamily(name, _HELP[name], labels=list(labels))
        families[name].add_metric(list(labels.values()), value)
    yield from families.values()
