"""Selection of the display for the setting ``console``."""

from __future__ import annotations

from otel_progress.protocols import Reader, Sink
from otel_progress.settings.parsing import ConsoleMode
from otel_progress.shell import find_notebook_shell


def build_console(reader: Reader, mode: ConsoleMode) -> Sink | None:
    """Return the sink that displays progress, None for False.

    Raises UnavailableError if a file descriptor is not open for writing.
    """
    if mode == "log":
        from otel_progress.console.records import LogWriter, RecordConsole

        return RecordConsole(reader, LogWriter())
    if isinstance(mode, str) and mode.startswith("json"):
        from otel_progress.console.json_lines import make_json_writer
        from otel_progress.console.records import RecordConsole

        _, _, descriptor = mode.partition(":")
        writer = make_json_writer(int(descriptor) if descriptor else None)
        return None if writer is None else RecordConsole(reader, writer)
    if mode == "auto" and (shell := find_notebook_shell()) is not None:
        from otel_progress.console.notebook import NotebookConsole

        return NotebookConsole(reader, shell)
    from otel_progress.console.terminal import make_console

    return make_console(reader, mode="auto" if mode == "auto" else bool(mode))
