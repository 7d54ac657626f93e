"""One operation as a document, as lines or as a table, for other programs: text that goes through any pipe."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

from otel_progress.codec import SCHEMA, dumps, encode_event, encode_level, encode_operation
from otel_progress.operations import Event, OperationSnapshot
from otel_progress.text import escape_controls

_UNSEEN: Final = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
"""Characters JSON may hold as they are, and a terminal should not see. They are in strings only, where an escape is the same."""


_COLUMNS: Final = (
    "operation_id",
    "operation_type",
    "run",
    "path",
    "type",
    "id",
    "name",
    "status",
    "ratio",
    "percentage",
    "current",
    "total",
    "unit",
    "failed",
    "skipped",
    "attempt",
    "message",
    "started_at",
    "ended_at",
    "elapsed_seconds",
    "trace_id",
    "span_id",
)


_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


Exporter: TypeAlias = "Callable[[OperationSnapshot, Sequence[Event]], Iterator[str]]"
"""Yields the lines of an export, without their ends."""


def as_json(document: object) -> str:
    """Return JSON in one line; numbers it does not have (another process may have written NaN) become null.

    Every encoder of UTF-8 takes the text, and no terminal is harmed by it.
    """
    try:
        text = dumps(document)
    except ValueError:
        text = dumps(_finite(document))
    return _UNSEEN.sub(lambda match: f"\\u{ord(match.group()):04x}", text)


def as_document(operation: OperationSnapshot, events: Sequence[Event]) -> Iterator[str]:
    """Yield one JSON document: the operation with its levels and ``events``."""
    yield as_json({**encode_operation(operation), "events": [encode_event(event) for event in events]})


def as_lines(operation: OperationSnapshot, events: Sequence[Event]) -> Iterator[str]:
    """Yield a JSON document each for the operation, each level and each event; ``record`` says which."""
    yield as_json({"record": "operation", **encode_operation(operation, levels=False)})
    for level in operation.levels:
        yield as_json({"record": "level", "schema": SCHEMA, **encode_level(level, operation.clock)})
    for event in events:
        yield as_json({"record": "event", "schema": SCHEMA, **encode_event(event)})


def as_rows(operation: OperationSnapshot, events: Sequence[Event]) -> Iterator[str]:
    """Yield CSV (RFC 4180) records; ``events`` have no place in a table of levels."""
    del events
    yield _record([*_COLUMNS, "error_type", "error_message", "metadata"])
    for level in (operation.root, *operation.levels):
        document = encode_level(level, operation.clock)
        error = document["error"] or {"type": None, "message": None}
        metadata = as_json(document["metadata"]) if document["metadata"] else None
        yield _record([*(document[name] for name in _COLUMNS), error["type"], error["message"], metadata])


EXPORTERS: Final[Mapping[str, Exporter]] = {"json": as_document, "jsonl": as_lines, "csv": as_rows}
"""Exporters by the name of their format."""


def _record(values: Sequence[Any]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="").writerow([_cell(value) for value in values])
    return buffer.getvalue()


def _cell(value: Any) -> Any:
    """Return what stands in a cell: text on one line that no spreadsheet runs (OWASP, CSV injection); numbers as they are."""
    if not isinstance(value, str):
        return value
    text = escape_controls(value)
    return f"'{text}" if value.lstrip(" ").startswith(_FORMULA) else text


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    return [_finite(entry) for entry in value] if isinstance(value, (list, tuple)) else value
