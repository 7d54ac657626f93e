"""Display in a notebook: a table in the cell in which an operation started.

The table is updated in place by its display id, as a plain output of HTML with a text. So it works
in every program that shows Jupyter notebooks, and the saved notebook contains the last state.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Final

from otel_progress.console.batches import format_batch, make_batch_watch
from otel_progress.console.layout import render_finished, render_tree
from otel_progress.console.plain import find_finished_roots, load_finished_operation
from otel_progress.diagnostics import report_internal_error
from otel_progress.operations import BatchSnapshot, OperationSnapshot, render_operations
from otel_progress.protocols import ChangeSet, HistoryQuery, Reader

UPDATE_S: Final = 0.3
"""Shortest time between two updates of a table, in seconds. An end is shown at once."""


MAX_CELL_OPERATIONS: Final = 20
"""Operations in the table of a cell. Further ones that end replace the oldest ended ones."""


MAX_CELLS: Final = 50
"""Tables that are updated, the newest."""


_TEXT_COLUMNS: Final = 100


class NotebookConsole:
    """Sink that shows operations in the cell of a notebook in which they started.

    ``shell`` is the shell of the kernel. ``show`` displays a mime bundle in the current cell and
    returns a function that replaces it. ``clock`` is monotonic, in seconds.
    """

    def __init__(
        self,
        reader: Reader,
        shell: Any,
        *,
        show: Callable[[dict[str, str]], Callable[[dict[str, str]], object]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reader = reader
        self._batches = make_batch_watch(reader, batches=True)
        self._shell = shell
        self._show = show or _show_bundle
        self._clock = clock
        self._lock = threading.Lock()
        self._cell = _Cell(time.time(), clock, self._show)
        self._cells: list[_Cell] = []
        self._is_closed = False
        shell.events.register("pre_run_cell", self._start_cell)
        shell.events.register("post_run_cell", self._finish_cell)

    def write(self, change_set: ChangeSet) -> None:
        """Show the changes of one tick."""
        with self._lock:
            if self._is_closed:
                return
            for root in find_finished_roots(change_set):
                self._add(load_finished_operation(self._reader, change_set, root))
            self._add_all(self._reader.active())
            self._update_cells()

    def close(self) -> None:
        """Show the last state, and stop to follow the cells of the notebook."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            for name, function in (("pre_run_cell", self._start_cell), ("post_run_cell", self._finish_cell)):
                try:
                    self._shell.events.unregister(name, function)
                except ValueError:  # another program has reset the events
                    continue
            for cell in self._cells:
                cell.update()

    def _start_cell(self, *_: object) -> None:
        """Show later operations in the cell that starts. Called by the shell."""
        with self._lock:
            self._cell = _Cell(time.time(), self._clock, self._show)

    def _finish_cell(self, *_: object) -> None:
        """Show short operations before the next cell starts. Called by the shell."""
        try:
            with self._lock:
                if self._is_closed:
                    return
                ended = self._reader.history(HistoryQuery(limit=MAX_CELL_OPERATIONS))
                recent = (*ended, *self._reader.active())
                self._add_all([each for each in recent if self._is_of_cell(each)])
                self._update_cells(is_last=True)
        except Exception:
            report_internal_error("console", "Progress could not be displayed in the notebook")

    def _is_of_cell(self, operation: OperationSnapshot) -> bool:
        started_at = operation.root.info.started_at
        return started_at is not None and started_at >= self._cell.started_at

    def _add_all(self, operations: Sequence[OperationSnapshot]) -> None:
        # The oldest first.
        for operation in reversed(operations):
            self._add(operation)

    def _add(self, operation: OperationSnapshot) -> None:
        """Store the state of an operation. A new one belongs to the current cell."""
        cell = next((each for each in self._cells if operation.run in each.operations), None)
        (cell or self._use_current_cell()).add(operation)

    def _add_batch(self, batch: BatchSnapshot) -> None:
        cell = next((each for each in self._cells if batch.id in each.batches), None)
        (cell or self._use_current_cell()).add_batch(batch)

    def _use_current_cell(self) -> _Cell:
        """Return the table of the current cell, which is updated from now on."""
        if self._cell not in self._cells:
            self._cells.append(self._cell)
        if len(self._cells) > MAX_CELLS:
            ended = (cell for cell in self._cells if not cell.is_active)
            self._cells.remove(next(ended, self._cells[0]))
        return self._cell

    def _update_cells(self, *, is_last: bool = False) -> None:
        for batch in [each for found in self._batches.poll() for each in found] if self._batches else ():
            self._add_batch(batch)
        now = self._clock()
        for cell in self._cells:
            if cell.is_changed and (is_last or cell.has_ended or now >= cell.next_update_at):
                cell.update()


@dataclass(eq=False)
class _Cell:
    """Table in the output of one cell."""

    started_at: float
    clock: Callable[[], float]
    show: Callable[[dict[str, str]], Callable[[dict[str, str]], object]]
    batches: dict[str, BatchSnapshot] = field(default_factory=dict)
    operations: dict[str, OperationSnapshot] = field(default_factory=dict)
    omitted: int = 0
    is_changed: bool = False
    has_ended: bool = False
    next_update_at: float = float("-inf")
    replace: Callable[[dict[str, str]], object] | None = None

    @property
    def is_active(self) -> bool:
        """True while an operation of the table is active."""
        return any(not operation.status.finished for operation in self.operations.values())

    def add_batch(self, batch: BatchSnapshot) -> None:
        """Store the newest state of a batch."""
        self.batches[batch.id] = batch
        self.is_changed = True
        self.has_ended = self.has_ended or batch.is_finished

    def add(self, operation: OperationSnapshot) -> None:
        """Store the newest state of an operation."""
        known = self.operations.get(operation.run)
        if known is not None and known.status.finished:
            return
        self.operations[operation.run] = operation
        self.is_changed = True
        self.has_ended = self.has_ended or operation.status.finished
        if len(self.operations) > MAX_CELL_OPERATIONS:
            ended = (run for run, each in self.operations.items() if each.status.finished)
            del self.operations[next(ended, next(iter(self.operations)))]
            self.omitted += 1

    def update(self) -> None:
        """Display the table, or replace it."""
        if not self.is_changed:
            return
        self.is_changed = self.has_ended = False
        self.next_update_at = self.clock() + UPDATE_S
        bundle = build_bundle(list(self.operations.values()), list(self.batches.values()), self.omitted)
        if self.replace is not None:
            self.replace(bundle)
        else:
            self.replace = self.show(bundle)


def build_bundle(
    operations: Sequence[OperationSnapshot], batches: Sequence[BatchSnapshot] = (), omitted: int = 0
) -> dict[str, str]:
    """Return operations and batches as HTML and as text without escape sequences."""
    lines = [format_batch(batch) for batch in batches]
    for operation in operations:
        if operation.status.finished:
            lines.extend(line.plain for line in render_finished(operation, width=_TEXT_COLUMNS))
        else:
            lines.extend(line.plain for line in render_tree([operation], width=_TEXT_COLUMNS, height=20))
    if omitted:
        lines.append(f"{omitted} more operations")
    return {
        "text/html": render_operations(operations, batches, omitted=omitted),
        "text/plain": "\n".join(lines),
    }


def _show_bundle(bundle: dict[str, str]) -> Callable[[dict[str, str]], object]:
    """Display a bundle in the output of the current cell."""
    handle: Any = import_module("IPython.display").DisplayHandle()
    handle.display(bundle, raw=True)
    return lambda newer: handle.update(newer, raw=True)
