"""otel-progress itself: whether what the other dashboards show can be trusted."""

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
"""What Prometheus itself notes of each scrape."""
SCRAPE_SAMPLES: Final = "scrape_samples_scraped"
UP: Final = "up"
_SILENT: Final = "unknown: no exporter answers"
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
        _wide(_let_go()),
        (_journal_now(), 4),
    )
    place.band(8, (_scrapes(), 8), (_samples(), 8), (_ticks(), 8))
    place.band(8, (_errors(), 8), (_rejected(), 8), (_dropped(), 8))
    place.band(8, (_series(), 8), (_series_dropped(), 8), (_journal(), 8))
    place.heading("Server and previews")
    place.band(8, (_clients(), 6), (_messages(), 6), (_refused(), 6), (_previews(), 6))
    return made


def _wide(panel: stat.Panel) -> tuple[stat.Panel, int]:
    return panel, 4


def _prometheus(metric: str) -> str:
    """Return a selector of a metric that Prometheus makes itself, of the chosen jobs and instances."""
    return f"{metric}{{{','.join(map(str, SCOPE))}}}"


def _none_is_good(title: str, description: str, metric: Metric) -> stat.Panel:
    """Return how often something bad was counted: green at none, grey while no exporter answers."""
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
            "Processes whose metrics of otel-progress arrive: workers and servers.",
            COUNT,
            "none answers",
        ),
        now(found),
    )


def _errors_now() -> stat.Panel:
    return _none_is_good(
        "Sink errors",
        "Failures inside of telemetry within the shown time. The work never saw them.",
        semconv.SINK_ERRORS,
    )


def _rejected_now() -> stat.Panel:
    return _none_is_good(
        "Rejected updates",
        "Bad values that callers gave within the shown time; they were ignored.",
        semconv.UPDATES_REJECTED,
    )


def _left_out() -> stat.Panel:
    return _none_is_good(
        "Series left out",
        "Operations, levels and batches that scrapes left out because of a cap, each time counted.",
        semconv.SERIES_DROPPED,
    )


def _let_go() -> stat.Panel:
    return _none_is_good(
        "Events let go",
        "Events, snapshots and callbacks let go within the shown time because a bound was reached.",
        semconv.EVENTS_DROPPED,
    )


def _journal_now() -> stat.Panel:
    text_ = "Size of the largest journal, its write-ahead log included."
    return number(
        About("Journal", text_, BYTES, "unknown: no journal in a file"),
        now(once(series(semconv.JOURNAL_SIZE))),
    )


def _scrapes() -> timeseries.Panel:
    about = About(
        "Scrape duration",
        "How long each scrape took: a process holds its interpreter for most of it.",
        SECONDS,
        "Nothing was scraped: metrics may come by OTLP",
    )
    return lines(
        about,
        Query(once(_prometheus(SCRAPE_DURATION), "job", "instance"), "{{job}} {{instance}}"),
        legend=("max", "lastNotNull"),
    )


def _samples() -> timeseries.Panel:
    about = About(
        "Samples a scrape",
        "How many samples each scrape brought; an operation has about 25, a level 4.",
        COUNT,
        "Nothing was scraped: metrics may come by OTLP",
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
    text_ = "How long the collector thread took to look at everything once: ten times a second while something runs."
    return lines(About("Tick duration", text_, SECONDS, "No process was at work in this time"), *queries)


def _grown(title: str, description: str, metric: Metric, label: str, empty: str) -> timeseries.Panel:
    return counts(About(title, description, COUNT, empty), Query(grown(metric, label), f"{{{{{label}}}}}"))


def _errors() -> timeseries.Panel:
    return _grown(
        "Sink errors by sink",
        "Failures inside of telemetry, by where.",
        semconv.SINK_ERRORS,
        "sink",
        "No sink has failed, or no exporter answered",
    )


def _rejected() -> timeseries.Panel:
    return _grown(
        "Rejected updates by reason",
        "Bad values that were ignored, by why.",
        semconv.UPDATES_REJECTED,
        "reason",
        "No update was rejected, or no exporter answered",
    )


def _dropped() -> timeseries.Panel:
    return _grown(
        "Events let go by reason",
        "Events, snapshots and callbacks let go, by why.",
        semconv.EVENTS_DROPPED,
        "reason",
        "No event was let go, or no exporter answered",
    )


def _series() -> bargauge.Panel:
    labels = ("metric_group",)
    shown, limit = (
        total(series(metric), "job", "instance", *labels)
        for metric in (semconv.SERIES_SHOWN, semconv.SERIES_LIMIT)
    )
    used = f"max by (metric_group) ({shown} / ({limit} > 0))"
    text_ = "How much of its cap the fullest exporter uses, for operations, levels and batches. What is beyond a cap is not shown at all."
    panel = (
        bars(About("Series against the cap", text_, RATIO, _SILENT), [now(used, "{{metric_group}}")])
        .min(0)
        .max(1)
        .decimals(0)
    )
    return panel.thresholds(steps((None, GREY), (0, GREEN), (0.7, YELLOW), (0.9, ORANGE), (1, RED)))


def _series_dropped() -> timeseries.Panel:
    return _grown(
        "Series left out by group",
        "What scrapes left out because of a cap, each time counted.",
        semconv.SERIES_DROPPED,
        "metric_group",
        "Nothing was left out, or no exporter answered",
    )


def _journal() -> timeseries.Panel:
    about = About(
        "Journal size",
        "Size of the journal's files, the write-ahead log included.",
        BYTES,
        "No journal in a file, or no exporter answered",
    )
    return lines(about, Query(once(series(semconv.JOURNAL_SIZE), "job", "instance"), "{{job}} {{instance}}"))


def _clients() -> timeseries.Panel:
    query = Query(total(series(semconv.SERVER_CLIENTS), "transport"), "{{transport}}")
    return lines(
        About(
            "Server clients",
            "Clients that are connected to the streams of servers.",
            COUNT,
            "No server answers",
        ),
        query,
    ).decimals(0)


def _messages() -> timeseries.Panel:
    queries = (
        Query(total(rate(semconv.SERVER_MESSAGES), "transport"), "{{transport}} sent"),
        Query(total(rate(semconv.SERVER_COALESCED), "transport"), "{{transport}} coalesced"),
    )
    text_ = "Messages sent to clients a second, and snapshots that a slow client was spared because a newer one was there."
    return lines(
        About("Messages and coalesced", text_, "mps", "No server answers, or nobody has connected"), *queries
    )


def _refused() -> timeseries.Panel:
    return _grown(
        "Refused by the server",
        "Requests, connections and messages refused, and clients let go, by why.",
        semconv.SERVER_REFUSED,
        "reason",
        "Nothing was refused, or no server answers",
    )


def _previews() -> timeseries.Panel:
    return _grown(
        "Previews by outcome",
        "What became of previews: stored, unchanged, dropped while busy, refused, failed.",
        semconv.PREVIEWS,
        "outcome",
        "No preview was offered in this time",
    )
