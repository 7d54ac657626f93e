"""Instrumented survey of Python files, with a level per package and folder.

This is an example of instrumentation: an operation with stages, levels, one ``item`` per file, and
previews of a map that fills while the files are read.
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
"""Default port of /metrics, as in OpenTelemetry's Prometheus exporters."""


PAGE_PORT: Final = DEFAULT_PORT
"""Default port of the page."""


EXIT_USAGE: Final = 2


EXIT_INTERRUPTED: Final = 130
"""128 plus the number of SIGINT, as in shells."""


logger = logging.getLogger("code_survey")


# Why: without a handler, logging prints warnings that are not captured to stderr.
logger.addHandler(logging.NullHandler())


logger.setLevel(logging.INFO)


MAP_CAPTURE_RATIOS: Final = tuple(part / 20 for part in range(1, 20))
"""Ratios at which the map becomes a preview. The complete map follows at the end."""


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
    """Survey Python files, print a report and return the exit code.

    Surveys the files below ``path`` (default: the files of this interpreter). Settings that are
    None come from the environment, as in :func:`otel_progress.configure`. /metrics, and the page if
    the extra ``server`` is installed, are served even without a port setting. Log records are
    captured.

    The exit code is 0 after a survey, 2 for an invalid path or setting, 130 after an interrupt.
    Files that do not compile are results, not errors.
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
            findings, elapsed_s = _run_timed_survey(roots, path, quick, operation_id, runtime.force_flush)
    except ConfigurationError as exc:
        err.print(Text(f"otel-progress demo: {exc}"))
        return EXIT_USAGE
    except KeyboardInterrupt:
        err.print(Text(f"Interrupted: the survey {operation_id} is cancelled."))
        return EXIT_INTERRUPTED
    report.print_findings(out, findings, elapsed_s)
    report.print_next_steps(out, operation_id, command)
    return 0


def _run_timed_survey(
    roots: Sequence[sources.Root],
    path: str | None,
    quick: bool,
    operation_id: str,
    flush: Callable[[], object],
) -> tuple[Findings, float]:
    """Run the survey of a command and return its findings and duration in seconds."""
    started_at = time.monotonic()
    findings = run_survey(
        roots,
        operation_id=operation_id,
        name=_build_name(path),
        limit=_choose_limit(path, quick),
        quick=quick,
        subject="the interpreter" if path is None else str(Path(path).resolve()),
        flush=flush,
    )
    return findings, time.monotonic() - started_at


def run_survey(
    roots: Sequence[sources.Root],
    *,
    operation_id: str,
    name: str,
    limit: int | None,
    quick: bool,
    subject: str = "",
    flush: Callable[[], object] = lambda: None,
) -> Findings:
    """Run the three stages of a survey of ``roots`` and return the findings.

    At most ``limit`` bytes of source are examined. Estimates use earlier surveys of the same
    ``subject``. ``flush`` waits until all previews are rendered.
    """
    survey = Survey()
    eta_key = f"{'part of ' if quick else ''}{subject}"
    with progress.operation(
        "code_survey", name, id=operation_id, stages=progress.Stages(_STAGES), eta_key=eta_key, quick=quick
    ) as op:
        with op.stage("discover") as stage:
            files = _select_files(stage, roots, survey, limit, quick)
        with op.stage("analyse") as stage:
            stage.set_total(len(files))
            survey.map = code_map.create_map(files)
            for package in sources.group_by_package(files):
                _analyse_folder(stage, "package", package, survey, op)
        with op.stage("report") as stage:
            _fill_findings(stage, survey)
            # Why: a preview is dropped while another one is rendered. The last one must not be.
            flush()
            _capture_map(op, survey, "always")
        total = survey.findings.total
        files_and_lines = f"{total.files:,} files, {total.code_lines:,} lines of code"
        op.update(message=f"{files_and_lines}, {total.failed:,} files that do not compile")
    return survey.findings


def _select_files(
    stage: Level, roots: Sequence[sources.Root], survey: Survey, limit: int | None, quick: bool
) -> list[sources.SourceFile]:
    """Search for files as the stage ``stage`` and return the ones to examine."""
    files = _discover_files(stage, roots)
    selected = sources.select_files(files, limit, "smallest" if quick else "name")
    survey.findings.found = len(files)
    stage.update(message=f"{len(files):,} files found, {len(selected):,} to examine")
    logger.info("%d files found, %d to examine", len(files), len(selected))
    return selected


def _discover_files(stage: Level, roots: Sequence[sources.Root]) -> list[sources.SourceFile]:
    files: list[sources.SourceFile] = []
    for root in roots:
        stage.update(message=f"searching {root.path}")
        for entry in sources.walk_files(root):
            if isinstance(entry, sources.SourceFile):
                files.append(entry)
                stage.increment()
            elif entry.error is not None:
                stage.item(entry.path, outcome="failed", error=entry.error)
                logger.warning("cannot read %s: %s", entry.path, entry.error)
            else:
                stage.item(entry.path, outcome="skipped", reason=entry.reason)
    return files


def _analyse_folder(parent: Level, kind: str, folder: sources.Folder, survey: Survey, op: Level) -> None:
    """Examine a folder as a level of ``parent`` whose weight is its number of files.

    Subfolders are examined recursively, at most ``sources.MAX_DEPTH`` deep. The map of all files is
    a preview of the operation ``op``.
    """
    with parent.level(
        kind, folder.name, folder.name, total=folder.count, unit="file", weight=folder.count
    ) as level:
        for subfolder in folder.folders:
            _analyse_folder(level, "folder", subfolder, survey, op)
        for file in folder.files:
            level.update(message=file.name)
            _analyse_file(level, file, survey)
            _capture_map(op, survey, MAP_CAPTURE_RATIOS)


def _analyse_file(level: Level, file: sources.SourceFile, survey: Survey) -> None:
    try:
        data = Path(file.path).read_bytes()
        measures = measure.measure_source(data, file.label)
    except (OSError, *measure.ERRORS) as exc:
        reason = survey.add_problem(file, exc)
        level.item(file.name, outcome="failed", error=exc, reason=reason)
        logger.warning("%s does not compile: %s", file.label, reason)
    else:
        survey.add(file, measures)
        level.item(file.name, lines=measures.lines, bytes=measures.size)


def _fill_findings(stage: Level, survey: Survey) -> None:
    sections = survey.build_sections()
    stage.set_total(len(sections))
    for title, fill_section in sections:
        stage.increment(message=title)
        fill_section()


def _capture_map(op: Level, survey: Survey, at: PreviewAt) -> None:
    if survey.map is not None:
        op.preview(survey.map.image, "map", at=at)


def _build_name(path: str | None) -> str:
    if path is None:
        return f"Survey of the sources of Python {sys.version_info.major}.{sys.version_info.minor}"
    return f"Survey of {text.escape_controls(path)}"


def _choose_limit(path: str | None, quick: bool) -> int | None:
    if quick:
        return sources.QUICK_BYTES
    return sources.FULL_BYTES if path is None else None


def _build_command(settings: Settings) -> str:
    """Return the command for a second terminal.

    Includes its path if not on PATH, and the store.
    """
    command = "otel-progress"
    script = Path(sys.executable).with_name(command)
    if shutil.which(command) is None and script.is_file():
        with suppress(ValueError):  # not below the current folder
            script = script.relative_to(Path.cwd())
        command = shlex.quote(str(script))
    store = "" if settings.store == Settings().store else f" --store {shlex.quote(settings.store)}"
    return text.escape_controls(command + store)


def _configure_runtime(settings: Settings, store: str | None, console: ConsoleMode | None) -> Runtime:
    """Configure with the ports of the settings or the default ports.

    If another process uses a default port, a free port is used. A port of the settings that is in
    use is left out with a warning.
    """
    serves = _can_serve_page(settings)
    metrics = _choose_port(settings.prometheus_port, settings.prometheus_host, PORT)
    page = _choose_port(settings.server_port, settings.server_host, PAGE_PORT) if serves else None
    configure = partial(
        progress.configure, service_name=SERVICE, store=store, capture_logs=True, console=console
    )
    runtime = configure(prometheus_port=metrics, server_port=page)
    # Why: two demos may start at the same time, so a port can be in use since it was checked.
    lost_metrics = runtime.metrics_url is None and settings.prometheus_port is None
    lost_page = serves and runtime.server_url is None and settings.server_port is None
    if not (lost_metrics or lost_page):
        return runtime
    runtime.shutdown()
    return configure(prometheus_port=0 if lost_metrics else metrics, server_port=0 if lost_page else page)


def _can_serve_page(settings: Settings) -> bool:
    """Return whether the page can be served.

    True with a configured port: configure() then reports a missing package.
    """
    return settings.server_port is not None or all(
        find_spec(name) is not None for name in ("fastapi", "uvicorn")
    )


def _choose_port(configured: int | None, host: str, default: int) -> int:
    """Return the configured or the default port.

    0 (a free port) if the default port is in use.
    """
    if configured is not None:
        return configured
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, default))
        except OSError:
            return 0
    return default
