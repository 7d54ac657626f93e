"""Server with REST API, streams and live page over any Reader.

Needs ``pip install 'otel-progress[server]'``.
"""

from otel_progress.errors import MissingExtraError
from otel_progress.server.settings import Limits, ServerSettings, StreamLimits

try:
    from otel_progress.server.app import create_app
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] not in {"anyio", "fastapi", "pydantic", "starlette"}:
        raise
    raise MissingExtraError("The server", "server") from error


__all__ = ["Limits", "ServerSettings", "StreamLimits", "create_app"]
