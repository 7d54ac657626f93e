"""Bars for the place where the program runs: drop-in for ``tqdm.auto``.

In a notebook they are widgets, elsewhere texts. Both support async loops.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tqdm import auto as _auto  # type: ignore[import-untyped]
from tqdm import std as _std

from otel_progress.tqdm.asyncio import tqdm_asyncio

__all__ = ["tqdm", "trange"]


if TYPE_CHECKING or _auto.notebook_tqdm is _std.tqdm:
    tqdm = tqdm_asyncio
else:
    from otel_progress.tqdm.notebook import tqdm_notebook

    class tqdm(tqdm_notebook, tqdm_asyncio):  # noqa: N801
        """Bar that is a widget of a notebook, for sync and async loops."""


def trange(*arguments: Any, **keywords: Any) -> Any:
    """Return ``tqdm(range(*arguments), **keywords)``."""
    return tqdm(range(*arguments), **keywords)
