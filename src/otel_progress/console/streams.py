"""Text streams that may have only ``write``, such as a replaced ``sys.stderr``."""

from __future__ import annotations

import codecs
import io
import os
from typing import TextIO

from otel_progress.fork import defer_fork_during_output


def get_encoding(stream: TextIO) -> str | None:
    """Return the encoding of a stream. None if it has none or Python does not know it."""
    encoding = getattr(stream, "encoding", None)
    try:
        return codecs.lookup(encoding).name if encoding else None
    except (LookupError, TypeError):
        return None


def write_stream(stream: TextIO, text: str) -> None:
    """Write a text and flush the stream.

    Raises OSError or ValueError if it is closed.
    """
    descriptor = _find_descriptor(stream)
    if descriptor is None:
        with defer_fork_during_output():
            stream.write(text)
            flush_stream(stream)
        return
    # Why not with the stream: it would hold its lock while the reader is slow. Each flush of the
    # program would then wait, and a child that is forked in the meantime would never end.
    data = text.encode(stream.encoding, stream.errors or "strict")
    while data:
        data = data[os.write(descriptor, data) :]


def _find_descriptor(stream: TextIO) -> int | None:
    """Return the descriptor that a stream writes to directly, or None."""
    # Why the exact type: a subclass, or a method that was replaced, may do more than write.
    if os.name != "posix" or type(stream) is not io.TextIOWrapper or "write" in vars(stream):
        return None
    buffer: object = stream.buffer
    raw = buffer.raw if type(buffer) is io.BufferedWriter else buffer
    return raw.fileno() if type(raw) is io.FileIO else None


def flush_stream(stream: TextIO) -> None:
    """Flush a stream that can be flushed.

    Raises OSError or ValueError if it is closed.
    """
    flush = getattr(stream, "flush", None)
    if flush is not None:
        flush()
