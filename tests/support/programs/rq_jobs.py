"""Jobs of RQ, and a worker that executes each one in a process of its own.

    python -m tests.support.programs.rq_jobs QUEUE

The URL of the broker is in the environment, and so are all settings.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import otel_progress as progress


def count(number: int) -> str:
    """Count with a loop below the operation of the job."""
    for _ in progress.track(range(number), "files"):
        pass
    return progress.current_level().operation_id


def fail() -> None:
    """Fail."""
    raise ValueError("no space left")


def fail_once(mark: str) -> None:
    """Fail the first time."""
    progress.current_level().increment()
    if not Path(mark).exists():
        Path(mark).touch()
        raise ValueError("again")


def die() -> None:
    """Kill the process of the job."""
    progress.current_level().update(current=1, total=2)
    progress.flush()
    os.kill(os.getpid(), signal.SIGKILL)


def hold(mark: str) -> None:
    """Wait until the process is killed."""
    progress.current_level().update(current=1, total=2)
    Path(mark).touch()
    time.sleep(60)


def main() -> None:
    """Execute jobs until the process is stopped."""
    from redis import Redis
    from rq import Queue, Worker

    from otel_progress.integrations import rq

    progress.configure(service_name="worker", console=False)
    rq.instrument()
    connection: Any = Redis.from_url(os.environ["BROKER"])
    worker = Worker([Queue(sys.argv[1], connection=connection)], connection=connection)
    worker.log_result_lifespan = False
    print("ready", flush=True)  # noqa: T201
    worker.work(with_scheduler=False)


if __name__ == "__main__":
    main()
