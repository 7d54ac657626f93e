"""The public names of ``otel_progress.metrics``, and the modules that they import."""

from __future__ import annotations

import subprocess
import sys

import pytest

from otel_progress import metrics
from otel_progress.metrics import collector, exposition


def has_prometheus_client(code: str) -> str:
    """Run ``code`` in a fresh interpreter.

    Return whether it loaded ``prometheus_client``.
    """
    program = f"import sys\n{code}\nprint('prometheus_client' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120
    )
    return done.stdout.strip()


def test_package_exports_the_collector_and_the_renderer() -> None:
    """The exported names are those of the modules that define them."""
    assert metrics.ProgressCollector is collector.ProgressCollector
    assert metrics.render_exposition is exposition.render_exposition
    assert sorted(metrics.__all__) == ["ProgressCollector", "render_exposition"]
    assert set(metrics.__all__) <= set(dir(metrics))


def test_package_without_a_name_raises_attribute_error() -> None:
    """An unknown name is reported like that of any module."""
    with pytest.raises(AttributeError, match=r"module 'otel_progress.metrics' has no attribute 'Missing'"):
        metrics.Missing  # noqa: B018 - the access is the test


@pytest.mark.process
@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import otel_progress, otel_progress.metrics", "False"),
        ("import otel_progress.metrics.counters, otel_progress.metrics.series", "False"),
        ("import otel_progress; otel_progress.configure(store='memory:').shutdown()", "False"),
        ("from otel_progress.metrics import ProgressCollector", "True"),
    ],
)
def test_prometheus_client_is_imported_only_with_a_name_that_needs_it(code: str, expected: str) -> None:
    """The package, its counters and a runtime without an endpoint do not load it."""
    assert has_prometheus_client(code) == expected
