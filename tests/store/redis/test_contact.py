"""The way to the engine where there is no engine yet: what is said of it, and how it is left."""

from __future__ import annotations

from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure

from knocker.settings.model import Shared
from knocker.store.redis.contact import Contact
from knocker.store.redis.session import Session
from tests.conftest import Errors
from tests.store.redis.test_mirror import World


def never(_: object) -> Session:
    """No session begins."""
    raise AssertionError


class Way:
    """A contact on a reactor of its own."""

    def __init__(self) -> None:
        self.reactor = MemoryReactorClock()
        self.contact = Contact(
            Shared(host="127.0.0.1", port=6379), World().mirror, self.reactor, never, heard=lambda _: None
        )
        self.contact.start()

    def refuse(self) -> None:
        """Nobody listens there."""
        self.reactor.tcpClients.pop()[2].clientConnectionFailed(self.reactor.connectors[-1], Failure(Refused()))
        self.reactor.advance(0.3)


def test_a_gate_that_stops_while_it_connects_has_nothing_to_tell(errors: Errors) -> None:
    way = Way()
    way.contact.stop()
    assert not errors.lines
    assert not way.reactor.getDelayedCalls()


def test_an_engine_that_is_not_there_is_told_once_and_tried_again(errors: Errors) -> None:
    way = Way()
    for _ in range(3):
        way.refuse()
        way.reactor.advance(10)
    assert way.reactor.tcpClients
    (event,) = errors.expected()
    assert "redis://127.0.0.1:6379/0?prefix=knocker cannot be reached" in str(event["failure"])
    way.contact.stop()
    assert not way.reactor.getDelayedCalls()
    assert not errors.events


def test_a_gate_that_stops_between_two_attempts_has_nothing_to_tell(errors: Errors) -> None:
    way = Way()
    way.refuse()
    errors.expected()
    way.contact.stop()
    assert not errors.events
    assert not way.reactor.getDelayedCalls()
