"""What runs leave to those after them: through memory, through batches, and from the journal of other processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import otel_progress as progress
from otel_progress import Status, semconv
from otel_progress.diagnostics import internal_error_counts
from otel_progress.live.estimation import trajectories as book_module
from otel_progress.live.estimation.trajectories import (
    MAX_CACHED_KEYS,
    MAX_TRAJECTORIES_PER_KEY,
    TrajectoryCache,
    compute_longest_gap,
)
from otel_progress.live.store import LiveStore
from otel_progress.processes import host_class
from otel_progress.records import Trajectory, TrajectoryEntry, TrajectoryKey
from otel_progress.testing import CountingIds, Recorder, recording, wait_until


def run(
    recorder: Recorder, steps: int = 4, seconds: float = 5.0, **asked: object
) -> Sequence[TrajectoryEntry]:
    """Work through an operation of so many steps; return what it left."""
    with progress.operation("job", total=steps, **asked) as op:  # type: ignore[arg-type]
        recorder.tick()
        for _ in range(steps):
            recorder.clock.advance(seconds)
            op.increment()
            recorder.tick()
    return recorder.runtime._store.collect().trajectories


def test_a_run_that_completed_teaches(recorder: Recorder) -> None:
    """The batch with the end of an operation has its curve, under its type, this kind of machine and the caller's bucket."""
    (lesson,) = run(recorder, eta_key="1080p")
    assert lesson.key == TrajectoryKey("job", "", host_class(), "1080p")
    assert lesson.trajectory == Trajectory(
        20.0, ((0.0, 0.0), (5.0, 0.25), (10.0, 0.5), (15.0, 0.75), (20.0, 1.0)), {}
    )
    assert lesson.run == recorder.runtime.get_history()[0].run
    assert lesson.at == recorder.clock.wall()


def test_levels_teach_by_their_shape(recorder: Recorder) -> None:
    """Levels of one place in the tree share a key; stages are told apart by their names, and their lengths are in the curve above."""
    with progress.operation("gig", stages=["load", "play"]) as op:
        with op.stage("load"):
            recorder.tick()
            recorder.clock.advance(1.0)
        with op.stage("play") as stage:
            for number in range(3):
                with stage.level("song", number, total=2) as song:
                    for _ in range(2):
                        recorder.clock.advance(1.0 + number)
                        song.increment()
                        recorder.tick()
    lessons = recorder.runtime._store.collect().trajectories
    by_level: dict[str, list[float]] = {}
    for lesson in lessons:
        by_level.setdefault(lesson.key.level, []).append(lesson.trajectory.duration_s)
    assert by_level == {
        "": [13.0],
        "stage:load": [1.0],
        "stage:play": [12.0],
        "stage:play/song": [2.0, 4.0, 6.0],
    }
    assert lessons[0].trajectory.stages == {"load": 1.0, "play": 12.0}


@pytest.mark.parametrize("end", ["fail", "cancel", "skip", "resume"])
def test_other_runs_do_not_teach(recorder: Recorder, end: str) -> None:
    """A run that failed, was cancelled or skipped, or took up the work of an earlier session leaves nothing, nor do its levels."""
    op = progress.operation("job", id="o", total=4).start()
    recorder.tick()
    with op.level("x", total=1) as level:
        recorder.clock.advance(3.0)
        level.increment()
        recorder.tick()
    if end == "resume":
        op.resume_from(2)
        op.complete()
    else:
        {"fail": lambda: op.fail("no"), "cancel": op.cancel, "skip": op.skip}[end]()
    assert recorder.runtime._store.collect().trajectories == []
    assert list_history(recorder.runtime._store) == ()


def test_levels_that_did_not_complete_do_not_teach(recorder: Recorder) -> None:
    """In a run that completed, only the levels that completed leave something."""
    with progress.operation("job", total=2) as op:
        for status in (Status.FAILED, Status.COMPLETED):
            level = op.level("x", total=1).start()
            recorder.tick()
            recorder.clock.advance(2.0)
            level.fail("no") if status is Status.FAILED else level.complete()
            recorder.tick()
    lessons = recorder.runtime._store.collect().trajectories
    assert sorted(lesson.key.level for lesson in lessons) == ["", "x"]


def test_a_run_between_two_ticks_teaches_its_length(recorder: Recorder) -> None:
    """An operation that no tick saw running has no curve, but a length."""
    with progress.operation("job"):
        recorder.clock.advance(0.05)
    (lesson,) = recorder.runtime._store.collect().trajectories
    assert lesson.trajectory == Trajectory(0.05, (), {})


def test_memory_learns(recorder: Recorder) -> None:
    """Without a journal the runs of this process teach each other, within the bucket only."""
    for _ in range(3):
        run(recorder, eta_key="small")
    for bucket, basis in (("small", "durations"), ("large", None)):
        with progress.operation("job", total=4, eta_key=bucket) as op:
            recorder.tick()
            eta = op.eta
            assert (None if eta is None else eta.basis) == basis
            if eta is not None:
                assert eta.remaining_s == pytest.approx(20.0)
                assert eta.runs == 3


def test_siblings_teach_each_other(recorder: Recorder) -> None:
    """The second song of a run is estimated from the first; when the run fails, the next run knows nothing of it."""
    op = progress.operation("gig", id="g").start()
    with op.level("song", 1, total=10) as song:
        for _ in range(10):
            recorder.clock.advance(3.0)
            song.increment()
            recorder.tick()
    recorder.tick()
    with op.level("song", 2, total=10) as song:
        recorder.tick()
        eta = song.eta
        assert eta is not None
        assert eta.remaining_s == pytest.approx(30.0, rel=0.01)
        assert (eta.basis, eta.runs) == ("durations", 1)
        recorder.clock.advance(3.0)
        song.increment()
        recorder.tick()
        assert song.eta is not None
        assert (song.eta.basis, song.eta.runs) == ("history", 1)
        assert song.snapshot().eta is not None
    op.fail("the singer")
    recorder.tick()
    with progress.operation("gig") as op, op.level("song", 1, total=10) as song:
        recorder.tick()
        assert song.eta is None


def test_an_unknown_total_is_estimated_by_past_lengths(recorder: Recorder) -> None:
    """Where nothing says how much there is, the lengths of past runs do; the longer it lasts, the more they are left behind."""
    for seconds in (50.0, 60.0, 70.0):
        with progress.operation("crawl"):
            recorder.tick()
            recorder.clock.advance(seconds)
        recorder.tick()
    with progress.operation("crawl", id="c"):
        recorder.clock.advance(0.1)
        recorder.tick()
        eta = recorder.operation("c").eta
        assert eta is not None
        assert eta.basis == "durations"
        assert eta.remaining_s == pytest.approx(59.9)
        recorder.clock.advance(62.0)
        recorder.tick()
        later = recorder.operation("c").eta
        assert later is not None
        assert (later.clock, later.basis) == (recorder.clock.monotonic(), "durations")
        assert (
            70.0 - 62.1 <= (later.remaining_s or 0.0) <= 10.0
        )  # the longest it took, or as long again as before counting held


class _Journal:
    """Answers what past runs left, and remembers what it was asked."""

    def __init__(self) -> None:
        self.kept: dict[TrajectoryKey, list[Trajectory]] = {}
        self.asked: list[TrajectoryKey] = []
        self.broken = False

    def trajectories(self, key: TrajectoryKey, limit: int = 20) -> Sequence[Trajectory]:
        """Return what was put in."""
        self.asked.append(key)
        if self.broken:
            raise OSError("disk on fire")
        return self.kept.get(key, [])[-limit:]


@pytest.fixture
def store(recorder: Recorder) -> LiveStore:
    """Return a live store that has a journal to ask."""
    store = recorder.runtime._store
    store._state._has_trajectory_store = True
    store.restart(store.instance)
    return store


def list_history(store: LiveStore) -> tuple[Trajectory, ...]:
    """Return the cached trajectories of operations of the type "job"."""
    with store._state.lock:
        return store._state.estimates.trajectories.list_history_locked(KEY)


LINE = Trajectory(20.0, tuple((2.0 * n, n / 10) for n in range(11)))
KEY = TrajectoryKey("job", "", host_class())


def test_the_journal_is_asked_once_an_operation(recorder: Recorder, store: LiveStore) -> None:
    """A key is asked for when an operation begins that needs it, and again for the next operation, which sees what is new."""
    journal = _Journal()
    for runs in (0, 1, 2):
        with progress.operation("job", total=10) as op:
            recorder.clock.advance(0.1)
            recorder.tick()
            store.load_trajectories(journal.trajectories)
            recorder.tick()
            store.load_trajectories(journal.trajectories)
            eta = op.eta
            assert (0 if eta is None else eta.runs) == runs
            op.fail("so that it does not teach")
        recorder.tick()
        journal.kept.setdefault(KEY, []).append(LINE)  # another process completed one
    assert journal.asked == [KEY, KEY, KEY]


def test_what_the_journal_has_is_not_counted_twice(recorder: Recorder, store: LiveStore) -> None:
    """A run of this process counts from memory until the journal has it, and from there after."""
    journal = _Journal()
    written = run(recorder)
    assert len(list_history(store)) == 1
    journal.kept[KEY] = [LINE, written[0].trajectory]
    with progress.operation("job"):
        recorder.tick()
        store.load_trajectories(journal.trajectories)  # not told yet that it was saved: both are there
        assert len(list_history(store)) == 3
    recorder.tick()
    recorder.clock.advance(1.0)
    with progress.operation("job"):
        recorder.tick()
        store.load_trajectories(journal.trajectories, written)
        assert list_history(store)[:2] == (LINE, written[0].trajectory)
        assert len(list_history(store)) == 3  # and the length of the one before


def test_a_journal_that_cannot_be_read(recorder: Recorder, store: LiveStore) -> None:
    """A failure is counted and not raised; the same is asked again after the next write."""
    journal, before = _Journal(), internal_error_counts["history"]
    journal.broken = True
    with progress.operation("job", total=10) as op:
        recorder.tick()
        store.load_trajectories(journal.trajectories)
        assert internal_error_counts["history"] == before + 1
        assert op.eta is None
        journal.broken, journal.kept[KEY] = False, [LINE]
        store.load_trajectories(journal.trajectories)
        recorder.tick()
        assert op.eta is not None


def test_through_a_real_journal(tmp_path: Path) -> None:
    """What one configuration learned is what the next one, as another process would, begins with."""
    url = f"sqlite:///{tmp_path / 'journal.db'}"
    ids = CountingIds()
    for runs in range(4):
        with recording(store=url, ids=ids) as recorder:
            with progress.operation("job", id="o", total=10) as op:
                recorder.clock.advance(0.1)
                assert recorder.runtime.force_flush(60.0)
                recorder.tick()
                eta = op.eta
                assert (0 if eta is None else eta.runs) == runs
                for _ in range(10):
                    recorder.clock.advance(2.0)
                    op.increment()
                    recorder.tick()
            assert recorder.runtime.force_flush(60.0)


@pytest.mark.process
def test_a_run_of_another_process(tmp_path: Path) -> None:
    """What another process completes meanwhile is known to the next operation that begins here, soon and with nobody waiting."""
    url = f"sqlite:///{tmp_path / 'journal.db'}"
    script = f"""
import otel_progress as progress
with progress.configure(store={url!r}, console=False, otlp=False, resources=False) as runtime:
    with progress.operation("job", total=10) as op:
        op.increment(10)
    assert runtime.force_flush(60.0)
"""
    with recording(store=url, ticking=True, tick=0.02):
        for runs in (0, 1, 2):
            with progress.operation("job", total=10) as op:
                if runs:
                    wait_until(lambda op=op, runs=runs: op.eta is not None and op.eta.runs == runs, 60.0)  # type: ignore[misc]
                op.fail("so that it does not teach")
            done = subprocess.run(
                [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False
            )
            assert (done.returncode, done.stderr) == (0, "")


def test_the_book_is_bounded() -> None:
    """However many keys and runs, only the last ones of each are remembered, and what is asked for stays within the keys."""
    book = TrajectoryCache(has_backend=True)
    for number in range(2 * MAX_CACHED_KEYS):
        key = book.request_key_locked("job", f"level{number}", None, 0.0)
        book.add_locked(
            [TrajectoryEntry(key, "r", 0.0, Trajectory(float(n))) for n in range(30)]
            if number % 500 == 0
            else []
        )
    last = book.request_key_locked("job", f"level{2 * MAX_CACHED_KEYS - 500}", None, 0.0)
    assert [one.duration_s for one in book.list_history_locked(last)] == [float(n) for n in range(10, 30)]
    assert len(book._entries) == len(book._pending_keys) == MAX_CACHED_KEYS
    assert len(book.take_pending_keys_locked()) == book_module.MAX_KEYS_PER_QUERY
    assert len(next(iter(reversed(book._entries.values()))).own) <= MAX_TRAJECTORIES_PER_KEY


def test_lessons_of_one_run_are_bounded(recorder: Recorder) -> None:
    """Of many levels of a kind the last twenty teach, and of many kinds sixty-four."""
    with progress.operation("job") as op:
        for number in range(100):
            with op.level(f"kind{number}", total=1), op.level("same", total=1):
                recorder.tick()
                recorder.clock.advance(1.0)
        for _ in range(50):
            with op.level("kind0", total=1):
                recorder.tick()
                recorder.clock.advance(1.0)
            recorder.tick()
    lessons = recorder.runtime._store.collect().trajectories
    levels = [lesson.key.level for lesson in lessons]
    assert len(set(levels)) == 65
    assert levels.count("kind0") == MAX_TRAJECTORIES_PER_KEY


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("1080p", "1080p"),
        (["codec", "height"], "codec=av1,height=1080"),
        (("codec", "missing"), "codec=av1,missing="),
        ("x" * 1000, None),
    ],
)
def test_buckets(recorder: Recorder, given: object, kept: str | None) -> None:
    """A bucket is a text, or made of the metadata named; it is cut as other identifiers are. Decorators and tracers have it, too."""

    @progress.get_tracer("lib").operation("job", eta_key=given, codec="av1", height=1080)  # type: ignore[arg-type]
    def work() -> None:
        recorder.clock.advance(1.0)

    work()
    (lesson,) = recorder.runtime._store.collect().trajectories
    assert lesson.key.eta_key == kept if kept is not None else 0 < len(lesson.key.eta_key) <= 256


@pytest.mark.parametrize("given", [7, [], [1], {"a": 1}, object()])
def test_bad_buckets(lenient: Recorder, given: object) -> None:
    """What is no bucket is counted and left out; the operation runs."""
    with progress.batch("b") as batch, batch.operation("job", eta_key=given) as op:  # type: ignore[arg-type]
        assert op.recording
    (lesson,) = lenient.runtime._store.collect().trajectories
    assert lesson.key.eta_key == ""
    assert lenient.runtime._totals.read().counters[semconv.UPDATES_REJECTED] == {("eta_key",): 1}


def test_gaps_of_the_past() -> None:
    """The longest silence of a curve is known where its points are all there were; where they were thinned, only one that stands out."""
    assert compute_longest_gap(Trajectory(9.0)) == 0.0
    assert compute_longest_gap(Trajectory(100.0, ((0.0, 0.0), (10.0, 0.2), (100.0, 1.0)))) == 90.0
    even = tuple((float(n), n / 63) for n in range(64))
    assert compute_longest_gap(Trajectory(63.0, even)) == 0.0
    assert compute_longest_gap(Trajectory(163.0, (*even[:-1], (163.0, 1.0)))) == 101.0
