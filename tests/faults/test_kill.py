"""kill -9, at any moment and at each step of a write: what was acknowledged is there, and the file is whole."""

from __future__ import annotations

import random
import signal
import time

import pytest

from tests.conftest import LONG
from tests.faults.conftest import Crowd, Start, Witness
from tests.faults.strace import Traced

ROUNDS = 200 if LONG else 4

# The steps of a write, and what strace calls them: the system call, on which file, and the how many'th of them.
STEPS = {
    "the temporary file is made": ("openat", "tmp", 1),
    "its text is written": ("write", "tmp", 1),
    "it is synced": ("fsync", "tmp", 1),
    "it is closed": ("close", "tmp", 1),
    "its directory is opened": ("openat", "directory", 1),
    "it is renamed": ("rename,renameat,renameat2", "tmp", 1),
    "its directory is synced": ("fsync", "directory", 1),
}


@pytest.mark.timeout(900)
def test_a_kill_at_any_moment_loses_no_acknowledged_knock(start: Start) -> None:
    chance = random.Random(7)
    knocker, witness = start(), Witness()
    temporary = knocker.whitelist.with_name("whitelist.json.tmp")
    for number in range(ROUNDS):
        with Crowd(witness, knocker, number):
            time.sleep(chance.uniform(0.005, 0.25))
            knocker.kill()
        left = {path.name for path in knocker.directory.iterdir() if path.name.startswith("whitelist.json")}
        assert left <= {"whitelist.json", "whitelist.json.lock", "whitelist.json.tmp"}
        knocker.start()
        assert not temporary.exists()
        witness.check(knocker)
    assert len(witness.acknowledged) > ROUNDS


@pytest.mark.parametrize("step", [pytest.param(step, id=name) for name, step in STEPS.items()])
def test_a_kill_at_a_step_of_a_write_loses_no_acknowledged_knock(start: Start, step: tuple[str, str, int]) -> None:
    knocker, witness = start(), Witness()
    for number in range(10 if LONG else 1):
        assert witness.knock(knocker, f"10.0.0.{number + 1}") == 200
        with Traced(knocker, *step, "signal=KILL"):
            assert witness.knock(knocker, f"10.1.0.{number + 1}") is None
            assert knocker.wait() == -signal.SIGKILL
        knocker.start()
        witness.check(knocker)
