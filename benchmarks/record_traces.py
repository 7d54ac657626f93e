"""Recorder of job progress: ``python -m benchmarks.record_traces idle|busy``.

It writes to ``benchmarks/traces``. The curve of a run is what a reader of the live store receives:
elapsed time, ratio, stages and children of the snapshots of ``get_operation``. With ``busy``, one
process per core uses the processor in bursts during the recording. Sizes vary by a third from run
to run, so that durations differ.

Run it on an otherwise idle machine, or describe the load with ``--note``. The load of the machine
before and after is stored with the runs.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Final

import otel_progress as progress
from benchmarks import machine
from benchmarks.eta_jobs import JOBS, Job, corpus
from benchmarks.eta_traces import FOLDER, Header, Run, write
from benchmarks.setting import clear_environment, configured
from otel_progress import LevelSnapshot, OperationSnapshot

_LOOK_EVERY_S: Final = 0.004
_MOST_POINTS: Final = 200
_BURST: Final = """
import os, random, sys, time
random.seed(int(sys.argv[1]))
parent = os.getppid()
while os.getppid() == parent:  # it ends by itself when who started it was killed
    until = time.monotonic() + random.uniform(0.2, 1.5)
    while time.monotonic() < until:
        sum(range(2000))
    time.sleep(random.uniform(0.2, 1.5))
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Record every job ``--repeats`` times, alternating, and write one file."""
    options = _options(arguments)
    clear_environment()
    files, runs = corpus(), []
    before = os.getloadavg()[0]
    with (
        _burning(os.cpu_count() or 1 if options.machine == "busy" else 0) as burners,
        configured(resources=False),
    ):
        for number in range(options.repeats):
            runs += [record(job, files, options.machine, number, _size(job, number)) for job in JOBS]
            took = ", ".join(f"{run.workload} {run.duration_s:.2f} s" for run in runs[-len(JOBS) :])
            _say(f"round {number + 1} of {options.repeats}: {took}")
    header = Header(
        machine=options.machine,
        recorded=machine.today(),
        shape=machine.shape(),
        burners=len(burners),
        load_before=round(before, 2),
        load_after=round(os.getloadavg()[0], 2),
        note=options.note,
    )
    path = Path(options.folder) / f"{options.machine}.jsonl.gz"
    write(path, header, runs)
    _say(f"wrote {len(runs)} runs, {path.stat().st_size:,} bytes")
    return 0


def record(job: Job, files: Sequence[Path], machine_name: str, number: int, size: float) -> Run:
    """Record one run of a job."""
    watcher = _Watcher()
    operation = progress.operation(job.name, stages=dict(job.declared) or None)
    with operation:
        watcher.start(operation.operation_id)
        job.run(operation, files, size)
    watcher.stop()
    ended = progress.get_operation(operation.operation_id)
    if ended is None or ended.root.duration_s is None:
        msg = f"Invalid operation {operation.operation_id}: expected a trace. Call configure() first."
        raise RuntimeError(msg)
    return Run(
        workload=job.name,
        system=machine_name,
        number=number,
        duration_s=round(ended.root.duration_s, 4),
        points=_thinned(watcher.points, ended.root.duration_s),
        stages={
            level.info.id: round(level.duration_s or 0.0, 4)
            for level in ended.levels
            if level.info.type == "stage"
        },
        children=_children(ended) if job.workers else (),
        workers=job.workers,
    )


class _Watcher:
    """A reader thread that polls every few milliseconds and stores each change."""

    def __init__(self) -> None:
        self.points: list[tuple[float, float]] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._id = ""

    def start(self, operation_id: str) -> None:
        self._id = operation_id
        self._thread.start()

    def stop(self) -> None:
        self._done.set()
        self._thread.join()
        # A last poll, so that a run without processor time for the thread has a point as well.
        self._poll()

    def _watch(self) -> None:
        while not self._done.wait(_LOOK_EVERY_S):
            self._poll()

    def _poll(self) -> None:
        seen = progress.get_operation(self._id)
        if (
            seen is not None
            and seen.ratio is not None
            and (not self.points or seen.ratio > self.points[-1][1])
        ):
            self.points.append((seen.elapsed_seconds, seen.ratio))


def _thinned(points: Sequence[tuple[float, float]], duration: float) -> tuple[tuple[float, float], ...]:
    """Return the points of the run from (0, 0), thinned out if there are too many."""
    inside = [(round(at, 4), round(ratio, 5)) for at, ratio in points if 0.0 < at <= duration and ratio > 0.0]
    step = -(-len(inside) // _MOST_POINTS) or 1
    return ((0.0, 0.0), *inside[step - 1 :: step])


def _children(ended: OperationSnapshot) -> tuple[tuple[float, float], ...]:
    """Return (start, duration) of the children in seconds, in order of their start."""
    origin = ended.root.info.started_clock or 0.0
    return tuple(sorted(_span(child, origin) for child in ended.levels if child.info.parent_path == ""))


def _span(child: LevelSnapshot, origin: float) -> tuple[float, float]:
    return round((child.info.started_clock or origin) - origin, 4), round(child.duration_s or 0.0, 4)


def _size(job: Job, number: int) -> float:
    return round(Random(f"{job.name} {number}").uniform(0.67, 1.33), 3)


@contextmanager
def _burning(count: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Run processes that use the processor in bursts."""
    burners = [subprocess.Popen([sys.executable, "-c", _BURST, str(seed)]) for seed in range(count)]
    try:
        yield burners
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.record_traces", description=main.__doc__)
    parser.add_argument(
        "machine", choices=("idle", "busy"), help="busy starts processes that burn, one a core"
    )
    parser.add_argument("--repeats", type=int, default=30, help="runs of each job (default 30)")
    parser.add_argument("--folder", default=str(FOLDER), help="where the file goes (default %(default)s)")
    parser.add_argument("--note", default="", help="what else ran on the machine, for the file's first line")
    options = parser.parse_args(arguments)
    if not 1 <= options.repeats <= 1000:
        parser.error(f"Invalid --repeats {options.repeats}: expected a number from 1 to 1000")
    if not Path(options.folder).is_dir():
        parser.error(f"--folder {options.folder!r} is no folder; make it first")
    return options


if __name__ == "__main__":
    if platform.system() == "Windows":
        sys.exit("the load of the machine is not known on Windows; record on Linux or macOS")
    sys.exit(main())
