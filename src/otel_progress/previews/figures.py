"""matplotlib figures as previews: copied by the caller's thread, drawn on another.

This module imports matplotlib only after the caller has.
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


MAX_FIGURE_BYTES: Final = 16 * 1024 * 1024
"""Maximum size of the copy of a figure."""


def is_figure(value: object) -> bool:
    """Return whether a value is a matplotlib figure."""
    # The attribute is absent while another thread imports matplotlib.
    figure_type = getattr(sys.modules.get("matplotlib.figure"), "Figure", None)
    return figure_type is not None and isinstance(value, figure_type)


class _Pickler(pickle.Pickler):
    """Copies a figure without its link to pyplot, which would open a window."""

    def __init__(self, figure: Any, buffer: BytesIO) -> None:
        super().__init__(buffer, pickle.HIGHEST_PROTOCOL)
        self._figure = figure

    def reducer_override(self, value: Any) -> Any:
        if value is not self._figure:
            return NotImplemented
        state = value.__getstate__()
        state.pop("_restore_to_pylab", None)
        # The same value as from object.__reduce_ex__.
        return copyreg.__newobj__, (type(value),), state  # type: ignore[attr-defined]


def copy_figure(figure: Any) -> bytes:
    """Return a copy that later drawing does not affect.

    It takes milliseconds for a simple plot.

    Raises PreviewError if the figure cannot be copied.
    """
    buffer = BytesIO()
    try:
        _Pickler(figure, buffer).dump(figure)
    except Exception as error:
        reason = truncate(f"{type(error).__name__}: {error}", 100)
        msg = f"the figure cannot be copied ({reason}): pass a function that draws it"
        raise PreviewError(msg) from error
    content = buffer.getvalue()
    if len(content) > MAX_FIGURE_BYTES:
        msg = (
            f"invalid figure of {len(content)} bytes: expected at most {MAX_FIGURE_BYTES}. "
            "Pass a function that draws less"
        )
        raise PreviewError(msg)
    return content


def draw_copy(content: bytes, edge: int) -> Image:
    """Return the image of a copied figure."""
    # Why pickle is safe here: copy_figure made the content in this process.
    return draw_figure(pickle.loads(content), edge)


def draw_figure(figure: Any, edge: int) -> Image:
    """Return the image of a figure, with about twice the required pixels per side."""
    from PIL.Image import frombuffer

    agg: Any = import_module("matplotlib.backends.backend_agg")  # Any: its types are not needed

    figure.set_dpi(max(1.0, min(float(figure.dpi), 2 * edge / max(1e-3, *figure.get_size_inches()))))
    canvas = agg.FigureCanvasAgg(figure)
    canvas.draw()
    return frombuffer("RGBA", canvas.get_width_height(), bytes(canvas.buffer_rgba()), "raw", "RGBA", 0, 1)
