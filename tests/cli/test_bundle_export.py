"""``dashboards export`` and ``rules export``: whole files, never over others, and errors that say what to do."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from otel_progress import assets as bundled
from otel_progress.assets import read_bundle
from otel_progress.codec import SCHEMA
from tests.support.command_line import documents, run

ROOT = Path(__file__).parents[2]
SOURCES = {"dashboards": ROOT / "grafana" / "dashboards", "rules": ROOT / "deploy" / "prometheus" / "rules"}

each = pytest.mark.parametrize("bundle", SOURCES)


@each
def test_files_are_those_of_the_repository(bundle: str, tmp_path: Path) -> None:
    """Each file is written byte for byte, readable for whoever runs Grafana or Prometheus, and nothing else is left there."""
    target = tmp_path / "new" / "place"
    done = run(bundle, "export", str(target))
    wanted = {path.name: path.read_bytes() for path in SOURCES[bundle].iterdir()}
    assert {path.name: path.read_bytes() for path in target.iterdir()} == wanted
    assert done.stdout.splitlines() == [str(target / name) for name in sorted(wanted)]
    assert {stat.S_IMODE(path.stat().st_mode) for path in target.iterdir()} == {0o644}


@each
def test_again_nothing_changes(bundle: str, tmp_path: Path) -> None:
    """A second export touches nothing, and says so, also as JSON."""
    run(bundle, "export", str(tmp_path))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    (listed,) = documents(run(bundle, "export", str(tmp_path), "--json"))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    assert listed["schema"] == SCHEMA
    assert {(entry["path"], entry["bytes"], entry["state"]) for entry in listed["files"]} == {
        (str(path), path.stat().st_size, "unchanged") for path in tmp_path.iterdir()
    }
    assert all(
        line.endswith("(unchanged)") for line in run(bundle, "export", str(tmp_path)).stdout.splitlines()
    )


@each
def test_a_file_that_differs_is_not_replaced(bundle: str, tmp_path: Path) -> None:
    """Somebody's change stays, nothing is half written, and the text names the file and the way out; --force takes it."""
    name = sorted(read_bundle(bundle))[-1]  # type: ignore[arg-type]
    (tmp_path / name).write_text("mine")
    refused = run(bundle, "export", str(tmp_path))
    assert refused.exit_code == 1
    assert refused.stdout == ""
    assert name in refused.stderr
    assert "--force" in refused.stderr
    assert [path.name for path in tmp_path.iterdir()] == [name]
    (listed,) = documents(run(bundle, "export", str(tmp_path), "--force", "--json"))
    assert {entry["state"] for entry in listed["files"]} == {"written"}
    assert (tmp_path / name).read_bytes() == read_bundle(bundle)[name]  # type: ignore[index]


@each
def test_a_place_that_cannot_be_written(bundle: str, tmp_path: Path) -> None:
    """A file in the place of the directory, or a directory in the place of a file, is one line that says what is wrong."""
    (tmp_path / "file\x1b[2J").write_text("")
    name = next(iter(read_bundle(bundle)))  # type: ignore[arg-type]
    (tmp_path / "taken" / name).mkdir(parents=True)
    for place in ("file\x1b[2J", "taken"):
        done = run(bundle, "export", str(tmp_path / place), "--force")
        assert done.exit_code == 1
        assert done.stderr.startswith("error: Cannot write to ")
        assert done.stderr.count("\n") == 1
        assert "\x1b" not in done.stderr
    assert [path.name for path in (tmp_path / "taken").iterdir()] == [name]


def test_an_installation_without_the_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where the files are missing the text says how to get them."""
    monkeypatch.setattr(bundled, "__file__", str(tmp_path / "site" / "otel_progress" / "bundled.py"))
    monkeypatch.setattr(bundled, "files", lambda package: tmp_path / "site" / package)
    done = run("dashboards", "export", str(tmp_path / "out"))
    assert done.exit_code == 1
    assert "no dashboards" in done.stderr
    assert "pip install" in done.stderr
    assert not (tmp_path / "out").exists()


@each
@pytest.mark.parametrize("directory", ["", " "])
def test_an_empty_directory_is_refused(
    bundle: str, directory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable of a script that is not set is not the current directory: nothing is written, and it is said what is."""
    monkeypatch.chdir(tmp_path)
    done = run(bundle, "export", directory, "--force")
    assert done.exit_code == 2
    assert "the directory is empty; expected the name of one, or . for the current one" in done.stderr
    assert list(tmp_path.iterdir()) == []


@each
def test_alone_it_helps(bundle: str) -> None:
    """The command without export tells what it can do."""
    done = run(bundle)
    assert done.exit_code == 0
    assert "export" in done.stdout
