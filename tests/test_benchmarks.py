"""The benchmarks run; what they measure is for people to read, never for a test to judge."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_whitelists_benchmark_prints_its_tables() -> None:
    done = subprocess.run(
        [sys.executable, "benchmarks/whitelist.py", "--quick"], cwd=ROOT, capture_output=True, text=True, timeout=50
    )
    assert done.returncode == 0, done.stderr
    for heading in ("A verdict", "Memory at", "Start, from exec"):
        assert heading in done.stdout
