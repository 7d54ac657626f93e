"""Displays on streams that have only ``write``."""

from __future__ import annotations

import sys
from typing import Any

import pytest

import otel_progress as progress
from otel_progress.console.streams import get_encoding


class _WriteOnly:
    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        self.text += text


class _Slots:
    __slots__ = ("parts",)

    def __init__(self) -> None:
        self.parts: list[str] = []

    def write(self, text: str) -> None:
        self.parts.append(text)

    @property
    def text(self) -> str:
        return "".join(self.parts)


class _UnknownEncoding(_WriteOnly):
    encoding = "martian"


@pytest.mark.parametrize("mode", [True, "auto"])
@pytest.mark.parametrize("make_stream", [_WriteOnly, _Slots, _UnknownEncoding])
def test_console_on_stream_with_only_write_shows_the_operation(
    monkeypatch: pytest.MonkeyPatch, mode: Any, make_stream: Any
) -> None:
    stream = make_stream()
    monkeypatch.setattr(sys, "stderr", stream)
    with (
        progress.configure(service_name="s", store="memory:", console=mode),
        progress.operation("import", total=2) as op,
    ):
        op.increment(2)
        print("output of the program", file=stream)
    assert "import" in stream.text
    assert "output of the program" in stream.text


@pytest.mark.parametrize("encoding", ["martian", "", None, 3])
def test_get_encoding_of_unknown_encoding_returns_nothing(encoding: Any) -> None:
    stream: Any = _WriteOnly()
    stream.encoding = encoding
    assert get_encoding(stream) is None
