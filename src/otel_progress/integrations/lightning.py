"""Progress of ``lightning.pytorch.Trainer``: epochs, batches and evaluations.

The entry point ``lightning.pytorch.callbacks_factory`` adds the callback to every Trainer that is
created after ``configure()``. Only the process with rank 0 records.
"""

from __future__ import annotations

import math
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from otel_progress.integrations.training import (
    EVALUATION,
    TrainingRun,
    guard_hook,
    is_configured,
    start_run,
)

if TYPE_CHECKING:
    _Base = object
else:
    # Why two packages: pytorch_lightning has classes of its own, and checks for them.
    try:
        if "lightning.pytorch" not in sys.modules and "pytorch_lightning" in sys.modules:
            from pytorch_lightning import Callback as _Base
        else:
            from lightning.pytorch import Callback as _Base
    except ImportError as error:
        msg = "Invalid environment: expected the package lightning. Install it: pip install lightning."
        raise ImportError(msg) from error


class ProgressCallback(_Base):
    """Callback of a Trainer that records its progress.

    ``name`` is by default the class of the module. ``id`` is the id of the operation. Other
    arguments are metadata. A request to cancel ends the training after the current batch, unless
    the training is distributed. Of several such callbacks of a Trainer only the first one records.
    """

    def __init__(self, name: str | None = None, *, id: object = None, **metadata: object) -> None:
        super().__init__()
        self._name = name
        self._id = id
        self._metadata = metadata
        self._run: TrainingRun | None = None
        self._first_batch = 0
        self._is_in_epoch = False

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_run": None}

    # --- training --------------------------------------------------------------------------------

    @guard_hook
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Start the run at the batch at which the training starts or resumes."""
        self._finish()
        self._is_in_epoch = False
        if not self._is_recorder(trainer):
            return
        self._first_batch = trainer.fit_loop.total_batch_idx + 1
        self._run = self._start(
            pl_module,
            "training",
            total=_count_batches(trainer),
            resumed_at=self._first_batch,
            epochs=trainer.max_epochs,
        )

    @guard_hook
    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Start the level of the epoch."""
        self._start_epoch(trainer, 0)

    @guard_hook
    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Start the level of an epoch that is resumed: its start calls no hook."""
        if not self._is_in_epoch:
            self._start_epoch(trainer, batch_idx)

    def _start_epoch(self, trainer: Any, resumed_at: int) -> None:
        self._is_in_epoch = True
        run = self._run
        if run is not None:
            done = min(resumed_at, run.step)
            self._first_batch = run.step - done
            total = _to_count(trainer.num_training_batches)
            run.start_epoch(trainer.current_epoch + 1, total=total, resumed_at=done)

    @guard_hook
    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch. Stop the training after a request to cancel."""
        run = self._run
        if run is not None:
            run.advance_to(self._first_batch + batch_idx + 1)
            run.report_live(lambda: trainer.progress_bar_metrics)
            if run.cancel_requested and trainer.world_size == 1:
                trainer.should_stop = True

    @guard_hook
    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """End the level of the epoch, and set its metrics."""
        self._is_in_epoch = False
        if self._run is not None:
            self._run.end_epoch(trainer.callback_metrics, epochs=_to_count(trainer.max_epochs))

    @guard_hook
    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """End the run."""
        if self._run is not None:
            self._run.report(trainer.callback_metrics)
        self._finish()

    # --- evaluation ------------------------------------------------------------------------------

    @guard_hook
    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Start the level of a validation: below the run, or as a run of its own."""
        self._start_evaluation(trainer, pl_module, "validation", trainer.num_val_batches)

    @guard_hook
    def on_test_start(self, trainer: Any, pl_module: Any) -> None:
        """Start a run for a test."""
        self._start_evaluation(trainer, pl_module, "test", trainer.num_test_batches)

    @guard_hook
    def on_predict_start(self, trainer: Any, pl_module: Any) -> None:
        """Start a run for a prediction."""
        self._start_evaluation(trainer, pl_module, "prediction", trainer.num_predict_batches)

    def _start_evaluation(self, trainer: Any, pl_module: Any, name: str, batches: Any) -> None:
        # Why no level of the sanity check: it is a part of the start, before the training.
        if trainer.sanity_checking:
            return
        counts = batches if isinstance(batches, list) else [batches]
        total = _to_count(sum(counts))
        if self._run is not None and self._is_training(trainer):
            self._run.start_evaluation(name, total)
            return
        self._finish()
        if self._is_recorder(trainer):
            self._run = self._start(pl_module, EVALUATION, total=total, stage=name)

    @guard_hook
    def on_validation_batch_end(self, trainer: Any, *args: Any, **kwargs: Any) -> None:
        """Count a batch of the validation."""
        run = self._run
        if run is None or trainer.sanity_checking:
            return
        if run.is_evaluating:
            run.advance_evaluation()
        else:
            run.advance_to(run.step + 1)

    @guard_hook
    def on_test_batch_end(self, trainer: Any, *args: Any, **kwargs: Any) -> None:
        """Count a batch of the test."""
        if self._run is not None:
            self._run.advance_to(self._run.step + 1)

    @guard_hook
    def on_predict_batch_end(self, trainer: Any, *args: Any, **kwargs: Any) -> None:
        """Count a batch of the prediction."""
        if self._run is not None:
            self._run.advance_to(self._run.step + 1)

    @guard_hook
    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """End the level of the validation, and set its metrics."""
        run = self._run
        if run is None or trainer.sanity_checking:
            return
        if run.is_evaluating:
            run.end_evaluation(trainer.callback_metrics)
        else:
            self._end_evaluation(trainer)

    @guard_hook
    def on_test_end(self, trainer: Any, pl_module: Any) -> None:
        """End the run of the test."""
        self._end_evaluation(trainer)

    @guard_hook
    def on_predict_end(self, trainer: Any, pl_module: Any) -> None:
        """End the run of the prediction."""
        self._end_evaluation(trainer)

    def _end_evaluation(self, trainer: Any) -> None:
        if self._run is not None:
            self._run.report(trainer.callback_metrics)
        self._finish()

    # --- end -------------------------------------------------------------------------------------

    @guard_hook
    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """End the run as failed or cancelled."""
        self._finish(exception)

    @guard_hook
    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """End a run whose end no other hook has reported."""
        self._finish()

    def _finish(self, error: BaseException | None = None) -> None:
        run, self._run = self._run, None
        if run is not None:
            run.finish(error)

    def _start(
        self, pl_module: Any, type: str, *, total: int | None, resumed_at: int = 0, **metadata: object
    ) -> TrainingRun:
        return start_run(
            "lightning",
            self._name or pl_module.__class__.__name__,
            type=type,
            id=self._id,
            total=total,
            resumed_at=resumed_at,
            metadata={**metadata, **self._metadata},
            is_current=True,
        )

    def _is_recorder(self, trainer: Any) -> bool:
        """Return True in the process with rank 0, for the first callback."""
        callbacks = [one for one in trainer.callbacks if isinstance(one, ProgressCallback)]
        return bool(trainer.is_global_zero) and is_configured() and callbacks[:1] == [self]

    @staticmethod
    def _is_training(trainer: Any) -> bool:
        return bool(trainer.state.fn == "fit")


def build_callbacks() -> list[Any]:
    """Return the callbacks of a new Trainer: one after ``configure()``, else none.

    It is the entry point ``lightning.pytorch.callbacks_factory``. Never raises.
    """
    return _build_callbacks("lightning.pytorch")


def build_pytorch_lightning_callbacks() -> list[Any]:
    """Return the callbacks of a new Trainer of the package pytorch_lightning.

    It is the entry point ``pytorch_lightning.callbacks_factory``. Never raises.
    """
    return _build_callbacks("pytorch_lightning")


def _build_callbacks(package: str) -> list[Any]:
    # Why always a list: Lightning calls the hooks of every other result.
    return (_make_callbacks(package) if is_configured() else None) or []


@guard_hook
def _make_callbacks(package: str) -> list[Any]:
    base = import_module(package).Callback
    if issubclass(ProgressCallback, base):
        return [ProgressCallback()]
    name = "OtherProgressCallback"
    if name not in globals():
        hooks = (ProgressCallback, base)
        globals()[name] = type(name, hooks, {"__module__": __name__, "__doc__": ProgressCallback.__doc__})
    return [globals()[name]()]


def _count_batches(trainer: Any) -> int | None:
    """Return the number of batches of the whole training. None if it is unknown."""
    epochs, batches = _to_count(trainer.max_epochs), _to_count(trainer.num_training_batches)
    totals = [] if epochs is None or batches is None else [epochs * batches]
    if trainer.max_steps > 0:
        totals.append(trainer.max_steps * max(1, trainer.accumulate_grad_batches))
    return min(totals) if totals else None


def _to_count(value: Any) -> int | None:
    """Return a limit of Lightning as a number. None if there is no limit."""
    return None if value is None or value < 0 or not math.isfinite(value) else int(value)
