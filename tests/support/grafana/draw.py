"""Draw the pictures of the documents.

``python -m tests.support.grafana.draw --render PROGRAM`` in the root of the repository.
PROGRAM draws a dashboard's JSON with live data into a PNG:
``PROGRAM FILE --prometheus URL --out PNG [--var NAME=VALUE]``. The data is a simulated week of the
test worker, followed by one operation in each state.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.support.grafana import scenario
from tests.support.grafana.dashboards import FOLDER, panels
from tests.support.grafana.prometheus import prometheus
from tests.support.grafana.simulation import IDLE, SERVER, World, world
from tests.support.servers import poll

IMAGES = Path(__file__).parents[3] / "docs" / "images"
RULES = sorted((Path(__file__).parents[3] / "deploy" / "prometheus" / "rules").glob("*.yml"))
STALLED = 'ALERTS{alertname="ProgressOperationStalled",alertstate="firing"}'
LEVELS = (".+", *(f"stage:{name}" for name in ("prepare", "render", "encode", "demux", "mux")))
"""Titles of gauges without a value in some pictures."""
DAYS, HOURS = 7.0, 3.5


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture: its name, dashboard, and options of the drawing program."""

    name: str
    board: str
    options: Sequence[str] = ()


PICTURES = (
    Picture("overview", "overview"),
    Picture("overview-over-time", "overview", ("--expand-rows",)),
    Picture("overview-quiet", "overview", ("--var", f"job={IDLE}")),
    Picture("operation", "operation", ("--var", f"operation_id={scenario.RUNNING}", "--from", "now-15m")),
    Picture(
        "operation-stalled", "operation", ("--var", f"operation_id={scenario.STALLED}", "--from", "now-15m")
    ),
    Picture(
        "operation-failed", "operation", ("--var", f"operation_id={scenario.FAILED}", "--from", "now-15m")
    ),
    Picture(
        "operation-estimated",
        "operation",
        ("--var", f"operation_id={scenario.ESTIMATED}", "--from", "now-15m"),
    ),
    Picture("history", "history"),
    Picture("self", "self", ("--from", "now-3h")),
)


def main() -> int:
    """Simulate the week and draw the requested pictures; return 0."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.grafana.draw", description=__doc__)
    parser.add_argument("--render", type=Path, required=True, help="the program that draws")
    parser.add_argument(
        "--out", type=Path, default=IMAGES, help="folder of the pictures; by default that of the guide"
    )
    parser.add_argument("--only", nargs="*", help="names of pictures; by default all")
    asked = parser.parse_args()
    with TemporaryDirectory() as folder, ExitStack() as stack:
        made = stack.enter_context(world(Path(folder), before=DAYS * 86_400.0 + HOURS * 3600.0))
        written = Path(folder) / "written.om"
        for _ in range(2):  # clients of the stream
            stack.enter_context(
                urllib.request.urlopen(f"http://{made.targets[SERVER]}/api/v1/stream", timeout=3600)
            )
        with written.open("w") as out:
            scenario.live_days(made, out, days=DAYS, step=240.0, pause=3600.0)
            scenario.live_days(
                made,
                out,
                days=(time.time() - made.clock.wall()) / 86_400.0 - HOURS / 24.0,
                step=15.0,
                pause=3600.0,
            )
            scenario.live_through(made, out, hours=HOURS, step=15.0, pause=1200.0)
            while (behind := time.time() - made.clock.wall()) > 5.0:
                made.advance(min(15.0, behind))
                made.write_down(out)
        # Otherwise no client requests the picture.
        rules = [
            re.sub(r"\bfor: \w+", "for: 0s", path.read_text("utf-8").replace("interval: 1m", "interval: 1s"))
            for path in RULES
        ]
        client = stack.enter_context(prometheus(Path(folder), written, made.targets, rules=rules))
        poll(lambda: client.instant(STALLED, time.time()), timeout=90.0, what="an alert")
        for picture in PICTURES:
            if asked.only is None or picture.name in asked.only:
                draw(asked.render, picture, client.url, asked.out, made)
    return 0


def draw(program: Path, picture: Picture, url: str, folder: Path, made: World) -> None:
    """Draw one picture while the jobs run."""
    made.advance(max(0.0, time.time() - made.clock.wall()))
    made.flush()
    board, png = FOLDER / f"progress-{picture.board}.json", folder / f"grafana-{picture.name}.png"
    titles = [panel["title"] for panel in panels(json.loads(board.read_text("utf-8")))]
    allowed = [word for title in (*titles, *LEVELS) for word in ("--allow-empty", title)]
    command = [
        str(program),
        str(board),
        "--prometheus",
        url,
        "--out",
        str(png),
        "--width",
        "1600",
        *allowed,
        *picture.options,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    sys.stdout.write(f"{png.name}: {done.returncode}\n{done.stderr}")


if __name__ == "__main__":
    sys.exit(main())
