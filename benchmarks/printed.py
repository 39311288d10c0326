"""What every benchmark prints alike."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import sys
import time
from pathlib import Path


def say(text: str) -> None:
    """A line at once, as the whole takes minutes."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def machine() -> str:
    """Where and when this was measured."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    return (
        f"{time.strftime('%Y-%m-%d')}, {model}, {os.cpu_count()} cores, "
        f"{platform.python_implementation()} {platform.python_version()}, {platform.system()} {platform.release()}"
    )


def need(*tools: str) -> None:
    """End where one of them is not installed."""
    for tool in tools:
        if shutil.which(tool) is None:
            say(f"this benchmark needs {tool}, which is not installed (in Debian wrk, util-linux, redis-server)")
            sys.exit(2)
