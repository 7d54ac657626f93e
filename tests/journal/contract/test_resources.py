"""Resource samples of processes, and resource use of operations in a journal."""

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
from tests.support.examples import scale_examples
from tests.support.factories import (
    CLOCK,
    WALL,
    ended,
    instance,
    make_change_set,
    resource_use,
    sample,
    snapshot,
)
from tests.support.strategies import COUNT, REAL

SAMPLE = st.builds(ResourceSample, REAL, REAL, REAL, COUNT, st.none() | REAL, st.none() | COUNT)
USE = st.builds(
    ResourceUse, SAMPLE, COUNT, REAL, REAL, REAL, COUNT, st.none() | REAL, st.none() | REAL, st.none() | COUNT
)


@settings(max_examples=scale_examples(40), suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(SAMPLE, unique_by=lambda one: one.clock, max_size=5), USE)
def test_samples_and_resource_use_are_read_unchanged(written: list[ResourceSample], use: ResourceUse) -> None:
    """Samples are sorted by their monotonic clock."""
    with (
        tempfile.TemporaryDirectory() as directory,
        closing(SqliteJournal(Path(directory, "j.db"), now=lambda: WALL)) as journal,
    ):
        journal.write(make_change_set(snapshot(started_clock=None)))
        for one in written:
            journal.write(make_change_set(sample=one))
        journal.write(make_change_set(resources={"run-1": use}))
        assert list(journal.resources("friday-42")) == sorted(written, key=lambda one: one.clock)
        found = journal.get("friday-42")
        assert found is not None
        assert found.resources == use


def test_resources_query_returns_samples_during_the_run(journal: Journal) -> None:
    """Steps of the wall clock do not matter."""
    for second in range(0, 100, 10):
        journal.write(make_change_set(sample=sample(second, at=WALL - 3600 + second)))
    journal.write(make_change_set(sample=sample(55), instance=instance("other")))
    journal.write(make_change_set(ended(started_clock=CLOCK + 20, duration_s=40.0)))
    journal.write(make_change_set(snapshot(run="r2", operation_id="o2", started_clock=CLOCK + 75)))

    def clocks(operation_id: str, **filters: object) -> list[float]:
        return [one.clock - CLOCK for one in journal.resources(operation_id, ResourceQuery(**filters))]

    assert clocks("friday-42") == [20, 30, 40, 50, 60]
    assert clocks("o2") == [80, 90]
    assert clocks("friday-42", limit=2) == [50, 60]
    assert clocks("friday-42", since=WALL - 3600 + 35) == [40, 50, 60]
    assert clocks("nobody") == clocks("friday-42", limit=0) == []


def test_sample_limit_deletes_oldest_samples_of_process(journal: Journal) -> None:
    """A sample that is written twice is stored once."""
    journal.write(make_change_set(snapshot(), sample=sample(0)))
    for second in (*range(MAX_SAMPLES_PER_INSTANCE + 5), MAX_SAMPLES_PER_INSTANCE + 4):
        journal.write(make_change_set(sample=sample(second)))
    clocks = [one.clock - CLOCK for one in journal.resources("friday-42", ResourceQuery(limit=100_000))]
    assert clocks == list(range(5, MAX_SAMPLES_PER_INSTANCE + 5))


def test_resource_use_is_in_every_result(open_another: Callable[..., Journal]) -> None:
    """It is in get, active, watch and history."""
    journal = open_another()
    journal.write(
        make_change_set(snapshot(), resources={"run-1": resource_use(), "no-such-run": resource_use()})
    )
    use = resource_use(
        sample(1.0, gpu_ratio=0.25, gpu_memory_bytes=7),
        samples=11,
        gpu_mean=0.2,
        gpu_peak=0.3,
        gpu_memory_peak=9,
    )
    journal.write(make_change_set(resources={"run-1": use}))
    seen = [
        journal.get("friday-42"),
        *journal.active(),
        *journal.active(levels=False),
        *next(journal.watch()),
    ]
    assert [operation and operation.resources for operation in seen] == [use] * 4
    journal.write(make_change_set(ended()))
    assert [operation.resources for operation in journal.history()] == [use]


def test_sample_with_invalid_number_is_omitted(journal: Journal) -> None:
    """The rest of the change set is stored."""
    journal.write(make_change_set(snapshot(started_clock=None), sample=sample(1, cpu_ratio=math.nan)))
    journal.write(make_change_set(sample=sample(2, cpu_ratio=math.inf)))
    journal.write(make_change_set(sample=sample(3, gpu_ratio=math.inf, memory_bytes=2**70)))
    bad = {"run-1": resource_use(cpu_mean=math.nan), "r\ud800": resource_use()}
    journal.write(make_change_set(snapshot(sequence=2, current=1), resources=bad))
    assert [(one.clock - CLOCK, one.gpu_ratio) for one in journal.resources("friday-42")] == [(3.0, None)]
    found = journal.get("friday-42")
    assert found is not None
    assert (found.root.current, found.resources) == (1, None)
