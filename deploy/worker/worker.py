"""The demo worker of docker-compose.yml: real work on the Python sources beside it, round after round, until it is told to stop.

Three kinds of work, so that there is something of everything on a dashboard: a survey in stages (the one of ``otel-progress demo``),
compression with levels and known totals on a thread pool, and a batch of checks of which some fail for good reason. Where figures, spans
and logs go is said by the environment only. ``--once KIND`` does one round of one kind and ends, as a job of cron would.
"""

from __future__ import annotations

import argparse
import bz2
import logging
import secrets
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Final

import otel_progress as progress
from otel_progress.demo import job, sources

PAUSE_S: Final = 5.0
"""Seconds between two rounds."""
SURVEY_BYTES: Final = 16 * 1024 * 1024
"""Most source one survey takes in."""
PACKAGES: Final = 12
"""Most packages, the largest ones, in a round of compression or checks: what bounds the number of series."""
WORKERS: Final = 2
"""Threads that compress or check at a time."""

logger = logging.getLogger("demo_worker")


def survey(roots: Sequence[sources.Root]) -> None:
    """Survey sources as the demo does: three stages, a level for each package and folder."""
    name = "Survey of the sources"
    job.survey(
        roots, operation_id=new_id("survey"), name=name, limit=SURVEY_BYTES, quick=False, what="interpreter"
    )


def compress(roots: Sequence[sources.Root]) -> None:
    """Compress each package's sources as hard as bz2 can, a thread for each of two packages at a time."""
    packages = largest(roots)
    total = sum(package.count for package in packages)
    with progress.operation(
        "compression",
        "Compression of the sources",
        id=new_id("compression"),
        total=total,
        unit="file",
        packages=len(packages),
    ) as op:
        with ThreadPoolExecutor(WORKERS) as pool:
            try:
                sizes = list(pool.map(lambda package: _compress(op, package), packages))
            except KeyboardInterrupt:
                # The pool waits for its threads. They ask after each file, or whole packages would have to be done first.
                progress.request_cancel(op.operation_id, "told to stop")
                raise
        before, after = (sum(column) for column in zip(*sizes, strict=True))
        op.update(message=f"{before:,} bytes became {after:,}")
        logger.info("compressed %d files: %d bytes became %d", total, before, after)


def check(roots: Sequence[sources.Root]) -> None:
    """Check that sources are plain ASCII: a batch with an operation for each package, failed where one of its files is not."""
    packages = largest(roots)
    with progress.batch(
        "Encoding of the sources", id=new_id("encodings"), type="encodings", total=len(packages)
    ) as batch:
        for package in packages:
            _check(batch, package)


JOBS: Final[Mapping[str, Callable[[Sequence[sources.Root]], None]]] = {
    "encoding_check": check,
    "compression": compress,
    "code_survey": survey,
}
"""What there is to do, by the type of its operations; the shortest first, so that there is soon something to see."""


def new_id(kind: str) -> str:
    """Return an id for a new run."""
    return f"{kind}-{secrets.token_hex(4)}"


def largest(roots: Sequence[sources.Root]) -> list[sources.Folder]:
    """Return the packages with the most files below ``roots``, the largest first."""
    found = [file for root in roots for file in sources.walk(root) if isinstance(file, sources.SourceFile)]
    return sorted(sources.packages(found), key=lambda package: package.count, reverse=True)[:PACKAGES]


def files(folder: sources.Folder) -> list[sources.SourceFile]:
    """Return all files of a folder and below."""
    return [*folder.files, *(file for below in folder.folders for file in files(below))]


def _compress(op: progress.Level, package: sources.Folder) -> tuple[int, int]:
    """Return how many bytes a package has and how many are left of them."""
    before = after = 0
    with op.level(
        "package", package.name, package.name, total=package.count, unit="file", weight=package.count
    ) as level:
        for file in files(package):
            level.check_cancelled()
            level.update(message=file.name)
            data = Path(file.path).read_bytes()
            before, after = before + len(data), after + len(bz2.compress(data, 9))
            level.increment()
    return before, after


def _check(batch: progress.OperationBatch, package: sources.Folder) -> None:
    op = batch.operation("encoding_check", package.name, total=package.count, unit="file", deadline=60)
    with op:
        for file in files(package):
            op.check_cancelled()
            try:
                Path(file.path).read_bytes().decode("ascii")
            except UnicodeDecodeError as error:
                op.item(file.label, outcome="failed", error=error)
                logger.warning("%s is not plain ASCII: byte %d", file.label, error.start)
            else:
                op.item(file.label)
        failed = op.snapshot().failed
        if failed:
            op.fail(f"{failed} of {package.count} files are not plain ASCII")


def run_round(kind: str, roots: Sequence[sources.Root]) -> bool:
    """Do one round; a failure or a request to stop ends the round, not the worker. Return whether it ended well."""
    try:
        JOBS[kind](roots)
    except progress.OperationCancelledError as error:
        logger.info("%s was cancelled: %s", kind, error)
    except Exception:
        logger.exception("%s failed", kind)
        return False
    return True


def terminate(number: int, frame: FrameType | None) -> None:
    """End as Ctrl-C does: what runs is cancelled, and told so, before the process goes."""
    del number, frame
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Work until SIGTERM or SIGINT, or once; 0, or 1 when a single round failed."""
    parser = argparse.ArgumentParser(
        prog="worker", description="Demo work on the Python sources of this machine."
    )
    parser.add_argument("--once", choices=JOBS, help="do one round of this and end")
    parser.add_argument("--pause", type=float, default=PAUSE_S, help="seconds between rounds")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, terminate)
    logging.getLogger().setLevel(logging.INFO)
    with progress.configure(capture_logs=True):
        try:
            roots = sources.interpreter_roots()
            if options.once:
                return 0 if run_round(options.once, roots) else 1
            while True:
                for kind in JOBS:
                    run_round(kind, roots)
                    time.sleep(options.pause)
        except KeyboardInterrupt:
            logger.info("told to stop")
    return 0


if __name__ == "__main__":
    sys.exit(main())
