"""Measures of one source file: counts, and known errors for invalid files."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_progress.demo.measure import ERRORS, Measures, measure_source
from tests.support.examples import scale_examples

SAMPLE = b'''"""Module."""
import os.path, sys
from collections import abc
from . import sibling

# a comment


class Public:
    """Class."""

    def method(self):  # trailing
        """Method."""
        if self and sys or os:
            return [x for x in self if x]
        return None

    def _private(self):
        pass


def outer():
    def inner():
        while True:
            break
    return inner
'''


def examine(source: str | bytes) -> Measures:
    """Return the measures of a text."""
    return measure_source(source if isinstance(source, bytes) else source.encode(), "sample.py")


def test_measures_of_sample_match_manual_count() -> None:
    measures = examine(SAMPLE)
    assert (measures.lines, measures.code_lines, measures.comment_lines) == (26, 18, 1)
    assert measures.classes == 1
    assert measures.imports == {"os", "sys", "collections"}
    assert (measures.documented, measures.documentable) == (3, 4)
    assert (measures.size, measures.sha256) == (len(SAMPLE), hashlib.sha256(SAMPLE).hexdigest())


def test_functions_have_name_lines_and_complexity() -> None:
    """A nested function is counted on its own. Comprehensions are decisions."""
    functions = {f.name: (f.line, f.lines, f.complexity) for f in examine(SAMPLE).functions}
    assert functions == {
        "Public.method": (12, 5, 1 + 1 + 2 + 2),
        "Public._private": (18, 2, 1),
        "outer": (22, 5, 1),
        "outer.inner": (23, 3, 2),
    }


BODY = "\n".join(f"    value_{n} = {n}" for n in range(9))


def test_shape_of_copies_is_equal() -> None:
    """Comments, blank lines and quotes do not change the shape."""
    first = examine(f"def f():\n{BODY}\n    return 'a'\n").functions[0]
    copy = examine(f'# new\n\ndef f():\n\n{BODY}  # note\n    return "a"\n').functions[0]
    other = examine(f"def f():\n{BODY}\n    return 'b'\n").functions[0]
    assert first.shape is not None
    assert first.shape == copy.shape != other.shape
    assert examine("def f():\n    return 1\n").functions[0].shape is None


@pytest.mark.parametrize(
    "source", [b"", b"\n", b"# only a comment", b"x = 1", b"\xef\xbb\xbfx = 1\r\n", b"\x0cx = 1\n"]
)
def test_measure_of_unusual_source_succeeds(source: bytes) -> None:
    measures = examine(source)
    assert measures.functions == ()
    assert measures.lines in (0, 1)


def test_measure_uses_declared_encoding() -> None:
    assert examine("# -*- coding: latin-1 -*-\nname = 'é'\n".encode("latin-1")).code_lines == 1


def test_measure_of_source_with_invalid_escape_does_not_warn() -> None:
    assert examine("pattern = '\\d'\n").code_lines == 1


@pytest.mark.parametrize(
    "source",
    [
        b"def f(:\n",
        b"print 'two'\n",
        b"x = 1\0\n",
        b"# coding: no-such\n",
        b"name = '\xf6'\n",
        b"return 1\n",
        b"x = 1\nfrom __future__ import annotations\n",
        b"(" * 500 + b")" * 500,
        b"x = " + b"-" * 100_000 + b"1\n",
    ],
)
def test_measure_of_invalid_source_raises_known_error(source: bytes) -> None:
    with pytest.raises(ERRORS):
        examine(source)


@settings(max_examples=scale_examples(200))
@given(
    st.one_of(
        st.binary(max_size=200),
        st.text(alphabet="def f():\n \tifx=1#'\"\\\r\x0c", max_size=80).map(str.encode),
    )
)
def test_measure_of_any_bytes_succeeds_or_raises_known_error(source: bytes) -> None:
    try:
        measures = examine(source)
    except ERRORS:
        return
    assert 0 <= measures.code_lines + measures.comment_lines <= measures.lines
    assert measures.documented <= measures.documentable
