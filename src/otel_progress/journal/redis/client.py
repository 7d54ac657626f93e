"""Client of a Redis server, of the master of Sentinels, or of a cluster.

It repeats nothing: the queue of the sink repeats what has failed. It connects at the first use and
after a fork, and detects a cluster.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from otel_progress.errors import JournalError, MissingExtraError
from otel_progress.fork import ForkPhase, defer_fork, on_fork
from otel_progress.journal.redis.address import RedisAddress
from otel_progress.journal.redis.failures import (
    NotWritableError,
    RejectedError,
    is_redis_error,
    to_journal_error,
)

TIMEOUT_S: Final = 1.0
"""Time to connect, and to wait for an answer, in seconds. Beyond it the use fails."""


BLOCKING_TIMEOUT_S: Final = 3.0
"""Time of a blocking read to wait for an answer, in seconds. It blocks for less."""


REJECTED_INTERVAL_S: Final = 30.0
"""Time between two attempts after the server rejected the credentials, in seconds."""


SILENT_INTERVAL_S: Final = 1.0
"""Time without attempts after the server did not answer in time, in seconds."""


RECENT_S: Final = 300.0
"""Age of the last answer up to which an unreachable server may return soon, in seconds."""


MAX_COMMANDS_PER_PIPELINE: Final = 500
"""Commands that are sent at once. More are split, which limits the memory."""


MIN_VERSION: Final = (7, 0)
"""Oldest supported version of the server."""


_connections_of_parents: Final[list[Any]] = []
"""Clients of the processes from which this one was forked, so that they are not deleted."""


@dataclass(frozen=True, slots=True)
class Script:
    """Lua script of the server."""

    text: str
    digest: str


@dataclass(frozen=True, slots=True)
class Command:
    """Command with its words. In a cluster, the node of ``key`` executes it."""

    key: str
    words: tuple[Any, ...]
    script: Script | None = None


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """Properties of the server at the time of the connection.

    ``started_at`` is the start of the server in Unix seconds of its clock, 0 if it is unknown.
    """

    version: str
    is_cluster: bool
    role: str
    started_at: float
    fields: dict[str, Any]


def command(name: str, key: str, *arguments: Any) -> Command:
    """Return a command whose first argument is its key."""
    return Command(key, (name, key, *arguments))


def call(script: Script, keys: Sequence[str], *arguments: Any) -> Command:
    """Return the command that runs a script. All keys have to be in one slot."""
    return Command(keys[0], ("EVALSHA", script.digest, len(keys), *keys, *arguments), script)


class RedisClient:
    """Executes commands. Every method may be called from any thread.

    Methods raise JournalError.
    """

    def __init__(self, address: RedisAddress, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.address = address
        self._clock = clock
        self._reset()
        on_fork(phase=ForkPhase.JOURNAL, owner=self, after_in_child=RedisClient._leave_parent)

    def __repr__(self) -> str:
        return f"RedisClient({self.address})"

    def __reduce__(self) -> NoReturn:
        msg = "A Redis client has credentials and cannot be pickled."
        raise TypeError(msg)

    def _leave_parent(self) -> None:
        """Start without the connections of the parent, in a forked child."""
        # Why kept: closing them waits for locks that a thread of the parent may have had.
        _connections_of_parents.extend((self._redis, self._blocking))
        self._reset()

    def _reset(self) -> None:
        # Why reentrant: a signal handler or a finalizer may query while its own thread holds it.
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._callers: set[int] = set()
        """Threads that are in a call of this client."""
        self._redis: Any = None
        self._blocking: Any = None
        self._server: ServerInfo | None = None
        self._answered_at: float | None = None
        self._rejected: JournalError | None = None
        self._next_attempt = float("-inf")

    def get_server(self) -> ServerInfo:
        """Return the properties of the server, after connecting if necessary."""
        with self._calling():
            self._connect()
        server = self._server
        if server is None:
            msg = f"The connection to the Redis server {self.address} was closed. Open the journal again."
            raise JournalError(msg)
        return server

    def execute(self, commands: Sequence[Command]) -> list[Any]:
        """Execute commands in order, and return their answers.

        In a cluster, only commands for one node are executed in order. Raises the error of the
        first failed command after all of them were sent.
        """
        answers: list[Any] = []
        for start in range(0, len(commands), MAX_COMMANDS_PER_PIPELINE):
            with self._calling():
                answers += self._execute(commands[start : start + MAX_COMMANDS_PER_PIPELINE])
        return answers

    def execute_one(self, name: str, key: str, *arguments: Any) -> Any:
        """Execute one command whose first argument is its key, and return its answer."""
        return self.execute([command(name, key, *arguments)])[0]

    def run_script(self, script: Script, keys: Sequence[str], *arguments: Any) -> Any:
        """Run a script, and return its answer."""
        return self.execute([call(script, keys, *arguments)])[0]

    def read_info(self, section: str) -> dict[str, Any]:
        """Return properties of the server, or nothing if that is not permitted."""
        with self._calling():
            return self._read_info(section)

    def _read_info(self, section: str) -> dict[str, Any]:
        connected = self._connect()
        try:
            server = self._server
            if server is not None and server.is_cluster:
                return {}
            info: dict[str, Any] = connected.execute_command("INFO", section)
        except Exception as error:
            with suppress(RejectedError):
                self._fail(error, connected)
            return {}
        return info

    def wait_for_entry(self, stream: str, cursor: str, timeout_s: float) -> None:
        """Wait for an entry behind ``cursor``, at most ``timeout_s`` seconds."""
        with self._calling():
            self._wait_for_entry(stream, cursor, timeout_s)

    def _wait_for_entry(self, stream: str, cursor: str, timeout_s: float) -> None:
        connected = self._connect()
        try:
            with self._lock:
                blocking = self._blocking
            if blocking is None:
                server = self._server
                is_cluster = server is not None and server.is_cluster
                blocking = self._build(BLOCKING_TIMEOUT_S, is_cluster=is_cluster)
                with self._lock:
                    self._blocking = blocking
            block_ms = max(1, int(min(timeout_s, BLOCKING_TIMEOUT_S / 2) * 1000))
            blocking.execute_command("XREAD", "COUNT", 1, "BLOCK", block_ms, "STREAMS", stream, cursor)
        except Exception as error:
            self._fail(error, connected)

    def close(self) -> None:
        """Close all connections. The next use opens them again."""
        with self._lock:
            clients, self._redis, self._blocking = (self._redis, self._blocking), None, None
        # Why not then: the call that this one interrupts uses them.
        if threading.get_ident() in self._callers:
            return
        for each in clients:
            if each is not None:
                _close(each)

    @contextmanager
    def _calling(self) -> Iterator[None]:
        """Reject a call that interrupts another one of the same thread."""
        # Why: redis-py has locks that a signal handler must not wait for in their own thread.
        caller = threading.get_ident()
        if caller in self._callers:
            msg = f"Invalid query of {self.address}: expected no other query of the same thread."
            raise JournalError(f"{msg} It interrupted one. Repeat it after that has ended.")
        try:
            self._callers.add(caller)
            yield
        finally:
            self._callers.discard(caller)

    # --- execution -------------------------------------------------------------------------------

    def _execute(self, commands: Sequence[Command]) -> list[Any]:
        connected = self._connect()
        try:
            answers = self._send(connected, commands)
            if any(_is_missing_script(answer) for answer in answers):
                self._load(connected, commands)
                answers = self._send(connected, commands)
        except Exception as error:
            self._fail(error, connected)
        self._answered_at = self._clock()
        for answer in answers:
            if isinstance(answer, Exception):
                self._fail(answer, connected)
        return answers

    def _send(self, connected: Any, commands: Sequence[Command]) -> list[Any]:
        server = self._server
        if server is None or not server.is_cluster:
            return _run_pipeline(connected, commands)
        by_node: dict[str, tuple[Any, list[int]]] = {}
        for index, each in enumerate(commands):
            node = connected.get_node_from_key(each.key)
            by_node.setdefault(node.name, (node, []))[1].append(index)
        answers: list[Any] = [None] * len(commands)
        failure: Exception | None = None
        for node, indexes in by_node.values():
            try:
                found = _run_pipeline(
                    connected.get_redis_connection(node), [commands[index] for index in indexes]
                )
            except Exception as error:
                # Why later: the other nodes still answer.
                failure = error
                continue
            for index, answer in zip(indexes, found, strict=True):
                answers[index] = answer
        moved = [index for index, answer in enumerate(answers) if _is_redirection(answer)]
        for index in moved:
            # The client of the cluster follows redirections.
            answers[index] = _run_singly(connected, commands[index])
        if failure is not None:
            raise failure
        return answers

    def _load(self, connected: Any, commands: Sequence[Command]) -> None:
        """Load the scripts of the commands, on all nodes of a cluster."""
        for script in {each.script for each in commands if each.script is not None}:
            connected.execute_command("SCRIPT LOAD", script.text)

    # --- connection ------------------------------------------------------------------------------

    def _connect(self) -> Any:
        """Return the connected client. Raises JournalError."""
        if self._pid != os.getpid():
            self._leave_parent()
        with self._lock:
            connected, rejected = self._redis, self._rejected
            if rejected is not None:
                if self._clock() < self._next_attempt:
                    raise _copy_error(rejected)
                self._rejected = None
        if connected is not None:
            return connected
        try:
            connected, server = self._open()
        except Exception as error:
            self._fail(error, None)
        with self._lock:
            if self._redis is None:
                self._redis, self._server = connected, server
            else:
                _close(connected)
            return self._redis

    def _open(self) -> tuple[Any, ServerInfo]:
        connected = self._build(TIMEOUT_S, is_cluster=False)
        try:
            server = _read_server(connected)
            _check_version(server, str(self.address))
        except BaseException:
            _close(connected)
            raise
        if not server.is_cluster:
            return connected, server
        _close(connected)
        return self._build(TIMEOUT_S, is_cluster=True), server

    def _build(self, timeout_s: float, *, is_cluster: bool) -> Any:
        try:
            # Why: a thread of the runtime connects, and a forked child would wait for its import.
            with defer_fork():
                # Why this codec: the first resolution of a host name imports it.
                import encodings.idna  # noqa: F401

                import redis
                from redis.backoff import NoBackoff
                from redis.retry import Retry

                # Why: the first client imports more modules. This one does not connect.
                redis.Redis().connection_pool.make_connection()
        except ImportError as error:
            raise MissingExtraError("A Redis journal", "redis") from error
        address = self.address
        options: dict[str, Any] = {
            "username": address.username,
            "password": address.read_password(),
            # Why: answers of version 3 differ between versions of redis-py.
            "protocol": 2,
            "socket_timeout": timeout_s,
            "socket_connect_timeout": TIMEOUT_S,
            "socket_keepalive": True,
            "health_check_interval": 0,
            "client_name": "otel-progress",
        }
        if address.tls:
            address.check_certificates()
            options.update(
                ssl=True,
                ssl_ca_certs=address.ca_certs,
                ssl_certfile=address.certfile,
                ssl_keyfile=address.keyfile,
                ssl_check_hostname=address.check_hostname,
            )
        if is_cluster:
            # Why no retry: a cluster with a missing node cannot be opened without the default one.
            host, port = address.hosts[0]
            return redis.RedisCluster(host=host, port=port, **options)
        options.update(db=address.database, retry=Retry(NoBackoff(), 0))
        if address.service is None:
            host, port = address.hosts[0]
            return redis.Redis(host=host, port=port, **options)
        return self._build_sentinel(options)

    def _build_sentinel(self, options: dict[str, Any]) -> Any:
        with defer_fork():
            from redis.backoff import NoBackoff
            from redis.retry import Retry
            from redis.sentinel import Sentinel

        address = self.address
        known = ("protocol", "socket_connect_timeout", "socket_keepalive")
        sentinel_options = {
            **{
                name: options[name]
                for name in (*known, *(name for name in options if name.startswith("ssl")))
            },
            "username": address.sentinel_username,
            "password": address.read_sentinel_password(),
            "socket_timeout": TIMEOUT_S,
            "retry": Retry(NoBackoff(), 0),
        }
        sentinel = Sentinel(list(address.hosts), sentinel_kwargs=sentinel_options, **options)  # type: ignore[no-untyped-call]
        return sentinel.master_for(address.service)  # type: ignore[no-untyped-call]

    def _fail(self, error: BaseException, connected: Any) -> NoReturn:
        """Raise the JournalError of an error, and close lost connections."""
        if not isinstance(error, (JournalError, MissingExtraError)) and not is_redis_error(error):
            raise error
        answered_at = self._answered_at
        was_connected = answered_at is not None and self._clock() - answered_at <= RECENT_S
        if isinstance(error, (JournalError, MissingExtraError)):
            translated: Exception = error
        else:
            translated = to_journal_error(error, str(self.address), was_connected=was_connected)
        if isinstance(translated, RejectedError):
            self._pause(translated, REJECTED_INTERVAL_S)
        elif isinstance(translated, JournalError) and _is_timeout(error):
            self._pause(translated, SILENT_INTERVAL_S)
        if isinstance(translated, NotWritableError) or _is_lost(error):
            # Why: the next use looks up the master, and reads when the server was started.
            with self._lock:
                if self._redis is connected:
                    self._redis = self._blocking = None
            if connected is not None:
                _close(connected)
        raise translated from (None if translated is error else error)

    def _pause(self, error: JournalError, interval_s: float) -> None:
        """Fail without an attempt for some time."""
        with self._lock:
            if self._rejected is None:
                self._rejected = _copy_error(error)
                self._next_attempt = self._clock() + interval_s


def _copy_error(error: JournalError) -> JournalError:
    """Return an equal error without a traceback and its frames."""
    copied = type(error)(str(error))
    copied.is_temporary = error.is_temporary
    return copied


def _run_pipeline(connected: Any, commands: Sequence[Command]) -> list[Any]:
    pipeline = connected.pipeline(transaction=False)
    for each in commands:
        pipeline.execute_command(*each.words)
    return list(pipeline.execute(raise_on_error=False))


def _run_singly(connected: Any, redirected: Command) -> Any:
    try:
        return connected.execute_command(*redirected.words)
    except Exception as error:
        if not is_redis_error(error):
            raise
        return error


def _is_missing_script(answer: object) -> bool:
    if not isinstance(answer, Exception):
        return False
    from redis.exceptions import NoScriptError

    return isinstance(answer, NoScriptError)


def _is_redirection(answer: object) -> bool:
    if not isinstance(answer, Exception):
        return False
    from redis.exceptions import AskError, ClusterDownError, MovedError, TryAgainError

    return isinstance(answer, (AskError, MovedError, TryAgainError, ClusterDownError))


def _is_timeout(error: BaseException) -> bool:
    from redis.exceptions import TimeoutError as RedisTimeoutError

    return isinstance(error, RedisTimeoutError)


def _is_lost(error: BaseException) -> bool:
    """Return True if the connection is lost."""
    from redis.exceptions import BusyLoadingError
    from redis.exceptions import ConnectionError as RedisConnectionError

    return isinstance(error, (RedisConnectionError, OSError)) and not isinstance(error, BusyLoadingError)


def _read_server(connected: Any) -> ServerInfo:
    from redis.exceptions import NoPermissionError

    try:
        fields: dict[str, Any] = connected.execute_command("INFO")
        (seconds, microseconds) = connected.execute_command("TIME")
    except NoPermissionError:
        # The version is unknown. Commands that the server does not have fail later.
        return ServerInfo("", False, "master", 0.0, {})
    now = seconds + microseconds / 1e6
    return ServerInfo(
        version=str(fields.get("valkey_version") or fields.get("redis_version") or ""),
        is_cluster=str(fields.get("cluster_enabled", 0)) == "1",
        role=str(fields.get("role", "master")),
        started_at=now - float(fields.get("uptime_in_seconds", now)),
        fields=fields,
    )


def _check_version(server: ServerInfo, address: str) -> None:
    found = str(server.fields.get("redis_version", "")).split(".")
    is_known = len(found) >= 2 and found[0].isdigit() and found[1].isdigit()
    if is_known and (int(found[0]), int(found[1])) < MIN_VERSION:
        fix = "Upgrade it, or use Valkey."
        msg = f"The Redis server {address} has version {server.version}, and 7.0 is required. {fix}"
        raise JournalError(msg)


def _close(connected: Any) -> None:
    """Close a client. It must not fail, because it may be broken."""
    try:
        connected.close()
        pool = getattr(connected, "connection_pool", None)
        if pool is not None:
            pool.disconnect()
    except Exception as error:
        if not is_redis_error(error):
            raise
