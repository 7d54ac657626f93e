"""``dashboards export`` and ``rules export``: whole files and clear errors."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from otel_progress import assets
from otel_progress.assets import read_bundle
from otel_progress.codec import SCHEMA
from tests.support.command_line import documents, run

ROOT = Path(__file__).parents[2]
SOURCES = {"dashboards": ROOT / "grafana" / "dashboards", "rules": ROOT / "deploy" / "prometheus" / "rules"}

each_bundle = pytest.mark.parametrize("bundle", SOURCES)


@each_bundle
def test_export_writes_files_of_repository(bundle: str, tmp_path: Path) -> None:
    """The files are readable for all users, and no other files are written."""
    target = tmp_path / "new" / "place"
    done = run(bundle, "export", str(target))
    expected = {path.name: path.read_bytes() for path in SOURCES[bundle].iterdir()}
    assert {path.name: path.read_bytes() for path in target.iterdir()} == expected
    assert done.stdout.splitlines() == [str(target / name) for name in sorted(expected)]
    assert {stat.S_IMODE(path.stat().st_mode) for path in target.iterdir()} == {0o644}


@each_bundle
def test_export_of_unchanged_files_writes_nothing(bundle: str, tmp_path: Path) -> None:
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


@each_bundle
def test_export_over_differing_file_needs_force(bundle: str, tmp_path: Path) -> None:
    """Without ``--force`` no file is written."""
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


@each_bundle
def test_export_to_unwritable_directory_is_rejected(bundle: str, tmp_path: Path) -> None:
    """The directory is a file, or a file in it is a directory."""
    (tmp_path / "file\x1b[2J").write_text("")
    name = next(iter(read_bundle(bundle)))  # type: ignore[arg-type]
    (tmp_path / "blocked" / name).mkdir(parents=True)
    for directory in ("file\x1b[2J", "blocked"):
        done = run(bundle, "export", str(tmp_path / directory), "--force")
        assert done.exit_code == 1
        assert done.stderr.startswith("error: Invalid directory ")
        assert done.stderr.count("\n") == 1
        assert "\x1b" not in done.stderr
    assert [path.name for path in (tmp_path / "blocked").iterdir()] == [name]


def test_export_without_bundled_files_names_installation(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(assets, "__file__", str(tmp_path / "site" / "otel_progress" / "assets.py"))
    monkeypatch.setattr(assets, "files", lambda package: tmp_path / "site" / package)
    done = run("dashboards", "export", str(tmp_path / "out"))
    assert done.exit_code == 1
    assert "no dashboards" in done.stderr
    assert "pip install" in done.stderr
    assert not (tmp_path / "out").exists()


@each_bundle
@pytest.mark.parametrize("directory", ["", " "])
def test_export_with_empty_directory_name_is_rejected(
    bundle: str, directory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unset variable of a script must not mean the current directory."""
    monkeypatch.chdir(tmp_path)
    done = run(bundle, "export", directory, "--force")
    assert done.exit_code == 2
    assert (
        f"Invalid directory {directory!r}: expected a name. Use . for the current directory." in done.stderr
    )
    assert list(tmp_path.iterdir()) == []


@each_bundle
def test_bundle_command_without_export_prints_help(bundle: str) -> None:
    done = run(bundle)
    assert done.exit_code == 0
    assert "export" in done.stdout
