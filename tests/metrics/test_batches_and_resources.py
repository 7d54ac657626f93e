"""Gauges of resources and batches, counters of a server, and rendering."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from otel_progress import semconv
from otel_progress.metrics import ProgressCollector, render_exposition
from otel_progress.metrics.counters import Totals
from otel_progress.model import Status
from tests.support.factories import WALL as START
from tests.support.metrics_operations import Shelf, a_batch, operation, use
from tests.support.metrics_scrape import of_work, parse_openmetrics, values

OP = ("op", "render")
BATCH = ("thumbnails", "images")
RESOURCES = (
    semconv.OPERATION_CPU,
    semconv.OPERATION_MEMORY,
    semconv.OPERATION_GPU,
    semconv.OPERATION_GPU_MEMORY,
)


def test_resources_of_a_running_operation_are_gauges() -> None:
    """Without a GPU library, the GPU has no series."""
    collector = ProgressCollector(Shelf([operation(resources=use(1.5, 2_000))]))
    assert [values(collector, metric) for metric in RESOURCES] == [{OP: 1.5}, {OP: 2_000.0}, {}, {}]
    collector = ProgressCollector(Shelf([operation(resources=use(1.5, 2_000, 0.25, 3_000))]))
    assert [values(collector, metric) for metric in RESOURCES[2:]] == [{OP: 0.25}, {OP: 3_000.0}]


def test_resources_of_a_finished_or_dead_operation_are_absent() -> None:
    """Its other gauges remain."""
    ended = operation("ended", status=Status.COMPLETED, resources=use())
    gone = replace(operation("gone", resources=use()), alive=False)
    collector = ProgressCollector(Shelf([gone, operation("idle")], [ended]))
    assert len(values(collector, semconv.OPERATION_CURRENT)) == 3
    assert [values(collector, metric) for metric in RESOURCES] == [{}, {}, {}, {}]


def test_batch_has_its_series() -> None:
    """Name, ratio, target, counts by status and remaining time are gauges."""
    one = a_batch(total=500, ratio=0.5, completed=240, failed=10, running=8, remaining_s=31.0)
    collector = ProgressCollector(Shelf(groups=[one]))
    assert values(collector, semconv.BATCH_INFO) == {(*BATCH, "A batch"): 1.0}
    assert values(collector, semconv.BATCH_RATIO) == {BATCH: 0.5}
    assert values(collector, semconv.BATCH_TARGET) == {BATCH: 500.0}
    assert values(collector, semconv.BATCH_REMAINING) == {BATCH: 31.0}
    counts = {"pending": 0, "running": 8, "completed": 240, "failed": 10, "cancelled": 0, "skipped": 0}
    assert values(collector, semconv.BATCH_OPERATIONS) == {
        (*BATCH, status): count for status, count in counts.items()
    }


def test_batch_with_unknown_values_has_no_series_for_them() -> None:
    """A batch without a total has counts only. NaN and infinity are unknown."""
    collector = ProgressCollector(
        Shelf(groups=[a_batch(running=1), a_batch("b", ratio=float("nan"), remaining_s=float("inf"))])
    )
    unknown = (semconv.BATCH_RATIO, semconv.BATCH_TARGET, semconv.BATCH_REMAINING)
    assert [values(collector, metric) for metric in unknown] == [{}, {}, {}]
    assert len(values(collector, semconv.BATCH_OPERATIONS)) == 12


def test_finished_batch_vanishes_after_the_retention() -> None:
    """The retention is that of operations."""
    shelf = Shelf(groups=[a_batch(ended_at=START + 10, completed=3)])
    collector = ProgressCollector(shelf, retention_s=60.0)
    shelf.elapsed = 70.0
    assert values(collector, semconv.BATCH_INFO)
    shelf.elapsed = 71.0
    assert of_work(collector) == []


def test_batches_beyond_the_cap_are_counted() -> None:
    """The order of the reader is kept. With a cap of 0 the reader is not called."""
    totals = Totals()
    shelf = Shelf(groups=[a_batch(f"b{number}") for number in range(5)])
    collector = ProgressCollector(shelf, totals=totals, max_batches=3)
    assert set(values(collector, semconv.BATCH_INFO)) == {
        (f"b{number}", "images", "A batch") for number in range(3)
    }
    scrapes = 2  # one for each format
    assert totals.read().counters[semconv.SERIES_DROPPED]["batch",] == 2 * scrapes
    assert values(ProgressCollector(shelf, max_batches=0), semconv.BATCH_INFO) == {}


def test_batches_with_equal_labels_have_one_series() -> None:
    """A repeated series would make the scrape invalid."""
    collector = ProgressCollector(
        Shelf(groups=[a_batch("a\x1b", completed=1), a_batch("a\\x1b", completed=2)])
    )
    assert [
        value
        for labels, value in values(collector, semconv.BATCH_OPERATIONS).items()
        if labels[2] == "completed"
    ] == [1.0]


@given(id_=st.text(), type_=st.text(), name=st.text())
def test_batch_with_any_text_has_valid_labels(id_: str, type_: str, name: str) -> None:
    """Both formats parse, and no label contains a control character."""
    found = of_work(ProgressCollector(Shelf(groups=[a_batch(id_, type_, name=name)])))
    assert {sample.name for sample in found} == {
        semconv.BATCH_INFO.prometheus,
        semconv.BATCH_OPERATIONS.prometheus,
    }
    texts = [text for sample in found for text in sample.labels.values()]
    assert all(len(text) <= 256 for text in texts)
    assert not any(ord(character) < 32 or 127 <= ord(character) < 160 for text in texts for character in text)


def test_extra_counters_are_read_at_each_scrape() -> None:
    """They are exported in addition to the totals."""
    sent: dict[tuple[str, ...], int] = {("sse",): 1}
    collector = ProgressCollector(Shelf(), extra=lambda: {semconv.SERVER_MESSAGES: sent})
    assert values(collector, semconv.SERVER_MESSAGES) == {("sse",): 1.0}
    sent["sse",] = 5
    assert values(collector, semconv.SERVER_MESSAGES) == {("sse",): 5.0}


def test_extra_counters_that_fail_are_counted() -> None:
    """All other series are exported."""

    def fail() -> Any:
        msg = "closed"
        raise RuntimeError(msg)

    totals = Totals()
    collector = ProgressCollector(Shelf([operation()]), totals=totals, extra=fail)
    assert values(collector, semconv.OPERATION_CURRENT) == {OP: 0.0}
    assert totals.read().counters[semconv.SINK_ERRORS]["prometheus",] == 2


@pytest.mark.parametrize(
    "accept",
    [
        "",
        "*/*",
        "text/html",
        "application/openmetrics-text; version=abc",
        "application/openmetrics-text; version=;;,",
        "\x00",
        "a" * 99_999,
    ],
)
def test_exposition_is_text_unless_openmetrics_is_accepted(accept: str) -> None:
    """An invalid header selects the text format or OpenMetrics, as far as it names it."""
    body, content_type = render_exposition(ProgressCollector(Shelf([operation(current=3)])), accept)
    assert content_type.isprintable()
    if content_type.startswith("application/openmetrics-text"):
        assert body.endswith(b"# EOF\n")
        assert parse_openmetrics(body.decode())
        return
    assert content_type == "text/plain; version=0.0.4; charset=utf-8"
    assert "progress_operation_current" in {
        family.name for family in text_string_to_metric_families(body.decode())
    }


def test_exposition_for_the_header_of_prometheus_is_openmetrics() -> None:
    """The version is the requested one."""
    accept = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.4,*/*;q=0.1"
    body, content_type = render_exposition(ProgressCollector(Shelf([operation(current=3)])), accept)
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert any(family.name == "progress_operation_current" for family in parse_openmetrics(body.decode()))
