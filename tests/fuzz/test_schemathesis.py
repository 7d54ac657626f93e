"""Fuzz test of the REST API against its own OpenAPI document.

schemathesis generates thousands of valid and invalid requests from the document. A response must
not be a 5xx, and must have a documented status, type and shape. Invalid requests must be rejected.
"""

from __future__ import annotations

import atexit
import tempfile
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the extra 'server' is not installed")

import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import negative_data_rejection

from otel_progress.journal import SqliteJournal
from otel_progress.server import ServerSettings, create_app
from otel_progress.server.settings import Limits
from tests.support.sample_operations import EVIL_ID, NOW_CLOCK, NOW_WALL, fill

pytestmark = pytest.mark.server

CASES = 100
"""Maximum number of requests per path, method and mode."""
_FREE_TEXT = {"type", "batch", "metadata", "q", "path"}
_KNOWN = ["friday-42", "done-0", "broken", EVIL_ID.replace("/", "")]

_folder = tempfile.TemporaryDirectory()
_journal = SqliteJournal(Path(_folder.name) / "progress.db", now=lambda: NOW_WALL, clock=lambda: NOW_CLOCK)
fill(_journal)
# Why: a busy machine must not cause timeouts.
_limits = Limits(body_s=600.0, answer_s=600.0)
_settings = ServerSettings(allowed_hosts=("testserver",), limits=_limits)
_app = create_app(_journal, settings=_settings, controller=_journal)
atexit.register(_folder.cleanup)
atexit.register(_journal.close)
atexit.register(_app.state.services.reader_pool.close)

schema = schemathesis.openapi.from_asgi("/openapi.json", _app)


@schema.hook
def map_path_parameters(context: Any, path_parameters: dict[str, Any] | None) -> dict[str, Any] | None:
    """Use an existing operation in most requests, so that few responses are a 404."""
    del context
    if path_parameters and "operation_id" in path_parameters:
        text = str(path_parameters["operation_id"])
        if len(text) % 4:
            path_parameters["operation_id"] = _KNOWN[len(text) % len(_KNOWN)]
    return path_parameters


@schema.hook
def map_query(context: Any, query: dict[str, Any] | None) -> dict[str, Any] | None:
    """Remove cursors, because their format is not documented."""
    del context
    if query:
        query.pop("cursor", None)
    return query


@schema.parametrize()
@settings(
    max_examples=CASES,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_api_with_any_request_returns_documented_response(case: schemathesis.Case) -> None:
    """Every response is documented, and invalid requests are rejected."""
    # Every value of a free-text parameter is sent as text, so it cannot have a wrong type.
    excluded_checks = [negative_data_rejection] if _FREE_TEXT & set(case.query or ()) else []
    case.call_and_validate(excluded_checks=excluded_checks)
