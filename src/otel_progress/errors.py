"""Exceptions of the package.

They are raised by configuration, the command line, files and missing extras, and in strict mode.
By default instrumented code never receives one: an invalid value is counted, logged once per call
site, and ignored.
"""

from __future__ import annotations

import errno
import socket
from typing import Final


class ProgressError(Exception):
    """Base class of all errors of otel-progress.

    The message contains the invalid value, the expected one, and the fix.
    """


class ConfigurationError(ProgressError, ValueError):
    """Invalid value of a setting (argument, environment variable, option, URL)."""


class UnavailableError(ConfigurationError):
    """Part of a configuration that the environment does not permit at the moment.

    Examples are a port in use, no further thread, and a folder that is not writable. ``configure``
    raises it only in strict mode. By default it logs a warning and continues without the part.
    """


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


class OperationRunningError(ProgressError, RuntimeError):
    """Start with ``resume=True`` of an operation that a live process runs.

    Both processes would do the same work. ``retry_after_s`` is the time after which the process
    counts as dead unless it sends a heartbeat, in seconds. It is None if the process is certainly
    alive. ``heartbeat_at`` is its last heartbeat in Unix seconds.
    """

    retry_after_s: float | None = None
    """Seconds until the process counts as dead. None if it is certainly alive."""

    heartbeat_at: float = 0.0
    """Last heartbeat of the process in Unix seconds."""


_INVALID_ADDRESS_CODES: Final = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EINVAL})
"""Codes of an address that is not one of this machine."""


_EXHAUSTION_CODES: Final = frozenset(
    {errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ENOSPC}
)
"""Codes of a system without free files, memory or space."""


_TEMPORARY_LOOKUP_CODES: Final = frozenset({socket.EAI_AGAIN, socket.EAI_MEMORY})
"""Codes of a failed look-up of a host name that may succeed later."""


def build_bind_error(error: Exception, host: str, port: int, purpose: str) -> ConfigurationError:
    """Return the error for an address that cannot be bound, with the fix.

    It is an UnavailableError unless the address is invalid. ``purpose`` is what is served there,
    such as "metrics".
    """
    code = error.errno if isinstance(error, OSError) else None
    if isinstance(error, socket.gaierror):
        is_invalid = code not in _TEMPORARY_LOOKUP_CODES
    else:
        is_invalid = code is None or code in _INVALID_ADDRESS_CODES
    if is_invalid:
        msg = f"Invalid address {host!r}, port {port}: expected an address of this machine ({error})."
        return ConfigurationError(msg)
    if code == errno.EADDRINUSE:
        return UnavailableError(
            f"Port {port} of {host} is in use, so {purpose} cannot be served there. "
            "Stop the process that listens on it, or use another port, or 0 for a free one."
        )
    if code == errno.EACCES:
        return UnavailableError(
            f"Port {port} of {host} needs more permissions, so {purpose} cannot be served there. "
            "Use a port from 1024 up, or 0 for a free one."
        )
    return UnavailableError(
        f"Port {port} of {host} cannot be opened ({error}), so {purpose} cannot be served there. "
        "Check the limits of open files and of memory."
    )


def build_thread_error(error: Exception) -> UnavailableError:
    """Return the error for a thread that cannot be started."""
    return UnavailableError(
        f"No further thread can be started ({error}). "
        "Raise the limit of threads (ulimit -u, or pids.max of the container)."
    )


def is_thread_error(error: BaseException) -> bool:
    """True for the error of a thread that cannot be started."""
    return isinstance(error, RuntimeError) and "new thread" in str(error)


def to_unavailable_error(error: Exception) -> UnavailableError | None:
    """Return the UnavailableError for an error of the environment.

    Return None for another error.
    """
    if isinstance(error, UnavailableError):
        return error
    if is_thread_error(error):
        return build_thread_error(error)
    if isinstance(error, OSError) and error.errno in _EXHAUSTION_CODES:
        return UnavailableError(
            f"The system has no resources left ({error}). Raise the limit of open files or memory."
        )
    return None
