"""What a reader found, as messages of the streams. Their JSON is made when the first client takes one."""

from __future__ import annotations

from collections.abc import Callable

from otel_progress.codec import encode_batch, encode_event, encode_operation, encode_preview
from otel_progress.observations import Preview
from otel_progress.operations import BatchSnapshot, Event, OperationSnapshot
from otel_progress.server.encoding import Encoder, encode_text
from otel_progress.server.messages import Message


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
    return Message("item", ("item", ""), lambda: encode_text(encode_event(event)), operation_id=event.operation_id)


def preview_message(preview: Preview) -> Message:
    """Return the message of a stored preview."""
    return Message("preview", ("preview", ""), lambda: encode_text(encode_preview(preview)), operation_id=preview.operation_id)


def batch_message(batch: BatchSnapshot) -> Message:
    """Return the message of a batch, without its operations."""
    key = ("batch", batch.id)
    return Message("batch", key, lambda: encode_text(encode_batch(batch, operations=False)), batch=batch.id, ended=batch.over)


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
