"""Log records above recorded bars: drop-in for ``tqdm.contrib.logging``."""

from __future__ import annotations

from typing import Any

from tqdm.contrib import logging as _logging  # type: ignore[import-untyped]

from otel_progress.tqdm.std import tqdm as _tqdm

__all__ = ["logging_redirect_tqdm", "tqdm_logging_redirect"]


def logging_redirect_tqdm(loggers: Any = None, tqdm_class: Any = _tqdm) -> Any:
    """Write log records with ``tqdm.write``. See the function of tqdm."""
    return _logging.logging_redirect_tqdm(loggers, tqdm_class)


def tqdm_logging_redirect(*arguments: Any, **keywords: Any) -> Any:
    """Return a bar that is active with :func:`logging_redirect_tqdm`."""
    return _logging.tqdm_logging_redirect(*arguments, **{"tqdm_class": _tqdm, **keywords})
