"""Drop-in for tqdm: ``from otel_progress.tqdm import tqdm, trange``.

Its bars are recorded. The classes are subclasses of those of tqdm, and draw what tqdm draws. While
the console of otel-progress draws a live display on the terminal, the display shows the bars and
tqdm draws nothing.
"""

from __future__ import annotations

from typing import Any

# isort: off
from otel_progress.tqdm.std import tqdm, trange  # first: it reports that tqdm is missing

from tqdm import (  # type: ignore[import-untyped]
    TMonitor,
    TqdmDeprecationWarning,
    TqdmExperimentalWarning,
    TqdmKeyError,
    TqdmMonitorWarning,
    TqdmSynchronisationWarning,
    TqdmTypeError,
    TqdmWarning,
    __version__,
)
# isort: on

__all__ = [
    "TMonitor",
    "TqdmDeprecationWarning",
    "TqdmExperimentalWarning",
    "TqdmKeyError",
    "TqdmMonitorWarning",
    "TqdmSynchronisationWarning",
    "TqdmTypeError",
    "TqdmWarning",
    "__version__",
    "tnrange",
    "tqdm",
    "tqdm_notebook",
    "trange",
]


def tqdm_notebook(*arguments: Any, **keywords: Any) -> Any:
    """Return a bar of :mod:`otel_progress.tqdm.notebook`."""
    from otel_progress.tqdm.notebook import tqdm_notebook as notebook_class

    return notebook_class(*arguments, **keywords)


def tnrange(*arguments: Any, **keywords: Any) -> Any:
    """Return a bar of :mod:`otel_progress.tqdm.notebook` over a range."""
    return tqdm_notebook(range(*arguments), **keywords)
