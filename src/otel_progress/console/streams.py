"""Text streams that may have only ``write``, such as a replaced ``sys.stderr``."""

from __future__ import annotations

import codecs
from typing import TextIO


def get_encoding(stream: TextIO) -> str | None:
    """Return the encoding of a stream. None if it has none or Python does not know it."""
    encoding = getattr(stream, "encoding", None)
    try:
        return codecs.lookup(encoding).name if encoding else None
    except (LookupError, TypeError):
        return None


def flush_stream(stream: TextIO) -> None:
    """Flush a stream that can be flushed.

    Raises OSError or ValueError if it is closed.
    """
    flush = getattr(stream, "flush", None)
    if flush is not None:
        flush()
