"""Secrets kept out of what is shown, stored and sent: the rules in force, and where they are applied.

Metadata, errors and log records are redacted on their way in; messages, which a hot loop may set a million times, only when a snapshot
of them is made. Nothing is redacted until ``configure`` says so.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final, TypeAlias, TypeVar

from otel_progress.diagnostics import report_internal_error
from otel_progress.model import LevelSnapshot, MetadataValue
from otel_progress.text import MAX_TEXT, truncate

Hook: TypeAlias = Callable[[str, str], str]
"""Called with a key (of metadata or of a log record's attribute, else ``message``, ``error``, ``details`` or ``log``) and a text."""


MAX_REMEMBERED: Final = 2_048
"""Messages whose redacted form is remembered, so that one that stays is looked at once."""


K = TypeVar("K", bound=str)


class Redactor:
    """The rules in force: those above, then the application's own. Used from any thread; what it remembers is bounded."""

    def __init__(self, hook: Hook | None = None) -> None:
        from otel_progress.redaction import (
            patterns as secret_forms,  # its patterns take time to compile, and libraries are not to wait for that
        )

        self._mark = secret_forms.REDACTED
        self._plain = secret_forms.redact_text
        self._sensitive = secret_forms.is_sensitive_key
        self._hook = hook
        self._inside = threading.local()
        self._remembered: dict[str, str] = {}

    def text(self, key: str, text: str, limit: int = MAX_TEXT) -> str:
        """Return the redacted text that stands under ``key``, at most ``limit`` characters."""
        clean = self._plain(text)
        if self._hook is not None:
            clean = self._asked(self._hook, key, clean)
        return clean if clean is text else truncate(clean, limit)

    def message(self, text: str) -> str:
        """Return a redacted message. One that was seen lately costs a look into a dictionary."""
        found = self._remembered.get(text)
        if found is None:
            found = self.text("message", text)
            if len(self._remembered) >= MAX_REMEMBERED:
                self._remembered = {}
            self._remembered[text] = found
        return found

    def metadata(self, metadata: Mapping[K, MetadataValue]) -> dict[K, MetadataValue]:
        """Return metadata with a mark in the place of every value under a sensitive key, and redacted texts under the others."""
        return {key: self._value(key, value) for key, value in metadata.items()}

    def _value(self, key: str, value: MetadataValue) -> MetadataValue:
        if self._sensitive(key) and type(value) is not bool:  # "has_password" is no secret
            return self._mark
        if type(value) is str:
            return self.text(key, value)
        if type(value) is tuple and value and type(value[0]) is str:
            return tuple(self.text(key, str(one)) for one in value)
        return value

    def _asked(self, hook: Hook, key: str, text: str) -> str:
        """Return what the application makes of a text; when that fails nothing of it is shown."""
        if getattr(self._inside, "hook", False):  # it makes progress itself
            return text
        self._inside.hook = True
        try:
            clean = hook(key, text)
        except Exception as error:
            report_internal_error(
                "redaction", "the function given as redact= raised; the text is not shown", error=error
            )
            return self._mark
        finally:
            self._inside.hook = False
        if not isinstance(clean, str):
            report_internal_error(
                "redaction",
                f"the function given as redact= returned a {type(clean).__name__} instead of a text; it is not shown",
            )
            return self._mark
        return clean


class _RedactorSlot:
    """Holds the rules in force, None while nothing is redacted."""

    __slots__ = ("current",)

    def __init__(self) -> None:
        self.current: Redactor | None = None


redactor_slot: Final = _RedactorSlot()
"""The one slot of the process."""


def redact_value(key: str, text: str, limit: int = MAX_TEXT) -> str:
    """Return a text as the rules in force have it."""
    active = redactor_slot.current
    return text if active is None else active.text(key, text, limit)


def redact_message(text: str) -> str:
    """Return a message as the rules in force have it."""
    active = redactor_slot.current
    return text if active is None else active.message(text)


def redact_snapshot(snapshot: LevelSnapshot) -> LevelSnapshot:
    """Return a snapshot as it may leave: with its message redacted. Must be called without a lock, since rules may be foreign code."""
    active, said = redactor_slot.current, snapshot.message
    if active is None or said is None:
        return snapshot
    clean = active.message(said)
    return snapshot if clean == said else with_message(snapshot, clean)


def with_message(snapshot: LevelSnapshot, message: str) -> LevelSnapshot:
    """Return the snapshot with another message."""
    return replace(snapshot, message=message)
