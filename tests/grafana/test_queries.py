"""Every query of every panel, variable and annotation, asked of a real Prometheus that scrapes the real exporters.

A worker lives through an hour of runs that come and go (in a time moved by hand, written down for Prometheus) and ends with an operation
in each state there is; from then on Prometheus scrapes it, a server over its journal, and a process in which nothing runs.
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
    ("Operations under way", "A"): "nothing waits in a queue here: an operation is there from its start",
}
"""Queries that find nothing in this story, and why."""
ZERO = {
    "Running",
    "Stalled",
    "Failed in 24 h",
    "Past deadline",
    "Abandoned",
    "Sink errors",
    "Rejected updates",
    "Series left out",
    "Events let go",
}
"""Panels that know that there is nothing, where an exporter answers and nothing runs."""
STAGES = ("stage:prepare", "stage:render", "stage:encode")
"""Levels of the operation that the variables are asked about."""
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
    """Let the worker work on from test to test, where the fixture of this name would end it; the module's own fixture does."""


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Live through the story, and let Prometheus scrape what became of it."""
    with staged(tmp_path_factory.mktemp("grafana")) as made:
        yield made


def finite(series: list[Any]) -> bool:
    """Tell whether all values are numbers: what is not known has no series."""
    values = [sample for one in series for sample in one.get("values", [one.get("value")])]
    return all(text not in ("NaN", "+Inf", "-Inf") for _, text in values)


def shown(target: Target) -> str:
    """Return the operation in the story that has what a panel of the operation dashboard shows."""
    special = {
        ("Progress and forecast", "B"): scenario.ESTIMATED,
        ("Failed", "A"): scenario.STALLED,
        ("Items by outcome", "A"): scenario.STALLED,
        ("Stages", "B"): scenario.RUNNING,
    }
    return special.get((target.panel["title"], target.json["refId"]), scenario.RUNNING)


@pytest.mark.parametrize("target", ASKED, ids=str)
def test_query_finds_data(stage: Stage, target: Target) -> None:
    """A query finds what the story has, all of it numbers, unless there is a reason why it cannot."""
    found = stage.answer(target, choices(BOARDS[target.board], operation_id=shown(target)))
    assert finite(found)
    assert bool(found) is ((target.panel["title"], target.json["refId"]) not in EMPTY)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_operation_dashboard_for_each_state(stage: Stage, operation: str) -> None:
    """All queries about one operation are answered, with numbers only, whatever its state, its name, or whether there is one."""
    board = BOARDS["progress-operation.json"]
    for target in ASKED:
        if target.board == "progress-operation.json":
            chosen = choices(board, operation_id=operation)
            found = stage.answer(target, chosen)
            assert finite(found), str(target)
            if target.panel["title"] == "Operation":
                assert len(found) == (operation != "no such operation")


@pytest.mark.parametrize("target", ASKED, ids=str)
def test_query_where_nothing_runs(stage: Stage, target: Target) -> None:
    """Of a process in which nothing has ever run counts are 0, and everything else has no data: neither an error nor NaN."""
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
        "Samples a scrape",
        "Series against the cap",
    ):
        assert found == []


@pytest.mark.parametrize("target", [one for one in ASKED if one.panel["type"] == "stat"], ids=str)
def test_no_exporter_is_unknown(stage: Stage, target: Target) -> None:
    """Where no exporter answers, nothing is 0: there is no value at all, and the panel says unknown."""
    if target.panel["title"] != "Alerts firing":  # of alerts Prometheus itself knows
        assert stage.answer(target, choices(BOARDS[target.board], job=["nobody"])) == []


def test_numbers_of_the_overview(stage: Stage) -> None:
    """The numbers are those of the story, each operation counted once though worker and server both export it."""
    expected = {"Running": None, "Stalled": 1, "Past deadline": 1, "Abandoned": 1, "Alerts firing": 1}
    for target in ASKED:
        if target.board == "progress-overview.json" and target.panel["title"] in expected:
            (found,) = stage.answer(target, choices(BOARDS[target.board]))
            wanted = expected[target.panel["title"]]
            assert float(found["value"][1]) == (len(unfinished(stage)) if wanted is None else wanted), str(
                target
            )


def test_states_of_operations(stage: Stage) -> None:
    """Each operation is shown in the state that the story left it in."""
    from grafana.states import NUMBERS

    (target,) = [one for one in ASKED if one.panel["title"] == "Operations" and one.json["refId"] == "A"]
    words = {str(number): state.value for state, number in NUMBERS.items()}
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


def test_an_end_is_remembered(stage: Stage) -> None:
    """An operation whose series are gone still has the state in which it ended; one that just vanished has none."""
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
def test_variable_finds_values(stage: Stage, name: str, variable: dict[str, Any]) -> None:
    """A variable finds its values, those of the story among them."""
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
def test_annotations_find_data(stage: Stage, name: str) -> None:
    """Annotations are there, each with the labels that its text names: the start of the operation, the alert that fires for it."""
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


def test_dials_of_levels(stage: Stage) -> None:
    """The repeated gauge has one value for each level: its ratio, or what is shown as unknown, never 0; and none without levels."""
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
    """Return the levels that the variable offers of an operation, as Grafana reads them out of the answer."""
    name = "progress-operation.json"
    (variable,) = [one for one in variables(BOARDS[name], "query") if one["name"] == "level"]
    expression, _ = promql_of(query_of(variable))
    found = stage.prometheus.instant(
        fill(expression, choices(BOARDS[name], operation_id=operation)), stage.now
    )
    return [one["metric"]["level"] for one in found]


def test_levels_are_those_that_are_shown(stage: Stage) -> None:
    """A gauge stands for each level that is there now, not for each that has ever been; of one whose series are gone the last."""
    at_most = 50
    shown = (
        f'count({semconv.LEVEL_CURRENT.prometheus}{{job="{WORKER}",operation_id="{scenario.MANY_LEVELS}"}})'
    )
    (now,) = stage.prometheus.instant(shown, stage.now)
    assert len(levels(stage, scenario.MANY_LEVELS)) == int(now["value"][1]) == at_most
    ended = gone(stage)
    assert {"stage:prepare", "stage:render", "stage:encode"} <= set(levels(stage, ended))
    assert len(levels(stage, ended)) <= at_most


def test_levels_are_remembered(stage: Stage) -> None:
    """Of an operation whose series are gone the table still has how each level ended, and the gauge how far it was."""
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


def test_stages_stand_in_their_order(stage: Stage) -> None:
    """The timeline has the stages from the first to the last, not by name; a stage that has not begun stands last."""
    assert stages(stage, scenario.FINISHED) == ["prepare", "render", "encode"]
    assert stages(stage, scenario.ESTIMATED) == ["demux", "encode", "mux"]


def test_stages_of_the_same_name(stage: Stage) -> None:
    """Where several levels have stages of the same names, each is a strip of its own."""
    found = stages(stage, scenario.TWINS)
    assert sorted(found) == [
        f"site:{site}/stage:{name}" for site in ("east", "west") for name in ("report", "walk")
    ]


@pytest.mark.parametrize(
    "title", ["Rejected updates by reason", "Events let go by reason", "Operations ended"]
)
def test_columns_add_up(stage: Stage, title: str) -> None:
    """What columns of counts add up to, as their legend does, is what was counted: no event stands in two columns."""
    (target,) = [one for one in ASKED if one.panel["title"] == title]
    (selector,) = re.findall(r"rate\((.*?)\[", target.expression)
    # As Grafana fills it in: points a minute apart, and the interval of scrapes, here 20 seconds, on top.
    values = {**choices(BOARDS[target.board]), "__interval_ms": "60000", "__rate_interval": "80s"}
    end, seconds = stage.now - stage.now % 60 - 120, 3600 * HOURS - 600
    columns = stage.prometheus.range(fill(target.expression, values), end - seconds, end, 60.0)
    shown = sum(float(value) for one in columns for _, value in one["values"])
    (counted,) = stage.prometheus.instant(fill(f"sum(increase({selector}[{seconds + 60:g}s]))", values), end)
    assert shown == pytest.approx(float(counted["value"][1]), rel=0.1)


def test_scrapes_are_of_the_real_exporters(stage: Stage) -> None:
    """All three targets are up, and what the worker shows is what it would answer."""
    found = stage.prometheus.instant("up", stage.now)
    assert {(one["metric"]["job"], one["value"][1]) for one in found} == {(job, "1") for job in JOBS}
    ratio = f'{semconv.OPERATION_RATIO.prometheus}{{job="{WORKER}",operation_id="{scenario.STALLED}"}}'
    (series,) = stage.prometheus.instant(ratio, stage.now)
    assert float(series["value"][1]) == stage.world.recorder.operation(scenario.STALLED).ratio
    assert panels(BOARDS["progress-self.json"])
