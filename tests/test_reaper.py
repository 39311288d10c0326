"""The reaper ends what is over, and survives its own mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from knocker.reaper import Reaper
from tests.conftest import Errors
from tests.wire import World


def test_grants_whose_time_is_over_leave_memory_and_file(tmp_path: Path) -> None:
    world = World(tmp_path)
    reaper = Reaper(world.whitelist, world.now, world.clock, world.store.refresh)
    reaper.start(60)
    world.knock("198.51.100.1")
    world.pass_time(660)
    world.clock.advance(0)
    assert len(world.whitelist) == 0
    assert b'"grants": [\n\n]' in (tmp_path / "whitelist.json").read_bytes()
    reaper.stop()
    assert world.clock.getDelayedCalls() == []


def test_a_round_that_fails_is_not_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, errors: Errors) -> None:
    world = World(tmp_path)
    reaper = Reaper(world.whitelist, world.now, world.clock, world.store.refresh)
    reaper.start(60)
    world.knock("198.51.100.1")

    def boom(_: Any) -> int:
        raise RuntimeError("broken on purpose")

    with monkeypatch.context() as broken:
        broken.setattr(world.whitelist, "expire", boom)
        for _ in range(12):
            world.pass_time(60)
    assert len(errors.expected()) == 1
    assert reaper.complaints()
    assert world.verdict("198.51.100.1") == 401, "expiry is decided when asked"
    world.pass_time(60)
    assert reaper.complaints() == []
    reaper.stop()
    world.clock.advance(0)
