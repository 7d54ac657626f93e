"""Replay of recorded runs: ``python -m benchmarks.eta``.

It prints the error of the estimated remaining time, also of other tools. The traces in
``benchmarks/traces`` are always replayed, and published ones from ``../shared/data/eta`` if they
exist. Each run is queried at 5, 10 … 95 % of its true duration, with what was known then: its
points so far, and at most 20 earlier runs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, Final

from benchmarks import machine
from benchmarks.eta_cost import cost
from benchmarks.eta_page import figures, with_figures
from benchmarks.eta_replay import OURS, Results, replay, series_of
from benchmarks.eta_report import document, percent, promises, tables
from benchmarks.eta_scenarios import SCENARIOS, Scenario
from benchmarks.eta_scores import MEAN, table_of
from benchmarks.eta_traces import FOLDER, SHARED, Groups, TraceError, load
from benchmarks.rounds import Effort
from benchmarks.table import Row, text

PAGE: Final = Path(__file__).resolve().parents[1] / "docs" / "eta.md"
_PROMISED: Final = ("history", "no history", "foreign")
_RECORDED: Final = "own traces"
_PUBLISHED: Final = "published traces"


def main(arguments: Sequence[str] | None = None) -> int:
    """Replay recorded runs and print the report. Exit with 1 if a target was missed.

    The targets apply to published traces and to other given ones, but not to those recorded here.
    """
    options = _options(arguments)
    try:
        sources = _sources(options.traces, options.workload)
    except TraceError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    scenarios = [
        scenario for scenario in SCENARIOS if not options.scenario or scenario.name in options.scenario
    ]
    costs = list(cost(Effort()))
    rows, found = list(costs), {}
    for name, groups in sources.items():
        started = perf_counter()
        results = found[name] = replay(series_of(groups), scenarios)
        rows += promises(results, name) if name != _RECORDED and not options.workload else []
        if not (options.json or options.write):
            _say(
                f"# {name[0].upper()}{name[1:]}: {_count(groups)} runs "
                f"of {len({key[0] for key in groups})} jobs\n"
            )
            _say(tables(results, scenarios) + f"\n\nReplayed in {perf_counter() - started:.0f} s.\n")
    if options.json:
        traces = {
            name: {"runs": _count(sources[name]), "scenarios": document(found[name], scenarios)}
            for name in sources
        }
        _say(
            json.dumps(
                {
                    "machine": machine.shape(),
                    "promises": [_as_document(row) for row in rows],
                    "traces": traces,
                }
            )
        )
    else:
        _say(text(rows))
    if options.write:
        PAGE.write_text(
            with_figures(PAGE.read_text(encoding="utf-8"), figures(found, costs)), encoding="utf-8"
        )
    return int(any(row.met == "NO" for row in rows))


def run(effort: Effort) -> Iterator[Row]:
    """Yield the rows for the catalogue: targets, the same figures of own traces, cost."""
    scenarios = [scenario for scenario in SCENARIOS if scenario.name in _PROMISED]
    for name, groups in _sources(None, None).items():
        results = replay(series_of(_fewer(groups, effort)), scenarios)
        yield from promises(results, name) if name == _PUBLISHED else _mean_errors(results, scenarios, name)
    yield from cost(effort)


def _mean_errors(results: Results, scenarios: Sequence[Scenario], what: str) -> Iterator[Row]:
    """Yield the mean errors of all estimators. They have no targets."""
    for scenario in scenarios:
        for name, told in table_of(results, scenario.name)[MEAN].items():
            if told.error is not None and (name == OURS or scenario.name == "history"):
                words = f"{what}, {scenario.title.partition(':')[0].lower()}: error of {name}"
                late = "" if told.error_late is None else f"{percent(told.error_late)} from 25 % on"
                yield Row(words, percent(told.error), late)


def _fewer(groups: Groups, effort: Effort) -> Groups:
    """Return fewer runs of each job for a small effort, but enough for some questions."""
    return {key: runs[: max(4, round(len(runs) * min(1.0, effort.share)))] for key, runs in groups.items()}


def _sources(given: str | None, workload: str | None) -> dict[str, Groups]:
    """Return the traces to replay by their name in the report. Raises TraceError."""
    if given is not None:
        name = (
            _RECORDED
            if FOLDER in (Path(given).resolve(), *Path(given).resolve().parents)
            else Path(given).name
        )
        sources = {name: load(Path(given))}
    else:
        sources = {_RECORDED: load(FOLDER)} | ({_PUBLISHED: load(SHARED)} if SHARED.is_dir() else {})
    if workload is None:
        return sources
    chosen = {
        name: {key: runs for key, runs in groups.items() if key[0] == workload}
        for name, groups in sources.items()
    }
    if not any(chosen.values()):
        known = sorted({key[0] for groups in sources.values() for key in groups})
        msg = f"Invalid workload {workload!r}: expected one of {', '.join(known)}"
        raise TraceError(msg)
    return {name: groups for name, groups in chosen.items() if groups}


def _count(groups: Groups) -> int:
    return sum(len(runs) for runs in groups.values())


def _as_document(row: Row) -> dict[str, Any]:
    return {
        "what": row.what,
        "measured": row.cost,
        "ratio": row.ratio,
        "promised": row.target,
        "met": row.met == "yes" if row.met else None,
    }


def _say(lines: str) -> None:
    sys.stdout.write(lines + "\n")
    sys.stdout.flush()


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    names = [scenario.name for scenario in SCENARIOS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.eta", description=main.__doc__)
    parser.add_argument(
        "--traces",
        metavar="PATH",
        help="a .jsonl or .jsonl.gz file, or a folder of them, instead of the usual ones",
    )
    parser.add_argument("--workload", metavar="NAME", help="only the runs of this job")
    parser.add_argument(
        "--scenario",
        metavar="NAME",
        action="append",
        choices=names,
        help=f"only this; may be repeated: {', '.join(names)}",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document with all figures")
    parser.add_argument(
        "--write",
        action="store_true",
        help=f"write the figures into {PAGE.parent.name}/{PAGE.name}; replays everything",
    )
    options = parser.parse_args(arguments)
    if options.write and (options.json or options.traces or options.workload or options.scenario):
        parser.error("--write replays the usual traces in every scenario; leave out the other options")
    return options


if __name__ == "__main__":
    sys.exit(main())
