"""Identity of processes, and whether they are alive.

``Instance.host`` is ``name/boot/namespace``, because containers may share a host name and have
their own process ids. ``boot`` is the kernel's boot id and ``namespace`` the process-id
namespace. Both are empty on systems without them. Process ids are only compared within one such
host, monotonic clocks only within one boot.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Final

from otel_progress.fork import ForkPhase, on_fork
from otel_progress.model import Instance

HEARTBEAT_TIMEOUT_S: Final = 15.0
"""Age of the last heartbeat beyond which an unverifiable process is dead, in seconds. A process of
another host or container cannot be verified.
"""


UNVERIFIED_TIMEOUT_S: Final = 600.0
"""Age of the last heartbeat beyond which a process is dead although its id exists, in seconds. It
applies if the start time is unknown, because the id may have been reused. A process of another host
or container is gone after the same time.
"""


OTLP_TIMEOUT_S: Final = 90.0
"""Like HEARTBEAT_TIMEOUT_S for a process that sends its heartbeats over OTLP, every 30 seconds."""


_OTLP: Final = "otlp"


_OTLP_WITHOUT_HEARTBEATS: Final = "otlp-without-heartbeats"


_PROC: Final = Path("/proc")


_START_FIELD: Final = 22 - 3
"""Index of ``starttime`` in /proc/PID/stat after the command's closing parenthesis (proc(5))."""


_DEAD_STATES: Final = frozenset("ZXx")


def current_instance(service: str, instance_id: str | None = None) -> Instance:
    """Return the record of this process, by default with a new unique id.

    A forked child needs its own record.
    """
    pid = os.getpid()
    return Instance(
        id=instance_id or str(uuid.uuid4()),
        pid=pid,
        host=this_host(),
        service=service,
        started_at=time.time(),
        start=_read_start_ticks(pid),
    )


QUEUE_INSTANCE: Final = "queue"
"""Instance of operations that no process runs, such as tasks that wait in a queue. It sends no
heartbeats, so they are never abandoned.
"""


@lru_cache(maxsize=1)
def this_host() -> str:
    """Return the host of this process as ``name/boot/namespace``."""
    return f"{socket.gethostname()}/{_read_boot_id()}/{_read_pid_namespace()}"


def build_otlp_host(name: str, *, heartbeats: bool) -> str:
    """Return the host of a process that reports over OTLP.

    The part for the namespace says so, because such a process cannot be verified. ``heartbeats`` is
    True if it sends them. Any other process is never known to be dead.
    """
    return f"{name.replace('/', '_')}//{_OTLP if heartbeats else _OTLP_WITHOUT_HEARTBEATS}"


def is_otlp_host(host: str) -> bool:
    """Return True for the host of a process that reports over OTLP."""
    return host.endswith((f"//{_OTLP}", f"//{_OTLP_WITHOUT_HEARTBEATS}"))


def get_heartbeat_timeout_s(host: str) -> float:
    """Return the maximum age of the last heartbeat of a living process.

    It applies to processes of other hosts. It is infinite for those without heartbeats.
    """
    if host.endswith(f"//{_OTLP}"):
        return OTLP_TIMEOUT_S
    return math.inf if host.endswith(f"//{_OTLP_WITHOUT_HEARTBEATS}") else HEARTBEAT_TIMEOUT_S


@lru_cache(maxsize=1)
def host_class() -> str:
    """Return the class of this machine, such as ``linux-x86_64-2``.

    It consists of system, architecture and number of cores.
    Runs on machines of one class take about the same time.
    """
    machine = (
        os.uname().machine if hasattr(os, "uname") else os.environ.get("PROCESSOR_ARCHITECTURE", "unknown")
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return f"{sys.platform}-{machine}-{cores}".lower()


def allows_daemon_threads() -> bool:
    """Return False in an isolated interpreter.

    Those of ``InterpreterPoolExecutor`` are isolated. They join all their threads at their end,
    before ``atexit``.
    """
    # Why private: there is no public function.
    allows: Callable[[], bool] | None = getattr(threading, "_daemon_threads_allowed", None)
    return allows is None or allows()


@lru_cache(maxsize=1)
def get_program_name() -> str:
    """Return a name of the running program that is the same in each of its runs.

    It is the module of ``python -m``, or the folder and the file of the script (``jobs/load.py``).
    Without a script it is ``interactive``. Why the folder: many scripts are called ``main.py``. Why
    not the whole path: it changes when a program moves or is installed in another place.
    """
    main = sys.modules.get("__main__")
    module = getattr(getattr(main, "__spec__", None), "name", None)
    if isinstance(module, str) and module != "__main__":
        return module.removesuffix(".__main__")
    file = getattr(main, "__file__", None)
    if not isinstance(file, str):
        return "interactive"
    path = Path(file).absolute()
    return f"{path.parent.name}/{path.name}"


# Why: the child may be in a namespace of its own.
on_fork(phase=ForkPhase.CACHES, after_in_child=this_host.cache_clear)


def get_boot_id() -> str:
    """Return the kernel's boot id, or an empty text on systems without it."""
    return this_host().split("/")[-2]


def is_same_boot(host: str) -> bool:
    """True if ``host`` is on the same boot of this machine.

    Monotonic clocks agree within one boot.
    """
    boot = get_boot_id()
    parts = host.split("/")
    return bool(boot) and len(parts) >= 3 and parts[-2] == boot


def read_suspended_s() -> float:
    """Return the suspended time of this machine since its boot, in seconds.

    Return 0 if it is unknown. The monotonic clock does not include them.
    """
    if not hasattr(time, "CLOCK_BOOTTIME"):
        return 0.0
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC))


def is_alive(instance: Instance, heartbeat_at: float, now: float) -> bool:
    """True if the process exists on this host, or its last heartbeat is recent.

    ``heartbeat_at`` and ``now`` are seconds of the same clock. A process that exists on this
    host is alive however old its heartbeat is: it may be stopped or starved, so it is *stalled*
    and not dead. No signal is sent to it.
    """
    age = now - heartbeat_at
    if instance.host != this_host():
        return age <= get_heartbeat_timeout_s(instance.host)
    if not 0 < instance.pid < 2**31:
        return False
    if instance.start is not None:
        state, start = _read_stat(instance.pid)
        if state is not None:
            return start == instance.start and state not in _DEAD_STATES
    exists = _process_exists(instance.pid)
    return age <= HEARTBEAT_TIMEOUT_S if exists is None else exists and age <= UNVERIFIED_TIMEOUT_S


def is_gone(instance: Instance, heartbeat_at: float, now: float) -> bool:
    """True if the process has certainly ended.

    Both this and :func:`is_alive` may be False. A process of this host that does not exist is
    gone immediately. Any other process may only be disconnected from the journal. It is gone
    when its last heartbeat is older than ``UNVERIFIED_TIMEOUT_S``. A process that sends no
    heartbeats is gone that time after its last report, so that users can end its operations.
    ``heartbeat_at`` and ``now`` are seconds of the same clock.
    """
    if get_heartbeat_timeout_s(instance.host) == math.inf:
        return now - heartbeat_at > UNVERIFIED_TIMEOUT_S
    if is_alive(instance, heartbeat_at, now):
        return False
    is_verified = instance.host == this_host() and sys.platform != "win32"
    return is_verified or now - heartbeat_at > UNVERIFIED_TIMEOUT_S


def _process_exists(pid: int) -> bool | None:
    """Return whether a process with this id exists, or None if unknown."""
    if sys.platform == "win32":  # signal 0 is CTRL_C_EVENT there
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # of another user
        return True
    return True


def _read_start_ticks(pid: int) -> int | None:
    return _read_stat(pid)[1]


def _read_stat(pid: int) -> tuple[str | None, int | None]:
    """Return state and start of a process, or None if they are unknown.

    The start is in clock ticks since boot.
    """
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = (_PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()
        return fields[0].decode("ascii"), int(fields[_START_FIELD])
    return None, None


def _read_boot_id() -> str:
    with contextlib.suppress(OSError):
        return (_PROC / "sys/kernel/random/boot_id").read_text("ascii").strip()
    return ""


def _read_pid_namespace() -> str:
    with contextlib.suppress(OSError):
        return str((_PROC / "self/ns/pid").stat().st_ino)
    return ""
