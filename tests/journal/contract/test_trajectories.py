"""Trajectories of past runs in a journal."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from otel_progress.journal import Journal
from otel_progress.journal.sqlite.limits import JournalLimits
from otel_progress.protocols import TrajectorySource
from otel_progress.records import MAX_TRAJECTORY_POINTS, Trajectory, TrajectoryEntry, TrajectoryKey
from tests.support.examples import scale_examples
from tests.support.factories import WALL, ended, history_key, make_change_set, make_trajectory_entry
from tests.support.fake_time import FakeTime

KEY = history_key()
ELSEWHERE = history_key(host_class="linux-aarch64-8")


def read_durations(journal: Journal, key: TrajectoryKey = KEY, limit: int = 20) -> list[float]:
    """Return the durations of the stored runs of a key."""
    return [trajectory.duration_s for trajectory in journal.trajectories(key, limit)]


def write_entries(journal: Journal, *entries: TrajectoryEntry) -> None:
    """Write history entries like a process does."""
    journal.write(make_change_set(trajectories=entries))


def test_trajectories_are_read_unchanged_oldest_first(journal: Journal) -> None:
    """Points and stages are stored."""
    assert isinstance(journal, TrajectorySource)
    first = Trajectory(61.5, ((0.0, 0.0), (12.25, 0.5), (61.5, 1.0)), {"mix": 40.25, "master": 21.25})
    write_entries(journal, make_trajectory_entry("r1", trajectory=first))
    write_entries(journal, make_trajectory_entry("r2", 70.0))
    assert list(journal.trajectories(KEY)) == [first, make_trajectory_entry("r2", 70.0).trajectory]
    assert read_durations(journal, limit=1) == [70.0]
    assert read_durations(journal, limit=0) == []


@pytest.mark.parametrize(
    "other",
    [history_key(operation_type="podcast"), history_key("song"), history_key(eta_key="4k"), ELSEWHERE],
    ids=["type", "level", "eta_key", "host"],
)
def test_trajectory_limit_per_key_deletes_the_oldest(journal: Journal, other: TrajectoryKey) -> None:
    """Trajectories of other keys are kept."""
    write_entries(journal, *(make_trajectory_entry(f"o{n}", 1.0 + n, other) for n in range(3)))
    for number in range(25):
        write_entries(journal, make_trajectory_entry(f"r{number}", 100.0 + number))
    assert read_durations(journal, limit=100) == [100.0 + number for number in range(5, 25)]
    assert read_durations(journal, other) == [1.0, 2.0, 3.0]


def test_trajectories_of_equal_levels_in_one_run_are_all_stored(journal: Journal) -> None:
    """Entries that are written twice are stored once."""
    songs = [make_trajectory_entry("r1", 10.0 + number, history_key("song")) for number in range(12)]
    write_entries(journal, *songs)
    write_entries(journal, *songs)
    assert read_durations(journal, history_key("song")) == [10.0 + number for number in range(12)]


@pytest.mark.parametrize(("own", "expected"), [(0, 4), (1, 3), (2, 2), (3, 0)])
def test_few_trajectories_are_preceded_by_other_host_classes(
    journal: Journal, own: int, expected: int
) -> None:
    """The limit includes them."""
    write_entries(journal, *(make_trajectory_entry(f"e{n}", 1.0 + n, ELSEWHERE) for n in range(6)))
    write_entries(journal, *(make_trajectory_entry(f"r{n}", 100.0 + n) for n in range(own)))
    others = [1.0 + number for number in range(6)][6 - expected :]
    assert read_durations(journal, limit=4) == [*others, *(100.0 + number for number in range(own))]


def test_newest_trajectory_is_the_last_written_one(journal: Journal) -> None:
    """A run that ended in the future is deleted in its turn."""
    write_entries(journal, make_trajectory_entry("early", 1.0, at=WALL + 3600.0))
    write_entries(journal, *(make_trajectory_entry(f"r{n}", 100.0 + n, at=WALL + n) for n in range(20)))
    assert 1.0 not in read_durations(journal)


def test_trajectory_of_expired_operation_is_kept(
    open_another: Callable[..., Journal], fake_time: FakeTime
) -> None:
    """Deleting the operation deletes its trajectory at any time."""
    journal = open_another(retention_s=60.0)
    journal.write(make_change_set(ended(), trajectories=[make_trajectory_entry()]))
    journal.write(
        make_change_set(ended(operation_id="o2", run="r2"), trajectories=[make_trajectory_entry("r2", 70.0)])
    )
    fake_time.pass_(3600.0)
    for _ in range(2):
        journal.write(make_change_set(at=fake_time.now))
        fake_time.pass_(120.0)
    assert journal.history() == []
    assert read_durations(journal) == [60.0, 70.0]
    journal.delete("friday-42")
    assert read_durations(journal) == [70.0]


def test_delete_removes_trajectories_of_all_runs(journal: Journal) -> None:
    """Other operations keep theirs."""
    for number in range(3):
        journal.write(
            make_change_set(
                ended(run=f"r{number}"),
                trajectories=[
                    make_trajectory_entry(f"r{number}"),
                    make_trajectory_entry(f"r{number}", key=history_key("song")),
                ],
            )
        )
    journal.write(
        make_change_set(ended(operation_id="o2", run="x"), trajectories=[make_trajectory_entry("x", 5.0)])
    )
    assert journal.delete("friday-42") == 3
    assert (read_durations(journal), read_durations(journal, history_key("song"))) == ([5.0], [])


def test_trajectory_limit_deletes_least_recently_extended_keys(
    open_another: Callable[..., Journal],
) -> None:
    """Whole keys are deleted."""
    journal = open_another(limits=JournalLimits(trajectories=10))
    for number in range(14):
        write_entries(
            journal, make_trajectory_entry(f"r{number}", 1.0 + number, history_key(eta_key=str(number % 12)))
        )
    kept = {key: read_durations(journal, history_key(eta_key=str(key))) for key in range(12)}
    assert [key for key, found in kept.items() if found] == [0, 1, *range(4, 12)]
    assert (kept[0], kept[1]) == ([13.0], [14.0])


NUMBER = st.floats(0, 1e7) | st.floats()


@settings(
    max_examples=scale_examples(50),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    duration=NUMBER,
    points=st.lists(st.tuples(NUMBER, NUMBER), max_size=80),
    stages=st.dictionaries(st.text(max_size=300), NUMBER, max_size=40),
    names=st.tuples(st.text(), st.text(), st.text(), st.text()),
)
def test_any_trajectory_is_stored_or_ignored(
    journal: Journal,
    duration: float,
    points: list[tuple[float, float]],
    stages: dict[str, float],
    names: tuple[str, ...],
) -> None:
    """A trajectory that is read is valid."""
    key = TrajectoryKey(*names)
    journal.write(
        make_change_set(
            ended(operation_id="any"),
            trajectories=[make_trajectory_entry(key=key, trajectory=Trajectory(duration, points, stages))],
        )
    )
    for found in journal.trajectories(key):
        assert 0.0 <= found.duration_s < float("inf")
        times = [time for time, _ in found.points]
        assert times == sorted(times)
        assert len(times) <= MAX_TRAJECTORY_POINTS
        assert all(0.0 <= fraction <= 1.0 for _, fraction in found.points)
        assert all(0.0 <= seconds < float("inf") for seconds in found.stages.values())
    journal.delete("any")


def test_long_curve_is_thinned_with_first_and_last_point(journal: Journal) -> None:
    """The stored points are evenly distributed."""
    points = tuple((float(second), second / 1000) for second in range(1001))
    write_entries(journal, make_trajectory_entry(trajectory=Trajectory(1000.0, points)))
    (found,) = journal.trajectories(KEY)
    assert len(found.points) == MAX_TRAJECTORY_POINTS
    assert (found.points[0], found.points[-1]) == ((0.0, 0.0), (1000.0, 1.0))
    steps = [later[0] - earlier[0] for earlier, later in zip(found.points, found.points[1:], strict=False)]
    assert max(steps) - min(steps) <= 1.0


def test_trajectory_with_too_many_stages_is_stored_without_them(journal: Journal) -> None:
    """The points are stored."""
    write_entries(
        journal,
        make_trajectory_entry(
            trajectory=Trajectory(9.0, ((0.0, 0.0), (9.0, 1.0)), {f"stage {n}": 1.0 for n in range(9_000)})
        ),
    )
    assert list(journal.trajectories(KEY)) == [Trajectory(9.0, ((0.0, 0.0), (9.0, 1.0)))]
