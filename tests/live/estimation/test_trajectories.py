"""Tests of trajectories: from memory, in change sets, and from the journal."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import otel_progress as progress
from otel_progress import Status, semconv
from otel_progress.diagnostics import internal_error_counts
from otel_progress.live.estimation.trajectories import (
    MAX_CACHED_KEYS,
    MAX_KEYS_PER_QUERY,
    MAX_TRAJECTORIES_PER_KEY,
    TrajectoryCache,
    compute_longest_gap,
)
from otel_progress.live.store import LiveStore
from otel_progress.processes import get_program_name, host_class
from otel_progress.records import Trajectory, TrajectoryEntry, TrajectoryKey
from otel_progress.testing import CountingIds, Recorder, recording, wait_until


def run(
    recorder: Recorder, steps: int = 4, seconds: float = 5.0, **asked: object
) -> Sequence[TrajectoryEntry]:
    """Work through an operation of this number of steps. Return its trajectories."""
    with progress.operation("job", total=steps, **asked) as op:  # type: ignore[arg-type]
        recorder.tick()
        for _ in range(steps):
            recorder.clock.advance(seconds)
            op.increment()
            recorder.tick()
    return recorder.runtime._store.collect().trajectories


def test_completed_operation_leaves_its_trajectory(recorder: Recorder) -> None:
    """Its key has the operation type, the host class and the caller's bucket."""
    (entry,) = run(recorder, eta_key="1080p")
    assert entry.key == TrajectoryKey("job", "", host_class(), "1080p")
    assert entry.trajectory == Trajectory(
        20.0, ((0.0, 0.0), (5.0, 0.25), (10.0, 0.5), (15.0, 0.75), (20.0, 1.0)), {}
    )
    assert entry.run == recorder.runtime.get_history()[0].run
    assert entry.at == recorder.clock.wall()


def test_levels_of_one_shape_share_a_key(recorder: Recorder) -> None:
    """Stages have their own keys, and the parent's trajectory has their durations."""
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
    entries = recorder.runtime._store.collect().trajectories
    by_level: dict[str, list[float]] = {}
    for entry in entries:
        by_level.setdefault(entry.key.level, []).append(entry.trajectory.duration_s)
    assert by_level == {
        "": [13.0],
        "stage:load": [1.0],
        "stage:play": [12.0],
        "stage:play/song": [2.0, 4.0, 6.0],
    }
    assert entries[0].trajectory.stages == {"load": 1.0, "play": 12.0}


@pytest.mark.parametrize("end", ["fail", "cancel", "skip", "resume"])
def test_failed_cancelled_skipped_or_resumed_run_leaves_no_trajectory(recorder: Recorder, end: str) -> None:
    """The same holds for its levels."""
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


def test_failed_level_leaves_no_trajectory(recorder: Recorder) -> None:
    """Completed levels of the same run do."""
    with progress.operation("job", total=2) as op:
        for status in (Status.FAILED, Status.COMPLETED):
            level = op.level("x", total=1).start()
            recorder.tick()
            recorder.clock.advance(2.0)
            level.increment()
            level.fail("no") if status is Status.FAILED else level.complete()
            recorder.tick()
    entries = recorder.runtime._store.collect().trajectories
    assert sorted(entry.key.level for entry in entries) == ["", "x"]


def test_run_between_two_ticks_leaves_its_duration(recorder: Recorder) -> None:
    """It has no curve."""
    with progress.operation("job"):
        recorder.clock.advance(0.05)
    (entry,) = recorder.runtime._store.collect().trajectories
    assert entry.trajectory == Trajectory(0.05, (), {})


def test_estimate_without_a_journal_uses_runs_of_this_process(recorder: Recorder) -> None:
    """Only runs of the same bucket are used."""
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


def test_estimate_of_a_level_uses_its_completed_siblings(recorder: Recorder) -> None:
    """A failed run leaves nothing for the next run."""
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


def test_estimate_without_a_total_uses_past_durations(recorder: Recorder) -> None:
    """Past runs shorter than this one are ignored."""
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
        assert 70.0 - 62.1 <= (later.remaining_s or 0.0) <= 10.0


class _Journal:
    """Returns stored trajectories and records the requested keys."""

    def __init__(self) -> None:
        self.kept: dict[TrajectoryKey, list[Trajectory]] = {}
        self.asked: list[TrajectoryKey] = []
        self.broken = False

    def trajectories(self, key: TrajectoryKey, limit: int = 20) -> Sequence[Trajectory]:
        """Return the stored trajectories of a key."""
        self.asked.append(key)
        if self.broken:
            raise OSError("disk on fire")
        return self.kept.get(key, [])[-limit:]


@pytest.fixture
def store(recorder: Recorder) -> LiveStore:
    """Return a live store that can load trajectories."""
    store = recorder.runtime._store
    store._state._has_trajectory_store = True
    store.restart(store.instance)
    return store


def list_history(store: LiveStore) -> tuple[Trajectory, ...]:
    """Return the cached trajectories of operations of the type "job"."""
    with store._state.lock:
        return store._state.estimates.trajectories.list_history_locked(KEY)


LINE = Trajectory(20.0, tuple((2.0 * n, n / 10) for n in range(11)))
SCOPE = f"program={get_program_name()}"
KEY = TrajectoryKey("job", "", host_class(), SCOPE)


def test_trajectories_are_loaded_once_per_operation(recorder: Recorder, store: LiveStore) -> None:
    """The next operation loads newer ones."""
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
        journal.kept.setdefault(KEY, []).append(LINE)
    assert journal.asked == [KEY, KEY, KEY]


def test_persisted_trajectory_is_not_counted_twice(recorder: Recorder, store: LiveStore) -> None:
    """It comes from memory until the journal has stored it."""
    journal = _Journal()
    written = run(recorder)
    assert len(list_history(store)) == 1
    journal.kept[KEY] = [LINE, written[0].trajectory]
    with progress.operation("job"):
        recorder.tick()
        # Why three: the entry is not marked as persisted, so it is loaded and in memory.
        store.load_trajectories(journal.trajectories)
        assert len(list_history(store)) == 3
    recorder.tick()
    recorder.clock.advance(1.0)
    with progress.operation("job"):
        recorder.tick()
        store.load_trajectories(journal.trajectories, written)
        assert list_history(store)[:2] == (LINE, written[0].trajectory)
        assert len(list_history(store)) == 3


def test_failed_load_is_counted_and_retried(recorder: Recorder, store: LiveStore) -> None:
    """The retry follows the next write."""
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


def test_trajectories_of_an_earlier_configuration_are_loaded_from_the_journal(tmp_path: Path) -> None:
    """Another process would load them the same way."""
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
def test_trajectory_of_another_process_is_loaded_for_the_next_operation(tmp_path: Path) -> None:
    """No caller waits for it."""
    url = f"sqlite:///{tmp_path / 'journal.db'}"
    script = f"""
import otel_progress as progress
settings = dict(service_name="s", store={url!r}, console=False, otlp=False, resources=False)
with progress.configure(**settings) as runtime:
    with progress.operation("job", total=10) as op:
        op.increment(10)
    assert runtime.force_flush(60.0)
"""
    with recording(service_name="s", store=url, ticking=True, tick=0.02):
        for runs in (0, 1, 2):
            with progress.operation("job", total=10) as op:
                if runs:
                    wait_until(lambda op=op, runs=runs: op.eta is not None and op.eta.runs == runs, 60.0)  # type: ignore[misc]
                op.fail("so that it does not teach")
            done = subprocess.run(
                [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False
            )
            assert (done.returncode, done.stderr) == (0, "")


def test_trajectory_cache_is_bounded() -> None:
    """Keys, trajectories per key and pending keys have limits."""
    cache = TrajectoryCache(has_backend=True)
    for number in range(2 * MAX_CACHED_KEYS):
        key = cache.request_key_locked("job", f"level{number}", None, 0.0)
        cache.add_locked(
            [TrajectoryEntry(key, "r", 0.0, Trajectory(float(n))) for n in range(30)]
            if number % 500 == 0
            else []
        )
    last = cache.request_key_locked("job", f"level{2 * MAX_CACHED_KEYS - 500}", None, 0.0)
    assert [one.duration_s for one in cache.list_history_locked(last)] == [float(n) for n in range(10, 30)]
    assert len(cache._entries) == len(cache._pending_keys) == MAX_CACHED_KEYS
    assert len(cache.take_pending_keys_locked()) == MAX_KEYS_PER_QUERY
    assert len(next(iter(reversed(cache._entries.values()))).own) <= MAX_TRAJECTORIES_PER_KEY


def test_trajectories_of_one_run_are_bounded(recorder: Recorder) -> None:
    """Twenty per kind of level, and sixty-four kinds."""
    with progress.operation("job") as op:
        for number in range(100):
            with op.level(f"kind{number}", total=1) as level, op.level("same", total=1) as same:
                recorder.tick()
                recorder.clock.advance(1.0)
                level.increment()
                same.increment()
        for _ in range(50):
            with op.level("kind0", total=1) as level:
                recorder.tick()
                recorder.clock.advance(1.0)
                level.increment()
            recorder.tick()
    entries = recorder.runtime._store.collect().trajectories
    levels = [entry.key.level for entry in entries]
    assert len(set(levels)) == 65
    assert levels.count("kind0") == MAX_TRAJECTORIES_PER_KEY


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("1080p", "1080p"),
        (["codec", "height"], f"{SCOPE},codec=av1,height=1080"),
        (("codec", "missing"), f"{SCOPE},codec=av1,missing="),
        ("x" * 1000, None),
    ],
)
def test_eta_key_is_a_text_or_metadata_values(recorder: Recorder, given: object, kept: str | None) -> None:
    """It is truncated. Metadata keys apply within the program."""

    @progress.get_tracer("lib").operation("job", eta_key=given, codec="av1", height=1080)  # type: ignore[arg-type]
    def work() -> None:
        recorder.clock.advance(1.0)

    work()
    (entry,) = recorder.runtime._store.collect().trajectories
    assert entry.key.eta_key == kept if kept is not None else 0 < len(entry.key.eta_key) <= 256


@pytest.mark.parametrize("given", [7, [], [1], {"a": 1}, object()])
def test_invalid_eta_key_is_rejected(lenient: Recorder, given: object) -> None:
    """The operation runs without it."""
    with progress.batch("b") as batch, batch.operation("job", eta_key=given) as op:  # type: ignore[arg-type]
        assert op.recording
    (entry,) = lenient.runtime._store.collect().trajectories
    assert entry.key.eta_key == SCOPE
    assert lenient.runtime._totals.read().counters[semconv.UPDATES_REJECTED] == {("eta_key",): 1}


def test_longest_gap_of_a_thinned_curve_is_an_outlier_or_zero() -> None:
    """A curve with all its points has its longest gap."""
    assert compute_longest_gap(Trajectory(9.0)) == 0.0
    assert compute_longest_gap(Trajectory(100.0, ((0.0, 0.0), (10.0, 0.2), (100.0, 1.0)))) == 90.0
    even = tuple((float(n), n / 63) for n in range(64))
    assert compute_longest_gap(Trajectory(63.0, even)) == 0.0
    assert compute_longest_gap(Trajectory(163.0, (*even[:-1], (163.0, 1.0)))) == 101.0
