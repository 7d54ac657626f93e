"""Propagator ``progress``: the current level in headers of requests and messages.

The header contains ids only: those of the run and the operation, and the path. Enable it with
``OTEL_PROPAGATORS=tracecontext,baggage,progress``.
"""

from __future__ import annotations

from typing import Final

from opentelemetry import context as context_api
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import (
    CarrierT,
    Getter,
    Setter,
    TextMapPropagator,
    default_getter,
    default_setter,
)

from otel_progress.diagnostics import report_internal_error
from otel_progress.instrument.backend import LEVEL_KEY, LINK_KEY
from otel_progress.instrument.context import get_current_level
from otel_progress.model import ParentLink
from otel_progress.propagation.parent_link import HEADER, format_parent_link, parse_parent_link

MAX_HEADER_CHARACTERS: Final = 1024
"""Characters of the header. A longer path is replaced by that of an ancestor. A longer header of
another process is ignored.
"""


class ProgressPropagator(TextMapPropagator):
    """Writes the current level to headers, and reads that of another process.

    Operations that start in an extracted context are part of the level of the other process. An
    invalid header is ignored. Never raises.
    """

    def inject(
        self,
        carrier: CarrierT,
        context: Context | None = None,
        setter: Setter[CarrierT] = default_setter,
    ) -> None:
        """Write the current level of a context, if there is one."""
        try:
            level = get_current_level(context)
            if level is None:
                return
            node = level._node
            link = ParentLink(node.operation.id, node.operation.run, node.path)
            text = format_parent_link(link, MAX_HEADER_CHARACTERS)
            if len(text) <= MAX_HEADER_CHARACTERS:
                setter.set(carrier, HEADER, text)
        except Exception:
            report_internal_error("start", "The current level could not be written to headers.")

    def extract(
        self,
        carrier: CarrierT,
        context: Context | None = None,
        getter: Getter[CarrierT] = default_getter,
    ) -> Context:
        """Return the context with the level of the headers.

        The level is not a handle. It only becomes the parent of operations.
        """
        current = context_api.get_current() if context is None else context
        try:
            values = getter.get(carrier, HEADER)
            text = values[0] if values else None
            link = None
            if isinstance(text, str) and len(text) <= MAX_HEADER_CHARACTERS:
                link = parse_parent_link(text)
            if link is None:
                return current
            # Why no level: the remote parent replaces a level of this process.
            return Context({**current, LINK_KEY: link, LEVEL_KEY: None})
        except Exception:
            report_internal_error("start", "The level of another process could not be read from headers.")
            return current

    @property
    def fields(self) -> set[str]:
        """Names of the headers that ``inject`` writes."""
        return {HEADER}
