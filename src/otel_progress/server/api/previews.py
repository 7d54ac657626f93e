"""The previews of an operation: a list of them, and their content, which a browser is told to treat as nothing but what it is."""

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
from otel_progress.records import Preview
from otel_progress.server.api.parameters import MAX_NUMBER, Cursor, OperationId, PathBelow, Records
from otel_progress.server.pagination import PREVIEWS, page_of_records
from otel_progress.server.problems import Problem
from otel_progress.server.state import AppState, AppStateDep
from otel_progress.server.static import matches

MOST: Final = 10_000
"""Previews of an operation that are looked through for one."""


_SAFE: Final = {
    "Content-Security-Policy": "sandbox; default-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "cross-origin",  # dashboards elsewhere show them; who may ask is decided by the token
}


_FOREVER: Final = "private, max-age=31536000, immutable"


_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


async def list_previews(
    services: AppStateDep,
    operation_id: OperationId,
    path: PathBelow = None,
    limit: Records = 100,
    cursor: Cursor = None,
) -> Response:
    """List previews of an operation: the newest ones, oldest first; `next` leads to older ones.

    The `url` of each leads to its content, which never changes under it.
    """

    def ask(upto: int | None, most: int) -> Sequence[Preview]:
        return services.reader.previews(operation_id, path=path or None, upto=upto, limit=most)

    def read() -> Document:
        run = services.find(operation_id).run
        found, following = page_of_records(PREVIEWS, ask, run, limit, cursor)
        return {"schema": SCHEMA, "previews": [_document(preview) for preview in found], "next": following}

    return await services.answer(read)


async def get_preview(
    request: Request,
    services: AppStateDep,
    operation_id: OperationId,
    number: Annotated[int, Path(ge=0, le=MAX_NUMBER, description="Number of the preview.")],
    digest: Annotated[
        str | None,
        Query(
            description="SHA-256 of the content: only this very content, which may be kept for ever.",
            pattern="^[0-9a-f]{64}$",
        ),
    ] = None,
) -> Response:
    """Return a preview of the newest run of an operation: a picture, a text, or JSON.

    It has an ETag; with `digest`, as in the `url` of the list, it may be kept for ever.
    """
    known = request.headers.get("if-none-match")

    def read() -> tuple[Preview, bytes | None]:
        services.find(operation_id)
        preview = _find(services, operation_id, number, digest)
        return preview, None if matches(known, f'"{preview.digest}"') else _content(services, preview)

    preview, content = await services.asking.run(read)
    headers = {
        **_SAFE,
        "ETag": f'"{preview.digest}"',
        "Cache-Control": _FOREVER if digest else "private, no-cache",
    }
    if content is None:
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    headers["Content-Disposition"] = f'inline; filename="preview-{number}.{SUFFIXES[preview.media_type]}"'
    headers["Content-Type"] = preview.media_type
    return Response(content, headers=headers)


def _document(preview: Preview) -> Document:
    address = build_preview_url("/", preview.operation_id, preview.number).removeprefix("/")
    return {**encode_preview(preview), "url": f"{address}?digest={preview.digest}" if address else None}


def _find(services: AppState, operation_id: str, number: int, digest: str | None) -> Preview:
    previews = services.reader.previews(operation_id, limit=MOST)
    found = next((preview for preview in previews if preview.number == number), None)
    if found is None:
        newest = f"the last one is {previews[-1].number}" if previews else "it has none"
        raise Problem(
            404, f"There is no preview {number} of this operation, or it made room for others: {newest}."
        )
    if digest is not None and digest != found.digest:
        raise Problem(410, f"Preview {number} is of another run now: list the previews again.")
    if found.media_type not in SUFFIXES or not _DIGEST.fullmatch(found.digest):
        raise Problem(410, "What was recorded of this preview cannot be used.")
    return found


def _content(services: AppState, preview: Preview) -> bytes:
    """Return the content of a preview as it was stored, and nothing that somebody put into its place."""
    store = services.previews
    if store is None or relative_name(store.base, preview.location) is None:
        raise Problem(
            404,
            "This server does not know the place of the preview: start it with the same OTEL_PROGRESS_PREVIEWS as the work.",
        )
    try:
        return read_checked(store, preview)
    except PreviewError as error:
        raise Problem(410, f"The content of this preview cannot be shown: {error}.") from None
    except Exception as error:  # whatever a library of another's storage raises
        raise Problem(
            503,
            f"The place of the previews does not answer ({type(error).__name__}).",
            headers={"Retry-After": "5"},
        ) from error
