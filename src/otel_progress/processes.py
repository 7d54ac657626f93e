"""Processes that work: what names one, and whether it still lives.

``Instance.host`` is more than a host name, since containers share names and each has its own process ids: it is
``name/boot/namespace``, where ``boot`` is the kernel's boot id and ``namespace`` the process-id namespace (both empty where the
system has none). Process ids are only compared within one such host, monotonic clocks only within one boot.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
import uuid
from functools import lru_cache
from pathlib import Path
from typing import Final

from otel_progress.fork import ForkPhase, on_fork
from otel_progress.model import Instance

HEARTBEAT_TIMEOUT_S: Final = 15.0
"""A process that cannot be looked at (another host or container) is dead when its last sign of life is older, in seconds."""


UNVERIFIED_TIMEOUT_S: Final = 600.0
"""The same for one whose process id exists here but whose start cannot be compared: the id may have been reused. In seconds."""


_PROC: Final = Path("/proc")


_START_FIELD: Final = 22 - 3
"""Index of ``starttime`` among the fields of /proc/PID/stat that follow the command's closing parenthesis (proc(5))."""


_DEAD_STATES: Final = frozenset("ZXx")


def current_instance(service: str) -> Instance:
    """Return the record of this process, with a new unique id; ask again after a fork."""
    pid = os.getpid()
    return Instance(
        id=str(uuid.uuid4()),
        pid=pid,
        host=this_host(),
        service=service,
        started_at=time.time(),
        start=_start_ticks(pid),
    )


@lru_cache(maxsize=1)
def this_host() -> str:
    """Return the host of this process as ``name/boot/namespace``."""
    return f"{socket.gethostname()}/{_boot_id()}/{_pid_namespace()}"


@lru_cache(maxsize=1)
def host_class() -> str:
    """Return the kind of machine as ``system-machine-cores``, like ``linux-x86_64-2``: runs on one kind take about as long."""
    machine = (
        os.uname().machine if hasattr(os, "uname") else os.environ.get("PROCESSOR_ARCHITECTURE", "unknown")
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return f"{sys.platform}-{machine}-{cores}".lower()


# Why: a child may have been put into a namespace of its own.
on_fork(phase=ForkPhase.CACHES, after_in_child=this_host.cache_clear)


def same_boot(host: str) -> bool:
    """Return True when ``host`` is this machine since its last start, so that monotonic clocks agree (other containers too)."""
    boot = this_host().split("/")[-2]
    parts = host.split("/")
    return bool(boot) and len(parts) >= 3 and parts[-2] == boot


def is_alive(instance: Instance, heartbeat_at: float, now: float) -> bool:
    """Return True while the process gives signs of life: it exists on this host, or its last heartbeat is recent.

    ``heartbeat_at`` and ``now`` are seconds on one clock, whichever. A process of this host that exists is alive however old its
    heartbeat: it may be stopped or starved, which is *stalled*, not dead. Nothing is ever sent to it.
    """
    age = now - heartbeat_at
    if instance.host != this_host():
        return age <= HEARTBEAT_TIMEOUT_S
    if not 0 < instance.pid < 2**31:
        return False
    if instance.start is not None:
        state, start = _stat(instance.pid)
        if state is not None:
            return start == instance.start and state not in _DEAD_STATES
    exists = _exists(instance.pid)
    return age <= HEARTBEAT_TIMEOUT_S if exists is None else exists and age <= UNVERIFIED_TIMEOUT_S


def is_gone(instance: Instance, heartbeat_at: float, now: float) -> bool:
    """Return True when the process works no more for certain; between this and :func:`is_alive` lies what only seems to be dead.

    A process of this host that is not there is gone at once. One that cannot be looked at may only be cut off from the journal, so it
    counts as gone when it has given no sign of life for ``UNVERIFIED_TIMEOUT_S``. ``heartbeat_at`` and ``now`` as in :func:`is_alive`.
    """
    if is_alive(instance, heartbeat_at, now):
        return False
    looked_at = instance.host == this_host() and sys.platform != "win32"
    return looked_at or now - heartbeat_at > UNVERIFIED_TIMEOUT_S


def _exists(pid: int) -> bool | None:
    """Return whether a process of this id exists, None where that cannot be asked."""
    if sys.platform == "win32":  # signal 0 is no question there, it is CTRL_C_EVENT
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # not ours to signal, yet it exists
        return True
    return True


def _start_ticks(pid: int) -> int | None:
    return _stat(pid)[1]


def _stat(pid: int) -> tuple[str | None, int | None]:
    """Return state and start of a process in clock ticks since boot; None, None when the system does not show them."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = (_PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()
        return fields[0].decode("ascii"), int(fields[_START_FIELD])
    return None, None


def _boot_id() -> str:
    with contextlib.suppress(OSError):
        return (_PROC / "sys/kernel/random/boot_id").read_text("ascii").strip()
    return ""


def _pid_namespace() -> str:
    with contextlib.suppress(OSError):
        return str((_PROC / "self/ns/pid").stat().st_ino)
    return ""
