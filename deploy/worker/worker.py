"""The demo worker of docker-compose.yml: work on Python sources in rounds.

It runs until it receives a signal. It has three kinds of work, so that the dashboards have every
kind of data. The survey of ``otel-progress demo`` has stages. Compression has levels with totals on
a thread pool. A batch of checks has expected failures. Only the environment sets the receivers of
metrics, spans and logs. ``--once KIND`` runs one round of one kind and ends, like a cron job.
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
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import FrameType
from typing import Final

import otel_progress as progress
from otel_progress.demo import job, sources

PAUSE_S: Final = 5.0
"""Seconds between two rounds."""
SURVEY_BYTES: Final = 16 * 1024 * 1024
"""Maximum number of source bytes of a survey."""
PACKAGES: Final = 12
"""Maximum number of packages in a round, largest first. It limits the number of series."""
WORKERS: Final = 2
"""Threads that compress or check."""

WAKE_S: Final = 1.0
"""Maximum seconds until a signal is handled while threads work."""

logger = logging.getLogger("demo_worker")


def survey(roots: Sequence[sources.Root]) -> None:
    """Survey sources like the demo: three stages, a level per package and folder."""
    name = "Survey of the sources"
    job.run_survey(
        roots,
        operation_id=new_id("survey"),
        name=name,
        limit=SURVEY_BYTES,
        quick=False,
        subject="interpreter",
    )


def compress(roots: Sequence[sources.Root]) -> None:
    """Compress each package's sources with bz2 at the highest level, in two threads."""
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
            futures: list[Future[tuple[int, int]]] = []
            try:
                futures.extend(pool.submit(_compress, op, package) for package in packages)
                pending = set(futures)
                while pending:
                    # Why a timeout: a signal that arrives just before the wait does not end it.
                    done, pending = wait(pending, WAKE_S, FIRST_EXCEPTION)
                    for future in done:
                        future.result()
            except KeyboardInterrupt:
                # The pool waits for its threads. They check after each file, because a whole
                # package takes long.
                progress.request_cancel(op.operation_id, "stopped by a signal")
                raise
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
        sizes = [future.result() for future in futures]
        before, after = (sum(column) for column in zip(*sizes, strict=True))
        op.update(message=f"{before:,} bytes became {after:,}")
        logger.info("compressed %d files: %d bytes became %d", total, before, after)


def check(roots: Sequence[sources.Root]) -> None:
    """Check that sources are plain ASCII.

    It is a batch with an operation per package. An operation with another file fails.
    """
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
"""Kinds of work by operation type. The shortest is first, so that results appear early."""


def new_id(kind: str) -> str:
    """Return an id for a new run."""
    return f"{kind}-{secrets.token_hex(4)}"


def largest(roots: Sequence[sources.Root]) -> list[sources.Folder]:
    """Return the packages with the most files below ``roots``, largest first."""
    found = [
        file for root in roots for file in sources.walk_files(root) if isinstance(file, sources.SourceFile)
    ]
    return sorted(sources.group_by_package(found), key=lambda package: package.count, reverse=True)[:PACKAGES]


def files(folder: sources.Folder) -> list[sources.SourceFile]:
    """Return all files of a folder and below."""
    return [*folder.files, *(file for below in folder.folders for file in files(below))]


def _compress(op: progress.Level, package: sources.Folder) -> tuple[int, int]:
    """Return the number of bytes of a package before and after compression."""
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
    """Run one round. Return whether it succeeded.

    A failure or a request to cancel ends the round, not the worker.
    """
    try:
        JOBS[kind](roots)
    except progress.OperationCancelledError as error:
        logger.info("%s was cancelled: %s", kind, error)
    except Exception:
        logger.exception("%s failed", kind)
        return False
    return True


def terminate(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt like Ctrl-C, so that running work is cancelled."""
    del number, frame
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Work until SIGTERM or SIGINT, or one round. Return 0, or 1 if that round failed."""
    parser = argparse.ArgumentParser(
        prog="worker", description="Demo work on the Python sources of this machine."
    )
    parser.add_argument("--once", choices=JOBS, help="run one round of this kind and end")
    parser.add_argument("--pause", type=float, default=PAUSE_S, help="seconds between rounds")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, terminate)
    logging.getLogger().setLevel(logging.INFO)
    with progress.configure(capture_logs=True):
        try:
            roots = sources.find_interpreter_roots()
            if options.once:
                return 0 if run_round(options.once, roots) else 1
            while True:
                for kind in JOBS:
                    run_round(kind, roots)
                    time.sleep(options.pause)
        except KeyboardInterrupt:
            logger.info("stopped by a signal")
    return 0


if __name__ == "__main__":
    sys.exit(main())
