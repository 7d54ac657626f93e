"""Progress of LightGBM: boosting rounds of ``train``, ``cv`` and estimators.

``instrument()`` adds the callback to every training.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from otel_progress.integrations.training import (
    ScopedFunctions,
    TrainingRun,
    guard_hook,
    is_configured,
    is_main_process,
    start_run,
)

if TYPE_CHECKING:
    lightgbm: Any
else:
    try:
        import lightgbm
    except ImportError as error:
        msg = "Invalid environment: expected the package lightgbm. Install it: pip install lightgbm."
        raise ImportError(msg) from error


CALLBACK_ORDER: Final = 25
"""Order among the callbacks of a round: after the logs, before early stopping, which raises."""


def _find_functions() -> list[tuple[Any, str]]:
    modules = [sys.modules.get(f"lightgbm{name}") for name in ("", ".engine", ".sklearn")]
    return [(module, name) for module in modules if module is not None for name in ("train", "cv")]


_functions: Final = ScopedFunctions(_find_functions)
"""The functions whose end is the end of a run. Neither early stopping nor an exception calls a
callback.
"""


class ProgressCallback:
    """Callback of a training that records its boosting rounds.

    ``name`` is by default the objective. ``id`` is the id of the operation. Other arguments are
    metadata. A request to cancel ends the training after the current round, unless it is
    distributed.
    """

    def __init__(self, name: str | None = None, *, id: object = None, **metadata: object) -> None:
        self.order = CALLBACK_ORDER
        self.before_iteration = False
        self._name = name
        self._id = id
        self._metadata = metadata
        self._run: TrainingRun | None = None
        _functions.apply(_add_callbacks)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_run": None}

    def __call__(self, env: Any) -> None:
        """Count the round. Raise LightGBM's EarlyStopException after a request to cancel."""
        if self.count(env):
            best = list(env.evaluation_result_list or ())
            raise lightgbm.callback.EarlyStopException(env.iteration, best)

    @guard_hook
    def start(self, env: Any) -> TrainingRun | None:
        """Start the run, unless the current one has reached this round."""
        run = self._run
        if run is not None and not run.is_finished and env.iteration >= run.step:
            return run
        if run is not None:
            run.cancel("the callback was used again")
        self._run = self._start_run(env) if is_configured() and is_main_process() else None
        return self._run

    @guard_hook
    def count(self, env: Any) -> bool:
        """Count the round, and set its metrics. Return True after a request to cancel."""
        run = self.start(env)
        if run is None:
            return False
        run.advance_to(env.iteration + 1)
        is_last = env.iteration + 1 >= env.end_iteration
        if env.evaluation_result_list:
            if is_last:
                run.report(_flatten(env.evaluation_result_list))
            else:
                run.report_live(lambda: _flatten(env.evaluation_result_list))
        if is_last:
            self._run = None
            run.finish()
            return False
        return run.cancel_requested and int(env.params.get("num_machines", 1)) == 1

    def _start_run(self, env: Any) -> TrainingRun:
        return start_run(
            "lightgbm",
            self._name or str(env.params.get("objective", "training")),
            id=self._id,
            total=env.end_iteration,
            unit="round",
            resumed_at=env.begin_iteration,
            metadata=self._metadata,
        )


class _StartCallback:
    """Callback before each round that starts the run of another callback.

    Why: LightGBM calls a callback either before or after a round.
    """

    def __init__(self, callback: ProgressCallback) -> None:
        self.order = CALLBACK_ORDER
        self.before_iteration = True
        self._callback = callback

    def __call__(self, env: Any) -> None:
        """Start the run before the first round."""
        if env.iteration == env.begin_iteration:
            self._callback.start(env)


_instrumented: Final[list[bool]] = []
"""Not empty after ``instrument()``: trainings without a callback are recorded, too."""


def instrument() -> None:
    """Record every training of LightGBM. Idempotent."""
    _instrumented[:] = [True]
    _functions.apply(_add_callbacks)


def uninstrument() -> None:
    """Restore the functions. Idempotent."""
    _instrumented.clear()
    _functions.remove()


def _add_callbacks(call: inspect.BoundArguments) -> None:
    callbacks = list(call.arguments.get("callbacks") or ())
    own = next((one for one in callbacks if isinstance(one, ProgressCallback)), None)
    if own is None and _instrumented:
        own = ProgressCallback()
        callbacks.append(own)
    if own is not None:
        call.arguments["callbacks"] = [*callbacks, _StartCallback(own)]


def _flatten(results: Iterable[Any]) -> dict[str, object]:
    """Return each metric as ``data-metric``. The results are (data, metric, value, …)."""
    return {f"{result[0]}-{result[1]}": result[2] for result in results}


# Why at the import: ``train(…, callbacks=[ProgressCallback()])`` looks the function up before it
# creates the callback.
_functions.apply(_add_callbacks)
