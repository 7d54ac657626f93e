"""Types of the dashboards' JSON: only keys and values of Grafana's schemas."""

from __future__ import annotations

import copy
import json
from typing import Any

import grafana  # noqa: F401 - before the SDK, whose warnings it answers
import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard
from jsonschema import Draft202012Validator

from tests.support.grafana import panel_schemas as schemas
from tests.support.grafana.dashboards import boards, panels, targets

BOARDS = boards()
OURS = [(name, panel) for name, board in BOARDS.items() for panel in panels(board)]
VALIDATORS = {kind: Draft202012Validator(schemas.of_panel(kind)) for kind in schemas.MODULES}
QUERY = Draft202012Validator(schemas.of_query())
NO_SCHEMA = {"traces": "Grafana publishes none for it: it has no options"}
OVERRIDES = {
    "unit",
    "decimals",
    "min",
    "max",
    "mappings",
    "thresholds",
    "color",
    "links",
    "noValue",
    "displayName",
}


@pytest.mark.parametrize(
    ("name", "panel"), OURS, ids=lambda value: value["title"] if isinstance(value, dict) else value[9:-5]
)
def test_panel_matches_the_schema_of_its_kind(name: str, panel: dict[str, Any]) -> None:
    """Options and field settings are checked, too."""
    assert name
    if panel["type"] in NO_SCHEMA:
        assert not panel.get("options")
        return
    assert [error.message for error in VALIDATORS[panel["type"]].iter_errors(panel)] == []


@pytest.mark.parametrize(
    ("name", "panel"), OURS, ids=lambda value: value["title"] if isinstance(value, dict) else value[9:-5]
)
def test_overrides_match_the_schema(name: str, panel: dict[str, Any]) -> None:
    """An override sets a field setting with a value of the right type."""
    assert name
    for override in panel.get("fieldConfig", {}).get("overrides", ()):
        for one in override["properties"]:
            known = VALIDATORS[panel["type"]].schema["$defs"]["dashboard.FieldConfig"]["properties"]
            key, _, below = one["id"].partition(".")
            if key == "custom":
                known, key = known["custom"]["properties"], below
            else:
                assert key in OVERRIDES
            part = {**known[key], "$defs": VALIDATORS[panel["type"]].schema["$defs"]}
            assert [error.message for error in Draft202012Validator(part).iter_errors(one["value"])] == [], (
                one
            )


def test_queries_match_the_classic_schema() -> None:
    """Newer dashboards wrap queries in another form."""
    for target in targets():
        if target.kind == "prometheus":
            assert [error.message for error in QUERY.iter_errors(target.json)] == [], str(target)


@pytest.mark.parametrize("name", BOARDS)
def test_dashboard_in_the_sdk_round_trips(name: str) -> None:
    """The types of Grafana's SDK read and write a dashboard without loss."""
    again = json.loads(
        json.dumps(dashboard.Dashboard.from_json(copy.deepcopy(BOARDS[name])), cls=JSONEncoder)
    )
    assert again == BOARDS[name]


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("table", ("options", "cellHeight"), "huge"),
        ("stat", ("options", "colourMode"), "value"),
        ("timeseries", ("fieldConfig", "defaults", "custom", "drawStyle"), "dots"),
        ("state-timeline", ("fieldConfig", "defaults", "custom", "lineThickness"), 2),
        ("bargauge", ("options", "displayMode"), 3),
        ("gauge", ("fieldConfig", "defaults", "min"), "0"),
        ("heatmap", ("options", "color", "scheme"), 7),
    ],
)
def test_panel_with_wrong_option_is_rejected(kind: str, path: tuple[str, ...], value: object) -> None:
    """Each schema rejects unknown keys and values of another type."""
    panel = copy.deepcopy(next(panel for _, panel in OURS if panel["type"] == kind))
    place = panel
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert list(VALIDATORS[kind].iter_errors(panel))
