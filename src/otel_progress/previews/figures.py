"""matplotlib figures as previews: copied on the caller's thread, drawn off it.

matplotlib is never imported from here before the caller has done so.
"""

from __future__ import annotations

import copyreg
import pickle
import sys
from importlib import import_module
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final

from otel_progress.errors import PreviewError
from otel_progress.text import truncate

if TYPE_CHECKING:
    from PIL.Image import Image


MAX_COPIED: Final = 16 * 1024 * 1024
"""Bytes that the copy of a figure may have."""


def is_figure(value: object) -> bool:
    """Tell whether a value is a matplotlib figure."""
    kind = getattr(
        sys.modules.get("matplotlib.figure"), "Figure", None
    )  # absent while another thread is still importing it
    return kind is not None and isinstance(value, kind)


class _Pickler(pickle.Pickler):
    """Copies a figure without its tie to pyplot, which would open a window for the copy."""

    def __init__(self, figure: Any, buffer: BytesIO) -> None:
        super().__init__(buffer, pickle.HIGHEST_PROTOCOL)
        self._figure = figure

    def reducer_override(self, value: Any) -> Any:
        if value is not self._figure:
            return NotImplemented
        state = value.__getstate__()
        state.pop("_restore_to_pylab", None)
        return copyreg.__newobj__, (type(value),), state  # type: ignore[attr-defined]  # what object.__reduce_ex__ returns


def copy_figure(figure: Any) -> bytes:
    """Return a copy that later drawing does not reach; some milliseconds for a plain plot. Raises PreviewError when it cannot be copied."""
    buffer = BytesIO()
    try:
        _Pickler(figure, buffer).dump(figure)
    except Exception as error:
        msg = f"the figure cannot be copied ({truncate(f'{type(error).__name__}: {error}', 100)}): pass a function that draws it"
        raise PreviewError(msg) from error
    content = buffer.getvalue()
    if len(content) > MAX_COPIED:
        msg = f"the figure holds {len(content)} bytes: at most {MAX_COPIED} are copied, pass a function that draws less"
        raise PreviewError(msg)
    return content


def draw_copy(content: bytes, edge: int) -> Image:
    """Return the picture of a copied figure."""
    return draw_figure(
        pickle.loads(content), edge
    )  # made by copy_figure in this process, from this process's own objects


def draw_figure(figure: Any, edge: int) -> Image:
    """Return the picture of a figure, with about twice as many pixels as are needed."""
    from PIL.Image import frombuffer

    agg: Any = import_module(
        "matplotlib.backends.backend_agg"
    )  # as Any: the types of matplotlib are nobody's need here

    figure.set_dpi(max(1.0, min(float(figure.dpi), 2 * edge / max(1e-3, *figure.get_size_inches()))))
    canvas = agg.FigureCanvasAgg(figure)
    canvas.draw()
    return frombuffer("RGBA", canvas.get_width_height(), bytes(canvas.buffer_rgba()), "raw", "RGBA", 0, 1)
