"""The dashboard of otel-progress itself: reliability of the other dashboards."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.builders import bargauge, dashboard, stat, timeseries

from grafana.board import board, built_in
from grafana.layout import Grid
from grafana.names import ITSELF, LOKI, TEMPO, TYPE
from grafana.panels import BYTES, COUNT, RATIO, SECONDS, About, Query, bars, counts, lines, now, number, steps
from grafana.promql import SCOPE, grown, increase, known_zero, once, quantile, rate, series, total
from grafana.states import GREEN, GREY, ORANGE, RED, YELLOW, words
from grafana.variables import base, kept_operation
from otel_progress import semconv
from otel_progress.semconv import Metric

SCRAPE_DURATION: Final = "scrape_duration_seconds"
"""Metric of Prometheus itself for each scrape."""
SCRAPE_SAMPLES: Final = "scrape_samples_scraped"
UP: Final = "up"
_SILENT: Final = "unknown: no exporter responds"
_ALL: Final = "$__range"


def build() -> dashboard.Dashboard:
    """Return the dashboard."""
    made = board(ITSELF, [*base(hidden=(LOKI, TEMPO, TYPE)), kept_operation()], span="6h", refresh="30s")
    made = made.annotations([built_in()])
    place = Grid(made)
    place.band(
        4,
        (_exporters(), 4),
        _wide(_errors_now()),
        _wide(_rejected_now()),
        _wide(_left_out()),
        _wide(_dropped_now()),
        (_journal_now(), 4),
    )
    place.band(8, (_scrapes(), 8), (_samples(), 8), (_ticks(), 8))
    place.band(8, (_errors(), 8), (_rejected(), 8), (_dropped(), 8))
    place.band(8, (_series(), 8), (_series_dropped(), 8), (_journal(), 8))
    place.heading("Server and previews")
    place.band(8, (_clients(), 5), (_messages(), 5), (_refused(), 5), (_received(), 5), (_previews(), 4))
    return made


def _wide(panel: stat.Panel) -> tuple[stat.Panel, int]:
    return panel, 4


def _prometheus(metric: str) -> str:
    """Return a selector of a Prometheus metric for the selected jobs and instances."""
    return f"{metric}{{{','.join(map(str, SCOPE))}}}"


def _none_is_good(title: str, description: str, metric: Metric) -> stat.Panel:
    """Return the count of a problem.

    The number is green at 0 and grey while no exporter responds.
    """
    counted = f"round({total(increase(metric, _ALL))}) or {known_zero()}"
    panel = number(
        About(title, description, COUNT, _SILENT), now(counted), steps((None, GREY), (0, GREEN), (1, RED))
    )
    return panel.mappings(words(("0", "none", GREEN)))


def _exporters() -> stat.Panel:
    found = f"count(count by (job, instance) ({series(semconv.SERIES_LIMIT)}))"
    return number(
        About(
            "Exporters",
            "Processes that export metrics of otel-progress: workers and servers.",
            COUNT,
            "none responds",
        ),
        now(found),
    )


def _errors_now() -> stat.Panel:
    return _none_is_good(
        "Sink errors",
        "Internal errors of otel-progress within the time range. They do not affect the work.",
        semconv.SINK_ERRORS,
    )


def _rejected_now() -> stat.Panel:
    return _none_is_good(
        "Rejected updates",
        "Invalid values of callers within the time range. They were ignored.",
        semconv.UPDATES_REJECTED,
    )


def _left_out() -> stat.Panel:
    return _none_is_good(
        "Series omitted",
        "Operations, levels and batches that scrapes omitted because of a limit. Each scrape "
        "counts them again.",
        semconv.SERIES_DROPPED,
    )


def _dropped_now() -> stat.Panel:
    return _none_is_good(
        "Events dropped",
        "Events, snapshots and callbacks that were dropped within the time range because of a limit.",
        semconv.EVENTS_DROPPED,
    )


def _journal_now() -> stat.Panel:
    text_ = "Size of the largest journal with its write-ahead log."
    return number(
        About("Journal", text_, BYTES, "unknown: no journal in a file"),
        now(once(series(semconv.JOURNAL_SIZE))),
    )


def _scrapes() -> timeseries.Panel:
    about = About(
        "Scrape duration",
        "Duration of each scrape. A process uses its interpreter for most of it.",
        SECONDS,
        "Nothing was scraped. Metrics may be sent over OTLP",
    )
    return lines(
        about,
        Query(once(_prometheus(SCRAPE_DURATION), "job", "instance"), "{{job}} {{instance}}"),
        legend=("max", "lastNotNull"),
    )


def _samples() -> timeseries.Panel:
    about = About(
        "Samples per scrape",
        "Samples of each scrape. An operation has about 25, a level about 4.",
        COUNT,
        "Nothing was scraped. Metrics may be sent over OTLP",
    )
    return lines(
        about,
        Query(once(_prometheus(SCRAPE_SAMPLES), "job", "instance"), "{{job}} {{instance}}"),
        legend=("max", "lastNotNull"),
    )


def _ticks() -> timeseries.Panel:
    queries = [
        Query(
            quantile(q, semconv.TICK_DURATION, "$__rate_interval", "instance"),
            f"{{{{instance}}}} p{q * 100:g}",
        )
        for q in (0.5, 0.99)
    ]
    text_ = "Duration of a tick of the ticker thread. It ticks ten times per second while an operation runs."
    return lines(About("Tick duration", text_, SECONDS, "No operation ran in this time"), *queries)


def _grown(title: str, description: str, metric: Metric, label: str, empty: str) -> timeseries.Panel:
    return counts(About(title, description, COUNT, empty), Query(grown(metric, label), f"{{{{{label}}}}}"))


def _errors() -> timeseries.Panel:
    return _grown(
        "Sink errors by sink",
        "Internal errors by component.",
        semconv.SINK_ERRORS,
        "sink",
        "No sink failed, or no exporter responded",
    )


def _rejected() -> timeseries.Panel:
    return _grown(
        "Rejected updates by reason",
        "Invalid values that were ignored, by reason.",
        semconv.UPDATES_REJECTED,
        "reason",
        "No update was rejected, or no exporter responded",
    )


def _dropped() -> timeseries.Panel:
    return _grown(
        "Events dropped by reason",
        "Events, snapshots and callbacks that were dropped, by reason.",
        semconv.EVENTS_DROPPED,
        "reason",
        "No event was dropped, or no exporter responded",
    )


def _series() -> bargauge.Panel:
    labels = ("metric_group",)
    shown, limit = (
        total(series(metric), "job", "instance", *labels)
        for metric in (semconv.SERIES_SHOWN, semconv.SERIES_LIMIT)
    )
    used = f"max by (metric_group) ({shown} / ({limit} > 0))"
    text_ = (
        "Highest use of a limit by any exporter, for operations, levels and batches. Series "
        "beyond a limit are not exposed."
    )
    panel = (
        bars(About("Series relative to the limit", text_, RATIO, _SILENT), [now(used, "{{metric_group}}")])
        .min(0)
        .max(1)
        .decimals(0)
    )
    return panel.thresholds(steps((None, GREY), (0, GREEN), (0.7, YELLOW), (0.9, ORANGE), (1, RED)))


def _series_dropped() -> timeseries.Panel:
    return _grown(
        "Series omitted by group",
        "Series that scrapes omitted because of a limit. Each scrape counts them again.",
        semconv.SERIES_DROPPED,
        "metric_group",
        "Nothing was omitted, or no exporter responded",
    )


def _journal() -> timeseries.Panel:
    about = About(
        "Journal size",
        "Size of the journal's files with the write-ahead log.",
        BYTES,
        "No journal in a file, or no exporter responded",
    )
    return lines(about, Query(once(series(semconv.JOURNAL_SIZE), "job", "instance"), "{{job}} {{instance}}"))


def _clients() -> timeseries.Panel:
    query = Query(total(series(semconv.SERVER_CLIENTS), "transport"), "{{transport}}")
    return lines(
        About(
            "Server clients",
            "Clients that are connected to the streams of servers.",
            COUNT,
            "No server responds",
        ),
        query,
    ).decimals(0)


def _messages() -> timeseries.Panel:
    queries = (
        Query(total(rate(semconv.SERVER_MESSAGES), "transport"), "{{transport}} sent"),
        Query(total(rate(semconv.SERVER_COALESCED), "transport"), "{{transport}} coalesced"),
    )
    text_ = (
        "Messages per second to clients, and snapshots that were replaced by newer ones because a"
        " client was slow."
    )
    return lines(
        About("Messages and coalesced", text_, "mps", "No server responds, or no client is connected"),
        *queries,
    )


def _refused() -> timeseries.Panel:
    return _grown(
        "Rejected by the server",
        "Rejected requests, connections and messages, and disconnected clients, by reason.",
        semconv.SERVER_REFUSED,
        "reason",
        "Nothing was rejected, or no server responds",
    )


def _received() -> timeseries.Panel:
    return _grown(
        "Received over OTLP",
        "Progress events and spans that the receiver accepted and rejected.",
        semconv.RECEIVER_RECORDS,
        "outcome",
        "Nothing was received, or no server has a receiver",
    )


def _previews() -> timeseries.Panel:
    return _grown(
        "Previews by outcome",
        "Previews by outcome: stored, unchanged, dropped while busy, rejected, failed.",
        semconv.PREVIEWS,
        "outcome",
        "No preview was created in this time",
    )
