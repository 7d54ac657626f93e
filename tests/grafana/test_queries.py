"""Queries of all panels, variables and annotations against a real Prometheus.

A worker runs an hour of simulated operations, backfilled into Prometheus. It ends with an operation
in each state.
Then Prometheus scrapes this worker, a server over its journal, and a process without operations.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from otel_progress import semconv
from tests.support.grafana import scenario
from tests.support.grafana.dashboards import (
    Target,
    boards,
    fill,
    panels,
    promql_of,
    query_of,
    targets,
    variables,
)
from tests.support.grafana.monitored_scenario import HOURS, Stage, choices, gone, staged, unfinished
from tests.support.grafana.simulation import IDLE, JOBS, WORKER

pytestmark = pytest.mark.server

BOARDS = boards()
ASKED = [target for target in targets() if target.kind == "prometheus"]
EMPTY = {
    ("Processor and GPU", "B"): "this machine has no GPU",
    ("Memory", "B"): "this machine has no GPU",
    ("Running operations", "A"): "nothing waits in a queue here: an operation is there from its start",
    ("Running operations", "G"): "no operation is received over OTLP here",
    ("Running operations", "H"): "no operation is resumed here",
    ("Stuck or late", "D"): "no operation is received over OTLP here",
    ("Received over OTLP", "A"): "no operation is received over OTLP here",
}
"""Queries without a result in this scenario, with the reason."""
ZERO = {
    "Running",
    "Stalled",
    "Failed in 24 h",
    "Past deadline",
    "Abandoned",
    "Sink errors",
    "Rejected updates",
    "Series omitted",
    "Events dropped",
}
"""Panels that show 0 if an exporter responds and nothing runs."""
STAGES = ("stage:prepare", "stage:render", "stage:encode")
"""Levels of the operation that the variables select."""
OPERATIONS = (
    scenario.RUNNING,
    scenario.STALLED,
    scenario.FAILED,
    scenario.FINISHED,
    scenario.CANCELLED,
    scenario.UNKNOWN_TOTAL,
    scenario.LATE,
    scenario.PAUSED,
    scenario.ESTIMATED,
    scenario.ABANDONED,
    scenario.MANY_LEVELS,
    scenario.TWINS,
    scenario.SHOWN_HOSTILE,
    "no such operation",
)


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> None:
    """Replace the fixture of this name. The worker continues from test to test."""


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Run the scenario and let Prometheus scrape the result."""
    with staged(tmp_path_factory.mktemp("grafana")) as made:
        yield made


def finite(series: list[Any]) -> bool:
    """Return whether all values are finite. Unknown values have no series."""
    values = [sample for one in series for sample in one.get("values", [one.get("value")])]
    return all(text not in ("NaN", "+Inf", "-Inf") for _, text in values)


def shown(target: Target) -> str:
    """Return the operation of the scenario that has the data of a panel."""
    special = {
        ("Progress and remaining time", "B"): scenario.ESTIMATED,
        ("Failed", "A"): scenario.STALLED,
        ("Items by outcome", "A"): scenario.STALLED,
        ("Stages", "B"): scenario.RUNNING,
    }
    return special.get((target.panel["title"], target.json["refId"]), scenario.RUNNING)


@pytest.mark.parametrize("target", ASKED, ids=str)
def test_query_finds_finite_values(stage: Stage, target: Target) -> None:
    """A query without a result needs a reason."""
    found = stage.answer(target, choices(BOARDS[target.board], operation_id=shown(target)))
    assert finite(found)
    assert bool(found) is ((target.panel["title"], target.json["refId"]) not in EMPTY)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_operation_dashboard_in_each_state_has_finite_values(stage: Stage, operation: str) -> None:
    """Unusual names and an unknown operation are included."""
    board = BOARDS["progress-operation.json"]
    for target in ASKED:
        if target.board == "progress-operation.json":
            chosen = choices(board, operation_id=operation)
            found = stage.answer(target, chosen)
            assert finite(found), str(target)
            if target.panel["title"] == "Operation":
                assert len(found) == (operation != "no such operation")


@pytest.mark.parametrize("target", ASKED, ids=str)
def test_query_without_operations_is_zero_or_empty(stage: Stage, target: Target) -> None:
    """In a process without operations, counts are 0 and all other values are absent."""
    found = stage.answer(target, choices(BOARDS[target.board], job=[IDLE]))
    title = target.panel["title"]
    assert finite(found)
    if title in ZERO:
        assert [one["value"][1] for one in found] == ["0"]
    elif title not in (
        "Exporters",
        "Alerts firing",
        "Firing alerts",
        "Scrape duration",
        "Samples per scrape",
        "Series relative to the limit",
    ):
        assert found == []


@pytest.mark.parametrize("target", [one for one in ASKED if one.panel["type"] == "stat"], ids=str)
def test_query_without_an_exporter_is_unknown(stage: Stage, target: Target) -> None:
    """Without an exporter, no value is 0 and the panel shows unknown."""
    if target.panel["title"] != "Alerts firing":  # Prometheus itself has the metric of alerts.
        assert stage.answer(target, choices(BOARDS[target.board], job=["nobody"])) == []


def test_overview_numbers_match_the_scenario(stage: Stage) -> None:
    """An operation that worker and server export counts once."""
    expected = {"Running": None, "Stalled": 1, "Past deadline": 1, "Abandoned": 1, "Alerts firing": 1}
    for target in ASKED:
        if target.board == "progress-overview.json" and target.panel["title"] in expected:
            (found,) = stage.answer(target, choices(BOARDS[target.board]))
            wanted = expected[target.panel["title"]]
            assert float(found["value"][1]) == (len(unfinished(stage)) if wanted is None else wanted), str(
                target
            )


def test_operation_states_match_the_scenario(stage: Stage) -> None:
    """Each operation is displayed in its last state."""
    from grafana.states import NUMBERS

    (target,) = [one for one in ASKED if one.panel["title"] == "Operations" and one.json["refId"] == "A"]
    words = {str(number): str(getattr(state, "value", state)) for state, number in NUMBERS.items()}
    found = {
        one["metric"]["operation_id"]: words[one["value"][1]]
        for one in stage.answer(target, choices(BOARDS[target.board]))
    }
    expected = {
        scenario.RUNNING: "running",
        scenario.STALLED: "stalled",
        scenario.FAILED: "failed",
        scenario.CANCELLED: "cancelled",
        scenario.LATE: "overdue",
        scenario.PAUSED: "paused",
        scenario.ESTIMATED: "running",
        scenario.ABANDONED: "abandoned",
    }
    assert {one: found[one] for one in expected} == expected


def test_state_of_ended_operation_without_series_is_its_last(stage: Stage) -> None:
    """An operation that disappeared without an end has no state."""
    (target,) = [
        one for one in ASKED if one.panel["title"] == "State" and one.board == "progress-operation.json"
    ]
    gone = [
        one
        for one in stage.world.recorder.runtime.get_history("render", 50)
        if one.operation_id.startswith("show-")
    ]
    (found,) = stage.answer(target, choices(BOARDS[target.board], operation_id=gone[-1].operation_id))
    assert found["value"][1] == "1"


VARIABLES = [(name, one) for name, board in BOARDS.items() for one in variables(board, "query")]


@pytest.mark.parametrize(
    ("name", "variable"), VARIABLES, ids=lambda value: value["name"] if isinstance(value, dict) else value
)
def test_variable_finds_values_of_the_scenario(stage: Stage, name: str, variable: dict[str, Any]) -> None:
    """The values of the scenario are among those of the variable."""
    expression, label = promql_of(query_of(variable))
    expression = fill(expression, choices(BOARDS[name]))
    if label is None:
        texts = [
            "{"
            + ",".join(f'{key}="{value}"' for key, value in one["metric"].items())
            + "} "
            + one["value"][1]
            for one in stage.prometheus.instant(expression, stage.now)
        ]
        found = [match[1] for text in texts if (match := re.search(variable["regex"].strip("/"), text))]
        assert len(found) == 1 or variable["name"] == "level"
        assert variable["name"] != "level" or set(STAGES) <= set(found)
        return
    start = stage.now - HOURS * 3600
    found = stage.prometheus.ask(
        f"label/{label}/values", **{"match[]": expression, "start": f"{start}", "end": f"{stage.now}"}
    )
    expected = {
        "job": set(JOBS),
        "instance": set(stage.world.targets.values()),
        "operation_type": {"render", "ingest", "survey", "backup"},
        "operation_id": set(OPERATIONS[:-1]),
    }
    assert expected[variable["name"]] <= set(found)


@pytest.mark.parametrize("name", BOARDS)
def test_annotations_have_the_labels_of_their_text(stage: Stage, name: str) -> None:
    """The start of the operation and its alert are annotated."""
    for annotation in BOARDS[name]["annotations"]["list"]:
        if "expr" not in annotation:
            continue
        assert annotation["target"]["expr"] == annotation["expr"]
        expression = fill(annotation["expr"], choices(BOARDS[name], operation_id=scenario.STALLED))
        found = stage.prometheus.range(expression, stage.now - 600, stage.now, 1.0)
        assert found
        assert all(
            set(re.findall(r"{{(\w+)}}", annotation["titleFormat"] + annotation["textFormat"]))
            <= set(one["metric"])
            for one in found
        )


def test_level_gauges_have_one_value_per_level(stage: Stage) -> None:
    """The value is the ratio or unknown, never 0. Without levels there is no gauge."""
    (target,) = [one for one in ASKED if one.panel.get("repeat") == "level"]
    board = BOARDS[target.board]
    found = {
        level: stage.answer(target, choices(board, level=[level]))
        for level in ("stage:prepare", "stage:encode")
    }
    assert [one["value"][1] for one in found["stage:prepare"]] == ["1"]
    ((unknown,),) = [[one["value"][1] for one in found["stage:encode"]]]
    assert target.panel["fieldConfig"]["defaults"]["mappings"][0]["options"][unknown]["text"] == "unknown"
    assert stage.answer(target, choices(board, operation_id=scenario.FAILED)) == []


def levels(stage: Stage, operation: str) -> list[str]:
    """Return the levels that the variable offers, parsed as in Grafana."""
    name = "progress-operation.json"
    (variable,) = [one for one in variables(BOARDS[name], "query") if one["name"] == "level"]
    expression, _ = promql_of(query_of(variable))
    found = stage.prometheus.instant(
        fill(expression, choices(BOARDS[name], operation_id=operation)), stage.now
    )
    return [one["metric"]["level"] for one in found]


def test_level_gauges_show_current_levels_only(stage: Stage) -> None:
    """For an operation without series, they show its last levels."""
    at_most = 50
    shown = (
        f'count({semconv.LEVEL_CURRENT.prometheus}{{job="{WORKER}",operation_id="{scenario.MANY_LEVELS}"}})'
    )
    (now,) = stage.prometheus.instant(shown, stage.now)
    assert len(levels(stage, scenario.MANY_LEVELS)) == int(now["value"][1]) == at_most
    ended = gone(stage)
    assert {"stage:prepare", "stage:render", "stage:encode"} <= set(levels(stage, ended))
    assert len(levels(stage, ended)) <= at_most


def test_levels_of_ended_operation_without_series_have_last_state(stage: Stage) -> None:
    """The table has the status, and the gauge the ratio."""
    asked = {
        (one.panel["title"], one.json["refId"]): one
        for one in ASKED
        if one.panel["title"] in ("Levels", "$level")
    }
    chosen = choices(BOARDS["progress-operation.json"], operation_id=gone(stage), level="stage:prepare")
    values = {key: [one["value"][1] for one in stage.answer(target, chosen)] for key, target in asked.items()}
    assert values["Levels", "A"] == ["1"]
    assert values["Levels", "B"] == values["$level", "A"] == ["1"]


def stages(stage: Stage, operation: str) -> list[str]:
    """Return the names of an operation's stages from the top of the timeline down."""
    (target,) = [one for one in ASKED if one.panel["title"] == "Stages" and one.json["refId"] == "B"]
    return [
        one["metric"]["level"]
        for one in stage.answer(target, choices(BOARDS[target.board], operation_id=operation))
    ]


def test_stages_are_in_order_of_their_start(stage: Stage) -> None:
    """Stages that have not started are last."""
    assert stages(stage, scenario.FINISHED) == ["prepare", "render", "encode"]
    assert stages(stage, scenario.ESTIMATED) == ["demux", "encode", "mux"]


def test_stages_with_equal_names_have_a_strip_per_level(stage: Stage) -> None:
    """Several levels may have stages of the same names."""
    found = stages(stage, scenario.TWINS)
    assert sorted(found) == [
        f"site:{site}/stage:{name}" for site in ("east", "west") for name in ("report", "walk")
    ]


@pytest.mark.parametrize(
    "title", ["Rejected updates by reason", "Events dropped by reason", "Operations ended"]
)
def test_columns_of_counts_add_up_to_the_total(stage: Stage, title: str) -> None:
    """Each event is in one column, so the total in the legend is the count."""
    (target,) = [one for one in ASKED if one.panel["title"] == title]
    (selector,) = re.findall(r"rate\((.*?)\[", target.expression)
    # As Grafana substitutes it: one point per minute plus the scrape interval, here 20 seconds.
    values = {**choices(BOARDS[target.board]), "__interval_ms": "60000", "__rate_interval": "80s"}
    end, seconds = stage.now - stage.now % 60 - 120, 3600 * HOURS - 600
    columns = stage.prometheus.range(fill(target.expression, values), end - seconds, end, 60.0)
    shown = sum(float(value) for one in columns for _, value in one["values"])
    (counted,) = stage.prometheus.instant(fill(f"sum(increase({selector}[{seconds + 60:g}s]))", values), end)
    assert shown == pytest.approx(float(counted["value"][1]), rel=0.1)


def test_scrapes_use_the_real_exporters(stage: Stage) -> None:
    """All three targets are up, and the worker's series equal its response."""
    found = stage.prometheus.instant("up", stage.now)
    assert {(one["metric"]["job"], one["value"][1]) for one in found} == {(job, "1") for job in JOBS}
    ratio = f'{semconv.OPERATION_RATIO.prometheus}{{job="{WORKER}",operation_id="{scenario.STALLED}"}}'
    (series,) = stage.prometheus.instant(ratio, stage.now)
    assert float(series["value"][1]) == stage.world.recorder.operation(scenario.STALLED).ratio
    assert panels(BOARDS["progress-self.json"])
