"""Examining one source: counts checked by hand, and whatever is no Python refused with a known error."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_progress.demo.measure import ERRORS, Measures, measure_source

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


def test_sample_is_counted() -> None:
    """Lines, classes, imports, documentation and size of a small module, counted by hand."""
    found = examine(SAMPLE)
    assert (found.lines, found.code_lines, found.comment_lines) == (26, 18, 1)
    assert found.classes == 1
    assert found.imports == {"os", "sys", "collections"}
    assert (found.documented, found.documentable) == (3, 4)
    assert (found.size, found.sha256) == (len(SAMPLE), hashlib.sha256(SAMPLE).hexdigest())


def test_functions_have_names_lines_and_complexity() -> None:
    """A nested function counts for itself; if, and/or, comprehension and its filter are decisions."""
    found = {f.name: (f.line, f.lines, f.complexity) for f in examine(SAMPLE).functions}
    assert found == {
        "Public.method": (12, 5, 1 + 1 + 2 + 2),
        "Public._private": (18, 2, 1),
        "outer": (22, 5, 1),
        "outer.inner": (23, 3, 2),
    }


BODY = "\n".join(f"    value_{n} = {n}" for n in range(9))


def test_copies_have_one_shape() -> None:
    """Comments, blank lines and quotes do not tell copies apart; another constant does; short functions have no shape."""
    first = examine(f"def f():\n{BODY}\n    return 'a'\n").functions[0]
    copy = examine(f'# new\n\ndef f():\n\n{BODY}  # note\n    return "a"\n').functions[0]
    other = examine(f"def f():\n{BODY}\n    return 'b'\n").functions[0]
    assert first.shape is not None
    assert first.shape == copy.shape != other.shape
    assert examine("def f():\n    return 1\n").functions[0].shape is None


@pytest.mark.parametrize(
    "source", [b"", b"\n", b"# only a comment", b"x = 1", b"\xef\xbb\xbfx = 1\r\n", b"\x0cx = 1\n"]
)
def test_unusual_sources_are_fine(source: bytes) -> None:
    """Empty files, a missing last newline, a byte order mark and a form feed are all Python."""
    found = examine(source)
    assert found.functions == ()
    assert found.lines in (0, 1)


def test_declared_encoding_is_honoured() -> None:
    """A source in Latin-1 that says so is read as such."""
    assert examine("# -*- coding: latin-1 -*-\nname = 'é'\n".encode("latin-1")).code_lines == 1


def test_a_warning_of_a_source_is_not_ours() -> None:
    """An invalid escape in the source under examination warns nobody; under ``-W error`` it would even fail."""
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
def test_what_is_no_python_is_refused(source: bytes) -> None:
    """Bad syntax, encodings, null bytes, endless nesting and what only the compiler sees raise one of the known errors."""
    with pytest.raises(ERRORS):
        examine(source)


@settings(max_examples=200)
@given(
    st.one_of(
        st.binary(max_size=200),
        st.text(alphabet="def f():\n \tifx=1#'\"\\\r\x0c", max_size=80).map(str.encode),
    )
)
def test_any_bytes_are_measured_or_refused(source: bytes) -> None:
    """Whatever a file holds, it is measured with counts that agree, or raises one of the known errors."""
    try:
        found = examine(source)
    except ERRORS:
        return
    assert 0 <= found.code_lines + found.comment_lines <= found.lines
    assert found.documented <= found.documentable
