"""A real worker, a server over its journal, and an exporter, on a fake clock.

Their metrics can be recorded for ``promtool tsdb create-blocks-from openmetrics``, so that a
Prometheus has days of history at once. After that it scrapes the same exporters over HTTP.
"""

from __future__ import annotations

import heapq
import itertools
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TextIO

from otel_progress.journal.sqlite.journal import SqliteJournal
from otel_progress.live.store import LiveStore
from otel_progress.metrics import ProgressCollector
from otel_progress.metrics.http_server import serve_metrics
from otel_progress.model import Instance
from otel_progress.previews.stores import open_store
from otel_progress.server.uvicorn_server import Server
from otel_progress.testing import FakeClock, Recorder, recording
from tests.support import factories
from tests.support.grafana.jobs import Job

WORKER: Final = "otel-progress-worker"
SERVER: Final = "otel-progress-server"
IDLE: Final = "idle-worker"
JOBS: Final = (WORKER, SERVER, IDLE)
"""Names of the scrape jobs."""


@dataclass
class World:
    """The three exporters, the clock, and the waiting jobs."""

    recorder: Recorder
    clock: FakeClock
    targets: dict[str, str]
    journal: SqliteJournal
    _waiting: list[tuple[float, int, Job]] = field(default_factory=list)
    _order: Iterator[int] = field(default_factory=itertools.count)

    def start_job(self, job: Job, after: float = 0.0) -> None:
        """Start a job in ``after`` seconds."""
        heapq.heappush(self._waiting, (self.clock.monotonic() + after, next(self._order), job))

    def advance(self, seconds: float, resolution: float = 1.0) -> None:
        """Advance the time and run due jobs; tick every ``resolution`` seconds."""
        end = self.clock.monotonic() + seconds
        while (now := self.clock.monotonic()) < end:
            self._work_until(min(end, now + resolution))
            self.recorder.tick()

    def _work_until(self, moment: float) -> None:
        while self._waiting and self._waiting[0][0] <= moment:
            at, _, job = heapq.heappop(self._waiting)
            self._reach(at)
            pause = next(job, None)
            if pause is not None:
                heapq.heappush(self._waiting, (self.clock.monotonic() + pause, next(self._order), job))
        self._reach(moment)

    def _reach(self, moment: float) -> None:
        self.clock.advance(max(0.0, moment - self.clock.monotonic()))

    def end(self) -> None:
        """Close all waiting jobs, before the garbage collector ends their work."""
        while self._waiting:
            self._waiting.pop()[2].close()

    def abandon(self, id: str, type: str) -> None:
        """Write an operation of another machine whose last heartbeat is one hour old."""
        gone = Instance(
            id=f"gone-{id}",
            pid=7,
            host="elsewhere/boot/1",
            service="nightly",
            started_at=self.clock.wall() - 7200,
            start=None,
        )
        started = {"started_at": self.clock.wall() - 7200, "started_clock": 100.0, "instance": gone.id}
        names = {
            "operation_id": id,
            "operation_type": type,
            "run": f"run of {id}",
            "name": f"Index of {id}",
            "type": type,
        }
        at = {
            "observed_at": self.clock.wall() - 3600,
            "observed_clock": 3700.0,
            "advanced_at": self.clock.wall() - 3605,
            "advanced_clock": 3695.0,
        }
        root = factories.snapshot("", **names, **started, **at, current=31, total=100, ratio=0.31)
        self.journal.write(
            factories.make_change_set(root, instance=gone, at=self.clock.wall() - 3600, clock=3700.0)
        )

    def flush(self) -> None:
        """Wait until the journal has stored everything."""
        assert self.recorder.runtime.force_flush()

    def write_down(self, out: TextIO) -> None:
        """Append the current scrape of each exporter, with its time, as OpenMetrics."""
        self.flush()
        at = f"{self.clock.wall():.3f}"
        for job, target in self.targets.items():
            began = time.perf_counter()
            with urllib.request.urlopen(f"http://{target}/metrics", timeout=30) as answer:
                text = answer.read().decode()
            took = time.perf_counter() - began
            samples = [line for line in text.splitlines() if not line.startswith("#")]
            # The metrics that Prometheus adds to a scrape, except up: tests use that one to see
            # real scrapes.
            samples += [f"scrape_duration_seconds {took}", f"scrape_samples_scraped {len(samples)}"]
            for line in samples:
                name, value = line.rsplit(" ", 1)
                name, labels = (name[:-1], ",") if name.endswith("}") else (f"{name}{{", "")
                out.write(f'{name}{labels}job="{job}",instance="{target}"}} {value} {at}\n')


@contextmanager
def world(folder: Path, *, before: float, series: int = 1000) -> Iterator[World]:
    """Create the simulation ``before`` seconds in the past.

    Its exporters answer over HTTP from the start.
    """
    clock = FakeClock(wall=time.time() - before, monotonic=1_000_000.0)
    path = folder / "journal.db"
    with ExitStack() as stack:
        recorder = stack.enter_context(
            recording(
                clock=clock,
                store=f"sqlite:///{path}",
                retention="60d",
                resources=True,
                previews=str(folder / "previews"),
            )
        )
        runtime = recorder.runtime
        journal = SqliteJournal(path, retention_s=60 * 86_400.0, now=clock.wall, clock=clock.monotonic)
        stack.callback(journal.close)
        server = stack.enter_context(
            Server(
                journal,
                port=0,
                host="127.0.0.1",
                previews=open_store(str(folder / "previews"), None),
                allowed_origins=("http://127.0.0.1:3000",),  # that of Grafana, which shows previews
            )
        )
        url = f"http://127.0.0.1:{server.port}"
        totals, size = runtime._totals, journal.size_bytes
        worker = ProgressCollector(
            runtime._store.reader, totals=totals, max_operations=series, public_url=url, journal_size=size
        )
        served = {
            WORKER: stack.enter_context(serve_metrics(worker)),
            IDLE: stack.enter_context(serve_metrics(_nothing_to_show())),
        }
        targets = {name: f"{one.host}:{one.port}" for name, one in served.items()}
        made = World(recorder, clock, {**targets, SERVER: f"127.0.0.1:{server.port}"}, journal)
        stack.callback(made.end)
        yield made


def _nothing_to_show() -> ProgressCollector:
    """Return the exporter of a process in which nothing has ever run."""
    return ProgressCollector(LiveStore(factories.instance()).reader)
