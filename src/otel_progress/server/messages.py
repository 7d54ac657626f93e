"""What the streams say: one message for all who get it, encoded when the first of them takes it and never again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, TypeAlias

Kind: TypeAlias = Literal["snapshot", "item", "preview", "batch", "gone"]
_MOST_EARLIER: Final = 16
_WS_TYPES: Final = {
    "snapshot": ("progress.update", "operation"),
    "item": ("progress.item", "event"),
    "preview": ("progress.preview", "preview"),
    "batch": ("progress.batch", "batch"),
    "gone": ("progress.gone", "gone"),
}


class Message:
    """One thing to tell, with its number in the sequence of its hub.

    ``key`` is what it is about: a newer message of the same key takes its place. ``earlier`` are the numbers of those whose place this
    one took, the last few. ``text`` makes the JSON of its document.
    """

    __slots__ = ("_epoch", "_sse", "_text", "_ws", "batch", "earlier", "ended", "key", "kind", "number", "operation_id", "type")

    def __init__(
        self,
        kind: Kind,
        key: tuple[str, str],
        text: Callable[[], str],
        *,
        operation_id: str = "",
        type: str = "",
        batch: str | None = None,
        ended: bool = False,
    ) -> None:
        self.kind: Kind = kind
        self.key = key
        self.operation_id = operation_id
        self.type = type
        self.batch = batch
        self.ended = ended
        self.number = 0
        self.earlier: tuple[int, ...] = ()
        self._epoch = ""
        self._text: Callable[[], str] | None = text
        self._sse: bytes | None = None
        self._ws: str | None = None

    def place(self, epoch: str, number: int, before: Message | None) -> None:
        """Give it its number, and what it takes the place of."""
        self._epoch, self.number = epoch, number
        if before is not None:
            self.earlier = (*before.earlier[1 - _MOST_EARLIER :], before.number)

    def skipped(self, cursor: int) -> int:
        """Return how many versions of this a client that had all up to ``cursor`` was not sent."""
        earlier = self.earlier
        if not earlier or earlier[-1] <= cursor:
            return 0
        return sum(number > cursor for number in earlier)

    @property
    def sse(self) -> bytes:
        """The message as a server-sent event."""
        if self._sse is None:
            text = f"event: {self.kind}\nid: {self._epoch}-{self.number}\ndata: {self._document()}\n\n"
            self._sse = text.encode("utf-8", "replace")
        return self._sse

    @property
    def ws(self) -> str:
        """The message as the text of a WebSocket frame."""
        if self._ws is None:
            type_, field = _WS_TYPES[self.kind]
            self._ws = f'{{"type":"{type_}","id":"{self._epoch}-{self.number}","{field}":{self._document()}}}'
        return self._ws

    def _document(self) -> str:
        """Return the JSON; made once for each transport, as hardly ever both want it, and not kept as a third copy."""
        assert self._text is not None
        return self._text()
