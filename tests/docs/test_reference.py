"""Completeness of the reference: it has exactly the existing names."""

from __future__ import annotations

import builtins
import enum
import json
import re
import sqlite3
import typing
from collections import abc
from concurrent import futures
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest

import otel_progress as progress
from otel_progress import config, semconv, testing
from otel_progress.cli import cli
from otel_progress.cli.app import EXIT_INTERRUPTED, EXIT_PROBLEM, EXIT_UNREADABLE, EXIT_USAGE
from otel_progress.cli.output import EXIT_ABANDONED, EXIT_NOT_REPORTING
from otel_progress.codec import (
    encode_batch,
    encode_event,
    encode_log,
    encode_operation,
    encode_resources,
    encode_sample,
)
from otel_progress.journal.sqlite.schema import APPLICATION_ID, MIGRATIONS
from otel_progress.model import Eta
from otel_progress.settings.fields import SETTINGS
from otel_progress.testing import Recorder
from otel_progress.updates.client import ADDRESS_VARIABLE, PARENT_VARIABLE
from tests.support.documents import DOCUMENTS, PROJECT
from tests.support.factories import log, resource_use, sample
from tests.support.scripts import script

REFERENCE = (PROJECT / "docs" / "reference.md").read_text(encoding="utf-8")
SOURCE = "".join(path.read_text(encoding="utf-8") for path in Path(progress.__file__).parent.rglob("*.py"))
CODE = re.compile(r"`([^`\n]+)`")


def section(name: str) -> str:
    """Return the text below a second-level heading."""
    found = re.search(rf"^## {name}\n(.*?)(?=^## |\Z)", REFERENCE, re.DOTALL | re.MULTILINE)
    assert found is not None, name
    return found[1]


def first_cells(text: str) -> set[str]:
    """Return the code in the first cells of all tables of a text."""
    rows = re.findall(r"^\| (`(?:\\\||[^|])*) \|", text, re.MULTILINE)
    return {word for row in rows for word in CODE.findall(row)}


def fields(name: str) -> set[str]:
    """Return the documented fields of a part of the JSON document."""
    found = re.search(rf"<!-- fields: {name} -->\n\n(.*?)\n\n", REFERENCE, re.DOTALL)
    assert found is not None, name
    return first_cells(found[1])


@pytest.fixture(scope="module")
def writer() -> ModuleType:
    """The script that writes the generated parts."""
    return script("reference")


@pytest.mark.parametrize(
    "document", [path for path in DOCUMENTS if "docs" in path.parts], ids=lambda path: path.name
)
def test_generated_parts_match_the_script(document: Path, writer: ModuleType) -> None:
    """If this test fails, run ``scripts/reference``."""
    text = document.read_text(encoding="utf-8")
    assert text == writer.rewrite_blocks(text)


def test_generated_parts_of_the_script_are_all_used(writer: ModuleType) -> None:
    """Every part that the script can generate is in a document."""
    used = {
        match[2] for path in DOCUMENTS for match in writer.BLOCK.finditer(path.read_text(encoding="utf-8"))
    }
    assert used == {name.removesuffix("_block") for name in vars(writer) if name.endswith("_block")} - {
        "name"
    }


def test_settings_table_has_every_setting() -> None:
    """The table has exactly the variables of the code."""
    documented = set(re.findall(r"`(OTEL_PROGRESS_[A-Z_]+|OTEL_SERVICE_NAME)`", section("Settings")))
    assert documented == {variable for setting in SETTINGS for variable in setting.variables}


def test_configure_signature_has_every_setting() -> None:
    """The reference also explains the other arguments."""
    arguments = set(config.configure.__kwdefaults__ or {})
    assert arguments == {setting.name for setting in SETTINGS} | {"tracer_provider", "inherit", "reconfigure"}
    assert first_cells(section("Settings")) == arguments


def find_types(text: str) -> set[str]:
    """Return capitalised names in signatures, except standard ones."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    signatures = [block for language, block in blocks if not language]
    signatures += re.findall(r"^- `([^`]*)`", text, re.MULTILINE)
    plain = re.sub(r"'[^']*'", "", " ".join(signatures))
    names = set(re.findall(r"(?<![\w.])([A-Z]\w+)\b(?!\()", plain))
    standard = {*vars(builtins), *vars(typing), *vars(abc), *vars(enum), *vars(futures)}
    return {name for name in names if name not in standard}


def test_types_in_signatures_are_explained() -> None:
    """Each type is in the table of types, has a section, or is of OpenTelemetry."""
    text = section("Python names")
    rows = re.findall(r"^\| ([A-Z][\w, ]+) \|", text, re.MULTILINE)
    explained = {name for row in rows for name in row.split(", ")} | set(progress.__all__)
    explained |= {"Context", "SpanKind", "Attributes", "Link", "TraceState", "SamplingResult"}  # of a Sampler
    explained |= set(re.findall(r"^### `(\w+)`$", REFERENCE, re.MULTILINE)) | {"Settings"}
    assert find_types(text) - explained == set()


def test_table_of_the_reference_with_a_field_has_it_once() -> None:
    """No row is repeated."""
    tables = re.findall(r"^(?:\|.*\n)+", REFERENCE, re.MULTILINE)
    cells = [re.findall(r"^(\| `[^|]*) \|", table, re.MULTILINE) for table in tables]
    assert [cell for rows in cells for cell in set(rows) if rows.count(cell) > 1] == []


def test_glossaries_with_conditions_have_all_of_them() -> None:
    """The glossary of the reference and that of the design."""
    design = (PROJECT / "docs" / "design.md").read_text(encoding="utf-8")
    for text in (REFERENCE, design):
        (meaning,) = re.findall(r"^\| condition \| (.*?)\.", text, re.MULTILINE)
        assert set(re.split(", | or ", meaning)) == {
            condition.value.replace("_", " ") for condition in progress.Condition
        }


def test_standard_variables_that_code_reads_are_documented() -> None:
    """Every OpenTelemetry variable in the code is explained, also in a pattern."""
    read = {
        name for name in re.findall(r"\bOTEL_[A-Z_]+[A-Z]\b", SOURCE) if not name.startswith("OTEL_PROGRESS")
    }
    explained = set(re.findall(r"OTEL_[A-Z_]+[A-Z]\b", section("Standard variables") + section("Settings")))
    assert {name for name in read if not any(known.startswith(name) for known in explained)} == set()


def test_documents_with_variable_name_an_existing_setting() -> None:
    """Every ``OTEL_PROGRESS_`` variable is a setting, or connects processes."""
    known = {variable for setting in SETTINGS for variable in setting.variables}
    known |= {PARENT_VARIABLE, ADDRESS_VARIABLE}
    text = "".join(path.read_text(encoding="utf-8") for path in DOCUMENTS)
    assert set(re.findall(r"\bOTEL_PROGRESS_[A-Z_]+[A-Z]\b", text)) <= known


def test_headings_of_names_match_all() -> None:
    """The headings are the names of ``__all__`` in order, also for the testing module."""
    assert re.findall(r"^### `(\w+)`$", section("Python names"), re.MULTILINE) == progress.__all__
    made_there = [name for name in testing.__all__ if name != "ConfigurationError"]
    assert re.findall(r"^### `(\w+)`$", section("Testing"), re.MULTILINE) == made_there


def test_documents_with_code_use_public_names() -> None:
    """Every ``progress.…`` in the code of a document is a public name."""
    found = set()
    for path in DOCUMENTS:
        for block in re.findall(
            r"^```python\n(.*?)^```", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
        ):
            found |= set(re.findall(r"(?<![\w\"'.])progress\.([A-Za-z_]+)\b(?!\.py)", block))
    assert found - {"testing", "exporters"} <= set(progress.__all__)


def test_attribute_and_event_tables_match_semconv() -> None:
    """The tables have exactly the names of semconv."""
    standard = {
        semconv.SERVICE_NAME,
        semconv.SERVICE_INSTANCE_ID,
        semconv.EXCEPTION_MESSAGE,
        semconv.EXCEPTION_TYPE,
        semconv.METADATA_PREFIX,
    }
    standard |= {semconv.EXCEPTION_STACKTRACE, semconv.LEGACY_EVENT_NAME}
    assert first_cells(section("Attributes")) == set(semconv.ATTRIBUTES) | standard
    assert first_cells(section("Events")) == set(semconv.EVENTS)


def test_metrics_table_matches_semconv() -> None:
    """The table has exactly the metrics of semconv."""
    assert first_cells(section("Metrics")) == {metric.name for metric in semconv.METRICS}


def test_promql_of_documents_uses_existing_metrics() -> None:
    """Queries name existing series with labels that they have."""
    series = {metric.prometheus: metric for metric in semconv.METRICS}
    asked = 0
    for path in DOCUMENTS:
        for query in re.findall(
            r"^```promql\n(.*?)^```", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
        ):
            for name, _, labels in re.findall(
                r"(progress_\w+?)(_bucket|_sum|_count)?\b(?:\{(.*?)\})?", query
            ):
                assert name in series, query
                assert set(re.findall(r"(\w+)=", labels)) <= set(series[name].labels), query
                asked += 1
    assert asked > 5


def command_names(group: click.Group) -> list[str]:
    """Return the names of all commands."""
    return group.list_commands(click.Context(group))


def test_command_sections_have_every_option() -> None:
    """Sections exist for exactly the commands, with all options and arguments."""
    text = section("Commands")
    parts = dict(
        re.findall(r"^### `otel-progress ?(\w*)`\n(.*?)(?=^### |\Z)", text, re.DOTALL | re.MULTILINE)
    )
    assert isinstance(cli, click.Group)
    assert set(parts) == {"", *command_names(cli)}
    for name in command_names(cli):
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        options = {opt for param in command.params if isinstance(param, click.Option) for opt in param.opts}
        documented = {
            opt for cell in first_cells(parts[name]) for opt in re.findall(r"(?<!\w)--?[a-z][a-z-]*", cell)
        }
        assert documented == options | {"--help"} | ({"-h"} & documented), name


def test_exit_code_table_has_every_code() -> None:
    """The table has the exit codes of the command line."""
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", section("Exit codes"), re.MULTILINE)}
    assert codes == {
        0,
        EXIT_PROBLEM,
        EXIT_USAGE,
        EXIT_UNREADABLE,
        EXIT_ABANDONED,
        EXIT_NOT_REPORTING,
        EXIT_INTERRUPTED,
    }


def test_json_fields_of_full_operation_are_documented(recorder: Recorder) -> None:
    """An operation with all optional parts has exactly the documented fields."""
    op = progress.operation("import", id="i", total=4, unit="file").start()
    op.item("a", outcome="failed", error=OSError("gone"))
    for name in "bc":
        recorder.clock.advance(2.0)
        recorder.tick()
        op.item(name)
    running = encode_operation(recorder.operation("i"))
    op.level("file", "d").fail(OSError("gone"))
    op.fail(OSError("gone"))
    document: dict[str, Any] = json.loads(json.dumps(encode_operation(recorder.operation("i"))))
    event, *_ = map(encode_event, recorder.runtime.get_events("i"))

    assert fields("level") == set(document["levels"][0])
    assert fields("operation") | fields("level") == {*document, "events"}
    assert fields("error") == set(document["error"])
    assert fields("worker") == set(document["worker"])
    assert fields("event") == set(event)
    assert fields("eta") == set(running["eta"]) == set(Eta.__slots__)
    assert fields("sample") == set(encode_sample(sample()))
    assert fields("resources") == set(encode_resources(resource_use()))
    assert fields("log") == set(encode_log(log()))
    with progress.batch("night", id="night"):
        pass
    batch = progress.get_batch("night")
    assert batch is not None
    assert fields("batch") == set(encode_batch(batch))


def test_journal_notes_name_every_table() -> None:
    """The reference names the tables, the application id and the schema version."""
    connection = sqlite3.connect(":memory:")
    for step in MIGRATIONS:
        for statement in step:
            connection.execute(statement)
    made = {
        name
        for (name,) in connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        )
    }
    connection.close()
    text = section("The journal file")
    assert first_cells(text) == made
    assert f"`0x{APPLICATION_ID:X}`" in text
    assert f"the version of the schema, {len(MIGRATIONS)} now" in text
