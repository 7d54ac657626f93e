"""Progress of LightGBM with the real library."""

from __future__ import annotations

import copy
import pickle

import pytest

pytest.importorskip("lightgbm", reason="needs the group heavy")

import lightgbm
import numpy as np

from otel_progress.integrations import lightgbm as integration
from otel_progress.integrations.lightgbm import ProgressCallback
from otel_progress.testing import Recorder
from tests.support.training import describe, get_run, get_runs

pytestmark = pytest.mark.slow

PARAMETERS = {"objective": "binary", "num_leaves": 4, "num_threads": 1, "verbosity": -1}


@pytest.fixture(autouse=True)
def _restored():
    integration._functions.apply(integration._add_callbacks)
    yield
    integration.uninstrument()


def make_data(rows: int = 200) -> lightgbm.Dataset:
    values = np.random.default_rng(0).random((rows, 3))
    return lightgbm.Dataset(values, label=(values[:, 0] > 0.5).astype(int))


def test_train_with_callback_counts_rounds_and_keeps_metrics(recorder: Recorder) -> None:
    data = make_data()
    lightgbm.train(
        PARAMETERS, data, 7, valid_sets=[data], valid_names=["train"], callbacks=[ProgressCallback()]
    )
    run = get_run(recorder)
    assert describe(run) == ["training completed 7/7"]
    assert run.root.info.name == "binary"
    assert run.root.metadata["train-binary_logloss"] < 0.7


def test_train_when_instrumented_needs_no_callback(recorder: Recorder) -> None:
    integration.instrument()
    lightgbm.train(PARAMETERS, make_data(), 3)
    values = np.random.default_rng(0).random((100, 3))
    lightgbm.LGBMClassifier(n_estimators=4, n_jobs=1, verbosity=-1).fit(values, values[:, 0] > 0.5)
    integration.uninstrument()
    lightgbm.train(PARAMETERS, make_data(), 3)
    assert [describe(run)[0] for run in get_runs(recorder)] == [
        "training completed 3/3",
        "training completed 4/4",
    ]


def test_train_runs_before_the_first_round_ends(recorder: Recorder) -> None:
    seen = []

    def metric(predictions: object, data: object) -> tuple[str, float, bool]:
        seen.append([one.root.current for one in recorder.runtime.get_active_operations()])
        return "zero", 0.0, True

    data = make_data()
    lightgbm.train(PARAMETERS, data, 2, valid_sets=[data], feval=metric, callbacks=[ProgressCallback()])
    assert seen == [[0], [1]]
    get_run(recorder)


def test_train_that_raises_is_failed(recorder: Recorder) -> None:
    def metric(predictions: object, data: object) -> tuple[str, float, bool]:
        raise ValueError("bad metric")

    data = make_data()
    with pytest.raises(ValueError, match="bad metric"):
        lightgbm.train(PARAMETERS, data, 5, valid_sets=[data], feval=metric, callbacks=[ProgressCallback()])
    run = get_run(recorder)
    assert describe(run) == ["training failed 0/5"]
    assert run.root.error is not None
    assert run.root.error.message == "bad metric"


def test_train_with_early_stopping_is_completed(recorder: Recorder) -> None:
    data = make_data()
    noise = lightgbm.Dataset(np.ones((50, 3)), label=[0, 1] * 25, reference=data)
    stop = lightgbm.early_stopping(3, verbose=False)
    lightgbm.train(PARAMETERS, data, 500, valid_sets=[noise], callbacks=[stop, ProgressCallback()])
    run = get_run(recorder)
    assert run.root.status.value == "completed"
    assert run.root.current == run.root.total == 4
    assert "stopped early at step 4 of 500" in str(run.root.message)


def test_train_that_continues_a_model_continues_its_count(recorder: Recorder) -> None:
    first = lightgbm.train(PARAMETERS, make_data(), 5)
    lightgbm.train(PARAMETERS, make_data(), 3, init_model=first, callbacks=[ProgressCallback()])
    run = get_run(recorder)
    assert describe(run) == ["training completed 8/8"]
    assert run.root.resumed_from == 5


def test_cv_with_callback_is_one_run_for_all_folds(recorder: Recorder) -> None:
    lightgbm.cv(PARAMETERS, make_data(), 6, nfold=3, callbacks=[ProgressCallback()])
    run = get_run(recorder)
    assert describe(run) == ["training completed 6/6"]
    assert isinstance(run.root.metadata["valid-binary_logloss"], float)


def test_request_to_cancel_ends_the_training_as_cancelled(recorder: Recorder) -> None:
    def cancel(env: lightgbm.callback.CallbackEnv) -> None:
        if env.iteration == 3:
            (operation,) = recorder.runtime.get_active_operations()
            recorder.runtime.request_cancel(operation.operation_id)
            recorder.tick()

    booster = lightgbm.train(PARAMETERS, make_data(), 50, callbacks=[cancel, ProgressCallback()])
    assert describe(get_run(recorder)) == ["training cancelled 4/50"]
    assert booster.num_trees() == 4


def test_training_without_configuration_records_nothing() -> None:
    integration.instrument()
    booster = lightgbm.train(PARAMETERS, make_data(), 3, callbacks=[ProgressCallback()])
    assert booster.num_trees() == 3


def test_callback_used_twice_records_two_runs(recorder: Recorder) -> None:
    callback = ProgressCallback(name="twice", part=3)
    for _ in range(2):
        lightgbm.train(PARAMETERS, make_data(), 2, callbacks=[callback])
    runs = get_runs(recorder)
    assert [(one.root.info.name, one.root.current, one.root.metadata["part"]) for one in runs] == [
        ("twice", 2, 3)
    ] * 2


def test_copies_of_a_callback_record_runs_of_their_own(recorder: Recorder) -> None:
    callback = ProgressCallback("first")
    copies = [callback, copy.deepcopy(callback), pickle.loads(pickle.dumps(callback))]
    for one in copies:
        lightgbm.train(PARAMETERS, make_data(), 2, callbacks=[one])
    assert [describe(run) for run in get_runs(recorder)] == [["training completed 2/2"]] * 3
