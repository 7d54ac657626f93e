"""The command ``update`` without the imports of the command line.

It understands the options of valid calls. Any other call is left to the command line, which
explains what is wrong.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from otel_progress.updates.client import UnavailableServerError, UpdateClient, UpdateError

NUMBER_OPTIONS = {"--current": "current", "--total": "total", "--increment": "increment"}
"""Options with a number, and their names in the request."""


TEXT_OPTIONS = {"--message": "message", "--path": "path"}
"""Options with a text, and their names in the request."""


AVAILABLE_OPTION = "--if-available"
"""Option that succeeds without a receiver."""


def run_update(args: Sequence[str], environ: Mapping[str, str]) -> int | None:
    """Send an update and return the exit code.

    None if the arguments need the command line.
    """
    values = _parse_options(args)
    if values is None:
        return None
    is_optional = values.pop("optional", False)
    return send_update(values, environ, is_optional=is_optional)


def send_update(values: Mapping[str, Any], environ: Mapping[str, str], *, is_optional: bool) -> int:
    """Send an update and return the exit code.

    With ``is_optional`` it is 0 if no process receives updates.
    """
    try:
        with UpdateClient(environ) as client:
            client.request("update", **values)
    except UnavailableServerError as error:
        return 0 if is_optional else _report(error)
    except UpdateError as error:
        return _report(error)
    return 0


def parse_number(text: str) -> int | float | None:
    """Return a number of at least 0, or None for another text."""
    try:
        number = int(text) if text.isascii() and text.isdigit() else float(text)
    except ValueError:
        return None
    return number if 0 <= number < 2**63 else None


def _parse_options(args: Sequence[str]) -> dict[str, Any] | None:
    values: dict[str, Any] = {}
    remaining = list(args)
    while remaining:
        option, separator, value = remaining.pop(0).partition("=")
        if option == AVAILABLE_OPTION and not separator:
            values["optional"] = True
            continue
        if not separator:
            if not remaining or remaining[0].startswith("-"):
                return None
            value = remaining.pop(0)
        if option in TEXT_OPTIONS:
            values[TEXT_OPTIONS[option]] = value
        elif option in NUMBER_OPTIONS:
            number = parse_number(value)
            if number is None:
                return None
            values[NUMBER_OPTIONS[option]] = number
        else:
            return None
    has_change = bool(values.keys() - {"optional", "path"})
    return values if has_change and not {"current", "increment"} <= values.keys() else None


def _report(error: UpdateError) -> int:
    text = " ".join(str(error).split())
    printable = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
    encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
    try:
        sys.stderr.write(f"error: {printable}\n".encode(encoding, "backslashreplace").decode(encoding))
    except (OSError, AttributeError):  # stderr is full or closed
        return 1
    return 1
