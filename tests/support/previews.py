"""Previews in tests: offered by a level as applications do, and looked at as they were stored."""

from __future__ import annotations

import json
from io import BytesIO
from typing import Any

from PIL import Image

import otel_progress as progress
from otel_progress import semconv
from otel_progress.records import Preview
from otel_progress.testing import Recorder

PATIENCE_S = 60.0
"""How long anything may take that is waited for: far longer than it does, as the machine may be busy."""


def settle(recorder: Recorder) -> None:
    """Wait until everything offered has been dealt with."""
    assert recorder.runtime.previewer is not None
    assert recorder.runtime.previewer.flush(PATIENCE_S)


def outcomes(recorder: Recorder) -> dict[str, Any]:
    """Return how many previews became what."""
    settle(recorder)
    return {
        outcome: count
        for (outcome,), count in recorder.runtime.totals.read().counters.get(semconv.PREVIEWS, {}).items()
    }


def stored(recorder: Recorder, operation_id: str) -> list[Preview]:
    """Return the previews of an operation."""
    settle(recorder)
    return list(recorder.runtime.reader.previews(operation_id))


def content_of(recorder: Recorder, preview: Preview) -> bytes:
    """Return what was stored."""
    assert recorder.runtime.previewer is not None
    content = recorder.runtime.previewer.store.read(preview.location)
    assert len(content) == preview.size_bytes
    return content


def image_of(recorder: Recorder, preview: Preview) -> Image.Image:
    """Return the picture that was stored."""
    image = Image.open(BytesIO(content_of(recorder, preview)))
    image.load()
    assert image.size == (preview.width, preview.height)
    return image


def one(recorder: Recorder, value: object, **options: Any) -> Preview:
    """Offer one preview in an operation of its own, and return it as it was stored."""
    with progress.operation("render", total=1) as op:
        op.preview(value, **{"at": "always", **options})
        found = stored(recorder, op.operation_id)
    assert len(found) == 1, outcomes(recorder)
    return found[0]


def shown(recorder: Recorder, value: object) -> Image.Image:
    """Offer one picture and return it as it was stored."""
    return image_of(recorder, one(recorder, value))


def json_of(recorder: Recorder, preview: Preview) -> Any:
    """Return the JSON that was stored."""
    return json.loads(content_of(recorder, preview))


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    """Return a picture as bytes."""
    buffer = BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()
