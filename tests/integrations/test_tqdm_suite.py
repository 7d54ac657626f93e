"""tqdm's own tests, run with the drop-in classes and with recorded bars.

The tests are those of the source distribution of the installed version. They are not part of this
repository.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

import pytest

pytest.importorskip("tqdm", reason="tests of the integration with tqdm")

pytestmark = pytest.mark.slow

EXCLUDED = {
    "tests_perf.py": "it compares times, which are not reliable on a busy machine; see `benchmarks`",
}
"""Excluded files of tqdm's tests, with the reason."""

OPTIONS = """
[pytest]
timeout = 60
log_level = INFO
markers =
    asyncio
    slow
python_files = tests_*.py
asyncio_default_fixture_loop_scope = function
addopts = -W=error --asyncio-mode=strict -p no:cacheprovider
"""

DROP_IN = """
import tqdm, tqdm.std
from otel_progress.tqdm import tqdm as recorded

tqdm.tqdm = tqdm.std.tqdm = recorded
tqdm.trange = tqdm.std.trange = lambda *arguments, **keywords: recorded(range(*arguments), **keywords)
"""

CONFIGURED = """
import otel_progress

otel_progress.configure(store="memory:", console=False, otlp=False)
"""

ZERO_CODE = """
import otel_progress

otel_progress.instrument_tqdm()
"""

PLUGINS = {
    "drop-in": DROP_IN,
    "instrumented": CONFIGURED + ZERO_CODE,
    "both": CONFIGURED + ZERO_CODE + DROP_IN,
}


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with tqdm's tests and the plug-ins of pytest that they need."""
    folder = tmp_path_factory.mktemp("tqdm")
    release = version("tqdm")
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    source = ["download", "--no-deps", "--no-binary", "tqdm", "-d", str(folder), f"tqdm=={release}"]
    plugins = [
        "install",
        "--no-deps",
        "--target",
        str(folder / "plugins"),
        "pytest-asyncio",
        "pytest-timeout",
    ]
    for command in (source, plugins):
        done = subprocess.run([*pip, *command], capture_output=True, text=True, timeout=300)
        if done.returncode:
            pytest.skip(f"pip cannot download: {done.stderr.strip()[-200:]}")
    (archive,) = folder.glob("tqdm-*.tar.gz")
    with tarfile.open(archive) as opened:
        for member in opened.getmembers():
            path = Path(member.name)
            # Why not the whole archive: its own package tqdm would be imported.
            if member.isfile() and path.parts[1:2] == ("tests",):
                content = opened.extractfile(member)
                assert content is not None
                (folder / "tests").mkdir(exist_ok=True)
                (folder / "tests" / path.name).write_bytes(content.read())
    (folder / "pytest.ini").write_text(OPTIONS)
    return folder


@pytest.mark.parametrize("plugin", PLUGINS)
def test_own_tests_of_tqdm_pass(suite: Path, plugin: str) -> None:
    (suite / "recorded_bars.py").write_text(PLUGINS[plugin])
    ignored = [f"--ignore=tests/{name}" for name in EXCLUDED]
    done = subprocess.run(
        [sys.executable, "-B", "-m", "pytest", "-q", "-p", "recorded_bars", *ignored],
        cwd=suite,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(suite), str(suite / "plugins")])},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
