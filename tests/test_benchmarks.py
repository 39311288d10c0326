"""The benchmarks run; what they measure is for people to read, never for a test to judge."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("name", "headings"),
    [
        pytest.param("whitelist", ["A verdict", "Memory at", "Start, from exec"], id="whitelist"),
        pytest.param("datagrams", ["In process", "Over a socket", "accepted, on disk", "/verify on"], id="datagrams"),
        pytest.param("verify", ["The fast lane at 32", "Through Caddy", "Resident memory"], id="verify"),
        pytest.param("attack", ["room for everybody", "all of these at once", "crowd, anew"], id="attack"),
    ],
)
def test_a_benchmark_prints_its_tables(name: str, headings: list[str]) -> None:
    if name == "verify" and not shutil.which("wrk"):
        pytest.skip("wrk is not installed")
    done = subprocess.run(
        [sys.executable, f"benchmarks/{name}.py", "--quick"], cwd=ROOT, capture_output=True, text=True, timeout=55
    )
    assert done.returncode == 0, done.stderr
    assert not [heading for heading in headings if heading not in done.stdout]
