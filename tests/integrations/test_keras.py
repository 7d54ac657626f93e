"""Progress of Keras with the real library and its torch backend."""

from __future__ import annotations

import copy
import os
import pickle
from collections.abc import Iterator

import pytest

os.environ.setdefault("KERAS_BACKEND", "torch")
pytest.importorskip("torch", reason="needs the group heavy")
pytest.importorskip("keras", reason="needs the group heavy")

import keras
import numpy as np

from otel_progress import current_level, diagnostics, get_history
from otel_progress.integrations import keras as integration
from otel_progress.integrations.keras import ProgressCallback
from otel_progress.testing import Recorder
from tests.support.training import describe, get_run, get_runs

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

X = np.zeros((12, 2), dtype="float32")
Y = np.zeros((12, 1), dtype="float32")
OPTIONS = {"batch_size": 4, "verbose": 0}


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    integration._functions.apply()
    yield
    integration.uninstrument()


@pytest.fixture
def model() -> keras.Model:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)], name="line")
    model.compile("sgd", "mse", metrics=["mae"])
    return model


def test_fit_with_validation_has_levels_per_epoch(recorder: Recorder, model: keras.Model) -> None:
    model.fit(X, Y, epochs=2, validation_data=(X[:8], Y[:8]), callbacks=[ProgressCallback()], **OPTIONS)
    run = get_run(recorder)
    assert describe(run) == [
        "training completed 6/6",
        "epoch:1 completed 3/3",
        "epoch:1/evaluation:1 completed 2/None",
        "epoch:2 completed 3/3",
        "epoch:2/evaluation:2 completed 2/2",
    ]
    assert run.root.info.name == "line"
    assert {level.info.unit for level in (run.root, *run.levels)} == {"step"}
    assert {"loss", "mae", "val_loss", "val_mae"} <= set(run.root.metadata)
    assert isinstance(run.root.metadata["loss"], float)


def test_fit_of_a_generator_learns_its_length(recorder: Recorder, model: keras.Model) -> None:
    def batches() -> Iterator[tuple[object, object]]:
        for _ in range(100):
            yield X[:2], Y[:2]

    totals = []
    watch = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: totals.append(
            [one.root.total for one in recorder.runtime.get_active_operations()]
        )
    )
    callbacks = [ProgressCallback(), watch]
    model.fit(batches(), epochs=3, steps_per_epoch=5, verbose=0, callbacks=callbacks)
    assert describe(get_run(recorder))[0] == "training completed 15/15"

    class Unsized(keras.utils.PyDataset):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> tuple[object, object]:
            return X[:2], Y[:2]

    model.fit(Unsized(), epochs=3, verbose=0, callbacks=callbacks)
    assert describe(get_runs(recorder)[-1])[0] == "training completed 12/12"


def test_fit_of_unknown_length_predicts_its_total(recorder: Recorder, model: keras.Model) -> None:
    totals = []
    watch = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: totals.append(
            [one.root.total for one in recorder.runtime.get_active_operations()]
        )
    )

    import torch

    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self) -> Iterator[tuple[object, object]]:
            for _ in range(7):
                yield X[0], Y[0]

    loader = torch.utils.data.DataLoader(Stream(), batch_size=2)
    model.fit(loader, epochs=3, verbose=0, callbacks=[ProgressCallback(), watch])
    assert totals == [[None], [12], [12]]
    assert describe(get_run(recorder)) == [
        "training completed 12/12",
        "epoch:1 completed 4/None",
        "epoch:2 completed 4/None",
        "epoch:3 completed 4/None",
    ]


def test_fit_from_an_initial_epoch_continues_the_count(recorder: Recorder, model: keras.Model) -> None:
    model.fit(X, Y, epochs=5, initial_epoch=3, callbacks=[ProgressCallback()], **OPTIONS)
    run = get_run(recorder)
    assert describe(run) == [
        "training completed 15/15",
        "epoch:4 completed 3/3",
        "epoch:5 completed 3/3",
    ]
    assert run.root.resumed_from == 9


def test_fit_that_raises_is_failed(recorder: Recorder, model: keras.Model) -> None:
    class Bad(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: object = None) -> None:
            if batch == 1:
                raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        model.fit(X, Y, epochs=3, callbacks=[Bad(), ProgressCallback()], **OPTIONS)
    run = get_run(recorder)
    assert describe(run) == ["training failed 1/9", "epoch:1 failed 1/3"]
    assert run.root.error is not None
    assert run.root.error.message == "boom"
    assert not current_level().recording


def test_fit_with_early_stopping_is_completed(recorder: Recorder, model: keras.Model) -> None:
    stop = keras.callbacks.EarlyStopping("loss", patience=0, min_delta=1)
    model.fit(X, Y, epochs=30, callbacks=[stop, ProgressCallback()], **OPTIONS)
    run = get_run(recorder)
    assert run.root.status.value == "completed"
    assert run.root.message == "stopped early at step 6 of 90"


def test_request_to_cancel_ends_the_training_as_cancelled(recorder: Recorder, model: keras.Model) -> None:
    class Cancel(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: object = None) -> None:
            if batch == 1:
                (operation,) = recorder.runtime.get_active_operations()
                recorder.runtime.request_cancel(operation.operation_id)
                recorder.tick()

    model.fit(X, Y, epochs=30, callbacks=[Cancel(), ProgressCallback()], **OPTIONS)
    assert describe(get_run(recorder))[0] == "training cancelled 2/90"


def test_methods_when_instrumented_need_no_callback(recorder: Recorder, model: keras.Model) -> None:
    integration.instrument()
    integration.instrument()
    model.fit(X, Y, epochs=1, **OPTIONS)
    model.evaluate(X, Y, **OPTIONS)
    model.predict(X, callbacks=keras.callbacks.LambdaCallback(), **OPTIONS)
    model.fit(X, Y, epochs=1, callbacks=[ProgressCallback("own")], **OPTIONS)
    integration.uninstrument()
    model.fit(X, Y, epochs=1, **OPTIONS)
    runs = get_runs(recorder)
    assert [describe(run)[0] for run in runs] == [
        "training completed 3/3",
        "evaluation completed 3/3",
        "evaluation completed 3/3",
        "training completed 3/3",
    ]
    assert [run.root.metadata.get("stage") for run in runs] == [None, "test", "prediction", None]
    assert runs[-1].root.info.name == "own"
    assert not hasattr(keras.Model.fit, "__wrapped__") or "fit" not in vars(keras.Model)


def test_training_without_configuration_records_nothing(model: keras.Model) -> None:
    integration.instrument()
    model.fit(X, Y, epochs=1, callbacks=[ProgressCallback()], **OPTIONS)
    assert get_history() == []
    assert diagnostics.internal_error_counts == {}


def test_rank_above_zero_records_nothing(
    recorder: Recorder, model: keras.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    model.fit(X, Y, epochs=1, callbacks=[ProgressCallback()], **OPTIONS)
    assert get_runs(recorder) == []


def test_copies_of_a_callback_record_runs_of_their_own(recorder: Recorder, model: keras.Model) -> None:
    callback = ProgressCallback("first")
    for one in (callback, copy.deepcopy(callback), pickle.loads(pickle.dumps(callback))):
        model.fit(X, Y, epochs=1, callbacks=[one], **OPTIONS)
    assert [describe(run)[0] for run in get_runs(recorder)] == ["training completed 3/3"] * 3
