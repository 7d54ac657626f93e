"""The pinned versions of the test environment, without machine-specific entries."""

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


def test_constraint_lines_are_name_and_version() -> None:
    """Every line is ``name==version``, without an address, hash, path or marker."""
    assert [line for line in pins() if not PIN.fullmatch(line)] == []


def test_constraints_with_package_pin_it_once() -> None:
    """A package with two pinned versions could not be installed."""
    names = [line.partition("==")[0].lower().replace("_", "-") for line in pins()]
    assert sorted(names) == sorted(set(names))


def test_installed_packages_have_the_pinned_versions() -> None:
    """Packages that are not needed on this Python may be missing."""
    if not any(found.metadata["Name"] == "otel-progress" for found in distributions()):
        pytest.skip("otel-progress is not installed: scripts/test installs it")
    different = {}
    for line in pins():
        name, _, pinned = line.partition("==")
        try:
            installed = version(name)
        except PackageNotFoundError:  # A backport that this Python does not need.
            continue
        if Version(installed) != Version(pinned):  # One package reports its version as v0.0.21.
            different[name] = (installed, pinned)
    assert different == {}
