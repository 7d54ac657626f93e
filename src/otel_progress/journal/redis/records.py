"""Texts of levels and records in the journal."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from typing import Any, Final

from otel_progress.journal import rows
from otel_progress.journal.decoding import DECODE_ERRORS
from otel_progress.journal.liveness import Heartbeat
from otel_progress.journal.redis import keys
from otel_progress.model import Instance, LevelInfo, LevelSnapshot, Number

SEQUENCE_CHARS: Final = 16
"""Characters of the sequence number in front of a state."""


DIGEST_CHARS: Final = 8
"""Characters of the digest of the constant values in front of a state."""


MAX_SEQUENCE: Final = 10**SEQUENCE_CHARS - 1
"""Highest sequence number. A higher one is stored as this one."""


_INT64_LIMIT: Final = 2**63


_CONSTANTS: Final = {"NaN": None, "Infinity": float("inf"), "-Infinity": float("-inf")}


# Why NaN is permitted: after sanitizing, numbers that are not finite are left, as in SQLite.
dumps: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
"""Encode a value, also numbers that are not finite."""


loads: Final = json.JSONDecoder(parse_constant=_CONSTANTS.__getitem__).decode
"""Decode a value of :func:`dumps`. NaN becomes None."""


def encode_sequence(sequence: int) -> str:
    """Return the fixed-width text of a sequence number."""
    return f"{min(max(sequence, 0), MAX_SEQUENCE):016d}"


def encode_info(info: LevelInfo) -> tuple[str, str]:
    """Return the text of constant values, and its digest."""
    text = rows.encode_info_column(info)
    return text, compute_info_digest(text)


def compute_info_digest(text: str) -> str:
    """Return the digest of the text of constant values."""
    return f"{zlib.crc32(text.encode()):08x}"


def encode_state(snapshot: LevelSnapshot, info_digest: str) -> str:
    """Return the state of a level: sequence, digest of its info, JSON array.

    Raises OverflowError for an integer of more than 64 bits.
    """
    values = (*rows.get_advance(snapshot), *rows.encode_rest(rows.get_rest(snapshot)))
    for value in values:
        if type(value) is int and not -_INT64_LIMIT <= value < _INT64_LIMIT:
            raise OverflowError(value)
    return f"{encode_sequence(snapshot.sequence)}{info_digest}{dumps(values)}"


def get_info_digest(state: str) -> str:
    """Return the digest of the constant values that a state refers to."""
    return state[SEQUENCE_CHARS : SEQUENCE_CHARS + DIGEST_CHARS]


def decode_state(info: str, state: str) -> LevelSnapshot | None:
    """Return the snapshot of a level, or None if it is invalid."""
    try:
        return rows.decode_snapshot_row(info, loads(state[SEQUENCE_CHARS + DIGEST_CHARS :]))
    except DECODE_ERRORS:
        return None


_KEY_START: Final = 8


_WEIGHT_START: Final = 24


def encode_completed_key(scope: bytes, key: bytes, weight: Number) -> bytes:
    """Return the member of a completed key."""
    return scope + key + dumps(weight).encode()


def decode_completed_key(member: bytes) -> tuple[bytes, bytes, Number] | None:
    """Return scope, key and weight of a member. None if it is invalid."""
    try:
        weight = loads(member[_WEIGHT_START:].decode("ascii"))
    except DECODE_ERRORS:
        return None
    if type(weight) not in {int, float}:
        return None
    return member[:_KEY_START], member[_KEY_START:_WEIGHT_START], weight


def encode_row(row: Sequence[Any]) -> str:
    """Return the text of a row of values."""
    for value in row:
        if type(value) is int and not -_INT64_LIMIT <= value < _INT64_LIMIT:
            raise OverflowError(value)
    return dumps(row)


def decode_row(text: str) -> Sequence[Any] | None:
    """Return the values of a row, or None if the text is invalid."""
    try:
        row = loads(text)
    except DECODE_ERRORS:
        return None
    return row if isinstance(row, list) else None


def encode_record_id(number: int, writer: str) -> str:
    """Return the sortable id of a record. Each process numbers its own records."""
    return f"{keys.encode_number(number)}{keys.digest(writer)}"


RECORD_ID_CHARS: Final = keys.NUMBER_CHARS + keys.DIGEST_CHARS
"""Characters of the id of a record."""


def encode_heartbeat(instance: Instance, at: float, clock: float, token: str, number: int) -> str:
    """Return the text of a heartbeat.

    ``token`` and ``number`` are those of the writer.
    """
    identity = (
        instance.id,
        instance.pid,
        instance.host,
        instance.service,
        instance.started_at,
        instance.start,
    )
    return dumps((token, number, *identity, float(at), float(clock)))


def decode_heartbeat(text: str) -> tuple[str, int, float, Heartbeat] | None:
    """Return token, number, time of the server, and heartbeat of a text.

    The time is in Unix seconds. Return None if the text is invalid.
    """
    received, row = text[: keys.TIME_CHARS], decode_row(text[keys.TIME_CHARS :])
    if row is None or len(row) != 10 or not received.isdigit():
        return None
    token, number, *values = row
    heartbeat = rows.decode_heartbeat_row(values)
    if heartbeat is None or type(token) is not str or type(number) is not int:
        return None
    return token, number, int(received) / 1e6, heartbeat
