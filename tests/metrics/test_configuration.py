"""Metrics of a configured process: the port of the worker and its server show what is around the operations."""

from __future__ import annotations

import urllib.request
from contextlib import closing
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

import otel_progress as progress
from otel_progress import semconv
from otel_progress.journal import SqliteJournal
from otel_progress.testing import recording, wait_until
from tests.support.factories import batch, preview, snapshot
from tests.support.metrics_server import PATIENCE_S


def scraped(url: str | None) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Return the labels and values of the samples at an address, by name."""
    assert url is not None
    with urllib.request.urlopen(
        f"{url.rstrip('/').removesuffix('/metrics')}/metrics", timeout=PATIENCE_S
    ) as answer:
        text = answer.read().decode()
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((dict(sample.labels), sample.value))
    return found


def test_both_ports_tell_the_size_of_the_journal(tmp_path: Path) -> None:
    """The gauge is the size of the files that are there, on the worker's own port and on the server's."""
    pytest.importorskip("fastapi")
    path = tmp_path / "p.db"
    with (
        recording(store=f"sqlite:///{path}", prometheus_port=0, server_port=0) as recorder,
        progress.operation("render", id="a"),
    ):
        recorder.tick()
        wait_until(lambda: recorder.runtime.reader.size_bytes())
        for url in (recorder.runtime.metrics_url, recorder.runtime.server_url):
            before = path.stat().st_size  # it may grow at any time
            ((_, size),) = scraped(url)[semconv.JOURNAL_SIZE.prometheus]
            assert size >= before > 0


def test_without_a_journal_there_is_no_size() -> None:
    """A worker that keeps everything in memory has no such series, and limits for what it shows."""
    with recording(store="memory:", prometheus_port=0) as recorder:
        found = scraped(recorder.runtime.metrics_url)
        assert semconv.JOURNAL_SIZE.prometheus not in found
        assert len(found[semconv.SERIES_LIMIT.prometheus]) == 3


@pytest.mark.parametrize("public_url", [None, "https://progress.example.org/board"])
def test_a_server_knows_where_its_previews_are(tmp_path: Path, public_url: str | None) -> None:
    """The address is the one people use where that is known, else the server's own."""
    pytest.importorskip("fastapi")
    from otel_progress.server.uvicorn_server import Server

    with closing(SqliteJournal(tmp_path / "p.db")) as journal:
        journal.write(batch(snapshot(previews=2), previews=[preview(2)]))
        with Server(journal, port=0, public_url=public_url) as server:
            ((labels, _),) = scraped(server.url)[semconv.OPERATION_INFO.prometheus]
            base = (public_url or server.url).rstrip("/")
            assert labels["preview_url"] == f"{base}/api/v1/operations/friday-42/previews/2"
