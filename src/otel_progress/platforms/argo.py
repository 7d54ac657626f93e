"""Argo Workflows: progress of a step in the file ``ARGO_PROGRESS_FILE``.

The executor reads the file every 3 seconds. The workflow shows the sum of its steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from otel_progress.model import LevelSnapshot, Status
from otel_progress.operations import OperationSnapshot
from otel_progress.platforms.report import PlatformReport, get_percentage
from otel_progress.semconv import SinkName

VARIABLE: Final = "ARGO_PROGRESS_FILE"


_MAX_DEVIATION: Final = 0.01
"""Largest difference between the ratio and the count. Beyond it the percentage is reported."""


class ArgoPlatform:
    """Writes ``N/M`` to a file."""

    name: SinkName = "platforms.argo"
    interval_s = 1.0
    is_always_active = False

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._path = Path(environ[VARIABLE])
        self._written = ""

    def send(self, report: PlatformReport) -> float | None:
        """Write the progress, if it has changed."""
        text = "" if report.operation is None else format_progress(report.operation)
        if text and text != self._written:
            # Why not a replaced file: the executor may have mounted it.
            self._path.write_text(f"{text}\n", encoding="ascii")
            self._written = text
        return None


def format_progress(operation: OperationSnapshot) -> str:
    """Return ``N/M`` with 0 <= N <= M, or an empty text while it is unknown."""
    root = operation.root
    percentage = get_percentage(operation)
    if isinstance(root.total, int) and root.total > 0 and isinstance(root.current, int) and _is_count(root):
        current = root.total if operation.status is Status.COMPLETED else min(root.current, root.total)
        return f"{max(0, current)}/{root.total}"
    return "" if percentage is None else f"{percentage}/100"


def _is_count(root: LevelSnapshot) -> bool:
    """Return True if the counts describe the progress, without the levels below."""
    if root.ratio is None or root.status.finished:
        return True
    return abs(root.ratio - min(1.0, root.current / (root.total or 1))) <= _MAX_DEVIATION
