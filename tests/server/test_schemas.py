"""Schemas of the API, generated from the TypedDicts of the codec."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

pytest.importorskip("fastapi", reason="the extra 'server' is not installed")

import otel_progress
from otel_progress import codec
from otel_progress.model import Status
from otel_progress.server.schemas import build_model
from tests.support.factories import event, log, operation, preview, resource_use, snapshot

PACKAGE = Path(otel_progress.__file__).parent
REPOSITORY = Path(__file__).resolve().parents[2]

PROBE = """
import json, sys
from pathlib import Path
import otel_progress
from otel_progress import codec
from otel_progress.journal import SqliteJournal
from otel_progress.server import create_app
from otel_progress.server.streams.messages import Encoder
from otel_progress.testing import recording
from tests.support.factories import make_change_set, operation, snapshot

before = operation(snapshot(probe=7.5))
document = json.loads(codec.dumps(codec.encode_operation(before)))
found = {"document": document["probe"], "decoded": codec.decode_operation(document).root.probe}
del document["probe"]
found["older document"] = codec.decode_operation(document).root.probe
found["stream"] = json.loads(Encoder().encode(before))["probe"]
journal = SqliteJournal(Path(sys.argv[1]))
journal.write(make_change_set(before.root))
found["journal"] = journal.get("friday-42").root.probe
schemas = create_app(journal).openapi()["components"]["schemas"]
journal.close()
for name in ("Level", "Operation", "OperationTree"):
    found[name] = schemas[name]["properties"]["probe"]["description"]
with recording() as recorder:
    with otel_progress.operation("setlist", id="live-1"):
        recorder.tick()
        found["live"] = recorder.operation("live-1").root.probe
print(json.dumps(found))
"""


def _insert_before(path: Path, line: int, column: int, text: str) -> None:
    lines = path.read_text().splitlines(keepends=True)
    lines[line - 1] = lines[line - 1][:column] + text + lines[line - 1][column:]
    path.write_text("".join(lines))


def _add_to_class(path: Path, name: str, text: str) -> None:
    """Add a field after the last annotated field of a class."""
    (definition,) = (
        node
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef) and node.name == name
    )
    last = max(node.end_lineno or 0 for node in definition.body if isinstance(node, ast.AnnAssign))
    _insert_before(path, last + 1, 0, f"    {text}\n")


def _add_to_longest_call(path: Path, text: str) -> None:
    """Add a positional argument to the call with the most arguments."""
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    call = max((call for call in calls if isinstance(call.func, ast.Name)), key=lambda call: len(call.args))
    assert call.end_lineno is not None
    assert call.end_col_offset is not None
    _insert_before(path, call.end_lineno, call.end_col_offset - 1, text)


@pytest.mark.process
def test_snapshot_field_added_in_three_files_reaches_every_format(tmp_path: Path) -> None:
    """The dataclass, the TypedDict and the value are all that a new field needs."""
    package = tmp_path / "source" / "otel_progress"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__", "page"))
    _add_to_class(package / "model.py", "LevelSnapshot", "probe: float | None = None")
    _add_to_class(package / "codec.py", "LevelDocument", 'probe: Annotated[float | None, "A probe."]')
    _add_to_longest_call(package / "live" / "snapshots.py", "2.5")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(package.parent), str(REPOSITORY)])}
    done = subprocess.run(
        [sys.executable, "-c", PROBE, str(tmp_path / "progress.db")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "document": 7.5,
        "decoded": 7.5,
        "older document": None,
        "stream": 7.5,
        "journal": 7.5,
        "Level": "A probe.",
        "Operation": "A probe.",
        "OperationTree": "A probe.",
        "live": 2.5,
    }


DOCUMENTS = {
    "operation": (codec.OperationTreeDocument, codec.encode_operation(operation(snapshot()))),
    "operation without levels": (
        codec.OperationDocument,
        codec.encode_operation(operation(snapshot()), levels=False),
    ),
    "level": (codec.LevelDocument, codec.encode_level(snapshot("song:1"), 0.0)),
    "event": (codec.EventDocument, codec.encode_event(event())),
    "log": (codec.LogDocument, codec.encode_log(log(1))),
    "preview": (codec.PreviewDocument, codec.encode_preview(preview())),
    "resources": (codec.ResourceUseDocument, codec.encode_resources(resource_use())),
    "sample": (codec.SampleDocument, codec.encode_sample(resource_use().last)),
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_encoded_document_has_the_fields_of_its_typed_dict(name: str) -> None:
    """The codec writes every declared field and no other."""
    document_type, document = DOCUMENTS[name]
    assert set(document) == set(get_type_hints(document_type))
    build_model(document_type).model_validate(document)


def test_schema_name_of_the_types_is_the_one_of_the_documents() -> None:
    """The literal in the types equals the constant that the codec writes."""
    assert get_args(get_args(codec.SchemaName)[0]) == (codec.SCHEMA,)


def test_counts_have_every_status() -> None:
    """A new status needs a count in the document of a batch."""
    assert set(get_type_hints(codec.CountsDocument)) == {status.value for status in Status}


def test_model_of_a_typed_dict_is_built_once() -> None:
    """Two models of one name would become two schemas."""
    assert build_model(codec.LevelDocument) is build_model(codec.LevelDocument)
