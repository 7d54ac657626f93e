"""Progress of XGBoost: boosting rounds of ``train``, ``cv`` and estimators.

``instrument()`` adds the callback to every training.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from otel_progress.integrations.training import (
    ScopedFunctions,
    TrainingRun,
    get_scope_argument,
    guard_hook,
    is_configured,
    start_run,
)

if TYPE_CHECKING:
    xgboost: Any
    _Base = object
else:
    try:
        import xgboost
    except ImportError as error:
        msg = "Invalid environment: expected the package xgboost. Install it: pip install xgboost."
        raise ImportError(msg) from error
    _Base = xgboost.callback.TrainingCallback


def _find_functions() -> list[tuple[Any, str]]:
    modules = [sys.modules.get(f"xgboost{name}") for name in ("", ".training", ".sklearn")]
    return [(module, name) for module in modules if module is not None for name in ("train", "cv")]


_functions: Final = ScopedFunctions(_find_functions)
"""The functions whose end is the end of a run. An exception that leaves them calls no hook."""


class ProgressCallback(_Base):
    """Callback of a training that records its boosting rounds.

    ``total`` is the number of rounds, for trainings that do not call ``xgboost.train``. ``name`` is
    by default the objective. ``id`` is the id of the operation. Other arguments are metadata. A
    request to cancel ends the training after the current round, unless it is distributed. Ranks
    above 0 record nothing.
    """

    def __init__(
        self, name: str | None = None, *, id: object = None, total: int | None = None, **metadata: object
    ) -> None:
        super().__init__()
        self._name = name
        self._id = id
        self._total = total
        self._metadata = metadata
        self._run: TrainingRun | None = None
        self._is_single = True
        self._step = 0
        self._log: Any = None
        """Evaluation history of the running training."""
        _functions.apply()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_run": None, "_log": None}

    def before_training(self, model: Any) -> Any:
        """Start the run."""
        self._start(model)
        return model

    @guard_hook
    def _start(self, model: Any) -> None:
        run, self._run = self._run, None
        if run is not None:
            run.cancel("the callback was used again")
        if not is_configured() or xgboost.collective.get_rank() != 0:
            return
        self._is_single = xgboost.collective.get_world_size() == 1
        total = self._total or get_scope_argument("num_boost_round")
        # Why: the rounds of a model that continues another one start at 0 again.
        earlier = 0 if hasattr(model, "cvfolds") else int(model.num_boosted_rounds())
        self._step = earlier
        self._run = start_run(
            "xgboost",
            self._name or _get_objective(),
            id=self._id,
            total=None if total is None else int(total) + earlier,
            unit="round",
            resumed_at=earlier,
            metadata=self._metadata,
        )

    def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
        """Count the round, and set the metrics. Return True after a request to cancel."""
        run = self._run
        return run is not None and bool(self._count(run, epoch, evals_log))

    @guard_hook
    def _count(self, run: TrainingRun, epoch: int, evals_log: Any) -> bool:
        run.advance_to(self._step + epoch + 1)
        if evals_log:
            self._log = evals_log
            run.report_live(lambda: _flatten(evals_log))
        return run.cancel_requested and self._is_single

    def after_training(self, model: Any) -> Any:
        """End the run."""
        self._finish()
        return model

    @guard_hook
    def _finish(self) -> None:
        run, self._run = self._run, None
        log, self._log = self._log, None
        if run is not None:
            run.report(_flatten(log) if log else None)
            run.finish()


def instrument() -> None:
    """Record every training of XGBoost. Idempotent."""
    _functions.apply(_add_callback)


def uninstrument() -> None:
    """Restore the functions. Idempotent."""
    _functions.remove()


def _add_callback(call: inspect.BoundArguments) -> None:
    callbacks = list(call.arguments.get("callbacks") or ())
    if not any(isinstance(one, ProgressCallback) for one in callbacks):
        call.arguments["callbacks"] = [*callbacks, ProgressCallback()]


def _get_objective() -> str | None:
    """Return the objective in the parameters of the current training."""
    parameters = get_scope_argument("params")
    return (
        str(parameters["objective"]) if isinstance(parameters, dict) and "objective" in parameters else None
    )


def _flatten(evals_log: Mapping[str, Mapping[str, Any]]) -> dict[str, object]:
    """Return the last value of each metric. A value of ``cv`` is the mean.

    The names are ``data-metric``.
    """
    metrics: dict[str, object] = {}
    for data, values in evals_log.items():
        for metric, history in values.items():
            if history:
                last = history[-1]
                metrics[f"{data}-{metric}"] = last[0] if isinstance(last, tuple) else last
    return metrics


# Why at the import: ``train(…, callbacks=[ProgressCallback()])`` looks the function up before it
# creates the callback.
_functions.apply()
