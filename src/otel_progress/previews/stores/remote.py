"""Preview store at a URL of fsspec: S3, Google Cloud Storage, SFTP and others.

This is the only module that imports fsspec.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from importlib.util import find_spec
from typing import Any, Final
from urllib.parse import urlsplit

from otel_progress.errors import ConfigurationError, MissingExtraError, PreviewError
from otel_progress.previews.media import build_name
from otel_progress.previews.stores.base import MAX_READ_BYTES, foreign_location_error, relative_name
from otel_progress.text import escape_controls, truncate

_PROTOCOLS_WITHOUT_FOLDERS: Final = frozenset(
    {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "memory", "http", "https"}
)


class RemoteStore:
    """Stores content at a URL of fsspec.

    Its library reads credentials and options from the environment, never from the URL. Content
    that no journal deletes stays there. Configure the bucket to expire old objects.
    """

    def __init__(self, url: str) -> None:
        self.base = url.rstrip("/")
        self._protocol = _check_url(self.base)
        self._opened: tuple[int, Any] | None = None

    def write(self, run: str, digest: str, media_type: str, content: bytes) -> str:
        """Store content."""
        location = f"{self.base}/{build_name(run, digest, media_type)}"
        filesystem = self._get_filesystem()
        path = filesystem._strip_protocol(location)
        if self._protocol not in _PROTOCOLS_WITHOUT_FOLDERS:
            filesystem.makedirs(filesystem._parent(path), exist_ok=True)
        filesystem.pipe_file(path, content)
        return location

    def read(self, location: str) -> bytes:
        """Return content."""
        if relative_name(self.base, location) is None:
            raise foreign_location_error(location)
        filesystem = self._get_filesystem()
        try:
            path = filesystem._strip_protocol(location)
            return bytes(filesystem.cat_file(path, start=0, end=MAX_READ_BYTES))
        except FileNotFoundError as error:
            raise PreviewError("the preview is no longer stored") from error

    def delete(self, locations: Iterable[str]) -> int:
        """Delete content."""
        own = {location for location in locations if relative_name(self.base, location) is not None}
        filesystem = self._get_filesystem() if own else None
        deleted = 0
        for location in own:
            with suppress(FileNotFoundError):
                filesystem.rm_file(filesystem._strip_protocol(location))  # type: ignore[union-attr]
                deleted += 1
        return deleted

    def touch(self, runs: Iterable[str]) -> None:
        """Do nothing, like :meth:`sweep`."""

    def sweep(self, before: float) -> int:
        """Do nothing. Listing a bucket costs money, and its own rules expire old objects."""
        del before
        return 0

    def _get_filesystem(self) -> Any:
        """Return the file system.

        A forked child creates its own connections and event loop.
        """
        if self._opened is None or self._opened[0] != os.getpid():
            from fsspec.core import url_to_fs  # type: ignore[import-untyped]

            self._opened = (os.getpid(), url_to_fs(self.base, skip_instance_cache=True)[0])
        return self._opened[1]


def _check_url(url: str) -> str:
    """Return the protocol of a supported URL.

    Raises ConfigurationError or MissingExtraError.
    """
    protocol = url.partition("://")[0].lower()
    try:
        from fsspec.registry import known_implementations, registry  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingExtraError(f"Storing previews at a {protocol} URL", "previews") from error
    shown = escape_controls(truncate(url.rpartition("@")[2], 200))
    known: dict[str, Any] = {**known_implementations, **registry}
    if protocol not in known:
        msg = f"Invalid preview location {shown!r}: expected a folder, or a URL such as s3://bucket/previews."
        raise ConfigurationError(msg)
    try:
        parts = urlsplit(url)
        has_password = parts.password is not None
    except ValueError:
        parts, has_password = urlsplit(""), True
    if has_password or parts.query or parts.fragment:
        msg = (
            f"Invalid preview location {shown.partition('?')[0]!r}: expected a URL of scheme, host and path, "
            "without password, ? or #. The URL is stored with every preview. "
            "Set the credentials in the environment of its library."
        )
        raise ConfigurationError(msg)
    implementation = known[protocol]
    module = str(implementation["class"]).partition(".")[0] if isinstance(implementation, dict) else "fsspec"
    if find_spec(module) is None:
        msg = (
            f"Previews at a {protocol} URL need the package {module}, which is not installed. "
            f"Install it with: pip install {module}"
        )
        raise ConfigurationError(msg)
    return protocol
