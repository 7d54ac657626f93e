"""HTTP requests to platforms: time limits, no redirects, no secrets in errors."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any, Final
from urllib.error import HTTPError, URLError
from urllib.request import (
    BaseHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    ProxyHandler,
    Request,
    build_opener,
)

from otel_progress.platforms.reporter import PlatformError
from otel_progress.text import escape_controls, truncate

TIMEOUT_S: Final = 5.0
"""Time limit of a connection and of each read, in seconds. Beyond it the request fails."""


MAX_ANSWER_BYTES: Final = 1_024
"""Bytes of an answer that are read. The rest is discarded with the connection."""


class _NoRedirects(HTTPRedirectHandler):
    """Rejects redirects, because another server must not receive the token."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Return no request."""


def post(
    name: str,
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    *,
    context: ssl.SSLContext | None = None,
    uses_proxy: bool = True,
) -> None:
    """Send a POST request. Raises PlatformError unless the answer is a success.

    ``name`` names the server in the error, which has neither the URL nor a header.
    """
    handlers: list[BaseHandler] = [_NoRedirects(), HTTPSHandler(context=context)]
    if not uses_proxy:
        handlers.append(ProxyHandler({}))
    try:
        request = Request(url, body, {"User-Agent": "otel-progress", **headers}, method="POST")
        with build_opener(*handlers).open(request, timeout=TIMEOUT_S) as answer:
            answer.read(MAX_ANSWER_BYTES)
    except HTTPError as error:
        reason = f"HTTP status {error.code}"
        error.close()
    except URLError as error:
        reason = _describe(error.reason)
    except (OSError, HTTPException, ValueError) as error:
        reason = _describe(error)
    else:
        return
    # Why here: the causes may contain the URL.
    msg = f"Invalid answer of {name} ({reason}): expected a success. Check its URL, token and network."
    raise PlatformError(msg)


def _describe(reason: object) -> str:
    """Return a reason without the URL, which may be a secret."""
    if isinstance(reason, OSError):
        text = reason.strerror or getattr(reason, "reason", None) or type(reason).__name__
        return truncate(escape_controls(str(text)), 200)
    return type(reason).__name__
