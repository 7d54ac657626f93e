"""Tables of operations and batches as HTML."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from typing import Any

import pytest

from otel_progress.html import MAX_CELL_CHARS, HtmlRow, render_table
from otel_progress.model import Failure, Status
from otel_progress.operations import (
    MAX_HTML_LEVELS,
    MAX_HTML_OPERATIONS,
    BatchSnapshot,
    OperationList,
    OperationSnapshot,
)
from tests.support.factories import WALL, ended, operation, snapshot


def read_rows(html: str) -> list[list[str]]:
    """Return the texts of the cells. Fails if the markup is not well-formed."""
    table = ET.fromstring(html)
    return [["".join(cell.itertext()).strip() for cell in row] for row in table.iter("tr")]


def batch(**fields: Any) -> BatchSnapshot:
    """Return a running batch with 3 of 4 operations ended."""
    counts = dict.fromkeys(Status, 0) | {Status.RUNNING: 1, Status.COMPLETED: 2, Status.FAILED: 1}
    values: dict[str, Any] = {
        "id": "b",
        "name": "Images",
        "type": "",
        "total": 4,
        "started_at": WALL,
        "ended_at": None,
        "read_at": WALL + 60,
        "counts": counts,
        "ratio": 0.75,
        "throughput": 0.05,
        "remaining_s": 20.0,
        "active": [operation(snapshot(name="a", ratio=0.5))],
        "failed": [operation(ended(name="b", status=Status.FAILED, error=Failure("OSError", "gone")))],
    }
    return BatchSnapshot(**{**values, **fields})


def test_operation_is_a_table_with_its_levels() -> None:
    root = snapshot(name="Friday", type="setlist", current=3, total=10, ratio=0.3, unit="song", failed=1)
    levels = [
        snapshot("song:2", name="two", current=1, total=4, ratio=0.25),
        ended("song:1", name="one", status=Status.FAILED, error=Failure("OSError", "gone\nfor ever")),
        ended("song:0", name="zero"),
    ]
    rows = read_rows(operation(root, levels)._repr_html_())
    assert rows[0][0] == "● Friday setlist"
    assert rows[0][2:4] == ["30%", "3/10 songs 3.0/min"]
    assert rows[0][5].startswith("1 failed")
    assert [row[0] for row in rows[1:]] == ["✗ one song", "● two song"]
    assert rows[1][5] == "OSError: gone"


def test_history_is_a_list_that_is_shown_as_table() -> None:
    operations = OperationList(operation(ended(run=str(n), name=f"n{n}")) for n in range(3))
    assert isinstance(operations, list)
    assert [row[0] for row in read_rows(operations._repr_html_())] == [f"✓ n{n} setlist" for n in range(3)]
    assert read_rows(OperationList()._repr_html_()) == [["No operations"]]


def test_long_history_is_cut_and_counted() -> None:
    operations = OperationList(operation(ended(run=str(n))) for n in range(MAX_HTML_OPERATIONS + 7))
    rows = read_rows(operations._repr_html_())
    assert len(rows) == MAX_HTML_OPERATIONS + 1
    assert rows[-1] == ["7 more operations"]


def test_operation_with_many_levels_shows_the_running_ones() -> None:
    levels = [snapshot(f"song:{n}", name=f"n{n}", order=n) for n in range(500)]
    failed = [ended(f"bad:{n}", status=Status.FAILED) for n in range(500)]
    rows = read_rows(operation(snapshot(), [*levels, *failed])._repr_html_())
    assert len(rows) == 1 + MAX_HTML_LEVELS
    assert "n0" in rows[1][0]


def test_batch_is_a_table_with_active_and_failed_operations() -> None:
    rows = read_rows(batch()._repr_html_())
    assert rows[0] == [
        "● Images batch",
        "",
        "75%",
        "3/4 operations 3.0/min",
        "1m 00s, 20s left",
        "1 running, 2 completed, 1 failed",
    ]
    assert [row[0] for row in rows[1:]] == ["● a setlist", "✗ b setlist"]


def test_batch_with_many_operations_is_cut_and_counted() -> None:
    many = [operation(snapshot(run=str(n))) for n in range(100)]
    rows = read_rows(batch(active=many)._repr_html_())
    assert rows[-1] == [f"{101 - MAX_HTML_LEVELS} more operations"]


HOSTILE = "<script>alert(1)</script>\"'&\x00\x1b[31m\u2028" + "x" * 5000


@pytest.mark.parametrize("field", ["name", "kind", "percentage", "count", "rate", "time", "note", "message"])
def test_hostile_text_of_each_cell_is_escaped(field: str) -> None:
    texts = dict.fromkeys(("name", "kind", "percentage", "count", "rate", "time"), "")
    row = HtmlRow(**{**texts, "status": "running", "ratio": None, field: HOSTILE})  # type: ignore[arg-type]
    html = render_table([row])
    assert "<script" not in html
    assert not re.search("[\x00-\x1f\x7f]", html)
    assert len(html) < 2_500 + 10 * MAX_CELL_CHARS
    ET.fromstring(html)


@pytest.mark.parametrize("ratio", [None, 0.0, 0.5, 1.0, 7.0, -1.0, float("nan"), float("inf")])
def test_bar_is_valid_for_any_ratio(ratio: float | None) -> None:
    html = render_table([HtmlRow("n", "", "unknown", ratio, "", "", "", "")])
    widths = [float(width) for width in re.findall(r"width:([0-9.]+)%", html)]
    assert all(0.0 <= width <= 100.0 for width in widths)
    assert widths
    ET.fromstring(html)


def test_html_needs_no_style_sheet_and_no_script() -> None:
    html = operation(snapshot())._repr_html_()
    assert not re.search(r"<(script|style|link)|\bclass=|\bid=|\bon\w+=", html)


def test_table_of_operation_from_python_is_typed_as_text() -> None:
    read: OperationSnapshot = operation(snapshot())
    assert isinstance(read._repr_html_(), str)
