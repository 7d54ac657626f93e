"""Requests of the update protocol: validation of what other processes send."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any, Final

from otel_progress.model import Number, Status
from otel_progress.text import MAX_NAME, escape_controls, truncate

MAX_REQUEST_BYTES: Final = 65_536
"""Bytes of a request. A longer one is rejected and its connection closed."""


MAX_PATH_CHARACTERS: Final = 4096
"""Characters of a path. A longer one is rejected."""


ACTIONS: Final = ("update", "start", "end")


_TEXTS: Final = ("path", "message", "type", "id", "name", "unit", "status", "details", "parent")


_NUMBERS: Final = ("current", "total", "increment", "weight")


_ENDS: Final = {
    status.value: status for status in (Status.COMPLETED, Status.FAILED, Status.CANCELLED, Status.SKIPPED)
}


class InvalidRequestError(Exception):
    """The request is invalid or cannot be applied. Its text is the reply."""


@dataclass(frozen=True, slots=True)
class UpdateRequest:
    """A valid request. Values that were not given are None, and texts empty."""

    action: str
    id: str
    parent: str = ""
    path: str = ""
    message: str | None = None
    current: Number | None = None
    total: Number | None = None
    increment: Number | None = None
    weight: Number | None = None
    type: str | None = None
    level_id: str | None = None
    name: str | None = None
    unit: str | None = None
    details: str | None = None
    status: Status = Status.COMPLETED
    is_bound: bool = False
    """True if the level ends with its connection."""


def parse_request(line: bytes) -> UpdateRequest:
    """Return the request of a line of JSON. Raises InvalidRequestError."""
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise InvalidRequestError("Invalid request: expected a JSON object.")
    action, id_ = document.get("action"), document.get("request")
    if action not in ACTIONS:
        raise InvalidRequestError(f"Invalid action: expected one of {', '.join(ACTIONS)}.")
    if not isinstance(id_, str) or not 0 < len(id_) <= MAX_NAME:
        raise InvalidRequestError("Invalid request id: expected a text.")
    texts = {name: _read_text(document, name) for name in _TEXTS}
    numbers = {name: _read_number(document, name) for name in _NUMBERS}
    path, status = texts["path"] or "", texts["status"] or Status.COMPLETED.value
    if len(path) > MAX_PATH_CHARACTERS:
        raise InvalidRequestError(f"Invalid path: expected at most {MAX_PATH_CHARACTERS} characters.")
    if status not in _ENDS:
        raise InvalidRequestError(f"Invalid status {_quote(status)}: expected one of {', '.join(_ENDS)}.")
    if action == "start" and not texts["type"]:
        raise InvalidRequestError("Invalid type: expected the kind of the level.")
    if numbers["current"] is not None and numbers["increment"] is not None:
        raise InvalidRequestError("Invalid update: expected a current or an increment. Use one of them.")
    return UpdateRequest(
        action,
        id_,
        texts["parent"] or "",
        path,
        texts["message"],
        **numbers,
        type=texts["type"],
        level_id=texts["id"],
        name=texts["name"],
        unit=texts["unit"],
        details=texts["details"],
        status=_ENDS[status],
        is_bound=document.get("bound") is True,
    )


def _read_text(document: Mapping[str, Any], name: str) -> str | None:
    value = document.get(name)
    if value is not None and not isinstance(value, str):
        raise InvalidRequestError(f"Invalid {name}: expected a text.")
    return value


def _read_number(document: Mapping[str, Any], name: str) -> Number | None:
    value = document.get(name)
    if value is None:
        return None
    if type(value) not in (int, float) or not isfinite(value) or not 0 <= value < 2**63:
        raise InvalidRequestError(f"Invalid {name}: expected a number of at least 0.")
    number: Number = value
    return number


def _quote(text: str) -> str:
    return repr(escape_controls(truncate(text, 100)))
