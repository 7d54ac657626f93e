"""Text form of parent links: round trip, limits and hostile texts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_progress.model import ParentLink
from otel_progress.propagation.parent_link import (
    MAX_LINK_CHARACTERS,
    format_parent_link,
    parse_parent_link,
)

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
PATHS = st.lists(NAMES, max_size=4).map(
    lambda names: "/".join(f"level:{name.replace('/', '%2F')}" for name in names)
)


@given(NAMES, PATHS)
def test_link_is_the_same_after_formatting_and_parsing(operation_id: str, path: str) -> None:
    link = ParentLink(operation_id, "0123456789abcdef", path)
    text = format_parent_link(link)
    assert text.isascii()
    assert text.isprintable()
    assert " " not in text
    assert parse_parent_link(text) == link


def test_link_has_a_stable_text_form() -> None:
    link = ParentLink("nightly 1", "0123456789abcdef", "host:alpha/file:a%2Fb.wav")
    assert format_parent_link(link) == "1;0123456789abcdef;nightly%201;host:alpha/file:a%252Fb.wav"


def test_link_with_further_fields_is_read() -> None:
    assert parse_parent_link("1;run;id;a:1;later;fields") == ParentLink("id", "run", "a:1")


def test_link_with_long_path_has_path_of_an_ancestor() -> None:
    path = "/".join(f"folder:{number}" + "x" * 200 for number in range(40))
    text = format_parent_link(ParentLink("id", "run", path))
    link = parse_parent_link(text)
    assert link is not None
    assert len(text) <= MAX_LINK_CHARACTERS
    assert path.startswith(link.path + "/")
    assert format_parent_link(ParentLink("id", "run", path), 100).endswith(";id;")


@pytest.mark.parametrize(
    "text",
    [
        None,
        5,
        b"1;run;id;",
        "",
        "1;run;id",
        "2;run;id;",
        "01;run;id;",
        "1;;id;",
        "1;run;;",
        "1;run;id;nocolon",
        "1;run;id;a:1//b:2",
        "1;run;%ff;",
        "1;run;i d;",
        "1;run;id\n;",
        "1;run;ïd;",
        "1;" + "r" * 65 + ";id;",
        "1;run;" + "i" * 257 + ";",
        "1;run;id;a:" + "x" * MAX_LINK_CHARACTERS,
    ],
)
def test_invalid_link_is_ignored(text: object) -> None:
    assert parse_parent_link(text) is None


@given(st.one_of(st.text(max_size=100), st.from_regex(r"1;[^;]{0,9};[^;]{0,9};.{0,20}")))
def test_any_text_is_a_link_or_ignored(text: str) -> None:
    link = parse_parent_link(text)
    assert link is None or parse_parent_link(format_parent_link(link)) == link
