"""WSGI and ASGI application in which each request is an operation.

All settings are in the environment. ``/hold`` waits until the file of the query exists.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from opentelemetry import context, propagate

import otel_progress as progress

progress.configure(service_name="web", console=False, resources=False)


def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Answer with the process id."""
    headers = {
        name[5:].replace("_", "-").lower(): value
        for name, value in environ.items()
        if name.startswith("HTTP_")
    }
    token = context.attach(propagate.extract(headers))
    try:
        work(environ["PATH_INFO"], environ["QUERY_STRING"])
    finally:
        context.detach(token)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]


async def async_app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer with the process id, from another thread."""
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
    headers = {name.decode(): value.decode() for name, value in scope["headers"]}
    token = context.attach(propagate.extract(headers))
    try:
        await asyncio.to_thread(work, scope["path"], scope["query_string"].decode())
    finally:
        context.detach(token)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(os.getpid()).encode()})


def work(path: str, query: str) -> None:
    """Do the work of a request: three parts with two steps each."""
    with progress.operation("request", path, total=3) as op:
        if path == "/hold":
            while not Path(query).exists():
                time.sleep(0.02)
        for number in range(3):
            with op.level("part", id=str(number), total=2) as part:
                part.increment(2)
            op.increment()
