"""Public interfaces besides data: settings, signatures, imports and names.

Names of functions that report errors are read from the functions themselves, so a rename needs no
change here. Adapt this file when such a function is split or its parameters are reordered.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import subprocess
import sys
from collections.abc import Callable, Iterator
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest

import otel_progress
from otel_progress import Level, Runtime, configure, semconv, testing
from otel_progress.diagnostics import report_internal_error
from otel_progress.errors import ConfigurationError
from otel_progress.instrument.backend import RecordingBackend
from otel_progress.instrument.rejections import Rejection
from otel_progress.metrics.counters import Totals
from otel_progress.platforms.argo import ArgoPlatform
from otel_progress.platforms.github import GithubPlatform
from otel_progress.platforms.health_check import HealthCheckPlatform
from otel_progress.platforms.kubeflow import KubeflowPlatform
from otel_progress.platforms.systemd import SystemdPlatform
from otel_progress.platforms.taskbar import TaskbarPlatform
from otel_progress.runtime.builder import _RuntimeBuilder
from otel_progress.runtime.threads import start_daemon_thread
from otel_progress.settings.fields import SETTINGS, Setting
from tests.support.golden.files import Golden

PLATFORMS = (
    ArgoPlatform,
    GithubPlatform,
    HealthCheckPlatform,
    KubeflowPlatform,
    SystemdPlatform,
    TaskbarPlatform,
)
PACKAGE = Path(otel_progress.__file__).parent
EXAMPLES = (
    "", " ", "true", "False", "auto", "0", "1", "4", "30", "2.5", "500ms", "10s", "5m", "24h", "7d", "-1",
    "65536", "25%,50%",
    "always", "64KiB", "1GB", "png", "webp", "INFO", "debug", "memory:", "sqlite:",
    "https://example.org/x", "0123456789abcdef", "x\x1b",
)  # fmt: skip
"""Texts that every setting parses."""


def test_settings_equal_golden_file(golden: Golden) -> None:
    """Name, variables, default and description of each setting, and parsed values."""
    golden.json(
        "settings.json",
        [
            {
                "name": setting.name,
                "variables": setting.variables,
                "default": repr(setting.default),
                "secret": setting.secret,
                "parsed": {text: _parsed(setting, text) for text in EXAMPLES},
            }
            for setting in SETTINGS
        ],
    )


def _parsed(setting: Setting, text: str) -> str:
    try:
        return repr(setting.parse(text))
    except (ValueError, ConfigurationError) as error:
        return f"refused: {error}"


def test_signatures_equal_golden_file(golden: Golden) -> None:
    """Every public name with its signature and members."""
    golden.lines("configure.sig", [f"{name}: {text}" for name, text in _parameters(configure)])
    found: list[str] = []
    for name, thing in [
        (name, vars(otel_progress).get(name) or getattr(otel_progress, name))
        for name in otel_progress.__all__
    ]:
        found += _described(name, thing)
    for thing in (Runtime, Level):
        assert thing.__name__ in otel_progress.__all__
    for name in testing.__all__:
        found += _described(f"testing.{name}", vars(testing)[name])
    golden.lines("public_api.txt", found)


def _described(name: str, thing: Any) -> Iterator[str]:
    if isinstance(thing, type) and issubclass(thing, Enum):
        yield f"{name}: {', '.join(f'{member.name}={member.value}' for member in thing)}"
    elif isinstance(thing, type):
        yield f"class {name}({', '.join(base.__name__ for base in thing.__bases__ if base is not object)})"
        fields = dataclasses.fields(thing) if dataclasses.is_dataclass(thing) else ()
        yield from (f"    {one.name}: {one.type}" for one in fields if not one.name.startswith("_"))
        own = {
            name: member
            for one in reversed(thing.__mro__)
            if _is_ours(one)
            for name, member in vars(one).items()
        }
        for member_name, member in sorted(own.items()):
            plain = getattr(member, "__func__", member)
            if isinstance(member, property) and not member_name.startswith("_"):
                yield f"    {member_name}: {inspect.signature(member.fget).return_annotation}"  # type: ignore[arg-type]
            elif inspect.isfunction(plain) and (not member_name.startswith("_") or member_name == "__init__"):
                yield f"    {member_name}{_signature(plain)}"
    elif inspect.isroutine(thing):
        yield f"{name}{_signature(thing)}"
    else:
        yield f"{name}: {type(thing).__name__}"


def _is_ours(thing: type) -> bool:
    return thing.__module__.partition(".")[0] == otel_progress.__name__


def _signature(function: Callable[..., Any]) -> str:
    result = inspect.signature(function).return_annotation
    return f"({', '.join(f'{name}{text}' for name, text in _parameters(function))}) -> {result}"


def _parameters(function: Callable[..., Any]) -> list[tuple[str, str]]:
    """Return names and kinds of parameters, with annotations as in the sources."""
    found = []
    for one in inspect.signature(function).parameters.values():
        hint = "" if one.annotation is one.empty else f": {one.annotation}"
        value = repr(one.default.value) if isinstance(one.default, Enum) else repr(one.default)
        value = "{…}" if isinstance(one.default, frozenset) else value
        default = "" if one.default is one.empty else f" = {value}"
        found.append((one.name, f"{hint}{default} [{one.kind.name.lower()}]"))
    return found


@pytest.mark.process
@pytest.mark.parametrize("name", ["package", "configure", "ls", "update", "server"])
def test_imports_load_golden_modules(golden: Golden, name: str) -> None:
    """Modules of this package that are loaded.

    Their names change when modules move; their number should not grow.
    """
    if name == "server":
        pytest.importorskip("fastapi", reason="the extra 'server' is not installed")
    golden.lines(f"imports/{name}.txt", _python(f"{PROGRAMS[name]}\n{SHOW_MODULES}"))


@pytest.mark.process
def test_fork_hooks_have_golden_order(golden: Golden) -> None:
    """Fork hooks in their order, after a process was configured."""
    golden.lines("fork_hooks.txt", _python(f"{SHOW_HOOKS}\n{PROGRAMS['configure']}"))


PROGRAMS = {
    "package": "import otel_progress",
    "configure": "import otel_progress\n"
    "otel_progress.configure(store='memory:', console=False, resources=False)",
    "ls": "import sys\nfrom otel_progress.cli import main\nsys.argv[1:] = ['ls']\n"
    "try:\n    main()\nexcept SystemExit:\n    pass",
    "update": "import sys\nfrom otel_progress.cli import main\n"
    "sys.argv[1:] = ['update', '--increment', '1', '--if-available']\n"
    "try:\n    main()\nexcept SystemExit:\n    pass",
    "server": "import otel_progress.server; otel_progress.server.create_app",
}
SHOW_MODULES = """
import sys
print("\\n".join(sorted(name for name in sys.modules if name.partition(".")[0] == "otel_progress")))
"""
SHOW_HOOKS = """
import os, sys
register = os.register_at_fork
def shown(**hooks):
    module = sys._getframe(1).f_globals["__name__"]
    if module.startswith("otel_progress"):
        print(module, *hooks)
    register(**hooks)
os.register_at_fork = shown
"""


def _python(code: str) -> list[str]:
    """Return the output lines of a program without settings and with an empty home."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={
            "PATH": "/usr/bin:/bin",
            "HOME": "/nonexistent",
            "PYTHONPATH": str(PACKAGE.parent),
            "OTEL_SDK_DISABLED": "false",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return [line for line in done.stdout.splitlines() if line.startswith("otel_progress")]


def test_label_values_equal_golden_file(golden: Golden) -> None:
    """Label values. mypy checks that the code uses only these."""
    rejecting = (RecordingBackend.reject_value, RecordingBackend.report_rejection, Rejection)
    places = {*_first_texts(report_internal_error), *_texts_at(2, start_daemon_thread)}
    assert places <= {*get_args(semconv.InternalErrorPlace)}
    assert {text for one in rejecting for text in _first_texts(one)} <= {*get_args(semconv.RejectionReason)}
    sinks = {*_first_texts(Totals.count_sink_error), *_first_texts(_RuntimeBuilder._add_sink)}
    sinks |= {platform.name for platform in PLATFORMS}
    assert sinks == {*get_args(semconv.SinkName)}
    golden.lines(
        "metrics/places.txt", sorted({*get_args(semconv.InternalErrorPlace), semconv.get_sink_place("*")})
    )  # type: ignore[arg-type]
    golden.lines("metrics/reasons.txt", sorted(get_args(semconv.RejectionReason)))
    golden.lines("metrics/sinks.txt", sorted(get_args(semconv.SinkName)))
    golden.lines("metrics/drops.txt", sorted(get_args(semconv.DropReason)))
    golden.lines("metrics/series_groups.txt", sorted(get_args(semconv.SeriesGroup)))


def test_refusal_reasons_equal_golden_file(golden: Golden) -> None:
    """Reasons of server refusals that are literals in the sources."""
    pytest.importorskip("fastapi", reason="the extra 'server' is not installed")
    from otel_progress.server.connections import _Deadline
    from otel_progress.server.counters import ServerCounters
    from otel_progress.server.middleware import SecurityMiddleware
    from otel_progress.server.streams.websocket import WebSocketEndpoint

    found = {*_first_texts(ServerCounters.count_refusal), *_texts_at(1, _Deadline.arm)}
    deciding = {SecurityMiddleware._find_refusal.__name__, WebSocketEndpoint._check_access.__name__}
    for tree in _sources():
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef) and function.name in deciding:
                returned = [
                    node for node in ast.walk(function) if isinstance(node, ast.Tuple) and len(node.elts) == 2
                ]
                found |= {text for pair in returned for one in pair.elts if (text := _text(one)) is not None}
    assert {text for text in found if text.isalpha()} == {*get_args(semconv.RefusalReason)}
    golden.lines("metrics/refusals.txt", sorted(get_args(semconv.RefusalReason)))


def test_thread_names_equal_golden_file(golden: Golden) -> None:
    """Thread names that are literals in the sources.

    An asterisk replaces the name of a sink or another part.
    """
    named = [node for node in _calls() if ast.unparse(node.func).endswith(("Thread", "ThreadPoolExecutor"))]
    keywords = [
        keyword
        for node in named
        for keyword in node.keywords
        if keyword.arg in ("name", "thread_name_prefix")
    ]
    found = {text for keyword in keywords if (text := _text(keyword.value))}
    found |= {f"otel-progress-{text}" for text in _texts_at(1, start_daemon_thread)}
    golden.lines("threads.txt", sorted(found))


def test_logger_names_equal_golden_file(golden: Golden) -> None:
    """Names of the loggers. A module's own logger has the name of the module."""
    found = set()
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "logging.getLogger" and node.args:
                module = ".".join(["otel_progress", *path.relative_to(PACKAGE).with_suffix("").parts])
                found.add(
                    _text(node.args[0])
                    or (module if ast.unparse(node.args[0]) == "__name__" else "(of a class)")
                )
    golden.lines("loggers.txt", sorted(found))


@cache
def _sources() -> tuple[ast.Module, ...]:
    return tuple(ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py")))


@cache
def _calls() -> tuple[ast.Call, ...]:
    return tuple(node for tree in _sources() for node in ast.walk(tree) if isinstance(node, ast.Call))


def _first_texts(function: Callable[..., object]) -> Iterator[str]:
    return _texts_at(0, function)


def _texts_at(place: int, function: Callable[..., object]) -> Iterator[str]:
    """Yield the literal at one argument position in all calls of a function."""
    names = {function.__name__, f"on_{function.__name__.removeprefix('_')}"}
    for node in _calls():
        if len(node.args) > place:
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            text = _text(node.args[place])
            if called in names and text is not None:
                yield text


def _text(node: ast.AST | None) -> str | None:
    """Return a literal text, with ``*`` for the placeholders of an f-string."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "*" for part in node.values)
    return None
