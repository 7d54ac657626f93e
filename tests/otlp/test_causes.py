"""Causes of failed exports: short texts without credentials."""

from __future__ import annotations

from pathlib import Path

import pytest

from otel_progress.otlp.causes import describe_cause, find_unreadable_file, get_endpoint
from otel_progress.text import remove_credentials

REQUESTS = "Transient error HTTPConnectionPool(host='h', port=9): Max retries exceeded (Caused by "
GRPC = "Transient error StatusCode.UNAVAILABLE encountered while exporting traces to h:9. Error details: "
NOT_RESOLVED, NOT_TRUSTED = "the host name cannot be resolved", "the TLS certificate is not trusted"
MESSAGES = {
    f"{REQUESTS}NewConnectionError('[Errno 111] Connection refused'))": "connection refused",
    f"{GRPC}failed to connect to all addresses; last error: Connection refused": "connection refused",
    f"{REQUESTS}NameResolutionError(\"Failed to resolve 'h'\"))": NOT_RESOLVED,
    f"{GRPC}errors resolving h:9: [hostname lookup error: Domain name not found]": NOT_RESOLVED,
    "Could not find a suitable TLS CA certificate bundle, invalid path: /x": "the TLS file cannot be read",
    f"{REQUESTS}SSLError(SSLError(1, '[SSL: WRONG_VERSION_NUMBER]'))": "the TLS handshake failed",
    f"{REQUESTS}SSLCertVerificationError(1, 'certificate verify failed'))": NOT_TRUSTED,
    "StatusCode.DEADLINE_EXCEEDED": "no answer in time",
    "('Connection aborted.', RemoteDisconnected())": "the connection was closed",
    "Failed to export spans batch code: 401, reason: Unauthorized": "HTTP 401 Unauthorized",
    "Failed to export spans batch code: None, reason: odd": "odd",
    "Transient error Service Unavailable encountered while exporting spans batch, retrying in 1s.": (
        "Service Unavailable"
    ),
    "something else.": "something else",
    "": "",
}


@pytest.mark.parametrize("message", MESSAGES)
def test_describe_cause_of_known_message_is_short(message: str) -> None:
    assert describe_cause(message, {}) == MESSAGES[message]


def test_describe_cause_with_unreadable_tls_file_names_the_file(tmp_path: Path) -> None:
    """Exporters continue without the file, so the error of the connection misleads."""
    present = tmp_path / "ca.pem"
    present.write_text("")
    environ = {
        "OTEL_EXPORTER_OTLP_CERTIFICATE": str(present),
        "OTEL_EXPORTER_OTLP_LOGS_CLIENT_KEY": str(tmp_path / "no.key"),
    }
    cause = describe_cause("Connection refused", environ)
    assert cause.startswith("the TLS file ")
    assert "no.key' of OTEL_EXPORTER_OTLP_LOGS_CLIENT_KEY cannot be read (No such file" in cause
    assert find_unreadable_file({"OTEL_EXPORTER_OTLP_CERTIFICATE": str(present)}) is None


@pytest.mark.parametrize(
    "text", ["exporting to user:PW@127.0.0.1:9", "http://user:PW@host/x", "grpc://PW@[::1]:4317", "u:PW@h"]
)
def test_remove_credentials_removes_user_and_password(text: str) -> None:
    assert "PW" not in remove_credentials(text)
    assert "PW" not in describe_cause(text, {})


def test_get_endpoint_of_signal_overrides_the_common_one() -> None:
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://user:PW@all:4318",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://traces:4318/v1/traces",
    }
    assert get_endpoint("spans", environ) == "http://traces:4318/v1/traces"
    assert get_endpoint("events", environ) == get_endpoint("metrics", environ) == "http://all:4318"
    assert get_endpoint("metrics", {}) == ""
