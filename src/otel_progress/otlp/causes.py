"""Causes of failed exports as short texts without credentials."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from otel_progress.text import remove_credentials, truncate

_MAX_CAUSE_CHARACTERS: Final = 300


_CAUSES: Final = tuple(
    (cause, re.compile(pattern, re.IGNORECASE))
    for cause, pattern in (
        (
            "the TLS file cannot be read",
            r"could not find a suitable tls|could not find the tls|failed to read file",
        ),
        (
            "the host name cannot be resolved",
            r"nameresolution|name or service not known|name resolution|domain name not found|dns resolution"
            r"|getaddrinfo|nodename nor servname|lookup failed",
        ),
        ("connection refused", r"connection refused|errno 111|errno 61|winerror 10061|actively refused"),
        ("the TLS certificate is not trusted", r"certificate[ _]verify[ _]failed|certificate verify"),
        ("the TLS handshake failed", r"ssl_error|sslerror|wrong[_ ]version[_ ]number|handshake failed|tlsv1"),
        ("the host is not reachable", r"no route to host|network is unreachable|errno 113|errno 101"),
        ("no answer in time", r"timed out|read timeout|deadline[_ ]exceeded"),
        (
            "the connection was closed",
            r"connection reset|connection aborted|remote end closed|socket closed|broken pipe",
        ),
    )
)
"""Causes, and the messages of requests, urllib3, gRPC and operating systems that mean them."""


_STATUS: Final = re.compile(
    r"Failed to export \w+ batch code: (?P<code>\w+), reason: (?P<reason>.*)"
    r"|Transient error (?P<transient>[A-Z][\w ]*) encountered",
    re.DOTALL,
)
"""Messages of the HTTP exporters about an answer."""


_GIVEN_UP: Final = re.compile(r"due to timeout, max retries or shutdown|aborting retry")
"""Last messages of exporters that stop to send a batch. Earlier ones have the cause."""


_TLS_FILES: Final = ("CERTIFICATE", "CLIENT_KEY", "CLIENT_CERTIFICATE")


def describe_cause(message: str, environ: Mapping[str, str] = os.environ) -> str:
    """Return the cause of a failed export from an exporter's message.

    An unreadable TLS file of the environment comes first, because exporters continue without it.
    An unknown message is returned without credentials. An empty one stays empty.
    """
    message = message.removeprefix("InvalidAnswerError: ")  # of exporters that raise it
    unreadable = find_unreadable_file(environ)
    if unreadable is not None:
        return unreadable
    for cause, pattern in _CAUSES:
        if pattern.search(message):
            return cause
    status = _STATUS.match(message)
    if status is not None:
        has_code = status["code"] not in (None, "None")
        reason = status["reason"] or status["transient"]
        message = f"HTTP {status['code']} {reason}" if has_code else reason
    return truncate(remove_credentials(message), _MAX_CAUSE_CHARACTERS).rstrip(". ")


def names_no_cause(message: str) -> bool:
    """Return True for an exporter's message that says only that it gave up."""
    return _GIVEN_UP.search(message) is not None


def find_unreadable_file(environ: Mapping[str, str]) -> str | None:
    """Return a description of the first TLS file of OTLP that cannot be read, or None."""
    for signal in ("", "TRACES_", "LOGS_", "METRICS_"):
        for kind in _TLS_FILES:
            name = f"OTEL_EXPORTER_OTLP_{signal}{kind}"
            path = environ.get(name, "").strip()
            if not path:
                continue
            try:
                Path(path).open("rb").close()
            except OSError as error:
                return f"the TLS file {path!r} of {name} cannot be read ({error.strerror})"
    return None


def get_endpoint(name: str, environ: Mapping[str, str] = os.environ) -> str:
    """Return the endpoint of spans, events, logs or metrics, without credentials.

    It is empty if the environment does not have one.
    """
    signal = {"spans": "TRACES", "metrics": "METRICS"}.get(name, "LOGS")
    variables = (f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    return next(
        (remove_credentials(environ[key].strip()) for key in variables if environ.get(key, "").strip()), ""
    )
