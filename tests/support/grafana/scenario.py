"""The dashboard scenario: hours of runs, then one operation in each state."""

from __future__ import annotations

import contextlib
import random
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Final, TextIO

import otel_progress as progress
from tests.support.grafana import jobs
from tests.support.grafana.jobs import Job
from tests.support.grafana.simulation import SERVER, World

RUNNING: Final = "friday-42"
STALLED: Final = "eu-west"
FAILED: Final = "us-east"
FINISHED: Final = "gala-7"
CANCELLED: Final = "legacy"
UNKNOWN_TOTAL: Final = "docs"
LATE: Final = "vault"
PAUSED: Final = "xl"
ESTIMATED: Final = "cut-3"
ABANDONED: Final = "archive"
MANY_LEVELS: Final = "many-levels"
TWINS: Final = "both-sites"
HOSTILE: Final = 'a "quoted" \\ {id=~".*"} <b>& it\'s $1 ${job} [[job]] %41+#/? ünï 日本 `x`\n'
"""An id with arbitrary text. Control characters and backquotes, which queries must quote, arrive
escaped.
"""
SHOWN_HOSTILE: Final = HOSTILE.replace("\n", "\\n").replace("`", "\\x60")
"""The same id as a label value."""
BATCH: Final = "thumbnails"


def live_through(world: World, out: TextIO, *, hours: float, step: float, pause: float = 1500.0) -> None:
    """Simulate hours of runs of several types, one about every ``pause`` seconds.

    Samples are recorded every ``step``. Finally, there is an operation in each state.
    """
    seconds = hours * 3600.0
    _runs(world, seconds - 2400.0, pause)
    _present(world, seconds)
    _pass(world, out, seconds, step)


def live_days(world: World, out: TextIO, *, days: float, step: float, pause: float) -> None:
    """Simulate days of such runs."""
    _runs(world, days * 86_400.0, pause)
    _pass(world, out, days * 86_400.0, step)


def _runs(world: World, seconds: float, pause: float) -> None:
    luck = random.Random(42)
    for at in _often(luck, seconds, pause):
        world.start_job(_ordinary(luck, int(world.clock.monotonic() + at)), at)


def _pass(world: World, out: TextIO, seconds: float, step: float) -> None:
    for number in range(round(seconds / step)):
        world.advance(step, resolution=max(5.0, step / 20))
        world.write_down(out)
        _mishaps(world, number)


def _often(luck: random.Random, seconds: float, mean: float) -> Iterator[float]:
    at = 30.0
    while at < seconds:
        yield at
        at += luck.uniform(0.4, 1.6) * mean


def _ordinary(luck: random.Random, number: int) -> Job:
    """Return one of the short runs."""
    kind = luck.random()
    if kind < 0.5:
        return jobs.render(f"show-{number}", frames=luck.randint(50, 70), pace=luck.uniform(8.5, 10.5))
    if kind < 0.85:
        fails = luck.randint(20, 120) if luck.random() < 0.15 else None
        return jobs.ingest(f"load-{number}", files=150, pace=luck.uniform(1.5, 2.5), fails_after=fails)
    return jobs.survey(f"site-{number}", pages=luck.randint(50, 200))


def _present(world: World, end: float) -> None:
    """Start the content of the pictures in time for the end."""
    world.start_job(jobs.render(FINISHED), end - 700)
    world.start_job(jobs.render(RUNNING, frames=60, pace=9.5, previews=True), end - 300)
    world.start_job(jobs.survey(UNKNOWN_TOTAL, pages=100_000), end - 1500)
    world.start_job(jobs.ingest(STALLED, stalls_after=20), end - 150)
    world.start_job(jobs.ingest(FAILED, fails_after=80), end - 240)
    world.start_job(jobs.cancelled(CANCELLED), end - 200)
    world.start_job(jobs.backup(LATE, deadline=900.0), end - 2400)
    world.start_job(jobs.opaque(ESTIMATED), end - 400)
    world.start_job(jobs.paused(PAUSED), end - 1000)
    world.start_job(jobs.many_levels(MANY_LEVELS), end - 300)
    world.start_job(jobs.twins(TWINS), end - 120)
    world.start_job(jobs.survey(HOSTILE, pages=100_000), end - 200)
    world.start_job(_albums(world), end - 420)
    world.start_job(_crash(world), end - 60)


def _albums(world: World) -> Job:
    """Declare a batch and work on its operations three at a time."""
    batch = progress.batch("Thumbnails of the gala", id=BATCH, type="albums", total=60).start()
    for number in range(60):
        world.start_job(jobs.thumbnails(batch, number, fails=number in (3, 8)), 0.0)
        yield 14.0


def _crash(world: World) -> Job:
    world.abandon(ABANDONED, "index")
    yield from ()


def be_refused(world: World) -> None:
    """Send requests that the server refuses, so that it counts them."""
    request = urllib.request.Request(
        f"http://{world.targets[SERVER]}/api/v1/operations", headers={"Host": "elsewhere.example"}
    )
    with contextlib.suppress(urllib.error.HTTPError), urllib.request.urlopen(request, timeout=10):
        pass


def _mishaps(world: World, number: int) -> None:
    """Let something go wrong inside of telemetry now and then."""
    totals = world.recorder.runtime._totals
    if number % 31 == 5:
        totals.count_rejected("negative" if number % 2 else "not a number")
    if number % 67 == 7:
        totals.count_sink_error("otlp.traces")
    if number % 53 == 11:
        totals.count_dropped("events", 3)
    if number % 41 == 3:
        be_refused(world)
