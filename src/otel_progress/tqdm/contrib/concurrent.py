"""Maps over pools with a recorded bar: drop-in for ``tqdm.contrib.concurrent``."""

from __future__ import annotations

from typing import Any

from tqdm.contrib import concurrent as _concurrent  # type: ignore[import-untyped]

from otel_progress.tqdm.auto import tqdm as _tqdm

__all__ = ["interpreter_map", "process_map", "thread_map"]


def thread_map(*arguments: Any, **keywords: Any) -> Any:
    """Map with threads. See ``tqdm.contrib.concurrent.thread_map``."""
    return _concurrent.thread_map(*arguments, **{"tqdm_class": _tqdm, **keywords})


def process_map(*arguments: Any, **keywords: Any) -> Any:
    """Map with processes. See ``tqdm.contrib.concurrent.process_map``."""
    return _concurrent.process_map(*arguments, **{"tqdm_class": _tqdm, **keywords})


def interpreter_map(*arguments: Any, **keywords: Any) -> Any:
    """Map with interpreters, since Python 3.14. See the function of tqdm."""
    return _concurrent.interpreter_map(*arguments, **{"tqdm_class": _tqdm, **keywords})
