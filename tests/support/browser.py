"""The live page in a real browser, with real servers and a record of page errors."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.journals import make_journal
from tests.support.servers import answers, poll

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, ConsoleMessage, Dialog, Error, Page

ARTIFACTS = "OTEL_PROGRESS_TEST_ARTIFACTS"
"""Folder for screenshots; without it the test's temporary folder is used."""
EXPECTED = re.compile(
    r"ERR_(CONNECTION_REFUSED|CONNECTION_RESET|INCOMPLETE_CHUNKED_ENCODING|EMPTY_RESPONSE|FAILED)"
    r"|status of (401|404)"
)
"""Messages of the browser about failed requests while a server is down or refuses them."""


PATIENCE_S = 60.0
"""Deadline for waits, generous because the machine may be busy."""


class Serving:
    """``otel-progress serve`` in its own process, on a port that survives a restart."""

    def __init__(self, store: str, log: Path, *, token: str | None = None) -> None:
        self._place = held_port()
        self.port = int(self._place.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}/"
        self._store = store
        self._log = log
        self._environ = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
        if token is not None:
            self._environ["OTEL_PROGRESS_TOKEN"] = token
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it responds."""
        make_journal(self._store)
        command = [
            sys.executable,
            "-m",
            "otel_progress",
            "--store",
            self._store,
            "serve",
            "--port",
            str(self.port),
        ]
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                command, env=self._environ, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        poll(
            lambda: (
                self._process is None or self._process.poll() is not None or answers(f"{self.url}healthz")
            ),
            what="server",
            timeout=PATIENCE_S,
        )
        assert self._process.poll() is None, self._log.read_text(errors="replace")[-500:]

    def kill(self) -> None:
        """Kill it, as a crash would."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGKILL)
            process.wait(PATIENCE_S)

    def stop(self) -> None:
        """Stop it and release its port."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(PATIENCE_S)
        self._place.close()


def held_port() -> socket.socket:
    """Return a socket that reserves a free loopback port.

    It does not listen, so a server that requests this very port with SO_REUSEADDR gets it, also
    after a restart.
    """
    place = socket.socket()
    place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    place.bind(("127.0.0.1", 0))
    return place


class Tab:
    """A page and a record of errors, dialogs and policy violations.

    A correct page causes none.
    """

    def __init__(self, context: BrowserContext, folder: Path) -> None:
        self.page: Page = context.new_page()
        self.troubles: list[str] = []
        self._folder = Path(os.environ.get(ARTIFACTS) or folder)
        self.page.on("console", self._record_message)
        self.page.on("pageerror", self._failed)
        self.page.on("dialog", self._asked)

    def shoot(self, name: str) -> None:
        """Save a screenshot."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=self._folder / f"page-{name}.png")

    def _record_message(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"} and not EXPECTED.search(message.text):
            self.troubles.append(f"{message.type}: {message.text}")

    def _asked(self, dialog: Dialog) -> None:
        self.troubles.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _failed(self, error: Error) -> None:
        self.troubles.append(f"{error.name}: {error.message}\n{error.stack}")
