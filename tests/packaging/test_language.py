"""Language of the project: no banned phrases or names, short first lines of docstrings.

``python tests/support/language/language_rules.py PATH`` lists the findings of a file or folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from otel_progress.cli import cli
from tests.support.language.language_rules import (
    ENFORCED,
    Prose,
    check_file,
    find_phrases,
    project_files,
    read_phrases,
)

PROJECT = Path(__file__).resolve().parents[2]
FILES = [path for path in project_files(PROJECT) if path.suffix != ".json"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PROJECT).as_posix())
def test_project_file_follows_the_writing_rules(path: Path) -> None:
    assert [str(finding) for finding in check_file(path) if finding.kind in ENFORCED] == []


def help_texts(command: click.Command, context: click.Context) -> Iterator[tuple[str, str]]:
    """Yield the help of a command and of its subcommands, each with its name."""
    yield context.command_path, command.get_help(context)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            inner_context = click.Context(inner, parent=context, info_name=name, **inner.context_settings)
            yield from help_texts(inner, inner_context)


def test_command_help_follows_the_writing_rules() -> None:
    """The rendered ``--help`` of every command follows the rules."""
    # Why the settings: click caches the help option of a command, also for later tests.
    context = click.Context(cli, info_name="otel-progress", **cli.context_settings)
    texts = list(help_texts(cli, context))
    assert len(texts) > 10
    found = [
        f"{name} --help: {finding.text}"
        for name, text in texts
        for finding in find_phrases(Path(), Prose(1, text))
    ]
    assert found == []


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("docstring.py", '"""Nobody is\n    told."""\n', ["Nobody", "told"]),
        ("comment.py", "# it goes\n# on\n", ["goes on"]),
        ("message.py", 'print("Under way")\n', ["Under way"]),
        ("name.py", "def begin_level() -> None: ...\n", ["begin (in the name begin_level)"]),
        ("bare_name.py", "def _take() -> None: ...\n", ["_take"]),
        ("long_first_line.py", f'"""{"word " * 17}"""\n', ["84 characters"]),
        ("test_name.py", "def test_goes_on() -> None: ...\n", ["goes on (in the name test_goes_on)"]),
        ("page.html", '<p title="Under way">It goes\non</p>', ["Under way", "goes on"]),
        ("page.js", 'const begin = 1; // anew\nlabel("lately");\n', ["anew", "lately"]),
        ("page.css", "/* meanwhile */", ["meanwhile"]),
        ("document.md", "Once a second.\n", ["Once a second"]),
        ("values.yaml", "# 500 bytes an operation\n", ["500 bytes an operation"]),
    ],
)
def test_check_file_text_with_a_banned_phrase_is_found(
    tmp_path: Path, name: str, text: str, expected: list[str]
) -> None:
    """Phrases are found in each kind of file, also across lines."""
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    assert [found.text for found in check_file(path) if found.kind in ENFORCED] == expected


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("sql.py", 'QUERY = "BEGIN IMMEDIATE"\n'),
        ("code.py", '"""Call ``begin()`` first."""\n'),
        ("quotation.md", 'The text "nobody is told" is an example.\n'),
        ("code.md", "Call `begin()` first.\n\n```sql\nBEGIN\n```\n"),
        ("identifier.js", "let begin = told(look);\n"),
        ("words.py", '"""Understands besides beginning at None: it is None."""\n'),
    ],
)
def test_check_file_text_that_is_exempt_has_no_finding(tmp_path: Path, name: str, text: str) -> None:
    """SQL, code, quotations and longer words are exempt."""
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    assert check_file(path) == []


def test_read_phrases_every_entry_has_a_replacement() -> None:
    """The list has one regular expression and one replacement per entry."""
    phrases = read_phrases()
    assert len(phrases) > 15
    assert all(replacement.strip() for _, replacement in phrases)


def test_project_files_every_area_is_checked() -> None:
    """Files of each area are found, so the test of the project can fail."""
    areas = {path.relative_to(PROJECT).parts[0] for path in FILES}
    assert areas >= {
        "src",
        "tests",
        "docs",
        "examples",
        "grafana",
        "scripts",
        "deploy",
        "benchmarks",
        "README.md",
    }
    assert {".py", ".js", ".html", ".css", ".md", ".yml"} <= {path.suffix for path in FILES}
