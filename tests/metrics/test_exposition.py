"""The lines that are written here instead of by the Prometheus client are the client's, byte for byte."""

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
from tests.support.factories import batch
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


def everything(id_: str = "op", text: str = "render", value: float = 3.5) -> ProgressCollector:
    """Return a collector with every kind of series: gauges, counters, a histogram with an exemplar, counts of a server."""
    totals = Totals()
    ended = operation("ended", elapsed=42.0, status=Status.COMPLETED, trace_id=TRACE_ID)
    totals.write(batch(ended.root, items={("render", "frame", "completed"): 41}))
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


def families(body: bytes) -> list[bytes]:
    """Return the families of an exposition, each with its header, and the end mark, in an order of their own."""
    return sorted(body.replace(b"# EOF", b"# HELP EOF").split(b"# HELP "))


def by_the_client(collector: ProgressCollector, accept: str) -> tuple[bytes, str]:
    """Return what the client's own encoder makes of a collector."""
    registry = CollectorRegistry()
    registry.register(collector)
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


@pytest.mark.parametrize("accept", FORMATS)
def test_it_is_what_the_client_writes(accept: str) -> None:
    """All formats and ways to write names: the same families with the same bytes, gauges first, and one end."""
    body, content_type = render_exposition(everything(), accept)
    expected, expected_type = by_the_client(everything(), accept)
    assert content_type == expected_type
    assert families(body) == families(expected)
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
def test_any_text_and_number_is_written_as_the_client_does(
    id_: str, text: str, value: float, accept: str
) -> None:
    """Quotes, backslashes, line ends and every size of number."""
    assert families(render_exposition(everything(id_, text, value), accept)[0]) == families(
        by_the_client(everything(id_, text, value), accept)[0]
    )


def test_nothing_to_show_is_an_exposition_too() -> None:
    """Without any operation there are the totals, in valid form."""
    for accept in FORMATS:
        assert families(render_exposition(ProgressCollector(Shelf()), accept)[0]) == families(
            by_the_client(ProgressCollector(Shelf()), accept)[0]
        )
