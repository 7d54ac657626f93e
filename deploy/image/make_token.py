"""Makes the token of the server on the first start, in the file given, and leaves one that is there alone.

No password is shipped: every installation has a random one of its own. The file is written whole under another name and then
linked, so that nobody ever reads half of it, and two that start at once agree on one. It is readable for all, as Prometheus runs
under another user id; the volume it lies in is mounted by nobody else.
"""

from __future__ import annotations

import os
import secrets
import sys
from contextlib import suppress
from pathlib import Path


def main(name: str) -> int:
    """Make the file unless it is there and not empty; say which it was."""
    path = Path(name)
    if path.exists() and path.stat().st_size:
        sys.stdout.write(f"{path}: kept\n")
        return 0
    path.unlink(missing_ok=True)  # an empty one is left by nobody but a full disk
    new = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444)
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(32))
            file.flush()
            os.fsync(file.fileno())
        new.chmod(0o444)  # whatever the umask
        with suppress(FileExistsError):  # another one was first
            os.link(new, path)
    finally:
        new.unlink(missing_ok=True)
    sys.stdout.write(f"{path}: made\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
