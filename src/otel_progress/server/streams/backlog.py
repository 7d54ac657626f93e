"""The newest message about everything, in the order of change: what makes a client a mere cursor, and resuming a comparison."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter

from otel_progress.server.settings import ENDED_AGE_S, MOST_ENDED
from otel_progress.server.streams.messages import Message

_number = attrgetter("number")


class Backlog:
    """One message a key; a newer one goes to the end. What a client lacks is all that has a number above its cursor.

    ``head`` is the last number given out. ``floor`` is the last number of what was forgotten: who was not told up to there cannot
    go on, and has to begin afresh. Used from one thread.
    """

    def __init__(
        self,
        epoch: str,
        clock: Callable[[], float],
        *,
        most_ended: int = MOST_ENDED,
        ended_age_s: float = ENDED_AGE_S,
    ) -> None:
        self.epoch = epoch
        self.last_number = 0
        self.oldest_resumable = 0
        self._clock = clock
        self._most_ended = most_ended
        self._ended_age_s = ended_age_s
        self._messages: dict[tuple[str, str], Message] = {}
        self._by_id: dict[str, dict[tuple[str, str], Message]] = {}
        self._ended: dict[tuple[str, str], float] = {}
        self._ordered: list[Message] | None = None

    def next_number(self) -> int:
        """Give out a number."""
        self.last_number += 1
        return self.last_number

    def get(self, key: tuple[str, str]) -> Message | None:
        """Return the message of a key."""
        return self._messages.get(key)

    def put(self, message: Message) -> None:
        """Take a message in, in place of what there was of its key."""
        before = self._take_out(message.key)
        message.assign_number(self.epoch, self.next_number(), before)
        self._messages[message.key] = message
        if message.operation_id:
            self._by_id.setdefault(message.operation_id, {})[message.key] = message
        if message.ended:
            self._ended[message.key] = self._clock()
            if len(self._ended) > self._most_ended:
                self._forget(next(iter(self._ended)))

    def expire(self) -> None:
        """Forget what ended long ago."""
        oldest = self._clock() - self._ended_age_s
        for key in [key for key, at in self._ended.items() if at < oldest]:
            self._forget(key)

    def after(self, cursor: int) -> Sequence[Message]:
        """Return all messages above ``cursor``, in order."""
        if cursor >= self.last_number:
            return ()
        if self._ordered is None:
            self._ordered = list(self._messages.values())  # kept in order by putting each at the end
        return self._ordered[bisect_right(self._ordered, cursor, key=_number) :]

    def messages_of(self, operation_id: str) -> Iterable[Message]:
        """Return what there is of an operation, in order."""
        return self._by_id.get(operation_id, {}).values()

    def all(self) -> Iterable[Message]:
        """Return everything, in order."""
        return self._messages.values()

    def _take_out(self, key: tuple[str, str]) -> Message | None:
        self._ordered = None
        before = self._messages.pop(key, None)
        self._ended.pop(key, None)
        if before is not None and before.operation_id:
            of_id = self._by_id[before.operation_id]
            del of_id[key]
            if not of_id:
                del self._by_id[before.operation_id]
        return before

    def _forget(self, key: tuple[str, str]) -> None:
        forgotten = self._take_out(key)
        if forgotten is not None:
            self.oldest_resumable = max(self.oldest_resumable, forgotten.number)
