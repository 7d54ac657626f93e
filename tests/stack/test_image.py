"""The images: what is sent to be built, what the Dockerfile promises, and that the package builds from just that."""

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
def test_what_is_nobody_elses_business_is_not_sent(path: str) -> None:
    """History, tests, journals, caches and local settings do not reach the builder."""
    assert not sent(path)


@pytest.mark.parametrize("stage", ["build", "server", "worker"])
def test_what_is_copied_is_there_and_sent(stage: str) -> None:
    """Every COPY from the context finds at least one file."""
    for written in arguments("COPY", stage):
        if not written.startswith("--from="):
            for source in written.split()[:-1]:
                assert list(copied(source)), source


def test_nothing_runs_as_root() -> None:
    """Both images run under a user id that is a number and not 0, set before anything is started."""
    assert arguments("USER", "server") == ["10001:10001"]
    assert arguments("USER", "worker") == []
    assert "FROM server AS worker" in [f"FROM {one.arguments}" for one in ALL if one.name == "FROM"]


def test_the_base_is_slim_and_pinned() -> None:
    """Both stages begin with the same slim image, of a version that does not move."""
    (base,) = [one.arguments for one in ALL if one.name == "ARG"]
    assert re.fullmatch(r"PYTHON=3\.[0-9]+\.[0-9]+-slim-[a-z]+", base)
    assert [one.arguments for one in ALL if one.name == "FROM"][:2] == [
        "python:${PYTHON} AS build",
        "python:${PYTHON} AS server",
    ]


@pytest.mark.parametrize(("stage", "service"), [("server", "server"), ("worker", "worker")])
def test_health_checks_of_image_and_service_are_one(stage: str, service: str) -> None:
    """The image checks itself as the compose file does, by a script that is in it."""
    (check,) = arguments("HEALTHCHECK", stage)
    command = json.loads(check.partition("CMD ")[2])
    assert ["CMD", *command] == services()[service]["healthcheck"]["test"]
    assert (PROJECT / "deploy" / "image" / Path(command[1]).name).is_file()


def test_the_image_serves_with_a_token_by_default() -> None:
    """Without further arguments the image serves to its network, and asks for the token in the file that compose makes."""
    (command,), (entry,) = arguments("CMD", "server"), arguments("ENTRYPOINT", "server")
    assert json.loads(entry) == ["otel-progress"]
    wanted = services()["server"]["command"]
    assert json.loads(command) == wanted[: wanted.index("--allow-host")]


def test_the_journal_is_where_the_volume_is() -> None:
    """The state directory that the image sets is the one that is mounted, and belongs to the user of the image."""
    (environment,) = arguments("ENV", "server")
    assert "XDG_STATE_HOME=/var/lib/otel-progress/state" in environment.split()
    assert arguments("VOLUME", "server") == ['["/var/lib/otel-progress/state"]']
    (made,) = [one for one in arguments("RUN", "server") if "install" in one]
    assert "--owner=10001 --group=10001 --mode=0700 /var/lib/otel-progress/state" in made
    for _, target, _ in mounts(
        services()["prepare"]
    ):  # an empty volume takes its owner over from the folder it is mounted on
        assert f" {target}" in made.partition("--mode=0755")[2]


def test_the_package_builds_from_what_is_sent(tmp_path: Path) -> None:
    """A wheel made from the copied files alone is whole: the code, the page, the dashboards and the rules."""
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
