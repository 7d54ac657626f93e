"""What a handle tells of its level: whether it should stop, how far it is, and where it stands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_progress.instrument.iteration import make_cancelled_error
from otel_progress.instrument.lifecycle import take_level_snapshot
from otel_progress.model import Eta, LevelSnapshot, Status

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from otel_progress.instrument.backend import RecordingBackend
    from otel_progress.instrument.level import Level
    from otel_progress.live.node import Node


class LevelBase:
    """The looking half of :class:`Level`, which fills in what is declared here."""

    __slots__ = ()

    _node: Node
    _recording: RecordingBackend | None
    _span: Span

    def start(self) -> Level:
        """Begin now, without ``with``."""
        raise NotImplementedError

    # --- a request to stop -------------------------------------------------------------------------------------

    @property
    def cancel_requested(self) -> bool:
        """True once somebody has asked for the operation of this level to stop. Costs nothing to ask in a loop."""
        return self._node.operation.cancel_requested_at is not None

    def check_cancelled(self) -> None:
        """Raise OperationCancelledError, with the reason, once somebody has asked for the operation of this level to stop.

        A level that the error leaves, in ``with`` or as a decorator, is marked as cancelled for that reason.
        """
        if self._node.operation.cancel_requested_at is not None:
            raise make_cancelled_error(self._node)

    # --- looking -----------------------------------------------------------------------------------------------

    @property
    def recording(self) -> bool:
        """True while this level has begun, has not ended, and is recorded."""
        return self._node.status is Status.RUNNING

    @property
    def span(self) -> Span:
        """The level's span; add attributes, links and events of your own to it. An invalid one when nothing is recorded."""
        self.start()
        return self._span

    @property
    def path(self) -> str:
        """Place in the operation's tree, ``type:id`` segments joined by ``/``; empty for the operation itself."""
        self.start()
        return self._node.path

    @property
    def operation_id(self) -> str:
        """Id of the operation this level belongs to."""
        self.start()
        return self._node.operation.id

    def snapshot(self) -> LevelSnapshot:
        """Return this level as it is now, everything counted so far included."""
        self.start()
        return take_level_snapshot(self._node, self._recording)

    @property
    def eta(self) -> Eta | None:
        """The estimate of this level's remaining time as of now; None while there is none, and once it has ended."""
        self.start()
        return None if self._recording is None else self._recording.store.reader.get_eta(self._node)
