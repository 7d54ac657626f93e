"""The images: build context, Dockerfile, and the package built from both."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.stack.build_context import copied, instructions, sent
from tests.support.stack.files import PROJECT, mounts, services

pytestmark = pytest.mark.stack

ALL = list(instructions())


def arguments(name: str, stage: str) -> list[str]:
    """Return the arguments of the instructions of this name in a stage."""
    return [one.arguments for one in ALL if (one.name, one.stage) == (name, stage)]


@pytest.mark.parametrize(
    "path",
    [
        ".git/config",
        "tests/conftest.py",
        "progress.db",
        "src/x.db-wal",
        "src/otel_progress/__pycache__/a.pyc",
        ".env",
    ],
)
def test_build_context_excludes_private_files(path: str) -> None:
    """History, tests, journals, caches and local settings are not sent to the builder."""
    assert not sent(path)


@pytest.mark.parametrize("stage", ["build", "server", "worker"])
def test_copy_sources_are_in_the_build_context(stage: str) -> None:
    """Every COPY matches at least one file."""
    for written in arguments("COPY", stage):
        if not written.startswith("--from="):
            for source in written.split()[:-1]:
                assert list(copied(source)), source


def test_images_run_as_a_numeric_user() -> None:
    """The user is not root and is set before a program starts."""
    assert arguments("USER", "server") == ["10001:10001"]
    assert arguments("USER", "worker") == []
    assert "FROM server AS worker" in [f"FROM {one.arguments}" for one in ALL if one.name == "FROM"]


def test_base_image_is_slim_and_pinned() -> None:
    """Both stages have the same base."""
    (base,) = [one.arguments for one in ALL if one.name == "ARG"]
    assert re.fullmatch(r"PYTHON=3\.[0-9]+\.[0-9]+-slim-[a-z]+", base)
    assert [one.arguments for one in ALL if one.name == "FROM"][:2] == [
        "python:${PYTHON} AS build",
        "python:${PYTHON} AS server",
    ]


@pytest.mark.parametrize(("stage", "service"), [("server", "server"), ("worker", "worker")])
def test_health_checks_of_image_and_compose_file_are_equal(stage: str, service: str) -> None:
    """The script is in the image."""
    (check,) = arguments("HEALTHCHECK", stage)
    command = json.loads(check.partition("CMD ")[2])
    assert ["CMD", *command] == services()[service]["healthcheck"]["test"]
    assert (PROJECT / "deploy" / "image" / Path(command[1]).name).is_file()


def test_image_without_arguments_requires_a_token() -> None:
    """The image serves on its network with the token file of the compose file."""
    (command,), (entry,) = arguments("CMD", "server"), arguments("ENTRYPOINT", "server")
    assert json.loads(entry) == ["otel-progress"]
    wanted = services()["server"]["command"]
    assert json.loads(command) == wanted[: wanted.index("--allow-host")]


def test_state_directory_is_the_mounted_volume() -> None:
    """The user of the image owns it."""
    (environment,) = arguments("ENV", "server")
    assert "XDG_STATE_HOME=/var/lib/otel-progress/state" in environment.split()
    assert arguments("VOLUME", "server") == ['["/var/lib/otel-progress/state"]']
    (made,) = [one for one in arguments("RUN", "server") if "install" in one]
    assert "--owner=10001 --group=10001 --mode=0700 /var/lib/otel-progress/state" in made
    for _, target, _ in mounts(services()["prepare"]):  # An empty volume inherits its owner from the folder.
        assert f" {target}" in made.partition("--mode=0755")[2]


def test_wheel_from_the_build_context_is_complete(tmp_path: Path) -> None:
    """The wheel has the code, the page, the dashboards and the rules."""
    context, wheels = tmp_path / "context", tmp_path / "wheels"
    for written in arguments("COPY", "build"):
        *sources, _ = written.split()
        for source in sources:
            for path in copied(source):
                target = context / path.relative_to(PROJECT)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(wheels),
        str(context),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = wheels.iterdir()
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert "otel_progress/server/page/index.html" in names
    for folder, pattern in (("grafana/dashboards", "*.json"), ("deploy/prometheus/rules", "*.yml")):
        for path in (PROJECT / folder).glob(pattern):
            assert any(name.endswith(f"/{path.name}") for name in names), path.name
