"""Progress of loops that use tqdm: every bar is a level.

Without a current level it is an operation of type ``tqdm``.
:func:`instrument` records the bars of all classes. The classes of :mod:`otel_progress.tqdm` call
the same functions, so they record their bars without it.
"""

from __future__ import annotations

import functools
import inspect
import sys
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from types import GeneratorType
from typing import Any, Final

from otel_progress.attribute_patch import AttributePatch
from otel_progress.diagnostics import report_internal_error
from otel_progress.integrations import bars
from otel_progress.integrations.bars import BarFigures, BarRecord, BarRecorder, parse_postfix
from otel_progress.interrupts import is_interrupt
from otel_progress.live.counter import Counter

try:
    from tqdm.std import tqdm as _tqdm  # type: ignore[import-untyped]
except ImportError as error:  # pragma: no cover
    msg = "Invalid environment: expected the package tqdm. Install it with `pip install tqdm`."
    raise ImportError(msg) from error


_NO_EXCEPTION: Final = (GeneratorExit, StopIteration, StopAsyncIteration)
"""Exceptions that end an iteration without an error."""


_ONE: Final = 1


_ASYNC_LOOP: Final = "async"
"""Iterator of a bar in an ``async for`` loop. It is the bar, which must not be referenced."""


class TqdmRecord(BarRecord):
    """A bar of tqdm."""

    __slots__ = (
        "arguments",
        "counter",
        "entered",
        "first_n",
        "is_collected",
        "iterator",
        "postfix",
        "reference",
    )

    def __init__(self, bar: Any, arguments: dict[str, Any]) -> None:
        super().__init__()
        self.reference = _BarReference(bar, _collected.append)
        self.reference.key = id(bar)
        self.arguments = arguments
        """Arguments of a disabled bar, which does not store them."""
        self.counter = Counter() if bar.disable else None
        """Counts the units of a disabled bar."""
        self.iterator: Any = None
        """Weak reference to the generator of the loop over the bar, the iterator itself, or
        ``_ASYNC_LOOP``.
        """
        self.entered = 0
        """Number of active ``with`` blocks."""
        self.postfix: object = None
        self.is_collected = False
        self.first_n = _get(bar, {}, "n") if bar.disable else None
        """Attribute ``n`` of a disabled bar at its start. Only the program changes it."""
        unit = _get(bar, arguments, "unit")
        self.unit = None if unit == "it" else unit
        initial = _get(bar, arguments, "initial") or 0
        self.resumed = initial
        if self.counter is not None and isinstance(initial, (int, float)) and initial > 0:
            self.counter.set(initial)

    @property
    def is_iterated(self) -> bool:
        """True while the caller runs in the loop over the bar, or in its ``with`` block."""
        if self.is_ended:
            return False
        if self.entered > 0:
            return True
        iterator = self.iterator
        if not isinstance(iterator, weakref.ref):
            return iterator is not None
        generator = iterator()
        return generator is not None and inspect.getgeneratorstate(generator) in {
            inspect.GEN_SUSPENDED,
            inspect.GEN_RUNNING,
        }

    def read(self) -> BarFigures | None:
        """Return the state of the bar, or None after it was collected."""
        bar = self.reference()
        if bar is None:
            return None
        postfix, metadata = _get(bar, {}, "postfix"), None
        if postfix is not self.postfix:
            self.postfix, metadata = postfix, parse_postfix(postfix)
        current = _get(bar, {}, "n")
        if self.counter is not None:
            # Why: a disabled bar does not count. A program that sets ``n`` counts by itself.
            current = self.counter.value() if current == self.first_n else current
        total, description = _get(bar, {}, "total"), _get(bar, self.arguments, "desc")
        return BarFigures(current, total, description, metadata)


class _BarReference(weakref.ref[Any]):
    """Weak reference to a bar.

    Its callback is a C function. A signal handler cannot interrupt it, so no exception is lost.
    """

    __slots__ = ("key",)

    key: int


_collected: Final[deque[Any]] = deque()
"""References to bars that were collected since the last poll and the last new bar."""


class _TqdmRecorder(BarRecorder):
    """Recorder that also drops collected bars."""

    def poll(self) -> None:
        """Read all open bars."""
        _drop_collected()
        super().poll()


def _drop_collected() -> None:
    """End the levels of collected bars."""
    while _collected:
        try:
            reference = _collected.popleft()
        except IndexError:  # another thread drops it
            return
        record = _records.get(reference.key)
        if record is not None and record.reference is reference:
            _records.pop(reference.key, None)
            _end(record, None)


_recorder: Final = _TqdmRecorder("tqdm", ("tqdm",))


_records: Final[dict[int, TqdmRecord]] = {}
"""Open bars by the id of the object. A bar has no place for a record, and compares by position."""


_POSITIONS: Final = {
    name: index - 1 for index, name in enumerate(inspect.signature(_tqdm.__init__).parameters)
}
"""Positions of the arguments of tqdm."""


def _get(bar: Any, arguments: dict[str, Any], name: str) -> Any:
    """Return an attribute of a bar, or the argument if the bar does not store it.

    Return None if a property of a subclass raises.
    """
    try:
        return getattr(bar, name)
    except AttributeError:
        return arguments.get(name)
    except Exception as error:
        if is_interrupt(error):
            raise
        return None


def _find_record(bar: Any) -> TqdmRecord | None:
    record = _records.get(id(bar))
    if record is None:
        return None
    # Why: a collected bar may have had the same id. Its reference is dead while it is collected.
    owner = record.reference()
    return record if owner is None or owner is bar else None


def _end(record: TqdmRecord, error: BaseException | None, *, is_early: bool = False) -> None:
    _recorder.end(record, error, is_early=is_early)
    record.iterator = None
    record.arguments = {}


def _report(error: Exception) -> None:
    if is_interrupt(error):
        raise error
    report_internal_error("integration", "A bar of tqdm could not be recorded.", error=error)


# --- functions that the patches and the drop-in classes call -------------------------------------


def record_bar(bar: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
    """Record a new bar. Do nothing if it is recorded."""
    try:
        _drop_collected()
        if _find_record(bar) is not None:
            return
        stored = collect_arguments(("desc", "unit", "initial"), arguments, keywords) if bar.disable else {}
        record = TqdmRecord(bar, stored)
        if not _recorder.open(record):
            return
        _records[id(bar)] = record
        if record.counter is not None:
            _count_updates(bar, record)
    except Exception as error:
        _report(error)


def collect_arguments(
    names: tuple[str, ...], arguments: tuple[Any, ...], keywords: dict[str, Any]
) -> dict[str, Any]:
    """Return those of the named arguments of a bar that were passed."""
    found: dict[str, Any] = {}
    for name in names:
        position = _POSITIONS.get(name)
        if name in keywords:
            found[name] = keywords[name]
        elif position is not None and position < len(arguments):
            found[name] = arguments[position]
    return found


def _count_updates(bar: Any, record: TqdmRecord) -> None:
    """Count the calls of ``update`` of a disabled bar, which do nothing."""
    reference, counter, update = weakref.ref(bar), record.counter, type(bar).update

    if counter is None:
        return
    count_one = counter.count_one

    @functools.wraps(update)
    def count_update(n: Any = 1) -> Any:
        if n is _ONE:
            count_one()
        else:
            _add(counter, n)
        owner = reference()
        return None if owner is None else update(owner, n)

    def get_state() -> Any:
        owner = reference()
        default = getattr(type(owner), "__getstate__", None)
        state = dict(vars(owner)) if default is None else default(owner)
        # Why: a copy is not recorded, and a closure cannot be pickled.
        return (_remove_methods(state[0]), *state[1:]) if isinstance(state, tuple) else _remove_methods(state)

    bar.update, bar.__getstate__ = count_update, get_state


def _remove_methods(state: Any) -> Any:
    """Return the attributes of a disabled bar without the methods that count."""
    if not isinstance(state, dict):
        return state
    return {name: value for name, value in state.items() if name not in {"update", "__getstate__"}}


def _add(counter: Any, n: Any) -> None:
    """Count other units than one. A negative number is subtracted. Others are ignored."""
    if type(n) is int and 0 <= n < 2**63:
        counter.add(n)
        return
    try:
        step = n if isinstance(n, (int, float)) else float(n)
    except Exception as error:  # A foreign __float__ may raise any exception.
        if is_interrupt(error):
            raise
        return
    if abs(step) < 2**63:
        counter.set(max(0, counter.value() + step))


def iterate_bar(bar: Any, iterate: Callable[[Any], Iterator[Any]]) -> Iterator[Any]:
    """Return the iterator of a bar, whose loop becomes the innermost one.

    ``iterate`` is the method of tqdm. Elements of a disabled bar are counted.
    """
    record = _find_record(bar)
    if record is None:
        return iterate(bar)
    if record.counter is not None and bar.disable:
        iterator: Iterator[Any] = _iterate_disabled(bar, record)
    else:
        iterator = iterate(bar)
    try:
        record.iterator = weakref.ref(iterator) if isinstance(iterator, GeneratorType) else iterator
        bars.enter_bar(record)
    except Exception as error:
        _report(error)
    return iterator


def _iterate_disabled(bar: Any, record: TqdmRecord) -> Iterator[Any]:
    """Yield the elements of a disabled bar, and count them in C."""
    counter = record.counter or Counter()
    elements = iter(bar.iterable)
    # Why: an element is done when the loop requests the next one.
    counter.shift(-1)
    try:
        yield from counter.count(elements)
    except BaseException as error:
        if not isinstance(error, GeneratorExit):
            counter.shift(1)
        end_bar(bar, error)
        raise
    counter.shift(1)
    end_bar(bar, None)


def enter_async_loop(bar: Any) -> None:
    """Make the ``async for`` loop over a bar the innermost one of its task."""
    record = _find_record(bar)
    if record is not None:
        record.iterator = _ASYNC_LOOP
        bars.enter_bar(record)


def enter_bar(bar: Any) -> None:
    """Record the start of a ``with`` block."""
    record = _find_record(bar)
    if record is not None:
        record.entered += 1
        bars.enter_bar(record)


def exit_bar(bar: Any, error: BaseException | None) -> None:
    """Record the end of a ``with`` block."""
    record = _find_record(bar)
    if record is not None:
        record.entered -= 1
        if record.entered <= 0:
            end_bar(bar, error)


def end_bar(bar: Any, error: BaseException | None) -> None:
    """Record the end of a bar. ``error`` is the exception that is visible."""
    record = _find_record(bar)
    if record is None:
        return
    try:
        if record.is_collected:
            error = None
        if isinstance(error, GeneratorExit) and record.entered > 0:
            return  # the end of the ``with`` block follows, with the exception that left the loop
        _records.pop(id(bar), None)
        is_early = isinstance(error, GeneratorExit)
        _end(record, None if isinstance(error, _NO_EXCEPTION) else error, is_early=is_early)
    except Exception as failure:
        _report(failure)


def collect_bar(bar: Any) -> None:
    """Record that the garbage collector closes a bar.

    A visible exception is not one of the bar.
    """
    record = _find_record(bar)
    if record is not None:
        record.is_collected = True


def reset_bar(bar: Any) -> None:
    """Record that a bar starts again from 0."""
    record = _find_record(bar)
    if record is not None and record.counter is not None:
        record.counter.set(0)
        record.first_n = _get(bar, {}, "n")


# --- zero code -----------------------------------------------------------------------------------


def _wrap_init(stored: Any) -> Callable[..., None]:
    # Why: tqdm stores a partialmethod, which is not callable.
    original = stored.__get__(None, _tqdm)

    @functools.wraps(original)
    def init(self: Any, *arguments: Any, **keywords: Any) -> None:
        original(self, *arguments, **keywords)
        if _patches[0].is_active:
            _patch_async_loops(self)
            record_bar(self, arguments, keywords)

    return init


def _wrap_iter(original: Callable[[Any], Iterator[Any]]) -> Callable[[Any], Iterator[Any]]:
    @functools.wraps(original)
    def iterate(self: Any) -> Iterator[Any]:
        return iterate_bar(self, original)

    return iterate


def _wrap_aiter(original: Callable[[Any], Any]) -> Callable[[Any], Any]:
    @functools.wraps(original)
    def iterate(self: Any) -> Any:
        enter_async_loop(self)
        return original(self)

    return iterate


def _wrap_enter(original: Callable[[Any], Any]) -> Callable[[Any], Any]:
    @functools.wraps(original)
    def enter(self: Any) -> Any:
        enter_bar(self)
        return original(self)

    return enter


def _wrap_exit(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def leave(self: Any, kind: Any, error: Any, traceback: Any) -> Any:
        try:
            return original(self, kind, error, traceback)
        finally:
            exit_bar(self, error)

    return leave


def _wrap_close(original: Callable[[Any], None]) -> Callable[[Any], None]:
    @functools.wraps(original)
    def close(self: Any) -> None:
        error = sys.exc_info()[1]
        try:
            original(self)
        finally:
            end_bar(self, error)

    return close


def _wrap_del(original: Callable[[Any], None]) -> Callable[[Any], None]:
    @functools.wraps(original)
    def delete(self: Any) -> None:
        collect_bar(self)
        original(self)

    return delete


def _wrap_reset(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def reset(self: Any, total: Any = None) -> None:
        original(self, total)
        reset_bar(self)

    return reset


_WRAPPERS: Final[dict[str, Callable[[Any], Any]]] = {
    "__init__": _wrap_init,
    "__iter__": _wrap_iter,
    "__enter__": _wrap_enter,
    "__exit__": _wrap_exit,
    "close": _wrap_close,
    "__del__": _wrap_del,
    "reset": _wrap_reset,
}


_patches: Final = [AttributePatch(_tqdm, name) for name in _WRAPPERS]


_async_patches: Final[list[AttributePatch]] = []
"""Patch of the class for ``async for`` loops. Empty before the first bar of that class."""


def _patch_async_loops(bar: Any) -> None:
    """Record ``async for`` loops if a bar supports them.

    They call no method of the base class.
    """
    if not hasattr(type(bar), "__aiter__") or any(patch.is_active for patch in _async_patches):
        return
    # Why here: only programs with such bars import asyncio.
    owner = getattr(sys.modules.get("tqdm.asyncio"), "tqdm_asyncio", None)
    if owner is not None:
        if not _async_patches:
            _async_patches.append(AttributePatch(owner, "__aiter__"))
        _async_patches[0].apply(_wrap_aiter)


def instrument() -> None:
    """Record the bars of all classes of tqdm, also those that are open. Idempotent."""
    if _patches[0].is_active:
        return
    for patch, wrap in zip(_patches, _WRAPPERS.values(), strict=True):
        patch.apply(wrap)
    for bar in list(getattr(_tqdm, "_instances", ())):
        _patch_async_loops(bar)
        record_bar(bar, (), {})


def uninstrument() -> None:
    """Stop recording new bars. Open bars are recorded until they end. Idempotent."""
    for patch in (*_patches, *_async_patches):
        patch.remove()
