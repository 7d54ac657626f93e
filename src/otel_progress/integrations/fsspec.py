"""Callback of fsspec for transfers with any of its file systems."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from otel_progress.integrations.transfer import Transfer, find_parent, get_url_name

if TYPE_CHECKING:
    from types import TracebackType

    from otel_progress.instrument.level import Level

try:
    from fsspec import Callback  # type: ignore[import-untyped]
except ImportError as error:
    _message = "otel_progress.integrations.fsspec needs fsspec. Install it with: pip install fsspec"
    raise ImportError(_message) from error

T = TypeVar("T")


class ProgressCallback(Callback):  # type: ignore[misc]
    """Callback that records a transfer as a level with a child per file.

    ``with ProgressCallback("dataset") as callback: fs.get(source, target, callback=callback)``.
    ``name`` is a display name, ``type`` the kind of the level, and further arguments are metadata.
    The level is a child of the level that is current when the callback is created.

    A recursive transfer counts files, and directories if the file system counts them. A transfer
    of one file with ``get_file`` or ``put_file`` counts bytes. The level ends when its block ends,
    by :meth:`close`, or when all files were transferred. It fails if an exception leaves the block.
    Use a callback for one transfer. Any thread may use it. Never raises.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        type: str = "transfer",
        size: int | None = None,
        hooks: dict[str, Any] | None = None,
        **metadata: object,
    ) -> None:
        super().__init__(size=size, hooks=hooks)
        self._name = name
        self._type = type
        self._metadata = metadata
        self._parent: Level | None = find_parent()
        self._transfer: Transfer | None = None
        self._counts_files = False
        self._has_failed_file = False

    def _start(self, unit: str = "B") -> Transfer:
        transfer = self._transfer
        if transfer is None:
            transfer = self._transfer = Transfer(
                self._type,
                self._name,
                total=self.size if isinstance(self.size, int) and self.size >= 0 else None,
                unit=unit,
                parent=self._parent,
                metadata=self._metadata,
            )
            self._counts_files = unit == "file"
        return transfer

    def set_size(self, size: int | None) -> None:
        """Set the number of files or bytes in all. None makes it unknown."""
        super().set_size(size)
        # Why not here: the first call after it shows whether files or bytes are counted.
        if self._transfer is not None:
            self._transfer.set_total(size)

    def relative_update(self, inc: int = 1) -> None:
        """Count ``inc`` more files or bytes. A negative number is ignored."""
        super().relative_update(inc)
        transfer = self._start()
        if inc > 0:
            transfer.add(inc)
        # Why: fsspec does not close the callback, and it counts a file that failed.
        if self._counts_files and transfer.has_reached_total and not self._has_failed_file:
            transfer.end()

    def absolute_update(self, value: int) -> None:
        """Set the number of files or bytes."""
        super().absolute_update(value)
        self._start().set_done(value)

    def wrap(self, iterable: Iterable[T]) -> Iterator[T]:
        """Yield the elements, which are files, and count each one when it is done."""
        self._start("file")
        for element in iterable:
            yield element
            self.relative_update()

    def branched(self, path_1: object, path_2: object, **kwargs: object) -> ProgressCallback:
        """Return the callback of one file, as a level below this one."""
        return _FileCallback(path_1, self, self._start("file").level)

    def branch(self, path_1: object, path_2: object, kwargs: dict[str, Any]) -> None:
        """Add the callback of one file to the arguments of its transfer.

        Older versions of fsspec call it.
        """
        kwargs["callback"] = self.branched(path_1, path_2)

    def branch_coro(self, fn: Any) -> Any:
        """Return a coroutine function that transfers one file with a callback of its own."""
        # Why: the number of files is known now, and the first file may be done before another one.
        self._start("file")
        return super().branch_coro(fn)

    def close(self) -> None:
        """End the level as completed."""
        super().close()
        if self._transfer is not None:
            self._transfer.end()

    def __enter__(self) -> ProgressCallback:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self._start().end(error)
        self.close()


class _FileCallback(ProgressCallback):
    """Callback of one file of a transfer. Its level starts at once and counts bytes."""

    def __init__(self, path: object, owner: ProgressCallback, parent: Level) -> None:
        super().__init__(get_url_name(path), type="file")
        self._owner = owner
        self._parent = parent
        self._start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self._owner._has_failed_file = True
        super().__exit__(kind, error, traceback)
