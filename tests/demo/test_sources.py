"""Finding sources: what is walked, what is left and why, how files become packages."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from otel_progress.demo import sources
from otel_progress.demo.sources import TOP_LEVEL, Folder, Root, SkippedEntry, SourceFile
from otel_progress.errors import ConfigurationError


def write(path: Path, content: str = "x = 1\n") -> Path:
    """Make a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def labels(root: Path) -> list[str]:
    """Return what a walk finds to examine."""
    return [found.label for found in sources.walk_files(Root(root)) if isinstance(found, SourceFile)]


def left(root: Path) -> dict[str, str]:
    """Return what a walk leaves, by file name."""
    return {
        Path(found.path).name: found.reason
        for found in sources.walk_files(Root(root))
        if isinstance(found, SkippedEntry)
    }


def test_walk_finds_python_files_in_order(tmp_path: Path) -> None:
    """Only ``*.py`` files count, by name, those of a folder before those below it."""
    for name in ("b/two.py", "b/a/one.py", "b/data.txt", "a/__init__.py", "top.py", "a/.hidden.py"):
        write(tmp_path / name)
    assert labels(tmp_path) == ["top.py", "a/.hidden.py", "a/__init__.py", "b/two.py", "b/a/one.py"]


@pytest.mark.parametrize("folder", ["__pycache__", ".git", "node_modules", "site-packages", "dist-packages"])
def test_walk_keeps_out_of_folders_of_others(tmp_path: Path, folder: str) -> None:
    """Caches, hidden folders and installed packages below the root are not part of what is surveyed."""
    write(tmp_path / folder / "inner.py")
    write(tmp_path / "own.py")
    assert labels(tmp_path) == ["own.py"]


def test_walk_leaves_virtual_environments(tmp_path: Path) -> None:
    """A virtual environment below the root is left and named."""
    write(tmp_path / "env" / "pyvenv.cfg")
    write(tmp_path / "env" / "lib" / "inner.py")
    write(tmp_path / "own.py")
    assert labels(tmp_path) == ["own.py"]
    assert left(tmp_path) == {"env": "a virtual environment"}


def test_walk_follows_no_symbolic_link(tmp_path: Path) -> None:
    """A link to its own parent does not make the walk endless, and a linked file is left with its reason."""
    write(tmp_path / "real" / "one.py")
    (tmp_path / "real" / "again").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "real" / "linked.py").symlink_to(tmp_path / "real" / "one.py")
    (tmp_path / "real" / "dangling.py").symlink_to(tmp_path / "nowhere")
    assert labels(tmp_path) == ["real/one.py"]
    assert left(tmp_path) == {"linked.py": "a symbolic link", "dangling.py": "a symbolic link"}


def test_walk_opens_no_pipe(tmp_path: Path) -> None:
    """A named pipe called ``x.py`` would block whoever opens it: it is left."""
    os.mkfifo(tmp_path / "pipe.py")
    (tmp_path / "folder.py").mkdir()
    write(tmp_path / "folder.py" / "inner.py")
    assert labels(tmp_path) == ["folder.py/inner.py"]
    assert left(tmp_path) == {"pipe.py": "not a regular file"}


def test_walk_leaves_huge_files(tmp_path: Path) -> None:
    """A file over the bound is left, so that no single one takes the memory or the minute."""
    with write(tmp_path / "huge.py").open("r+b") as file:
        file.truncate(sources.MAX_FILE_BYTES + 1)
    assert labels(tmp_path) == []
    assert left(tmp_path) == {"huge.py": "larger than 4 MiB"}


def test_walk_ends_at_its_bound(tmp_path: Path) -> None:
    """A walk looks at so many entries and then says that it stopped."""
    for number in range(6):
        write(tmp_path / f"p{number}" / "one.py")
    found = list(sources.walk_files(Root(tmp_path), max_entries=8))
    assert len([f for f in found if isinstance(f, SourceFile)]) == 2
    assert isinstance(found[-1], SkippedEntry)
    assert "more than 8 entries" in found[-1].reason


def test_walk_reports_a_folder_it_cannot_read(tmp_path: Path) -> None:
    """A folder that is gone or closed is something that failed, with its error, and the walk goes on."""
    (found,) = sources.walk_files(Root(tmp_path / "gone"))
    assert isinstance(found, SkippedEntry)
    assert isinstance(found.error, FileNotFoundError)
    assert "cannot be read" in found.reason


def test_deep_folders_belong_to_the_one_above(tmp_path: Path) -> None:
    """Below three levels a file keeps its path but counts to the third folder."""
    write(tmp_path / "a/b/c/d/e/deep.py")
    (found,) = sources.walk_files(Root(tmp_path, "site-packages/"))
    assert isinstance(found, SourceFile)
    assert found.folder == ("site-packages/a", "b", "c")
    assert found.name == "d/e/deep.py"
    assert found.label == "site-packages/a/b/c/d/e/deep.py"


def test_packages_nest_and_count(tmp_path: Path) -> None:
    """A folder with files and folders gets its own files as one more folder, so every folder has either."""
    for name in ("top.py", "a/one.py", "a/two.py", "a/b/three.py", "c/four.py"):
        write(tmp_path / name)
    files = [found for found in sources.walk_files(Root(tmp_path)) if isinstance(found, SourceFile)]
    top, a, c = sources.group_by_package(files)
    assert [(f.name, f.count) for f in (top, a, c)] == [(TOP_LEVEL, 1), ("a", 3), ("c", 1)]
    assert [(f.name, f.count, len(f.files)) for f in a.folders] == [(TOP_LEVEL, 2, 2), ("b", 1, 1)]
    assert a.files == ()
    assert isinstance(c, Folder)
    assert [file.label for file in c.files] == ["c/four.py"]


def sized(name: str, size: int) -> SourceFile:
    """Return a file in a package of its own."""
    return SourceFile(f"/{name}/x.py", (name,), "x.py", size)


def test_choose_keeps_within_its_bound() -> None:
    """Without a bound all files are taken; with one, those that fit in order; smallest folders first on request."""
    files = [sized("big", 50), sized("small", 1), sized("middle", 10)]
    assert sources.select_files(files, None) == files
    assert [f.folder[0] for f in sources.select_files(files, 55)] == ["big", "small"]
    assert [f.folder[0] for f in sources.select_files(files, 55, "smallest")] == ["small", "middle"]
    assert [f.folder[0] for f in sources.select_files(files, 0)] == ["big"]
    assert sources.select_files([], 10) == []


def test_interpreter_roots_have_sources() -> None:
    """By default the walk begins at the standard library, which has packages everybody knows."""
    first, *others = sources.find_interpreter_roots()
    assert (first.path / "json" / "__init__.py").is_file()
    assert first.prefix == ""
    assert all(root.prefix == "site-packages/" for root in others)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing", "There is no folder"),
        ("file.py", "is not a folder"),
        ("empty", "There are no Python files"),
        ("null\0character", "cannot be read"),
        ("escape\x1b[31m", r"\x1b[31m"),
        ("x" * 5000, "cannot be read"),
    ],
)
def test_unusable_paths_are_refused(tmp_path: Path, name: str, words: str) -> None:
    """A path that cannot be surveyed is an error that says why and what to give instead, safe for a terminal."""
    write(tmp_path / "file.py")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigurationError) as caught:
        sources.parse_root(f"{tmp_path}/{name}")
    text = str(caught.value)
    assert words in text
    assert "Give a folder that has Python files" in text
    assert text.isprintable()
    assert len(text) < 500


def test_usable_path_is_taken(tmp_path: Path) -> None:
    """A folder with one Python file somewhere below will do."""
    write(tmp_path / "a" / "b" / "one.py")
    assert sources.parse_root(str(tmp_path)).path == tmp_path
