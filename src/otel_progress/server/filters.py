"""What a client may ask for in a query: moments, severities, and which operations.

Bad values become problems that say the fix.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from starlette.datastructures import QueryParams

from otel_progress.model import Status
from otel_progress.operations import Condition, OperationSnapshot
from otel_progress.records import SEVERITIES
from otel_progress.server.problems import Problem, quote_text
from otel_progress.settings.parsing import parse_moment

SINCE_PATTERN: Final = (
    r"^([0-9]{1,11}(\.[0-9]{1,9})?|[1-9][0-9]{0,8}(ms|s|m|h|d)"
    r"|[1-9][0-9]{3}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])[Tt]([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?"
    r"([Zz]|[+-](0[0-9]|1[0-4]):[0-5][0-9]))$"
)
"""For the OpenAPI document: moments that are always taken (the 29th to 31st are, too, where the month has them)."""


SEVERITY_PATTERN: Final = "^([0-9]{1,3}|" + "|".join(SEVERITIES) + ")$"


METADATA_PREFIX: Final = "metadata."
"""Parameters such as ``metadata.customer=acme`` ask for operations with that value."""


@dataclass(frozen=True, slots=True)
class OperationFilter:
    """Which operations are wanted: all that is given has to hold; of several statuses, types and so on any one does.

    ``metadata`` are (key, value), value None for any; ``text`` is looked for in id, name and
    message, whatever the case; ``since`` takes in what was still under way at that moment (Unix
    seconds) or later.
    """

    statuses: frozenset[Status] = frozenset()
    conditions: frozenset[Condition] = frozenset()
    types: frozenset[str] = frozenset()
    batches: frozenset[str] = frozenset()
    metadata: Sequence[tuple[str, str | None]] = ()
    text: str = ""
    since: float | None = None

    @property
    def wants_active(self) -> bool:
        """Whether operations that have not ended can be among them."""
        return not self.statuses or any(not status.finished for status in self.statuses)

    @property
    def wants_ended(self) -> bool:
        """Whether operations that have ended can be among them."""
        return not self.statuses or any(status.finished for status in self.statuses)

    def matches(self, operation: OperationSnapshot) -> bool:
        """Tell whether an operation is wanted."""
        root = operation.root
        return (
            (not self.statuses or root.status in self.statuses)
            and (not self.types or operation.operation_type in self.types)
            and (not self.batches or root.info.batch in self.batches)
            and (not self.conditions or operation.condition in self.conditions)
            and (self.since is None or root.ended_at is None or root.ended_at >= self.since)
            and all(_has(operation, key, value) for key, value in self.metadata)
            and (not self.text or _mentions(operation, self.text.casefold()))
        )


def metadata_of(query: QueryParams, given: Sequence[str]) -> list[tuple[str, str | None]]:
    """Return (key, value) of ``metadata=KEY``, ``metadata=KEY=VALUE`` and ``metadata.KEY=VALUE``."""
    pairs: list[tuple[str, str | None]] = []
    for text in given:
        key, separator, value = text.partition("=")
        pairs.append((key, value if separator else None))
    for name, value in query.multi_items():
        if name.startswith(METADATA_PREFIX):
            pairs.append((name.removeprefix(METADATA_PREFIX), value))
    return pairs


def since_of(text: str | None) -> float | None:
    """Return the Unix seconds of a moment: a number of them, an RFC 3339 time, or a duration (``15m``: that long ago)."""
    if text is None:
        return None
    try:
        return parse_moment(text, time.time())
    except ValueError as error:
        raise _refused("since", text, str(error)) from None


def severity_of(text: str | None) -> int:
    """Return the least severity of log records: a name of Python's ``logging``, or its number."""
    if text is None:
        return 0
    number = SEVERITIES.get(text.strip().upper())
    if number is not None:
        return number
    if text.isascii() and text.isdecimal() and len(text) <= 3:
        return int(text)
    raise _refused("level", text, f"one of {', '.join(SEVERITIES)} or a number from 0 to 999")


def _refused(name: str, text: str, expected: str) -> Problem:
    detail = f"{quote_text(text)!r} is not understood; expected {expected}."
    return Problem(422, f"The parameter {name}: {detail}", errors=[(f"query {name}", detail)])


def _has(operation: OperationSnapshot, key: str, value: str | None) -> bool:
    if key not in operation.metadata:
        return False
    if value is None:
        return True
    found = operation.metadata[key]
    return any(_text(one) == value for one in (found if isinstance(found, tuple) else (found,)))


def _text(value: object) -> str:
    """Return a value as it stands in JSON, which is where clients see it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _mentions(operation: OperationSnapshot, text: str) -> bool:
    return any(
        text in (part or "").casefold()
        for part in (operation.operation_id, operation.name, operation.message)
    )
