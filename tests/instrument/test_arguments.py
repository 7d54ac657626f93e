"""Tests of invalid values: ignored and counted, or an error in strict mode."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

import otel_progress as progress
from otel_progress import Failure, Level, semconv
from otel_progress.errors import RejectedTypeError, RejectedValueError
from otel_progress.testing import Recorder
from otel_progress.text import truncate

VALUES: list[tuple[Any, str]] = [
    (-1, "negative"),
    (-0.5, "negative"),
    (-math.inf, "negative"),
    (math.nan, "not_finite"),
    (math.inf, "not_finite"),
    (2**63, "not_finite"),
    ("3", "type"),
    (b"3", "type"),
    (True, "type"),
    ([1], "type"),
    (object(), "type"),
    (1j, "type"),
]
USES: dict[str, Callable[[Level, Any], object]] = {
    "increment": lambda op, value: op.increment(value),
    "increment and message": lambda op, value: op.increment(value, message="m"),
    "current": lambda op, value: op.update(current=value),
    "total": lambda op, value: op.update(total=value),
    "set_total": lambda op, value: op.set_total(value),
    "level total": lambda op, value: op.level("x", total=value).start().complete(),
    "level weight": lambda op, value: op.level("x", weight=value).start().complete(),
    "operation total": lambda op, value: progress.operation("x", total=value).start().complete(),
    "track total": lambda op, value: list(op.track([1], total=value)),
    "deadline": lambda op, value: progress.operation("x", deadline=value).start().complete(),
}


def get_warnings(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Return the warnings about lines of this file.

    The handler also receives warnings of threads that earlier tests left running.
    """
    call_site = f"({count_rejections.__code__.co_filename}:"
    records = [record for record in caplog.records if record.name == "otel_progress"]
    return [record for record in records if call_site in record.getMessage()]


def count_rejections(recorder: Recorder) -> dict[str, int]:
    """Return the number of rejected values by reason."""
    counters = recorder.runtime._totals.read().counters.get(semconv.UPDATES_REJECTED, {})
    return {reason: int(count) for (reason,), count in counters.items()}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
@pytest.mark.parametrize(("value", "reason"), VALUES, ids=[repr(value)[:12] for value, _ in VALUES])
def test_level_with_invalid_number_ignores_it(
    lenient: Recorder,
    caplog: pytest.LogCaptureFixture,
    use: Callable[[Level, Any], object],
    value: Any,
    reason: str,
) -> None:
    """The last valid value stays. A warning is logged once, and each value counts."""
    with progress.operation("o", total=10) as op:
        op.update(current=3)
        for _ in range(3):
            use(op, value)
        snapshot = op.snapshot()
    assert (snapshot.current - len(snapshot.metadata), snapshot.total) in ((3, 10), (6, 10))
    assert count_rejections(lenient) == {reason: 3}
    (warning,) = get_warnings(caplog)
    assert warning.levelno == logging.WARNING


@pytest.mark.parametrize("use", USES.values(), ids=USES)
@pytest.mark.parametrize(("value", "reason"), VALUES, ids=[repr(value)[:12] for value, _ in VALUES])
def test_strict_level_with_invalid_number_raises(
    recorder: Recorder, use: Callable[[Level, Any], object], value: Any, reason: str
) -> None:
    """The TypeError or ValueError has the invalid and the expected value."""
    expected = RejectedTypeError if reason == "type" else RejectedValueError
    with progress.operation("o", total=10) as op:
        op.update(current=3)
        with pytest.raises(expected, match=r"^Invalid \w.* (at least 0|0 or more seconds|below 2)") as error:
            use(op, value)
        assert isinstance(error.value, TypeError if reason == "type" else ValueError)
        snapshot = op.snapshot()
    assert (snapshot.current, snapshot.total) == (3, 10)
    assert count_rejections(recorder) == {reason: 1}


class Index:
    """An integer of another library."""

    def __index__(self) -> int:
        return 4


@pytest.mark.parametrize("value", [4, 4.0, Index(), Fraction(4), __import__("decimal").Decimal(4)])
@pytest.mark.usefixtures("recorder")
def test_level_with_number_of_other_library_accepts_it(value: Any) -> None:
    """Numbers of other types are converted to int or float."""
    with progress.operation("o", total=value) as op:
        op.increment(value)
        assert op.snapshot().ratio == 1.0
        assert type(op.snapshot().current) in (int, float)


@pytest.mark.parametrize(
    ("use", "reason", "text"),
    [
        (
            lambda op: op.update(current=11),
            "beyond_total",
            "Invalid current 11: expected at most the total 10. Raise the total with set_total()",
        ),
        (lambda op: op.increment(11), "beyond_total", "expected at most the total 10"),
        (lambda op: [op.increment() for _ in range(11)], "beyond_total", "expected at most the total 10"),
        (
            lambda op: op.item("a", outcome="lost"),
            "outcome",
            "Invalid outcome 'lost': expected 'completed', 'failed' or 'skipped'",
        ),
        (
            lambda op: op.level("x", stages={"a": -1}).start(),
            "stages",
            "expected a finite number of at least 0",
        ),
        (lambda op: op.level("x", stages=5).start(), "stages", "Invalid stages 5"),
        (lambda op: op.stage(5).start(), "stage", "expected a text"),
        (
            lambda op: op.update(**{f"k{n}": n for n in range(129)}),
            "metadata",
            "Invalid metadata of 129 keys: expected at most 128",
        ),
    ],
)
def test_strict_level_with_other_invalid_value_raises(
    recorder: Recorder, use: Callable[[Level], object], reason: str, text: str
) -> None:
    """The message has the expected value."""
    with (
        progress.operation("o", total=10) as op,
        pytest.raises((RejectedValueError, RejectedTypeError), match=text),
    ):
        use(op)
    assert count_rejections(recorder) == {reason: 1}


def test_level_counted_beyond_total_stays_at_total(
    lenient: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    """There is one warning per level. A ``current`` above the total is ignored."""
    with progress.operation("o", id="o", total=10) as op:
        for _ in range(15):
            op.increment()
        assert (op.snapshot().current, op.snapshot().ratio) == (10, 1.0)
        op.set_total(20)
        assert op.snapshot().current == 15
        op.update(current=21)
        assert op.snapshot().current == 15
    assert count_rejections(lenient) == {"beyond_total": 2}
    assert len(get_warnings(caplog)) == 2


def find_line(marker: str) -> str:
    """Return the place of the line of this file with a comment, as warnings write it."""
    path = count_rejections.__code__.co_filename
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    (number,) = [number for number, line in enumerate(lines, 1) if line.endswith(f"  # {marker}")]
    return f"{path}:{number}"


def test_warning_about_count_beyond_total_names_the_line_that_started_the_level(
    lenient: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    """Ticks, readers and other threads find the count. There is one warning per line."""
    with progress.operation("o", id="o", total=1) as op:  # start of the operation
        op.increment()
        op.increment()
        run_in_thread(lenient.tick)
        for _ in range(3):
            level = op.level("x", total=1).start()  # start of the levels
            level.increment(2)
            run_in_thread(level.complete)
        later = op.level("y").start()
        later.set_total(1)  # total of the last level
        later.increment(2)
        run_in_thread(lambda: lenient.operation("o"))
        later.complete()
    assert count_rejections(lenient) == {"beyond_total": 5}
    warnings = [record.getMessage() for record in get_warnings(caplog)]
    for warning, marker in zip(
        warnings, ("start of the operation", "start of the levels", "total of the last level"), strict=True
    ):
        assert f"({find_line(marker)};" in warning


def run_in_thread(function: Callable[[], object]) -> None:
    """Call a function in another thread and wait for its end."""
    thread = threading.Thread(target=function)
    thread.start()
    thread.join(60.0)
    assert not thread.is_alive()


def test_warning_about_track_beyond_total_names_the_loop(
    lenient: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    """The loop is the line that starts the level. It is counted in C."""
    for _ in range(2):
        for _ in progress.track(range(3), total=1):  # loop
            run_in_thread(lenient.tick)
    (warning,) = get_warnings(caplog)
    assert f"({find_line('loop')};" in warning.getMessage()


@pytest.mark.usefixtures("recorder")
def test_strict_error_about_count_beyond_total_names_the_caller() -> None:
    """Levels and ``track`` loops name the line that counts."""
    with progress.operation("o", total=1) as op:
        op.increment()
        with pytest.raises(RejectedValueError) as caught:
            op.increment()  # strict increment
        assert f"The caller is {find_line('strict increment')}." in str(caught.value)
        with pytest.raises(RejectedValueError) as caught:
            for _ in op.track(range(3), total=1):  # strict loop
                pass
        assert f"The caller is {find_line('strict loop')}." in str(caught.value)


def test_warning_without_a_call_site_names_none(lenient: Recorder, caplog: pytest.LogCaptureFixture) -> None:
    """No call caused it, so no line of a thread or of this package is named."""
    backend = lenient.runtime._recording
    for _ in range(2):
        backend.report_late_rejection("waiting", "Ended levels were left out.", None)
    messages = [record.getMessage() for record in caplog.records if record.name == "otel_progress"]
    assert messages == ["Ended levels were left out. (further ones are only counted)"]


@pytest.mark.parametrize("step", [0.1, 0.3, 1 / 3, 1e-9])
def test_sum_of_fractions_does_not_exceed_total(recorder: Recorder, step: float) -> None:
    """Rounding of binary fractions does not cause a rejection."""
    with progress.operation("o", total=step * 30) as op:
        for _ in range(30):
            op.increment(step)
        assert op.snapshot().ratio == pytest.approx(1.0)
        assert op.snapshot().current <= step * 30
    with progress.operation("o", total=2.3) as op:
        op.increment()
        for current in (0.7, 1.9, 2.3):
            op.update(current=current)
            assert op.snapshot().current == current
    recorder.tick()
    assert count_rejections(recorder) == {}


@pytest.mark.parametrize(
    "use",
    [
        lambda op: op.increment(),
        lambda op: op.increment(2, message="m"),
        lambda op: op.update(current=1),
        lambda op: op.update(message="m"),
        lambda op: op.set_total(5),
        lambda op: op.item("a"),
        lambda op: op.complete(),
        lambda op: op.fail("x"),
        lambda op: op.level("x").start(),
        lambda op: op.stage("x").start(),
        lambda op: list(op.track([1])),
    ],
)
@pytest.mark.parametrize("parent", [False, True])
def test_level_after_its_end_rejects_changes(
    lenient: Recorder, use: Callable[[Level], object], parent: bool
) -> None:
    """A change after the end of the level or its operation is counted and ignored."""
    op = progress.operation("o", total=10).start()
    level = op.level("a", total=10).start() if parent else op
    level.increment(3)
    op.complete()
    before = [op.snapshot(), level.snapshot()]
    use(level)
    lenient.tick()
    assert [op.snapshot(), level.snapshot()] == before
    assert sum(count_rejections(lenient).values()) == 1
    with pytest.raises(ValueError, match=r"ended|stage"):  # noqa: PT012 - the block is what is tested
        lenient.runtime._recording.strict = True
        use(level)


def test_rejections_are_logged_once_per_call_site(
    lenient: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    """The same line is logged once, another line is logged again, and all are counted."""
    with progress.operation("o") as op:
        for _ in range(50):
            op.update(current=-1)
        op.update(current=-1)
        threads = [threading.Thread(target=lambda: op.update(current=-1)) for _ in range(4)]
        for thread in threads:
            thread.start()
            thread.join()
    assert count_rejections(lenient) == {"negative": 55}
    assert len(get_warnings(caplog)) == 3


@pytest.mark.usefixtures("lenient")
def test_total_below_current_clamps_it(caplog: pytest.LogCaptureFixture) -> None:
    """A total below the counted units clamps them, with a warning, until it is raised."""
    with progress.operation("o", total=10) as op:
        op.increment(5)
        op.set_total(4)
        assert (op.snapshot().current, op.snapshot().total, op.snapshot().ratio) == (4, 4, 1.0)
        op.set_total(20)
        assert (op.snapshot().current, op.snapshot().ratio) == (5, 0.25)
    assert len(get_warnings(caplog)) == 1


class OddError(Exception):
    """An exception of this module."""


TEXTS = [
    "",
    "ü€😀",
    "\ud800",
    "\x00\x1b[31m",
    "a\nb",
    "x" * 10_000_000,
    "\ud800" * 3_000,
    "a/b:c%d",
    "‮evil",
    " ",
]


@pytest.mark.parametrize("text", TEXTS, ids=[ascii(text[:6]) for text in TEXTS])
def test_operation_with_any_text_is_bounded_and_valid(recorder: Recorder, text: str) -> None:
    """Ids, names and texts of any length become valid UTF-8 within their limits."""
    id_ = text or "given"
    with progress.operation(text, text, id=id_, unit=text, **{text or "k": text}) as op:
        op.update(message=text)
        op.item(text, outcome="failed", error=text, **{text or "k": text})
        with pytest.raises(OddError), op.level(text, id_, text, unit=text) as level:
            raise OddError(text)
        op.level(text, "other").start().fail(Failure(text, text, text))
    operation = recorder.operation(op.operation_id)
    (event,) = recorder.runtime.get_events(op.operation_id)
    bounds = [(operation.operation_id, 256), (operation.operation_type, 256), (operation.name, 256)]
    bounds += [(operation.message or "", 1024), (event.name or "", 1024)]
    for snapshot in (operation.root, *operation.levels):
        assert operation.get_level(snapshot.path) is snapshot
        bounds += [
            (snapshot.info.id, 256),
            (snapshot.info.name, 256),
            (snapshot.info.type, 256),
            (snapshot.info.unit or "", 64),
        ]
        bounds += [(str(value), 1024) for value in snapshot.metadata.values()]
        if snapshot.error is not None:
            bounds += [
                (snapshot.error.type, 256),
                (snapshot.error.message, 1024),
                (snapshot.error.details or "", 8192),
            ]
    for value, bound in bounds:
        assert len(value) <= bound
        value.encode()
    for path in [snapshot.path for snapshot in operation.levels]:
        path.encode()
    assert operation.get_level(level.path) is not None
    assert len({snapshot.path for snapshot in operation.levels}) == 2


def test_levels_with_long_ids_stay_different(recorder: Recorder) -> None:
    """Ids that differ only after 10,000 characters are two levels."""
    with progress.operation("o", id="o") as op:
        for last in "ab":
            op.level("x", "y" * 10_000 + last).start().complete()
    assert len({level.path for level in recorder.operation("o").levels}) == 2


@pytest.mark.parametrize("limit", [1, 7, 256, 1024])
@pytest.mark.parametrize("text", ["\ud800" * 2000, "a\udfff" * 2000, "ü" * 2000])
def test_truncate_with_surrogates_keeps_the_limit(text: str, limit: int) -> None:
    """The replacements of surrogates are longer, and are truncated too."""
    assert len(truncate(text, limit)) <= limit


class Scalar:
    """A scalar of a numerical library."""

    def __init__(self, value: object) -> None:
        self.value = value

    def item(self) -> object:
        """Return the plain value, or raise as an array with several elements does."""
        if isinstance(self.value, Exception):
            raise self.value
        return self.value

    def __str__(self) -> str:
        return "a scalar"


@pytest.mark.usefixtures("recorder")
def test_metadata_with_numpy_like_scalar_is_converted() -> None:
    """A scalar with ``item()`` is replaced by its plain value."""
    with progress.operation(
        "o", a=Scalar(3), b=Scalar(0.5), c=Scalar(ValueError("many")), d=Scalar([1])
    ) as op:
        assert dict(op.snapshot().metadata) == {"a": 3, "b": 0.5, "c": "a scalar", "d": "a scalar"}


def test_metadata_is_converted_to_attribute_types(recorder: Recorder) -> None:
    """Attribute types are kept, lists become tuples, and other values become text."""
    values: dict[str, Any] = {
        "text": "x" * 5000,
        "yes": True,
        "whole": 3,
        "huge": 10**5000,
        "part": 0.5,
        "nan": math.nan,
        "list": [1, 2, 3],
        "mixed": [1, "a", None],
        "empty": [],
        "many": list(range(1000)),
        "nothing": None,
        "color": progress.Outcome.FAILED,
        "where": {"a": 1},
    }
    with progress.operation("o", **values) as op:
        metadata = dict(op.snapshot().metadata)
    assert len(str(metadata.pop("text"))) == 1024
    assert len(str(metadata.pop("huge"))) <= 64
    assert len(metadata.pop("many")) == 64  # type: ignore[arg-type]
    assert metadata == {
        "yes": True,
        "whole": 3,
        "part": 0.5,
        "nan": "nan",
        "list": (1, 2, 3),
        "mixed": ("1", "a", "None"),
        "empty": (),
        "nothing": "None",
        "color": "failed",
        "where": "{'a': 1}",
    }
    assert recorder.spans()[0].attributes["progress.metadata.list"] == (1, 2, 3)


class EmptyText:
    """An object whose text is empty."""

    def __str__(self) -> str:
        return ""


@pytest.mark.parametrize("id_", ["", EmptyText()])
def test_empty_id_is_replaced_by_a_generated_one(
    lenient: Recorder, caplog: pytest.LogCaptureFixture, id_: object
) -> None:
    """Readers cannot address it. In strict mode it raises."""
    with progress.operation("job", id=id_) as op, op.level("part", id=id_) as part:  # type: ignore[arg-type]
        assert op.operation_id
        assert part.path == "part:1"
    assert lenient.runtime.reader.get("") is None
    assert count_rejections(lenient) == {"id": 2}
    assert "expected at least one character. A generated id is used." in get_warnings(caplog)[0].getMessage()
    lenient.runtime._recording.strict = True
    with pytest.raises(ValueError, match="Invalid id"):
        progress.operation("job", id=id_).start()  # type: ignore[arg-type]
