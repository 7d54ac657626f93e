"""Callback of boto3 for one transfer, and subscriber of s3transfer for many."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from otel_progress.integrations.transfer import Transfer, find_parent, get_url_name

if TYPE_CHECKING:
    from types import TracebackType

    from otel_progress.instrument.level import Level

try:
    from s3transfer.subscribers import BaseSubscriber  # type: ignore[import-untyped]
except ImportError as error:
    _message = "otel_progress.integrations.s3 needs s3transfer. Install it with: pip install boto3"
    raise ImportError(_message) from error


class ProgressCallback:
    """Callback of one transfer of boto3, as a level that counts bytes.

    ``with ProgressCallback(key, total=size) as callback:
    client.upload_file(path, bucket, key, Callback=callback)``. boto3 does not report the size, so
    pass ``total`` if you know it: ``os.path.getsize(path)``, or ``ContentLength`` of
    ``client.head_object``. ``type`` is the kind of the level, and further arguments are metadata.

    The level starts at once, as a child of the current level. It ends with the block, and fails if
    an exception leaves it. boto3 calls the callback in several threads. Never raises.
    """

    def __init__(
        self, name: str | None = None, *, type: str = "transfer", total: int | None = None, **metadata: object
    ) -> None:
        self._bytes = _RetriedBytes(Transfer(type, get_url_name(name), total=total, metadata=metadata))

    def __call__(self, bytes_transferred: int) -> None:
        """Count bytes. A negative number announces that a part is sent again."""
        self._bytes.add(bytes_transferred)

    def close(self) -> None:
        """End the level as completed."""
        self._bytes.transfer.end()

    def __enter__(self) -> ProgressCallback:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bytes.transfer.end(error)


class ProgressSubscriber(BaseSubscriber):  # type: ignore[misc]
    """Subscriber of s3transfer that records each transfer as a level.

    ``manager.upload(path, bucket, key, subscribers=[subscriber])``. One subscriber serves any
    number of transfers. Each level is named by the key of the object. It ends when its transfer is
    done, and fails if the transfer failed.

    The levels are children of the level that is current when the subscriber is created. s3transfer
    calls it in several threads. Never raises.
    """

    def __init__(self, *, type: str = "transfer", **metadata: object) -> None:
        self._type = type
        self._metadata = metadata
        self._parent: Level | None = find_parent()
        self._active: dict[Any, _RetriedBytes] = {}
        """Running transfers by the metadata of their futures."""
        self._lock = threading.Lock()

    def on_queued(self, future: Any, **kwargs: object) -> None:
        """Start the level of a transfer."""
        self._get_bytes(future)

    def on_progress(self, future: Any, bytes_transferred: int, **kwargs: object) -> None:
        """Count bytes. The size is known from the first ones on."""
        counted = self._get_bytes(future)
        if counted.transfer.total is None and future.meta.size is not None:
            counted.transfer.set_total(future.meta.size)
        counted.add(bytes_transferred)

    def on_done(self, future: Any, **kwargs: object) -> None:
        """End the level of a transfer: completed, failed or cancelled."""
        counted = self._get_bytes(future)
        with self._lock:
            self._active.pop(future.meta, None)
        try:
            future.result()
        except Exception as error:  # that of the transfer, which its caller receives
            counted.transfer.end(error)
        else:
            counted.transfer.end()

    def _get_bytes(self, future: Any) -> _RetriedBytes:
        with self._lock:
            counted = self._active.get(future.meta)
            if counted is None:
                counted = self._active[future.meta] = self._start(future.meta)
            return counted

    def _start(self, meta: Any) -> _RetriedBytes:
        name = getattr(meta.call_args, "key", None)
        total = meta.size
        return _RetriedBytes(
            Transfer(
                self._type, get_url_name(name), total=total, parent=self._parent, metadata=self._metadata
            )
        )


class _RetriedBytes:
    """Counter of bytes that may be sent again. Repeated bytes count once."""

    __slots__ = ("_lock", "_repeated", "transfer")

    def __init__(self, transfer: Transfer) -> None:
        self.transfer = transfer
        self._lock = threading.Lock()
        self._repeated = 0
        """Bytes that were counted and will be sent again."""

    def add(self, size: int) -> None:
        if not isinstance(size, int):
            return
        with self._lock:
            if size < 0:
                self._repeated -= size
                return
            repeated = min(self._repeated, size)
            self._repeated -= repeated
            if size > repeated:
                self.transfer.add(size - repeated)
