"""Latest message per key in change order, with a bound on ended operations.

A client is only a cursor. Resuming compares two numbers.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter

from otel_progress.server.settings import ENDED_AGE_S, MAX_ENDED
from otel_progress.server.streams.messages import Message

_get_number = attrgetter("number")


class Backlog:
    """Latest message per key, ordered by number.

    A newer message of a key moves to the end.

    ``last_number`` is the last assigned number. ``oldest_resumable`` is the highest number of an
    evicted message: a client with a lower cursor cannot resume. Used from one thread.
    """

    def __init__(
        self,
        epoch: str,
        clock: Callable[[], float],
        *,
        max_ended: int = MAX_ENDED,
        ended_age_s: float = ENDED_AGE_S,
    ) -> None:
        self.epoch = epoch
        self.last_number = 0
        self.oldest_resumable = 0
        self._clock = clock
        self._max_ended = max_ended
        self._ended_age_s = ended_age_s
        self._messages: dict[tuple[str, str], Message] = {}
        self._by_operation_id: dict[str, dict[tuple[str, str], Message]] = {}
        self._ended: dict[tuple[str, str], float] = {}
        self._ordered: list[Message] | None = None

    def next_number(self) -> int:
        """Assign the next number."""
        self.last_number += 1
        return self.last_number

    def get(self, key: tuple[str, str]) -> Message | None:
        """Return the message of a key."""
        return self._messages.get(key)

    def put(self, message: Message) -> None:
        """Add a message. It replaces the previous message of its key."""
        replaced = self._remove(message.key)
        message.assign_number(self.epoch, self.next_number(), replaced)
        self._messages[message.key] = message
        if message.operation_id:
            self._by_operation_id.setdefault(message.operation_id, {})[message.key] = message
        if message.ended:
            self._ended[message.key] = self._clock()
            if len(self._ended) > self._max_ended:
                self._evict(next(iter(self._ended)))

    def expire(self) -> None:
        """Evict messages of operations that ended more than ``ended_age_s`` seconds ago."""
        oldest = self._clock() - self._ended_age_s
        for key in [key for key, ended_at in self._ended.items() if ended_at < oldest]:
            self._evict(key)

    def messages_after(self, cursor: int) -> Sequence[Message]:
        """Return all messages with a number above ``cursor``, in order."""
        if cursor >= self.last_number:
            return ()
        if self._ordered is None:
            # put() appends, so the dict is in the order of the numbers.
            self._ordered = list(self._messages.values())
        return self._ordered[bisect_right(self._ordered, cursor, key=_get_number) :]

    def messages_of(self, operation_id: str) -> Iterable[Message]:
        """Return the messages of an operation, in order."""
        return self._by_operation_id.get(operation_id, {}).values()

    def all_messages(self) -> Iterable[Message]:
        """Return all messages, in order."""
        return self._messages.values()

    def _remove(self, key: tuple[str, str]) -> Message | None:
        self._ordered = None
        removed = self._messages.pop(key, None)
        self._ended.pop(key, None)
        if removed is not None and removed.operation_id:
            messages = self._by_operation_id[removed.operation_id]
            del messages[key]
            if not messages:
                del self._by_operation_id[removed.operation_id]
        return removed

    def _evict(self, key: tuple[str, str]) -> None:
        evicted = self._remove(key)
        if evicted is not None:
            self.oldest_resumable = max(self.oldest_resumable, evicted.number)
