"""Rate of paused operations on the command line: per active time."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

from otel_progress.journal import SqliteJournal
from tests.support.command_line import run, url_of
from tests.support.factories import ended, local_instance, make_change_set, snapshot


def test_rate_in_show_and_watch_excludes_pauses(tmp_path: Path) -> None:
    now, clock = time.time(), time.monotonic()
    here = local_instance(os.getpid())
    times = {"started_at": now - 5_000, "started_clock": clock - 5_000, "instance": here.id, "unit": "song"}
    paused = {"paused_clock": clock - 3_600, "paused_s": 1_300.0}  # 100 of 5,000 seconds are active
    journal = SqliteJournal(tmp_path / "progress.db")
    tape = snapshot(operation_id="tape", id="tape", current=300, total=1_000, ratio=0.3, **times, **paused)
    level = {**times, "started_clock": clock - 3_660, "operation_id": "tape"}
    reel = snapshot("reel:1", current=30, total=60, ratio=0.5, **level)
    film = {
        **times,
        "run": "r2",
        "operation_id": "film",
        "id": "film",
        "duration_s": 5_000.0,
        "ended_at": now,
        "paused_s": 4_900.0,
    }
    journal.write(
        make_change_set(
            tape, reel, ended(current=200, total=200, ratio=1.0, **film), instance=here, at=now, clock=clock
        )
    )
    journal.close()
    store = ("--store", url_of(tmp_path / "progress.db"))
    shown = run(*store, "show", "tape").stdout
    assert re.search(r"progress +30%  300/1000 songs\n", shown), shown
    assert "50%  30/60 songs  1h 01m" in shown, shown
    assert "elapsed    1h 23m" in shown
    assert "200/200 songs  2.0/s" in run(*store, "show", "film").stdout
    watched = run(*store, "watch", "--once", "tape").stdout
    assert re.findall(r"\d\.\d/s|\d+\.\d/min", watched) == [], watched
