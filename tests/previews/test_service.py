"""Who is told of a preview: the span, the events, the snapshots, the metrics, the journal; and for how long it is there."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
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


class Kept:
    """Keeps what is emitted."""

    def __init__(self) -> None:
        self.events: list[LogEvent] = []

    def emit(self, event: LogEvent) -> None:
        """Keep one event."""
        self.events.append(event)

    def close(self) -> None:
        """Do nothing."""


def events_on(recorder: Recorder) -> list[tuple[str, dict[str, Any]]]:
    """Return the events of the first span."""
    return [(event.name, dict(event.attributes or {})) for event in recorder.spans()[0].events]


def test_the_span_tells_of_each_within_its_bound() -> None:
    """A stored preview is an event on its level's span, with its number, name, type and address; there are never more than a span takes."""
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
            semconv.PREVIEW_URL: "https://progress.example.org/p/api/v1/operations/a%2Fb/previews/1",
        },
    )


def test_the_event_log_tells_of_each() -> None:
    """A stored preview is a log event tied to its level's span; those that make room are not told."""
    kept, batches = Kept(), []
    sink = OtlpEvents(kept, address=lambda operation_id, number: f"http://x/{operation_id}/{number}")
    with recording(preview_count=2, preview_at="always") as recorder:
        collect = recorder.runtime._store.collect
        with progress.operation("render", id="r", total=2) as op, op.level("frame", 7) as frame:
            op.increment()
            for number in range(4):
                frame.preview(f"text {number}", "latent")
                settle(recorder)
            batches.append(collect())
            span_id = frame.span.get_span_context().span_id
    assert isinstance(batches[0], ChangeSet)
    assert sum(not preview.location for preview in batches[0].previews) == 2
    sink.write(batches[0])
    told = [event for event in kept.events if event.name == semconv.EVENT_PREVIEW]
    assert [event.attributes[semconv.PREVIEW_NUMBER] for event in told] == [1, 2, 3, 4]
    first = told[0]
    assert (first.span_id, first.body) == (f"{span_id:016x}", "preview 1 latent: http://x/r/1")
    assert first.attributes[semconv.PATH] == "frame:7"
    assert first.attributes[semconv.PREVIEW_URL] == "http://x/r/1"
    assert first.attributes[semconv.RATIO] == 0.5


def test_the_number_of_the_last_is_in_every_view(tmp_path: Path) -> None:
    """Snapshots, the journal and the metrics say how many there are; the metrics say where to look."""
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
        found = recorder.runtime._components.journal.get("r")
        assert found is not None
        assert found.root.previews == 1
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
def test_one_that_is_ready_after_the_end_is_told_as_well(tmp_path: Path, store: str) -> None:
    """The last preview of a run is often made when the run has ended: it is kept and counted all the same."""
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
            found = recorder.runtime._components.journal.get("r")
            assert found is not None
            assert (found.root.previews, found.status.value) == (1, "completed")
    assert not [event for event, _ in events_on(recorder) if event == semconv.EVENT_PREVIEW]


def test_what_is_offered_last_is_stored_before_the_process_ends(tmp_path: Path) -> None:
    """A shutdown waits for previews that are being made, and the journal has them."""
    url = f"sqlite:///{tmp_path}/j.db"
    with recording(store=url) as recorder:
        with progress.operation("render", id="r", total=1) as op:
            op.preview("the result", at="always")
        assert recorder.runtime.shutdown(PATIENCE_S)
    journal = open_journal(url, read_only=True)
    found = journal.previews("r")
    journal.close()
    assert [open_store("auto", tmp_path / "j.db").read(one.location) for one in found] == [b"the result"]


def test_previews_go_when_their_operation_goes(tmp_path: Path) -> None:
    """What deletes an operation, by hand or by the retention, deletes its previews' files; another's stay."""
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


def test_without_a_journal_they_go_with_the_live_operation(recorder: Recorder) -> None:
    """Where progress is kept in memory, so are its previews, and they are deleted with it."""
    with progress.operation("render", id="r", total=1) as op:
        op.preview("text", at="always")
    (found,) = stored(recorder, "r")
    assert found.location.startswith("memory:/")
    recorder.runtime.reader.delete("r")
    settle(recorder)
    with pytest.raises(progress.ProgressError):
        content_of(recorder, found)


def test_another_place_by_its_url(tmp_path: Path) -> None:
    """A URL of fsspec takes the place of the folder: content is written, thinned out and deleted there."""
    fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed: it reaches other places")
    system = fsspec.filesystem("memory")
    settings = {"previews": "memory://told/below", "preview_count": 2, "preview_at": "always"}
    with recording(store=f"sqlite:///{tmp_path}/j.db", **settings) as recorder:
        with progress.operation("render", id="r", total=1) as op:
            for number in range(4):
                recorder.clock.advance(1.0)
                op.preview(f"{number}")
                settle(recorder)
        assert [content_of(recorder, one) for one in stored(recorder, "r")] == [b"0", b"3"]
        assert len(system.find("told")) == 2
        assert recorder.runtime.force_flush(PATIENCE_S)
        recorder.runtime.reader.delete("r")
        settle(recorder)
        assert system.find("told") == []


def test_previews_of_a_level_and_what_is_below(recorder: Recorder) -> None:
    """Previews can be asked for by the path of a level, and the newest of them by number."""
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


def test_the_same_id_again_begins_anew(tmp_path: Path) -> None:
    """A second run of an id has its own previews, from number 1."""
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
begun = threading.Event()
class Slow(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "PIL.ExifTags":  # PIL.Image is half there
            begun.set()
            time.sleep(0.3)
sys.meta_path.insert(0, Slow())
"""
FIRST = "parent.preview(lambda"


@pytest.mark.process
@pytest.mark.parametrize("when", ["at any time", "while PIL is imported"])
def test_a_forked_child_makes_its_own(tmp_path: Path, when: str) -> None:
    """After a fork both go on: the child with its own thread, and without what the parent was making or importing."""
    script = FORK
    if when != "at any time":
        script = SLOW_IMPORT + FORK.replace(
            FIRST, f"parent.preview('not due', at=[1.0])\nassert begun.wait(60)\n{FIRST}"
        )
    url = f"sqlite:///{tmp_path}/j.db"
    environ = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", script, url],
        capture_output=True, text=True, env=environ, timeout=2 * PATIENCE_S,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    journal, store = open_journal(url, read_only=True), open_store("auto", tmp_path / "j.db")
    found = {id_: [store.read(one.location) for one in journal.previews(id_)] for id_ in ("parent", "child")}
    journal.close()
    assert found == {"parent": [b"parent"], "child": [b"child"]}


def test_many_threads_offer_at_once(recorder: Recorder) -> None:
    """Numbers are unique and in order, and everything offered is accounted for."""
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
        found = outcomes(recorder)
        assert sum(found.values()) == 160
        numbers = [one.number for one in stored(recorder, "r")]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == found["stored"]
