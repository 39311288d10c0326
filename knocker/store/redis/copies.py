"""Waiting until replicas have what was just written: one question for all knocks that wait (whitelist.min_replicas)."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from knocker.store.redis.engine import Away
from knocker.store.redis.session import Session

LONGEST = 500  # milliseconds that copies may take


class Copies:
    """Asks the engine how many replicas have all that this gate wrote so far."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self._waiting: list[Deferred[None]] = []
        self._asking = False

    async def made(self, session: Session) -> None:
        """Returns once there are enough; raises Away where there are too few in time."""
        if not self.wanted:
            return
        waiter: Deferred[None] = Deferred()
        self._waiting.append(waiter)
        if not self._asking:
            self._asking = True
            Deferred.fromCoroutine(self._ask(session))
        await waiter

    async def _ask(self, session: Session) -> None:
        """Ask for all that wait, and then for those that came meanwhile."""
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            try:
                copies = await session.link.ask("WAIT", self.wanted, LONGEST)
                error = Away(f"has it in {copies} replicas, and whitelist.min_replicas wants {self.wanted}")
                failure = Failure(error) if copies < self.wanted else None
            except Away as error:
                failure = Failure(error)
            for waiter in waiting:
                if failure is None:
                    waiter.callback(None)
                else:
                    waiter.errback(failure)
        self._asking = False
