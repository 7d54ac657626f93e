"""Table of estimates and their later values, for the package and the page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from otel_progress.model import Eta, Status
from otel_progress.operations import Condition, OperationSnapshot
from tests.support.factories import CLOCK, WALL, operation, snapshot


@dataclass(frozen=True)
class EtaCase:
    """An estimate, the seconds without an advance, and the expected later estimate.

    ``text`` is its text in a terminal.
    """

    name: str
    eta: Eta
    seconds: float
    expected: Eta
    text: str


def eta(
    remaining_s: float | None, low_s: float | None = None, high_s: float | None = None, **fields: Any
) -> Eta:
    """Return an estimate made at the start, from five earlier runs."""
    given = {"state": "estimated", "basis": "history", "runs": 5, "clock": CLOCK}
    return Eta(remaining_s, low_s, high_s, **{**given, **fields})


def _later(seconds: float, *bounds: float | None, **fields: Any) -> Eta:
    return eta(*bounds, clock=CLOCK + seconds, **fields)


WAITS: Final = eta(300.0, 240.0, 420.0, counts_down_s=30.0, stalls_after_s=90.0)
"""An estimate that counts down for half a minute, waits for a minute, and then has only a lower
bound.
"""
STALLED: Final = {"state": "stalled", "counts_down_s": 0.0, "stalls_after_s": 0.0}
CASES: Final = (
    EtaCase("new", WAITS, 0.0, WAITS, "5m 00s left (4m to 7m)"),
    EtaCase("from the future", WAITS, -10.0, WAITS, "5m 00s left (4m to 7m)"),
    EtaCase(
        "counts down",
        WAITS,
        20.0,
        _later(20.0, 280.0, 220.0, 400.0, counts_down_s=10.0, stalls_after_s=70.0),
        "4m 40s left (3m 40s to 6m 40s)",
    ),
    EtaCase(
        "last second",
        WAITS,
        30.0,
        _later(30.0, 270.0, 210.0, 390.0, counts_down_s=0.0, stalls_after_s=60.0),
        "4m 30s left (3m 30s to 6m 30s)",
    ),
    EtaCase(
        "holds",
        WAITS,
        80.0,
        _later(80.0, 270.0, 210.0, 390.0, state="holding", counts_down_s=0.0, stalls_after_s=10.0),
        "4m 30s left (3m 30s to 6m 30s)",
    ),
    EtaCase("stalls", WAITS, 91.0, _later(91.0, None, 210.0, None, **STALLED), "at least 3m 30s left"),
    EtaCase("stays stalled", WAITS, 9e6, _later(9e6, None, 210.0, None, **STALLED), "at least 3m 30s left"),
    EtaCase(
        "stalls without an interval",
        eta(300.0, counts_down_s=30.0, stalls_after_s=90.0),
        91.0,
        _later(91.0, None, 270.0, None, **STALLED),
        "at least 4m 30s left",
    ),
    EtaCase("runs out", eta(5.0, 3.0, 9.0), 60.0, _later(60.0, 0.0, 0.0, 0.0), "any moment"),
    EtaCase(
        "may take longer", eta(5.0, 3.0, 90.0), 60.0, _later(60.0, 0.0, 0.0, 30.0), "any moment (0s to 30s)"
    ),
    EtaCase("one bound", eta(50.0, None, 90.0), 10.0, _later(10.0, 40.0, None, 80.0), "40s left"),
    EtaCase(
        "unknown",
        eta(None, state="unknown", basis="none"),
        9.0,
        _later(9.0, None, state="unknown", basis="none"),
        "",
    ),
    EtaCase(
        "told stalled",
        eta(None, 30.0, **STALLED),
        9.0,
        _later(9.0, None, 30.0, **STALLED),
        "at least 30s left",
    ),
    EtaCase("no least", eta(None, 0.2, **STALLED), 9.0, _later(9.0, None, 0.2, **STALLED), ""),
)


@dataclass(frozen=True)
class ConditionCase:
    """A root level read one minute after its start, and its later condition.

    No news arrives in between.
    """

    condition: Condition
    seconds: float
    root: dict[str, Any]
    alive: bool = True
    not_reporting_since: float | None = None

    def read(self, seconds: float = 0.0) -> OperationSnapshot:
        """Return the operation as read so many seconds later."""
        return operation(
            snapshot(**self.root),
            read_at=WALL + 60.0 + seconds,
            clock=CLOCK + 60.0 + seconds,
            alive=self.alive,
            not_reporting_since=self.not_reporting_since,
        )


_LONG: Final = {"stall_after_s": 1e6}
CONDITIONS: Final = (
    ConditionCase(Condition.OK, 0.0, {"advanced_clock": CLOCK + 50.0}),
    ConditionCase(Condition.OK, 50.0, {"advanced_clock": CLOCK + 50.0}),
    ConditionCase(Condition.STALLED, 51.0, {"advanced_clock": CLOCK + 50.0}),
    ConditionCase(Condition.STALLED, 1.0, {}),
    ConditionCase(Condition.OK, 1.0, {"stall_after_s": 90.0}),
    ConditionCase(Condition.PAUSED, 1e4, {"paused_clock": CLOCK + 10.0}),
    ConditionCase(Condition.OVERDUE, 41.0, {**_LONG, "overdue_after_s": 100.0}),
    ConditionCase(Condition.OK, 39.0, {**_LONG, "overdue_after_s": 100.0}),
    ConditionCase(Condition.OK, 59.0, {**_LONG, "overdue_after_s": 100.0, "paused_s": 20.0}),
    ConditionCase(Condition.PAUSED, 1e4, {"overdue_after_s": 100.0, "paused_clock": CLOCK + 60.0}),
    ConditionCase(Condition.OVERDUE, 1.0, {"overdue_after_s": 30.0, "paused_clock": CLOCK + 60.0}),
    ConditionCase(Condition.OVERDUE, 1.0, {**_LONG, "deadline_at": WALL + 60.5}),
    ConditionCase(Condition.OK, 0.0, {**_LONG, "deadline_at": WALL + 60.5}),
    ConditionCase(Condition.ABANDONED, 0.0, {"deadline_at": WALL}, alive=False),
    ConditionCase(Condition.NOT_REPORTING, 1e4, {"deadline_at": WALL}, not_reporting_since=WALL),
    ConditionCase(Condition.OK, 1e4, {"status": Status.PENDING, "started_at": None, "started_clock": None}),
    ConditionCase(
        Condition.OK, 1e4, {"status": Status.COMPLETED, "ended_at": WALL + 60.0, "duration_s": 60.0}
    ),
)
