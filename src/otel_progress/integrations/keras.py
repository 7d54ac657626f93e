"""Progress of Keras 3: epochs, batches, validation, evaluation and prediction.

``instrument()`` adds the callback to every call of ``fit``, ``evaluate`` and ``predict``.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from otel_progress.integrations.training import (
    EVALUATION,
    ScopedFunctions,
    TrainingRun,
    guard_hook,
    is_configured,
    is_main_process,
    is_single_process,
    start_run,
)

if TYPE_CHECKING:
    keras: Any

    class _Base:
        model: Any
        params: Any
else:
    try:
        import keras
    except ImportError as error:
        msg = "Invalid environment: expected the package keras and a backend. Install it: pip install keras."
        raise ImportError(msg) from error
    _Base = keras.callbacks.Callback


_functions: Final = ScopedFunctions(lambda: [(keras.Model, name) for name in ("fit", "evaluate", "predict")])
"""The methods whose end is the end of a run. An exception that leaves them calls no hook."""


class ProgressCallback(_Base):
    """Callback for ``fit``, ``evaluate`` and ``predict`` that records their progress.

    ``name`` is by default the name of the model. ``id`` is the id of the operation. Other arguments
    are metadata. A request to cancel ends the training after the current batch, unless the training
    is distributed. Ranks above 0 record nothing.
    """

    async_safe = True
    """Keras may call the hooks of batches on another thread, so that the training does not wait."""

    def __init__(self, name: str | None = None, *, id: object = None, **metadata: object) -> None:
        super().__init__()
        self._name = name
        self._id = id
        self._metadata = metadata
        self._run: TrainingRun | None = None
        self._is_fitting = False
        self._first_batch = 0
        self._validation_steps: int | None = None
        self._validation_step = 0
        self._lock = threading.Lock()
        _functions.apply()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_run": None, "_is_fitting": False, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    # --- training --------------------------------------------------------------------------------

    @guard_hook
    def on_train_begin(self, logs: Any = None) -> None:
        """Prepare the run. It starts with the first epoch, whose number is known then."""
        self._end_previous()
        self._is_fitting = True
        self._validation_steps = None

    @guard_hook
    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Start the level of the epoch, and the run before the first one."""
        steps, epochs = self._get_parameter("steps"), self._get_parameter("epochs")
        if self._run is None and self._is_fitting and is_configured() and is_main_process():
            self._run = self._start(
                "training",
                total=None if steps is None or epochs is None else steps * epochs,
                resumed_at=0 if steps is None else steps * epoch,
                epochs=epochs,
            )
        run = self._run
        if run is not None:
            self._first_batch = run.step
            run.start_epoch(epoch + 1, total=steps)

    @guard_hook
    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Count the batches. Stop the training after a request to cancel."""
        run = self._run
        if run is None:
            return
        # Why: several threads may call this hook, in any order.
        with self._lock:
            run.advance_to(self._first_batch + batch + 1)
        run.report_live(lambda: logs)
        if run.cancel_requested and is_single_process():
            self.model.stop_training = True

    @guard_hook
    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """End the level of the epoch, and set its metrics."""
        if self._run is not None:
            self._run.end_epoch(logs, epochs=self._get_parameter("epochs"))

    @guard_hook
    def on_train_end(self, logs: Any = None) -> None:
        """End the run."""
        self._is_fitting = False
        self._finish(logs)

    # --- evaluation ------------------------------------------------------------------------------

    @guard_hook
    def on_test_begin(self, logs: Any = None) -> None:
        """Start the level of a validation, or a run for an evaluation."""
        self._validation_step = 0
        if self._is_fitting:
            if self._run is not None:
                self._run.start_evaluation("validation", self._validation_steps)
        else:
            self._start_evaluation("test")

    @guard_hook
    def on_predict_begin(self, logs: Any = None) -> None:
        """Start a run for a prediction."""
        if not self._is_fitting:
            self._start_evaluation("prediction")

    def _start_evaluation(self, stage: str) -> None:
        self._end_previous()
        if is_configured() and is_main_process():
            self._run = self._start(EVALUATION, total=self._get_parameter("steps"), stage=stage)

    @guard_hook
    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        """Count the batches of an evaluation."""
        run = self._run
        if run is None:
            return
        with self._lock:
            if not self._is_fitting:
                run.advance_to(batch + 1)
            elif run.evaluation is not None and batch + 1 > self._validation_step:
                run.evaluation.increment(batch + 1 - self._validation_step)
            self._validation_step = max(self._validation_step, batch + 1)

    @guard_hook
    def on_predict_batch_end(self, batch: int, logs: Any = None) -> None:
        """Count the batches of a prediction."""
        run = self._run
        if run is not None and not self._is_fitting:
            with self._lock:
                run.advance_to(batch + 1)

    @guard_hook
    def on_test_end(self, logs: Any = None) -> None:
        """End the evaluation."""
        if not self._is_fitting:
            self._finish(logs)
        elif self._run is not None:
            self._validation_steps = self._validation_step or None
            values = {f"val_{key}": value for key, value in (logs or {}).items()}
            self._run.end_evaluation(values)

    @guard_hook
    def on_predict_end(self, logs: Any = None) -> None:
        """End the prediction."""
        if not self._is_fitting:
            self._finish(None)

    # --- runs ------------------------------------------------------------------------------------

    def _start(self, type: str, *, total: int | None, resumed_at: int = 0, **metadata: object) -> TrainingRun:
        return start_run(
            "keras",
            self._name or str(getattr(self.model, "name", "model")),
            type=type,
            id=self._id,
            total=total,
            resumed_at=resumed_at,
            metadata={**metadata, **self._metadata},
        )

    def _finish(self, metrics: Mapping[str, object] | None) -> None:
        run, self._run = self._run, None
        if run is not None:
            run.report(metrics)
            run.finish()

    def _end_previous(self) -> None:
        """End a run whose call ended without a hook."""
        run, self._run, self._is_fitting = self._run, None, False
        if run is not None:
            run.cancel("the callback was used again")

    def _get_parameter(self, name: str) -> int | None:
        value = (self.params or {}).get(name)
        return value if isinstance(value, int) and value >= 0 else None


def instrument() -> None:
    """Record every call of ``fit``, ``evaluate`` and ``predict``. Idempotent."""
    _functions.apply(_add_callback)


def uninstrument() -> None:
    """Restore the methods. Idempotent."""
    _functions.remove()


def _add_callback(call: inspect.BoundArguments) -> None:
    callbacks = call.arguments.get("callbacks")
    if callbacks is None:
        call.arguments["callbacks"] = [ProgressCallback()]
    elif isinstance(callbacks, (list, tuple)):
        if not any(isinstance(one, ProgressCallback) for one in callbacks):
            call.arguments["callbacks"] = [*callbacks, ProgressCallback()]
    elif isinstance(callbacks, keras.callbacks.Callback) and not isinstance(
        callbacks, (ProgressCallback, keras.callbacks.CallbackList)
    ):
        call.arguments["callbacks"] = [callbacks, ProgressCallback()]


# Why at the import: ``model.fit(…, callbacks=[ProgressCallback()])`` looks the method up before it
# creates the callback.
_functions.apply()
