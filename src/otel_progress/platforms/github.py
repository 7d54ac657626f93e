"""GitHub Actions: a table of the operations in the summary of the step.

The summary is written at the end, because a file that is appended to cannot be changed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from otel_progress.model import Status
from otel_progress.operations import OperationSnapshot
from otel_progress.platforms.report import PlatformReport, format_counts, format_seconds
from otel_progress.semconv import SinkName
from otel_progress.text import escape_controls, truncate

VARIABLE: Final = "GITHUB_STEP_SUMMARY"


_MAX_NAME: Final = 100
"""Longest name in the table. Longer ones are cut."""


_MAX_ERROR: Final = 300
"""Longest error in the table. Longer ones are cut."""


_MARKS: Final = {
    Status.COMPLETED: "✅",
    Status.FAILED: "❌",
    Status.CANCELLED: "🛑",
    Status.SKIPPED: "⏭️",
}


class GithubPlatform:
    """Appends a table of the ended operations to a file when the process ends."""

    name: SinkName = "platforms.github"
    interval_s = 1.0
    is_always_active = False

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._path = Path(environ[VARIABLE])

    def send(self, report: PlatformReport) -> float | None:
        """Append the table, if this is the final report."""
        if report.is_final and report.ended:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(format_summary(report))
        return None


def format_summary(report: PlatformReport) -> str:
    """Return the table as Markdown."""
    lines = [
        "",
        "### Progress",
        "",
        "| | operation | count | failed items | duration |",
        "| --- | --- | --- | --- | --- |",
        *(_format_row(operation) for operation in report.ended),
        "",
    ]
    others = report.ended_count - len(report.ended)
    if others:
        lines += [f"{others} earlier operations are not listed.", ""]
    return "\n".join(lines)


def _format_row(operation: OperationSnapshot) -> str:
    root = operation.root
    name = _escape(operation.name, _MAX_NAME)
    if root.info.type != operation.name:
        name = f"{_escape(root.info.type, _MAX_NAME)}: {name}"
    if root.error is not None:
        name += f"<br>{_escape(f'{root.error.type}: {root.error.message}', _MAX_ERROR)}"
    duration = "" if root.duration_s is None else format_seconds(root.duration_s)
    failed = str(root.failed) if root.failed else ""
    status = f"{_MARKS.get(root.status, '')} {root.status.value}".strip()
    return f"| {status} | {name} | {format_counts(root)} | {failed} | {duration} |"


def _escape(text: str, max_length: int) -> str:
    """Return a text that is shown as it is: no links, mentions, HTML or table cells."""
    plain = escape_controls(truncate(text, max_length))
    return re.sub(r"[\\`*_{}\[\]()<>#+\-.!|~@&:/]", lambda match: f"&#{ord(match[0])};", plain)
