"""Work of other processes on a run, for its owner."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from otel_progress.journal import rows
from otel_progress.journal.invalid_rows import count_invalid_row
from otel_progress.journal.redis import scripts
from otel_progress.journal.redis.client import Command, call, command
from otel_progress.journal.redis.keys import JournalKeys
from otel_progress.journal.redis.limits import MAX_CONTRIBUTIONS_PER_RUN
from otel_progress.journal.redis.queries import Queries, decode_request, to_text
from otel_progress.journal.redis.records import SEQUENCE_CHARS, encode_sequence
from otel_progress.protocols import MAX_POLLED_CONTRIBUTIONS
from otel_progress.records import CancelRequest, Contribution

_SEPARATOR: Final = "\x1f"
"""Character between writer and path in a field. Writers do not contain it."""


def build_contribution_calls(
    keys: JournalKeys, contributions: Iterable[Contribution], ttl_ms: int
) -> list[Command]:
    """Return the calls that store contributions.

    Raises OverflowError for a number of more than 64 bits.
    """
    by_run: dict[str, list[str]] = {}
    for each in contributions:
        text = f"{encode_sequence(each.level.sequence)}{rows.encode_contribution(each)}"
        field = f"{each.writer}{_SEPARATOR}{each.level.path}"
        by_run.setdefault(each.level.info.run, []).extend((field, text))
    step = 2 * scripts.MAX_CALL_RECORDS
    return [
        call(
            scripts.ADD_CONTRIBUTIONS,
            (keys.contributions(run),),
            ttl_ms,
            MAX_CONTRIBUTIONS_PER_RUN,
            *values[start : start + step],
        )
        for run, values in by_run.items()
        for start in range(0, len(values), step)
    ]


def read_contributions(queries: Queries, runs: Sequence[str]) -> list[Contribution]:
    """Return the contributions to runs, parents before their children."""
    found: list[Contribution] = []
    answers = queries.client.execute([command("HGETALL", queries.keys.contributions(run)) for run in runs])
    for answer in answers:
        for field, text in answer.items():
            writer = to_text(field).partition(_SEPARATOR)[0]
            contribution = rows.decode_contribution(writer, to_text(text)[SEQUENCE_CHARS:])
            if contribution is None:
                count_invalid_row("contribution", writer, to_text(field))
            elif len(found) < MAX_POLLED_CONTRIBUTIONS:
                found.append(contribution)
    return sorted(found, key=lambda each: each.level.info.depth)


def delete_contributions(queries: Queries, contributions: Sequence[Contribution]) -> None:
    """Delete contributions unless newer ones have replaced them."""
    by_run: dict[str, list[str]] = {}
    for each in contributions:
        values = (f"{each.writer}{_SEPARATOR}{each.level.path}", encode_sequence(each.level.sequence))
        by_run.setdefault(each.level.info.run, []).extend(values)
    step = 2 * scripts.MAX_CALL_RECORDS
    queries.client.execute(
        [
            call(
                scripts.DROP_CONTRIBUTIONS,
                (queries.keys.contributions(run),),
                *values[start : start + step],
            )
            for run, values in by_run.items()
            for start in range(0, len(values), step)
        ]
    )


def find_gone_instances(queries: Queries, instances: Sequence[str]) -> list[str]:
    """Return the processes that have certainly ended."""
    moment = queries.read_time()
    beats = queries.read_heartbeats(instances)
    return [identity for identity, heartbeat in beats.items() if moment.is_gone(heartbeat)]


def read_run_requests(queries: Queries, runs: Sequence[str]) -> list[CancelRequest]:
    """Return the requests to cancel runs of any process."""
    answers: Sequence[Any] = queries.client.execute(
        [command("HGET", queries.keys.run_meta(run), "cancel") for run in runs]
    )
    found = [
        (run, decode_request(to_text(text)))
        for run, text in zip(runs, answers, strict=True)
        if text is not None
    ]
    return [CancelRequest(run, "", *request) for run, request in found if request is not None]
