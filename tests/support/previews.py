"""Previews in tests: created by a level and read from storage."""

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
"""Deadline for waits, generous because the machine may be busy."""


def settle(recorder: Recorder) -> None:
    """Wait until everything offered has been dealt with."""
    assert recorder.runtime._previews is not None
    assert recorder.runtime._previews.flush(PATIENCE_S)


def outcomes(recorder: Recorder) -> dict[str, Any]:
    """Return the number of previews by outcome."""
    settle(recorder)
    return {
        outcome: count
        for (outcome,), count in recorder.runtime._totals.read().counters.get(semconv.PREVIEWS, {}).items()
    }


def stored(recorder: Recorder, operation_id: str) -> list[Preview]:
    """Return the previews of an operation."""
    settle(recorder)
    return list(recorder.runtime.reader.previews(operation_id))


def content_of(recorder: Recorder, preview: Preview) -> bytes:
    """Return what was stored."""
    assert recorder.runtime._previews is not None
    content = recorder.runtime._previews.store.read(preview.location)
    assert len(content) == preview.size_bytes
    return content


def image_of(recorder: Recorder, preview: Preview) -> Image.Image:
    """Return the stored picture."""
    image = Image.open(BytesIO(content_of(recorder, preview)))
    image.load()
    assert image.size == (preview.width, preview.height)
    return image


def store_one(recorder: Recorder, value: object, **options: Any) -> Preview:
    """Submit one preview in its own operation and return it as stored."""
    with progress.operation("render", total=1) as op:
        op.preview(value, **{"at": "always", **options})
        found = stored(recorder, op.operation_id)
    assert len(found) == 1, outcomes(recorder)
    return found[0]


def shown(recorder: Recorder, value: object) -> Image.Image:
    """Submit one picture and return it as stored."""
    return image_of(recorder, store_one(recorder, value))


def json_of(recorder: Recorder, preview: Preview) -> Any:
    """Return the stored JSON."""
    return json.loads(content_of(recorder, preview))


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    """Return a picture as bytes."""
    buffer = BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()
