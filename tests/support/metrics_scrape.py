"""Scrapes of a collector without a network, parsed by the Prometheus client."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric as Family
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.samples import Sample

from otel_progress import semconv

if TYPE_CHECKING:
    from prometheus_client.registry import Collector

    from otel_progress.semconv import Metric


def parse_openmetrics(text: str) -> list[Family]:
    """Return the families of an exposition in the OpenMetrics format."""
    return list(openmetrics_parser.text_string_to_metric_families(text))  # type: ignore[no-untyped-call]


def exposition(collector: Collector, *, openmetrics: bool = False) -> str:
    """Return the response of ``collector`` to a scrape."""
    registry = CollectorRegistry()
    registry.register(collector)
    return (generate_openmetrics if openmetrics else generate_latest)(registry).decode("utf-8")


def samples(collector: Collector) -> list[Sample]:
    """Return all samples of a scrape.

    It checks that both formats hold the same unique series.
    """
    text, openmetrics = (list(_parsed(collector, openmetrics=flag)) for flag in (False, True))
    keys = [(sample.name, *sorted(sample.labels.items())) for sample in openmetrics]
    assert len(set(keys)) == len(keys), "a series is there twice"
    assert sorted(keys) == sorted((sample.name, *sorted(sample.labels.items())) for sample in text)
    return openmetrics


def of_work(collector: Collector) -> list[Sample]:
    """Return the samples of operations and batches, without the usage of limits."""
    about_itself = {semconv.SERIES_SHOWN.prometheus, semconv.SERIES_LIMIT.prometheus}
    return [sample for sample in samples(collector) if sample.name not in about_itself]


def _parsed(collector: Collector, *, openmetrics: bool) -> Iterator[Sample]:
    parse = parse_openmetrics if openmetrics else parse_text
    for family in parse(exposition(collector, openmetrics=openmetrics)):
        yield from family.samples


def values(collector: Collector, metric: Metric, suffix: str = "") -> dict[tuple[str, ...], float]:
    """Return the values of one metric by its label values, in order."""
    labels = (*metric.labels, "le") if suffix == "_bucket" else metric.labels
    return {
        tuple(sample.labels[label] for label in labels): sample.value
        for sample in samples(collector)
        if sample.name == metric.prometheus + suffix
    }
