"""What a machine refuses: counted by name as not run, never as passed, and no fault of the project."""

from __future__ import annotations

from typing import NoReturn

import pytest

MARK = "this machine refuses"


def refused(what: str, why: str) -> NoReturn:
    """Leave a test out, since the machine does not let it do `what` (a mount, a namespace)."""
    pytest.skip(f"{MARK} {what}: {why.strip()}")
