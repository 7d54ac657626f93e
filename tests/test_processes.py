"""Identity of processes, and whether they are alive."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from otel_progress.processes import (
    HEARTBEAT_TIMEOUT_S,
    UNVERIFIED_TIMEOUT_S,
    _read_start_ticks,
    current_instance,
    is_alive,
    is_gone,
    is_same_boot,
    this_host,
)

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


def test_current_instance_has_a_new_id_each_time() -> None:
    """A restarted process differs from the one before."""
    one, other = current_instance("nightly"), current_instance("nightly")
    assert one.id != other.id
    assert (one.pid, one.host, one.service) == (os.getpid(), this_host(), "nightly")


@LINUX
def test_this_host_contains_name_boot_and_namespace() -> None:
    """So containers and boots differ."""
    name, boot, namespace = this_host().split("/")
    assert name
    assert boot == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert f"pid:[{namespace}]" == str(Path("/proc/self/ns/pid").readlink())
    assert is_same_boot(f"other/{boot}/1")
    assert not is_same_boot(f"{name}/other/{namespace}")
    assert not is_same_boot("")


@pytest.mark.process
@LINUX
def test_existing_process_is_alive_with_an_old_heartbeat() -> None:
    """A stopped process is not dead."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    record = replace(current_instance("x"), pid=process.pid, start=_read_start_ticks(process.pid))
    assert record.start is not None
    process.send_signal(signal.SIGSTOP)
    assert is_alive(record, 0.0, 1e6)
    assert not is_alive(replace(record, start=record.start + 1), 0.0, 0.0)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not is_alive(record, 0.0, 0.0), "a zombie is dead"
    process.communicate()
    assert not is_alive(record, 0.0, 0.0)


@pytest.mark.skipif(sys.platform == "win32", reason="needs signal 0")
def test_process_without_known_start_is_alive_until_the_unverified_timeout() -> None:
    """Its id may have been reused."""
    record = replace(current_instance("x"), start=None)
    assert is_alive(record, 0.0, UNVERIFIED_TIMEOUT_S)
    assert not is_alive(record, 0.0, UNVERIFIED_TIMEOUT_S + 1)


def test_process_of_another_host_is_alive_until_the_heartbeat_timeout() -> None:
    """Its id is not comparable."""
    record = replace(current_instance("x"), host="elsewhere//")
    assert is_alive(record, 100.0, 100.0 + HEARTBEAT_TIMEOUT_S)
    assert not is_alive(record, 100.0, 101.0 + HEARTBEAT_TIMEOUT_S)


@pytest.mark.parametrize("pid", [0, -1, 2**31, 2**70])
def test_invalid_process_id_is_dead(pid: int) -> None:
    """A damaged record never leads to a signal to a process group."""
    assert not is_alive(replace(current_instance("x"), pid=pid, start=None), 0.0, 0.0)


@LINUX
def test_process_of_another_host_is_gone_after_the_unverified_timeout() -> None:
    """A verifiable process is gone immediately."""
    here = current_instance("nightly")
    assert not is_gone(here, 0.0, 1e9)
    assert is_gone(replace(here, start=(here.start or 0) - 1), 1e9, 1e9)
    elsewhere = replace(here, host="elsewhere/boot/1")
    assert not is_alive(elsewhere, 0.0, HEARTBEAT_TIMEOUT_S + 1.0)
    assert not is_gone(elsewhere, 0.0, UNVERIFIED_TIMEOUT_S)
    assert is_gone(elsewhere, 0.0, UNVERIFIED_TIMEOUT_S + 1.0)
