"""Capture of ``logging`` records: selection, level, content, and isolation."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import otel_progress as progress
from otel_progress import ConfigurationError
from otel_progress.diagnostics import internal_error_counts, report_internal_error
from otel_progress.live.buffers import MAX_LOGS_PER_LEVEL, LogBuffer
from otel_progress.log_capture import MAX_ATTRIBUTES
from otel_progress.records import LogRecord
from otel_progress.testing import Recorder, recording

log = logging.getLogger("nightly.import")


@pytest.fixture(autouse=True)
def _root_level_is_debug() -> Iterator[None]:
    """Set the root logger's level, as an application must."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.DEBUG)
    yield
    root.setLevel(before)


@pytest.fixture
def captured() -> Iterator[Recorder]:
    """Record with log records of at least DEBUG."""
    with recording(capture_logs="DEBUG") as made:
        yield made


def get_messages(recorder: Recorder, operation_id: str = "o", **query: Any) -> list[str]:
    """Return the messages of an operation's records."""
    return [record.message for record in recorder.runtime.get_logs(operation_id, **query)]


def get_only_record(recorder: Recorder) -> LogRecord:
    """Return the only record of the operation."""
    (record,) = recorder.runtime.get_logs("o")
    return record


def test_record_belongs_to_the_current_level(captured: Recorder) -> None:
    """Queries select by path, severity and number."""
    log.warning("before")
    with progress.operation("o", id="o", total=1) as op:
        log.info("started with %s", "file")
        with op.level("step", "1"):
            log.error("in %d", 1)
        log.debug("near the end")
    log.warning("after")
    assert get_messages(captured) == ["started with file", "in 1", "near the end"]
    result = captured.runtime.get_logs("o")
    assert [(record.path, record.severity, record.severity_text, record.number) for record in result] == [
        ("", 20, "INFO", 1),
        ("step:1", 40, "ERROR", 2),
        ("", 10, "DEBUG", 3),
    ]
    assert {(record.logger, record.operation_id, record.operation_type) for record in result} == {
        ("nightly.import", "o", "o")
    }
    assert (get_messages(captured, path="step:1"), get_messages(captured, severity=20)) == (
        ["in 1"],
        ["started with file", "in 1"],
    )
    assert get_messages(captured, limit=1) == ["near the end"]


def test_change_set_contains_each_record_once(captured: Recorder) -> None:
    """It has the records since the last one, in order."""
    with progress.operation("o", id="o"):
        log.info("one")
        log.info("two")
        store = captured.runtime._store
        assert [record.message for record in store.collect().logs] == ["one", "two"]
        log.info("three")
        assert [record.message for record in store.collect().logs] == ["three"]
        assert store.collect().logs == []


def test_record_has_the_ids_of_the_current_span(captured: Recorder) -> None:
    """The span is that of the level or one inside it."""
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


def test_record_with_a_traceback_or_stack_has_details(captured: Recorder) -> None:
    """The details are bounded."""
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
    assert "test_record_with_a_traceback_or_stack_has_details" in str(here.details)
    assert none.details is None


def test_extra_becomes_bounded_attributes(captured: Recorder) -> None:
    """Standard attributes of logging are left out."""
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


def test_record_with_secrets_is_redacted(captured: Recorder) -> None:
    """Messages and tracebacks are redacted."""
    with progress.operation("o", id="o"):
        try:
            raise ValueError("password=hunter2")
        except ValueError:
            log.exception("Authorization: Bearer %s", "hunter2")
    record = get_only_record(captured)
    assert record.message == "Authorization: [redacted]"
    assert "hunter2" not in str(record.details)


class Raising:
    """An object whose text raises."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class Logging:
    """An object whose text logs."""

    def __str__(self) -> str:
        log.warning("from within")
        return "text"


def handle_record(level: int, text: Any, *args: Any) -> None:
    """Capture a record without passing it to handlers, which would format it as well."""
    log.filter(logging.LogRecord("nightly", level, __file__, 1, text, args, None))


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
def test_record_that_cannot_be_formatted_has_a_readable_message(
    captured: Recorder, text: Any, args: tuple[Any, ...], expected: str | None
) -> None:
    """The message is bounded, and no exception is raised."""
    with progress.operation("o", id="o"):
        handle_record(logging.INFO, text, *args)
    record = get_only_record(captured)
    assert len(record.message) <= 1024
    assert expected is None or record.message == expected
    record.message.encode()


def test_argument_that_logs_does_not_recurse(captured: Recorder) -> None:
    """The inner record is ignored."""
    with progress.operation("o", id="o"):
        handle_record(logging.INFO, "a %s", Logging())
        log.info("and on")
    assert get_messages(captured) == ["a text", "and on"]


def test_records_of_own_loggers_are_ignored(captured: Recorder) -> None:
    """A logger with a similar name is captured."""
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
    assert get_messages(captured) == ["mine"]


def test_records_below_a_level_are_ignored() -> None:
    """The captured severity and the level of the logger apply."""
    with recording(capture_logs=True) as recorder, progress.operation("o", id="o"):
        log.debug("below")
        log.info("taken")
        logging.getLogger().setLevel(logging.WARNING)
        log.info("held back")
        assert get_messages(recorder) == ["taken"]
    logging.getLogger().setLevel(logging.DEBUG)
    with recording(capture_logs=30) as recorder, progress.operation("o", id="o"):
        log.info("below")
        log.warning("taken")
        assert get_messages(recorder) == ["taken"]


def test_capture_leaves_other_handlers_and_levels_unchanged() -> None:
    """Logging is as before at the end."""
    root = logging.getLogger()
    before = (list(root.handlers), root.level, log.level, log.propagate, "filter" in vars(logging.Logger))
    seen: list[str] = []
    own = logging.Handler()
    own.addFilter(logging.Filter(log.name))  # other threads of the process may log as well, down to DEBUG
    own.emit = lambda record: seen.append(record.getMessage())  # type: ignore[method-assign]
    root.addHandler(own)
    try:
        with recording(capture_logs=True), progress.operation("o"):
            assert root.handlers == [*before[0], own]
            log.info("for all")
    finally:
        root.removeHandler(own)
    assert seen == ["for all"]
    after = (list(root.handlers), root.level, log.level, log.propagate, "filter" in vars(logging.Logger))
    assert after == before


def test_capture_is_off_by_default(recorder: Recorder) -> None:
    """The class of loggers is unchanged."""
    with progress.operation("o", id="o"):
        log.error("x")
    assert get_messages(recorder) == []
    assert "filter" not in vars(logging.Logger)


def test_record_after_the_end_of_a_level_belongs_to_the_level_above(captured: Recorder) -> None:
    """The nearest running level is used."""
    with progress.operation("o", id="o") as op:
        with op.level("step", "1") as step:
            step.complete()
            log.info("late")
        op.complete()
        log.info("too late")
    assert [(record.path, record.message) for record in captured.runtime.get_logs("o")] == [("", "late")]


def test_records_beyond_the_limits_are_dropped(captured: Recorder) -> None:
    """Limits apply per tick and per level."""
    captured.runtime._store._state.logs = LogBuffer(max_unsent=500)
    with progress.operation("o", id="o"):
        for number in range(505):
            handle_record(logging.INFO, "%d", number)
        store = captured.runtime._store
        assert len(store.collect().logs) == 500
        assert len(get_messages(captured, limit=100_000)) == MAX_LOGS_PER_LEVEL


def test_slow_record_does_not_block_other_threads(captured: Recorder) -> None:
    """The capture takes no lock."""
    inside, go_on = threading.Event(), threading.Event()

    class Slow:
        def __str__(self) -> str:
            inside.set()
            assert go_on.wait(60.0)
            return "slow"

    with progress.operation("o", id="o") as op:

        def slow() -> None:
            with op.level("step", "1"):
                handle_record(logging.INFO, "%s", Slow())

        thread = threading.Thread(target=slow)
        thread.start()
        assert inside.wait(60.0)
        log.info("quick")
        assert get_messages(captured) == ["quick"]
        go_on.set()
        thread.join()
    assert get_messages(captured) == ["quick", "slow"]


def test_failing_store_is_counted_and_raises_nothing(
    captured: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line that logs is not affected."""
    monkeypatch.setattr(captured.runtime._store, "add_log", None)
    before = internal_error_counts["logs"]
    with progress.operation("o"):
        log.info("x")
    assert internal_error_counts["logs"] == before + 1


@pytest.mark.process
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_forked_child_captures_only_its_own_levels(captured: Recorder) -> None:
    """The parent continues to capture."""
    with progress.operation("o", id="o"):
        log.info("before")
        read, write = os.pipe()
        child = os.fork()
        if not child:
            try:
                log.info("inherited")
                with progress.operation("o", id="child"):
                    log.info("in the child")
                reported = f"{get_messages(captured, 'o')} {get_messages(captured, 'child')}"
            except BaseException as error:
                reported = repr(error)
            os.write(write, reported.encode())
            os._exit(0)
        os.close(write)
        with os.fdopen(read) as pipe:
            assert pipe.read() == "[] ['in the child']"
        os.waitpid(child, 0)
        log.info("after")
    assert get_messages(captured) == ["before", "after"]


def test_record_that_a_filter_rejects_is_not_captured(captured: Recorder) -> None:
    """A filter of the logger applies to all its handlers."""
    rejecting = logging.Filter("another")
    log.addFilter(rejecting)
    try:
        with progress.operation("o", id="o"):
            log.info("rejected")
            log.removeFilter(rejecting)
            log.info("accepted")
    finally:
        log.removeFilter(rejecting)
    assert get_messages(captured) == ["accepted"]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="filters return records since Python 3.12")
def test_record_that_a_filter_replaces_is_captured_as_replaced(captured: Recorder) -> None:
    """The original record may contain what the application removes."""

    def replace(record: logging.LogRecord) -> Any:
        return logging.makeLogRecord({**vars(record), "msg": "replaced"})

    log.addFilter(replace)
    try:
        with progress.operation("o", id="o"):
            log.info("original")
    finally:
        log.removeFilter(replace)
    assert get_messages(captured) == ["replaced"]


def test_record_of_a_disabled_level_is_not_formatted(captured: Recorder) -> None:
    """The level of the logger and ``logging.disable`` apply before it."""
    logging.disable(logging.INFO)
    try:
        with progress.operation("o", id="o"):
            log.info("%s", Raising())
    finally:
        logging.disable(logging.NOTSET)
    assert get_messages(captured) == []


def test_patch_of_another_package_survives_the_shutdown() -> None:
    """The capture below it does nothing after the shutdown. A later one works."""
    seen: list[str] = []
    with recording(capture_logs=True) as recorder, progress.operation("o", id="o"):
        below = logging.Logger.filter

        def theirs(logger: logging.Logger, record: logging.LogRecord) -> Any:
            if logger.name == log.name:
                seen.append(record.getMessage())
            return below(logger, record)

        logging.Logger.filter = theirs  # type: ignore[assignment, method-assign]
        log.info("one")
        assert get_messages(recorder) == ["one"]
    try:
        assert vars(logging.Logger)["filter"] is theirs
        log.info("two")
        with recording(capture_logs=True) as recorder, progress.operation("o", id="o"):
            log.info("three")
            assert get_messages(recorder) == ["three"]
        assert vars(logging.Logger)["filter"] is theirs
    finally:
        del logging.Logger.filter
    assert seen == ["one", "two", "three"]


def test_interrupted_capture_reaches_the_caller_and_later_records_are_captured(captured: Recorder) -> None:
    """KeyboardInterrupt is not an error of the capture."""

    class Interrupted:
        def __str__(self) -> str:
            raise KeyboardInterrupt

    with progress.operation("o", id="o"):
        with pytest.raises(KeyboardInterrupt):
            handle_record(logging.INFO, "%s", Interrupted())
        log.info("after")
    assert get_messages(captured) == ["after"]


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
def test_capture_logs_setting_accepts_names_and_numbers(given: Any, level: Any) -> None:
    """True selects INFO."""
    with recording(capture_logs=given) as recorder:
        result = recorder.runtime.settings.capture_logs
        assert (result, type(result)) == (level, type(level))


@pytest.mark.parametrize("given", ["loud", 0, 101, -1, 2.5, "", "1000", "INF0"])
def test_invalid_capture_logs_setting_is_rejected(given: Any) -> None:
    """The error names the accepted levels."""
    with pytest.raises(ConfigurationError, match=r"capture_logs.*DEBUG, INFO"), recording(capture_logs=given):
        pass
