"""Hooks that run before the process leaves, on each path that Python can observe.

| path | hook |
| --- | --- |
| end of the interpreter | ``atexit`` |
| end of an isolated interpreter | ``threading._register_atexit``, before its threads are joined |
| child of multiprocessing that returns from its task | ``multiprocessing.util.Finalize`` |
| ``os._exit``, also of children after their threads have ended | a replacement of ``os._exit`` |
| ``os.execv`` and all functions that call it | replacements of ``os.execv`` and ``os.execve`` |

The interpreter joins non-daemon threads before the first hook runs, but multiprocessing runs
finalizers before that. SIGKILL, the default action of a signal, and a crash run no hook.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from typing import Any, Final

from otel_progress.attribute_patch import AttributePatch
from otel_progress.processes import allows_daemon_threads
from otel_progress.runtime.parent_process import is_multiprocessing_child
from otel_progress.runtime.threads import run_with_limit

EXIT_S: Final = 1.0
"""Maximum time that ``os._exit`` and ``os.execv`` are delayed, in seconds. Changes that are not
written by then are lost.
"""


_UTIL_MODULE: Final = "multiprocessing.util"


_EXIT_PRIORITY: Final = -1_000
"""Priority of the finalizer of multiprocessing: after those of other code."""


original_exit: Final[Callable[[int], Any]] = os._exit
"""``os._exit`` without the replacement."""


class ExitHooks:
    """Hooks of one runtime.

    ``shut_down`` ends the runtime. ``leave_child`` does that in a child of multiprocessing, which
    runs no ``atexit``. ``flush`` writes all changes and may be followed by others. ``finish``
    cancels the running operations and writes all changes within a time limit in seconds.
    ``has_unsent`` returns False if nothing needs to be written.
    """

    def __init__(
        self,
        *,
        shut_down: Callable[[], object],
        leave_child: Callable[[], object],
        flush: Callable[[], object],
        finish: Callable[[float], object],
        has_unsent: Callable[[], bool],
    ) -> None:
        self._shut_down = shut_down
        self._leave_child = leave_child
        self._flush = flush
        self._finish = finish
        self._has_unsent = has_unsent
        self._patches: list[AttributePatch] = []
        self._is_installed = False
        self._is_registered = False

    def install(self) -> None:
        """Register the hooks."""
        self._is_installed = True
        atexit.register(self._shut_down)
        if not allows_daemon_threads():
            threading._register_atexit(self._shut_down_on_thread)  # type: ignore[attr-defined]
        self._replace("_exit", lambda *_, **__: True)
        # Why these two: the other functions of os that replace the program call them.
        for name in ("execv", "execve"):
            self._replace(name, _can_execute)
        self.register_finalizer()

    def remove(self) -> None:
        """Remove the hooks."""
        self._is_installed = False
        atexit.unregister(self._shut_down)
        for patch in reversed(self._patches):
            patch.remove()
        self._patches = []

    def _shut_down_on_thread(self) -> None:
        # Why a thread: that of the caller belongs to another interpreter. CPython prints an error
        # if it is registered here, for example by a log record or by join(). The interpreter waits
        # for the new thread, because it is no daemon.
        threading.Thread(target=self._shut_down, name="otel-progress-exit", daemon=False).start()

    def register_finalizer(self) -> None:
        """Register the finalizer of multiprocessing.

        It is for this process and its forked children. A forked child calls it again, because
        multiprocessing may be imported after the start.
        """
        util = sys.modules.get(_UTIL_MODULE)
        if util is None:
            return
        # Why twice: a child removes all finalizers when it starts, then runs these functions.
        if not self._is_registered:
            self._is_registered = True
            util.register_after_fork(self, ExitHooks._add_finalizer)
        if is_multiprocessing_child():
            self._add_finalizer()

    def _add_finalizer(self) -> None:
        if self._is_installed:
            util: Any = sys.modules[_UTIL_MODULE]
            util.Finalize(self, self._finish_task, exitpriority=_EXIT_PRIORITY)

    def _finish_task(self) -> None:
        """Shut down, or only flush while further threads may end operations."""
        if not self._is_installed:
            return
        current = threading.current_thread()
        if any(not thread.daemon and thread is not current for thread in threading.enumerate()):
            self._flush()
        else:
            self._leave_child()

    def _replace(self, name: str, is_last_call: Callable[..., bool]) -> None:
        """Replace a function of ``os`` that does not return.

        ``is_last_call`` receives its arguments. It returns False if the function will fail, because
        the operations continue then.
        """
        patch = AttributePatch(os, name)

        def build(leave: Callable[..., Any]) -> Callable[..., Any]:
            @wraps(leave)
            def finish_and_leave(*arguments: Any, **keywords: Any) -> Any:
                if patch.is_active and self._is_installed and is_last_call(*arguments, **keywords):
                    self._finish_safely()
                return leave(*arguments, **keywords)

            return finish_and_leave

        if patch.apply(build):
            self._patches.append(patch)

    def _finish_safely(self) -> None:
        # Why suppress: the process leaves in any case.
        with suppress(BaseException):
            if self._has_unsent():
                run_with_limit(lambda: self._finish(EXIT_S), EXIT_S)


def _can_execute(path: Any = None, *_: object, **__: object) -> bool:
    """Return True if the file can probably be executed."""
    # Why: os.execvp tries each folder of PATH, and continues after a failure.
    try:
        # A file descriptor has no folder that could be wrong.
        return isinstance(path, int) or (os.path.isfile(path) and os.access(path, os.X_OK))  # noqa: PTH113
    except (TypeError, ValueError):
        return False
