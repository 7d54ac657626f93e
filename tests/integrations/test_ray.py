"""Progress of Ray tasks and actors, in a network namespace of their own.

Ray listens on all interfaces, and no option prevents that. The namespace has only a loopback one.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from otel_progress.integrations.ray import remote

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "tests" / "support" / "programs" / "ray_tasks.py"
TIMEOUT_S = 300.0
COUNT = 6


class PlainClass:
    """Class that Ray would make an actor."""


def generate() -> Iterator[int]:
    yield 1


async def wait() -> None:
    await asyncio.sleep(0)


@pytest.mark.parametrize("function", [PlainClass, generate, wait, len, 5])
def test_remote_for_another_object_than_a_function_raises(function: Any) -> None:
    with pytest.raises(TypeError, match="expected a plain function"):
        remote(function)


def can_isolate() -> bool:
    """Return True if this process may create a network namespace."""
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        return False
    command = ["unshare", "-n", "ip", "link", "set", "lo", "up"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="module")
def operations(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Run the program with Ray. Return its operations."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("ray is not installed: this test runs the real one")
    if not can_isolate():
        pytest.skip("Ray listens on all interfaces, and no network namespace can be created")
    folder = tmp_path_factory.mktemp("ray")
    environ = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")} | {
        "HOME": str(folder),
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    script = 'ip link set lo up && exec "$@"'
    command = [sys.executable, str(PROGRAM), f"sqlite:///{folder / 'progress.db'}"]
    done = subprocess.run(
        ["unshare", "-n", "sh", "-c", script, "sh", *command],
        env=environ,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Invalid" not in done.stderr, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
@pytest.mark.process
def test_decorated_tasks_count_on_the_level_of_the_driver(operations: dict[str, Any]) -> None:
    operation = operations["decorated"]
    assert (operation["status"], operation["current"]) == ("completed", COUNT + 1)
    levels = [[f"part:{number}", "completed", 3, 0] for number in range(COUNT)]
    assert operation["levels"] == [*levels, [f"part:{COUNT}", "completed", 1, 0]]


@pytest.mark.slow
@pytest.mark.process
def test_handles_in_tasks_and_actors_count_on_the_operation(operations: dict[str, Any]) -> None:
    assert operations["handles"] == {"status": "completed", "current": COUNT + 5, "levels": []}


@pytest.mark.slow
@pytest.mark.process
def test_futures_of_tasks_are_counted_without_a_change_of_the_tasks(operations: dict[str, Any]) -> None:
    assert ["futures:1", "completed", 2, 1] in operations["futures"]["levels"]


@pytest.mark.slow
@pytest.mark.process
def test_level_of_a_lost_worker_is_cancelled_with_its_count(operations: dict[str, Any]) -> None:
    assert ["lost:1", "cancelled", 1, 0] in operations["futures"]["levels"]
