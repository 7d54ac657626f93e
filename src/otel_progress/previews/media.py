"""Media types of previews, and names and URLs of their content. Pure functions."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final
from urllib.parse import quote

PNG: Final = "image/png"


WEBP: Final = "image/webp"


JPEG: Final = "image/jpeg"


TEXT: Final = "text/plain; charset=utf-8"


JSON: Final = "application/json"


SUFFIXES: Final[Mapping[str, str]] = MappingProxyType(
    {PNG: "png", WEBP: "webp", JPEG: "jpg", TEXT: "txt", JSON: "json"}
)
"""All media types with their file suffixes. No other type is stored or served."""


FORMATS: Final[Mapping[str, str]] = MappingProxyType({"png": PNG, "webp": WEBP, "jpeg": JPEG})
"""Formats of encoded images, by their names in the settings."""


_RUN: Final = re.compile(r"[0-9a-f]{8,64}")


_NAME: Final = re.compile(r"[0-9a-f]{8,64}/[0-9a-f]{64}\.(?:png|webp|jpg|txt|json)")


@dataclass(frozen=True, slots=True)
class RenderedPreview:
    """A rendered preview. ``width`` and ``height`` are in pixels, or None for texts."""

    media_type: str
    content: bytes
    width: int | None = None
    height: int | None = None

    @property
    def digest(self) -> str:
        """SHA-256 of the content, in hexadecimal."""
        return hashlib.sha256(self.content).hexdigest()


def get_run_folder(run: str) -> str:
    """Return the folder of a run: its id, or a digest of an id in another format."""
    return run if _RUN.fullmatch(run) else hashlib.sha256(run.encode("utf-8", "backslashreplace")).hexdigest()


def build_name(run: str, digest: str, media_type: str) -> str:
    """Return the name of content below the base of a store: ``run/digest.suffix``."""
    return f"{get_run_folder(run)}/{digest}.{SUFFIXES[media_type]}"


def is_name(text: str) -> bool:
    """Return whether a text is a name from :func:`build_name`.

    It cannot leave the base folder.
    """
    return _NAME.fullmatch(text) is not None


def is_folder(text: str) -> bool:
    """Return whether a text is the name of a run's folder."""
    return _RUN.fullmatch(text) is not None


MAX_ADDRESS: Final = 2048
"""Maximum length of a URL, in characters. Browsers and proxies refuse longer ones, so none is
built.
"""


_UNSAFE_SEGMENTS: Final = frozenset({".", "..", "~"})
"""Ids that a URL cannot contain as a segment of its path."""


def build_preview_url(base: str | None, operation_id: str, number: object) -> str:
    """Return the URL of a preview of the latest run of an operation, below ``base``.

    Return an empty string without a preview or a base URL.
    """
    if not base or type(number) is not int or number < 1 or len(operation_id) > MAX_ADDRESS:
        return ""
    operation, query = quote(operation_id, safe="", errors="replace"), ""
    if operation_id in _UNSAFE_SEGMENTS or "%2F" in operation:
        # Why: clients and proxies normalise such segments, so the id is in the query.
        operation, query = "~", f"?id={operation}"
    url = f"{base.rstrip('/')}/api/v1/operations/{operation}/previews/{number}{query}"
    return url if len(url) <= MAX_ADDRESS and url.isprintable() else ""
