"""Messages of the streams, encoded once for all clients that receive them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal, TypeAlias

from otel_progress import codec
from otel_progress.codec import encode_batch, encode_event, encode_operation, encode_preview
from otel_progress.exports import encode_json_line
from otel_progress.operations import BatchSnapshot, Event, OperationSnapshot
from otel_progress.records import Preview

Kind: TypeAlias = Literal["snapshot", "item", "preview", "batch", "gone"]


_MAX_REPLACED_NUMBERS: Final = 16


_WS_TYPES: Final = {
    "snapshot": ("progress.update", "operation"),
    "item": ("progress.item", "event"),
    "preview": ("progress.preview", "preview"),
    "batch": ("progress.batch", "batch"),
    "gone": ("progress.gone", "gone"),
}


class Message:
    """One change, with its number in the sequence of its hub.

    ``key`` identifies the subject: a newer message of the same key replaces it.
    ``replaced_numbers`` are the numbers of the last few messages that this one replaced. ``encode``
    returns its JSON.
    """

    __slots__ = (
        "_encode",
        "_epoch",
        "_sse",
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
        encode: Callable[[], str],
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
        self._encode = encode
        self._sse: bytes | None = None
        self._ws: str | None = None

    def assign_number(self, epoch: str, number: int, replaced: Message | None) -> None:
        """Set the number of this message, and the numbers that it replaces."""
        self._epoch, self.number = epoch, number
        if replaced is not None:
            earlier = replaced.replaced_numbers[1 - _MAX_REPLACED_NUMBERS :]
            self.replaced_numbers = (*earlier, replaced.number)

    def count_skipped(self, cursor: int) -> int:
        """Return how many replaced versions a client at ``cursor`` did not receive."""
        earlier = self.replaced_numbers
        if not earlier or earlier[-1] <= cursor:
            return 0
        return sum(number > cursor for number in earlier)

    @property
    def sse(self) -> bytes:
        """The message as a server-sent event."""
        # Why: the JSON is encoded per transport, as few hubs have clients of both. A third copy
        # would cost more memory than it saves time.
        if self._sse is None:
            text = f"event: {self.kind}\nid: {self._epoch}-{self.number}\ndata: {self._encode()}\n\n"
            self._sse = text.encode("utf-8", "replace")
        return self._sse

    @property
    def ws(self) -> str:
        """The message as the text of a WebSocket frame."""
        if self._ws is None:
            type_, field = _WS_TYPES[self.kind]
            self._ws = f'{{"type":"{type_}","id":"{self._epoch}-{self.number}","{field}":{self._encode()}}}'
        return self._ws


def run_key(run: str) -> tuple[str, str]:
    """Return the key of the messages of a run."""
    return "run", run


def build_snapshot_message(operation: OperationSnapshot, encoder: Encoder) -> Message:
    """Return the message of an operation's current state, without its levels."""
    return _build_operation_message(operation, run_key(operation.run), _LazyJson(encoder, operation))


def build_tree_message(operation: OperationSnapshot, encoder: Encoder, *, levels: bool) -> Message:
    """Return the message of an operation for clients that follow it by id.

    With ``levels`` the message contains the tree.
    """
    encode = (lambda: encode_text(encode_operation(operation))) if levels else _LazyJson(encoder, operation)
    return _build_operation_message(operation, ("whole", operation.run), encode)


def build_gone_message(last_message: Message) -> Message:
    """Return the message that the run of ``last_message`` no longer exists."""
    run = last_message.key[1]
    text = encode_text({"run": run, "operation_id": last_message.operation_id})
    return Message(
        "gone",
        run_key(run),
        lambda: text,
        operation_id=last_message.operation_id,
        type=last_message.type,
        batch=last_message.batch,
        ended=True,
    )


def build_item_message(event: Event) -> Message:
    """Return the message of an item."""
    return Message(
        "item", ("item", ""), lambda: encode_text(encode_event(event)), operation_id=event.operation_id
    )


def build_preview_message(preview: Preview) -> Message:
    """Return the message of a stored preview."""
    return Message(
        "preview",
        ("preview", ""),
        lambda: encode_text(encode_preview(preview)),
        operation_id=preview.operation_id,
    )


def build_batch_message(batch: BatchSnapshot) -> Message:
    """Return the message of a batch, without its operations."""
    return Message(
        "batch",
        ("batch", batch.id),
        lambda: encode_text(encode_batch(batch, operations=False)),
        batch=batch.id,
        ended=batch.is_finished,
    )


def _build_operation_message(
    operation: OperationSnapshot, key: tuple[str, str], encode: Callable[[], str]
) -> Message:
    info = operation.root.info
    return Message(
        "snapshot",
        key,
        encode,
        operation_id=info.operation_id,
        type=info.operation_type,
        batch=info.batch,
        ended=operation.status.finished,
    )


class _LazyJson:
    """Encodes an operation when called.

    Smaller than a closure: the backlog has one per operation.
    """

    __slots__ = ("_encoder", "_operation")

    def __init__(self, encoder: Encoder, operation: OperationSnapshot) -> None:
        self._encoder = encoder
        self._operation = operation

    def __call__(self) -> str:
        return self._encoder.encode(self._operation)


_MAX_CACHED_RUNS: Final = 4_096
"""Runs whose unchanging part is cached. The cache is cleared when it is full."""


class Encoder:
    """Encodes operations without their levels, and caches the unchanging parts.

    As JSON, the result equals ``codec.encode_operation(operation, levels=False)``.
    """

    def __init__(self) -> None:
        self._cache: dict[str, tuple[object, object, str]] = {}

    def encode(self, operation: OperationSnapshot) -> str:
        """Return the document of an operation as JSON text."""
        info, worker = operation.root.info, operation.instance
        cached = self._cache.get(info.run)
        if cached is None or cached[0] is not info or cached[1] != worker:
            cached = (info, worker, _encode_fixed_part(operation))
            if len(self._cache) >= _MAX_CACHED_RUNS:
                self._cache.clear()
            self._cache[info.run] = cached
        return f"{cached[2]},{encode_text(_encode_changing_part(operation))[1:]}"


def encode_text(document: object) -> str:
    """Return JSON text without characters that a terminal or a UTF-8 encoder rejects."""
    try:
        text = codec.dumps(document)
    except ValueError:
        # Another process may have written NaN.
        return encode_json_line(document)
    return text if text.isascii() and "\x7f" not in text else encode_json_line(document)


def _encode_fixed_part(operation: OperationSnapshot) -> str:
    worker = operation.instance
    document: dict[str, Any] = {"schema": codec.SCHEMA, **codec.encode_info(operation.root.info)}
    document["worker"] = None if worker is None else codec.encode_instance(worker)
    return encode_text(document)[:-1]


def _encode_changing_part(operation: OperationSnapshot) -> dict[str, Any]:
    root = operation.root
    document = codec.encode_figures(root)
    document.update(codec.encode_details(root))
    document["elapsed_seconds"] = root.elapsed(operation.clock)
    document.update(codec.encode_state(operation))
    return document
