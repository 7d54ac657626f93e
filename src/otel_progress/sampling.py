"""Sampler that passes all progress spans to processors, without more exports.

Processors never receive a span that a sampler drops, so with ``always_off`` no progress could be
read from spans. The decision *record only* solves this: processors receive the span, but its
sampled flag stays off. So exporters do not export it, and parent-based samplers decide for its
children as before.
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
    """Sampler that records progress spans that ``root`` drops.

    It changes their decision from *drop* to *record only*. Other decisions stay unchanged. A
    progress span has an attribute of the namespace ``progress.`` when it starts.
    """

    def __init__(self, root: Sampler) -> None:
        self._root = root

    @property
    def root(self) -> Sampler:
        """Sampler that decides which spans are exported."""
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
        """Return the result of ``root``, with *record only* for a dropped progress span."""
        if trace_state is None:
            # Why: the SDK calls samplers like this, and some do not have the last parameter.
            result = self._root.should_sample(parent_context, trace_id, name, kind, attributes, links)
        else:
            result = self._root.should_sample(
                parent_context, trace_id, name, kind, attributes, links, trace_state
            )
        if result.decision is not Decision.DROP or not attributes or not _is_progress(attributes):
            return result
        # A sampler that drops a span returns no attributes, but the processor needs them.
        merged = {**attributes, **dict(result.attributes)} if result.attributes else attributes
        return SamplingResult(Decision.RECORD_ONLY, merged, result.trace_state)

    def get_description(self) -> str:
        """Return ``ProgressSampler{…}`` around the description of ``root``."""
        return f"ProgressSampler{{{self._root.get_description()}}}"


def _is_progress(attributes: Attributes) -> bool:
    # Why not any(): it takes twice as long, and this runs at every start of a dropped span.
    for key in attributes or ():  # noqa: SIM110
        if key.startswith(_NAMESPACE):
            return True
    return False
