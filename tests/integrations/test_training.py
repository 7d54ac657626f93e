"""State of training runs, without a training library."""

from __future__ import annotations

import importlib
import sys
import types

import numpy as np
import pytest

from otel_progress import current_level, diagnostics, level
from otel_progress.errors import OperationCancelledError
from otel_progress.integrations import training
from otel_progress.integrations.training import (
    MAX_CHILD_LEVELS,
    MAX_METRICS,
    ScopedFunctions,
    TrainingScope,
    get_scope_argument,
    guard_hook,
    is_main_process,
    is_single_process,
    select_metrics,
    start_run,
)
from otel_progress.testing import Recorder, recording
from tests.support.training import describe, get_run, get_runs


def test_run_with_epochs_and_evaluations_counts_steps(recorder: Recorder) -> None:
    run = start_run("demo", "net", total=4, metadata={"seed": 1})
    for epoch in range(2):
        run.start_epoch(epoch + 1, total=2)
        run.advance_to(2 * epoch + 1)
        run.start_evaluation("validation", total=1)
        run.advance_evaluation()
        run.end_evaluation({"val_loss": 0.5})
        run.advance_to(2 * epoch + 2)
        run.end_epoch({"loss": 1.0 / (epoch + 1)})
    run.finish()
    ended = get_run(recorder)
    assert describe(ended) == [
        "training completed 4/4",
        "epoch:1 completed 2/2",
        "epoch:1/evaluation:1 completed 1/1",
        "epoch:2 completed 2/2",
        "epoch:2/evaluation:2 completed 1/1",
    ]
    assert dict(ended.root.metadata) == {
        "library": "demo",
        "model": "net",
        "seed": 1,
        "val_loss": 0.5,
        "loss": 0.5,
    }
    assert [one.metadata.get("loss") for one in ended.levels if one.info.type == "epoch"] == [1.0, 0.5]


def test_metadata_with_names_of_arguments_is_metadata(recorder: Recorder) -> None:
    names = ("batch", "type", "name", "id", "total", "unit", "resume", "stages", "self", "message", "eta_key")
    run = start_run("demo", "net", total=4, metadata=dict.fromkeys(names, 7))
    run.finish()
    ended = get_run(recorder)
    assert ended.root.metadata["batch"] == ended.root.metadata["metric.total"] == 7
    assert (ended.root.info.type, ended.root.info.name) == ("training", "net")


def test_evaluation_before_the_first_step_adds_no_step(recorder: Recorder) -> None:
    run = start_run("demo", total=2)
    run.start_evaluation(total=3)
    for _ in range(3):
        run.advance_evaluation()
    run.end_evaluation()
    assert run.level.snapshot().current == 0
    run.advance_to(2)
    run.finish()
    assert describe(get_run(recorder)) == ["training completed 2/2", "evaluation:1 completed 3/3"]


def test_resumed_run_continues_at_its_step_with_the_rate_of_this_session(recorder: Recorder) -> None:
    run = start_run("demo", total=100, resumed_at=90)
    run.start_epoch(10, total=10)
    for step in range(91, 96):
        recorder.clock.advance(10.0)
        run.advance_to(step)
        recorder.tick()
    snapshot = run.level.snapshot()
    assert (snapshot.current, snapshot.total, snapshot.resumed_from) == (95, 100, 90)
    assert snapshot.eta is not None
    # 5 steps remain at 10 s each. The 90 steps of the earlier session have no duration.
    assert snapshot.eta.remaining_s == pytest.approx(50.0, rel=0.5)
    run.advance_to(100)
    run.end_epoch()
    run.finish()
    assert describe(get_run(recorder)) == ["training completed 100/100", "epoch:10 completed 10/10"]


def test_run_resumed_within_an_epoch_continues_the_epoch(recorder: Recorder) -> None:
    run = start_run("demo", total=20, resumed_at=13)
    run.start_epoch(2, total=10, resumed_at=3)
    run.advance_to(14)
    assert run.epoch is not None
    assert (run.epoch.snapshot().current, run.epoch.snapshot().resumed_from) == (4, 3)
    run.finish()


def test_step_that_is_not_greater_changes_nothing(recorder: Recorder) -> None:
    run = start_run("demo", total=10, resumed_at=5)
    for step in (5, 4, -1, 0):
        run.advance_to(step)
    assert run.level.snapshot().current == 5
    run.advance_to(9)
    run.advance_to(9)
    assert run.level.snapshot().current == 9
    run.finish()


def test_more_steps_than_planned_raise_the_totals(recorder: Recorder) -> None:
    run = start_run("demo", total=2)
    run.start_epoch(1, total=1)
    run.advance_to(3)
    run.end_epoch()
    run.finish()
    assert describe(get_run(recorder)) == ["training completed 3/3", "epoch:1 completed 3/3"]


def test_resumed_step_beyond_the_total_raises_the_total(recorder: Recorder) -> None:
    run = start_run("demo", total=3, resumed_at=5)
    run.finish()
    assert describe(get_run(recorder)) == ["training completed 5/5"]


def test_total_is_predicted_from_epochs(recorder: Recorder) -> None:
    run = start_run("demo")
    totals = []
    for epoch, steps in enumerate((4, 4, 2)):
        run.start_epoch(epoch + 1)
        run.advance_to(run.step + steps)
        run.end_epoch(epochs=3)
        totals.append(run.level.snapshot().total)
    run.finish()
    assert totals == [12, 12, 10]


def test_run_that_stops_early_is_completed_with_its_steps(recorder: Recorder) -> None:
    run = start_run("demo", total=1_000)
    run.start_epoch(1, total=100)
    run.advance_to(7)
    run.finish()
    ended = get_run(recorder)
    assert describe(ended) == ["training completed 7/7", "epoch:1 completed 7/7"]
    assert ended.root.message == "stopped early at step 7 of 1,000"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("boom"), "failed"),
        (KeyboardInterrupt(), "cancelled"),
        (SystemExit(1), "failed"),
        (OperationCancelledError("op"), "cancelled"),
    ],
)
def test_finish_with_an_exception_ends_all_levels(
    recorder: Recorder, error: BaseException, status: str
) -> None:
    run = start_run("demo", total=4)
    run.start_epoch(1, total=2)
    run.start_evaluation()
    run.finish(error)
    run.finish()
    assert {line.split()[1] for line in describe(get_run(recorder))} == {status}


def test_finish_after_a_request_to_cancel_is_cancelled_unless_all_is_done(recorder: Recorder) -> None:
    for steps in (1, 2):
        run = start_run("demo", total=2)
        recorder.runtime.request_cancel(run.level.operation_id)
        recorder.tick()
        assert run.cancel_requested
        run.advance_to(steps)
        run.finish()
    assert [describe(one)[0] for one in get_runs(recorder)] == [
        "training cancelled 1/2",
        "training completed 2/2",
    ]


def test_collected_run_ends_as_cancelled(recorder: Recorder) -> None:
    run = start_run("demo", total=2)
    run.start_epoch(1)
    del run
    assert {line.split()[1] for line in describe(get_run(recorder))} == {"cancelled"}


def test_run_inside_a_level_is_a_level(recorder: Recorder) -> None:
    with level("nightly"):
        start_run("demo", total=1).finish()
    assert describe(get_run(recorder))[1].startswith("training:1 ")


def test_epochs_and_evaluations_beyond_the_limit_count_steps_only(recorder: Recorder) -> None:
    run = start_run("demo")
    run.start_epoch(MAX_CHILD_LEVELS)
    run.start_epoch(MAX_CHILD_LEVELS + 1)
    run.advance_to(3)
    run._evaluations = MAX_CHILD_LEVELS
    run.start_evaluation()
    run.advance_evaluation()
    run.end_evaluation({"val": 1})
    run.finish()
    ended = get_run(recorder)
    assert [one.info.id for one in ended.levels] == [str(MAX_CHILD_LEVELS)]
    assert ended.root.current == 3
    assert ended.root.metadata["val"] == 1


def test_run_without_configuration_does_nothing() -> None:
    run = start_run("demo", total=2)
    run.start_epoch(1)
    run.advance_to(5)
    run.report({"loss": 1.0})
    run.finish(ValueError())
    assert not run.level.recording


# --- metrics -------------------------------------------------------------------------------------


def test_select_metrics_keeps_scalars_and_renames_reserved_names() -> None:
    class Tensor:
        def numel(self) -> int:
            return 1

        def item(self) -> float:
            return 0.25

        size = None

    metrics = select_metrics(
        {
            "loss": np.float32(0.5),
            "one": np.array([2]),
            "many": np.zeros(3),
            "tensor": Tensor(),
            "text": "adam",
            "flag": True,
            "none": None,
            "list": [1, 2],
            "current": 3,
            "self": 4,
            5: 6,
        }
    )
    assert metrics == {
        "loss": 0.5,
        "one": 2,
        "tensor": 0.25,
        "text": "adam",
        "flag": True,
        "metric.current": 3,
        "metric.self": 4,
        "5": 6,
    }
    assert select_metrics(None) == {}


def test_report_beyond_the_limit_keeps_the_first_names(recorder: Recorder) -> None:
    run = start_run("demo")
    run.report({f"m{number}": number for number in range(MAX_METRICS + 10)})
    run.report({"m0": -1.0, "new": 1})
    run.finish()
    metadata = get_run(recorder).root.metadata
    assert metadata["m0"] == -1.0
    assert f"m{MAX_METRICS - 1}" in metadata
    assert f"m{MAX_METRICS}" not in metadata
    assert "new" not in metadata


def test_report_live_reads_metrics_only_when_due(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(training.time, "monotonic", lambda: now[0])
    run = start_run("demo")
    read = []

    def read_metrics() -> dict[str, object]:
        read.append(now[0])
        return {"loss": now[0]}

    for now[0] in (101.0, 106.0, 107.0, 112.0):
        run.report_live(read_metrics)
    monkeypatch.undo()
    run.finish()
    assert read == [106.0, 112.0]
    assert get_run(recorder).root.metadata["loss"] == 112.0


# --- hooks and ranks -----------------------------------------------------------------------------


def test_guard_hook_reports_errors_and_passes_interrupts() -> None:
    @guard_hook
    def fail(error: BaseException) -> None:
        raise error

    assert fail(ValueError("boom")) is None
    assert diagnostics.internal_error_counts["integration"] == 1
    with pytest.raises(KeyboardInterrupt):
        fail(KeyboardInterrupt())


@pytest.mark.parametrize(
    ("environ", "is_main", "is_single"),
    [
        ({}, True, True),
        ({"RANK": "1", "WORLD_SIZE": "1"}, True, True),
        ({"RANK": "0", "WORLD_SIZE": "2"}, True, False),
        ({"RANK": "1", "WORLD_SIZE": "2"}, False, False),
        ({"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "4"}, False, False),
        (
            {"TF_CONFIG": '{"cluster": {"worker": ["a", "b"]}, "task": {"type": "worker", "index": 0}}'},
            True,
            False,
        ),
        (
            {"TF_CONFIG": '{"cluster": {"worker": ["a", "b"]}, "task": {"type": "worker", "index": 1}}'},
            False,
            False,
        ),
        ({"TF_CONFIG": '{"cluster": {"chief": ["a"]}, "task": {"type": "chief", "index": 0}}'}, True, False),
        (
            {"TF_CONFIG": '{"cluster": {"chief": ["a"]}, "task": {"type": "worker", "index": 0}}'},
            False,
            False,
        ),
        ({"TF_CONFIG": "not JSON"}, True, False),
        ({"TF_CONFIG": "[]"}, True, False),
    ],
)
def test_rank_is_that_of_the_launcher(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], is_main: bool, is_single: bool
) -> None:
    monkeypatch.delitem(sys.modules, "torch.distributed", raising=False)
    for name in ("RANK", "WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "TF_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert (is_main_process(), is_single_process()) == (is_main, is_single)


def test_rank_of_torch_takes_precedence(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = types.ModuleType("torch.distributed")
    ranks.is_available = ranks.is_initialized = lambda: True  # type: ignore[attr-defined]
    ranks.get_rank, ranks.get_world_size = (lambda: 1), (lambda: 2)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.distributed", ranks)
    assert not is_main_process()
    assert not is_single_process()


# --- scopes --------------------------------------------------------------------------------------


@pytest.fixture
def library() -> types.ModuleType:
    """A library whose ``train`` starts a run and does not end it."""
    module = types.ModuleType("library")

    def train(rounds: int, *, callbacks: object = None, error: BaseException | None = None) -> str:
        """Train."""
        run = start_run("demo", total=rounds)
        run.advance_to(1)
        if error is not None:
            raise error
        return f"{get_scope_argument('rounds')} {callbacks} {current_level().recording}"

    module.train = train  # type: ignore[attr-defined]
    return module


def test_scoped_function_ends_its_runs(recorder: Recorder, library: types.ModuleType) -> None:
    original = library.train
    functions = ScopedFunctions(lambda: [(library, "train"), (library, "absent")])
    functions.apply()
    functions.apply()
    assert library.train.__doc__ == "Train."
    assert library.train(3) == "3 None True"
    with pytest.raises(ValueError, match="boom"):
        library.train(rounds=4, error=ValueError("boom"))
    with pytest.raises(KeyboardInterrupt):
        library.train(5, error=KeyboardInterrupt())
    assert not current_level().recording
    functions.remove()
    functions.remove()
    assert library.train is original
    assert [describe(run)[0] for run in get_runs(recorder)] == [
        "training completed 1/1",
        "training failed 1/4",
        "training cancelled 1/5",
    ]


def test_scoped_function_passes_injected_arguments(recorder: Recorder, library: types.ModuleType) -> None:
    functions = ScopedFunctions(lambda: [(library, "train")])
    functions.apply(lambda call: call.arguments.update(callbacks="ours"))
    assert library.train(3) == "3 ours True"
    functions.remove()
    assert library.train(3) == "None None False"
    get_runs_count = len(recorder.runtime.get_active_operations())
    assert get_runs_count <= 1


def test_scoped_function_with_a_failing_injection_calls_the_original(
    recorder: Recorder, library: types.ModuleType
) -> None:
    functions = ScopedFunctions(lambda: [(library, "train")])
    functions.apply(lambda call: call.arguments["absent"])
    assert library.train(3) == "None None False"
    functions.remove()
    assert diagnostics.internal_error_counts["integration"] == 1


def test_scoped_function_with_invalid_arguments_raises_the_error_of_the_function(
    recorder: Recorder, library: types.ModuleType
) -> None:
    functions = ScopedFunctions(lambda: [(library, "train")])
    functions.apply()
    with pytest.raises(TypeError, match="unknown"):
        library.train(3, unknown=1)
    functions.remove()


def test_nested_scopes_end_their_own_runs(recorder: Recorder) -> None:
    with TrainingScope():
        outer = start_run("demo", "outer", total=1)
        with TrainingScope():
            start_run("demo", "inner", total=1)
        assert not outer.is_finished
    assert describe(get_run(recorder)) == ["training completed 0/0", "training:1 completed 0/0"]


# --- modules of the libraries ---


@pytest.mark.parametrize("name", ["keras", "lightgbm", "lightning", "optuna", "transformers", "xgboost"])
def test_module_without_its_library_names_the_fix(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for module in list(sys.modules):
        if module.split(".")[0] == name:
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "pytorch_lightning", raising=False)
    monkeypatch.delitem(sys.modules, f"otel_progress.integrations.{name}", raising=False)
    with pytest.raises(ImportError, match=r"Invalid environment: expected .* Install"):
        importlib.import_module(f"otel_progress.integrations.{name}")


def test_finish_after_the_shutdown_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with recording(strict=False) as recorder, TrainingScope():
        run = start_run("demo", total=5)
        run.start_epoch(1, total=5)
        recorder.runtime.shutdown()
        run.advance_to(3)
        run.report({"loss": 1.0})
        run.end_epoch({"loss": 1.0})
    assert run.is_finished
    assert not current_level().recording
    assert dict(diagnostics.internal_error_counts) == {}


# --- instrumentors -------------------------------------------------------------------------------
