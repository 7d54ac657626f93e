"""Environment of child processes, and the parent that such a process reads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import baggage
from opentelemetry import context as context_api
from opentelemetry.sdk.trace import TracerProvider

import otel_progress as progress
from otel_progress.model import ParentLink
from otel_progress.propagation.environment import (
    UPDATES_VARIABLE,
    read_remote_parent,
)
from otel_progress.propagation.parent_link import VARIABLE, parse_parent_link
from otel_progress.testing import recording
from tests.support.command_line import TIMEOUT_S, clean_environ

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
TRACE = f"00-{TRACE_ID}-b7ad6b7169203331-01"
LINK = "1;cafe;nightly;host:alpha"

CHILD = """
import json
import otel_progress as progress

with progress.configure(console=False):
    with progress.operation("part", id="part-1", total=1) as part:
        with progress.operation("inner", id="inner-1") as inner:
            with part.level("step", 1) as step:
                infos = [level.snapshot().info for level in (part, inner, step)]
        part.increment()
print(json.dumps([(info.parent, info.trace_id) for info in infos]))
"""

PLAIN_CHILD = """
from opentelemetry import trace
import otel_progress as progress

with progress.configure(console=False):
    with trace.get_tracer("plain").start_as_current_span("copy") as span:
        span.set_attribute("progress.operation.id", "plain-1")
        span.set_attribute("progress.total", 3)
"""


def run_child(code: str, environment: dict[str, str], cwd: Path) -> Any:
    """Run a program in an environment and return its JSON output, if there is any."""
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    return json.loads(result.stdout) if result.stdout else None


@pytest.mark.usefixtures("recorder")
def test_environment_has_level_trace_and_baggage() -> None:
    before = dict(os.environ)
    with progress.operation("nightly", id="nightly-1") as op, op.level("host", "a/b") as host:
        token = context_api.attach(baggage.set_baggage("tenant", "blue"))
        with host.environment() as environment:
            changed = {name: value for name, value in environment.items() if before.get(name) != value}
        context_api.detach(token)
        info = host.snapshot().info
    assert parse_parent_link(changed[VARIABLE]) == ParentLink("nightly-1", info.run, "host:a%2Fb")
    assert changed["TRACEPARENT"].split("-")[1:3] == [info.trace_id, info.span_id]
    assert changed["BAGGAGE"] == "tenant=blue"
    assert changed["OTEL_PROGRESS_STORE"] == "memory:"
    assert changed.keys() - {"OTEL_PROGRESS_OTLP"} == {
        VARIABLE,
        "TRACEPARENT",
        "BAGGAGE",
        "OTEL_PROGRESS_STORE",
    }
    assert dict(os.environ) == before


def test_environment_without_configuration_is_a_copy() -> None:
    with progress.operation("nightly") as op, op.environment() as environment:
        assert environment == dict(os.environ)
        environment["OTEL_PROGRESS_TEST"] = "1"
    assert "OTEL_PROGRESS_TEST" not in os.environ


@pytest.mark.usefixtures("recorder")
def test_environment_starts_its_level() -> None:
    op = progress.operation("nightly", id="nightly-1")
    with op.environment() as environment:
        assert op.recording
        assert VARIABLE in environment
    op.complete()


@pytest.mark.usefixtures("recorder")
def test_environment_replaces_trace_of_another_level(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACEPARENT", TRACE)
    monkeypatch.setenv("TRACESTATE", "vendor=1")
    monkeypatch.setenv(UPDATES_VARIABLE, "unix:/of/another/operation")
    with progress.operation("nightly") as op, op.environment() as environment:
        assert TRACE_ID not in environment["TRACEPARENT"]
        assert "TRACESTATE" not in environment
        assert UPDATES_VARIABLE not in environment


@pytest.mark.process
def test_child_process_joins_the_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child works in another folder, and the store of its parent is relative."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    with progress.configure(store="sqlite:///own.db", console=False) as runtime:
        with progress.operation("nightly", id="nightly-1") as op, op.level("host", "alpha") as host:
            with host.environment() as environment:
                part, inner, step = run_child(CHILD, {**clean_environ(), **environment}, folder)
                run_child(PLAIN_CHILD, {**clean_environ(), **environment}, folder)
            info = host.snapshot().info
        stored = runtime.reader.get("part-1")
        plain = runtime.reader.get("plain-1")
    link = ParentLink("nightly-1", info.run, "host:alpha")
    assert part == [list(link), info.trace_id]
    assert (inner[0], step[0]) == (None, None)
    assert stored is not None
    assert (stored.root.info.parent, stored.root.info.trace_id) == (link, info.trace_id)
    assert plain is not None
    assert plain.root.info.parent == link


def test_span_of_operation_in_child_has_parent_span(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACEPARENT", TRACE)
    with recording() as recorder:
        progress.operation("part", id="part-1").start().complete()
        (span,) = recorder.spans()
    assert span.parent is not None
    assert (f"{span.parent.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE_ID, "b7ad6b7169203331")
    assert span.parent.is_remote


def test_span_of_operation_below_local_span_keeps_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACEPARENT", TRACE)
    monkeypatch.setenv(VARIABLE, LINK)
    tracer = TracerProvider().get_tracer("local")
    with recording(), tracer.start_as_current_span("local") as local:
        op = progress.operation("part", id="part-1").start()
        info = op.snapshot().info
        op.complete()
    assert info.trace_id == f"{local.get_span_context().trace_id:032x}"
    assert info.parent == ParentLink("nightly", "cafe", "host:alpha")


@pytest.mark.parametrize(
    ("environment", "is_parent"),
    [
        ({}, False),
        ({VARIABLE: LINK}, True),
        ({"TRACEPARENT": TRACE}, True),
        ({VARIABLE: "1;broken", "TRACEPARENT": "00-zz"}, False),
        ({"TRACEPARENT": "00-" + "0" * 32 + "-b7ad6b7169203331-01"}, False),
        ({"TRACEPARENT": TRACE * 100}, False),
        ({"TRACEPARENT": TRACE, "TRACESTATE": "\x00=" * 300}, True),
    ],
)
def test_remote_parent_exists_if_the_environment_is_valid(
    environment: dict[str, str], is_parent: bool
) -> None:
    assert (read_remote_parent(environment) is not None) is is_parent
