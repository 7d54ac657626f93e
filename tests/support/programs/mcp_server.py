"""MCP server with a plain tool that forwards its progress."""

from __future__ import annotations

import sys
import time
from typing import Any

from mcp.server.mcpserver import Context, MCPServer

import otel_progress as progress
from otel_progress.integrations.mcp import add_tools, forward_progress

server = MCPServer("program", log_level="ERROR")


@server.tool()
def count_files(total: int, context: Context[Any, Any]) -> str:
    """Count until all files are counted, or cancellation is requested."""
    with (
        progress.operation("count", id="count-1", total=total, unit="file") as op,
        forward_progress(op, context, interval=0.05),
    ):
        for _ in op.track(range(total)):
            op.increment()
            time.sleep(0.01)
    return "done"


if __name__ == "__main__":
    runtime = progress.configure(service_name="mcp", store=sys.argv[1], console=False, otlp=False)
    add_tools(server, runtime.reader)
    server.run("stdio")
