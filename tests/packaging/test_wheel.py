"""The built wheel: its content and an installation without extras."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from email import message_from_bytes
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
HEAVY = (
    "opentelemetry.sdk",
    "opentelemetry.exporter",
    "rich",
    "click",
    "sqlite3",
    "prometheus_client",
    "redis",
    "fastapi",
    "PIL",
)


def from_scripts_test(variable: str) -> Path:
    """Return a path that scripts/test passes on, or skip the test."""
    value = os.environ.get(variable)
    if not value:
        pytest.skip(f"{variable} is not set: scripts/test builds and sets it")
    return Path(value)


@pytest.fixture
def wheel() -> Iterator[zipfile.ZipFile]:
    """The built wheel as an open archive."""
    with zipfile.ZipFile(from_scripts_test("OTEL_PROGRESS_TEST_WHEEL")) as archive:
        yield archive


@pytest.fixture
def base_python() -> Path:
    """The interpreter of an environment with the wheel and without extras."""
    return from_scripts_test("OTEL_PROGRESS_TEST_BASE_PYTHON")


def run(python: Path | str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run an interpreter outside of the sources, so that it imports the wheel."""
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "PYTHON", "COV"))
    }
    command = [str(python), "-W", "error", *arguments]
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=120
    )


def test_wheel_contains_exactly_the_package(wheel: zipfile.ZipFile) -> None:
    """The wheel has the package and its assets, but no test, cache or other module."""
    source = PROJECT / "src"
    expected = {
        path.relative_to(source).as_posix()
        for path in source.rglob("*")
        if path.is_file()
        and not any(part.startswith((".", "__pycache__")) for part in path.relative_to(source).parts)
    }
    for bundle, folder in (("dashboards", "grafana/dashboards"), ("rules", "deploy/prometheus/rules")):
        expected |= {f"otel_progress/bundle/{bundle}/{path.name}" for path in (PROJECT / folder).iterdir()}
    shipped = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert shipped == expected
    assert "otel_progress/py.typed" in shipped


def test_wheel_contains_the_licence(wheel: zipfile.ZipFile) -> None:
    """The licence text is complete, and the metadata names it."""
    (name,) = [name for name in wheel.namelist() if name.endswith("/licenses/LICENSE")]
    assert wheel.read(name) == (PROJECT / "LICENSE").read_bytes()
    assert b"Apache License" in wheel.read(name)
    (metadata,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    assert message_from_bytes(wheel.read(metadata))["License-Expression"] == "Apache-2.0"


def test_wheel_metadata_has_extras_and_command(wheel: zipfile.ZipFile) -> None:
    """The metadata has the extras that error messages recommend, and the command."""
    (metadata,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    assert set(message_from_bytes(wheel.read(metadata)).get_all("Provides-Extra", [])) == {
        "server",
        "resources",
        "redis",
        "grpc",
        "mcp",
        "previews",
        "all",
    }
    (points,) = [name for name in wheel.namelist() if name.endswith("/entry_points.txt")]
    assert b"otel-progress = otel_progress.cli:main" in wheel.read(points)


def test_package_under_test_is_the_installed_wheel() -> None:
    """With scripts/test, the tests import the installed wheel instead of the sources."""
    from_scripts_test("OTEL_PROGRESS_TEST_WHEEL")
    import otel_progress

    assert PROJECT / "src" not in Path(otel_progress.__file__).parents


@pytest.mark.process
def test_package_import_loads_no_optional_dependency(tmp_path: Path) -> None:
    """The import loads opentelemetry-api at most."""
    from_scripts_test("OTEL_PROGRESS_TEST_WHEEL")
    code = f"import otel_progress, sys; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    done = run(sys.executable, "-c", code, cwd=tmp_path)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")


@pytest.mark.process
def test_public_names_in_a_base_install_resolve(base_python: Path, tmp_path: Path) -> None:
    """``__all__`` is sorted, and every name resolves without extras."""
    code = (
        "import otel_progress as p; [getattr(p, n) for n in p.__all__]; "
        "assert list(p.__all__) == sorted(p.__all__), p.__all__"
    )
    done = run(base_python, "-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.process
def test_version_option_in_a_base_install_prints_the_wheel_version(base_python: Path, tmp_path: Path) -> None:
    """``otel-progress --version`` works without extras."""
    done = run(base_python, "-m", "otel_progress", "--version", cwd=tmp_path)
    command = base_python.parent / "otel-progress"
    script = subprocess.run(
        [command, "--version"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    code = "from importlib.metadata import version; print(version('otel-progress'))"
    version = run(base_python, "-c", code, cwd=tmp_path).stdout.strip()
    assert script.returncode == 0, script.stderr
    assert version in script.stdout
    assert (done.returncode, done.stdout) == (0, script.stdout), done.stderr


@pytest.mark.process
@pytest.mark.parametrize("package", ["redis", "fastapi", "uvicorn", "PIL", "fsspec"])
def test_base_install_without_extras_has_no_optional_package(
    base_python: Path, tmp_path: Path, package: str
) -> None:
    """The environment has no optional packages, so the tests below can fail."""
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({package!r}) is not None)"
    assert run(base_python, "-c", code, cwd=tmp_path).returncode == 0


@pytest.mark.process
def test_missing_extra_error_names_the_pip_command(base_python: Path, tmp_path: Path) -> None:
    """A Redis journal without its package is an error with the ``pip`` command."""
    code = "import otel_progress as p; p.configure(store='redis://127.0.0.1:1/0', console=False)"
    done = run(base_python, "-c", code, cwd=tmp_path)
    assert done.returncode != 0
    assert "pip install 'otel-progress[redis]'" in done.stderr


@pytest.mark.process
def test_modules_in_a_base_install_import_without_extras(base_python: Path, tmp_path: Path) -> None:
    """Only modules of an extra, and integrations, need a library for the import."""
    code = (
        "import importlib, pkgutil, otel_progress\n"
        "from otel_progress.errors import MissingExtraError\n"
        "for module in pkgutil.walk_packages(otel_progress.__path__, 'otel_progress.'):\n"
        "    if module.name.endswith('__main__'): continue\n"
        "    try: importlib.import_module(module.name)\n"
        "    except ImportError as error:\n"
        "        prefixes = 'otel_progress.integrations.', 'otel_progress.tqdm'\n"
        "        is_integration = module.name.startswith(prefixes)\n"
        "        if not is_integration and not isinstance(error, MissingExtraError): raise\n"
    )
    done = run(base_python, "-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
