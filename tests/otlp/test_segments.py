"""Segment spans of a long operation through real OTLP exporters."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

import otel_progress as progress
from otel_progress import semconv
from otel_progress.journal import SqliteJournal
from otel_progress.otlp.exporters import build_resource, build_tracer_provider
from otel_progress.testing import recording
from tests.support import servers
from tests.support.otlp_receiver import Receiver as StoringReceiver
from tests.support.otlp_receiver import attributes, receiving

pytestmark = pytest.mark.server

FLUSH_S = 60.0
LIMIT_S = 100.0


def export_to(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point the standard variables at a receiver."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", str(int(FLUSH_S)))


def count_spans(receiver: StoringReceiver) -> int:
    """Return the number of received spans."""
    return len(receiver.spans())


def test_segments_arrive_when_they_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The operation is still running when its first two segments have arrived."""
    with receiving() as receiver:
        export_to(f"http://127.0.0.1:{receiver.port}", monkeypatch)
        provider = build_tracer_provider("nightly", otlp=True, instance_id="worker-1")
        with recording(segment_after=LIMIT_S, provider=provider) as recorder:
            with progress.operation("backup", id="b", total=3) as op:
                for number in range(2):
                    op.increment()
                    recorder.tick()
                    recorder.clock.advance(LIMIT_S)
                    recorder.tick()
                    assert provider.force_flush(int(FLUSH_S * 1000))
                    assert count_spans(receiver) == number + 1
                op.increment()
            assert provider.force_flush(int(FLUSH_S * 1000))
        provider.shutdown()
        spans = sorted(
            (span for _, span in receiver.spans()), key=lambda span: int(span.start_time_unix_nano)
        )
    found = [attributes(span) for span in spans]
    assert [values[semconv.SEGMENT] for values in found] == [1, 2, 3]
    assert [values[semconv.STATUS] for values in found] == ["running", "running", "completed"]
    assert [values[semconv.CURRENT] for values in found] == [1, 2, 3]
    assert len({values[semconv.RUN] for values in found}) == 1
    ids = [span.span_id for span in spans]
    assert [[link.span_id for link in span.links] for span in spans] == [[], ids[:1], ids[:2]]
    assert [attributes(link)[semconv.SEGMENT] for link in spans[2].links] == [1, 2]


@pytest.mark.parametrize("sends_end", [True, False], ids=["with-events", "end-event-lost"])
def test_ended_segment_does_not_end_the_received_operation(
    sends_end: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The receiver merges events and spans. The last span replaces a lost event."""
    pytest.importorskip("fastapi", reason="the extra 'server' is not installed")
    from otel_progress.receivers.receiver import Receiver
    from otel_progress.server.uvicorn_server import Server

    with (
        closing(SqliteJournal(tmp_path / "progress.db")) as journal,
        Server(journal, port=0, receiver=Receiver(journal)) as server,
    ):
        export_to(server.url.rstrip("/"), monkeypatch)
        # Why: a provider of the runtime itself has the same process.
        resource = build_resource("nightly", "worker-1")
        monkeypatch.setattr("otel_progress.runtime.builder.build_resource", lambda *_, **__: resource)
        provider = build_tracer_provider("nightly", otlp=True, instance_id="worker-1")
        with recording(otlp=True, segment_after=LIMIT_S, provider=provider) as recorder:
            op = progress.operation("backup", id="b", total=3).start()
            op.increment()
            recorder.tick()
            recorder.clock.advance(LIMIT_S)
            recorder.tick()
            assert recorder.runtime.force_flush(FLUSH_S)
            assert provider.force_flush(int(FLUSH_S * 1000))
            (running,) = journal.active()
            assert running.root.current == 1
            if not sends_end:
                monkeypatch.setattr(recorder.runtime._components.sink_workers[-1], "submit", lambda _: None)
            op.increment(2)
            op.complete()
            recorder.tick()
            assert recorder.runtime.force_flush(FLUSH_S) or not sends_end
            assert provider.force_flush(int(FLUSH_S * 1000))
            (ended,) = servers.poll(journal.history, FLUSH_S, what="the end of the operation")
        provider.shutdown()
    assert (ended.status, ended.root.current, ended.run) == (progress.Status.COMPLETED, 3, running.run)
