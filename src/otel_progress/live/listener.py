"""Notifications of the live store to its owner."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from otel_progress.live.node import CallSite, Node
from otel_progress.semconv import RejectionReason


class StoreListener(Protocol):
    """Receives the notifications of one live store, without the store's lock.

    Only ``on_rejection`` may raise an exception that the caller of the store receives.
    """

    def on_change(self) -> None:
        """Receive that the next tick has changes to collect.

        Called at every start of a level.
        """

    def on_rejection(self, reason: RejectionReason, text: str) -> None:
        """Receive a rejected call. Raises an exception to report it to the caller."""

    def on_late_rejection(self, reason: RejectionReason, text: str, call_site: CallSite | None) -> None:
        """Receive a rejected value that was found after the call returned.

        ``call_site`` is that of the level, if known.
        """

    def on_operation_started(self, root: Node) -> None:
        """Receive the root of an operation that started."""

    def on_shared_level_ending(self, node: Node) -> None:
        """Receive a level that is about to end, and on which other processes may work."""

    def on_parent_ending(self, node: Node) -> None:
        """Receive a level that is about to end while levels below it run."""

    def on_level_ended(self, node: Node) -> None:
        """Receive a level that ended, an operation's root included."""

    def on_level_collected(self, node: Node) -> None:
        """Receive a level that the current tick reports."""

    def on_event_dropped(self) -> None:
        """Receive that an event or log record was dropped because a buffer is full."""

    def on_completed_key_dropped(self) -> None:
        """Receive that a completed key was not recorded because an operation has too many."""

    def on_previews_deleted(self, locations: Sequence[str]) -> None:
        """Receive the locations of the previews of deleted operations."""


class NullListener:
    """Listener that ignores every notification."""

    def on_change(self) -> None:
        """Ignore it."""

    def on_rejection(self, reason: RejectionReason, text: str) -> None:
        """Ignore it."""

    def on_late_rejection(self, reason: RejectionReason, text: str, call_site: CallSite | None) -> None:
        """Ignore it."""

    def on_operation_started(self, root: Node) -> None:
        """Ignore it."""

    def on_shared_level_ending(self, node: Node) -> None:
        """Ignore it."""

    def on_parent_ending(self, node: Node) -> None:
        """Ignore it."""

    def on_level_ended(self, node: Node) -> None:
        """Ignore it."""

    def on_level_collected(self, node: Node) -> None:
        """Ignore it."""

    def on_event_dropped(self) -> None:
        """Ignore it."""

    def on_completed_key_dropped(self) -> None:
        """Ignore it."""

    def on_previews_deleted(self, locations: Sequence[str]) -> None:
        """Ignore it."""
