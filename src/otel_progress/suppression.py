"""Suppression of instrumentation for the work of this package.

Instrumented libraries, such as requests or sqlite3, would otherwise make spans of each export, and
each export of these spans would make further ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from opentelemetry import context as context_api

# Why private: the API has no public name, and all instrumentations read this key.
_SUPPRESSED: Final = context_api.Context({context_api._SUPPRESS_INSTRUMENTATION_KEY: True})


@contextmanager
def suppressed_instrumentation() -> Iterator[None]:
    """Suppress instrumentation in the block. The current level and span stay current."""
    token = context_api.attach(context_api.set_value(context_api._SUPPRESS_INSTRUMENTATION_KEY, True))
    try:
        yield
    finally:
        context_api.detach(token)


def run_suppressed(target: Callable[[], object]) -> Callable[[], object]:
    """Return a target for a thread of this package that runs no code of the caller.

    Its context has no current level or span, also if an instrumentation passes contexts to threads.
    """

    def run() -> object:
        context_api.attach(_SUPPRESSED)
        return target()

    return run
