"""Files as previews: read off the caller's thread, regular ones only, and no more of them than is needed."""

from __future__ import annotations

import os
import stat
from typing import Final

from otel_progress.errors import PreviewError
from otel_progress.text import cut, printable

TEXT_SUFFIXES: Final = (".txt", ".log", ".md", ".csv")
"""What a file that is a text preview ends in; one that ends in ``.json`` is JSON, any other has to be a picture."""


def read_file(path: str, limit: int) -> bytes:
    """Return the content of a regular file, at most ``limit`` + 1 bytes. Raises PreviewError for anything else.

    Symbolic links are followed, as in ``latest.png``: the path is the program's own. What is opened is what is looked at.
    """
    shown = printable(cut(path, 200))
    try:
        # A pipe would be waited for without O_NONBLOCK; for regular files it means nothing.
        descriptor = os.open(
            path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOCTTY", 0)
        )
    except (OSError, ValueError) as error:
        msg = f"the file {shown!r} cannot be opened ({getattr(error, 'strerror', None) or type(error).__name__})"
        raise PreviewError(msg) from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            msg = f"{shown!r} is no regular file: devices, pipes and folders are not read"
            raise PreviewError(msg)
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(limit + 1)
    except OSError as error:
        msg = f"the file {shown!r} cannot be read ({error.strerror})"
        raise PreviewError(msg) from error
    finally:
        os.close(descriptor)
