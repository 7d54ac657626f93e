"""What the standard environment says about OTLP: which signals go out, and by which protocol.

Endpoints, headers, certificates, timeouts and compression (``OTEL_EXPORTER_OTLP_*``) are read by the exporters themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

from otel_progress.errors import ConfigurationError

Signal: TypeAlias = Literal["traces", "logs", "metrics"]
"""What OTLP carries; progress events are logs."""


Protocol: TypeAlias = Literal["grpc", "http/protobuf"]
"""How it is carried."""


SIGNALS: Final[tuple[Signal, ...]] = ("traces", "logs", "metrics")
"""All signals, spans first."""


DEFAULT_PROTOCOL: Final[Protocol] = "grpc"
"""What OpenTelemetry Python uses when nothing is said."""


_ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"


_PROTOCOL: Final = "OTEL_EXPORTER_OTLP_PROTOCOL"


_DISABLED: Final = "OTEL_SDK_DISABLED"


def sdk_disabled(environ: Mapping[str, str]) -> bool:
    """Return True when ``OTEL_SDK_DISABLED`` is ``true``: then no telemetry leaves the process, whatever else is set."""
    return _value(environ, _DISABLED).lower() == "true"


def signal_refused(signal: Signal, environ: Mapping[str, str]) -> bool:
    """Return True when the environment rules a signal out: the SDK is disabled, or its exporters are set and OTLP is not one."""
    exporters = _exporters(signal, environ)
    return sdk_disabled(environ) or (bool(exporters) and "otlp" not in exporters)


def wanted_signals(environ: Mapping[str, str], *, otlp: bool | None = None) -> tuple[Signal, ...]:
    """Return the signals to export: none when ``otlp`` is False, all that are not refused when it is True.

    When it is None, the environment has to ask for it: by an endpoint for all signals or for this one, or by
    ``OTEL_TRACES_EXPORTER=otlp`` (``OTEL_LOGS_EXPORTER``, ``OTEL_METRICS_EXPORTER``). ``none`` there keeps a signal in, always.
    """
    if otlp is False:
        return ()
    return tuple(s for s in SIGNALS if not signal_refused(s, environ) and (otlp or _asked_for(s, environ)))


def otlp_wanted(environ: Mapping[str, str]) -> bool:
    """Return True when the environment asks for OTLP for at least one signal."""
    return bool(wanted_signals(environ))


def protocol(signal: Signal, environ: Mapping[str, str]) -> Protocol:
    """Return the protocol of a signal; its own variable wins over the common one. Raises ConfigurationError for another value."""
    own = f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL"
    name = own if _value(environ, own) else _PROTOCOL
    value = _value(environ, name)
    if not value:
        return DEFAULT_PROTOCOL
    if value == "grpc":
        return "grpc"
    if value == "http/protobuf":
        return "http/protobuf"
    msg = f"{name}={value!r} is not a protocol that can be used. Set it to 'grpc' or 'http/protobuf', or leave it out for 'grpc'."
    raise ConfigurationError(msg)


def _asked_for(signal: Signal, environ: Mapping[str, str]) -> bool:
    endpoints = (_ENDPOINT, f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT")
    return "otlp" in _exporters(signal, environ) or any(_value(environ, name) for name in endpoints)


def _exporters(signal: Signal, environ: Mapping[str, str]) -> tuple[str, ...]:
    listed = _value(environ, f"OTEL_{signal.upper()}_EXPORTER").split(",")
    return tuple(name for name in (part.strip().lower() for part in listed) if name)


def _value(environ: Mapping[str, str], name: str) -> str:
    """Return a variable without blanks around it; an empty one counts as unset, as OpenTelemetry has it."""
    return environ.get(name, "").strip()
