"""The courses of all running levels: points taken on the tick, estimates made of them, and what ended levels leave.

An estimate is made once a second a level at most, and never with the store's lock held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Final

from otel_progress.live.course import Course, shape, worth
from otel_progress.live.learning import leave
from otel_progress.live.lessons import MAX_RUNS, Book
from otel_progress.live.node import Node, Operation
from otel_progress.live.opaque import expectation
from otel_progress.live.predictions import allowance
from otel_progress.live.questions import Question, answer, question
from otel_progress.live.turns import Turns
from otel_progress.model import Eta, Status
from otel_progress.observations import HistoryKey, Lesson, Trajectory
from otel_progress.trouble import trouble

MAX_A_TICK: Final = 50
"""Estimates a tick makes; who does not get a turn waits for the next one."""
MAX_TURNS: Final = 1_000
"""Levels a tick looks at for something to make an estimate from."""
MAX_COURSES: Final = 1_000
"""Levels of one operation that are followed at a time; of the others there is no estimate, and they do not teach."""
MAX_IN_ALL: Final = 10_000
"""Levels of all operations that are followed at a time, operations themselves left out."""
STIR_S: Final = 0.25
"""Shortest time between two looks at an opaque step, in seconds."""


class Estimates:
    """The courses of all running levels. ``lock`` is the live store's: methods that say so are called with it held."""

    def __init__(self, lock: AbstractContextManager[object], book: Book, clock: Callable[[], float]) -> None:
        self.book = book
        self._lock = lock
        self._clock = clock
        self._followed: dict[Node, None] = {}
        self._levels = 0
        self._turns = Turns()
        self._opaque: dict[Node, None] = {}
        self._full = False

    # --- following: with the lock held -------------------------------------------------------------------------

    def follow(self, node: Node) -> Course | None:
        """Return the course of a running level, beginning it when it is worth one; None when it is not."""
        course = node.course
        if course is not None or not worth(node):
            return course
        operation = node.operation
        if node.parent is not None:
            if operation.courses >= MAX_COURSES or self._levels >= MAX_IN_ALL:
                self._full = True
                return None
            operation.courses += 1
            self._levels += 1
        root = operation.root or node
        key = self.book.key(operation.type, shape(node), root.spec.eta_key, root.started_clock or 0.0)
        node.course = course = Course(key)
        self._followed[node] = None
        self._recall(node, course)
        return course

    def look(self, node: Node, clock: float) -> None:
        """Take a point of the level's curve from the figures just measured, and have it estimated when its second is over."""
        course = self.follow(node)
        if course is None or node.status is not Status.RUNNING:
            return
        if node.ratio is not None and not node.estimated:
            if course.rebase:
                self._rebase(node)
            course.keep(node.operation.worked(node.started_clock or clock, clock), node.ratio)
        if node.below is not None:
            course.running.append(node.below.running)
        self._turns.want(node, course)

    def _rebase(self, node: Node) -> None:
        """Let the curves of all above begin anew: what an earlier session did is no advance of theirs either."""
        here = node.parent
        while here is not None:
            course = self.follow(here)
            if course is not None:
                course.rebase = True
            here = here.parent

    def finish(self, node: Node) -> None:
        """Let go of a level that ended; one that completed leaves its curve to its siblings, an operation that did to later runs."""
        if node.parent is None:  # it may be over before a tick saw it; how long it took is worth knowing all the same
            self.follow(node)
        if node.course is None:
            return
        self.book.learn(leave(node, node.course))
        self._drop(node)
        if node.parent is None and node.operation.courses:
            self._sweep(node.operation)

    def _drop(self, node: Node) -> None:
        node.course = None
        self._followed.pop(node, None)
        self._opaque.pop(node, None)
        self._turns.drop(node)
        if node.parent is not None:
            node.operation.courses -= 1
            self._levels -= 1

    def _sweep(self, ended: Operation | None = None) -> None:
        """Let go of levels that ended unseen (entered again, or let go before a tick took them), and of all of an operation's."""
        for node in [one for one in self._followed if one.operation is ended or (one.gone and one.status.finished)]:
            self._drop(node)

    def mark(self, node: Node) -> None:
        """Begin to show the progress of a level's opaque step."""
        self._opaque[node] = None
        course = self.follow(node)
        if course is not None:
            self._recall(node, course)
        self._spread(node)

    def _recall(self, node: Node, course: Course) -> None:
        """Take over what past runs say of a level: how long nothing may happen, and how long an opaque step takes."""
        node.longest_gap = max(node.longest_gap, self.book.longest_gap(course.key))
        step = node.opaque
        if step is not None:
            durations = [trajectory.duration_s for trajectory in self._history(node, course)]
            worked = node.operation.worked(node.started_clock or step.since, step.since)
            step.expected = expectation(step, durations, worked, node.total)
            self._spread(node)

    def _spread(self, node: Node) -> None:
        """Let everything above an opaque step know how long it may be silent."""
        expected = None if node.opaque is None else node.opaque.expected
        here: Node | None = node
        while here is not None and expected is not None:
            here.longest_gap = max(here.longest_gap, expected)
            here = here.parent

    def _history(self, node: Node, course: Course) -> Sequence[Trajectory]:
        known = self.book.history(course.key)
        siblings = node.operation.curves.get(course.key)
        return (*known, *siblings)[-MAX_RUNS:] if siblings else known

    # --- what past runs left ------------------------------------------------------------------------------------

    def recall(self, ask: Callable[[HistoryKey], Sequence[Trajectory]], saved: Sequence[Lesson] = ()) -> None:
        """Ask for what is not known yet; called from a thread that may wait. Failures are counted, and asked again later.

        ``saved`` are lessons that whoever is asked has by now.
        """
        with self._lock:
            self.book.saved(saved)
            keys, clock = self.book.wanted(), self._clock()
        for number, key in enumerate(keys):
            try:
                found = ask(key)
            except Exception as error:
                trouble("history", "what past runs left cannot be read; estimates go without it", error=error)
                with self._lock:
                    self.book.want(keys[number:])
                return
            with self._lock:
                if self.book.load(key, found, clock):
                    self._renew(key)

    def _renew(self, key: HistoryKey) -> None:
        for node in self._followed:
            course = node.course
            if course is not None and course.key == key:
                self._recall(node, course)
                self._turns.now(node)

    # --- on the tick, and for readers ---------------------------------------------------------------------------

    def stir(self, clock: float) -> None:
        """Have the levels measured again whose opaque steps were not looked at for a while."""
        if not self._opaque:
            return
        with self._lock:
            for node in list(self._opaque):
                step = node.opaque
                if step is None or node.status is not Status.RUNNING:
                    del self._opaque[node]
                elif clock - step.looked >= STIR_S and step.expected is not None and not _paused(node):
                    step.looked, node.dirty = clock, True

    def estimate(self, clock: float, nodes: Iterable[Node] | None = None) -> list[Node]:
        """Estimate what is due, of ``nodes`` or of all; return the levels whose estimate is new. The lock must not be held."""
        changed, asked = [], 0
        with self._lock:
            self._turns.wake(clock)
            if self._full and nodes is None:
                self._full = False
                self._sweep()
        for _ in range(MAX_TURNS):
            with self._lock:
                node = self._turns.next(nodes)
                asking = None if node is None else self._question(node, clock)
            if node is None:
                break
            if asking is None:
                continue
            eta = answer(asking)
            with self._lock:
                if self._take(asking, eta):
                    changed.append(node)
            asked += 1
            if asked >= MAX_A_TICK:
                break
        return changed

    def _question(self, node: Node, clock: float) -> Question | None:
        course = node.course
        if course is None or node.status is not Status.RUNNING or _paused(node):
            return None
        child = (
            None if node.below is None else next((one.course for one in reversed(node.below.nodes.values()) if one.course), None)
        )
        known = () if child is None else self.book.history(child.key)
        asking = question(node, course, self._history(node, course), known, clock)
        early = len(course.points) > 1 and (asking is None or len(asking.points) < 2)  # its pace says nothing yet, but soon will
        if asking is not None or early:
            self._turns.rest(node, course, clock)
            course.stale = early
        return asking

    def _take(self, asking: Question, eta: Eta | None) -> bool:
        """Take an answer over: from then on the level has it, under a sequence number of its own."""
        node, course, operation = asking.node, asking.course, asking.node.operation
        if node.status is not Status.RUNNING or node.course is not course or _paused(node) or eta is course.eta:
            return False
        course.eta = eta
        if eta is not None and node.parent is None:
            worked = course.origin + asking.elapsed
            foretold = replace(eta, clock=worked)
            course.predictions.add(foretold)
            if operation.overdue_after is None:
                operation.overdue_after = allowance(foretold)
        node.snapshot = None
        operation.sequence = node.sequence = operation.sequence + 1
        return True


def _paused(node: Node) -> bool:
    pauses = node.operation.pauses
    return pauses is not None and pauses.since is not None
