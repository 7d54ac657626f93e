"""The dashboard scenario with a Prometheus, queried like Grafana does."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from otel_progress import semconv
from tests.support.grafana import scenario
from tests.support.grafana.dashboards import Target, fill, variables
from tests.support.grafana.prometheus import LOOKBACK_S, Prometheus, prometheus
from tests.support.grafana.simulation import JOBS, SERVER, World, world
from tests.support.servers import poll

HOURS: Final = 1.0
RULES: Final = f"""groups:
- name: alerts
  rules:
  - {{alert: ProgressWatchdog, expr: vector(1), labels: {{severity: none}}}}
  - alert: ProgressOperationStalled
    expr: |
      max by (operation_id, operation_type)
        ({semconv.OPERATION_CONDITION.prometheus}{{condition="stalled"}}) == 1
    labels: {{severity: warning}}
"""


@dataclass
class Stage:
    """The simulation, its Prometheus, and the time of the queries."""

    world: World
    prometheus: Prometheus
    now: float

    def answer(self, target: Target, values: dict[str, str | list[str]]) -> list[Any]:
        """Return the series of a panel's query."""
        expression = fill(target.expression, values)
        if target.json.get("instant"):
            return self.prometheus.instant(expression, self.now)
        step = {"1d": 86_400.0}.get(target.json.get("interval", ""), 30.0)
        day = step == 86_400.0  # from midnight, as Grafana does
        first = self.now // step * step if day else self.now - HOURS * 3600
        return self.prometheus.range(expression, first, self.now, step)


@contextmanager
def staged(folder: Path) -> Iterator[Stage]:
    """Run the scenario and let Prometheus scrape the result."""
    with ExitStack() as stack:
        made = stack.enter_context(world(folder, before=HOURS * 3600 + 2 * LOOKBACK_S))
        stream = stack.enter_context(
            urllib.request.urlopen(f"http://{made.targets[SERVER]}/api/v1/stream", timeout=30)
        )
        with (folder / "written.om").open("w") as out:
            scenario.live_through(made, out, hours=HOURS, step=20.0, pause=150.0)
        assert stream.status == 200
        scenario.be_refused(made)
        client = stack.enter_context(prometheus(folder, folder / "written.om", made.targets, rules=[RULES]))
        yield Stage(made, client, poll(lambda: settled(client), what="scrapes of all, and an alert"))


def settled(client: Prometheus) -> float | None:
    """Return a time at which all exporters were scraped and the alert fired, or None.

    Each exporter has been scraped again since, so that no later sample can change the answers.
    """
    last = client.instant("timestamp(up)", time.time())
    if len(last) < len(JOBS):
        return None
    moment = min(float(one["value"][1]) for one in last) - 0.001
    held = (
        f"count(count_over_time(up[5m]) >= 2 and up == 1) == {len(JOBS)}",
        'ALERTS{alertname="ProgressOperationStalled"}',
    )
    is_new_day = moment % 86_400.0 < 10.0  # panels of whole days need some scrapes of this one
    return moment if not is_new_day and all(client.instant(one, moment) for one in held) else None


def choices(board: dict[str, Any], **chosen: str | list[str]) -> dict[str, str | list[str]]:
    """Return the values of a dashboard's variables: All, except for the given ones."""
    values: dict[str, str | list[str]] = {"window": "1h"}
    values |= {one["name"]: one["allValue"] for one in variables(board, "query") if one.get("allValue")}
    return {**values, "operation_id": scenario.RUNNING, "level": ".+", **chosen}


def unfinished(stage: Stage) -> set[str]:
    """Return the ids of all operations without an end, also of dead processes."""
    return {one.operation_id for one in stage.world.recorder.runtime.get_active_operations()} | {
        scenario.ABANDONED
    }


def gone(stage: Stage) -> str:
    """Return the id of a completed render whose series have expired."""
    ended = stage.world.recorder.runtime.get_history("render", 50)
    return [one.operation_id for one in ended if one.operation_id.startswith("show-")][-1]
