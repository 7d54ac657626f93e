"""Exceptions of the package.

They are raised by configuration, the command line, files and missing extras, and in strict mode.
By default instrumented code never receives one: an invalid value is counted, logged once per call
site, and ignored.
"""

from __future__ import annotations

import errno


class ProgressError(Exception):
    """Base class of all errors of otel-progress.

    The message contains the invalid value, the expected one, and the fix.
    """


class ConfigurationError(ProgressError, ValueError):
    """Invalid value of a setting (argument, environment variable, option, URL)."""


class MissingExtraError(ProgressError, ImportError):
    """Optional dependency that is not installed.

    The message has the ``pip`` command that installs it.
    """

    def __init__(self, feature: str, extra: str) -> None:
        command = f"pip install 'otel-progress[{extra}]'"
        super().__init__(f"{feature} needs packages that are not installed. Install them with: {command}")


class JournalError(ProgressError, OSError):
    """Journal that cannot be opened, read or written.

    It is missing, read-only, locked, full, corrupt or too new. ``is_temporary`` is True if another
    process holds its lock, so a later call can succeed.
    """

    is_temporary: bool = False
    """True if another process holds the journal's lock, so a later call can succeed."""

    has_lost_changes: bool = False
    """True if the journal was truncated or replaced, so that it lost earlier changes."""


class PreviewError(ProgressError, ValueError):
    """Preview that cannot be created or loaded.

    ``Level.preview`` does not raise it. The error is counted.
    """


class RejectedValueError(ProgressError, ValueError):
    """Invalid progress value, raised only in strict mode.

    The value is negative, NaN or above the total, or the level has ended.
    """


class RejectedTypeError(ProgressError, TypeError):
    """Progress value of the wrong type, raised only in strict mode."""


class OperationCancelledError(ProgressError):
    """Cancellation of the operation was requested.

    ``track`` raises it between two elements, and ``Level.check_cancelled`` raises it. A level
    that the error leaves ends as cancelled, not as failed.
    """


def describe_bind_error(error: Exception, host: str, port: int, purpose: str) -> str:
    """Return why an address cannot be bound and how to fix it.

    ``purpose`` is what is served there, such as "metrics".
    """
    code = error.errno if isinstance(error, OSError) else None
    if code == errno.EADDRINUSE:
        return (
            f"Port {port} of {host} is in use, so {purpose} cannot be served there. "
            "Stop the process that listens on it, or use another port, or 0 for a free one."
        )
    if code == errno.EACCES:
        return f"Port {port} of {host} needs more permissions. Use a port from 1024 up, or 0 for a free one."
    return f"Invalid address {host!r}, port {port}: expected an address of this machine ({error})."
