"""Exposition: byte for byte like that of the Prometheus client."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from otel_progress import semconv
from otel_progress.metrics import ProgressCollector, render_exposition
from otel_progress.metrics.counters import Totals
from otel_progress.model import Status
from tests.support.factories import make_change_set
from tests.support.metrics_operations import Shelf, a_batch, level, operation, use

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
FORMATS = [
    "",
    "text/plain;version=1.0.0;escaping=allow-utf-8",
    "text/plain;version=1.0.0;escaping=dots",
    "application/openmetrics-text",
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,*/*;q=0.2",
    "application/openmetrics-text;version=1.0.0;escaping=underscores",
    "application/openmetrics-text;version=1.0.0;escaping=values",
    "application/openmetrics-text;version=2.0.0",
]


def build_full_collector(id_: str = "op", text: str = "render", value: float = 3.5) -> ProgressCollector:
    """Return a collector with every kind of series."""
    totals = Totals()
    ended = operation("ended", elapsed=42.0, status=Status.COMPLETED, trace_id=TRACE_ID)
    totals.write(make_change_set(ended.root, items={("render", "frame", "completed"): 41}))
    totals.observe_tick(0.004)
    work = [
        operation(
            id_,
            text,
            name=text,
            levels=[level(f"t:{text}", ratio=0.25)],
            ratio=0.5,
            current=value,
            resources=use(1.5, 2_000),
        ),
        replace(operation(f"{id_}2", text), alive=False),
    ]
    counts = {semconv.SERVER_MESSAGES: {("sse",): 5}, semconv.SERVER_CLIENTS: {("sse",): 2}}
    return ProgressCollector(
        Shelf(work, [ended], groups=[a_batch(text, running=2)]), totals=totals, extra=lambda: counts
    )


def split_families(body: bytes) -> list[bytes]:
    """Return the families of an exposition with their headers, sorted."""
    return sorted(body.replace(b"# EOF", b"# HELP EOF").split(b"# HELP "))


def render_with_client(collector: ProgressCollector, accept: str) -> tuple[bytes, str]:
    """Return the exposition of the client's own encoder."""
    registry = CollectorRegistry()
    registry.register(collector)
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


@pytest.mark.parametrize("accept", FORMATS)
def test_exposition_equals_that_of_the_client(accept: str) -> None:
    """All formats and escaping schemes have the same families. Gauges come first."""
    body, content_type = render_exposition(build_full_collector(), accept)
    expected, expected_type = render_with_client(build_full_collector(), accept)
    assert content_type == expected_type
    assert split_families(body) == split_families(expected)
    assert (
        body.endswith(b"# EOF\n")
        is expected.endswith(b"# EOF\n")
        is content_type.startswith("application/openmetrics")
    )
    assert (
        body.count(b"# TYPE ")
        == len({line for line in body.splitlines() if line.startswith(b"# TYPE ")})
        > 20
    )


NUMBERS = (
    st.floats()
    | st.integers(-(10**30), 10**30)
    | st.sampled_from([0.0, -0.0, 1, 1e6, 1234567.0, 1e21, 5e-324])
)


@given(st.text(max_size=50), st.text(max_size=50), NUMBERS, st.sampled_from(["", FORMATS[4]]))
def test_exposition_of_any_text_and_number_equals_that_of_the_client(
    id_: str, text: str, value: float, accept: str
) -> None:
    """Texts contain quotes, backslashes and line ends."""
    assert split_families(
        render_exposition(build_full_collector(id_, text, value), accept)[0]
    ) == split_families(render_with_client(build_full_collector(id_, text, value), accept)[0])


def test_exposition_without_operations_equals_that_of_the_client() -> None:
    """The totals are exported."""
    for accept in FORMATS:
        assert split_families(render_exposition(ProgressCollector(Shelf()), accept)[0]) == split_families(
            render_with_client(ProgressCollector(Shelf()), accept)[0]
        )
