"""Counters and gauges, kept as plain numbers and turned into Prometheus text only when somebody asks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Gauge:
    """One reading: name without the ``tagstone_`` prefix, help text, labels and values."""

    name: str
    help: str
    labels: tuple[str, ...]
    values: tuple[tuple[tuple[str, ...], float], ...]
    counter: bool = False  #: it only ever grows


class Metrics:
    """What this process did since it started. ``readings`` are asked at each exposition."""

    def __init__(self, readings: Callable[[], Iterable[Gauge]] = lambda: ()) -> None:
        self._responses: Counter[int] = Counter()
        self._events: Counter[str] = Counter()
        self._readings = readings

    def answered(self, status: int) -> None:
        """A request of a client was answered."""
        self._responses[status] += 1

    def happened(self, event: str) -> None:
        """An event (``tag.overwritten``, …) was recorded."""
        self._events[event] += 1

    def exposition(self) -> tuple[bytes, str]:
        """All of it in the Prometheus text format, and its content type."""
        from prometheus_client import CollectorRegistry
        from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
        from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

        responses = CounterMetricFamily("tagstone_responses", "Answers to clients by status.", labels=["status"])
        for status, count in sorted(self._responses.items()):
            responses.add_metric([str(status)], count)
        events = CounterMetricFamily("tagstone_events", "Events recorded by this process.", labels=["type"])
        for event, count in sorted(self._events.items()):
            events.add_metric([event], count)
        families: list[Metric] = [responses, events]
        for reading in self._readings():
            kind = CounterMetricFamily if reading.counter else GaugeMetricFamily
            family = kind(f"tagstone_{reading.name}", reading.help, labels=list(reading.labels))
            for labels, value in reading.values:
                family.add_metric(list(labels), value)
            families.append(family)

        class Collector:
            def collect(self) -> Iterable[Metric]:
                return families

        registry = CollectorRegistry()
        registry.register(Collector())
        return generate_latest(registry), CONTENT_TYPE_LATEST
