"""Recorded ``enumerate``, ``zip`` and ``map``: drop-in for ``tqdm.contrib``."""

from __future__ import annotations

from typing import Any

from tqdm import contrib as _contrib  # type: ignore[import-untyped]

from otel_progress.tqdm.auto import tqdm as _tqdm

__all__ = ["tenumerate", "tmap", "tzip"]


def tenumerate(*arguments: Any, **keywords: Any) -> Any:
    """Enumerate with a bar. See ``tqdm.contrib.tenumerate``."""
    if len(arguments) < 4:
        keywords.setdefault("tqdm_class", _tqdm)
    return _contrib.tenumerate(*arguments, **keywords)


def tzip(*arguments: Any, **keywords: Any) -> Any:
    """Zip with a bar. See ``tqdm.contrib.tzip``."""
    return _contrib.tzip(*arguments, **{"tqdm_class": _tqdm, **keywords})


def tmap(*arguments: Any, **keywords: Any) -> Any:
    """Map with a bar. See ``tqdm.contrib.tmap``."""
    return _contrib.tmap(*arguments, **{"tqdm_class": _tqdm, **keywords})
