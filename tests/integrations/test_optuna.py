"""Progress of Optuna studies with the real library."""

from __future__ import annotations

import pytest

pytest.importorskip("optuna", reason="optuna is not installed")

import optuna

from otel_progress import current_level, level
from otel_progress.integrations import optuna as integration
from otel_progress.integrations.optuna import ProgressCallback
from otel_progress.testing import Recorder
from tests.support.training import describe, get_run


@pytest.fixture(autouse=True)
def _quiet():
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    integration._apply()
    yield
    integration.uninstrument()


@pytest.fixture
def study() -> optuna.Study:
    return optuna.create_study(study_name="parabola", sampler=optuna.samplers.RandomSampler(seed=1))


def objective(trial: optuna.Trial) -> float:
    return trial.suggest_float("x", -1, 1) ** 2


def test_optimize_with_callback_has_a_level_per_trial(recorder: Recorder, study: optuna.Study) -> None:
    study.optimize(objective, n_trials=3, callbacks=[ProgressCallback()])
    run = get_run(recorder)
    assert describe(run) == [
        "study completed 3/3",
        "trial:0 completed 0/None",
        "trial:1 completed 0/None",
        "trial:2 completed 0/None",
    ]
    assert run.root.metadata["best_value"] == study.best_value
    assert run.root.metadata["best_trial"] == study.best_trial.number
    values = {one.info.id: (one.metadata["x"], one.metadata["value"]) for one in run.levels}
    assert values == {str(one.number): (one.params["x"], one.value) for one in study.trials}


def test_optimize_when_instrumented_nests_levels_in_the_trials(
    recorder: Recorder, study: optuna.Study
) -> None:
    def train(trial: optuna.Trial) -> float:
        with level("training", 1, total=2) as training:
            training.increment(2)
        return objective(trial)

    integration.instrument()
    study.optimize(train, n_trials=1)
    integration.uninstrument()
    study.optimize(train, n_trials=0)
    assert describe(get_run(recorder)) == [
        "study completed 1/1",
        "trial:0 completed 1/None",
        "trial:0/training:1 completed 2/2",
    ]


def test_pruned_and_caught_trials_have_their_outcome(recorder: Recorder, study: optuna.Study) -> None:
    def mixed(trial: optuna.Trial) -> float:
        if trial.number == 0:
            raise optuna.TrialPruned("no hope")
        if trial.number == 1:
            raise ValueError("diverged")
        return 1.0

    study.optimize(mixed, n_trials=3, catch=ValueError, callbacks=[ProgressCallback()])
    run = get_run(recorder)
    assert [(one.status.value, one.message) for one in run.levels] == [
        ("skipped", "pruned: no hope"),
        ("failed", None),
        ("completed", None),
    ]
    assert run.root.status.value == "completed"
    assert run.root.current == 3


@pytest.mark.parametrize("value", [None, float("nan")])
def test_trial_with_an_invalid_value_is_failed(
    recorder: Recorder, study: optuna.Study, value: float | None
) -> None:
    study.optimize(lambda trial: value, n_trials=1, callbacks=[ProgressCallback()])
    assert describe(get_run(recorder)) == ["study completed 1/1", "trial:0 failed 0/None"]
    assert study.trials[0].state.name == "FAIL"


def test_optimize_that_raises_is_failed(recorder: Recorder, study: optuna.Study) -> None:
    def fail(trial: optuna.Trial) -> float:
        raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        study.optimize(fail, n_trials=3, callbacks=[ProgressCallback()])
    assert describe(get_run(recorder)) == ["study failed 1/3", "trial:0 failed 0/None"]
    assert not current_level().recording


def test_optimize_with_threads_counts_all_trials(recorder: Recorder, study: optuna.Study) -> None:
    study.optimize(objective, n_trials=20, n_jobs=3, callbacks=[ProgressCallback()])
    run = get_run(recorder)
    assert describe(run)[0] == "study completed 20/20"
    assert len(run.levels) == 20


def test_study_that_stops_itself_is_completed(recorder: Recorder, study: optuna.Study) -> None:
    def stop(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        study.stop()

    study.optimize(objective, n_trials=50, callbacks=[stop, ProgressCallback()])
    run = get_run(recorder)
    assert describe(run)[0] == "study completed 1/1"
    assert run.root.message == "stopped after 1 of 50 trials"


def test_request_to_cancel_stops_the_study(recorder: Recorder, study: optuna.Study) -> None:
    def cancel(trial: optuna.Trial) -> float:
        if trial.number == 2:
            (operation,) = recorder.runtime.get_active_operations()
            recorder.runtime.request_cancel(operation.operation_id)
            recorder.tick()
        return 0.0

    study.optimize(cancel, n_trials=50, callbacks=[ProgressCallback()])
    assert describe(get_run(recorder))[0] == "study cancelled 3/50"
    assert len(study.trials) == 3


def test_study_of_several_objectives_has_no_best_value(recorder: Recorder) -> None:
    study = optuna.create_study(directions=["minimize", "maximize"])
    study.optimize(lambda trial: (1.0, 2.0), n_trials=2, callbacks=[ProgressCallback()])
    run = get_run(recorder)
    assert "best_value" not in run.root.metadata
    assert describe(run)[0] == "study completed 2/2"


def test_optimize_without_configuration_records_nothing(study: optuna.Study) -> None:
    integration.instrument()
    study.optimize(objective, n_trials=2, callbacks=[ProgressCallback()])
    assert len(study.trials) == 2


def test_optimize_with_invalid_arguments_raises_the_error_of_optuna(
    recorder: Recorder, study: optuna.Study
) -> None:
    integration.instrument()
    with pytest.raises(TypeError, match="n_trial"):
        study.optimize(objective, n_trial=2)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        study.optimize(None, n_trials=1)  # type: ignore[arg-type]
    assert not recorder.runtime.get_history()
