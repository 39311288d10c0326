"""The reaper ends what is over, and survives its own mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from knocker.core.change import Change
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


def test_a_round_looks_at_some_grants_in_each_turn_of_the_reactor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("knocker.reaper.TOGETHER", 2)
    world = World(tmp_path)
    reaper = Reaper(world.whitelist, world.now, world.clock, world.store.refresh)
    for number in range(5):
        world.knock(f"198.51.100.{number}")
    reaper.start(600)
    told: list[str] = []

    def follow(change: Change) -> None:
        told.append(change.event.value)
        if len(told) == 1:
            world.clock.callLater(0, told.append, "somebody else's turn")

    world.whitelist.followers.append(follow)
    world.pass_time(600)
    assert told == ["expired", "expired", "somebody else's turn", "expired", "expired", "expired"]
    assert b'"grants": [\n\n]' in (tmp_path / "whitelist.json").read_bytes()
    reaper.stop()
    assert world.clock.getDelayedCalls() == []


def test_a_grant_that_is_renewed_while_a_round_goes_on_stays(tmp_path: Path) -> None:
    world = World(tmp_path)
    for number in range(3):
        world.knock(f"198.51.100.{number}")
    parts = world.whitelist.parts(2)
    next(parts)
    (old,) = next(parts)
    world.pass_time(599)
    world.knock(str(old.network))
    world.pass_time(1)
    assert world.whitelist.expire(world.now(), [old]) == 0
    assert world.verdict(str(old.network)) == 200


def test_a_reaper_that_is_stopped_in_the_midst_of_a_round_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("knocker.reaper.TOGETHER", 1)
    world = World(tmp_path)
    reaper = Reaper(world.whitelist, world.now, world.clock, world.store.refresh)
    for number in range(3):
        world.knock(f"198.51.100.{number}")
    reaper.start(600)
    world.whitelist.followers.append(lambda _: reaper.stop())
    world.pass_time(600)
    assert len(world.whitelist) == 2
    assert world.clock.getDelayedCalls() == []


def test_a_round_that_fails_is_not_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, errors: Errors) -> None:
    world = World(tmp_path)
    reaper = Reaper(world.whitelist, world.now, world.clock, world.store.refresh)
    reaper.start(60)
    world.knock("198.51.100.1")

    def boom(*_: Any) -> int:
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
