"""Progress of joblib: counts of all backends, generators, errors, nested calls."""

from __future__ import annotations

import gc
import itertools
import operator
import threading
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

import otel_progress as progress
from otel_progress import diagnostics
from otel_progress.instrument.level import Level
from otel_progress.integrations import joblib as integration
from otel_progress.model import Status
from otel_progress.operations import OperationSnapshot
from otel_progress.testing import Recorder

joblib = pytest.importorskip("joblib", reason="joblib is not installed: this test runs the real one")
Parallel, delayed = joblib.Parallel, joblib.delayed

SLOW_LOKY = pytest.param("loky", marks=pytest.mark.slow)
"""Backend with processes that are started again after each error."""


BACKENDS = ("sequential", "threading", SLOW_LOKY, "multiprocessing")
TIMEOUT_S = 60.0


@pytest.fixture(autouse=True)
def _instrumented() -> Iterator[None]:
    integration.instrument()
    yield
    integration.uninstrument()
    assert not integration._calls


@pytest.fixture(scope="module", autouse=True)
def _workers() -> Iterator[None]:
    """End the workers of loky, which joblib keeps for later calls."""
    yield
    joblib.externals.loky.get_reusable_executor().shutdown(wait=True)


def make_parallel(backend: str, **options: Any) -> Any:
    if backend == "sequential":
        return Parallel(n_jobs=1, **options)
    # Why a timeout: a bug in a hook of joblib blocks it.
    return Parallel(n_jobs=2, backend=backend, timeout=TIMEOUT_S, **options)


def read_operations() -> list[OperationSnapshot]:
    """Return the ended operations with their levels, the first one first."""
    assert progress.get_active_operations() == []
    found = [progress.get_operation(operation.operation_id) for operation in progress.get_history()]
    return [operation for operation in reversed(found) if operation is not None]


def read_only_operation() -> OperationSnapshot:
    (operation,) = read_operations()
    return operation


def negate_after(event: threading.Event, number: int) -> int:
    assert event.wait(TIMEOUT_S)
    return -number


# --- counts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("options", [{}, {"batch_size": 3}, {"pre_dispatch": "all"}], ids=str)
@pytest.mark.usefixtures("recorder")
def test_call_with_each_backend_counts_all_tasks(backend: str, options: dict[str, Any]) -> None:
    results = make_parallel(backend, **options)(delayed(operator.neg)(number) for number in range(12))
    assert results == [-number for number in range(12)]
    operation = read_only_operation()
    assert (operation.operation_type, operation.status) == ("joblib", Status.COMPLETED)
    assert (operation.root.current, operation.root.total) == (12, 12)
    assert not diagnostics.internal_error_counts


@pytest.mark.usefixtures("recorder")
def test_call_with_loky_below_a_level_counts_all_tasks() -> None:
    with progress.operation("training", total=1) as op:
        assert len(make_parallel("loky")(delayed(operator.neg)(number) for number in range(12))) == 12
        op.increment()
    (level,) = read_only_operation().levels
    assert (level.current, level.total, level.status) == (12, 12, Status.COMPLETED)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.usefixtures("recorder")
def test_call_with_unknown_length_has_a_total_at_its_end(backend: str) -> None:
    tasks = itertools.chain(delayed(operator.neg)(number) for number in range(12))
    assert len(make_parallel(backend)(tasks)) == 12
    operation = read_only_operation()
    assert (operation.root.current, operation.root.total) == (12, 12)


@pytest.mark.usefixtures("recorder")
def test_total_is_unknown_until_the_iterator_is_exhausted() -> None:
    tasks = itertools.chain(delayed(operator.neg)(number) for number in range(3))
    totals = []
    for _ in Parallel(n_jobs=1, return_as="generator")(tasks):
        (operation,) = progress.get_active_operations()
        totals.append((operation.root.current, operation.root.total))
    assert totals == [(1, None), (2, None), (3, None)]
    assert read_only_operation().root.total == 3


@pytest.mark.usefixtures("recorder")
def test_counts_are_visible_while_tasks_run() -> None:
    released = threading.Event()
    tasks = [delayed(operator.neg)(1), delayed(negate_after)(released, 2)]
    results = make_parallel("threading", return_as="generator")(tasks)
    assert next(results) == -1
    (operation,) = progress.get_active_operations()
    assert (operation.root.current, operation.root.total, operation.ratio) == (1, 2, 0.5)
    released.set()
    assert list(results) == [-2]


@pytest.mark.usefixtures("recorder")
def test_total_is_unknown_while_all_tasks_are_dispatched(monkeypatch: pytest.MonkeyPatch) -> None:
    totals = set()
    report = integration._Call.report

    def report_and_read(call: Any, parallel: Any) -> None:
        report(call, parallel)
        totals.add(call.level.snapshot().total)

    monkeypatch.setattr(integration._Call, "report", report_and_read)
    tasks = itertools.chain(delayed(operator.neg)(number) for number in range(500))
    assert len(make_parallel("threading", pre_dispatch="all", batch_size=1)(tasks)) == 500
    assert totals == {None}
    assert read_only_operation().root.total == 500


@pytest.mark.usefixtures("recorder")
def test_list_of_tasks_has_the_name_of_the_function() -> None:
    Parallel(n_jobs=1)([delayed(operator.neg)(1)])
    Parallel(n_jobs=1)(delayed(operator.neg)(number) for number in range(2))
    first, second = read_operations()
    assert first.name == "neg"
    assert second.name == "test_list_of_tasks_has_the_name_of_the_function"
    for operation in (first, second):
        assert operation.metadata[integration.CALLER] == f"{__name__}:{second.name}"


@pytest.mark.parametrize("tasks", [[], iter(())], ids=["list", "iterator"])
@pytest.mark.usefixtures("recorder")
def test_call_without_tasks_completes(tasks: Iterable[Any]) -> None:
    assert make_parallel("threading")(tasks) == []
    operation = read_only_operation()
    assert (operation.status, operation.root.current, operation.root.total) == (Status.COMPLETED, 0, 0)


@pytest.mark.usefixtures("recorder")
def test_object_in_a_with_block_records_each_call() -> None:
    with make_parallel("threading") as parallel:
        for count in (2, 3):
            parallel(delayed(operator.neg)(number) for number in range(count))
    assert [operation.root.current for operation in read_operations()] == [2, 3]


# --- generators ----------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["sequential", "threading", SLOW_LOKY])
@pytest.mark.parametrize("return_as", ["generator", "generator_unordered"])
@pytest.mark.usefixtures("recorder")
def test_generator_that_is_consumed_completes(backend: str, return_as: str) -> None:
    results = make_parallel(backend, return_as=return_as)(delayed(operator.neg)(n) for n in range(12))
    assert len(progress.get_active_operations()) == 1
    assert sorted(results) == sorted(-number for number in range(12))
    operation = read_only_operation()
    assert (operation.status, operation.root.current) == (Status.COMPLETED, 12)


@pytest.mark.parametrize("backend", ["sequential", SLOW_LOKY])
@pytest.mark.usefixtures("recorder")
def test_generator_that_is_dropped_cancels_the_level(backend: str) -> None:
    results = make_parallel(backend, return_as="generator")(delayed(operator.neg)(n) for n in range(10**6))
    next(results)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # joblib warns that results are not used
        del results
        gc.collect()
    operation = read_only_operation()
    assert operation.status is Status.CANCELLED
    assert operation.root.current < 10**6


@pytest.mark.parametrize("backend", ["sequential", "threading"])
@pytest.mark.usefixtures("recorder")
def test_generator_whose_last_result_was_read_completes_when_it_is_closed(backend: str) -> None:
    results = make_parallel(backend, return_as="generator")(delayed(operator.neg)(n) for n in range(3))
    assert [next(results) for _ in range(3)] == [0, -1, -2]
    results.close()
    assert read_only_operation().status is Status.COMPLETED


@pytest.mark.usefixtures("recorder")
def test_second_call_while_a_generator_runs_is_rejected_by_joblib() -> None:
    parallel = Parallel(n_jobs=1, return_as="generator")
    results = parallel(delayed(operator.neg)(number) for number in range(3))
    with pytest.raises(RuntimeError, match="already running"):
        parallel([delayed(operator.neg)(1)])
    assert list(results) == [0, -1, -2]
    operation = read_only_operation()
    assert (operation.status, operation.root.current) == (Status.COMPLETED, 3)


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.usefixtures("recorder")
def test_error_of_a_task_fails_the_level(backend: str) -> None:
    with pytest.raises(ZeroDivisionError):
        make_parallel(backend)(delayed(operator.truediv)(1, 3 - number) for number in range(12))
    operation = read_only_operation()
    assert operation.status is Status.FAILED
    assert operation.error is not None
    assert operation.error.type == "ZeroDivisionError"
    assert operation.root.total == 12


@pytest.mark.parametrize("backend", ["sequential", "threading", SLOW_LOKY])
@pytest.mark.usefixtures("recorder")
def test_error_of_a_task_fails_the_level_of_a_generator(backend: str) -> None:
    results = make_parallel(backend, return_as="generator")(
        delayed(operator.truediv)(1, 3 - number) for number in range(12)
    )
    with pytest.raises(ZeroDivisionError):
        list(results)
    operation = read_only_operation()
    assert (operation.status, operation.error and operation.error.type) == (
        Status.FAILED,
        "ZeroDivisionError",
    )


def raise_interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("return_as", ["list", "generator"])
@pytest.mark.usefixtures("recorder")
def test_keyboard_interrupt_cancels_the_level_and_passes(return_as: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        list(Parallel(n_jobs=1, return_as=return_as)([delayed(raise_interrupt)()]))
    assert read_only_operation().status is Status.CANCELLED


@pytest.mark.usefixtures("recorder")
def test_error_of_the_tasks_iterator_fails_the_level() -> None:
    def generate() -> Iterator[Any]:
        yield delayed(operator.neg)(1)
        raise LookupError("no further task")

    with pytest.raises(LookupError, match="no further task"):
        make_parallel("threading")(generate())
    assert read_only_operation().status is Status.FAILED


@pytest.mark.parametrize("backend", ["sequential", "threading", "loky"])
@pytest.mark.usefixtures("lenient")
def test_internal_error_in_a_hook_leaves_the_call_unchanged(
    monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    def update(*_: object, **__: object) -> None:
        raise RuntimeError("a bug of ours")

    monkeypatch.setattr(Level, "update", update)
    assert len(make_parallel(backend)(delayed(operator.neg)(number) for number in range(12))) == 12
    assert diagnostics.internal_error_counts["integration"] > 0
    assert read_only_operation().status is Status.COMPLETED


class UnhashableParallel(Parallel):
    """Subclass that cannot be the key of a dict."""

    __hash__ = None


@pytest.mark.usefixtures("lenient")
def test_call_of_an_object_without_a_hash_is_unchanged() -> None:
    assert UnhashableParallel(n_jobs=1)([delayed(operator.neg)(1)]) == [-1]
    assert UnhashableParallel(n_jobs=2, prefer="threads")([delayed(operator.neg)(1)]) == [-1]


# --- nested calls --------------------------------------------------------------------------------


def call_inside(number: int) -> int:
    return sum(Parallel(n_jobs=1)(delayed(operator.neg)(value) for value in range(number)))


def test_call_below_an_operation_is_a_level(recorder: Recorder) -> None:
    with progress.operation("training", id="t-1", total=1) as op:
        make_parallel("threading")(delayed(operator.neg)(number) for number in range(4))
        op.increment()
    (level,) = recorder.operation("t-1").levels
    assert (level.info.type, level.current, level.status) == ("joblib", 4, Status.COMPLETED)


@pytest.mark.parametrize("return_as", ["list", "generator"])
@pytest.mark.usefixtures("recorder")
def test_call_in_a_sequential_task_is_a_child(return_as: str) -> None:
    list(Parallel(n_jobs=1, return_as=return_as)(delayed(call_inside)(number) for number in (2, 3)))
    operation = read_only_operation()
    assert [level.current for level in operation.levels] == [2, 3]
    assert operation.root.current == 2


@pytest.mark.parametrize("backend", ["threading", "multiprocessing"])
@pytest.mark.usefixtures("recorder")
def test_call_in_a_worker_without_a_level_is_not_recorded(backend: str) -> None:
    make_parallel(backend)(delayed(call_inside)(number) for number in (2, 3))
    operation = read_only_operation()
    assert (operation.root.current, len(operation.levels)) == (2, 0)


def test_call_in_a_wrapped_task_is_a_level(recorder: Recorder) -> None:
    with progress.operation("training", id="t-2"):
        make_parallel("threading")(delayed(progress.wrap(call_inside))(number) for number in (2, 3))
    paths = [level.path for level in recorder.operation("t-2").levels]
    assert sorted(paths) == ["joblib:1", "joblib:1/joblib:1", "joblib:1/joblib:2"]


@pytest.mark.usefixtures("recorder")
def test_generator_is_not_the_current_level_of_its_consumer() -> None:
    with progress.operation("training", id="t-3"):
        results = Parallel(n_jobs=1, return_as="generator")([delayed(operator.neg)(1)])
        assert progress.current_level().path == ""
        list(results)


# --- activation ----------------------------------------------------------------------------------


def test_call_without_configuration_is_unchanged() -> None:
    assert make_parallel("threading")(delayed(operator.neg)(number) for number in range(3)) == [0, -1, -2]
    assert progress.get_history() == []


@pytest.mark.usefixtures("recorder")
def test_uninstrument_restores_the_methods() -> None:
    replaced = vars(Parallel).copy()
    integration.instrument()
    assert vars(Parallel)["__call__"] is replaced["__call__"]
    integration.uninstrument()
    integration.uninstrument()
    for name in ("__call__", "print_progress", "_terminate_and_reset"):
        assert vars(Parallel)[name] is replaced[name].__wrapped__
    Parallel(n_jobs=1)([delayed(operator.neg)(1)])
    assert read_operations() == []


@pytest.mark.usefixtures("recorder")
def test_uninstrument_cancels_running_generators() -> None:
    results = Parallel(n_jobs=1, return_as="generator")([delayed(operator.neg)(1)])
    integration.uninstrument()
    assert list(results) == [-1]
    assert read_only_operation().status is Status.CANCELLED


@pytest.mark.usefixtures("recorder")
def test_call_without_a_level_is_not_recorded_without_operations() -> None:
    integration.instrument(operations=False)
    Parallel(n_jobs=1)([delayed(operator.neg)(1)])
    with progress.operation("training"):
        Parallel(n_jobs=1)([delayed(operator.neg)(1)])
    operation = read_only_operation()
    assert (operation.operation_type, len(operation.levels)) == ("training", 1)


def test_instrumentor_activates_and_deactivates() -> None:
    pytest.importorskip("opentelemetry.instrumentation.instrumentor", reason="it is its base class")
    from otel_progress.integrations.instrumentors import JoblibInstrumentor

    integration.uninstrument()
    instrumentor = JoblibInstrumentor()
    instrumentor.instrument()
    assert integration._patches
    instrumentor.uninstrument()
    assert not integration._patches


# --- number of tasks -----------------------------------------------------------------------------


def consumed_generator() -> Iterator[int]:
    generator = (number for number in range(3))
    next(generator)
    return generator


@pytest.mark.parametrize(
    ("iterable", "expected"),
    [
        ([1, 2], 2),
        (range(3), 3),
        (iter([1, 2, 3]), 3),
        ((number for number in range(4)), 4),
        ((number for number in (other for other in (1, 2))), 2),
        ((number for _, number in enumerate("ab")), None),
        ((number for _, number in enumerate([1, 2, 3])), 3),
        ((pair for pair in zip([1, 2, 3], [1, 2], strict=False)), 2),
        ((pair for pair in zip([1], map(str, [1]), strict=False)), None),
        ((pair for pair in zip(strict=False)), None),
        ((item for item in {"a": 1}.items()), 1),
        ((number for number in range(4) if number), None),
        ((a for b in ([1], [2, 3]) for a in b), None),
        ((number or 5 for number in range(4)), None),
        ((number for number in map(abs, [1])), None),
        (map(abs, [1]), None),
        (consumed_generator(), None),
        (5, None),
        (None, None),
    ],
)
def test_estimate_length_is_exact_or_unknown(iterable: Any, expected: int | None) -> None:
    assert integration._estimate_length(iterable) == expected
    if isinstance(iterable, Iterator) and expected is not None:
        assert len(list(iterable)) == expected


def test_estimate_length_of_deeply_nested_iterators_is_unknown() -> None:
    iterator: Any = iter([1])
    for _ in range(1000):
        iterator = enumerate(iterator)
    assert integration._estimate_length(iterator) is None


# --- scikit-learn --------------------------------------------------------------------------------


@pytest.mark.slow
def test_search_of_scikit_learn_is_a_tree(recorder: Recorder) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed: this test runs the real one")
    from sklearn.datasets import make_classification
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import GridSearchCV

    samples, classes = make_classification(100, random_state=1)
    search = GridSearchCV(RandomForestClassifier(n_estimators=4, n_jobs=2), {"max_depth": [2, 3]}, cv=3)
    with progress.operation("training", id="t-4"):
        search.fit(samples, classes)
    levels = recorder.operation("t-4").levels
    top = [level for level in levels if level.info.depth == 1]
    assert (top[0].current, top[0].total) == (6, 6)
    forests = [level for level in levels if level.info.name == "BaseForest.fit"]
    assert [(level.current, level.total) for level in forests] == [(4, 4)] * 7
    assert not diagnostics.internal_error_counts
