"""State of one training run, shared by the integrations with training libraries.

A run is a level of type ``training``: an operation, or below the current level if there is one. It
counts the steps of the whole training. Epochs and evaluations are levels below it, and metrics are
metadata. The callbacks of the libraries call the methods on the thread that trains.
"""

from __future__ import annotations

import inspect
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar, Token
from functools import wraps
from types import TracebackType
from typing import Any, Final, NamedTuple, ParamSpec, TypeVar

from otel_progress.attribute_patch import AttributePatch
from otel_progress.config import current_runtime
from otel_progress.diagnostics import report_internal_error
from otel_progress.instrument.level import Level
from otel_progress.instrument.tracer import current_level, get_tracer
from otel_progress.interrupts import is_interrupt

P = ParamSpec("P")
R = TypeVar("R")


TRAINING: Final = "training"
"""Type of the level of a training run."""


EPOCH: Final = "epoch"
"""Type of the level of an epoch. Its id is the number of the epoch, from 1."""


EVALUATION: Final = "evaluation"
"""Type of the level of an evaluation. Its id is a number, from 1."""


MAX_CHILD_LEVELS: Final = 1_000
"""Maximum number of epochs, and of evaluations, with a level. Further ones only count steps."""


MAX_METRICS: Final = 64
"""Maximum number of metrics per run. Further names are left out."""


LIVE_METRICS_INTERVAL_S: Final = 5.0
"""Minimum time between two reports of metrics within an epoch, in seconds."""


CANCEL_REASON: Final = "cancel was requested"
"""Message of a run that was stopped because its cancellation was requested."""


_RESERVED_NAMES: Final = frozenset({"self", "current", "total", "message"})
"""Names of arguments of ``Level.update``. Metrics with these names get a prefix."""


def guard_hook(hook: Callable[P, R]) -> Callable[P, R | None]:
    """Decorate a hook so that it reports its errors instead of raising them.

    Exceptions that interrupt the hook, such as KeyboardInterrupt, are raised.
    """

    @wraps(hook)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R | None:
        try:
            return hook(*args, **kwargs)
        except Exception as error:
            if is_interrupt(error):
                raise
            report_internal_error("integration", "A training callback failed.", error=error)
            return None

    return guarded


def is_configured() -> bool:
    """Return True if this process records progress."""
    return current_runtime() is not None


def is_main_process() -> bool:
    """Return True unless this process is a rank above 0 of a distributed training.

    The rank is that of torch.distributed if it is initialized. Otherwise it is that of the launcher
    in the environment: torchrun, Open MPI or TensorFlow's ``TF_CONFIG``.
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return int(distributed.get_rank()) == 0
    for rank, size in (("RANK", "WORLD_SIZE"), ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE")):
        if os.environ.get(size, "1") != "1":
            return os.environ.get(rank, "0") == "0"
    return _is_tensorflow_chief(os.environ.get("TF_CONFIG"))


def _is_tensorflow_chief(text: str | None) -> bool:
    """Return False for a worker of TensorFlow that is not the chief."""
    if not text:
        return True
    try:
        config = json.loads(text)
        task = config.get("task", {})
        has_chief = "chief" in config.get("cluster", {})
        is_first = int(task.get("index", 0)) == 0
        kind = task.get("type", "chief")
    except (ValueError, TypeError, AttributeError):
        return True
    return kind == "chief" or (is_first and kind == "worker" and not has_chief)


def is_single_process() -> bool:
    """Return False in a distributed training.

    All of its ranks must stop at the same step.
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return int(distributed.get_world_size()) == 1
    sizes = (os.environ.get(name, "1") for name in ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE"))
    return all(size == "1" for size in sizes) and not os.environ.get("TF_CONFIG")


def select_metrics(values: Mapping[Any, object] | None, prefix: str = "") -> dict[str, object]:
    """Return the metrics that are numbers, texts, or arrays with one element.

    The prefix ``metric.`` is added to names that are not possible as metadata.
    """
    metrics: dict[str, object] = {}
    for key, value in dict(values or {}).items():
        name = f"{prefix}{key}"
        if not isinstance(value, (bool, int, float, str)):
            item = getattr(value, "item", None)
            if not callable(item) or _get_size(value) != 1:
                continue
            value = item()
        metrics[f"metric.{name}" if name in _RESERVED_NAMES else name] = value
    return metrics


def _get_size(value: object) -> object:
    """Return the number of elements of an array, a tensor or a scalar of them."""
    count = getattr(value, "numel", None)  # of torch, where ``size`` is a method
    return count() if callable(count) else getattr(value, "size", None)


class TrainingRun:
    """Level of one training run, with those of its epochs and evaluations.

    Create it with :func:`start_run`. Only the thread that trains may use it. The steps are absolute
    numbers of the whole training, so a resumed training continues at the resumed step.
    """

    def __init__(self, level: Level, *, total: int | None, resumed_at: int) -> None:
        self.level = level
        self.step = resumed_at
        self.total = total
        self.epoch: Level | None = None
        self.evaluation: Level | None = None
        self.is_evaluating = False
        self.is_finished = False
        self.has_fixed_total = total is not None
        self._epoch_number = 0
        self._epoch_start = resumed_at
        self._epoch_total: int | None = None
        self._evaluations = 0
        self._metrics: set[str] = set()
        self._live_due = time.monotonic() + LIVE_METRICS_INTERVAL_S

    @property
    def epoch_number(self) -> int:
        """Number of the current or last epoch. 0 before the first one."""
        return self._epoch_number

    @property
    def cancel_requested(self) -> bool:
        """True after cancellation of the operation was requested."""
        return self.level.cancel_requested

    # --- steps: the hot path ---------------------------------------------------------------------

    def advance_to(self, step: int) -> None:
        """Count the steps up to ``step``.

        That is their number since the start of the training, over all sessions. A smaller number
        than before changes nothing.
        """
        added = step - self.step
        if added <= 0:
            return
        self.step = step
        if self.total is not None and step > self.total:
            self.set_total(step)
        epoch = self.epoch
        planned = self._epoch_total
        if epoch is not None and planned is not None and step - self._epoch_start > planned:
            self._epoch_total = step - self._epoch_start
            epoch.set_total(self._epoch_total)
        if added == 1:
            self.level.increment()
            if epoch is not None:
                epoch.increment()
        else:
            self.level.increment(added)
            if epoch is not None:
                epoch.increment(added)

    # --- the whole run ---------------------------------------------------------------------------

    def set_total(self, total: int | None) -> None:
        """Set the number of steps of the whole training. It is at least the current step."""
        self.total = None if total is None else max(total, self.step)
        self.level.set_total(self.total)

    def report(self, metrics: Mapping[Any, object] | None, prefix: str = "") -> None:
        """Set metrics as metadata of the run, and of the current epoch."""
        selected = self._limit(select_metrics(metrics, prefix))
        if selected:
            self.level.update(**selected)  # type: ignore[arg-type]
            if self.epoch is not None:
                self.epoch.update(**selected)  # type: ignore[arg-type]

    def report_live(self, read_metrics: Callable[[], Mapping[Any, object] | None]) -> None:
        """Report metrics at most once per ``LIVE_METRICS_INTERVAL_S``.

        Reading a metric may wait for the accelerator, so the steps in between do not read it.
        """
        now = time.monotonic()
        if now >= self._live_due:
            self._live_due = now + LIVE_METRICS_INTERVAL_S
            self.report(read_metrics())

    def _limit(self, metrics: dict[str, object]) -> dict[str, object]:
        if len(self._metrics) + len(metrics) > MAX_METRICS:
            free = MAX_METRICS - len(self._metrics)
            new = [name for name in metrics if name not in self._metrics]
            metrics = {name: metrics[name] for name in metrics if name not in new[max(0, free) :]}
        self._metrics.update(metrics)
        return metrics

    # --- epochs ----------------------------------------------------------------------------------

    def start_epoch(self, number: int, *, total: int | None = None, resumed_at: int = 0) -> None:
        """Start the level of an epoch. An epoch that still runs ends as completed.

        ``number`` starts at 1. ``total`` is the number of steps of the epoch. An earlier session
        did ``resumed_at`` of them.
        """
        self.end_epoch()
        self._epoch_number = number
        self._epoch_start = self.step - resumed_at
        self._epoch_total = total
        if number > MAX_CHILD_LEVELS:
            return
        # Why the weight: the run counts steps, so levels below it are no units of it.
        self.epoch = self.level.level(
            EPOCH, number, f"epoch {number}", total=total, unit="step", weight=0
        ).start()
        if resumed_at > 0:
            self.epoch.resume_from(resumed_at)

    def end_epoch(self, metrics: Mapping[Any, object] | None = None, *, epochs: int | None = None) -> None:
        """End the current epoch as completed.

        ``epochs`` is the number of all epochs. With it, the steps of this epoch predict the number
        of all steps, unless it is known.
        """
        self.end_evaluation()
        if metrics:
            self.report(metrics)
        if epochs is not None and not self.has_fixed_total and self._epoch_number:
            steps = self.step - self._epoch_start
            self.set_total(self.step + max(0, epochs - self._epoch_number) * steps)
        epoch, self.epoch = self.epoch, None
        if epoch is not None:
            self._shorten(epoch, self.step - self._epoch_start, self._epoch_total)
            epoch.complete()

    # --- evaluations -----------------------------------------------------------------------------

    def start_evaluation(self, name: str | None = None, total: int | None = None) -> None:
        """Start the level of an evaluation, below the current epoch or the run."""
        self.end_evaluation()
        self.is_evaluating = True
        self._evaluations += 1
        if self._evaluations > MAX_CHILD_LEVELS:
            return
        parent = self.level if self.epoch is None else self.epoch
        self.evaluation = parent.level(
            EVALUATION, self._evaluations, name, total=total, unit="step", weight=0
        ).start()

    def advance_evaluation(self) -> None:
        """Count one step of the current evaluation."""
        if self.evaluation is not None:
            self.evaluation.increment()

    def end_evaluation(self, metrics: Mapping[Any, object] | None = None) -> None:
        """End the current evaluation as completed.

        The metrics are also those of the run.
        """
        evaluation, self.evaluation, self.is_evaluating = self.evaluation, None, False
        if evaluation is not None:
            if metrics:
                evaluation.update(**select_metrics(metrics))  # type: ignore[arg-type]
            evaluation.complete()
        if metrics:
            self.report(metrics)

    # --- end -------------------------------------------------------------------------------------

    def finish(self, error: BaseException | None = None) -> None:
        """End the run and its running levels. Idempotent.

        With an exception they end as failed or cancelled, as a ``with`` block does. After a request
        to cancel, a run that has not done all steps is cancelled. Any other one is completed.
        """
        if self.is_finished:
            return
        self.is_finished = True
        if not self.level.recording:  # the runtime was shut down, for example
            self._leave(None)
            return
        is_cancelled = self.cancel_requested and (self.total is None or self.step < self.total)
        if error is None and is_cancelled:
            self._cancel_levels(CANCEL_REASON)
        elif error is None:
            if self.evaluation is not None:
                self.evaluation.complete()
            if self.epoch is not None:
                self._shorten(self.epoch, self.step - self._epoch_start, self._epoch_total)
                self.epoch.complete()
            self._shorten(self.level, self.step, self.total)
        self._leave(error)

    def cancel(self, reason: str) -> None:
        """End the run and its running levels as cancelled. Idempotent."""
        if self.is_finished:
            return
        self.is_finished = True
        self._cancel_levels(reason)
        self._leave(None)

    def _cancel_levels(self, reason: str) -> None:
        for level in (self.evaluation, self.epoch, self.level):
            if level is not None:
                level.cancel(reason)

    def _leave(self, error: BaseException | None) -> None:
        """Leave the levels as the ends of their ``with`` blocks do."""
        levels = (self.evaluation, self.epoch, self.level)
        self.epoch = self.evaluation = None
        for level in levels:
            if level is not None:
                level.__exit__(None if error is None else type(error), error, None)

    @staticmethod
    def _shorten(level: Level, step: int, total: int | None) -> None:
        """Set the total of a level to the number of its steps if they are fewer."""
        if total is not None and step < total:
            level.update(total=step, message=f"stopped early at step {step:,} of {total:,}")


def start_run(
    library: str,
    name: str | None = None,
    *,
    type: str = TRAINING,
    id: object = None,
    total: int | None = None,
    unit: str = "step",
    resumed_at: int = 0,
    metadata: Mapping[str, object] | None = None,
    is_current: bool = False,
) -> TrainingRun:
    """Start a run: below the current level, or as an operation without one.

    ``name`` is usually the name of the model. Runs of the same type and name share their history.
    ``resumed_at`` is the number of steps that earlier sessions did. Within a
    :class:`TrainingScope` the run is the current level, and it ends with the scope at the latest.
    ``is_current`` makes it the current level without a scope. Then the caller must end it.
    """
    if total is not None and resumed_at > total:
        total = resumed_at
    level = create_level(library, type, name, id=id, total=total, unit=unit, group=name)
    scope = _current_scope.get()
    if scope is None and not is_current:
        level.start()
    else:
        level.__enter__()
    values = select_metrics(metadata)
    if values:
        level.update(**values)  # type: ignore[arg-type]
    run = TrainingRun(level, total=total, resumed_at=resumed_at)
    if scope is not None:
        scope.runs.append(run)
    if resumed_at > 0:
        level.resume_from(resumed_at)
    return run


def create_level(
    library: str,
    type: str,
    name: str | None,
    *,
    id: object,
    total: int | None,
    unit: str,
    group: str | None,
) -> Level:
    """Return the handle of a child of the current level, or of an operation.

    Operations of one ``type`` and ``group`` share their history. The group is the metadata
    ``model``.
    """
    tracer = get_tracer(f"otel_progress.integrations.{library}")
    metadata: dict[str, Any] = {"library": library} if group is None else {"library": library, "model": group}
    if current_level().recording:
        return tracer.level(type, id, name, total=total, unit=unit, **metadata)
    key = ("library", "model")
    return tracer.operation(type, name, id=id, total=total, unit=unit, eta_key=key, **metadata)


# --- scopes --------------------------------------------------------------------------------------


class TrainingScope:
    """Context manager of a call of a library's function: the runs in it end with it.

    The libraries call no hook if an exception leaves the training. A scope never raises, and it
    never suppresses an exception.
    """

    __slots__ = ("_token", "arguments", "runs")

    def __init__(self, arguments: Mapping[str, Any] | None = None) -> None:
        self.runs: list[TrainingRun] = []
        self.arguments: Mapping[str, Any] = {} if arguments is None else arguments
        """Arguments of the call by name."""
        self._token: Token[TrainingScope | None] | None = None

    def __enter__(self) -> TrainingScope:
        self._token = _current_scope.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._token is not None:
            _current_scope.reset(self._token)
        self._finish(error)

    @guard_hook
    def _finish(self, error: BaseException | None) -> None:
        while self.runs:
            self.runs.pop().finish(error)


_current_scope: Final[ContextVar[TrainingScope | None]] = ContextVar("otel_progress_training", default=None)


def get_scope_argument(name: str) -> Any:
    """Return an argument of the call that is the current scope. None without one."""
    scope = _current_scope.get()
    return None if scope is None else scope.arguments.get(name)


Inject = Callable[[inspect.BoundArguments], None]
"""Change of the arguments of a call, for example another callback."""


class _Call(NamedTuple):
    """Arguments of a call: as they are passed, and by name with defaults."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    arguments: Mapping[str, Any]


class ScopedFunctions:
    """Functions of a library whose calls are a :class:`TrainingScope` each.

    ``apply`` and ``remove`` are idempotent. Without ``configure()`` the original functions are
    called.
    """

    def __init__(self, find_targets: Callable[[], Iterable[tuple[Any, str]]]) -> None:
        self._find_targets = find_targets
        self._patches: list[AttributePatch] = []
        self.inject: Inject | None = None
        """Changes the arguments of each call, or None."""

    def apply(self, inject: Inject | None = None) -> None:
        """Replace the functions, unless they are replaced already."""
        if inject is not None:
            self.inject = inject
        if self._patches:
            return
        for owner, name in self._find_targets():
            patch = AttributePatch(owner, name)
            if patch.apply(self._make_wrapper(patch)):
                self._patches.append(patch)

    def remove(self) -> None:
        """Restore the functions."""
        self.inject = None
        while self._patches:
            self._patches.pop().remove()

    def _make_wrapper(self, patch: AttributePatch) -> Callable[[Any], Any]:
        def make(original: Callable[..., Any]) -> Callable[..., Any]:
            signature = inspect.signature(original)

            @wraps(original)
            def scoped(*args: Any, **kwargs: Any) -> Any:
                if not patch.is_active or not is_configured():
                    return original(*args, **kwargs)
                call = self._prepare_call(signature, args, kwargs)
                if call is None:
                    return original(*args, **kwargs)
                with TrainingScope(call.arguments):
                    return original(*call.args, **call.kwargs)

            return scoped

        return make

    @guard_hook
    def _prepare_call(
        self, signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> _Call | None:
        """Return the arguments of a call. None if the call is invalid."""
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:
            return None
        if self.inject is not None:
            self.inject(bound)
            args, kwargs = bound.args, bound.kwargs
        bound.apply_defaults()
        return _Call(args, kwargs, bound.arguments)
