"""Errors of a Redis server as errors of the journal, with a fix for each."""

from __future__ import annotations

from typing import Final

from otel_progress.errors import JournalError
from otel_progress.text import escape_controls, remove_credentials, truncate

_TEMPORARY_TEXTS: Final = ("LOADING", "BUSY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "NOREPLICAS")
"""Beginnings of answers of a server that is not ready yet."""


class RejectedError(JournalError):
    """The server rejects the credentials or a command.

    Only its configuration can change that.
    """


class NotWritableError(JournalError):
    """The server is a replica. The client has to look up the master again."""


def to_journal_error(error: BaseException, server: str, *, was_connected: bool) -> JournalError:
    """Return the JournalError for an error of redis-py.

    ``server`` is the address without credentials. A server that was reachable before may return
    within seconds, so its error is temporary if ``was_connected``.
    """
    from redis import exceptions

    text = _describe(error)
    code = text.partition(" ")[0]
    # Why in this order: an AuthenticationError is a ConnectionError.
    if isinstance(error, (exceptions.AuthenticationError, exceptions.AuthorizationError)):
        fix = "Check user and password in the URL of the store, or the password file."
        return RejectedError(f"The Redis server {server} rejects the credentials ({text}). {fix}")
    if isinstance(error, exceptions.NoPermissionError):
        fix = "Permit the user all commands for the keys otelp:* (ACL: ~otelp:* +@all -@dangerous +info)."
        return RejectedError(f"The Redis server {server} does not permit a command ({text}). {fix}")
    if isinstance(error, exceptions.ReadOnlyError):
        fix = "Use the address of the master, or the Sentinels: redis+sentinel://HOST:26379/SERVICE."
        result: JournalError = NotWritableError(f"The Redis server {server} is a read-only replica. {fix}")
        result.is_temporary = was_connected
        return result
    if isinstance(error, exceptions.OutOfMemoryError):
        fix = "Raise maxmemory, or shorten the retention."
        return JournalError(f"The memory of the Redis server {server} is full. {fix}")
    if isinstance(error, (exceptions.BusyLoadingError, exceptions.TryAgainError)) or code in _TEMPORARY_TEXTS:
        return _build_temporary(f"The Redis server {server} is not ready ({text}). It is used again later.")
    if isinstance(error, exceptions.TimeoutError):
        msg = f"The Redis server {server} does not answer in time ({text}). Check its load and the network."
        return _build_temporary(msg, is_temporary=was_connected)
    if isinstance(error, (exceptions.ConnectionError, OSError)):
        fix = "Start it, or check the URL of the store."
        if "CERTIFICATE_VERIFY_FAILED" in text:
            fix = "Name the certificate of its authority: ?ssl_ca_certs=/path/ca.crt."
        msg = f"The Redis server {server} cannot be reached ({text}). {fix}"
        return _build_temporary(msg, is_temporary=was_connected)
    return JournalError(f"The Redis server {server} cannot be used ({text}). Run: otel-progress doctor")


def is_redis_error(error: BaseException) -> bool:
    """Return True for the errors of redis-py and of sockets."""
    from redis import exceptions

    return isinstance(error, (exceptions.RedisError, OSError))


def _build_temporary(msg: str, *, is_temporary: bool = True) -> JournalError:
    error = JournalError(msg)
    error.is_temporary = is_temporary
    return error


def _describe(error: BaseException) -> str:
    text = str(error) or type(error).__name__
    return truncate(escape_controls(remove_credentials(text)).rstrip("."), 200)
