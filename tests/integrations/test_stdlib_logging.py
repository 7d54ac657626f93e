"""Captured log records: which are taken, to which level they belong, and that the application's logging stays as it is."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import otel_progress as progress
from otel_progress import ConfigurationError
from otel_progress.diagnostics import internal_error_counts, report_internal_error
from otel_progress.integrations.stdlib_logging import MAX_ATTRIBUTES, LogHandler
from otel_progress.live.buffers import MAX_LOGS_PER_LEVEL
from otel_progress.records import LogRecord
from otel_progress.testing import Recorder, recording

log = logging.getLogger("nightly.import")


@pytest.fixture(autouse=True)
def _everything_is_let_through() -> Iterator[None]:
    """Set the root logger's level, as an application that wants these records does."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.DEBUG)
    yield
    root.setLevel(before)


@pytest.fixture
def captured() -> Iterator[Recorder]:
    """Record with log records from DEBUG on."""
    with recording(capture_logs="DEBUG") as made:
        yield made


def texts(recorder: Recorder, operation_id: str = "o", **query: Any) -> list[str]:
    """Return the messages of an operation's records."""
    return [record.message for record in recorder.runtime.get_logs(operation_id, **query)]


def only(recorder: Recorder) -> LogRecord:
    """Return the only record of the operation."""
    (record,) = recorder.runtime.get_logs("o")
    return record


def test_records_belong_to_the_level_in_force(captured: Recorder) -> None:
    """A record is tied to the innermost level, with its number, severity and logger; others ask by path, severity and number."""
    log.warning("before")
    with progress.operation("o", id="o", total=1) as op:
        log.info("started with %s", "file")
        with op.level("step", "1"):
            log.error("in %d", 1)
        log.debug("near the end")
    log.warning("after")
    assert texts(captured) == ["started with file", "in 1", "near the end"]
    found = captured.runtime.get_logs("o")
    assert [(record.path, record.severity, record.severity_text, record.number) for record in found] == [
        ("", 20, "INFO", 1),
        ("step:1", 40, "ERROR", 2),
        ("", 10, "DEBUG", 3),
    ]
    assert {(record.logger, record.operation_id, record.operation_type) for record in found} == {
        ("nightly.import", "o", "o")
    }
    assert (texts(captured, path="step:1"), texts(captured, severity=20)) == (
        ["in 1"],
        ["started with file", "in 1"],
    )
    assert texts(captured, limit=1) == ["near the end"]


def test_a_batch_carries_them_once(captured: Recorder) -> None:
    """The next batch has the records since the last one, in their order."""
    with progress.operation("o", id="o"):
        log.info("one")
        log.info("two")
        store = captured.runtime._store
        assert [record.message for record in store.collect().logs] == ["one", "two"]
        log.info("three")
        assert [record.message for record in store.collect().logs] == ["three"]
        assert store.collect().logs == []


def test_the_trace_is_the_span_in_force(captured: Recorder) -> None:
    """A record has the ids of the span it was made in: the level's, or a plain one inside of it."""
    with progress.operation("o", id="o"):
        log.info("in the level")
        with captured.provider.get_tracer("plain").start_as_current_span("plain") as span:
            log.info("in a plain span")
            inner = span.get_span_context()
    first, second = captured.runtime.get_logs("o")
    assert (first.trace_id, first.span_id) == (
        captured.operation("o").root.info.trace_id,
        captured.operation("o").root.info.span_id,
    )
    assert (second.trace_id, second.span_id) == (f"{inner.trace_id:032x}", f"{inner.span_id:016x}")


def test_exceptions_and_stacks(captured: Recorder) -> None:
    """A traceback comes along as details, bounded; so does a stack."""
    with progress.operation("o", id="o"):
        try:
            raise ValueError("x" * 20_000)
        except ValueError:
            log.exception("failed")
        log.info("here", stack_info=True)
        log.error("none", exc_info=(None, None, None))
    failed, here, none = captured.runtime.get_logs("o")
    assert failed.details is not None
    assert len(failed.details) <= 8192
    assert failed.details.endswith("x\n")
    assert "test_exceptions_and_stacks" in str(here.details)
    assert none.details is None


def test_extra_becomes_attributes(captured: Recorder) -> None:
    """What was given as extra= is kept as clean attributes, bounded in number; what logging itself adds is not."""
    with progress.operation("o", id="o"):
        log.info(
            "one", extra={"file": "a.mp3", "size": 3, "parts": [1, 2], "odd": object, "password": "hunter2"}
        )
        log.info("two", extra={f"key{number}": number for number in range(100)})
        log.info("three")
    one, two, three = captured.runtime.get_logs("o")
    assert one.attributes == {
        "file": "a.mp3",
        "size": 3,
        "parts": (1, 2),
        "odd": str(object),
        "password": "[redacted]",
    }
    assert (len(two.attributes), dict(three.attributes)) == (MAX_ATTRIBUTES, {})


def test_secrets_are_redacted(captured: Recorder) -> None:
    """Messages and tracebacks are redacted before they get anywhere."""
    with progress.operation("o", id="o"):
        try:
            raise ValueError("password=hunter2")
        except ValueError:
            log.exception("Authorization: Bearer %s", "hunter2")
    record = only(captured)
    assert record.message == "Authorization: [redacted]"
    assert "hunter2" not in str(record.details)


class Raising:
    """Cannot be made a text."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class Logging:
    """Logs while it is made a text."""

    def __str__(self) -> str:
        log.warning("from within")
        return "text"


def handed(level: int, text: Any, *args: Any) -> None:
    """Log a record without the application's own handlers, which would complain about it on stderr."""
    record = logging.LogRecord("nightly", level, __file__, 1, text, args, None)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, LogHandler):
            handler.handle(record)


@pytest.mark.parametrize(
    ("text", "args", "expected"),
    [
        ("%d files", ("many",), "%d files many"),
        ("%s and %s", ("one",), "%s and %s one"),
        ("no place", ("x",), "no place x"),
        ("100%", ({"a": 1},), "100% {'a': 1}"),
        (Raising(), (), "<Raising>"),
        ("for %s", (Raising(),), "for %s <Raising>"),
        (5, (), "5"),
        ("\x1b[31m\ud800 %s", ("x" * 10_000_000,), None),
    ],
    ids=range(8),
)
def test_what_cannot_be_formatted(
    captured: Recorder, text: Any, args: tuple[Any, ...], expected: str | None
) -> None:
    """Arguments that do not fit, texts that raise and texts of any length never raise; something readable is kept, bounded."""
    with progress.operation("o", id="o"):
        handed(logging.INFO, text, *args)
    record = only(captured)
    assert len(record.message) <= 1024
    assert expected is None or record.message == expected
    record.message.encode()


def test_logging_from_within(captured: Recorder) -> None:
    """An argument that logs when it is made a text neither recurses nor raises."""
    with progress.operation("o", id="o"):
        handed(logging.INFO, "a %s", Logging())
        log.info("and on")
    assert texts(captured) == ["a text", "and on"]


def test_own_records_are_not_taken(captured: Recorder) -> None:
    """What this package and OpenTelemetry's exporters log is not carried away, or it would never end; similar names are."""
    with progress.operation("o", id="o"):
        report_internal_error("test_own_records", "something went wrong")
        del internal_error_counts["test_own_records"]
        for name in (
            "otel_progress",
            "otel_progress.otlp",
            "opentelemetry.exporter.otlp",
            "opentelemetry.sdk.trace",
        ):
            logging.getLogger(name).warning("own")
        logging.getLogger("otel_progress_app").warning("mine")
    assert texts(captured) == ["mine"]


def test_levels_of_the_application_decide() -> None:
    """Records below the level asked for are not taken, nor those that a logger or the root logger holds back."""
    with recording(capture_logs=True) as recorder, progress.operation("o", id="o"):
        log.debug("below")
        log.info("taken")
        logging.getLogger().setLevel(logging.WARNING)
        log.info("held back")
        assert texts(recorder) == ["taken"]
    logging.getLogger().setLevel(logging.DEBUG)
    with recording(capture_logs=30) as recorder, progress.operation("o", id="o"):
        log.info("below")
        log.warning("taken")
        assert texts(recorder) == ["taken"]


def test_the_application_is_left_alone() -> None:
    """Levels and other handlers stay as they are, records go on to them, and after the end no handler of ours is left."""
    root = logging.getLogger()
    before = (list(root.handlers), root.level, log.level, log.propagate)
    seen: list[str] = []
    own = logging.Handler()
    own.addFilter(logging.Filter(log.name))  # other threads of the process may log as well, down to DEBUG
    own.emit = lambda record: seen.append(record.getMessage())  # type: ignore[method-assign]
    root.addHandler(own)
    try:
        with recording(capture_logs=True), progress.operation("o"):
            assert sum(isinstance(handler, LogHandler) for handler in root.handlers) == 1
            log.info("for all")
    finally:
        root.removeHandler(own)
    assert seen == ["for all"]
    assert (list(root.handlers), root.level, log.level, log.propagate) == before


def test_off_by_default(recorder: Recorder) -> None:
    """Without capture_logs there is no handler."""
    with progress.operation("o", id="o"):
        log.error("x")
    assert texts(recorder) == []
    assert not any(isinstance(handler, LogHandler) for handler in logging.getLogger().handlers)


def test_after_its_end_a_level_takes_none(captured: Recorder) -> None:
    """A record made in the context of a level that has ended belongs to the nearest one above that still runs."""
    with progress.operation("o", id="o") as op:
        with op.level("step", "1") as step:
            step.complete()
            log.info("late")
        op.complete()
        log.info("too late")
    assert [(record.path, record.message) for record in captured.runtime.get_logs("o")] == [("", "late")]


def test_many_records_are_bounded_and_counted(captured: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two ticks a bounded number waits; what is let go is counted, and memory keeps the newest of a level."""
    monkeypatch.setattr(captured.runtime._store._state.logs, "_max_unsent", 500)
    with progress.operation("o", id="o"):
        for number in range(505):
            handed(logging.INFO, "%d", number)
        store = captured.runtime._store
        assert len(store.collect().logs) == 500
        assert len(texts(captured, limit=100_000)) == MAX_LOGS_PER_LEVEL


def test_threads_do_not_wait_for_each_other(captured: Recorder) -> None:
    """A record whose text takes its time holds up no other thread: the handler takes no lock."""
    inside, go_on = threading.Event(), threading.Event()

    class Slow:
        def __str__(self) -> str:
            inside.set()
            assert go_on.wait(60.0)
            return "slow"

    with progress.operation("o", id="o") as op:

        def slow() -> None:
            with op.level("step", "1"):
                handed(logging.INFO, "%s", Slow())

        thread = threading.Thread(target=slow)
        thread.start()
        assert inside.wait(60.0)
        log.info("quick")
        assert texts(captured) == ["quick"]
        go_on.set()
        thread.join()
    assert texts(captured) == ["quick", "slow"]


def test_a_store_that_fails(captured: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong inside is counted and never reaches the line that logs."""
    monkeypatch.setattr(captured.runtime._store, "add_log", None)
    before = internal_error_counts["logs"]
    with progress.operation("o"):
        log.info("x")
    assert internal_error_counts["logs"] == before + 1


@pytest.mark.process
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child(captured: Recorder) -> None:
    """A child takes records of its own levels and none of the level it inherited; the parent goes on."""
    with progress.operation("o", id="o"):
        log.info("before")
        read, write = os.pipe()
        child = os.fork()
        if not child:
            try:
                log.info("inherited")
                with progress.operation("o", id="child"):
                    log.info("in the child")
                told = f"{texts(captured, 'o')} {texts(captured, 'child')}"
            except BaseException as error:
                told = repr(error)
            os.write(write, told.encode())
            os._exit(0)
        os.close(write)
        with os.fdopen(read) as pipe:
            assert pipe.read() == "[] ['in the child']"
        os.waitpid(child, 0)
        log.info("after")
    assert texts(captured) == ["before", "after"]


@pytest.mark.parametrize(
    ("given", "level"),
    [
        (True, 20),
        (False, False),
        ("debug", 10),
        ("Warning", 30),
        ("true", 20),
        ("1", 20),
        ("off", False),
        (25, 25),
        ("25", 25),
    ],
)
def test_the_setting(given: Any, level: Any) -> None:
    """True is INFO; names and numbers of logging are taken, from the environment as well."""
    with recording(capture_logs=given) as recorder:
        found = recorder.runtime.settings.capture_logs
        assert (found, type(found)) == (level, type(level))


@pytest.mark.parametrize("given", ["loud", 0, 101, -1, 2.5, "", "1000", "INF0"])
def test_a_bad_setting(given: Any) -> None:
    """What is no level is refused."""
    with pytest.raises(ConfigurationError, match=r"capture_logs.*DEBUG, INFO"), recording(capture_logs=given):
        pass
