"""Celery application in which each task is an operation, and its sender.

    python -m tests.support.programs.task_service COUNT

It prints the id of the operation that sent the tasks. The broker and all settings are in the
environment.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from celery import Celery
from celery.signals import worker_init, worker_process_init
from opentelemetry import context, propagate

import otel_progress as progress

app = Celery("tasks", broker=os.environ["BROKER"], backend=os.environ["BROKER"])
app.conf.worker_prefetch_multiplier = 1


@worker_init.connect(weak=False)
@worker_process_init.connect(weak=False)
def start_progress(**_: Any) -> None:
    """Record progress in the main process and in each child."""
    progress.configure(service_name="tasks", console=False, resources=False)


@app.task(bind=True)
def resize(self: Any, names: list[str]) -> int:
    """Do the work of a task, as a child of the operation that sent it."""
    token = context.attach(propagate.extract(self.request.headers or {}))
    try:
        with progress.operation("resize", id=self.request.id, total=len(names)) as op:
            for name in names:
                with op.level("file", id=name, total=1) as file:
                    file.increment()
                op.increment()
    finally:
        context.detach(token)
    return os.getpid()


def main() -> None:
    """Send tasks and wait for them. Print the processes that executed them."""
    progress.configure(service_name="sender", console=False, resources=False)
    with progress.operation("send", id="sender") as op:
        headers: dict[str, str] = {}
        propagate.inject(headers)
        sent = [resize.apply_async((["a", "b"],), headers=headers) for _ in range(int(sys.argv[1]))]
        op.update(message="sent")
        pids = {result.get(timeout=120) for result in sent}
    sys.stdout.write(" ".join(map(str, sorted(pids))))


if __name__ == "__main__":
    # Why the import: the name of a task contains that of its module.
    from tests.support.programs import task_service

    task_service.main()
