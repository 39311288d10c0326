"""The reaper: ends grants whose time is over, so that memory and file stay small.

It decides nothing: whether a grant lives is asked at every look. So whatever goes wrong here opens no door,
and the next round is tried all the same. A round looks at some grants in each turn of the reactor, so that nobody
waits for it, however many there are and however many end in one second.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from knocker.core.moment import Moment
from knocker.core.whitelist import Whitelist

TOGETHER = 100  # grants that are looked at in one turn


class Reaper:
    """A LoopingCall that survives its own exceptions."""

    log = Logger()

    def __init__(
        self, whitelist: Whitelist, now: Callable[[], Moment], clock: IReactorTime, afterwards: Callable[[], None]
    ) -> None:
        self.whitelist = whitelist
        self.failing = False
        self._now = now
        self._afterwards = afterwards
        self._clock = clock
        self._turn: IDelayedCall | None = None
        self._loop = LoopingCall(lambda: Deferred.fromCoroutine(self._round()))
        self._loop.clock = clock

    def start(self, interval: float) -> None:
        """Make a round every `interval` seconds."""
        done: Deferred[LoopingCall] = self._loop.start(interval, now=False)
        done.addErrback(lambda failure: self.log.failure("the reaper stopped", failure))

    def stop(self) -> None:
        """Make no more rounds."""
        if self._loop.running:
            self._loop.stop()
        if self._turn is not None and self._turn.active():
            self._turn.cancel()

    def complaints(self) -> list[str]:
        """What keeps the reaper from its work, for /ready."""
        return ["the reaper's last round failed; the log has the traceback"] if self.failing else []

    async def _round(self) -> None:
        try:
            for number, part in enumerate(self.whitelist.parts(TOGETHER)):
                if not self._loop.running:
                    return
                if number:
                    await self._next_turn()
                self.whitelist.expire(self._now(), part)
            self._afterwards()
        except Exception:  # noqa: BLE001 - a LoopingCall that raises once never runs again
            if not self.failing:
                self.log.failure("a round of the reaper failed; it goes on")
            self.failing = True
        else:
            self.failing = False

    def _next_turn(self) -> Deferred[None]:
        turn: Deferred[None] = Deferred()
        self._turn = self._clock.callLater(0, turn.callback, None)
        return turn
