"""Creates the token of the server on the first start in the given file.

An existing token is not changed. There is no default token: every installation has a random one.
The file is written under another name and then linked. A reader never reads a part of it, and two
processes that start at the same time use the same token. It is readable for all users, because
Prometheus has another user id. Only the containers of the stack mount its volume.
"""

from __future__ import annotations

import os
import secrets
import sys
from contextlib import suppress
from pathlib import Path


def main(name: str) -> int:
    """Create the file unless it exists and is not empty. Print which case it was."""
    path = Path(name)
    if path.exists() and path.stat().st_size:
        sys.stdout.write(f"{path}: exists\n")
        return 0
    path.unlink(missing_ok=True)  # Only a full disk leaves an empty file.
    new = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444)
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(32))
            file.flush()
            os.fsync(file.fileno())
        new.chmod(0o444)  # Independent of the umask.
        with suppress(FileExistsError):  # Another process was first.
            os.link(new, path)
    finally:
        new.unlink(missing_ok=True)
    sys.stdout.write(f"{path}: created\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
