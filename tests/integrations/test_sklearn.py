"""Progress of scikit-learn estimators with the real library."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("sklearn", minversion="1.9", reason="needs the group heavy")

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from otel_progress import current_level, diagnostics, get_history, get_operation, level
from otel_progress.integrations.sklearn import ProgressCallback
from otel_progress.testing import Recorder
from tests.support.training import describe, get_run, get_runs

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

X = np.random.default_rng(0).random((40, 3))
Y = (X[:, 0] > 0.5).astype(int)


def test_fit_counts_the_iterations(recorder: Recorder) -> None:
    model = LogisticRegression(max_iter=50)
    model.set_callbacks(ProgressCallback())
    model.fit(X, Y)
    run = get_run(recorder)
    assert run.root.info.name == "LogisticRegression"
    assert run.root.status.value == "completed"
    assert 0 < run.root.current == run.root.total <= 51
    assert not current_level().recording


def test_grid_search_has_the_tree_of_tasks(recorder: Recorder) -> None:
    search = GridSearchCV(LogisticRegression(max_iter=30), {"C": [1, 2]}, cv=2)
    search.set_callbacks(ProgressCallback("search", id="grid", data="small"))
    search.fit(X, Y)
    run = get_run(recorder)
    lines = describe(run)
    assert run.operation_id == "grid"
    assert run.root.metadata["data"] == "small"
    assert lines[:2] == ["fit completed 2/2", "search:0 completed 4/4"]
    assert all(" completed " in line for line in lines)
    assert sum(line.startswith("search:0/") for line in lines) == 4


def test_running_search_is_a_part_of_the_ratio_of_the_fit(recorder: Recorder) -> None:
    """The fit has two tasks: the search and the final fit."""
    ratios = []

    def score(model: LogisticRegression, x: np.ndarray, y: np.ndarray) -> float:
        run = get_operation("grid")
        assert run is not None
        ratios.append(run.root.ratio)
        return float(model.score(x, y))

    search = GridSearchCV(LogisticRegression(max_iter=30), {"C": [1, 2]}, cv=2, scoring=score)
    search.set_callbacks(ProgressCallback(id="grid"))
    search.fit(X, Y)
    assert [ratio for ratio in ratios if ratio is not None] == ratios == sorted(ratios)
    assert 0.3 < ratios[-1] <= 0.5


def test_task_without_subtasks_after_a_search_counts_the_search_too(recorder: Recorder) -> None:
    """A tree reports no subtasks, so the candidates and the final fit are units."""
    search = GridSearchCV(DecisionTreeClassifier(), {"max_depth": [1, 2]}, cv=2)
    search.set_callbacks(ProgressCallback())
    search.fit(X, Y)
    assert describe(get_run(recorder)) == ["fit completed 2/2", "search:0 completed 4/4"]


def test_pipeline_counts_its_steps(recorder: Recorder) -> None:
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=30))
    model.set_callbacks(ProgressCallback())
    model.fit(X, Y)
    assert describe(get_run(recorder))[0] == "fit completed 2/2"


def test_fit_that_raises_is_failed(recorder: Recorder) -> None:
    search = GridSearchCV(LogisticRegression(), {"C": [-1]}, cv=2, error_score="raise")
    search.set_callbacks(ProgressCallback())
    with pytest.raises(ValueError, match="C"):
        search.fit(X, Y)
    run = get_run(recorder)
    assert run.root.status.value == "failed"
    assert run.root.error is not None
    assert all(" failed " in line for line in describe(run))
    assert not current_level().recording


def test_fit_inside_a_level_is_a_part_of_it(recorder: Recorder) -> None:
    model = LogisticRegression(max_iter=30)
    model.set_callbacks(ProgressCallback())
    with level("nightly"):
        model.fit(X, Y)
    assert [line.split()[0] for line in describe(get_run(recorder))] == ["nightly", "fit:1"]


def test_same_callback_for_two_fits_records_two_operations(recorder: Recorder) -> None:
    model = LogisticRegression(max_iter=30)
    model.set_callbacks(ProgressCallback())
    model.fit(X, Y).fit(X, Y)
    assert len(get_runs(recorder)) == 2


def test_fit_without_configuration_records_nothing() -> None:
    model = LogisticRegression(max_iter=30)
    model.set_callbacks(ProgressCallback())
    model.fit(X, Y)
    assert get_history() == []
    assert diagnostics.internal_error_counts == {}


PROGRAM = """
import json, sys, warnings
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
import otel_progress as progress
from otel_progress.integrations.sklearn import ProgressCallback

warnings.simplefilter("error")
runtime = progress.configure(service_name="search", store=sys.argv[1], console=False, otlp=False)
X = np.random.default_rng(0).random((40, 3))
search = GridSearchCV(LogisticRegression(max_iter=30), {"C": [1, 2, 3]}, cv=2, n_jobs=2)
search.set_callbacks(ProgressCallback(id="grid"))
search.fit(X, (X[:, 0] > 0.5).astype(int))
progress.flush()
run = progress.get_operation("grid")
lines = [[level.info.path, level.status.value, level.current, level.total] for level in run.levels]
operations = [one.operation_id for one in progress.get_history()]
print(json.dumps([operations, run.root.status.value, run.root.current, lines]))
"""


@pytest.mark.process
def test_grid_search_in_processes_is_one_operation(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, f"sqlite:///{tmp_path}/p.db"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    operations, status, current, lines = json.loads(done.stdout)
    assert operations == ["grid"]
    assert (status, current) == ("completed", 2)
    search = next(line for line in lines if line[0] == "search:0")
    assert search[1:] == ["completed", 6, 6]
    tasks = [line for line in lines if line[0].startswith("search:0/")]
    assert len(tasks) == 6
    assert all(line[1] == "completed" and line[2] > 0 for line in tasks)
