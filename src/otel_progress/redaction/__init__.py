"""Redaction of secrets in displayed, stored and exported texts.

Metadata, errors and log records are redacted when they are recorded. A hot loop can set a message
a million times, so messages are redacted when a snapshot is taken. Nothing is redacted until
``configure()`` activates it.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final, TypeAlias, TypeVar

from otel_progress.diagnostics import report_internal_error
from otel_progress.interrupts import is_interrupt
from otel_progress.model import LevelSnapshot, MetadataValue
from otel_progress.text import MAX_NAME, MAX_TEXT, truncate

Hook: TypeAlias = Callable[[str, str], str]
"""Function of the application that redacts a text. Arguments are a key and the text. The key is
that of metadata or of a log attribute, or one of ``message``, ``error``, ``details``, ``log`` and
``name``.
"""


_SHORTEST_SECRET: Final = 15
"""Characters of the shortest secret that the patterns find without a key before it."""


_find_mark: Final = re.compile(r"[=:@<]|--|\s-").search
"""Finds characters before a secret in a short text."""


MAX_CACHED_MESSAGES: Final = 2_048
"""Messages in the cache of redacted messages. Beyond it the cache is cleared."""


K = TypeVar("K", bound=str)


class Redactor:
    """Redaction by the built-in patterns, then by the hook of the application.

    Thread-safe. The cache of redacted messages is bounded.
    """

    def __init__(self, hook: Hook | None = None, *, max_cached_messages: int = MAX_CACHED_MESSAGES) -> None:
        # Why here: compiling the patterns takes time, and instrumented libraries do not need them.
        from otel_progress.redaction import patterns

        self._mark = patterns.REDACTED
        self._redact_plain_text = patterns.redact_text
        self._is_sensitive_key = patterns.is_sensitive_key
        self._hook = hook
        self.has_no_hook = hook is None
        self._thread_state = threading.local()
        self._max_cached_messages = max_cached_messages
        self._cached_messages: dict[str, str] = {}

    def redact_text(self, key: str, text: str, limit: int = MAX_TEXT) -> str:
        """Return the redacted text of ``key``, at most ``limit`` characters."""
        clean = self._redact_plain_text(text)
        if self._hook is not None:
            clean = self._call_hook(self._hook, key, clean)
        return clean if clean is text else truncate(clean, limit)

    def redact_by_patterns(self, text: str) -> str:
        """Return a text redacted by the built-in patterns only, at most 256 characters."""
        clean = self._redact_plain_text(text)
        return clean if clean is text else truncate(clean, MAX_NAME)

    def redact_message(self, text: str) -> str:
        """Return a redacted message, from the cache if possible."""
        clean = self._cached_messages.get(text)
        if clean is None:
            clean = self.redact_text("message", text)
            if len(self._cached_messages) >= self._max_cached_messages:
                self._cached_messages = {}
            self._cached_messages[text] = clean
        return clean

    def redact_metadata(self, metadata: Mapping[K, MetadataValue]) -> dict[K, MetadataValue]:
        """Return metadata with redacted texts. All values of sensitive keys are replaced."""
        return {key: self._redact_metadata_value(key, value) for key, value in metadata.items()}

    def _redact_metadata_value(self, key: str, value: MetadataValue) -> MetadataValue:
        if self._is_sensitive_key(key) and type(value) is not bool:  # has_password=True is not a secret
            return self._mark
        if type(value) is str:
            return self.redact_text(key, value)
        if type(value) is tuple and value and type(value[0]) is str:
            return tuple(self.redact_text(key, str(element)) for element in value)
        return value

    def _call_hook(self, hook: Hook, key: str, text: str) -> str:
        """Return the text from the hook. If the hook fails, the whole text is redacted."""
        if getattr(self._thread_state, "is_in_hook", False):  # the hook itself records progress
            return text
        self._thread_state.is_in_hook = True
        try:
            clean = hook(key, text)
        except Exception as error:
            if is_interrupt(error):
                raise
            report_internal_error(
                "redaction", "The redact= function raised. The text is redacted.", error=error
            )
            return self._mark
        finally:
            self._thread_state.is_in_hook = False
        if not isinstance(clean, str):
            text = f"Invalid result of the redact= function: expected a text, not a {type(clean).__name__}."
            report_internal_error("redaction", f"{text} The text is redacted.")
            return self._mark
        return clean


class _RedactorSlot:
    """Holds the active redactor. None while nothing is redacted."""

    __slots__ = ("current",)

    def __init__(self) -> None:
        self.current: Redactor | None = None


redactor_slot: Final = _RedactorSlot()
"""Slot of this process."""


def redact_value(key: str, text: str, limit: int = MAX_TEXT) -> str:
    """Return a text redacted by the active redactor."""
    active = redactor_slot.current
    return text if active is None else active.redact_text(key, text, limit)


def redact_message(text: str) -> str:
    """Return a message redacted by the active redactor."""
    active = redactor_slot.current
    return text if active is None else active.redact_message(text)


def redact_name(text: str) -> str:
    """Return a redacted name of an operation, level, item or batch, or a unit."""
    active = redactor_slot.current
    # Why this check: every item calls this. A short text without a mark contains no secret.
    if active is None or (len(text) < _SHORTEST_SECRET and _find_mark(text) is None and active.has_no_hook):
        return text
    return active.redact_text("name", text, MAX_NAME)


def redact_id(text: str) -> str:
    """Return a redacted id, type, key or logger name.

    The hook is not called, because different ids must stay different.
    """
    active = redactor_slot.current
    # Why this check: every start of a level calls this.
    if active is None or (len(text) < _SHORTEST_SECRET and _find_mark(text) is None):
        return text
    return active.redact_by_patterns(text)


def redact_snapshot(snapshot: LevelSnapshot) -> LevelSnapshot:
    """Return a snapshot with a redacted message.

    Call it without a lock, because the hook is foreign code.
    """
    active, message = redactor_slot.current, snapshot.message
    if active is None or message is None:
        return snapshot
    clean = active.redact_message(message)
    return snapshot if clean == message else replace_message(snapshot, clean)


def replace_message(snapshot: LevelSnapshot, message: str) -> LevelSnapshot:
    """Return a copy of a snapshot with another message."""
    return replace(snapshot, message=message)
