"""Catalogue of the integrations: their libraries, and how each is activated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Integration:
    """An integration with another library."""

    name: str
    """Name of the module in this package."""
    distributions: tuple[str, ...]
    """Names of packages on PyPI of which one is required. Empty if no library is required."""
    usage: str
    """How to activate it: a sentence in the imperative with the code."""
    instrumentor: str = ""
    """Name of the entry point that opentelemetry-instrument loads. Empty without one."""


INTEGRATIONS: Final[tuple[Integration, ...]] = (
    Integration(
        "alive_progress",
        ("alive-progress",),
        "Call otel_progress.integrations.alive_progress.instrument().",
        "progress-alive-progress",
    ),
    Integration(
        "celery",
        ("celery",),
        "Call otel_progress.integrations.celery.instrument() in the module of the application.",
        "progress-celery",
    ),
    Integration(
        "dask",
        ("dask",),
        "Compute in a block: with otel_progress.integrations.dask.ProgressCallback().",
        "progress-dask",
    ),
    Integration(
        "distributed",
        ("distributed",),
        "Submit in a block: with otel_progress.integrations.distributed.follow_client(client).",
    ),
    Integration(
        "dramatiq",
        ("dramatiq",),
        "Call broker.add_middleware(otel_progress.integrations.dramatiq.ProgressMiddleware()).",
    ),
    Integration(
        "files",
        (),
        "Wrap an open file with otel_progress.integrations.files.wrap_file(file).",
    ),
    Integration(
        "fsspec",
        ("fsspec",),
        "Pass callback=otel_progress.integrations.fsspec.ProgressCallback() to a transfer.",
    ),
    Integration(
        "futures",
        (),
        "Call otel_progress.integrations.futures.follow_futures(futures, name).",
    ),
    Integration(
        "http",
        (),
        "Wrap a response with otel_progress.integrations.http.wrap_response(response).",
    ),
    Integration(
        "huey",
        ("huey",),
        "Call otel_progress.integrations.huey.instrument(huey) with the Huey object.",
    ),
    Integration(
        "joblib",
        ("joblib",),
        "Call otel_progress.integrations.joblib.instrument().",
        "progress-joblib",
    ),
    Integration(
        "keras",
        ("keras",),
        "Call model.fit(..., callbacks=[otel_progress.integrations.keras.ProgressCallback()]).",
        "progress-keras",
    ),
    Integration(
        "lightgbm",
        ("lightgbm",),
        "Call lightgbm.train(..., callbacks=[otel_progress.integrations.lightgbm.ProgressCallback()]).",
        "progress-lightgbm",
    ),
    Integration(
        "lightning",
        (
            "lightning",
            "pytorch-lightning",
        ),
        "Call configure() before you create the Trainer.",
    ),
    Integration(
        "mcp",
        ("mcp",),
        "Run otel-progress mcp, or call otel_progress.integrations.mcp.add_tools(server, runtime.reader).",
    ),
    Integration(
        "optuna",
        ("optuna",),
        "Call study.optimize(..., callbacks=[otel_progress.integrations.optuna.ProgressCallback()]).",
        "progress-optuna",
    ),
    Integration(
        "pooch",
        ("pooch",),
        "Pass progressbar=otel_progress.integrations.pooch.ProgressBar() to pooch.retrieve.",
    ),
    Integration(
        "ray",
        ("ray",),
        "Decorate functions with otel_progress.integrations.ray.remote, or pass a handle to tasks.",
    ),
    Integration(
        "rich",
        ("rich",),
        "Call otel_progress.integrations.rich.instrument().",
        "progress-rich",
    ),
    Integration(
        "rq",
        ("rq",),
        "Call otel_progress.integrations.rq.instrument() in senders and workers.",
        "progress-rq",
    ),
    Integration(
        "s3",
        ("boto3", "s3transfer"),
        "Pass Callback=otel_progress.integrations.s3.ProgressCallback(key) to a transfer.",
    ),
    Integration(
        "sklearn",
        ("scikit-learn",),
        "Call estimator.set_callbacks(otel_progress.integrations.sklearn.ProgressCallback()).",
    ),
    Integration(
        "taskiq",
        ("taskiq",),
        "Call broker.with_middlewares(otel_progress.integrations.taskiq.ProgressMiddleware()).",
    ),
    Integration(
        "tqdm",
        ("tqdm",),
        "Call otel_progress.instrument_tqdm(), or import tqdm from otel_progress.tqdm.",
        "progress-tqdm",
    ),
    Integration(
        "transformers",
        ("transformers",),
        'Import otel_progress.integrations.transformers and pass report_to="otel_progress".',
        "progress-transformers",
    ),
    Integration(
        "xgboost",
        ("xgboost",),
        "Call xgboost.train(..., callbacks=[otel_progress.integrations.xgboost.ProgressCallback()]).",
        "progress-xgboost",
    ),
    Integration(
        "yt_dlp",
        ("yt-dlp",),
        'Add otel_progress.integrations.yt_dlp.ProgressHook() to the option "progress_hooks".',
    ),
)
"""All integrations, in alphabetical order of the names."""
