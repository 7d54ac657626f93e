"""The generated dashboards: form, links, thresholds and texts without data."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from grafana.names import FOLDER, PLACES, TAG
from grafana.states import ENDED_EARLY, GREY, NUMBERS, RED, TEXT, mapping
from grafana.writing import DASHBOARDS, differing, files

from otel_progress.model import Status
from otel_progress.operations import Condition
from tests.support.grafana.dashboards import boards, panels, query_of, variables

ROOT = Path(__file__).parents[2]
BOARDS = boards()
PANELS = [(name, panel) for name, board in BOARDS.items() for panel in panels(board)]
GREENS = re.compile("green|#73bf69|#56a64b", re.IGNORECASE)
MERGED = {"progress-overview.json", "progress-operation.json"}
LINKS = re.compile(r"/d/(?P<uid>[\w-]+)")

each_board = pytest.mark.parametrize("name", BOARDS)
each_panel = pytest.mark.parametrize(
    ("name", "panel"), PANELS, ids=lambda value: value["title"] if isinstance(value, dict) else value[9:-5]
)


def columns(panel: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the properties of a panel's overrides by the name of the column."""
    found = panel.get("fieldConfig", {}).get("overrides", ())
    return {
        one["matcher"]["options"]: {each["id"]: each["value"] for each in one["properties"]} for one in found
    }


def test_committed_dashboards_match_the_generator() -> None:
    """The files are equal byte for byte, and there is no other file."""
    assert differing(DASHBOARDS) == []
    assert set(files()) == set(BOARDS)


@pytest.mark.process
def test_check_with_different_files_names_each_and_fails(tmp_path: Path) -> None:
    """A changed, a missing and an unknown file are reported."""
    for name, content in files().items():
        (tmp_path / name).write_bytes(content)
    assert differing(tmp_path) == []
    (tmp_path / "progress-self.json").write_text("{}")
    (tmp_path / "progress-history.json").unlink()
    (tmp_path / "mine.json").write_text("{}")
    assert differing(tmp_path) == ["mine.json", "progress-history.json", "progress-self.json"]
    done = subprocess.run(
        [sys.executable, "-m", "grafana", "--check"], cwd=ROOT, capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")


@each_board
def test_dashboard_head_has_fixed_uid_and_no_import_inputs(name: str) -> None:
    """The head has the classic schema, the tag, and no id of a Grafana instance."""
    board = BOARDS[name]
    (place,) = [place for place in PLACES if place.file == name]
    assert (board["uid"], board["title"], board["tags"], board["editable"]) == (
        place.uid,
        place.title,
        [TAG],
        False,
    )
    assert board["schemaVersion"] <= 42
    assert board.get("id") is None
    assert not {"__inputs", "__requires", "__elements", "apiVersion", "spec"} & set(board)
    assert "${DS_" not in json.dumps(board)
    assert FOLDER == "Progress"


@each_board
def test_panels_have_unique_ids_and_do_not_overlap(name: str) -> None:
    """Panels lie within the grid, with open and with closed rows."""
    board = BOARDS[name]
    everything = list(panels(board, rows=True))
    assert len({panel["id"] for panel in everything}) == len(everything)
    for panel in everything:
        place = panel["gridPos"]
        assert place["x"] >= 0
        assert place["x"] + place["w"] <= 24
        assert place["h"] >= 1
    for one, other in combinations([panel["gridPos"] for panel in everything], 2):
        apart = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert apart or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"], (one, other)


def test_overview_before_rows_has_at_most_twelve_panels() -> None:
    """Panels in closed rows do not count."""
    shown = [panel for panel in BOARDS["progress-overview.json"]["panels"] if panel["type"] != "row"]
    assert len(shown) <= 12


@each_board
def test_dashboard_links_pass_time_and_variables(name: str) -> None:
    """The head links to the three other dashboards, which have the variables."""
    board = BOARDS[name]
    uids = {one["uid"]: one for one in BOARDS.values()}
    assert {link["url"] for link in board["links"]} == {f"/d/{uid}" for uid in uids if uid != board["uid"]}
    assert all(link["keepTime"] and link["includeVars"] and link["type"] == "link" for link in board["links"])
    carried = {
        "prometheus_datasource",
        "tempo_datasource",
        "loki_datasource",
        "job",
        "instance",
        "operation_type",
        "operation_id",
    }
    assert carried <= {one["name"] for one in board["templating"]["list"]}


@each_panel
def test_cell_links_lead_to_existing_dashboards(name: str, panel: dict[str, Any]) -> None:
    """A link sets an existing variable from a column of the table, or opens Explore."""
    uids = {board["uid"]: board for board in BOARDS.values()}
    for link in [link for properties in columns(panel).values() for link in properties.get("links", ())]:
        fields = set(re.findall(r'__data\.fields\["(.+?)"\]', unquote(link["url"])))
        assert fields <= set(columns(panel))
        if link["url"].startswith("/explore"):
            (panes,) = parse_qs(urlsplit(link["url"]).query)["panes"]
            (pane,) = json.loads(panes).values()
            assert pane["datasource"] == "${tempo_datasource}"
            assert pane["range"] == {"from": "${__from}", "to": "${__to}"}
            continue
        target = uids[LINKS.match(link["url"])["uid"]]  # type: ignore[index]
        known = {one["name"] for one in target["templating"]["list"]}
        assert "${__url_time_range}" in link["url"]
        assert {
            *re.findall(r"var-(\w+)=", link["url"]),
            *re.findall(r"\${(\w+):queryparam}", link["url"]),
        } <= known
    assert name in BOARDS


@each_panel
def test_panel_without_data_has_a_message(name: str, panel: dict[str, Any]) -> None:
    """A table has a text for its empty cells as well, never 0 or NaN."""
    assert name
    if panel["type"] == "text":  # Its value is that of a variable, which always has one.
        return
    message = panel["fieldConfig"]["defaults"]["noValue"]
    assert message.strip()
    assert not re.search(r"\bNaN\b|^0|No data", message)
    if panel["type"] == "table":
        words = {properties["noValue"] for properties in columns(panel).values()}
        assert words <= {"unknown", "–"}
        assert "unknown" in words


@each_panel
def test_thresholds_without_data_are_not_green(name: str, panel: dict[str, Any]) -> None:
    """The lowest colour of thresholds is also the colour without data."""
    assert name
    for thresholds in threshold_lists(panel):
        assert thresholds[0]["value"] is None
        assert not GREENS.search(thresholds[0]["color"])
        assert [one["value"] for one in thresholds[1:]] == sorted(one["value"] for one in thresholds[1:])


def threshold_lists(panel: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """Return the steps of all thresholds of a panel."""
    config = panel.get("fieldConfig", {})
    found = [config.get("defaults", {}).get("thresholds")]
    found += [properties.get("thresholds") for properties in columns(panel).values()]
    return [one["steps"] for one in found if one]


@each_panel
def test_panel_outside_the_linter_has_required_options(name: str, panel: dict[str, Any]) -> None:
    """Grafana's linter does not know these kinds of panels."""
    assert name
    kind, options, defaults = (
        panel["type"],
        panel.get("options", {}),
        panel.get("fieldConfig", {}).get("defaults", {}),
    )
    if kind == "table":
        assert options["sortBy"][0]["displayName"] in columns(panel)
        assert all("unit" in properties for properties in columns(panel).values())
        widths = {"custom.width", "custom.minWidth"}
        assert all(widths & set(properties) for properties in columns(panel).values()), (
            "a narrow screen leaves 60 pixels"
        )
        (organise,) = [one["options"] for one in panel["transformations"] if one["id"] == "organize"]
        assert set(organise["renameByName"].values()) == set(columns(panel))
    elif kind in ("bargauge", "gauge"):
        assert defaults["min"] == 0
    elif kind == "state-timeline":
        assert defaults["mappings"] == json.loads(json.dumps(mapping(), default=lambda one: one.to_json()))
    elif kind == "timeseries":
        assert options["legend"]["showLegend"] is True
        assert options["tooltip"]["mode"] == "multi"
        per_interval = any("$__interval_ms" in target["expr"] for target in panel["targets"])
        assert per_interval is (panel.get("interval") == "1m"), (
            "of less than four scrapes no event is one column"
        )
        added_up = "sum" in options["legend"]["calcs"]
        assert not (
            added_up
            and any("[$__rate_interval]" in target["expr"] for target in panel["targets"])
            and not per_interval
        )
    elif kind == "stat":
        assert options["graphMode"] == "none"
        assert all(target["instant"] for target in panel["targets"]), (
            "an old value would be shown as if it still held"
        )
    if kind != "timeseries" and kind != "heatmap" and kind != "state-timeline":
        assert all(
            target.get("instant")
            for target in panel.get("targets", ())
            if target["datasource"]["type"] == "prometheus"
        )


def test_failed_columns_are_red_above_zero_only() -> None:
    """In every table, for counts and ratios. A missing value is grey."""
    found = [
        (panel["title"], columns(panel)["Failed"])
        for _, panel in PANELS
        if panel["type"] == "table" and "Failed" in columns(panel)
    ]
    assert [title for title, _ in found] == ["By type", "Operations", "Batches"]
    for title, properties in found:
        assert properties["custom.cellOptions"] == {"type": "color-text"}, title
        thresholds = properties["thresholds"]["steps"]
        assert [step["color"] for step in thresholds] == [GREY, TEXT, RED]
        assert [step["value"] for step in thresholds[:2]] == [None, 0]
        assert 0 < thresholds[2]["value"] < 1e-6


def test_state_mapping_is_shared_and_has_distinct_colours() -> None:
    """Every state has a number, a word and a colour other than that of unknown."""
    states = {*Status, *Condition, ENDED_EARLY} - {Condition.OK}
    assert set(NUMBERS) == states
    options = json.loads(json.dumps(mapping(), default=lambda one: one.to_json()))[0]["options"]
    assert {key for key in options if not key.isdigit()} == {str(state) for state in states}
    by_word = {one["text"]: one["color"] for one in options.values()}
    assert len(set(by_word.values())) == len(by_word)
    assert [word for word, colour in by_word.items() if GREENS.search(colour)] == [Status.COMPLETED.value]
    shared = [
        one
        for _, panel in PANELS
        for one in (
            panel.get("fieldConfig", {}).get("defaults", {}).get("mappings"),
            *(each.get("mappings") for each in columns(panel).values()),
        )
        if one and any(str(word) in one[0].get("options", {}) for word in states)
    ]
    assert shared
    assert all(one[0]["options"] == options for one in shared)


def test_preview_image_keeps_its_aspect_ratio() -> None:
    """The style passes Grafana's sanitizer, which removes object-fit."""
    (one,) = [
        variable
        for variable in BOARDS["progress-operation.json"]["templating"]["list"]
        if variable["name"] == "preview"
    ]
    styles = [
        dict(rule.split(": ") for rule in style.split("; "))
        for style in re.findall(r"style='(.*?)'", query_of(one))
    ]
    assert {name for style in styles for name in style} == {"max-width", "max-height", "text-align"}


def test_guide_has_an_image_of_each_dashboard() -> None:
    """The page on Grafana shows each dashboard."""
    guide = (ROOT / "docs" / "grafana.md").read_text("utf-8")
    shown = set(re.findall(r"\]\((images/grafana-[\w-]+\.png)\)", guide))
    assert {
        f"images/grafana-{place.file.removeprefix('progress-').removesuffix('.json')}.png" for place in PLACES
    } <= shown
    for picture in shown:
        assert (ROOT / "docs" / picture).read_bytes().startswith(b"\x89PNG")


@each_board
def test_dashboard_time_ends_now_and_refreshes(name: str) -> None:
    """The refresh interval is one of those that the dashboard offers."""
    board = BOARDS[name]
    assert board["time"]["to"] == "now"
    assert board["refresh"] in board["timepicker"]["refresh_intervals"]
    assert all(one.get("description") for one in variables(board, "query", "datasource", "custom"))
