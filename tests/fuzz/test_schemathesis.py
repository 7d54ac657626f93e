"""The REST API against its own OpenAPI document: thousands of requests, good and bad, made by schemathesis from the document.

No answer may be a 5xx, have a status, type or shape that the document does not tell of, or accept what the document forbids.
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
"""Requests for each path and method, of each mode at most."""
_FREE_TEXT = {"type", "batch", "metadata", "q", "path"}
_KNOWN = ["friday-42", "done-0", "broken", EVIL_ID.replace("/", "")]

_folder = tempfile.TemporaryDirectory()
_journal = SqliteJournal(Path(_folder.name) / "progress.db", now=lambda: NOW_WALL, clock=lambda: NOW_CLOCK)
fill(_journal)
_limits = Limits(body_s=600.0, answer_s=600.0)  # so that no answer is a matter of how busy the machine is
_settings = ServerSettings(allowed_hosts=("testserver",), limits=_limits)
_app = create_app(_journal, settings=_settings, controller=_journal)
atexit.register(_folder.cleanup)
atexit.register(_journal.close)
atexit.register(_app.state.services.reader_pool.close)

schema = schemathesis.openapi.from_asgi("/openapi.json", _app)


@schema.hook
def map_path_parameters(context: Any, path_parameters: dict[str, Any] | None) -> dict[str, Any] | None:
    """Name an operation that is there in most requests: what lies behind the 404 is what is to be tested."""
    del context
    if path_parameters and "operation_id" in path_parameters:
        text = str(path_parameters["operation_id"])
        if len(text) % 4:
            path_parameters["operation_id"] = _KNOWN[len(text) % len(_KNOWN)]
    return path_parameters


@schema.hook
def map_query(context: Any, query: dict[str, Any] | None) -> dict[str, Any] | None:
    """Leave cursors out: their form is nobody's business but the server's, so no document can say which are taken."""
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
def test_every_answer_is_one_the_document_tells_of(case: schemathesis.Case) -> None:
    """Whatever is asked, the answer is documented, and wrong requests are refused."""
    # Whatever stands for free text in a query is text by the time it is sent, "false" as good as any: it cannot be wrong in type.
    untold = [negative_data_rejection] if _FREE_TEXT & set(case.query or ()) else []
    case.call_and_validate(excluded_checks=untold)
