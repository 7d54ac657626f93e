"""Model Context Protocol: notifications of tools, and tools that read progress."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import otel_progress as progress
from otel_progress import diagnostics
from otel_progress.errors import JournalError, OperationCancelledError
from otel_progress.model import Status
from otel_progress.testing import Recorder, wait_until
from tests.support.programs import PROGRAMS

pytest.importorskip("mcp", reason="the extra 'mcp' is not installed")

from mcp import Client, MCPError, StdioServerParameters
from mcp.server.mcpserver import Context, MCPServer

from otel_progress.integrations import mcp as integration
from otel_progress.integrations.mcp import add_tools, create_server, forward_progress

TIMEOUT_S = 60.0
FAST_S = 0.05
Notification = tuple[float, float | None, str | None]


class Notifications:
    """Progress notifications that a client receives, for waits of threads and tasks."""

    def __init__(self) -> None:
        self.received: list[Notification] = []

    async def __call__(self, value: float, total: float | None, message: str | None) -> None:
        """Store a notification."""
        self.received.append((value, total, message))

    @property
    def values(self) -> list[float]:
        """Progress of each notification."""
        return [value for value, _, _ in self.received]

    async def wait_for(self, value: float) -> None:
        """Wait in the event loop until a notification with at least ``value`` has arrived."""
        async with asyncio.timeout(TIMEOUT_S) if sys.version_info >= (3, 11) else no_timeout():
            while not any(found >= value for found in self.values):
                await asyncio.sleep(0.001)

    def wait_in_thread(self, value: float) -> None:
        """Wait in another thread."""
        wait_until(lambda: any(found >= value for found in self.values), TIMEOUT_S)


@asynccontextmanager
async def no_timeout() -> AsyncIterator[None]:
    yield


def run_client(server: Any, function: Callable[[Client], Awaitable[Any]]) -> Any:
    """Connect a client, run a coroutine function with it, and return its result."""

    async def run() -> Any:
        async with Client(server) as client:
            return await function(client)

    return asyncio.run(run())


def call_tool(server: Any, name: str, **arguments: Any) -> dict[str, Any]:
    """Call one tool, and return its structured answer."""

    async def call(client: Client) -> Any:
        return await client.call_tool(name, arguments)

    result = run_client(server, call)
    assert not result.is_error, result.content
    content: dict[str, Any] = result.structured_content
    return content


def call_failing_tool(server: Any, name: str, **arguments: Any) -> str:
    """Call a tool that fails, and return its error."""

    async def call(client: Client) -> Any:
        return await client.call_tool(name, arguments)

    result = run_client(server, call)
    assert result.is_error
    return str(result.content[0].text)


@pytest.fixture
def server() -> Iterator[MCPServer]:
    """An MCP server of a program. The logging that the SDK configures is restored."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield MCPServer("tests", log_level="CRITICAL")
    root.handlers[:] = handlers
    root.setLevel(level)


# --- notifications -------------------------------------------------------------------------------


def test_notifications_of_a_coroutine_increase_to_the_end(recorder: Recorder, server: MCPServer) -> None:
    notifications = Notifications()

    @server.tool()
    async def work(context: Context[Any, Any]) -> str:
        async with (
            progress.operation("import", id="i-1", total=4, unit="file") as op,
            forward_progress(op, context, interval=FAST_S),
        ):
            op.update(message="a.wav")
            for number in range(3):
                op.increment()
                await notifications.wait_for(25.0 * (number + 1))
            op.increment()
        return "done"

    async def call(client: Client) -> Any:
        return await client.call_tool("work", {}, progress_callback=notifications)

    assert run_client(server, call).content[0].text == "done"
    assert notifications.received[-1] == (100.0, 100.0, "4/4 files: a.wav")
    assert notifications.values == sorted(set(notifications.values))
    assert notifications.values[-4:] == [25.0, 50.0, 75.0, 100.0]
    assert recorder.operation("i-1").status is Status.COMPLETED
    assert not diagnostics.internal_error_counts


def test_notifications_of_a_plain_function_increase_to_the_end(recorder: Recorder, server: MCPServer) -> None:
    notifications = Notifications()

    @server.tool()
    def work(context: Context[Any, Any]) -> str:
        with (
            progress.operation("import", id="i-1", total=4) as op,
            forward_progress(op, context, interval=FAST_S),
        ):
            for number in range(3):
                op.increment()
                notifications.wait_in_thread(25.0 * (number + 1))
            op.increment()
        return "done"

    async def call(client: Client) -> Any:
        return await client.call_tool("work", {}, progress_callback=notifications)

    assert run_client(server, call).content[0].text == "done"
    assert notifications.values[-4:] == [25.0, 50.0, 75.0, 100.0]
    assert recorder.operation("i-1").status is Status.COMPLETED
    assert not diagnostics.internal_error_counts


@pytest.mark.usefixtures("recorder")
def test_notifications_are_throttled(server: MCPServer) -> None:
    notifications = Notifications()

    @server.tool()
    async def work(context: Context[Any, Any]) -> None:
        async with (
            progress.operation("import", total=100) as op,
            forward_progress(op, context, interval=TIMEOUT_S),
        ):
            await notifications.wait_for(0.0)
            for _ in range(100):
                op.increment()
                await asyncio.sleep(0)

    async def call(client: Client) -> Any:
        return await client.call_tool("work", {}, progress_callback=notifications)

    run_client(server, call)
    assert notifications.values == [0.0, 100.0]


@pytest.mark.usefixtures("recorder")
def test_notifications_without_a_total_are_units(server: MCPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    notifications = Notifications()
    converted: list[object] = []
    convert = integration._Scale.convert

    def count(scale: Any, snapshot: Any) -> Any:
        converted.append(snapshot)
        return convert(scale, snapshot)

    monkeypatch.setattr(integration._Scale, "convert", count)

    @server.tool()
    async def work(context: Context[Any, Any]) -> None:
        async with (
            progress.operation("import", unit="row") as op,
            forward_progress(op, context, interval=FAST_S),
        ):
            op.increment(5)
            await notifications.wait_for(5.0)
            op.update(current=3)  # a smaller value is not sent
            polls = len(converted)
            while len(converted) < polls + 2:
                await asyncio.sleep(FAST_S)
            op.set_total(10)
            op.update(current=6)

    async def call(client: Client) -> Any:
        return await client.call_tool("work", {}, progress_callback=notifications)

    run_client(server, call)
    assert notifications.values == sorted(set(notifications.values))
    assert notifications.received[-2:] == [(5.0, None, "5 rows"), (6.0, 10.0, "6/10 rows")]


def test_tool_without_a_progress_token_runs(recorder: Recorder, server: MCPServer) -> None:
    @server.tool()
    async def work(context: Context[Any, Any]) -> dict[str, Any]:
        async with progress.operation("import", id="i-1", total=1) as op, forward_progress(op, context):
            op.increment()
        return {"current": 1}

    assert call_tool(server, "work") == {"current": 1}
    assert recorder.operation("i-1").status is Status.COMPLETED


def test_error_of_a_tool_fails_the_operation(recorder: Recorder, server: MCPServer) -> None:
    @server.tool()
    async def work(context: Context[Any, Any]) -> None:
        async with progress.operation("import", id="i-1", total=1) as op, forward_progress(op, context):
            raise LookupError("no such folder")

    call_failing_tool(server, "work")
    operation = recorder.operation("i-1")
    assert operation.error is not None
    assert (operation.status, operation.error.message) == (Status.FAILED, "no such folder")


def test_time_out_of_the_client_cancels_a_coroutine(recorder: Recorder, server: MCPServer) -> None:
    @server.tool()
    async def work(context: Context[Any, Any]) -> None:
        async with progress.operation("import", id="i-1", total=1) as op, forward_progress(op, context):
            await asyncio.Event().wait()

    async def call(client: Client) -> None:
        with pytest.raises(MCPError, match=r"(?i)timed out"):
            await client.call_tool("work", {}, read_timeout_seconds=0.1)
        await asyncio.to_thread(wait_until, lambda: not progress.get_active_operations(), TIMEOUT_S)

    run_client(server, call)
    assert recorder.operation("i-1").status is Status.CANCELLED


def test_time_out_of_the_client_requests_cancellation_of_a_plain_function(
    recorder: Recorder, server: MCPServer
) -> None:
    outcome: list[str] = []

    @server.tool()
    def work(context: Context[Any, Any]) -> None:
        with (
            progress.operation("import", id="i-1", total=1) as op,
            forward_progress(op, context, interval=FAST_S),
        ):
            try:
                wait_until(lambda: op.cancel_requested, TIMEOUT_S)
                op.check_cancelled()
            except OperationCancelledError as error:
                outcome.append(str(error))
                raise

    async def call(client: Client) -> None:
        # Why no error: in this process, the client waits for the thread.
        with contextlib.suppress(MCPError):
            await client.call_tool("work", {}, read_timeout_seconds=0.1)
        await asyncio.to_thread(wait_until, lambda: not progress.get_active_operations(), TIMEOUT_S)

    run_client(server, call)
    assert recorder.operation("i-1").status is Status.CANCELLED
    assert "MCP client" in outcome[0]


def test_plain_block_outside_of_the_server_runs_without_notifications(lenient: Recorder) -> None:
    with progress.operation("import", id="i-1") as op, forward_progress(op, Context()):
        op.increment()
    assert lenient.operation("i-1").root.current == 1
    assert diagnostics.internal_error_counts["integration"] == 1


def test_failing_notification_leaves_the_tool_unchanged(
    lenient: Recorder, server: MCPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def report_progress(*_: object) -> None:
        raise OSError("the connection is closed")

    monkeypatch.setattr(Context, "report_progress", report_progress)

    @server.tool()
    async def work(context: Context[Any, Any]) -> dict[str, Any]:
        async with progress.operation("import", id="i-1", total=1) as op, forward_progress(op, context):
            op.increment()
        return {"current": 1}

    assert call_tool(server, "work") == {"current": 1}
    assert lenient.operation("i-1").status is Status.COMPLETED
    assert diagnostics.internal_error_counts["integration"] >= 1


def test_tool_without_configuration_runs(server: MCPServer) -> None:
    @server.tool()
    async def work(context: Context[Any, Any]) -> dict[str, Any]:
        async with progress.operation("import", total=1) as op, forward_progress(op, context):
            op.increment()
        return {"current": 1}

    assert call_tool(server, "work") == {"current": 1}


# --- tools ---------------------------------------------------------------------------------------


@pytest.fixture
def reading(recorder: Recorder, server: MCPServer) -> MCPServer:
    """A server with the tools, read-only."""
    add_tools(server, recorder.runtime.reader)
    return server


def test_tools_are_read_only(reading: MCPServer) -> None:
    async def call(client: Client) -> Any:
        return (await client.list_tools()).tools

    tools = run_client(reading, call)
    assert {tool.name for tool in tools} == {
        "get_operation",
        "list_batches",
        "list_failures",
        "list_logs",
        "list_operations",
        "wait_for_operation",
    }
    for tool in tools:
        assert tool.annotations.read_only_hint
        assert tool.description


def test_list_operations_selects_by_status_and_type(recorder: Recorder, reading: MCPServer) -> None:
    with progress.operation("import", id="done", total=1) as op:
        op.increment()
    with progress.operation("train", id="running", total=4, unit="file") as op:
        op.increment(message="warm up")
        recorder.clock.advance(60.0)
        (active,) = call_tool(reading, "list_operations")["operations"]
        everything = call_tool(reading, "list_operations", status="all")["operations"]
        assert call_tool(reading, "list_operations", status="all", type="import")["operations"] == [
            everything[1]
        ]
        (ended,) = call_tool(reading, "list_operations", status="ended")["operations"]
    assert (active["id"], active["status"], active["percent"], active["count"], active["message"]) == (
        "running",
        "running",
        "25%",
        "1/4 files",
        "warm up",
    )
    assert active["elapsed_s"] == 60.0
    assert (ended["id"], ended["status"]) == ("done", "completed")


@pytest.mark.usefixtures("recorder")
def test_get_operation_has_running_levels_first(reading: MCPServer) -> None:
    with progress.operation("import", id="i-1", total=3) as op:
        with op.level("file", "a", total=1) as level:
            level.increment()
        with op.level("file", "b", total=4) as level:
            level.increment()
            answer = call_tool(reading, "get_operation", operation_id="i-1")
    assert [(level["path"], level["status"], level["percent"]) for level in answer["levels"]] == [
        ("file:b", "running", "25%"),
        ("file:a", "completed", "100%"),
    ]
    assert answer["further_levels"] == 0


@pytest.mark.parametrize("name", ["get_operation", "list_failures", "list_logs", "wait_for_operation"])
@pytest.mark.usefixtures("recorder")
def test_unknown_operation_is_an_error_with_similar_ids(reading: MCPServer, name: str) -> None:
    with progress.operation("import", id="friday-42"):
        pass
    assert "Similar IDs: friday-42." in call_failing_tool(reading, name, operation_id="friday-4")
    assert "list_operations" in call_failing_tool(reading, name, operation_id="\x00" * 5000)


@pytest.mark.usefixtures("recorder")
def test_list_failures_has_items_with_errors(reading: MCPServer) -> None:
    with progress.operation("import", id="i-1", total=3) as op:
        op.item("a.wav")
        op.item("b.wav", outcome="failed", error=ValueError("bad header"))
    answer = call_tool(reading, "list_failures", operation_id="i-1")
    assert answer["failed"] == 1
    (item,) = answer["items"]
    assert (item["name"], item["error"]) == ("b.wav", {"type": "ValueError", "message": "bad header"})


@pytest.mark.usefixtures("recorder")
def test_list_batches_counts_operations(reading: MCPServer) -> None:
    with progress.batch("night", id="b-1", total=2), progress.operation("import"):
        pass
    (batch,) = call_tool(reading, "list_batches")["batches"]
    assert (batch["id"], batch["percent"], batch["counts"]["completed"]) == ("b-1", "50%", 1)


@pytest.mark.usefixtures("recorder")
def test_answers_are_bounded(reading: MCPServer) -> None:
    text = "é\n" * 5000
    with progress.operation("import", id="big", total=200) as op:
        for number in range(200):
            op.item(f"{number}{text}", outcome="failed", error=ValueError(text))
            with op.level("file", number, text) as level:
                level.update(message=text)
        others = [progress.operation("import", text, id=f"{number}").start() for number in range(200)]
        for other in others:
            other.update(message=text)
        for name, arguments in (
            ("list_operations", {"limit": 10**9}),
            ("get_operation", {"operation_id": "big"}),
            ("list_failures", {"operation_id": "big", "limit": 10**9}),
        ):
            answer = call_tool(reading, name, **arguments)
            assert len(json.dumps(answer)) < integration.MAX_ANSWER_BYTES + 5000
    answer = call_tool(reading, "get_operation", operation_id="big")
    assert answer["further_levels"] == 200 - len(answer["levels"]) > 0
    (last,) = call_tool(reading, "list_operations", limit=-5)["operations"]
    assert last["id"] == "199"
    del others


@pytest.mark.parametrize(
    "arguments", [{"status": "everything"}, {"limit": "many"}, {"type": 5}], ids=["status", "limit", "type"]
)
def test_invalid_argument_is_an_error(reading: MCPServer, arguments: dict[str, Any]) -> None:
    assert "valid" in call_failing_tool(reading, "list_operations", **arguments)


def test_error_of_the_journal_is_an_error_of_the_tool(
    recorder: Recorder, reading: MCPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def active(*_: object, **__: object) -> None:
        raise JournalError("Invalid journal: expected a readable file.")

    monkeypatch.setattr(type(recorder.runtime.reader), "active", active)
    assert "expected a readable file" in call_failing_tool(reading, "list_operations")


def test_cancel_operation_requests_cancellation(recorder: Recorder, server: MCPServer) -> None:
    add_tools(server, recorder.runtime.reader, cancel=progress.request_cancel)
    with progress.operation("import", id="i-1") as op:
        assert call_tool(server, "cancel_operation", operation_id="i-1", reason="x" * 5000) == {
            "requested": True,
            "status": "running",
        }
        assert op.cancel_requested
    assert call_tool(server, "cancel_operation", operation_id="i-1")["requested"] is False


@pytest.mark.usefixtures("recorder")
def test_wait_for_operation_reports_progress_until_the_end(
    reading: MCPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(integration, "_READ_INTERVAL_S", 0.01)
    notifications = Notifications()

    def work(op: progress.Level) -> None:
        for number in range(4):
            notifications.wait_in_thread(25.0 * number)
            op.increment()
        op.complete()

    op = progress.operation("import", id="i-1", total=4).start()
    thread = threading.Thread(target=work, args=(op,))
    thread.start()

    async def call(client: Client) -> Any:
        arguments = {"operation_id": "i-1"}
        return await client.call_tool("wait_for_operation", arguments, progress_callback=notifications)

    answer = run_client(reading, call).structured_content
    thread.join(TIMEOUT_S)
    assert (answer["status"], answer["percent"]) == ("completed", "100%")
    assert notifications.values == [0.0, 25.0, 50.0, 75.0]


@pytest.mark.parametrize("timeout_s", [0, 0.01])
@pytest.mark.usefixtures("recorder")
def test_wait_for_operation_after_its_timeout_returns_the_running_one(
    reading: MCPServer, timeout_s: float
) -> None:
    with progress.operation("import", id="i-1", total=4):
        answer = call_tool(reading, "wait_for_operation", operation_id="i-1", timeout_s=timeout_s)
    assert answer["status"] == "running"


# --- standard input and output -------------------------------------------------------------------


def make_command(*arguments: str) -> StdioServerParameters:
    return StdioServerParameters(command=sys.executable, args=["-m", "otel_progress", *arguments])


@pytest.mark.process
def test_command_answers_questions_about_operations(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'progress.db'}"
    with (
        progress.configure(store=store, console=False, otlp=False) as runtime,
        progress.operation("import", id="import-7", total=4) as op,
    ):
        op.increment()
        assert runtime.force_flush()

        async def call(client: Client) -> tuple[Any, Any, Any]:
            listed = await client.call_tool("list_operations", {})
            cancelled = await client.call_tool("cancel_operation", {"operation_id": "import-7"})
            return client.instructions, listed.structured_content, cancelled.structured_content

        command = make_command("--store", store, "mcp", "--allow-cancel")
        instructions, listed, cancelled = run_client(command, call)
        wait_until(lambda: op.cancel_requested, TIMEOUT_S)
    assert instructions == integration.INSTRUCTIONS
    assert [(found["id"], found["percent"]) for found in listed["operations"]] == [("import-7", "25%")]
    assert cancelled == {"requested": True, "status": "running"}


@pytest.mark.slow
@pytest.mark.process
def test_time_out_over_standard_streams_cancels_a_plain_function(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'progress.db'}"
    notifications = Notifications()

    async def call(client: Client) -> Any:
        with pytest.raises(MCPError, match=r"(?i)timed out"):
            await client.call_tool(
                "count_files", {"total": 10**6}, read_timeout_seconds=0.5, progress_callback=notifications
            )
        waited = await client.call_tool("wait_for_operation", {"operation_id": "count-1"})
        return waited.structured_content

    program = StdioServerParameters(command=sys.executable, args=[str(PROGRAMS / "mcp_server.py"), store])
    answer = run_client(program, call)
    assert (answer["status"], answer["name"]) == ("cancelled", "count")
    assert notifications.values == sorted(set(notifications.values))


@pytest.mark.process
def test_command_without_the_extra_names_the_fix() -> None:
    code = (
        "import sys; sys.modules['mcp'] = None; sys.argv[1:] = ['mcp']\n"
        "from otel_progress.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert done.returncode == 1
    assert done.stderr.strip().endswith("pip install 'otel-progress[mcp]'")


@pytest.mark.usefixtures("server")
def test_created_server_has_the_tools(recorder: Recorder) -> None:
    created = create_server(recorder.runtime.reader)
    assert call_tool(created, "list_operations") == {"operations": [], "has_more": False}
