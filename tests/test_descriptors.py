"""The bound on connections stays below what the system lets a process open."""

from __future__ import annotations

import resource

import pytest

from knocker.descriptors import RESERVE, room_for

Limits = tuple[int, int]


@pytest.mark.parametrize(
    ("limits", "asked", "room", "raised"),
    [
        pytest.param((1024, 4096), 100, 100, 1024, id="enough as it is"),
        pytest.param((1024, 4096), 1024, 1024, 1024 + RESERVE, id="raised as far as needed"),
        pytest.param((1024, -1), 9000, 9000, 9000 + RESERVE, id="without a ceiling"),
        pytest.param((-1, -1), 9000, 9000, -1, id="without a limit"),
        pytest.param((1024, 4096), 9000, 4096 - RESERVE, 4096, id="as far as allowed"),
        pytest.param((64, 64), 1024, 64 - RESERVE, 64, id="few files"),
        pytest.param((8, 8), 1024, 1, 8, id="hardly any"),
    ],
)
def test_as_many_connections_are_taken_as_the_limit_leaves_room_for(
    monkeypatch: pytest.MonkeyPatch, limits: Limits, asked: int, room: int, raised: int
) -> None:
    state = [limits]
    monkeypatch.setattr(resource, "getrlimit", lambda _: state[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, wanted: state.append(wanted))
    assert room_for(asked) == room
    assert state[-1] == (raised, limits[1])


def test_a_system_that_will_not_raise_the_limit_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int, __: Limits) -> None:
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, -1))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert room_for(1024) == 256 - RESERVE
