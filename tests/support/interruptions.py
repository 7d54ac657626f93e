"""Calls and exceptions between two lines of the package, as of handlers."""

from __future__ import annotations

import faulthandler
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import otel_progress

PACKAGE = str(Path(otel_progress.__file__).parent)
DEADLOCK_S = 300.0
"""Time after which a deadlock is assumed. The process then prints all stacks and exits."""


@contextmanager
def fail_on_deadlock() -> Iterator[None]:
    """Print all stacks and exit when the block takes longer than ``DEADLOCK_S``."""
    faulthandler.dump_traceback_later(DEADLOCK_S, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


class Interrupter:
    """Calls ``act`` at the first execution of each line, or of each bytecode.

    ``files`` limits it to files of these names.
    """

    def __init__(
        self, act: Callable[[], object], *, event: str = "line", files: frozenset[str] = frozenset()
    ) -> None:
        self._act = act
        self._event = event
        self._files = files
        self._seen: Counter[tuple[CodeType, int]] = Counter()
        self._is_acting = False
        self.errors: list[BaseException] = []
        """Exceptions of ``act``, which the interrupted code does not receive."""
        self.calls = 0

    def run(self, work: Callable[[], object]) -> None:
        """Run ``work`` and interrupt it."""
        before = sys.gettrace()
        sys.settrace(self._trace)
        try:
            work()
        finally:
            sys.settrace(before)

    def _trace(self, frame: FrameType, event: str, argument: object) -> Any:  # noqa: ARG002
        name = frame.f_code.co_filename
        if self._is_acting or not name.startswith(PACKAGE):
            return None
        if self._files and Path(name).name not in self._files:
            return None
        frame.f_trace_opcodes = self._event == "opcode"
        return self._trace_frame

    def _trace_frame(self, frame: FrameType, event: str, argument: object) -> Any:  # noqa: ARG002
        if event == self._event and not self._is_acting:
            place = frame.f_lineno if event == "line" else frame.f_lasti
            self._seen[frame.f_code, place] += 1
            if self._seen[frame.f_code, place] == 1:
                self._interrupt()
        return self._trace_frame

    def _interrupt(self) -> None:
        self._is_acting = True
        try:
            self.calls += 1
            self._act()
        except BaseException as error:
            self.errors.append(error)
        finally:
            self._is_acting = False


class Raiser(Interrupter):
    """Raises ``error`` at the line or bytecode with the number ``target``.

    The first is 1.
    """

    def __init__(
        self,
        target: int,
        error: BaseException,
        *,
        event: str = "line",
        files: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__(lambda: None, event=event, files=files)
        self._target = target
        self._error = error
        self.has_raised = False
        self.place = ""

    def _trace(self, frame: FrameType, event: str, argument: object) -> Any:
        return None if self.has_raised else super()._trace(frame, event, argument)

    def _trace_frame(self, frame: FrameType, event: str, argument: object) -> Any:
        super()._trace_frame(frame, event, argument)
        if self.calls == self._target and not self.has_raised:
            self.has_raised = True
            self.place = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
            raise self._error
        return self._trace_frame
