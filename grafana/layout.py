"""The grid: panels in bands from top to bottom.

Ids follow the order, so they are deterministic.
"""

from __future__ import annotations

from typing import Final, Protocol, TypeVar

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog import builder as cog
from grafana_foundation_sdk.models import dashboard as model

WIDTH: Final = 24
"""Columns of Grafana's grid."""

Self = TypeVar("Self", bound="Placeable")


class Placeable(Protocol):
    """A panel under construction."""

    def id(self: Self, id_val: int) -> Self:
        """Set the id."""
        ...

    def grid_pos(self: Self, grid_pos: model.GridPos) -> Self:
        """Set the position."""
        ...

    def build(self) -> model.Panel:
        """Return the panel."""
        ...


class Grid:
    """Puts panels into a dashboard, band below band."""

    def __init__(self, board: dashboard.Dashboard) -> None:
        self._board = board
        self._next_id = 1
        self._y = 0

    def band(self, height: int, *panels: tuple[Placeable, int]) -> None:
        """Add panels with their widths in one band. Raises ValueError beyond the grid."""
        for panel in self._set_positions(height, panels):
            self._board.with_panel(panel)

    def heading(self, title: str) -> None:
        """Add an open row above the following bands."""
        self._board.with_row(self._row(title))

    def folded(self, title: str, *bands: tuple[int, tuple[tuple[Placeable, int], ...]]) -> None:
        """Add a closed row. Its queries run when it is opened."""
        row = self._row(title).collapsed(True)
        for height, panels in bands:
            for panel in self._set_positions(height, panels):
                row.with_panel(panel)
        self._board.with_row(row)

    def _row(self, title: str) -> dashboard.Row:
        row = dashboard.Row(title).id(self._number()).grid_pos(model.GridPos(h=1, w=WIDTH, x=0, y=self._y))
        self._y += 1
        return row

    def _set_positions(
        self, height: int, panels: tuple[tuple[Placeable, int], ...]
    ) -> list[cog.Builder[model.Panel]]:
        placed: list[cog.Builder[model.Panel]] = []
        x = 0
        for panel, width in panels:
            placed.append(panel.id(self._number()).grid_pos(model.GridPos(h=height, w=width, x=x, y=self._y)))  # type: ignore[arg-type]
            x += width
        if x > WIDTH:
            msg = f"these panels are {x} columns wide, and the grid has {WIDTH}"
            raise ValueError(msg)
        self._y += height
        return placed

    def _number(self) -> int:
        self._next_id += 1
        return self._next_id - 1
