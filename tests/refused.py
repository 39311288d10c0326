"""What a machine refuses: counted by name as not run, never as passed, and no fault of the project."""

from __future__ import annotations

import subprocess
from typing import NoReturn

import pytest

MARK = "this machine refuses"


def refused(what: str, why: str) -> NoReturn:
    """Leave a test out, since the machine does not let it do `what` (a mount, a namespace)."""
    pytest.skip(f"{MARK} {what}: {why.strip()}")


def held(command: list[str], what: str) -> subprocess.Popen[bytes]:
    """A process that keeps namespaces for as long as it lives: it says a line once it has them, or is refused."""
    pipe = subprocess.PIPE
    holder = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe)
    assert holder.stdout is not None
    if not holder.stdout.readline():
        _, why = holder.communicate()
        refused(what, why.decode())
    return holder
