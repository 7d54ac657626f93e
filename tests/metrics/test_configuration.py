"""Metrics of a configured process, on the port of the worker and of its server."""

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
from tests.support.factories import make_change_set, preview, snapshot
from tests.support.metrics_server import PATIENCE_S


def scrape(url: str | None) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Return the labels and values of the samples at a URL, by name."""
    assert url is not None
    with urllib.request.urlopen(
        f"{url.rstrip('/').removesuffix('/metrics')}/metrics", timeout=PATIENCE_S
    ) as answer:
        text = answer.read().decode()
    result: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            result.setdefault(sample.name, []).append((dict(sample.labels), sample.value))
    return result


def test_journal_size_is_exported_on_both_ports(tmp_path: Path) -> None:
    """It is the size of the files of the journal."""
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
            ((_, size),) = scrape(url)[semconv.JOURNAL_SIZE.prometheus]
            assert size >= before > 0


def test_journal_size_without_a_journal_is_absent() -> None:
    """The caps are exported."""
    with recording(store="memory:", prometheus_port=0) as recorder:
        result = scrape(recorder.runtime.metrics_url)
        assert semconv.JOURNAL_SIZE.prometheus not in result
        assert len(result[semconv.SERIES_LIMIT.prometheus]) == 3


@pytest.mark.parametrize("public_url", [None, "https://progress.example.org/board"])
def test_preview_url_uses_the_public_url_or_that_of_the_server(
    tmp_path: Path, public_url: str | None
) -> None:
    """The public URL takes precedence."""
    pytest.importorskip("fastapi")
    from otel_progress.server.uvicorn_server import Server

    with closing(SqliteJournal(tmp_path / "p.db")) as journal:
        journal.write(make_change_set(snapshot(previews=2), previews=[preview(2)]))
        with Server(journal, port=0, public_url=public_url) as server:
            ((labels, _),) = scrape(server.url)[semconv.OPERATION_INFO.prometheus]
            base = (public_url or server.url).rstrip("/")
            assert labels["preview_url"] == f"{base}/api/v1/operations/friday-42/previews/2"
