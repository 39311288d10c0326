"""A disk that refuses: the knock is refused and grants nothing, what was granted goes on, and repair needs nobody."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import LONG
from tests.e2e.conftest import PHONE
from tests.faults.conftest import Start, Witness, entries, roomy
from tests.faults.strace import Traced
from tests.refused import refused
from tests.service import Knocker, ask, eventually

OLD, CLOSED, NEW = "10.0.0.1", "10.0.0.2", "10.0.0.3"

# Where a write may fail, as strace calls it, and with which errors there.
PLACES = {
    "open": ("openat", "tmp", ("ENOSPC", "EIO", "EROFS", "EACCES", "EDQUOT", "EMFILE")),
    "write": ("write", "tmp", ("ENOSPC", "EIO", "EDQUOT")),
    "fsync": ("fsync", "tmp", ("ENOSPC", "EIO", "EROFS", "EDQUOT")),
    "close": ("close", "tmp", ("ENOSPC", "EIO", "EDQUOT")),
    "rename": ("rename,renameat,renameat2", "tmp", ("ENOSPC", "EIO", "EROFS", "EACCES", "EDQUOT")),
    "open the directory": ("openat", "directory", ("EIO", "EACCES", "EMFILE")),
    "fsync of the directory": ("fsync", "directory", ("EIO", "ENOSPC", "EROFS")),
}
POINTS = [(place, error) for place, (_, _, errors) in PLACES.items() for error in errors]
SHARE = POINTS if LONG else [(place, errors[0]) for place, (_, _, errors) in PLACES.items()]


def ready(knocker: Knocker) -> tuple[int, str]:
    answer = ask(knocker.port, "/ready")
    return answer.status, answer.body.decode()


def close(knocker: Knocker, client: str) -> int:
    return knocker.knock(client, PHONE, "DELETE").status


def suffers(knocker: Knocker, witness: Witness) -> None:
    """What holds while the disk refuses."""
    assert witness.knock(knocker, NEW) == 503
    assert (knocker.verify(NEW), knocker.verify(OLD), knocker.verify(CLOSED)) == (401, 200, 200)
    assert close(knocker, CLOSED) == 503
    assert (knocker.verify(OLD), knocker.verify(CLOSED)) == (200, 401), "closing counts at once"
    status, text = ready(knocker)
    assert status == 503
    assert "whitelist.json could not be written" in text


def recovers(knocker: Knocker, witness: Witness) -> None:
    """What holds once it takes writes again."""
    assert witness.knock(knocker, NEW) == 200
    assert [knocker.verify(client) for client in (OLD, NEW, CLOSED)] == [200, 200, 401]
    assert entries(knocker.whitelist) == {OLD, NEW}
    assert ready(knocker)[0] == 200
    knocker.kill()
    knocker.start()
    assert [knocker.verify(client) for client in (OLD, NEW, CLOSED)] == [200, 200, 401]


@pytest.fixture
def granted(start: Start) -> tuple[Knocker, Witness]:
    """A Knocker with two grants."""
    knocker, witness = start(), Witness()
    assert [witness.knock(knocker, client) for client in (OLD, CLOSED)] == [200, 200]
    return knocker, witness


@pytest.mark.parametrize(("place", "error"), SHARE)
def test_an_error_of_the_disk_costs_the_knock_alone(granted: tuple[Knocker, Witness], place: str, error: str) -> None:
    call, where, _ = PLACES[place]
    with Traced(granted[0], call, where, 1, f"error={error}", "+") as traced:
        suffers(*granted)
        assert traced.harmed >= 2
    recovers(*granted)
    assert os.strerror(getattr(__import__("errno"), error)) in granted[0].log


@pytest.mark.parametrize("place", PLACES if LONG else ["write", "fsync", "rename"])
def test_an_interrupted_call_is_made_again_or_costs_the_knock_alone(
    granted: tuple[Knocker, Witness], place: str
) -> None:
    knocker, witness = granted
    call, where, _ = PLACES[place]
    with Traced(knocker, call, where, 1, "error=EINTR") as traced:
        status = witness.knock(knocker, NEW)
        assert traced.harmed == 1
    # Python makes only those calls again that Linux interrupts (PEP 475).
    assert status == (503 if place in ("close", "rename") else 200)
    assert knocker.verify(NEW) == (200 if status == 200 else 401)
    assert witness.knock(knocker, NEW) == 200
    assert entries(knocker.whitelist) == {OLD, CLOSED, NEW}


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "knocker-test", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        refused("a mount", mounted.stderr.decode())
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_costs_the_knock_alone(start: Start, small: Path, tmp_path: Path) -> None:
    knocker, witness = start(roomy(storage_path=str(small / "whitelist.json")), tmp_path), Witness()
    knocker.whitelist = small / "whitelist.json"
    assert [witness.knock(knocker, client) for client in (OLD, CLOSED)] == [200, 200]
    # Until but a page or so is left, so that a part of what is written fits.
    filler = small / "filler"
    with filler.open("wb") as file:
        file.write(b"x" * (64 * 1024 - 4 * 4096))
    refused = [client for client in (f"10.2.0.{n}" for n in range(1, 80)) if witness.knock(knocker, client) == 503]
    assert refused
    granted = witness.acknowledged - {OLD, CLOSED}
    assert granted, "the first of them still fit"
    assert knocker.verify(OLD) == 200
    assert ready(knocker)[0] == 503
    assert {knocker.verify(client) for client in refused} == {401}
    assert {knocker.verify(client) for client in granted} == {200}
    filler.unlink()
    assert witness.knock(knocker, NEW) == 200
    assert entries(knocker.whitelist) == granted | {OLD, CLOSED, NEW}
    assert ready(knocker)[0] == 200


def test_a_slow_disk_delays_nobody_but_those_who_knock(granted: tuple[Knocker, Witness]) -> None:
    knocker, witness = granted
    knocks = [f"10.3.0.{n}" for n in range(1, 101)]
    with Traced(knocker, "fsync", "tmp", 1, "delay_enter=3s", "+") as traced:
        began = time.monotonic()
        threads = [threading.Thread(target=witness.knock, args=(knocker, client)) for client in knocks]
        for thread in threads:
            thread.start()
        took = []
        while time.monotonic() - began < 2.5:
            asked = time.monotonic()
            assert knocker.verify(OLD) == 200
            took.append(time.monotonic() - asked)
        for thread in threads:
            thread.join()
        writes = traced.harmed
    assert witness.acknowledged >= set(knocks)
    assert writes <= 2 + 1, "those that wait share a write"
    assert sorted(took)[int(len(took) * 0.99)] < 0.5, "which a wait for the disk would be six times"


def test_the_end_waits_for_a_slow_disk(granted: tuple[Knocker, Witness]) -> None:
    knocker, witness = granted
    with Traced(knocker, "fsync", "tmp", 1, "delay_enter=2s", "+") as traced:
        thread = threading.Thread(target=witness.knock, args=(knocker, NEW))
        thread.start()
        eventually(lambda: (knocker.directory / "whitelist.json.tmp").exists() or traced.harmed, "the write began")
        assert knocker.terminate() == 0
        thread.join()
    assert NEW in entries(knocker.whitelist)
    assert NEW in witness.acknowledged
