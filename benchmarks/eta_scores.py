"""Figures of one estimator in one scenario, computed from sums."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from statistics import fmean
from typing import Final

from benchmarks.eta_replay import Results, Sums

MEAN: Final = "mean"


@dataclass(frozen=True, slots=True)
class Score:
    """Figures over all questions, and over late (from 25 % on) and early ones.

    - ``error`` is the mean of |predicted - true remaining| / true duration.
    - ``rest`` is the same / true remaining.
    - ``answered`` is the ratio of questions with a number.
    - ``coverage`` is the ratio of intervals that include the truth.
    - ``width`` is the mean width of intervals / true duration.
    - ``jumps`` is the total variation of the predicted end / true duration, as mean of the runs.
    - ``at_least`` is the ratio of questions in a pause with a lower bound as answer.
    - ``at_least_true`` is the ratio of correct lower bounds.

    None means that there was no such question.
    """

    questions: int
    answered: float | None
    error: float | None
    error_late: float | None
    error_early: float | None
    rest: float | None
    rest_late: float | None
    rest_early: float | None
    coverage: float | None
    width: float | None
    jumps: float | None
    at_least: float | None
    at_least_true: float | None


def score(sums: Sums) -> Score:
    """Return the figures of some sums."""
    early = sums.answers - sums.late_answers
    return Score(
        questions=sums.questions,
        answered=_share(sums.answers, sums.questions),
        error=_share(sums.error, sums.answers),
        error_late=_share(sums.late_error, sums.late_answers),
        error_early=_share(sums.error - sums.late_error, early),
        rest=_share(sums.share_of_rest, sums.answers),
        rest_late=_share(sums.late_share_of_rest, sums.late_answers),
        rest_early=_share(sums.share_of_rest - sums.late_share_of_rest, early),
        coverage=_share(sums.covered, sums.intervals),
        width=_share(sums.width, sums.intervals),
        jumps=_share(sums.jumps, sums.runs) if sums.answers else None,
        at_least=_share(sums.at_least, sums.pausing),
        at_least_true=_share(sums.at_least_true, sums.at_least),
    )


def _share(part: float, whole: int) -> float | None:
    return part / whole if whole else None


def mean(scores: Sequence[Score]) -> Score:
    """Return the mean of workloads, each with the same weight.

    A workload without a figure is ignored for this figure.
    """
    questions, *columns = zip(*(astuple(one) for one in scores), strict=True)
    means = [
        fmean(known) if (known := [value for value in column if value is not None]) else None
        for column in columns
    ]
    return Score(sum(questions), *means)


def table_of(results: Results, scenario: str) -> dict[str, dict[str, Score]]:
    """Return the scores of a scenario by workload and estimator, ``mean`` last.

    The table is empty if the scenario did not apply.
    """
    workloads = _ordered(workload for name, workload, _ in results if name == scenario)
    scores = {
        workload: {
            who: score(sums)
            for (name, of, who), sums in results.items()
            if (name, of) == (scenario, workload)
        }
        for workload in workloads
    }
    if scores:
        names = _ordered(who for by_name in scores.values() for who in by_name)
        scores[MEAN] = {who: mean([by_name[who] for by_name in list(scores.values())]) for who in names}
    return scores


def _ordered(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
