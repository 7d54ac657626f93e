"""Log records of received operations, and a buffer of those that wait for one."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Final

from otel_progress import redaction, semconv
from otel_progress.model import NO_METADATA, MetadataValue
from otel_progress.receivers.correlation import LogKey, LogTarget
from otel_progress.receivers.telemetry import ReceivedLog
from otel_progress.records import NO_ATTRIBUTES, SEVERITIES, Attribute, LogRecord
from otel_progress.text import MAX_DETAILS, MAX_NAME, MAX_TEXT, truncate

MAX_ATTRIBUTES: Final = 32
"""Maximum number of attributes of a received log record. Further attributes are dropped."""


MAX_WAITING_LOGS: Final = 20_000
"""Maximum number of log records that wait for their operation. The oldest are dropped first."""


MAX_WAITING_LOGS_PER_SENDER: Final = 2_000
"""Maximum number of log records of a sender that wait. Its oldest are dropped first."""


MAX_WAITING_BYTES: Final = 32 * 1024 * 1024
"""Maximum size of all log records that wait, in bytes. The oldest are dropped first."""


_RECORD_BYTES: Final = 1_000
"""Approximate memory of a waiting record without its texts."""


_VALUE_BYTES: Final = 60
"""Approximate memory of a key or value without its text."""


_MAX_SEVERITY_TEXT: Final = 32


_MAX_SEVERITY: Final = 24


_OTHER_NAMES: Final = {"TRACE": 0, "WARN": 30, "FATAL": 50}
"""Numbers of further severity names."""


_NAMES: Final = {number: name for name, number in SEVERITIES.items()}


_IDENTITY: Final = frozenset({semconv.OPERATION_ID, semconv.OPERATION_TYPE, semconv.RUN, semconv.PATH})
"""Attributes that state the operation and the level of a log record."""


class LogBuffer:
    """Log records whose operation is not known yet, by the key that they wait for.

    ``dropped`` counts the records that were dropped because of a limit. Not thread-safe.
    """

    def __init__(
        self,
        *,
        max_logs: int = MAX_WAITING_LOGS,
        max_logs_per_sender: int = MAX_WAITING_LOGS_PER_SENDER,
        max_bytes: int = MAX_WAITING_BYTES,
    ) -> None:
        self._max_logs = max_logs
        self._max_logs_per_sender = max_logs_per_sender
        self._max_bytes = max_bytes
        self._records: OrderedDict[int, tuple[str, LogKey, ReceivedLog, int]] = OrderedDict()
        self._by_key: dict[LogKey, dict[int, None]] = {}
        self._by_sender: dict[str, dict[int, None]] = {}
        self._next = 0
        self._bytes = 0
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._records)

    def __contains__(self, key: LogKey) -> bool:
        return key in self._by_key

    def add(self, sender: str, key: LogKey, record: ReceivedLog) -> None:
        """Add a record that waits for ``key``. Drop the oldest records beyond a limit."""
        # Why without the resource: it may be large, and the sender is known.
        record = _remove_resource(record)
        size = _estimate_bytes(record)
        number = self._next = self._next + 1
        self._records[number] = (sender, key, record, size)
        self._by_key.setdefault(key, {})[number] = None
        of_sender = self._by_sender.setdefault(sender, {})
        of_sender[number] = None
        self._bytes += size
        if len(of_sender) > self._max_logs_per_sender:
            self._drop(next(iter(of_sender)))
        while len(self._records) > self._max_logs or self._bytes > self._max_bytes:
            self._drop(next(iter(self._records)))

    def remove_waiting(self, key: LogKey) -> Iterator[tuple[str, ReceivedLog]]:
        """Remove the records that wait for a key.

        Yield them with their senders, oldest first.
        """
        for number in list(self._by_key.get(key, ())):
            sender, _, record, _ = self._remove(number)
            yield sender, record

    def take_dropped(self) -> int:
        """Return the number of records that were dropped since the last call."""
        dropped, self.dropped = self.dropped, 0
        return dropped

    def _drop(self, number: int) -> None:
        self._remove(number)
        self.dropped += 1

    def _remove(self, number: int) -> tuple[str, LogKey, ReceivedLog, int]:
        found = self._records.pop(number)
        sender, key, _, size = found
        self._bytes -= size
        for index, name in ((self._by_key, key), (self._by_sender, sender)):
            del index[name][number]
            if not index[name]:
                del index[name]
        return found


def build_log_record(
    record: ReceivedLog, target: LogTarget, number: int, redactor: redaction.Redactor
) -> LogRecord:
    """Return the redacted record of a level, with the limits of our own records."""
    severity, name = _convert_severity(record)
    return LogRecord(
        operation_id=target.run.operation_id,
        operation_type=target.run.operation_type,
        run=target.run.run,
        path=target.path,
        number=number,
        at=record.at,
        severity=severity,
        severity_text=name,
        logger=redactor.redact_by_patterns(truncate(record.logger, MAX_NAME)),
        message=redactor.redact_text("log", record.body),
        details=None
        if record.details is None
        else redactor.redact_text("details", record.details, MAX_DETAILS),
        attributes=_build_attributes(record, redactor),
        trace_id=record.trace_id,
        span_id=record.span_id,
    )


def _remove_resource(record: ReceivedLog) -> ReceivedLog:
    return ReceivedLog(
        record.at,
        record.trace_id,
        record.span_id,
        record.severity,
        record.severity_text,
        record.logger,
        record.body,
        record.details,
        record.attributes,
        NO_METADATA,
    )


def states_level(record: ReceivedLog) -> bool:
    """Return True for a log record of our own export, which states its level."""
    return record.attributes.keys() >= _IDENTITY


def _build_attributes(record: ReceivedLog, redactor: redaction.Redactor) -> Mapping[str, Attribute]:
    names = [name for name in record.attributes if name not in _IDENTITY][:MAX_ATTRIBUTES]
    if not names:
        return NO_ATTRIBUTES
    return redactor.redact_metadata(
        {truncate(name, MAX_NAME): _limit(record.attributes[name]) for name in names}
    )


def _limit(value: MetadataValue) -> MetadataValue:
    if isinstance(value, str):
        return truncate(value, MAX_TEXT)
    if isinstance(value, tuple) and value and isinstance(value[0], str):
        return tuple(truncate(element, MAX_TEXT) for element in value)
    return value


def _convert_severity(record: ReceivedLog) -> tuple[int, str]:
    """Return the severity of ``logging`` and its name.

    The numbers 5, 9, 13, 17 and 21 become 10, 20, 30, 40 and 50. Numbers in between keep their
    order. Without a number the name decides, and without both it is INFO.
    """
    text = truncate(record.severity_text, _MAX_SEVERITY_TEXT)
    if 0 < record.severity <= _MAX_SEVERITY:
        severity = (5 * (record.severity - 1) + 1) // 2
    else:
        known = {**SEVERITIES, **_OTHER_NAMES}
        severity = known.get(text.upper(), SEVERITIES["INFO"])
    return severity, text or _NAMES.get(min(50, severity // 10 * 10), "TRACE")


def _estimate_bytes(record: ReceivedLog) -> int:
    size = _RECORD_BYTES + _count_bytes(record.body) + _count_bytes(record.details or "")
    for name, value in record.attributes.items():
        size += _VALUE_BYTES + _count_bytes(name)
        for element in value if isinstance(value, tuple) else (value,):
            size += _VALUE_BYTES + (_count_bytes(element) if isinstance(element, str) else 0)
    return size


def _count_bytes(text: str) -> int:
    return len(text) if text.isascii() else 4 * len(text)
