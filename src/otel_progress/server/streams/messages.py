"""What the streams say: one message for all who get it, encoded when the first of them takes it and never again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal, TypeAlias

from otel_progress import codec
from otel_progress.codec import encode_batch, encode_event, encode_operation, encode_preview
from otel_progress.exports import encode_json_line
from otel_progress.model import LevelSnapshot
from otel_progress.operations import BatchSnapshot, Event, OperationSnapshot
from otel_progress.records import Preview

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

    __slots__ = (
        "_epoch",
        "_sse",
        "_text",
        "_ws",
        "batch",
        "ended",
        "key",
        "kind",
        "number",
        "operation_id",
        "replaced_numbers",
        "type",
    )

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
        self.replaced_numbers: tuple[int, ...] = ()
        self._epoch = ""
        self._text: Callable[[], str] | None = text
        self._sse: bytes | None = None
        self._ws: str | None = None

    def assign_number(self, epoch: str, number: int, before: Message | None) -> None:
        """Give it its number, and what it takes the place of."""
        self._epoch, self.number = epoch, number
        if before is not None:
            self.replaced_numbers = (*before.replaced_numbers[1 - _MOST_EARLIER :], before.number)

    def skipped(self, cursor: int) -> int:
        """Return how many versions of this a client that had all up to ``cursor`` was not sent."""
        earlier = self.replaced_numbers
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


def run_key(run: str) -> tuple[str, str]:
    """Return the key of the messages about a run."""
    return "run", run


def snapshot_message(operation: OperationSnapshot, encoder: Encoder) -> Message:
    """Return the message of an operation as it is now, without its levels."""
    return _of(operation, run_key(operation.run), _Text(encoder, operation))


def whole_message(operation: OperationSnapshot, encoder: Encoder, *, levels: bool) -> Message:
    """Return the message for those who follow an operation by its id: with its levels, or as it was found in the past."""
    text = (lambda: encode_text(encode_operation(operation))) if levels else _Text(encoder, operation)
    return _of(operation, ("whole", operation.run), text)


def gone_message(before: Message) -> Message:
    """Return the message that the run which another one is about is no longer there."""
    run = before.key[1]
    text = encode_text({"run": run, "operation_id": before.operation_id})
    return Message(
        "gone",
        run_key(run),
        lambda: text,
        operation_id=before.operation_id,
        type=before.type,
        batch=before.batch,
        ended=True,
    )


def item_message(event: Event) -> Message:
    """Return the message of an item."""
    return Message(
        "item", ("item", ""), lambda: encode_text(encode_event(event)), operation_id=event.operation_id
    )


def preview_message(preview: Preview) -> Message:
    """Return the message of a stored preview."""
    return Message(
        "preview",
        ("preview", ""),
        lambda: encode_text(encode_preview(preview)),
        operation_id=preview.operation_id,
    )


def batch_message(batch: BatchSnapshot) -> Message:
    """Return the message of a batch, without its operations."""
    key = ("batch", batch.id)
    return Message(
        "batch",
        key,
        lambda: encode_text(encode_batch(batch, operations=False)),
        batch=batch.id,
        ended=batch.is_finished,
    )


def _of(operation: OperationSnapshot, key: tuple[str, str], text: Callable[[], str]) -> Message:
    info = operation.root.info
    return Message(
        "snapshot",
        key,
        text,
        operation_id=info.operation_id,
        type=info.operation_type,
        batch=info.batch,
        ended=operation.status.finished,
    )


class _Text:
    """Makes the JSON of an operation; smaller than a closure, as there is one for each operation remembered."""

    __slots__ = ("_encoder", "_operation")

    def __init__(self, encoder: Encoder, operation: OperationSnapshot) -> None:
        self._encoder = encoder
        self._operation = operation

    def __call__(self) -> str:
        return self._encoder.encode(self._operation)


_LIKELY: Final = 4_096
"""Runs whose unchanging part is remembered."""


class Encoder:
    """Encodes operations without their levels; equal, as JSON, to ``codec.encode_operation(operation, levels=False)``."""

    def __init__(self) -> None:
        self._fixed: dict[str, tuple[object, object, str]] = {}

    def encode(self, operation: OperationSnapshot) -> str:
        """Return the document of an operation as JSON text."""
        info, worker = operation.root.info, operation.instance
        known = self._fixed.get(info.run)
        if known is None or known[0] is not info or known[1] != worker:
            known = (info, worker, _fixed(operation))
            if len(self._fixed) >= _LIKELY:
                self._fixed.clear()
            self._fixed[info.run] = known
        return f"{known[2]},{encode_text(_changing(operation))[1:]}"


def encode_text(document: object) -> str:
    """Return JSON text that every terminal and every encoder of UTF-8 takes, whatever names and messages hold."""
    try:
        text = codec.dumps(document)
    except ValueError:  # NaN, which another process may have written
        return encode_json_line(document)
    return text if text.isascii() and "\x7f" not in text else encode_json_line(document)


def _fixed(operation: OperationSnapshot) -> str:
    worker = operation.instance
    document: dict[str, Any] = {"schema": codec.SCHEMA, **codec.encode_info(operation.root.info)}
    names = ("id", "pid", "host", "service", "started_at", "start")
    document["worker"] = None if worker is None else {name: getattr(worker, name) for name in names}
    return encode_text(document)[:-1]


def _changing(operation: OperationSnapshot) -> dict[str, Any]:
    root, resources = operation.root, operation.resources
    document = _state(root)
    document["elapsed_seconds"] = root.elapsed(operation.clock)
    document["condition"] = operation.condition.value
    document["remaining_seconds"] = operation.remaining_seconds
    document["alive"] = operation.alive
    document["read_at"] = operation.read_at
    document["clock"] = operation.clock
    document["cancel_requested_at"] = operation.cancel_requested_at
    document["resources"] = None if resources is None else codec.encode_resources(resources)
    return document


def _state(root: LevelSnapshot) -> dict[str, Any]:
    ratio, eta, metadata = root.ratio, root.eta, root.metadata
    return {
        "sequence": root.sequence,
        "current": root.current,
        "total": root.total,
        "ratio": ratio,
        "failed": root.failed,
        "skipped": root.skipped,
        "message": root.message,
        "stage": root.stage,
        "observed_at": root.observed_at,
        "observed_clock": root.observed_clock,
        "advanced_at": root.advanced_at,
        "advanced_clock": root.advanced_clock,
        "stall_after_s": root.stall_after_s,
        "ended_at": root.ended_at,
        "duration_s": root.duration_s,
        "estimated": root.estimated,
        "paused_clock": root.paused_clock,
        "paused_s": root.paused_s,
        "previews": root.previews,
        "overdue_after_s": root.overdue_after_s,
        "resumed_from": root.resumed_from,
        "status": root.status.value,
        "completed": root.completed,
        "percentage": None if ratio is None else 100.0 * ratio,
        "metadata": {
            key: list(value) if isinstance(value, tuple) else value for key, value in metadata.items()
        },
        "error": codec.encode_failure(root.error),
        "eta": None
        if eta is None
        else {
            "remaining_s": eta.remaining_s,
            "low_s": eta.low_s,
            "high_s": eta.high_s,
            "state": eta.state,
            "basis": eta.basis,
            "runs": eta.runs,
            "clock": eta.clock,
            "counts_down_s": eta.counts_down_s,
            "stalls_after_s": eta.stalls_after_s,
        },
    }
