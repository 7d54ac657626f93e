"""Files that count what is read and written, with every way to use a file."""

from __future__ import annotations

import bz2
import csv
import gc
import gzip
import io
import itertools
import json
import lzma
import os
import pickle
import random
import shutil
import tarfile
import tempfile
import threading
import timeit
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import otel_progress as progress
from otel_progress import LevelSnapshot, Status, diagnostics
from otel_progress.integrations import files
from otel_progress.integrations.files import MAX_RANGES, CountedRanges, wrap_file
from otel_progress.integrations.transfer import Transfer
from otel_progress.testing import Recorder

LINES = [f"line {number} äöü €\n" for number in range(5_000)]
TEXT = "".join(LINES)
DATA = TEXT.encode()
SIZE = len(DATA)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of some 100 KB."""
    path = tmp_path / "input.txt"
    path.write_bytes(DATA)
    return path


@pytest.fixture
def op(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> Iterator[progress.Level]:
    """A running operation. Invalid values raise, and each read changes the level."""
    assert recorder.runtime is not None
    monkeypatch.setattr(files, "FLUSH_S", 0.0)
    with progress.operation("copy", id="copy-1") as operation:
        yield operation
    assert sum(diagnostics.internal_error_counts.values()) == 0


def get_only_level() -> LevelSnapshot:
    operation = progress.get_operation("copy-1")
    assert operation is not None
    (level,) = operation.levels
    return level


def assert_complete(size: int = SIZE, total: int | None = SIZE) -> None:
    level = get_only_level()
    assert (level.status, level.current, level.total) == (Status.COMPLETED, size, total)
    assert level.info.unit == "B"


def read_in_parts(file: Any, size: int = 1000) -> bytes:
    return b"".join(iter(lambda: file.read(size), b""))


def read_into(file: Any) -> bytes:
    buffer, result = bytearray(1000), b""
    while size := file.readinto(buffer):
        result += buffer[:size]
    return result


def read_with(file: Any) -> bytes:
    with file:
        return bytes(file.read())


READS: dict[str, Callable[[Any], bytes]] = {
    "read": lambda file: file.read(),
    "read_minus_one": lambda file: file.read(-1),
    "read_none": lambda file: file.read(None),
    "read_parts": read_in_parts,
    "read1": lambda file: b"".join(iter(lambda: file.read1(1000), b"")),
    "readinto": read_into,
    "readline": lambda file: b"".join(iter(file.readline, b"")),
    "readlines": lambda file: b"".join(file.readlines()),
    "for": lambda file: b"".join(file),
    "next": lambda file: b"".join(iter(lambda: next(file, b""), b"")),
    "islice": lambda file: b"".join(itertools.islice(file, 10)) + b"".join(file),
    "mixed": lambda file: file.read(10) + file.readline() + next(file) + b"".join(file),
    "buffered_reader": lambda file: read_with(io.BufferedReader(file)),
}


@pytest.mark.parametrize("way", READS)
@pytest.mark.parametrize("buffering", [-1, 0])
def test_wrap_file_read_counts_each_byte_and_completes_at_end(
    way: str, buffering: int, path: Path, op: progress.Level
) -> None:
    assert op.recording
    if buffering == 0 and way == "read1":
        pytest.skip("a raw file has no read1")
    file = wrap_file(path.open("rb", buffering=buffering))
    assert READS[way](file) == DATA
    assert_complete()
    assert get_only_level().info.name == "input.txt"
    assert get_only_level().info.type == "file"
    file.close()
    assert_complete()


TEXT_READS: dict[str, Callable[[Any], str]] = {
    "read": lambda file: file.read(),
    "read_parts": lambda file: "".join(iter(lambda: file.read(1000), "")),
    "readline": lambda file: "".join(iter(file.readline, "")),
    "readlines": lambda file: "".join(file.readlines()),
    "for": lambda file: "".join(file),
}


@pytest.mark.parametrize("way", TEXT_READS)
def test_wrap_file_text_counts_bytes_of_the_file(way: str, path: Path, op: progress.Level) -> None:
    assert op.recording
    with wrap_file(path.open(encoding="utf-8")) as file:
        assert TEXT_READS[way](file) == TEXT
        assert_complete()


def test_wrap_file_text_while_it_is_read_advances(path: Path, op: progress.Level) -> None:
    assert op.recording
    with wrap_file(path.open(encoding="utf-8")) as file:
        counts = [get_only_level().current for _ in itertools.islice(file, 0, None, 50)]
    assert counts == sorted(counts)
    assert len(set(counts)) > 5
    assert max(counts) <= SIZE


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-32-be", "latin-1", "ascii"])
def test_wrap_file_text_in_any_encoding_counts_each_line(
    encoding: str, tmp_path: Path, op: progress.Level
) -> None:
    """A slow loop over lines is not a stall, although the file reads ahead."""
    assert op.recording
    path = tmp_path / "lines.txt"
    path.write_text("äöü line\n" * 100, encoding="utf-8" if encoding == "ascii" else encoding)
    size = path.stat().st_size
    with wrap_file(path.open(encoding=encoding, errors="replace")) as file:
        counts = [get_only_level().current for _ in file]
    assert len(set(counts)) > 70  # replaced characters are longer than the file, and do not count
    assert counts == sorted(counts)
    assert_complete(size, size)


def test_wrap_file_small_reads_are_added_later(path: Path, recorder: Recorder) -> None:
    """Small reads change the level at intervals, and nothing is lost."""
    assert recorder.runtime is not None
    with progress.operation("copy", id="copy-1"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "FLUSH_S", 3600.0)
        patch.setattr(files, "SMALL_BYTES", 4096)
        file = wrap_file(path.open("rb"))
        for _ in range(10):
            file.read(10)
        assert get_only_level().current == 10
        file.read(5000)
        assert get_only_level().current == 5100
        file.read(10)
        file.seek(0)
        assert get_only_level().current == 5110
        file.close()
        text = wrap_file(path.open(encoding="utf-8"))
        for _ in range(10):
            text.readline()
        text.close()
    operation = progress.get_operation("copy-1")
    assert operation is not None
    assert operation.levels[1].current == len("".join(LINES[:10]).encode())


def test_wrap_file_with_windows_line_ends_counts_all_bytes(tmp_path: Path, op: progress.Level) -> None:
    assert op.recording
    path = tmp_path / "windows.txt"
    path.write_bytes(b"\xef\xbb\xbf" + b"line\r\n" * 5000)
    with wrap_file(path.open(encoding="utf-8-sig")) as file:
        assert file.read() == "line\n" * 5000
    assert_complete(30_003, 30_003)


def test_wrap_file_text_pipe_counts_encoded_text(op: progress.Level) -> None:
    assert op.recording
    reading, writing = os.pipe()
    with os.fdopen(writing, "w", encoding="utf-8") as file:
        file.write("äöü\n" * 10)
    with wrap_file(os.fdopen(reading, encoding="utf-8")) as file:
        assert len(file.readlines()) == 10
    assert_complete(70, None)
    assert get_only_level().info.name == "file 1"  # the name of a pipe is a number


def test_wrap_file_pipe_has_no_total_and_counts(op: progress.Level) -> None:
    assert op.recording
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as file:
        file.write(b"x" * 5000)
    with wrap_file(os.fdopen(reading, "rb"), "stdin", type="import", total=5000, source="pipe") as file:
        assert get_only_level().total == 5000
        assert len(file.read()) == 5000
    level = get_only_level()
    assert (level.info.name, level.info.type, level.metadata) == ("stdin", "import", {"source": "pipe"})
    assert_complete(5000, 5000)


# --- writing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("buffering", [-1, 0])
def test_wrap_file_write_counts_and_completes_at_close(
    buffering: int, tmp_path: Path, op: progress.Level
) -> None:
    assert op.recording
    file = wrap_file((tmp_path / "out").open("wb", buffering=buffering), total=SIZE)
    for start in range(0, SIZE, 7000):
        assert file.write(DATA[start : start + 7000]) == len(DATA[start : start + 7000])
    assert get_only_level().status is Status.RUNNING
    assert get_only_level().current == SIZE
    file.close()
    assert (tmp_path / "out").read_bytes() == DATA
    assert_complete()


def test_wrap_file_write_of_buffers_counts_bytes(tmp_path: Path, op: progress.Level) -> None:
    assert op.recording
    with wrap_file((tmp_path / "out").open("wb")) as file:
        file.write(memoryview(bytearray(800)).cast("d"))
        file.writelines([b"ab", bytearray(b"cd"), memoryview(b"efgh")])
        file.writelines(iter([]))
    assert_complete(808, None)


def test_wrap_file_text_write_counts_encoded_size(tmp_path: Path, op: progress.Level) -> None:
    assert op.recording
    with wrap_file((tmp_path / "out").open("w", encoding="utf-8")) as file:
        assert file.write("äöü") == 3
        file.writelines(["a\n", "€\n"])
        print("x" * 10, file=file)
        file.seek(0)
    assert_complete(6 + 2 + 4 + 11, None)


def test_wrap_file_with_print_and_json_dump_counts(tmp_path: Path, op: progress.Level) -> None:
    assert op.recording
    with wrap_file((tmp_path / "out.json").open("w", encoding="utf-8")) as file:
        json.dump({"values": list(range(1000))}, file)
    assert_complete((tmp_path / "out.json").stat().st_size, None)


def test_wrap_file_append_counts_what_is_added(path: Path, op: progress.Level) -> None:
    assert op.recording
    with wrap_file(path.open("ab")) as file:
        file.write(b"x" * 10)
    assert_complete(10, None)


def test_wrap_file_write_then_read_counts_each_byte_once(tmp_path: Path, op: progress.Level) -> None:
    assert op.recording
    with wrap_file((tmp_path / "out").open("w+b")) as file:
        file.write(b"x" * 1000)
        file.seek(0)
        assert len(file.read()) == 1000
        assert get_only_level().status is Status.RUNNING
        file.write(b"y" * 500)
        file.seek(100)
        file.write(b"z" * 10)
    assert_complete(1500, None)


# --- seek ----------------------------------------------------------------------------------------


def test_wrap_file_seek_back_counts_each_byte_once(path: Path, op: progress.Level) -> None:
    assert op.recording
    file = wrap_file(path.open("rb"))
    file.read(1000)
    file.seek(0)
    assert get_only_level().current == 1000
    file.read(600)
    assert get_only_level().current == 1000
    file.read(600)
    assert get_only_level().current == 1200
    file.read(100)
    assert get_only_level().current == 1300
    file.seek(-50, os.SEEK_CUR)
    file.read(100)
    assert get_only_level().current == 1350
    file.close()


def test_wrap_file_seek_forward_counts_only_what_is_read(path: Path, op: progress.Level) -> None:
    assert op.recording
    file = wrap_file(path.open("rb"))
    assert file.seek(0, os.SEEK_END) == file.tell() == SIZE
    file.seek(0)
    assert get_only_level().current == 0
    file.seek(-100, os.SEEK_END)
    file.read(50)
    assert get_only_level().current == 50
    file.seek(0)
    assert file.read() == DATA
    assert_complete()
    file.close()


def test_wrap_file_second_pass_does_not_count(path: Path, op: progress.Level) -> None:
    assert op.recording
    with wrap_file(path.open("rb")) as file:
        assert file.read() == DATA
        file.seek(0)
        assert file.read() == DATA
    assert_complete()


def test_wrap_file_in_the_middle_counts_the_rest(path: Path, op: progress.Level) -> None:
    assert op.recording
    with path.open("rb") as inner:
        inner.read(1000)
        assert len(wrap_file(inner).read()) == SIZE - 1000
    assert_complete(SIZE - 1000, SIZE - 1000)


def test_wrap_file_text_seek_counts_each_byte_once(path: Path, op: progress.Level) -> None:
    assert op.recording
    with wrap_file(path.open(encoding="utf-8")) as file:
        file.read(20_000)
        file.seek(0)
        assert file.read() == TEXT
    assert_complete()


@given(
    steps=st.lists(st.tuples(st.sampled_from(["read", "seek"]), st.integers(0, 120)), min_size=1, max_size=30)
)
def test_wrap_file_any_reads_and_seeks_count_distinct_bytes(steps: list[tuple[str, int]]) -> None:
    """The count is the number of distinct positions that were read."""
    from otel_progress.testing import recording

    with recording(), progress.operation("copy", id="copy-1"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "FLUSH_S", 0.0)
        file = wrap_file(io.BytesIO(bytes(100)), type="model")
        seen: set[int] = set()
        for action, number in steps:
            if action == "seek":
                file.seek(number)
            else:
                start = file.tell()
                seen.update(range(start, start + len(file.read(number))))
            if get_only_level().status is not Status.RUNNING:  # the end of the file
                break
            assert get_only_level().current == len(seen)


@given(ranges=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=30))
def test_counted_ranges_any_ranges_equal_a_set(ranges: list[tuple[int, int]]) -> None:
    counted, model = CountedRanges(), set[int]()
    for start, end in ranges:
        added = set(range(start, end)) - model
        model |= added
        assert counted.add(start, end) == len(added)
        assert counted.end == (max(model) + 1 if model else 0)


def test_counted_ranges_many_gaps_are_bounded() -> None:
    counted = CountedRanges()
    for number in range(2 * MAX_RANGES):
        assert counted.add(10 * number, 10 * number + 5) == 5
    assert len(counted._starts) == MAX_RANGES
    assert counted.add(0, 100_000) == 100_000 - 5 * MAX_RANGES


# --- other libraries read it ---------------------------------------------------------------------


def test_copyfileobj_with_wrapped_file_counts_each_byte(
    path: Path, tmp_path: Path, op: progress.Level
) -> None:
    assert op.recording
    with wrap_file(path.open("rb")) as source, (tmp_path / "copy").open("wb") as target:
        shutil.copyfileobj(source, target, 1000)
        assert_complete()
    assert (tmp_path / "copy").read_bytes() == DATA


def test_copyfileobj_to_wrapped_file_counts_each_byte(path: Path, tmp_path: Path, op: progress.Level) -> None:
    assert op.recording
    with path.open("rb") as source, wrap_file((tmp_path / "copy").open("wb")) as target:
        shutil.copyfileobj(source, target)
    assert_complete(SIZE, None)


@pytest.mark.parametrize("module", [gzip, bz2, lzma])
def test_compressed_file_over_wrapped_file_counts_compressed_bytes(
    module: Any, tmp_path: Path, op: progress.Level
) -> None:
    assert op.recording
    path = tmp_path / "data"
    with module.open(path, "wb") as file:
        file.write(DATA)
    size = path.stat().st_size
    with wrap_file(path.open("rb")) as file, module.open(file) as decompressed:
        assert decompressed.read() == DATA
    assert_complete(size, size)


@pytest.mark.parametrize("module", [gzip, bz2, lzma])
@pytest.mark.parametrize("mode", ["rb", "rt"])
def test_wrap_file_of_compressed_file_has_no_total(
    module: Any, mode: str, tmp_path: Path, op: progress.Level
) -> None:
    assert op.recording
    with module.open(tmp_path / "data", "wb") as file:
        file.write(DATA)
    options = {"encoding": "utf-8"} if mode == "rt" else {}
    with wrap_file(module.open(tmp_path / "data", mode, **options)) as file:
        assert file.read() == (TEXT if mode == "rt" else DATA)
    assert get_only_level().total is None
    assert get_only_level().current == SIZE
    assert get_only_level().status is Status.COMPLETED


def test_zipfile_of_wrapped_file_counts_each_byte_once(tmp_path: Path, op: progress.Level) -> None:
    assert op.recording
    path = tmp_path / "data.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(20):
            archive.writestr(f"{number}.bin", random.Random(number).randbytes(20_000))
    size, counts = path.stat().st_size, []
    with wrap_file(path.open("rb")) as file, zipfile.ZipFile(file) as archive:
        assert get_only_level().current < size / 10  # the directory at the end
        for name in archive.namelist():
            assert len(archive.read(name)) == 20_000
            counts.append(get_only_level().current)
    assert counts == sorted(set(counts))
    level = get_only_level()
    assert level.status is Status.COMPLETED
    assert size * 0.95 <= level.current <= size


def test_zipfile_written_to_wrapped_file_counts(tmp_path: Path, op: progress.Level) -> None:
    assert op.recording
    path = tmp_path / "data.zip"
    with wrap_file(path.open("wb")) as file, zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a", DATA)
    with zipfile.ZipFile(path) as archive:
        assert archive.read("a") == DATA
    assert_complete(path.stat().st_size, None)


@pytest.mark.parametrize("mode", ["r:gz", "r|gz", "r:*"])
def test_tarfile_of_wrapped_file_counts_compressed_bytes(
    mode: str, path: Path, tmp_path: Path, op: progress.Level
) -> None:
    assert op.recording
    archive_path = tmp_path / "data.tar.gz"
    with tarfile.open(archive_path, "w:gz") as archive:
        archive.add(path, "input.txt")
    with wrap_file(archive_path.open("rb")) as file, tarfile.open(fileobj=file, mode=mode) as archive:
        for member in archive:
            extracted = archive.extractfile(member)
            assert extracted is not None
            assert extracted.read() == DATA
    assert_complete(archive_path.stat().st_size, archive_path.stat().st_size)


def test_wrap_file_of_tar_member_has_its_size(path: Path, tmp_path: Path, op: progress.Level) -> None:
    assert op.recording
    with tarfile.open(tmp_path / "data.tar", "w") as archive:
        archive.add(path, "input.txt")
    with tarfile.open(tmp_path / "data.tar") as archive:
        member = archive.extractfile("input.txt")
        assert member is not None
        assert wrap_file(member).read() == DATA
    assert_complete()


def test_csv_reader_of_wrapped_file_counts(tmp_path: Path, op: progress.Level) -> None:
    assert op.recording
    path = tmp_path / "data.csv"
    path.write_text("a,b\n" + "1,2\n" * 10_000, encoding="utf-8")
    with wrap_file(path.open(newline="", encoding="utf-8")) as file:
        assert sum(1 for _ in csv.DictReader(file)) == 10_000
        assert_complete(path.stat().st_size, path.stat().st_size)


def test_json_and_pickle_load_of_wrapped_file_count(tmp_path: Path, op: progress.Level) -> None:
    assert op.recording
    path = tmp_path / "data.pickle"
    path.write_bytes(pickle.dumps(LINES))
    with wrap_file(path.open("rb")) as file:
        assert pickle.load(file) == LINES
        file.read()
    assert_complete(path.stat().st_size, path.stat().st_size)


@pytest.mark.slow
@pytest.mark.parametrize("source", ["binary", "text", "memory"])
def test_pandas_read_csv_of_wrapped_file_counts(source: str, tmp_path: Path, op: progress.Level) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas reads the file here")
    assert op.recording
    path = tmp_path / "data.csv"
    path.write_text("a,b\n" + "1,2\n" * 10_000, encoding="utf-8")
    opened: Any = {
        "binary": lambda: path.open("rb"),
        "text": lambda: path.open(encoding="utf-8"),
        "memory": lambda: io.BytesIO(path.read_bytes()),
    }[source]()
    with wrap_file(opened) as file:
        assert len(pandas.read_csv(file)) == 10_000
    assert_complete(path.stat().st_size, path.stat().st_size)


def test_numpy_load_and_save_of_wrapped_file_count(tmp_path: Path, op: progress.Level) -> None:
    """numpy uses the descriptor of a plain file."""
    numpy = pytest.importorskip("numpy", reason="numpy reads the file here")
    assert op.recording
    path = tmp_path / "data.npy"
    with wrap_file(path.open("wb")) as file:
        numpy.save(file, numpy.arange(50_000))
    size = path.stat().st_size
    with wrap_file(path.open("rb")) as file:
        assert numpy.load(file).sum() == sum(range(50_000))
    operation = progress.get_operation("copy-1")
    assert operation is not None
    assert [(level.current, level.total) for level in operation.levels] == [(size, None), (size, size)]


def test_wrap_file_of_unusual_methods_returns_their_results(op: progress.Level) -> None:
    """Objects of libraries have such methods with other arguments and results."""
    numpy = pytest.importorskip("numpy", reason="an array has no truth value")
    assert op.recording

    class Sound:
        name = 7

        def read(self, frames: object = -1, fill: object = None) -> Any:
            return numpy.ones(4, dtype=numpy.int16) if frames else None

        def readlines(self, hint: object = None) -> Any:
            return (line for line in ("a", "b"))

        def readinto(self, buffer: object) -> Any:
            return "done"

        def write(self, data: object) -> Any:
            return numpy.ones(2)

        def seek(self, position: object) -> Any:
            return position

    sound: Any = wrap_file(Sound())
    assert len(sound.read("track", fill=numpy.ones(3))) == 4
    assert sound.read(0) is None
    assert list(sound.readlines("all")) == ["a", "b"]
    assert sound.readinto(None) == "done"
    assert len(sound.write(object())) == 2
    assert sound.seek("start") == "start"
    assert get_only_level().current == 8
    assert len(sound.read()) == 4
    assert (get_only_level().current, get_only_level().status) == (16, Status.COMPLETED)


def test_text_wrapper_over_wrapped_file_counts(path: Path, op: progress.Level) -> None:
    assert op.recording
    with io.TextIOWrapper(wrap_file(path.open("rb")), encoding="utf-8") as file:
        assert file.read() == TEXT
    assert_complete()


# --- the object ----------------------------------------------------------------------------------


def test_wrap_file_result_is_like_the_file(path: Path, op: progress.Level) -> None:
    assert op.recording
    with path.open("rb") as inner:
        file: Any = wrap_file(inner)
        assert isinstance(file, io.BufferedIOBase)
        assert isinstance(file, io.IOBase)
        assert (file.name, file.mode, file.closed) == (inner.name, "rb", False)
        assert file.fileno() == inner.fileno()
        assert (file.readable(), file.writable(), file.seekable(), file.isatty()) == (
            True,
            False,
            True,
            False,
        )
        assert file.peek(1)
        assert get_only_level().current == 0
        assert hasattr(file, "readinto")
        assert not hasattr(file, "encoding")
        assert not hasattr(file, "__len__")
        assert set(dir(inner)) <= set(dir(file))
        assert repr(file) == f"<ProgressFile of {inner!r}>"
        assert file
        with pytest.raises(AttributeError):
            _ = file.missing
        with pytest.raises(io.UnsupportedOperation):
            file.write(b"x")
        assert get_only_level().status is Status.RUNNING
        file.close()
        assert inner.closed
        with pytest.raises(ValueError, match="closed"):
            file.read()


def test_wrap_file_of_temporary_and_spooled_files_counts(op: progress.Level) -> None:
    assert op.recording
    with wrap_file(tempfile.TemporaryFile()) as file, wrap_file(tempfile.NamedTemporaryFile()) as named:
        file.write(b"x" * 10)
        named.write(b"x" * 10)
    spooled = tempfile.SpooledTemporaryFile(max_size=1000)  # noqa: SIM115
    with wrap_file(spooled) as file:
        file.write(b"x" * 10)
        assert not spooled._rolled  # its descriptor was not requested
    operation = progress.get_operation("copy-1")
    assert operation is not None
    assert [level.current for level in operation.levels] == [10, 10, 10]


def test_wrap_file_in_memory_has_total_and_unit(op: progress.Level) -> None:
    assert op.recording
    assert wrap_file(io.BytesIO(DATA)).read() == DATA
    assert_complete()
    text = wrap_file(io.StringIO(TEXT))
    assert isinstance(text, io.StringIO)
    assert text.read() == TEXT
    operation = progress.get_operation("copy-1")
    assert operation is not None
    last = operation.levels[-1]
    assert (last.current, last.total, last.info.unit) == (len(TEXT), len(TEXT), "character")


def test_wrap_file_of_own_class_uses_its_methods(op: progress.Level) -> None:
    """An object with ``read`` only works, as most libraries accept one."""
    assert op.recording

    class Source:
        def __init__(self) -> None:
            self.parts = [b"ab", b"cde"]

        def read(self, size: int = -1) -> bytes:
            assert size
            return self.parts.pop() if self.parts else b""

    file: Any = wrap_file(Source(), total=5)
    assert isinstance(file, Source)
    assert (file.read(size=10), file.read(10), file.read(size=10)) == (b"cde", b"ab", b"")
    assert_complete(5, 5)
    assert not hasattr(file, "close")


def test_wrap_file_pickle_raises_with_the_fix(path: Path, op: progress.Level) -> None:
    assert op.recording
    with wrap_file(path.open("rb")) as file, pytest.raises(TypeError, match="pass the path, and open"):
        pickle.dumps(file)


def test_wrap_file_of_invalid_object_returns_it_and_logs(
    op: progress.Level, caplog: pytest.LogCaptureFixture
) -> None:
    assert op.recording
    assert wrap_file("input.txt") == "input.txt"
    assert "Invalid file of the type str: expected an object with read()" in caplog.text
    assert "input.txt" not in caplog.text


def test_wrap_file_without_configuration_returns_the_file(path: Path) -> None:
    with path.open("rb") as file:
        assert wrap_file(file) is file


# --- ends ----------------------------------------------------------------------------------------


def test_wrap_file_closed_early_completes_with_what_was_read(path: Path, op: progress.Level) -> None:
    assert op.recording
    with wrap_file(path.open("rb")) as file:
        file.read(10)
    level = get_only_level()
    assert (level.status, level.current, level.total) == (Status.COMPLETED, 10, SIZE)


def test_wrap_file_exception_in_block_fails_the_level(path: Path, op: progress.Level) -> None:
    assert op.recording
    with pytest.raises(ZeroDivisionError), wrap_file(path.open("rb")) as file:
        len(file.read(10)) / 0
    level = get_only_level()
    assert level.status is Status.FAILED
    assert level.error is not None
    assert level.error.message == "division by zero"


def test_wrap_file_interrupted_block_cancels_the_level(path: Path, op: progress.Level) -> None:
    assert op.recording
    with pytest.raises(KeyboardInterrupt), wrap_file(path.open("rb")):
        raise KeyboardInterrupt
    assert get_only_level().status is Status.CANCELLED


class Broken(io.RawIOBase):
    """A file that raises after the first read."""

    def __init__(self, error: BaseException) -> None:
        self.error: BaseException | None = None
        self.next_error = error

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Return three bytes, then raise."""
        if self.error is not None:
            raise self.error
        self.error = self.next_error
        buffer[:3] = b"abc"
        return 3


@pytest.mark.parametrize("way", ["read", "readline", "readlines", "for", "readinto"])
def test_wrap_file_error_of_read_fails_the_level_and_is_raised(way: str, op: progress.Level) -> None:
    assert op.recording
    error = OSError(5, "Input/output error")
    file: Any = wrap_file(Broken(error))
    read = {
        "for": lambda: list(file),
        "readinto": lambda: [file.readinto(bytearray(10)) for _ in range(2)],
    }.get(way) or getattr(file, way)
    with pytest.raises(OSError, match="Input/output") as raised:
        read()
    assert raised.value is error
    level = get_only_level()
    assert level.status is Status.FAILED
    assert level.error is not None
    assert level.error.message is not None
    assert "Input/output error" in level.error.message


@pytest.mark.parametrize("error", [TimeoutError(), BlockingIOError(), KeyboardInterrupt()], ids=repr)
def test_wrap_file_error_that_permits_a_retry_continues(error: BaseException, op: progress.Level) -> None:
    assert op.recording
    source = Broken(error)
    file: Any = wrap_file(source)
    assert file.read(3) == b"abc"
    with pytest.raises(type(error)):
        file.read(3)
    assert get_only_level().status is Status.RUNNING
    source.error = None
    assert file.read(3) == b"abc"
    assert get_only_level().current == 6
    file.close()


def test_wrap_file_collected_without_close_ends_the_level(path: Path, op: progress.Level) -> None:
    assert op.recording
    with path.open("rb") as inner:
        wrap_file(inner).read(10)
        gc.disable()
        try:
            assert get_only_level().status is Status.CANCELLED  # without the cyclic collector
        finally:
            gc.enable()
        assert not inner.closed
    assert "garbage-collected" in (get_only_level().message or "")


def test_wrap_file_collected_after_its_last_byte_completes(path: Path, op: progress.Level) -> None:
    assert op.recording
    with path.open("rb") as inner:
        wrap_file(inner).read(SIZE)
        level = get_only_level()
    assert (level.status, level.current, level.message) == (Status.COMPLETED, SIZE, None)


def test_open_file_at_its_last_byte_completes_with_its_operation(path: Path, op: progress.Level) -> None:
    with path.open("rb") as inner:
        file = wrap_file(inner)
        file.read(SIZE)
        op.complete()
        level = get_only_level()
    assert (level.status, level.current, level.message) == (Status.COMPLETED, SIZE, None)


def test_zipfile_that_drops_the_wrapped_file_completes(tmp_path: Path, op: progress.Level) -> None:
    assert op.recording
    path = tmp_path / "data.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", DATA)
    with path.open("rb") as inner:
        with zipfile.ZipFile(wrap_file(inner)) as archive:
            assert archive.read("data") == DATA
        del archive
        gc.collect()
        level = get_only_level()
    assert (level.status, level.current) == (Status.COMPLETED, path.stat().st_size)


def test_wrap_file_loop_without_reference_counts_all(path: Path, op: progress.Level) -> None:
    assert op.recording
    with path.open("rb") as inner:
        for _ in wrap_file(inner):
            gc.collect()
            break
        assert sum(map(len, wrap_file(inner))) < SIZE


def test_wrap_file_grows_while_it_is_read_has_no_total(path: Path, op: progress.Level) -> None:
    assert op.recording
    with wrap_file(path.open("rb")) as file, path.open("ab") as log:
        file.read(100)
        log.write(b"more\n")
        log.flush()
        assert file.read() == DATA[100:] + b"more\n"
    assert_complete(SIZE + 5, None)


def test_wrap_file_after_its_operation_ended_still_reads(path: Path, recorder: Recorder) -> None:
    assert recorder.runtime is not None
    with progress.operation("copy", id="copy-1"):
        file = wrap_file(path.open("rb"))
    assert file.read() == DATA
    file.close()
    assert sum(diagnostics.internal_error_counts.values()) == 0


def test_wrap_file_of_empty_and_special_files_has_no_total(tmp_path: Path, op: progress.Level) -> None:
    assert op.recording
    (tmp_path / "empty").touch()
    with wrap_file((tmp_path / "empty").open("rb")) as file:
        assert file.read() == b""
    assert_complete(0, None)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the size of a file in /proc is 0")
def test_wrap_file_of_proc_file_counts(op: progress.Level) -> None:
    assert op.recording
    with wrap_file(Path("/proc/self/status").open("rb")) as file:
        size = len(file.read())
    assert_complete(size, None)


def test_wrap_file_read_by_threads_counts_all(path: Path, op: progress.Level) -> None:
    assert op.recording
    file = wrap_file(path.open("rb"), total=SIZE)
    threads = [threading.Thread(target=read_in_parts, args=(file, 37)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    file.close()
    assert_complete()


class EndedByAnotherThread(io.BytesIO):
    """File whose end another thread finds before the last read returns."""

    wrapped: Any = None

    def writable(self) -> bool:
        return False

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        if data and self.tell() == SIZE:
            thread = threading.Thread(target=self.wrapped.read, args=(1,))
            thread.start()
            thread.join()
        return data


@pytest.mark.usefixtures("op")
def test_wrap_file_whose_end_another_thread_reads_first_counts_all(caplog: pytest.LogCaptureFixture) -> None:
    file = EndedByAnotherThread(DATA)
    file.wrapped = wrap_file(file)
    assert read_in_parts(file.wrapped, 1000) == DATA
    file.wrapped.close()
    assert_complete()
    assert caplog.messages == []


class EndedAfterCheck:
    """A level that another thread ends after the check whether it is running."""

    def __init__(self, level: progress.Level) -> None:
        self._level = level

    @property
    def recording(self) -> bool:
        was_recording = self._level.recording
        self._level.complete()
        return was_recording

    def __getattr__(self, name: str) -> Any:
        return getattr(self._level, name)


@pytest.mark.parametrize("mode", ["recorder", "lenient"])
@pytest.mark.parametrize(
    "change",
    [
        lambda transfer: transfer.add(10),
        lambda transfer: transfer.add(SIZE + 1),
        lambda transfer: transfer.set_done(10),
        lambda transfer: transfer.set_total(10),
    ],
)
def test_transfer_that_ends_during_a_change_logs_nothing(
    mode: str,
    change: Callable[[Transfer], None],
    request: pytest.FixtureRequest,
    caplog: pytest.LogCaptureFixture,
) -> None:
    request.getfixturevalue(mode)
    with progress.operation("copy", id="copy-1"):
        transfer = Transfer("file", "input.txt", total=SIZE)
        transfer.level = EndedAfterCheck(transfer.level)  # type: ignore[assignment]
        change(transfer)
    assert caplog.messages == []
    assert sum(diagnostics.internal_error_counts.values()) == 0


def test_wrap_file_without_operation_is_one(path: Path, recorder: Recorder) -> None:
    assert recorder.runtime is not None
    with wrap_file(path.open("rb")) as file:
        file.read()
    (operation,) = progress.get_history()
    assert (operation.operation_type, operation.root.current, operation.root.total) == ("file", SIZE, SIZE)


@pytest.mark.parametrize("total", ["many", -1, 2.5, True])
def test_wrap_file_with_invalid_total_reads_anyway(
    total: Any, path: Path, lenient: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    assert lenient.runtime is not None
    with progress.operation("copy", id="copy-1"), wrap_file(path.open("rb"), total=total) as file:
        assert file.read() == DATA
    assert get_only_level().current >= 0
    assert sum(diagnostics.internal_error_counts.values()) == 0
    caplog.clear()


@pytest.mark.slow
def test_wrap_file_read_costs_about_a_microsecond(lenient: Recorder) -> None:
    """The control is the plain file in the same run.

    The limit permits a busy machine.
    """
    assert lenient.runtime is not None

    def measure(file: Any) -> float:
        read = file.read
        return min(timeit.repeat(lambda: read(50), number=2000, repeat=30)) / 2000

    size = 50 * 2000 * 31
    with progress.operation("copy", id="copy-1"):
        plain = measure(io.BytesIO(bytes(size)))
        wrapped = measure(wrap_file(io.BytesIO(bytes(size))))
    assert wrapped - plain < 3e-6
