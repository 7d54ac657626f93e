"""Progress of Optuna studies: each trial is a level.

Training runs inside a trial are levels of it.
``instrument()`` records every call of ``Study.optimize``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import TYPE_CHECKING, Any, Final

from otel_progress.attribute_patch import AttributePatch
from otel_progress.instrument.level import Level
from otel_progress.integrations.training import create_level, guard_hook, is_configured, select_metrics

if TYPE_CHECKING:
    optuna: Any
else:
    try:
        import optuna
    except ImportError as error:
        msg = "Invalid environment: expected the package optuna. Install it: pip install optuna."
        raise ImportError(msg) from error


STUDY: Final = "study"
"""Type of the level of one call of ``Study.optimize``."""


TRIAL: Final = "trial"
"""Type of the level of a trial. Its id is the number of the trial."""


class ProgressCallback:
    """Callback of ``Study.optimize`` that records the call and its trials.

    ``name`` is by default the name of the study. ``id`` is the id of the operation. Other arguments
    are metadata. A request to cancel stops the study after the current trials.
    """

    def __init__(self, name: str | None = None, *, id: object = None, **metadata: object) -> None:
        self.name = name
        self.id = id
        self.metadata: Mapping[str, object] = metadata
        _apply()

    def __call__(self, study: Any, trial: Any) -> None:
        """Do nothing. The levels are recorded by the replaced ``Study.optimize``."""


class StudyRun:
    """Level of one call of ``Study.optimize``, and the levels of its trials."""

    def __init__(self, study: Any, arguments: Mapping[str, Any], options: ProgressCallback | None) -> None:
        self._study = study
        self._objective: Callable[[Any], Any] = arguments["func"]
        name = str(study.study_name) if options is None or options.name is None else options.name
        self.level = create_level(
            "optuna",
            STUDY,
            name,
            id=None if options is None else options.id,
            total=arguments.get("n_trials"),
            unit="trial",
            group=str(study.study_name),
        )
        directions = study.directions
        self._is_maximizing = None if len(directions) != 1 else directions[0].name == "MAXIMIZE"
        self._best: float | None = None
        self.level.__enter__()
        values = select_metrics(None if options is None else options.metadata)
        if values:
            self.level.update(**values)  # type: ignore[arg-type]

    @guard_hook
    def finish(self, error: BaseException | None) -> None:
        """End the level. A study that was stopped before its last trial is completed."""
        level = self.level
        if error is None and level.recording:
            snapshot = level.snapshot()
            if level.cancel_requested and snapshot.total != snapshot.current:
                level.cancel("cancel was requested")
            elif snapshot.total is not None and snapshot.current < snapshot.total:
                text = f"stopped after {snapshot.current:,} of {snapshot.total:,} trials"
                level.update(total=snapshot.current, message=text)
        level.__exit__(None if error is None else type(error), error, None)

    def run_objective(self, trial: Any) -> Any:
        """Call the objective in the level of its trial. Any thread may call it."""
        level = self._start_trial(trial)
        try:
            result = self._objective(trial)
        except BaseException as error:
            if level is not None:
                self._end_trial(level, trial, None, error)
            raise
        if level is not None:
            self._end_trial(level, trial, result, None)
        return result

    @guard_hook
    def _start_trial(self, trial: Any) -> Level:
        level = self.level.level(TRIAL, trial.number, f"trial {trial.number}")
        level.__enter__()
        return level

    @guard_hook
    def _end_trial(self, level: Level, trial: Any, result: Any, error: BaseException | None) -> None:
        values = select_metrics({"value": result})
        level.update(**{**select_metrics(trial.params), **values})  # type: ignore[arg-type]
        if isinstance(error, optuna.TrialPruned):
            level.skip(f"pruned: {error}" if str(error) else "pruned")
            error = None
        elif error is None and (result is None or result != result):
            # Why: Optuna does not raise an error of its own for an invalid value.
            level.fail(f"Invalid value {result!r} of the objective: expected a number.")
        level.__exit__(None if error is None else type(error), error, None)
        value = values.get("value")
        if isinstance(value, (int, float)) and self._is_better(float(value)):
            self._best = float(value)
            self.level.update(best_value=self._best, best_trial=trial.number)
        if self.level.cancel_requested:
            self._study.stop()

    def _is_better(self, value: float) -> bool:
        if self._is_maximizing is None or value != value:
            return False
        if self._best is None:
            return True
        return value > self._best if self._is_maximizing else value < self._best


_patches: Final[list[AttributePatch]] = []
"""The replacement of ``Study.optimize``, if it is replaced."""


_instrumented: Final[list[bool]] = []
"""Not empty after ``instrument()``: calls without a callback are recorded, too."""


def instrument() -> None:
    """Record every call of ``Study.optimize``. Idempotent."""
    _instrumented[:] = [True]
    _apply()


def uninstrument() -> None:
    """Restore ``Study.optimize``. Idempotent."""
    _instrumented.clear()
    while _patches:
        _patches.pop().remove()


def _apply() -> None:
    if _patches:
        return
    patch = AttributePatch(optuna.Study, "optimize")

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(original)

        @wraps(original)
        def optimize(*args: Any, **kwargs: Any) -> Any:
            call = _prepare_call(signature, args, kwargs) if patch.is_active and is_configured() else None
            if call is None:
                return original(*args, **kwargs)
            run, bound = call
            try:
                result = original(*bound.args, **bound.kwargs)
            except BaseException as error:
                run.finish(error)
                raise
            run.finish(None)
            return result

        return optimize

    if patch.apply(make):
        _patches.append(patch)


@guard_hook
def _prepare_call(
    signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[StudyRun, inspect.BoundArguments] | None:
    """Start the run of a call, and replace its objective.

    None if the call is not recorded.
    """
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError:
        return None
    callbacks = bound.arguments.get("callbacks")
    if callbacks is not None:
        callbacks = bound.arguments["callbacks"] = list(callbacks)
    options = next((one for one in callbacks or () if isinstance(one, ProgressCallback)), None)
    if (options is None and not _instrumented) or not callable(bound.arguments.get("func")):
        return None
    study = bound.arguments["self"]
    run = StudyRun(study, bound.arguments, options)
    bound.arguments["func"] = run.run_objective
    return run, bound


# Why at the import: ``study.optimize(…, callbacks=[ProgressCallback()])`` looks the method up
# before it creates the callback.
_apply()
