"""Progress in notebooks, executed by nbclient with a real kernel."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
pytest.importorskip("ipykernel", reason="ipykernel is not installed")

pytestmark = [pytest.mark.process, pytest.mark.filterwarnings("ignore")]

CELLS = {
    "configure": """
        import threading, time
        import otel_progress as progress
        runtime = progress.configure(service_name="notebook", store="memory:")
    """,
    "short": """
        with progress.operation("x", "Short <script>alert(1)</script>", total=2) as op:
            op.increment(2)
    """,
    "loop": """
        for _ in progress.track(range(20), "rows", unit="row"):
            time.sleep(0.02)
        background = progress.operation("long", "Background", total=10).start()
        background.increment(3)
    """,
    "other": "print('of the program')",
    "failing": """
        with progress.operation("import", "Customers", total=4) as op:
            op.increment()
            raise ValueError("row 2 is not valid")
    """,
    "thread": """
        def work():
            with progress.operation("thread", "In a thread"):
                started.set()
                go_on.wait(60)
        started, go_on = threading.Event(), threading.Event()
        thread = threading.Thread(target=work)
        thread.start()
        started.wait(60)
    """,
    "end": "go_on.set(); thread.join(); background.complete(); assert progress.flush()",
    "operation": "progress.get_operation('import') or progress.get_history()[0]",
    "history": "progress.get_history('import')",
    "batch": """
        with progress.batch("images", id="images", total=1):
            with progress.operation("image", "1"):
                assert progress.flush()
        progress.get_batch("images")
    """,
    "same": """
        again = progress.configure(service_name="notebook", store="memory:")
        again is runtime, progress.configure() is runtime
    """,
    "error": """
        progress.configure(service_name="renamed", store="memory:", reconfigure="error")
    """,
    "replace": """
        renamed = progress.configure(service_name="renamed", store="memory:", stall_after="5m")
        renamed is runtime, runtime.is_shut_down, progress.configure(service_name="renamed",
            store="memory:", stall_after="5m") is renamed
    """,
    "after": """
        with progress.operation("after", "After it"):
            pass
    """,
}
"""Source of each cell, in the order of execution."""


class Executed:
    """Outputs of the executed notebook."""

    def __init__(self, notebook: Any) -> None:
        self._cells = dict(zip(CELLS, notebook.cells, strict=True))

    def find_tables(self, name: str) -> list[Any]:
        """Return the mime bundles that a cell displays."""
        outputs = self._cells[name].outputs
        return [output.data for output in outputs if output.output_type == "display_data"]

    def get_result(self, name: str) -> Any:
        """Return the mime bundle of the result of a cell."""
        (output,) = [each for each in self._cells[name].outputs if each.output_type == "execute_result"]
        return output.data

    def find_streams(self) -> dict[str, list[str]]:
        """Return the printed texts of each cell that has any."""
        return {
            name: [output.text for output in cell.outputs if output.output_type == "stream"]
            for name, cell in self._cells.items()
            if any(output.output_type == "stream" for output in cell.outputs)
        }

    def find_types(self, name: str) -> list[str]:
        """Return the types of the outputs of a cell, in order."""
        return [output.output_type for output in self._cells[name].outputs]

    def dump(self) -> str:
        """Return all outputs as text."""
        return repr([cell.outputs for cell in self._cells.values()])


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Executed:
    """Execute the notebook once for all tests."""
    home = tmp_path_factory.mktemp("home")
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(_dedent(source)) for source in CELLS.values()]
    )
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("OTEL_")]:
            patch.delenv(name)
        patch.setenv("HOME", str(home))
        patch.setenv("IPYTHONDIR", str(home / "ipython"))
        patch.setenv("JUPYTER_RUNTIME_DIR", str(home / "runtime"))
        client = nbclient.NotebookClient(
            notebook, timeout=120, kernel_name="python3", allow_errors=True, resources=_in_folder(home)
        )
        client.execute()
    return Executed(notebook)


def _dedent(source: str) -> str:
    lines = source.strip("\n").splitlines()
    indent = len(lines[0]) - len(lines[0].lstrip())
    return "\n".join(line[indent:] for line in lines).strip()


def _in_folder(folder: Path) -> dict[str, Any]:
    return {"metadata": {"path": str(folder)}}


def test_configure_cell_has_no_output(executed: Executed) -> None:
    assert executed.find_types("configure") == []


def test_short_operation_is_in_its_cell_and_escaped(executed: Executed) -> None:
    (table,) = executed.find_tables("short")
    assert table["text/plain"].startswith("✓ x Short <script>alert(1)</script> completed 2/2")
    assert "&lt;script&gt;" in table["text/html"]
    assert "<script" not in table["text/html"]


def test_operation_of_earlier_cell_is_updated_there(executed: Executed) -> None:
    (table,) = executed.find_tables("loop")
    assert "rows completed 20/20 rows" in table["text/plain"]
    assert "✓ long Background completed" in table["text/plain"]
    assert executed.find_types("other") == ["stream"]
    assert executed.find_types("end") == []


def test_operation_of_a_thread_belongs_to_the_cell_of_its_start(executed: Executed) -> None:
    (table,) = executed.find_tables("thread")
    assert table["text/plain"].startswith("✓ thread In a thread completed")


def test_failed_operation_is_shown_with_the_error_of_the_cell(executed: Executed) -> None:
    (table,) = executed.find_tables("failing")
    assert "✗ import Customers failed at 25% 1/4" in table["text/plain"]
    assert "ValueError: row 2 is not valid" in table["text/html"]
    assert "error" in executed.find_types("failing")


def test_only_the_program_prints(executed: Executed) -> None:
    """Neither lines on stderr nor escape sequences."""
    assert executed.find_streams() == {"other": ["of the program\n"]}
    progress_outputs = [table for name in CELLS for table in executed.find_tables(name)]
    assert "\\x1b" not in repr(progress_outputs)


@pytest.mark.parametrize("name", ["operation", "history", "batch"])
def test_results_of_queries_are_tables(executed: Executed, name: str) -> None:
    assert executed.get_result(name)["text/html"].startswith("<table")


def test_history_is_a_list_of_results(executed: Executed) -> None:
    assert "Customers" in executed.get_result("history")["text/html"]
    assert executed.get_result("history")["text/plain"].startswith("[OperationSnapshot(")


def test_batch_of_a_cell_is_shown_with_its_operations(executed: Executed) -> None:
    (table,) = executed.find_tables("batch")
    assert "images" in table["text/html"]
    assert "1/1 operation" in table["text/html"]


def test_same_arguments_return_the_same_runtime(executed: Executed) -> None:
    assert executed.get_result("same")["text/plain"] == "(True, True)"


def test_other_arguments_replace_the_runtime(executed: Executed) -> None:
    assert executed.get_result("replace")["text/plain"] == "(False, True, True)"
    (table,) = executed.find_tables("after")
    assert "After it completed" in table["text/plain"]


def test_reconfiguration_can_be_an_error(executed: Executed) -> None:
    assert executed.find_types("error") == ["error"]
    assert "Invalid second configure()" in executed.dump()
