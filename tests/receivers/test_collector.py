"""A program that exports through a real collector (rotel) to a server of ours."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra 'server' is not installed")

import otel_progress as progress
from otel_progress.journal import SqliteJournal
from otel_progress.model import LevelSnapshot
from otel_progress.processes import is_otlp_host
from otel_progress.receivers.receiver import Receiver
from otel_progress.server.uvicorn_server import Server
from otel_progress.testing import recording
from tests.support import servers
from tests.support.rotel import running_rotel

pytestmark = pytest.mark.server

FLUSH_S = 60.0


def describe(level: LevelSnapshot) -> tuple[object, ...]:
    """Return values of a level that arrive unchanged."""
    return (level.path, level.info.run, level.status, level.current, level.total, level.info.span_id)


def test_operation_through_a_collector_equals_the_original(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The collector batches and encodes the events again."""
    with (
        closing(SqliteJournal(tmp_path / "progress.db")) as journal,
        Server(journal, port=0, receiver=Receiver(journal)) as server,
        running_rotel(tmp_path, server.url.rstrip("/")) as endpoints,
    ):
        monkeypatch.setenv("no_proxy", "*")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoints["http/protobuf"])
        with recording(otlp=True) as recorder:
            with progress.operation("setlist", id="friday-42", total=2) as setlist:
                for song in ("intro", "outro"):
                    with setlist.level("song", id=song, total=3) as level:
                        level.increment(3)
                    setlist.increment()
                    recorder.tick()
            recorder.tick()
            assert recorder.runtime.force_flush(FLUSH_S)
            expected = recorder.operation("friday-42")
            servers.poll(lambda: journal.history() or None, FLUSH_S, what="the end of the operation")
        found = journal.get("friday-42")
        assert found is not None
        levels = sorted(map(describe, (found.root, *found.levels)), key=repr)
        assert levels == sorted(map(describe, (expected.root, *expected.levels)), key=repr)
        assert found.instance is not None
        assert is_otlp_host(found.instance.host)
