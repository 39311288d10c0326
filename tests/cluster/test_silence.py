"""A gate that hears of changes late, or not at all, while it can ask: a wire that is dead in one direction."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster.fleet import PHONE, SETTINGS, Fleet, ready
from tests.cluster.relay import Relay
from tests.engine import Redis, gate, needs_redis
from tests.service import Knocker, eventually

pytestmark = needs_redis
HERE, THERE = "203.0.113.1", "203.0.113.2"


@dataclass
class Pair(Fleet):
    """A gate beside the engine, and one that has the relay between."""

    relay: Relay

    @property
    def near(self) -> Knocker:
        """The one that hears everything."""
        return self.gates[0]

    @property
    def far(self) -> Knocker:
        """The one that hears what the relay lets through."""
        return self.gates[1]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """Both, in step."""
    with ExitStack() as stack:
        engine = stack.enter_context(Redis(tmp_path / "engine", persistent=True))
        relay = stack.enter_context(Relay(engine.port))
        near = gate(tmp_path / "near", engine.store, SETTINGS)
        far = gate(tmp_path / "far", f"redis://127.0.0.1:{relay.port}", SETTINGS)
        for one in (near, far):
            stack.callback(one.end)
            one.launch()
        found = Pair(engine, [near, far], relay)
        found.wait_until_ready()
        yield found


def test_leaving_closes_also_what_was_opened_elsewhere_and_is_not_known_yet(pair: Pair) -> None:
    pair.relay.silence()
    assert pair.near.knock(HERE, PHONE).status == 200
    threading.Timer(0.5, pair.relay.speak).start()
    assert pair.far.verify(HERE) == 401, "it has not heard"
    assert pair.far.knock(HERE, PHONE, "DELETE").status == 204
    assert pair.verdicts(HERE) == [401, 401]
    pair.agree(HERE, 401)


def test_a_knock_whose_change_does_not_come_back_in_time_is_taken_back(pair: Pair) -> None:
    pair.relay.silence()
    assert pair.far.knock(HERE, PHONE).status == 503
    pair.agree(HERE, 401, seconds=5)
    pair.relay.speak()
    pair.wait_until_ready()
    assert pair.verdicts(HERE) == [401, 401]
    assert pair.far.knock(HERE, PHONE).status == 200
    pair.agree(HERE, 200)


def test_a_renewal_that_is_not_answered_takes_nothing_away(pair: Pair) -> None:
    assert pair.near.knock(HERE, PHONE).status == 200
    pair.agree(HERE, 200)
    pair.relay.silence()
    assert pair.far.knock(HERE, PHONE).status == 503
    pair.relay.speak()
    pair.wait_until_ready()
    pair.agree(HERE, 200)


def test_a_gate_notices_that_it_hears_nothing(pair: Pair) -> None:
    assert pair.near.knock("203.0.113.9", PHONE).status == 200
    pair.agree("203.0.113.9", 200)
    pair.relay.silence()
    assert pair.near.knock(HERE, PHONE).status == 200
    eventually(lambda: ready(pair.far) != [], "the far gate says so", 10)
    assert "has changes that do not arrive" in pair.far.log
    pair.relay.speak()
    pair.agree(HERE, 200, seconds=15)
    pair.wait_until_ready()
    assert pair.near.knock(THERE, PHONE).status == 200
    pair.agree(THERE, 200)
