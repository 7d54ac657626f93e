"""Report of the replay: tables for a terminal, JSON, and targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from benchmarks.eta_baselines import BASELINES
from benchmarks.eta_replay import OURS, Results
from benchmarks.eta_scenarios import SCENARIOS, Scenario
from benchmarks.eta_scores import MEAN, Score, table_of
from benchmarks.table import Row, judged

BOUNDS: Final[Mapping[str, Mapping[str, float]]] = {
    "history": {"error": 0.013, "error_late": 0.008, "error_early": 0.033, "jumps": 0.1},
    "no history": {"error": 0.033},
    "foreign": {"error_late": 0.05},
}
"""Maximum of a figure in the mean of the workloads, by scenario and figure."""
COVERAGE: Final = (0.75, 0.88)
"""Range for the coverage of the 80 % interval on each workload."""
_WORDS: Final = {
    "error": "error",
    "error_late": "from 25 % on",
    "error_early": "before 25 %",
    "jumps": "jumpiness",
}
_COLUMNS: Final = (
    ("answered", "answered"),
    ("error", "err/dur"),
    ("error_late", "≥25 %"),
    ("error_early", "<25 %"),
    ("rest", "err/rest"),
    ("rest_late", "≥25 %"),
    ("rest_early", "<25 %"),
    ("coverage", "covered"),
    ("width", "width"),
    ("jumps", "jumps"),
)


def tables(results: Results, scenarios: Sequence[Scenario] = SCENARIOS) -> str:
    """Return one table per scenario with our figures and the errors of others.

    The mean of the workloads is last.
    """
    parts = [_table(scenario, table_of(results, scenario.name)) for scenario in scenarios]
    return "\n\n".join(part for part in parts if part)


def _table(scenario: Scenario, scores: Mapping[str, Mapping[str, Score]]) -> str:
    if not scores:
        return ""
    heads = ["", *(head for _, head in _COLUMNS), *BASELINES]
    lines = [
        [workload, *figures_of(by_name[OURS]), *(percent(by_name[name].error) for name in BASELINES)]
        for workload, by_name in scores.items()
        if workload != MEAN
    ]
    lines += [[f"{MEAN} {name}", *figures_of(figures)] for name, figures in scores[MEAN].items()]
    widths = [
        max(len(line[column]) for line in [heads, *lines] if column < len(line))
        for column in range(len(heads))
    ]
    text = "\n".join(
        "  ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=False))
        ).rstrip()
        for line in [heads, *lines]
    )
    return f"{scenario.title} ({scenario.name})\n{text}{_pauses(scores)}"


def figures_of(figures: Score) -> list[str]:
    """Return the figures as texts in the order of the columns."""
    return [
        f"{figures.jumps:.3f}"
        if name == "jumps" and figures.jumps is not None
        else percent(getattr(figures, name))
        for name, _ in _COLUMNS
    ]


def percent(value: float | None) -> str:
    """Return a ratio as text with three digits, ``-`` for None."""
    if value is None:
        return "-"
    return (
        f"{100 * value:.0f} %"
        if value >= 0.9995
        else f"{100 * value:.2f} %"
        if value < 0.1
        else f"{100 * value:.1f} %"
    )


def _pauses(scores: Mapping[str, Mapping[str, Score]]) -> str:
    ours = scores[MEAN][OURS]
    if ours.at_least is None:
        return ""
    held = "" if ours.at_least_true is None else f", which was true of {percent(ours.at_least_true)}"
    return f'\nIn the pause {percent(ours.at_least)} of the questions were answered with "at least"{held}.'


def promises(results: Results, what: str) -> list[Row]:
    """Return a row per target.

    Targets are for the mean, against other rules per workload, and for the coverage per workload.
    """
    rows = []
    for scenario, bounds in BOUNDS.items():
        title = next(one.title for one in SCENARIOS if one.name == scenario)
        scores = table_of(results, scenario)
        for figure, bound in bounds.items() if scores else ():
            value = getattr(scores[MEAN][OURS], figure)
            words = f"{what}, {title.partition(':')[0].lower()}: {_WORDS[figure]}"
            jumps = figure == "jumps" and value is not None
            shown, target = (
                (f"{value:.3f}" if jumps else percent(value)),
                (f"≤ {bound:g}" if figure == "jumps" else f"≤ {100 * bound:g} %"),
            )
            rows.append(judged(words, shown, "", target, met=value is not None and value <= bound))
    scores = table_of(results, "history")
    return [*rows, _rivals(scores, what), _coverage(scores, what)] if scores else rows


def _rivals(scores: Mapping[str, Mapping[str, Score]], what: str) -> Row:
    lost = [
        f"{name} on {workload}"
        for workload, of in scores.items()
        for name in BASELINES
        if not _better(of[OURS], of[name])
    ]
    ours, others = scores[MEAN][OURS], {name: scores[MEAN][name].error for name in BASELINES}
    answered = {name: error for name, error in others.items() if error is not None}
    best = min(answered, key=lambda name: answered[name], default="")
    verdict = (
        f"not than {', '.join(lost)}"
        if lost
        else f"{percent(ours.error)}, the next best ({best}) {percent(others.get(best))}"
    )
    return judged(
        f"{what}: better than {', '.join(BASELINES)}", verdict, "", "on every workload", met=not lost
    )


def _coverage(scores: Mapping[str, Mapping[str, Score]], what: str) -> Row:
    coverages = [of[OURS].coverage for workload, of in scores.items() if workload != MEAN]
    known = [coverage for coverage in coverages if coverage is not None]
    low, high = COVERAGE
    shown = f"{percent(min(known))} to {percent(max(known))}" if known else "-"
    met = len(known) == len(coverages) and all(low <= coverage <= high for coverage in known)
    return judged(
        f"{what}: coverage of the 80 % interval",
        shown,
        "",
        f"{100 * low:g} % to {100 * high:g} % on each",
        met=met,
    )


def _better(ours: Score, other: Score) -> bool:
    return other.error is None or (ours.error is not None and ours.error < other.error)


def document(results: Results, scenarios: Sequence[Scenario] = SCENARIOS) -> dict[str, Any]:
    """Return all figures by scenario, workload (also ``mean``) and estimator for JSON."""
    return {
        scenario.name: {
            workload: {name: asdict(figures) for name, figures in by_name.items()}
            for workload, by_name in table_of(results, scenario.name).items()
        }
        for scenario in scenarios
    }
