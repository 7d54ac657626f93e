"""Text of callers, made safe."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_progress.text import encode_segment, escape_controls, normalize_id, truncate

ANY = st.text(st.characters(), max_size=400)


@given(ANY, st.integers(1, 300))
def test_cut_is_bounded_and_valid(text: str, limit: int) -> None:
    """Whatever comes in, valid Unicode within the bound comes out; short valid text stays as it is."""
    short = truncate(text, limit)
    assert len(short) <= limit
    short.encode()
    if len(text) <= limit and not any("\ud800" <= character <= "\udfff" for character in text):
        assert short == text


@given(ANY)
def test_identifiers_are_bounded_and_valid(text: str) -> None:
    """An identifier has at most 256 characters and can be encoded."""
    short = normalize_id(text)
    assert len(short) <= 256
    short.encode()


def test_long_identifiers_stay_different() -> None:
    """Two ids that differ only behind the cut are still two ids."""
    assert normalize_id("x" * 10_000_000 + "a") != normalize_id("x" * 10_000_000 + "b")


@given(st.text(max_size=20), st.text(max_size=20), st.text(max_size=20), st.text(max_size=20))
def test_segments_are_unambiguous(type_: str, id_: str, other_type: str, other_id: str) -> None:
    """Different types or ids make different segments, and none holds a path separator."""
    assert "/" not in encode_segment(type_, id_)
    assert (encode_segment(type_, id_) == encode_segment(other_type, other_id)) == (
        (type_, id_) == (other_type, other_id)
    )


@given(ANY)
def test_printable_text_is_one_harmless_line(text: str) -> None:
    """No control character, escape, direction mark or lone surrogate passes."""
    shown = escape_controls(text)
    assert not set(shown) & {"\x1b", "\x07", "\n", "\r", "\u202e", "\u2066", "\x9b"}
    shown.encode()


class Nasty:
    """Has no text."""

    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(("value", "text"), [(5, "5"), (None, "None"), (Nasty(), "<Nasty>")])
def test_other_values_become_text(value: object, text: str) -> None:
    """What is no text is shown as one, and an object that refuses is named by its type."""
    assert truncate(value) == text
    assert normalize_id(value) == text
