"""Previews of an operation: the list, and the content in a sandbox."""

from __future__ import annotations

import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Annotated, Final

from fastapi import Path, Query
from starlette.requests import Request
from starlette.responses import Response

from otel_progress.codec import SCHEMA, Document, encode_preview
from otel_progress.errors import PreviewError
from otel_progress.previews.media import SUFFIXES, build_preview_url
from otel_progress.previews.stores.base import read_checked, relative_name
from otel_progress.protocols import PreviewQuery
from otel_progress.records import Preview
from otel_progress.server.api.parameters import MAX_NUMBER, Cursor, OperationId, PathBelow, Records
from otel_progress.server.pagination import PREVIEWS, page_of_records
from otel_progress.server.problems import Problem
from otel_progress.server.state import AppState, AppStateDep
from otel_progress.server.static import matches_etag

MAX_SEARCHED: Final = 10_000
"""Newest previews of an operation that are searched for a number. Older ones are not found."""


_SANDBOX_HEADERS: Final = {
    "Content-Security-Policy": "sandbox; default-src 'none'",
    "X-Content-Type-Options": "nosniff",
}


_IMMUTABLE: Final = "private, max-age=31536000, immutable"


_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


async def list_previews(
    services: AppStateDep,
    operation_id: OperationId,
    path: PathBelow = None,
    limit: Records = 100,
    cursor: Cursor = None,
) -> Response:
    """List previews of an operation: the newest ones, oldest first.

    `next` is the cursor of older ones.

    `url` is the address of the content, which never changes.
    """

    def fetch(max_number: int | None, count: int) -> Sequence[Preview]:
        return services.reader.previews(operation_id, PreviewQuery(path, max_number, count))

    def read() -> Document:
        run = services.find(operation_id).run
        previews, next_cursor = page_of_records(PREVIEWS, fetch, run, limit, cursor)
        documents = [_encode_preview(preview) for preview in previews]
        return {"schema": SCHEMA, "previews": documents, "next": next_cursor}

    return await services.answer(read)


async def get_preview(
    request: Request,
    services: AppStateDep,
    operation_id: OperationId,
    number: Annotated[int, Path(ge=0, le=MAX_NUMBER, description="Number of the preview.")],
    digest: Annotated[
        str | None,
        Query(
            description="SHA-256 of the content. With it the response can be cached permanently.",
            pattern="^[0-9a-f]{64}$",
        ),
    ] = None,
) -> Response:
    """Return a preview of the newest run of an operation: an image, a text, or JSON.

    The response has an ETag. With `digest`, as in the `url` of the list, it can be cached
    permanently.
    """
    cached_tags = request.headers.get("if-none-match")

    def read() -> tuple[Preview, bytes | None]:
        services.find(operation_id)
        preview = _find_preview(services, operation_id, number, digest)
        return preview, None if matches_etag(cached_tags, f'"{preview.digest}"') else _read_content(
            services, preview
        )

    preview, content = await services.reader_pool.run(read)
    headers = {
        **_SANDBOX_HEADERS,
        # Why: dashboards show previews. The header cannot name origins, so it allows none or all.
        "Cross-Origin-Resource-Policy": "cross-origin"
        if services.settings.allowed_origins
        else "same-origin",
        "ETag": f'"{preview.digest}"',
        "Cache-Control": _IMMUTABLE if digest else "private, no-cache",
    }
    if content is None:
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    headers["Content-Disposition"] = f'inline; filename="preview-{number}.{SUFFIXES[preview.media_type]}"'
    headers["Content-Type"] = preview.media_type
    return Response(content, headers=headers)


def _encode_preview(preview: Preview) -> Document:
    address = build_preview_url("/", preview.operation_id, preview.number).removeprefix("/")
    separator = "&" if "?" in address else "?"
    url = f"{address}{separator}digest={preview.digest}" if address else None
    return {**encode_preview(preview), "url": url}


def _find_preview(services: AppState, operation_id: str, number: int, digest: str | None) -> Preview:
    previews = services.reader.previews(operation_id, PreviewQuery(limit=MAX_SEARCHED))
    found = next((preview for preview in previews if preview.number == number), None)
    if found is None:
        newest = f"The newest one is {previews[-1].number}." if previews else "The operation has none."
        raise Problem(404, f"Unknown preview {number}: it was never stored, or it was evicted. {newest}")
    if digest is not None and digest != found.digest:
        raise Problem(410, f"Preview {number} now belongs to another run. List the previews again.")
    if found.media_type not in SUFFIXES or not _DIGEST.fullmatch(found.digest):
        raise Problem(410, "Invalid record of this preview: its media type or digest is unknown.")
    return found


def _read_content(services: AppState, preview: Preview) -> bytes:
    """Return the content of a preview.

    Its digest is checked, so that only the stored content is sent.
    """
    store = services.previews
    if store is None or relative_name(store.base, preview.location) is None:
        raise Problem(
            404,
            "Unknown location of the preview. "
            "Start the server with the same OTEL_PROGRESS_PREVIEWS as the process.",
        )
    try:
        return read_checked(store, preview)
    except PreviewError as error:
        raise Problem(410, f"The content of this preview is not available: {error}.") from None
    except Exception as error:
        # Why: the library of a remote store may raise any exception.
        raise Problem(
            503,
            f"The store of the previews does not answer ({type(error).__name__}). Try again later.",
            headers={"Retry-After": "5"},
        ) from error
