"""Celery application for real workers, with the integration.

    celery -A tests.support.programs.celery_tasks worker

The broker is in the environment, and so is the store, which configures the workers.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from celery import Celery
from celery.exceptions import Ignore, Reject

import otel_progress as progress
from otel_progress.integrations import celery as integration

app = Celery("tasks", broker=os.environ["BROKER"], backend=os.environ["BROKER"])
app.conf.update(worker_prefetch_multiplier=1, broker_connection_retry_on_startup=True)
integration.instrument()


def wait_for(mark: str) -> None:
    """Wait until a file exists, at most a minute."""
    for _ in range(6_000):
        if Path(mark).exists():
            return
        time.sleep(0.01)


@app.task(name="count", bind=True)
def count(self: Any, number: int) -> int:
    """Count with a loop below the operation of the task."""
    assert progress.current_level().operation_id == self.request.id
    for _ in progress.track(range(number), "units"):
        pass
    return os.getpid()


@app.task(name="report", bind=True)
def report(self: Any, mark: str) -> None:
    """Report with Celery's own call, and wait."""
    self.update_state(state="PROGRESS", meta={"current": 3, "total": 8, "status": "resizing"})
    wait_for(mark)


@app.task(name="retry", bind=True, max_retries=5)
def retry(self: Any, failures: int) -> int:
    """Fail some times."""
    progress.current_level().update(total=2)
    progress.current_level().increment()
    if self.request.retries < failures:
        raise self.retry(exc=ValueError(f"attempt {self.request.retries}"), countdown=0)
    progress.current_level().increment()
    return int(self.request.retries)


@app.task(name="fail")
def fail() -> None:
    """Fail."""
    with progress.level("part", "a"):
        raise ValueError("no space left")


@app.task(name="exit")
def exit_process() -> None:
    """Exit without a result."""
    os._exit(1)


@app.task(name="hold_retry", bind=True, max_retries=1)
def hold_retry(self: Any, mark: str) -> None:
    """Wait for a file in the second attempt."""
    if not self.request.retries:
        raise self.retry(exc=ValueError("no answer"), countdown=0)
    wait_for(mark)


@app.task(name="end")
def end(how: str) -> None:
    """End in another way than with a result."""
    progress.current_level().update(current=1, total=2)
    with progress.level("part", "a"):
        if how == "ignore":
            raise Ignore
        if how == "reject":
            raise Reject("not here", requeue=False)
        progress.flush()
        os.kill(os.getpid(), signal.SIGKILL)


@app.task(name="hold", bind=True)
def hold(self: Any, mark: str) -> None:
    """Wait for a file."""
    Path(f"{mark}-{self.request.id}").touch()
    progress.current_level().update(current=1, total=2)
    wait_for(mark)


@app.task(name="replace", bind=True)
def replace(self: Any) -> Any:
    """Continue as another task."""
    progress.current_level().increment()
    raise self.replace(count.s(4).set(queue="prefork"))


@app.task(name="send")
def send() -> str:
    """Send another task."""
    with progress.level("part", "a"):
        return str(count.apply_async((1,), queue="prefork").id)


@app.task(name="die_after", acks_late=True)
def die_after() -> None:
    """End normally in a process that is killed right after it."""
    from celery.signals import task_postrun

    pid = os.getpid()

    @task_postrun.connect(weak=False)
    def die(**_: Any) -> None:
        if os.getpid() == pid:
            os.kill(pid, signal.SIGKILL)


@app.task(name="one")
def return_one(*_: Any) -> int:
    """Do nothing."""
    return 1


@app.task(name="later", bind=True)
def later(self: Any) -> None:
    """Wait for a retry in an hour."""
    raise self.retry(exc=ValueError("no answer"), countdown=3600)


@app.task(name="die_once", acks_late=True, reject_on_worker_lost=True)
def die_once(mark: str) -> None:
    """Kill the process the first time. The message is delivered again."""
    for number in progress.track(range(2), "units"):
        if number and not Path(mark).exists():
            Path(mark).touch()
            progress.flush()
            os.kill(os.getpid(), signal.SIGKILL)


@app.task(name="loop")
def loop(mark: str) -> None:
    """Loop until the operation is cancelled, at most a minute."""
    Path(mark).touch()
    for _ in progress.track(range(6_000), "units"):
        time.sleep(0.01)
