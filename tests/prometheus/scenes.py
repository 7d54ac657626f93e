"""Operations for the tests of metrics, and a Reader that holds them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tests import factories
from tests.factories import CLOCK
from tests.factories import WALL as START

from otel_progress.model import Eta, Event, OperationSnapshot, Snapshot, Status

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
"""A valid trace id."""


def operation(id: str = "op", type: str = "render", elapsed: float = 10.0, **state: Any) -> OperationSnapshot:
    """Return an operation read ``elapsed`` seconds after its start; ``state`` are fields of its root or the root's info."""
    levels = tuple(state.pop("levels", ()))
    names = {"operation_id": id, "operation_type": type, "run": f"run of {id}", "type": type, "name": "An operation"}
    root = factories.snapshot("", **{**names, **_at(elapsed, state)})
    return OperationSnapshot(root, levels, START + elapsed, CLOCK + elapsed, factories.instance())


def level(path: str, elapsed: float = 10.0, **state: Any) -> Snapshot:
    """Return a level at ``path`` of no operation in particular."""
    return factories.snapshot(path, **_at(elapsed, state))


def _at(elapsed: float, state: dict[str, Any]) -> dict[str, Any]:
    """Return ``state`` with the times of a snapshot taken ``elapsed`` seconds after the start."""
    times = {"observed_at": START + elapsed, "observed_clock": CLOCK + elapsed}
    if state.get("status", Status.RUNNING).finished:
        times.update(ended_at=START + elapsed, duration_s=elapsed)
    return {**times, **state}


def eta(remaining: float | None, low: float | None, high: float | None, elapsed: float = 10.0) -> Eta:
    """Return an estimate made ``elapsed`` seconds after the start."""
    return Eta(remaining, low, high, "estimating", "rate", 0, CLOCK + elapsed)


@dataclass
class Shelf:
    """A Reader over two lists; ``elapsed`` is set to let time pass, ``error`` to make every answer fail."""

    running: list[OperationSnapshot] = field(default_factory=list)
    ended: list[OperationSnapshot] = field(default_factory=list)
    elapsed: float = 10.0
    wall_step: float = 0.0
    error: Exception | None = None
    reads: int = 0

    def _now(self, operations: Sequence[OperationSnapshot]) -> list[OperationSnapshot]:
        self.reads += 1
        if self.error is not None:
            raise self.error
        read_at, clock = START + self.elapsed + self.wall_step, CLOCK + self.elapsed
        return [replace(one, read_at=read_at, clock=clock) for one in operations]

    def get(self, operation_id: str) -> OperationSnapshot | None:
        """Return the operation of that id."""
        return next((one for one in self._now([*self.running, *self.ended]) if one.operation_id == operation_id), None)

    def active(self, *, levels: bool = True) -> Sequence[OperationSnapshot]:
        """Return what runs."""
        found = self._now(self.running)
        return found if levels else [replace(one, levels=()) for one in found]

    def history(self, operation_type: str | None = None, limit: int = 100) -> Sequence[OperationSnapshot]:
        """Return what ended."""
        found = [one for one in self._now(self.ended) if operation_type in (None, one.operation_type)]
        return [replace(one, levels=()) for one in found[:limit]]

    def events(self, operation_id: str, **_: Any) -> Sequence[Event]:
        """Return nothing: metrics ask for no events."""
        del operation_id
        return ()

    def watch(self, interval: float = 0.25) -> Iterator[Sequence[OperationSnapshot]]:
        """Yield what runs, once."""
        del interval
        yield self.active()
