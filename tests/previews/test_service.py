"""Preview service: reports to spans, events, journal and metrics, and deletion."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import otel_progress as progress
from otel_progress import semconv
from otel_progress.journal import open_journal
from otel_progress.otlp.events import OtlpEvents
from otel_progress.otlp.sdk_compat import LogEvent
from otel_progress.previews.stores import open_store
from otel_progress.protocols import ChangeSet
from otel_progress.testing import Recorder, recording
from tests.support.previews import PATIENCE_S, content_of, outcomes, settle, stored


class EventList:
    """An emitter that stores its events."""

    def __init__(self) -> None:
        self.events: list[LogEvent] = []

    def emit(self, event: LogEvent) -> None:
        """Store one event."""
        self.events.append(event)

    def close(self) -> None:
        """Do nothing."""


def events_on(recorder: Recorder) -> list[tuple[str, dict[str, Any]]]:
    """Return the events of the first span."""
    return [(event.name, dict(event.attributes or {})) for event in recorder.spans()[0].events]


def test_span_of_a_level_has_an_event_per_preview_up_to_a_limit() -> None:
    """The event has the preview's number, name, media type and URL."""
    with recording(public_url="https://progress.example.org/p/") as recorder:
        with progress.operation("render", id="a/b", total=1) as op:
            for number in range(12):
                op.preview(f"text {number}", "latent", at="always")
                settle(recorder)
        events = events_on(recorder)
    assert len(events) == 6
    assert events[0] == (
        semconv.EVENT_PREVIEW,
        {
            semconv.PREVIEW_NAME: "latent",
            semconv.PREVIEW_NUMBER: 1,
            semconv.PREVIEW_MEDIA_TYPE: "text/plain; charset=utf-8",
            semconv.PREVIEW_URL: "https://progress.example.org/p/api/v1/operations/~/previews/1?id=a%2Fb",
        },
    )


def test_otlp_events_of_stored_previews_are_emitted_and_of_removed_ones_are_not() -> None:
    """The event is tied to the span of the level."""
    emitter, change_sets = EventList(), []
    sink = OtlpEvents(emitter, address=lambda operation_id, number: f"http://x/{operation_id}/{number}")
    with recording(preview_count=2, preview_at="always") as recorder:
        collect = recorder.runtime._store.collect
        with progress.operation("render", id="r", total=2) as op, op.level("frame", 7) as frame:
            op.increment()
            for number in range(4):
                frame.preview(f"text {number}", "latent")
                settle(recorder)
            change_sets.append(collect())
            span_id = frame.span.get_span_context().span_id
    assert isinstance(change_sets[0], ChangeSet)
    assert sum(not preview.location for preview in change_sets[0].previews) == 2
    sink.write(change_sets[0])
    events = [event for event in emitter.events if event.name == semconv.EVENT_PREVIEW]
    assert [event.attributes[semconv.PREVIEW_NUMBER] for event in events] == [1, 2, 3, 4]
    first = events[0]
    assert (first.span_id, first.body) == (f"{span_id:016x}", "preview 1 latent: http://x/r/1")
    assert first.attributes[semconv.PATH] == "frame:7"
    assert first.attributes[semconv.PREVIEW_URL] == "http://x/r/1"
    assert first.attributes[semconv.RATIO] == 0.5


def test_number_of_the_last_preview_is_in_snapshots_journal_and_metrics(tmp_path: Path) -> None:
    """The metrics contain its URL as well."""
    from prometheus_client import CollectorRegistry, generate_latest

    from otel_progress.metrics import ProgressCollector

    url = f"sqlite:///{tmp_path}/j.db"
    with (
        recording(store=url, public_url="https://p.example.org") as recorder,
        progress.operation("render", id="r", total=1) as op,
    ):
        assert op.snapshot().previews == 0
        op.preview("text", at="always")
        settle(recorder)
        assert (op.snapshot().previews, recorder.operation("r").root.previews) == (1, 1)
        assert recorder.runtime.force_flush(PATIENCE_S)
        assert recorder.runtime._components.journal is not None
        operation = recorder.runtime._components.journal.get("r")
        assert operation is not None
        assert operation.root.previews == 1
        registry = CollectorRegistry()
        registry.register(
            ProgressCollector(
                recorder.runtime._store.reader,
                totals=recorder.runtime._totals,
                public_url="https://p.example.org",
            )
        )
        text = generate_latest(registry).decode()
    assert 'preview_url="https://p.example.org/api/v1/operations/r/previews/1"' in text
    assert 'progress_previews_total{outcome="stored"} 1.0' in text


@pytest.mark.parametrize("store", ["memory:", "sqlite"])
def test_preview_rendered_after_the_end_is_stored(tmp_path: Path, store: str) -> None:
    """The last preview of a run is often rendered after its end."""
    gate = threading.Event()
    url = store if store == "memory:" else f"sqlite:///{tmp_path}/j.db"
    with recording(store=url) as recorder:
        with progress.operation("render", id="r", total=1) as op:
            op.preview(lambda: "late" if gate.wait(PATIENCE_S) else "", at="always")
        recorder.runtime._ticker.tick()
        gate.set()
        assert [content_of(recorder, one) for one in stored(recorder, "r")] == [b"late"]
        assert recorder.operation("r").root.previews == 1
        assert recorder.runtime.force_flush(PATIENCE_S)
        if recorder.runtime._components.journal is not None:
            assert [one.number for one in recorder.runtime._components.journal.previews("r")] == [1]
            operation = recorder.runtime._components.journal.get("r")
            assert operation is not None
            assert (operation.root.previews, operation.status.value) == (1, "completed")
    assert not [event for event, _ in events_on(recorder) if event == semconv.EVENT_PREVIEW]


def test_shutdown_waits_for_the_last_preview(tmp_path: Path) -> None:
    """The journal contains the preview."""
    url = f"sqlite:///{tmp_path}/j.db"
    with recording(store=url) as recorder:
        with progress.operation("render", id="r", total=1) as op:
            op.preview("the result", at="always")
        assert recorder.runtime.shutdown(PATIENCE_S)
    journal = open_journal(url, read_only=True)
    previews = journal.previews("r")
    journal.close()
    contents = [open_store("auto", tmp_path / "j.db").read(preview.location) for preview in previews]
    assert contents == [b"the result"]


def test_deleting_an_operation_deletes_only_its_preview_files(tmp_path: Path) -> None:
    """The files of other operations stay."""
    folder = tmp_path / "j-previews"
    with recording(store=f"sqlite:///{tmp_path}/j.db", preview_at="always") as recorder:
        for id_ in ("one", "two"):
            with progress.operation("render", id=id_, total=1) as op:
                for text in ("a", "b"):
                    op.preview(text)
                    settle(recorder)
        assert recorder.runtime.force_flush(PATIENCE_S)
        assert len(list(folder.rglob("*.txt"))) == 4
        assert recorder.runtime.reader.delete("one") == 1
        settle(recorder)
        assert len(list(folder.rglob("*.txt"))) == 2
        assert stored(recorder, "one") == []
        assert len(stored(recorder, "two")) == 2


def test_deleting_a_live_operation_deletes_its_previews_in_memory(recorder: Recorder) -> None:
    """Without a journal, previews are stored in memory."""
    with progress.operation("render", id="r", total=1) as op:
        op.preview("text", at="always")
    (preview,) = stored(recorder, "r")
    assert preview.location.startswith("memory:/")
    recorder.runtime.reader.delete("r")
    settle(recorder)
    with pytest.raises(progress.ProgressError):
        content_of(recorder, preview)


def test_previews_at_an_fsspec_url_are_written_thinned_and_deleted_there(tmp_path: Path) -> None:
    """The URL replaces the folder next to the journal."""
    fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed: it reaches other places")
    system = fsspec.filesystem("memory")
    settings = {"previews": "memory://bucket/below", "preview_count": 2, "preview_at": "always"}
    with recording(store=f"sqlite:///{tmp_path}/j.db", **settings) as recorder:
        with progress.operation("render", id="r", total=1) as op:
            for number in range(4):
                recorder.clock.advance(1.0)
                op.preview(f"{number}")
                settle(recorder)
        assert [content_of(recorder, one) for one in stored(recorder, "r")] == [b"0", b"3"]
        assert len(system.find("bucket")) == 2
        assert recorder.runtime.force_flush(PATIENCE_S)
        recorder.runtime.reader.delete("r")
        settle(recorder)
        assert system.find("bucket") == []


def test_reader_returns_previews_by_path_and_limit(recorder: Recorder) -> None:
    """A path includes the levels below it. A limit selects the latest ones."""
    with (
        progress.operation("render", id="r", total=1) as op,
        op.level("frame", 1) as frame,
        frame.level("pass", 2) as below,
    ):
        for level in (op, frame, below):
            level.preview(level.path, at="always")
            settle(recorder)
        reader = recorder.runtime.reader
        assert [one.path for one in reader.previews("r")] == ["", "frame:1", "frame:1/pass:2"]
        assert [one.path for one in reader.previews("r", path="frame:1")] == ["frame:1", "frame:1/pass:2"]
        assert [one.number for one in reader.previews("r", limit=1)] == [3]
        assert list(reader.previews("r", limit=0)) == list(reader.previews("unknown")) == []


def test_second_run_of_an_id_numbers_its_previews_from_one(tmp_path: Path) -> None:
    """Each run has its own previews."""
    with recording(store=f"sqlite:///{tmp_path}/j.db") as recorder:
        for text in ("first run", "second run"):
            with progress.operation("render", id="r", total=1) as op:
                op.preview(text, at="always")
                settle(recorder)
            assert recorder.runtime.force_flush(PATIENCE_S)
            assert [(one.number, content_of(recorder, one).decode()) for one in stored(recorder, "r")] == [
                (1, text)
            ]


FORK = """
import os, sys, threading
import otel_progress as progress
gate = threading.Event()
runtime = progress.configure(store=sys.argv[1], console=False, resources=False, preview_at="always")
parent = progress.operation("parent", id="parent", total=1).start()
parent.preview(lambda: "parent" if gate.wait(60) else "")
pid = os.fork()
if pid == 0:
    parent.preview("inherited")
    with progress.operation("child", id="child", total=1) as op:
        op.preview("child")
    os._exit(0 if runtime.shutdown(60) else 1)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
gate.set()
parent.complete()
assert runtime.shutdown(60)
"""


SLOW_IMPORT = """
import importlib.abc, sys, threading, time
started = threading.Event()
class Slow(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "PIL.ExifTags":  # PIL.Image is imported in part
            started.set()
            time.sleep(0.3)
sys.meta_path.insert(0, Slow())
"""
FIRST = "parent.preview(lambda"


@pytest.mark.process
@pytest.mark.parametrize("when", ["at any time", "while PIL is imported"])
def test_forked_child_renders_its_own_previews(tmp_path: Path, when: str) -> None:
    """The child does not repeat what the parent was rendering or importing.

    Its preview on the inherited handle belongs to the parent's operation.
    """
    script = FORK
    if when != "at any time":
        script = SLOW_IMPORT + FORK.replace(
            FIRST, f"parent.preview('not due', at=[1.0])\nassert started.wait(60)\n{FIRST}"
        )
    url = f"sqlite:///{tmp_path}/j.db"
    environ = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", script, url],
        capture_output=True, text=True, env=environ, timeout=2 * PATIENCE_S,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    journal, store = open_journal(url, read_only=True), open_store("auto", tmp_path / "j.db")
    contents = {
        id_: sorted(store.read(preview.location) for preview in journal.previews(id_))
        for id_ in ("parent", "child")
    }
    journal.close()
    assert contents == {"parent": [b"inherited", b"parent"], "child": [b"child"]}


def test_previews_of_many_threads_have_unique_numbers(recorder: Recorder) -> None:
    """Each offered preview is counted once."""
    with progress.operation("render", id="r", total=1) as op:

        def work(index: int) -> None:
            with op.level("frame", index) as frame:
                for step in range(20):
                    frame.preview(f"{index} {step}", at="always")

        threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        counts = outcomes(recorder)
        assert sum(counts.values()) == 160
        numbers = [preview.number for preview in stored(recorder, "r")]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == counts["stored"]


def test_offer_interrupted_after_it_was_queued_releases_its_level_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A signal handler raises before the caller receives the result of the queue."""
    with recording(strict=False) as recorder, progress.operation("render", id="r") as op:
        service = recorder.runtime._previews
        assert service is not None
        worker, offer = service._worker, service._worker.offer
        is_released = threading.Event()

        def offer_and_raise(job: Callable[[], None]) -> bool:
            """Queue a job that runs after the exception."""
            assert offer(lambda: (is_released.wait(PATIENCE_S), job())[1])
            raise KeyboardInterrupt

        monkeypatch.setattr(worker, "offer", offer_and_raise)
        with pytest.raises(KeyboardInterrupt):
            op.preview("interrupted", at="always")
        is_released.set()
        assert recorder.runtime.force_flush(PATIENCE_S)
        monkeypatch.undo()
        op.preview("next", at="always")
        assert [content_of(recorder, preview) for preview in stored(recorder, "r")] == [b"next"]
    assert caplog.text == ""
