"""The pins that the tests run with: plain versions, nothing that belongs to one machine."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path

import pytest
from packaging.version import Version

CONSTRAINTS = Path(__file__).resolve().parents[2] / "constraints.txt"
PIN = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[A-Za-z0-9.+!]+)")


def pins() -> list[str]:
    """Return the lines that are not comments."""
    return [
        line
        for line in CONSTRAINTS.read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]


def test_only_names_and_versions() -> None:
    """Every line is ``name==version``: no address, hash, path or marker can get in."""
    assert [line for line in pins() if not PIN.fullmatch(line)] == []


def test_each_package_is_pinned_once() -> None:
    """A package pinned to two versions could not be installed on any Python."""
    names = [line.partition("==")[0].lower().replace("_", "-") for line in pins()]
    assert sorted(names) == sorted(set(names))


def test_what_is_installed_is_what_is_pinned() -> None:
    """The packages these tests run with have the pinned versions."""
    if not any(found.metadata["Name"] == "otel-progress" for found in distributions()):
        pytest.skip("otel-progress is not installed: scripts/test installs it")
    different = {}
    for line in pins():
        name, _, pinned = line.partition("==")
        try:
            installed = version(name)
        except PackageNotFoundError:  # a backport that this Python does not need
            continue
        if Version(installed) != Version(pinned):  # one package tells its version as v0.0.21
            different[name] = (installed, pinned)
    assert different == {}
