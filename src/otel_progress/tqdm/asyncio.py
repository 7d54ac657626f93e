"""Bars for async loops and ``gather``: drop-in for ``tqdm.asyncio``."""

from __future__ import annotations

from typing import Any

from tqdm import asyncio as _asyncio  # type: ignore[import-untyped]

from otel_progress.integrations.tqdm import enter_async_loop
from otel_progress.tqdm.std import tqdm as _tqdm

__all__ = ["tarange", "tqdm", "tqdm_asyncio", "trange"]


class tqdm_asyncio(_tqdm, _asyncio.tqdm_asyncio):  # type: ignore[misc]  # noqa: N801
    """Bar for sync and async loops."""

    def __aiter__(self) -> Any:
        enter_async_loop(self)
        return super().__aiter__()


def tarange(*arguments: Any, **keywords: Any) -> tqdm_asyncio:
    """Return ``tqdm_asyncio(range(*arguments), **keywords)``."""
    return tqdm_asyncio(range(*arguments), **keywords)


tqdm = tqdm_asyncio


trange = tarange
