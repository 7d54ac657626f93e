"""Headers of requests: the current level, and the parent of an operation."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import context as context_api

import otel_progress as progress
from otel_progress.model import ParentLink
from otel_progress.propagation.parent_link import HEADER
from otel_progress.propagator import MAX_HEADER_CHARACTERS, ProgressPropagator
from otel_progress.testing import Recorder

propagator = ProgressPropagator()


@pytest.fixture
def extracted(recorder: Recorder) -> Iterator[str]:  # noqa: ARG001
    """Run in the context of headers that another process sent. Return their run."""
    token = context_api.attach(propagator.extract({HEADER: "1;cafe;nightly;host:a"}))
    yield "cafe"
    context_api.detach(token)


@pytest.mark.usefixtures("recorder")
def test_inject_writes_ids_of_current_level_only() -> None:
    headers: dict[str, str] = {}
    with (
        progress.operation("nightly", "secret name", id="n-1", password="hunter2") as op,
        op.level("host", "a"),
    ):
        propagator.inject(headers)
    assert headers == {HEADER: f"1;{op.snapshot().info.run};n-1;host:a"}


@pytest.mark.usefixtures("recorder")
def test_inject_without_level_writes_nothing() -> None:
    headers: dict[str, str] = {}
    propagator.inject(headers)
    assert headers == {}


@pytest.mark.usefixtures("recorder")
def test_inject_of_deep_level_is_bounded() -> None:
    headers: dict[str, str] = {}
    with progress.operation("nightly", id="n-1") as op:
        level = op
        for number in range(20):
            level = level.level("folder", f"{number}-{'é' * 40}").start()
        with level:
            propagator.inject(headers)
    assert len(headers[HEADER]) <= MAX_HEADER_CHARACTERS


def test_operation_in_extracted_context_is_part_of_remote_level(extracted: str) -> None:
    with progress.operation("request") as op:
        nested = progress.operation("nested").start()
    level = progress.level("other").start()
    assert op.snapshot().info.parent == ParentLink("nightly", extracted, "host:a")
    assert level.snapshot().info.parent == ParentLink("nightly", extracted, "host:a")
    assert nested.snapshot().info.parent is None
    nested.complete()
    level.complete()


@pytest.mark.usefixtures("recorder")
def test_extracted_level_replaces_local_level() -> None:
    with progress.operation("worker") as worker:
        token = context_api.attach(propagator.extract({HEADER: "1;cafe;nightly;"}))
        message = progress.level("message").start()
        message.complete()
        context_api.detach(token)
        assert progress.current_level() is worker
    assert message.snapshot().info.parent == ParentLink("nightly", "cafe", "")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {HEADER: ""},
        {HEADER: "2;cafe;nightly;"},
        {HEADER: "1;cafe;nightly;" + "a:" + "x" * MAX_HEADER_CHARACTERS},
        {HEADER: []},
        {HEADER: [5]},
        {HEADER: [b"1;cafe;nightly;"]},
    ],
)
def test_extract_of_invalid_headers_returns_the_same_context(headers: Any) -> None:
    assert propagator.extract(headers) is context_api.get_current()


@given(st.text(max_size=200))
def test_extract_of_any_header_does_not_raise(text: str) -> None:
    context = propagator.extract({HEADER: text})
    assert context is context_api.get_current() or len(context) == len(context_api.get_current()) + 2


class BrokenCarrier:
    """A carrier whose access raises."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)


@pytest.mark.usefixtures("recorder")
def test_carrier_that_raises_is_ignored() -> None:
    with progress.operation("nightly"):
        propagator.inject(BrokenCarrier())  # type: ignore[type-var]
    assert propagator.extract(BrokenCarrier()) is context_api.get_current()  # type: ignore[type-var]


def test_entry_point_creates_the_propagator() -> None:
    found = [point for point in entry_points(group="opentelemetry_propagator") if point.name == "progress"]
    assert found or propagator.fields == {HEADER}
    for point in found:
        assert point.load()().fields == {HEADER}
