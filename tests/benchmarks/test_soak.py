"""Soak under random faults: every reader has the final state of every operation."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra 'server' is not installed")

from tests.support.servers import require

ROOT = Path(__file__).resolve().parents[2]
DURATION_S = float(os.environ.get("OTEL_PROGRESS_TEST_SOAK_S", "600"))
"""Time of the faults, ten minutes by default."""


@pytest.mark.server
@pytest.mark.process
@pytest.mark.slow
def test_soak_under_random_faults_loses_no_state(tmp_path: Path) -> None:
    """A lost state is printed with its reader, and the seed repeats the faults."""
    require("redis-server")
    command = [sys.executable, "-m", "benchmarks.soaking", "--duration", str(DURATION_S)]
    ran = subprocess.run(
        [*command, "--folder", str(tmp_path)],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=DURATION_S + 900.0,
    )
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"
    assert "losses: none" in ran.stdout
