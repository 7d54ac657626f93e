"""Tests of the group of runs whose history a loop or an operation uses."""

from __future__ import annotations

import functools
import sys
import types
import weakref
from collections.abc import Iterable, Iterator

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider

import otel_progress as progress
from otel_progress.instrument.callers import Caller, describe_caller
from otel_progress.processes import get_program_name
from otel_progress.testing import CountingIds, Recorder, recording


class Reader:
    """Class with loops in its methods."""

    def read(self) -> None:
        """Run a loop."""
        for _ in progress.track(range(1)):
            pass

    @classmethod
    def read_all(cls) -> None:
        """Run a loop."""
        for _ in progress.track(range(1)):
            pass


class _SpecialReader(Reader):
    """Its methods are those of the base class."""


def _run_plain_loop() -> None:
    for _ in progress.track(range(1), "name", type="rows", total=1):
        pass


def _run_list_comprehension() -> None:
    [each for each in range(1) for _ in progress.track(range(1))]


def _run_nested_comprehension() -> None:
    [[each + 1 for each in progress.track(range(1))] for _ in range(1)]


def _run_generator_expression() -> None:
    sum(each for _ in range(1) for each in progress.track(range(1)))


def _run_lambda() -> None:
    list((lambda: progress.track(range(1)))())


def _run_generator() -> None:
    def generate() -> Iterator[int]:
        yield from progress.track(range(1))

    list(generate())


def _run_library_loop() -> None:
    list(progress.get_tracer("library").track(range(1)))


def _iterate_elsewhere(loop: Iterable[int]) -> None:
    list(loop)


def _run_loop_in_another_function() -> None:
    _iterate_elsewhere(progress.track(range(1)))


def _run_partial() -> None:
    list(functools.partial(progress.track, range(1))())


def _read_groups(recorder: Recorder) -> list[str]:
    return [entry.key.eta_key for entry in recorder.runtime._store.collect().trajectories]


@pytest.mark.parametrize(
    ("work", "name"),
    [
        (_run_plain_loop, "_run_plain_loop"),
        (_run_list_comprehension, "_run_list_comprehension"),
        (_run_nested_comprehension, "_run_nested_comprehension"),
        (_run_generator_expression, "_run_generator_expression"),
        (_run_lambda, "_run_lambda"),
        (_run_library_loop, "_run_library_loop"),
        (_run_loop_in_another_function, "_run_loop_in_another_function"),
        (_run_partial, "_run_partial"),
        (Reader().read, "Reader.read"),
        (_SpecialReader().read, "Reader.read"),
        (Reader.read_all, "Reader.read_all"),
    ],
)
def test_history_of_a_loop_is_that_of_its_function(work: types.FunctionType, name: str) -> None:
    """Neither the line nor a comprehension around it matters."""
    with recording(service_name="shop") as recorder:
        work()
        work()
        assert _read_groups(recorder) == [f"service=shop,caller={__name__}:{name}"] * 2


@pytest.mark.skipif(sys.version_info < (3, 11), reason="frames have no qualified name")
def test_history_of_a_loop_in_an_inner_function_includes_the_outer_one() -> None:
    """Two functions may have inner functions of the same name."""
    with recording(service_name="shop") as recorder:
        _run_generator()
        assert _read_groups(recorder) == [f"service=shop,caller={__name__}:_run_generator.<locals>.generate"]


def _run_loop_next_to_an_object(kind: type) -> bool:
    """Return whether an object that the function has dropped is collected."""
    thing = kind()
    reference = weakref.ref(thing)
    for _ in progress.track(range(1)):
        pass
    del thing
    return reference() is None


def test_loop_keeps_no_object_of_its_caller_alive() -> None:
    with recording():
        assert _run_loop_next_to_an_object(Reader)


def test_history_of_a_loop_below_an_operation_is_that_of_the_operation() -> None:
    """The caller distinguishes operations only."""
    with recording(service_name="shop") as recorder:
        with progress.operation("job"):
            _run_plain_loop()
        assert _read_groups(recorder) == ["service=shop"]


@pytest.mark.parametrize(
    ("module", "name", "expected"),
    [
        ("pkg.mod", "main", "pkg.mod:main"),
        ("pkg.mod", "<module>", "pkg.mod:<module>"),
        ("pkg.mod", "<lambda>", "pkg.mod:<module>"),
        ("pkg.mod", "<listcomp>.<genexpr>", "pkg.mod:<module>"),
        ("pkg.mod", "C.m.<locals>.<lambda>.<locals>.<listcomp>", "pkg.mod:C.m"),
        ("pkg.mod", "f.<locals>.g", "pkg.mod:f.<locals>.g"),
        ("", "f", ":f"),
    ],
)
def test_description_of_a_caller_leaves_out_comprehensions_and_lambdas(
    module: str, name: str, expected: str
) -> None:
    """They are part of the function around them."""
    assert describe_caller(Caller(module, name)) == expected


@pytest.mark.parametrize("module", ["__main__", "__mp_main__"])
def test_description_of_a_main_script_has_its_file(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its module name is the same for all scripts."""
    main = types.ModuleType("__main__")
    main.__file__ = "/srv/jobs/load.py"
    monkeypatch.setitem(sys.modules, "__main__", main)
    get_program_name.cache_clear()
    try:
        assert describe_caller(Caller(module, "<module>")) == "jobs/load.py:<module>"
    finally:
        get_program_name.cache_clear()


@pytest.mark.parametrize(
    ("spec", "file", "expected"),
    [
        ("pkg.tool", "/x/pkg/tool.py", "pkg.tool"),
        ("pkg.__main__", "/x/pkg/__main__.py", "pkg"),
        ("__main__", "/x/app/__main__.py", "app/__main__.py"),
        (None, "/x/jobs/load.py", "jobs/load.py"),
        (None, None, "interactive"),
    ],
)
def test_name_of_a_program_is_its_module_or_file(
    spec: str | None, file: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the same in each of its runs."""
    main = types.ModuleType("__main__")
    main.__spec__ = None if spec is None else types.SimpleNamespace(name=spec)  # type: ignore[assignment]
    if file is not None:
        main.__file__ = file
    monkeypatch.setitem(sys.modules, "__main__", main)
    get_program_name.cache_clear()
    try:
        assert get_program_name() == expected
    finally:
        get_program_name.cache_clear()


@pytest.mark.parametrize(
    ("service", "resource", "expected"),
    [
        ("shop", {}, "service=shop"),
        ("shop", {"service.name": "other"}, "service=shop"),
        (None, {"service.name": "other"}, "service=other"),
        (None, {"service.name": "unknown_service:python"}, None),
        (None, {}, None),
    ],
)
def test_group_of_an_operation_is_its_service_or_program(
    service: str | None, resource: dict[str, str], expected: str | None
) -> None:
    """The setting wins over the resource of the provider."""
    provider = TracerProvider(resource=Resource(resource), shutdown_on_exit=False)
    with recording(provider=provider, service_name=service) as recorder:
        with progress.operation("job"):
            pass
        assert _read_groups(recorder) == [expected or f"program={get_program_name()}"]


def test_history_is_not_shared_between_services_unless_a_text_names_it() -> None:
    """Metadata keys apply within a service, because their names are common."""
    groups = []
    for service in ("a", "b"):
        with recording(service_name=service) as recorder:
            for eta_key in (None, "shared", ["size"]):
                with progress.operation("job", eta_key=eta_key, size=1):
                    pass
            groups.append(_read_groups(recorder))
    first, second = groups
    assert first == ["service=a", "shared", "service=a,size=1"]
    assert second == ["service=b", "shared", "service=b,size=1"]


def test_first_run_of_a_service_is_not_overdue_because_of_another_one(tmp_path: object) -> None:
    """Both write the same type of operation to one journal."""
    store, ids = f"sqlite:///{tmp_path}/journal.db", CountingIds()
    for service, runs, steps in (("small", 4, 10), ("big", 1, 100)):
        for number in range(runs):
            with recording(service_name=service, store=store, ids=ids) as recorder:
                with progress.operation("import", id="o", total=steps) as op:
                    recorder.tick()
                    assert recorder.runtime.force_flush(60.0)
                    for _ in range(steps):
                        recorder.clock.advance(1.0)
                        op.increment()
                        recorder.tick()
                        assert recorder.operation("o").condition.value == "ok"
                    eta = recorder.operation("o").eta
                    assert eta is not None
                    assert eta.runs == number
                assert recorder.runtime.force_flush(60.0)
