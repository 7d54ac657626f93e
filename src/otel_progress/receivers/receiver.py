"""Receiver: merges the progress of programs that send OTLP, and stores it in a journal."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from otel_progress import semconv
from otel_progress.model import Instance, LevelSnapshot, MetadataValue
from otel_progress.operations import Event
from otel_progress.processes import build_otlp_host
from otel_progress.protocols import ChangeSet, Sink
from otel_progress.receivers import json_encoding, protobuf
from otel_progress.receivers.merge import (
    MAX_ENDED_RUNS_PER_SENDER,
    MAX_LEVELS_PER_RUN,
    MAX_RUNS_PER_SENDER,
    MergedRun,
    Sender,
    TooManyError,
)
from otel_progress.receivers.reports import InvalidReportError, ItemReport, read_item, read_report
from otel_progress.receivers.telemetry import Decoded, ReceivedEvent
from otel_progress.settings.defaults import DEFAULT_STALL_AFTER_S
from otel_progress.text import MAX_NAME, normalize_id, truncate

MAX_SENDERS: Final = 1_000
"""Maximum number of senders. Those that reported last are kept."""


MAX_ITEMS_PER_SENDER: Final = 10_000
"""Latest items of a sender that are recognised when they arrive again."""


Encoding: TypeAlias = Literal["protobuf", "json"]
"""Encoding of a request."""


@dataclass(frozen=True, slots=True)
class ReceiverLimits:
    """Limits of a receiver. Reports beyond a limit are rejected, which the sender is told."""

    senders: int = MAX_SENDERS
    runs_per_sender: int = MAX_RUNS_PER_SENDER
    ended_runs_per_sender: int = MAX_ENDED_RUNS_PER_SENDER
    levels_per_run: int = MAX_LEVELS_PER_RUN
    items_per_sender: int = MAX_ITEMS_PER_SENDER


@dataclass(frozen=True, slots=True)
class Receipt:
    """Result of a request: the number of rejected records, and the reason of the first one."""

    rejected: int = 0
    reason: str = ""


@dataclass(slots=True)
class _SenderState:
    """A sender with its changes that are not stored yet."""

    instance: Instance
    sender: Sender
    clock: float
    changed: dict[tuple[str, str], MergedRun] = field(default_factory=dict)
    items: list[Event] = field(default_factory=list)
    known_items: OrderedDict[tuple[object, ...], None] = field(default_factory=OrderedDict)
    last_item: int = 0


class Receiver:
    """Merges received progress and writes it to ``sink``, usually a journal.

    ``receive_logs`` returns after the changes were stored, so an answer to the sender is a promise.
    Several threads may call it. ``wall`` returns Unix seconds.
    """

    def __init__(
        self,
        sink: Sink,
        *,
        limits: ReceiverLimits = ReceiverLimits(),
        stall_after_s: float = DEFAULT_STALL_AFTER_S,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._sink = sink
        self._limits = limits
        self._stall_after_s = stall_after_s
        self._wall = wall
        self._senders: OrderedDict[str, _SenderState] = OrderedDict()
        self._lock = threading.Lock()

    def receive_logs(self, body: bytes, encoding: Encoding) -> Receipt:
        """Decode, merge and store the progress events of one ``ExportLogsServiceRequest``.

        Raises InvalidRequestError if the body is not such a request, and JournalError if the
        changes could not be stored. They are stored with the next request then.
        """
        decode = protobuf.decode_logs if encoding == "protobuf" else json_encoding.decode_logs
        return self.apply(decode(body, self._wall()))

    def apply(self, decoded: Decoded[ReceivedEvent]) -> Receipt:
        """Merge and store decoded events, like :meth:`receive_logs`."""
        rejected, reasons = decoded.rejected, [decoded.reason] if decoded.reason else []
        with self._lock:
            touched: dict[str, _SenderState] = {}
            for event in decoded.records:
                try:
                    state = self._find_sender(event)
                    touched[state.instance.id] = state
                    self._apply_event(state, event)
                except (InvalidReportError, TooManyError) as error:
                    rejected += 1
                    reasons.append(str(error))
            self._store(touched.values())
        return Receipt(rejected, reasons[0] if reasons else "")

    def _apply_event(self, state: _SenderState, event: ReceivedEvent) -> None:
        state.clock = max(state.clock, event.at)
        if event.name == semconv.EVENT_HEARTBEAT:
            known = state.instance
            state.instance = _build_instance(known.id, event.resource, known.started_at, heartbeats=True)
        elif event.name == semconv.EVENT_ITEM:
            self._apply_item(state, event)
        else:
            report = read_report(event)
            if report is not None:
                run, paths = state.sender.apply(report)
                state.changed.update(((run.run, path), run) for path in paths)

    def _apply_item(self, state: _SenderState, event: ReceivedEvent) -> None:
        """Add an item, unless it arrived before."""
        item = read_item(event)
        run = state.sender.find_run(item.origin)
        if run is None:
            # Only an operation can have items. Its own report will complete it.
            run, paths = state.sender.add_run(item.origin, item.at)
            state.changed.update(((run.run, path), run) for path in paths)
        key = (run.run, item.path, item.name, item.outcome, item.at)
        if key in state.known_items:
            return
        state.known_items[key] = None
        if len(state.known_items) > self._limits.items_per_sender:
            state.known_items.popitem(last=False)
        # Why the time: numbers continue to increase after a restart of the receiver.
        state.last_item = max(state.last_item + 1, round(item.at * 1e6))
        state.items.append(_build_item(item, run, state.last_item))

    def _find_sender(self, event: ReceivedEvent) -> _SenderState:
        id_ = _read_instance_id(event)
        state = self._senders.get(id_)
        if state is None:
            limits = self._limits
            sender = Sender(
                id_,
                max_runs=limits.runs_per_sender,
                max_ended_runs=limits.ended_runs_per_sender,
                max_levels=limits.levels_per_run,
            )
            instance = _build_instance(id_, event.resource, event.at, heartbeats=False)
            state = self._senders[id_] = _SenderState(instance, sender, event.at)
            while len(self._senders) > limits.senders:
                self._senders.popitem(last=False)
        self._senders.move_to_end(id_)
        return state

    def _store(self, states: Iterable[_SenderState]) -> None:
        """Write the changes of senders. They stay until the sink has stored them."""
        now = self._wall()
        for state in states:
            snapshots = self._build_snapshots(state.changed)
            self._sink.write(
                ChangeSet(
                    state.instance, at=now, clock=state.clock, snapshots=snapshots, events=tuple(state.items)
                )
            )
            state.changed.clear()
            state.items.clear()

    def _build_snapshots(self, changed: Mapping[tuple[str, str], MergedRun]) -> Sequence[LevelSnapshot]:
        """Return the snapshots of changed levels, parents before children."""
        # Why sorted: a late parent changes after its children.
        order = sorted(changed, key=lambda key: (key[0], key[1].count("/") if key[1] else -1))
        return [changed[key].build_snapshot(key[1], self._stall_after_s) for key in order]


def _build_item(item: ItemReport, run: MergedRun, number: int) -> Event:
    return Event(
        operation_id=run.operation_id,
        operation_type=run.operation_type,
        run=run.run,
        path=item.path,
        level_type=item.level_type,
        kind=semconv.EVENT_ITEM,
        number=number,
        at=item.at,
        name=item.name,
        outcome=item.outcome,
        error=item.error,
        metadata=item.metadata,
    )


def _read_instance_id(event: ReceivedEvent) -> str:
    """Return the id of the sender. Without one, the resource identifies it."""
    for values in (event.resource, event.attributes):  # Heartbeats have it as an attribute.
        value = values.get(semconv.SERVICE_INSTANCE_ID)
        if isinstance(value, str) and value:
            return normalize_id(value)
    described = "\0".join(f"{key}={value}" for key, value in sorted(event.resource.items()))
    return f"otlp-{hashlib.sha256(described.encode()).hexdigest()[:16]}"


def _build_instance(
    id_: str, resource: Mapping[str, MetadataValue], at: float, *, heartbeats: bool
) -> Instance:
    pid = resource.get("process.pid")
    return Instance(
        id=id_,
        pid=pid if isinstance(pid, int) and not isinstance(pid, bool) and 0 < pid < 2**31 else 0,
        host=build_otlp_host(_get_name(resource, "host.name"), heartbeats=heartbeats),
        service=_get_name(resource, semconv.SERVICE_NAME) or "unknown_service",
        started_at=at,
    )


def _get_name(resource: Mapping[str, MetadataValue], key: str) -> str:
    value = resource.get(key)
    return truncate(value, MAX_NAME) if isinstance(value, str) else ""
