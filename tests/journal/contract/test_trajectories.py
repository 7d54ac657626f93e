"""What earlier runs left for later ones, in any journal."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from otel_progress.journal import Journal
from otel_progress.journal.sqlite.limits import JournalLimits
from otel_progress.journal.sqlite.trajectories import MAX_POINTS
from otel_progress.protocols import TrajectorySource
from otel_progress.records import Trajectory, TrajectoryEntry, TrajectoryKey
from tests.support.factories import WALL, batch, ended, history_key, lesson
from tests.support.fake_time import FakeTime

KEY = history_key()
ELSEWHERE = history_key(host_class="linux-aarch64-8")


def durations(journal: Journal, key: TrajectoryKey = KEY, limit: int = 20) -> list[float]:
    """Return how long the runs took that a journal remembers under a key."""
    return [trajectory.duration_s for trajectory in journal.trajectories(key, limit)]


def taught(journal: Journal, *found: TrajectoryEntry) -> None:
    """Let a journal keep lessons as a worker writes them."""
    journal.write(batch(trajectories=found))


def test_trajectories_come_back_oldest_first(journal: Journal) -> None:
    """Points and stages are what they were, and the newest run is the last."""
    assert isinstance(journal, TrajectorySource)
    first = Trajectory(61.5, ((0.0, 0.0), (12.25, 0.5), (61.5, 1.0)), {"mix": 40.25, "master": 21.25})
    taught(journal, lesson("r1", trajectory=first))
    taught(journal, lesson("r2", 70.0))
    assert list(journal.trajectories(KEY)) == [first, lesson("r2", 70.0).trajectory]
    assert durations(journal, limit=1) == [70.0]
    assert durations(journal, limit=0) == []


@pytest.mark.parametrize(
    "other",
    [history_key(operation_type="podcast"), history_key("song"), history_key(eta_key="4k"), ELSEWHERE],
    ids=["type", "level", "eta_key", "host"],
)
def test_each_key_keeps_its_own_last_twenty(journal: Journal, other: TrajectoryKey) -> None:
    """The oldest under a key make room for new ones; those under another key stay."""
    taught(journal, *(lesson(f"o{n}", 1.0 + n, other) for n in range(3)))
    for number in range(25):
        taught(journal, lesson(f"r{number}", 100.0 + number))
    assert durations(journal, limit=100) == [100.0 + number for number in range(5, 25)]
    assert durations(journal, other) == [1.0, 2.0, 3.0]


def test_levels_of_one_shape_in_one_run_are_all_kept(journal: Journal) -> None:
    """Twelve songs of one evening teach twelve times, and once each when they are told twice."""
    songs = [lesson("r1", 10.0 + number, history_key("song")) for number in range(12)]
    taught(journal, *songs)
    taught(journal, *songs)
    assert durations(journal, history_key("song")) == [10.0 + number for number in range(12)]


@pytest.mark.parametrize(("own", "expected"), [(0, 4), (1, 3), (2, 2), (3, 0)])
def test_those_of_other_hosts_come_first_while_there_are_few(
    journal: Journal, own: int, expected: int
) -> None:
    """With fewer than three from this class of host the newest of others come before them, within the limit."""
    taught(journal, *(lesson(f"e{n}", 1.0 + n, ELSEWHERE) for n in range(6)))
    taught(journal, *(lesson(f"r{n}", 100.0 + n) for n in range(own)))
    others = [1.0 + number for number in range(6)][6 - expected :]
    assert durations(journal, limit=4) == [*others, *(100.0 + number for number in range(own))]


def test_the_newest_is_who_came_last_whatever_the_clock_said(journal: Journal) -> None:
    """A run that ended an hour in the future is forgotten in its turn."""
    taught(journal, lesson("early", 1.0, at=WALL + 3600.0))
    taught(journal, *(lesson(f"r{n}", 100.0 + n, at=WALL + n) for n in range(20)))
    assert 1.0 not in durations(journal)


def test_lessons_outlive_their_operations(open_another: Callable[..., Journal], fake_time: FakeTime) -> None:
    """What the retention takes has taught nevertheless; who deletes an operation takes back what it taught, at any time."""
    journal = open_another(retention_s=60.0)
    journal.write(batch(ended(), trajectories=[lesson()]))
    journal.write(batch(ended(operation_id="o2", run="r2"), trajectories=[lesson("r2", 70.0)]))
    fake_time.pass_(3600.0)
    for _ in range(2):
        journal.write(batch(at=fake_time.now))
        fake_time.pass_(120.0)
    assert journal.history() == []
    assert durations(journal) == [60.0, 70.0]
    journal.delete("friday-42")
    assert durations(journal) == [70.0]


def test_deleting_forgets_the_lessons_of_all_runs(journal: Journal) -> None:
    """All ended runs of an id go with their lessons; other operations keep theirs."""
    for number in range(3):
        journal.write(
            batch(
                ended(run=f"r{number}"),
                trajectories=[lesson(f"r{number}"), lesson(f"r{number}", key=history_key("song"))],
            )
        )
    journal.write(batch(ended(operation_id="o2", run="x"), trajectories=[lesson("x", 5.0)]))
    assert journal.delete("friday-42") == 3
    assert (durations(journal), durations(journal, history_key("song"))) == ([5.0], [])


def test_the_table_is_bounded_and_what_learned_nothing_goes_first(
    open_another: Callable[..., Journal],
) -> None:
    """With keys without end those under which nothing was learned for the longest time go."""
    journal = open_another(limits=JournalLimits(trajectories=10))
    for number in range(14):
        taught(journal, lesson(f"r{number}", 1.0 + number, history_key(eta_key=str(number % 12))))
    kept = {key: durations(journal, history_key(eta_key=str(key))) for key in range(12)}
    assert [key for key, found in kept.items() if found] == [0, 1, *range(4, 12)]
    assert (kept[0], kept[1]) == ([13.0], [14.0])


NUMBER = st.floats(0, 1e7) | st.floats()


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    duration=NUMBER,
    points=st.lists(st.tuples(NUMBER, NUMBER), max_size=80),
    stages=st.dictionaries(st.text(max_size=300), NUMBER, max_size=40),
    names=st.tuples(st.text(), st.text(), st.text(), st.text()),
)
def test_whatever_is_taught_hurts_nobody(
    journal: Journal,
    duration: float,
    points: list[tuple[float, float]],
    stages: dict[str, float],
    names: tuple[str, ...],
) -> None:
    """Any numbers and any text can be written; what comes back is finite, bounded and in order."""
    key = TrajectoryKey(*names)
    journal.write(
        batch(
            ended(operation_id="any"),
            trajectories=[lesson(key=key, trajectory=Trajectory(duration, points, stages))],
        )
    )
    for found in journal.trajectories(key):
        assert 0.0 <= found.duration_s < float("inf")
        times = [time for time, _ in found.points]
        assert times == sorted(times)
        assert len(times) <= MAX_POINTS
        assert all(0.0 <= fraction <= 1.0 for _, fraction in found.points)
        assert all(0.0 <= seconds < float("inf") for seconds in found.stages.values())
    journal.delete("any")


def test_a_long_curve_is_thinned_evenly(journal: Journal) -> None:
    """A curve with more points than are kept still goes from its first to its last one."""
    points = tuple((float(second), second / 1000) for second in range(1001))
    taught(journal, lesson(trajectory=Trajectory(1000.0, points)))
    (found,) = journal.trajectories(KEY)
    assert len(found.points) == MAX_POINTS
    assert (found.points[0], found.points[-1]) == ((0.0, 0.0), (1000.0, 1.0))
    steps = [later[0] - earlier[0] for earlier, later in zip(found.points, found.points[1:], strict=False)]
    assert max(steps) - min(steps) <= 1.0


def test_stages_without_end_cost_only_themselves(journal: Journal) -> None:
    """A run with thousands of stages is kept without them."""
    taught(
        journal,
        lesson(
            trajectory=Trajectory(9.0, ((0.0, 0.0), (9.0, 1.0)), {f"stage {n}": 1.0 for n in range(9_000)})
        ),
    )
    assert list(journal.trajectories(KEY)) == [Trajectory(9.0, ((0.0, 0.0), (9.0, 1.0)))]
