"""Real Prometheus: its linter, its scrapes and its queries."""

from __future__ import annotations

import json
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from otel_progress import semconv
from otel_progress.metrics import ProgressCollector
from otel_progress.metrics.counters import Totals
from otel_progress.model import Status
from otel_progress.semconv import Metric
from tests.support.factories import WALL as START
from tests.support.factories import make_change_set
from tests.support.loopback import free_ports, own_host
from tests.support.metrics_operations import TRACE_ID, Shelf, a_batch, eta, level, operation, use
from tests.support.metrics_scrape import exposition, samples
from tests.support.metrics_server import PATIENCE_S, serving
from tests.support.servers import answers, poll, require, running

pytestmark = pytest.mark.server

HOSTILE = [
    'quote" backslash \\ newline \n return \r tab \t',
    "nul \x00 bell \x07 escape \x1b[2J delete \x7f next line \x85",
    "separators \u2028 \u2029 direction \u202e bom \ufeff",
    "emoji 🎵 combining e\u0301 kanji 漢字 عربى",
    "{} = , # EOF\n# EOF\n",
    "",
    " ",
    "\ud800",
]


def build_full_scene() -> tuple[Shelf, Totals]:
    """Return operations and totals with every metric of the conventions."""
    levels = [
        level("song:1", current=1, total=4, ratio=0.25, estimated=True),
        level("song:2", status=Status.PENDING),
    ]
    busy = operation(
        "friday-42",
        "setlist",
        name="Friday",
        current=3,
        total=12,
        ratio=0.25,
        failed=1,
        advanced_at=START + 9,
        deadline_at=START + 600,
        trace_id=TRACE_ID,
        eta=eta(30.0, 20.0, 50.0),
        levels=levels,
        estimated=True,
        previews=2,
        resources=use(1.5, 200_000_000, 0.7, 4_000_000_000),
    )
    strange = [
        operation(text, text or "t", name=text, run=f"s{n}", ratio=n / 10) for n, text in enumerate(HOSTILE)
    ]
    strange[0] = replace(strange[0], not_reporting_since=START)
    ended = operation("done", "setlist", elapsed=42.0, status=Status.COMPLETED, trace_id=TRACE_ID)
    totals = Totals()
    totals.write(make_change_set(operation("done", "setlist", ratio=0.5, eta=eta(20.0, 1.0, 40.0)).root))
    totals.write(
        make_change_set(
            ended.root, items={("setlist", "song", "completed"): 7, ("setlist", "song", "failed"): 1}
        )
    )
    totals.count_rejected("negative")
    totals.count_sink_error("journal")
    totals.count_dropped("events")
    totals.count_preview("stored")
    totals.observe_tick(0.003)
    many = [operation(f"many-{n}", started_at=START - n) for n in range(3)]
    batches = [a_batch(total=500, ratio=0.5, completed=240, failed=10, running=8, remaining_s=31.0)]
    batches += [a_batch(text, text, name=text) for text in HOSTILE]
    return Shelf([busy, *strange, *many], [ended], groups=batches), totals


SERVED = {
    semconv.SERVER_CLIENTS: {("sse",): 3},
    semconv.SERVER_MESSAGES: {("sse",): 120},
    semconv.SERVER_COALESCED: {("sse",): 7},
    semconv.SERVER_REFUSED: {("token",): 1},
    semconv.RECEIVER_RECORDS: {("logs", "accepted"): 5, ("traces", "rejected"): 1},
}
"""What only a server counts, in the form it hands to a collector."""


@pytest.fixture(scope="module")
def collector() -> ProgressCollector:
    """Return a collector of that scene with caps that are reached."""
    shelf, totals = build_full_scene()
    collector = ProgressCollector(
        shelf,
        totals=totals,
        max_operations=10,
        max_levels_per_operation=1,
        retention_s=1e9,
        extra=lambda: SERVED,
        public_url="https://progress.example.org",
        journal_size=lambda: 4096,
    )
    list(collector.collect())
    return collector


def test_scene_has_every_metric(collector: ProgressCollector) -> None:
    """The checks below cover all metrics."""
    found = {sample.name for sample in samples(collector)}
    suffix = {"gauge": "", "counter": "", "histogram": "_bucket"}
    assert [
        metric.name for metric in semconv.METRICS if metric.prometheus + suffix[metric.kind] not in found
    ] == []


def test_promtool_accepts_the_exposition(collector: ProgressCollector) -> None:
    """``promtool check metrics`` prints nothing."""
    text = exposition(collector).encode()
    result = subprocess.run(
        [require("promtool"), "check", "metrics"],
        input=text,
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")


def test_promtool_rejects_an_invalid_exposition() -> None:
    """A gauge that is named like a counter is reported."""
    text = b"# HELP bad_total Bad.\n# TYPE bad_total gauge\nbad_total 1\n"
    result = subprocess.run(
        [require("promtool"), "check", "metrics"],
        input=text,
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert result.returncode != 0


class Prometheus:
    """Client of a running Prometheus, which queries the time of one successful scrape.

    A later scrape may fail on a busy machine. Its series are then absent afterwards.
    """

    def __init__(self, address: str) -> None:
        self._base = f"http://{address}/api/v1"
        self._moment: dict[str, str] = {}

    def use_last_scrape(self) -> bool:
        """Query the time of the last scrape from now on. Return False without one."""
        scraped = self.request_data("query", query=f"timestamp({semconv.OPERATION_RATIO.prometheus})")[
            "result"
        ]
        self._moment = {"time": f"{max(float(one['value'][1]) for one in scraped):.3f}"} if scraped else {}
        return bool(scraped)

    def request_data(self, path: str, **parameters: str) -> Any:
        """Return the data of a response."""
        url = f"{self._base}/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
            return json.load(answer)["data"]

    def query_at_scrape(self, query: str) -> Any:
        """Return the series of a query at that time."""
        return self.request_data("query", query=query, **self._moment)["result"]

    def query(self, metric: Metric, selector: str = "", suffix: str = "") -> dict[tuple[str, ...], float]:
        """Return the values of a metric by label values. Prometheus drops empty labels."""
        found = self.query_at_scrape(f"{metric.prometheus}{suffix}{selector}")
        return {
            tuple(one["metric"].get(label, "") for label in metric.labels): float(one["value"][1])
            for one in found
        }


@pytest.fixture(scope="module")
def prometheus(
    collector: ProgressCollector, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    """Run a Prometheus that scrapes the collector, and wait for the first scrape."""
    binary, host, tmp_path = require("prometheus"), own_host(), tmp_path_factory.mktemp("prometheus")
    address = f"{host}:{free_ports(host, 1)[0]}"
    with serving(collector) as served:
        config = tmp_path / "prometheus.yml"
        target = json.dumps([f"{served.host}:{served.port}"])
        config.write_text(
            "global: {scrape_interval: 500ms, scrape_timeout: 500ms}\n"
            f"scrape_configs: [{{job_name: progress, static_configs: [{{targets: {target}}}]}}]\n"
        )
        command = [
            binary,
            f"--config.file={config}",
            f"--storage.tsdb.path={tmp_path / 'data'}",
            f"--web.listen-address={address}",
            "--enable-feature=exemplar-storage",
        ]
        log = tmp_path / "prometheus.log"
        with running(
            command, ready=lambda: answers(f"http://{address}/-/ready"), log=log, timeout=PATIENCE_S
        ):
            client = Prometheus(address)
            poll(client.use_last_scrape, timeout=PATIENCE_S, what="series in Prometheus")
            yield client


def test_prometheus_has_all_values_and_labels(prometheus: Prometheus, collector: ProgressCollector) -> None:
    """Values, histograms and labels are those of the collector."""
    assert [one["value"][1] for one in prometheus.query_at_scrape("up")] == ["1"]
    labels = ("friday-42", "setlist")
    status = {(*labels, "running"): 1.0}
    assert prometheus.query(semconv.OPERATION_RATIO)[labels] == 0.25
    assert prometheus.query(semconv.OPERATION_EXPECTED_END)[labels] == START + 40
    assert prometheus.query(semconv.OPERATION_STATUS, '{operation_type="setlist"} == 1') == status
    assert prometheus.query(semconv.OPERATION_CONDITION, '{operation_type="setlist"} == 1') == {
        (*labels, "ok"): 1.0
    }
    assert prometheus.query(semconv.JOURNAL_SIZE) == {(): 4096.0}
    (info,) = prometheus.query(semconv.OPERATION_INFO, '{operation_id="friday-42"}')
    assert info[-1] == "https://progress.example.org/api/v1/operations/friday-42/previews/2"
    assert prometheus.query(semconv.LEVEL_STATUS) == {(*labels, "song:1", "running"): 1.0}
    assert prometheus.query(semconv.OPERATION_DURATION, suffix="_sum") == {("setlist", "completed"): 42.0}
    assert prometheus.query(semconv.OPERATION_MEMORY) == {labels: 2e8}
    assert prometheus.query(semconv.BATCH_RATIO) == {("thumbnails", "images"): 0.5}
    assert prometheus.query(semconv.SERVER_MESSAGES) == {("sse",): 120.0}
    assert prometheus.query(semconv.ITEMS)["setlist", "song", "completed"] == 7.0
    sent = {
        (sample.labels["operation_id"], sample.labels["operation_type"], sample.labels["name"])
        for sample in samples(collector)
        if sample.name == semconv.OPERATION_INFO.prometheus
    }
    assert {labels[:3] for labels in prometheus.query(semconv.OPERATION_INFO)} == sent
    assert len(sent) == 10


def test_prometheus_has_kinds_help_and_exemplars(prometheus: Prometheus) -> None:
    """The trace of a duration can be queried."""
    metadata = prometheus.request_data("metadata")
    for metric in semconv.METRICS:
        name = metric.prometheus.removesuffix("_total") if metric.kind == "counter" else metric.prometheus
        assert [(one["type"], one["help"]) for one in metadata[name]] == [(metric.kind, metric.help)]
    query = {
        "query": f"{semconv.OPERATION_DURATION.prometheus}_bucket",
        "start": str(START - 60),
        "end": str(START + 1e9),
    }
    exemplars = prometheus.request_data("query_exemplars", **query)
    assert {one["labels"]["trace_id"] for series in exemplars for one in series["exemplars"]} == {TRACE_ID}
