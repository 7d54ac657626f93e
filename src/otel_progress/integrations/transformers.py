"""Progress of ``transformers.Trainer``: epochs, steps and evaluations.

The import registers the callback, so ``TrainingArguments(report_to="otel_progress")`` selects it.
``instrument()`` adds it to every Trainer. Only the process with rank 0 records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sized
from typing import TYPE_CHECKING, Any, Final

from otel_progress.integrations.training import (
    EVALUATION,
    ScopedFunctions,
    TrainingRun,
    get_scope_argument,
    guard_hook,
    is_configured,
    start_run,
)

if TYPE_CHECKING:
    trainer_module: Any
    INTEGRATION_TO_CALLBACK: dict[str, Any]
    TrainerCallback = object
else:
    try:
        from transformers import trainer as trainer_module
        from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
        from transformers.trainer_callback import TrainerCallback
    except ImportError as error:
        msg = "Invalid environment: expected the packages transformers and torch. Install both."
        raise ImportError(msg) from error


REPORT_TO: Final = "otel_progress"
"""Value of ``report_to`` that selects the callback."""


_functions: Final = ScopedFunctions(
    lambda: [(trainer_module.Trainer, name) for name in ("train", "evaluate", "predict")]
)
"""The methods whose end is the end of a run. An exception that leaves them calls no hook."""


class ProgressCallback(TrainerCallback):
    """Callback of a Trainer that records its progress.

    ``name`` is by default the class of the model. ``id`` is the id of the operation. Other
    arguments are metadata. A request to cancel ends the training after the current step. Ranks
    above 0 record nothing.
    """

    def __init__(self, name: str | None = None, *, id: object = None, **metadata: object) -> None:
        self._name = name
        self._id = id
        self._metadata = metadata
        self._run: TrainingRun | None = None
        self._is_training = False
        _functions.apply()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_run": None, "_is_training": False}

    # --- training --------------------------------------------------------------------------------

    @guard_hook
    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the run at the step at which the training starts or resumes."""
        self._end_previous()
        if not self._is_recorder(state):
            return
        self._run = start_run(
            "transformers",
            self._name or type(kwargs.get("model")).__name__,
            id=self._id,
            total=state.max_steps if state.max_steps > 0 else None,
            resumed_at=state.global_step,
            metadata={
                "epochs": state.num_train_epochs,
                "batch_size": args.train_batch_size,
                **_describe_trial(state),
                **self._metadata,
            },
        )
        self._is_training = True

    @guard_hook
    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the level of the epoch, at the step at which it resumes."""
        run = self._run
        if run is None:
            return
        steps = _count_epoch_steps(args, kwargs.get("train_dataloader"))
        number, done = run.epoch_number + 1, 0
        if number == 1 and run.step > 0:
            number = int(state.epoch or 0) + 1
            if steps is not None and not args.ignore_data_skip:
                done = run.step % steps
        if steps is not None and run.total is not None:
            steps = min(steps, run.total - run.step + done)
        run.start_epoch(number, total=steps, resumed_at=done)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count the step. Stop the training after a request to cancel."""
        # Why not guarded: passing on the keyword arguments costs more than counting.
        if self._run is not None:
            self._count_step(args, state, control)

    @guard_hook
    def _count_step(self, args: Any, state: Any, control: Any) -> None:
        run = self._run
        if run is not None:
            run.advance_to(state.global_step)
            if run.cancel_requested and args.world_size == 1:
                control.should_training_stop = True

    @guard_hook
    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End the level of the epoch."""
        if self._run is not None:
            self._run.end_epoch()

    @guard_hook
    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Set the logged values as metadata."""
        run, logs = self._run, kwargs.get("logs")
        if run is not None and isinstance(logs, Mapping):
            run.report(logs)

    @guard_hook
    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End the run."""
        run, self._run = self._run, None
        if run is not None:
            run.finish()

    # --- evaluation ------------------------------------------------------------------------------

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count one step of an evaluation. The first one starts its level."""
        self._count_prediction(state, kwargs)

    @guard_hook
    def _count_prediction(self, state: Any, kwargs: Mapping[str, Any]) -> None:
        run = self._run
        if run is None or run.is_finished:
            run = self._start_evaluation(kwargs) if self._is_recorder(state) else None
            if run is None:
                return
        if not self._is_training:
            run.advance_to(run.step + 1)
            return
        if not run.is_evaluating:
            run.start_evaluation(total=_get_length(kwargs.get("eval_dataloader")))
        run.advance_evaluation()

    def _start_evaluation(self, kwargs: Mapping[str, Any]) -> TrainingRun:
        """Start an evaluation or prediction that is not part of a training."""
        self._is_training = False
        self._run = start_run(
            "transformers",
            self._name or type(kwargs.get("model")).__name__,
            type=EVALUATION,
            id=self._id,
            total=_get_length(kwargs.get("eval_dataloader")),
            metadata=self._metadata,
        )
        return self._run

    @guard_hook
    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End the evaluation."""
        self._end_evaluation(kwargs.get("metrics"))

    @guard_hook
    def on_predict(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        """End the prediction."""
        self._end_evaluation(metrics)

    def _end_evaluation(self, metrics: Mapping[str, object] | None) -> None:
        run = self._run
        if run is None:
            return
        if self._is_training:
            run.end_evaluation(metrics)
        else:
            run.report(metrics)
            run.finish()
            self._run = None

    # --- runs ------------------------------------------------------------------------------------

    def _is_recorder(self, state: Any) -> bool:
        """Return True in the process with rank 0, for one callback per Trainer."""
        if not state.is_world_process_zero or not is_configured():
            return False
        handler = getattr(get_scope_argument("self"), "callback_handler", None)
        callbacks = [one for one in getattr(handler, "callbacks", ()) if isinstance(one, ProgressCallback)]
        callbacks.sort(key=lambda one: isinstance(one, DefaultProgressCallback))
        return not callbacks or callbacks[0] is self

    def _end_previous(self) -> None:
        """End a run whose training ended without a hook."""
        run, self._run, self._is_training = self._run, None, False
        if run is not None:
            run.cancel("the training was started again")


class DefaultProgressCallback(ProgressCallback):
    """Callback that ``instrument()`` adds to every Trainer.

    It records nothing in a Trainer that has a :class:`ProgressCallback` of its own.
    """


def instrument() -> None:
    """Record every Trainer that is created from now on. Idempotent."""
    _functions.apply()
    if DefaultProgressCallback not in trainer_module.DEFAULT_CALLBACKS:
        trainer_module.DEFAULT_CALLBACKS.append(DefaultProgressCallback)


def uninstrument() -> None:
    """Stop to record Trainers that are created from now on. Idempotent."""
    _functions.remove()
    if DefaultProgressCallback in trainer_module.DEFAULT_CALLBACKS:
        trainer_module.DEFAULT_CALLBACKS.remove(DefaultProgressCallback)


def _count_epoch_steps(args: Any, dataloader: object) -> int | None:
    """Return the number of optimizer steps per epoch, None if it is unknown."""
    batches = _get_length(dataloader)
    if not batches:
        return None
    accumulated = max(1, int(args.gradient_accumulation_steps))
    return -(-batches // accumulated)


def _get_length(dataloader: object) -> int | None:
    if not isinstance(dataloader, Sized):
        return None
    try:
        return len(dataloader)
    except (TypeError, NotImplementedError):
        return None


def _describe_trial(state: Any) -> dict[str, object]:
    """Return the parameters of a trial of a hyperparameter search."""
    parameters = getattr(state, "trial_params", None)
    return {f"trial.{key}": value for key, value in parameters.items()} if parameters else {}


INTEGRATION_TO_CALLBACK.setdefault(REPORT_TO, ProgressCallback)
