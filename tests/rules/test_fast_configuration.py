"""Differences between test and shipped configuration: times and addresses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.alerting.fast_configuration import (
    GLOBAL_TIMES,
    ROUTE_TIMES,
    RULE_TIMES,
    quick_alertmanager,
    quick_prometheus,
    quick_rules,
)
from tests.support.alerting.rules import ALERTMANAGER, CONFIG, RULE_FILES, load


def changes(before: Any, after: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield the path of every difference between two documents."""
    if isinstance(before, dict) and isinstance(after, dict) and before.keys() == after.keys():
        for key in before:
            yield from changes(before[key], after[key], (*path, key))
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for number, pair in enumerate(zip(before, after, strict=True)):
            yield from changes(*pair, (*path, number))
    elif before != after:
        yield path


@pytest.mark.parametrize("file", RULE_FILES, ids=lambda file: file.name)
def test_fast_rules_differ_in_times_only(file: Any) -> None:
    """Expressions, labels and annotations are unchanged."""
    document = load(file)
    changed = list(changes(document, quick_rules(document)))
    assert changed
    assert {path[-1] for path in changed} <= {"interval", *RULE_TIMES}


def test_fast_prometheus_differs_in_times_and_addresses_only() -> None:
    """Jobs, authorization, external labels and relabelling are unchanged."""
    document = load(CONFIG)
    changed = list(changes(document, quick_prometheus(document, {"otel-progress-worker": 1}, 2)))
    assert {path[1] for path in changed if path[0] == "global"} == set(GLOBAL_TIMES)
    others = [path for path in changed if path[0] != "global"]
    assert others
    assert all("targets" in path for path in others)


def test_fast_alertmanager_differs_in_waits_and_addresses_only() -> None:
    """Routes, grouping and inhibition are unchanged."""
    document = load(ALERTMANAGER)
    changed = list(changes(document, quick_alertmanager(document, 1)))
    assert {path[-1] for path in changed} == {"url", *ROUTE_TIMES}
