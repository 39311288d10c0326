"""Whatever lies where the whitelist should: a start with what is sound of it, or one line that says why not.

What any damage to the bytes may open is shown by tests/fuzz/test_state_file.py, at every cut and thousands of flips;
here the real process meets a part of them, and what is no file at all.
"""

from __future__ import annotations

import os
import random
import socket
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.conftest import LONG
from tests.e2e.conftest import PHONE
from tests.faults.conftest import roomy
from tests.faults.stored import crowd, store
from tests.service import Knocker, ask, free_port

CLIENTS = crowd(20)


def socket_file(path: Path) -> None:
    with closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(str(path))


NO_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a directory": (lambda path: path.mkdir(), "not a regular file"),
    "a FIFO": (lambda path: os.mkfifo(path), "not a regular file"),
    "a symbolic link": (lambda path: path.symlink_to(path.with_name("elsewhere.json")), "a symbolic link"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "a symbolic link"),
    "a socket": (socket_file, "No such device or address"),
    "a directory as its temporary file": (lambda path: path.with_name("whitelist.json.tmp").mkdir(), ".tmp"),
    "a FIFO as its lock": (lambda path: os.mkfifo(path.with_name("whitelist.json.lock")), ".lock"),
}


def ended(knocker: Knocker) -> tuple[int, list[str]]:
    """The status with which a start ends, and the lines that it says."""
    done = subprocess.run(
        knocker.command, cwd=knocker.directory, capture_output=True, text=True, timeout=20, check=False
    )
    return done.returncode, done.stderr.splitlines()


@pytest.mark.parametrize("kind", NO_FILES if LONG else ["a FIFO", "a FIFO as its lock"])
def test_what_is_no_file_ends_the_start_with_a_line_that_names_it(tmp_path: Path, kind: str) -> None:
    knocker = Knocker(tmp_path, roomy(), free_port())
    make, why = NO_FILES[kind]
    make(knocker.whitelist)
    before = sorted(path.name for path in tmp_path.iterdir())
    status, lines = ended(knocker)
    assert (status, len(lines)) == (1, 1), lines
    assert str(knocker.whitelist) in lines[0]
    assert why in lines[0]
    assert set(before) <= {path.name for path in tmp_path.iterdir()}, "nothing of anybody's is removed"


Damage = Callable[[bytes, random.Random], bytes]


def cut(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data))]


def flip(data: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << chance.randrange(8)]) + data[place + 1 :]


def noise(_: bytes, chance: random.Random) -> bytes:
    return chance.randbytes(chance.randrange(2000))


@pytest.mark.parametrize("seed", range(12 if LONG else 1))
@pytest.mark.parametrize("damage", [cut, flip, noise] if LONG else [flip])
def test_a_damaged_file_is_kept_and_its_start_opens_nothing_new(tmp_path: Path, damage: Damage, seed: int) -> None:
    file = tmp_path / "whitelist.json"
    store(file, CLIENTS, 3000)
    whole = file.read_bytes()
    harmed = damage(whole, random.Random(seed))
    file.write_bytes(harmed)
    with Knocker(tmp_path, roomy(), free_port()) as knocker:
        allowed = [client for client in CLIENTS if knocker.verify(client) == 200]
        strangers = ["10.0.1.1", "203.0.113.9", "2001:db8::1"]
        # A flipped bit of an address is another address; but for that there is nobody new.
        assert [knocker.verify(client) for client in strangers] == [401] * 3
        kept = [path for path in tmp_path.iterdir() if ".corrupt-" in path.name]
        ready = ask(knocker.port, "/ready")
        if kept:
            assert [path.read_bytes() for path in kept] == [harmed]
            assert ready.status == 503
            assert kept[0].name in ready.body.decode()
            assert kept[0].name in knocker.log
        else:
            assert len(allowed) >= len(CLIENTS) - 1, "what was lost is kept aside"
            assert ready.status == 200
        assert knocker.knock("203.0.113.10", PHONE).status == 200
        assert knocker.terminate() == 0
        assert "Traceback" not in knocker.log
