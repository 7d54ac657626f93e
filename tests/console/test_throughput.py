"""Rates on the terminal: units per active time."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import otel_progress as progress
from otel_progress.console.layout import render_tree
from otel_progress.console.plain import format_operation
from otel_progress.journal.sqlite.journal import SqliteJournal
from otel_progress.operations import OperationSnapshot
from otel_progress.testing import recording
from tests.support.factories import CLOCK, ended, operation, snapshot

RATE = re.compile(r"[\d.]+/(?:s|min|h)\b")


def find_rates(operation_: OperationSnapshot) -> list[str]:
    """Return the rates of an operation in its tree, then in its plain line."""
    lines = [line.plain for line in render_tree([operation_], width=120, height=10)]
    return RATE.findall("\n".join([*lines, format_operation(operation_)]))


def test_rate_excludes_pauses() -> None:
    """The elapsed time includes them. During a pause there is no rate."""
    with recording() as recorder:
        op = progress.operation("job", id="job", total=100, unit="song").start()

        def read_rates() -> tuple[list[str], float]:
            read = recorder.runtime.reader.get("job")
            assert read is not None
            return find_rates(read), read.elapsed_seconds

        recorder.clock.advance(10.0)
        op.increment(20)
        assert read_rates() == (["2.0/s"] * 2, 10.0)
        for _ in range(2):
            with op.paused("waiting for a machine"):
                assert read_rates()[0] == []
                recorder.clock.advance(500.0)
                assert read_rates()[0] == []
            assert read_rates()[0] == ["2.0/s"] * 2
        recorder.clock.advance(10.0)
        op.increment(20)
        assert read_rates() == (["2.0/s"] * 2, 1020.0)
        recorder.clock.advance(20.0)
        assert read_rates()[0] == ["1.0/s"] * 2  # active without progress is slower
        op.complete()
        assert read_rates() == (["1.0/s"] * 2, 1040.0)


@pytest.mark.parametrize("seconds", [60.0, 61.0, 9_000.0])
def test_paused_operation_shows_no_rates_and_counts_active_time(seconds: float) -> None:
    """Its levels show none either. Their active time excludes the pause."""
    root = snapshot(current=60, total=100, ratio=0.6, paused_clock=CLOCK + 60.0, paused_s=30.0)
    song = snapshot("song:1", current=10, total=20, ratio=0.5, started_clock=CLOCK + 20.0, paused_s=20.0)
    read = operation(root, [song, ended("song:2", current=30, paused_s=30.0)], clock=CLOCK + seconds)
    assert find_rates(read) == []
    assert [read.active_seconds_of(level) for level in (read.root, *read.levels)] == [30.0, 20.0, 30.0]


def test_rate_excludes_resumed_units(tmp_path: Path) -> None:
    """Live, in the journal and after the end."""
    with recording(store=f"sqlite:///{tmp_path}/p.db") as recorder:
        journal = SqliteJournal(tmp_path / "p.db", now=recorder.clock.wall, clock=recorder.clock.monotonic)

        def read_rates() -> list[str]:
            recorder.runtime.force_flush()
            operations = [reader.get("job") for reader in (recorder.runtime.reader, journal)]
            live_rates, stored_rates = (find_rates(read) for read in operations if read is not None)
            assert live_rates == stored_rates
            return live_rates

        op = progress.operation("job", id="job", total=1000, unit="song").start()
        op.resume_from(900)
        disc = op.level("disc", "a", total=50)
        with disc:
            disc.resume_from(30)
            recorder.clock.advance(10.0)
            assert read_rates() == []
            op.increment(20)
            disc.increment(10)
            assert read_rates() == ["2.0/s", "1.0/s", "2.0/s"]
        op.complete()
        assert read_rates() == ["2.0/s", "2.0/s"]
        read = journal.get("job")
        assert read is not None
        assert (read.root.current, read.root.resumed_from, read.root.done_this_session) == (920, 900, 20)
        assert [(level.current, level.resumed_from) for level in read.levels] == [(40, 30)]
        journal.close()


def test_repeated_level_excludes_resumed_units_of_first_attempt() -> None:
    with recording() as recorder, progress.operation("job", id="job") as op:
        first = op.level("disc", "a", total=50).start()
        first.resume_from(30)
        first.cancel()
        second = op.level("disc", "a", total=50).start()
        second.increment(5)
        level = recorder.operation("job").get_level(second.path)
        assert level is not None
        assert (level.current, level.resumed_from) == (5, 0)
