"""Progress of the Trainer of transformers with the real library."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the group heavy")
pytest.importorskip("accelerate", reason="needs the group heavy")
pytest.importorskip("transformers", reason="needs the group heavy")

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers import trainer as trainer_module

from otel_progress import current_level, diagnostics, get_history
from otel_progress.integrations import transformers as integration
from otel_progress.integrations.transformers import ProgressCallback
from otel_progress.testing import Recorder, recording
from tests.support.training import describe, get_run, get_runs

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


class Rows(torch.utils.data.Dataset):
    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": torch.tensor([1, 2, 3]), "labels": torch.tensor(index % 2)}


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        rows = Rows(0)
        return (rows[index] for index in range(16))


class FailingTrainer(Trainer):
    def training_step(self, *args: object, **kwargs: object) -> torch.Tensor:
        assert current_level().recording
        if self.state.global_step == 3:
            raise ValueError("boom")
        return super().training_step(*args, **kwargs)


def make_trainer(
    path: Path, kind: type[Trainer] = Trainer, data: object = None, **options: object
) -> Trainer:
    """Return a Trainer of 2 epochs with 5 steps each."""
    config = BertConfig(
        vocab_size=10, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
    )
    callbacks = options.pop("callbacks", None)
    given = {
        "output_dir": str(path),
        "num_train_epochs": 2,
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 4,
        "report_to": "otel_progress",
        "disable_tqdm": True,
        "use_cpu": True,
        "save_strategy": "no",
        "logging_steps": 2,
    }
    return kind(
        BertForSequenceClassification(config),
        TrainingArguments(**{**given, **options}),
        train_dataset=data or Rows(20),
        eval_dataset=Rows(8),
        callbacks=callbacks,
    )


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    integration._functions.apply()
    yield
    integration.uninstrument()


def test_train_selected_by_report_to_has_levels_per_epoch(recorder: Recorder, tmp_path: Path) -> None:
    make_trainer(tmp_path, eval_strategy="epoch").train()
    run = get_run(recorder)
    assert describe(run) == [
        "training completed 10/10",
        "epoch:1 completed 5/5",
        "evaluation:1 completed 2/2",
        "epoch:2 completed 5/5",
        "evaluation:2 completed 2/2",
    ]
    assert run.root.info.name == "BertForSequenceClassification"
    assert {"loss", "eval_loss", "learning_rate", "train_loss"} <= set(run.root.metadata)
    assert run.root.metadata["epochs"] == 2
    assert "loss" in run.levels[0].metadata


def test_evaluation_within_an_epoch_is_below_it(recorder: Recorder, tmp_path: Path) -> None:
    make_trainer(tmp_path, eval_strategy="steps", eval_steps=4, eval_on_start=True).train()
    lines = describe(get_run(recorder))
    assert lines[0] == "training completed 10/10"
    assert "evaluation:1 completed 2/2" in lines
    assert "epoch:1/evaluation:2 completed 2/2" in lines
    assert "epoch:1 completed 5/5" in lines


@pytest.mark.parametrize(
    ("step", "epochs"),
    [(3, ["epoch:1 completed 5/5", "epoch:2 completed 5/5"]), (5, ["epoch:2 completed 5/5"])],
)
def test_resumed_training_continues_the_count(
    recorder: Recorder, tmp_path: Path, step: int, epochs: list[str]
) -> None:
    make_trainer(tmp_path, save_strategy="steps", save_steps=step).train()
    make_trainer(tmp_path).train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
    run = get_runs(recorder)[-1]
    assert describe(run) == ["training completed 10/10", *epochs]
    assert run.root.resumed_from == step


def test_training_of_a_stream_has_the_total_of_its_steps(recorder: Recorder, tmp_path: Path) -> None:
    make_trainer(tmp_path, data=Stream(), max_steps=6).train()
    lines = describe(get_run(recorder))
    assert lines[0] == "training completed 6/6"
    assert [line.split("/")[0] for line in lines[1:]] == ["epoch:1 completed 4", "epoch:2 completed 2"]


def test_accumulated_gradients_count_as_one_step(recorder: Recorder, tmp_path: Path) -> None:
    make_trainer(tmp_path, gradient_accumulation_steps=2).train()
    assert describe(get_run(recorder)) == [
        "training completed 6/6",
        "epoch:1 completed 3/3",
        "epoch:2 completed 3/3",
    ]


def test_training_that_raises_is_failed(recorder: Recorder, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="boom"):
        make_trainer(tmp_path, FailingTrainer).train()
    run = get_run(recorder)
    assert describe(run) == ["training failed 3/10", "epoch:1 failed 3/5"]
    assert run.root.error is not None
    assert run.root.error.message == "boom"
    assert not current_level().recording


def test_training_that_stops_itself_is_completed(recorder: Recorder, tmp_path: Path) -> None:
    class Stop(TrainerCallback):
        def on_step_end(self, args: object, state: object, control: object, **kwargs: object) -> None:
            control.should_training_stop = state.global_step == 3

    make_trainer(tmp_path, callbacks=[Stop()]).train()
    run = get_run(recorder)
    assert describe(run) == ["training completed 3/3", "epoch:1 completed 3/3"]
    assert run.root.message == "stopped early at step 3 of 10"


def test_request_to_cancel_ends_the_training_as_cancelled(recorder: Recorder, tmp_path: Path) -> None:
    class Cancel(TrainerCallback):
        def on_step_begin(self, args: object, state: object, control: object, **kwargs: object) -> None:
            if state.global_step == 2:
                (operation,) = recorder.runtime.get_active_operations()
                recorder.runtime.request_cancel(operation.operation_id)
                recorder.tick()

    make_trainer(tmp_path, callbacks=[Cancel()]).train()
    assert describe(get_run(recorder))[0] == "training cancelled 3/10"


def test_evaluate_and_predict_are_runs_of_their_own(recorder: Recorder, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    trainer.evaluate()
    trainer.predict(Rows(12))
    runs = get_runs(recorder)
    assert [describe(run) for run in runs] == [["evaluation completed 2/2"], ["evaluation completed 3/3"]]
    assert "eval_loss" in runs[0].root.metadata
    assert "test_loss" in runs[1].root.metadata


def test_instrumented_trainer_needs_no_code_and_records_once(recorder: Recorder, tmp_path: Path) -> None:
    before = list(trainer_module.DEFAULT_CALLBACKS)
    integration.instrument()
    integration.instrument()
    make_trainer(tmp_path, report_to="none").train()
    make_trainer(tmp_path, report_to="none", callbacks=[ProgressCallback("mine", id="t1", seed=7)]).train()
    make_trainer(tmp_path).train()
    integration.uninstrument()
    integration.uninstrument()
    make_trainer(tmp_path, report_to="none").train()
    runs = get_runs(recorder)
    assert len(runs) == 3
    assert (runs[1].operation_id, runs[1].root.info.name, runs[1].root.metadata["seed"]) == ("t1", "mine", 7)
    assert before == trainer_module.DEFAULT_CALLBACKS
    assert not hasattr(Trainer.train, "__wrapped__")


def test_training_without_configuration_records_nothing(tmp_path: Path) -> None:
    make_trainer(tmp_path, max_steps=1).train()
    assert get_history() == []
    assert diagnostics.internal_error_counts == {}


def test_training_after_a_failed_one_is_an_operation_of_its_own(recorder: Recorder, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, FailingTrainer)
    for _ in range(2):
        with pytest.raises(ValueError, match="boom"):
            trainer.train()
    assert [run.root.status.value for run in get_runs(recorder)] == ["failed", "failed"]


def test_copies_of_a_callback_record_runs_of_their_own(recorder: Recorder, tmp_path: Path) -> None:
    callback = ProgressCallback("first")
    for one in (callback, copy.deepcopy(callback), pickle.loads(pickle.dumps(callback))):
        make_trainer(tmp_path, report_to="none", max_steps=2, callbacks=[one]).train()
    assert [describe(run)[0] for run in get_runs(recorder)] == ["training completed 2/2"] * 3


def test_shutdown_within_a_training_does_not_disturb_it(tmp_path: Path) -> None:
    class Shutdown(TrainerCallback):
        def on_epoch_end(self, args: object, state: object, control: object, **kwargs: object) -> None:
            recorder.runtime.shutdown()

    with recording(strict=False) as recorder:
        trainer = make_trainer(tmp_path, callbacks=[Shutdown()], eval_strategy="epoch")
        trainer.train()
    assert trainer.state.global_step == 10
    assert dict(diagnostics.internal_error_counts) == {}
