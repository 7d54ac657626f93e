"""Tasks and actors of Ray that count on an operation of the driver."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import Any

import ray  # type: ignore[import-not-found,unused-ignore]

import otel_progress as progress
from otel_progress.integrations.futures import follow_futures
from otel_progress.integrations.ray import remote

COUNT = 6


@remote(num_cpus=1)
def count_level(number: int, *, units: int) -> int:
    """Count on a level of the task."""
    with progress.level("part", number, total=units) as level:
        for _ in range(units):
            level.increment()
    progress.current_level().increment()
    return number


@ray.remote
def count_handle(op: progress.Level) -> None:
    """Count on a handle."""
    progress.wrap(op.increment, op)()


@ray.remote
class Counter:
    """Actor that keeps a handle."""

    def __init__(self, op: progress.Level) -> None:
        self.op = op

    def count(self, units: int) -> None:
        """Count units."""
        progress.wrap(self.op.increment, self.op)(units)


@ray.remote
def fail() -> None:
    """Raise an error."""
    raise LookupError("no such part")


@ray.remote(max_retries=0)
def leave(op: progress.Level) -> None:
    """End the worker process while a level runs."""
    with op.level("lost", 1) as level:
        progress.wrap(level.increment, level)()
        os._exit(1)


def describe(operation_id: str) -> dict[str, Any]:
    """Return an operation as JSON."""
    operation = progress.get_operation(operation_id)
    assert operation is not None
    return {
        "status": operation.status.value,
        "current": operation.root.current,
        "levels": sorted(
            [level.path, level.status.value, level.current, level.failed] for level in operation.levels
        ),
    }


def main() -> None:
    """Run all scenarios and print the resulting operations."""
    store = sys.argv[1]
    progress.configure(service_name="ray", store=store, console=False, otlp=False)
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=80 * 1024 * 1024,
        _node_ip_address="127.0.0.1",
        log_to_driver=False,
    )
    with progress.operation("decorated", id="decorated", total=COUNT + 1):
        ray.get([count_level.remote(number, units=3) for number in range(COUNT)])
        ray.get(count_level.options(num_cpus=2).remote(COUNT, units=1))
    with progress.operation("handles", id="handles", total=COUNT + 5) as op:
        ray.get([count_handle.remote(op) for _ in range(COUNT)])
        counter = Counter.remote(op)
        ray.get([counter.count.remote(2), counter.count.remote(3)])
    with progress.operation("futures", id="futures") as op:
        references = [count_level.remote(1, units=2), fail.remote()]
        follow_futures([reference.future() for reference in references], "tasks")
        ray.wait(references, num_returns=2)
        with contextlib.suppress(ray.exceptions.WorkerCrashedError):
            ray.get(leave.remote(op))
    progress.flush()
    found = {name: describe(name) for name in ("decorated", "handles", "futures")}
    sys.stdout.write(json.dumps(found) + "\n")
    ray.shutdown()


if __name__ == "__main__":
    main()
