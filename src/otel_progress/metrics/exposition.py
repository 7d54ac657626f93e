"""What a scrape of ours answers: written by the Prometheus client, but for gauges, whose lines are written here in the same bytes.

A thousand operations have some twenty thousand gauges, and the client takes 5 to 9 µs for the line of each, as it looks at every name
and value anew. Labels that many gauges share are written once here, which makes that 1 µs. Headers, counters, histograms with their
exemplars and the formats themselves are the client's, and a test compares every byte.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import choose_encoder, gzip_accepted
from prometheus_client.utils import floatToGoString

from otel_progress.metrics.collector import ProgressCollector, Scrape, family_of
from otel_progress.model import Number
from otel_progress.semconv import METRICS, Metric

if TYPE_CHECKING:
    from prometheus_client.core import Metric as Family
    from prometheus_client.registry import Collector


_END: Final = b"# EOF\n"
"""The last line of OpenMetrics; the other format has none."""


_OTHER_NAMES: Final = ("escaping=dots", "escaping=values")
"""Ways to write names that change ours: left to the client altogether."""


_number: Final[Callable[[Number], str]] = floatToGoString


_QUICK: Final = 1
"""How hard to compress: the body is two megabytes of much the same, a third larger this way, and five times as fast."""


def render_exposition(collector: ProgressCollector, accept: str = "") -> tuple[bytes, str]:
    """Return the metrics of ``collector`` alone, and their content type: OpenMetrics when ``accept`` asks for it, else text.

    ``accept`` is an ``Accept`` header. Takes milliseconds for each hundred operations: not for the thread of an event loop.
    """
    try:
        encode, content_type = choose_encoder(accept)
    except (TypeError, ValueError):  # a version that is none
        encode, content_type = choose_encoder("")
    reading = collector.read()
    if any(way in content_type for way in _OTHER_NAMES):
        return encode(_Families(reading.families())), content_type
    rest = encode(_Families(reading.families(("counter", "histogram"))))
    return _gauges(reading, encode) + rest, content_type


def metrics_app(collector: ProgressCollector) -> Callable[[Any, Any], Iterable[bytes]]:
    """Return a WSGI application that answers every GET with the metrics of ``collector`` alone.

    As text or OpenMetrics, gzipped when asked for, and only some of them (``name[]``) when the query says so.
    """
    registry = CollectorRegistry()
    registry.register(collector)
    rare = make_wsgi_app(registry)

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] != "GET" or environ.get("QUERY_STRING"):
            answer: Iterable[bytes] = rare(environ, start_response)
            return answer
        body, content_type = render_exposition(collector, environ.get("HTTP_ACCEPT", ""))
        headers = [("Content-Type", content_type)]
        if gzip_accepted(environ.get("HTTP_ACCEPT_ENCODING", "")):
            body = gzip.compress(body, _QUICK)
            headers.append(("Content-Encoding", "gzip"))
        start_response("200 OK", headers)
        return [body]

    return application


class _Families:
    """What the client's encoders ask of a registry."""

    def __init__(self, families: Iterable[Family]) -> None:
        self._families = families

    def collect(self) -> Iterable[Family]:
        return self._families


def _gauges(reading: Scrape, encode: Callable[[Collector], bytes]) -> bytes:
    """Return the gauges of a reading in the format of ``encode``."""
    pieces: list[str] = []
    written = _Labels()
    for metric in METRICS:
        samples = reading.values.get(metric)
        if metric.kind == "gauge" and samples:
            pieces.append(encode(_Families([family_of(metric)])).removesuffix(_END).decode())
            pieces.extend(_lines(metric, samples, written))
    return "".join(pieces).encode()


def _lines(
    metric: Metric, samples: Sequence[tuple[tuple[str, ...], Number]], written: _Labels
) -> Iterable[str]:
    name, number = metric.prometheus, _number
    if not metric.labels:
        return [f"{name} {number(value)}\n" for _, value in samples]
    text = written.of(metric.labels)
    return [f"{name}{{{text(labels)}}} {number(value)}\n" for labels, value in samples]


class _Labels:
    """Labels as they are written: in the order of their names, each set of values and each value once."""

    def __init__(self) -> None:
        self._texts: dict[tuple[str, ...], dict[tuple[str, ...], str]] = {}
        self._values: dict[str, str] = {}

    def of(self, names: tuple[str, ...]) -> Callable[[tuple[str, ...]], str]:
        """Return a function from the values of these labels to their text."""
        order = sorted(range(len(names)), key=names.__getitem__)
        texts, escaped = self._texts.setdefault(names, {}), self._escaped

        def text(values: tuple[str, ...]) -> str:
            found = texts.get(values)
            if found is None:
                found = texts[values] = ",".join([f'{names[at]}="{escaped(values[at])}"' for at in order])
            return found

        return text

    def _escaped(self, value: str) -> str:
        found = self._values.get(value)
        if found is None:
            found = self._values[value] = value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
        return found
