"""Tests of level handles: methods, properties and ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

import otel_progress as progress
from otel_progress import Failure, Outcome, Status
from otel_progress.testing import Recorder


def test_with_block_counts_and_completes(recorder: Recorder) -> None:
    """A block without an exception is a completed level."""
    with progress.operation("survey", "Survey", id="s-1", total=4, unit="file", source="disk") as op:
        recorder.clock.advance(2.0)
        op.increment()
        op.increment(2, message="halfway")
        live = op.snapshot()
    ended = op.snapshot()
    assert (live.status, live.current, live.total, live.ratio, live.message) == (
        Status.RUNNING,
        3,
        4,
        0.75,
        "halfway",
    )
    assert (live.info.name, live.info.unit, live.info.operation_type, live.info.path) == (
        "Survey",
        "file",
        "survey",
        "",
    )
    assert dict(live.metadata) == {"source": "disk"}
    assert (ended.status, ended.current, ended.ratio, ended.duration_s) == (Status.COMPLETED, 3, 0.75, 2.0)


def test_update_changes_only_the_given_values(recorder: Recorder) -> None:
    """Other values stay unchanged, and metadata is merged."""
    with progress.operation("survey", total=10, a=1) as op:
        op.update(current=3, message="three", b=2)
        op.update(total=20)
        op.update(b="two")
        snapshot = op.snapshot()
    assert (snapshot.current, snapshot.total, snapshot.message) == (3, 20, "three")
    assert dict(snapshot.metadata) == {"a": 1, "b": "two"}
    assert recorder.spans()[0].attributes["progress.metadata.b"] == "two"


def test_increment_after_update_adds_to_it(recorder: Recorder) -> None:
    """Increments add to the count that ``update()`` set, also to a lower one."""
    with progress.operation("survey", total=10) as op:
        op.increment(7)
        op.update(current=2)
        op.increment()
        op.increment(1.5)
        assert recorder.operation(op.operation_id).root.current == 4.5


@pytest.mark.usefixtures("recorder")
def test_set_total_can_grow_and_become_unknown() -> None:
    """The ratio is computed from the newest total."""
    with progress.operation("survey") as op:
        op.increment(5)
        ratios = [op.snapshot().ratio]
        for total in (10, 20, None, 5):
            op.set_total(total)
            ratios.append(op.snapshot().ratio)
    assert ratios == [None, 0.5, 0.25, None, 1.0]


def test_items_count_by_outcome_and_are_events(recorder: Recorder) -> None:
    """Each item is a unit and an event with its error."""
    with progress.operation("survey", id="s", total=4) as op, op.level("package", "core") as level:
        level.item("a.py")
        level.item("b.py", outcome="failed", error=ValueError("bad"), size=3)
        level.item("c.py", outcome=Outcome.SKIPPED)
        op.item("readme")
        inner, outer = level.snapshot(), op.snapshot()
    assert (inner.current, inner.completed, inner.failed, inner.skipped) == (3, 1, 1, 1)
    assert outer.current == 1
    failed = recorder.runtime.get_events("s", outcome=Outcome.FAILED)
    assert [(event.name, event.path, dict(event.metadata)) for event in failed] == [
        ("b.py", "package:core", {"size": 3})
    ]
    assert failed[0].error is not None
    assert (failed[0].error.type, failed[0].error.message) == ("ValueError", "bad")
    assert [event.name for event in recorder.runtime.get_events("s", path="package:core")] == [
        "a.py",
        "b.py",
        "c.py",
    ]
    assert [event.number for event in recorder.runtime.get_events("s")] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("end", "status", "message", "ratio"),
    [
        (lambda op: op.complete(), Status.COMPLETED, None, 0.5),
        (lambda op: op.cancel("enough"), Status.CANCELLED, "enough", 0.5),
        (lambda op: op.skip("nothing new"), Status.SKIPPED, "nothing new", 1.0),
        (lambda op: op.fail("broken"), Status.FAILED, None, 0.5),
    ],
)
def test_end_methods_set_status_and_message(
    recorder: Recorder,
    end: Callable[[progress.Level], None],
    status: Status,
    message: str | None,
    ratio: float,
) -> None:
    """Leaving the block afterwards changes nothing."""
    with progress.operation("survey", total=2) as op:
        op.increment()
        end(op)
        recorder.clock.advance(60.0)
    snapshot = op.snapshot()
    assert (snapshot.status, snapshot.message, snapshot.ratio, snapshot.duration_s) == (
        status,
        message,
        ratio,
        0.0,
    )
    assert len(recorder.spans()) == 1


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ("disk full", Failure("error", "disk full")),
        (Failure("Timeout", "slow", "trace"), Failure("Timeout", "slow", "trace")),
    ],
)
def test_fail_accepts_texts_and_failures(recorder: Recorder, error: str | Failure, expected: Failure) -> None:
    """A text or Failure is stored unchanged."""
    op = progress.operation("survey").start()
    op.fail(error)
    assert op.snapshot().error == expected
    assert recorder.spans()[0].attributes["error.type"] == expected.type


class OddError(Exception):
    """An exception of this module."""


@pytest.mark.usefixtures("recorder")
def test_exception_fails_the_level_and_is_raised_unchanged() -> None:
    """The failure has the qualified type, text and traceback of the exception."""
    error = OddError("unlucky")
    with pytest.raises(OddError) as raised, progress.operation("survey") as op:
        raise error
    assert raised.value is error
    failure = op.snapshot().error
    assert failure is not None
    assert (failure.type, failure.message) == (f"{__name__}.OddError", "unlucky")
    assert "raise error" in (failure.details or "")


@pytest.mark.parametrize("kind", [KeyboardInterrupt, asyncio.CancelledError, GeneratorExit])
def test_interruption_cancels_the_level(recorder: Recorder, kind: type[BaseException]) -> None:
    """Exceptions that interrupt the work are not failures."""
    with pytest.raises(kind), progress.operation("survey") as op:
        raise kind
    snapshot = op.snapshot()
    assert (snapshot.status, snapshot.error) == (Status.CANCELLED, None)
    assert recorder.spans()[0].status.is_unset


@pytest.mark.usefixtures("recorder")
def test_system_exit_with_code_fails_the_level() -> None:
    """A block that SystemExit leaves with a code is a failure."""
    with pytest.raises(SystemExit), progress.operation("survey") as op:
        raise SystemExit(2)
    assert op.snapshot().status is Status.FAILED


def test_async_with_is_the_same_as_with(recorder: Recorder) -> None:
    """The level is current in the block, and its threads can count."""

    async def work() -> tuple[str, Status]:
        async with progress.operation("survey", id="s") as op:
            current_id = progress.current_level().operation_id
            async with op.level("step", 1) as step:
                await asyncio.to_thread(step.increment, 2)
        return current_id, step.snapshot().status

    assert asyncio.run(work()) == ("s", Status.COMPLETED)
    assert recorder.operation("s").get_level("step:1").current == 2


def test_handle_starts_at_its_first_use(recorder: Recorder) -> None:
    """No operation exists before the first use of the handle."""
    op = progress.operation("survey", id="s")
    assert not op.recording
    assert recorder.runtime.get_operation("s") is None
    op.increment()
    assert op.recording
    assert op.snapshot().current == 1
    op.complete()
    assert not op.recording


@pytest.mark.parametrize("use", ["path", "operation_id", "span"])
@pytest.mark.usefixtures("recorder")
def test_property_of_handle_starts_it(use: str) -> None:
    """Properties that need a running level start it."""
    op = progress.operation("survey", id="s")
    assert getattr(op, use) is not None
    assert op.recording
    op.complete()


@pytest.mark.usefixtures("recorder")
def test_paths_are_escaped_and_ids_are_numbered() -> None:
    """Segments are escaped as in URLs. Default ids are numbers."""
    with progress.operation("setlist") as op:
        with op.level("song", "a/b:c%d", "A song") as song, song.level("re:al/ly%", 7) as child:
            pass
        with op.level("song") as first, op.level("song") as second:
            pass
        names = [level.snapshot().info.name for level in (op, song, first, second)]
    assert (op.path, song.path, child.path) == ("", "song:a%2Fb:c%25d", "song:a%2Fb:c%25d/re%3Aal%2Fly%25:7")
    assert (first.path, second.path) == ("song:1", "song:2")
    assert names == ["setlist", "A song", "song 1", "song 2"]
    assert op.operation_id.startswith("setlist-")


def test_numbered_ids_skip_explicit_ids(recorder: Recorder) -> None:
    """A level without an id is never an attempt or duplicate of an explicit number."""
    with progress.operation("setlist", id="s") as op:
        with op.level("song", 1):
            pass
        with op.level("song", "2"), op.level("song") as third:
            assert third.snapshot().info.attempt == 1
        with op.level("song"):
            pass
    paths = [level.path for level in recorder.operation("s").levels]
    assert len(paths) == len(set(paths)) == 4
    assert op.snapshot().current == 4


@pytest.mark.usefixtures("recorder")
def test_repr_has_type_path_and_status() -> None:
    """The representation of an operation has an empty path."""
    with progress.operation("setlist") as op, op.level("song", 1) as song:
        assert repr(song) == "<Level 'song' 'song:1' running>"
    assert repr(op) == "<Level 'setlist' '' completed>"


def test_span_accepts_attributes_of_the_caller(recorder: Recorder) -> None:
    """The caller can set attributes of the level's span."""
    with progress.operation("survey") as op:
        op.span.set_attribute("user.key", "value")
    assert recorder.spans()[0].attributes["user.key"] == "value"


def test_spans_have_the_scope_of_their_tracer(recorder: Recorder) -> None:
    """Children have the scope of their parent."""
    tracer = progress.get_tracer("my.library")
    with tracer.operation("survey"), tracer.level("step") as step, step.level("deeper"):
        list(tracer.track([1], "loop"))
        assert tracer.current_level().path == step.path + "/deeper:1"
    with progress.operation("other"):
        pass
    scopes = [span.instrumentation_scope.name for span in recorder.spans()]
    assert scopes == ["my.library"] * 4 + ["otel_progress"]


def test_level_without_parent_is_an_operation(recorder: Recorder) -> None:
    """Its id is the name of the operation."""
    with progress.level("file", "a.txt", total=2) as level:
        assert progress.current_level() is level
    (operation,) = recorder.runtime.get_history()
    assert (operation.operation_type, operation.root.info.name) == ("file", "a.txt")


def test_helpers_without_configure_do_nothing() -> None:
    """All methods can be called, so libraries can use them."""
    with progress.operation("survey", total=3) as op:
        op.increment()
        op.increment(2, message="x")
        op.update(current=float("nan"), total=-1, message="x", key="value")
        op.set_total("many")
        op.item("a", outcome="odd")
        with op.level("step") as step, op.stage("any"), progress.level("other"):
            assert list(step.track([1, 2])) == list(progress.track([1, 2])) == [1, 2]
        for handle in (progress.current_level(), op.level("x"), step):
            handle.fail("x")
            handle.cancel()
            handle.skip()
            handle.complete()
        assert op.span.get_span_context().is_valid is False
        assert (op.path, op.operation_id, op.recording) == ("", "", False)
        assert (op.snapshot().status, op.snapshot().current) == (Status.PENDING, 0)
    assert progress.get_active_operations() == progress.get_history() == progress.get_events("x") == []
    assert progress.get_operation("x") is None
    progress.remove_callback(print)
    with pytest.raises(progress.ConfigurationError, match="configure"):
        progress.add_callback(print)
