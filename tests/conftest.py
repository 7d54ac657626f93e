"""Fixtures for all tests, and a check that no test leaves anything behind."""

from __future__ import annotations

import gc
import logging
import os
import signal
import threading
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from opentelemetry import context as context_api

from otel_progress import config, diagnostics
from otel_progress.testing import Recorder, recording
from tests.support.server_threads import SERVING

# Why: with `nohup scripts/test &` and in some CI runners the parent process ignores signals, and
# every child inherits that. Tests that interrupt a child would wait until their timeout. A handler,
# in contrast to an ignored signal, is reset to the default in the child. That of SIGHUP does
# nothing, because the run must survive the end of its terminal. `subprocess` itself resets SIGPIPE.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
for name in ("SIGHUP", "SIGQUIT"):
    if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) is signal.SIG_IGN:
        signal.signal(getattr(signal, name), lambda *_: None)

# Why: with it, a child process writes a line and its end separately. Two children of one pipe would
# mix them.
os.environ.pop("PYTHONUNBUFFERED", None)

# The duration of a Hypothesis example depends on the load of the machine.
settings.register_profile("complete", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("here", settings.get_profile("complete"), max_examples=60)  # scripts/test
settings.register_profile("fast", settings.get_profile("here"), max_examples=25)  # scripts/test --fast
settings.load_profile("here")

for _name in (
    "no_proxy",
    "NO_PROXY",
):  # a proxy of the machine must not be used for loopback servers
    os.environ[_name] = ",".join(filter(None, [os.environ.get(_name), "127.0.0.1,localhost,::1"]))


LONG_MARKERS = ("process", "browser", "server", "stack", "docs")
"""Markers of tests that start processes. Most of them need seconds."""


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Exclude the collected modules and tests from garbage collection."""
    # Why: some 350,000 objects live until the end of the run. Each full collection, also each
    # gc.collect() of a test, would traverse all of them.
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files with marked tests first, so that no long file runs alone at the end."""
    weights: Counter[Path] = Counter()
    for item in items:
        weights[item.path] += 1 + 100 * any(item.get_closest_marker(name) for name in LONG_MARKERS)
    items.sort(key=lambda item: -weights[item.path])


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    """Record strictly on a fake clock; the test triggers each tick."""
    with recording() as made:
        yield made


@pytest.fixture
def lenient() -> Iterator[Recorder]:
    """Record as in applications: invalid values are counted, logged once and ignored."""
    with recording(strict=False) as made:
        yield made


@pytest.fixture
def sdk_silence(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Fail the test if OpenTelemetry logged anything."""
    with caplog.at_level(logging.DEBUG, logger="opentelemetry"):
        yield caplog
    assert [record.getMessage() for record in caplog.records if record.name.startswith("opentelemetry")] == []


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    """Fail a test that leaves a configuration, a thread or a context behind."""
    before = set(threading.enumerate())
    diagnostics._logged_causes.clear()
    diagnostics.internal_error_counts.clear()
    yield
    left = context_api.get_current()
    context_api.attach(context_api.Context())
    running = config.current_runtime()
    if running is not None:
        running.shutdown()
    threads = [
        one for one in threading.enumerate() if one.name.startswith("otel-progress") and one not in before
    ]
    threads = [
        one for one in threads if not one.name.startswith(SERVING)
    ]  # a shared server may outlive a test
    for thread in threads:
        thread.join(30.0)
    assert running is None, "the test left progress configured: use the fixtures, or shut the runtime down"
    assert left == {}, f"the test left a context in force: {left}"
    assert not any(thread.is_alive() for thread in threads), f"the test left threads running: {threads}"
