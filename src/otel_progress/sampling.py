"""The sampler that lets processors see every progress span, while exporters get exactly what was sampled.

A span that a sampler drops is never shown to a processor, so under ``always_off`` no progress could be read from spans.
OpenTelemetry has an answer between keep and drop: *record only*. Such a span records and goes to the processors, and its sampled
flag stays off, so batch and simple processors do not export it and parent-based samplers decide for its children as before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import Link, SpanKind
from opentelemetry.trace.span import TraceState
from opentelemetry.util.types import Attributes

from otel_progress import semconv

_NAMESPACE: Final = semconv.OPERATION_ID.partition(".")[0] + "."


class ProgressSampler(Sampler):
    """Asks ``root``, and turns its *drop* into *record only* for progress spans; every other decision is ``root``'s own.

    A progress span is one that is started with an attribute of the ``progress.`` namespace.
    """

    def __init__(self, root: Sampler) -> None:
        self._root = root

    @property
    def root(self) -> Sampler:
        """The sampler that decides what is exported."""
        return self._root

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        """Return ``root``'s result, or one that records without sampling when it drops a progress span."""
        if (
            trace_state is None
        ):  # as the SDK itself calls a sampler: some of those in use do not know the last parameter
            result = self._root.should_sample(parent_context, trace_id, name, kind, attributes, links)
        else:
            result = self._root.should_sample(
                parent_context, trace_id, name, kind, attributes, links, trace_state
            )
        if result.decision is not Decision.DROP or not attributes or not _is_progress(attributes):
            return result
        # A dropping sampler returns no attributes, as nobody would read them; here they are what makes the span useful.
        kept = {**attributes, **dict(result.attributes)} if result.attributes else attributes
        return SamplingResult(Decision.RECORD_ONLY, kept, result.trace_state)

    def get_description(self) -> str:
        """Return ``ProgressSampler{…}`` around the description of ``root``."""
        return f"ProgressSampler{{{self._root.get_description()}}}"


def _is_progress(attributes: Attributes) -> bool:
    for key in attributes or ():  # noqa: SIM110 - half the time of any(…), and this runs at every start of a dropped span
        if key.startswith(_NAMESPACE):
            return True
    return False
