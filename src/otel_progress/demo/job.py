"""The work itself, instrumented: a survey of Python sources in three stages, with a level for each package and folder.

This is the code to read to see what a program does to be watched: an operation, its stages, levels, one ``item`` a file, and previews
of a map that fills as the files are read.
"""

from __future__ import annotations

import logging
import os
import secrets
import shlex
import shutil
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.text import Text

import otel_progress as progress
from otel_progress import text
from otel_progress.demo import code_map, measure, report, sources
from otel_progress.demo.report import Findings, Survey
from otel_progress.errors import ConfigurationError
from otel_progress.settings.defaults import DEFAULT_PORT
from otel_progress.settings.fields import Settings
from otel_progress.settings.parsing import ConsoleMode, PreviewAt

if TYPE_CHECKING:
    from otel_progress import Level, Runtime


SERVICE: Final = "otel-progress-demo"


PORT: Final = 9464
"""Where /metrics is served unless told otherwise: the port OpenTelemetry's Prometheus exporters use."""


PAGE_PORT: Final = DEFAULT_PORT
"""Where the page is served unless told otherwise."""


EXIT_USAGE: Final = 2


EXIT_INTERRUPTED: Final = 130
"""128 and the number of SIGINT, as shells have it."""


logger = logging.getLogger("code_survey")


logger.addHandler(logging.NullHandler())  # or logging itself would print warnings where nobody captures them


logger.setLevel(logging.INFO)


MAP_CAPTURE_RATIOS: Final = tuple(part / 20 for part in range(1, 20))
"""When the map is taken as a preview: a time-lapse of nineteen pictures, and the whole one at the end."""


_STAGES: Final = {"discover": 0.02, "analyse": 0.96, "report": 0.02}


def run(
    path: str | None = None,
    *,
    quick: bool = False,
    store: str | None = None,
    prometheus_port: int | None = None,
    server_port: int | None = None,
    console: ConsoleMode | None = None,
) -> int:
    """Survey the Python sources below ``path`` (default: this interpreter's own) and print a report; return the exit code.

    Settings that are None come from the environment, as in :func:`otel_progress.configure`; only /metrics, and the page where the
    extra ``server`` is installed, are served even when no port is set, and log records are captured. 0 when the survey was made
    (files that do not compile are findings, not errors), 2 when a path or setting cannot be used, 130 when interrupted.
    """
    out, err = Console(soft_wrap=True), Console(stderr=True, soft_wrap=True)
    operation_id = f"survey-{secrets.token_hex(4)}"
    try:
        roots = sources.find_interpreter_roots() if path is None else [sources.parse_root(path)]
        settings = Settings.from_environ(os.environ).with_arguments(
            store=store, prometheus_port=prometheus_port, server_port=server_port
        )
        command = None if settings.store == "memory:" else _build_command(settings)
        with _configure_runtime(settings, store, console) as runtime:
            report.print_introduction(err, operation_id, command, runtime.metrics_url, runtime.server_url)
            started = time.monotonic()
            findings = run_survey(
                roots,
                operation_id=operation_id,
                name=_build_name(path),
                limit=_choose_limit(path, quick),
                quick=quick,
                what="the interpreter" if path is None else str(Path(path).resolve()),
                settle=runtime.force_flush,
            )
            elapsed = time.monotonic() - started
    except ConfigurationError as exc:
        err.print(Text(f"otel-progress demo: {exc}"))
        return EXIT_USAGE
    except KeyboardInterrupt:
        err.print(Text(f"Interrupted: the survey {operation_id} was cancelled."))
        return EXIT_INTERRUPTED
    report.print_findings(out, findings, elapsed)
    report.print_next_steps(out, operation_id, command)
    return 0


def run_survey(
    roots: Sequence[sources.Root],
    *,
    operation_id: str,
    name: str,
    limit: int | None,
    quick: bool,
    what: str = "",
    settle: Callable[[], object] = lambda: None,
) -> Findings:
    """Do the three stages below ``roots`` and return what was found.

    ``limit`` bounds the bytes of source that are examined; surveys learn how long they take from earlier ones of the same ``what``.
    ``settle`` waits until the previews that were taken are made: one that is due meanwhile would be dropped, and the last one may not be.
    """
    made = Survey()
    stages = progress.Stages(_STAGES)
    kind = f"{'part of ' if quick else ''}{what}"
    with progress.operation(
        "code_survey", name, id=operation_id, stages=stages, eta_key=kind, quick=quick
    ) as op:
        with op.stage("discover") as stage:
            files = _discover_files(stage, roots)
            chosen = sources.select_files(files, limit, "smallest" if quick else "name")
            made.findings.found = len(files)
            stage.update(message=f"{len(files):,} files found, {len(chosen):,} to examine")
            logger.info("%d files found, %d to examine", len(files), len(chosen))
        with op.stage("analyse") as stage:
            stage.set_total(len(chosen))
            made.map = code_map.create_map(chosen)
            for package in sources.group_by_package(chosen):
                _analyse_folder(stage, "package", package, made, op)
        with op.stage("report") as stage:
            sections = made.build_sections()
            stage.set_total(len(sections))
            for title, conclude in sections:
                stage.increment(message=title)
                conclude()
            settle()
            _capture_map(op, made, "always")
        total = made.findings.total
        op.update(
            message=f"{total.files:,} files, {total.code_lines:,} lines of code, {total.failed:,} files that do not compile"
        )
    return made.findings


def _discover_files(stage: Level, roots: Sequence[sources.Root]) -> list[sources.SourceFile]:
    files: list[sources.SourceFile] = []
    for root in roots:
        stage.update(message=f"looking through {root.path}")
        for found in sources.walk_files(root):
            if isinstance(found, sources.SourceFile):
                files.append(found)
                stage.increment()
            elif found.error is not None:
                stage.item(found.path, outcome="failed", error=found.error)
                logger.warning("cannot look into %s: %s", found.path, found.error)
            else:
                stage.item(found.path, outcome="skipped", reason=found.reason)
    return files


def _analyse_folder(parent: Level, kind: str, folder: sources.Folder, made: Survey, op: Level) -> None:
    """Examine a folder as a level of ``parent`` that weighs as much as it has files. Not deeper than ``sources.MAX_DEPTH``.

    The map of all files is a preview of the operation ``op``.
    """
    with parent.level(
        kind, folder.name, folder.name, total=folder.count, unit="file", weight=folder.count
    ) as level:
        for below in folder.folders:
            _analyse_folder(level, "folder", below, made, op)
        for file in folder.files:
            level.update(message=file.name)
            try:
                data = Path(file.path).read_bytes()
                measures = measure.measure_source(data, file.label)
            except (OSError, *measure.ERRORS) as exc:
                reason = made.add_problem(file, exc)
                level.item(file.name, outcome="failed", error=exc, reason=reason)
                logger.warning("%s does not compile: %s", file.label, reason)
            else:
                made.add(file, measures)
                level.item(file.name, lines=measures.lines, bytes=measures.size)
            _capture_map(op, made, MAP_CAPTURE_RATIOS)


def _capture_map(op: Level, made: Survey, at: PreviewAt) -> None:
    if made.map is not None:
        op.preview(made.map.image, "map", at=at)


def _build_name(path: str | None) -> str:
    if path is None:
        return f"Survey of the sources of Python {sys.version_info.major}.{sys.version_info.minor}"
    return f"Survey of {text.escape_controls(path)}"


def _choose_limit(path: str | None, quick: bool) -> int | None:
    if quick:
        return sources.QUICK_BYTES
    return sources.FULL_BYTES if path is None else None


def _build_command(settings: Settings) -> str:
    """Return what to type for the command in a second terminal: with its path when it is not on the PATH, and with the store."""
    command = "otel-progress"
    beside = Path(sys.executable).with_name(command)
    if shutil.which(command) is None and beside.is_file():
        with suppress(ValueError):  # not below the current folder
            beside = beside.relative_to(Path.cwd())
        command = shlex.quote(str(beside))
    store = "" if settings.store == Settings().store else f" --store {shlex.quote(settings.store)}"
    return text.escape_controls(command + store)


def _configure_runtime(settings: Settings, store: str | None, console: ConsoleMode | None) -> Runtime:
    """Configure with the ports that are set, and the usual ones for others; any free ones where somebody else is first to take those."""
    serves = _can_serve_page(settings)
    metrics = _choose_port(settings.prometheus_port, settings.prometheus_host, PORT)
    page = _choose_port(settings.server_port, settings.server_host, PAGE_PORT) if serves else None
    configure = partial(
        progress.configure, service_name=SERVICE, store=store, capture_logs=True, console=console
    )
    try:
        return configure(prometheus_port=metrics, server_port=page)
    except (
        ConfigurationError
    ):  # if it is for a port, it was taken since it was looked at: two demos may begin at once
        free_metrics = settings.prometheus_port or 0
        free_page = (settings.server_port or 0) if serves else None
        if (free_metrics, free_page) == (metrics, page):
            raise
    return configure(prometheus_port=free_metrics, server_port=free_page)


def _can_serve_page(settings: Settings) -> bool:
    """Return whether the page can be served. A port that was asked for is tried all the same, so that it is told what is missing."""
    return settings.server_port is not None or all(
        find_spec(name) is not None for name in ("fastapi", "uvicorn")
    )


def _choose_port(wanted: int | None, host: str, usual: int) -> int:
    """Return the port that is set, else the usual one, or 0 (any free one) when another process has that."""
    if wanted is not None:
        return wanted
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, usual))
        except OSError:
            return 0
    return usual
