"""What processes use, in a journal: samples by process, and what they make of each operation."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from otel_progress.journal import Journal, SqliteJournal
from otel_progress.journal.sqlite.writer import MAX_SAMPLES_PER_INSTANCE
from otel_progress.protocols import ResourceQuery
from otel_progress.records import ResourceSample, ResourceUse
from tests.support.factories import CLOCK, WALL, batch, ended, instance, resource_use, sample, snapshot
from tests.support.strategies import COUNT, REAL

SAMPLE = st.builds(ResourceSample, REAL, REAL, REAL, COUNT, st.none() | REAL, st.none() | COUNT)
USE = st.builds(
    ResourceUse, SAMPLE, COUNT, REAL, REAL, REAL, COUNT, st.none() | REAL, st.none() | REAL, st.none() | COUNT
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(SAMPLE, unique_by=lambda one: one.clock, max_size=5), USE)
def test_samples_and_use_come_back_as_written(written: list[ResourceSample], use: ResourceUse) -> None:
    """Samples come in the order of the process' own clock, what an operation used comes with it."""
    with (
        tempfile.TemporaryDirectory() as directory,
        closing(SqliteJournal(Path(directory, "j.db"), now=lambda: WALL)) as journal,
    ):
        journal.write(batch(snapshot(started_clock=None)))
        for one in written:
            journal.write(batch(sample=one))
        journal.write(batch(resources={"run-1": use}))
        assert list(journal.resources("friday-42")) == sorted(written, key=lambda one: one.clock)
        found = journal.get("friday-42")
        assert found is not None
        assert found.resources == use


def test_samples_are_those_of_the_time_an_operation_ran(journal: Journal) -> None:
    """What its process used before the start or after the end is another operation's affair, whatever the wall clock did."""
    for second in range(0, 100, 10):
        journal.write(batch(sample=sample(second, at=WALL - 3600 + second)))
    journal.write(batch(sample=sample(55), instance=instance("other")))
    journal.write(batch(ended(started_clock=CLOCK + 20, duration_s=40.0)))
    journal.write(batch(snapshot(run="r2", operation_id="o2", started_clock=CLOCK + 75)))

    def clocks(operation_id: str, **filters: object) -> list[float]:
        return [one.clock - CLOCK for one in journal.resources(operation_id, ResourceQuery(**filters))]

    assert clocks("friday-42") == [20, 30, 40, 50, 60]
    assert clocks("o2") == [80, 90]
    assert clocks("friday-42", limit=2) == [50, 60]
    assert clocks("friday-42", since=WALL - 3600 + 35) == [40, 50, 60]
    assert clocks("nobody") == clocks("friday-42", limit=0) == []


def test_a_process_keeps_its_newest_samples(journal: Journal) -> None:
    """A process that runs for days stays within its bound, and one sent twice is kept once."""
    journal.write(batch(snapshot(), sample=sample(0)))
    for second in (*range(MAX_SAMPLES_PER_INSTANCE + 5), MAX_SAMPLES_PER_INSTANCE + 4):
        journal.write(batch(sample=sample(second)))
    clocks = [one.clock - CLOCK for one in journal.resources("friday-42", ResourceQuery(limit=100_000))]
    assert clocks == list(range(5, MAX_SAMPLES_PER_INSTANCE + 5))


def test_every_view_carries_what_an_operation_used(open_another: Callable[..., Journal]) -> None:
    """The newest is in get, active, watch and, after the end, in the history."""
    journal = open_another()
    journal.write(batch(snapshot(), resources={"run-1": resource_use(), "no-such-run": resource_use()}))
    use = resource_use(
        sample(1.0, gpu_ratio=0.25, gpu_memory_bytes=7),
        samples=11,
        gpu_mean=0.2,
        gpu_peak=0.3,
        gpu_memory_peak=9,
    )
    journal.write(batch(resources={"run-1": use}))
    seen = [
        journal.get("friday-42"),
        *journal.active(),
        *journal.active(levels=False),
        *next(journal.watch()),
    ]
    assert [operation and operation.resources for operation in seen] == [use] * 4
    journal.write(batch(ended()))
    assert [operation.resources for operation in journal.history()] == [use]


def test_a_sample_that_is_no_number_is_left_out(journal: Journal) -> None:
    """NaN and infinities cost the sample, or the value where it may be unknown; the work that comes with them is kept."""
    journal.write(batch(snapshot(started_clock=None), sample=sample(1, cpu_ratio=math.nan)))
    journal.write(batch(sample=sample(2, cpu_ratio=math.inf)))
    journal.write(batch(sample=sample(3, gpu_ratio=math.inf, memory_bytes=2**70)))
    bad = {"run-1": resource_use(cpu_mean=math.nan), "r\ud800": resource_use()}
    journal.write(batch(snapshot(sequence=2, current=1), resources=bad))
    assert [(one.clock - CLOCK, one.gpu_ratio) for one in journal.resources("friday-42")] == [(3.0, None)]
    found = journal.get("friday-42")
    assert found is not None
    assert (found.root.current, found.resources) == (1, None)
