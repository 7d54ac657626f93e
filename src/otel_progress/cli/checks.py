"""The checks of ``doctor``: each yields findings, raises nothing and changes nothing."""

from __future__ import annotations

import logging
import platform
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Final, Literal, TypeAlias

from otel_progress.cli.context import CliContext
from otel_progress.console.format import moment, quantity
from otel_progress.errors import ConfigurationError, ProgressError
from otel_progress.protocols import HistoryQuery
from otel_progress.redaction.patterns import redact_text
from otel_progress.settings.fields import PREFIX, SETTINGS, Settings
from otel_progress.text import escape_controls

State: TypeAlias = Literal["ok", "note", "problem"]


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
    "previews": ("PIL", "fsspec"),
}


_OLDEST_PYTHON: Final = (3, 10)


_FIRST_SANE_YEAR: Final = 1_704_067_200.0  # 2024; a clock before that has never been set


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found: fine, worth knowing, or wrong (then the text says what to do)."""

    check: str
    state: State
    text: str


def all_checks(scope: CliContext, environ: Mapping[str, str]) -> list[Finding]:
    """Return what all checks find."""
    findings = [*_python(), *_versions(), *_extras(), *_clock(), *_variables(environ)]
    try:
        settings = scope.settings()
    except ConfigurationError as error:
        return [*findings, Finding("settings", "problem", escape_controls(str(error)))]
    ports = [
        *_port("/metrics", settings.prometheus_host, settings.prometheus_port),
        *_port("the server", settings.server_host, settings.server_port),
    ]
    return [
        *findings,
        Finding("settings", "ok", "can be read"),
        *ports,
        *_server(settings),
        *_observing(settings),
        *_journal(settings),
    ]


def _python() -> Iterator[Finding]:
    text = f"{platform.python_implementation()} {platform.python_version()} on {platform.system()} {platform.machine()}"
    fine = sys.version_info >= _OLDEST_PYTHON
    yield Finding(
        "python", "ok" if fine else "problem", text if fine else f"{text}; otel-progress needs 3.10 or newer"
    )


def _versions() -> Iterator[Finding]:
    for name in _PACKAGES:
        try:
            yield Finding("package", "ok", f"{name} {version(name)}")
        except PackageNotFoundError:
            state: State = "note" if name == "otel-progress" else "problem"
            fix = "runs from its sources" if state == "note" else f"is not installed: pip install {name}"
            yield Finding("package", state, f"{name} {fix}")


def _extras() -> Iterator[Finding]:
    for extra, modules in _EXTRAS.items():
        missing = [module for module in modules if find_spec(module) is None]
        text = (
            f"{extra} is installed"
            if not missing
            else f"{extra} is not installed (optional): pip install 'otel-progress[{extra}]'"
        )
        yield Finding("extra", "note" if missing else "ok", text)


def _clock() -> Iterator[Finding]:
    now = time.time()
    if now < _FIRST_SANE_YEAR:
        yield Finding(
            "clock",
            "problem",
            f"it is {moment(now)}, says the clock; set it, or journals of other machines look odd",
        )
    else:
        yield Finding("clock", "ok", moment(now))


def _variables(environ: Mapping[str, str]) -> Iterator[Finding]:
    known = {variable for setting in SETTINGS for variable in setting.variables}
    secret = {variable for setting in SETTINGS if setting.secret for variable in setting.variables}
    for name in sorted(environ):
        if name in known:
            value = (
                "(set, not shown)" if name in secret else escape_controls(redact_text(environ[name])[:200])
            )
            yield Finding("environment", "ok", f"{name}={value}")
        elif name.startswith(PREFIX) and name != "OTEL_PROGRESS_COMPLETE":
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"the settings are {', '.join(sorted(known))}"
            yield Finding("environment", "problem", f"{escape_controls(name[:100])} is not a setting; {hint}")


def _server(settings: Settings) -> Iterator[Finding]:
    try:
        token = settings.read_token()
    except ConfigurationError as error:
        yield Finding("token", "problem", escape_controls(str(error)))
        return
    if token is not None:
        yield Finding("token", "ok", "is set; it is asked for by the server and the page")
    missing = [module for module in _EXTRAS["server"] if find_spec(module) is None]
    if settings.server_port is not None and missing:
        yield Finding(
            "server",
            "problem",
            "OTEL_PROGRESS_SERVER_PORT is set, but pip install 'otel-progress[server]' is missing",
        )


def _observing(settings: Settings) -> Iterator[Finding]:
    """Tell what is observed beside the work: log records, the use of resources; and whether secrets are left in."""
    if settings.capture_logs is not False:
        name = logging.getLevelName(settings.capture_logs)
        yield Finding(
            "logs",
            "ok",
            f"records from {name} are captured, as far as the root logger's own level lets them through",
        )
    if settings.redact is False:
        yield Finding(
            "redaction",
            "note",
            "is off: passwords and tokens in metadata, messages and logs are kept and shown",
        )
    found = find_spec("psutil") is not None
    if settings.resources is True and not found:
        yield Finding(
            "resources", "problem", "OTEL_PROGRESS_RESOURCES is true: pip install 'otel-progress[resources]'"
        )
    elif settings.resources is not False and found:
        gpu = (
            "GPUs by NVIDIA's library"
            if find_spec("pynvml") is not None
            else "no GPUs (pip install nvidia-ml-py)"
        )
        yield Finding("resources", "ok", f"processor and memory are sampled once a second, {gpu}")


def _port(what: str, host: str, port: int | None) -> Iterator[Finding]:
    if not port:
        return
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        reason = error.strerror or str(error)
        text = f"{escape_controls(host)}:{port}: {reason}. Fine if your own work serves {what} there; else choose another port"
        yield Finding("port", "note", text)
    else:
        yield Finding("port", "ok", f"{escape_controls(host)}:{port} is free")


def _journal(settings: Settings) -> Iterator[Finding]:
    from otel_progress.journal import open_journal

    if settings.store == "memory:":
        yield Finding(
            "journal", "note", "memory: is seen by its own process only; use sqlite: to look from outside"
        )
        return
    try:
        journal = open_journal(settings.store)
    except ProgressError as error:
        yield Finding("journal", "problem", escape_controls(str(error)))
        return
    with closing(journal):
        found = [Finding(one.check, one.state, escape_controls(one.text)) for one in journal.diagnose()]
        location, size = str(journal.location), journal.size_bytes()
    yield Finding("journal", "ok", escape_controls(location))
    yield from found
    if size is not None and not any(one.check == "integrity" and one.state == "problem" for one in found):
        yield from _contents(settings.store, size)


def _contents(url: str, size: int) -> Iterator[Finding]:
    from otel_progress.journal import open_journal

    try:
        with closing(open_journal(url, read_only=True)) as journal:
            active = journal.active(levels=False)
            ended = journal.history(HistoryQuery(limit=100_000))
    except ProgressError as error:
        yield Finding("integrity", "problem", escape_controls(str(error)))
        return
    yield Finding(
        "size", "ok", f"{quantity(size, 'byte')}, {len(active)} operations under way, {len(ended)} ended"
    )
    alive = {
        operation.instance.pid: operation.instance
        for operation in active
        if operation.instance and operation.alive
    }
    for instance in alive.values():
        yield Finding(
            "instance", "ok", f"{escape_controls(instance.service)}, process {instance.pid}, is at work"
        )
    gone = sum(not operation.alive for operation in active)
    if gone:
        yield Finding(
            "instance",
            "note",
            f"{gone} operations were abandoned by their process: otel-progress ls --condition abandoned",
        )
