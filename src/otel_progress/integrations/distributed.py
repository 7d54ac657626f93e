"""Progress of dask.distributed: each graph that a client submits is a level.

A plug-in in the scheduler counts the tasks of the graphs. It sends the counts to the client as
events, at most every 0.2 s per graph, and the end of a graph at once. The client receives the end
before the results. No store is shared.
"""

from __future__ import annotations

import contextvars
import itertools
import threading
from types import TracebackType
from typing import Any, Final, cast
from weakref import WeakKeyDictionary

from otel_progress.diagnostics import report_internal_error
from otel_progress.instrument.level import Level
from otel_progress.instrument.tracer import ProgressTracer, current_level
from otel_progress.model import Failure, Outcome
from otel_progress.text import truncate

try:
    from dask.utils import key_split
    from distributed.diagnostics.plugin import SchedulerPlugin
except ImportError as error:
    msg = "Invalid environment for progress of dask.distributed: expected the package distributed."
    raise ImportError(
        f"{msg} Install it with 'pip install dask[distributed]'.", name="distributed"
    ) from error

TYPE: Final = "dask"
"""Type of the levels and operations."""


GRAPH: Final = "dask.graph"
"""Metadata key of the name of the results of a graph. It groups the history."""


INTERVAL_S: Final = 0.2
"""Time between two events of the scheduler with new counts, in seconds."""


MAX_FAILURES_PER_EVENT: Final = 100
"""Failed tasks in one event. The next event has the others."""


MAX_WAITING_FAILURES: Final = 10_000
"""Failed tasks per graph that wait for an event. Further ones are counted without their names."""


_tracer: Final = ProgressTracer("otel_progress.integrations.distributed")


_numbers: Final = itertools.count(1)
"""Numbers of the plug-ins of this process."""


# --- in the scheduler ----------------------------------------------------------------------------


class ProgressPlugin(SchedulerPlugin):
    """Scheduler plug-in that sends the progress of the graphs of one client to it.

    :func:`follow_client` registers it. A task is counted once, also if it is computed again after
    its worker was lost. All methods run in the event loop of the scheduler, which has a copy of the
    registered object.
    """

    def __init__(self, client: str, name: str) -> None:
        self.client = client
        self.name = name
        self._graphs: dict[int, _Graph] = {}
        self._pending: dict[Any, list[_Graph]] = {}
        self._count = 0
        self._is_scheduled = False
        self._scheduler: Any = None

    async def start(self, scheduler: Any) -> None:
        """Store the scheduler."""
        self._scheduler = scheduler

    def update_graph(self, scheduler: Any, *, client: str, keys: Any, tasks: Any, **_: Any) -> None:
        """Add a graph of the client, unless all its tasks have finished."""
        if client != self.client:
            return
        pending = {
            key for key in tasks if key in scheduler.tasks and scheduler.tasks[key].state not in _FINISHED
        }
        if not pending:
            return
        self._count += 1
        graph = _Graph(self._count, str(key_split(next(iter(keys or pending)))), pending)
        self._graphs[graph.number] = graph
        for key in pending:
            self._pending.setdefault(key, []).append(graph)
        self._send(graph)
        self._schedule()

    def transition(self, key: Any, start: str, finish: str, *_: Any, **details: Any) -> None:
        """Count a task that has finished."""
        if key not in self._pending:
            return
        if finish == "released":
            # Why later: a lost worker releases the task too, before it is scheduled again.
            for graph in self._pending[key]:
                graph.released.add(key)
            self._schedule()
            return
        if finish not in (*_FINISHED, "forgotten"):
            return
        for graph in self._pending.pop(key):
            graph.pending.discard(key)
            if finish == "memory":
                graph.done += 1
            elif finish == "forgotten":
                graph.cancelled += 1
            elif start in ("waiting", "released"):  # because a task before it has failed
                graph.blocked += 1
            else:
                graph.add_failure(key, details)
            if graph.pending:
                self._schedule()
            else:
                self._end(graph)

    def restart(self, scheduler: Any) -> None:
        """Cancel all graphs, because the scheduler drops all tasks."""
        self._cancel_all()

    def remove_client(self, scheduler: Any, client: str) -> None:
        """Remove the plug-in after its client has disconnected."""
        if client == self.client:
            self._graphs.clear()
            self._pending.clear()
            if self.name in scheduler.plugins:
                scheduler.remove_plugin(self.name)

    def _cancel_all(self) -> None:
        self._pending.clear()
        for graph in list(self._graphs.values()):
            graph.cancelled += len(graph.pending)
            graph.pending.clear()
            self._end(graph)

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            self._scheduler.loop.call_later(INTERVAL_S, self._send_changes)

    def _send_changes(self) -> None:
        self._is_scheduled = False
        for graph in list(self._graphs.values()):
            self._drop_released(graph)
            if not graph.pending:
                self._end(graph)
            elif graph.has_changed():
                self._send(graph)

    def _drop_released(self, graph: _Graph) -> None:
        """Drop tasks that will not run, because their results are not needed."""
        tasks = self._scheduler.tasks
        for key in graph.released:
            if key not in graph.pending or (key in tasks and tasks[key].state != "released"):
                continue
            graph.pending.discard(key)
            graphs = self._pending.get(key, [])
            if graph in graphs:
                graphs.remove(graph)
            if not graphs:
                self._pending.pop(key, None)
            graph.total -= 1
        graph.released.clear()

    def _end(self, graph: _Graph) -> None:
        del self._graphs[graph.number]
        while len(graph.failures) > MAX_FAILURES_PER_EVENT:
            self._send(graph)
        self._send(graph, is_end=True)

    def _send(self, graph: _Graph, *, is_end: bool = False) -> None:
        self._scheduler.log_event(self.name, graph.make_event(is_end=is_end))


_FINISHED: Final = ("memory", "erred")
"""States of tasks that have finished."""


class _Graph:
    """Counts of one graph in the scheduler."""

    def __init__(self, number: int, name: str, pending: set[Any]) -> None:
        self.number = number
        self.name = name
        self.pending = pending
        self.released = set(pending)
        """Tasks that may not be needed. At the start some results may exist."""
        self.total = len(pending)
        self.done = self.failed = self.cancelled = self.blocked = 0
        self.failures: list[tuple[str, str, str]] = []
        """Name, type and message of failed tasks that were not sent."""
        self._sent: tuple[int, ...] = ()

    def add_failure(self, key: Any, details: dict[str, Any]) -> None:
        """Count a task that raised an exception."""
        self.failed += 1
        if len(self.failures) < MAX_WAITING_FAILURES:
            # Why the text: the exception is serialized, and the scheduler may not have its class.
            kind, _, message = str(details.get("exception_text") or "Exception").partition("(")
            message = message.removesuffix(")").strip("'\"")
            self.failures.append((truncate(str(key)), truncate(kind), truncate(message)))

    def has_changed(self) -> bool:
        """Return True if the counts differ from those that were sent."""
        return bool(self.failures) or self._sent != (self.total, self.done, self.failed)

    def make_event(self, *, is_end: bool) -> dict[str, Any]:
        """Return the counts and the next failures as a message."""
        is_start, self._sent = not self._sent, (self.total, self.done, self.failed)
        failures = self.failures[:MAX_FAILURES_PER_EVENT]
        del self.failures[:MAX_FAILURES_PER_EVENT]
        event: dict[str, Any] = {
            "graph": self.number,
            "is_start": is_start,
            "name": self.name,
            "total": self.total,
            "current": self.done + self.failed,
            "failures": [list(failure) for failure in failures],
        }
        if is_end:
            event["end"] = "failed" if self.failed or self.blocked else "completed"
            if self.cancelled and event["end"] == "completed":
                event["end"] = "cancelled"
        return event


# --- in the process of the client ----------------------------------------------------------------


def follow_client(client: Any, level: Level | None = None) -> FollowedClient:
    """Return a context manager that records the graphs that a client submits.

    Use it as ``with follow_client(client): ...``, or ``async with`` for an asynchronous client.
    Each graph is a child of ``level``, by default the current level at the start of the block.
    Without one, it is an operation of the type ``dask``. A graph with a failed task fails. At the
    end of the block, running graphs are cancelled. The scheduler needs the package otel-progress.
    If it is not installed there, a warning is logged and nothing is recorded.
    """
    return FollowedClient(client, level)


class FollowedClient:
    """Context manager that :func:`follow_client` returns.

    The innermost block of a client records a graph.
    """

    def __init__(self, client: Any, level: Level | None) -> None:
        self._client = client
        self._level = level
        self._plugin: ProgressPlugin | None = None
        self._levels: dict[int, tuple[Level, list[Failure]]] = {}
        self._context = contextvars.Context()
        self._lock = threading.Lock()
        self._is_closed = False

    def __enter__(self) -> FollowedClient:
        if self._client.asynchronous:
            msg = "Invalid block 'with follow_client(...)': expected a client that is not asynchronous."
            raise TypeError(f"{msg} Use 'async with'.")
        plugin = self._prepare()
        try:
            self._client.register_plugin(plugin)
        except Exception as error:
            self._report_start(plugin, error)
        return self

    async def __aenter__(self) -> FollowedClient:
        plugin = self._prepare()
        try:
            await self._client.register_plugin(plugin)
        except Exception as error:
            self._report_start(plugin, error)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        plugin = self._plugin
        try:
            if plugin is not None and self._client.status == "running":
                self._client.unregister_scheduler_plugin(plugin.name)
                self._client.unsubscribe_topic(plugin.name)
        except Exception:
            report_internal_error("integration", "A plug-in of a Dask scheduler could not be removed.")
        finally:
            self._close()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        plugin = self._plugin
        try:
            if plugin is not None and self._client.status == "running":
                await self._client.unregister_scheduler_plugin(plugin.name)
                self._client.unsubscribe_topic(plugin.name)
        except Exception:
            report_internal_error("integration", "A plug-in of a Dask scheduler could not be removed.")
        finally:
            self._close()

    def _prepare(self) -> ProgressPlugin:
        if self._level is None and current_level().recording:
            self._level = current_level()
        # Why a copy: the events arrive in a task of the client, which has another context.
        self._context = contextvars.copy_context()
        self._is_closed = False
        self._plugin = plugin = ProgressPlugin(
            self._client.id, f"otel-progress-{self._client.id}-{next(_numbers)}"
        )
        _blocks.setdefault(self._client, []).append(self)
        self._client.subscribe_topic(plugin.name, self._receive)
        return plugin

    def _report_start(self, plugin: ProgressPlugin, error: Exception) -> None:
        self._plugin = None
        text = "Graphs of a Dask client are not recorded. Install otel-progress where the scheduler runs."
        report_internal_error("integration", text, error=error)
        self._client.unsubscribe_topic(plugin.name)

    def _close(self) -> None:
        blocks = _blocks.get(self._client, [])
        if self in blocks:
            blocks.remove(self)
        with self._lock:
            self._is_closed = True
            levels = [level for level, _ in self._levels.values()]
            self._levels.clear()
        for level in levels:
            level.cancel("The client is no longer followed.")

    def _receive(self, event: tuple[float, dict[str, Any]]) -> None:
        """Apply an event of the scheduler, in the thread of the client's event loop."""
        try:
            with self._lock:
                if not self._is_closed:
                    self._context.run(self._apply, event[1])
        except Exception:
            report_internal_error("integration", "An event of a Dask scheduler could not be recorded.")

    def _apply(self, event: dict[str, Any]) -> None:
        number = event["graph"]
        if number not in self._levels:
            if not event["is_start"] or _blocks.get(self._client, [])[-1:] != [self]:
                return
            self._levels[number] = (self._start_level(event), [])
        level, failures = self._levels[number]
        level.set_total(None)  # the new one may be below the old one
        for name, kind, message in event["failures"]:
            failure = Failure(kind, message)
            level.item(name, outcome=Outcome.FAILED, error=failure)
            if not failures:
                failures.append(failure)
        level.update(current=event["current"], total=event["total"])
        end = event.get("end")
        if end is None:
            return
        del self._levels[number]
        if end == "failed":
            level.fail(failures[0] if failures else "A task failed before this graph was submitted.")
        elif end == "cancelled":
            level.cancel("The futures were cancelled or released.")
        else:
            level.complete()

    def _start_level(self, event: dict[str, Any]) -> Level:
        name, metadata = event["name"], cast("dict[str, Any]", {GRAPH: event["name"]})
        if self._level is not None:
            return self._level.level(TYPE, name=name, **metadata).start()
        return _tracer.operation(TYPE, name, eta_key=[GRAPH], **metadata).start()


_blocks: Final[WeakKeyDictionary[Any, list[FollowedClient]]] = WeakKeyDictionary()
"""Active blocks of each client, the innermost one last."""


__all__ = ["FollowedClient", "ProgressPlugin", "follow_client"]
