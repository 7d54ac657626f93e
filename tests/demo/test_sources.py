"""Search for source files: the walk, skipped entries and packages."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from otel_progress.demo import sources
from otel_progress.demo.sources import TOP_LEVEL, Folder, Root, SkippedEntry, SourceFile
from otel_progress.errors import ConfigurationError


def write(path: Path, content: str = "x = 1\n") -> Path:
    """Create a file and its parent folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def labels(root: Path) -> list[str]:
    """Return the labels of the files of a walk."""
    return [entry.label for entry in sources.walk_files(Root(root)) if isinstance(entry, SourceFile)]


def skipped(root: Path) -> dict[str, str]:
    """Return the reasons of the skipped entries of a walk by file name."""
    return {
        Path(entry.path).name: entry.reason
        for entry in sources.walk_files(Root(root))
        if isinstance(entry, SkippedEntry)
    }


def test_walk_yields_python_files_sorted_by_name(tmp_path: Path) -> None:
    """The files of a folder precede those of its subfolders."""
    for name in ("b/two.py", "b/a/one.py", "b/data.txt", "a/__init__.py", "top.py", "a/.hidden.py"):
        write(tmp_path / name)
    assert labels(tmp_path) == ["top.py", "a/.hidden.py", "a/__init__.py", "b/two.py", "b/a/one.py"]


@pytest.mark.parametrize("folder", ["__pycache__", ".git", "node_modules", "site-packages", "dist-packages"])
def test_walk_skips_caches_hidden_and_installed_folders(tmp_path: Path, folder: str) -> None:
    write(tmp_path / folder / "inner.py")
    write(tmp_path / "own.py")
    assert labels(tmp_path) == ["own.py"]


def test_walk_reports_virtual_environment_as_skipped(tmp_path: Path) -> None:
    write(tmp_path / "env" / "pyvenv.cfg")
    write(tmp_path / "env" / "lib" / "inner.py")
    write(tmp_path / "own.py")
    assert labels(tmp_path) == ["own.py"]
    assert skipped(tmp_path) == {"env": "a virtual environment"}


def test_walk_reports_symbolic_links_as_skipped(tmp_path: Path) -> None:
    """A link to a parent folder does not make the walk endless."""
    write(tmp_path / "real" / "one.py")
    (tmp_path / "real" / "again").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "real" / "linked.py").symlink_to(tmp_path / "real" / "one.py")
    (tmp_path / "real" / "dangling.py").symlink_to(tmp_path / "nowhere")
    assert labels(tmp_path) == ["real/one.py"]
    assert skipped(tmp_path) == {"linked.py": "a symbolic link", "dangling.py": "a symbolic link"}


def test_walk_reports_named_pipe_as_skipped(tmp_path: Path) -> None:
    """Opening it would block."""
    os.mkfifo(tmp_path / "pipe.py")
    (tmp_path / "folder.py").mkdir()
    write(tmp_path / "folder.py" / "inner.py")
    assert labels(tmp_path) == ["folder.py/inner.py"]
    assert skipped(tmp_path) == {"pipe.py": "not a regular file"}


def test_walk_reports_large_file_as_skipped(tmp_path: Path) -> None:
    with write(tmp_path / "huge.py").open("r+b") as file:
        file.truncate(sources.MAX_FILE_BYTES + 1)
    assert labels(tmp_path) == []
    assert skipped(tmp_path) == {"huge.py": "larger than 4 MiB"}


def test_walk_beyond_max_entries_stops_with_reason(tmp_path: Path) -> None:
    for number in range(6):
        write(tmp_path / f"p{number}" / "one.py")
    entries = list(sources.walk_files(Root(tmp_path), max_entries=8))
    assert len([entry for entry in entries if isinstance(entry, SourceFile)]) == 2
    assert isinstance(entries[-1], SkippedEntry)
    assert "more than 8 entries" in entries[-1].reason


def test_walk_of_unreadable_folder_reports_error(tmp_path: Path) -> None:
    (entry,) = sources.walk_files(Root(tmp_path / "gone"))
    assert isinstance(entry, SkippedEntry)
    assert isinstance(entry.error, FileNotFoundError)
    assert "unreadable folder" in entry.reason


def test_walk_assigns_deep_files_to_third_folder(tmp_path: Path) -> None:
    """The file keeps its path."""
    write(tmp_path / "a/b/c/d/e/deep.py")
    (entry,) = sources.walk_files(Root(tmp_path, "site-packages/"))
    assert isinstance(entry, SourceFile)
    assert entry.folder == ("site-packages/a", "b", "c")
    assert entry.name == "d/e/deep.py"
    assert entry.label == "site-packages/a/b/c/d/e/deep.py"


def test_packages_have_either_files_or_folders(tmp_path: Path) -> None:
    """The files of a folder with subfolders are a folder of their own."""
    for name in ("top.py", "a/one.py", "a/two.py", "a/b/three.py", "c/four.py"):
        write(tmp_path / name)
    files = [entry for entry in sources.walk_files(Root(tmp_path)) if isinstance(entry, SourceFile)]
    top, a, c = sources.group_by_package(files)
    assert [(f.name, f.count) for f in (top, a, c)] == [(TOP_LEVEL, 1), ("a", 3), ("c", 1)]
    assert [(f.name, f.count, len(f.files)) for f in a.folders] == [(TOP_LEVEL, 2, 2), ("b", 1, 1)]
    assert a.files == ()
    assert isinstance(c, Folder)
    assert [file.label for file in c.files] == ["c/four.py"]


def sized(name: str, size: int) -> SourceFile:
    """Return a file in a package of its own."""
    return SourceFile(f"/{name}/x.py", (name,), "x.py", size)


def test_selection_with_limit_stays_within_it() -> None:
    files = [sized("big", 50), sized("small", 1), sized("middle", 10)]
    assert sources.select_files(files, None) == files
    assert [f.folder[0] for f in sources.select_files(files, 55)] == ["big", "small"]
    assert [f.folder[0] for f in sources.select_files(files, 55, "smallest")] == ["small", "middle"]
    assert [f.folder[0] for f in sources.select_files(files, 0)] == ["big"]
    assert sources.select_files([], 10) == []


def test_interpreter_roots_start_with_standard_library() -> None:
    first, *others = sources.find_interpreter_roots()
    assert (first.path / "json" / "__init__.py").is_file()
    assert first.prefix == ""
    assert all(root.prefix == "site-packages/" for root in others)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing", "but it does not exist"),
        ("file.py", "found a file"),
        ("empty", "found no such files"),
        ("null\0character", "but it is unreadable"),
        ("escape\x1b[31m", r"\x1b[31m"),
        ("x" * 5000, "but it is unreadable"),
    ],
)
def test_root_of_invalid_path_is_rejected(tmp_path: Path, name: str, words: str) -> None:
    """The message is printable and names a fix."""
    write(tmp_path / "file.py")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigurationError) as caught:
        sources.parse_root(f"{tmp_path}/{name}")
    text = str(caught.value)
    assert words in text
    assert "expected a folder with Python files" in text
    assert text.isprintable()
    assert len(text) < 500


def test_root_of_folder_with_python_file_is_accepted(tmp_path: Path) -> None:
    write(tmp_path / "a" / "b" / "one.py")
    assert sources.parse_root(str(tmp_path)).path == tmp_path
