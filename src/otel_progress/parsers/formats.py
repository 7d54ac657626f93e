"""Names of the formats, and a parser for each."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from otel_progress.parsers.buildx import BuildxParser
from otel_progress.parsers.detection import DetectingParser
from otel_progress.parsers.ffmpeg import FfmpegParser
from otel_progress.parsers.git import GitParser
from otel_progress.parsers.numbers import PERCENT, CountParser, PercentParser
from otel_progress.parsers.rsync import RsyncParser

if TYPE_CHECKING:
    from otel_progress.parsers.readings import Parser


FORMATS: Final[dict[str, Callable[[], Parser]]] = {
    "auto": DetectingParser,
    "count": CountParser,
    "percent": PercentParser,
    "ffmpeg": FfmpegParser,
    "rsync": RsyncParser,
    "git": GitParser,
    "buildx": BuildxParser,
}
"""Parsers by the name of their format."""


UNITS: Final = {"percent": PERCENT, "rsync": PERCENT, "ffmpeg": "s", "buildx": "step"}
"""Unit of the operation by the name of the format. Other formats have no fixed unit."""


def create_parser(name: str) -> Parser:
    """Return a new parser of a format. Raises KeyError for an unknown name."""
    return FORMATS[name]()
