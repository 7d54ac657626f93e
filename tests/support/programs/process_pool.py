"""Runs ten operations in children of multiprocessing.

Arguments: start method, kind of pool, duration of an operation in seconds. With the environment
variable ``PATIENT``, ends of operations wait long enough for a busy machine.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import otel_progress as progress
from otel_progress.runtime import end_delivery

NUMBER = 10
WORKERS = 4

if os.environ.get("PATIENT"):
    end_delivery.MAX_WAIT_S = 60.0  # type: ignore[misc]


def configure() -> None:
    """Configure progress from the environment."""
    progress.configure(service_name="pool", console=False)


def work(number: int) -> int:
    """Run one operation."""
    configure()
    with progress.operation("part", id=f"part-{number}", total=1) as op:
        time.sleep(float(sys.argv[3]))
        op.increment()
    return number


def run_processes(context: Any) -> None:
    """Run one process per operation."""
    processes = [context.Process(target=work, args=(number,)) for number in range(NUMBER)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()


def run_closed_pool(context: Any) -> None:
    """Close and join the pool."""
    pool = context.Pool(WORKERS)
    pool.map(work, range(NUMBER), chunksize=1)
    pool.close()
    pool.join()


def run_left_pool(context: Any) -> None:
    """Leave the block of the pool, which sends SIGTERM to its processes."""
    with context.Pool(WORKERS) as pool:
        pool.map(work, range(NUMBER), chunksize=1)


def run_executor(context: Any) -> None:
    """Use an executor of concurrent.futures."""
    with ProcessPoolExecutor(WORKERS, mp_context=context) as executor:
        assert list(executor.map(work, range(NUMBER))) == list(range(NUMBER))


def run_joblib(_: Any) -> None:
    """Use joblib with its own processes."""
    from joblib import Parallel, delayed

    Parallel(n_jobs=WORKERS)(delayed(work)(number) for number in range(NUMBER))


KINDS: dict[str, Callable[[Any], None]] = {
    "process": run_processes,
    "pool_closed": run_closed_pool,
    "pool_left": run_left_pool,
    "executor": run_executor,
    "joblib": run_joblib,
}


configure()
if __name__ == "__main__":
    KINDS[sys.argv[2]](multiprocessing.get_context(sys.argv[1]))
