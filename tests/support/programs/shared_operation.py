"""Works on one operation of six units in other threads or processes.

Arguments: start method, kind of pool, kind of work. It prints the results of the calls.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from typing import Any

import otel_progress as progress
from otel_progress.runtime import contribution_poller, end_delivery

NUMBER = 6
WORKERS = 2

# Why: the time limits are for machines that are not busy.
end_delivery.MAX_FIRST_SHARE_WAIT_S = 60.0  # type: ignore[misc]
end_delivery.MAX_SHARE_WAIT_S = 60.0  # type: ignore[misc]
end_delivery.MAX_WAIT_CREDIT_S = 600.0  # type: ignore[misc]
contribution_poller.END_WAIT_S = 60.0  # type: ignore[misc]


def increment(number: int) -> int:
    """Count one unit on the operation."""
    progress.current_level().increment()
    return number


def start_level(number: int) -> int:
    """Start a level with a loop below it."""
    with progress.level("file", number, total=2) as level:
        assert progress.current_level() is level
        for _ in progress.track(range(3), "parts"):
            pass
        level.increment(1)
        level.item("last", outcome="failed" if number == 5 else "completed")
    return number


def fail(number: int) -> int:
    """Count one unit, and raise an exception in one of the calls."""
    progress.current_level().increment()
    if number == 3:
        raise ValueError("three")
    return number


def exit_at_once(number: int) -> int:
    """Count one unit, and leave the process of one of the calls."""
    progress.current_level().increment()
    if number == 5:
        os.kill(os.getpid(), 9)
    return number


WORK: dict[str, Callable[[int], int]] = {
    "increment": increment,
    "level": start_level,
    "fail": fail,
    "kill": exit_at_once,
}


def use_handle(handle: progress.Level, work: Callable[[int], int], number: int) -> int:
    """Work with a handle as an argument."""
    assert handle.operation_id == "shared"
    return progress.wrap(work, handle)(number)


def run_processes(context: Any, work: Callable[[int], int]) -> Iterable[object]:
    """Run one process per call, with the handle as an argument."""
    processes = [
        context.Process(target=use_handle, args=(progress.current_level(), work, number))
        for number in range(NUMBER)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def run_pool(context: Any, work: Callable[[int], int]) -> Iterable[object]:
    """Leave the block of a pool, which sends SIGTERM to its processes."""
    with context.Pool(WORKERS) as pool:
        return list(pool.map(progress.wrap(work), range(NUMBER), chunksize=1))


def run_partial(context: Any, work: Callable[[int], int]) -> Iterable[object]:
    """Pass the handle to a pool."""
    with context.Pool(WORKERS) as pool:
        return list(pool.map(partial(use_handle, progress.current_level(), work), range(NUMBER), chunksize=2))


def run_executor(context: Any, work: Callable[[int], int]) -> Iterable[object]:
    """Use an executor of processes."""
    with progress.ProgressExecutor(ProcessPoolExecutor(WORKERS, mp_context=context)) as executor:
        return list(executor.map(work, range(NUMBER)))


def run_threads(_: Any, work: Callable[[int], int]) -> Iterable[object]:
    """Use an executor of threads."""
    with progress.ProgressExecutor(ThreadPoolExecutor(WORKERS)) as executor:
        return [future.result() for future in [executor.submit(work, n) for n in range(NUMBER)]]


def run_asyncio(context: Any, work: Callable[[int], int]) -> Iterable[object]:
    """Use an event loop with an executor of processes."""

    async def run_all() -> list[int]:
        loop = asyncio.get_running_loop()
        with ProcessPoolExecutor(WORKERS, mp_context=context) as executor:
            wrapped = progress.wrap(work)
            return await asyncio.gather(
                *(loop.run_in_executor(executor, wrapped, number) for number in range(NUMBER))
            )

    return asyncio.run(run_all())


def run_joblib(_: Any, work: Callable[[int], int]) -> Iterable[object]:
    """Use joblib with its own processes."""
    from joblib import Parallel, delayed

    wrapped = progress.wrap(work)
    return list(Parallel(n_jobs=WORKERS)(delayed(wrapped)(number) for number in range(NUMBER)))


KINDS: dict[str, Callable[[Any, Callable[[int], int]], Iterable[object]]] = {
    "process": run_processes,
    "pool": run_pool,
    "partial": run_partial,
    "executor": run_executor,
    "threads": run_threads,
    "asyncio": run_asyncio,
    "joblib": run_joblib,
}


if __name__ == "__main__":
    method, kind, name = sys.argv[1:]
    progress.configure(service_name="shared", console=False)
    with progress.operation("job", id="shared", total=NUMBER):
        try:
            sys.stdout.write(str(list(KINDS[kind](multiprocessing.get_context(method), WORK[name]))))
        except Exception as error:
            sys.stdout.write(f"{type(error).__name__}: {error}")
