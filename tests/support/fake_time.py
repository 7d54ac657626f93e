"""The time of a journal under test."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.support.factories import CLOCK, WALL


@dataclass
class FakeTime:
    """Wall and monotonic clock of the journal under test, moved by hand; sleeping moves both."""

    now: float = WALL
    clock: float = CLOCK
    naps: list[float] = field(default_factory=list)

    def read_now(self) -> float:
        """Return Unix seconds."""
        return self.now

    def read_clock(self) -> float:
        """Return monotonic seconds."""
        return self.clock

    def pass_(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
        self.clock += seconds

    def sleep(self, seconds: float) -> None:
        """Sleep in no time."""
        self.naps.append(seconds)
        self.pass_(seconds)
