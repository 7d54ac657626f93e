"""Cells of CSV exports that a spreadsheet would run as a formula."""

from __future__ import annotations

import pytest

from otel_progress.exports import _escape_cell


@pytest.mark.parametrize(
    "text",
    [
        "=1+1",
        "+1",
        "-1",
        "@SUM(A1)",
        "\t=1",
        "\r=1",
        "  =1",
        "＝1",
        "＋1",
        "－1",
        "＠SUM(A1)",
        "﹦1",
        "−1",  # the mathematical minus
        "\u200b=1",
        "\u200b\u200d\ufeff＝1",
        "\u00ad=1",
        "\u2060=1",
        "\u00a0=1",
        "\u3000=1",
        "\x00=1",
        "\u0301=1",
        "\U000e0020=1",
    ],
)
def test_formula_in_a_cell_is_quoted(text: str) -> None:
    """Also full-width signs, and signs behind characters that are not visible."""
    assert _escape_cell(text).startswith("'")


@pytest.mark.parametrize("text", ["", "a=1", "1+1", "Ünïcödé", "日本", "“quoted”", "\u200b", "1 − 1", "_x"])
def test_other_text_in_a_cell_is_unchanged_or_escaped_only(text: str) -> None:
    assert not _escape_cell(text).startswith("'")


@pytest.mark.parametrize("number", [-1, -0.5, 0, None])
def test_number_in_a_cell_is_unchanged(number: float | None) -> None:
    assert _escape_cell(number) is number
