"""The handle of a level: what each of its methods does, as a caller and a reader see it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

import otel_progress as progress
from otel_progress import Failure, Outcome, Status
from otel_progress.testing import Recorder


def test_with_completes_and_counts(recorder: Recorder) -> None:
    """A block that ends well is a completed level with what was counted in it."""
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
    assert (ended.status, ended.current, ended.ratio, ended.duration_s) == (Status.COMPLETED, 3, 1.0, 2.0)


def test_update_changes_only_what_is_given(recorder: Recorder) -> None:
    """Everything that update() is not told stays as it was, and metadata is added to."""
    with progress.operation("survey", total=10, a=1) as op:
        op.update(current=3, message="three", b=2)
        op.update(total=20)
        op.update(b="two")
        snapshot = op.snapshot()
    assert (snapshot.current, snapshot.total, snapshot.message) == (3, 20, "three")
    assert dict(snapshot.metadata) == {"a": 1, "b": "two"}
    assert recorder.spans()[0].attributes["progress.metadata.b"] == "two"


def test_update_takes_back_and_increment_goes_on(recorder: Recorder) -> None:
    """A count that is set, also to less, is what later increments add to."""
    with progress.operation("survey", total=10) as op:
        op.increment(7)
        op.update(current=2)
        op.increment()
        op.increment(1.5)
        assert recorder.operation(op.operation_id).root.current == 4.5


@pytest.mark.usefixtures("recorder")
def test_set_total_may_grow_and_be_forgotten() -> None:
    """A total can be learned, corrected, and made unknown again, and the ratio follows."""
    with progress.operation("survey") as op:
        op.increment(5)
        ratios = [op.snapshot().ratio]
        for total in (10, 20, None, 5):
            op.set_total(total)
            ratios.append(op.snapshot().ratio)
    assert ratios == [None, 0.5, 0.25, None, 1.0]


def test_items_count_by_outcome_and_are_remembered(recorder: Recorder) -> None:
    """Each item is one unit, counted by its outcome, and can be asked for with its error."""
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
        (lambda op: op.complete(), Status.COMPLETED, None, 1.0),
        (lambda op: op.cancel("enough"), Status.CANCELLED, "enough", 0.5),
        (lambda op: op.skip("nothing new"), Status.SKIPPED, "nothing new", 1.0),
        (lambda op: op.fail("broken"), Status.FAILED, None, 0.5),
    ],
)
def test_explicit_ends(
    recorder: Recorder,
    end: Callable[[progress.Level], None],
    status: Status,
    message: str | None,
    ratio: float,
) -> None:
    """A handle used by hand ends as it is told, and leaving a block afterwards changes nothing."""
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
def test_fail_takes_texts_and_failures(recorder: Recorder, error: str | Failure, expected: Failure) -> None:
    """What is no exception is kept as it was given."""
    op = progress.operation("survey").start()
    op.fail(error)
    assert op.snapshot().error == expected
    assert recorder.spans()[0].attributes["error.type"] == expected.type


class OddError(Exception):
    """An error of this module."""


@pytest.mark.usefixtures("recorder")
def test_an_exception_fails_and_goes_on_unchanged() -> None:
    """The very exception comes out, and the level knows its qualified type, text and traceback."""
    error = OddError("unlucky")
    with pytest.raises(OddError) as caught, progress.operation("survey") as op:
        raise error
    assert caught.value is error
    failure = op.snapshot().error
    assert failure is not None
    assert (failure.type, failure.message) == (f"{__name__}.OddError", "unlucky")
    assert "raise error" in (failure.details or "")


@pytest.mark.parametrize("kind", [KeyboardInterrupt, asyncio.CancelledError, GeneratorExit])
def test_being_stopped_is_cancelled_not_failed(recorder: Recorder, kind: type[BaseException]) -> None:
    """Exceptions by which somebody stops the work mark it cancelled, and no error."""
    with pytest.raises(kind), progress.operation("survey") as op:
        raise kind
    snapshot = op.snapshot()
    assert (snapshot.status, snapshot.error) == (Status.CANCELLED, None)
    assert recorder.spans()[0].status.is_unset


@pytest.mark.usefixtures("recorder")
def test_exit_is_a_failure() -> None:
    """A block left by SystemExit has not done its work."""
    with pytest.raises(SystemExit), progress.operation("survey") as op:
        raise SystemExit(2)
    assert op.snapshot().status is Status.FAILED


def test_async_with(recorder: Recorder) -> None:
    """The asynchronous block is the same level, current inside and gone after."""

    async def work() -> tuple[str, Status]:
        async with progress.operation("survey", id="s") as op:
            inside = progress.current_level().operation_id
            async with op.level("step", 1) as step:
                await asyncio.to_thread(step.increment, 2)
        return inside, step.snapshot().status

    assert asyncio.run(work()) == ("s", Status.COMPLETED)
    assert recorder.operation("s").get_level("step:1").current == 2


def test_a_handle_begins_when_first_used(recorder: Recorder) -> None:
    """Nothing exists before the first use, and any use begins it."""
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
def test_looking_at_a_handle_begins_it(use: str) -> None:
    """A property that only exists while something runs begins the level."""
    op = progress.operation("survey", id="s")
    assert getattr(op, use) is not None
    assert op.recording
    op.complete()


@pytest.mark.usefixtures("recorder")
def test_paths_and_names() -> None:
    """Paths are type:id segments, escaped as in URLs; ids are numbered and names follow when not given."""
    with progress.operation("setlist") as op:
        with op.level("song", "a/b:c%d", "A song") as song, song.level("re:al/ly%", 7) as odd:
            pass
        with op.level("song") as first, op.level("song") as second:
            pass
        names = [level.snapshot().info.name for level in (op, song, first, second)]
    assert (op.path, song.path, odd.path) == ("", "song:a%2Fb:c%25d", "song:a%2Fb:c%25d/re%3Aal%2Fly%25:7")
    assert (first.path, second.path) == ("song:1", "song:2")
    assert names == ["setlist", "A song", "song 1", "song 2"]
    assert op.operation_id.startswith("setlist-")


def test_explicit_and_numbered_ids_do_not_meet(recorder: Recorder) -> None:
    """A level without an id is never taken for another attempt, or a duplicate, of one whose id is a number."""
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
def test_repr_says_what_it_is() -> None:
    """A handle shows type, place and status."""
    with progress.operation("setlist") as op, op.level("song", 1) as song:
        assert repr(song) == "<Level 'song' 'song:1' running>"
    assert repr(op) == "<Level 'setlist' '' completed>"


def test_the_span_is_the_callers_to_add_to(recorder: Recorder) -> None:
    """Attributes and events of one's own go on the level's span."""
    with progress.operation("survey") as op:
        op.span.set_attribute("user.key", "value")
    assert recorder.spans()[0].attributes["user.key"] == "value"


def test_a_library_scope_names_the_tracer(recorder: Recorder) -> None:
    """Spans carry the name of the tracer they came from, and so do those below them."""
    tracer = progress.get_tracer("my.library")
    with tracer.operation("survey"), tracer.level("step") as step, step.level("deeper"):
        list(tracer.track([1], "loop"))
        assert tracer.current_level().path == step.path + "/deeper:1"
    with progress.operation("other"):
        pass
    scopes = [span.instrumentation_scope.name for span in recorder.spans()]
    assert scopes == ["my.library"] * 4 + ["otel_progress"]


def test_a_level_outside_of_any_operation_is_one(recorder: Recorder) -> None:
    """A level with nothing above it is an operation of its own."""
    with progress.level("file", "a.txt", total=2) as level:
        assert progress.current_level() is level
    assert recorder.operation("a.txt").operation_type == "file"


def test_without_configure_everything_is_inert() -> None:
    """Every method is there and does nothing, so libraries can use them."""
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
