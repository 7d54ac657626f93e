"""The grid: panels side by side in bands from the top down, numbered in that order, so that ids and places never depend on chance."""

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
        """Number it."""
        ...

    def grid_pos(self: Self, grid_pos: model.GridPos) -> Self:
        """Place it."""
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
        """Add panels, given with their widths, side by side. Raises ValueError when they are wider than the grid."""
        for panel in self._place(height, panels):
            self._board.with_panel(panel)

    def heading(self, title: str) -> None:
        """Add a row that stands open above the bands that follow."""
        self._board.with_row(self._row(title))

    def folded(self, title: str, *bands: tuple[int, tuple[tuple[Placeable, int], ...]]) -> None:
        """Add a row that opens when it is clicked: its queries do not run before."""
        row = self._row(title).collapsed(True)
        for height, panels in bands:
            for panel in self._place(height, panels):
                row.with_panel(panel)
        self._board.with_row(row)

    def _row(self, title: str) -> dashboard.Row:
        row = dashboard.Row(title).id(self._number()).grid_pos(model.GridPos(h=1, w=WIDTH, x=0, y=self._y))
        self._y += 1
        return row

    def _place(
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
