"""Telling the engine of what this gate closed: some at a time, and again until it took it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, DeferredLock

from knocker.core.moment import Moment
from knocker.store.redis.closes import Batch
from knocker.store.redis.engine import Away
from knocker.store.redis.keys import Keys
from knocker.store.redis.link import CLOSE
from knocker.store.redis.mirror import Mirror
from knocker.store.redis.session import Session

LONGEST = 100_000  # changes that the engine keeps, for gates that were away
_AT_ONCE = 200  # closes in one script


class Delivery:
    """Delivers what the mirror's closes owe. `session` is the one of now, if any; `mark` names what is asked for.

    `trouble`: why the engine did not take the last of them, empty where it did.
    """

    def __init__(
        self,
        mirror: Mirror,
        keys: Keys,
        now: Callable[[], Moment],
        reactor: Any,
        session: Callable[[], Session | None],
        mark: Callable[[], bytes],
    ) -> None:
        self.trouble = ""
        self._mirror = mirror
        self._keys = keys
        self._now = now
        self._reactor = reactor
        self._session = session
        self._mark = mark
        self._due = False
        self._busy = DeferredLock()

    def soon(self) -> None:
        """Deliver what is owed, on the next turn: so that whatever is closed in this one goes together."""
        if not self._due:
            self._due = True
            self._reactor.callLater(0, self._begin)

    def _begin(self) -> None:
        self._due = False
        session = self._session()
        if session is not None and self._mirror.closes.owed:
            Deferred.fromCoroutine(self.all(session)).addErrback(lambda failure: failure.trap(Away) and None)

    async def all(self, session: Session) -> None:
        """Deliver all that is owed, and wait for what is on its way; raises Away."""
        while self._mirror.closes.owed or self._busy.locked:
            async with self._busy:
                batch = self._mirror.closes.next(_AT_ONCE)
                if batch:
                    await self.some(session, batch)

    async def some(self, session: Session, batch: Batch) -> int:
        """Have the engine close these; the number of the last change by then. Raises Away."""
        boot = self._now().boot
        told = [
            part
            for owner, close in batch
            for part in (owner.text, close.crowd, int(1000 * (boot - close.asked)), close.only, close.why)
        ]
        keys = [self._keys.state, self._keys.changes, self._keys.all]
        try:
            answer = await session.link.run(CLOSE, keys, self._keys.start, self._mark(), LONGEST, *told)
        except Away as error:
            self._mirror.closes.failed(batch)
            self.trouble = str(error)
            raise
        if batch:
            self.trouble = ""
        number = int(answer[1])
        self._mirror.closed(batch, number, dict(zip(answer[2::2], answer[3::2], strict=True)))
        return number
