"""What a preview can be once it is made: five media types, and the names under which content is stored. Pure."""

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
"""Every media type there is, with what its files end in. Nothing else is ever stored or served."""


FORMATS: Final[Mapping[str, str]] = MappingProxyType({"png": PNG, "webp": WEBP, "jpeg": JPEG})
"""What pictures can be encoded as, by the name in the settings."""


_RUN: Final = re.compile(r"[0-9a-f]{8,64}")


_NAME: Final = re.compile(r"[0-9a-f]{8,64}/[0-9a-f]{64}\.(?:png|webp|jpg|txt|json)")


@dataclass(frozen=True, slots=True)
class RenderedPreview:
    """A preview ready to be stored; ``width`` and ``height`` are pixels, None for texts."""

    media_type: str
    content: bytes
    width: int | None = None
    height: int | None = None

    @property
    def digest(self) -> str:
        """SHA-256 of the content, in hexadecimal."""
        return hashlib.sha256(self.content).hexdigest()


def folder_of(run: str) -> str:
    """Return the folder of a run: its id, or a digest of one that is not as this package makes them."""
    return run if _RUN.fullmatch(run) else hashlib.sha256(run.encode("utf-8", "backslashreplace")).hexdigest()


def name_of(run: str, digest: str, media_type: str) -> str:
    """Return the name of content below the base of a store: ``run/digest.suffix``."""
    return f"{folder_of(run)}/{digest}.{SUFFIXES[media_type]}"


def is_name(text: str) -> bool:
    """Tell whether a text is a name as :func:`name_of` makes them: with no way out of the base it stands below."""
    return _NAME.fullmatch(text) is not None


def is_folder(text: str) -> bool:
    """Tell whether a text is the name of a run's folder."""
    return _RUN.fullmatch(text) is not None


MAX_ADDRESS: Final = 2048
"""Longest address, in characters; beyond that browsers and proxies refuse it, so it is left out."""


def address_of(base: str | None, operation_id: str, number: object) -> str:
    """Return the address of a preview of the newest run of an operation under ``base``; empty when there is none or it is not known."""
    if not base or type(number) is not int or number < 1 or len(operation_id) > MAX_ADDRESS:
        return ""
    address = f"{base.rstrip('/')}/api/v1/operations/{quote(operation_id, safe='', errors='replace')}/previews/{number}"
    return address if len(address) <= MAX_ADDRESS and address.isprintable() else ""
