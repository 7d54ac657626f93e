"""Processes that work, and whether they live."""

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
    same_boot,
    this_host,
)

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


def test_every_instance_has_an_id_of_its_own() -> None:
    """Two records of one process differ, so a restart is never taken for the process before it."""
    one, other = current_instance("nightly"), current_instance("nightly")
    assert one.id != other.id
    assert (one.pid, one.host, one.service) == (os.getpid(), this_host(), "nightly")


@LINUX
def test_the_host_tells_boots_and_containers_apart() -> None:
    """A host is a name, a boot and a namespace of process ids."""
    name, boot, namespace = this_host().split("/")
    assert name
    assert boot == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert f"pid:[{namespace}]" == str(Path("/proc/self/ns/pid").readlink())
    assert same_boot(f"other/{boot}/1")
    assert not same_boot(f"{name}/other/{namespace}")
    assert not same_boot("")


@pytest.mark.process
@LINUX
def test_a_living_process_is_alive_however_old_its_heartbeat() -> None:
    """A process of this host is looked at, so that a stopped one is not taken for dead."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    record = replace(current_instance("x"), pid=process.pid, start=_read_start_ticks(process.pid))
    assert record.start is not None
    process.send_signal(signal.SIGSTOP)
    assert is_alive(record, 0.0, 1e6)
    assert not is_alive(replace(record, start=record.start + 1), 0.0, 0.0)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not is_alive(record, 0.0, 0.0), "a process that only waits to be reaped is dead"
    process.communicate()
    assert not is_alive(record, 0.0, 0.0)


@pytest.mark.skipif(sys.platform == "win32", reason="asks by signal 0")
def test_an_id_without_a_known_start_counts_for_a_while() -> None:
    """Where starts cannot be compared, the id may have been reused, so a very old heartbeat decides."""
    record = replace(current_instance("x"), start=None)
    assert is_alive(record, 0.0, UNVERIFIED_TIMEOUT_S)
    assert not is_alive(record, 0.0, UNVERIFIED_TIMEOUT_S + 1)


def test_another_host_is_judged_by_its_heartbeat() -> None:
    """Process ids of other hosts and containers mean nothing here."""
    record = replace(current_instance("x"), host="elsewhere//")
    assert is_alive(record, 100.0, 100.0 + HEARTBEAT_TIMEOUT_S)
    assert not is_alive(record, 100.0, 101.0 + HEARTBEAT_TIMEOUT_S)


@pytest.mark.parametrize("pid", [0, -1, 2**31, 2**70])
def test_an_impossible_process_id_is_dead(pid: int) -> None:
    """A record from a damaged or hostile file never leads to a signal to a group of processes."""
    assert not is_alive(replace(current_instance("x"), pid=pid, start=None), 0.0, 0.0)


@LINUX
def test_what_can_be_looked_at_is_gone_at_once_and_what_cannot_after_ten_minutes() -> None:
    """Between seeming dead and being gone for certain lies the time in which a process elsewhere may only be cut off."""
    here = current_instance("nightly")
    assert not is_gone(here, 0.0, 1e9)
    assert is_gone(replace(here, start=(here.start or 0) - 1), 1e9, 1e9)
    elsewhere = replace(here, host="elsewhere/boot/1")
    assert not is_alive(elsewhere, 0.0, HEARTBEAT_TIMEOUT_S + 1.0)
    assert not is_gone(elsewhere, 0.0, UNVERIFIED_TIMEOUT_S)
    assert is_gone(elsewhere, 0.0, UNVERIFIED_TIMEOUT_S + 1.0)
