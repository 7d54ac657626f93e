"""Standard environment variables of OTLP: signals to export and their protocol.

The exporters themselves read endpoints, headers, certificates, timeouts and compression
(``OTEL_EXPORTER_OTLP_*``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

from otel_progress.errors import ConfigurationError

Signal: TypeAlias = Literal["traces", "logs", "metrics"]
"""Signal of OTLP. Progress events are logs."""


Protocol: TypeAlias = Literal["grpc", "http/protobuf"]
"""Transport protocol of OTLP."""


SIGNALS: Final[tuple[Signal, ...]] = ("traces", "logs", "metrics")
"""All signals, in the order in which they are set up."""


DEFAULT_PROTOCOL: Final[Protocol] = "grpc"
"""Default of OpenTelemetry Python."""


_ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"


_PROTOCOL: Final = "OTEL_EXPORTER_OTLP_PROTOCOL"


_DISABLED: Final = "OTEL_SDK_DISABLED"


def is_sdk_disabled(environ: Mapping[str, str]) -> bool:
    """Return True if ``OTEL_SDK_DISABLED`` is ``true``.

    It overrides all other settings.
    """
    return _get_variable(environ, _DISABLED).lower() == "true"


def is_signal_disabled(signal: Signal, environ: Mapping[str, str]) -> bool:
    """Return True if the SDK is disabled or the signal's exporters exclude OTLP."""
    exporters = _list_exporters(signal, environ)
    return is_sdk_disabled(environ) or (bool(exporters) and "otlp" not in exporters)


def select_signals(environ: Mapping[str, str], *, otlp: bool | None = None) -> tuple[Signal, ...]:
    """Return the signals to export.

    These are no signals if ``otlp`` is False, and all signals that are not disabled if it is True.
    If it is None, the environment must request a signal: by an endpoint for all signals or for this
    one, or by ``OTEL_TRACES_EXPORTER=otlp`` (``OTEL_LOGS_EXPORTER``, ``OTEL_METRICS_EXPORTER``).
    The value ``none`` there always disables a signal.
    """
    if otlp is False:
        return ()
    return tuple(
        signal
        for signal in SIGNALS
        if not is_signal_disabled(signal, environ) and (otlp or _is_requested(signal, environ))
    )


def select_protocol(signal: Signal, environ: Mapping[str, str]) -> Protocol:
    """Return the protocol of a signal. Its own variable overrides the common one.

    Raises ConfigurationError for an unsupported value.
    """
    own = f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL"
    name = own if _get_variable(environ, own) else _PROTOCOL
    value = _get_variable(environ, name)
    if not value:
        return DEFAULT_PROTOCOL
    if value == "grpc":
        return "grpc"
    if value == "http/protobuf":
        return "http/protobuf"
    msg = f"Invalid {name} {value!r}: expected 'grpc' or 'http/protobuf'. Remove it to use 'grpc'."
    raise ConfigurationError(msg)


def _is_requested(signal: Signal, environ: Mapping[str, str]) -> bool:
    endpoints = (_ENDPOINT, f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT")
    return "otlp" in _list_exporters(signal, environ) or any(
        _get_variable(environ, name) for name in endpoints
    )


def _list_exporters(signal: Signal, environ: Mapping[str, str]) -> tuple[str, ...]:
    names = _get_variable(environ, f"OTEL_{signal.upper()}_EXPORTER").split(",")
    return tuple(name for name in (part.strip().lower() for part in names) if name)


def _get_variable(environ: Mapping[str, str], name: str) -> str:
    """Return a variable without surrounding blanks.

    As in OpenTelemetry, empty means unset.
    """
    return environ.get(name, "").strip()
