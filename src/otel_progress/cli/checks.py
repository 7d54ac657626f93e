"""Checks of ``doctor``.

Each yields findings, raises no exception and changes nothing.
"""

from __future__ import annotations

import logging
import platform
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from difflib import get_close_matches
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Final

from otel_progress.cli.context import CliContext
from otel_progress.cli.findings import Finding, State
from otel_progress.cli.integration_checks import check_integrations
from otel_progress.cli.platform_checks import check_platforms
from otel_progress.errors import ConfigurationError, ProgressError
from otel_progress.formats import format_moment, format_quantity
from otel_progress.protocols import HistoryQuery
from otel_progress.redaction.patterns import redact_text
from otel_progress.settings.fields import PREFIX, SETTINGS, Settings
from otel_progress.text import escape_controls

_PACKAGES: Final = (
    "otel-progress",
    "opentelemetry-api",
    "opentelemetry-sdk",
    "prometheus-client",
    "rich",
    "click",
)


_EXTRAS: Final[Mapping[str, tuple[str, ...]]] = {
    "server": ("fastapi", "uvicorn"),
    "resources": ("psutil",),
    "redis": ("redis",),
    "grpc": ("grpc",),
    "mcp": ("mcp",),
    "previews": ("PIL", "fsspec"),
}


_UNREADABLE_CHECKS: Final = frozenset({"integrity", "readable", "server", "schema"})
"""Checks of a journal after whose problems its operations cannot be read."""


_MIN_PYTHON: Final = (3, 10)


_MAX_HISTORY: Final = 100_000
"""Finished operations counted, the newest."""


_MIN_CLOCK_S: Final = 1_704_067_200.0
"""Start of 2024 in Unix seconds. An earlier clock was never set."""


def run_checks(context: CliContext, environ: Mapping[str, str]) -> list[Finding]:
    """Return the findings of all checks."""
    findings = [
        *_run_check("python", _check_python),
        *_run_check("package", _check_packages),
        *_run_check("extra", _check_extras),
        *_run_check("integration", lambda: check_integrations(environ)),
        *_run_check("clock", _check_clock),
        *_run_check("environment", lambda: _check_environment(environ)),
    ]
    try:
        settings = context.settings()
    except Exception as error:
        return [*findings, Finding("settings", "problem", escape_controls(str(error)))]
    metrics = settings.prometheus_host, settings.prometheus_port
    server = settings.server_host, settings.server_port
    return [
        *findings,
        Finding("settings", "ok", "are valid"),
        *_run_check("port", lambda: _check_port("/metrics", *metrics)),
        *_run_check("port", lambda: _check_port("the server", *server)),
        *_run_check("server", lambda: _check_server(settings)),
        *_run_check("platform", lambda: check_platforms(settings.report_to, environ)),
        *_run_check("logs", lambda: _check_capture(settings)),
        *_run_check("journal", lambda: _check_journal(settings)),
    ]


def _run_check(name: str, check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """Return the findings of a check. An exception becomes a finding."""
    findings: list[Finding] = []
    try:
        findings.extend(check())
    except Exception as error:
        text = f"the check failed ({type(error).__name__}: {escape_controls(str(error)[:200])})"
        findings.append(Finding(name, "problem", text))
    return findings


def _check_python() -> Iterator[Finding]:
    interpreter = f"{platform.python_implementation()} {platform.python_version()}"
    text = f"{interpreter} on {platform.system()} {platform.machine()}"
    if sys.version_info >= _MIN_PYTHON:
        yield Finding("python", "ok", text)
    else:
        yield Finding("python", "problem", f"{text}; otel-progress requires Python 3.10 or newer")


def _check_packages() -> Iterator[Finding]:
    for name in _PACKAGES:
        try:
            yield Finding("package", "ok", f"{name} {version(name)}")
        except PackageNotFoundError:
            state: State = "note" if name == "otel-progress" else "problem"
            fix = "runs from a source tree" if state == "note" else f"is not installed: pip install {name}"
            yield Finding("package", state, f"{name} {fix}")


def _check_extras() -> Iterator[Finding]:
    for extra, modules in _EXTRAS.items():
        missing = [module for module in modules if find_spec(module) is None]
        if missing:
            fix = f"pip install 'otel-progress[{extra}]'"
            yield Finding("extra", "note", f"{extra} is not installed (optional): {fix}")
        else:
            yield Finding("extra", "ok", f"{extra} is installed")


def _check_clock() -> Iterator[Finding]:
    now = time.time()
    if now < _MIN_CLOCK_S:
        yield Finding(
            "clock",
            "problem",
            f"the clock is {format_moment(now)}; set it, or times of other machines are wrong",
        )
    else:
        yield Finding("clock", "ok", format_moment(now))


def _check_environment(environ: Mapping[str, str]) -> Iterator[Finding]:
    known = {variable for setting in SETTINGS for variable in setting.variables}
    secret = {variable for setting in SETTINGS if setting.secret for variable in setting.variables}
    for name in sorted(environ):
        if name in known:
            value = "(set, hidden)" if name in secret else escape_controls(redact_text(environ[name])[:200])
            yield Finding("environment", "ok", f"{name}={value}")
        elif name.startswith(PREFIX) and name != "OTEL_PROGRESS_COMPLETE":
            similar = get_close_matches(name, known, n=1)
            hint = (
                f"did you mean {similar[0]}?" if similar else f"the settings are {', '.join(sorted(known))}"
            )
            yield Finding("environment", "problem", f"{escape_controls(name[:100])} is not a setting; {hint}")


def _check_server(settings: Settings) -> Iterator[Finding]:
    try:
        token = settings.read_token()
    except ConfigurationError as error:
        yield Finding("token", "problem", escape_controls(str(error)))
        return
    if token is not None:
        yield Finding("token", "ok", "is set; the server and the page require it")
    missing = [module for module in _EXTRAS["server"] if find_spec(module) is None]
    if settings.server_port is not None and missing:
        yield Finding(
            "server",
            "problem",
            "OTEL_PROGRESS_SERVER_PORT is set, but the server is not installed: "
            "pip install 'otel-progress[server]'",
        )


def _check_capture(settings: Settings) -> Iterator[Finding]:
    """Check the capture of log records and resource use, and the redaction of secrets."""
    if settings.capture_logs is not False:
        name = logging.getLevelName(settings.capture_logs)
        yield Finding(
            "logs",
            "ok",
            f"records from {name} on are captured, if the level of their logger permits them",
        )
    if settings.redact is False:
        yield Finding(
            "redaction",
            "note",
            "is off: passwords and tokens in metadata, messages and logs are stored and shown",
        )
    has_psutil = find_spec("psutil") is not None
    if settings.resources is True and not has_psutil:
        yield Finding(
            "resources", "problem", "OTEL_PROGRESS_RESOURCES is true: pip install 'otel-progress[resources]'"
        )
    elif settings.resources is not False and has_psutil:
        gpu = (
            "NVIDIA GPUs too"
            if find_spec("pynvml") is not None
            else "GPUs are not (pip install nvidia-ml-py)"
        )
        yield Finding("resources", "ok", f"processor and memory are sampled once per second, {gpu}")


def _check_port(service: str, host: str, port: int | None) -> Iterator[Finding]:
    if not port:
        return
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        reason = error.strerror or str(error)
        fix = f"Choose another port, unless your program serves {service} there"
        text = f"{escape_controls(host)}:{port}: {reason}. {fix}"
        yield Finding("port", "note", text)
    else:
        yield Finding("port", "ok", f"{escape_controls(host)}:{port} is free")


def _check_journal(settings: Settings) -> Iterator[Finding]:
    from otel_progress.journal import open_journal

    if settings.store == "memory:":
        yield Finding(
            "journal", "note", "memory: is readable only in its own process; use sqlite: for other processes"
        )
        return
    try:
        journal = open_journal(settings.store)
    except ProgressError as error:
        yield Finding("journal", "problem", escape_controls(str(error)))
        return
    with closing(journal):
        diagnosis = [Finding(one.check, one.state, escape_controls(one.text)) for one in journal.diagnose()]
        location, size = journal.location, journal.size_bytes()
    # Why not the URL: it may have credentials.
    shown = str(getattr(journal, "address", "")) if location is None else str(location)
    yield Finding("journal", "ok", escape_controls(shown))
    yield from diagnosis
    # Why: an unreadable journal would be reported twice.
    is_damaged = any(
        finding.check in {"integrity", "readable", "server", "schema"} and finding.state == "problem"
        for finding in diagnosis
    )
    if (size is not None or location is None) and not is_damaged:
        yield from _check_contents(settings.store, size)


def _check_contents(url: str, size: int | None) -> Iterator[Finding]:
    from otel_progress.journal import open_journal

    try:
        with closing(open_journal(url, read_only=True)) as journal:
            active = journal.active(levels=False)
            finished = journal.history(HistoryQuery(limit=_MAX_HISTORY))
    except ProgressError as error:
        yield Finding("integrity", "problem", escape_controls(str(error)))
        return
    stored = "" if size is None else f"{format_quantity(size, 'byte')}, "
    yield Finding(
        "size",
        "ok",
        f"{stored}operations: {len(active)} active, {len(finished)} finished",
    )
    alive = {
        operation.instance.pid: operation.instance
        for operation in active
        if operation.instance and operation.alive
    }
    for instance in alive.values():
        yield Finding(
            "instance", "ok", f"{escape_controls(instance.service)}, pid {instance.pid}, is running"
        )
    abandoned_count = sum(not operation.alive for operation in active)
    if abandoned_count:
        yield Finding(
            "instance",
            "note",
            f"operations whose process has exited (abandoned): {abandoned_count}. "
            "See: otel-progress ls --condition abandoned",
        )
