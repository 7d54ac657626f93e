"""Progress of XGBoost with the real library."""

from __future__ import annotations

import copy
import pickle

import pytest

pytest.importorskip("xgboost", reason="needs the group heavy")

import numpy as np
import xgboost

from otel_progress.integrations import xgboost as integration
from otel_progress.integrations.xgboost import ProgressCallback
from otel_progress.testing import Recorder
from tests.support.training import describe, get_run, get_runs

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::FutureWarning")]

PARAMETERS = {"objective": "binary:logistic", "max_depth": 2, "nthread": 1}


@pytest.fixture(autouse=True)
def _restored():
    integration._functions.apply()
    yield
    integration.uninstrument()


def make_data(rows: int = 60) -> xgboost.DMatrix:
    values = np.random.default_rng(0).random((rows, 3))
    return xgboost.DMatrix(values, label=(values[:, 0] > 0.5).astype(int))


def test_train_with_callback_counts_rounds_and_keeps_metrics(recorder: Recorder) -> None:
    data = make_data()
    xgboost.train(
        PARAMETERS, data, 7, evals=[(data, "train")], verbose_eval=False, callbacks=[ProgressCallback()]
    )
    run = get_run(recorder)
    assert describe(run) == ["training completed 7/7"]
    assert run.root.info.name == "binary:logistic"
    assert run.root.metadata["train-logloss"] < 0.7


def test_train_when_instrumented_needs_no_callback(recorder: Recorder) -> None:
    integration.instrument()
    xgboost.train(PARAMETERS, make_data(), 3)
    xgboost.XGBClassifier(n_estimators=4, n_jobs=1).fit(np.eye(4), [0, 1, 0, 1])
    integration.uninstrument()
    xgboost.train(PARAMETERS, make_data(), 3)
    assert [describe(run)[0] for run in get_runs(recorder)] == [
        "training completed 3/3",
        "training completed 4/4",
    ]


def test_train_that_raises_is_failed(recorder: Recorder) -> None:
    def objective(predictions: object, data: object) -> None:
        raise ValueError("bad objective")

    with pytest.raises(ValueError, match="bad objective"):
        xgboost.train({}, make_data(), 5, obj=objective, callbacks=[ProgressCallback()])
    run = get_run(recorder)
    assert describe(run) == ["training failed 0/5"]
    assert run.root.error is not None
    assert run.root.error.message == "bad objective"


def test_train_with_early_stopping_is_completed(recorder: Recorder) -> None:
    data = make_data()
    xgboost.train(
        PARAMETERS,
        data,
        500,
        evals=[(xgboost.DMatrix(np.ones((9, 3)), label=[0, 1] * 4 + [0]), "valid")],
        early_stopping_rounds=2,
        verbose_eval=False,
        callbacks=[ProgressCallback()],
    )
    run = get_run(recorder)
    assert run.root.status.value == "completed"
    assert run.root.current == run.root.total < 500
    assert "stopped early" in str(run.root.message)


def test_train_that_continues_a_model_continues_its_count(recorder: Recorder) -> None:
    data = make_data()
    first = xgboost.train(PARAMETERS, data, 5)
    xgboost.train(PARAMETERS, data, 3, xgb_model=first, callbacks=[ProgressCallback()])
    run = get_run(recorder)
    assert describe(run) == ["training completed 8/8"]
    assert run.root.resumed_from == 5


def test_cv_with_callback_is_one_run_for_all_folds(recorder: Recorder) -> None:
    xgboost.cv(PARAMETERS, make_data(), 6, nfold=3, callbacks=[ProgressCallback()], as_pandas=False)
    run = get_run(recorder)
    assert describe(run) == ["training completed 6/6"]
    assert isinstance(run.root.metadata["test-logloss"], float)


def test_request_to_cancel_ends_the_training_as_cancelled(recorder: Recorder) -> None:
    class Cancel(xgboost.callback.TrainingCallback):
        def after_iteration(self, model: object, epoch: int, evals_log: object) -> bool:
            if epoch == 3:
                (operation,) = recorder.runtime.get_active_operations()
                recorder.runtime.request_cancel(operation.operation_id)
                recorder.tick()
            return False

    xgboost.train(PARAMETERS, make_data(), 50, callbacks=[Cancel(), ProgressCallback()])
    assert describe(get_run(recorder)) == ["training cancelled 4/50"]


def test_training_without_configuration_records_nothing() -> None:
    integration.instrument()
    booster = xgboost.train(PARAMETERS, make_data(), 3, callbacks=[ProgressCallback()])
    assert booster.num_boosted_rounds() == 3


def test_callback_used_twice_records_two_runs(recorder: Recorder) -> None:
    callback = ProgressCallback(name="twice", id="mine", part=3)
    for _ in range(2):
        xgboost.train(PARAMETERS, make_data(), 2, callbacks=[callback])
    recorder.tick()
    history = recorder.runtime.get_history()
    assert [(one.operation_id, one.root.info.name, one.root.metadata["part"]) for one in history] == [
        ("mine", "twice", 3)
    ] * 2


def test_copies_of_a_callback_record_runs_of_their_own(recorder: Recorder) -> None:
    callback = ProgressCallback("first")
    copies = [callback, copy.deepcopy(callback), pickle.loads(pickle.dumps(callback))]
    for one in copies:
        xgboost.train(PARAMETERS, make_data(), 2, callbacks=[one])
    assert [describe(run) for run in get_runs(recorder)] == [["training completed 2/2"]] * 3
