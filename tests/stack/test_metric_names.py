"""Metric names over OTLP and by scrape, with a real collector (rotel)."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from otel_progress import semconv
from tests.support import servers
from tests.support.otlp_receiver import Receiver, receiving
from tests.support.programs import PROGRAMS
from tests.support.stack.prometheus_names import Kind, Series, prometheus_name, series

pytestmark = pytest.mark.stack

WORKER = PROGRAMS / "idle_worker.py"
MOVES = {
    semconv.TICK_DURATION: "ticks go on while the two are taken",
    semconv.OPERATION_REMAINING: "counts down",
    semconv.OPERATION_EXPECTED_END: "is made of what remains",
    semconv.OPERATION_EXPECTED_END_LOWER: "is made of what remains",
    semconv.OPERATION_EXPECTED_END_UPPER: "is made of what remains",
    semconv.BATCH_REMAINING: "counts down",
    semconv.JOURNAL_SIZE: "grows with each tick",
    semconv.SERIES_LIMIT: "a push may have fewer series than a scrape",
}
"""Metrics whose values may differ, with the reason. Names and labels may not."""
ESTIMATES = tuple(
    metric.prometheus for metric in MOVES if "what remains" in MOVES[metric] or MOVES[metric] == "counts down"
)
"""Metrics that may be missing in one of both, because estimates take time."""


@dataclass(frozen=True)
class Seen:
    """Series and values by way of arrival."""

    scraped: dict[Series, float]
    pushed: dict[Series, float]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """Run the worker once, push its metrics through the collector, and scrape it."""
    folder = tmp_path_factory.mktemp("same-names")
    grpc, http = servers.free_port(), servers.free_port()
    with (
        receiving() as receiver,
        servers.running(
            _collector(grpc, http, receiver, folder),
            ready=lambda: servers.accepts(grpc) and servers.accepts(http),
            log=folder / "rotel.out",
        ),
        _worker(f"http://127.0.0.1:{grpc}", folder) as worker,
    ):
        assert worker.stdout is not None
        url = worker.stdout.readline().strip()
        assert url, "the worker ended early"
        with urlopen(url, timeout=60) as answer:
            scraped = _scraped(answer.read().decode())
        # The collector has received everything and may send it in several parts.
        pushed = servers.poll(
            lambda: _pushed(receiver, at_least=len(without_estimates(scraped))),
            what="as many series as were scraped",
        )
        worker.communicate("", timeout=120)
        assert worker.returncode == 0
    return Seen(scraped, pushed)


def without_estimates(found: Iterable[Series]) -> set[Series]:
    """Return the series that are not estimates."""
    return {one for one in found if one[0] not in ESTIMATES}


def _collector(grpc: int, http: int, receiver: Receiver, folder: Path) -> list[str]:
    found = importlib.util.find_spec("rotel")
    binary = Path(found.origin).with_name("rotel-agent") if found is not None and found.origin else None
    if (
        binary is None
        or subprocess.run([str(binary), "--version"], capture_output=True, check=False).returncode != 0
    ):
        binary = Path(servers.require("rotel-agent"))
    return [
        *(str(binary), "start"),
        *("--otlp-grpc-endpoint", f"127.0.0.1:{grpc}", "--otlp-http-endpoint", f"127.0.0.1:{http}"),
        *("--exporter", "otlp", "--otlp-exporter-protocol", "http"),
        *("--otlp-exporter-endpoint", f"http://127.0.0.1:{receiver.port}"),
        *(
            "--batch-timeout",
            "50ms",
            "--pid-file",
            str(folder / "rotel.pid"),
            "--log-file",
            str(folder / "rotel.log"),
        ),
    ]


def _worker(endpoint: str, folder: Path) -> subprocess.Popen[str]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    environment = {
        "OTEL_SERVICE_NAME": "still",
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_METRIC_EXPORT_INTERVAL": "3600000",  # Only if it is enabled.
        "OTEL_PROGRESS_PROMETHEUS_PORT": "0",
        "OTEL_PROGRESS_STORE": f"sqlite://{folder / 'journal.db'}",
        "no_proxy": "*",
    }
    command = [sys.executable, str(WORKER)]
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=None,
        text=True,
        env={**plain, **environment},
    )


def _pushed(receiver: Receiver, at_least: int) -> dict[Series, float]:
    """Return the received metrics as soon as they are complete."""
    found = {one: value for _, metric in receiver.metrics() for one, value in series(metric)}
    return found if len(without_estimates(found)) >= at_least else {}


def _scraped(text: str) -> dict[Series, float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): float(sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_series_of_both_ways_are_equal(seen: Seen) -> None:
    """Translated names and labels are those of the scrape."""
    assert without_estimates(seen.pushed) == without_estimates(seen.scraped)


def test_values_of_both_ways_are_equal(seen: Seen) -> None:
    """Values that depend on time are excluded."""
    moves = tuple(metric.prometheus for metric in MOVES)
    still = {one for one in set(seen.scraped) & set(seen.pushed) if not one[0].startswith(moves)}
    assert len(still) > 50
    assert {one: seen.pushed[one] for one in still} == pytest.approx(
        {one: seen.scraped[one] for one in still}
    )


def test_series_include_every_kind(seen: Seen) -> None:
    """There are gauges, counters and histograms of operations, levels and batches."""
    names = {name for name, _ in seen.scraped}
    for metric in (
        semconv.OPERATION_RATIO,
        semconv.OPERATION_CURRENT,
        semconv.OPERATION_STATUS,
        semconv.OPERATION_DEADLINE,
        semconv.LEVEL_RATIO,
        semconv.BATCH_OPERATIONS,
        semconv.OPERATIONS,
        semconv.OPERATIONS_FINISHED,
        semconv.ITEMS,
        semconv.UPDATES_REJECTED,
    ):
        assert metric.prometheus in names
    assert f"{semconv.OPERATION_DURATION.prometheus}_bucket" in names


@pytest.mark.parametrize("metric", semconv.METRICS, ids=lambda metric: metric.name)
def test_translation_of_each_name_matches_semconv(metric: semconv.Metric) -> None:
    """The unit is the one that is sent."""
    from otel_progress.otlp.metrics import _gauge_unit

    kinds: dict[str, Kind] = {"gauge": "gauge", "counter": "sum", "histogram": "histogram"}
    unit = _gauge_unit(metric) if metric.kind == "gauge" else metric.unit
    assert prometheus_name(metric.name, unit, kinds[metric.kind]) == metric.prometheus


@pytest.mark.parametrize(
    ("name", "unit", "kind", "expected"),
    [
        ("http.server.request.duration", "s", "histogram", "http_server_request_duration_seconds"),
        ("system.filesystem.usage", "By", "sum", "system_filesystem_usage_bytes_total"),
        ("system.cpu.utilization", "1", "gauge", "system_cpu_utilization_ratio"),
        ("cache.hit_ratio", "1", "gauge", "cache_hit_ratio"),
        ("queue.length", "{request}", "gauge", "queue_length"),
        ("requests.total", "1", "sum", "requests_total"),
        ("requests", "1", "histogram", "requests"),
    ],
)
def test_translation_follows_the_specification(name: str, unit: str, kind: Kind, expected: str) -> None:
    """Units are spelt out, ratios and totals have suffixes without repetition."""
    assert prometheus_name(name, unit, kind) == expected
