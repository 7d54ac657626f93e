"""Use of resources added up: means and peaks are those of the samples."""

from __future__ import annotations

from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

import otel_progress as progress
from otel_progress.live.resource_usage import UsageAccumulator
from otel_progress.protocols import ResourceQuery
from otel_progress.records import ResourceSample
from otel_progress.testing import Recorder

SAMPLES = st.lists(
    st.builds(
        ResourceSample,
        at=st.just(0.0),
        clock=st.just(0.0),
        cpu_ratio=st.floats(0, 512),
        memory_bytes=st.integers(0, 2**50),
        gpu_ratio=st.none() | st.floats(0, 1),
        gpu_memory_bytes=st.none() | st.integers(0, 2**50),
    ),
    min_size=1,
    max_size=60,
)


@given(SAMPLES)
def test_means_and_peaks_are_those_of_the_samples(samples: list[ResourceSample]) -> None:
    """Samples without a GPU's figures are none of its mean; everything else is over all of them."""
    usage = UsageAccumulator()
    for sample in samples:
        use = usage.add(sample)
    assert (use.last, use.samples) == (samples[-1], len(samples))
    assert use.cpu_mean == pytest.approx(fmean(one.cpu_ratio for one in samples))
    assert use.memory_mean == pytest.approx(fmean(one.memory_bytes for one in samples))
    assert use.cpu_peak == max(one.cpu_ratio for one in samples)
    assert use.memory_peak == max(one.memory_bytes for one in samples)
    gpu = [one.gpu_ratio for one in samples if one.gpu_ratio is not None]
    memory = [one.gpu_memory_bytes for one in samples if one.gpu_memory_bytes is not None]
    assert use.gpu_mean == (pytest.approx(fmean(gpu)) if gpu else None)
    assert use.gpu_peak == max(gpu, default=None)
    assert use.gpu_memory_peak == max(memory, default=None)


def test_an_operation_has_the_samples_of_its_own_time(recorder: Recorder) -> None:
    """What was used before an operation began and after it ended is none of it; the next batch carries the last look once."""
    store, clock = recorder.runtime._store, recorder.clock

    def look(cpu: float) -> None:
        clock.advance(1.0)
        store.add_sample(ResourceSample(clock.wall(), clock.monotonic(), cpu, 1000))

    look(8.0)
    clock.advance(0.5)
    with progress.operation("job", id="j"):
        look(1.0)
        look(3.0)
        batch = store.collect()
        assert batch.sample is not None
        assert batch.sample.cpu_ratio == 3.0
        (use,) = batch.resources.values()
        assert (use.samples, use.cpu_mean, use.cpu_peak) == (2, 2.0, 3.0)
        assert store.collect().sample is None
    clock.advance(0.5)
    look(9.0)
    assert recorder.operation("j").resources == use
    assert [one.cpu_ratio for one in store.reader.resources("j")] == [1.0, 3.0]
    assert [one.cpu_ratio for one in store.reader.resources("j", ResourceQuery(limit=1))] == [3.0]
    assert store.reader.resources("nobody") == []
