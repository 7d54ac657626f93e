"""The reference is complete in both directions: nothing that exists is missing, and nothing is there that does not exist."""

from __future__ import annotations

import json
import re
import sqlite3
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest

import otel_progress as progress
from otel_progress import config, semconv, testing
from otel_progress.cli import cli
from otel_progress.cli.app import EXIT_INTERRUPTED, EXIT_PROBLEM, EXIT_UNREADABLE, EXIT_USAGE
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
from tests.support.documents import DOCUMENTS, PROJECT
from tests.support.factories import log, resource_use, sample
from tests.support.scripts import script

REFERENCE = (PROJECT / "docs" / "reference.md").read_text(encoding="utf-8")
SOURCE = "".join(path.read_text(encoding="utf-8") for path in Path(progress.__file__).parent.rglob("*.py"))
CODE = re.compile(r"`([^`\n]+)`")


def section(name: str) -> str:
    """Return the text below a heading of the second rank."""
    found = re.search(rf"^## {name}\n(.*?)(?=^## |\Z)", REFERENCE, re.DOTALL | re.MULTILINE)
    assert found is not None, name
    return found[1]


def first_cells(text: str) -> set[str]:
    """Return the code in the first cells of all tables of a text."""
    rows = re.findall(r"^\| (`(?:\\\||[^|])*) \|", text, re.MULTILINE)
    return {word for row in rows for word in CODE.findall(row)}


def fields(name: str) -> set[str]:
    """Return the fields the reference has of a part of the JSON document."""
    found = re.search(rf"<!-- fields: {name} -->\n\n(.*?)\n\n", REFERENCE, re.DOTALL)
    assert found is not None, name
    return first_cells(found[1])


@pytest.fixture(scope="module")
def writer() -> ModuleType:
    """The script that writes the generated parts."""
    return script("reference")


@pytest.mark.parametrize(
    "document", [path for path in DOCUMENTS if path.parent.name == "docs"], ids=lambda path: path.name
)
def test_generated_parts_are_what_the_script_writes(document: Path, writer: ModuleType) -> None:
    """The committed text is what ``scripts/reference`` makes of the code; run it when this fails."""
    text = document.read_text(encoding="utf-8")
    assert text == writer.rewrite_blocks(text)


def test_every_generated_part_is_in_a_document(writer: ModuleType) -> None:
    """Nothing the script can write is left out of the documents."""
    used = {
        match[2] for path in DOCUMENTS for match in writer.BLOCK.finditer(path.read_text(encoding="utf-8"))
    }
    assert used == {name.removesuffix("_block") for name in vars(writer) if name.endswith("_block")} - {
        "name"
    }


def test_every_setting_is_there() -> None:
    """Arguments, variables: those of the settings table are those of the code."""
    assert first_cells(section("Settings")) == {setting.name for setting in SETTINGS}
    documented = set(re.findall(r"`(OTEL_PROGRESS_[A-Z_]+|OTEL_SERVICE_NAME)`", section("Settings")))
    assert documented == {variable for setting in SETTINGS for variable in setting.variables}


def test_configure_takes_every_setting() -> None:
    """The signature of ``configure`` has each setting, and ``tracer_provider``, which the reference explains."""
    arguments = set(config.configure.__kwdefaults__ or {})
    assert arguments == {setting.name for setting in SETTINGS} | {"tracer_provider"}
    assert "`tracer_provider`" in section("Settings")


def test_every_standard_variable_that_is_read_is_there() -> None:
    """Variables of OpenTelemetry that the code names are explained, however they are put together."""
    read = {
        name for name in re.findall(r"\bOTEL_[A-Z_]+[A-Z]\b", SOURCE) if not name.startswith("OTEL_PROGRESS")
    }
    explained = set(re.findall(r"OTEL_[A-Z_]+[A-Z]\b", section("Standard variables") + section("Settings")))
    assert {name for name in read if not any(known.startswith(name) for known in explained)} == set()


def test_documents_name_only_variables_that_exist() -> None:
    """A variable of ours that a document names is a setting."""
    known = {variable for setting in SETTINGS for variable in setting.variables}
    text = "".join(path.read_text(encoding="utf-8") for path in DOCUMENTS)
    assert set(re.findall(r"\bOTEL_PROGRESS_[A-Z_]+[A-Z]\b", text)) <= known


def test_every_public_name_is_there() -> None:
    """The headings of the names are those of ``__all__``, in its order; likewise for the testing kit."""
    assert re.findall(r"^### `(\w+)`$", section("Python names"), re.MULTILINE) == progress.__all__
    made_there = [name for name in testing.__all__ if name != "ConfigurationError"]
    assert re.findall(r"^### `(\w+)`$", section("Testing"), re.MULTILINE) == made_there


def test_documents_use_only_public_names() -> None:
    """``progress.…`` in the code of any document is a name of the package."""
    found = set()
    for path in DOCUMENTS:
        for block in re.findall(
            r"^```python\n(.*?)^```", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
        ):
            found |= set(re.findall(r"(?<![\w\"'.])progress\.([A-Za-z_]+)\b(?!\.py)", block))
    assert found - {"testing", "exporters"} <= set(progress.__all__)


def test_every_attribute_and_event_is_there() -> None:
    """The tables hold the names of semconv, and no others."""
    standard = {
        semconv.SERVICE_NAME,
        semconv.SERVICE_INSTANCE_ID,
        semconv.EXCEPTION_MESSAGE,
        semconv.METADATA_PREFIX,
    }
    standard.add(semconv.EXCEPTION_STACKTRACE)
    assert first_cells(section("Attributes")) == set(semconv.ATTRIBUTES) | standard
    assert first_cells(section("Events")) == set(semconv.EVENTS)


def test_every_metric_is_there() -> None:
    """The table holds the metrics of semconv, and no others."""
    assert first_cells(section("Metrics")) == {metric.name for metric in semconv.METRICS}


def test_queries_name_metrics_that_exist() -> None:
    """PromQL in the documents asks for series that there are, with labels they have."""
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


def test_every_command_and_option_is_there() -> None:
    """Each command has its part, and in it each of its options and arguments; no other command is described."""
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


def test_every_exit_code_is_there() -> None:
    """The table has the codes of the command line."""
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", section("Exit codes"), re.MULTILINE)}
    assert codes == {0, EXIT_PROBLEM, EXIT_USAGE, EXIT_UNREADABLE, EXIT_INTERRUPTED}


def test_every_field_of_the_json_document_is_there(recorder: Recorder) -> None:
    """An operation with everything that can be in it has exactly the fields that are described."""
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


def test_every_table_of_the_journal_is_there() -> None:
    """The file notes name the tables, the application id and the version of the schema."""
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
