"""Bars as widgets of Jupyter notebooks: drop-in for ``tqdm.notebook``."""

from __future__ import annotations

from typing import Any

from tqdm import notebook as _notebook  # type: ignore[import-untyped]

from otel_progress.tqdm.std import tqdm as _tqdm

__all__ = ["tnrange", "tqdm", "tqdm_notebook", "trange"]


class tqdm_notebook(_tqdm, _notebook.tqdm_notebook):  # type: ignore[misc]  # noqa: N801
    """Bar that is a widget of a notebook."""

    _draws_on_terminal = False


def tnrange(*arguments: Any, **keywords: Any) -> tqdm_notebook:
    """Return ``tqdm_notebook(range(*arguments), **keywords)``."""
    return tqdm_notebook(range(*arguments), **keywords)


tqdm = tqdm_notebook


trange = tnrange
