"""Query parameters as values: times, severities and operation filters.

Invalid ones raise Problem.
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
"""Times that are always valid, for the OpenAPI document. The 29th to 31st are accepted too if the
month has them.
"""


SEVERITY_PATTERN: Final = "^([0-9]{1,3}|" + "|".join(SEVERITIES) + ")$"
"""Severities that are always valid, for the OpenAPI document."""


METADATA_PREFIX: Final = "metadata."
"""Prefix of parameters such as ``metadata.customer=acme``, which select by metadata."""


@dataclass(frozen=True, slots=True)
class OperationFilter:
    """Filter of operations.

    An operation matches if it meets all criteria that are not empty.

    - ``statuses``, ``conditions``, ``types``, ``batches``: the operation has one of the values.
    - ``metadata``: (key, value) pairs that the operation has all. The value None accepts any value.
    - ``text``: id, name or message contains the text, ignoring case.
    - ``since``: the operation was active at this time (Unix seconds) or later.
    """

    statuses: frozenset[Status] = frozenset()
    conditions: frozenset[Condition] = frozenset()
    types: frozenset[str] = frozenset()
    batches: frozenset[str] = frozenset()
    metadata: Sequence[tuple[str, str | None]] = ()
    text: str = ""
    since: float | None = None

    @property
    def can_match_active(self) -> bool:
        """True if the statuses include one of active operations."""
        return not self.statuses or any(not status.finished for status in self.statuses)

    @property
    def can_match_ended(self) -> bool:
        """True if the statuses include one of ended operations."""
        return not self.statuses or any(status.finished for status in self.statuses)

    def matches(self, operation: OperationSnapshot) -> bool:
        """Return True if the operation meets all criteria."""
        root = operation.root
        return (
            (not self.statuses or root.status in self.statuses)
            and (not self.types or operation.operation_type in self.types)
            and (not self.batches or root.info.batch in self.batches)
            and (not self.conditions or operation.condition in self.conditions)
            and (self.since is None or root.ended_at is None or root.ended_at >= self.since)
            and all(_has_metadata(operation, key, value) for key, value in self.metadata)
            and (not self.text or _contains_text(operation, self.text.casefold()))
        )


def parse_metadata(query: QueryParams, given: Sequence[str]) -> list[tuple[str, str | None]]:
    """Return the (key, value) pairs of metadata parameters.

    They are ``metadata=KEY``, ``metadata=KEY=VALUE`` and ``metadata.KEY=VALUE``.
    """
    pairs: list[tuple[str, str | None]] = []
    for text in given:
        key, separator, value = text.partition("=")
        pairs.append((key, value if separator else None))
    for name, value in query.multi_items():
        if name.startswith(METADATA_PREFIX):
            pairs.append((name.removeprefix(METADATA_PREFIX), value))
    return pairs


def parse_since(text: str | None) -> float | None:
    """Return a time as Unix seconds.

    The text is a number of Unix seconds, an RFC 3339 time, or a duration (``15m`` means 15 minutes
    ago).
    """
    if text is None:
        return None
    try:
        return parse_moment(text, time.time())
    except ValueError as error:
        raise _build_problem("since", text, str(error)) from None


def parse_severity(text: str | None) -> int:
    """Return the number of a severity of ``logging``, which is a name or a number."""
    if text is None:
        return 0
    number = SEVERITIES.get(text.strip().upper())
    if number is not None:
        return number
    if text.isascii() and text.isdecimal() and len(text) <= 3:
        return int(text)
    raise _build_problem("severity", text, f"one of {', '.join(SEVERITIES)} or a number from 0 to 999")


def _build_problem(name: str, text: str, expected: str) -> Problem:
    detail = f"Invalid {name} {quote_text(text)!r}: expected {expected}."
    return Problem(422, detail, errors=[(f"query {name}", detail)])


def _has_metadata(operation: OperationSnapshot, key: str, value: str | None) -> bool:
    if key not in operation.metadata:
        return False
    if value is None:
        return True
    attribute = operation.metadata[key]
    values = attribute if isinstance(attribute, tuple) else (attribute,)
    return any(_to_json_text(element) == value for element in values)


def _to_json_text(value: object) -> str:
    """Return a value as JSON writes it, since clients know it from JSON."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _contains_text(operation: OperationSnapshot, text: str) -> bool:
    return any(
        text in (part or "").casefold()
        for part in (operation.operation_id, operation.name, operation.message)
    )
