"""Collector: series, their values, and what is left out."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector

from otel_progress import semconv
from otel_progress.metrics import ProgressCollector
from otel_progress.metrics.counters import Totals
from otel_progress.model import Status
from tests.support.factories import WALL as START
from tests.support.factories import make_change_set
from tests.support.metrics_operations import TRACE_ID, Shelf, eta, level, operation
from tests.support.metrics_scrape import exposition, of_work, samples, values

OP = ("op", "render")
OPTIONAL = (
    semconv.OPERATION_RATIO,
    semconv.OPERATION_TARGET,
    semconv.OPERATION_LAST_ADVANCE,
    semconv.OPERATION_NOT_REPORTING,
    semconv.OPERATION_EXPECTED_END,
    semconv.OPERATION_EXPECTED_END_LOWER,
    semconv.OPERATION_EXPECTED_END_UPPER,
    semconv.OPERATION_DEADLINE,
    semconv.OPERATION_REMAINING,
)


def test_running_operation_has_its_series() -> None:
    """Each known value is one sample with the operation's id and type."""
    running = operation(
        current=3,
        total=12,
        ratio=0.25,
        failed=1,
        advanced_at=START + 9,
        deadline_at=START + 600,
        trace_id=TRACE_ID,
        name="Friday",
        eta=eta(30.0, 20.0, 50.0, elapsed=8.0),
    )
    collector = ProgressCollector(Shelf([running]))
    expected = {
        semconv.OPERATION_RATIO: 0.25,
        semconv.OPERATION_CURRENT: 3.0,
        semconv.OPERATION_TARGET: 12.0,
        semconv.OPERATION_FAILED: 1.0,
        semconv.OPERATION_START: START,
        semconv.OPERATION_LAST_ADVANCE: START + 9,
        semconv.OPERATION_EXPECTED_END: START + 38,
        semconv.OPERATION_EXPECTED_END_LOWER: START + 28,
        semconv.OPERATION_EXPECTED_END_UPPER: START + 58,
        semconv.OPERATION_DEADLINE: START + 600,
        semconv.OPERATION_REMAINING: 28.0,
    }
    assert {metric: values(collector, metric) for metric in expected} == {
        metric: {OP: value} for metric, value in expected.items()
    }
    assert values(collector, semconv.OPERATION_INFO) == {(*OP, "Friday", TRACE_ID, ""): 1.0}


def test_expected_end_is_constant_while_time_passes() -> None:
    """The remaining time counts down to 0. The expected end moves once it has passed."""
    shelf = Shelf([operation(eta=eta(30.0, None, 50.0))])
    collector = ProgressCollector(shelf)
    seen = []
    for elapsed in (10.0, 25.0, 40.0, 45.0):
        shelf.elapsed = elapsed
        end = values(collector, semconv.OPERATION_EXPECTED_END)[OP] - START
        seen.append((values(collector, semconv.OPERATION_REMAINING)[OP], end))
    assert seen == [(30.0, 40.0), (15.0, 40.0), (0.0, 40.0), (0.0, 45.0)]
    assert values(collector, semconv.OPERATION_EXPECTED_END_LOWER) == {}


def test_unknown_values_have_no_series() -> None:
    """Neither operations nor levels have series for unknown values."""
    collector = ProgressCollector(Shelf([operation(levels=[level("file:1")])]))
    assert [
        metric.name
        for metric in (*OPTIONAL, semconv.LEVEL_RATIO, semconv.LEVEL_TARGET)
        if values(collector, metric)
    ] == []
    assert values(collector, semconv.OPERATION_CURRENT) == {OP: 0.0}
    assert values(collector, semconv.OPERATION_INFO) == {(*OP, "An operation", "", ""): 1.0}


@pytest.mark.parametrize("status", list(Status))
def test_status_has_one_series_per_value(status: Status) -> None:
    """An operation has a series for each status. A level has one for its own."""
    running = operation(status=status, levels=[level("file:1", status=status)])
    collector = ProgressCollector(
        Shelf([running] if not status.finished else [], [running] if status.finished else [])
    )
    expected = {(*OP, other.value): float(other is status) for other in Status}
    assert values(collector, semconv.OPERATION_STATUS) == expected
    if not status.finished:
        assert values(collector, semconv.LEVEL_STATUS) == {(*OP, "file:1", status.value): 1.0}


def test_levels_have_path_labels_up_to_the_maximum_depth() -> None:
    """Deeper levels are left out and not counted."""
    deep = [
        level("song:1", current=2, total=4, ratio=0.5),
        level("song:1/action:a", current=1),
        level("song:1/action:a/block:x"),
    ]
    collector = ProgressCollector(Shelf([operation(levels=deep)]))
    assert values(collector, semconv.LEVEL_RATIO) == {(*OP, "song:1"): 0.5}
    assert values(collector, semconv.LEVEL_TARGET) == {(*OP, "song:1"): 4.0}
    assert values(collector, semconv.LEVEL_CURRENT) == {(*OP, "song:1"): 2.0, (*OP, "song:1/action:a"): 1.0}
    assert values(collector, semconv.SERIES_DROPPED) == {}


def test_finished_operation_vanishes_after_the_retention() -> None:
    """All series of the operation are gone."""
    shelf = Shelf(ended=[operation(elapsed=10.0, status=Status.COMPLETED, ratio=1.0, eta=eta(5.0, 1.0, 9.0))])
    collector = ProgressCollector(shelf, retention_s=60.0)
    shelf.elapsed = 70.0
    assert values(collector, semconv.OPERATION_RATIO) == {OP: 1.0}
    assert values(collector, semconv.OPERATION_REMAINING) == {OP: 0.0}
    assert values(collector, semconv.OPERATION_EXPECTED_END) == {}
    assert values(collector, semconv.OPERATIONS) == {("render", "completed", "ok"): 1.0}
    shelf.elapsed = 70.5
    assert of_work(collector) == []


@pytest.mark.parametrize("step", [-3600.0, 0.0, 3600.0])
def test_retention_ignores_steps_of_the_wall_clock(step: float) -> None:
    """The step is an hour in either direction."""
    shelf = Shelf(ended=[operation(elapsed=10.0, status=Status.FAILED)], wall_step=step)
    collector = ProgressCollector(shelf, retention_s=60.0)
    shelf.elapsed = 69.0
    assert values(collector, semconv.OPERATION_CURRENT) == {OP: 0.0}
    shelf.elapsed = 71.0
    assert of_work(collector) == []


@pytest.mark.parametrize("clock", [-4_990.0, 20.0])
def test_retention_after_a_reboot_uses_the_wall_clock(clock: float) -> None:
    """Monotonic times of different boots cannot be compared."""
    shelf = Shelf(ended=[operation(elapsed=10.0, status=Status.COMPLETED)], elapsed=clock, wall_step=86_400.0)
    assert of_work(ProgressCollector(shelf)) == []


def test_retention_without_a_start_time_uses_the_wall_clock() -> None:
    """An operation without an end time is not exported."""
    skipped = operation(status=Status.SKIPPED, started_at=None, started_clock=None, duration_s=None)
    shelf = Shelf(ended=[skipped, operation("odd", status=Status.FAILED, ended_at=None)])
    collector = ProgressCollector(shelf, retention_s=60.0)
    assert list(values(collector, semconv.OPERATION_CURRENT)) == [OP]
    assert values(collector, semconv.OPERATION_START) == {}
    shelf.elapsed = 71.0
    assert of_work(collector) == []


def test_operations_beyond_the_cap_are_counted_at_each_scrape() -> None:
    """Running operations and newer ones come first."""
    running = [operation(f"r{n}", started_at=START + n) for n in range(3)]
    ended = [operation(f"e{n}", status=Status.COMPLETED) for n in range(3)]
    shelf = Shelf(running, ended)
    collector = ProgressCollector(shelf, max_operations=4)
    assert [labels[0] for labels in values(collector, semconv.OPERATION_CURRENT)] == ["r2", "r1", "r0", "e0"]
    before = values(collector, semconv.SERIES_DROPPED)[("operation",)]
    assert (
        values(collector, semconv.SERIES_DROPPED)[("operation",)] - before == 2 * 2
    )  # each look is two scrapes
    assert values(ProgressCollector(shelf, max_operations=2), semconv.OPERATION_CURRENT).keys() == {
        ("r2", "render"),
        ("r1", "render"),
    }


def test_operation_count_includes_operations_beyond_the_cap() -> None:
    """It has type, status and condition as labels."""
    running = [operation(f"r{n}") for n in range(5)]
    late = operation("late", deadline_at=START + 1)
    dead = replace(operation("dead"), alive=False)
    collector = ProgressCollector(
        Shelf([*running, late, dead, operation("p", status=Status.PENDING)]), max_operations=1
    )
    assert values(collector, semconv.OPERATIONS) == {
        ("render", "running", "ok"): 5.0,
        ("render", "running", "overdue"): 1.0,
        ("render", "running", "abandoned"): 1.0,
        ("render", "pending", "ok"): 1.0,
    }


def test_operation_types_beyond_the_limit_are_counted_as_other() -> None:
    """The most frequent types keep their names."""
    running = [operation(f"r{n}", f"type{n:03}") for n in range(150)] + [
        operation(f"m{n}", "zzz") for n in range(7)
    ]
    counts = values(ProgressCollector(Shelf(running)), semconv.OPERATIONS)
    assert len(counts) == 101
    assert counts["zzz", "running", "ok"] == 7.0
    assert counts["other", "running", "ok"] == 51.0


def test_levels_beyond_either_cap_are_counted() -> None:
    """Running levels come first."""
    levels = [
        level(f"file:{n}", status=Status.RUNNING if n in (3, 7) else Status.COMPLETED) for n in range(10)
    ]
    shelf = Shelf([operation(f"r{n}", levels=levels, started_at=START - n) for n in range(3)])
    shown = values(ProgressCollector(shelf, max_levels_per_operation=2), semconv.LEVEL_CURRENT)
    assert sorted(labels[2] for labels in shown) == ["file:3"] * 3 + ["file:7"] * 3
    limited = ProgressCollector(shelf, max_levels_per_operation=10, max_levels=12)
    assert [labels[0] for labels in values(limited, semconv.LEVEL_CURRENT)] == ["r0"] * 10 + ["r1"] * 2
    assert values(limited, semconv.SERIES_DROPPED) == {("level",): 18.0 * 4}  # two looks of two scrapes


def test_level_cap_of_zero_reads_no_levels() -> None:
    """No level is counted as dropped."""
    collector = ProgressCollector(Shelf([operation(levels=[level("file:1")])]), max_levels_per_operation=0)
    assert values(collector, semconv.LEVEL_CURRENT) == {}
    assert values(collector, semconv.SERIES_DROPPED) == {}


def test_runs_of_one_id_have_one_series() -> None:
    """The latest active run is exported.

    A repeated series would make the scrape invalid.
    """
    twice = [
        operation("op", run="old", current=1, started_at=START),
        operation("op", run="new", current=2, started_at=START + 5),
    ]
    ended = [operation("op", run="older", current=3, status=Status.FAILED)]
    collector = ProgressCollector(Shelf(twice, ended))
    assert values(collector, semconv.OPERATION_CURRENT) == {OP: 2.0}
    assert values(collector, semconv.SERIES_DROPPED) == {}


def test_run_that_ends_between_the_two_queries_is_exported_once() -> None:
    """It is in both results of the reader."""
    collector = ProgressCollector(Shelf([operation()], [operation(status=Status.COMPLETED)]))
    assert sum(values(collector, semconv.OPERATIONS).values()) == 1.0
    assert sum(values(collector, semconv.OPERATION_STATUS).values()) == 1.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 10**400, "text"], ids=str)
def test_value_that_is_not_finite_has_no_series(bad: Any) -> None:
    """Other series are not affected."""
    known: dict[str, Any] = {
        "current": bad,
        "total": bad,
        "ratio": bad,
        "advanced_at": bad,
        "eta": eta(bad, bad, bad),
    }
    if isinstance(bad, (str, int)):
        del known["eta"]
    collector = ProgressCollector(Shelf([operation(**known), operation("good", ratio=0.5)]))
    assert values(collector, semconv.OPERATION_RATIO) == {("good", "render"): 0.5}
    assert all(math.isfinite(sample.value) for sample in samples(collector))


HOSTILE = st.text(max_size=300)


@given(HOSTILE, HOSTILE, HOSTILE, HOSTILE)
def test_operation_with_any_text_has_valid_labels(id_: str, type_: str, name: str, path: str) -> None:
    """Both formats parse. Labels are bounded and contain no control characters."""
    running = operation(id_, type_, name=name, levels=[level(f"t:{path}")], trace_id=name, ratio=0.5)
    collector = ProgressCollector(Shelf([running]), max_level_depth=1000)
    result = {sample.name: sample.labels for sample in samples(collector)}
    assert len(result[semconv.OPERATION_INFO.prometheus]["name"]) <= 128
    assert len(result[semconv.LEVEL_CURRENT.prometheus]["level"]) <= 256
    assert result[semconv.OPERATION_INFO.prometheus]["trace_id"] == ""
    assert not any(
        ord(character) < 32 or 127 <= ord(character) < 160
        for character in exposition(collector).replace("\n", "")
    )


def test_operation_with_surrogates_or_huge_texts_has_short_labels() -> None:
    """A lone surrogate cannot be encoded."""
    running = operation("\ud800", "x" * 10_000_000, name="\udfff" + "n" * 10_000_000)
    result = values(ProgressCollector(Shelf([running])), semconv.OPERATION_INFO)
    assert [len(label) for labels in result for label in labels] == [6, 256, 128, 0, 0]


def test_ids_with_equal_labels_have_one_series() -> None:
    """Long ids that differ at the end have different labels."""
    same = [operation("a\x1b", started_at=START + 1), operation("a\\x1b")]
    levels = [level("t:\x07"), level("t:\\x07"), level("t:" + "y" * 300 + "1"), level("t:" + "y" * 300 + "2")]
    collector = ProgressCollector(Shelf([*same, operation("c", levels=levels)]))
    assert sorted(labels[0] for labels in values(collector, semconv.OPERATION_CURRENT)) == ["a\\x1b", "c"]
    assert len(values(collector, semconv.LEVEL_CURRENT)) == 3


def test_registering_does_not_read_and_reserves_all_names() -> None:
    """A registry refuses a second collector."""
    shelf = Shelf()
    registry = CollectorRegistry()
    registry.register(ProgressCollector(shelf))
    assert shelf.reads == 0
    with pytest.raises(ValueError, match=semconv.OPERATION_RATIO.prometheus):
        registry.register(ProgressCollector(shelf))


class _Other(Collector):
    def collect(self) -> Iterable[Family]:
        """Yield the gauge of another collector."""
        yield GaugeMetricFamily("other_gauge", "Of another collector.", 1.0)


def test_failing_reader_leaves_totals_and_other_collectors(caplog: pytest.LogCaptureFixture) -> None:
    """One warning is logged, and each failure is counted."""
    totals = Totals()
    totals.count_rejected("negative")
    shelf = Shelf([operation()], error=OSError("disk gone"))
    registry = CollectorRegistry()
    registry.register(ProgressCollector(shelf, totals=totals))
    registry.register(_Other())
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            names = {family.name for family in registry.collect()}
    assert "other_gauge" in names
    assert not any(name.startswith("progress_operation") for name in names)
    assert len(caplog.records) == 1
    assert registry.get_sample_value(semconv.UPDATES_REJECTED.prometheus, {"reason": "negative"}) == 1.0
    shelf.error = None
    assert (
        registry.get_sample_value(
            semconv.OPERATION_CURRENT.prometheus, dict(zip(semconv.OPERATION_CURRENT.labels, OP, strict=True))
        )
        == 0
    )
    assert registry.get_sample_value(semconv.SINK_ERRORS.prometheus, {"sink": "prometheus"}) == 4.0


def test_totals_become_counters_and_histograms() -> None:
    """Histogram buckets are cumulative. Exemplars are in OpenMetrics only."""
    totals = Totals()
    ended = operation(elapsed=42.0, status=Status.COMPLETED, trace_id=TRACE_ID)
    totals.write(
        make_change_set(
            ended.root, items={("render", "frame", "completed"): 41, ("render", "frame", "failed"): 1}
        )
    )
    totals.observe_tick(0.004)
    collector = ProgressCollector(Shelf(), totals=totals)
    assert values(collector, semconv.OPERATIONS_FINISHED) == {("render", "completed"): 1.0}
    assert values(collector, semconv.ITEMS) == {
        ("render", "frame", "completed"): 41.0,
        ("render", "frame", "failed"): 1.0,
    }
    buckets = values(collector, semconv.OPERATION_DURATION, "_bucket")
    assert buckets["render", "completed", "30.0"] == 0.0
    assert buckets["render", "completed", "60.0"] == buckets["render", "completed", "+Inf"] == 1.0
    assert values(collector, semconv.OPERATION_DURATION, "_sum") == {("render", "completed"): 42.0}
    assert values(collector, semconv.TICK_DURATION, "_count") == {(): 1.0}
    exemplars = [sample.exemplar for sample in samples(collector) if sample.exemplar]
    assert [(one.labels, one.value, float(one.timestamp or 0)) for one in exemplars] == [
        ({"trace_id": TRACE_ID}, 42.0, START + 42.0)
    ]
    assert TRACE_ID not in exposition(collector)


def test_exemplar_with_an_invalid_trace_id_is_left_out() -> None:
    """OpenMetrics limits the length of an exemplar's labels."""
    totals = Totals()
    totals.write(make_change_set(operation(status=Status.COMPLETED, trace_id='"}\n' * 100).root))
    assert not any(sample.exemplar for sample in samples(ProgressCollector(Shelf(), totals=totals)))


def test_described_families_match_the_conventions() -> None:
    """``describe`` returns every metric of semconv with its kind and help."""
    described = {
        (family.name, family.type, family.documentation) for family in ProgressCollector(Shelf()).describe()
    }
    assert described == {
        (
            metric.prometheus.removesuffix("_total") if metric.kind == "counter" else metric.prometheus,
            metric.kind,
            metric.help,
        )
        for metric in semconv.METRICS
    }


def test_backquote_in_an_id_is_escaped() -> None:
    """Grafana cannot put a backquote into a query. The ids stay distinct."""
    result = values(ProgressCollector(Shelf([operation("a`b"), operation("ab")])), semconv.OPERATION_CURRENT)
    assert set(result) == {("a\\x60b", "render"), ("ab", "render")}
