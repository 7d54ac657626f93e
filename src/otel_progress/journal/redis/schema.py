"""Version of the keys of a journal, and its migrations."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

from otel_progress.errors import JournalError
from otel_progress.journal.redis import scripts
from otel_progress.journal.redis.client import RedisClient
from otel_progress.journal.redis.keys import JournalKeys
from otel_progress.journal.redis.leases import Lease

Migration: TypeAlias = "Callable[[RedisClient, JournalKeys], None]"


MIGRATIONS: Final[tuple[Migration, ...]] = ()
"""Step n migrates version n + 1 to version n + 2. A step may run twice. Only append steps."""


SCHEMA_VERSION: Final = str(len(MIGRATIONS) + 1)
"""Version of the keys of this code."""


MIGRATION_LEASE_S: Final = 30.0
"""Time that one process may migrate a journal, in seconds."""


def create_journal_id() -> str:
    """Return the id of a new journal. An emptied server has a journal with another id."""
    return secrets.token_hex(16)


def check_version(found: str, address: str, known: str = SCHEMA_VERSION) -> None:
    """Raise JournalError if a version is newer than this code."""
    if not found.isdigit() or int(found) > int(known):
        msg = (
            f"The journal at {address} was written by a newer otel-progress (schema {found}; this one knows "
            f"up to {known}). Upgrade this installation, or use another name: ?name=NAME."
        )
        raise JournalError(msg)


def migrate(client: RedisClient, keys: JournalKeys, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Create a missing journal, or migrate an older one under a lease.

    Raises JournalError if it is newer than this code, or if another process migrates it.
    """
    newest = str(len(migrations) + 1)
    while True:
        found = read_version(client, keys)
        if found is None:
            # Both fields of a new journal are written by the first change set.
            return
        check_version(found, str(client.address), newest)
        if found == newest:
            return
        with Lease(client, f"{keys.meta}:lease", MIGRATION_LEASE_S) as fence:
            if fence is None:
                error = JournalError(f"The journal at {client.address} is being migrated by another process.")
                error.is_temporary = True
                raise error
            migrations[int(found) - 1](client, keys)
            client.run_script(scripts.SWAP, (keys.meta,), "schema", found, str(int(found) + 1))


def read_version(client: RedisClient, keys: JournalKeys) -> str | None:
    """Return the version of a stored journal, or None without one."""
    found: Any = client.execute_one("HGET", keys.meta, "schema")
    return None if found is None else found.decode("ascii", "replace")
