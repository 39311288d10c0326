"""The benchmarks run; what they measure is for people to read, never for a test to judge."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import LONG
from tests.needs import need

ROOT = Path(__file__).parent.parent


# Each takes ten to twenty seconds, so the short run tries one.
TABLES = {
    "whitelist": ["A verdict", "Memory at", "Start, from exec"],
    "datagrams": ["In process", "Over a socket", "accepted, on disk", "/verify on"],
    "verify": ["The fast lane at 32", "Through Caddy", "Resident memory"],
    "store": ["live grants", "quiet", "16 connections"],
    "scrape": ["without metrics", "scraped each 0.1 s"],
    "cluster": ["until gate B knows", "appendfsync always", "engine bytes"],
    "soak": ["descriptors", "every answer was right", "from line 2"],
    "attack": ["room for everybody", "all of these at once", "crowd, anew"],
}


@pytest.mark.parametrize(("name", "headings"), [*TABLES.items()] if LONG else [*TABLES.items()][:1])
def test_a_benchmark_prints_its_tables(name: str, headings: list[str]) -> None:
    needed = {"verify": ["wrk"], "store": ["wrk"], "scrape": ["wrk"], "cluster": ["wrk", "redis-server"]}
    need(*needed.get(name, []))
    done = subprocess.run(
        [sys.executable, f"benchmarks/{name}.py", "--quick"], cwd=ROOT, capture_output=True, text=True, timeout=55
    )
    assert done.returncode == 0, done.stderr
    assert not [heading for heading in headings if heading not in done.stdout]
