"""The pace that the terminal shows: units over the time that was worked, from real work with a clock of the test's own."""

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

PACE = re.compile(r"[\d.]+/(?:s|min|h)\b")


def paces(read: OperationSnapshot) -> list[str]:
    """Return the paces in the lines of an operation: those of its tree, then that in a log."""
    lines = [line.plain for line in render_tree([read], width=120, height=10)]
    return PACE.findall("\n".join([*lines, format_operation(read)]))


def test_a_pause_does_not_slow_the_work_down() -> None:
    """The pace stands still in a pause, goes on from there after it, and is the same in the end; what has elapsed is all of the time."""
    with recording() as recorder:
        op = progress.operation("job", id="job", total=100, unit="song").start()

        def shown() -> tuple[list[str], float]:
            read = recorder.runtime.reader.get("job")
            assert read is not None
            return paces(read), read.elapsed_seconds

        recorder.clock.advance(10.0)
        op.increment(20)
        assert shown() == (["2.0/s"] * 2, 10.0)
        for _ in range(2):
            with op.paused("waiting for a machine"):
                assert shown()[0] == ["2.0/s"] * 2
                recorder.clock.advance(500.0)
                assert shown()[0] == ["2.0/s"] * 2
            assert shown()[0] == ["2.0/s"] * 2
        recorder.clock.advance(10.0)
        op.increment(20)
        assert shown() == (["2.0/s"] * 2, 1020.0)
        recorder.clock.advance(20.0)
        assert shown()[0] == ["1.0/s"] * 2  # it works and does not advance: that is slower
        op.complete()
        assert shown() == (["1.0/s"] * 2, 1040.0)


@pytest.mark.parametrize("seconds", [60.0, 61.0, 9_000.0])
def test_a_level_waits_with_its_operation(seconds: float) -> None:
    """The pause that is on is the operation's, earlier ones a level counts itself; a level that has ended keeps the pace it had."""
    root = snapshot(current=60, total=100, ratio=0.6, paused_clock=CLOCK + 60.0, paused_s=30.0)
    song = snapshot("song:1", current=10, total=20, ratio=0.5, started_clock=CLOCK + 20.0, paused_s=20.0)
    read = operation(root, [song, ended("song:2", current=30, paused_s=30.0)], clock=CLOCK + seconds)
    assert paces(read) == ["2.0/s", "30.0/min", "2.0/s"]
    assert [read.active_seconds_of(level) for level in (read.root, *read.levels)] == [30.0, 20.0, 30.0]


def test_what_an_earlier_session_did_is_no_pace_of_this_one(tmp_path: Path) -> None:
    """Of a run that was taken up, operation or level, only what was done since counts: live, in the journal and after the end."""
    with recording(store=f"sqlite:///{tmp_path}/p.db") as recorder:
        journal = SqliteJournal(tmp_path / "p.db", now=recorder.clock.wall, clock=recorder.clock.monotonic)

        def shown() -> list[str]:
            recorder.runtime.force_flush()
            found = [reader.get("job") for reader in (recorder.runtime.reader, journal)]
            told = [paces(read) for read in found if read is not None]
            assert told[0] == told[1]
            return told[0]

        op = progress.operation("job", id="job", total=1000, unit="song").start()
        op.resume_from(900)
        disc = op.level("disc", "a", total=50)
        with disc:
            disc.resume_from(30)
            recorder.clock.advance(10.0)
            assert shown() == []
            op.increment(20)
            disc.increment(10)
            assert shown() == ["2.0/s", "1.0/s", "2.0/s"]
        op.complete()
        assert shown() == ["2.0/s", "2.0/s"]
        read = journal.get("job")
        assert read is not None
        assert (read.root.current, read.root.resumed_from, read.root.done_this_session) == (920, 900, 20)
        assert [(level.current, level.resumed_from) for level in read.levels] == [(40, 30)]
        journal.close()


def test_a_level_entered_again_starts_afresh() -> None:
    """Units that its earlier attempt had taken up are none of the next one's."""
    with recording() as recorder, progress.operation("job", id="job") as op:
        first = op.level("disc", "a", total=50).start()
        first.resume_from(30)
        first.cancel()
        again = op.level("disc", "a", total=50).start()
        again.increment(5)
        found = recorder.operation("job").get_level(again.path)
        assert found is not None
        assert (found.current, found.resumed_from) == (5, 0)
