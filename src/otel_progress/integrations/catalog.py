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
    """Name of the entry point that ``opentelemetry-instrument`` loads. Empty without one."""


INTEGRATIONS: Final[tuple[Integration, ...]] = (
    Integration(
        "keras",
        ("keras",),
        "Call model.fit(..., callbacks=[ProgressCallback()]).",
        "progress-keras",
    ),
    Integration(
        "lightgbm",
        ("lightgbm",),
        "Call lightgbm.train(..., callbacks=[ProgressCallback()]).",
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
        "optuna",
        ("optuna",),
        "Call study.optimize(..., callbacks=[ProgressCallback()]).",
        "progress-optuna",
    ),
    Integration(
        "sklearn",
        ("scikit-learn",),
        "Call estimator.set_callbacks(ProgressCallback()).",
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
        "Call xgboost.train(..., callbacks=[ProgressCallback()]).",
        "progress-xgboost",
    ),
)
"""All integrations, in alphabetical order of the names."""
