"""Clock of a journal under test."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.support.factories import CLOCK, WALL


@dataclass
class FakeTime:
    """Wall and monotonic clock that the test advances; sleeping advances both."""

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
        """Advance the time."""
        self.now += seconds
        self.clock += seconds

    def sleep(self, seconds: float) -> None:
        """Advance the time without waiting."""
        self.naps.append(seconds)
        self.pass_(seconds)
