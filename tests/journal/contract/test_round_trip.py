"""Round trip of any records through a journal."""

from __future__ import annotations

import math
import tempfile
from contextlib import closing
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from otel_progress.journal import SqliteJournal
from otel_progress.model import LevelSnapshot
from otel_progress.operations import Event
from tests.support.examples import scale_examples
from tests.support.factories import WALL, make_change_set
from tests.support.strategies import EVENTS, PATH, snapshots


@settings(max_examples=scale_examples(30), suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_tree_with_events_is_read_unchanged(data: st.DataObject) -> None:
    """The last of two writes is read."""
    paths = data.draw(st.lists(PATH, unique=True, max_size=4))
    events: list[Event] = data.draw(EVENTS)
    with (
        tempfile.TemporaryDirectory() as directory,
        closing(_open_journal(Path(directory, "j.db"))) as journal,
    ):
        kept: dict[str, LevelSnapshot] = {}
        for _ in range(2):
            tick = [data.draw(snapshots(path)) for path in ("", *paths)]
            journal.write(make_change_set(*tick, events=events))
            for each in tick:
                if each.path not in kept or kept[each.path].sequence < each.sequence:
                    kept[each.path] = each
        found = journal.get("friday-42")
        assert found is not None
        assert found.root == kept.pop("")
        assert {level.path: level for level in found.levels} == kept
        assert list(journal.events("friday-42")) == sorted(events, key=lambda item: item.number)


def _open_journal(path: Path) -> SqliteJournal:
    return SqliteJournal(path, retention_s=math.inf, now=lambda: WALL)
