"""Text cut or padded to the cells of a terminal."""

from __future__ import annotations

from rich.cells import cell_len, set_cell_size


def fit_cells(text: str, width: int, more: str = "…") -> str:
    """Return ``text`` cut or padded to exactly ``width`` cells."""
    if cell_len(text) <= width:
        return set_cell_size(text, width)
    return cut_cells(text, width, more)


def cut_cells(text: str, width: int, more: str = "…") -> str:
    """Return ``text`` cut to at most ``width`` cells. A cut text ends in ``more``."""
    if cell_len(text) <= width:
        return text
    if width <= cell_len(more):
        return set_cell_size(text, max(0, width))
    return set_cell_size(text, width - cell_len(more)) + more
