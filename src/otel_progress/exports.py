"""Export formats of an operation: JSON, JSON lines and CSV."""

from __future__ import annotations

import csv
import io
import math
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

from otel_progress.codec import SCHEMA, dumps, encode_event, encode_levels, encode_operation
from otel_progress.model import LevelCounts
from otel_progress.operations import Event, OperationSnapshot
from otel_progress.text import escape_controls

_UNSAFE: Final = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
"""Characters that JSON allows unescaped but that may harm a terminal. They occur only in strings,
where an escape has the same meaning.
"""


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


_EVICTED_COLUMNS: Final = tuple(f"evicted_{status}" for status in LevelCounts._fields)
"""Numbers of the ended levels directly below that have no row."""


_FORMULA_PREFIXES: Final = ("=", "+", "-", "@", "|", "%", "\t", "\r", "\n")
"""First characters of a cell that spreadsheets run as a formula."""


_IGNORED_CATEGORIES: Final = frozenset({"Cc", "Cf", "Cn", "Co", "Mn", "Me", "Zs", "Zl", "Zp"})
"""Categories of characters that spreadsheets may ignore in front of a formula: spaces, zero-width
and control characters, and marks.
"""


_MINUS_SIGNS: Final = frozenset("\u2010\u2011\u2012\u2013\u2212")
"""Characters that spreadsheets may read as a minus."""


Exporter: TypeAlias = "Callable[[OperationSnapshot, Sequence[Event]], Iterator[str]]"
"""Yields the lines of an export without line ends."""


def encode_json_line(document: object) -> str:
    """Encode a document as one line of JSON that is safe for any terminal.

    Numbers that are not finite become null. Another process may have written them.
    """
    try:
        text = dumps(document)
    except ValueError:
        text = dumps(_replace_non_finite(document))
    return _UNSAFE.sub(lambda match: f"\\u{ord(match.group()):04x}", text)


def export_document(operation: OperationSnapshot, events: Sequence[Event]) -> Iterator[str]:
    """Yield one JSON document: the operation with its levels and events."""
    yield encode_json_line(
        {**encode_operation(operation), "events": [encode_event(event) for event in events]}
    )


def export_json_lines(operation: OperationSnapshot, events: Sequence[Event]) -> Iterator[str]:
    """Yield one JSON document per operation, level and event.

    The field ``record`` has the kind of the document.
    """
    root, *levels = encode_levels(operation, (operation.root, *operation.levels))
    document = encode_operation(operation, levels=False)
    document["evicted_levels"] = root["evicted_levels"]
    yield encode_json_line({"record": "operation", **document})
    for level in levels:
        yield encode_json_line({"record": "level", "schema": SCHEMA, **level})
    for event in events:
        yield encode_json_line({"record": "event", "schema": SCHEMA, **encode_event(event)})


def export_csv(operation: OperationSnapshot, events: Sequence[Event]) -> Iterator[str]:
    """Yield one CSV record (RFC 4180) per level. Events are not included."""
    del events
    yield _encode_record([*_COLUMNS, "error_type", "error_message", "metadata", *_EVICTED_COLUMNS])
    for document in encode_levels(operation, (operation.root, *operation.levels)):
        error = document["error"] or {"type": None, "message": None}
        metadata = encode_json_line(document["metadata"]) if document["metadata"] else None
        evicted = (document["evicted_levels"].get(status, 0) for status in LevelCounts._fields)
        yield _encode_record(
            [*(document[name] for name in _COLUMNS), error["type"], error["message"], metadata, *evicted]
        )


EXPORTERS: Final[Mapping[str, Exporter]] = {
    "json": export_document,
    "jsonl": export_json_lines,
    "csv": export_csv,
}
"""Exporters by format name."""


def _encode_record(values: Sequence[Any]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="").writerow([_escape_cell(value) for value in values])
    return buffer.getvalue()


def _escape_cell(value: Any) -> Any:
    """Return a cell value: text on one line that spreadsheets do not run as a formula.

    See OWASP, CSV injection. Numbers are returned unchanged.
    """
    if not isinstance(value, str):
        return value
    text = escape_controls(value)
    return f"'{text}" if _is_formula(value) else text


def _is_formula(text: str) -> bool:
    """Return whether a spreadsheet may run a cell as a formula.

    Why NFKC: spreadsheets accept full-width and small forms such as ``＝`` like ``=``.
    """
    if text.startswith(_FORMULA_PREFIXES):
        return True
    first = next((sign for sign in text if unicodedata.category(sign) not in _IGNORED_CATEGORIES), "")
    return unicodedata.normalize("NFKC", first).startswith(_FORMULA_PREFIXES) or first in _MINUS_SIGNS


def _replace_non_finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _replace_non_finite(entry) for key, entry in value.items()}
    return [_replace_non_finite(entry) for entry in value] if isinstance(value, (list, tuple)) else value
