"""What every test shares: a recorder that is private to the test, and the promise that none leaves anything behind."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from hypothesis import settings
from opentelemetry import context as context_api

from otel_progress import config
from otel_progress.testing import Recorder, recording

settings.register_profile("here", deadline=None)  # how long an example takes is a matter of how busy the machine is
settings.load_profile("here")


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    """Record strictly with a clock moved by hand; nothing is collected by itself."""
    with recording() as made:
        yield made


@pytest.fixture
def lenient() -> Iterator[Recorder]:
    """Record as applications do: bad values are counted, warned about and ignored."""
    with recording(strict=False) as made:
        yield made


@pytest.fixture
def sdk_silence(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Fail the test when OpenTelemetry logged anything."""
    with caplog.at_level(logging.DEBUG, logger="opentelemetry"):
        yield caplog
    assert [record.getMessage() for record in caplog.records if record.name.startswith("opentelemetry")] == []


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    """Fail a test that leaves a configuration running or a context in force, which would change what the next one sees."""
    yield
    left = context_api.get_current()
    context_api.attach(context_api.Context())
    running = config.current_runtime()
    if running is not None:
        running.shutdown()
    assert running is None, "the test left progress configured: use the fixtures, or shut the runtime down"
    assert left == {}, f"the test left a context in force: {left}"
