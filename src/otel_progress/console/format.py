"""Text cut to terminal cells, and the formats of ``otel_progress.formats``."""

from __future__ import annotations

from rich.cells import cell_len, set_cell_size

from otel_progress.formats import ENDED_EARLY as ENDED_EARLY
from otel_progress.formats import UNKNOWN as UNKNOWN
from otel_progress.formats import format_bound as format_bound
from otel_progress.formats import format_count as format_count
from otel_progress.formats import format_duration as format_duration
from otel_progress.formats import format_moment as format_moment
from otel_progress.formats import format_more_levels as format_more_levels
from otel_progress.formats import format_percentage as format_percentage
from otel_progress.formats import format_quantity as format_quantity
from otel_progress.formats import format_rate as format_rate
from otel_progress.formats import format_remaining as format_remaining
from otel_progress.formats import format_time_left as format_time_left
from otel_progress.formats import is_byte_unit as is_byte_unit
from otel_progress.formats import select_unit_form as select_unit_form
from otel_progress.operations import Condition


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


def format_condition_name(condition: Condition) -> str:
    """Return a condition in words."""
    return condition.value.replace("_", " ")
