"""Previews at any URL that fsspec knows: S3, Google Cloud Storage, SFTP and the rest. The only module that imports fsspec."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from importlib.util import find_spec
from typing import Any, Final
from urllib.parse import urlsplit

from otel_progress.errors import ConfigurationError, MissingExtraError, PreviewError
from otel_progress.previews.media import name_of
from otel_progress.previews.stores.base import LARGEST, foreign_location_error, relative_name
from otel_progress.text import escape_controls, truncate

_NO_FOLDERS: Final = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "memory", "http", "https"})
"""Where a name needs no folder to be made first."""


class RemoteStore:
    """A URL of fsspec. Credentials and options come from where its library takes them, never from the URL.

    Content that no journal deletes stays: give a bucket a rule that expires what is old.
    """

    def __init__(self, url: str) -> None:
        self.base = url.rstrip("/")
        self._protocol = _checked(self.base)
        self._opened: tuple[int, Any] | None = None

    def write(self, run: str, digest: str, media_type: str, content: bytes) -> str:
        """Keep content."""
        location = f"{self.base}/{name_of(run, digest, media_type)}"
        system = self._system()
        path = system._strip_protocol(location)
        if self._protocol not in _NO_FOLDERS:
            system.makedirs(system._parent(path), exist_ok=True)
        system.pipe_file(path, content)
        return location

    def read(self, location: str) -> bytes:
        """Return content."""
        if relative_name(self.base, location) is None:
            raise foreign_location_error(location)
        system = self._system()
        try:
            return bytes(system.cat_file(system._strip_protocol(location), start=0, end=LARGEST))
        except FileNotFoundError as error:
            raise PreviewError("the preview is no longer kept") from error

    def delete(self, locations: Iterable[str]) -> int:
        """Forget content."""
        own = {location for location in locations if relative_name(self.base, location) is not None}
        system = self._system() if own else None
        deleted = 0
        for location in own:
            with suppress(FileNotFoundError):
                system.rm_file(system._strip_protocol(location))  # type: ignore[union-attr]
                deleted += 1
        return deleted

    def touch(self, runs: Iterable[str]) -> None:
        """Do nothing: see :meth:`sweep`."""

    def sweep(self, before: float) -> int:
        """Do nothing: listing a bucket costs money, and its own rules expire what is old."""
        del before
        return 0

    def _system(self) -> Any:
        """Return the file system; another one after a fork, which connections and event loops do not survive."""
        if self._opened is None or self._opened[0] != os.getpid():
            from fsspec.core import url_to_fs  # type: ignore[import-untyped]

            self._opened = (os.getpid(), url_to_fs(self.base, skip_instance_cache=True)[0])
        return self._opened[1]


def _checked(url: str) -> str:
    """Return the protocol of a URL that can be used here. Raises ConfigurationError or MissingExtraError."""
    protocol = url.partition("://")[0].lower()
    try:
        from fsspec.registry import known_implementations, registry  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingExtraError(f"Keeping previews at a {protocol} URL", "previews") from error
    shown = escape_controls(truncate(url.rpartition("@")[2], 200))
    known: dict[str, Any] = {**known_implementations, **registry}
    if protocol not in known:
        msg = f"The place for previews {shown!r} is of no kind that is known: expected a folder, or a URL such as s3://bucket/previews"
        raise ConfigurationError(msg)
    try:
        parts = urlsplit(url)
        has_password = parts.password is not None
    except ValueError:
        parts, has_password = urlsplit(""), True
    if has_password or parts.query or parts.fragment:
        msg = (
            f"The place for previews (at {shown.partition('?')[0]!r}) has a password, ? or # in its URL, which would be stored with every "
            "preview: expected scheme, host and path; credentials come from the environment of its library"
        )
        raise ConfigurationError(msg)
    implementation = known[protocol]
    module = str(implementation["class"]).partition(".")[0] if isinstance(implementation, dict) else "fsspec"
    if find_spec(module) is None:
        msg = f"Previews at a {protocol} URL need the package {module}, which is not installed. Install it with: pip install {module}"
        raise ConfigurationError(msg)
    return protocol
