"""Every exception this package raises on purpose.

They exist for the edges (configuration, command line, files, missing extras) and for ``strict`` mode.
Instrumented code never sees one of them by default: there a bad value is counted, warned about once and ignored.
"""

from __future__ import annotations


class ProgressError(Exception):
    """Base of all errors of otel-progress; its text says what was wrong, what was expected and the fix."""


class ConfigurationError(ProgressError, ValueError):
    """A setting (argument, environment variable, option, URL) has a value that cannot be used."""


class MissingExtraError(ProgressError, ImportError):
    """An optional dependency is not installed; the text names the ``pip`` command that installs it."""

    def __init__(self, feature: str, extra: str) -> None:
        msg = f"{feature} needs packages that are not installed. Install them with: pip install 'otel-progress[{extra}]'"
        super().__init__(msg)


class JournalError(ProgressError, OSError):
    """The journal cannot be opened, read or written (missing, read-only, locked, full, corrupt, too new)."""

    is_temporary: bool = False
    """True when another process holds the journal's lock, so that the same call may succeed a moment later."""


class PreviewError(ProgressError, ValueError):
    """A preview cannot be made of what was given, or its content is not there. Callers of ``Level.preview`` never see it: it is counted."""


class RejectedValueError(ProgressError, ValueError):
    """``strict`` only: a progress value that would have been ignored (negative, NaN, beyond the total, after the end)."""


class RejectedTypeError(ProgressError, TypeError):
    """``strict`` only: a progress value of the wrong type."""


class OperationCancelledError(ProgressError):
    """Somebody asked for the operation to stop: raised by ``track`` between two elements and by ``Level.check_cancelled``.

    A level that it leaves counts as cancelled, not failed.
    """
