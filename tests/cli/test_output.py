"""Tables and JSON of the command line."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from otel_progress.cli.output import write_table
from otel_progress.exports import encode_json_line

ROWS = [
    ("STATUS", "ID", "EMPTY", "NAME", "MESSAGE"),
    ("running", "a" * 60, "", "混合トラック", "a message " * 20),
]


@pytest.mark.parametrize("width", [20, 40, 80, 120])
def test_table_on_narrow_terminal_omits_optional_columns(
    width: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last column is cut."""
    write_table(ROWS, [{}, {}], width, optional=(3,))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(cell_len, lines)) <= width
    assert lines[0].startswith("STATUS")
    assert "EMPTY" not in lines[0]
    assert ("NAME" in lines[0]) == (width >= 80)


@pytest.mark.parametrize("width", [24, 40, 80, 120])
def test_table_on_narrow_terminal_shows_intact_column(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    """The columns before it become narrower."""
    rows = [
        ("STATUS", "ID", "COUNT", "FAILED", "MESSAGE"),
        ("completed", "a" * 60, "5/5 tables", "1234567", "x"),
    ]
    write_table(rows, [{}, {}], width, optional=(2,), intact=3)
    lines = capsys.readouterr().out.splitlines()
    assert "1234567" in lines[1]
    assert max(map(cell_len, lines)) <= width


def test_table_without_width_is_not_cut(capsys: pytest.CaptureFixture[str]) -> None:
    write_table(ROWS, [{}, {}], None)
    assert "a" * 60 in (out := capsys.readouterr().out)
    assert ("a message " * 20).rstrip() in out


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=[]), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.text(max_size=5), JSON, max_size=3))
def test_any_document_as_json_is_one_printable_line(document: dict[str, object]) -> None:
    """Numbers that JSON cannot represent become null."""
    line = encode_json_line(document)
    assert "\n" not in line
    assert not any(
        ord(character) < 32 or 0x7F <= ord(character) < 0xA0 or 0xD800 <= ord(character) < 0xE000
        for character in line
    )
    assert json.loads(line, parse_constant=pytest.fail) == _replace_non_finite(document)


def _replace_non_finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _replace_non_finite(item) for key, item in value.items()}
    return [_replace_non_finite(item) for item in value] if isinstance(value, list) else value
