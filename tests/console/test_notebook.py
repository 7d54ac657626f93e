"""Display in the cells of a notebook, with a shell of the test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from otel_progress.console.factory import build_console
from otel_progress.console.notebook import (
    MAX_CELL_OPERATIONS,
    MAX_CELLS,
    UPDATE_S,
    NotebookConsole,
    build_bundle,
)
from otel_progress.diagnostics import internal_error_counts
from otel_progress.model import Failure, Status
from otel_progress.protocols import Sink
from tests.support.factories import ended, operation, snapshot
from tests.support.terminal import Clock, Shelf, tick


class Events:
    """Events of a shell, as IPython calls them."""

    def __init__(self) -> None:
        self.functions: dict[str, list[Callable[..., object]]] = {"pre_run_cell": [], "post_run_cell": []}

    def register(self, name: str, function: Callable[..., object]) -> None:
        """Add a function."""
        self.functions[name].append(function)

    def unregister(self, name: str, function: Callable[..., object]) -> None:
        """Remove a function. Raises ValueError if it is unknown."""
        self.functions[name].remove(function)

    def trigger(self, name: str) -> None:
        """Call the functions of an event."""
        for function in self.functions[name]:
            function(object())


class Notebook:
    """Cells with outputs, a shell, and the console."""

    kernel = object()

    def __init__(self) -> None:
        self.events = Events()
        self.clock = Clock()
        self.shelf = Shelf()
        self.outputs: list[dict[str, str]] = []
        self.cell_of_output: list[int] = []
        self.updates = 0
        self.cell = 0
        self.console = NotebookConsole(self.shelf, self, show=self.show_bundle, clock=self.clock)  # type: ignore[arg-type]

    def show_bundle(self, bundle: dict[str, str]) -> Callable[[dict[str, str]], None]:
        """Append an output to the current cell."""
        number = len(self.outputs)
        self.outputs.append(bundle)
        self.cell_of_output.append(self.cell)

        def update(newer: dict[str, str]) -> None:
            self.outputs[number] = newer
            self.updates += 1

        return update

    def start_cell(self) -> None:
        """Start the next cell."""
        self.cell += 1
        self.events.trigger("pre_run_cell")

    def tick(self, *operations: Any, seconds: float = UPDATE_S) -> None:
        """Let the console draw operations, ended ones included."""
        self.clock.now += seconds
        self.shelf.operations = operations
        self.console.write(tick(*(each.root for each in operations)))

    @property
    def texts(self) -> list[str]:
        """Plain texts of the outputs."""
        return [output["text/plain"] for output in self.outputs]


def run(name: str, **fields: Any) -> Any:
    """Return an operation, active unless the fields say otherwise."""
    make = ended if "status" in fields else snapshot
    return operation(make(operation_id=name, id=name, run=name, name=name, **fields))


def test_table_stays_in_the_cell_in_which_the_operation_started() -> None:
    notebook = Notebook()
    notebook.start_cell()
    notebook.tick(run("first", ratio=0.1))
    notebook.start_cell()
    notebook.tick(run("first", ratio=0.5))
    notebook.tick(run("second", ratio=0.2), run("first", ratio=0.7))
    assert notebook.cell_of_output == [1, 2]
    assert "70%" in notebook.texts[0]
    assert "second" not in notebook.texts[0]
    assert "20%" in notebook.texts[1]


def test_cell_without_operations_has_no_output() -> None:
    notebook = Notebook()
    notebook.start_cell()
    notebook.tick()
    notebook.events.trigger("post_run_cell")
    notebook.console.close()
    assert notebook.outputs == []


def test_end_of_cell_shows_short_operation_before_the_next_cell() -> None:
    notebook = Notebook()
    notebook.start_cell()
    now = notebook.console._cell.started_at
    notebook.shelf.operations = (
        run("short", status=Status.COMPLETED, started_at=now + 0.01),
        run("earlier", status=Status.COMPLETED, started_at=now - 60),
    )
    notebook.events.trigger("post_run_cell")
    notebook.start_cell()
    assert notebook.cell_of_output == [1]
    assert "short completed" in notebook.texts[0]
    assert "earlier" not in notebook.texts[0]
    notebook.tick(run("short", status=Status.COMPLETED, started_at=now + 0.01))
    assert len(notebook.outputs) == 1


def test_updates_are_limited_and_ends_are_shown_at_once() -> None:
    notebook = Notebook()
    notebook.start_cell()
    for _ in range(100):
        notebook.tick(run("job", ratio=0.5), seconds=0.01)
    assert notebook.updates <= 1.0 / UPDATE_S + 1
    notebook.tick(run("job", status=Status.COMPLETED, ratio=1.0), seconds=0.0)
    assert "completed" in notebook.texts[0]
    updates = notebook.updates
    notebook.tick(seconds=60.0)
    assert notebook.updates == updates


def test_many_operations_of_a_cell_are_counted() -> None:
    notebook = Notebook()
    notebook.start_cell()
    notebook.tick(run("active", ratio=0.5))
    for number in range(MAX_CELL_OPERATIONS + 5):
        notebook.tick(run(f"n{number}", status=Status.COMPLETED), run("active", ratio=0.6))
    assert len(notebook.outputs) == 1
    assert "active" in notebook.texts[0]
    assert notebook.texts[0].endswith("6 more operations")
    assert "6 more operations" in notebook.outputs[0]["text/html"]


def test_number_of_followed_cells_is_bounded() -> None:
    notebook = Notebook()
    notebook.start_cell()
    notebook.tick(run("long", ratio=0.1))
    for number in range(MAX_CELLS + 10):
        notebook.start_cell()
        notebook.tick(run(f"n{number}", status=Status.COMPLETED), run("long", ratio=0.2))
    assert len(notebook.console._cells) == MAX_CELLS
    notebook.tick(run("long", ratio=0.9))
    assert "90%" in notebook.texts[0]


def test_text_has_no_escape_sequences_and_html_is_escaped() -> None:
    name = "<script>alert('x')</script>\x1b[31m"
    failed = run(name, status=Status.FAILED, error=Failure("OSError", "<img src=x onerror=alert(1)>"))
    bundle = build_bundle([failed, run(name, ratio=0.5, message="<i>m</i>")])
    assert "\x1b" not in bundle["text/plain"]
    assert "\x1b" not in bundle["text/html"]
    for tag in ("<script", "<img", "<i>"):
        assert tag not in bundle["text/html"]
    assert "&lt;script&gt;" in bundle["text/html"]


def test_close_shows_the_last_state_and_leaves_the_shell() -> None:
    notebook = Notebook()
    notebook.start_cell()
    notebook.tick(run("job", ratio=0.5))
    notebook.tick(run("job", ratio=0.6), seconds=0.0)
    notebook.console.close()
    notebook.console.close()
    assert "60%" in notebook.texts[0]
    assert notebook.events.functions == {"pre_run_cell": [], "post_run_cell": []}
    notebook.tick(run("job", ratio=0.9))
    assert "60%" in notebook.texts[0]


def test_error_at_the_end_of_a_cell_is_only_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = Notebook()
    notebook.start_cell()
    monkeypatch.setattr(notebook.shelf, "active", lambda **_: 1 / 0)
    before = internal_error_counts["console"]
    notebook.events.trigger("post_run_cell")
    assert internal_error_counts["console"] == before + 1


def test_reset_events_of_the_shell_do_not_disturb_the_close() -> None:
    notebook = Notebook()
    notebook.events.functions = {"pre_run_cell": [], "post_run_cell": []}
    notebook.console.close()
    assert notebook.events.functions == {"pre_run_cell": [], "post_run_cell": []}


def test_console_of_a_kernel_is_the_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = Notebook()
    monkeypatch.setattr("otel_progress.console.factory.find_notebook_shell", lambda: notebook)
    assert isinstance(build_console(notebook.shelf, "auto"), NotebookConsole)  # type: ignore[arg-type]
    assert not isinstance(build_console(notebook.shelf, mode=True), NotebookConsole)  # type: ignore[arg-type]
    assert isinstance(notebook.console, Sink)
