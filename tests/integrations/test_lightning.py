"""Progress of Lightning with the real library."""

from __future__ import annotations

import copy
import importlib.metadata
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the group heavy")
pytest.importorskip("lightning", reason="needs the group heavy")

import lightning
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from otel_progress import current_level
from otel_progress.integrations.lightning import ProgressCallback, build_callbacks
from otel_progress.testing import Recorder
from tests.support.training import describe, get_run, get_runs

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


class Line(lightning.LightningModule):
    """A linear model with batches of two rows, and an error at a batch if requested."""

    def __init__(self, fail_at: int | None = None, rows: int | None = 12) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)
        self.fail_at = fail_at
        self.rows = rows

    def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
        if self.fail_at == index:
            raise ValueError("boom")
        assert current_level().recording
        loss = self.layer(batch).pow(2).mean()
        self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: torch.Tensor, index: int) -> None:
        self.log("val_loss", self.layer(batch).pow(2).mean())

    test_step = validation_step

    def predict_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
        return self.layer(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.01)

    def train_dataloader(self) -> torch.utils.data.DataLoader:
        if self.rows is None:
            return torch.utils.data.DataLoader(Stream(), batch_size=2)
        return torch.utils.data.DataLoader(torch.ones(self.rows, 2), batch_size=2)

    def val_dataloader(self) -> torch.utils.data.DataLoader:
        return torch.utils.data.DataLoader(torch.ones(6, 2), batch_size=2)

    test_dataloader = predict_dataloader = val_dataloader


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self) -> Iterator[torch.Tensor]:
        for _ in range(8):
            yield torch.ones(2)


def make_trainer(path: Path, *callbacks: Callback, **options: object) -> lightning.Trainer:
    given = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": any(isinstance(one, ModelCheckpoint) for one in callbacks),
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "max_epochs": 2,
        "default_root_dir": path,
    }
    return lightning.Trainer(callbacks=list(callbacks), **{**given, **options})


def test_entry_point_adds_the_callback_only_after_configure(tmp_path: Path) -> None:
    (point,) = [
        one
        for one in importlib.metadata.entry_points(group="lightning.pytorch.callbacks_factory")
        if one.value.startswith("otel_progress.")
    ]
    assert point.load() is build_callbacks
    trainer = make_trainer(tmp_path)
    assert not any(isinstance(one, ProgressCallback) for one in trainer.callbacks)


def test_fit_without_code_has_levels_per_epoch(recorder: Recorder, tmp_path: Path) -> None:
    make_trainer(tmp_path).fit(Line())
    run = get_run(recorder)
    assert describe(run) == [
        "training completed 12/12",
        "epoch:1 completed 6/6",
        "epoch:1/evaluation:1 completed 3/3",
        "epoch:2 completed 6/6",
        "epoch:2/evaluation:2 completed 3/3",
    ]
    assert run.root.info.name == "Line"
    assert {level.info.unit for level in (run.root, *run.levels)} == {"step"}
    assert {"loss", "val_loss"} <= set(run.root.metadata)
    assert not current_level().recording


def test_fit_with_both_packages_records_each(recorder: Recorder, tmp_path: Path) -> None:
    pytorch_lightning = pytest.importorskip("pytorch_lightning")

    class Other(pytorch_lightning.LightningModule):
        training_step = Line.training_step
        configure_optimizers = Line.configure_optimizers
        train_dataloader = Line.train_dataloader

        def __init__(self) -> None:
            pytorch_lightning.LightningModule.__init__(self)
            self.layer, self.fail_at, self.rows = torch.nn.Linear(2, 1), None, 12

    make_trainer(tmp_path, limit_val_batches=0).fit(Line())
    trainer = pytorch_lightning.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        max_epochs=1,
        default_root_dir=tmp_path,
    )
    trainer.fit(Other())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    lines = [describe(run)[0] for run in get_runs(recorder)]
    assert lines == ["training completed 12/12", "training completed 6/6"]


def test_explicit_callback_records_once(recorder: Recorder, tmp_path: Path) -> None:
    make_trainer(tmp_path, ProgressCallback("mine", id="fit-1", seed=3)).fit(Line())
    run = get_run(recorder)
    assert (run.operation_id, run.root.info.name, run.root.metadata["seed"]) == ("fit-1", "mine", 3)


def test_fit_that_raises_is_failed(recorder: Recorder, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="boom"):
        make_trainer(tmp_path).fit(Line(fail_at=4))
    run = get_run(recorder)
    assert describe(run)[:2] == ["training failed 4/12", "epoch:1 failed 4/6"]
    assert run.root.error is not None
    assert run.root.error.message == "boom"
    assert not current_level().recording


def test_interrupted_fit_is_cancelled(recorder: Recorder, tmp_path: Path) -> None:
    class Interrupt(Callback):
        def on_train_batch_end(self, *args: object) -> None:
            raise KeyboardInterrupt

    with pytest.raises(SystemExit):
        make_trainer(tmp_path, Interrupt()).fit(Line())
    assert describe(get_run(recorder))[0] == "training cancelled 0/12"


def test_fit_of_unknown_length_predicts_its_total(recorder: Recorder, tmp_path: Path) -> None:
    make_trainer(tmp_path, max_epochs=3, limit_val_batches=0).fit(Line(rows=None))
    assert describe(get_run(recorder)) == [
        "training completed 12/12",
        "epoch:1 completed 4/None",
        "epoch:2 completed 4/None",
        "epoch:3 completed 4/None",
    ]


def test_fit_with_max_steps_has_their_total(recorder: Recorder, tmp_path: Path) -> None:
    options = {"max_epochs": -1, "max_steps": 4, "accumulate_grad_batches": 2, "limit_val_batches": 0}
    make_trainer(tmp_path, **options).fit(Line())
    run = get_run(recorder)
    assert describe(run)[0] == "training completed 8/8"


@pytest.mark.parametrize(("every", "expected"), [(6, "epoch:2 completed 6/6"), (4, "epoch:1 completed 6/6")])
def test_resumed_fit_continues_the_count(
    recorder: Recorder, tmp_path: Path, every: int, expected: str
) -> None:
    saver = ModelCheckpoint(dirpath=tmp_path, every_n_train_steps=every, save_top_k=-1, filename="{step}")
    make_trainer(tmp_path, saver, max_steps=every).fit(Line())
    (file,) = tmp_path.glob("*.ckpt")
    make_trainer(tmp_path, max_epochs=2, limit_val_batches=0).fit(Line(), ckpt_path=file)
    run = get_runs(recorder)[-1]
    assert run.root.resumed_from == every
    assert describe(run)[0] == "training completed 12/12"
    assert describe(run)[1] == expected
    assert all("12" in line or "6/6" in line for line in describe(run))


def test_validate_test_and_predict_are_runs_of_their_own(recorder: Recorder, tmp_path: Path) -> None:
    trainer, model = make_trainer(tmp_path), Line()
    trainer.validate(model, verbose=False)
    trainer.test(model, verbose=False)
    trainer.predict(model)
    runs = get_runs(recorder)
    assert [describe(run) for run in runs] == [["evaluation completed 3/3"]] * 3
    assert [run.root.metadata["stage"] for run in runs] == ["validation", "test", "prediction"]
    assert "val_loss" in runs[0].root.metadata


def test_request_to_cancel_ends_the_training_as_cancelled(recorder: Recorder, tmp_path: Path) -> None:
    class Cancel(Callback):
        def on_train_batch_start(self, trainer: object, module: object, batch: object, index: int) -> None:
            if index == 3:
                (operation,) = recorder.runtime.get_active_operations()
                recorder.runtime.request_cancel(operation.operation_id)
                recorder.tick()

    make_trainer(tmp_path, Cancel(), limit_val_batches=0).fit(Line())
    assert describe(get_run(recorder))[0] == "training cancelled 4/12"


def test_copies_of_a_callback_have_no_run(recorder: Recorder, tmp_path: Path) -> None:
    callback = ProgressCallback("net", seed=1)
    copies = []

    class Copy(Callback):
        def on_train_epoch_end(self, trainer: object, module: object) -> None:
            copies.extend([copy.deepcopy(callback), pickle.loads(pickle.dumps(callback))])

    make_trainer(tmp_path, callback, Copy(), max_epochs=1).fit(Line())
    assert len(copies) == 2
    for one in copies:
        make_trainer(tmp_path, one, max_epochs=1).fit(Line())
    assert [run.root.info.name for run in get_runs(recorder)] == ["net"] * 3


def test_checkpoint_has_no_state_of_the_callback(recorder: Recorder, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    trainer.fit(Line())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    saved = torch.load(tmp_path / "last.ckpt", weights_only=False)
    assert not any("Progress" in key for key in saved["callbacks"])
    get_run(recorder)
