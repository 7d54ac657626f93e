"""Tests of the normalisation of texts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_progress.text import encode_segment, escape_controls, join_title, normalize_id, truncate

ANY = st.text(st.characters(), max_size=400)


@given(ANY, st.integers(1, 300))
def test_truncate_returns_bounded_valid_unicode(text: str, limit: int) -> None:
    """The result is valid Unicode within the limit. Short valid text stays unchanged."""
    truncated = truncate(text, limit)
    assert len(truncated) <= limit
    truncated.encode()
    if len(text) <= limit and not any("\ud800" <= character <= "\udfff" for character in text):
        assert truncated == text


@given(ANY)
def test_normalize_id_returns_bounded_valid_unicode(text: str) -> None:
    """An id has at most 256 characters and can be encoded."""
    normalized = normalize_id(text)
    assert len(normalized) <= 256
    normalized.encode()


def test_normalize_id_with_long_ids_keeps_them_unique() -> None:
    """Two ids that differ only after the limit stay different."""
    assert normalize_id("x" * 10_000_000 + "a") != normalize_id("x" * 10_000_000 + "b")


@given(st.text(max_size=20), st.text(max_size=20), st.text(max_size=20), st.text(max_size=20))
def test_encode_segment_is_unambiguous(type_: str, id_: str, other_type: str, other_id: str) -> None:
    """Different types or ids have different segments without a path separator."""
    assert "/" not in encode_segment(type_, id_)
    assert (encode_segment(type_, id_) == encode_segment(other_type, other_id)) == (
        (type_, id_) == (other_type, other_id)
    )


@given(ANY)
def test_escape_controls_returns_one_printable_line(text: str) -> None:
    """The result has no control character, direction mark or lone surrogate."""
    escaped = escape_controls(text)
    assert not set(escaped) & {"\x1b", "\x07", "\n", "\r", "\u202e", "\u2066", "\x9b"}
    escaped.encode()


class Unprintable:
    """An object whose ``str()`` raises."""

    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(("value", "text"), [(5, "5"), (None, "None"), (Unprintable(), "<Unprintable>")])
def test_normalisation_converts_other_values_to_text(value: object, text: str) -> None:
    """An object whose ``str()`` raises is represented by its type."""
    assert truncate(value) == text
    assert normalize_id(value) == text


@pytest.mark.parametrize(
    ("kind", "name", "title"),
    [
        ("thumbs", "thumbs 1", "thumbs 1"),
        ("thumbs", "thumbs", "thumbs"),
        ("table", "Table users", "Table users"),
        ("table", "users", "table users"),
        ("table", "7", "table 7"),
        ("table", "tables", "table tables"),
        ("table", "", "table"),
        ("", "users", "users"),
    ],
)
def test_join_title_has_the_type_once(kind: str, name: str, title: str) -> None:
    """The type is left out when the name starts with it as a word."""
    assert join_title(kind, name) == title
