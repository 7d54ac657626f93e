"""Functions that activate an integration, without an import of its library."""

from __future__ import annotations


def instrument_tqdm() -> None:
    """Record all bars of tqdm in this process, without changes to the code.

    Every bar that is open for at least a second is a level below the current level of its creator,
    or an operation of type ``tqdm``. Bars that are disabled are counted too. tqdm prints what it
    printed before. Idempotent. Call it before or after ``configure()``.
    ``otel_progress.integrations.tqdm.uninstrument()`` undoes it.

    Raises ImportError if tqdm is not installed.
    """
    from otel_progress.integrations.tqdm import instrument

    instrument()
