"""The figures of docs/eta.md, written between its marks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from benchmarks import machine
from benchmarks.eta_baselines import BASELINES
from benchmarks.eta_replay import OURS, Results
from benchmarks.eta_report import figures_of, percent
from benchmarks.eta_scenarios import SCENARIOS
from benchmarks.eta_scores import MEAN, Score, table_of
from benchmarks.table import Row, markdown

MARK: Final = "<!-- figures -->"
END: Final = "<!-- end of figures -->"
_HEADS: Final = (
    "answered",
    "error",
    "≥ 25 %",
    "< 25 %",
    "error / remaining",
    "≥ 25 %",
    "< 25 %",
    "covered",
    "width",
    "jumps",
    *BASELINES,
)


def figures(results: Mapping[str, Results], costs: Sequence[Row]) -> str:
    """Return the tables in Markdown.

    Each source has the scenarios in the mean and each job with history. The cost is last.
    """
    parts = [f"Written by `python -m benchmarks.eta --write`, {machine.today()}, {machine.shape()}."]
    for name, found in results.items():
        means = [(one.title, scores[MEAN]) for one in SCENARIOS if (scores := table_of(found, one.name))]
        parts += [
            f"### {name[0].upper()}{name[1:]}",
            "In the mean of the jobs:",
            "\n".join(_table("scenario", means)),
        ]
        by_job = [(job, scores) for job, scores in table_of(found, "history").items() if job != MEAN]
        parts += ["Each job, with 3 to 20 runs of history:", "\n".join(_table("job", by_job))]
    return "\n\n".join([*parts, "### Cost", markdown(costs)])


def _table(first: str, rows: Sequence[tuple[str, Mapping[str, Score]]]) -> Iterator[str]:
    yield f"| {first} | " + " | ".join(_HEADS) + " |"
    yield "|" + " --- |" * (1 + len(_HEADS))
    for name, scores in rows:
        yield (
            " | ".join(
                [
                    f"| {name}",
                    *figures_of(scores[OURS]),
                    *(percent(scores[other].error) for other in BASELINES),
                ]
            )
            + " |"
        )


def with_figures(page: str, written: str) -> str:
    """Return the page with figures between its marks. Raises ValueError without marks."""
    before, mark, rest = page.partition(MARK)
    _, end, after = rest.partition(END)
    if not (mark and end):
        msg = f"Invalid page: expected the lines {MARK} and {END}"
        raise ValueError(msg)
    return f"{before}{MARK}\n\n{written}\n\n{END}{after}"
