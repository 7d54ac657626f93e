"""Tests of calls and exceptions in the middle of starts, ends, counts and queries."""

from __future__ import annotations

import gc
import logging
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator

import pytest
from opentelemetry import context as context_api
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

import otel_progress as progress
from otel_progress import semconv
from otel_progress.instrument.backend import BATCH_KEY, LEVEL_KEY
from otel_progress.instrument.context import get_current_batch, get_current_level
from otel_progress.testing import Recorder, recording
from tests.support.examples import scale_examples
from tests.support.interruptions import Interrupter, Raiser, fail_on_deadlock

CORE = frozenset({"state.py", "tree.py", "store.py", "lifecycle.py", "level.py", "context.py"})
"""Files whose bytecodes are interrupted. The lines of all files are."""

BLOCK_FILES = CORE | {"blocks.py", "batch.py", "batches.py", "interruptions.py", "pauses.py", "opaque.py"}
"""The same for blocks of batches, pauses and opaque steps."""

MAX_POINTS_PER_TEST = scale_examples(150)
"""Exceptions of one test, evenly spread over all places. The offset depends on the scenario."""


@pytest.fixture(autouse=True)
def watchdog() -> Iterator[None]:
    """End the process with all stacks on a deadlock."""
    with fail_on_deadlock():
        yield


# --- calls at every line -------------------------------------------------------------------------


class Handler:
    """Uses the package as a signal handler of the work does."""

    def __init__(self, recorder: Recorder) -> None:
        self.runtime = recorder.runtime
        self.level: progress.Level | None = None
        self.counted = self.started = 0

    def count(self) -> None:
        """Count one unit of the work's level."""
        if self.level is not None:
            self.counted += self.level.recording
            self.level.increment()

    def start_operation(self) -> None:
        """Start, count and end an operation."""
        self.started += 1
        with progress.operation("nested") as operation:
            operation.increment()
            operation.increment(2)

    def start_level(self) -> None:
        """Start, count and end a level below the work's."""
        if self.level is not None and self.level.recording:
            with self.level.level("nested") as level:
                level.increment()
                self.started += 1

    def change(self) -> None:
        """Change the work's level."""
        if self.level is not None:
            self.level.update(message="handled", key=1)
            self.level.item("i", outcome="failed")
            self.level.preview("text")

    def query(self) -> None:
        """Query operations, levels and events."""
        for operation in self.runtime.get_active_operations():
            assert operation.root.current >= 0
        assert len(self.runtime.get_history()) <= 5
        if self.level is not None:
            assert self.level.snapshot().info.type == "job"
            assert self.level.eta is None or self.level.eta.remaining_s >= 0
        self.runtime.get_events("job")

    def use_runtime(self) -> None:
        """Use callbacks, logging, batches and requests."""

        def callback(event: object, operation: object) -> None: ...

        self.runtime.add_callback(callback)
        self.runtime.remove_callback(callback)
        logging.getLogger("application").warning("handled")
        with progress.batch("b", id="b") as batch:
            batch.set_total(3)
            batch.snapshot()
        self.runtime.request_cancel("unknown")

    def flush(self) -> None:
        """Flush without waiting."""
        self.runtime.force_flush(0.0)


def work(recorder: Recorder, handler: Handler) -> None:
    """Use most of the package once."""
    with progress.operation("job", id="job", total=10, stages={"a": 1, "b": 2}) as operation:
        handler.level = operation
        operation.increment()
        operation.increment(2)
        operation.update(message="work", total=12)
        with operation.stage("a") as stage:
            stage.increment()
        with operation.stage("b") as stage:
            for _ in stage.track(range(3)):
                pass
            with stage.level("part", 1) as part:
                part.item("i")
                part.item("j", outcome="failed", error="e")
            with stage.level("part", 1) as part:
                part.increment()
        operation.snapshot()
        recorder.operation("job")
        recorder.tick()
        with operation.paused("waiting"):
            pass
        with operation.opaque(3):
            pass
        operation.level("unfinished").start()
        operation.update(total=-1)
        logging.getLogger("application").warning("work")
        with progress.batch("b", id="b") as batch, batch.operation("member"):
            pass
    recorder.tick()


@pytest.mark.parametrize(
    "act",
    [
        Handler.count,
        Handler.start_operation,
        Handler.start_level,
        Handler.change,
        Handler.query,
        Handler.use_runtime,
        Handler.flush,
    ],
    ids=lambda act: act.__name__,
)
def test_call_at_every_line_of_the_package_raises_nothing_and_loses_nothing(
    lenient: Recorder, act: Callable[[Handler], None]
) -> None:
    """Counts and ends of the work and of the handler are exact."""
    events: Counter[tuple[str, str]] = Counter()
    lenient.runtime.add_callback(lambda event, operation: events.update([(event, operation.run)]), 0.0)
    handler = Handler(lenient)
    interrupter = Interrupter(lambda: act(handler))
    interrupter.run(lambda: work(lenient, handler))
    lenient.tick()
    assert interrupter.errors == []
    assert interrupter.calls > 500
    assert lenient.runtime.get_active_operations() == []
    state = lenient.runtime._store._state
    assert not state.tree.active
    assert not state.guard
    job = next(operation for operation in state.ended if operation.id == "job").root
    assert job is not None
    assert job.status is progress.Status.COMPLETED
    assert job.children is not None
    assert job.children.running == 0
    assert job.children.partial_weight == 0
    if act in (Handler.count, Handler.start_level, Handler.query, Handler.use_runtime):
        assert job.counter is not None
        assert job.counter.value() == 3 + handler.counted
    if act is Handler.start_level:
        # Why fewer: a handler may start a level while the operation ends.
        rejected = lenient.runtime._totals.read().counters.get(semconv.UPDATES_REJECTED, {})
        assert job.children.done_weight + rejected.get(("ended",), 0) == handler.started
    if act is Handler.start_operation:
        lenient.runtime.force_flush()
        ends = Counter(event for event, _ in events.elements())
        assert ends["started"] == ends["completed"] == handler.started + 2
    assert {number for (event, _), number in events.items() if event != "updated"} == {1}


def test_call_at_every_bytecode_of_a_start_and_an_end_loses_nothing(lenient: Recorder) -> None:
    """A handler that starts and ends an operation interrupts one that does the same."""
    handler = Handler(lenient)
    interrupter = Interrupter(handler.start_operation, event="opcode", files=CORE)

    def start_and_end() -> None:
        with progress.operation("job", id="job", total=2) as operation:
            operation.increment()
            with operation.level("part"):
                pass

    interrupter.run(start_and_end)
    lenient.tick()
    assert interrupter.errors == []
    assert interrupter.calls > 500
    assert lenient.runtime.get_active_operations() == []
    spans = Counter(span.name for span in lenient.spans())
    assert spans == {"nested": handler.started, "job": 1, "part": 1}


# --- exceptions at every line --------------------------------------------------------------------


def enter_levels() -> None:
    with progress.operation("job") as operation, operation.level("part") as part:
        part.increment()
        operation.increment()


def fail_in_stage() -> None:
    try:
        with progress.operation("job", stages={"a": 1, "b": 1}) as operation:
            with operation.stage("a"):
                pass
            with operation.stage("b") as stage:
                with stage.level("x", 1):
                    pass
                with stage.level("x", 1):
                    raise LookupError("failure of the work")
    except LookupError:
        pass


def track() -> None:
    for _ in progress.track(range(2)):
        pass


def track_shared() -> None:
    iterator = iter(progress.track(range(2)))
    assert list(iterator) == [0, 1]


def track_other_iterable() -> None:
    for _ in progress.track({"a": 1, "b": 2}):
        pass


def track_nested() -> None:
    for _ in progress.track(range(2)):
        for _ in enumerate(progress.track(range(2))):
            for _ in progress.track("a"):
                pass


def track_in_zip() -> None:
    assert list(zip("ab", progress.track(range(2)), strict=False)) == [("a", 0), ("b", 1)]


async def _track_in_coroutine() -> None:
    async def produce() -> AsyncIterator[int]:
        yield 1
        yield 2

    async with progress.operation("job") as operation, operation.level("part") as part:
        async for _ in part.track(produce()):
            pass


def track_in_coroutine() -> None:
    run_coroutine(_track_in_coroutine())


def enter_batch() -> None:
    with progress.batch("b", id="b"), progress.operation("job"):
        pass


def pause() -> None:
    with progress.operation("job") as job, job.paused("waiting"), job.paused("for others"):
        pass


def mark_opaque() -> None:
    with progress.operation("job", stages=("a", "b")) as operation:
        with operation.stage("a").opaque(5):
            pass
        with operation.stage("b") as stage, stage.opaque(5):
            pass


def run_coroutine(coroutine: Coroutine[object, object, None]) -> None:
    """Run a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    finally:
        coroutine.close()


SCENARIOS = [
    enter_levels,
    fail_in_stage,
    track,
    track_shared,
    track_other_iterable,
    track_nested,
    track_in_zip,
    track_in_coroutine,
    enter_batch,
    pause,
    mark_opaque,
]


def count_points(scenario: Callable[[], None], event: str, files: frozenset[str]) -> int:
    """Return the number of places of a scenario."""
    counter = Interrupter(lambda: None, event=event, files=files)
    counter.run(scenario)
    return counter.calls


@pytest.mark.parametrize("event", ["line", "opcode"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_exception_in_a_start_or_an_end_reaches_the_caller_and_leaves_nothing_running(
    lenient: Recorder, scenario: Callable[[], None], event: str
) -> None:
    """The next operation works. The kinds of exceptions alternate."""
    raise_at_places(lenient, scenario, event, MAX_POINTS_PER_TEST)


@pytest.mark.slow
@pytest.mark.parametrize("event", ["line", "opcode"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_exception_at_every_place_reaches_the_caller_and_leaves_nothing_running(
    lenient: Recorder, scenario: Callable[[], None], event: str
) -> None:
    """All places of the test above."""
    raise_at_places(lenient, scenario, event, 100_000)


def raise_at_places(lenient: Recorder, scenario: Callable[[], None], event: str, max_points: int) -> None:
    """Raise at places of a scenario, and check the state after each.

    There are about ``max_points`` places at most.
    """
    files = BLOCK_FILES if event == "opcode" else frozenset()
    scenario()  # fills the caches, which the first use of each place does
    points = count_points(scenario, event, files)
    state = lenient.runtime._store._state
    initial = context_api.get_current()
    before = initial.get(LEVEL_KEY)
    assert initial.get(BATCH_KEY) is None
    step = max(1, points // max_points)
    for target in range(1 + len(scenario.__name__) % step, points + 1, step):
        error = (TimeoutError, MemoryError, KeyboardInterrupt)[target % 3]("interrupt")
        raiser = Raiser(target, error, event=event, files=files)
        with pytest.raises(type(error)) as caught:
            raiser.run(scenario)
        assert caught.value is error, raiser.place
        del caught
        error.__traceback__ = None
        assert get_current_level() is None, raiser.place
        assert context_api.get_current().get(LEVEL_KEY) is before, raiser.place
        assert lenient.runtime.get_active_operations() == [], raiser.place
        assert not state.tree.active, raiser.place
        assert not state.guard.is_owned(), raiser.place
        with progress.operation("next", id=f"next-{target}", total=2) as operation:
            with operation.level("x") as level:
                level.increment()
            with operation.level("x"):
                pass
        root = lenient.operation(f"next-{target}").root
        assert (root.status, root.current) == (progress.Status.COMPLETED, 2), raiser.place
        assert get_current_batch() is None, raiser.place
        lenient.tick()
        assert all(not batch.active for batch in state.batches.list_newest_locked()), raiser.place


def enter_pause(operation: progress.Level) -> None:
    with operation.paused("waiting"):
        pass


def enter_opaque_step(operation: progress.Level) -> None:
    with operation.opaque(5):
        pass


def enter_opaque_level(operation: progress.Level) -> None:
    with operation.level("step").opaque(5):
        pass


def enter_batch_of_work(operation: progress.Level) -> None:
    with progress.batch("b", id="b"):
        operation.increment()


async def _enter_in_coroutine(operation: progress.Level) -> None:
    async with progress.batch("b", id="b"), operation.paused("waiting"), operation.opaque(5):
        pass


def enter_in_coroutine(operation: progress.Level) -> None:
    run_coroutine(_enter_in_coroutine(operation))


BLOCKS = [enter_pause, enter_opaque_step, enter_opaque_level, enter_batch_of_work, enter_in_coroutine]


@pytest.mark.parametrize("event", ["line", "opcode"])
@pytest.mark.parametrize("enter", BLOCKS)
def test_exception_in_a_block_of_a_running_operation_leaves_the_block(
    lenient: Recorder, enter: Callable[[progress.Level], None], event: str
) -> None:
    """No pause, opaque step or batch remains, and the message returns."""
    raise_in_blocks(lenient, enter, event, MAX_POINTS_PER_TEST // 2)


@pytest.mark.slow
@pytest.mark.parametrize("event", ["line", "opcode"])
@pytest.mark.parametrize("enter", BLOCKS)
def test_exception_at_every_place_of_a_block_leaves_the_block(
    lenient: Recorder, enter: Callable[[progress.Level], None], event: str
) -> None:
    """All places of the test above."""
    raise_in_blocks(lenient, enter, event, 100_000)


def raise_in_blocks(
    lenient: Recorder, enter: Callable[[progress.Level], None], event: str, max_points: int
) -> None:
    """Raise at places of a block, and check the operation after each."""
    files = BLOCK_FILES if event == "opcode" else frozenset()
    with progress.operation("job", id="job") as operation:
        operation.update(message="work")
        enter(operation)
        points = count_points(lambda: enter(operation), event, files)
        step = max(1, points // max_points)
        for target in range(1 + len(enter.__name__) % step, points + 1, step):
            error = (TimeoutError, MemoryError, KeyboardInterrupt)[target % 3]("interrupt")
            raiser = Raiser(target, error, event=event, files=files)
            with pytest.raises(type(error)) as caught:
                raiser.run(lambda: enter(operation))
            assert caught.value is error, raiser.place
            del caught
            error.__traceback__ = None
            (active,) = lenient.runtime.get_active_operations()
            assert active.root.paused_clock is None, raiser.place
            assert active.root.message == "work", raiser.place
            assert active.root.status is progress.Status.RUNNING, raiser.place
            node = operation._node
            assert node.opaque is None, raiser.place
            assert node.operation.pauses is None or not node.operation.pauses._active, raiser.place
            assert get_current_level() is operation, raiser.place
            assert get_current_batch() is None, raiser.place
            batches = lenient.runtime._store._state.batches.list_newest_locked()
            assert all(batch.info.ended_at is not None for batch in batches), raiser.place
            paused_s = active.root.paused_s
            lenient.clock.advance(1.0)
            with operation.paused():
                lenient.clock.advance(1.0)
            root = lenient.operation("job").root
            assert root.paused_s == pytest.approx(paused_s + 1.0), raiser.place
            lenient.tick()


def test_end_after_an_interrupted_start_raises_nothing(lenient: Recorder) -> None:
    """The handle can start again, and its parent ends."""
    points = count_points(lambda: progress.operation("job").start().complete(), "line", frozenset())
    for target in range(1, points, 7):
        operation = progress.operation("job")
        raiser = Raiser(target, TimeoutError("interrupt"))

        def start_and_end(operation: progress.Level = operation) -> None:
            operation.start()
            operation.complete()

        try:
            raiser.run(start_and_end)
        except TimeoutError:
            assert raiser.has_raised
        else:
            assert not raiser.has_raised
        operation.complete()
        assert lenient.runtime.get_active_operations() == [], raiser.place


def test_interrupted_collection_is_repeated_with_all_ended_operations(
    lenient: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with progress.operation("job", id="job"):
        pass
    store = lenient.runtime._store

    def interrupt() -> None:
        raise TimeoutError

    with monkeypatch.context() as patched:
        patched.setattr(store._state.estimates.trajectories, "drain_locked", interrupt)
        with pytest.raises(TimeoutError):
            store.collect()
    (snapshot,) = store.collect().snapshots
    assert (snapshot.info.operation_id, snapshot.status) == ("job", progress.Status.COMPLETED)


def test_shutdown_that_interrupts_a_change_follows_it(lenient: Recorder) -> None:
    """It cancels the running operation."""
    operation = progress.operation("job").start()
    results: list[bool] = []
    lenient.runtime._store._state.guard.run(lambda: results.append(lenient.runtime.shutdown()))
    assert results == [False]
    assert not operation.recording
    assert lenient.runtime.shutdown()


# --- real signals --------------------------------------------------------------------------------


def measures_coverage() -> bool:
    """Return True while coverage traces this thread."""
    return type(sys.gettrace()).__module__.startswith("coverage")


def run_alone(request: pytest.FixtureRequest) -> None:
    """Run a test in a process without coverage.

    Why: a signal handler that raises in the code of coverage leaves its lock acquired.
    """
    environ = {name: value for name, value in os.environ.items() if not name.startswith("COV_")}
    test = f"{request.path}::{request.node.name}"
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", test]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=environ,
        cwd=request.config.rootpath,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def alarm() -> Iterator[Callable[[Callable[[], None]], None]]:
    """Return a function that sets the handler of SIGALRM. The test restores it.

    Test tools add Python callbacks to the garbage collector. These catch the exceptions of signal
    handlers, and Python 3.11 can crash when a handler that they run changes the context. So they
    are removed during the test.
    """
    # Why: the callbacks of weak references to objects of earlier tests catch them as well.
    gc.collect()
    callbacks = gc.callbacks.copy()
    gc.callbacks.clear()
    before = signal.getsignal(signal.SIGALRM)

    def set_handler(handle: Callable[[], None]) -> None:
        signal.signal(signal.SIGALRM, lambda *_: handle())

    yield set_handler
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)
    gc.callbacks.extend(callbacks)


@pytest.fixture
def unsampled() -> Iterator[Recorder]:
    """Record without exported spans. A lock of the SDK's exporter is not reentrant."""
    with recording(strict=False, sampler=ALWAYS_OFF) as made:
        yield made


def test_signal_handler_that_starts_operations_interrupts_the_same_work(
    unsampled: Recorder, alarm: Callable[[Callable[[], None]], None], request: pytest.FixtureRequest
) -> None:
    """No start, count or end is lost."""
    if measures_coverage():
        run_alone(request)
        return

    handled, inside = 0, False

    def handle() -> None:
        nonlocal handled, inside
        if not inside:
            inside = True
            with progress.operation("checkpoint") as operation:
                operation.increment()
            handled += 1
            inside = False

    alarm(handle)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    done = 0
    while handled < 300:
        with progress.operation("job") as operation:
            operation.increment()
        done += 1
    signal.setitimer(signal.ITIMER_REAL, 0)
    unsampled.tick()
    assert unsampled.runtime.get_active_operations() == []
    finished = unsampled.runtime._totals.read().counters[semconv.OPERATIONS_FINISHED]
    assert finished["job", "completed"] == done
    assert finished["checkpoint", "completed"] == handled


def test_signal_handler_that_raises_interrupts_levels_and_every_operation_ends(
    unsampled: Recorder, alarm: Callable[[Callable[[], None]], None], request: pytest.FixtureRequest
) -> None:
    """A later ``complete()`` raises nothing."""
    if measures_coverage():
        run_alone(request)
        return

    def handle() -> None:
        raise TimeoutError

    alarm(handle)
    for number in range(300):
        operation = progress.operation("job", id=str(number)).start()
        try:
            signal.setitimer(signal.ITIMER_REAL, 1e-5 + 1.3e-6 * number)
            # Why bounded: a span processor of the SDK may catch the exception.
            for _ in range(500):
                with operation.level("part"):
                    pass
        except TimeoutError:
            pass
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        operation.complete()
        assert unsampled.runtime.get_active_operations() == []
        # The next call restores a context that an interrupted exit has left behind.
        assert not progress.current_level().recording
        assert context_api.get_current() == {}
    history = unsampled.runtime.get_history(limit=1000)
    assert Counter(each.root.status for each in history)[progress.Status.COMPLETED] == len(history)
