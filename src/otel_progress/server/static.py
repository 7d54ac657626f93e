"""The files of the page, from a fixed table: a request names an entry of it, and never a path of the file system."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from pathlib import Path
from types import MappingProxyType
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from otel_progress.server.problems import Problem

_DIRECTORY: Final = Path(__file__).parent / "page"
_TYPES: Final[Mapping[str, str]] = MappingProxyType(
    {
        ".html": "text/html; charset=utf-8",
        ".css": "text/css; charset=utf-8",
        ".js": "text/javascript; charset=utf-8",
        ".ts": "text/plain; charset=utf-8",
        ".svg": "image/svg+xml",
        ".png": "image/png",
        ".ico": "image/x-icon",
        ".webmanifest": "application/manifest+json",
    }
)


@dataclass(frozen=True, slots=True)
class StaticFile:
    """A file in memory, with its type and ETag."""

    content: bytes
    media_type: str
    tag: str


@lru_cache(maxsize=1)
def page_files() -> Mapping[str, StaticFile]:
    """Return the files of the page by their path below it, read once a process."""
    found = sorted(path for path in _DIRECTORY.rglob("*") if path.suffix in _TYPES and path.is_file())
    return MappingProxyType({path.relative_to(_DIRECTORY).as_posix(): _read(path) for path in found})


def answer_file(
    request: Request, name: str, *, status: int = HTTPStatus.OK, headers: Mapping[str, str] | None = None
) -> Response:
    """Return a file of the table, or 304 when the client has it. Raises Problem (404) when there is none of that name."""
    file = page_files().get(name)
    if file is None:
        raise Problem(404, "There is no such file of the page.")
    given = {"ETag": file.tag, "Cache-Control": "no-cache", **(headers or {})}
    if status == HTTPStatus.OK and matches(request.headers.get("if-none-match"), file.tag):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=given)
    return Response(file.content, status, headers=given, media_type=file.media_type)


def matches(condition: str | None, tag: str) -> bool:
    """Tell whether an If-None-Match header names an ETag, compared weakly (RFC 9110, 13.1.2)."""
    if condition is None:
        return False
    names = {name.strip().removeprefix("W/") for name in condition.split(",")}
    return "*" in names or tag.removeprefix("W/") in names


def _read(path: Path) -> StaticFile:
    content = path.read_bytes()
    return StaticFile(content, _TYPES[path.suffix], f'"{hashlib.sha256(content).hexdigest()[:32]}"')
