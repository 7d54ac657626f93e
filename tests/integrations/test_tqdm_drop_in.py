"""The drop-in for tqdm: it looks like tqdm, and its bars are recorded."""

from __future__ import annotations

import asyncio
import gc
import io
import logging
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest

import otel_progress as progress
from otel_progress.instrument.pollers import has_active_poller
from otel_progress.operations import OperationSnapshot
from otel_progress.testing import Recorder, recording, wait_until
from tests.support.terminal import Terminal

pytest.importorskip("tqdm", reason="tests of the integration with tqdm")

import tqdm as original
import tqdm.asyncio as original_asyncio
import tqdm.auto as original_auto

from otel_progress import tqdm as drop_in
from otel_progress.integrations import tqdm as integration
from otel_progress.tqdm import asyncio as drop_in_asyncio
from otel_progress.tqdm import auto, contrib
from otel_progress.tqdm.contrib import concurrent
from otel_progress.tqdm.contrib import logging as drop_in_logging


@pytest.fixture(autouse=True)
def _nothing_open() -> Iterator[None]:
    yield
    gc.collect()
    integration._drop_collected()
    assert not has_active_poller()


def work(recorder: Recorder, seconds: float = 2.0) -> None:
    """Let the time pass, and tick."""
    recorder.clock.advance(seconds)
    recorder.tick()


def get_only(recorder: Recorder) -> OperationSnapshot:
    """Return the only operation, with its levels."""
    runtime = recorder.runtime
    (operation,) = [*runtime.get_history(), *runtime.get_active_operations()]
    return recorder.operation(operation.operation_id)


def draw_bars(tqdm: Any, trange: Any) -> str:
    """Return what bars of a class draw."""
    file = io.StringIO()
    options = {
        "file": file,
        "ascii": True,
        "ncols": 60,
        "mininterval": 0,
        "bar_format": "{l_bar}{bar}|{n}/{total}",
    }
    for outer in tqdm(range(2), desc="outer", **options):
        # Why here: with several bars the order in which they are cleared is undefined.
        tqdm.write("line", file=file)
        for _ in trange(3, desc="inner", leave=False, **options):
            pass
        with tqdm(total=5, position=3, unit="B", **options) as shown:
            shown.set_postfix(outer=outer)
            shown.update(2)
            shown.reset(total=4)
            shown.refresh()
            shown.clear()
            shown.update(4)
    return file.getvalue()


def test_names_are_those_of_tqdm() -> None:
    left_out = {"main", "tqdm_gui", "tgrange", "tqdm_pandas"}
    assert set(drop_in.__all__) == set(original.__all__) - left_out
    assert issubclass(drop_in.tqdm, original.tqdm)
    assert issubclass(auto.tqdm, original_auto.tqdm)
    assert issubclass(drop_in_asyncio.tqdm, original_asyncio.tqdm)
    assert issubclass(auto.tqdm, drop_in.tqdm)


@pytest.mark.parametrize("is_configured", [False, True])
def test_output_is_that_of_tqdm(is_configured: bool) -> None:
    expected = draw_bars(original.tqdm, original.trange)
    if not is_configured:
        assert draw_bars(drop_in.tqdm, drop_in.trange) == expected
        return
    with recording(strict=False):
        assert draw_bars(drop_in.tqdm, drop_in.trange) == expected


@pytest.mark.parametrize("instrumented", [False, True])
def test_bar_is_recorded_once(recorder: Recorder, instrumented: bool) -> None:
    if instrumented:
        progress.instrument_tqdm()
    try:
        for _ in drop_in.tqdm(range(3), desc="outer", file=io.StringIO()):
            for _ in drop_in.trange(2, desc="inner", disable=True):
                work(recorder)
    finally:
        integration.uninstrument()
    operation = get_only(recorder)
    assert (operation.root.info.name, operation.root.status) == ("outer", progress.Status.COMPLETED)
    assert [(level.info.name, level.current) for level in operation.levels] == [("inner", 2)] * 3


def test_plain_bars_are_not_recorded_without_instrument(recorder: Recorder) -> None:
    for _ in original.tqdm(range(2), file=io.StringIO()):
        work(recorder)
    assert recorder.runtime.get_history() == []


def test_exception_in_the_block_fails(recorder: Recorder) -> None:
    def fail() -> None:
        with drop_in.tqdm(total=10, file=io.StringIO()):
            work(recorder)
            raise ValueError("wrong row")

    with pytest.raises(ValueError, match="wrong row"):
        fail()
    assert get_only(recorder).root.status is progress.Status.FAILED


def test_live_display_shows_the_bar_and_tqdm_draws_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal(columns=80)
    monkeypatch.setattr(sys, "stderr", terminal)
    with recording(console=True, strict=False) as recorder, drop_in.tqdm(total=100, desc="rows") as shown:
        shown.update(50)
        work(recorder)
        wait_until(lambda: any("rows" in line for line in terminal.lines()))
        lines = terminal.lines()
        drop_in.tqdm.write("a line", file=sys.stdout)
        shown.refresh()
        shown.clear()
        shown.update(50)
    assert any("50/100" in line for line in lines)
    assert not any("it/s" in text or "%|" in text for text in terminal.writes)
    # A file that is not the terminal is written as always.
    file = io.StringIO()
    list(drop_in.tqdm(range(3), file=file))
    assert "3/3" in file.getvalue()


def test_file_as_a_positional_argument_is_written_next_to_a_live_display(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal(columns=80))
    file = io.StringIO()
    with recording(console=True, strict=False):
        list(drop_in.tqdm(range(3), "rows", 3, True, file))
    assert "3/3" in file.getvalue()


def test_bar_on_a_terminal_without_a_live_display_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal(columns=80)
    monkeypatch.setattr(sys, "stderr", terminal)
    with recording(console=False):
        list(drop_in.tqdm(range(3), desc="rows"))
    assert any("rows: 100%" in text for text in terminal.writes)


@pytest.mark.process
def test_import_does_not_choose_the_start_method_of_multiprocessing() -> None:
    program = """
    import multiprocessing
    import otel_progress
    from otel_progress.tqdm import auto, notebook, tqdm
    otel_progress.instrument_tqdm()
    multiprocessing.set_start_method("spawn")
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=60)


def test_invalid_arguments_raise_the_errors_of_tqdm(recorder: Recorder) -> None:
    with pytest.raises(original.TqdmKeyError):
        drop_in.tqdm(range(3), unknown=1)
    with pytest.raises(TypeError):
        bool(drop_in.tqdm(file=io.StringIO()))
    recorder.tick()


def test_async_loop_gather_and_as_completed_are_recorded(recorder: Recorder) -> None:
    async def step(number: int) -> int:
        work(recorder)
        return number

    async def run() -> None:
        with progress.operation("job", id="job"):
            async for _ in auto.tqdm(range(2), desc="loop", file=io.StringIO()):
                await step(0)
            assert await drop_in_asyncio.tqdm.gather(*map(step, range(3)), file=io.StringIO()) == [0, 1, 2]
            tasks = [asyncio.ensure_future(step(number)) for number in range(3)]
            for done in drop_in_asyncio.tqdm.as_completed(tasks, file=io.StringIO()):
                await done

    asyncio.run(run())
    assert [level.current for level in recorder.operation("job").levels] == [2, 3, 3]


def test_maps_are_recorded(recorder: Recorder) -> None:
    def step(number: int) -> int:
        work(recorder)
        return number

    assert concurrent.thread_map(step, range(3), max_workers=1, file=io.StringIO()) == [0, 1, 2]
    assert list(contrib.tmap(step, range(3), file=io.StringIO())) == [0, 1, 2]
    assert [number for number, _ in contrib.tenumerate("ab", file=io.StringIO()) if step(1)] == [0, 1]
    assert [pair for pair in contrib.tzip("ab", "cd", file=io.StringIO()) if step(1)] == [
        ("a", "c"),
        ("b", "d"),
    ]
    assert [one.root.current for one in recorder.runtime.get_history()] == [2, 2, 3, 3]


def test_log_records_are_written_by_tqdm(recorder: Recorder) -> None:
    logger, file = logging.getLogger("drop_in"), io.StringIO()
    logger.propagate = False
    logger.addHandler(logging.StreamHandler(sys.stderr))
    try:
        with drop_in_logging.tqdm_logging_redirect(total=2, loggers=[logger], file=file) as shown:
            assert isinstance(shown, drop_in.tqdm)
            work(recorder)
            logger.warning("a record")
            shown.update(2)
        with drop_in_logging.logging_redirect_tqdm([logger]):
            logger.warning("another record")
    finally:
        logger.handlers.clear()
    assert get_only(recorder).root.status is progress.Status.COMPLETED


def test_pandas_uses_the_class(recorder: Recorder) -> None:
    pandas = pytest.importorskip("pandas", reason="progress_apply needs pandas")
    drop_in.tqdm.pandas(desc="rows", file=io.StringIO())
    pandas.Series(range(4)).progress_apply(lambda _: work(recorder))
    root = get_only(recorder).root
    assert (root.info.name, root.current, root.total) == ("rows", 4, 4)


def test_subclass_like_that_of_datasets_is_recorded(recorder: Recorder) -> None:
    class DatasetsBar(auto.tqdm):  # type: ignore[misc]
        """Bar with a switch for all bars, as in ``datasets.utils.tqdm``."""

        def __init__(self, *arguments: Any, **keywords: Any) -> None:
            keywords["disable"] = True
            super().__init__(*arguments, **keywords)

        def __delattr__(self, name: str) -> None:
            try:
                super().__delattr__(name)
            except AttributeError:
                if name != "_lock":
                    raise

    with DatasetsBar(total=10, unit=" examples", desc="Map") as shown:
        for _ in range(5):
            shown.update(2)
            work(recorder)
    root = get_only(recorder).root
    assert (root.info.name, root.info.unit, root.current) == ("Map", "examples", 10)


@pytest.mark.slow
def test_huggingface_hub_downloads_with_the_class(
    recorder: Recorder, tmp_path: Any, loopback_hub: str
) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="tests of downloads")

    class Bar(drop_in.tqdm):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **keywords: Any) -> None:
            super().__init__(*arguments, **{**keywords, "file": io.StringIO()})

        def update(self, n: float | None = 1) -> bool | None:
            work(recorder)
            return bool(super().update(n))

    with progress.operation("download", id="download"):
        hub.snapshot_download(
            "user/model",
            endpoint=loopback_hub,
            cache_dir=tmp_path,
            tqdm_class=Bar,
            max_workers=1,
            token=False,
        )
    levels = recorder.operation("download").levels
    found = {(level.info.name, level.info.unit, level.current, level.total) for level in levels}
    assert ("Fetching 2 files", None, 2, 2) in found
    # The library leaves this bar open, so it ends with the operation.
    assert ("Downloading bytes", "B", 200_000, 200_000) in found


@pytest.fixture
def loopback_hub() -> Iterator[str]:
    """Return the address of a server with one repository of two files."""
    import json
    import threading
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    commit = "0" * 40
    content = b"x" * 100_000

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(with_body=True)

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def _answer(self, *, with_body: bool) -> None:
            body, headers = content, {"ETag": f'"{self.path.rpartition("/")[2]}"', "X-Repo-Commit": commit}
            if self.path.startswith("/api/"):
                siblings = [{"rfilename": name, "size": len(content)} for name in ("a.bin", "b.bin")]
                body = json.dumps({"id": "user/model", "sha": commit, "siblings": siblings}).encode()
                if "/tree/" in self.path:
                    files = [
                        {"type": "file", "path": name, "size": len(content), "oid": "1"}
                        for name in ("a.bin", "b.bin")
                    ]
                    body = json.dumps(files).encode()
                headers = {"Content-Type": "application/json"}
            self.send_response(200)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()
