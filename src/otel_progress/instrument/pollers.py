"""Pollers, which the ticker calls once per tick to read progress of libraries.

Pollers belong to the process, not to a runtime. So they stay registered before ``configure()`` is
called, in a forked child, and after a shutdown.
"""

from __future__ import annotations

from typing import Protocol

from otel_progress.diagnostics import report_internal_error


class Poller(Protocol):
    """Reads progress once per tick, on the thread of the ticker."""

    @property
    def is_active(self) -> bool:
        """True while there is something to read. The ticker sleeps only if it is False."""

    def poll(self) -> object:
        """Read the progress and write it to levels."""


class _Pollers:
    """Registered pollers. The tuple is replaced, so that the ticker needs no lock."""

    __slots__ = ("registered",)

    def __init__(self) -> None:
        self.registered: tuple[Poller, ...] = ()


_pollers = _Pollers()


def add_poller(poller: Poller) -> None:
    """Register a poller. Do nothing if it is registered.

    A poller that becomes active calls ``LiveStore.notify_change()``, which wakes the ticker.
    """
    if poller not in _pollers.registered:
        _pollers.registered = (*_pollers.registered, poller)


def has_active_poller() -> bool:
    """Return whether a poller has something to read."""
    return any(poller.is_active for poller in _pollers.registered)


def run_pollers() -> None:
    """Call all active pollers.

    The ticker calls it before it collects changes. Never raises.
    """
    for poller in _pollers.registered:
        try:
            if poller.is_active:
                poller.poll()
        except Exception as error:
            report_internal_error(
                "integration", "Progress of another library could not be read.", error=error
            )
