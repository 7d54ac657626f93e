"""Levels of runs of other processes, which the store only passes on."""

from __future__ import annotations

import pytest

from otel_progress import semconv
from otel_progress.live import state
from otel_progress.testing import recording
from tests.support.factories import snapshot


def test_relayed_levels_beyond_the_limit_drop_and_count_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tick passes the others on, in their order."""
    monkeypatch.setattr(state, "MAX_WAITING_RELAYED", 3)
    with recording() as recorder:
        store = recorder.runtime._store
        store.relay_levels(snapshot(f"task:{number}") for number in range(5))
        assert [level.path for level in store.collect().relayed] == ["task:2", "task:3", "task:4"]
        assert store.collect().relayed == []
        assert recorder.runtime._totals.read().counters[semconv.EVENTS_DROPPED] == {("event",): 2}
