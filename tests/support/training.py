"""Views of recorded training runs, which tests compare as plain data."""

from __future__ import annotations

from otel_progress import diagnostics
from otel_progress.operations import OperationSnapshot
from otel_progress.testing import Recorder


def get_runs(recorder: Recorder) -> list[OperationSnapshot]:
    """Return the ended operations with their levels, oldest first.

    Fails if the callbacks have reported an error, or if an operation still runs.
    """
    recorder.tick()
    assert dict(diagnostics.internal_error_counts) == {}
    assert not recorder.runtime.get_active_operations()
    ended = reversed(recorder.runtime.get_history())
    return [recorder.operation(operation.operation_id) for operation in ended]


def get_run(recorder: Recorder) -> OperationSnapshot:
    """Return the only operation."""
    (run,) = get_runs(recorder)
    return run


def describe(run: OperationSnapshot) -> list[str]:
    """Return one line per level: path, status and count."""
    levels = sorted(run.levels, key=lambda level: level.info.started_at)
    lines = [f"{level.info.path} {level.status.value} {level.current}/{level.total}" for level in levels]
    root = run.root
    return [f"{root.info.type} {root.status.value} {root.current}/{root.total}", *lines]
